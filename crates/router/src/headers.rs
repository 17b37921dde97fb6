//! The headers exchange: finds the bindings whose arguments a message's headers may match.
//!
//! A binding is looked up by one of its fields, so that a message costs what its own headers and
//! the likely bindings cost, not what all bindings cost. Each binding is checked once a message, in
//! time that is linear in its fields. Only this exchange looks at headers, so a route through it is
//! never cached.

use std::collections::BTreeSet;
use std::ops::Bound;

use hashbrown::HashTable;
use leveret_codec::RawTable;

use crate::bindings::BindingId;
use crate::hash::Seed;
use crate::pattern::{HeaderFields, HeadersPattern, presence_hash, value_hash};
use crate::route::Matches;
use crate::seen::SeenIds;
use crate::slab::shrink;
use crate::steps::Steps;
use crate::targets::{Target, Targets};

/// The bindings of one headers exchange.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    entries: HashTable<HeadersEntry>,
    buckets: HashTable<Bucket>,
    /// Bindings that match every message.
    always: Targets,
}

#[derive(Debug)]
struct HeadersEntry {
    binding: BindingId,
    pattern: HeadersPattern,
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

/// How far a message has come through the index, and the memory for that.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// Bindings that need no further look.
    settled: SeenIds,
    /// The header that comes next.
    header: usize,
    /// Of that its value is done, its presence comes next.
    by_presence: bool,
    /// The last binding that was looked at for that.
    after: Option<BindingId>,
}

/// What a message has found so far, and the steps that are left for it.
struct Effort<'a> {
    search: &'a mut Search,
    found: &'a mut Matches,
    steps: &'a mut Steps,
}

impl Search {
    fn begin(&mut self) {
        self.settled.clear();
        self.header = 0;
        self.by_presence = false;
        self.after = None;
    }

    fn next(&mut self) {
        self.header += usize::from(self.by_presence);
        self.by_presence = !self.by_presence;
        self.after = None;
    }

    /// Gives back the memory of a long search.
    pub(crate) fn trim(&mut self) {
        self.settled.trim();
    }
}

impl Headers {
    pub(crate) fn add(
        &mut self,
        seed: Seed,
        binding: BindingId,
        pattern: HeadersPattern,
        target: Target,
    ) {
        if pattern.matches_all() {
            self.always.add(target);
        }
        let anchors = self.anchors(seed, &pattern);
        for field in &anchors {
            self.enter(*field, binding);
        }
        let entry = HeadersEntry {
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

    /// Begins with a message: writes what takes every one.
    pub(crate) fn begin(&self, search: &mut Search, found: &mut Matches, steps: &mut Steps) {
        search.begin();
        self.always.emit(found, steps);
    }

    /// Goes on with the message that the search began with; false if there is more to do than there
    /// are steps.
    pub(crate) fn go_on(
        &self,
        seed: Seed,
        headers: RawTable<'_>,
        (search, found): (&mut Search, &mut Matches),
        steps: &mut Steps,
    ) -> bool {
        if self.buckets.is_empty() {
            return true;
        }
        let message = HeaderFields::read(headers);
        let mut effort = Effort {
            search,
            found,
            steps,
        };
        while let Some((key, value)) = message.at(effort.search.header) {
            let field = if effort.search.by_presence {
                presence_hash(seed, key)
            } else {
                value_hash(seed, key, value)
            };
            if !effort.steps.take() || !self.candidates(seed, field, &message, &mut effort) {
                return false;
            }
            effort.search.next();
        }
        true
    }

    /// Checks the bindings that this field of the message leads to. Of an `any` binding that is all
    /// there is to check: another field that it shares with the message leads to it again.
    fn candidates(
        &self,
        seed: Seed,
        field: u64,
        message: &HeaderFields<'_>,
        effort: &mut Effort<'_>,
    ) -> bool {
        let Effort {
            search,
            found,
            steps,
        } = effort;
        let Some(bucket) = self.buckets.find(field, |bucket| bucket.field == field) else {
            return true;
        };
        let key = message.at(search.header).map_or(&[][..], |(key, _)| key);
        let first = search.after.map_or(Bound::Unbounded, Bound::Excluded);
        for binding in bucket.bindings.range((first, Bound::Unbounded)) {
            if !steps.take() {
                return false;
            }
            search.after = Some(*binding);
            if search.settled.contains(seed, binding.0) {
                continue;
            }
            let Some(entry) = self.entry(seed, *binding) else {
                continue;
            };
            let pattern = &entry.pattern;
            let matches = if pattern.is_any() {
                pattern.shares(key, message, steps)
            } else {
                pattern.matches_whole(message, steps)
            };
            if matches {
                Targets::One(entry.target).emit(found, steps);
            }
            if matches || !pattern.is_any() {
                search.settled.insert(seed, binding.0);
            }
        }
        true
    }

    fn entry(&self, seed: Seed, binding: BindingId) -> Option<&HeadersEntry> {
        let is = |entry: &HeadersEntry| entry.binding == binding;
        self.entries.find(binding_hash(seed, binding), is)
    }

    /// Under `all` the field that the fewest other bindings are found by, so that a field which all
    /// bindings share does not make every one of them a candidate.
    fn anchors(&self, seed: Seed, pattern: &HeadersPattern) -> Box<[u64]> {
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

    /// The bindings of a message with these bytes as headers, and the steps it takes to find them,
    /// so many at a time.
    fn search(index: &Headers, bytes: &[u8], at_once: usize) -> (Vec<u32>, usize) {
        let (mut search, mut found) = (Search::default(), Matches::default());
        let raw = RawTable::parse(bytes).unwrap();
        let mut taken = 0;
        index.begin(&mut search, &mut found, &mut Steps::unlimited());
        loop {
            let mut steps = Steps::new(at_once);
            let seed = Seed::new(5);
            let done = index.go_on(seed, raw, (&mut search, &mut found), &mut steps);
            taken += steps.taken();
            if done {
                break;
            }
        }
        let mut ids: Vec<u32> = found.queues.iter().map(|queue| queue.0).collect();
        ids.sort_unstable();
        ids.dedup();
        (ids, taken)
    }

    fn routed(index: &Headers, headers: &[(&str, Value)]) -> Vec<u32> {
        let bytes = table(headers).encoded();
        let (whole, _) = search(index, &bytes, usize::MAX);
        assert_eq!(search(index, &bytes, 2).0, whole, "in parts");
        whole
    }

    fn index(bindings: &[&[(&str, Value)]]) -> Headers {
        let mut index = Headers::default();
        for (id, arguments) in (0..).zip(bindings) {
            let pattern = HeadersPattern::parse(&table(arguments)).unwrap();
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
        // Two lookups for each header, and one for each binding.
        let (_, taken) = search(index, &table(headers).encoded(), usize::MAX);
        taken - 2 * headers.len()
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
        assert!(compared(&any, headers) <= 3 * FIELDS * 2);
        // The last field's value differs, so that it takes the longest to be found out.
        let mut most = fields[..FIELDS].to_vec();
        let all = index(&[&all[..FIELDS], &all[..FIELDS]]);
        most[FIELDS - 2].0 = "other";
        assert_eq!(routed(&all, &most), [0u32; 0]);
        assert!(compared(&all, &most) <= 2 * (FIELDS + 1));
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
        assert_eq!(search(&index, &twice.concat(), usize::MAX).0, [0u32; 0]);
    }
}
