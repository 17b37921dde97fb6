//! When a connection is not read for a while: back-pressure on what its client sends.

use std::sync::atomic::Ordering;

use crate::connection::{Connection, Core};

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
    ///
    /// What follows `connection.close` is dropped as it is read.
    pub fn pause(&mut self, persistent: bool, now_ms: u64) -> Option<Pause> {
        if self.is_closing() || self.ending.is_some() {
            return None;
        }
        self.core.pause(persistent, now_ms)
    }

    /// The client has hung up: what it sent before is read to its end, whatever it would have
    /// had to wait for.
    pub fn hang_up(&mut self) {
        self.core.begun.hung_up = true;
        self.core.begun.waits_for = None;
        self.core.peer.blocked.store(0, Ordering::Release);
    }

    /// Whether nothing should be read from it, as an alarm is on and it publishes.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.core.peer.is_blocked() && !self.session.is_closing() && self.ending.is_none()
    }
}

impl Core {
    /// Whether nothing more should be read for now; gives up a client that takes nothing for ever.
    pub(crate) fn pause(&mut self, persistent: bool, now_ms: u64) -> Option<Pause> {
        let (replies, written) = {
            let outlet = self.peer.outlet.lock();
            (outlet.queued_replies(), outlet.written())
        };
        let max = self.broker.config.reply_bytes_max;
        let pause = if replies > max {
            Some(Pause::Replies)
        } else {
            let behind = self.is_waiting()
                || replies + self.held_bytes > max
                || (persistent && self.broker.is_store_behind());
            behind.then_some(Pause::Disk)
        };
        self.peer.paused.store(pause.is_some(), Ordering::Relaxed);
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
            self.peer.dead.store(true, Ordering::Release);
        }
        pause
    }
}
