//! Messages that may not wait any longer.

use super::{Queue, Sink};
use crate::limits::Death;
use crate::message::Message;

/// Messages that expire in one run: the queue is locked meanwhile.
const EXPIRE_MAX: usize = 256;
/// How often messages are looked for that expire behind others, milliseconds,
const SWEEP_MS: u64 = 500;
/// but where there are so few they are looked for whenever one is due.
const SWEEP_ALWAYS: u64 = 256;

impl<C> Queue<C> {
    /// Takes into account that a message may die of age.
    pub(super) fn note_deadline(&mut self, message: &Message<'_>) {
        let own_ms = message.expiration_ms.unwrap_or(u64::MAX);
        let waits_ms = own_ms.min(self.settings.ttl_ms);
        self.mortal = true;
        self.instant |= waits_ms == 0;
        let deadline_ms = message.entered_ms.saturating_add(waits_ms);
        self.stale |= deadline_ms < self.due_ms;
    }

    /// Settings have changed: messages may die of age that could not, or otherwise.
    pub(crate) fn is_mortal_now(&mut self) {
        self.mortal |= self.settings.ttl_ms != u64::MAX;
        self.instant |= self.settings.ttl_ms == 0;
        self.lanes.offered();
        self.stale = true;
    }

    #[inline(never)]
    pub(super) fn run_mortal(&mut self, now_ms: u64, sink: &mut impl Sink<C>) {
        self.expire(now_ms, false, sink);
        self.pump(now_ms, sink);
        // Nobody was served where the next run goes on.
        if !self.behind {
            self.stale |= std::mem::take(&mut self.instant);
            self.expire(now_ms, true, sink);
            self.lanes.offered();
        }
        self.trim(now_ms, sink);
        self.set_wake(now_ms);
    }

    /// Somebody has come at this time to run the queue.
    pub const fn woken(&mut self, now_ms: u64) {
        if now_ms >= self.wake_ms {
            self.wake_ms = u64::MAX;
            self.stale = true;
        }
    }

    /// When somebody has to come, call [`Queue::woken`] and run the queue, unix milliseconds;
    /// `u64::MAX`: nothing is due. Only [`Queue::run`] changes it.
    #[must_use]
    #[inline]
    pub const fn wakes_at(&self) -> u64 {
        self.wake_ms
    }

    /// Whether more has to expire than one run bears: the next one goes on.
    #[must_use]
    pub const fn is_behind(&self) -> bool {
        self.behind
    }

    /// Lets die what is past its deadline. Before consumers are served that is not what may not
    /// wait at all and has come since they were served last; afterwards it is what stands behind
    /// others, too.
    fn expire(&mut self, now_ms: u64, was_served: bool, sink: &mut impl Sink<C>) {
        if !self.stale && now_ms < self.due_ms {
            return;
        }
        let mut left = self.expirable();
        for level in self.lanes.used() {
            left = self.expire_heads(level, (now_ms, was_served), left, sink);
            if was_served {
                left -= self.sweep(level, now_ms, left, sink);
            }
        }
        self.behind = left == 0 && self.is_head_due((now_ms, was_served));
        self.stale |= left == 0;
    }

    /// How many more may expire now: those that died and are about to leave are bounded.
    pub(super) fn expirable(&self) -> usize {
        EXPIRE_MAX.saturating_sub(self.leaving())
    }

    /// Whether a message that would be served next is past its deadline.
    fn is_head_due(&mut self, at: (u64, bool)) -> bool {
        let mut levels = self.lanes.used();
        levels.any(|level| self.is_due(level, at))
    }

    /// Whether the head of a level is.
    fn is_due(&mut self, level: u8, (now_ms, was_served): (u64, bool)) -> bool {
        let ttl_ms = self.settings.ttl_ms;
        let lane = self.lanes.at_mut(level);
        let Some(found) = lane.head().and_then(|head| lane.chunks.record(head)) else {
            return false;
        };
        let deadline_ms = found.deadline_ms(ttl_ms);
        let is_fresh = found.record.seq >= lane.fresh_from;
        let waits_not = deadline_ms == found.entered_ms && is_fresh;
        deadline_ms <= now_ms && (was_served || !waits_not)
    }

    /// Gives how many more of `most` may expire.
    pub(super) fn expire_heads(
        &mut self,
        level: u8,
        (now_ms, was_served): (u64, bool),
        most: usize,
        sink: &mut impl Sink<C>,
    ) -> usize {
        for left in (0..most).rev() {
            let expired = if self.is_due(level, (now_ms, was_served)) {
                self.take_head(level)
            } else {
                None
            };
            let Some(expired) = expired else {
                return left + 1;
            };
            self.die(&expired, Death::Expired, sink);
        }
        0
    }

    /// Lets die what is past its own expiration, wherever it stands; gives how many did.
    fn sweep(&mut self, level: u8, now_ms: u64, most: usize, sink: &mut impl Sink<C>) -> usize {
        let lane = self.lanes.at_mut(level);
        let rests = lane.ready > SWEEP_ALWAYS && now_ms < lane.swept_ms.saturating_add(SWEEP_MS);
        if lane.own_ms > now_ms || most == 0 || rests {
            return 0;
        }
        let expired = lane.sweep(now_ms, most);
        lane.swept_ms = now_ms;
        for mut one in expired.iter().copied() {
            one.level = level;
            self.uncount_ready(level, 1, u64::from(one.body_len));
            self.die(&one, Death::Expired, sink);
        }
        expired.len()
    }

    fn set_wake(&mut self, now_ms: u64) {
        if self.behind {
            self.stale = true;
            // Whoever moves the dead on runs the queue when there is room for more of them.
            self.wake_ms = if self.expirable() == 0 {
                u64::MAX
            } else {
                now_ms
            };
        } else if self.stale || self.wake_ms == u64::MAX {
            self.stale = false;
            // A later time than the present one is found when that has come.
            self.wake_ms = self.wake_ms.min(self.earliest_ms(now_ms));
        }
    }

    /// When the next message has to be looked for that dies of age; what is behind others is not
    /// looked for all the time.
    fn earliest_ms(&mut self, now_ms: u64) -> u64 {
        let (mut wake_ms, mut due_ms) = (u64::MAX, u64::MAX);
        for level in self.lanes.used() {
            let lane = self.lanes.at_mut(level);
            if let Some(found) = lane.head().and_then(|head| lane.chunks.record(head)) {
                let head_ms = found.deadline_ms(self.settings.ttl_ms);
                (wake_ms, due_ms) = (wake_ms.min(head_ms), due_ms.min(head_ms));
            } else if let Some((head_ms, _)) = self.away_head_ms(level)
                && head_ms > now_ms
            {
                // Later it is read back, and looked at then.
                (wake_ms, due_ms) = (wake_ms.min(head_ms), due_ms.min(head_ms));
            }
            let lane = self.lanes.at_mut(level);
            if lane.ready > 1 && lane.own_ms != u64::MAX {
                let rest_ms = if lane.ready > SWEEP_ALWAYS {
                    lane.swept_ms.saturating_add(SWEEP_MS)
                } else {
                    0
                };
                wake_ms = wake_ms.min(lane.own_ms.max(rest_ms));
                due_ms = due_ms.min(lane.own_ms);
            }
        }
        self.due_ms = due_ms;
        wake_ms
    }
}
