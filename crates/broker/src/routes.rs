//! Where a message goes: found once per exchange and routing key, then remembered.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_codec::{RawTable, ValueRef, split_route};
use leveret_router::{ExchangeCounts, KeyedHash, Routes};

use crate::access::Right;
use crate::acting::{Acting, Resource};
use crate::cell::QueueCell;
use crate::refusal::Refusal;

/// Remembered routes of one connection; emptied when full, as keys are the client's to invent.
const ROUTES_MAX: usize = 4096;

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
    #[inline]
    fn stands(&self) -> bool {
        match &self.validity {
            Validity::Generation(now, seen) => now.load(Ordering::Acquire) == *seen,
            Validity::Queue => self.cells.iter().all(|cell| !cell.is_deleted()),
            Validity::Once => false,
        }
    }

    pub(crate) const fn depends_on_headers(&self) -> bool {
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
    found: Routes,
    /// Exchanges the user may publish to.
    permitted: HashSet<Box<str>, KeyedHash>,
    /// Of what users may do, as it was when all this was found.
    access_generation: u64,
}

impl RouteCache {
    /// An empty one. `seed` is the broker's secret: no client can choose routes that collide.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            last: None,
            routes: HashMap::with_hasher(KeyedHash::new(seed)),
            found: Routes::default(),
            permitted: HashSet::with_hasher(KeyedHash::new(seed)),
            access_generation: 0,
        }
    }

    /// The route of a raw exchange and routing key.
    #[inline]
    pub(crate) fn get(&mut self, acting: Acting<'_>, route: &[u8]) -> Result<Arc<Route>, Refusal> {
        let generation = acting.broker.access_generation.load(Ordering::Acquire);
        if self.access_generation != generation {
            self.forget(generation);
        }
        if let Some((key, found)) = &self.last
            && key == route
            && found.stands()
        {
            return Ok(Arc::clone(found));
        }
        self.look_up(acting, route)
    }

    /// Somebody's permissions have changed: everything is checked anew.
    #[cold]
    fn forget(&mut self, access_generation: u64) {
        self.last = None;
        self.routes.clear();
        self.permitted.clear();
        self.access_generation = access_generation;
    }

    fn look_up(&mut self, acting: Acting<'_>, route: &[u8]) -> Result<Arc<Route>, Refusal> {
        let known = self
            .routes
            .get(route)
            .filter(|found| found.stands())
            .cloned();
        let found = match known {
            Some(found) => found,
            None => {
                let found = Arc::new(self.resolve(acting, route, &[], None)?);
                if !found.depends_on_headers() {
                    if self.routes.len() >= ROUTES_MAX {
                        self.routes.clear();
                    }
                    self.routes.insert(route.into(), Arc::clone(&found));
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
        Ok(found)
    }

    /// Asks the router, with further routing keys and the message's headers.
    pub(crate) fn resolve(
        &mut self,
        acting: Acting<'_>,
        route: &[u8],
        more_keys: &[&[u8]],
        headers: Option<RawTable<'_>>,
    ) -> Result<Route, Refusal> {
        let (exchange, key) = split_route(route).unwrap_or_default();
        let missing = || Refusal::NoExchange(String::from_utf8_lossy(exchange).into_owned());
        let exchange = std::str::from_utf8(exchange).map_err(|_| missing())?;
        let mut keys = Vec::with_capacity(1 + more_keys.len());
        keys.push(key);
        keys.extend_from_slice(more_keys);
        self.check(acting, exchange, &keys)?;
        let directory = acting.vhost.directory.read();
        let source = directory.router.exchange(exchange).ok_or_else(missing)?;
        if source.spec().internal {
            return Err(Refusal::InternalExchange(exchange.into()));
        }
        // Read before routing: a change in between makes the route stale, never wrong for good.
        let generation = Arc::clone(source.generation());
        let counts = Arc::clone(source.counts());
        let seen = generation.load(Ordering::Acquire);
        directory
            .router
            .route(exchange.as_bytes(), &keys, headers, &mut self.found)
            .map_err(|_| missing())?;
        let cells: Box<[_]> = self
            .found
            .queues()
            .iter()
            .filter_map(|id| directory.cell(*id).cloned())
            .collect();
        let validity = if !self.found.cacheable() || !more_keys.is_empty() {
            Validity::Once
        } else if !exchange.is_empty() {
            Validity::Generation(generation, seen)
        } else if cells.is_empty() {
            Validity::Once
        } else {
            Validity::Queue
        };
        Ok(Route {
            cells,
            counts,
            validity,
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
