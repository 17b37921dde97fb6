//! What a turn leaves to be done at its end.

use std::sync::Arc;

use leveret_codec::Tails;
use leveret_queue::Reason;
use leveret_record::{Sabotage, breaks};
use leveret_router::Steps;
use leveret_session::{Flush, Outlet};
use leveret_store::{Batch, LaneId, Store, Ticket};

use crate::queue::cell::QueueCell;
use crate::queue::consumer::Handle;
use crate::queue::traced::Traced;

/// Up to so many connections are written to by the thread that made them dirty; more are woken,
/// so that all cores take part and the publisher goes on.
const INLINE_FLUSHES_MAX: usize = 4;

/// Copies of messages, and steps of finding where they go, after which a turn ends, so that the
/// connections they are for are flushed before there is more for them, and other connections get
/// their turn. One message may have more copies.
pub(crate) const STEPS_OF_TURN: usize = 16 * 1024;

/// Messages that one queue of a batch's route refused.
pub(crate) type RefusedBy = (Arc<QueueCell>, Reason, u64);

/// What one turn leaves to be done at its end; kept between turns for its memory.
#[derive(Default)]
pub struct Effects {
    /// Connections with something to flush.
    pub(crate) dirty: Vec<Arc<dyn Flush>>,
    /// Records for the store.
    pub(crate) journal: Batch,
    /// It has the processor for a moment each time: the timer's, which comes again, and those of
    /// others who leave the rest to that.
    pub(crate) briefly: bool,
    /// When all that was submitted is durable, and what an answer depends on besides.
    pub(crate) ticket: Ticket,
    /// Queues whose memory the timer must look after.
    pub(crate) warm: Vec<Arc<QueueCell>>,
    /// Messages were recorded: their publisher waits while the store is behind.
    pub(crate) persistent: bool,
    /// A queue grows although its consumers have credit: its publisher should pause.
    pub(crate) pause_ms: u64,
    /// The queue that has its publisher wait for longest, and for how many milliseconds.
    pub(crate) slowed: Option<(Arc<QueueCell>, u64)>,
    /// Copies of messages put into queues, steps of routing, and consumers that were asked in vain.
    pub(crate) steps: usize,
    /// Messages that were published.
    pub(crate) published: usize,
    /// Deliveries that were settled.
    pub(crate) settled: usize,
    /// Durable targets of messages that are not recorded yet: which message, lane, and the sequence
    /// number there.
    pub(crate) targets: Vec<(u32, LaneId, u64)>,
    /// Messages encoded for many consumers.
    pub(crate) tails: Tails,
    /// Messages to be copied to the firehose.
    pub(crate) traced: Vec<Traced>,
    /// Messages that queues refused, to be counted.
    pub(crate) refused: Vec<RefusedBy>,
    /// Queues with messages that died and have to be moved on.
    pub(crate) dying: Vec<Arc<QueueCell>>,
}

impl Effects {
    /// Hands the records to the store. Called with the directory locked by what changes it, so that
    /// records about one thing are submitted in the order they took effect.
    pub(crate) fn submit(&mut self, store: &dyn Store) {
        if !self.journal.is_empty() {
            // A stopped store keeps its watermark: nothing it refused is ever confirmed.
            let ticket = store.submit(&mut self.journal).unwrap_or(Ticket::NEVER);
            self.ticket = self.ticket.and(ticket);
        }
    }

    /// Records messages, each with its durable targets, which are forgotten then.
    pub(crate) fn record<T>(
        &mut self,
        messages: impl Iterator<Item = T>,
        mut record: impl FnMut(&mut Batch, &[(LaneId, u64)], T),
    ) {
        self.targets.sort_unstable();
        let mut lanes = Vec::with_capacity(1);
        let mut rest = self.targets.as_slice();
        for (index, message) in (0u32..).zip(messages) {
            let of_one = rest.iter().take_while(|target| target.0 == index);
            lanes.clear();
            lanes.extend(of_one.map(|(_, lane, seq)| (*lane, *seq)));
            rest = rest.get(lanes.len()..).unwrap_or_default();
            record(&mut self.journal, &lanes, message);
        }
        self.targets.clear();
    }

    /// Has answers wait for something that was submitted before, by whomever.
    pub(crate) fn depends_on(&mut self, ticket: Ticket) {
        self.ticket = self.ticket.and(ticket);
    }

    /// Whether the turn has done its share.
    pub(crate) const fn is_full(&self) -> bool {
        self.steps >= STEPS_OF_TURN
    }

    /// What is left for finding routes.
    pub(crate) const fn steps_left(&self) -> Steps {
        Steps::new(STEPS_OF_TURN.saturating_sub(self.steps))
    }

    /// Notes that a queue refused a message.
    #[cold]
    pub(crate) fn refuse(&mut self, cell: &Arc<QueueCell>, reason: Reason) {
        if let Some((last, because, messages)) = self.refused.last_mut()
            && *because == reason
            && Arc::ptr_eq(last, cell)
        {
            *messages += 1;
        } else {
            self.refused.push((Arc::clone(cell), reason, 1));
        }
    }

    /// A queue has its publisher wait for so many milliseconds.
    #[cold]
    pub(crate) fn slow_down(&mut self, cell: &Arc<QueueCell>, ms: u64) {
        if self
            .slowed
            .as_ref()
            .is_none_or(|(_, longest)| *longest < ms)
        {
            self.slowed = Some((Arc::clone(cell), ms));
        }
    }

    /// Notes that messages died in a queue. Most do so where those before did.
    pub(crate) fn died_in(&mut self, cell: &Arc<QueueCell>) {
        if !self
            .dying
            .last()
            .is_some_and(|last| Arc::ptr_eq(last, cell))
        {
            self.dying.push(Arc::clone(cell));
        }
    }

    /// Flushes what the turn made dirty.
    pub fn flush(&mut self) {
        let inline = self.dirty.len() <= INLINE_FLUSHES_MAX;
        for connection in self.dirty.drain(..) {
            if inline {
                connection.flush();
            } else {
                connection.wake();
            }
        }
    }

    /// Wakes what the turn made dirty: for callers that are themselves a flush.
    pub fn wake(&mut self) {
        for connection in self.dirty.drain(..) {
            connection.wake();
        }
    }

    /// Notes that an outlet got its first bytes since its last flush.
    pub(crate) fn dirtied(&mut self, outlet: &Outlet<Arc<Handle>>) {
        if !breaks(Sabotage::LoseFlush) {
            self.dirty.extend(outlet.flusher().cloned());
        }
    }

    /// Appends a reply to an outlet.
    pub(crate) fn reply(
        &mut self,
        outlet: &mut Outlet<Arc<Handle>>,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        if outlet.reply(encode) {
            self.dirtied(outlet);
        }
    }
}
