//! The end of a channel or a connection: consumers leave, deliveries go back, exclusive queues go.

use std::ops::Range;
use std::sync::Arc;

use crate::channel::Channel;
use crate::connection::Core;
use crate::operations::Condition;
use crate::publish::encode_confirm;
use crate::settle::requeue;
use crate::stats::Event;

impl Core {
    /// Ends a channel.
    pub(crate) fn close_channel(&mut self, channel: u16) {
        let channel = usize::from(channel);
        self.close_channels(channel..channel + 1);
    }

    /// Ends channels. All their consumers leave before any delivery goes back, so that nothing is
    /// given to those who are about to end; a queue is pumped when it has everything back, so that
    /// others get it in order.
    fn close_channels(&mut self, channels: Range<usize>) {
        let mut left = Vec::new();
        let mut unsettled = Vec::new();
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
            for source in &state.sources {
                if let Some(key) = source.consumer {
                    source.cell.lock().queue.cancel(key);
                    left.push(Arc::clone(&source.cell));
                }
            }
            unsettled.push((state.sources, slots));
        }
        for cell in requeue(unsettled, &mut self.work) {
            cell.pump(&mut self.work);
        }
        for cell in left {
            self.after_leaving(&cell);
        }
    }

    /// Confirms what needs no more waiting, before its channel ends.
    fn confirm_last(&mut self, number: u16, state: &mut Channel) {
        let Some(confirms) = state.confirms.as_mut().filter(|_| state.held.is_empty()) else {
            return;
        };
        let durable = self.broker.store.durable().0;
        let mut outlet = self.peer.outlet.lock();
        confirms.emit(durable, |confirm| {
            self.work
                .reply(&mut outlet, |out| encode_confirm(out, number, confirm));
        });
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
