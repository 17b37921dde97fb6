//! Messages that are refused: counted by reason, queue and exchange, and noted for the log.
//!
//! No place that refuses a message is silent: publishers with confirms get a nack, a commit or an
//! HTTP publish an error, and for those who are told nothing there is this account.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_codec::split_route;
use leveret_queue::Reason;
use leveret_router::ExchangeCounts;
use parking_lot::Mutex;

use crate::queue::effects::RefusedBy;
use crate::vhost::Vhost;

/// So many different places are noted between two looks of the log; others are only counted.
const NOTED_MAX: usize = 64;

/// What became of messages that a queue could not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// They were refused.
    Refused(Reason),
    /// Their publisher waits, as the queue holds more than its share of the memory for messages.
    Waits,
    /// Their publisher waits, or was sent away, as the virtual host has reached this limit.
    Limited(&'static str),
}

/// Where messages were refused, or their publishers have to wait.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedAt {
    /// The virtual host.
    pub vhost: String,
    /// Which one refused them; empty where none was asked.
    pub queue: String,
    /// The exchange they were published to.
    pub exchange: String,
    /// What became of them.
    pub outcome: Outcome,
}

/// What was noted since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Messages refused, or publishers that began to wait, by place.
    pub places: BTreeMap<RefusedAt, u64>,
    /// The same at further places.
    pub elsewhere: u64,
}

/// All messages refused by a broker.
#[derive(Debug, Default)]
pub struct RefusedMessages {
    totals: [AtomicU64; Reason::ALL.len()],
    noted: Mutex<Noted>,
}

impl RefusedMessages {
    /// Messages refused since the broker was started, once for each queue that refused them.
    #[must_use]
    pub fn total(&self, reason: Reason) -> u64 {
        let total = self.totals.get(reason as usize);
        total.map_or(0, |total| total.load(Ordering::Relaxed))
    }

    /// Takes what was noted since the last call.
    #[must_use]
    pub fn take_noted(&self) -> Noted {
        std::mem::take(&mut *self.noted.lock())
    }

    /// Takes note of messages that queues have refused; `route` is the raw one. Nothing is locked.
    #[cold]
    pub(crate) fn note_all(&self, vhost: &Vhost, route: &[u8], refused: &mut Vec<RefusedBy>) {
        if let Some(counts) = counts_of(vhost, route) {
            let messages = refused.iter().map(|(_, _, messages)| messages).sum();
            counts.refused.fetch_add(messages, Ordering::Relaxed);
        }
        for (cell, reason, messages) in refused.drain(..) {
            if let Some(total) = self.totals.get(reason as usize) {
                total.fetch_add(messages, Ordering::Relaxed);
            }
            let outcome = Outcome::Refused(reason);
            self.note(vhost, &cell.name, route, (outcome, messages));
        }
    }

    /// Takes note of something at one place; `route` is the raw one of the messages.
    pub(crate) fn note(
        &self,
        vhost: &Vhost,
        queue: &str,
        route: &[u8],
        (outcome, count): (Outcome, u64),
    ) {
        let exchange = split_route(route).map_or(&[][..], |(exchange, _)| exchange);
        let place = RefusedAt {
            vhost: vhost.name.to_string(),
            queue: queue.to_owned(),
            exchange: String::from_utf8_lossy(exchange).into_owned(),
            outcome,
        };
        let mut noted = self.noted.lock();
        if noted.places.len() < NOTED_MAX || noted.places.contains_key(&place) {
            *noted.places.entry(place).or_default() += count;
        } else {
            noted.elsewhere += count;
        }
    }
}

/// Of the exchange that messages were published to, if it is still there.
pub(crate) fn counts_of(vhost: &Vhost, route: &[u8]) -> Option<Arc<ExchangeCounts>> {
    let (exchange, _) = split_route(route)?;
    let exchange = std::str::from_utf8(exchange).ok()?;
    let directory = vhost.directory.read();
    let exchange = directory.router.exchange(exchange)?;
    Some(Arc::clone(exchange.counts()))
}
