//! What a connection has at hand in whichever phase it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leveret_codec::Method;
use leveret_session::{Flush, Session};
use leveret_store::{Ticket, Waiter};

use crate::broker::Broker;
use crate::peer::Peer;
use crate::queue::effects::Effects;

/// The broker, the connection as others see it, and what a turn leaves to be done at its end.
pub(crate) struct Desk {
    pub(crate) broker: Arc<Broker>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) effects: Effects,
    /// The client has hung up: what it has left is read to its end.
    pub(crate) hung_up: bool,
    waiter: Arc<Woken>,
}

impl Desk {
    pub(crate) fn new(broker: Arc<Broker>, peer: Arc<Peer>, flusher: Arc<dyn Flush>) -> Self {
        let waiting = AtomicBool::new(false);
        Self {
            broker,
            peer,
            effects: Effects::default(),
            hung_up: false,
            waiter: Arc::new(Woken { flusher, waiting }),
        }
    }

    /// Takes note of what was agreed with the client in the handshake.
    pub(crate) fn agreed(&self, session: &Session) {
        let peer = &self.peer;
        peer.outlet.lock().set_frame_max(session.frame_max());
        let channel_max = session.channel_max();
        peer.channel_max.store(channel_max, Ordering::Relaxed);
        self.broker.set_heartbeat(peer, session.heartbeat_s());
    }

    /// Sends a method, whatever waits on its channel.
    pub(crate) fn send<'a>(&mut self, channel: u16, method: impl Into<Method<'a>>) {
        let method = method.into();
        let mut outlet = self.peer.outlet.lock();
        self.effects
            .reply(&mut outlet, |out| method.encode(channel, out));
    }

    /// Has the connection take a turn once the store has reached the ticket.
    pub(crate) fn wake_at(&self, ticket: Ticket) {
        if !self.waiter.waiting.swap(true, Ordering::AcqRel) {
            let waiter: Arc<dyn Waiter> = Arc::clone(&self.waiter) as Arc<dyn Waiter>;
            self.broker.store.wake_at(ticket, waiter);
        }
    }
}

/// Has confirms sent once the store has caught up.
struct Woken {
    flusher: Arc<dyn Flush>,
    waiting: AtomicBool,
}

impl Waiter for Woken {
    fn durable(&self, few: bool) {
        self.waiting.store(false, Ordering::Release);
        if few {
            self.flusher.proceed();
        } else {
            self.flusher.interrupt();
        }
    }
}
