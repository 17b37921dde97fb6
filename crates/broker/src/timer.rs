//! The broker's time, and the queues that something is due for.
//!
//! There is no timer for a message: a queue tells the next time it has to be run at, and whoever
//! keeps the time calls [`Broker::run_due`] then.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use crate::broker::Broker;
use crate::cell::QueueCell;
use crate::operations::Condition;
use crate::pump::{Pump, Work};

/// Queues that are run before others get their turn.
const QUEUES_OF_TURN: usize = 256;

/// Wakes whoever keeps the time, as something is due earlier than was said.
type Waker = Box<dyn Fn() + Send + Sync>;

/// What time it is, and what is due when; one for a broker.
#[derive(Default)]
pub(crate) struct Timer {
    /// Unix milliseconds; never goes back.
    now_ms: AtomicU64,
    /// When the first queue is due, as whoever keeps the time knows it.
    next_ms: AtomicU64,
    due: Mutex<BinaryHeap<Reverse<Due>>>,
    waker: OnceLock<Waker>,
}

/// A queue, and when it has to be run.
struct Due {
    at_ms: u64,
    cell: Weak<QueueCell>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at_ms == other.at_ms
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at_ms.cmp(&other.at_ms)
    }
}

impl Timer {
    /// Unix milliseconds, as of the last turn of anybody.
    #[inline]
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    /// It is so late; if it was later already, it stays so.
    #[inline]
    pub(crate) fn set_now(&self, now_ms: u64) {
        // Most turns of one millisecond write nothing: all cores read this line.
        if self.now_ms() < now_ms {
            self.now_ms.fetch_max(now_ms, Ordering::Relaxed);
        }
    }

    /// Has a queue run at a time, or as soon as possible after it.
    pub(crate) fn arm(&self, cell: &Arc<QueueCell>, at_ms: u64) {
        let cell = Arc::downgrade(cell);
        self.due.lock().push(Reverse(Due { at_ms, cell }));
        if at_ms < self.next_ms.load(Ordering::Relaxed)
            && let Some(wake) = self.waker.get()
        {
            wake();
        }
    }

    /// The queues that are due now, so many at most.
    fn take_due(&self, now_ms: u64) -> Vec<Arc<QueueCell>> {
        let mut due = self.due.lock();
        let mut cells = Vec::new();
        while cells.len() < QUEUES_OF_TURN
            && let Some(Reverse(first)) = due.peek()
            && first.at_ms <= now_ms
        {
            let first = due.pop();
            cells.extend(first.and_then(|Reverse(first)| first.cell.upgrade()));
        }
        if due.is_empty() {
            due.shrink_to(QUEUES_OF_TURN);
        }
        cells
    }

    /// When the next queue is due; from now on somebody waits for that.
    fn next(&self) -> Option<u64> {
        let due = self.due.lock();
        let next_ms = due.peek().map(|Reverse(first)| first.at_ms);
        self.next_ms
            .store(next_ms.unwrap_or(u64::MAX), Ordering::Relaxed);
        next_ms
    }
}

impl Broker {
    /// It is so late, unix milliseconds. Whoever has the broker do something says so before.
    #[inline]
    pub fn set_now(&self, now_ms: u64) {
        self.timer.set_now(now_ms);
    }

    /// Unix milliseconds, as of the last turn of anybody.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.timer.now_ms()
    }

    /// Calls `wake` whenever something is due before the time that [`Broker::run_due`] gave.
    pub fn wake_timer_with(&self, wake: impl Fn() + Send + Sync + 'static) {
        // There is one who keeps the time.
        let _ = self.timer.waker.set(Box::new(wake));
    }

    /// Does what is due with queues: messages and queues that have waited too long go. Gives when
    /// it has to be called again, unix milliseconds; at once if there is more to do.
    pub fn run_due(&self, now_ms: u64, work: &mut Work) -> Option<u64> {
        self.set_now(now_ms);
        for cell in self.timer.take_due(now_ms) {
            if self.run_one(&cell, work) {
                self.expire_queue(&cell, work);
            }
        }
        self.submit(work);
        work.wake();
        self.timer.next()
    }

    /// Runs a queue that is due; `true` when nobody has used it for too long.
    fn run_one(&self, cell: &Arc<QueueCell>, work: &mut Work) -> bool {
        let now_ms = self.timer.now_ms();
        let mut state = cell.lock();
        if cell.is_deleted() {
            return false;
        }
        state.queue.woken();
        cell.run(&mut state, &mut Pump::new(cell, work));
        let Some(due_ms) = state.unused_until() else {
            state.is_watched = false;
            return false;
        };
        if due_ms > now_ms {
            self.timer.arm(cell, due_ms);
        }
        due_ms <= now_ms
    }

    fn expire_queue(&self, cell: &Arc<QueueCell>, work: &mut Work) {
        let Some(vhost) = self.vhost(&cell.vhost) else {
            return;
        };
        let unused = Condition {
            unused: true,
            ..Condition::default()
        };
        // One that somebody has begun to consume from is looked at again when that ends.
        if self.delete_queue(&vhost, cell, unused, work).is_err() {
            cell.lock().is_watched = false;
        }
    }
}
