//! Unacknowledged deliveries of one channel, found by delivery tag without searching.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;

use leveret_record::{Attempts, Position, Unacked};

use crate::handed::Handed;

/// Below this many slots a hole-ridden ring is not worth tidying.
const SPARSE_SLOTS_MIN: usize = 4096;
const SPARSE_FACTOR: usize = 4;
/// Slots kept for an empty ring: what a common prefetch needs again at once.
const IDLE_SLOTS_MAX: usize = 4096;

/// A delivery that waits for its settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Which of the channel's sources it came from.
    pub source: u32,
    /// How it went out, and when if that counts.
    pub handed: Handed,
    /// What its queue needs to settle it.
    pub unacked: Unacked,
}

/// The tag names no delivery that waits for a settlement on this channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownTag;

const SETTLED: u32 = u32::MAX;
/// Stands for a tag that nobody settles, or not any more.
const HOLE: Slot = Slot {
    source: SETTLED,
    handed: Handed::PUSHED,
    unacked: Unacked {
        seq: 0,
        position: Position {
            chunk: 0,
            offset: 0,
        },
        body_len: 0,
        attempts: Attempts::NONE,
        level: 0,
        persistent: false,
    },
};

/// Slots indexed by `delivery tag - base`.
///
/// Tags are dense per channel, so a settled slot stays as a hole until the ones before it are gone.
/// A delivery that is never settled would let holes pile up behind it: such stragglers move to a
/// map.
#[derive(Debug, Default)]
pub struct UnackedRing {
    base: u64,
    slots: VecDeque<Slot>,
    live: usize,
    stragglers: BTreeMap<u64, Slot>,
}

impl UnackedRing {
    /// Deliveries that wait for their settlement.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live + self.stragglers.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the latest delivery came from, unless it is settled.
    pub(crate) fn last_source(&self) -> Option<u32> {
        let last = self.slots.back()?;
        (last.source != SETTLED).then_some(last.source)
    }

    /// Keeps a delivery under its tag, which is above all earlier ones.
    #[inline]
    pub fn push(&mut self, tag: u64, slot: Slot) {
        let next = self.slots.len();
        if tag - self.base != next as u64 || next >= SPARSE_SLOTS_MIN {
            self.make_next(tag);
        }
        self.slots.push_back(slot);
        self.live += 1;
    }

    /// Makes `tag` the next one: holes stand for tags of deliveries that nobody settles. Where most
    /// would be holes, what waits moves out of the way.
    #[inline(never)]
    fn make_next(&mut self, tag: u64) {
        if self.slots.is_empty() {
            self.base = tag;
            return;
        }
        let span = usize::try_from(tag - self.base).unwrap_or(usize::MAX);
        let is_sparse = span >= SPARSE_SLOTS_MIN && span / SPARSE_FACTOR > self.live;
        if is_sparse {
            self.move_stragglers(tag);
        }
        let span = usize::try_from(tag - self.base).unwrap_or(usize::MAX);
        self.slots.resize(span, HOLE);
    }

    /// Moves the oldest out of the way, so that of the slots before `tag` half are no holes.
    fn move_stragglers(&mut self, tag: u64) {
        while tag - self.base > 2 * self.live as u64 {
            let Some(slot) = self.slots.pop_front() else {
                self.base = tag;
                return;
            };
            if slot.source != SETTLED {
                self.stragglers.insert(self.base, slot);
                self.live -= 1;
            }
            self.base += 1;
        }
    }

    /// Takes out one delivery, or with `multiple` all up to and including it, oldest first.
    ///
    /// Tag 0 with `multiple` means all and is never an error.
    ///
    /// # Errors
    /// [`UnknownTag`] when the tag was never given or is settled already; nothing is taken.
    #[inline]
    pub fn settle(
        &mut self,
        tag: u64,
        multiple: bool,
        mut settled: impl FnMut(u64, Slot),
    ) -> Result<(), UnknownTag> {
        if multiple {
            return self.settle_up_to(tag, settled);
        }
        let slot = match tag.checked_sub(self.base) {
            Some(index) => {
                let index = usize::try_from(index).map_err(|_| UnknownTag)?;
                let slot = self
                    .slots
                    .get_mut(index)
                    .filter(|slot| slot.source != SETTLED);
                let slot = slot.ok_or(UnknownTag)?;
                let taken = *slot;
                slot.source = SETTLED;
                self.live -= 1;
                self.skip_holes();
                taken
            }
            None => self.stragglers.remove(&tag).ok_or(UnknownTag)?,
        };
        settled(tag, slot);
        Ok(())
    }

    /// The latest delivery, unless it is settled.
    pub(crate) fn last_mut(&mut self) -> Option<&mut Slot> {
        self.slots.back_mut().filter(|slot| slot.source != SETTLED)
    }

    /// Looks at deliveries from a tag on, oldest first and so many places at most, until `judge`
    /// breaks, and takes out those it says. Gives the tag to go on from, if there may be more.
    pub(crate) fn sift(
        &mut self,
        from: u64,
        mut looks: usize,
        mut judge: impl FnMut(u64, &mut Slot) -> ControlFlow<(), bool>,
    ) -> Option<u64> {
        let mut at = from;
        while let Some((&tag, slot)) = self.stragglers.range_mut(at..).next() {
            if looks == 0 {
                return Some(tag);
            }
            match judge(tag, slot) {
                ControlFlow::Break(()) => return Some(tag),
                ControlFlow::Continue(true) => drop(self.stragglers.remove(&tag)),
                ControlFlow::Continue(false) => {}
            }
            at = tag + 1;
            looks -= 1;
        }
        let next = self.sift_slots(at.max(self.base), looks, judge);
        self.skip_holes();
        next
    }

    fn sift_slots(
        &mut self,
        from: u64,
        looks: usize,
        mut judge: impl FnMut(u64, &mut Slot) -> ControlFlow<(), bool>,
    ) -> Option<u64> {
        let len = self.slots.len();
        let start = usize::try_from(from - self.base).map_or(len, |start| start.min(len));
        let end = start.saturating_add(looks).min(len);
        for (tag, slot) in (from..).zip(self.slots.range_mut(start..end)) {
            if slot.source == SETTLED {
                continue;
            }
            match judge(tag, slot) {
                ControlFlow::Break(()) => return Some(tag),
                ControlFlow::Continue(true) => {
                    slot.source = SETTLED;
                    self.live -= 1;
                }
                ControlFlow::Continue(false) => {}
            }
        }
        (end < len).then_some(self.base + end as u64)
    }

    /// Brings a delivery back that was taken out.
    pub fn restore(&mut self, tag: u64, slot: Slot) {
        if self.slots.is_empty() {
            self.base = self.base.max(tag + 1);
        }
        let place = tag.checked_sub(self.base).and_then(|index| {
            let index = usize::try_from(index).ok()?;
            self.slots.get_mut(index)
        });
        match place {
            Some(place) => {
                *place = slot;
                self.live += 1;
            }
            None => {
                self.stragglers.insert(tag, slot);
            }
        }
    }

    fn settle_up_to(&mut self, tag: u64, settled: impl FnMut(u64, Slot)) -> Result<(), UnknownTag> {
        if tag != 0 && !self.contains(tag) {
            return Err(UnknownTag);
        }
        self.settle_through(tag, settled);
        Ok(())
    }

    /// Takes out all up to this tag, whether it is known or not; 0 means all.
    pub(crate) fn settle_through(&mut self, tag: u64, mut settled: impl FnMut(u64, Slot)) {
        let tag = if tag == 0 { u64::MAX } else { tag };
        while let Some(entry) = self.stragglers.first_entry() {
            if *entry.key() > tag {
                return;
            }
            let (tag, slot) = entry.remove_entry();
            settled(tag, slot);
        }
        if self.base <= tag {
            let up_to =
                usize::try_from(tag - self.base).map_or(usize::MAX, |n| n.saturating_add(1));
            let count = up_to.min(self.slots.len());
            let tags = self.base..;
            self.base += count as u64;
            // In place: a slot that is moved out first is written to the stack in pieces of other
            // sizes than it is read in, and the processor waits for that.
            for (tag, slot) in tags.zip(self.slots.range(..count)) {
                if slot.source != SETTLED {
                    self.live -= 1;
                    settled(tag, *slot);
                }
            }
            self.slots.drain(..count);
        }
        self.skip_holes();
    }

    /// Whether a delivery of this tag waits.
    pub(crate) fn contains(&self, tag: u64) -> bool {
        let Some(index) = tag.checked_sub(self.base) else {
            return self.stragglers.contains_key(&tag);
        };
        usize::try_from(index)
            .ok()
            .and_then(|index| self.slots.get(index))
            .is_some_and(|slot| slot.source != SETTLED)
    }

    #[inline]
    fn skip_holes(&mut self) {
        while self
            .slots
            .front()
            .is_some_and(|slot| slot.source == SETTLED)
        {
            self.slots.pop_front();
            self.base += 1;
        }
        if self.slots.is_empty() && self.slots.capacity() > IDLE_SLOTS_MAX {
            self.slots = VecDeque::new();
        }
    }

    /// All deliveries that wait, with their tags, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Slot)> {
        let old = self.stragglers.iter().map(|(tag, slot)| (*tag, slot));
        let tags = (self.base..).zip(&self.slots);
        old.chain(tags.filter(|(_, slot)| slot.source != SETTLED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(seq: u64) -> Slot {
        let unacked = Unacked {
            seq,
            ..Unacked::default()
        };
        Slot {
            source: 1,
            handed: Handed::PUSHED,
            unacked,
        }
    }

    fn ring(tags: impl Iterator<Item = u64>) -> UnackedRing {
        let mut ring = UnackedRing::default();
        for tag in tags {
            ring.push(tag, slot(tag));
        }
        ring
    }

    fn settle(ring: &mut UnackedRing, tag: u64, multiple: bool) -> Result<Vec<u64>, UnknownTag> {
        let mut seqs = Vec::new();
        ring.settle(tag, multiple, |_, slot| seqs.push(slot.unacked.seq))?;
        Ok(seqs)
    }

    #[test]
    fn a_tag_is_settled_once() {
        let mut ring = ring(1..=3);
        assert_eq!(settle(&mut ring, 2, false), Ok(vec![2]));
        assert_eq!(settle(&mut ring, 2, false), Err(UnknownTag));
        assert_eq!(settle(&mut ring, 2, true), Err(UnknownTag));
        assert_eq!(settle(&mut ring, 3, true), Ok(vec![1, 3]));
        assert_eq!(settle(&mut ring, 4, false), Err(UnknownTag));
        assert_eq!(settle(&mut ring, 0, false), Err(UnknownTag));
    }

    #[test]
    fn tag_zero_means_all_and_is_fine_with_none() {
        let mut ring = ring(5..=7);
        assert_eq!(settle(&mut ring, 0, true), Ok(vec![5, 6, 7]));
        assert_eq!(settle(&mut ring, 0, true), Ok(vec![]));
        assert!(ring.is_empty());
    }

    #[test]
    fn tags_may_skip_deliveries_that_need_no_settlement() {
        let mut ring = ring([2, 5].into_iter());
        assert_eq!(settle(&mut ring, 3, false), Err(UnknownTag));
        assert_eq!(settle(&mut ring, 5, true), Ok(vec![2, 5]));
    }

    #[test]
    fn a_gap_of_any_length_costs_no_memory() {
        const FAR: u64 = 1 << 60;
        let mut ring = ring([1, 3].into_iter());
        for tag in [FAR, 2 * FAR, 2 * FAR + 3] {
            ring.push(tag, slot(tag));
        }
        assert!(ring.slots.capacity() <= SPARSE_SLOTS_MIN);
        assert_eq!(ring.len(), 5);
        assert_eq!(settle(&mut ring, 2, false), Err(UnknownTag));
        assert_eq!(settle(&mut ring, 2 * FAR + 1, true), Err(UnknownTag));
        assert_eq!(settle(&mut ring, 3, false), Ok(vec![3]));
        assert_eq!(settle(&mut ring, FAR, true), Ok(vec![1, FAR]));
        assert_eq!(settle(&mut ring, 0, true), Ok(vec![2 * FAR, 2 * FAR + 3]));
        assert!(ring.is_empty());
    }

    #[test]
    fn whatever_waits_is_looked_at_once_wherever_it_stands() {
        const LAST: u64 = 20_000;
        let mut ring = ring([1, 4].into_iter());
        for tag in 5..LAST {
            ring.push(tag, slot(tag));
            assert_eq!(settle(&mut ring, tag, false), Ok(vec![tag]));
        }
        assert_eq!(ring.stragglers.len(), 2);
        for tag in LAST..LAST + 10 {
            ring.push(tag, slot(tag));
        }
        settle(&mut ring, LAST + 3, false).unwrap();
        let waits: Vec<_> = ring.iter().map(|(tag, _)| tag).collect();
        let (mut seen, mut from) = (Vec::new(), Some(0));
        while let Some(at) = from {
            from = ring.sift(at, 3, |tag, slot| {
                assert_eq!(slot.unacked.seq, tag);
                seen.push(tag);
                ControlFlow::Continue(tag % 2 == 0)
            });
        }
        assert_eq!(seen, waits);
        let mut odd: Vec<_> = waits.into_iter().filter(|tag| tag % 2 == 1).collect();
        assert_eq!(ring.iter().map(|(tag, _)| tag).collect::<Vec<_>>(), odd);
        let stopped = ring.sift(0, 100, |tag, _| match tag {
            1 => ControlFlow::Continue(true),
            _ => ControlFlow::Break(()),
        });
        assert_eq!(stopped, odd.get(1).copied());
        assert_eq!(settle(&mut ring, 0, true), Ok(odd.split_off(1)));
    }

    #[test]
    fn a_straggler_does_not_pin_the_slots_behind_it() {
        let mut ring = ring(1..=1);
        for tag in 2..100_000 {
            ring.push(tag, slot(tag));
            assert_eq!(settle(&mut ring, tag, false), Ok(vec![tag]));
        }
        assert!(ring.slots.capacity() <= 4 * SPARSE_SLOTS_MIN);
        assert_eq!(ring.iter().map(|(tag, _)| tag).collect::<Vec<_>>(), [1]);
        assert_eq!(settle(&mut ring, 1, true), Ok(vec![1]));
    }
}
