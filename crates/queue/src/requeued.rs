//! Where the messages are that came back.

use std::collections::BTreeMap;

use leveret_record::{Attempts, Position};

/// Neighbours that were tried equally often: their sequence numbers are dense, and their records
/// follow each other in one chunk.
///
/// Records of one chunk are in the order of their numbers, so that dense numbers are enough.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequeuedRun {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Of the first record.
    pub(crate) position: Position,
    pub(crate) attempts: Attempts,
    /// Of their bodies.
    pub(crate) bytes: u64,
}

impl RequeuedRun {
    fn precedes(&self, other: &Self) -> bool {
        self.last + 1 == other.first
            && self.position.chunk == other.position.chunk
            && self.attempts == other.attempts
    }
}

/// Messages that came back, in order: a million of one consumer's are a run for each chunk.
#[derive(Debug, Default)]
pub(crate) struct Requeued {
    /// By their last numbers, which stay as they are when messages are taken from the front.
    runs: BTreeMap<u64, RequeuedRun>,
}

impl Requeued {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The oldest messages.
    #[inline]
    pub(crate) fn first(&self) -> Option<&RequeuedRun> {
        Some(self.runs.first_key_value()?.1)
    }

    /// The number of the newest message.
    pub(crate) fn last(&self) -> Option<u64> {
        Some(*self.runs.last_key_value()?.0)
    }

    /// Takes the oldest message out; `next` is where the record behind it begins.
    #[inline]
    pub(crate) fn pop_first(&mut self, next: u32, body_len: u32) {
        let Some(mut entry) = self.runs.first_entry() else {
            return;
        };
        let run = entry.get_mut();
        if run.first == run.last {
            entry.remove();
        } else {
            run.first += 1;
            run.position.offset = next;
            run.bytes -= u64::from(body_len);
        }
    }

    /// Takes out all messages of a chunk.
    pub(crate) fn take_chunk(&mut self, chunk: u32) -> Vec<RequeuedRun> {
        let of_chunk = |run: &&RequeuedRun| run.position.chunk == chunk;
        let taken: Vec<_> = self.runs.values().filter(of_chunk).copied().collect();
        for run in &taken {
            self.runs.remove(&run.last);
        }
        taken
    }

    /// Puts messages in that are not there, joined with their neighbours.
    pub(crate) fn insert(&mut self, mut run: RequeuedRun) {
        if let Some((&key, before)) = self.runs.range(..run.first).next_back()
            && before.precedes(&run)
        {
            run.first = before.first;
            run.position = before.position;
            run.bytes += before.bytes;
            self.runs.remove(&key);
        }
        match self.runs.range_mut(run.last..).next() {
            Some((_, after)) if run.precedes(after) => {
                after.first = run.first;
                after.position = run.position;
                after.bytes += run.bytes;
            }
            _ => self.insert_alone(run),
        }
    }

    /// Puts messages in that have no neighbours.
    pub(crate) fn insert_alone(&mut self, run: RequeuedRun) {
        let replaced = self.runs.insert(run.last, run);
        debug_assert!(replaced.is_none(), "{run:?} was there as {replaced:?}");
    }

    /// The runs that end at a number or after it, oldest first.
    pub(crate) fn runs_from(&self, seq: u64) -> impl Iterator<Item = &RequeuedRun> {
        self.runs.range(seq..).map(|(_, run)| run)
    }

    /// Takes everything out.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = RequeuedRun> + use<> {
        std::mem::take(&mut self.runs).into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn run(first: u64, last: u64, chunk: u32) -> RequeuedRun {
        let offset = first as u32 * 10;
        let position = Position { chunk, offset };
        RequeuedRun {
            first,
            last,
            position,
            attempts: Attempts::NONE,
            bytes: (last - first + 1) * 3,
        }
    }

    fn numbers(requeued: &Requeued) -> Vec<(u64, u64, u32)> {
        let runs = requeued.runs_from(0);
        runs.map(|run| {
            assert_eq!(run.bytes, (run.last - run.first + 1) * 3);
            (run.first, run.last, run.position.offset)
        })
        .collect()
    }

    #[test]
    fn neighbours_of_one_chunk_are_joined_from_either_side() {
        let mut requeued = Requeued::default();
        for (first, last) in [(5, 5), (9, 9), (4, 4), (6, 6), (0, 1)] {
            requeued.insert(run(first, last, 3));
        }
        assert_eq!(numbers(&requeued), [(0, 1, 0), (4, 6, 40), (9, 9, 90)]);
        requeued.insert(run(7, 8, 3));
        requeued.insert(run(10, 12, 4));
        assert_eq!(numbers(&requeued), [(0, 1, 0), (4, 9, 40), (10, 12, 100)]);
        assert_eq!(requeued.last(), Some(12));
        assert_eq!(requeued.runs_from(7).count(), 2);
    }

    #[test]
    fn messages_are_taken_from_the_front() {
        let mut requeued = Requeued::default();
        requeued.insert(run(3, 4, 0));
        requeued.insert(run(8, 8, 0));
        let mut taken = Vec::new();
        while let Some(&RequeuedRun {
            first, position, ..
        }) = requeued.first()
        {
            taken.push((first, position.offset));
            requeued.pop_first(position.offset + 10, 3);
        }
        assert_eq!(taken, [(3, 30), (4, 40), (8, 80)]);
        assert!(requeued.is_empty());
    }

    #[test]
    fn what_was_tried_more_often_stays_apart() {
        let mut requeued = Requeued::default();
        requeued.insert(run(3, 4, 0));
        let tried = Attempts::NONE.and_one(true);
        requeued.insert(RequeuedRun {
            attempts: tried,
            ..run(5, 5, 0)
        });
        requeued.insert(run(6, 6, 0));
        assert_eq!(numbers(&requeued), [(3, 4, 30), (5, 5, 50), (6, 6, 60)]);
    }

    #[test]
    fn messages_that_were_taken_may_come_back() {
        let mut requeued = Requeued::default();
        requeued.insert(run(3, 6, 0));
        requeued.pop_first(40, 3);
        requeued.pop_first(50, 3);
        requeued.insert(run(3, 3, 0));
        assert_eq!(numbers(&requeued), [(3, 3, 30), (5, 6, 50)]);
        requeued.insert(run(4, 4, 0));
        assert_eq!(numbers(&requeued), [(3, 6, 30)]);
        requeued.pop_first(40, 3);
        requeued.insert(run(3, 3, 0));
        assert_eq!(numbers(&requeued), [(3, 6, 30)]);
    }

    /// Messages are taken from the front of a run, and come back with more before them.
    #[test]
    fn what_comes_back_in_front_of_a_shortened_run_leaves_it_alone() {
        let mut requeued = Requeued::default();
        requeued.insert(run(2, 5, 0));
        requeued.pop_first(30, 3);
        requeued.pop_first(40, 3);
        requeued.insert(run(0, 2, 0));
        requeued.pop_first(10, 3);
        requeued.pop_first(20, 3);
        requeued.insert(run(0, 0, 0));
        assert_eq!(numbers(&requeued), [(0, 0, 0), (2, 2, 20), (4, 5, 40)]);
        requeued.insert(run(3, 3, 0));
        requeued.insert(run(1, 1, 0));
        assert_eq!(numbers(&requeued), [(0, 5, 0)]);
    }
}
