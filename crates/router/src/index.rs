//! How each exchange type finds the bindings that match a message.

use leveret_codec::RawTable;

use crate::bindings::{BindingEntry, BindingId};
use crate::choice::{Draw, HashRing, hash_of_keys, weight};
use crate::exact::Exact;
use crate::exchange::{ExchangeKind, ExchangeSpec};
use crate::hash::Seed;
use crate::headers::Headers;
use crate::pattern::HeadersPattern;
use crate::route::{LookMemory, Matches, RoutedMessage};
use crate::steps::Steps;
use crate::targets::Targets;
use crate::trie::{Trie, has_wildcard};

/// The bindings of one exchange, arranged for its type.
#[derive(Debug)]
pub(crate) enum Index {
    Direct(Exact),
    Fanout(Targets),
    Topic(Box<Topic>),
    Headers(Headers),
    Random(Draw),
    Modulus(Draw),
    Consistent(HashRing),
}

/// Most topic bindings have no wildcard and cost no walk.
#[derive(Debug, Default)]
pub(crate) struct Topic {
    exact: Exact,
    wild: Trie,
}

impl Index {
    pub(crate) fn new(spec: &ExchangeSpec) -> Self {
        match spec.kind {
            ExchangeKind::Direct => Self::Direct(Exact::default()),
            ExchangeKind::Fanout => Self::Fanout(Targets::default()),
            ExchangeKind::Topic => Self::Topic(Box::default()),
            ExchangeKind::Headers => Self::Headers(Headers::default()),
            ExchangeKind::Random | ExchangeKind::LocalRandom => Self::Random(Draw::default()),
            ExchangeKind::ModulusHash => Self::Modulus(Draw::default()),
            ExchangeKind::ConsistentHash => Self::Consistent(HashRing::new(&spec.arguments)),
        }
    }

    /// Adds a binding; a headers exchange also needs its arguments as `pattern`, and `name` is the
    /// hash of its destination's.
    pub(crate) fn add(
        &mut self,
        seed: Seed,
        (id, binding): (BindingId, &BindingEntry),
        pattern: HeadersPattern,
        name: u64,
    ) {
        let target = binding.target;
        match self {
            Self::Random(draw) | Self::Modulus(draw) => draw.add(name, target),
            Self::Consistent(ring) => {
                // It was checked.
                let weight = weight(&binding.key).unwrap_or(1);
                ring.add(name, target, (id, weight));
            }
            Self::Direct(exact) => exact.add(seed, &binding.key, target),
            Self::Fanout(targets) => targets.add(target),
            Self::Topic(topic) if has_wildcard(&binding.key) => {
                topic.wild.add(seed, &binding.key, target);
            }
            Self::Topic(topic) => topic.exact.add(seed, &binding.key, target),
            Self::Headers(headers) => headers.add(seed, id, pattern, target),
        }
    }

    pub(crate) fn remove(
        &mut self,
        seed: Seed,
        (id, binding): (BindingId, &BindingEntry),
        name: u64,
    ) {
        let target = binding.target;
        match self {
            Self::Random(draw) | Self::Modulus(draw) => draw.remove(name, target),
            Self::Consistent(ring) => ring.remove(target, id),
            Self::Direct(exact) => exact.remove(seed, &binding.key, target),
            Self::Fanout(targets) => targets.remove(target),
            Self::Topic(topic) if has_wildcard(&binding.key) => {
                topic.wild.remove(seed, &binding.key, target);
            }
            Self::Topic(topic) => topic.exact.remove(seed, &binding.key, target),
            Self::Headers(headers) => headers.remove(seed, id),
        }
    }

    pub(crate) fn reads_headers(&self) -> bool {
        matches!(self, Self::Headers(_))
    }

    /// Whether the same keys always lead to the same targets.
    pub(crate) fn goes_by_keys(&self) -> bool {
        match self {
            Self::Direct(_) | Self::Fanout(_) | Self::Topic(_) | Self::Modulus(_) => true,
            Self::Headers(_) | Self::Random(_) => false,
            Self::Consistent(ring) => !ring.reads_more_than_keys(),
        }
    }

    /// Goes on to write what matches; false if there is more to do than there are steps. Under
    /// several keys a target may be written more than once.
    pub(crate) fn go_on(
        &self,
        seed: Seed,
        message: RoutedMessage<'_, '_>,
        (memory, found): (&mut LookMemory, &mut Matches),
        steps: &mut Steps,
    ) -> bool {
        match self {
            Self::Direct(exact) => {
                for key in message.keys {
                    exact.route(seed, key, found, steps);
                }
                true
            }
            Self::Fanout(targets) => {
                targets.emit(found, steps);
                true
            }
            Self::Topic(topic) => topic.go_on(seed, message.keys, (memory, found), steps),
            Self::Headers(headers) => {
                let search = &mut memory.search;
                if !std::mem::replace(&mut memory.begun, true) {
                    headers.begin(search, found, steps);
                }
                let fields = message.properties.headers.unwrap_or(RawTable::EMPTY);
                headers.go_on(seed, fields, (search, found), steps)
            }
            Self::Random(draw) => {
                draw.pick(memory.random.next(), found, steps);
                true
            }
            Self::Modulus(draw) => {
                draw.pick(hash_of_keys(message.keys), found, steps);
                true
            }
            Self::Consistent(ring) => {
                let contest = &mut memory.contest;
                if !std::mem::replace(&mut memory.begun, true) {
                    contest.begin();
                }
                ring.go_on(&message, (contest, found), steps)
            }
        }
    }
}

impl Topic {
    #[inline]
    fn go_on(
        &self,
        seed: Seed,
        keys: &[&[u8]],
        (memory, found): (&mut LookMemory, &mut Matches),
        steps: &mut Steps,
    ) -> bool {
        while let Some(key) = keys.get(memory.key) {
            if !std::mem::replace(&mut memory.begun, true) {
                self.exact.route(seed, key, found, steps);
                memory.walk.begin(&self.wild, key);
            }
            if !self.wild.go_on(seed, key, (&mut memory.walk, found), steps) {
                return false;
            }
            memory.begun = false;
            memory.key += 1;
        }
        true
    }
}
