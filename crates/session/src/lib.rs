//! One connection's protocol state and what others may write to it.
//!
//! [`Session`] belongs to the connection's reader alone: bytes in, batches out. [`Outlet`] is the
//! shared half: outbound bytes, delivery tags and unacknowledged deliveries. Neither knows what a
//! queue or an exchange is, and neither does I/O.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod batch;
mod channel;
mod confirms;
mod content;
mod counts;
mod fault;
mod handed;
mod handshake;
mod late;
mod line;
mod outbound;
mod outlet;
mod ring;
mod session;
mod unfinished;
mod whole;

pub use batch::{BATCH_MAX, BatchMessage, Publishes, Settlement, Verdict};
pub use confirms::{Confirm, Confirms, Mark};
pub use content::Assembled;
pub use counts::DeliveryCounts;
pub use fault::Fault;
pub use handed::Handed;
pub use handshake::Stranger;
pub use outbound::{Outbound, Pending};
pub use outlet::{Delivered, Flush, Looked, Outlet, OutletLimits, Parcel, Term};
pub use ring::{Slot, UnackedRing, UnknownTag};
pub use session::{Event, Session, SessionConfig};
