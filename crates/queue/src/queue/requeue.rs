//! Deliveries that come back.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use leveret_record::{Blob, Record, RunPlace, Sabotage, Unacked, breaks};

use super::{Queue, Sink};
use crate::chunk::LoadedPage;
use crate::consumers::ConsumerKey;
use crate::lane::Lane;
use crate::limits::Death;
use crate::requeued::RequeuedRun;

impl<C> Queue<C> {
    /// A delivery comes back to its place in the order, and counts as tried once more.
    pub fn requeue(
        &mut self,
        consumer: Option<ConsumerKey>,
        unacked: &Unacked,
        failed: bool,
        sink: &mut impl Sink<C>,
    ) {
        let one = std::slice::from_ref(unacked);
        self.requeue_all(consumer, one, (|unacked| *unacked, failed), sink);
    }

    /// Deliveries of one consumer come back, as failed attempts or not; those that failed too often
    /// die.
    pub fn requeue_all<T>(
        &mut self,
        consumer: Option<ConsumerKey>,
        run: &[T],
        (unacked, failed): (impl Fn(&T) -> Unacked, bool),
        sink: &mut impl Sink<C>,
    ) {
        let lengths = run.iter().map(|one| u64::from(unacked(one).body_len));
        self.returned(consumer, run.len() as u64, lengths.sum());
        self.counters.requeued += run.len() as u64;
        let tried = |one: &T| {
            let mut unacked = unacked(one);
            if !breaks(Sabotage::ForgetDelivery) {
                unacked.attempts = unacked.attempts.and_one(failed);
            }
            unacked
        };
        let failures_max = self.settings.failures_max;
        let spare = u32::from(breaks(Sabotage::ExceedLimit));
        let is_spent = |one: &T| tried(one).attempts.failed.saturating_sub(spare) > failures_max;
        let follows = |a: &T, b: &T| {
            let (a, b, spent) = (tried(a), tried(b), is_spent(a));
            a.seq + 1 == b.seq
                && a.position.chunk == b.position.chunk
                && a.level == b.level
                && a.attempts == b.attempts
                && !spent
        };
        for run in run.chunk_by(follows) {
            let Some((first, last)) = run.first().zip(run.last()) else {
                continue;
            };
            if is_spent(first) {
                self.die(&tried(first), Death::DeliveryLimit, sink);
                continue;
            }
            let bytes = run.iter().map(|one| u64::from(unacked(one).body_len)).sum();
            self.put_back(&tried(first), unacked(last).seq, bytes);
        }
    }

    /// Makes messages ready again that were neighbours.
    fn put_back(&mut self, first: &Unacked, last: u64, bytes: u64) {
        let mut run = RequeuedRun {
            first: first.seq,
            last,
            position: first.position,
            attempts: first.attempts,
            bytes,
        };
        let messages = last - first.seq + 1;
        if self.is_lost(first) {
            self.lose_returned(&run, first.level);
            return;
        }
        self.ready += messages;
        self.ready_bytes += bytes;
        let knows = !breaks(Sabotage::ForgetDeadline);
        self.stale |= knows;
        let lane = self.lanes.at_mut(first.level);
        if self.mortal && knows {
            lane.note_own_deadlines(&run);
        }
        if breaks(Sabotage::RequeueLast) {
            if let Some(end) = lane.requeued.last().filter(|end| *end > run.first) {
                (run.first, run.last) = (end + 1, end + messages);
            }
            lane.requeued.insert_alone(run);
        } else {
            lane.requeued.insert(run);
        }
        self.lanes.came(first.level, messages);
    }
}

impl Lane {
    /// Takes into account that messages come back which may have expirations of their own.
    fn note_own_deadlines(&mut self, run: &RequeuedRun) {
        let mut at = run.position;
        if self.chunks.is_paged() {
            self.chunks.has_to_be_looked_through(at.chunk);
        }
        if let Some((_, away_ms)) = self.chunks.away_times(at.chunk) {
            self.own_ms = self.own_ms.min(away_ms);
            return;
        }
        for _ in run.first..=run.last {
            let Some(found) = self.chunks.record(at) else {
                return;
            };
            self.own_ms = self.own_ms.min(found.deadline_ms(u64::MAX));
            at.offset = found.next;
        }
    }

    /// Shows messages that came back, from a sequence number on and in order, until `show` breaks.
    /// What is on the disk only is looked for in `copy`; where that has not got it either, it
    /// breaks with the place it is at.
    pub(crate) fn requeued_from(
        &self,
        from: u64,
        copy: Option<&LoadedPage>,
        mut show: impl FnMut(&RequeuedRun, &Record<'_>, Option<&Arc<Blob>>) -> ControlFlow<()>,
    ) -> ControlFlow<Option<RunPlace>> {
        for run in self.requeued.runs_from(from) {
            let mut one = *run;
            for seq in run.first..=run.last {
                let found = match self.chunks.record_in(one.position, copy) {
                    Ok(Some(found)) => found,
                    Ok(None) => break,
                    Err(place) => return ControlFlow::Break(Some(place)),
                };
                (one.first, one.last) = (seq, seq);
                if seq >= from && show(&one, &found.record, found.blob).is_break() {
                    return ControlFlow::Break(None);
                }
                one.position.offset = found.next;
            }
        }
        ControlFlow::Continue(())
    }

    /// Shows the numbers of persistent messages among some that came back, in order.
    pub(super) fn persistent_of(&self, run: &RequeuedRun, mut show: impl FnMut(Range<u64>)) {
        let mut at = run.position;
        if let Some(ranges) = self.chunks.away_persistent(at.chunk, false) {
            let parts = ranges.map(|(from, to)| from.max(run.first)..to.min(run.last + 1));
            parts.filter(|part| !part.is_empty()).for_each(&mut show);
            return;
        }
        for seq in run.first..=run.last {
            let Some(found) = self.chunks.record(at) else {
                return;
            };
            if found.record.persistent {
                show(seq..seq + 1);
            }
            at.offset = found.next;
        }
    }

    /// Settles all messages that came back.
    pub(super) fn release_requeued(&mut self) {
        for run in self.requeued.drain() {
            let mut at = run.position;
            for _ in run.first..=run.last {
                // Read before: with its last message a chunk is gone.
                let found = self.chunks.record(at);
                let found = found.map(|found| (found.next, found.record.body.len()));
                let (next, body_len) = found.unwrap_or((at.offset, 0));
                self.chunks.release(at, body_len);
                at.offset = next;
            }
        }
    }
}
