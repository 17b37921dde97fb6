//! Dense storage by small id, and a set of such ids found by a key kept elsewhere.
//!
//! Both give memory back after a burst: a slab drops its free tail, a set shrinks.

use hashbrown::HashTable;

/// Values by id; an id is reused only after its value was removed.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Option<T>>,
    /// Ids that were freed. An id here may have been cut off with the tail or taken since, so
    /// `insert` checks it; every insert pops at least one, so the list stays short.
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        while let Some(id) = self.free.pop() {
            if let Some(entry @ None) = self.entries.get_mut(id as usize) {
                *entry = Some(value);
                return id;
            }
        }
        self.entries.push(Some(value));
        (self.entries.len() - 1) as u32
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<T> {
        let value = self.entries.get_mut(id as usize)?.take()?;
        self.len -= 1;
        if self.entries.len() == id as usize + 1 {
            self.trim();
        } else {
            self.free.push(id);
        }
        Some(value)
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        self.entries.get(id as usize)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.entries.get_mut(id as usize)?.as_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All values in order of id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.iter_from(0)
    }

    /// The values whose ids are not below this one.
    pub(crate) fn iter_from(&self, first: u32) -> impl Iterator<Item = (u32, &T)> {
        let entries = self.entries.get(first as usize..).unwrap_or_default();
        (first..)
            .zip(entries)
            .filter_map(|(id, entry)| Some((id, entry.as_ref()?)))
    }

    /// Whether there is a place with this id or a higher one.
    pub(crate) fn has_from(&self, first: u32) -> bool {
        self.entries.len() > first as usize
    }

    fn trim(&mut self) {
        while let Some(None) = self.entries.last() {
            self.entries.pop();
        }
        let capacity = self.entries.capacity();
        if capacity > SHRINK_ABOVE && self.entries.len() < capacity / 4 {
            let kept = self.entries.len();
            self.entries.shrink_to(kept * 2);
            self.free.retain(|id| (*id as usize) < kept);
            self.free.shrink_to(kept);
        }
    }
}

/// Ids hashed by a key that lives elsewhere: five bytes each.
#[derive(Debug, Default)]
pub(crate) struct IdSet {
    ids: HashTable<u32>,
}

impl IdSet {
    #[inline]
    pub(crate) fn find(&self, hash: u64, is: impl FnMut(&u32) -> bool) -> Option<u32> {
        self.ids.find(hash, is).copied()
    }

    /// Adds an id that is not in the set.
    pub(crate) fn insert(&mut self, hash: u64, id: u32, hash_of: impl Fn(u32) -> u64) {
        self.ids.insert_unique(hash, id, |id| hash_of(*id));
    }

    pub(crate) fn remove(&mut self, hash: u64, id: u32, hash_of: impl Fn(u32) -> u64) {
        if let Ok(entry) = self.ids.find_entry(hash, |found| *found == id) {
            entry.remove();
        }
        shrink(&mut self.ids, |id| hash_of(*id));
    }
}

/// Gives memory back once a table is nearly empty for its size.
pub(crate) fn shrink<T>(table: &mut HashTable<T>, hash_of: impl Fn(&T) -> u64) {
    if table.capacity() > SHRINK_ABOVE && table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2, hash_of);
    }
}

/// Entries below which giving memory back is not worth a move.
pub(crate) const SHRINK_ABOVE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_reused_only_after_removal() {
        let mut slab = Slab::default();
        let ids: Vec<u32> = (0..10).map(|n| slab.insert(n)).collect();
        assert_eq!(ids, (0..10).collect::<Vec<u32>>());
        assert_eq!(slab.remove(3), Some(3));
        assert_eq!(slab.remove(3), None);
        assert_eq!(slab.insert(30), 3);
        assert_eq!(slab.insert(100), 10);
        assert_eq!(slab.len(), 11);
    }

    #[test]
    fn a_stale_free_id_never_replaces_a_live_value() {
        let mut slab = Slab::default();
        for n in 0..4 {
            slab.insert(n);
        }
        slab.remove(1);
        slab.remove(2);
        slab.remove(3);
        assert_eq!(slab.entries.len(), 1, "the free tail is gone");
        let ids: Vec<u32> = (0..4).map(|n| slab.insert(10 + n)).collect();
        assert_eq!(ids, [1, 2, 3, 4]);
        let values: Vec<i32> = slab.iter().map(|(_, v)| *v).collect();
        assert_eq!(values, [0, 10, 11, 12, 13]);
    }

    #[test]
    fn memory_comes_back_after_a_burst() {
        let mut slab = Slab::default();
        let mut set = IdSet::default();
        let hash_of = |id: u32| u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let kept = slab.insert(0);
        for _ in 0..100_000 {
            let id = slab.insert(1);
            set.insert(hash_of(id), id, hash_of);
        }
        for id in 1..=100_000 {
            slab.remove(id);
            set.remove(hash_of(id), id, hash_of);
        }
        assert_eq!(slab.get(kept), Some(&0));
        assert!(
            slab.entries.capacity() <= 128,
            "{}",
            slab.entries.capacity()
        );
        assert!(slab.free.capacity() <= 128, "{}", slab.free.capacity());
        assert!(set.ids.capacity() <= 128, "{}", set.ids.capacity());
    }
}
