//! Deliveries that are done.

use leveret_record::Unacked;

use super::{Queue, Sink, rank};
use crate::consumers::ConsumerKey;
use crate::limits::Death;

impl<C> Queue<C> {
    /// A delivery is acknowledged; `consumer` gets its credit back.
    #[inline]
    pub fn settle(&mut self, consumer: Option<ConsumerKey>, unacked: &Unacked) {
        self.settle_all(consumer, std::slice::from_ref(unacked), |unacked| *unacked);
    }

    /// Deliveries of one consumer are acknowledged.
    #[inline]
    pub fn settle_all<T>(
        &mut self,
        consumer: Option<ConsumerKey>,
        run: &[T],
        unacked: impl Fn(&T) -> Unacked,
    ) {
        self.counters.acked += run.len() as u64;
        let lengths = run.iter().map(|one| u64::from(unacked(one).body_len));
        self.returned(consumer, run.len() as u64, lengths.sum());
        self.release_all(run, unacked);
    }

    /// Deliveries of one consumer are rejected for good. The sink is told of those that are gone.
    pub fn reject_all<T>(
        &mut self,
        consumer: Option<ConsumerKey>,
        run: &[T],
        unacked: impl Fn(&T) -> Unacked,
        sink: &mut impl Sink<C>,
    ) {
        let lengths = run.iter().map(|one| u64::from(unacked(one).body_len));
        self.returned(consumer, run.len() as u64, lengths.sum());
        if self.settings.keeps_dead {
            for one in run {
                self.die(&unacked(one), Death::Rejected, sink);
            }
            return;
        }
        self.counters.rejected += run.len() as u64;
        for unacked in run.iter().map(&unacked).filter(|one| one.persistent) {
            sink.settled(rank(&unacked));
        }
        self.release_all(run, unacked);
    }

    /// Settles records.
    #[inline]
    pub(super) fn release_all<T>(&mut self, run: &[T], unacked: impl Fn(&T) -> Unacked) {
        let at = |one: &T| {
            let unacked = unacked(one);
            (unacked.level, unacked.position)
        };
        let together = |a: &T, b: &T| {
            let ((level, rank), (other, next)) = (at(a), at(b));
            level == other && rank.chunk == next.chunk
        };
        for run in run.chunk_by(together) {
            if let Some((level, rank)) = run.first().map(at) {
                let records = run.iter().map(|one| {
                    let unacked = unacked(one);
                    (unacked.position.offset, unacked.body_len)
                });
                let chunks = &mut self.lanes.at_mut(level).chunks;
                chunks.release_all(rank.chunk, records);
                self.lanes.appended_to(level);
            }
        }
    }
}
