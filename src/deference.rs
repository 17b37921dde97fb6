//! Workers that let clients finish what they are at.
//!
//! A client that sends a stream in small writes and shares the processors with the broker is
//! interrupted by it at each of them: the kernel runs who has just been woken before who is at
//! work. The broker answers a few messages, waits for more, and has taken the core that the client
//! needs for sending them. A worker that meets such a stream asks for `SCHED_BATCH`: it is run at
//! once as long as a core is free, but interrupts nobody. Bytes gather exactly while the client is
//! at work, no timer is needed, and nothing waits on a machine that has cores to spare.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use thread_priority::{
    NormalThreadSchedulePolicy as Policy, ThreadPriority, ThreadPriorityValue,
    ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id, thread_schedule_policy,
};
use tracing::debug;

/// Reads with messages after which a worker judges what its clients send.
const READS: usize = 64;
/// So many messages in one read are a stream; more say no more.
const MANY: usize = 8;
/// Reads that are nearly as large as one may be need no more to gather.
const GATHERED_BYTES: usize = 56 * 1024;
/// Fewer messages leave clients enough of the processors: then they are to be served at once.
const MESSAGES_PER_MS: u64 = 32;
/// A worker that read nothing for so long begins anew.
const STALE_MS: u64 = 100;

/// Whether the kernel's usual policy is in force for this process: then it may be changed.
static MAY_DEFER: AtomicBool = AtomicBool::new(false);

thread_local! {
    static WORKER: RefCell<Deference> = RefCell::default();
}

/// Looks whether the process runs with the kernel's usual policy. One that was chosen for it stays.
pub(crate) fn prepare() {
    MAY_DEFER.store(policy() == Some(Policy::Other), Ordering::Relaxed);
}

/// A thread of the runtime begins. It has the policy of the one that started it.
pub(crate) fn begin_thread() {
    if MAY_DEFER.load(Ordering::Relaxed) && policy() == Some(Policy::Batch) {
        set_policy(Policy::Other);
    }
}

/// A thread begins whose work is never urgent: it interrupts nobody. It keeps its share of a busy
/// processor all the same, as others may wait for a lock that it has.
pub(crate) fn begin_background() {
    if MAY_DEFER.load(Ordering::Relaxed) {
        set_policy(Policy::Batch);
    }
}

/// This worker has taken a turn with so many bytes of a client, in which so many messages were
/// published or settled.
pub(crate) fn has_read(bytes: usize, messages: usize, now_ms: u64) {
    let change = WORKER.with_borrow_mut(|worker| worker.has_read(bytes, messages, now_ms));
    let Some(defers) = change else {
        return;
    };
    if MAY_DEFER.load(Ordering::Relaxed) {
        set_policy(if defers { Policy::Batch } else { Policy::Other });
    }
}

/// What one worker knows of what its clients send.
#[derive(Debug, Default)]
struct Deference {
    /// Since it judged last: reads with messages, and what was in them.
    reads: usize,
    messages: usize,
    /// The same, but [`MANY`] of each read at most.
    weight: usize,
    bytes: usize,
    judged_ms: u64,
    defers: bool,
    last_read_ms: u64,
}

impl Deference {
    /// Counts a read; gives whether the worker defers from now on, if that changes.
    fn has_read(&mut self, bytes: usize, messages: usize, now_ms: u64) -> Option<bool> {
        if messages == 0 {
            return None;
        }
        let last = std::mem::replace(&mut self.last_read_ms, now_ms);
        if now_ms.saturating_sub(last) > STALE_MS {
            return self.judge(false, now_ms);
        }
        self.reads += 1;
        self.messages += messages;
        self.weight += messages.min(MANY);
        self.bytes += bytes;
        if self.reads < READS {
            return None;
        }
        // Who waits for answers sends one message a read, or settles one.
        let is_stream = self.weight >= READS + READS / 2;
        let is_small = self.bytes < READS * GATHERED_BYTES;
        let elapsed_ms = now_ms.saturating_sub(self.judged_ms).max(1);
        let is_dense = self.messages as u64 >= elapsed_ms * MESSAGES_PER_MS;
        self.judge(is_stream && is_small && is_dense, now_ms)
    }

    fn judge(&mut self, defers: bool, now_ms: u64) -> Option<bool> {
        let changes = self.defers != defers;
        *self = Self {
            defers,
            judged_ms: now_ms,
            last_read_ms: now_ms,
            ..Self::default()
        };
        changes.then_some(defers)
    }
}

/// The policy of this thread, if it is one for work that is not urgent.
fn policy() -> Option<Policy> {
    match thread_schedule_policy() {
        Ok(ThreadSchedulePolicy::Normal(policy)) => Some(policy),
        _ => None,
    }
}

/// Has this thread run by another policy, with the nice value it has.
fn set_policy(policy: Policy) {
    let set = rustix::process::getpriority_process(None)
        .map_err(|error| error.to_string())
        .and_then(|nice| {
            let policy = ThreadSchedulePolicy::Normal(policy);
            set_thread_priority_and_policy(thread_native_id(), priority(nice), policy)
                .map_err(|error| error.to_string())
        });
    if let Err(error) = set {
        MAY_DEFER.store(false, Ordering::Relaxed);
        debug!(error, "workers cannot defer to clients");
    }
}

/// A nice value, -20 to 19, as the library counts: 99 to 0, of which it makes a nice value again.
fn priority(nice: i32) -> ThreadPriority {
    let value = 99 * (37 - 2 * nice) / 78;
    let value = u8::try_from(value.clamp(0, 99)).unwrap_or_default();
    ThreadPriorityValue::try_from(value).map_or(ThreadPriority::Min, ThreadPriority::Crossplatform)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [bool; 0] = [];

    /// Feeds so many rounds of judging with reads of these bytes and messages in turn, so many each
    /// millisecond; gives what changed.
    fn read_at(
        worker: &mut Deference,
        rate: usize,
        rounds: usize,
        kinds: &[(usize, usize)],
    ) -> Vec<bool> {
        let with_messages = kinds.iter().filter(|(_, messages)| *messages > 0).count();
        let reads = rounds * READS * kinds.len() / with_messages;
        let reads = kinds.iter().cycle().take(reads);
        let begun_ms = worker.last_read_ms;
        let changes = reads.zip(1..).filter_map(|((bytes, messages), read)| {
            worker.has_read(*bytes, *messages, begun_ms + read / rate as u64)
        });
        changes.collect()
    }

    fn read(worker: &mut Deference, rounds: usize, kinds: &[(usize, usize)]) -> Vec<bool> {
        read_at(worker, 20, rounds, kinds)
    }

    const LONE: (usize, usize) = (80, 1);
    const SEVERAL: (usize, usize) = (400, 5);
    /// Of a message.
    const PART: (usize, usize) = (400, 0);
    /// Of many at once.
    const ACKNOWLEDGEMENT: (usize, usize) = (21, 100);
    const LARGE: (usize, usize) = (64 * 1024, 800);

    #[test]
    fn a_stream_in_small_reads_is_deferred_to() {
        let mut worker = Deference::default();
        assert_eq!(read(&mut worker, 10, &[SEVERAL]), [true]);
        assert_eq!(read(&mut worker, 10, &[LONE, SEVERAL, LONE]), NOTHING);
        assert_eq!(read(&mut worker, 10, &[SEVERAL, PART]), NOTHING);
        assert_eq!(read(&mut worker, 10, &[ACKNOWLEDGEMENT]), NOTHING);
    }

    #[test]
    fn whoever_sends_one_message_at_a_time_is_not() {
        let mut worker = Deference::default();
        assert_eq!(read(&mut worker, 10, &[LONE]), NOTHING);
        assert_eq!(read(&mut worker, 10, &[LONE, PART]), NOTHING);
        let with_others = [LONE; 16].into_iter().chain([ACKNOWLEDGEMENT]);
        let with_others: Vec<_> = with_others.collect();
        assert_eq!(read(&mut worker, 10, &with_others), NOTHING);
    }

    #[test]
    fn what_comes_in_large_pieces_is_not() {
        let mut worker = Deference::default();
        assert_eq!(read(&mut worker, 10, &[LARGE]), NOTHING);
        assert_eq!(read(&mut worker, 10, &[SEVERAL]), [true]);
        assert_eq!(read(&mut worker, 10, &[LARGE]), [false]);
    }

    #[test]
    fn a_thin_stream_is_not() {
        let mut worker = Deference::default();
        assert_eq!(read_at(&mut worker, 4, 10, &[SEVERAL]), NOTHING);
        assert_eq!(read_at(&mut worker, 8, 10, &[SEVERAL]), [true]);
        assert_eq!(read_at(&mut worker, 4, 10, &[SEVERAL]), [false]);
    }

    #[test]
    fn a_worker_goes_back_when_the_stream_ends() {
        let mut worker = Deference::default();
        read(&mut worker, 1, &[SEVERAL]);
        assert_eq!(read(&mut worker, 1, &[LONE]), [false]);
        read(&mut worker, 1, &[SEVERAL]);
        let later = worker.last_read_ms + STALE_MS + 1;
        assert_eq!(worker.has_read(80, 1, later), Some(false));
        assert_eq!(read(&mut worker, 1, &[SEVERAL]), [true], "all anew");
    }

    #[test]
    fn a_thread_changes_its_policy_and_keeps_its_nice_value() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        for wanted in nice()..20 {
            // A thread has a nice value of its own.
            std::thread::spawn(move || {
                rustix::process::setpriority_process(None, wanted).unwrap();
                for policy in [Policy::Batch, Policy::Other] {
                    set_policy(policy);
                    assert_eq!(super::policy(), Some(policy));
                    assert_eq!(nice(), wanted);
                }
            })
            .join()
            .unwrap();
        }
    }
}
