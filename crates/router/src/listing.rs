//! Bindings as declared and as listed, those of the default exchange included.

use leveret_codec::{RawTable, Table};

use crate::bindings::{Binding, BindingId, Side};
use crate::exchange::Exchange;
use crate::router::{DEFAULT, Queue, Router};
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
}

/// The far end of a listed binding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DestinationView<'a> {
    /// A queue and its name.
    Queue(QueueId, &'a str),
    /// An exchange's name.
    Exchange(&'a str),
}

/// Where a walk over all exchanges, or all bindings, has come to. Between its steps others may come
/// and go; each that stays is met once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    exchange: u32,
    queue: u32,
    binding: u32,
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
                Box::new(self.views(self.bindings.list(Side::Source, list.unwrap_or_default())))
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
            .chain(self.views(self.bindings.list(Side::Target, list)))
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
        self.views(self.bindings.list(Side::Target, list))
    }

    /// All bindings, the implicit ones first, in an order that depends on history alone.
    pub fn bindings(&self) -> impl Iterator<Item = BindingView<'_>> {
        self.implicit().chain(
            self.bindings
                .iter()
                .filter_map(|binding| self.view(binding)),
        )
    }

    /// The next exchanges of a walk, so many at most; none at its end.
    pub fn next_exchanges(&self, walk: &mut Walk, max: usize) -> Vec<&Exchange> {
        let left = self.exchanges.iter_from(walk.exchange).take(max);
        let step = left.inspect(|(id, _)| walk.exchange = id + 1);
        step.map(|(_, exchange)| exchange).collect()
    }

    /// The next bindings of a walk, so many at most; none at its end.
    pub fn next_bindings(&self, walk: &mut Walk, max: usize) -> Vec<BindingView<'_>> {
        let Walk { queue, binding, .. } = walk;
        let queues = self.queues.get(*queue as usize..).unwrap_or_default();
        let queues = (*queue..).zip(queues);
        let implicit = queues.filter_map(|(id, found)| Some((id, found.as_ref()?)));
        let implicit = implicit.map(|(id, found)| {
            *queue = id + 1;
            found.view(QueueId(id))
        });
        let explicit = self.bindings.iter_from(*binding);
        let explicit = explicit.filter_map(|(id, found)| {
            *binding = id + 1;
            self.view(found)
        });
        implicit.chain(explicit).take(max).collect()
    }

    /// How many explicit bindings there are.
    #[must_use]
    pub fn binding_count(&self) -> usize {
        self.bindings.len()
    }

    pub(crate) fn view<'a>(&'a self, binding: &'a Binding) -> Option<BindingView<'a>> {
        Some(BindingView {
            source: self.exchange_name(binding.source)?,
            destination: match binding.target {
                Target::Queue(id) => DestinationView::Queue(id, self.queue_name(id)?),
                Target::Exchange(id) => DestinationView::Exchange(self.exchange_name(id)?),
            },
            key: &binding.key,
            arguments: RawTable::parse(&binding.arguments).unwrap_or_default(),
        })
    }

    fn views<'a>(
        &'a self,
        ids: impl Iterator<Item = BindingId> + 'a,
    ) -> impl Iterator<Item = BindingView<'a>> {
        ids.filter_map(|id| self.view(self.bindings.get(id)?))
    }

    fn implicit(&self) -> impl Iterator<Item = BindingView<'_>> {
        let queues = (0u32..).zip(&self.queues);
        queues.filter_map(|(id, queue)| Some(queue.as_ref()?.view(QueueId(id))))
    }

    fn exchange_name(&self, id: ExchangeId) -> Option<&str> {
        self.exchanges.get(id.0).map(|exchange| exchange.name())
    }
}

impl Queue {
    /// The binding to the default exchange.
    fn view(&self, id: QueueId) -> BindingView<'_> {
        BindingView {
            source: "",
            destination: DestinationView::Queue(id, &self.name),
            key: self.name.as_bytes(),
            arguments: RawTable::EMPTY,
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

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
