//! Has a connection take a turn once the store has caught up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leveret_session::Flush;
use leveret_store::Waiter;

/// Has confirms sent once the store has caught up.
pub(super) struct Woken {
    flusher: Arc<dyn Flush>,
    pub(super) waiting: AtomicBool,
}

impl Woken {
    pub(super) fn new(flusher: Arc<dyn Flush>) -> Arc<Self> {
        let waiting = AtomicBool::new(false);
        Arc::new(Self { flusher, waiting })
    }
}

impl Waiter for Woken {
    fn durable(&self, few: bool) {
        self.waiting.store(false, Ordering::Release);
        if few {
            self.flusher.proceed();
        } else {
            self.flusher.interrupt();
        }
    }
}
