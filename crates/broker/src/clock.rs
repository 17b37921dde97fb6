//! What happens by the clock: heartbeats, and memory that idle queues and connections give back.

mod due;
mod moves;
mod pages;
mod rewrites;
pub(crate) mod scrub;

use std::sync::Weak;
use std::sync::atomic::Ordering;

use leveret_codec::HEARTBEAT;

use crate::broker::Broker;
use crate::peer::Peer;
use crate::queue::effects::Effects;

/// Intervals without a byte after which a peer counts as gone.
const SILENT_INTERVALS: u64 = 2;
/// A connection that wrote nothing for so long gives its buffers back.
const IDLE_MS: u64 = 1000;
/// Every so many ticks the memory of queues is looked at.
const SWEEP_TICKS: usize = 4;
/// Places in the wheel of connections: nobody is looked at less often than once in so many ticks.
const WHEEL_TICKS: usize = 16;
/// A connection is looked at so many times in one heartbeat interval: clients hang up after one
/// and a half of silence.
const LOOKS_OF_INTERVAL: u64 = 8;
/// Ticks until a connection that writes, or has just written, is looked at again.
const BUSY_TICKS: usize = 4;

/// The broker's timer; one for all connections.
///
/// Its work is in proportion to the connections that something is due for: an idle one is looked
/// at about once in four seconds.
#[derive(Default)]
pub struct Ticker {
    effects: Effects,
    ticks: usize,
    /// Connections by the tick they are looked at next.
    wheel: [Vec<Weak<Peer>>; WHEEL_TICKS],
}

impl Ticker {
    /// How often [`Self::tick`] is to be called, milliseconds.
    pub const INTERVAL_MS: u64 = 250;

    /// Does what is due. `now_ms` is of a clock that never goes back nor leaps.
    pub fn tick(&mut self, broker: &Broker, now_ms: u64) {
        broker.set_now(now_ms);
        // Memory of lists that were long once is not kept.
        let mut due = std::mem::take(&mut *broker.unwatched.lock());
        if let Some(place) = self.wheel.get_mut(self.ticks % WHEEL_TICKS) {
            due.append(&mut std::mem::take(place));
        }
        for entry in due {
            let Some(peer) = entry.upgrade() else {
                continue;
            };
            let next = self.ticks + self.beat(broker, &peer, now_ms);
            if let Some(place) = self.wheel.get_mut(next % WHEEL_TICKS) {
                place.push(entry);
            }
        }
        if self.ticks.is_multiple_of(SWEEP_TICKS) {
            Self::sweep(broker);
        }
        self.ticks = self.ticks.wrapping_add(1);
        broker.submit(&mut self.effects);
        self.effects.wake();
    }

    fn sweep(broker: &Broker) {
        let warm = std::mem::take(&mut *broker.warm.lock());
        let still_warm = warm.into_iter().filter(|cell| {
            let mut state = cell.lock();
            state.warm = !cell.is_deleted() && !state.queue.shrink();
            if state.warm {
                state.queue.review_pages();
                if state.queue.is_paged() {
                    cell.page(&mut state);
                }
            }
            state.warm
        });
        let mut still_warm: Vec<_> = still_warm.collect();
        broker.warm.lock().append(&mut still_warm);
    }

    /// Does what is due for a connection; gives in how many ticks it is looked at again.
    fn beat(&mut self, broker: &Broker, peer: &Peer, now_ms: u64) -> usize {
        let interval_ms = u64::from(peer.heartbeat_s.load(Ordering::Relaxed)) * 1000;
        let mut outlet = peer.outlet.lock();
        let written = outlet.written();
        if peer.wrote.swap(written, Ordering::Relaxed) != written {
            peer.wrote_ms.store(now_ms, Ordering::Relaxed);
        }
        let quiet_ms = now_ms.saturating_sub(peer.wrote_ms.load(Ordering::Relaxed));
        let busy = quiet_ms < IDLE_MS;
        if !busy {
            outlet.shrink();
        }
        let next = ticks_until_next(interval_ms, busy);
        let unread = peer.is_blocked() || peer.paused.load(Ordering::Relaxed);
        if unread {
            // What it sends is not read, so its silence says nothing.
            peer.received_ms.store(now_ms, Ordering::Relaxed);
            peer.unfinished.is_unread(now_ms);
        } else if broker.is_due(peer, now_ms)
            && let Some(flusher) = outlet.flusher()
        {
            flusher.interrupt();
        }
        if interval_ms == 0 {
            return next;
        }
        if quiet_ms >= interval_ms / 2 {
            self.effects
                .reply(&mut outlet, |out| out.extend_from_slice(&HEARTBEAT));
            // Its own bytes are not traffic: the next one is due whether or not they are written.
            peer.wrote
                .store(written + HEARTBEAT.len() as u64, Ordering::Relaxed);
            peer.wrote_ms.store(now_ms, Ordering::Relaxed);
        }
        let silent_ms = now_ms.saturating_sub(peer.received_ms.load(Ordering::Relaxed));
        if silent_ms > SILENT_INTERVALS * interval_ms {
            peer.dead.store(true, Ordering::Release);
            if let Some(flusher) = outlet.flusher() {
                flusher.interrupt();
            }
        }
        next
    }
}

fn ticks_until_next(interval_ms: u64, busy: bool) -> usize {
    let most = if busy { BUSY_TICKS } else { WHEEL_TICKS - 1 };
    if interval_ms == 0 {
        return most;
    }
    let ticks = interval_ms / LOOKS_OF_INTERVAL / Ticker::INTERVAL_MS;
    usize::try_from(ticks).unwrap_or(most).clamp(1, most)
}
