//! One queue's semantics: order, priorities, competing consumers, credit, requeue, limits, expiry.
//!
//! A queue is a plain struct that its owner puts behind a lock. It knows no AMQP frames, sockets,
//! disks or clocks: what it decides leaves through a [`Sink`]. Messages are records in append-only
//! chunks; a ready message has no index entry, only a cursor stands before the first one.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod blobs;
mod chunk;
mod consumers;
mod lane;
mod limits;
mod message;
mod peek;
mod queue;
mod requeued;
mod reserve;
mod ring;

pub use chunk::{AwayChunk, Compacted, LoadedPage, MovableChunk, PageFilter, PagedOut, Rewriting};
pub use consumers::{Consumer, ConsumerKey, Consuming};
pub use leveret_record::{Attempts, Position, Unacked};
pub use limits::{Death, Limits, Overflow, Reason, Settings, Shape};
pub use message::{Message, MessageBody};
pub use peek::PeekedMessage;
pub use queue::{
    BurialWait, Buried, ColdCursor, Counters, Dead, Delivery, LostPage, Offer, PageRead,
    PageRewrite, PageWrite, Queue, QueueFull, Rank, Sink,
};
pub use reserve::Filled;
