//! Messages without a connection: what the HTTP API publishes, fetches and looks at.

use std::ops::ControlFlow;
use std::sync::Arc;

use leveret_codec::Properties;
use leveret_queue::{Queue, Rank, Unacked};
use leveret_record::Record;
use leveret_router::Steps;
use leveret_session::{BatchMessage, Publishes};

use crate::access::acting::Acting;
use crate::broker::Broker;
use crate::broker::paging::{LOADS_MAX, PageLoad, unreadable};
use crate::context::refusal::Refusal;
use crate::context::stats::{MessageCounts, SizeCounts, Totals};
use crate::publish::expiration::check_expiration;
use crate::publish::reply_to::{asks_for_replies, no_consumer};
use crate::publish::room::Room;
use crate::publish::routes::{ExchangeTally, Route, RouteCache, RouteQuery, sender_selected};
use crate::publish::{enqueue, visible_header};
use crate::queue::attempts::counted_header;
use crate::queue::cell::QueueCell;
use crate::queue::consumer::Handle;
use crate::queue::copied::Copied;
use crate::queue::drain::{NackReason, nack_reason};
use crate::queue::effects::{Effects, STEPS_OF_TURN};
use crate::queue::pump::Pump;
use crate::queue::traced::Party;
use crate::vhost::Vhost;
use crate::vhost::quota::Wait;
use crate::vhost::refused::Outcome;

/// A message to be published.
#[derive(Clone, Copy, Debug)]
pub struct Direct<'a> {
    /// The exchange; empty for the default one.
    pub exchange: &'a str,
    /// The routing key, at most 255 bytes.
    pub key: &'a [u8],
    /// Payload of a content header frame.
    pub header: &'a [u8],
    /// Whole.
    pub body: &'a [u8],
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// It led to no queue.
    Unroutable,
    /// A queue, or the broker's memory or disk, is full.
    Refused(NackReason),
    /// The virtual host has reached one of its limits.
    Limited(NackReason),
    /// It is in so many queues; durable when the work's ticket is.
    Routed(usize),
}

/// What happens to messages that are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// They leave the queue.
    Settle,
    /// They go back, and count as delivered once more.
    Requeue,
}

/// What is counted of a message that came over no connection.
fn count_of(published: &Published, body_bytes: usize) -> Totals {
    let mut sizes = SizeCounts::default();
    sizes.count(body_bytes);
    let messages = MessageCounts {
        published: 1,
        published_confirming: 1,
        confirmed: u64::from(matches!(published, Published::Routed(_))),
        returned: u64::from(*published == Published::Unroutable),
        ..MessageCounts::default()
    };
    Totals {
        messages,
        sizes,
        ..Totals::default()
    }
}

impl Broker {
    /// Publishes a message on behalf of a user.
    ///
    /// # Errors
    /// When the user may not, there is no such exchange, it is internal, or the message is not
    /// valid.
    pub fn publish(
        &self,
        vhost: &Vhost,
        user: &str,
        message: &Direct<'_>,
        effects: &mut Effects,
    ) -> Result<Published, Refusal> {
        let (route, raw) = self.route_of(vhost, user, message)?;
        if let Some(reason) = self.limited(vhost, &raw, message.body.len()) {
            return Ok(Published::Limited(reason));
        }
        let visible = visible_header(message.header, None);
        let publish = BatchMessage {
            header: visible.as_deref().unwrap_or(message.header),
            body: message.body,
            mandatory: true,
        };
        let batch = Publishes::one(0, &raw, publish);
        if vhost.holdings.is_traced() {
            let party = Party::tool(&vhost.name, user);
            effects.trace(&party, &route.cells, &batch, Some((message.header, None)));
        }
        let mut tally = ExchangeTally::default();
        tally.count(&route, 1);
        tally.count_unroutable(u64::from(route.cells.is_empty()), 0);
        tally.show();
        let published = if route.cells.is_empty() {
            Published::Unroutable
        } else {
            let room =
                Room::of_impatient(self).claimed(&*self.store, &route.cells, &batch, effects);
            match enqueue(&route.cells, &batch, None, room, effects) {
                0 => Published::Routed(route.cells.len()),
                _ => {
                    let reason = nack_reason(&effects.refused, true);
                    Published::Refused(reason.unwrap_or_else(NackReason::unknown))
                }
            }
        };
        if !effects.refused.is_empty() {
            self.refused.note_all(vhost, &raw, &mut effects.refused);
        }
        let counted = count_of(&published, message.body.len());
        vhost.ended.add(counted);
        self.count(counted);
        Ok(published)
    }

    /// Why a message with this raw route is not taken, if its virtual host has reached a limit;
    /// else it counts for the next one.
    fn limited(&self, vhost: &Vhost, route: &[u8], body_bytes: usize) -> Option<NackReason> {
        if !vhost.quota.is_set() {
            return None;
        }
        let Some(reached) = vhost.reached(Wait::Begins, self.now_ms()) else {
            vhost.quota.charge(1, body_bytes as u64);
            return None;
        };
        let outcome = Outcome::Limited(reached.limit);
        self.refused.note(vhost, "", route, (outcome, 1));
        Some(NackReason {
            text: reached.text(vhost),
            retry_after_ms: reached.wait_ms,
        })
    }

    /// Where a message would go, and its exchange and key as a record has them.
    fn route_of(
        &self,
        vhost: &Vhost,
        user: &str,
        message: &Direct<'_>,
    ) -> Result<(Route, Vec<u8>), Refusal> {
        let acting = Acting {
            broker: self,
            vhost,
            user,
        };
        let properties = Properties::decode(message.header)
            .map_err(|error| Refusal::Precondition(format!("invalid message: {error}")))?;
        if let Some(named) = properties.user_id {
            acting.check_user_id(named)?;
        }
        if let Some(expiration) = properties.expiration {
            check_expiration(expiration)?;
        }
        if asks_for_replies(message.header) {
            return Err(no_consumer());
        }
        let max = self.config.max_message_bytes;
        if message.body.len() as u64 > max {
            return Err(Refusal::Precondition(format!(
                "message size {} is larger than configured max size {max}",
                message.body.len()
            )));
        }
        let keys = match properties.headers {
            Some(headers) => sender_selected(headers)?,
            None => Vec::new(),
        };
        let raw = raw_route(message.exchange.as_bytes(), message.key)?;
        let mut routes = RouteCache::new(self.next_seed());
        let asked: RouteQuery<'_> = (&raw, &keys, Some((message.header, &properties)));
        let route = find(&mut routes, acting, asked)?;
        Ok((route, raw))
    }

    /// Takes messages from the head of a queue, at most `count` and about `bytes_max`.
    ///
    /// # Errors
    /// The queue is gone, or the head is on the disk and cannot be read now.
    pub fn fetch(
        &self,
        cell: &Arc<QueueCell>,
        (count, bytes_max): (usize, usize),
        fetch: Fetch,
        effects: &mut Effects,
    ) -> Result<Vec<(Copied, u64)>, Refusal> {
        let mut fetched = Fetched::new(count, bytes_max, fetch == Fetch::Settle);
        let mut failures = 0;
        loop {
            let mut state = cell.lock();
            if cell.is_deleted() {
                return fetched.or(|| Refusal::NoQueue(cell.name.to_string()));
            }
            let mut pump = Pump::new(cell, effects);
            cell.used(&mut state);
            cell.run(&mut state, &mut pump);
            fetched.take(cell, &mut state.queue, &mut pump);
            let is_over = fetched.is_enough() || failures == LOADS_MAX;
            if state.queue.waits_for_page() && !is_over {
                drop(state);
                failures += u32::from(self.load_now(cell, effects) == PageLoad::NotNow);
                continue;
            }
            if fetch == Fetch::Requeue {
                for unacked in fetched.held.iter().rev() {
                    state.queue.requeue(None, unacked, false, &mut pump);
                    pump.note_delivered(unacked);
                }
                cell.run(&mut state, &mut pump);
            }
            let waits = state.queue.waits_for_page();
            return match waits && !fetched.is_enough() {
                true => fetched.or(|| unreadable(&cell.name)),
                false => Ok(fetched.taken),
            };
        }
    }

    /// Copies ready messages from a rank on, at most `count` and about
    /// `bytes_max`, and leaves them as they are.
    #[must_use]
    pub fn peek(
        &self,
        cell: &QueueCell,
        from: Rank,
        (count, bytes_max): (usize, usize),
    ) -> Vec<Copied> {
        let (mut seen, mut copy) = (Vec::new(), None);
        let (mut bytes, mut from, mut failures) = (0, from, 0);
        loop {
            let place = cell.lock().queue.peek(from, copy.as_ref(), |one| {
                let copied = Copied::of((one.rank, one.attempts), one.record, one.blob);
                bytes += copied.copied_bytes();
                seen.push(copied);
                from = Rank {
                    seq: one.rank.seq + 1,
                    ..one.rank
                };
                if seen.len() < count && bytes < bytes_max {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            let Some(place) = place.filter(|_| failures < PEEK_FAILURES_MAX) else {
                return seen;
            };
            // It may have come back meanwhile, and its place be somebody else's.
            (self.config.aside)(&mut || copy = self.read_page(place).ok());
            failures += u32::from(copy.is_none());
        }
    }
}

/// What one request takes from a queue.
struct Fetched {
    count: usize,
    bytes_max: usize,
    settles: bool,
    taken: Vec<(Copied, u64)>,
    held: Vec<Unacked>,
    bytes: usize,
}

impl Fetched {
    const fn new(count: usize, bytes_max: usize, settles: bool) -> Self {
        Self {
            count,
            bytes_max,
            settles,
            taken: Vec::new(),
            held: Vec::new(),
            bytes: 0,
        }
    }

    const fn is_enough(&self) -> bool {
        self.taken.len() >= self.count || self.bytes >= self.bytes_max
    }

    /// What was taken; a refusal if that is nothing.
    fn or(self, refusal: impl FnOnce() -> Refusal) -> Result<Vec<(Copied, u64)>, Refusal> {
        if self.taken.is_empty() {
            return Err(refusal());
        }
        Ok(self.taken)
    }

    /// Takes messages as long as the next one is in memory.
    fn take(&mut self, cell: &QueueCell, queue: &mut Queue<Arc<Handle>>, pump: &mut Pump<'_>) {
        while queue.ready() > 0 && !self.is_enough() {
            let found = queue.get(self.settles, pump, |delivery, left| {
                let Unacked {
                    level,
                    seq,
                    attempts,
                    ..
                } = delivery.unacked;
                let at = (Rank { level, seq }, attempts);
                let counted = counted_header(cell, delivery);
                let header = counted.as_deref().unwrap_or(delivery.record.header);
                let record = Record {
                    header,
                    ..*delivery.record
                };
                let copied = Copied::of(at, &record, delivery.blob);
                self.bytes += copied.copied_bytes() + copied.body().len();
                self.held.push(delivery.unacked);
                self.taken.push((copied, left));
            });
            if !found {
                return;
            }
        }
    }
}

/// Finds a route part by part, so that the virtual host is never locked for long; unless its
/// bindings change again and again meanwhile.
pub(crate) fn find(
    routes: &mut RouteCache,
    acting: Acting<'_>,
    asked: RouteQuery<'_>,
) -> Result<Route, Refusal> {
    let mut parts = 0;
    loop {
        let mut steps = if parts < PARTS_MAX {
            Steps::new(STEPS_OF_TURN)
        } else {
            Steps::unlimited()
        };
        if let Some(route) = routes.resolve(acting, asked, &mut steps)? {
            return Ok(route);
        }
        parts += 1;
    }
}

/// So often a look at a queue is begun again whose messages come back from the disk meanwhile.
const PEEK_FAILURES_MAX: u32 = 16;
/// Parts in which a route is looked for.
const PARTS_MAX: usize = 4096;

/// An exchange and a routing key as a record has them.
pub(crate) fn raw_route(exchange: &[u8], key: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut raw = Vec::with_capacity(2 + exchange.len() + key.len());
    for part in [exchange, key] {
        let len = u8::try_from(part.len())
            .map_err(|_| Refusal::Precondition("a name is longer than 255 bytes".into()))?;
        raw.push(len);
        raw.extend_from_slice(part);
    }
    Ok(raw)
}
