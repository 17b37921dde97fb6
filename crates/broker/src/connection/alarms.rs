//! Memory and disk alarms: while one is on, a connection that publishes is not read any more.
//!
//! As in RabbitMQ it is asked when there is something to publish, before that is routed: until then
//! a connection is served whatever it has published before.

use std::sync::atomic::Ordering;

use leveret_session::{Assembled, Fault};

use crate::broker::Broker;
use crate::connection::Step;
use crate::connection::desk::Desk;
use crate::connection::phase::Running;
use crate::peer::alarms::{Alarm, AlarmState, Measured, Obstacle, PARTS_PER_MILLION, margin};
use crate::queue::effects::Effects;

impl Broker {
    /// Both alarms.
    #[must_use]
    pub fn alarms(&self) -> [AlarmState; 2] {
        let raised = self.alarms.raised.load(Ordering::Acquire);
        Alarm::ALL.map(|alarm| AlarmState {
            alarm,
            active: self.alarms.is_active(alarm),
            forced: raised & alarm.forced() != 0,
        })
    }

    /// Keeps an alarm on whatever is measured, or leaves it to what is measured again.
    pub fn force_alarm(&self, alarm: Alarm, forced: bool) {
        self.change_alarm(alarm.forced(), forced);
    }

    /// Takes note of what the process measured of itself.
    pub fn measure(&self, measured: Measured) {
        if let Some(occupied) = measured.memory_bytes {
            let used = self
                .alarms
                .memory
                .lock()
                .measure(occupied, self.memory.resident_bytes());
            self.alarms.memory_used.store(used, Ordering::Relaxed);
            self.judge_memory();
        }
        let free = measured.disk_free_bytes;
        let shown = free.unwrap_or(u64::MAX);
        self.alarms.disk_free.store(shown, Ordering::Relaxed);
        let min = self.config.disk_free_min;
        let raised = self.alarms.raised.load(Ordering::Acquire) & Alarm::Disk.measured() != 0;
        let low = free
            .is_some_and(|free| free < min || (raised && free < min.saturating_add(margin(min))));
        // Also when the store finds no space above the floor: without confirms, publishers would
        // not learn that their persistent messages are refused.
        let on = low || self.is_disk_full();
        self.change_alarm(Alarm::Disk.measured(), on);
    }

    fn judge_memory(&self) {
        let (used, mark) = (self.memory_used(), self.memory_alarm_bytes());
        let raised = self.alarms.raised.load(Ordering::Acquire) & Alarm::Memory.measured() != 0;
        let on = used > mark || (raised && used > mark - margin(mark));
        self.change_alarm(Alarm::Memory.measured(), on);
    }

    /// Memory in use when it was measured last, bytes.
    #[must_use]
    pub fn memory_used(&self) -> u64 {
        self.alarms.memory_used.load(Ordering::Relaxed)
    }

    /// Memory in use above which the alarm is on, bytes.
    #[must_use]
    pub fn memory_alarm_bytes(&self) -> u64 {
        let ppm = u128::from(self.alarms.watermark_ppm.load(Ordering::Relaxed));
        let bytes = u128::from(self.config.memory_limit_bytes) * ppm / 1_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Part of the memory limit that may be in use before the alarm is on.
    #[must_use]
    pub fn memory_high_watermark(&self) -> f64 {
        self.alarms.watermark_ppm.load(Ordering::Relaxed) as f64 / PARTS_PER_MILLION
    }

    /// Changes that part, at once for what was measured last: whoever raises it has clients that
    /// wait.
    pub fn set_memory_high_watermark(&self, watermark: f64) {
        self.alarms.set_watermark(watermark);
        self.judge_memory();
    }

    /// Free space where messages are stored when it was measured last, bytes; none while they are
    /// not stored.
    #[must_use]
    pub fn disk_free(&self) -> Option<u64> {
        let free = self.alarms.disk_free.load(Ordering::Relaxed);
        (free != u64::MAX).then_some(free)
    }

    fn change_alarm(&self, bit: u8, on: bool) {
        let alarms = &self.alarms;
        let _changing = alarms.changing.lock();
        let before = alarms.raised.load(Ordering::Acquire);
        let after = if on { before | bit } else { before & !bit };
        if before == after {
            return;
        }
        alarms.raised.store(after, Ordering::Release);
        // When one begins nobody has to be told yet.
        if after == 0 {
            let mut effects = Effects::default();
            for peer in self.peers() {
                peer.unblock(Obstacle::Alarm, &mut effects);
            }
            effects.wake();
        }
    }
}

impl Running {
    /// Whether an alarm forbids to publish: then the connection is blocked, and what it has to
    /// publish stays unread.
    #[inline]
    pub(super) fn is_alarmed(&self, desk: &mut Desk) -> bool {
        desk.broker.alarms.is_on() && !self.shared.room.hung_up && desk.block_by_alarm()
    }

    /// Takes a message that was put together from several reads, unless it has to wait.
    pub(super) fn assembled(
        &mut self,
        channel: u16,
        message: Assembled,
        desk: &mut Desk,
    ) -> Result<Step, Fault> {
        if self.is_alarmed(desk) {
            self.parked = Some((channel, message));
            return Ok(Step::Waits);
        }
        self.publish_assembled(channel, message, desk)?;
        Ok(Step::More)
    }
}

impl Desk {
    #[cold]
    fn block_by_alarm(&mut self) -> bool {
        let mut outlet = self.peer.outlet.lock();
        // Read under the lock: whoever ends the alarm takes it afterwards.
        let reason = self.broker.alarms.reason();
        if let Some(reason) = reason {
            self.peer
                .block(Obstacle::Alarm, reason, &mut outlet, &mut self.effects);
        }
        reason.is_some()
    }
}
