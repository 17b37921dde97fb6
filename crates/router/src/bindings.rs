//! Every explicit binding once, found by identity, by source and by destination.
//!
//! A binding is in two lists threaded through the slab, so removing one costs the same however many
//! there are. Default-exchange bindings are not here: they are the queue names themselves.

use std::sync::Arc;

use crate::hash::Seed;
use crate::slab::{IdSet, Slab};
use crate::targets::{ExchangeId, Target};

/// A binding's place in the slab.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct BindingId(pub(crate) u32);

/// One explicit binding. Its identity is all of it except the links.
#[derive(Debug)]
pub(crate) struct BindingEntry {
    pub(crate) source: ExchangeId,
    pub(crate) target: Target,
    /// Shared with the index of exact keys.
    pub(crate) key: Arc<[u8]>,
    /// Encoded and sorted by name, so that equal arguments are equal bytes.
    pub(crate) arguments: Box<[u8]>,
    links: [ListLink; 2],
}

/// The identity of a binding that may or may not exist.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BindingIdentity<'a> {
    pub(crate) source: ExchangeId,
    pub(crate) target: Target,
    pub(crate) key: &'a [u8],
    pub(crate) arguments: &'a [u8],
}

/// Which of a binding's two lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BindingSide {
    Source = 0,
    Target = 1,
}

/// The ends of one list, kept by its exchange or queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    first: u32,
    last: u32,
    pub(crate) len: u32,
}

#[derive(Clone, Copy, Debug)]
struct ListLink {
    previous: u32,
    next: u32,
}

/// All explicit bindings of a router.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    slab: Slab<BindingEntry>,
    by_identity: IdSet,
}

impl Bindings {
    pub(crate) fn get(&self, id: BindingId) -> Option<&BindingEntry> {
        self.slab.get(id.0)
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn find(&self, seed: Seed, identity: BindingIdentity<'_>) -> Option<BindingId> {
        let hash = identity.hash(seed);
        let is = |id: &u32| {
            self.slab
                .get(*id)
                .is_some_and(|binding| binding.is(identity))
        };
        self.by_identity.find(hash, is).map(BindingId)
    }

    /// Adds a binding that is not there. The caller links it.
    pub(crate) fn insert(&mut self, seed: Seed, identity: BindingIdentity<'_>) -> BindingId {
        let id = self.slab.insert(BindingEntry {
            source: identity.source,
            target: identity.target,
            key: identity.key.into(),
            arguments: identity.arguments.into(),
            links: [ListLink {
                previous: NONE,
                next: NONE,
            }; 2],
        });
        let slab = &self.slab;
        self.by_identity
            .insert(identity.hash(seed), id, |id| hash_of(slab, seed, id));
        BindingId(id)
    }

    /// Removes a binding that the caller has unlinked.
    pub(crate) fn remove(&mut self, seed: Seed, id: BindingId) -> Option<BindingEntry> {
        let hash = hash_of(&self.slab, seed, id.0);
        let slab = &self.slab;
        self.by_identity
            .remove(hash, id.0, |id| hash_of(slab, seed, id));
        self.slab.remove(id.0)
    }

    /// Appends a binding to a list.
    pub(crate) fn link(&mut self, side: BindingSide, list: &mut List, id: BindingId) {
        if let Some(link) = self.link_mut(side, id.0) {
            *link = ListLink {
                previous: list.last,
                next: NONE,
            };
        }
        match self.link_mut(side, list.last) {
            Some(last) => last.next = id.0,
            None => list.first = id.0,
        }
        list.last = id.0;
        list.len += 1;
    }

    /// Takes a binding out of the list it is in.
    pub(crate) fn unlink(&mut self, side: BindingSide, list: &mut List, id: BindingId) {
        let Some(link) = self.link_mut(side, id.0).copied() else {
            return;
        };
        match self.link_mut(side, link.previous) {
            Some(previous) => previous.next = link.next,
            None => list.first = link.next,
        }
        match self.link_mut(side, link.next) {
            Some(next) => next.previous = link.previous,
            None => list.last = link.previous,
        }
        list.len -= 1;
    }

    /// The bindings of a list, oldest first.
    pub(crate) fn list(&self, side: BindingSide, list: List) -> impl Iterator<Item = BindingId> {
        let mut id = list.first;
        std::iter::from_fn(move || {
            let binding = self.slab.get(id)?;
            let found = BindingId(id);
            id = binding.link(side).next;
            Some(found)
        })
    }

    /// Whether an id so high, or a higher one, may be in use.
    pub(crate) fn has_from(&self, first: u32) -> bool {
        self.slab.has_from(first)
    }

    /// The bindings whose ids are not below this one, in order of id.
    pub(crate) fn iter_from(&self, first: u32) -> impl Iterator<Item = (u32, &BindingEntry)> {
        self.slab.iter_from(first)
    }

    fn link_mut(&mut self, side: BindingSide, id: u32) -> Option<&mut ListLink> {
        let [source, target] = &mut self.slab.get_mut(id)?.links;
        Some(match side {
            BindingSide::Source => source,
            BindingSide::Target => target,
        })
    }
}

impl BindingEntry {
    pub(crate) fn identity(&self) -> BindingIdentity<'_> {
        BindingIdentity {
            source: self.source,
            target: self.target,
            key: &self.key,
            arguments: &self.arguments,
        }
    }

    fn is(&self, other: BindingIdentity<'_>) -> bool {
        self.source == other.source
            && self.target == other.target
            && *self.key == *other.key
            && *self.arguments == *other.arguments
    }

    fn link(&self, side: BindingSide) -> ListLink {
        let [source, target] = self.links;
        match side {
            BindingSide::Source => source,
            BindingSide::Target => target,
        }
    }
}

impl BindingIdentity<'_> {
    fn hash(self, seed: Seed) -> u64 {
        let target = match self.target {
            Target::Queue(id) => u64::from(id.0) << 1,
            Target::Exchange(id) => u64::from(id.0) << 1 | 1,
        };
        let ends = seed.then(
            seed.bytes(self.key),
            u64::from(self.source.0) << 33 | target,
        );
        if self.arguments.is_empty() {
            return ends;
        }
        seed.then(ends, seed.bytes(self.arguments))
    }
}

impl Default for List {
    fn default() -> Self {
        Self {
            first: NONE,
            last: NONE,
            len: 0,
        }
    }
}

fn hash_of(slab: &Slab<BindingEntry>, seed: Seed, id: u32) -> u64 {
    slab.get(id)
        .map_or(0, |binding| binding.identity().hash(seed))
}

const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::QueueId;

    #[test]
    fn lists_survive_removal_at_every_place() {
        let seed = Seed::new(3);
        for gone in 0..5 {
            let (mut bindings, mut list) = (Bindings::default(), List::default());
            let ids: Vec<BindingId> = (0..5u8)
                .map(|n| {
                    let id = bindings.insert(seed, identity(&[n]));
                    bindings.link(BindingSide::Source, &mut list, id);
                    id
                })
                .collect();
            bindings.unlink(BindingSide::Source, &mut list, ids[gone]);
            assert!(bindings.remove(seed, ids[gone]).is_some());
            let expected: Vec<BindingId> =
                ids.iter().copied().filter(|id| *id != ids[gone]).collect();
            assert_eq!(
                bindings.list(BindingSide::Source, list).collect::<Vec<_>>(),
                expected
            );
            assert_eq!((list.len, bindings.len()), (4, 4));
            let again = bindings.insert(seed, identity(&[9]));
            bindings.link(BindingSide::Source, &mut list, again);
            assert_eq!(bindings.list(BindingSide::Source, list).last(), Some(again));
        }
    }

    #[test]
    fn a_binding_takes_sixty_four_bytes_beside_its_key() {
        assert!(
            size_of::<Option<BindingEntry>>() <= 64,
            "{}",
            size_of::<Option<BindingEntry>>()
        );
    }

    fn identity(key: &[u8]) -> BindingIdentity<'_> {
        let target = Target::Queue(QueueId(1));
        BindingIdentity {
            source: ExchangeId(0),
            target,
            key,
            arguments: &[],
        }
    }
}
