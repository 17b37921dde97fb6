//! Keys matched byte for byte: the direct exchange, and topic bindings without wildcards.

use std::sync::Arc;

use hashbrown::HashTable;

use crate::hash::Seed;
use crate::route::Matches;
use crate::slab::shrink;
use crate::steps::Steps;
use crate::targets::{Target, Targets};

/// Targets by whole key.
#[derive(Debug, Default)]
pub(crate) struct Exact {
    entries: HashTable<KeyEntry>,
}

/// Invariant: `targets` is not empty.
#[derive(Debug)]
struct KeyEntry {
    key: Arc<[u8]>,
    targets: Targets,
}

impl Exact {
    pub(crate) fn add(&mut self, seed: Seed, key: &Arc<[u8]>, target: Target) {
        let hash = seed.bytes(key);
        if let Some(entry) = self.entries.find_mut(hash, |entry| *entry.key == **key) {
            entry.targets.add(target);
            return;
        }
        let mut targets = Targets::default();
        targets.add(target);
        let entry = KeyEntry {
            key: Arc::clone(key),
            targets,
        };
        self.entries
            .insert_unique(hash, entry, |entry| seed.bytes(&entry.key));
    }

    pub(crate) fn remove(&mut self, seed: Seed, key: &[u8], target: Target) {
        let hash = seed.bytes(key);
        let Ok(mut occupied) = self.entries.find_entry(hash, |entry| *entry.key == *key) else {
            return;
        };
        occupied.get_mut().targets.remove(target);
        if occupied.get().targets.is_empty() {
            occupied.remove();
            shrink(&mut self.entries, |entry| seed.bytes(&entry.key));
        }
    }

    #[inline]
    pub(crate) fn route(&self, seed: Seed, key: &[u8], found: &mut Matches, steps: &mut Steps) {
        steps.took(1);
        let hash = seed.bytes(key);
        if let Some(entry) = self.entries.find(hash, |entry| *entry.key == *key) {
            entry.targets.emit(found, steps);
        }
    }
}
