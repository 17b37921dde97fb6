//! Memory and disk alarms: which are on, and which connections are not read for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use leveret_codec::{ConnectionBlocked, ConnectionUnblocked, Method};
use leveret_session::Outlet;
use parking_lot::Mutex;

use crate::peer::Peer;
use crate::queue::consumer::Handle;
use crate::queue::effects::Effects;

/// Once on, a memory alarm stays until use is this much (parts of 100) below its mark, and a disk
/// alarm until that much more is free, so that neither flickers.
const HYSTERESIS_PERCENT: u64 = 5;
pub(crate) const PARTS_PER_MILLION: f64 = 1e6;

/// What may run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Memory of the process.
    Memory,
    /// Free space where messages are stored.
    Disk,
}

impl Alarm {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Memory, Self::Disk];

    /// Its name: `memory` or `disk`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }

    pub(crate) const fn measured(self) -> u8 {
        match self {
            Self::Memory => 1,
            Self::Disk => 2,
        }
    }

    pub(crate) const fn forced(self) -> u8 {
        self.measured() << 2
    }
}

/// One alarm at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmState {
    /// Which one.
    pub alarm: Alarm,
    /// It is on.
    pub active: bool,
    /// An administrator keeps it on, whatever is measured.
    pub forced: bool,
}

/// What the process measured of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// Memory it occupies (RSS), bytes.
    pub memory_bytes: Option<u64>,
    /// Free space where messages are stored, bytes; none while they are not stored.
    pub disk_free_bytes: Option<u64>,
}

/// The alarms of a broker.
#[derive(Default)]
pub(crate) struct Alarms {
    /// Two bits of what was measured, two of what is forced.
    pub(crate) raised: AtomicU8,
    /// Held while `raised` changes and connections are told that it is over.
    pub(crate) changing: Mutex<()>,
    pub(crate) memory: Mutex<MemoryUse>,
    pub(crate) memory_used: AtomicU64,
    pub(crate) disk_free: AtomicU64,
    pub(crate) watermark_ppm: AtomicU64,
}

impl Alarms {
    pub(crate) fn new(watermark: f64) -> Self {
        let alarms = Self::default();
        alarms.set_watermark(watermark);
        alarms
    }

    pub(crate) fn set_watermark(&self, watermark: f64) {
        let ppm = (watermark.clamp(0.0, 1.0) * PARTS_PER_MILLION) as u64;
        self.watermark_ppm.store(ppm, Ordering::Relaxed);
    }

    pub(crate) fn is_on(&self) -> bool {
        self.raised.load(Ordering::Acquire) != 0
    }

    pub(crate) fn is_active(&self, alarm: Alarm) -> bool {
        self.raised.load(Ordering::Acquire) & (alarm.measured() | alarm.forced()) != 0
    }

    /// What blocked clients are told, in RabbitMQ's words; nothing when no alarm is on.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        match (self.is_active(Alarm::Memory), self.is_active(Alarm::Disk)) {
            (true, true) => Some("low on memory & disk"),
            (true, false) => Some("low on memory"),
            (false, true) => Some("low on disk"),
            (false, false) => None,
        }
    }
}

/// How much of the memory that the process occupies is in use.
///
/// An allocator keeps memory that was given back to it, so that what the process occupies hardly
/// falls when queues empty. What queues gave back and the process still occupies is free for them
/// to take again, and does not count.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MemoryUse {
    occupied: u64,
    by_messages: u64,
    retained: u64,
}

impl MemoryUse {
    pub(crate) fn measure(&mut self, occupied: u64, by_messages: u64) -> u64 {
        let given_back = self.by_messages.saturating_sub(by_messages);
        let shrunk = self.occupied.saturating_sub(occupied);
        let taken = by_messages.saturating_sub(self.by_messages);
        let grown = occupied.saturating_sub(self.occupied);
        self.retained = (self.retained + given_back)
            .saturating_sub(shrunk)
            .saturating_sub(taken.saturating_sub(grown))
            .min(occupied.saturating_sub(by_messages));
        (self.occupied, self.by_messages) = (occupied, by_messages);
        // Memory that was asked for and not yet touched is not occupied, but soon will be.
        (occupied - self.retained).max(by_messages)
    }
}

/// An alarm stays on until so much more is there than when it began.
pub(crate) const fn margin(bytes: u64) -> u64 {
    bytes / 100 * HYSTERESIS_PERCENT
}

/// Why a connection that publishes is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// An alarm is on.
    Alarm,
    /// A queue it publishes to holds more than its share of the memory for messages, or its virtual
    /// host has reached a limit.
    Room,
}

impl Obstacle {
    const fn bit(self) -> u8 {
        match self {
            Self::Alarm => 1,
            Self::Room => 2,
        }
    }
}

impl Peer {
    /// Whether it is not read, as an alarm is on and it publishes, or publishes where there is
    /// no room.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire) != 0
    }

    /// Marks it as not read, and tells it if it was read until now.
    pub(crate) fn block(
        &self,
        by: Obstacle,
        reason: &str,
        outlet: &mut Outlet<Arc<Handle>>,
        effects: &mut Effects,
    ) {
        let before = self.blocked.fetch_or(by.bit(), Ordering::AcqRel);
        if before == 0 && self.client.blocked_notify.load(Ordering::Relaxed) {
            let blocked = ConnectionBlocked {
                reason: reason.as_bytes(),
            };
            effects.reply(outlet, |out| Method::from(blocked).encode(0, out));
        }
    }

    /// Takes an obstacle away; tells it, and has it read on, if it was the last one.
    pub(crate) fn unblock(&self, from: Obstacle, effects: &mut Effects) {
        let mut outlet = self.outlet.lock();
        let before = self.blocked.fetch_and(!from.bit(), Ordering::AcqRel);
        if before != from.bit() {
            return;
        }
        if self.client.blocked_notify.load(Ordering::Relaxed) {
            let unblocked = ConnectionUnblocked {};
            effects.reply(&mut outlet, |out| Method::from(unblocked).encode(0, out));
        }
        if let Some(flusher) = outlet.flusher() {
            flusher.interrupt();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_that_queues_gave_back_and_the_allocator_keeps_is_not_in_use() {
        let mut memory = MemoryUse::default();
        let mut used =
            |occupied, by_messages| memory.measure(occupied * MIB, by_messages * MIB) / MIB;
        assert_eq!(used(100, 0), 100);
        assert_eq!(used(600, 500), 600);
        assert_eq!(
            used(600, 0),
            100,
            "all is given back, nothing returned to the system"
        );
        assert_eq!(used(600, 300), 400, "taken again out of what was kept");
        assert_eq!(used(700, 300), 500, "something other than messages grows");
        assert_eq!(used(200, 0), 200, "returned to the system");
        assert_eq!(used(200, 300), 300, "asked for and not touched yet");
    }
}
