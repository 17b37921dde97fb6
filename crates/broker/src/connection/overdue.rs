//! When a connection looks for deliveries that were not settled in time.

use std::sync::atomic::Ordering;

use leveret_record::{Sabotage, breaks};
use leveret_session::Fault;

use crate::connection::Connection;
use crate::connection::desk::Desk;
use crate::connection::phase::Running;

/// Steps of looking at deliveries before others have their turn.
const STEPS_OF_TURN: usize = 8;

impl Connection {
    /// Gives back what was not settled in time: `true` when there may be more.
    pub(super) fn take_back(&mut self) -> bool {
        loop {
            let Some(running) = self.phase.running_mut() else {
                return false;
            };
            match running.take_back(&mut self.desk) {
                Ok(more) => return more,
                // The channel is gone afterwards.
                Err(fault) => {
                    self.fail(fault);
                }
            }
        }
    }
}

impl Running {
    /// The same, a part at a time.
    ///
    /// # Errors
    /// When a channel has to be closed for it.
    fn take_back(&mut self, desk: &mut Desk) -> Result<bool, Fault> {
        if !desk.peer.leases.overdue.load(Ordering::Acquire) {
            return Ok(false);
        }
        let now_ms = desk.broker.now_ms();
        for _ in 0..STEPS_OF_TURN {
            let Some(channel) = desk.due_channel(now_ms) else {
                return Ok(false);
            };
            if let Some(mut open) = self.open(channel, desk) {
                open.take_back(now_ms)?;
            }
        }
        // Also while it is not read.
        desk.peer.leases.look(&desk.peer.outlet.lock());
        Ok(true)
    }
}

impl Desk {
    /// A channel whose deliveries have to be looked at now; without one the timer sees to it.
    fn due_channel(&self, now_ms: u64) -> Option<u16> {
        let Self { broker, peer, .. } = self;
        let outlet = peer.outlet.lock();
        let channel = outlet.due_channel(now_ms);
        if channel.is_none() {
            peer.leases.overdue.store(false, Ordering::Relaxed);
            if let Some(due_ms) = outlet.next_due()
                && !breaks(Sabotage::ForgetLease)
            {
                broker.timer.arm_leases(&peer.leases, due_ms);
            }
        }
        channel
    }
}
