//! Deliveries that are done.

use leveret_record::Unacked;

use super::Queue;
use crate::consumers::ConsumerKey;

impl<C> Queue<C> {
    /// A delivery is acknowledged; `consumer` gets its credit back.
    #[inline]
    pub fn settle(&mut self, consumer: Option<ConsumerKey>, unacked: &Unacked) {
        self.settle_all(consumer, std::slice::from_ref(unacked), |unacked| *unacked);
    }

    /// A delivery is rejected for good.
    pub fn reject(&mut self, consumer: Option<ConsumerKey>, unacked: &Unacked) {
        self.reject_all(consumer, std::slice::from_ref(unacked), |unacked| *unacked);
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
        self.release_all(consumer, run, unacked);
    }

    /// Deliveries of one consumer are rejected for good.
    pub fn reject_all<T>(
        &mut self,
        consumer: Option<ConsumerKey>,
        run: &[T],
        unacked: impl Fn(&T) -> Unacked,
    ) {
        self.counters.rejected += run.len() as u64;
        self.release_all(consumer, run, unacked);
    }

    #[inline]
    fn release_all<T>(
        &mut self,
        consumer: Option<ConsumerKey>,
        run: &[T],
        unacked: impl Fn(&T) -> Unacked,
    ) {
        let lengths = run.iter().map(|one| u64::from(unacked(one).body_len));
        self.returned(consumer, run.len() as u64, lengths.sum());
        let place = |one: &T| unacked(one).position;
        for run in run.chunk_by(|a, b| place(a).chunk == place(b).chunk) {
            if let Some(first) = run.first() {
                let offsets = run.iter().map(|one| place(one).offset);
                self.chunks.release_all(place(first).chunk, offsets);
            }
        }
    }
}
