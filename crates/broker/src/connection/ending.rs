//! How a connection ends: what it holds goes back first, a part at a time.

use leveret_session::Fault;

use super::{Connection, Step};
use crate::connection::desk::Desk;
use crate::connection::parting::Parting;
use crate::connection::phase::Phase;

/// How a connection ends that still has its socket.
pub(crate) enum Ending {
    Closed,
    Failed(Fault),
}

impl Connection {
    pub(super) fn close_if_asked(&mut self) {
        let asked = self.desk.peer.close.lock().take();
        if let Some(fault) = asked
            && !self.session.is_closing()
            && self.ending.is_none()
        {
            self.fail(fault);
        }
    }

    /// Cleans up what a fault ends, then tells the client.
    pub(crate) fn fail(&mut self, fault: Fault) -> Step {
        if !matches!(fault, Fault::Channel { .. }) {
            let parting = || Parting::of(&fault);
            self.parting.get_or_insert_with(parting);
        }
        match fault {
            Fault::Channel { channel, .. } => {
                if let Some(running) = self.phase.running_mut() {
                    running.close_channel(channel, &mut self.desk);
                }
                self.session.fail(&fault, true);
                self.forward_replies();
            }
            Fault::Authentication { .. } => {
                self.silent = !self.session.fail(&fault, self.login.tells_failure);
                self.forward_last();
            }
            Fault::Connection { .. } => return self.end(Ending::Failed(fault)),
        }
        Step::More
    }

    /// Gives back what it holds, in as many turns as that takes, then says that it ends.
    pub(super) fn end(&mut self, ending: Ending) -> Step {
        if self.leave_partly() {
            self.ending = Some(ending);
            return Step::Waits;
        }
        match ending {
            Ending::Closed => {
                self.session.close_ok();
                self.forward_last();
                Step::Closed
            }
            Ending::Failed(fault) => {
                self.silent = !self.session.fail(&fault, true);
                self.forward_last();
                Step::More
            }
        }
    }

    /// Gives back a part of what the connection holds: `true` when there is more. Nothing is
    /// delivered to it from the first part on. Doing it again is no error.
    fn leave_partly(&mut self) -> bool {
        let desk = &mut self.desk;
        let mut leaving = match self.phase.take() {
            Phase::Running(running) => Box::new(running.leave(desk)),
            Phase::Leaving(leaving) => leaving,
            Phase::Greeting | Phase::Opening(_) | Phase::Over => return false,
        };
        let more = leaving.go_on(desk);
        if more {
            self.phase = Phase::Leaving(leaving);
        }
        more
    }

    /// The socket is gone: everything the connection held goes back. A later turn does nothing.
    pub fn disconnect(&mut self) {
        while self.disconnect_partly() {}
    }

    /// The same, a part at a time, so that others get their turn while one gives back very much:
    /// `true` when there is more to do. Nothing is delivered to it from the first part on.
    pub fn disconnect_partly(&mut self) -> bool {
        self.session.abandon();
        let more = self.leave_partly();
        if !more {
            let Desk { broker, peer, .. } = &self.desk;
            broker.forget_unfinished(peer);
            let mut outlet = peer.outlet.lock();
            outlet.disconnect();
            broker.timer.disarm_leases(&peer.leases);
            drop(outlet);
            broker.deregister(peer.client.id);
        }
        self.end_turn();
        more
    }
}
