//! The end of a channel or a connection: consumers leave, deliveries go back, exclusive queues go.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use leveret_queue::Unacked;
use leveret_session::{Fault, Slot, Verdict};

use crate::channel::Channel;
use crate::channel::settle::give_back;
use crate::connection::Core;
use crate::context::stats::Event;
use crate::queue::cell::{QueueCell, Source};
use crate::queue::pump::Pump;
use crate::topology::operations::Condition;

/// Consumers that leave a queue before others may have its lock.
const LEAVERS_MAX: usize = 256;
/// Consumers that leave before other connections have their turn.
const LEAVERS_OF_TURN: usize = 2048;

/// How a connection was closed in order: for logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parting {
    /// Which side wanted it.
    pub by: Side,
    /// The reply code it gave.
    pub code: u16,
    /// Its explanation; the client's may be anything.
    pub text: String,
}

/// A side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The broker, be it by an operator's wish.
    Broker,
}

impl Parting {
    pub(crate) fn by_client(code: u16, text: &[u8]) -> Self {
        Self {
            by: Side::Client,
            code,
            text: String::from_utf8_lossy(text).into_owned(),
        }
    }

    pub(crate) fn of(fault: &Fault) -> Self {
        Self {
            by: Side::Broker,
            code: fault.code(),
            text: fault.reply_text(),
        }
    }
}

impl Core {
    /// Ends a channel.
    pub(crate) fn close_channel(&mut self, channel: u16) {
        let channel = usize::from(channel);
        self.close_channels(channel..channel + 1);
    }

    /// Ends channels. All of them are closed to deliveries before any consumer leaves its queue, so
    /// that nothing is given to those who are about to end.
    fn close_channels(&mut self, channels: Range<usize>) {
        let mut held = Vec::new();
        for index in channels {
            self.end_channel(index, &mut held);
        }
        let mut leaving = Leaving::new(held);
        while self.give_up(&mut leaving, usize::MAX) {}
    }

    /// Ends a channel, and tells what it held.
    fn end_channel(&mut self, index: usize, held: &mut Vec<Holding>) {
        let Some(mut state) = self.channels.get_mut(index).and_then(Option::take) else {
            return;
        };
        self.broker.uses.lock().close_channel(&self.user);
        let channel = u16::try_from(index).unwrap_or(u16::MAX);
        self.confirm_last(channel, &mut state);
        self.forget_held(channel, state.held.drain(..));
        self.peer.channels.lock().end(channel);
        self.broker.events.count(Event::ChannelClosed);
        self.confirming.retain(|confirming| *confirming != channel);
        let mut slots = self.peer.outlet.lock().close_channel(channel);
        if let Some(transaction) = &state.transaction {
            self.begun.staged_bytes -= transaction.bytes();
            // What was not committed was not settled.
            slots.extend(transaction.slots().copied());
        }
        held.extend(held_of(state.sources, slots));
    }

    /// Gives a queue back what ended channels hold of it, and has their consumers leave it; goes on
    /// with other queues while no more than `most` have left. `true` when there is more to do.
    fn give_up(&mut self, leaving: &mut Leaving, most: usize) -> bool {
        let mut left = 0;
        while left < most {
            let Some(cell) = leaving.cell() else {
                return false;
            };
            left += self.leave_some(leaving, &cell).max(1);
            if leaving.cell().is_none_or(|next| !Arc::ptr_eq(&next, &cell)) {
                let consumed = std::mem::take(&mut leaving.consumed);
                leaving.returned = false;
                if consumed {
                    self.after_leaving(&cell);
                }
            }
        }
        leaving.cell().is_some()
    }

    /// Takes a queue's lock once for a part of those who leave it. Their deliveries go back in one
    /// step before: a consumer that is served in their place gets what they had before anything
    /// later. The queue is pumped when it has everything back, so that others get it in order.
    fn leave_some(&mut self, leaving: &mut Leaving, cell: &Arc<QueueCell>) -> usize {
        // They are dropped when the queue is unlocked.
        let mut gone = Vec::new();
        let mut state = cell.lock();
        if cell.is_deleted() {
            leaving.skip(cell);
            return 0;
        }
        if !std::mem::replace(&mut leaving.returned, true) {
            let mut pump = Pump::new(cell, &mut self.work);
            for (source, run) in leaving.of(cell) {
                give_back(&mut state, source, run, &mut pump);
            }
        }
        while gone.len() < LEAVERS_MAX
            && let Some((source, _)) = leaving.next_of(cell)
        {
            let handle = source.consumer.and_then(|key| state.queue.cancel(key));
            if let Some(handle) = &handle {
                handle.left();
                leaving.consumed = true;
            }
            gone.push((source, handle));
        }
        cell.run(&mut state, &mut Pump::new(cell, &mut self.work));
        if state.queue.consumer_count() == 0 && leaving.consumed {
            cell.used(&mut state);
        }
        drop(state);
        gone.len()
    }

    /// Confirms what needs no more waiting, before its channel ends.
    fn confirm_last(&mut self, number: u16, state: &mut Channel) {
        // Otherwise they come after an answer that is not given any more.
        if state.held.is_empty() {
            let mut outlet = self.peer.outlet.lock();
            if state.confirm(number, self.broker.store.durable(), &mut outlet) {
                self.work.dirtied(&outlet);
            }
        }
    }

    /// Gives back a part of what the connection holds: `true` when there is more. Nothing is
    /// delivered to it from the first part on. Doing it again is no error.
    pub(crate) fn leave_partly(&mut self) -> bool {
        self.later = None;
        self.routes.give_up();
        let mut held = Vec::new();
        for index in 0..self.channels.len() {
            self.end_channel(index, &mut held);
        }
        self.channels = Vec::new();
        let mut leaving = match self.leaving.take() {
            Some(leaving) => leaving,
            None => Box::new(Leaving::new(held)),
        };
        if self.give_up(&mut leaving, LEAVERS_OF_TURN) {
            self.leaving = Some(leaving);
            return true;
        }
        self.leave_vhost();
        false
    }

    fn leave_vhost(&mut self) {
        let Some(vhost) = self.vhost.clone() else {
            return;
        };
        if std::mem::take(&mut self.entered) {
            self.broker.uses.lock().leave(&vhost.name, &self.user);
        }
        let mut own = std::mem::take(&mut self.exclusive);
        own.retain(|cell| !cell.is_deleted());
        for cell in own {
            // Without a condition it cannot be refused.
            let condition = Condition::default();
            let _ = self
                .broker
                .delete_queue(&vhost, &cell, condition, &mut self.work);
        }
    }
}

/// What ended channels hold, queue by queue.
pub(crate) struct Leaving {
    /// What is done is taken off its end.
    held: Vec<Holding>,
    /// The queue that is being left has its deliveries back,
    returned: bool,
    /// and had a consumer of theirs.
    consumed: bool,
}

impl Leaving {
    fn new(mut held: Vec<Holding>) -> Self {
        // A queue that was deleted may have left its identity to another one.
        held.sort_by_key(|(source, _)| Reverse((source.cell.id, Arc::as_ptr(&source.cell))));
        Self {
            held,
            returned: false,
            consumed: false,
        }
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
type Holding = (Source, Vec<(u32, Unacked, Verdict)>);

fn held_of(sources: Vec<Source>, slots: Vec<Slot>) -> Vec<Holding> {
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
