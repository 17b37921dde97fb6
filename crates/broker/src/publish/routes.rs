//! Where a message goes: found once per exchange and routing key, then remembered.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_access::Right;
use leveret_codec::{Properties, RawTable, ValueRef, split_route};
use leveret_router::{ExchangeCounts, KeyedHash, NoExchange, Routes, Steps};

use crate::access::acting::{Acting, Resource};
use crate::context::refusal::Refusal;
use crate::queue::cell::QueueCell;
use crate::queue::effects::STEPS_OF_TURN;
use crate::vhost::Directory;

/// Remembered routes of one connection; emptied when full, as keys are the client's to invent.
const ROUTES_MAX: usize = 4096;
/// Queues of all remembered routes together.
const CELLS_MAX: usize = 64 * 1024;

/// The queues one exchange and routing key lead to.
pub(crate) struct Route {
    pub(crate) cells: Box<[Arc<QueueCell>]>,
    counts: Arc<ExchangeCounts>,
    validity: Validity,
}

/// When a remembered route may be used again.
enum Validity {
    /// While the exchange's generation stands.
    Generation(Arc<AtomicU64>, u64),
    /// The default exchange: while its one queue exists.
    Queue,
    /// Never: it depends on more than the routing key.
    Once,
}

impl Route {
    /// Whether it may be used again.
    #[inline]
    pub(crate) fn stands(&self) -> bool {
        match &self.validity {
            Validity::Generation(now, seen) => now.load(Ordering::Acquire) == *seen,
            Validity::Queue => self.cells.iter().all(|cell| !cell.is_deleted()),
            Validity::Once => false,
        }
    }

    fn found(
        cells: Box<[Arc<QueueCell>]>,
        source: PublishedTo,
        by_key_alone: bool,
        exchange: &str,
    ) -> Self {
        let validity = if !by_key_alone || (exchange.is_empty() && cells.is_empty()) {
            Validity::Once
        } else if exchange.is_empty() {
            Validity::Queue
        } else {
            Validity::Generation(source.generation, source.seen)
        };
        Self {
            cells,
            counts: source.counts,
            validity,
        }
    }

    /// Whether it is good for one message only, as it depends on more than the routing key.
    pub(crate) const fn is_for_one(&self) -> bool {
        matches!(self.validity, Validity::Once)
    }
}

/// What a turn published to the exchange it used last.
#[derive(Default)]
pub(crate) struct ExchangeTally {
    exchange: Option<Arc<ExchangeCounts>>,
    published_in: u64,
    published_out: u64,
    returned: u64,
    dropped: u64,
}

impl ExchangeTally {
    /// Counts a batch.
    #[inline]
    pub(crate) fn count(&mut self, route: &Route, messages: u64) {
        let same = |known: &Arc<_>| Arc::ptr_eq(known, &route.counts);
        if !self.exchange.as_ref().is_some_and(same) {
            self.show();
            self.exchange = Some(Arc::clone(&route.counts));
        }
        self.published_in += messages;
        self.published_out += messages * route.cells.len() as u64;
    }

    /// Counts how many of the batch counted last led to no queue.
    pub(crate) fn count_unroutable(&mut self, returned: u64, dropped: u64) {
        self.returned += returned;
        self.dropped += dropped;
    }

    /// Adds it to what all publishers of the exchange share.
    pub(crate) fn show(&mut self) {
        if self.published_in == 0 {
            return;
        }
        if let Some(exchange) = &self.exchange {
            for (shared, number) in [
                (&exchange.published_in, &mut self.published_in),
                (&exchange.published_out, &mut self.published_out),
                (&exchange.returned, &mut self.returned),
                (&exchange.dropped, &mut self.dropped),
            ] {
                let number = std::mem::take(number);
                if number > 0 {
                    shared.fetch_add(number, Ordering::Relaxed);
                }
            }
        }
    }
}

/// The routes one connection has used.
pub(crate) struct RouteCache {
    last: Option<(Vec<u8>, Arc<Route>)>,
    routes: HashMap<Box<[u8]>, Arc<Route>, KeyedHash>,
    /// How many queues are in there.
    cells: usize,
    found: Routes,
    /// What is being looked for, when a turn did not suffice.
    begun: Option<Box<RouteSearch>>,
    /// Steps that were taken in this turn.
    steps: usize,
    /// Exchanges the user may publish to.
    permitted: HashSet<Box<str>, KeyedHash>,
    /// Of what users may do, as it was when all this was found.
    access_generation: u64,
    /// The broker itself publishes: it may do everything.
    of_broker: bool,
}

/// What a message's way depends on: exchange and routing key as they are in the method; further
/// routing keys, which are of its headers; its content header, as it came and decoded.
pub(crate) type RouteQuery<'a> = (
    &'a [u8],
    &'a [&'a [u8]],
    Option<(&'a [u8], &'a Properties<'a>)>,
);

/// A route that is not found yet.
struct RouteSearch {
    route: Box<[u8]>,
    header: Option<Box<[u8]>>,
    source: PublishedTo,
}

impl RouteSearch {
    fn is_for(&self, (route, _, header): RouteQuery<'_>) -> bool {
        let header = header.map(|(header, _)| header);
        *self.route == *route && self.header.as_deref() == header
    }
}

/// The exchange that a message was published to.
struct PublishedTo {
    counts: Arc<ExchangeCounts>,
    generation: Arc<AtomicU64>,
    /// The generation when it was found.
    seen: u64,
}

impl PublishedTo {
    fn stands(&self) -> bool {
        self.generation.load(Ordering::Acquire) == self.seen
    }
}

impl RouteCache {
    /// An empty one. `seed` is secret, so that no client can choose routes that collide; it is what
    /// random choices come from.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            last: None,
            routes: HashMap::with_hasher(KeyedHash::new(seed)),
            cells: 0,
            found: Routes::with_seed(seed),
            begun: None,
            steps: 0,
            permitted: HashSet::with_hasher(KeyedHash::new(seed)),
            access_generation: 0,
            of_broker: false,
        }
    }

    /// The same for what the broker itself publishes, to any exchange.
    pub(crate) fn of_broker(seed: u64) -> Self {
        Self {
            of_broker: true,
            ..Self::new(seed)
        }
    }

    /// Whether a route is being looked for that depends on a content header.
    pub(crate) fn goes_by_header(&self) -> bool {
        let mut begun = self.begun.iter();
        begun.any(|begun| begun.header.is_some())
    }

    /// Whether finding routes was most of the turn that ends now.
    pub(crate) fn were_laborious(&mut self) -> bool {
        std::mem::take(&mut self.steps) >= STEPS_OF_TURN / 2
    }

    /// The route of a raw exchange and routing key; nothing when there are too few steps to find
    /// it, and then the next call for it goes on.
    #[inline]
    pub(crate) fn get(
        &mut self,
        acting: Acting<'_>,
        route: &[u8],
        steps: &mut Steps,
    ) -> Result<Option<Arc<Route>>, Refusal> {
        let generation = acting.broker.access_generation.load(Ordering::Acquire);
        if self.access_generation != generation {
            self.forget(generation);
        }
        if let Some((key, found)) = &self.last
            && key == route
            && found.stands()
        {
            return Ok(Some(Arc::clone(found)));
        }
        self.look_up(acting, route, steps)
    }

    /// Somebody's permissions have changed: everything is checked anew.
    #[cold]
    fn forget(&mut self, access_generation: u64) {
        self.last = None;
        self.begun = None;
        self.routes.clear();
        self.cells = 0;
        self.permitted.clear();
        self.access_generation = access_generation;
    }

    fn look_up(
        &mut self,
        acting: Acting<'_>,
        route: &[u8],
        steps: &mut Steps,
    ) -> Result<Option<Arc<Route>>, Refusal> {
        let known = self
            .routes
            .get(route)
            .filter(|found| found.stands())
            .cloned();
        let found = match known {
            Some(found) => found,
            None => {
                let Some(found) = self.resolve(acting, (route, &[], None), steps)? else {
                    return Ok(None);
                };
                let found = Arc::new(found);
                if !found.is_for_one() {
                    self.remember(route, &found);
                }
                found
            }
        };
        let (mut key, _) = self
            .last
            .take()
            .unwrap_or_else(|| (Vec::new(), Arc::clone(&found)));
        key.clear();
        key.extend_from_slice(route);
        self.last = Some((key, Arc::clone(&found)));
        Ok(Some(found))
    }

    fn remember(&mut self, route: &[u8], found: &Arc<Route>) {
        let cells = found.cells.len();
        if self.routes.len() >= ROUTES_MAX || self.cells + cells > CELLS_MAX {
            self.routes.clear();
            self.cells = 0;
        }
        if cells <= CELLS_MAX {
            self.cells += cells;
            let replaced = self.routes.insert(route.into(), Arc::clone(found));
            self.cells -= replaced.map_or(0, |old| old.cells.len());
        }
    }

    /// Asks the router, with further routing keys and the content header; nothing when there are
    /// too few steps for that, and then the next call for the same goes on.
    pub(crate) fn resolve(
        &mut self,
        acting: Acting<'_>,
        asked: RouteQuery<'_>,
        steps: &mut Steps,
    ) -> Result<Option<Route>, Refusal> {
        let (route, more_keys, header) = asked;
        let none = Properties::default();
        let properties = header.map_or(&none, |(_, properties)| properties);
        let (exchange, key) = split_route(route).unwrap_or_default();
        let missing = || Refusal::NoExchange(String::from_utf8_lossy(exchange).into_owned());
        let exchange = std::str::from_utf8(exchange).map_err(|_| missing())?;
        let mut keys = Vec::with_capacity(1 + more_keys.len());
        keys.push(key);
        keys.extend_from_slice(more_keys);
        let begun = self.begun.take().filter(|begun| begun.is_for(asked));
        if begun.is_none() && !self.of_broker {
            self.check(acting, exchange, &keys)?;
        }
        let directory = acting.vhost.directory.read();
        // What has changed since may have changed what was found.
        let begun = begun.filter(|begun| begun.source.stands());
        let source = match begun {
            Some(begun) => begun.source,
            None => self.begin(&directory, exchange)?,
        };
        let router = &directory.router;
        let before = steps.taken();
        let done = router.go_on(&keys, properties, &mut self.found, steps);
        self.steps += steps.taken() - before;
        if !done {
            self.begun = Some(Box::new(RouteSearch {
                route: route.into(),
                header: header.map(|(header, _)| header.into()),
                source,
            }));
            return Ok(None);
        }
        let cells = self.found.queues().iter();
        let cells = cells
            .filter_map(|id| directory.cell(*id).cloned())
            .collect();
        let by_key_alone = self.found.cacheable() && more_keys.is_empty();
        self.found.trim();
        Ok(Some(Route::found(cells, source, by_key_alone, exchange)))
    }

    fn begin(&mut self, directory: &Directory, exchange: &str) -> Result<PublishedTo, Refusal> {
        let router = &directory.router;
        let source = router
            .begin_route(exchange.as_bytes(), &mut self.found)
            .map_err(|NoExchange| Refusal::NoExchange(exchange.into()))?;
        if source.spec().internal && !self.of_broker {
            return Err(Refusal::InternalExchange(exchange.into()));
        }
        // Read before routing: a change in between makes the route stale, never wrong for good.
        let generation = Arc::clone(source.generation());
        Ok(PublishedTo {
            counts: Arc::clone(source.counts()),
            seen: generation.load(Ordering::Acquire),
            generation,
        })
    }
}

impl RouteCache {
    /// Asks for the permission of an exchange once, for those of routing keys each time.
    fn check(&mut self, acting: Acting<'_>, exchange: &str, keys: &[&[u8]]) -> Result<(), Refusal> {
        if !self.permitted.contains(exchange) {
            acting.check(Right::Write, Resource::Exchange(exchange))?;
            if self.permitted.len() >= ROUTES_MAX {
                self.permitted.clear();
            }
            self.permitted.insert(exchange.into());
        }
        keys.iter()
            .try_for_each(|key| acting.check_key(Right::Write, exchange, key))
    }
}

/// The routing keys in a message's `CC` and `BCC` headers.
///
/// # Errors
/// 406 when one of them is not an array.
pub(crate) fn sender_selected<'a>(headers: RawTable<'a>) -> Result<Vec<&'a [u8]>, Refusal> {
    let mut keys = Vec::new();
    for name in ["CC", "BCC"] {
        let Some(value) = headers.get(name.as_bytes()) else {
            continue;
        };
        let ValueRef::Array(list) = value else {
            return Err(unacceptable(name, value));
        };
        // RabbitMQ overlooks what is no string in there.
        keys.extend(list.iter().filter_map(|item| match item {
            ValueRef::LongString(key) => Some(key),
            _ => None,
        }));
    }
    Ok(keys)
}

fn unacceptable(name: &str, value: ValueRef<'_>) -> Refusal {
    let kind = value.type_name();
    Refusal::Precondition(format!(
        "invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}"
    ))
}

#[cfg(test)]
mod tests {
    use leveret_codec::{Table, Value};

    use super::*;

    #[test]
    fn more_keys_are_the_strings_of_two_arrays() {
        let mut headers = Table::new();
        let list = vec![Value::LongString(b"a".to_vec()), Value::I32(1)];
        headers.insert("CC", Value::Array(list));
        headers.insert("BCC", Value::Array(vec![Value::LongString(b"b".to_vec())]));
        let encoded = headers.encoded();
        let keys = sender_selected(RawTable::parse(&encoded).unwrap());
        assert_eq!(keys.unwrap(), [b"a", b"b"]);
        headers.insert("CC", Value::I32(1));
        let encoded = headers.encoded();
        assert!(sender_selected(RawTable::parse(&encoded).unwrap()).is_err());
    }
}
