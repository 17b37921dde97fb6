//! How long the deliveries of a queue may wait for their settlement.
//!
//! Only who holds deliveries can list them: the timer has a connection's reader take a turn when
//! one of its deliveries may be overdue, and nothing more. Most are settled long before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use leveret_record::{Sabotage, breaks};
use leveret_session::{Outlet, Term, Verdict};
use leveret_settings::ConsumerTimeout;

use crate::queue::cell::QueueCell;
use crate::queue::consumer::{DeliverySource, Handle, SharedOutlet};

/// No timeout.
const NONE: u64 = u64::MAX;

/// What becomes of deliveries that nobody settles, where all connections can read it without
/// locking the queue.
#[derive(Debug)]
pub(crate) struct Lease {
    timeout_ms: AtomicU64,
    counts: AtomicBool,
    closes: AtomicBool,
    /// The queue has a timeout, or a consumer has had one of its own.
    any: AtomicBool,
}

impl Lease {
    pub(crate) fn new(timeout: ConsumerTimeout) -> Self {
        let lease = Self {
            timeout_ms: AtomicU64::new(NONE),
            counts: AtomicBool::new(false),
            closes: AtomicBool::new(false),
            any: AtomicBool::new(false),
        };
        lease.set(timeout);
        lease
    }

    /// Tells whether deliveries that are out may be due sooner than before.
    fn set(&self, timeout: ConsumerTimeout) -> bool {
        let timeout_ms = timeout.ms.unwrap_or(NONE);
        self.counts.store(timeout.counts, Ordering::Relaxed);
        self.closes.store(timeout.closes, Ordering::Relaxed);
        self.any.fetch_or(timeout_ms != NONE, Ordering::Relaxed);
        timeout_ms < self.timeout_ms.swap(timeout_ms, Ordering::Relaxed)
    }

    /// Whether any delivery may have to be settled in time.
    #[inline]
    pub(crate) fn is_any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// The time for a delivery; a consumer's own goes before the queue's, as with RabbitMQ.
    pub(crate) fn timeout_ms(&self, own_ms: Option<u64>) -> Option<u64> {
        own_ms.or_else(|| {
            let timeout_ms = self.timeout_ms.load(Ordering::Relaxed);
            (timeout_ms != NONE).then_some(timeout_ms)
        })
    }
}

/// When a connection has to look at its deliveries.
pub(crate) struct DeliveryWatch {
    outlet: SharedOutlet,
    /// The timer wakes it then, unix milliseconds; `u64::MAX`: never. Changed with the outlet
    /// locked.
    pub(crate) armed_ms: AtomicU64,
    /// It has to look at them now.
    pub(crate) overdue: AtomicBool,
}

impl DeliveryWatch {
    /// None so far, of whoever is served through this outlet.
    pub(crate) fn new(outlet: SharedOutlet) -> Self {
        Self {
            outlet,
            armed_ms: AtomicU64::new(NONE),
            overdue: AtomicBool::new(false),
        }
    }

    /// The time has come that the timer was to wake the connection at.
    pub(crate) fn wake(&self, at_ms: u64) {
        let outlet = self.outlet.lock();
        if self.armed_ms.load(Ordering::Relaxed) == at_ms {
            self.armed_ms.store(NONE, Ordering::Relaxed);
        }
        self.look(&outlet);
    }

    /// Has the connection's reader look at its deliveries.
    pub(crate) fn look(&self, outlet: &Outlet<Arc<Handle>>) {
        self.overdue.store(true, Ordering::Release);
        if let Some(flusher) = outlet.flusher() {
            flusher.interrupt();
        }
    }
}

impl QueueCell {
    /// Changes how long its deliveries may wait. Tells whether those that are out may be due
    /// sooner than before.
    pub(crate) fn set_lease(&self, timeout: ConsumerTimeout) -> bool {
        let sooner = self.lease.set(timeout);
        self.show_lease();
        sooner
    }

    /// How long a delivery may wait for its settlement, milliseconds, if not for ever and its
    /// consumer says nothing else.
    #[must_use]
    pub fn consumer_timeout_ms(&self) -> Option<u64> {
        self.lease.timeout_ms(None)
    }

    /// A consumer has a timeout of its own.
    pub(crate) fn lease_to_one(&self) {
        self.lease.any.store(true, Ordering::Relaxed);
        self.show_lease();
    }
}

impl DeliverySource {
    /// How long a delivery may wait for its settlement.
    pub(crate) fn term(&self) -> Option<Term> {
        let lease = &self.cell.lease;
        let ms = lease.timeout_ms(self.own_timeout_ms)?;
        let closes = lease.closes.load(Ordering::Relaxed);
        Some(Term { ms, closes })
    }

    /// What an attempt comes to that is not settled in time.
    pub(crate) fn overdue(&self) -> Verdict {
        let counts = self.cell.lease.counts.load(Ordering::Relaxed);
        if counts || breaks(Sabotage::FailOverdue) {
            Verdict::Retry
        } else {
            Verdict::Requeue
        }
    }
}

impl Handle {
    /// How long a delivery to it may wait for its settlement, milliseconds, if not for ever.
    #[must_use]
    pub fn timeout_ms(&self) -> Option<u64> {
        self.cell.lease.timeout_ms(self.own_timeout_ms)
    }

    /// Has it settle what it was handed just now in time, if it has to.
    pub(crate) fn lease(&self, outlet: &mut Outlet<Arc<Self>>) {
        if let Some(timeout_ms) = self.timeout_ms() {
            lease(&self.cell, &self.leases, (outlet, self.channel), timeout_ms);
        }
    }
}

/// Has a client settle in time what it was handed just now.
pub(crate) fn lease(
    cell: &QueueCell,
    leases: &Arc<DeliveryWatch>,
    (outlet, channel): (&mut Outlet<Arc<Handle>>, u16),
    timeout_ms: u64,
) {
    let timer = &cell.timer;
    if let Some(end_ms) = outlet.lease(channel, timer.now_ms(), timeout_ms) {
        timer.arm_leases(leases, end_ms);
    }
}
