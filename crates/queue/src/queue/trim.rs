//! What is over a length limit goes.

use super::{Queue, Sink};
use crate::limits::{Death, Overflow};

/// Messages over a length limit that go in one run: the queue is locked meanwhile.
const DROP_MAX: usize = 16 * 1024;

impl<C> Queue<C> {
    /// Drops messages from the head while a `drop-head` limit is exceeded.
    #[inline]
    pub(super) fn trim(&mut self, now_ms: u64, sink: &mut impl Sink<C>) {
        if self.is_above_limit() {
            self.drop_ready(now_ms, sink);
        }
    }

    #[inline]
    pub(super) const fn is_above_limit(&self) -> bool {
        let limits = &self.settings.limits;
        self.ready > limits.ready_max || self.ready_bytes > limits.ready_bytes_max
    }

    /// What is more than one run bears is left to the next one.
    #[inline(never)]
    fn drop_ready(&mut self, now_ms: u64, sink: &mut impl Sink<C>) {
        if self.settings.limits.overflow == Overflow::RejectPublish {
            // What came back above the limit stays: only a publish can be refused.
            return;
        }
        for _ in 0..DROP_MAX {
            let level = if self.settings.drops_lowest {
                self.lanes.bottom()
            } else {
                self.lanes.top()
            };
            let Some(dropped) = self.take_head(level) else {
                return;
            };
            self.die(&dropped, Death::MaxLength, sink);
            if !self.is_above_limit() {
                return;
            }
        }
        self.wake_ms = self.wake_ms.min(now_ms);
    }
}
