//! How a connection ends: what it holds goes back first, a part at a time.

use leveret_session::Fault;

use super::{Connection, Step};
use crate::broker::stopping;
use crate::connection::close::Parting;

/// How a connection ends that still has its socket.
pub(crate) enum Ending {
    Closed,
    Failed(Fault),
}

impl Connection {
    pub(super) fn close_if_asked(&mut self) {
        let asked = self.core.peer.close.lock().take();
        if let Some(fault) = asked
            && !self.session.is_closing()
            && self.ending.is_none()
        {
            self.fail(fault);
        }
    }

    pub(super) fn refuse_if_stopping(&self) -> Result<(), Fault> {
        if self.core.broker.is_stopping() {
            Err(stopping())
        } else {
            Ok(())
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
                self.core.close_channel(channel);
                self.session.fail(&fault, true);
                self.forward_replies();
            }
            Fault::Authentication { .. } => {
                let tell = self.core.tell_login_failure;
                self.silent = !self.session.fail(&fault, tell);
                self.forward_last();
            }
            Fault::Connection { .. } => return self.end(Ending::Failed(fault)),
        }
        Step::More
    }

    /// Gives back what it holds, in as many turns as that takes, then says that it ends.
    pub(super) fn end(&mut self, ending: Ending) -> Step {
        if self.core.leave_partly() {
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

    /// The socket is gone: everything the connection held goes back. A later turn does nothing.
    pub fn disconnect(&mut self) {
        while self.disconnect_partly() {}
    }

    /// The same, a part at a time, so that others get their turn while one gives back very much:
    /// `true` when there is more to do. Nothing is delivered to it from the first part on.
    pub fn disconnect_partly(&mut self) -> bool {
        self.session.abandon();
        let more = self.core.leave_partly();
        if !more {
            self.core.forget_unfinished();
            let mut outlet = self.core.peer.outlet.lock();
            outlet.disconnect();
            self.core.broker.timer.disarm_peer(&self.core.peer);
            drop(outlet);
            self.core.broker.deregister(self.core.peer.id);
        }
        self.core.end_turn();
        more
    }
}
