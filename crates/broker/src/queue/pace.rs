//! How fast a queue's publishers may go while its consumers work down a backlog.
//!
//! Where processors are short, whoever publishes takes what consumers need, and a backlog that has
//! grown out of memory costs both of them more. So a queue that is worked on in earnest lets its
//! publishers bring in a part of what leaves it, until it is short again.

use leveret_queue::{Counters, Queue};

use crate::queue::cell::{QueueCell, QueueState};

/// A backlog is short up to here, in bytes as [`backlog`] counts them: then nobody waits.
const SHORT: u64 = 1024 * 1024;
/// Up to here publishers may bring in what leaves,
const STEADY: u64 = 2 * SHORT;
/// up to here half of it,
const LONG: u64 = 16 * SHORT;
/// and beyond it one for so many.
const SHARE: i64 = 8;
/// What a ready message takes beside its body, about.
const RECORD_BYTES: u64 = 64;
/// The rate at which messages leave is one of so many milliseconds at least.
const LOOK_MS: u64 = 20;
/// Where nothing has left for so long, nobody waits.
const STALE_MS: u64 = 100;
/// Where less leaves in a second, consumers set the pace by what they do: publishers would gain
/// them nothing by waiting.
const EARNEST: u64 = 4000;
/// A message counts once more there for each so many bytes of its body.
const EARNEST_BYTES: u64 = 4096;
/// A publisher that waits looks again after so long at most, milliseconds.
const WAIT_MS_MAX: u64 = 20;
/// Room that is not used is kept for so long, milliseconds,
const KEPT_MS: u64 = 10;
/// and what was brought in too much is made up for as long.
const OWED_MS: u64 = 1000;

/// What a queue that was long has seen of its consumers, and has allowed its publishers.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the rate was measured last, and how many messages had left by then.
    measured_ms: u64,
    measured_left: u64,
    /// Messages that leave in a second.
    per_s: u64,
    /// How many had left at the last look.
    left: u64,
    /// What publishers may bring in, in messages times [`SHARE`]; negative: they have to wait.
    room: i64,
    /// How long publishers have waited, all together, milliseconds.
    waited_ms: u64,
}

impl Pace {
    /// Messages have left so far, as of now.
    fn look(&mut self, now_ms: u64, left: u64, backlog: u64) {
        let gone = left.wrapping_sub(self.measured_left);
        let elapsed_ms = now_ms.saturating_sub(self.measured_ms);
        if elapsed_ms >= STALE_MS || (gone > 0 && elapsed_ms >= LOOK_MS) {
            self.per_s = gone.saturating_mul(1000) / elapsed_ms;
            (self.measured_ms, self.measured_left) = (now_ms, left);
        }
        let gone = left.wrapping_sub(self.left);
        self.left = left;
        let gone = i64::try_from(gone).unwrap_or(i64::MAX);
        self.room = self
            .room
            .saturating_add(gone.saturating_mul(share(backlog)))
            .clamp(-self.within(OWED_MS), self.within(KEPT_MS));
    }

    /// What leaves in so many milliseconds, as room.
    fn within(&self, ms: u64) -> i64 {
        let messages = self.per_s.saturating_mul(ms) / 1000;
        i64::try_from(messages).map_or(i64::MAX, |messages| messages.saturating_mul(SHARE))
    }

    /// How long publishers wait for room, milliseconds.
    fn wait_ms(&self, backlog: u64) -> u64 {
        let owed = self.room.min(0).unsigned_abs();
        if owed == 0 {
            return 0;
        }
        let per_s = self.per_s.saturating_mul(share(backlog).unsigned_abs());
        let wait_ms = owed.saturating_mul(1000) / per_s.max(1);
        wait_ms.clamp(1, WAIT_MS_MAX)
    }
}

/// Of each message that leaves, how much room it makes.
const fn share(backlog: u64) -> i64 {
    if backlog <= STEADY {
        SHARE
    } else if backlog <= LONG {
        SHARE / 2
    } else {
        1
    }
}

/// Bytes that wait in a queue.
#[inline]
pub(crate) fn backlog<C>(queue: &Queue<C>) -> u64 {
    queue.ready_bytes() + queue.ready() * RECORD_BYTES
}

/// Messages that consumers were done with so far.
fn left(counters: &Counters) -> u64 {
    let settled = counters.acked.wrapping_add(counters.rejected);
    settled.wrapping_add(counters.delivered_no_ack)
}

impl QueueCell {
    /// Publishers have brought so many messages in, and the backlog is so long; gives for how many
    /// milliseconds they wait.
    #[inline]
    pub(crate) fn came(&self, state: &mut QueueState, messages: usize, backlog: u64) -> u64 {
        if backlog <= SHORT {
            return 0;
        }
        self.came_to_many(state, messages)
    }

    #[inline(never)]
    fn came_to_many(&self, state: &mut QueueState, messages: usize) -> u64 {
        let pace = state.pace.get_or_insert_default();
        let room = i64::try_from(messages).map_or(i64::MIN, |messages| messages * -SHARE);
        pace.room = pace.room.saturating_add(room);
        self.wait_ms(state, self.timer.now_ms())
    }

    /// For how many milliseconds a publisher waits at least before it may bring in more.
    fn wait_ms(&self, state: &mut QueueState, now_ms: u64) -> u64 {
        let backlog = backlog(&state.queue);
        if backlog <= SHORT || self.is_deleted() {
            return 0;
        }
        let Some(pace) = &mut state.pace else {
            return 0;
        };
        pace.look(now_ms, left(state.queue.counters()), backlog);
        let body_bytes = state.queue.ready_bytes() / state.queue.ready().max(1);
        let weight = 1 + body_bytes / EARNEST_BYTES;
        let in_earnest = pace.per_s.saturating_mul(weight) >= EARNEST;
        if !in_earnest || self.timer.cores.are_idle() {
            pace.room = pace.room.max(0);
            return 0;
        }
        pace.wait_ms(backlog)
    }

    /// A publisher has waited for so long; gives for how many milliseconds it waits on.
    pub(crate) fn goes_on(&self, waited_ms: u64, now_ms: u64) -> u64 {
        let mut state = self.lock();
        if let Some(pace) = &mut state.pace {
            pace.waited_ms += waited_ms;
        }
        self.wait_ms(&mut state, now_ms)
    }
}

impl QueueState {
    /// How long its publishers had to wait, all together, milliseconds.
    #[must_use]
    pub fn flow_ms(&self) -> u64 {
        self.pace.as_ref().map_or(0, |pace| pace.waited_ms)
    }
}
