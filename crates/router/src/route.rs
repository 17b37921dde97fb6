//! Where a message goes: one walk through the graph of exchanges.
//!
//! Each exchange is visited once a message, whatever cycles bindings and alternates form, and each
//! queue is found once. A walk can be taken in parts, as one message may lead through everything
//! that there is.

use leveret_codec::{Properties, RawTable};

use crate::choice::Contest;
use crate::exchange::Exchange;
use crate::hash::mix;
use crate::headers::Search;
use crate::refused::NoExchange;
use crate::router::{DEFAULT, Router};
use crate::seen::{KEPT_MAX, SeenIds};
use crate::steps::Steps;
use crate::targets::{ExchangeId, QueueId};
use crate::walk::TrieWalk;

/// The outcome of one route, and the memory routing needs. Keep one and reuse it.
#[derive(Debug, Default)]
pub struct Routes {
    found: Matches,
    cacheable: bool,
    visited: SeenIds,
    memory: LookMemory,
    /// The exchange that is being visited, and how many targets had been written before.
    visiting: Option<(ExchangeId, usize)>,
}

/// What the indexes need while they look, and how far the one of this visit has come.
#[derive(Debug, Default)]
pub(crate) struct LookMemory {
    /// The routing key that comes next.
    pub(crate) key: usize,
    /// Whether the index has begun with it.
    pub(crate) begun: bool,
    pub(crate) walk: TrieWalk,
    pub(crate) search: Search,
    pub(crate) contest: Contest,
    pub(crate) random: Random,
}

/// Numbers that look random, the same ones from the same seed.
#[derive(Debug, Default)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0.rotate_left(32))
    }
}

/// What the indexes write into.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    pub(crate) queues: Vec<QueueId>,
    /// Exchanges to visit next.
    pub(crate) hops: Vec<ExchangeId>,
    /// How many bindings' targets were written. One run of queues is sorted and has no repeats.
    pub(crate) runs: usize,
    /// How many queues there were when they were sorted last.
    sorted: usize,
}

/// What routing looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoutedMessage<'a, 'k> {
    /// The routing key, then those of CC and BCC.
    pub(crate) keys: &'a [&'k [u8]],
    pub(crate) properties: &'a Properties<'a>,
}

impl Routes {
    /// Room for one route after another.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with a seed for exchanges that choose at random.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        let mut routes = Self::default();
        routes.memory.random = Random(mix(seed));
        routes
    }

    /// The queues, each once, in ascending order.
    #[must_use]
    pub fn queues(&self) -> &[QueueId] {
        &self.found.queues
    }

    /// Whether the same exchange and keys lead to the same queues while the exchange's generation
    /// stands. Not so when an exchange was visited that looks at more than keys or chooses at
    /// random, or when the message went to the default exchange with a key that names no queue yet.
    #[must_use]
    pub fn cacheable(&self) -> bool {
        self.cacheable
    }

    /// Gives back the memory of a long walk, once its queues are of no more use.
    pub fn trim(&mut self) {
        if self.found.queues.capacity() > KEPT_MAX || self.found.hops.capacity() > KEPT_MAX {
            self.found = Matches::default();
        }
        self.visited.trim();
        self.memory.walk.trim();
        self.memory.search.trim();
    }

    fn clear(&mut self) {
        self.found.queues.clear();
        self.found.hops.clear();
        self.found.runs = 0;
        self.found.sorted = 0;
        self.cacheable = true;
        self.visited.clear();
        self.visiting = None;
    }
}

impl Matches {
    /// Drops repeats once they may be half of what there is, so that bindings between very many
    /// exchanges that lead to the same queues cost no memory.
    fn compact(&mut self, steps: &mut Steps) {
        if self.queues.len() > COMPACTED_MIN.max(2 * self.sorted) {
            steps.took(self.queues.len());
            self.sort();
        }
    }

    fn sort(&mut self) {
        self.queues.sort_unstable();
        self.queues.dedup();
        self.sorted = self.queues.len();
    }
}

/// Queues of which repeats need not be dropped before the end.
const COMPACTED_MIN: usize = 16 * 1024;

impl Router {
    /// Finds the queues of a message published to `exchange` under `keys` (the routing key, then
    /// those of CC and BCC), and returns that exchange. Whether it is internal is for the caller
    /// to ask.
    pub fn route(
        &self,
        exchange: &[u8],
        keys: &[&[u8]],
        headers: Option<RawTable<'_>>,
        out: &mut Routes,
    ) -> Result<&Exchange, NoExchange> {
        let source = self.begin_route(exchange, out)?;
        let properties = Properties {
            headers,
            ..Properties::default()
        };
        self.go_on(keys, &properties, out, &mut Steps::unlimited());
        Ok(source)
    }

    /// Begins a route that [`Self::go_on`] finds.
    pub fn begin_route(&self, exchange: &[u8], out: &mut Routes) -> Result<&Exchange, NoExchange> {
        out.clear();
        let start = self.exchange_id(exchange).ok_or(NoExchange)?;
        let source = self.exchanges.get(start.0).ok_or(NoExchange)?;
        out.visited.insert(self.seed, start.0);
        out.enter(start);
        Ok(source)
    }

    /// Goes on with a route, always with the same keys and properties; false if there is more to do
    /// than there are steps. It stands only while the generation of the exchange that it began with
    /// does.
    pub fn go_on(
        &self,
        keys: &[&[u8]],
        properties: &Properties<'_>,
        out: &mut Routes,
        steps: &mut Steps,
    ) -> bool {
        let message = RoutedMessage { keys, properties };
        loop {
            if let Some((id, before)) = out.visiting {
                let all = self.visit(id, message, out, steps);
                out.found.compact(steps);
                if !all {
                    return false;
                }
                self.leave(id, before, out);
                out.visiting = None;
            }
            let Some(next) = out.found.hops.pop() else {
                break;
            };
            if out.visited.insert(self.seed, next.0) {
                out.enter(next);
            }
            if !steps.take() {
                return false;
            }
        }
        if out.found.runs > 1 {
            out.found.sort();
        }
        true
    }

    fn visit(
        &self,
        id: ExchangeId,
        message: RoutedMessage<'_, '_>,
        out: &mut Routes,
        steps: &mut Steps,
    ) -> bool {
        if id == DEFAULT {
            let all = self.route_default(message.keys, &mut out.found, steps);
            out.cacheable &= all || out.visited.get(0) != Some(DEFAULT.0);
            return true;
        }
        let Some(exchange) = self.exchanges.get(id.0) else {
            return true;
        };
        exchange.visit();
        out.cacheable &= exchange.index.goes_by_keys();
        let (memory, found) = (&mut out.memory, &mut out.found);
        exchange
            .index
            .go_on(self.seed, message, (memory, found), steps)
    }

    /// Only if none of an exchange's own bindings matches does its alternate count.
    fn leave(&self, id: ExchangeId, before: usize, out: &mut Routes) {
        if out.found.runs == before
            && let Some(exchange) = self.exchanges.get(id.0)
            && let Some(alternate) = exchange.alternate()
            && let Some(next) = self.exchange_id(alternate.as_bytes())
        {
            out.found.hops.push(next);
        }
    }

    /// Finds the queues the keys name. False if one names none.
    fn route_default(&self, keys: &[&[u8]], found: &mut Matches, steps: &mut Steps) -> bool {
        let mut all = true;
        for key in keys {
            steps.took(1);
            match self.queue_by_name(key) {
                Some(queue) => {
                    found.queues.push(queue);
                    found.runs += 1;
                }
                None => all = false,
            }
        }
        all
    }
}

impl Routes {
    fn enter(&mut self, exchange: ExchangeId) {
        self.visiting = Some((exchange, self.found.runs));
        self.memory.key = 0;
        self.memory.begun = false;
    }
}
