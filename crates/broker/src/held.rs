//! Answers that wait until the disk has what they tell of, and what is asked after them.
//!
//! A channel's client sees its answers in the order it asked. While the first one waits for a
//! ticket, later ones queue behind it, and so does what would bring deliveries; everything else
//! goes on.

use std::sync::Arc;

use leveret_codec::Method;
use leveret_queue::Consuming;
use leveret_session::Fault;
use leveret_store::Ticket;

use crate::cell::{Handle, QueueCell};
use crate::connection::Core;
use crate::refusal::Refusal;

/// Something a channel does when its turn has come.
pub(crate) enum Held {
    /// Sends encoded frames.
    Reply(Vec<u8>),
    /// Starts a consumer; answers unless `nowait`.
    Consume {
        handle: Arc<Handle>,
        asked: Consuming,
        nowait: bool,
    },
    /// `basic.get`.
    Get { cell: Arc<QueueCell>, no_ack: bool },
}

impl Held {
    /// Memory that a client makes the broker hold by asking on.
    fn bytes(&self) -> usize {
        size_of::<(Ticket, Self)>()
            + match self {
                Self::Reply(frames) => frames.capacity(),
                Self::Consume { .. } | Self::Get { .. } => 0,
            }
    }
}

impl Core {
    /// Whether answers of this channel wait.
    pub(crate) fn holds(&mut self, channel: u16) -> bool {
        !self.holding.is_empty() && self.holding.contains(&channel)
    }

    /// Has something wait for a ticket, and for everything that waits already.
    pub(crate) fn hold(&mut self, channel: u16, ticket: Ticket, held: Held) {
        let bytes = held.bytes();
        let Some(state) = self.channel(channel) else {
            return;
        };
        let first = state.held.is_empty();
        state.held.push_back((ticket, held));
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
            return self.hold(channel, ticket, Held::Reply(frames));
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

    /// Does what had to wait until now; gives the channel faults it ends in.
    pub(crate) fn release_held(&mut self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.holding.is_empty() {
            return faults;
        }
        let durable = self.broker.store.durable();
        for channel in std::mem::take(&mut self.holding) {
            if let Err(fault) = self.release_channel(channel, durable) {
                faults.push(fault);
            }
            if self
                .channel(channel)
                .is_some_and(|state| !state.held.is_empty())
            {
                self.holding.push(channel);
            }
        }
        faults
    }

    fn release_channel(&mut self, channel: u16, durable: Ticket) -> Result<(), Fault> {
        while let Some(state) = self.channel(channel)
            && state
                .held
                .front()
                .is_some_and(|(ticket, _)| *ticket <= durable)
            && let Some((_, held)) = state.held.pop_front()
        {
            self.held_bytes = self.held_bytes.saturating_sub(held.bytes());
            let (done, method) = match held {
                Held::Reply(frames) => {
                    let mut outlet = self.peer.outlet.lock();
                    self.work
                        .reply(&mut outlet, |out| out.extend_from_slice(&frames));
                    (Ok(()), (0, 0))
                }
                Held::Consume {
                    handle,
                    asked,
                    nowait,
                } => (self.start_consumer(&handle, asked, nowait), (60, 20)),
                Held::Get { cell, no_ack } => (self.get_now(channel, &cell, no_ack), (60, 70)),
            };
            done.map_err(|refusal: Refusal| self.fault_of(refusal, channel, method))?;
        }
        Ok(())
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
    pub(crate) fn forget_held(&mut self, channel: u16, held: impl Iterator<Item = (Ticket, Held)>) {
        let bytes: usize = held.map(|(_, held)| held.bytes()).sum();
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        self.holding.retain(|holding| *holding != channel);
    }
}
