//! Deliveries that were not settled in time go back to their queues.

use std::sync::atomic::Ordering;

use leveret_codec::SoftCode;
use leveret_session::{Fault, Looked};

use crate::channel::settle::give_back;
use crate::connection::{Connection, Core};
use crate::queue::pump::Pump;

/// Steps of looking at deliveries before others have their turn.
const STEPS_OF_TURN: usize = 8;

impl Connection {
    /// Gives back what was not settled in time: `true` when there may be more.
    pub(crate) fn take_back(&mut self) -> bool {
        loop {
            match self.core.take_back() {
                Ok(more) => return more,
                // The channel is gone afterwards.
                Err(fault) => {
                    self.fail(fault);
                }
            }
        }
    }
}

impl Core {
    /// Gives back what was not settled in time, a part at a time: `true` when there may be more.
    ///
    /// # Errors
    /// When a channel has to be closed for it.
    pub(crate) fn take_back(&mut self) -> Result<bool, Fault> {
        if !self.peer.leases.overdue.load(Ordering::Acquire) {
            return Ok(false);
        }
        let now_ms = self.broker.now_ms();
        for _ in 0..STEPS_OF_TURN {
            let Some(channel) = self.due_channel(now_ms) else {
                return Ok(false);
            };
            self.take_back_some(channel, now_ms)?;
        }
        // Also while it is not read.
        self.peer.is_overdue(&self.peer.outlet.lock());
        Ok(true)
    }

    /// A channel whose deliveries have to be looked at now; without one the timer sees to it.
    fn due_channel(&self, now_ms: u64) -> Option<u16> {
        let outlet = self.peer.outlet.lock();
        let channel = outlet.due_channel(now_ms);
        if channel.is_none() {
            self.peer.leases.overdue.store(false, Ordering::Relaxed);
            if let Some(due_ms) = outlet.next_due() {
                self.broker.timer.arm_peer(&self.peer, due_ms);
            }
        }
        channel
    }

    fn take_back_some(&mut self, channel: u16, now_ms: u64) -> Result<(), Fault> {
        let Some(state) = self.channel(channel) else {
            return Ok(());
        };
        let sources = std::mem::take(&mut state.sources);
        let (taken, peer) = (&mut self.settled, &self.peer);
        let looked = peer.outlet.lock().take_overdue(
            channel,
            now_ms,
            |source| sources.get(source as usize)?.term(),
            |slot| {
                if let Some(source) = sources.get(slot.source as usize) {
                    taken.push((slot.source, slot.unacked, source.overdue()));
                }
            },
        );
        if let Some(state) = self.channel(channel) {
            state.sources = sources;
        }
        self.give_back_overdue(channel);
        let Looked::Closes(timeout_ms) = looked else {
            return Ok(());
        };
        let text = format!(
            "delivery acknowledgement on channel {channel} timed out. Timeout value used: \
             {timeout_ms} ms. This timeout value can be configured, see consumers doc guide to \
             learn more"
        );
        Err(Fault::channel(
            channel,
            SoftCode::PreconditionFailed,
            text,
            (0, 0),
        ))
    }

    /// Gives taken deliveries back to their queues, one lock for each run of one source.
    fn give_back_overdue(&mut self, channel: u16) {
        let mut taken = std::mem::take(&mut self.settled);
        let Self { channels, work, .. } = self;
        let state = channels
            .get(usize::from(channel))
            .and_then(Option::as_deref);
        for run in taken.chunk_by(|a, b| a.0 == b.0) {
            let source = run.first().map(|(source, ..)| *source);
            let Some(source) = source.and_then(|source| state?.source(source)) else {
                continue;
            };
            let mut queue = source.cell.lock();
            if !source.cell.is_deleted() {
                queue.timed_out += run.len() as u64;
                let mut pump = Pump::new(&source.cell, work);
                give_back(&mut queue, source, run, &mut pump);
                source.cell.run(&mut queue, &mut pump);
            }
        }
        taken.clear();
        self.settled = taken;
        self.share_room(channel);
    }
}
