//! All that is ready at once.

use std::ops::Range;

use super::Queue;

impl<C> Queue<C> {
    /// Shows the levels and sequence numbers of all ready persistent messages, in order. Of what is
    /// on the disk those that follow each other are shown at once, so a purge takes as long as its
    /// chunks are many, and not its messages.
    pub fn persistent_ready(&self, mut show: impl FnMut(u8, Range<u64>)) {
        for (level, lane) in self.lanes.iter() {
            let mut show = |seqs| show(level, seqs);
            for run in lane.requeued.runs_from(0) {
                lane.persistent_of(run, &mut show);
            }
            lane.chunks.persistent_unread(show);
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
