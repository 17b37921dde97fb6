//! Deliveries that were taken back from their client: their settlement comes to nothing.

use std::collections::BTreeMap;

/// Runs of tags that are kept apart; of more the oldest are joined.
const RUNS_MAX: usize = 1024;

/// Tags of deliveries that were taken back, and not settled since.
///
/// Between runs that were joined stand tags that are settled already, and can be settled again
/// without an error then; but no client is punished for being late.
#[derive(Debug, Default)]
pub(crate) struct Late {
    /// By the first tag of each.
    runs: BTreeMap<u64, TagRun>,
}

#[derive(Clone, Copy, Debug)]
struct TagRun {
    last: u64,
    /// How many of its tags were taken back: all, unless runs were joined.
    tags: u64,
}

impl TagRun {
    const fn is_whole(self, first: u64) -> bool {
        self.last - first + 1 == self.tags
    }
}

impl Late {
    /// A delivery is taken back.
    pub(crate) fn insert(&mut self, tag: u64) {
        let (mut first, mut run) = (tag, TagRun { last: tag, tags: 1 });
        if let Some((&start, before)) = self.runs.range(..tag).next_back()
            && (before.last > tag || before.last + 1 == tag && before.is_whole(start))
        {
            first = start;
            run.last = before.last.max(tag);
            run.tags += before.tags;
        }
        if let Some((&start, after)) = self.runs.range(tag..).next()
            && run.last + 1 == start
            && run.is_whole(first)
            && after.is_whole(start)
        {
            run.last = after.last;
            run.tags += after.tags;
            self.runs.remove(&start);
        }
        self.runs.insert(first, run);
        self.join_oldest();
    }

    fn join_oldest(&mut self) {
        while self.runs.len() > RUNS_MAX
            && let Some((first, oldest)) = self.runs.pop_first()
            && let Some((_, next)) = self.runs.pop_first()
        {
            let run = TagRun {
                last: next.last,
                tags: oldest.tags + next.tags,
            };
            self.runs.insert(first, run);
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether it is the tag of a delivery that was taken back.
    pub(crate) fn contains(&self, tag: u64) -> bool {
        let run = self.runs.range(..=tag).next_back();
        run.is_some_and(|(_, run)| tag <= run.last)
    }

    /// How many tags up to and including this one there are.
    pub(crate) fn up_to(&self, tag: u64) -> u64 {
        let runs = self.runs.range(..=tag);
        runs.map(|(_, run)| run.tags - above(*run, tag)).sum()
    }

    /// Forgets one, as it is settled: `false` if there is none such.
    pub(crate) fn settle(&mut self, tag: u64) -> bool {
        let run = self.runs.range_mut(..=tag).next_back();
        let Some((&first, run)) = run.filter(|(_, run)| tag <= run.last) else {
            return false;
        };
        if !run.is_whole(first) {
            run.tags -= 1;
            if run.tags == 0 {
                self.runs.remove(&first);
            }
            return true;
        }
        let end = run.last + 1;
        self.runs.remove(&first);
        for (first, end) in [(first, tag), (tag + 1, end)] {
            if first < end {
                let (last, tags) = (end - 1, end - first);
                self.runs.insert(first, TagRun { last, tags });
            }
        }
        self.join_oldest();
        true
    }

    /// Forgets all up to and including this one; gives how many there were.
    pub(crate) fn settle_up_to(&mut self, tag: u64) -> u64 {
        let mut settled = 0;
        while let Some(entry) = self.runs.first_entry()
            && *entry.key() <= tag
        {
            let (_, run) = entry.remove_entry();
            let left = above(run, tag);
            settled += run.tags - left;
            if left > 0 {
                self.runs.insert(tag + 1, TagRun { tags: left, ..run });
            }
        }
        settled
    }
}

/// How many tags of a run are above this one; of one that was joined, at most.
fn above(run: TagRun, tag: u64) -> u64 {
    run.last.saturating_sub(tag).min(run.tags)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn late(tags: impl IntoIterator<Item = u64>) -> Late {
        let mut late = Late::default();
        for tag in tags {
            late.insert(tag);
        }
        late
    }

    #[test]
    fn neighbours_are_one_run_in_whatever_order_they_come() {
        for order in [[1, 2, 3, 4], [4, 3, 2, 1], [1, 4, 2, 3], [2, 4, 3, 1]] {
            let mut late = late(order);
            assert_eq!(late.runs.len(), 1, "{order:?}");
            assert!(late.settle(2) && !late.settle(2), "{order:?}");
            assert_eq!(late.up_to(3), 2);
            assert_eq!(late.settle_up_to(3), 2);
            assert!(!late.contains(3) && late.contains(4) && !late.contains(5));
            assert!(late.settle(4) && late.runs.is_empty());
        }
    }

    #[test]
    fn a_million_in_a_row_take_one_run_and_what_lies_scattered_a_thousand() {
        let mut late = late(1..=1_000_000);
        assert_eq!(late.runs.len(), 1);
        let scattered = (2_000_000..2_100_000).step_by(2);
        let tags: Vec<u64> = scattered.collect();
        for tag in &tags {
            late.insert(*tag);
        }
        assert!(late.runs.len() <= RUNS_MAX);
        assert!(tags.iter().all(|tag| late.contains(*tag)));
        assert!(tags.iter().rev().all(|tag| late.settle(*tag)));
        assert_eq!(late.settle_up_to(u64::MAX), 1_000_000);
        assert!(late.runs.is_empty());
    }

    #[test]
    fn it_is_a_set_of_tags_as_long_as_there_are_few_runs() {
        let (mut late, mut model) = (Late::default(), BTreeSet::new());
        let mut random = 1u64;
        for step in 0..20_000u64 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(step);
            let tag = (random >> 33) % 500;
            match random >> 60 {
                0..=8 => {
                    if model.insert(tag) {
                        late.insert(tag);
                    }
                }
                9..=14 => assert_eq!(late.settle(tag), model.remove(&tag)),
                _ => {
                    let before = model.len();
                    model.retain(|known| *known > tag / 8);
                    assert_eq!(late.up_to(tag / 8), (before - model.len()) as u64);
                    let settled = late.settle_up_to(tag / 8);
                    assert_eq!(settled, (before - model.len()) as u64);
                }
            }
            assert_eq!(late.contains(tag), model.contains(&tag));
        }
    }
}
