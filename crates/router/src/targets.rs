//! Where one binding key leads: a sorted set of queues and exchanges that counts repeats.

use std::collections::BTreeMap;

use crate::route::Matches;
use crate::steps::Steps;

/// A queue's identity, given by the broker: dense, and reused only after the queue was removed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct QueueId(pub u32);

/// An exchange's place in the router's slab.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ExchangeId(pub(crate) u32);

/// The far end of a binding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Target {
    Queue(QueueId),
    Exchange(ExchangeId),
}

/// The targets of one key. One target, the common case, costs no allocation.
#[derive(Debug, Default)]
pub(crate) enum Targets {
    #[default]
    None,
    One(Target),
    Many(Box<Many>),
}

/// Two targets or more, or one target that several bindings lead to.
#[derive(Debug, Default)]
pub(crate) struct Many {
    queues: Counted<QueueId>,
    exchanges: Counted<ExchangeId>,
}

/// A sorted list without repeats beside the number of additional bindings of each element.
#[derive(Debug)]
struct Counted<T> {
    sorted: Vec<T>,
    /// Invariant: keys are in `sorted`, values are at least 1.
    repeats: BTreeMap<T, u32>,
}

impl Targets {
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Adds one binding's target.
    pub(crate) fn add(&mut self, target: Target) {
        match self {
            Self::None => *self = Self::One(target),
            Self::Many(many) => many.add(target),
            Self::One(first) => {
                let mut many = Box::<Many>::default();
                many.add(*first);
                many.add(target);
                *self = Self::Many(many);
            }
        }
    }

    /// Takes one binding's target away.
    pub(crate) fn remove(&mut self, target: Target) {
        match self {
            Self::None => {}
            Self::One(only) => {
                if *only == target {
                    *self = Self::None;
                }
            }
            Self::Many(many) => {
                many.remove(target);
                if let Some(few) = many.as_few() {
                    *self = few;
                }
            }
        }
    }

    /// Writes the targets into a route: each once, queues sorted.
    #[inline]
    pub(crate) fn emit(&self, found: &mut Matches, steps: &mut Steps) {
        match self {
            Self::None => return,
            Self::One(Target::Queue(queue)) => found.queues.push(*queue),
            Self::One(Target::Exchange(exchange)) => found.hops.push(*exchange),
            Self::Many(many) => {
                let (queues, exchanges) = (&many.queues.sorted, &many.exchanges.sorted);
                found.queues.extend_from_slice(queues);
                found.hops.extend_from_slice(exchanges);
                steps.took((queues.len() + exchanges.len()) / IDS_OF_STEP);
            }
        }
        found.runs += 1;
    }
}

/// Ids that are copied and sorted for the price of one step.
const IDS_OF_STEP: usize = 4;

impl Many {
    fn add(&mut self, target: Target) {
        match target {
            Target::Queue(queue) => self.queues.add(queue),
            Target::Exchange(exchange) => self.exchanges.add(exchange),
        }
    }

    fn remove(&mut self, target: Target) {
        match target {
            Target::Queue(queue) => self.queues.remove(queue),
            Target::Exchange(exchange) => self.exchanges.remove(exchange),
        }
    }

    /// The plain form, once a list is no longer needed.
    fn as_few(&self) -> Option<Targets> {
        if !self.queues.repeats.is_empty() || !self.exchanges.repeats.is_empty() {
            return None;
        }
        match (
            self.queues.sorted.as_slice(),
            self.exchanges.sorted.as_slice(),
        ) {
            ([], []) => Some(Targets::None),
            ([queue], []) => Some(Targets::One(Target::Queue(*queue))),
            ([], [exchange]) => Some(Targets::One(Target::Exchange(*exchange))),
            _ => None,
        }
    }
}

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self {
            sorted: Vec::new(),
            repeats: BTreeMap::new(),
        }
    }
}

impl<T: Copy + Ord> Counted<T> {
    fn add(&mut self, id: T) {
        match self.sorted.binary_search(&id) {
            Ok(_) => *self.repeats.entry(id).or_insert(0) += 1,
            Err(at) => self.sorted.insert(at, id),
        }
    }

    fn remove(&mut self, id: T) {
        if let Some(count) = self.repeats.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.repeats.remove(&id);
            }
            return;
        }
        if let Ok(at) = self.sorted.binary_search(&id) {
            self.sorted.remove(at);
        }
        if self.sorted.capacity() > 64 && self.sorted.len() < self.sorted.capacity() / 4 {
            self.sorted.shrink_to(self.sorted.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(targets: &Targets) -> Vec<u32> {
        let mut found = Matches::default();
        targets.emit(&mut found, &mut Steps::unlimited());
        found.queues.iter().map(|q| q.0).collect()
    }

    #[test]
    fn a_target_stays_until_its_last_binding_goes() {
        let mut targets = Targets::default();
        for id in [5, 3, 5, 9, 5] {
            targets.add(Target::Queue(QueueId(id)));
        }
        targets.add(Target::Exchange(ExchangeId(5)));
        assert_eq!(queues(&targets), [3, 5, 9]);
        targets.remove(Target::Queue(QueueId(5)));
        targets.remove(Target::Queue(QueueId(5)));
        assert_eq!(queues(&targets), [3, 5, 9]);
        targets.remove(Target::Queue(QueueId(5)));
        targets.remove(Target::Queue(QueueId(9)));
        assert_eq!(queues(&targets), [3]);
        targets.remove(Target::Exchange(ExchangeId(5)));
        assert!(matches!(targets, Targets::One(Target::Queue(QueueId(3)))));
        targets.remove(Target::Queue(QueueId(4)));
        targets.remove(Target::Queue(QueueId(3)));
        assert!(targets.is_empty());
    }

    #[test]
    fn the_common_case_is_small() {
        assert_eq!(size_of::<Targets>(), 16);
    }
}
