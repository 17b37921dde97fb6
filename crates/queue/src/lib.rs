//! One queue's semantics: order, competing consumers, credit, requeue, limits.
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

mod chunk;
mod consumers;
mod limits;
mod peek;
mod queue;
mod requeued;
mod reserve;
mod ring;

pub use chunk::{Message, MessageBody};
pub use consumers::{Consumer, ConsumerKey, Consuming};
pub use leveret_record::{Position, Unacked};
pub use limits::{Limits, Overflow, Reason};
pub use queue::{Counters, Delivery, Gone, Offer, Queue, Refused, Sink};
