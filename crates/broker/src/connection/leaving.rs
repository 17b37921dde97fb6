//! The end of a channel or a connection: consumers leave, deliveries go back, exclusive queues go.

use std::cmp::Reverse;
use std::sync::Arc;

use leveret_queue::Unacked;
use leveret_session::{Slot, Verdict};

use crate::channel::Channel;
use crate::channel::settle::give_back;
use crate::connection::desk::Desk;
use crate::connection::phase::Running;
use crate::context::stats::Churn;
use crate::queue::cell::QueueCell;
use crate::queue::consumer::DeliverySource;
use crate::queue::effects::Effects;
use crate::queue::pump::Pump;
use crate::topology::operations::Condition;
use crate::vhost::Vhost;

/// Consumers that leave a queue before others may have its lock.
const LEAVERS_MAX: usize = 256;
/// Consumers that leave before other connections have their turn.
const LEAVERS_OF_TURN: usize = 2048;

/// A connection that gives back what it held.
pub(crate) struct Leaving {
    user: Arc<str>,
    vhost: Arc<Vhost>,
    returning: Returning,
    exclusive: Vec<Arc<QueueCell>>,
}

impl Running {
    /// Ends a channel.
    pub(crate) fn close_channel(&mut self, channel: u16, desk: &mut Desk) {
        let mut held = Vec::new();
        self.end_channel(channel, &mut held, desk);
        let mut returning = Returning::new(held);
        while returning.go_on(&self.vhost, usize::MAX, desk) {}
    }

    /// Ends all channels. They are closed to deliveries before any consumer leaves its queue, so
    /// that nothing is given to those who are about to end.
    pub(crate) fn leave(mut self, desk: &mut Desk) -> Leaving {
        let mut held = Vec::new();
        for channel in (0..=u16::MAX).take(self.channels.len()) {
            self.end_channel(channel, &mut held, desk);
        }
        self.shared.count_turn(&desk.peer);
        Leaving {
            user: self.user,
            vhost: self.vhost,
            returning: Returning::new(held),
            exclusive: self.shared.exclusive,
        }
    }

    /// Ends a channel, and tells what it held.
    fn end_channel(&mut self, channel: u16, held: &mut Vec<Holding>, desk: &mut Desk) {
        let slot = self.channels.get_mut(usize::from(channel));
        let Some(mut state) = slot.and_then(Option::take) else {
            return;
        };
        let shared = &mut self.shared;
        desk.broker.uses.lock().close_channel(&self.user);
        confirm_last(channel, &mut state, desk);
        shared.forget_held(channel, state.held.drain(..));
        desk.peer.channels.lock().end(channel);
        desk.broker.events.count(Churn::ChannelClosed);
        shared
            .confirming
            .retain(|confirming| *confirming != channel);
        let mut slots = desk.peer.outlet.lock().close_channel(channel);
        if let Some(transaction) = &state.transaction {
            shared.staged_bytes -= transaction.bytes();
            // What was not committed was not settled.
            slots.extend(transaction.slots().copied());
        }
        held.extend(held_of(state.sources, slots));
    }
}

/// Confirms what needs no more waiting, before its channel ends.
fn confirm_last(number: u16, state: &mut Channel, desk: &mut Desk) {
    // Otherwise they come after an answer that is not given any more.
    if state.held.is_empty() {
        let mut outlet = desk.peer.outlet.lock();
        if state.confirm(number, desk.broker.store.durable(), &mut outlet) {
            desk.effects.dirtied(&outlet);
        }
    }
}

impl Leaving {
    /// Gives back a part: `true` when there is more.
    pub(crate) fn go_on(&mut self, desk: &mut Desk) -> bool {
        if self.returning.go_on(&self.vhost, LEAVERS_OF_TURN, desk) {
            return true;
        }
        let Desk {
            broker, effects, ..
        } = desk;
        broker.uses.lock().leave(&self.vhost.name, &self.user);
        for cell in self.exclusive.drain(..).filter(|cell| !cell.is_deleted()) {
            // Without a condition it cannot be refused.
            let _ = broker.delete_queue(&self.vhost, &cell, Condition::default(), effects);
        }
        false
    }
}

/// What ended channels hold, queue by queue.
pub(crate) struct Returning {
    /// What is done is taken off its end.
    held: Vec<Holding>,
    /// The queue that is being left has its deliveries back,
    returned: bool,
    /// and had a consumer of theirs.
    consumed: bool,
}

impl Returning {
    fn new(mut held: Vec<Holding>) -> Self {
        // A queue that was deleted may have left its identity to another one.
        held.sort_by_key(|(source, _)| Reverse((source.cell.id, Arc::as_ptr(&source.cell))));
        Self {
            held,
            returned: false,
            consumed: false,
        }
    }

    /// Gives queues back what is held of them, and has their consumers leave; goes on with other
    /// queues while no more than `most` have left. `true` when there is more to do.
    fn go_on(&mut self, vhost: &Vhost, most: usize, desk: &mut Desk) -> bool {
        let mut left = 0;
        while left < most {
            let Some(cell) = self.cell() else {
                return false;
            };
            left += self.leave_some(&cell, &mut desk.effects).max(1);
            if self.cell().is_none_or(|next| !Arc::ptr_eq(&next, &cell)) {
                let consumed = std::mem::take(&mut self.consumed);
                self.returned = false;
                if consumed {
                    desk.broker.consumer_left(vhost, &cell, &mut desk.effects);
                }
            }
        }
        self.cell().is_some()
    }

    /// Takes a queue's lock once for a part of those who leave it. Their deliveries go back in one
    /// step before: a consumer that is served in their place gets what they had before anything
    /// later. The queue is pumped when it has everything back, so that others get it in order.
    fn leave_some(&mut self, cell: &Arc<QueueCell>, effects: &mut Effects) -> usize {
        // They are dropped when the queue is unlocked.
        let mut gone = Vec::new();
        let mut state = cell.lock();
        if cell.is_deleted() {
            self.skip(cell);
            return 0;
        }
        if !std::mem::replace(&mut self.returned, true) {
            let mut pump = Pump::new(cell, effects);
            for (source, run) in self.of(cell) {
                give_back(&mut state, source, run, &mut pump);
            }
        }
        while gone.len() < LEAVERS_MAX
            && let Some((source, _)) = self.next_of(cell)
        {
            let handle = source.consumer.and_then(|key| state.queue.cancel(key));
            if let Some(handle) = &handle {
                handle.end();
                self.consumed = true;
            }
            gone.push((source, handle));
        }
        cell.run(&mut state, &mut Pump::new(cell, effects));
        if state.queue.consumer_count() == 0 && self.consumed {
            cell.used(&mut state);
        }
        drop(state);
        gone.len()
    }

    /// The queue that is left next.
    fn cell(&self) -> Option<Arc<QueueCell>> {
        self.held.last().map(|(source, _)| Arc::clone(&source.cell))
    }

    /// What is held of the queue that is left next, in the order of its channels and sources.
    fn of(&self, cell: &Arc<QueueCell>) -> impl Iterator<Item = &Holding> {
        let others = |(source, _): &Holding| !Arc::ptr_eq(&source.cell, cell);
        let start = self.held.iter().rposition(others).map_or(0, |at| at + 1);
        self.held.get(start..).unwrap_or_default().iter()
    }

    fn next_of(&mut self, cell: &Arc<QueueCell>) -> Option<Holding> {
        self.held
            .pop_if(|(source, _)| Arc::ptr_eq(&source.cell, cell))
    }

    /// There is nothing to be given back to it.
    fn skip(&mut self, cell: &Arc<QueueCell>) {
        while self.next_of(cell).is_some() {}
        self.returned = true;
    }
}

/// What a channel holds of one source: its consumer and deliveries that were not settled.
type Holding = (DeliverySource, Vec<(u32, Unacked, Verdict)>);

fn held_of(sources: Vec<DeliverySource>, slots: Vec<Slot>) -> Vec<Holding> {
    let mut held: Vec<Holding> = sources
        .into_iter()
        .map(|source| (source, Vec::new()))
        .collect();
    for slot in slots {
        if let Some((_, run)) = held.get_mut(slot.source as usize) {
            run.push((slot.source, slot.unacked, Verdict::Retry));
        }
    }
    held.retain(|(source, run)| source.consumer.is_some() || !run.is_empty());
    held
}
