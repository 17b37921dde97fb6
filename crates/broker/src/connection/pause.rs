//! When a connection is not read for a while: back-pressure on what its client sends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::connection::Connection;
use crate::connection::desk::Desk;
use crate::connection::phase::Running;
use crate::peer::alarms::Obstacle;
use crate::queue::cell::QueueCell;

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
    /// A queue it publishes to is long, and its consumers are to get it short first: look again
    /// after so many milliseconds.
    Flow(u64),
}

/// Replies that pile up and are not taken.
#[derive(Clone, Copy)]
pub(crate) struct Stall {
    /// Bytes that had been written in all.
    written: u64,
    since_ms: u64,
}

/// A queue that slows a publisher down.
pub(crate) struct Slowed {
    by: Arc<QueueCell>,
    /// Up to when that is counted, unix milliseconds.
    counted_ms: u64,
}

impl Connection {
    /// A queue has it wait after this turn. One that consumes too does not wait, as its
    /// acknowledgements would do so as well.
    pub(crate) fn slow_down(&mut self, by: Arc<QueueCell>) {
        if !self.phase.running().is_some_and(Running::consumes) {
            let counted_ms = self.desk.broker.now_ms();
            self.slowed = Some(Slowed { by, counted_ms });
        }
    }

    /// For how many milliseconds a queue has it wait on.
    fn waits_for_queue(&mut self, now_ms: u64) -> Option<u64> {
        let Slowed { by, counted_ms } = self.slowed.as_mut()?;
        let since_ms = std::mem::replace(counted_ms, now_ms);
        let waited_ms = now_ms.saturating_sub(since_ms);
        self.desk.peer.was_slowed(waited_ms, now_ms);
        let ms = by.goes_on(waited_ms, now_ms);
        if ms == 0 {
            self.slowed = None;
        }
        (ms > 0).then_some(ms)
    }

    /// Why nothing more should be read for now, if so; to be asked after a turn and then now and
    /// then, as the client's silence does not count in between. `persistent` is what the turn told.
    /// Gives up a client that takes nothing for ever.
    ///
    /// What follows `connection.close` is dropped as it is read.
    pub fn pause(&mut self, persistent: bool, now_ms: u64) -> Option<Pause> {
        if self.is_closing() || self.ending.is_some() {
            return None;
        }
        let (pause, written) = self.backlog(persistent);
        let pause = pause.or_else(|| self.waits_for_queue(now_ms).map(Pause::Flow));
        let peer = &self.desk.peer;
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

    /// Whether its replies or its records have to get fewer first, and how many bytes of the former
    /// have been written in all.
    fn backlog(&self, persistent: bool) -> (Option<Pause>, u64) {
        let Desk { broker, peer, .. } = &self.desk;
        let (replies, written) = {
            let outlet = peer.outlet.lock();
            (outlet.queued_replies(), outlet.written())
        };
        let max = broker.config.reply_bytes_max;
        if replies > max {
            return (Some(Pause::Replies), written);
        }
        let running = self.phase.running();
        let behind = running.is_some_and(Running::is_waiting)
            || replies + running.map_or(0, |running| running.shared.held_bytes) > max
            || (persistent && broker.is_store_behind());
        (behind.then_some(Pause::Disk), written)
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

    /// Whether a queue it publishes to holds more than its share of the memory for messages, or its
    /// virtual host has reached a limit: then [`Self::look_for_room`] has to be called again and
    /// again.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        let running = self.phase.running();
        running.is_some_and(|running| running.shared.room.is_waiting()) && self.is_blocked()
    }

    /// Has the connection read on when there is room again, or when it has waited long enough.
    pub fn look_for_room(&mut self, now_ms: u64) {
        let Desk {
            broker,
            peer,
            effects,
            ..
        } = &mut self.desk;
        if let Some(running) = self.phase.running_mut()
            && running.shared.room.look(broker, &running.vhost, now_ms)
        {
            peer.unblock(Obstacle::Room, effects);
            self.end_turn();
        }
    }
}
