//! What the broker sees of a store: tickets, the durable watermark, and who is told about it.

use std::fmt;
use std::sync::Arc;

use leveret_record::RunPlace;

use crate::Batch;

/// When something submitted becomes durable: as soon as [`Store::durable`] has reached it.
///
/// Totally ordered. `Ticket(0)` is durable from the start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Ticket(pub u64);

impl Ticket {
    /// Of what a stopped store refused: it keeps its watermark.
    pub const NEVER: Self = Self(u64::MAX - 1);

    /// When this and the other one are durable.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.max(other)
    }
}

/// One ordered sequence of messages in a durable queue (a queue, or one of its priorities).
///
/// Never reused: a deleted lane's number stays dead for the life of the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LaneId(pub u32);

/// Why a store takes nothing, or no messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreRefusal {
    /// The disk is full or below its floor: no new messages; settlements and topology still go.
    DiskFull,
    /// A write or sync failed: nothing will become durable any more, the broker must stop.
    Stopped,
    /// One record is larger than the format can hold ([`Batch::RECORD_BYTES_MAX`]).
    Oversize,
}

impl fmt::Display for StoreRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DiskFull => "the disk is full",
            Self::Stopped => "the journal has stopped",
            Self::Oversize => "a record is larger than the journal can hold",
        })
    }
}

impl std::error::Error for StoreRefusal {}

/// Told once that a ticket is durable. Called on the journal's thread: it must not block.
pub trait Waiter: Send + Sync {
    /// The ticket this waiter was registered for is durable.
    ///
    /// `few`: hardly anybody else waits, so work of microseconds may be done at once, in here.
    fn durable(&self, few: bool);
}

/// The durable side of the broker: the journal, or whatever else reads batches
/// ([`Batch::records`]).
pub trait Store: Send + Sync {
    /// Hands over a turn's records whole and clears `batch`; nothing waits for the disk.
    ///
    /// The ticket covers everything in it. An empty batch gives `Ticket(0)`.
    ///
    /// # Errors
    /// `Stopped` and `Oversize`. Never `DiskFull`: whoever enqueued has asked [`Self::claim`]
    /// before, and a message that is in a queue must reach the journal.
    fn submit(&self, batch: &mut Batch) -> Result<Ticket, StoreRefusal>;

    /// Whether persistent messages may be published now; asked before they are enqueued.
    ///
    /// # Errors
    /// `DiskFull` or `Stopped`: publishes of persistent messages are nacked.
    fn admission(&self) -> Result<(), StoreRefusal>;

    /// Has the disk keep space for so many messages (one for each queue), before they are enqueued.
    /// It is given back once `batch` has been submitted and written.
    ///
    /// # Errors
    /// `DiskFull` or `Stopped`: there is no such space, and the messages are nacked. What was
    /// admitted so never waits for space.
    fn claim(&self, batch: &mut Batch, messages: usize, bytes: usize) -> Result<(), StoreRefusal> {
        let (_, _, _) = (batch, messages, bytes);
        self.admission()
    }

    /// Has the disk keep space for a declaration or the like with so many bytes of keys and values.
    /// They have a part of the reserve; what is deleted and settled needs none of it.
    ///
    /// # Errors
    /// `DiskFull` or `Stopped`.
    fn admit_change(&self, batch: &mut Batch, bytes: usize) -> Result<(), StoreRefusal> {
        let (_, _) = (batch, bytes);
        match self.admission() {
            Err(StoreRefusal::Stopped) => Err(StoreRefusal::Stopped),
            _ => Ok(()),
        }
    }

    /// Messages that keep the journal longer than it should be: lanes and sequence numbers
    /// `from..to`. What of them is in run files is to be recorded there ([`Batch::moved`]).
    fn pinned(&self) -> Vec<(LaneId, u64, u64)> {
        Vec::new()
    }

    /// Places of moved chunks that are not needed any more, by whatever crash.
    fn take_free_places(&self) -> Vec<RunPlace> {
        Vec::new()
    }

    /// Whether persistent messages may be published now.
    fn admits_messages(&self) -> bool {
        self.admission().is_ok()
    }

    /// The watermark: every ticket up to it is durable. Never goes back.
    fn durable(&self) -> Ticket;

    /// Has `waiter` called once when `ticket` is durable; at once, on this thread, if it already
    /// is.
    ///
    /// Meant for one registration per connection and commit, not per message.
    fn wake_at(&self, ticket: Ticket, waiter: Arc<dyn Waiter>);

    /// Bytes submitted and not yet taken by the journal's thread; publishers wait above 8 MiB.
    fn staged_bytes(&self) -> usize;
}
