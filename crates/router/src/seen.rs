//! A small set of ids that keeps the order of insertion: a scan while short, hashed when long.

use hashbrown::HashTable;

use crate::hash::Seed;

/// Ids met while walking a graph. Reused between walks, so that a walk allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct SeenIds {
    list: Vec<u32>,
    /// Places in the list.
    table: HashTable<u32>,
}

impl SeenIds {
    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.table.clear();
    }

    pub(crate) fn contains(&self, seed: Seed, id: u32) -> bool {
        self.place(seed, id).is_some()
    }

    /// As which an id was added.
    pub(crate) fn place(&self, seed: Seed, id: u32) -> Option<usize> {
        if self.table.is_empty() {
            return self.list.iter().position(|old| *old == id);
        }
        let is = |at: &u32| self.get(*at as usize) == Some(id);
        let found = self.table.find(seed.pair(0, id), is);
        found.map(|at| *at as usize)
    }

    /// Adds an id; false when it is there already.
    pub(crate) fn insert(&mut self, seed: Seed, id: u32) -> bool {
        if self.contains(seed, id) {
            return false;
        }
        self.list.push(id);
        // All of them once there are many, then each new one.
        if self.list.len() > SCAN_MAX {
            let Self { list, table } = self;
            let id_at = |at: u32| list.get(at as usize).copied().unwrap_or_default();
            for at in table.len() as u32..list.len() as u32 {
                let hash = seed.pair(0, id_at(at));
                table.insert_unique(hash, at, |at| seed.pair(0, id_at(*at)));
            }
        }
        true
    }

    /// Gives back the memory of a long walk.
    pub(crate) fn trim(&mut self) {
        if self.list.capacity() > KEPT_MAX {
            *self = Self::default();
        }
    }

    /// The id added as the `at`th, so that a walk can go on while it adds.
    pub(crate) fn get(&self, at: usize) -> Option<u32> {
        self.list.get(at).copied()
    }

    #[cfg(test)]
    pub(crate) fn as_slice(&self) -> &[u32] {
        &self.list
    }
}

/// Entries of one walk whose memory is kept for the next one.
pub(crate) const KEPT_MAX: usize = 1024;

/// Ids up to which a scan is cheaper than a hash.
const SCAN_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_once_in_order_of_arrival() {
        let seed = Seed::new(1);
        let mut seen = SeenIds::default();
        for round in 0..2 {
            for id in 0..1000u32 {
                let id = id * 7 % 1000;
                assert!(seen.insert(seed, id), "round {round}");
                assert!(!seen.insert(seed, id), "round {round}");
            }
            let expected: Vec<u32> = (0..1000).map(|id| id * 7 % 1000).collect();
            assert_eq!(seen.as_slice(), expected);
            seen.clear();
        }
    }
}
