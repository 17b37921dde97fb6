//! The router of one virtual host: its exchanges, and the queue names of the default exchange.

use std::collections::{BTreeMap, BTreeSet};

use crate::bindings::{Bindings, List};
use crate::equivalence;
use crate::exchange::{Exchange, ExchangeKind, ExchangeSpec};
use crate::hash::Seed;
use crate::refused::Refused;
use crate::seen::SeenIds;
use crate::slab::{IdSet, SHRINK_ABOVE, Slab};
use crate::targets::{ExchangeId, QueueId};

/// All exchanges and bindings of one virtual host.
///
/// Changes need `&mut`, routing only `&`: the broker keeps it behind a read-mostly lock.
#[derive(Debug)]
pub struct Router {
    pub(crate) seed: Seed,
    pub(crate) exchanges: Slab<Exchange>,
    exchange_names: IdSet,
    /// The same in the order of their names, so that a list goes on where it stopped.
    pub(crate) ordered_exchanges: BTreeMap<Box<str>, ExchangeId>,
    /// By queue id, which the broker keeps dense.
    pub(crate) queues: Vec<Option<RoutedQueue>>,
    queue_names: IdSet,
    pub(crate) bindings: Bindings,
    /// Which exchanges name each alternate, whether that one exists or not.
    alternates: BTreeMap<Box<str>, BTreeSet<ExchangeId>>,
}

/// What the router knows of a queue.
#[derive(Debug)]
pub(crate) struct RoutedQueue {
    pub(crate) name: Box<str>,
    pub(crate) bindings: List,
}

/// What a declaration found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Declared {
    /// The exchange is new.
    Created,
    /// An equivalent exchange was there.
    Existing,
}

impl Default for Router {
    fn default() -> Self {
        Self::new()
    }
}

impl Router {
    /// A router with the predeclared exchanges and a fixed seed, for tests.
    #[must_use]
    pub fn new() -> Self {
        Self::with_seed(0)
    }

    /// A router with the predeclared exchanges. `seed` is secret and differs from start to start,
    /// so that no client can choose names that collide; nothing observable depends on it.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        let mut router = Self {
            seed: Seed::new(seed),
            exchanges: Slab::default(),
            exchange_names: IdSet::default(),
            ordered_exchanges: BTreeMap::new(),
            queues: Vec::new(),
            queue_names: IdSet::default(),
            bindings: Bindings::default(),
            alternates: BTreeMap::new(),
        };
        for (name, kind, internal) in PREDECLARED {
            router.create(
                name,
                ExchangeSpec {
                    internal,
                    ..ExchangeSpec::durable(kind)
                },
            );
        }
        router
    }

    /// The exchange of that name; the empty name is the default exchange.
    #[must_use]
    pub fn exchange(&self, name: &str) -> Option<&Exchange> {
        self.exchanges.get(self.exchange_id(name.as_bytes())?.0)
    }

    /// All exchanges, the default one first, in an order that depends on history alone.
    pub fn exchanges(&self) -> impl Iterator<Item = &Exchange> {
        self.exchanges.iter().map(|(_, exchange)| exchange)
    }

    /// How many exchanges there are, the predeclared ones included.
    #[must_use]
    pub fn exchange_count(&self) -> usize {
        self.exchanges.len()
    }

    /// Declares an exchange (`exchange.declare` without passive).
    pub fn declare(&mut self, name: &str, spec: ExchangeSpec) -> Result<Declared, Refused> {
        if name.is_empty() {
            return Err(Refused::DefaultExchange);
        }
        if let Some(exchange) = self.exchange(name) {
            return equivalence::check(&exchange.spec, &spec).map(|()| Declared::Existing);
        }
        if name.starts_with("amq.") {
            return Err(Refused::Reserved(name.into()));
        }
        spec.check()?;
        self.create(name, spec);
        // Others may have named it as their alternate before it was there.
        let changed: Vec<ExchangeId> = self.referrers(name).copied().collect();
        self.invalidate(&changed);
        Ok(Declared::Created)
    }

    /// Sets or clears the alternate exchange that a policy gives; the exchange's own argument wins.
    /// False if there is no such exchange.
    pub fn set_policy_alternate(&mut self, name: &str, alternate: Option<&str>) -> bool {
        let Some(id) = self
            .exchange_id(name.as_bytes())
            .filter(|id| *id != DEFAULT)
        else {
            return false;
        };
        self.forget_alternate(id);
        if let Some(exchange) = self.exchanges.get_mut(id.0) {
            exchange.policy_alternate = alternate.map(Into::into);
        }
        self.note_alternate(id);
        self.invalidate(&[id]);
        true
    }

    /// Binds a new queue to the default exchange under its name. False, and nothing done, if the
    /// name or the id is taken.
    ///
    /// Ids index a table, so they should be dense, and low again once high ones are removed.
    pub fn add_queue(&mut self, name: &str, id: QueueId) -> bool {
        let at = id.0 as usize;
        let taken = self.queues.get(at).is_some_and(Option::is_some);
        if taken || self.queue_by_name(name.as_bytes()).is_some() {
            return false;
        }
        if self.queues.len() <= at {
            self.queues.resize_with(at + 1, || None);
        }
        if let Some(slot) = self.queues.get_mut(at) {
            *slot = Some(RoutedQueue {
                name: name.into(),
                bindings: List::default(),
            });
        }
        let (queues, seed) = (&self.queues, self.seed);
        let hash = seed.bytes(name.as_bytes());
        self.queue_names
            .insert(hash, id.0, |id| queue_hash(queues, seed, id));
        self.invalidate_default();
        true
    }

    /// Which queue has this name.
    #[must_use]
    pub fn queue_by_name(&self, name: &[u8]) -> Option<QueueId> {
        let is = |id: &u32| {
            self.queue_name(QueueId(*id))
                .is_some_and(|n| n.as_bytes() == name)
        };
        self.queue_names
            .find(self.seed.bytes(name), is)
            .map(QueueId)
    }

    /// What a queue is called, while it is there.
    #[must_use]
    pub fn queue_name(&self, id: QueueId) -> Option<&str> {
        Some(&self.queue(id)?.name)
    }

    pub(crate) fn queue(&self, id: QueueId) -> Option<&RoutedQueue> {
        self.queues.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn exchange_id(&self, name: &[u8]) -> Option<ExchangeId> {
        let is = |id: &u32| {
            self.exchanges
                .get(*id)
                .is_some_and(|x| x.name.as_bytes() == name)
        };
        self.exchange_names
            .find(self.seed.bytes(name), is)
            .map(ExchangeId)
    }

    fn create(&mut self, name: &str, spec: ExchangeSpec) -> ExchangeId {
        let id = self.exchanges.insert(Exchange::new(name, spec));
        let (exchanges, seed) = (&self.exchanges, self.seed);
        let hash = seed.bytes(name.as_bytes());
        self.exchange_names
            .insert(hash, id, |id| exchange_hash(exchanges, seed, id));
        self.ordered_exchanges.insert(name.into(), ExchangeId(id));
        self.note_alternate(ExchangeId(id));
        ExchangeId(id)
    }

    /// Takes an exchange out once nothing is bound to it any more.
    pub(crate) fn erase_exchange(&mut self, id: ExchangeId) -> Option<Exchange> {
        self.forget_alternate(id);
        let (exchanges, seed) = (&self.exchanges, self.seed);
        let hash = exchange_hash(exchanges, seed, id.0);
        self.exchange_names
            .remove(hash, id.0, |id| exchange_hash(exchanges, seed, id));
        let exchange = self.exchanges.remove(id.0)?;
        self.ordered_exchanges.remove(&*exchange.name);
        Some(exchange)
    }

    /// Takes a queue out once nothing is bound to it any more.
    pub(crate) fn erase_queue(&mut self, id: QueueId) {
        let (queues, seed) = (&self.queues, self.seed);
        let hash = queue_hash(queues, seed, id.0);
        self.queue_names
            .remove(hash, id.0, |id| queue_hash(queues, seed, id));
        if let Some(slot) = self.queues.get_mut(id.0 as usize) {
            *slot = None;
        }
        self.cut_queues();
        self.invalidate_default();
    }

    /// Drops the free tail of the queue table.
    fn cut_queues(&mut self) {
        while let Some(None) = self.queues.last() {
            self.queues.pop();
        }
        let (len, capacity) = (self.queues.len(), self.queues.capacity());
        if capacity > SHRINK_ABOVE && len < capacity / 4 {
            self.queues.shrink_to(len * 2);
        }
    }

    /// Bumps the generation of these exchanges and of all that reach them by bindings or as an
    /// alternate, as far as routes were found there since that was done last: so a change costs
    /// what routing has cost before it, not what there is.
    pub(crate) fn invalidate(&self, changed: &[ExchangeId]) {
        let mut reached = SeenIds::default();
        for id in changed {
            reached.insert(self.seed, id.0);
        }
        let mut at = 0;
        while let Some(id) = reached.get(at) {
            at += 1;
            let Some(exchange) = self.exchanges.get(id) else {
                continue;
            };
            if !exchange.invalidate() {
                continue;
            }
            for source in exchange
                .upstream
                .keys()
                .chain(self.referrers(&exchange.name))
            {
                reached.insert(self.seed, source.0);
            }
        }
    }

    /// The exchanges whose alternate has that name.
    pub(crate) fn referrers(&self, alternate: &str) -> impl Iterator<Item = &ExchangeId> {
        self.alternates.get(alternate).into_iter().flatten()
    }

    /// Bumps the exchanges that reach the default exchange as an alternate, though not itself.
    fn invalidate_default(&self) {
        if !self.alternates.is_empty() {
            let changed: Vec<ExchangeId> = self.referrers("").copied().collect();
            self.invalidate(&changed);
        }
    }

    fn note_alternate(&mut self, id: ExchangeId) {
        if let Some(name) = self.exchanges.get(id.0).and_then(Exchange::alternate) {
            self.alternates.entry(name.into()).or_default().insert(id);
        }
    }

    fn forget_alternate(&mut self, id: ExchangeId) {
        let Some(name) = self.exchanges.get(id.0).and_then(Exchange::alternate) else {
            return;
        };
        if let Some(referrers) = self.alternates.get_mut(name) {
            referrers.remove(&id);
            if referrers.is_empty() {
                self.alternates.remove(name);
            }
        }
    }
}

fn exchange_hash(exchanges: &Slab<Exchange>, seed: Seed, id: u32) -> u64 {
    exchanges
        .get(id)
        .map_or(0, |exchange| seed.bytes(exchange.name.as_bytes()))
}

fn queue_hash(queues: &[Option<RoutedQueue>], seed: Seed, id: u32) -> u64 {
    let queue = queues.get(id as usize).and_then(Option::as_ref);
    queue.map_or(0, |queue| seed.bytes(queue.name.as_bytes()))
}

/// The first exchange created.
pub(crate) const DEFAULT: ExchangeId = ExchangeId(0);

/// Name, type and whether it is internal.
const PREDECLARED: [(&str, ExchangeKind, bool); 7] = [
    ("", ExchangeKind::Direct, false),
    ("amq.direct", ExchangeKind::Direct, false),
    ("amq.fanout", ExchangeKind::Fanout, false),
    ("amq.topic", ExchangeKind::Topic, false),
    ("amq.headers", ExchangeKind::Headers, false),
    ("amq.match", ExchangeKind::Headers, false),
    ("amq.rabbitmq.trace", ExchangeKind::Topic, true),
];
