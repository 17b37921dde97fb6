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

mod backup;
mod batch;
mod build;
mod checkpoint;
mod chores;
mod config;
mod core;
mod format;
mod frame;
mod growing;
mod idle;
mod journal;
mod lanes;
mod memory;
mod moved;
mod probe;
mod ranges;
mod record;
mod recovery;
mod sabotage;
mod seam;
mod segment;
pub mod sim;
mod space;
mod stage;
mod vfs;

pub use backup::{Backup, BackupFile, NoBackup};
pub use batch::{Batch, BatchRecord, MessageParts, Returned, Settled};
pub use config::{JournalConfig, Missing, OnCorruption, SyncPolicy};
pub use journal::{Journal, Progress, StoreFailure};
pub use memory::InstantStore;
pub use moved::{MovedChunk, MovedPiece, RecoveredChunks};
pub use probe::{PLAUSIBLE_SYNC_NANOS, probe_sync};
pub use record::{MessageRecord, MessageTargets};
pub use recovery::{
    Damage, Finding, Messages, OpenError, Recovered, RecoveredLane, RecoveredMessage, SalvageError,
    SegmentUse, StoreContents, Unreadable,
};
#[cfg(feature = "sabotage")]
pub use sabotage::StoreSabotage;
#[cfg(not(feature = "sabotage"))]
use sabotage::StoreSabotage;
pub use seam::{LaneId, Store, StoreRefusal, Ticket, Waiter};
pub use vfs::{DiskError, Vfs, VfsFile};
