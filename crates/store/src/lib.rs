//! What durable means: the journal, group commit, recovery.
//!
//! Synchronous and deterministic: no files, clocks, threads or random sources in here; the disk is
//! the `Vfs` trait, and the binary owns the threads that call in.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "a test that meets the unexpected should fail"
    )
)]

mod memory;
mod record;
mod scratch;
mod seam;

pub use memory::{DelayedStore, InstantStore};
pub use scratch::{MessageParts, Scratch};
pub use seam::{LaneId, Store, StoreRefusal, Ticket, Waiter};
