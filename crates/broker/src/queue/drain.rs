//! How fast a queue gets shorter, as far as those need to know whom it refuses.

use leveret_queue::{Filled, Queue, Reason};

use crate::queue::cell::{QueueCell, QueueState};
use crate::queue::effects::RefusedBy;

/// What a refused publisher is told to wait at least and at most, milliseconds.
const WAIT_MS_MIN: u64 = 250;
const WAIT_MS_MAX: u64 = 30_000;
/// The same where nothing is known yet.
const WAIT_MS: u64 = 1000;
/// When this part of the queue has left, there is room for a while.
const PART: u64 = 4;
/// A rate is one of so many milliseconds at least.
const MEASURED_MS: u64 = 1000;
/// What was seen so long ago says nothing any more, milliseconds.
const STALE_MS: u64 = 60_000;

/// What was seen of a queue whenever it refused a message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Drain {
    /// When it is measured from, unix milliseconds; 0: nothing was seen.
    since_ms: u64,
    /// Messages that had left the ready ones by then.
    gone: u64,
    /// How long one took before, microseconds; 0: not known.
    one_us: u64,
}

impl Drain {
    /// The queue refuses a message now.
    fn see(&mut self, now_ms: u64, gone: u64) {
        let (elapsed_ms, one_us) = self.since(now_ms, gone);
        if self.since_ms == 0 || elapsed_ms >= STALE_MS {
            *self = Self {
                since_ms: now_ms,
                gone,
                one_us: 0,
            };
        } else if let Some(one_us) = one_us.filter(|_| elapsed_ms >= MEASURED_MS) {
            *self = Self {
                since_ms: now_ms,
                gone,
                one_us,
            };
        }
    }

    /// How long that is now, milliseconds, and how long one message took, microseconds.
    fn since(&self, now_ms: u64, gone: u64) -> (u64, Option<u64>) {
        let elapsed_ms = now_ms.saturating_sub(self.since_ms);
        let one_us = (elapsed_ms * 1000).checked_div(gone.wrapping_sub(self.gone));
        (elapsed_ms, one_us)
    }

    /// After how many milliseconds a publisher that was refused may find room for a while, where
    /// so many messages are ready.
    fn wait_ms(&self, now_ms: u64, gone: u64, ready: u64) -> u64 {
        let (elapsed_ms, one_us) = self.since(now_ms, gone);
        let one_us = match one_us.filter(|_| elapsed_ms >= WAIT_MS_MIN) {
            Some(one_us) => one_us,
            // Nothing has left for so long that the next look may wait as long.
            None if self.one_us == 0 => return elapsed_ms.clamp(WAIT_MS, WAIT_MS_MAX),
            None => self.one_us,
        };
        let part = (ready / PART).max(1);
        (part.saturating_mul(one_us) / 1000).clamp(WAIT_MS_MIN, WAIT_MS_MAX)
    }
}

/// Messages that have left the ready ones, from some number on.
fn gone<C>(queue: &Queue<C>) -> u64 {
    let counters = queue.counters();
    let came = counters.published.wrapping_add(counters.requeued);
    came.wrapping_sub(queue.ready())
}

impl QueueState {
    /// Takes note of what is refused now.
    pub(crate) fn see_drain(&mut self, now_ms: u64) {
        let gone = gone(&self.queue);
        self.drain.see(now_ms, gone);
    }

    /// After how many milliseconds a publisher that was refused for this reason tries again best.
    pub(crate) fn wait_ms(&self, reason: Reason, now_ms: u64) -> u64 {
        match reason {
            Reason::Length | Reason::Memory => {
                let gone = gone(&self.queue);
                self.drain.wait_ms(now_ms, gone, self.queue.ready())
            }
            // Who makes space on the disk is not known.
            Reason::Disk => WAIT_MS,
        }
    }
}

impl NackReason {
    /// Where nothing more is known.
    pub(crate) fn unknown() -> Self {
        Self {
            text: "a queue, or the broker, is full".to_owned(),
            retry_after_ms: WAIT_MS,
        }
    }
}

impl QueueCell {
    /// Why the queue refuses a message, for its publisher.
    pub(crate) fn tells(&self, state: &QueueState, reason: Reason) -> String {
        let why = match reason {
            Reason::Length => {
                let Filled {
                    used,
                    limit,
                    in_bytes,
                } = state.queue.filled();
                let unit = if in_bytes { "bytes" } else { "messages" };
                format!("is full ({used} of {limit} {unit})")
            }
            Reason::Memory => "holds its share of the memory for messages".to_owned(),
            Reason::Disk => "takes no persistent messages, as the disk is full".to_owned(),
        };
        format!("queue '{}' in vhost '{}' {why}", self.name, self.vhost)
    }
}

/// Why messages were refused, for their publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NackReason {
    /// Which queue refused them, and why.
    pub text: String,
    /// After so many milliseconds they may be taken.
    pub retry_after_ms: u64,
}

/// What to tell the publisher of messages that these queues refused: of the first one, and the
/// longest wait of all. `None` if it asks for nothing, and no queue tells it unasked.
pub(crate) fn nack_reason(refused: &[RefusedBy], asks: bool) -> Option<NackReason> {
    let tells = |(cell, ..): &RefusedBy| cell.lock().tells_reason;
    if !asks && !refused.iter().any(tells) {
        return None;
    }
    let (first, reason, _) = refused.first()?;
    let text = first.tells(&first.lock(), *reason);
    let waits = refused.iter().map(|(cell, reason, _)| {
        let now_ms = cell.timer.now_ms();
        cell.lock().wait_ms(*reason, now_ms)
    });
    let retry_after_ms = waits.max().unwrap_or_default();
    Some(NackReason {
        text,
        retry_after_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_queue_leaves_meanwhile_at_the_rate_that_was_seen() {
        let mut drain = Drain::default();
        drain.see(10_000, 0);
        assert_eq!(drain.wait_ms(10_000, 0, 1000), WAIT_MS, "nothing is known");
        // 100 a second.
        for second in 1..5 {
            let (now_ms, gone) = (10_000 + second * 1000, second * 100);
            drain.see(now_ms, gone);
            assert_eq!(drain.wait_ms(now_ms, gone, 1000), 2500);
            assert_eq!(drain.wait_ms(now_ms + 500, gone + 50, 1000), 2500);
        }
        assert_eq!(drain.wait_ms(14_000, 400, 8), WAIT_MS_MIN);
        assert_eq!(drain.wait_ms(14_000, 400, 1_000_000), WAIT_MS_MAX);
    }

    #[test]
    fn where_nothing_leaves_the_wait_grows() {
        let mut drain = Drain::default();
        let (mut now_ms, mut waits) = (10_000, Vec::new());
        for _ in 0..7 {
            drain.see(now_ms, 7);
            let wait_ms = drain.wait_ms(now_ms, 7, 1000);
            waits.push(wait_ms);
            now_ms += wait_ms;
        }
        assert_eq!(waits, [1000, 1000, 2000, 4000, 8000, 16_000, 30_000]);
    }

    #[test]
    fn what_was_long_ago_says_nothing() {
        let mut drain = Drain::default();
        drain.see(10_000, 0);
        drain.see(12_000, 2000);
        drain.see(12_000 + STALE_MS, 2001);
        let wait_ms = drain.wait_ms(12_000 + STALE_MS, 2001, 1000);
        assert_eq!(wait_ms, WAIT_MS);
    }
}
