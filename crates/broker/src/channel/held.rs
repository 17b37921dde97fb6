//! Answers that wait until the disk has what they tell of.
//!
//! A channel's client sees its answers in the order it asked. While the first one waits for a
//! ticket, later ones queue up behind it; what they tell of is done already. What would bring
//! deliveries cannot be answered later than it is done: it stays unread until nothing waits on its
//! channel, and all that the client sent after it stays so too.

use leveret_codec::Method;
use leveret_store::Ticket;

use crate::connection::Core;

/// Encoded frames that wait for a ticket.
pub(crate) type Held = (Ticket, Vec<u8>);

/// Memory that a client makes the broker hold by asking on.
fn bytes(held: &Held) -> usize {
    size_of::<Held>() + held.1.capacity()
}

impl Core {
    /// Whether answers of this channel wait.
    pub(crate) fn holds(&mut self, channel: u16) -> bool {
        !self.holding.is_empty() && self.holding.contains(&channel)
    }

    /// Whether a method has to stay unread, as it may bring deliveries.
    pub(crate) fn must_wait(&mut self, channel: u16, method: &Method<'_>) -> bool {
        matches!(method, Method::BasicConsume(_) | Method::BasicGet(_)) && self.holds(channel)
    }

    /// Whether the rest of the input waits for answers before it.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waits
            .is_some_and(|channel| self.holding.contains(&channel))
    }

    /// Has an answer wait for a ticket, and for everything that waits already.
    fn hold(&mut self, channel: u16, held: Held) {
        let bytes = bytes(&held);
        let Some(state) = self.channel(channel) else {
            return;
        };
        let first = state.held.is_empty();
        state.held.push_back(held);
        self.held_bytes += bytes;
        if first {
            self.holding.push(channel);
        }
    }

    /// Sends a method on a channel, behind the answers that wait.
    pub(crate) fn reply<'a>(&mut self, channel: u16, method: impl Into<Method<'a>>) {
        self.reply_at(channel, Ticket(0), method);
    }

    /// Sends a method once everything this turn has submitted so far is durable.
    pub(crate) fn reply_durable<'a>(&mut self, channel: u16, method: impl Into<Method<'a>>) {
        self.reply_at(channel, self.work.ticket, method);
    }

    fn reply_at<'a>(&mut self, channel: u16, ticket: Ticket, method: impl Into<Method<'a>>) {
        let method = method.into();
        if self.holds(channel) || (ticket > Ticket(0) && ticket > self.broker.store.durable()) {
            let mut frames = Vec::new();
            method.encode(channel, &mut frames);
            return self.hold(channel, (ticket, frames));
        }
        self.reply_now(channel, method);
    }

    /// Sends a method whose turn has come.
    pub(crate) fn reply_now<'a>(&mut self, channel: u16, method: impl Into<Method<'a>>) {
        let method = method.into();
        let mut outlet = self.peer.outlet.lock();
        self.work
            .reply(&mut outlet, |out| method.encode(channel, out));
    }

    /// Sends the answers that need wait no more.
    pub(crate) fn release_held(&mut self) {
        if self.holding.is_empty() {
            return;
        }
        let durable = self.broker.store.durable();
        let mut holding = std::mem::take(&mut self.holding);
        holding.retain(|&channel| self.release_channel(channel, durable));
        self.holding = holding;
    }

    /// Tells whether some still wait on a channel.
    fn release_channel(&mut self, channel: u16, durable: Ticket) -> bool {
        while let Some(state) = self.channel(channel)
            && state
                .held
                .front()
                .is_some_and(|(ticket, _)| *ticket <= durable)
            && let Some(held) = state.held.pop_front()
        {
            self.held_bytes = self.held_bytes.saturating_sub(bytes(&held));
            let mut outlet = self.peer.outlet.lock();
            self.work
                .reply(&mut outlet, |out| out.extend_from_slice(&held.1));
        }
        self.channel(channel)
            .is_some_and(|state| !state.held.is_empty())
    }

    /// The ticket that the first of the answers in waiting needs.
    pub(crate) fn held_for(&self) -> Option<Ticket> {
        let fronts = self.holding.iter().filter_map(|channel| {
            let state = self.channels.get(usize::from(*channel))?.as_deref()?;
            state.held.front().map(|(ticket, _)| *ticket)
        });
        fronts.min()
    }

    /// A channel that ends tells nothing more.
    pub(crate) fn forget_held(&mut self, channel: u16, held: impl Iterator<Item = Held>) {
        let bytes: usize = held.map(|held| bytes(&held)).sum();
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        self.holding.retain(|holding| *holding != channel);
    }
}
