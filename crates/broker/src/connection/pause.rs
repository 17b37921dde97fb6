//! When a connection is not read for a while: back-pressure on what its client sends.

use std::sync::atomic::Ordering;

use crate::connection::Connection;
use crate::connection::desk::Desk;
use crate::connection::phase::Running;
use crate::peer::alarms::Obstacle;

/// A client that takes not one byte of its replies for so long is given up. It may be silent for as
/// long with the heartbeat that is offered by default.
const STALLED_MS: u64 = 120_000;

/// Why a connection is not read for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Its replies pile up, as it does not read them.
    Replies,
    /// The disk is behind with what it published or asked for.
    Disk,
}

/// Replies that pile up and are not taken.
#[derive(Clone, Copy)]
pub(crate) struct Stall {
    /// Bytes that had been written in all.
    written: u64,
    since_ms: u64,
}

impl Connection {
    /// Why nothing more should be read for now, if so; to be asked after a turn and then now and
    /// then, as the client's silence does not count in between. `persistent` is what the turn told.
    /// Gives up a client that takes nothing for ever.
    ///
    /// What follows `connection.close` is dropped as it is read.
    pub fn pause(&mut self, persistent: bool, now_ms: u64) -> Option<Pause> {
        if self.is_closing() || self.ending.is_some() {
            return None;
        }
        let Desk { broker, peer, .. } = &self.desk;
        let (replies, written) = {
            let outlet = peer.outlet.lock();
            (outlet.queued_replies(), outlet.written())
        };
        let max = broker.config.reply_bytes_max;
        let running = self.phase.running();
        let pause = if replies > max {
            Some(Pause::Replies)
        } else {
            let behind = running.is_some_and(Running::is_waiting)
                || replies + running.map_or(0, |running| running.shared.held_bytes) > max
                || (persistent && broker.is_store_behind());
            behind.then_some(Pause::Disk)
        };
        peer.paused.store(pause.is_some(), Ordering::Relaxed);
        self.stall = (pause == Some(Pause::Replies)).then(|| {
            let last = self.stall.filter(|stall| stall.written == written);
            last.unwrap_or(Stall {
                written,
                since_ms: now_ms,
            })
        });
        if let Some(stall) = self.stall
            && now_ms.saturating_sub(stall.since_ms) > STALLED_MS
        {
            peer.dead.store(true, Ordering::Release);
        }
        pause
    }

    /// The client has hung up: what it sent before is read to its end, whatever it would have
    /// had to wait for.
    pub fn hang_up(&mut self) {
        self.desk.hung_up = true;
        if let Some(running) = self.phase.running_mut() {
            running.shared.room.hang_up();
        }
        self.desk.peer.blocked.store(0, Ordering::Release);
    }

    /// Whether nothing should be read from it, as an alarm is on and it publishes.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.desk.peer.is_blocked() && !self.session.is_closing() && self.ending.is_none()
    }

    /// Whether a queue it publishes to holds more than its share of the memory for messages: then
    /// [`Self::look_for_room`] has to be called again and again.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        let running = self.phase.running();
        running.is_some_and(|running| running.shared.room.is_waiting()) && self.is_blocked()
    }

    /// Has the connection read on when there is room again, or when it has waited long enough.
    pub fn look_for_room(&mut self, now_ms: u64) {
        let Desk {
            broker, peer, work, ..
        } = &mut self.desk;
        if let Some(running) = self.phase.running_mut()
            && running.shared.room.look(broker, now_ms)
        {
            peer.unblock(Obstacle::Share, work);
            self.end_turn();
        }
    }
}
