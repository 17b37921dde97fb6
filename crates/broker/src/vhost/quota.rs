//! How much may be published into a virtual host: its limits `max-bytes`, `max-publish-rate` and
//! `max-publish-byte-rate`.
//!
//! Rates are buckets that fill by what is allowed, up to one second's worth. Who publishes takes
//! out of them, a batch at a time, so that they may fall below nothing by a batch; then its virtual
//! host's publishers wait until half a second's worth is there, and are not told of it more often
//! than twice a second.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use leveret_access::VhostLimits;
use leveret_session::Publishes;
use parking_lot::Mutex;

use crate::vhost::Vhost;

/// A bucket holds thousandths: what is allowed in a second comes in a millisecond.
const PARTS: u64 = 1000;
/// Those who wait go on when it holds what comes in so long, milliseconds.
const RESUME_MS: u64 = 500;
/// They go on when the queues hold one part in so many less than `max-bytes`.
const RESUME_PART: u64 = 16;
/// After how long to look again where nobody knows, milliseconds.
const WAIT_MS: u64 = 1000;
/// The longest time anybody is told to wait, milliseconds.
const WAIT_MS_MAX: u64 = 30_000;

/// A limit that publishers have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitReached {
    /// Its name.
    pub(crate) limit: &'static str,
    /// What is allowed.
    max: u64,
    /// After how many milliseconds they may publish again, about.
    pub(crate) wait_ms: u64,
}

impl LimitReached {
    /// For people, and for blocked clients.
    pub(crate) fn text(&self, vhost: &Vhost) -> String {
        let (name, Self { limit, max, .. }) = (&vhost.name, self);
        format!("vhost '{name}' has reached its limit {limit} ({max})")
    }
}

/// What an administrator allows a virtual host's publishers, and what they have made of it.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    /// There is a limit.
    is_set: AtomicBool,
    allowance: Mutex<Allowance>,
    reached: AtomicU64,
}

#[derive(Debug, Default)]
struct Allowance {
    bytes_max: Option<u64>,
    messages: Option<RateBucket>,
    bytes: Option<RateBucket>,
}

#[derive(Debug)]
struct RateBucket {
    per_s: u64,
    /// In [`PARTS`]; negative after a batch that was more than there was.
    level: i64,
    /// When it was filled, unix milliseconds.
    filled_ms: u64,
}

impl RateBucket {
    /// One that is full.
    fn new(per_s: u64) -> Self {
        Self {
            per_s,
            level: parts(per_s, PARTS),
            filled_ms: 0,
        }
    }

    /// A limit that has not changed goes on as it was.
    fn set(bucket: &mut Option<Self>, limit: Option<i64>) {
        let per_s = limit.and_then(|limit| u64::try_from(limit).ok());
        if bucket.as_ref().map(|bucket| bucket.per_s) != per_s {
            *bucket = per_s.map(Self::new);
        }
    }

    fn fill(&mut self, now_ms: u64) {
        // A clock that goes backwards fills nothing, and holds nothing up.
        let elapsed_ms = now_ms.saturating_sub(self.filled_ms);
        self.filled_ms = now_ms;
        let level = self.level.saturating_add(parts(self.per_s, elapsed_ms));
        self.level = level.min(parts(self.per_s, PARTS));
    }

    fn take(&mut self, count: u64) {
        self.level = self.level.saturating_sub(parts(count, PARTS));
    }

    /// After how many milliseconds those who wait go on, if they do not at once.
    fn wait_ms(&mut self, now_ms: u64, wait: Wait) -> Option<u64> {
        self.fill(now_ms);
        let enough = parts(self.per_s, RESUME_MS);
        let waits = match wait {
            Wait::Begins => self.level <= 0,
            Wait::GoesOn => self.level < enough || self.per_s == 0,
        };
        let lack = enough.saturating_sub(self.level).max(0).unsigned_abs();
        let wait_ms = lack.checked_div(self.per_s).unwrap_or(WAIT_MS_MAX);
        waits.then_some(wait_ms.clamp(1, WAIT_MS_MAX))
    }
}

fn parts(count: u64, each: u64) -> i64 {
    i64::try_from(count.saturating_mul(each)).unwrap_or(i64::MAX)
}

/// Whether a publisher has waited already: then it goes on a little later than it would begin to.
#[derive(Clone, Copy)]
pub(crate) enum Wait {
    Begins,
    GoesOn,
}

impl Allowance {
    fn reached(&mut self, wait: Wait, now_ms: u64, held_bytes: u64) -> Option<LimitReached> {
        if let Some(max) = self.bytes_max {
            let below = match wait {
                Wait::Begins => max,
                Wait::GoesOn => max - max / RESUME_PART,
            };
            if held_bytes >= below {
                let (limit, wait_ms) = ("max-bytes", WAIT_MS);
                return Some(LimitReached {
                    limit,
                    max,
                    wait_ms,
                });
            }
        }
        let buckets = [
            ("max-publish-rate", &mut self.messages),
            ("max-publish-byte-rate", &mut self.bytes),
        ];
        buckets.into_iter().find_map(|(limit, bucket)| {
            let bucket = bucket.as_mut()?;
            let wait_ms = bucket.wait_ms(now_ms, wait)?;
            let max = bucket.per_s;
            Some(LimitReached {
                limit,
                max,
                wait_ms,
            })
        })
    }
}

impl Quota {
    /// Whether publishes have to be looked at.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// Takes limits over.
    pub(crate) fn set(&self, limits: &VhostLimits) {
        let mut allowance = self.allowance.lock();
        let bytes_max = limits.max_bytes.and_then(|max| u64::try_from(max).ok());
        allowance.bytes_max = bytes_max;
        RateBucket::set(&mut allowance.messages, limits.max_publish_rate);
        RateBucket::set(&mut allowance.bytes, limits.max_publish_byte_rate);
        let is_set =
            bytes_max.is_some() || allowance.messages.is_some() || allowance.bytes.is_some();
        self.is_set.store(is_set, Ordering::Relaxed);
    }

    /// These messages are published.
    pub(crate) fn charge_for(&self, batch: &Publishes<'_>) {
        let bytes: usize = batch.body_lens().sum();
        self.charge(batch.len() as u64, bytes as u64);
    }

    /// Messages with bodies of so many bytes together are.
    pub(crate) fn charge(&self, messages: u64, bytes: u64) {
        let mut allowance = self.allowance.lock();
        if let Some(bucket) = &mut allowance.messages {
            bucket.take(messages);
        }
        if let Some(bucket) = &mut allowance.bytes {
            bucket.take(bytes);
        }
    }

    /// How often publishers were told to wait.
    pub(crate) fn times_reached(&self) -> u64 {
        self.reached.load(Ordering::Relaxed)
    }
}

impl Vhost {
    /// The limit that forbids to publish now, if one does.
    pub(crate) fn reached(&self, wait: Wait, now_ms: u64) -> Option<LimitReached> {
        let held_bytes = self.holdings.get().bytes;
        let mut allowance = self.quota.allowance.lock();
        let reached = allowance.reached(wait, now_ms, held_bytes)?;
        if matches!(wait, Wait::Begins) {
            self.quota.reached.fetch_add(1, Ordering::Relaxed);
        }
        Some(reached)
    }

    /// How often its publishers were told to wait for one of its limits.
    #[must_use]
    pub fn times_limited(&self) -> u64 {
        self.quota.times_reached()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(limits: VhostLimits) -> Quota {
        let quota = Quota::default();
        quota.set(&limits);
        quota
    }

    fn limit(quota: &Quota, wait: Wait, now_ms: u64, held: u64) -> Option<(&'static str, u64)> {
        let reached = quota.allowance.lock().reached(wait, now_ms, held)?;
        Some((reached.limit, reached.wait_ms))
    }

    #[test]
    fn a_rate_lets_a_second_through_at_once_and_then_what_comes() {
        let quota = quota(VhostLimits {
            max_publish_rate: Some(100),
            ..VhostLimits::default()
        });
        let at = 1_000_000;
        assert_eq!(limit(&quota, Wait::Begins, at, u64::MAX), None);
        quota.charge(150, 0);
        let rate = "max-publish-rate";
        // Fifty are owed, and fifty more have to come.
        assert_eq!(limit(&quota, Wait::Begins, at, 0), Some((rate, 1000)));
        assert_eq!(limit(&quota, Wait::GoesOn, at + 999, 0), Some((rate, 1)));
        assert_eq!(limit(&quota, Wait::GoesOn, at + 1000, 0), None);
        // Nobody saves more than a second.
        assert_eq!(limit(&quota, Wait::Begins, at + 60_000, 0), None);
        quota.charge(100, 0);
        assert_eq!(
            limit(&quota, Wait::Begins, at + 60_000, 0),
            Some((rate, 500))
        );
        // The clock goes back by a minute: that is no minute to wait.
        assert_eq!(limit(&quota, Wait::GoesOn, at, 0), Some((rate, 500)));
        assert_eq!(limit(&quota, Wait::GoesOn, at + 500, 0), None);
    }

    #[test]
    fn bytes_are_limited_as_messages_are_and_what_is_held_too() {
        let quota = quota(VhostLimits {
            max_publish_byte_rate: Some(1000),
            max_bytes: Some(1600),
            ..VhostLimits::default()
        });
        assert_eq!(limit(&quota, Wait::Begins, 1, 1599), None);
        assert_eq!(
            limit(&quota, Wait::Begins, 1, 1600),
            Some(("max-bytes", WAIT_MS))
        );
        assert_eq!(
            limit(&quota, Wait::GoesOn, 1, 1500),
            Some(("max-bytes", WAIT_MS))
        );
        assert_eq!(limit(&quota, Wait::GoesOn, 1, 1499), None);
        quota.charge(1, 5000);
        let reached = limit(&quota, Wait::Begins, 1, 0);
        assert_eq!(reached, Some(("max-publish-byte-rate", 4500)));
    }

    #[test]
    fn nothing_is_allowed_by_0_and_everything_without_a_limit() {
        let none = quota(VhostLimits {
            max_publish_rate: Some(-1),
            ..VhostLimits::default()
        });
        assert!(!none.is_set());
        let zero = quota(VhostLimits {
            max_publish_rate: Some(0),
            ..VhostLimits::default()
        });
        let never = Some(("max-publish-rate", WAIT_MS_MAX));
        assert_eq!(limit(&zero, Wait::Begins, 1_000_000, 0), never);
        assert_eq!(limit(&zero, Wait::GoesOn, u64::MAX, 0), never);
        zero.set(&VhostLimits::default());
        assert!(!zero.is_set());
    }
}
