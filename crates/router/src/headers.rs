//! The headers exchange: finds the bindings whose arguments a message's headers may match.
//!
//! A binding is looked up by one of its fields, so that a message costs what its own headers and
//! the likely bindings cost, not what all bindings cost. Each binding is checked once a message, in
//! time that is linear in its fields. Only this exchange looks at headers, so a route through it is
//! never cached.

use std::collections::BTreeSet;

use hashbrown::HashTable;
use leveret_codec::RawTable;

use crate::bindings::BindingId;
use crate::hash::Seed;
use crate::pattern::{Fields, Pattern, presence_hash, value_hash};
use crate::route::Found;
use crate::seen::Seen;
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
    /// Not empty. A tree, as a binding with many fields leaves many crowds.
    bindings: BTreeSet<BindingId>,
}

/// One message on its way through the index.
struct Search<'a> {
    message: Fields<'a>,
    /// Bindings that need no further look.
    settled: &'a mut Seen,
    found: &'a mut Found,
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

    pub(crate) fn route(
        &self,
        seed: Seed,
        headers: RawTable<'_>,
        settled: &mut Seen,
        found: &mut Found,
    ) {
        self.always.emit(found);
        if self.buckets.is_empty() {
            return;
        }
        settled.clear();
        let mut search = Search {
            message: Fields::read(headers),
            settled,
            found,
        };
        for at in 0..search.message.len() {
            let Some((key, value)) = search.message.at(at) else {
                return;
            };
            for field in [value_hash(seed, key, value), presence_hash(seed, key)] {
                self.candidates(seed, (field, key), &mut search);
            }
        }
    }

    /// Checks the bindings that this field of the message leads to. Of an `any` binding that is all
    /// there is to check: another field that it shares with the message leads to it again.
    fn candidates(&self, seed: Seed, (field, key): (u64, &[u8]), search: &mut Search<'_>) {
        let Some(bucket) = self.buckets.find(field, |bucket| bucket.field == field) else {
            return;
        };
        for binding in &bucket.bindings {
            if search.settled.contains(seed, binding.0) {
                continue;
            }
            let hash = binding_hash(seed, *binding);
            let entry = self.entries.find(hash, |entry| entry.binding == *binding);
            let Some(Entry {
                pattern, target, ..
            }) = entry
            else {
                continue;
            };
            let matches = if pattern.is_any() {
                pattern.shares(key, &search.message)
            } else {
                pattern.matches_whole(&search.message)
            };
            if matches {
                Targets::One(*target).emit(search.found);
            }
            if matches || !pattern.is_any() {
                search.settled.insert(seed, binding.0);
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
                    bindings: BTreeSet::from([binding]),
                };
                self.buckets
                    .insert_unique(field, bucket, |bucket| bucket.field);
            }
            Some(bucket) => {
                bucket.bindings.insert(binding);
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
        bindings.remove(&binding);
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
        let (mut settled, mut found) = (Seen::default(), Found::default());
        let raw = RawTable::parse(&bytes).unwrap();
        index.route(Seed::new(5), raw, &mut settled, &mut found);
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
    /// How many fields of bindings are compared with those of the message.
    fn compared(index: &Headers, headers: &[(&str, Value)]) -> usize {
        let before = crate::pattern::COMPARED.get();
        routed(index, headers);
        crate::pattern::COMPARED.get() - before
    }

    #[test]
    fn a_message_costs_what_it_and_the_bindings_have_fields() {
        const FIELDS: usize = 300;
        let names: Vec<String> = (0..2 * FIELDS).map(|n| format!("f{n:03}")).collect();
        let fields: Vec<_> = names.iter().map(|name| (&**name, Value::Void)).collect();
        let headers = &fields[FIELDS..];
        // Half of what each binding asks for is there, and comes last.
        let arguments = |mode: &str| [&[("x-match", Value::from(mode))], &fields[..]].concat();
        let (any, all) = (arguments("any"), arguments("all"));
        let any = index(&[&any, &any, &any]);
        assert_eq!(routed(&any, headers), [0, 1, 2]);
        assert!(compared(&any, headers) <= 3 * FIELDS);
        // The last field's value differs, so that it takes the longest to be found out.
        let mut most = fields[..FIELDS].to_vec();
        let all = index(&[&all[..FIELDS], &all[..FIELDS]]);
        most[FIELDS - 2].0 = "other";
        assert_eq!(routed(&all, &most), [0u32; 0]);
        assert!(compared(&all, &most) <= 2 * FIELDS);
    }

    #[test]
    fn an_any_binding_is_found_by_each_field_whatever_the_others_are() {
        let list = |n: i32| Value::Array(vec![Value::I32(n)]);
        let any = ("x-match", Value::from("any"));
        let index = index(&[&[
            any,
            ("a", list(1)),
            ("b", list(1)),
            ("c", Value::F64(f64::NAN)),
        ]]);
        // Lists share a hash: a wrong one in front does not settle it.
        assert_eq!(routed(&index, &[("a", list(2)), ("b", list(1))]), [0]);
        assert_eq!(
            routed(&index, &[("a", list(2)), ("c", Value::F64(f64::NAN))]),
            [0u32; 0]
        );
        // Of one name the last header counts.
        let twice = [table(&[("a", list(1))]), table(&[("a", list(2))])].map(|one| one.encoded());
        let mut found = Found::default();
        let raw = twice.concat();
        let raw = RawTable::parse(&raw).unwrap();
        index.route(Seed::new(5), raw, &mut Seen::default(), &mut found);
        assert!(found.queues.is_empty());
    }
}
