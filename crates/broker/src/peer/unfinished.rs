//! What clients have begun and not completed, as it is counted: of one connection, and of all.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

/// What all connections together have begun and not completed.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    pub(crate) bytes: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) stalled: AtomicU64,
    /// One at a time looks for whom to close.
    pub(crate) searching: Mutex<()>,
}

/// The same of one connection.
#[derive(Debug, Default)]
pub(crate) struct UnfinishedOf {
    pub(crate) bytes: AtomicU64,
    /// Since it had none, or last completed a message.
    pub(crate) since_ms: AtomicU64,
    /// When a message without progress may be too old; 0 while there is none.
    pub(crate) due_ms: AtomicU64,
    /// What was read ends within a frame, or within a small message.
    pub(crate) partial: AtomicBool,
    /// When it was last found not to be read, which is none of the client's fault.
    pub(crate) unread_ms: AtomicU64,
}

impl UnfinishedOf {
    /// A message is complete.
    pub(crate) fn completed(&self, now_ms: u64) {
        self.since_ms.store(now_ms, Ordering::Relaxed);
    }

    /// The timer found that it is not read.
    pub(crate) fn is_unread(&self, now_ms: u64) {
        self.unread_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        let due_ms = self.due_ms.load(Ordering::Relaxed);
        due_ms != 0 && now_ms >= due_ms
    }

    /// Bytes, times the milliseconds they are held, times those since anything came.
    pub(crate) fn weight(&self, heard_ms: u64, now_ms: u64) -> u128 {
        let since = |then_ms: u64| u128::from(now_ms.saturating_sub(then_ms)) + 1;
        let bytes = u128::from(self.bytes.load(Ordering::Relaxed));
        bytes * since(self.since_ms.load(Ordering::Relaxed)) * since(heard_ms)
    }
}
