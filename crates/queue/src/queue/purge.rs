//! All that is ready at once.

use std::ops::ControlFlow;

use super::{Queue, Rank};

impl<C> Queue<C> {
    /// Shows the ranks of all ready persistent messages, in order.
    pub fn persistent_ready(&self, mut show: impl FnMut(Rank)) {
        for (level, lane) in self.lanes.iter() {
            let _ = lane.requeued_from(0, |run, record, _| {
                if record.persistent {
                    let seq = run.first;
                    show(Rank { level, seq });
                }
                ControlFlow::Continue(())
            });
            lane.chunks.unread(|record| {
                if record.persistent {
                    let seq = record.seq;
                    show(Rank { level, seq });
                }
            });
        }
    }

    /// Drops all ready messages and tells how many there were; unacknowledged ones stay.
    pub fn purge(&mut self) -> u64 {
        let purged = self.ready;
        for lane in self.lanes.iter_mut() {
            lane.release_requeued();
            if lane.chunks.head().is_some() {
                lane.chunks.release_unread();
            }
        }
        self.lanes.emptied();
        (self.ready, self.ready_bytes) = (0, 0);
        self.behind = false;
        purged
    }
}
