//! What the threads of one measured run share: counters, stop flags, the first failure.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the outstanding-messages cap makes a publisher sleep before it looks again.
const CAP_PAUSE: Duration = Duration::from_micros(300);
/// Without any progress for so long, a run has failed.
const STALL: Duration = Duration::from_secs(20);

/// Shared by publishers, consumers and the thread that measures.
#[derive(Default)]
pub struct Progress {
    published: AtomicU64,
    delivered: AtomicU64,
    confirmed: AtomicU64,
    publishing_ends: AtomicBool,
    consuming_ends: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Progress {
    /// Counts published messages.
    pub fn add_published(&self, count: u64) {
        self.published.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts delivered messages.
    pub fn add_delivered(&self, count: u64) {
        self.delivered.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts confirmed messages.
    pub fn add_confirmed(&self, count: u64) {
        self.confirmed.fetch_add(count, Ordering::Relaxed);
    }

    /// Messages written by all publishers.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Messages (copies) received by all consumers.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Messages confirmed to all publishers.
    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// Waits while more than `limit` of the copies published are not yet delivered.
    pub fn wait_below(&self, limit: u64, copies: u64) {
        while !self.publishing_ends() {
            if (self.published() * copies).saturating_sub(self.delivered()) <= limit {
                return;
            }
            std::thread::sleep(CAP_PAUSE);
        }
    }

    /// Asks publishers to stop.
    pub fn end_publishing(&self) {
        self.publishing_ends.store(true, Ordering::Relaxed);
    }

    /// Asks consumers to stop.
    pub fn end_consuming(&self) {
        self.consuming_ends.store(true, Ordering::Relaxed);
    }

    /// Whether publishers shall stop.
    pub fn publishing_ends(&self) -> bool {
        self.publishing_ends.load(Ordering::Relaxed)
    }

    /// Whether consumers shall stop.
    pub fn consuming_ends(&self) -> bool {
        self.consuming_ends.load(Ordering::Relaxed)
    }

    /// Keeps the first failure and stops everybody.
    pub fn fail(&self, failure: String) {
        let mut first = self
            .failure
            .lock()
            .expect("no thread panics while it holds this");
        first.get_or_insert(failure);
        drop(first);
        self.end_publishing();
        self.end_consuming();
    }

    /// The first failure, if any.
    pub fn failure(&self) -> Option<String> {
        self.failure
            .lock()
            .expect("no thread panics while it holds this")
            .clone()
    }

    /// Waits until every published message has been delivered `copies` times.
    pub fn drain(&self, copies: u64) -> Result<(), String> {
        let mut last = (self.delivered(), Instant::now());
        loop {
            if let Some(failure) = self.failure() {
                return Err(failure);
            }
            let (delivered, wanted) = (self.delivered(), self.published() * copies);
            if delivered == wanted {
                return Ok(());
            }
            if delivered > wanted {
                return Err(format!(
                    "{delivered} deliveries of {wanted} copies published"
                ));
            }
            if delivered != last.0 {
                last = (delivered, Instant::now());
            } else if last.1.elapsed() > STALL {
                return Err(format!(
                    "lost: {delivered} deliveries of {wanted} copies published"
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
