//! Deliveries that come back.

use std::ops::ControlFlow;
use std::sync::Arc;

use leveret_record::{Blob, Record, Sabotage, Unacked, breaks};

use super::Queue;
use crate::consumers::ConsumerKey;
use crate::requeued::Run;

impl<C> Queue<C> {
    /// A delivery comes back to its place in the order, and counts as delivered once more.
    ///
    /// Returns the new delivery count.
    pub fn requeue(&mut self, consumer: Option<ConsumerKey>, unacked: &Unacked) -> u8 {
        self.requeue_all(consumer, std::slice::from_ref(unacked), |unacked| *unacked);
        unacked.deliveries.saturating_add(1)
    }

    /// Deliveries of one consumer come back.
    pub fn requeue_all<T>(
        &mut self,
        consumer: Option<ConsumerKey>,
        run: &[T],
        unacked: impl Fn(&T) -> Unacked,
    ) {
        let (mut bytes, messages) = (0, run.len() as u64);
        for one in run {
            let unacked = unacked(one);
            bytes += u64::from(unacked.body_len);
            if !breaks(Sabotage::ForgetDelivery) {
                let deliveries = unacked.deliveries.saturating_add(1);
                self.chunks.set_deliveries(unacked.position, deliveries);
            }
        }
        self.returned(consumer, messages, bytes);
        self.counters.requeued += messages;
        self.ready += messages;
        self.ready_bytes += bytes;
        let follows = |a: &T, b: &T| {
            let (a, b) = (unacked(a), unacked(b));
            a.seq + 1 == b.seq && a.position.chunk == b.position.chunk
        };
        for run in run.chunk_by(follows) {
            if let Some((first, last)) = run.first().zip(run.last()) {
                let (first, last) = (unacked(first), unacked(last).seq);
                self.put_back(&first, last);
            }
        }
    }

    /// Makes messages ready again that were neighbours.
    fn put_back(&mut self, first: &Unacked, last: u64) {
        let mut run = Run {
            first: first.seq,
            last,
            position: first.position,
        };
        if !breaks(Sabotage::RequeueLast) {
            return self.requeued.insert(run);
        }
        if let Some(end) = self.requeued.last().filter(|end| *end > run.first) {
            (run.first, run.last) = (end + 1, end + 1 + last - run.first);
        }
        self.requeued.insert_alone(run);
    }

    /// Shows messages that came back, from a sequence number on and in order, until `show` breaks.
    pub(crate) fn requeued_from(
        &self,
        from: u64,
        mut show: impl FnMut(u64, &Record<'_>, Option<&Arc<Blob>>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for run in self.requeued.runs_from(from) {
            let mut at = run.position;
            for seq in run.first..=run.last {
                let Some((record, blob, next)) = self.chunks.record(at) else {
                    break;
                };
                if seq >= from {
                    show(seq, &record, blob)?;
                }
                at.offset = next;
            }
        }
        ControlFlow::Continue(())
    }

    /// Settles all messages that came back.
    pub(super) fn release_requeued(&mut self) {
        for run in self.requeued.drain() {
            let mut at = run.position;
            for _ in run.first..=run.last {
                // Read before: with its last message a chunk is gone.
                let next = self.chunks.record(at).map(|(.., next)| next);
                self.chunks.release(at);
                at.offset = next.unwrap_or(at.offset);
            }
        }
    }
}
