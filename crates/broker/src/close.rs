//! The end of a channel or a connection: consumers leave, deliveries go back, exclusive queues go.

use std::ops::Range;
use std::sync::Arc;

use leveret_queue::Unacked;
use leveret_session::{Slot, Verdict};

use crate::cell::Source;
use crate::channel::Channel;
use crate::connection::Core;
use crate::operations::Condition;
use crate::settle::give_back;
use crate::stats::Event;

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
            let Some(mut state) = self.channels.get_mut(index).and_then(Option::take) else {
                continue;
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
                // What was not committed was not settled.
                slots.extend(transaction.slots().copied());
            }
            held.extend(held_of(state.sources, slots));
        }
        self.give_up(held);
    }

    /// Has consumers leave each queue and gives their deliveries back to it in one step: a consumer
    /// that is served in their place gets what they had before anything later. A queue is pumped
    /// when it has everything back, so that others get it in order.
    fn give_up(&mut self, mut held: Vec<Holding>) {
        // A queue that was deleted may have left its identity to another one.
        held.sort_by_key(|(source, _)| (source.cell.id, Arc::as_ptr(&source.cell)));
        for of_queue in held.chunk_by(|a, b| Arc::ptr_eq(&a.0.cell, &b.0.cell)) {
            let Some((Source { cell, .. }, _)) = of_queue.first() else {
                continue;
            };
            let mut state = cell.lock();
            if cell.is_deleted() {
                continue;
            }
            let mut left = false;
            for key in of_queue.iter().filter_map(|(source, _)| source.consumer) {
                if let Some(handle) = state.queue.cancel(key) {
                    handle.left();
                    left = true;
                }
            }
            for (source, run) in of_queue {
                give_back(&mut state, source, run, &mut self.work);
            }
            drop(state);
            if left {
                self.after_leaving(cell);
            } else {
                cell.pump(&mut self.work);
            }
        }
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

    /// Gives back everything the connection holds. Doing it twice is no error.
    pub(crate) fn leave(&mut self) {
        self.close_channels(0..self.channels.len());
        self.channels = Vec::new();
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

/// What a channel holds of one source: its consumer and deliveries that were not settled.
type Holding = (Source, Vec<(u32, Unacked, Verdict)>);

fn held_of(sources: Vec<Source>, slots: Vec<Slot>) -> Vec<Holding> {
    let mut held: Vec<Holding> = sources
        .into_iter()
        .map(|source| (source, Vec::new()))
        .collect();
    for slot in slots {
        if let Some((_, run)) = held.get_mut(slot.source as usize) {
            run.push((slot.source, slot.unacked, Verdict::Requeue));
        }
    }
    held.retain(|(source, run)| source.consumer.is_some() || !run.is_empty());
    held
}
