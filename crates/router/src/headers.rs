//! The headers exchange: finds the bindings whose arguments a message's headers may match.
//!
//! A binding is looked up by one of its fields, so that a message costs what its own headers and
//! the likely bindings cost, not what all bindings cost. Only this exchange looks at headers, so a
//! route through it is never cached.

use hashbrown::HashTable;
use leveret_codec::RawTable;

use crate::bindings::BindingId;
use crate::hash::Seed;
use crate::pattern::{Fields, Pattern, presence_hash, value_hash};
use crate::route::Found;
use crate::slab::shrink;
use crate::targets::{Target, Targets};

/// The bindings of one headers exchange.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    entries: HashTable<Entry>,
    buckets: HashTable<Bucket>,
    /// Bindings that match every message.
    always: Targets,
}

#[derive(Debug)]
struct Entry {
    binding: BindingId,
    pattern: Pattern,
    target: Target,
    /// The buckets this binding is in: under `all` one, under `any` one for each field.
    anchors: Box<[u64]>,
}

/// The bindings that ask for one field. Two fields of one hash share a bucket, which costs time
/// only: every candidate is checked.
#[derive(Debug)]
struct Bucket {
    field: u64,
    /// Sorted; not empty.
    bindings: Vec<BindingId>,
}

impl Headers {
    pub(crate) fn add(&mut self, seed: Seed, binding: BindingId, pattern: Pattern, target: Target) {
        if pattern.matches_all() {
            self.always.add(target);
        }
        let anchors = self.anchors(seed, &pattern);
        for field in &anchors {
            self.enter(*field, binding);
        }
        let entry = Entry {
            binding,
            pattern,
            target,
            anchors,
        };
        let hash = binding_hash(seed, binding);
        self.entries
            .insert_unique(hash, entry, |entry| binding_hash(seed, entry.binding));
    }

    pub(crate) fn remove(&mut self, seed: Seed, binding: BindingId) {
        let hash = binding_hash(seed, binding);
        let Ok(occupied) = self
            .entries
            .find_entry(hash, |entry| entry.binding == binding)
        else {
            return;
        };
        let (entry, _) = occupied.remove();
        shrink(&mut self.entries, |entry| binding_hash(seed, entry.binding));
        if entry.pattern.matches_all() {
            self.always.remove(entry.target);
        }
        for field in &entry.anchors {
            self.leave(*field, binding);
        }
    }

    pub(crate) fn route(&self, seed: Seed, headers: RawTable<'_>, found: &mut Found) {
        self.always.emit(found);
        if self.buckets.is_empty() {
            return;
        }
        let message = Fields::read(headers);
        for (key, value) in message.iter() {
            for field in [value_hash(seed, key, value), presence_hash(seed, key)] {
                self.candidates(seed, field, &message, found);
            }
        }
    }

    fn candidates(&self, seed: Seed, field: u64, message: &Fields<'_>, found: &mut Found) {
        let Some(bucket) = self.buckets.find(field, |bucket| bucket.field == field) else {
            return;
        };
        for binding in &bucket.bindings {
            let hash = binding_hash(seed, *binding);
            let entry = self.entries.find(hash, |entry| entry.binding == *binding);
            if let Some(entry) = entry
                && entry.pattern.matches(message)
            {
                Targets::One(entry.target).emit(found);
            }
        }
    }

    /// Under `all` the field that the fewest other bindings are found by, so that a field which all
    /// bindings share does not make every one of them a candidate.
    fn anchors(&self, seed: Seed, pattern: &Pattern) -> Box<[u64]> {
        let mut fields: Vec<u64> = pattern.hashes(seed).collect();
        if !pattern.is_any() {
            let crowd = |field: &u64| {
                let bucket = self.buckets.find(*field, |bucket| bucket.field == *field);
                bucket.map_or(0, |bucket| bucket.bindings.len())
            };
            fields = fields.into_iter().min_by_key(crowd).into_iter().collect();
        }
        fields.into()
    }

    fn enter(&mut self, field: u64, binding: BindingId) {
        match self.buckets.find_mut(field, |bucket| bucket.field == field) {
            None => {
                let bucket = Bucket {
                    field,
                    bindings: vec![binding],
                };
                self.buckets
                    .insert_unique(field, bucket, |bucket| bucket.field);
            }
            Some(bucket) => {
                if let Err(at) = bucket.bindings.binary_search(&binding) {
                    bucket.bindings.insert(at, binding);
                }
            }
        }
    }

    fn leave(&mut self, field: u64, binding: BindingId) {
        let Ok(mut bucket) = self
            .buckets
            .find_entry(field, |bucket| bucket.field == field)
        else {
            return;
        };
        let bindings = &mut bucket.get_mut().bindings;
        if let Ok(at) = bindings.binary_search(&binding) {
            bindings.remove(at);
        }
        if bindings.is_empty() {
            bucket.remove();
            shrink(&mut self.buckets, |bucket| bucket.field);
        }
    }
}

fn binding_hash(seed: Seed, binding: BindingId) -> u64 {
    seed.pair(0, binding.0)
}

#[cfg(test)]
mod tests {
    use leveret_codec::{Table, Value};

    use super::*;
    use crate::targets::QueueId;

    fn table(fields: &[(&str, Value)]) -> Table {
        let mut table = Table::new();
        for (key, value) in fields {
            table.insert(key, value.clone());
        }
        table
    }

    fn routed(index: &Headers, headers: &[(&str, Value)]) -> Vec<u32> {
        let bytes = table(headers).encoded();
        let mut found = Found::default();
        index.route(Seed::new(5), RawTable::parse(&bytes).unwrap(), &mut found);
        let mut ids: Vec<u32> = found.queues.iter().map(|queue| queue.0).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn index(bindings: &[&[(&str, Value)]]) -> Headers {
        let mut index = Headers::default();
        for (id, arguments) in (0..).zip(bindings) {
            let pattern = Pattern::parse(&table(arguments)).unwrap();
            index.add(
                Seed::new(5),
                BindingId(id),
                pattern,
                Target::Queue(QueueId(id)),
            );
        }
        index
    }

    #[test]
    fn every_kind_of_binding_is_found_and_forgotten() {
        let any = || ("x-match", Value::from("any"));
        let mut index = index(&[
            &[],
            &[("a", Value::I32(1))],
            &[("a", Value::I32(1)), ("b", Value::I32(2))],
            &[("a", Value::Void)],
            &[
                any(),
                ("a", Value::I32(1)),
                ("b", Value::Void),
                ("c", "x".into()),
            ],
            &[any()],
            &[("f", Value::F32(0.0))],
        ]);
        assert_eq!(routed(&index, &[]), [0]);
        assert_eq!(routed(&index, &[("a", Value::I64(1))]), [0, 1, 3, 4]);
        assert_eq!(
            routed(&index, &[("b", Value::U8(2)), ("a", Value::I8(1))]),
            [0, 1, 2, 3, 4]
        );
        assert_eq!(routed(&index, &[("a", "1".into())]), [0, 3]);
        assert_eq!(
            routed(&index, &[("c", Value::Bytes(b"x".to_vec()))]),
            [0, 4]
        );
        assert_eq!(routed(&index, &[("f", Value::F64(-0.0))]), [0, 6]);
        for id in 0..7 {
            index.remove(Seed::new(5), BindingId(id));
            index.remove(Seed::new(5), BindingId(id));
        }
        assert_eq!(
            routed(&index, &[("a", Value::I32(1)), ("f", Value::F32(0.0))]),
            [0u32; 0]
        );
        assert!(index.entries.is_empty() && index.buckets.is_empty() && index.always.is_empty());
    }

    #[test]
    fn a_field_that_all_share_does_not_gather_them() {
        let arguments: Vec<[(&str, Value); 2]> = (0..100)
            .map(|n| [("kind", Value::from("order")), ("customer", Value::I32(n))])
            .collect();
        let bindings: Vec<&[(&str, Value)]> = arguments.iter().map(|one| &one[..]).collect();
        let index = index(&bindings);
        let most = index
            .buckets
            .iter()
            .map(|bucket| bucket.bindings.len())
            .max();
        assert_eq!(most, Some(1));
        assert_eq!(routed(&index, &arguments[7]), [7]);
    }
}
