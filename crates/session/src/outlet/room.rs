//! Who has room on a channel that several queues wait for.

use super::{Delivered, Outlet, Parcel};
use crate::channel::OutletChannel;

impl<W> Outlet<W> {
    /// Delivers for a queue that waits for room on the channel, if it is its turn.
    #[cold]
    pub fn deliver_in_turn(
        &mut self,
        channel: u16,
        queue: usize,
        parcel: &Parcel<'_>,
    ) -> Delivered {
        let limits = self.limits;
        let state = self.channel(channel);
        let granted = |state: &&mut OutletChannel<W>| state.granted == Some(queue);
        let Some(state) = state
            .filter(granted)
            .filter(|state| state.is_below_limits())
        else {
            return Delivered::Waits;
        };
        state.open();
        let delivered = self.deliver(channel, parcel);
        if let Some(state) = self.channel(channel) {
            if matches!(delivered, Delivered::Sent { .. }) {
                state.granted = None;
            }
            state.judge_room(&limits);
        }
        delivered
    }

    /// Has a queue, and the source that it is on its channel, wait for room there.
    pub fn wait_for_room(&mut self, channel: u16, (queue, source): (usize, u32), waiting: W) {
        let limits = self.limits;
        if let Some(state) = self.channel(channel) {
            let served = state.unacked.last_source() == Some(source);
            state.line.join(queue, served, waiting);
            state.judge_room(&limits);
        }
    }

    /// A queue may have nobody left on a channel who waits.
    pub fn leave_line(&mut self, channel: u16, queue: usize) {
        let limits = self.limits;
        if let Some(state) = self.channel(channel) {
            state.line.leave(queue);
            state.judge_room(&limits);
        }
    }

    /// Whether queues wait for room on a channel.
    #[must_use]
    pub fn has_line(&self, channel: u16) -> bool {
        let channel = self.channels.get(usize::from(channel));
        matches!(channel, Some(Some(channel)) if !channel.line.is_empty())
    }

    /// Takes the queue that has waited longest for room on a channel, if there is some: it is to be
    /// pumped, and may have one delivery before others have their turn.
    ///
    /// Whoever makes room asks again until there is none, or nobody waits.
    pub fn next_in_line(&mut self, channel: u16) -> Option<W> {
        let limits = self.limits;
        let state = self.channel(channel)?;
        state.granted = None;
        if !state.is_below_limits() {
            return None;
        }
        let (queue, waiting) = state.line.pop()?;
        state.granted = Some(queue);
        state.judge_room(&limits);
        Some(waiting)
    }
}
