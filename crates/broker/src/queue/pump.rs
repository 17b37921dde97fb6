//! From queues into outlets: what a queue decides is encoded where the consumer's bytes wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_codec::Tails;
use leveret_queue::{Consumer, ConsumerKey, Delivery, Message, Offer, Rank, Sink, Unacked};
use leveret_record::{Record, Sabotage, breaks};
use leveret_session::{Delivered, Outlet, Parcel};
use leveret_store::LaneId;
use parking_lot::{ArcMutexGuard, RawMutex};

use crate::queue::attempts::counted_header;
use crate::queue::cell::{QueueCell, QueueGuard};
use crate::queue::consumer::Handle;
use crate::queue::effects::Effects;

/// Pumps the queues of consumers that waited for room, and empties the list.
pub fn resume(starved: &mut Vec<Arc<Handle>>, effects: &mut Effects) {
    for handle in starved.drain(..) {
        handle.waiting.store(false, Ordering::Release);
        handle.cell.pump(effects);
    }
}

impl QueueCell {
    /// Moves ready messages to consumers with credit, and drops what may not stay.
    pub fn pump(self: &Arc<Self>, effects: &mut Effects) {
        let mut state = self.lock();
        if !self.is_deleted() {
            self.run(&mut state, &mut Pump::new(self, effects));
        }
    }
}

/// Encodes what one queue hands out. Keeps the last consumer's outlet locked, as the next message
/// is often for the same connection.
pub(crate) struct Pump<'a> {
    pub(crate) effects: &'a mut Effects,
    /// The present queue, if it is durable.
    durable: Option<&'a QueueCell>,
    held: Option<ArcMutexGuard<RawMutex, Outlet<Arc<Handle>>>>,
    /// The present queue had something for the outlet that is held.
    used: bool,
    /// What is delivered is copied to the firehose.
    pub(crate) traced: bool,
    /// It is, or it may have to be settled in time.
    noted: bool,
}

impl<'a> Pump<'a> {
    pub(crate) fn new(cell: &'a QueueCell, effects: &'a mut Effects) -> Self {
        let traced = cell.is_traced();
        Self {
            effects,
            durable: cell.lane.is_some().then_some(cell),
            held: None,
            used: false,
            traced,
            noted: traced || cell.lease.is_any(),
        }
    }

    /// For queues of one virtual host, each begun with [`Self::lock`].
    pub(crate) fn of_many(effects: &'a mut Effects, cells: &[Arc<QueueCell>]) -> Self {
        let traced = cells.first().is_some_and(|cell| cell.is_traced());
        let leased = match cells {
            [] => false,
            [cell] => cell.lease.is_any(),
            [cell, ..] => cell.are_any_leased(),
        };
        Self {
            effects,
            durable: None,
            held: None,
            used: false,
            traced,
            noted: traced || leased,
        }
    }

    /// Goes on with this queue. The outlet of the one before is kept if it is likely to be needed
    /// again; with it held no queue is waited for, as that would be the wrong order.
    #[inline]
    pub(crate) fn lock(&mut self, cell: &'a QueueCell) -> QueueGuard<'a> {
        self.durable = cell.lane.is_some().then_some(cell);
        if !std::mem::replace(&mut self.used, false) {
            self.held = None;
        } else if let Some(guard) = cell.try_lock() {
            return guard;
        }
        self.held = None;
        cell.lock()
    }

    /// Hands encoded messages to a consumer that settles none, as many as there is room for; gives
    /// how many.
    #[inline]
    pub(crate) fn pass(&mut self, handle: &Handle, tails: &Tails) -> usize {
        let outlet = self.outlet(handle);
        let (passed, first) = outlet.pass(handle.channel, &handle.template, tails);
        if first {
            let flusher = outlet.flusher().cloned();
            self.effects.dirty.extend(flusher);
        }
        passed
    }

    /// The same for one message.
    #[inline]
    pub(crate) fn pass_one(&mut self, handle: &Handle, message: &Message<'_>) -> bool {
        let (record, blob) = message.as_record();
        let parcel = Parcel {
            template: &handle.template,
            source: handle.source,
            no_ack: true,
            urgent: handle.replies,
            record: &record,
            blob,
            unacked: Unacked::default(),
        };
        let outlet = self.outlet(handle);
        let Delivered::Sent { first } = outlet.deliver(handle.channel, &parcel) else {
            return false;
        };
        if first {
            let flusher = outlet.flusher().cloned();
            self.effects.dirty.extend(flusher);
        }
        true
    }

    /// The lane of a level of the present queue, if that is durable.
    #[inline]
    fn lane_of(&self, level: u8) -> Option<LaneId> {
        self.durable.and_then(|cell| cell.lane_of(level))
    }

    /// Writes that a message is out, so that it counts as redelivered after a crash.
    #[inline]
    pub(crate) fn note_delivered(&mut self, unacked: &Unacked) {
        if unacked.persistent
            && let Some(lane) = self.lane_of(unacked.level)
        {
            let attempts = unacked.attempts.and_one(false);
            self.effects.journal.returned(lane, unacked.seq, attempts);
        }
    }

    /// Writes that messages are acknowledged.
    #[inline]
    pub(crate) fn note_settled(&mut self, run: impl Iterator<Item = Unacked>) {
        if self.durable.is_none() {
            return;
        }
        for unacked in run.filter(|one| one.persistent) {
            if let Some(lane) = self.lane_of(unacked.level) {
                self.effects.journal.settle(lane, unacked.seq);
            }
        }
    }

    /// Writes that attempts have failed, so that they count after a crash.
    pub(crate) fn note_failed(&mut self, run: impl Iterator<Item = Unacked>) {
        for unacked in run.filter(|one| one.persistent) {
            if let Some(lane) = self.lane_of(unacked.level) {
                let attempts = unacked.attempts.and_one(true);
                self.effects.journal.returned(lane, unacked.seq, attempts);
            }
        }
    }

    /// Does what follows a delivery, with whether its outlet was clean and whether nobody will
    /// settle it.
    #[expect(clippy::inline_always, reason = "a call costs as much as it does")]
    #[inline(always)]
    fn sent(&mut self, handle: &Handle, delivery: &Delivery<'_>, (first, no_ack): (bool, bool)) {
        if first && let Some(outlet) = &self.held {
            self.effects.dirty.extend(outlet.flusher().cloned());
        }
        if !no_ack {
            self.note_delivered(&delivery.unacked);
        }
        if self.noted {
            self.note(handle, delivery, no_ack);
        }
    }

    /// Does what follows a delivery in few queues only.
    #[cold]
    #[inline(never)]
    fn note(&mut self, handle: &Handle, delivery: &Delivery<'_>, no_ack: bool) {
        if self.traced {
            self.effects.trace_delivery(handle, delivery);
        }
        if !no_ack && let Some(outlet) = &mut self.held {
            handle.lease(outlet);
        }
    }

    /// Notes what a consumer waits for that was not given a message, if it does not get it after
    /// all because it is its queue's turn.
    #[cold]
    fn refused(
        &mut self,
        handle: &Arc<Handle>,
        delivery: &Delivery<'_>,
        parcel: &Parcel<'_>,
        why: Delivered,
    ) -> Offer {
        let outlet = self.outlet(handle);
        let why = match why {
            Delivered::Waits => outlet.deliver_in_turn(handle.channel, handle.queue(), parcel),
            other => other,
        };
        match why {
            Delivered::Sent { first } => {
                self.sent(handle, delivery, (first, parcel.no_ack));
                return Offer::Taken;
            }
            Delivered::Full => {
                let waits = handle.waiting.swap(true, Ordering::AcqRel);
                if !waits && !breaks(Sabotage::LoseWakeup) {
                    outlet.starve(Arc::clone(handle), |other| other.has_ended());
                }
            }
            Delivered::Waits => {
                if !breaks(Sabotage::LoseWakeup) {
                    let who = (handle.queue(), handle.source);
                    outlet.wait_for_room(handle.channel, who, Arc::clone(handle));
                }
            }
            // The channel is being closed: its consumers are about to leave their queues.
            Delivered::Gone => return Offer::Gone,
        }
        self.effects.steps += 1;
        Offer::Refused
    }

    /// Tells whether the present queue gave the outlet that is held all it had.
    #[inline]
    pub(crate) const fn emptied(&mut self, emptied: bool) {
        self.used = emptied;
    }

    #[expect(clippy::inline_always, reason = "a call costs as much as it does")]
    #[inline(always)]
    fn outlet(&mut self, handle: &Handle) -> &mut Outlet<Arc<Handle>> {
        let same =
            |guard: &ArcMutexGuard<_, _>| Arc::ptr_eq(ArcMutexGuard::mutex(guard), &handle.outlet);
        if !self.held.as_ref().is_some_and(same) {
            // Two outlets are never held at once.
            self.held = None;
        }
        self.held.get_or_insert_with(|| handle.outlet.lock_arc())
    }
}

impl Sink<Arc<Handle>> for Pump<'_> {
    // A call of its own would read from the stack what was written there just before in pieces of
    // other sizes, and the processor would wait for that.
    #[expect(clippy::inline_always, reason = "5 ns a message")]
    #[inline(always)]
    fn offer(
        &mut self,
        consumer: &Consumer<Arc<Handle>>,
        _: ConsumerKey,
        delivery: &Delivery<'_>,
    ) -> Offer {
        if delivery.unacked.attempts.acquired > 0 {
            return self.hand_again(consumer, delivery);
        }
        self.hand(consumer, delivery)
    }

    fn settled(&mut self, rank: Rank) {
        if let Some(lane) = self.lane_of(rank.level) {
            self.effects.journal.settle(lane, rank.seq);
        }
    }
}

impl Pump<'_> {
    /// The same for what was handed out before: its receiver may be told how often.
    #[cold]
    #[inline(never)]
    fn hand_again(&mut self, consumer: &Consumer<Arc<Handle>>, delivery: &Delivery<'_>) -> Offer {
        let counted = counted_header(&consumer.handle.cell, delivery);
        let record = &Record {
            header: counted.as_deref().unwrap_or(delivery.record.header),
            ..*delivery.record
        };
        self.hand(
            consumer,
            &Delivery {
                record,
                ..*delivery
            },
        )
    }

    #[expect(clippy::inline_always, reason = "as above")]
    #[inline(always)]
    fn hand(&mut self, consumer: &Consumer<Arc<Handle>>, delivery: &Delivery<'_>) -> Offer {
        let handle = &consumer.handle;
        let parcel = Parcel {
            template: &handle.template,
            source: handle.source,
            no_ack: consumer.asked.no_ack,
            urgent: handle.replies,
            record: delivery.record,
            blob: delivery.blob,
            unacked: delivery.unacked,
        };
        match self.outlet(handle).deliver(handle.channel, &parcel) {
            Delivered::Sent { first } => {
                self.sent(handle, delivery, (first, parcel.no_ack));
                Offer::Taken
            }
            refused => self.refused(handle, delivery, &parcel, refused),
        }
    }
}
