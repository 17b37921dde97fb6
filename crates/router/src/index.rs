//! How each exchange type finds the bindings that match a message.

use leveret_codec::RawTable;

use crate::bindings::{Binding, BindingId};
use crate::exact::Exact;
use crate::exchange::ExchangeKind;
use crate::hash::Seed;
use crate::headers::Headers;
use crate::pattern::Pattern;
use crate::route::{Found, Memory, Message};
use crate::targets::Targets;
use crate::trie::{Trie, has_wildcard};

/// The bindings of one exchange, arranged for its type.
#[derive(Debug)]
pub(crate) enum Index {
    Direct(Exact),
    Fanout(Targets),
    Topic(Box<Topic>),
    Headers(Headers),
}

/// Most topic bindings have no wildcard and cost no walk.
#[derive(Debug, Default)]
pub(crate) struct Topic {
    exact: Exact,
    wild: Trie,
}

impl Index {
    pub(crate) fn new(kind: ExchangeKind) -> Self {
        match kind {
            ExchangeKind::Direct => Self::Direct(Exact::default()),
            ExchangeKind::Fanout => Self::Fanout(Targets::default()),
            ExchangeKind::Topic => Self::Topic(Box::default()),
            ExchangeKind::Headers => Self::Headers(Headers::default()),
        }
    }

    /// Adds a binding; a headers exchange also needs its arguments as `pattern`.
    pub(crate) fn add(&mut self, seed: Seed, id: BindingId, binding: &Binding, pattern: Pattern) {
        let target = binding.target;
        match self {
            Self::Direct(exact) => exact.add(seed, &binding.key, target),
            Self::Fanout(targets) => targets.add(target),
            Self::Topic(topic) if has_wildcard(&binding.key) => {
                topic.wild.add(seed, &binding.key, target);
            }
            Self::Topic(topic) => topic.exact.add(seed, &binding.key, target),
            Self::Headers(headers) => headers.add(seed, id, pattern, target),
        }
    }

    pub(crate) fn remove(&mut self, seed: Seed, id: BindingId, binding: &Binding) {
        let target = binding.target;
        match self {
            Self::Direct(exact) => exact.remove(seed, &binding.key, target),
            Self::Fanout(targets) => targets.remove(target),
            Self::Topic(topic) if has_wildcard(&binding.key) => {
                topic.wild.remove(seed, &binding.key, target);
            }
            Self::Topic(topic) => topic.exact.remove(seed, &binding.key, target),
            Self::Headers(headers) => headers.remove(seed, id),
        }
    }

    /// Whether routes depend on more than the keys.
    pub(crate) fn reads_headers(&self) -> bool {
        matches!(self, Self::Headers(_))
    }

    /// Writes what matches. Under several keys a target may be written more than once.
    pub(crate) fn route(
        &self,
        seed: Seed,
        message: Message<'_, '_>,
        memory: &mut Memory,
        found: &mut Found,
    ) {
        match self {
            Self::Direct(exact) => {
                message
                    .keys
                    .iter()
                    .for_each(|key| exact.route(seed, key, found));
            }
            Self::Fanout(targets) => targets.emit(found),
            Self::Topic(topic) => {
                for key in message.keys {
                    topic.exact.route(seed, key, found);
                    topic.wild.route(seed, key, &mut memory.walk, found);
                }
            }
            Self::Headers(headers) => {
                let fields = message.headers.unwrap_or(RawTable::EMPTY);
                headers.route(seed, fields, &mut memory.settled, found);
            }
        }
    }
}
