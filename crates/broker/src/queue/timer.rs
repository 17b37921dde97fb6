//! The broker's time, and the queues that something is due for.
//!
//! There is no timer for a message: a queue tells the next time it has to be run at, and whoever
//! keeps the time calls [`run_due`](crate::Broker::run_due) then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use crate::queue::cell::{QueueCell, QueueState};
use crate::queue::lease::DeliveryWatch;

/// Wakes whoever keeps the time, as something is due earlier than was said.
pub(crate) type Waker = Box<dyn Fn() + Send + Sync>;

/// What time it is, and what is due when; one for a broker.
#[derive(Default)]
pub(crate) struct Timer {
    /// Unix milliseconds; never goes back.
    now_ms: AtomicU64,
    /// When the first queue is due, as whoever keeps the time knows it.
    next_ms: AtomicU64,
    /// One entry for a queue or a connection at most: [`QueueState::armed_ms`] and
    /// [`DeliveryWatch::armed_ms`] say which.
    due: Mutex<BTreeMap<Due, Owner>>,
    waker: OnceLock<Waker>,
    pub(crate) cores: Cores,
}

/// Whether the machine has processors to spare, as those want to know who have publishers wait
/// for others' sake.
#[derive(Default)]
pub(crate) struct Cores {
    asked: AtomicBool,
    idle: AtomicBool,
}

impl Cores {
    /// Whether they are idle, as far as is known: it is measured once somebody has asked.
    pub(crate) fn are_idle(&self) -> bool {
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Relaxed);
        }
        self.idle.load(Ordering::Relaxed)
    }

    /// Whether somebody has asked since the last time.
    pub(crate) fn are_asked_for(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }
}

/// When something is due, and whose it is: where that lives tells those of one time apart.
type Due = (u64, usize);

/// Whose something is that is due.
pub(crate) enum Owner {
    /// It has to be run.
    Queue(Weak<QueueCell>),
    /// The connection has to look at the deliveries it has not settled.
    Leases(Weak<DeliveryWatch>),
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

    /// Calls `wake` whenever something is due before the time that was told last.
    pub(crate) fn wake_with(&self, wake: Waker) {
        // There is one who keeps the time.
        let _ = self.waker.set(wake);
    }

    /// Has a queue run at a time, or as soon as possible after it, unless it is run before anyway.
    pub(crate) fn arm(&self, cell: &Arc<QueueCell>, state: &mut QueueState, at_ms: u64) {
        if at_ms >= state.armed_ms {
            return;
        }
        let place = Arc::as_ptr(cell).addr();
        let owner = Owner::Queue(Arc::downgrade(cell));
        self.put((state.armed_ms, place), at_ms, owner);
        state.armed_ms = at_ms;
    }

    /// Has a connection look at its deliveries at a time, unless it does so before anyway. Its
    /// outlet is locked.
    pub(crate) fn arm_leases(&self, leases: &Arc<DeliveryWatch>, at_ms: u64) {
        let before_ms = leases.armed_ms.load(Ordering::Relaxed);
        if at_ms >= before_ms {
            return;
        }
        let place = Arc::as_ptr(leases).addr();
        let owner = Owner::Leases(Arc::downgrade(leases));
        self.put((before_ms, place), at_ms, owner);
        leases.armed_ms.store(at_ms, Ordering::Relaxed);
    }

    fn put(&self, before: Due, at_ms: u64, owner: Owner) {
        let mut due = self.due.lock();
        due.remove(&before);
        due.insert((at_ms, before.1), owner);
        drop(due);
        if at_ms < self.next_ms.load(Ordering::Relaxed)
            && let Some(wake) = self.waker.get()
        {
            wake();
        }
    }

    /// Forgets a queue that is deleted: it is not kept for a time that may be far.
    pub(crate) fn disarm(&self, cell: &QueueCell, state: &mut QueueState) {
        let place = std::ptr::from_ref(cell).addr();
        self.due.lock().remove(&(state.armed_ms, place));
        state.armed_ms = u64::MAX;
    }

    /// The same for a connection that has ended. Its outlet is locked.
    pub(crate) fn disarm_leases(&self, leases: &DeliveryWatch) {
        let place = std::ptr::from_ref(leases).addr();
        let armed_ms = leases.armed_ms.swap(u64::MAX, Ordering::Relaxed);
        self.due.lock().remove(&(armed_ms, place));
    }

    /// What is due now, so many at most, each with its time.
    pub(crate) fn take_due(&self, now_ms: u64, most: usize) -> Vec<(u64, Owner)> {
        let mut due = self.due.lock();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(first) = due.first_entry()
            && first.key().0 <= now_ms
        {
            let ((at_ms, _), owner) = first.remove_entry();
            taken.push((at_ms, owner));
        }
        taken
    }

    /// How many queues and connections it has something to do for.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> usize {
        self.due.lock().len()
    }

    /// When the next queue is due; from now on somebody waits for that.
    pub(crate) fn next(&self) -> Option<u64> {
        let due = self.due.lock();
        let next_ms = due.first_key_value().map(|((at_ms, _), _)| *at_ms);
        self.next_ms
            .store(next_ms.unwrap_or(u64::MAX), Ordering::Relaxed);
        next_ms
    }
}
