//! What happens by the clock: heartbeats, and memory that idle queues and connections give back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_codec::HEARTBEAT;

use crate::broker::{Broker, Peer};
use crate::pump::Work;

/// Intervals without a byte after which a peer counts as gone.
const SILENT_INTERVALS: u64 = 2;
/// A connection that wrote nothing for so long gives its buffers back.
const IDLE_MS: u64 = 1000;
/// Every so many ticks all connections are looked at; in between only the brisk ones.
const SWEEP_TICKS: u32 = 4;
/// Connections with heartbeats up to this long are brisk: once a second is too coarse for them,
/// as clients hang up after one and a half intervals of silence.
const BRISK_S: u16 = 4;

/// The broker's timer; one for all connections.
#[derive(Default)]
pub struct Ticker {
    work: Work,
    ticks: u32,
}

impl Ticker {
    /// How often [`Self::tick`] is to be called, milliseconds.
    pub const INTERVAL_MS: u64 = 250;

    /// Does what is due. `now_ms` is unix time and never goes back.
    pub fn tick(&mut self, broker: &Broker, now_ms: u64) {
        if self.ticks.is_multiple_of(SWEEP_TICKS) {
            self.sweep(broker, now_ms);
        } else {
            broker.brisk.lock().retain(|peer| {
                let peer = peer.upgrade();
                peer.map(|peer| self.beat(&peer, now_ms)).is_some()
            });
        }
        self.ticks = self.ticks.wrapping_add(1);
        broker.submit(&mut self.work);
        self.work.wake();
    }

    fn sweep(&mut self, broker: &Broker, now_ms: u64) {
        for peer in broker.peers() {
            self.beat(&peer, now_ms);
        }
        let warm = std::mem::take(&mut *broker.warm.lock());
        let still_warm = warm.into_iter().filter(|cell| {
            let mut state = cell.lock();
            state.warm = !cell.is_deleted() && !state.queue.shrink();
            state.warm
        });
        let mut still_warm: Vec<_> = still_warm.collect();
        broker.warm.lock().append(&mut still_warm);
    }

    fn beat(&mut self, peer: &Arc<Peer>, now_ms: u64) {
        let interval_ms = u64::from(peer.heartbeat_s.load(Ordering::Relaxed)) * 1000;
        let mut outlet = peer.outlet.lock();
        let written = outlet.written();
        if peer.wrote.swap(written, Ordering::Relaxed) != written {
            peer.wrote_ms.store(now_ms, Ordering::Relaxed);
        }
        let quiet_ms = now_ms.saturating_sub(peer.wrote_ms.load(Ordering::Relaxed));
        if quiet_ms >= IDLE_MS {
            outlet.shrink();
        }
        if interval_ms == 0 {
            return;
        }
        if quiet_ms >= interval_ms / 2 {
            self.work
                .reply(&mut outlet, |out| out.extend_from_slice(&HEARTBEAT));
            // Its own bytes are not traffic: the next one is due whether or not they are written.
            peer.wrote
                .store(written + HEARTBEAT.len() as u64, Ordering::Relaxed);
            peer.wrote_ms.store(now_ms, Ordering::Relaxed);
        }
        if peer.is_blocked() {
            // What it sends is not read, so its silence says nothing.
            peer.received_ms.store(now_ms, Ordering::Relaxed);
        }
        let silent_ms = now_ms.saturating_sub(peer.received_ms.load(Ordering::Relaxed));
        if silent_ms > SILENT_INTERVALS * interval_ms {
            peer.dead.store(true, Ordering::Release);
            if let Some(flusher) = outlet.flusher() {
                flusher.interrupt();
            }
        }
    }
}

impl Broker {
    /// Sets a connection's heartbeat interval, seconds.
    pub(crate) fn set_heartbeat(&self, peer: &Arc<Peer>, heartbeat_s: u16) {
        peer.heartbeat_s.store(heartbeat_s, Ordering::Relaxed);
        if (1..=BRISK_S).contains(&heartbeat_s) {
            self.brisk.lock().push(Arc::downgrade(peer));
        }
    }
}
