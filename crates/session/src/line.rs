//! Queues that wait for room on a channel, in the order in which they began to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A line of queues, each known by a number of its own. `W` is what to pump when it is their turn.
#[derive(Debug)]
pub(crate) struct Line<W> {
    /// Those that wait, and the number of their place.
    places: BTreeMap<usize, u64>,
    /// Places in order. One that was given up stays until it is met.
    line: VecDeque<LinePlace<W>>,
    /// Those of queues that have had nothing yet, which go before.
    fresh: VecDeque<LinePlace<W>>,
    /// Queues that are fresh no more.
    known: BTreeSet<usize>,
    next: u64,
}

type LinePlace<W> = (usize, u64, W);

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self {
            places: BTreeMap::new(),
            line: VecDeque::new(),
            fresh: VecDeque::new(),
            known: BTreeSet::new(),
            next: 0,
        }
    }
}

impl<W> Line<W> {
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Goes to the end, unless the queue waits already. `served`: it had a delivery just now.
    pub(crate) fn join(&mut self, queue: usize, served: bool, waiting: W) {
        if self.places.contains_key(&queue) {
            return;
        }
        let is_fresh = self.known.insert(queue) && !served;
        let places = &self.places;
        let line = if is_fresh {
            &mut self.fresh
        } else {
            &mut self.line
        };
        if line.len() == line.capacity() {
            line.retain(|(queue, place, _)| places.get(queue) == Some(place));
            line.reserve(line.len() + 1);
        }
        line.push_back((queue, self.next, waiting));
        self.places.insert(queue, self.next);
        self.next += 1;
    }

    /// Gives a place up; the queue begins anew when it comes back.
    pub(crate) fn leave(&mut self, queue: usize) {
        self.known.remove(&queue);
        self.places.remove(&queue);
        if self.places.is_empty() {
            self.line.clear();
            self.fresh.clear();
        }
    }

    /// Takes out the queue that has waited longest.
    pub(crate) fn pop(&mut self) -> Option<(usize, W)> {
        let mut next = || self.fresh.pop_front().or_else(|| self.line.pop_front());
        while let Some((queue, place, waiting)) = next() {
            if self.places.get(&queue) == Some(&place) {
                self.places.remove(&queue);
                return Some((queue, waiting));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_waits_once_and_begins_anew_when_it_gave_its_place_up() {
        let mut line = Line::default();
        for queue in [1, 2, 1, 3, 2] {
            line.join(queue, false, queue);
        }
        line.leave(1);
        line.join(1, false, 1);
        let order: Vec<_> = std::iter::from_fn(|| line.pop()).collect();
        assert_eq!(order, [(2, 2), (3, 3), (1, 1)]);
        assert!(line.is_empty());
    }

    #[test]
    fn a_queue_that_had_nothing_yet_goes_before_those_that_had() {
        let mut line = Line::default();
        for (queue, served) in [(1, true), (2, false), (3, false)] {
            line.join(queue, served, queue);
        }
        assert_eq!(line.pop(), Some((2, 2)));
        line.join(2, false, 2);
        let order: Vec<_> = std::iter::from_fn(|| line.pop()).collect();
        assert_eq!(order, [(3, 3), (1, 1), (2, 2)]);
    }

    #[test]
    fn places_that_were_given_up_cost_nothing_for_long() {
        let mut line = Line::default();
        line.join(0, false, ());
        for queue in 1..100_000 {
            line.join(queue, queue % 2 == 0, ());
            line.leave(queue);
        }
        assert!(line.line.capacity() + line.fresh.capacity() <= 16);
        assert_eq!(line.known.len(), 1);
        assert_eq!(line.pop(), Some((0, ())));
    }
}
