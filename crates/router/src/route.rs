//! Where a message goes: one walk through the graph of exchanges.
//!
//! Each exchange is visited once a message, whatever cycles bindings and alternates form, and each
//! queue is found once.

use leveret_codec::RawTable;

use crate::exchange::Exchange;
use crate::refused::NoExchange;
use crate::router::{DEFAULT, Router};
use crate::seen::Seen;
use crate::targets::{ExchangeId, QueueId};
use crate::trie::Walk;

/// The outcome of one route, and the memory routing needs. Keep one and reuse it.
#[derive(Debug, Default)]
pub struct Routes {
    found: Found,
    cacheable: bool,
    visited: Seen,
    memory: Memory,
}

/// What the indexes need while they look.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) walk: Walk,
    /// Bindings of a headers exchange that need no further look.
    pub(crate) settled: Seen,
}

/// What the indexes write into.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) queues: Vec<QueueId>,
    /// Exchanges to visit next.
    pub(crate) hops: Vec<ExchangeId>,
    /// How many bindings' targets were written. One run of queues is sorted and has no repeats.
    pub(crate) runs: usize,
}

/// What routing looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a, 'k> {
    /// The routing key, then those of CC and BCC.
    pub(crate) keys: &'a [&'k [u8]],
    pub(crate) headers: Option<RawTable<'a>>,
}

impl Routes {
    /// Room for one route after another.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The queues, each once, in ascending order.
    #[must_use]
    pub fn queues(&self) -> &[QueueId] {
        &self.found.queues
    }

    /// Whether the same exchange and keys lead to the same queues while the exchange's generation
    /// stands. Not so when a headers exchange was visited, or when the message went to the default
    /// exchange with a key that names no queue yet.
    #[must_use]
    pub fn cacheable(&self) -> bool {
        self.cacheable
    }

    fn clear(&mut self) {
        self.found.queues.clear();
        self.found.hops.clear();
        self.found.runs = 0;
        self.cacheable = true;
    }
}

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
        out.clear();
        let start = self.exchange_id(exchange).ok_or(NoExchange)?;
        let source = self.exchanges.get(start.0).ok_or(NoExchange)?;
        let message = Message { keys, headers };
        if start == DEFAULT {
            out.cacheable = self.route_default(keys, &mut out.found);
        } else {
            self.visit(source, message, out);
        }
        if !out.found.hops.is_empty() {
            out.visited.clear();
            out.visited.insert(self.seed, start.0);
        }
        while let Some(next) = out.found.hops.pop() {
            if !out.visited.insert(self.seed, next.0) {
                continue;
            }
            if next == DEFAULT {
                self.route_default(keys, &mut out.found);
            } else if let Some(next) = self.exchanges.get(next.0) {
                self.visit(next, message, out);
            }
        }
        if out.found.runs > 1 {
            out.found.queues.sort_unstable();
            out.found.queues.dedup();
        }
        Ok(source)
    }

    /// Visits one exchange; only if none of its own bindings matches does its alternate count.
    fn visit(&self, exchange: &Exchange, message: Message<'_, '_>, out: &mut Routes) {
        let before = out.found.runs;
        out.cacheable &= !exchange.index.reads_headers();
        exchange
            .index
            .route(self.seed, message, &mut out.memory, &mut out.found);
        if out.found.runs == before
            && let Some(alternate) = exchange.alternate()
            && let Some(next) = self.exchange_id(alternate.as_bytes())
        {
            out.found.hops.push(next);
        }
    }

    /// Finds the queues the keys name. False if one names none.
    fn route_default(&self, keys: &[&[u8]], found: &mut Found) -> bool {
        let mut all = true;
        for key in keys {
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
