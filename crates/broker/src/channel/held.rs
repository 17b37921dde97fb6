//! Answers that wait until the disk has what they tell of.
//!
//! A channel's client sees its answers in the order it asked. While the first one waits for a
//! ticket, later ones queue up behind it; what they tell of is done already. What would bring
//! deliveries cannot be answered later than it is done: it stays unread until nothing waits on its
//! channel, and all that the client sent after it stays so too.

use leveret_codec::Method;
use leveret_store::Ticket;

use crate::channel::open::{ChannelsShared, OpenChannel};

/// Encoded frames that wait for a ticket.
pub(crate) type HeldFrames = (Ticket, Vec<u8>);

/// Memory that a client makes the broker hold by asking on.
fn bytes(held: &HeldFrames) -> usize {
    size_of::<HeldFrames>() + held.1.capacity()
}

impl OpenChannel<'_> {
    /// Whether answers wait.
    fn holds(&self) -> bool {
        !self.state.held.is_empty()
    }

    /// Whether a method has to stay unread, as it may bring deliveries.
    pub(crate) fn must_wait(&self, method: &Method<'_>) -> bool {
        matches!(method, Method::BasicConsume(_) | Method::BasicGet(_)) && self.holds()
    }

    /// Has an answer wait for a ticket, and for everything that waits already.
    fn hold(&mut self, held: HeldFrames) {
        if !self.holds() {
            self.shared.holding.push(self.number);
        }
        self.shared.held_bytes += bytes(&held);
        self.state.held.push_back(held);
    }

    /// Sends a method, behind the answers that wait.
    pub(crate) fn reply<'m>(&mut self, method: impl Into<Method<'m>>) {
        self.reply_at(Ticket(0), method);
    }

    /// Sends a method once everything this turn has submitted so far is durable.
    pub(crate) fn reply_durable<'m>(&mut self, method: impl Into<Method<'m>>) {
        self.reply_at(self.effects.ticket, method);
    }

    fn reply_at<'m>(&mut self, ticket: Ticket, method: impl Into<Method<'m>>) {
        let method = method.into();
        if self.holds() || (ticket > Ticket(0) && ticket > self.broker.store.durable()) {
            let mut frames = Vec::new();
            method.encode(self.number, &mut frames);
            return self.hold((ticket, frames));
        }
        self.reply_now(method);
    }

    /// Sends a method whose turn has come.
    pub(crate) fn reply_now<'m>(&mut self, method: impl Into<Method<'m>>) {
        let method = method.into();
        let mut outlet = self.peer.outlet.lock();
        self.effects
            .reply(&mut outlet, |out| method.encode(self.number, out));
    }

    /// Sends the answers that need wait no more; tells whether some still wait.
    pub(crate) fn release_held(&mut self, durable: Ticket) -> bool {
        let held = &mut self.state.held;
        while held.front().is_some_and(|(ticket, _)| *ticket <= durable)
            && let Some(held) = held.pop_front()
        {
            self.shared.held_bytes -= bytes(&held);
            let mut outlet = self.peer.outlet.lock();
            self.effects
                .reply(&mut outlet, |out| out.extend_from_slice(&held.1));
        }
        self.holds()
    }
}

impl ChannelsShared {
    /// A channel that ends tells nothing more.
    pub(crate) fn forget_held(&mut self, channel: u16, held: impl Iterator<Item = HeldFrames>) {
        self.held_bytes -= held.map(|held| bytes(&held)).sum::<usize>();
        self.holding.retain(|holding| *holding != channel);
    }
}
