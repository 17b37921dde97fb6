//! How a delivery went out, and since when it waits for its settlement, where that counts.

/// Set for what `basic.get` fetched.
const FETCHED: u32 = 1 << 31;
/// One step of the clock that deliveries are stamped by, milliseconds. The steps that fit count up
/// to half a year back; a timeout above that never comes.
pub(crate) const STEP_MS: u64 = 16;
const STEPS: u32 = FETCHED - 1;

/// Whether a delivery was fetched, and when it went out, if a timeout counts for it: so small that
/// it costs an unacknowledged delivery no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed(u32);

impl Handed {
    /// Pushed to a consumer.
    pub const PUSHED: Self = Self(0);
    /// Fetched with `basic.get`: no prefetch counts it.
    pub const FETCHED: Self = Self(FETCHED);

    /// Whether it was fetched.
    #[must_use]
    pub const fn is_fetched(self) -> bool {
        self.0 & FETCHED != 0
    }

    /// Whether its time is known.
    pub(crate) const fn is_stamped(self) -> bool {
        self.0 & STEPS != 0
    }

    /// It went out now, or its time counts from now on.
    #[expect(clippy::cast_possible_truncation, reason = "the clock goes round")]
    pub(crate) const fn stamp(&mut self, now_ms: u64) {
        // The next step: nothing may be taken back too early. 0 stands for no time.
        let steps = (now_ms / STEP_MS + 1) as u32 & STEPS;
        let steps = if steps == 0 { 1 } else { steps };
        self.0 = (self.0 & FETCHED) | steps;
    }

    /// When it went out, milliseconds; now, if that is not known.
    #[expect(clippy::cast_possible_truncation, reason = "the clock goes round")]
    pub(crate) fn since(self, now_ms: u64) -> u64 {
        if !self.is_stamped() {
            return now_ms;
        }
        let now = now_ms / STEP_MS;
        let age = (now as u32).wrapping_sub(self.0) & STEPS;
        let steps = if age > STEPS / 2 {
            // It is the step after this one.
            now + u64::from(STEPS - age) + 1
        } else {
            now.saturating_sub(u64::from(age))
        };
        steps * STEP_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_delivery_is_known_for_months_and_never_too_early() {
        const DAY_MS: u64 = 86_400_000;
        for sent_ms in [0, 1, 15, 16, 17, 1_764_500_000_123, (1 << 35) - 1, 1 << 35] {
            for mut handed in [Handed::PUSHED, Handed::FETCHED] {
                let fetched = handed.is_fetched();
                assert_eq!(handed.since(sent_ms), sent_ms, "no time");
                handed.stamp(sent_ms);
                for age_ms in [0, 1, 16, 1_000, DAY_MS, 190 * DAY_MS] {
                    let since = handed.since(sent_ms + age_ms);
                    let late = since.checked_sub(sent_ms).expect("too early");
                    assert!(late <= 2 * STEP_MS, "{sent_ms} {age_ms}: {late}");
                }
                assert_eq!(handed.is_fetched(), fetched);
            }
        }
    }
}
