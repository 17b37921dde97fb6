//! In which order rows are kept, and where: the same for rows of every kind, as what sorts is long
//! and would be compiled for each of them.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::Key;

/// What a row is sorted by.
struct RowRank {
    key: Key,
    /// Its place among all rows: equal keys leave the order as it was.
    place: usize,
    /// The slot that the row is kept in.
    slot: usize,
}

impl RowRank {
    fn order(&self, other: &Self, reverse: bool) -> Ordering {
        let order = self.key.order(&other.key);
        let order = order.then(self.place.cmp(&other.place));
        if reverse { order.reverse() } else { order }
    }
}

/// The ranks of the rows that are kept. Their slots are numbered from 0 on without gaps.
#[derive(Default)]
pub(super) struct Ranks {
    ranks: VecDeque<RowRank>,
    /// Slots of rows that are kept no more.
    free: Vec<usize>,
}

impl Ranks {
    /// What one takes, without its key's text.
    pub(super) const BYTES: usize = size_of::<RowRank>();

    pub(super) fn len(&self) -> usize {
        self.ranks.len()
    }

    /// So many fit in.
    pub(super) fn capacity(&self) -> usize {
        self.ranks.capacity()
    }

    pub(super) fn reserve(&mut self, more: usize) {
        self.ranks.reserve_exact(more);
    }

    /// The slot for another row, which comes last.
    pub(super) fn push(&mut self, key: Key, place: usize) -> usize {
        let slot = self.free.pop().unwrap_or(self.ranks.len());
        self.ranks.push_back(RowRank { key, place, slot });
        slot
    }

    /// Keeps the first one no more.
    pub(super) fn drop_first(&mut self) {
        let first = self.ranks.pop_front();
        self.free.extend(first.map(|rank| rank.slot));
    }

    /// Leaves the first `end` in order; the bytes of the others' keys.
    pub(super) fn cut(&mut self, end: usize, reverse: bool) -> usize {
        if end >= self.ranks.len() {
            return 0;
        }
        let ranks = self.ranks.make_contiguous();
        if end > 0 {
            ranks.select_nth_unstable_by(end - 1, |a, b| a.order(b, reverse));
        }
        let dropped = self.ranks.drain(end..);
        let bytes = dropped.map(|rank| {
            self.free.push(rank.slot);
            rank.key.heap_bytes()
        });
        bytes.sum()
    }

    /// Slots whose rows are kept no more.
    pub(super) fn free(&self) -> &[usize] {
        &self.free
    }

    pub(super) fn sort(&mut self, reverse: bool) {
        let ranks = self.ranks.make_contiguous();
        ranks.sort_unstable_by(|a, b| a.order(b, reverse));
    }

    /// The slots in order, or from the last one on.
    pub(super) fn into_slots(mut self, reverse: bool) -> impl Iterator<Item = usize> {
        if reverse {
            self.ranks.make_contiguous().reverse();
        }
        self.ranks.into_iter().map(|rank| rank.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows that are their keys, as far as they are kept.
    fn kept(numbers: &[u32], end: usize, reverse: bool) -> Vec<u32> {
        let (mut ranks, mut rows) = (Ranks::default(), Vec::new());
        for (place, number) in numbers.iter().enumerate() {
            let slot = ranks.push(Key::Number(f64::from(number / 10)), place);
            if slot == rows.len() {
                rows.push(*number);
            } else {
                rows[slot] = *number;
            }
            if ranks.len() == end * 2 {
                ranks.cut(end, reverse);
                assert_eq!(ranks.free().len() + ranks.len(), rows.len());
            }
        }
        ranks.cut(end, reverse);
        ranks.sort(reverse);
        ranks.into_slots(false).map(|slot| rows[slot]).collect()
    }

    #[test]
    fn those_that_are_wanted_are_kept_in_order_and_equal_ones_as_they_came() {
        let numbers = [50, 11, 90, 10, 31, 30, 70, 12, 20];
        assert_eq!(kept(&numbers, 4, false), [11, 10, 12, 20]);
        assert_eq!(kept(&numbers, 3, true), [90, 70, 50]);
        assert_eq!(
            kept(&numbers, 9, false),
            [11, 10, 12, 20, 31, 30, 50, 70, 90]
        );
        assert_eq!(kept(&numbers, 0, false), [0; 0]);
    }

    #[test]
    fn the_last_ones_are_given_from_the_last_one_on() {
        let mut ranks = Ranks::default();
        for place in 0..5 {
            if ranks.len() == 2 {
                ranks.drop_first();
            }
            assert!(ranks.push(Key::Number(0.0), place) < 2);
        }
        let slots: Vec<usize> = ranks.into_slots(true).collect();
        assert_eq!(slots, [0, 1]);
    }
}
