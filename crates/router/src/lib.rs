//! Exchanges, bindings and routes of one virtual host.
//!
//! Synchronous and deterministic. The router knows queues by name and id only, and nothing of
//! bodies, permissions, policies or limits: the broker asks those before it calls.

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
        reason = "a test may fail loudly"
    )
)]

mod bindings;
mod choice;
mod equivalence;
mod erlang;
mod exact;
mod exchange;
mod hash;
mod headers;
mod index;
mod listing;
mod pattern;
mod refused;
mod route;
mod router;
mod seen;
mod slab;
mod steps;
mod targets;
mod topology;
mod trie;
mod walk;
mod words;

pub use exchange::{Exchange, ExchangeCounts, ExchangeKind, ExchangeSpec};
pub use hash::{KeyedHash, KeyedHasher};
pub use listing::{BindingSpec, BindingView, Destination, DestinationView, Walk};
pub use refused::{NoExchange, Refused};
pub use route::Routes;
pub use router::{Declared, Router};
pub use steps::Steps;
pub use targets::QueueId;
pub use topology::Removal;
