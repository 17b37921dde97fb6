//! Bindings as declared and as listed, those of the default exchange included.

use std::ops::Bound;

use leveret_codec::{RawTable, Table};

use crate::bindings::{BindingEntry, BindingId, BindingSide, List};
use crate::exchange::Exchange;
use crate::router::{DEFAULT, RoutedQueue, Router};
use crate::targets::{ExchangeId, QueueId, Target};

/// A binding to make or to remove. Its identity is the whole of it; the order of arguments does
/// not count.
#[derive(Clone, PartialEq, Debug)]
pub struct BindingSpec {
    /// The exchange that messages come from.
    pub source: String,
    /// Where they go.
    pub destination: Destination,
    /// The binding key: bytes, not always UTF-8.
    pub key: Vec<u8>,
    /// The arguments; only a headers exchange reads them.
    pub arguments: Table,
}

impl BindingSpec {
    /// The arguments in the one form that tells bindings apart: sorted by name, then encoded.
    #[must_use]
    pub fn canonical_arguments(&self) -> Vec<u8> {
        self.arguments.sorted().encoded()
    }
}

/// The far end of a binding.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Destination {
    /// A queue the broker has added.
    Queue(QueueId),
    /// An exchange by name.
    Exchange(String),
}

/// One existing binding, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct BindingView<'a> {
    /// The exchange that messages come from; empty for the implicit binding of a queue's name.
    pub source: &'a str,
    /// Where they go.
    pub destination: DestinationView<'a>,
    /// The binding key.
    pub key: &'a [u8],
    /// The arguments, sorted by name.
    pub arguments: RawTable<'a>,
    /// Its number among the explicit ones; another may have it once this one is gone.
    pub number: Option<u32>,
}

/// The far end of a listed binding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DestinationView<'a> {
    /// A queue and its name.
    Queue(QueueId, &'a str),
    /// An exchange's name.
    Exchange(&'a str),
}

/// Which explicit bindings a walk is about, and where it has come to. Between its steps others may
/// come and go; each that stays is met once.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    source: Option<ExchangeId>,
    target: Option<Target>,
    /// The next binding to look at.
    next: u32,
    ended: bool,
}

impl BindingView<'_> {
    /// An owned copy.
    #[must_use]
    pub fn to_spec(&self) -> BindingSpec {
        BindingSpec {
            source: self.source.into(),
            destination: match self.destination {
                DestinationView::Queue(id, _) => Destination::Queue(id),
                DestinationView::Exchange(name) => Destination::Exchange(name.into()),
            },
            key: self.key.into(),
            arguments: self.arguments.to_table(),
        }
    }

    /// The name of this binding among those of its source and destination, as the HTTP API shows
    /// it: `~` for an empty key without arguments, else the key, encoded as in forms, and `~` and a
    /// hash of the arguments if there are any. The hash is opaque and stable.
    #[must_use]
    pub fn properties_key(&self) -> String {
        if self.key.is_empty() && self.arguments.is_empty() {
            return "~".into();
        }
        let mut text: String = self.key.iter().map(|byte| encoded(*byte)).collect();
        if !self.arguments.is_empty() {
            text.push('~');
            text.push_str(&base64url(fnv1a(self.arguments.as_bytes())));
        }
        text
    }
}

impl Router {
    /// The bindings that have this exchange as source, oldest first.
    pub fn bindings_of_source(&self, name: &str) -> Box<dyn Iterator<Item = BindingView<'_>> + '_> {
        match self.exchange_id(name.as_bytes()) {
            Some(DEFAULT) => Box::new(self.implicit()),
            Some(id) => {
                let list = self.exchanges.get(id.0).map(|exchange| exchange.as_source);
                Box::new(
                    self.views(
                        self.bindings
                            .list(BindingSide::Source, list.unwrap_or_default()),
                    ),
                )
            }
            None => Box::new(std::iter::empty()),
        }
    }

    /// The bindings that lead to this queue, the implicit one of its name first.
    pub fn bindings_of_queue(&self, id: QueueId) -> impl Iterator<Item = BindingView<'_>> {
        let queue = self.queue(id);
        let list = queue.map(|queue| queue.bindings).unwrap_or_default();
        let implicit = queue.map(|queue| queue.view(id));
        implicit
            .into_iter()
            .chain(self.views(self.bindings.list(BindingSide::Target, list)))
    }

    /// The bindings that lead to this exchange, oldest first.
    pub fn bindings_of_exchange_destination(
        &self,
        name: &str,
    ) -> impl Iterator<Item = BindingView<'_>> {
        let list = self
            .exchange(name)
            .map(|exchange| exchange.as_target)
            .unwrap_or_default();
        self.views(self.bindings.list(BindingSide::Target, list))
    }

    /// All bindings, the implicit ones first, in an order that depends on history alone.
    pub fn bindings(&self) -> impl Iterator<Item = BindingView<'_>> {
        let explicit = self.bindings.iter_from(0);
        let explicit = explicit.filter_map(|(id, binding)| self.view(BindingId(id), binding));
        self.implicit().chain(explicit)
    }

    /// The exchanges whose names come after this one, or all, in the order of their names.
    pub fn exchanges_after(&self, name: Option<&str>) -> impl Iterator<Item = &Exchange> {
        let after = name.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self
            .ordered_exchanges
            .range::<str, _>((after, Bound::Unbounded));
        later.filter_map(|(_, id)| self.exchanges.get(id.0))
    }

    /// A walk over the explicit bindings from an exchange, or to a queue or an exchange, or
    /// between two of them; `None` if one of them is not there.
    #[must_use]
    pub fn walk(&self, source: Option<&str>, to: Option<DestinationView<'_>>) -> Option<Walk> {
        let exchange = |name: &str| self.exchange_id(name.as_bytes());
        Some(Walk {
            source: source
                .map(|name| exchange(name).ok_or(()))
                .transpose()
                .ok()?,
            target: match to {
                None => None,
                Some(DestinationView::Queue(id, _)) => Some(Target::Queue(id)),
                Some(DestinationView::Exchange(name)) => Some(Target::Exchange(exchange(name)?)),
            },
            next: 0,
            ended: false,
        })
    }

    /// The next bindings of a walk: `max`, or the few there are between its ends. `None` at its
    /// end.
    ///
    /// What is looked at in one step is bounded too, so that a step may find none.
    pub fn next_bindings(&self, walk: &mut Walk, max: usize) -> Option<Vec<BindingView<'_>>> {
        if walk.ended {
            return None;
        }
        if walk.next == 0
            && let Some((side, list)) = self.shorter_list(*walk)
            && list.len as usize <= max
        {
            walk.ended = true;
            let found = self.bindings.list(side, list);
            return Some(self.chosen(*walk, found).collect());
        }
        let (first, mut found) = (walk.next, Vec::new());
        walk.next = first.saturating_add(LOOKED_AT_MAX);
        walk.ended = !self.bindings.has_from(walk.next);
        for (id, binding) in self.bindings.iter_from(first) {
            if id >= first.saturating_add(LOOKED_AT_MAX) {
                break;
            }
            if found.len() == max {
                (walk.next, walk.ended) = (id, false);
                break;
            }
            if walk.wants(binding) {
                found.extend(self.view(BindingId(id), binding));
            }
        }
        Some(found)
    }

    /// An explicit binding by its number.
    #[must_use]
    pub fn numbered_binding(&self, number: u32) -> Option<BindingView<'_>> {
        let id = BindingId(number);
        self.view(id, self.bindings.get(id)?)
    }

    /// Whichever list of the ends of a walk has fewer bindings in it.
    fn shorter_list(&self, walk: Walk) -> Option<(BindingSide, List)> {
        let exchange = |id: ExchangeId| self.exchanges.get(id.0);
        let of_source = walk.source.and_then(exchange);
        let of_source = of_source.map(|exchange| (BindingSide::Source, exchange.as_source));
        let of_target = walk.target.and_then(|target| match target {
            Target::Queue(id) => Some(self.queue(id)?.bindings),
            Target::Exchange(id) => Some(exchange(id)?.as_target),
        });
        let of_target = of_target.map(|list| (BindingSide::Target, list));
        let lists = of_source.into_iter().chain(of_target);
        lists.min_by_key(|(_, list)| list.len)
    }

    fn chosen<'a>(
        &'a self,
        walk: Walk,
        ids: impl Iterator<Item = BindingId> + 'a,
    ) -> impl Iterator<Item = BindingView<'a>> {
        ids.filter_map(move |id| {
            let binding = self.bindings.get(id).filter(|found| walk.wants(found))?;
            self.view(id, binding)
        })
    }

    /// How many explicit bindings there are.
    #[must_use]
    pub fn binding_count(&self) -> usize {
        self.bindings.len()
    }

    pub(crate) fn view<'a>(
        &'a self,
        id: BindingId,
        binding: &'a BindingEntry,
    ) -> Option<BindingView<'a>> {
        Some(BindingView {
            source: self.exchange_name(binding.source)?,
            destination: match binding.target {
                Target::Queue(id) => DestinationView::Queue(id, self.queue_name(id)?),
                Target::Exchange(id) => DestinationView::Exchange(self.exchange_name(id)?),
            },
            key: &binding.key,
            arguments: RawTable::parse(&binding.arguments).unwrap_or_default(),
            number: Some(id.0),
        })
    }

    fn views<'a>(
        &'a self,
        ids: impl Iterator<Item = BindingId> + 'a,
    ) -> impl Iterator<Item = BindingView<'a>> {
        ids.filter_map(|id| self.view(id, self.bindings.get(id)?))
    }

    fn implicit(&self) -> impl Iterator<Item = BindingView<'_>> {
        let queues = (0u32..).zip(&self.queues);
        queues.filter_map(|(id, queue)| Some(queue.as_ref()?.view(QueueId(id))))
    }

    fn exchange_name(&self, id: ExchangeId) -> Option<&str> {
        self.exchanges.get(id.0).map(|exchange| exchange.name())
    }
}

impl Walk {
    fn wants(&self, binding: &BindingEntry) -> bool {
        self.source.is_none_or(|source| source == binding.source)
            && self.target.is_none_or(|target| target == binding.target)
    }
}

impl RoutedQueue {
    /// The binding to the default exchange.
    fn view(&self, id: QueueId) -> BindingView<'_> {
        BindingView {
            source: "",
            destination: DestinationView::Queue(id, &self.name),
            key: self.name.as_bytes(),
            arguments: RawTable::EMPTY,
            number: None,
        }
    }
}

fn encoded(byte: u8) -> String {
    match byte {
        b' ' => "+".into(),
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).into(),
        _ => format!("%{byte:02X}"),
    }
}

/// FNV-1a: stable from release to release, which the seeded hash of the tables is not.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn base64url(mut hash: u64) -> String {
    let mut text = String::new();
    for _ in 0..11 {
        let digit = ALPHABET.get((hash & 63) as usize).copied().unwrap_or(b'-');
        text.push(char::from(digit));
        hash >>= 6;
    }
    text
}

/// So many places of bindings are looked at in one step of a walk.
const LOOKED_AT_MAX: u32 = 16_384;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
