//! One exchange: what it was declared as, and its place in the graph.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use leveret_codec::{Table, ValueRef};

use crate::bindings::List;
use crate::choice;
use crate::index::Index;
use crate::refused::Refused;
use crate::targets::ExchangeId;

/// The four exchange types of AMQP 0-9-1, and those of RabbitMQ's plugins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ExchangeKind {
    /// Binding key equals routing key.
    Direct,
    /// Every binding.
    Fanout,
    /// Words with `*` and `#`.
    Topic,
    /// Arguments of the binding against headers of the message.
    Headers,
    /// One binding by the hash of the routing key or something else, by weight.
    ConsistentHash,
    /// One binding at random, of queues only.
    LocalRandom,
    /// One binding by the hash of the routing key.
    ModulusHash,
    /// One binding at random.
    Random,
}

/// What an exchange is declared with.
#[derive(Clone, PartialEq, Debug)]
pub struct ExchangeSpec {
    /// The exchange type.
    pub kind: ExchangeKind,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it goes with its last binding as source.
    pub auto_delete: bool,
    /// Whether clients may not publish to it.
    pub internal: bool,
    /// All arguments as declared; the router reads `alternate-exchange`.
    pub arguments: Table,
}

/// One exchange, for reading.
#[derive(Debug)]
pub struct Exchange {
    pub(crate) name: Box<str>,
    pub(crate) spec: ExchangeSpec,
    /// What a policy says; the argument wins.
    pub(crate) policy_alternate: Option<Box<str>>,
    pub(crate) generation: Arc<AtomicU64>,
    /// A route has led through here since the generation changed last. One that counts as valid has
    /// this set in each exchange it leads through, so invalidation goes no further than that.
    visited: AtomicBool,
    counts: Arc<ExchangeCounts>,
    pub(crate) index: Index,
    pub(crate) as_source: List,
    pub(crate) as_target: List,
    /// How many bindings lead here from each exchange, so that invalidation walks exchanges and
    /// not bindings.
    pub(crate) upstream: BTreeMap<ExchangeId, u32>,
}

/// Messages of one exchange since it was declared.
#[derive(Debug, Default)]
pub struct ExchangeCounts {
    /// Published to it.
    pub published_in: AtomicU64,
    /// Put into queues from there, one for each queue.
    pub published_out: AtomicU64,
    /// Led to no queue, and went back as they were mandatory.
    pub returned: AtomicU64,
    /// Led to no queue, and are gone.
    pub dropped: AtomicU64,
    /// Refused, once by each queue that did.
    pub refused: AtomicU64,
}

impl ExchangeKind {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 8] = [
        Self::Direct,
        Self::Fanout,
        Self::Headers,
        Self::Topic,
        Self::ConsistentHash,
        Self::LocalRandom,
        Self::ModulusHash,
        Self::Random,
    ];

    /// The type of that name in `exchange.declare`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The name in `exchange.declare`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
            Self::ConsistentHash => "x-consistent-hash",
            Self::LocalRandom => "x-local-random",
            Self::ModulusHash => "x-modulus-hash",
            Self::Random => "x-random",
        }
    }
}

impl ExchangeSpec {
    /// A durable exchange of that type without flags or arguments.
    #[must_use]
    pub fn durable(kind: ExchangeKind) -> Self {
        Self {
            kind,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: Table::new(),
        }
    }

    /// The `alternate-exchange` argument. The broker checks permission on it before it declares.
    #[must_use]
    pub fn alternate(&self) -> Option<&str> {
        std::str::from_utf8(self.arguments.get(ALTERNATE)?.as_str_bytes()?).ok()
    }

    /// Whether a new exchange may be declared so.
    pub(crate) fn check(&self) -> Result<(), Refused> {
        match self.arguments.get(ALTERNATE) {
            None | Some(ValueRef::LongString(_)) => choice::check_exchange(self),
            Some(other) => Err(Refused::ArgumentType {
                argument: "alternate-exchange",
                kind: other.type_name(),
            }),
        }
    }
}

impl Exchange {
    pub(crate) fn new(name: &str, spec: ExchangeSpec) -> Self {
        Self {
            name: name.into(),
            index: Index::new(&spec),
            spec,
            policy_alternate: None,
            generation: Arc::default(),
            visited: AtomicBool::new(false),
            counts: Arc::default(),
            as_source: List::default(),
            as_target: List::default(),
            upstream: BTreeMap::new(),
        }
    }

    /// The name; empty for the default exchange.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was declared with.
    #[must_use]
    pub fn spec(&self) -> &ExchangeSpec {
        &self.spec
    }

    /// Where messages go that match no binding: the argument, else the policy's.
    #[must_use]
    pub fn alternate(&self) -> Option<&str> {
        self.spec.alternate().or(self.policy_alternate.as_deref())
    }

    /// The alternate exchange that a policy gives.
    #[must_use]
    pub fn policy_alternate(&self) -> Option<&str> {
        self.policy_alternate.as_deref()
    }

    /// How many explicit bindings have this exchange as source.
    #[must_use]
    pub fn binding_count(&self) -> usize {
        self.as_source.len as usize
    }

    /// Changes whenever a route of this exchange that was found may have changed, its deletion
    /// included.
    ///
    /// Read it under the lock that `route` ran under; a route cached with that value is valid while
    /// the value stands. The default exchange is the exception: its generation never changes, so
    /// that temporary queues do not invalidate the routes of others. Its cached routes are valid
    /// while none of their queues is deleted, and `Routes::cacheable` says no if a key named none.
    #[must_use]
    pub fn generation(&self) -> &Arc<AtomicU64> {
        &self.generation
    }

    /// What was published to it; the broker counts.
    #[must_use]
    pub const fn counts(&self) -> &Arc<ExchangeCounts> {
        &self.counts
    }

    /// Counts one binding from `source` less.
    pub(crate) fn leave_upstream(&mut self, source: ExchangeId) {
        if let Some(count) = self.upstream.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.upstream.remove(&source);
            }
        }
    }

    pub(crate) fn visit(&self) {
        // Most of the time it is set, and shared by the cores.
        if !self.visited.load(Ordering::Relaxed) {
            self.visited.store(true, Ordering::Relaxed);
        }
    }

    /// Makes the routes through here stale; false if there were none since that was done last.
    pub(crate) fn invalidate(&self) -> bool {
        let visited = self.visited.swap(false, Ordering::Relaxed);
        if visited {
            self.bump();
        }
        visited
    }

    pub(crate) fn bump(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
}

const ALTERNATE: &[u8] = b"alternate-exchange";
