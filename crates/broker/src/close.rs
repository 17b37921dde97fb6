//! The end of a channel or a connection: consumers leave, deliveries go back, exclusive queues go.

use crate::connection::Core;
use crate::operations::Condition;
use crate::stats::Event;

impl Core {
    /// Ends a channel. Its consumers leave their queues before its deliveries go back, so that it
    /// gets none of them again.
    pub(crate) fn close_channel(&mut self, channel: u16) {
        let taken = self
            .channels
            .get_mut(usize::from(channel))
            .and_then(Option::take);
        let Some(state) = taken else { return };
        let mut state = *state;
        self.forget_held(channel, state.held.drain(..));
        self.peer.channels.lock().end(channel);
        self.broker.events.count(Event::ChannelClosed);
        let slots = self.peer.outlet.lock().close_channel(channel);
        let consumers: Vec<_> = state
            .sources
            .iter()
            .filter_map(|source| Some((source.cell.clone(), source.consumer?)))
            .collect();
        for (cell, key) in &consumers {
            cell.lock().queue.cancel(*key);
        }
        self.requeue_all(&state.sources, slots);
        for (cell, _) in consumers {
            self.after_leaving(&cell);
        }
        self.confirming.retain(|confirming| *confirming != channel);
    }

    /// Gives back everything the connection holds. Doing it twice is no error.
    pub(crate) fn leave(&mut self) {
        for channel in 0..self.channels.len() {
            self.close_channel(u16::try_from(channel).unwrap_or(u16::MAX));
        }
        self.channels = Vec::new();
        let Some(vhost) = self.vhost.clone() else {
            return;
        };
        for cell in std::mem::take(&mut self.exclusive) {
            // Without a condition it cannot be refused.
            let condition = Condition::default();
            let _ = self
                .broker
                .delete_queue(&vhost, &cell, condition, &mut self.work);
        }
    }
}
