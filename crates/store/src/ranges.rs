//! A map from sequence numbers to a small value, kept as ranges: what is dense costs nothing.

use std::collections::BTreeMap;

/// Disjoint ranges `from..to`, each with a value; neighbours of equal value are one range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RangeMap<V> {
    /// Start to (end, value).
    ranges: BTreeMap<u64, (u64, V)>,
}

impl<V> Default for RangeMap<V> {
    fn default() -> Self {
        Self {
            ranges: BTreeMap::new(),
        }
    }
}

impl<V: Copy + PartialEq> RangeMap<V> {
    /// Whether no number has a value.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The value of one number.
    pub(crate) fn get(&self, at: u64) -> Option<V> {
        let (_, &(to, value)) = self.ranges.range(..=at).next_back()?;
        (at < to).then_some(value)
    }

    /// All ranges in order: `(from, to, value)`.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64, V)> + '_ {
        self.ranges
            .iter()
            .map(|(&from, &(to, value))| (from, to, value))
    }

    /// The parts of `from..to` that have a value, in order.
    pub(crate) fn within(&self, from: u64, to: u64) -> Vec<(u64, u64, V)> {
        let first = self
            .ranges
            .range(..=from)
            .next_back()
            .map_or(from, |(&start, _)| start);
        self.ranges
            .range(first..to.max(first))
            .filter(|(_, (end, _))| *end > from)
            .map(|(&start, &(end, value))| (start.max(from), end.min(to), value))
            .collect()
    }

    /// The parts of `from..to` that have no value, in order.
    pub(crate) fn missing(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = from;
        for (start, end, _) in self.within(from, to) {
            if start > at {
                gaps.push((at, start));
            }
            at = end;
        }
        if at < to {
            gaps.push((at, to));
        }
        gaps
    }

    /// Gives `from..to` a value; calls `replaced` with what had one before.
    pub(crate) fn insert(
        &mut self,
        from: u64,
        to: u64,
        value: V,
        replaced: impl FnMut(u64, u64, V),
    ) {
        if from >= to {
            return;
        }
        if let Some(mut last) = self.ranges.last_entry() {
            let (end, held) = last.get_mut();
            if *end == from && *held == value {
                *end = to;
                return;
            }
        }
        self.remove(from, to, replaced);
        let (mut from, mut to) = (from, to);
        if let Some((&start, &(end, held))) = self.ranges.range(..from).next_back()
            && end == from
            && held == value
        {
            self.ranges.remove(&start);
            from = start;
        }
        if let Some(&(end, held)) = self.ranges.get(&to)
            && held == value
        {
            self.ranges.remove(&to);
            to = end;
        }
        self.ranges.insert(from, (to, value));
    }

    /// Takes the values of `from..to` away; calls `removed` with what had one.
    pub(crate) fn remove(&mut self, from: u64, to: u64, mut removed: impl FnMut(u64, u64, V)) {
        while let Some((&start, &(end, value))) = self.ranges.range(..to).next_back() {
            if end <= from || from >= to {
                return;
            }
            self.ranges.remove(&start);
            if end > to {
                self.ranges.insert(to, (end, value));
            }
            if start < from {
                self.ranges.insert(start, (from, value));
            }
            removed(start.max(from), end.min(to), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every insert and remove on numbers below 12, against a plain array.
    #[test]
    fn agrees_with_an_array() {
        let mut rng = crate::sim::Rng::new(7);
        for _ in 0..2_000 {
            let mut map = RangeMap::default();
            let mut array = [None; 12];
            for _ in 0..12 {
                let from = rng.below(12);
                let to = from + rng.below(13 - from);
                let mut seen = 0;
                let before: u64 = (from..to)
                    .filter(|at| array[*at as usize].is_some())
                    .count() as u64;
                let value = (rng.below(3) != 0).then(|| rng.below(2) as u8);
                match value {
                    Some(value) => map.insert(from, to, value, |a, b, _| seen += b - a),
                    None => map.remove(from, to, |a, b, _| seen += b - a),
                }
                assert_eq!(seen, before);
                array[from as usize..to as usize].fill(value);
                let flat: Vec<_> = (0..12).map(|at| map.get(at)).collect();
                assert_eq!(flat, array);
                let (low, high) = (rng.below(6), 6 + rng.below(6));
                let gaps: u64 = map.missing(low, high).iter().map(|(a, b)| b - a).sum();
                let held: u64 = map.within(low, high).iter().map(|(a, b, _)| b - a).sum();
                let empty = (low..high)
                    .filter(|at| array[*at as usize].is_none())
                    .count() as u64;
                assert_eq!((gaps, held), (empty, high - low - empty));
            }
            let ranges: Vec<_> = map.iter().collect();
            assert!(
                ranges
                    .windows(2)
                    .all(|w| w[0].1 < w[1].0 || w[0].2 != w[1].2)
            );
            assert_eq!(ranges.len(), map.len());
        }
    }
}
