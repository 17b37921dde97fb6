//! Publishing: from a batch into every queue its route leads to.

pub(crate) mod direct;
pub(crate) mod expiration;
pub(crate) mod firehose;
pub(crate) mod room;
pub(crate) mod routes;
pub(crate) mod space;

use std::sync::Arc;

use leveret_codec::{
    ConfirmSelect, ConfirmSelectOk, Content, Properties, RawTable, SoftCode, Tails, ack,
    basic_return, content, decode_header, delivery_mode, flag, has_property, nack, priority,
};
use leveret_queue::{Attempts, Message, MessageBody, Queue};
use leveret_record::Blob;
use leveret_session::{Confirm, Confirms, Fault, Publish, Publishes};
use leveret_store::MessageParts;

use crate::acting::Acting;
use crate::channel::UNSUBMITTED;
use crate::channel::replies::asks_for_replies;
use crate::connection::Core;
use crate::context::refusal::Refusal;
use crate::publish::expiration::{check_expiration, expiration_of};
use crate::publish::room::Room;
use crate::publish::routes::{Route, sender_selected};
use crate::queue::cell::{Handle, QueueCell};
use crate::queue::pump::{Pump, STEPS_OF_TURN, Work};

/// Bodies from here on are shared, so that a chunk holds many messages and sending copies nothing.
pub(crate) const SHARED_BYTES_MIN: usize = 16 * 1024;
/// The same when several queues get the message.
const SHARED_BY_MANY_BYTES_MIN: usize = 512;
/// Ready bytes of a route's queues above which its publisher pauses while consumers have credit.
const PAUSE_BYTES: u64 = 512 * 1024;
/// For each such a backlog one millisecond, up to these: a wide route's backlog grows faster than a
/// millisecond a turn holds it.
pub(crate) const PAUSE_MS_MAX: u64 = 5;
/// What a ready message takes beside its body, about.
const RECORD_BYTES: u64 = 64;
pub(crate) const PERSISTENT: u8 = 2;
pub(crate) const PUBLISH: (u16, u16) = (60, 40);
/// Properties that make the broker look closer at a message.
const INSPECTED: u16 = flag::HEADERS | flag::EXPIRATION | flag::USER_ID;
/// Those that an exchange may look at, besides the headers.
const HASHED: u16 = flag::MESSAGE_ID | flag::CORRELATION_ID | flag::TIMESTAMP;

/// A batch and its bodies that are shared.
struct Load<'a> {
    batch: &'a Publishes<'a>,
    blobs: &'a [Option<Arc<Blob>>],
    /// The messages for consumers that take them at once, made when the first of those is met.
    tails: Tails,
    now_ms: u64,
    /// The own expiration of a batch of one.
    expiration_ms: Option<u64>,
}

const _: () = assert!(SHARED_BY_MANY_BYTES_MIN <= Tails::BODY_MAX);

impl Core {
    /// Publishes a batch, or of one with many copies or a long way as much as a turn bears; gives
    /// how many messages that were. A fault closes the channel after what came before it has been
    /// published.
    pub(crate) fn publish(&mut self, batch: &Publishes<'_>) -> Result<usize, Fault> {
        if batch.properties & INSPECTED == 0 && !asks(batch) {
            let Some(route) = self.route(batch)? else {
                return Ok(0);
            };
            let alone = batch.len() == 1 && batch.properties & HASHED == 0;
            if !route.is_for_one() || alone {
                let batch = batch.first(STEPS_OF_TURN / route.cells.len().clamp(1, STEPS_OF_TURN));
                let taken = self.publish_to(&route, &batch, None, None)?;
                return Ok(if taken { batch.len() } else { 0 });
            }
        }
        for (before, publish) in batch.iter().enumerate() {
            let one = Publishes::one(batch.channel, batch.route, publish);
            if !self.publish_inspected(&one, publish, None)? {
                return Ok(before);
            }
            if self.work.is_full() {
                return Ok(before + 1);
            }
        }
        Ok(batch.len())
    }

    /// False, and nothing is done, when its route takes more than what is left of the turn, or a
    /// queue has no room.
    pub(crate) fn publish_inspected(
        &mut self,
        one: &Publishes<'_>,
        publish: Publish<'_>,
        blob: Option<Arc<Blob>>,
    ) -> Result<bool, Fault> {
        let inspected = self
            .inspect(one, publish)
            .map_err(|refusal| self.fault(one, refusal))?;
        let reply_name = self
            .reply_name(one.channel, publish.header)
            .map_err(|refusal| self.fault(one, refusal))?;
        let visible = visible_header(publish.header, reply_name.as_deref());
        let header = visible.as_deref().unwrap_or(publish.header);
        let one = &Publishes::one(one.channel, one.route, Publish { header, ..publish });
        let route = match inspected {
            Inspected::Routed(route) => Some(Arc::new(route)),
            Inspected::Plain => self.route(one)?,
            Inspected::Later => None,
        };
        let Some(route) = route else {
            return Ok(false);
        };
        self.publish_to(&route, one, Some(publish.header), blob)
    }

    /// Checks a message's properties; gives its own route when they have a say in it.
    fn inspect(&mut self, one: &Publishes<'_>, publish: Publish<'_>) -> Result<Inspected, Refusal> {
        // Whether the user may publish there, and whether there is anything, comes first.
        let vhost = self.vhost()?;
        let acting = Acting {
            broker: &self.broker,
            vhost: &vhost,
            user: &self.user,
        };
        let mut steps = self.work.steps_left();
        let by_header = if self.routes.goes_by_header() {
            Some(true)
        } else {
            let plain = self.routes.get(acting, one.route, &mut steps)?;
            plain.map(|plain| plain.is_for_one())
        };
        self.work.steps += steps.taken();
        let Some(by_header) = by_header else {
            return Ok(Inspected::Later);
        };
        let properties = Properties::decode(publish.header)
            .map_err(|error| Refusal::Precondition(format!("invalid message: {error}")))?;
        if let Some(user) = properties.user_id {
            acting.check_user_id(user)?;
        }
        if let Some(expiration) = properties.expiration {
            check_expiration(expiration)?;
        }
        let keys = match properties.headers {
            Some(headers) => sender_selected(headers)?,
            None => Vec::new(),
        };
        if keys.is_empty() && !by_header {
            return Ok(Inspected::Plain);
        }
        let mut steps = self.work.steps_left();
        let message = (one.route, &*keys, Some((publish.header, &properties)));
        let found = self.routes.resolve(acting, message, &mut steps)?;
        self.work.steps += steps.taken();
        Ok(found.map_or(Inspected::Later, Inspected::Routed))
    }

    fn route(&mut self, batch: &Publishes<'_>) -> Result<Option<Arc<Route>>, Fault> {
        let mut steps = self.work.steps_left();
        let found = match &self.vhost {
            Some(vhost) => {
                let acting = Acting {
                    broker: &self.broker,
                    vhost,
                    user: &self.user,
                };
                self.routes.get(acting, batch.route, &mut steps)
            }
            None => Err(Refusal::NotImplemented("no virtual host".into())),
        };
        self.work.steps += steps.taken();
        found.map_err(|refusal| self.fault(batch, refusal))
    }

    fn fault(&self, batch: &Publishes<'_>, refusal: Refusal) -> Fault {
        let vhost = self.vhost.as_ref().map_or("", |vhost| &*vhost.name);
        refusal.fault(batch.channel, vhost, PUBLISH)
    }

    /// Puts a batch into its queues, returns what goes nowhere, and counts it for confirms. False,
    /// and nothing is done, when it has to wait for room. `original` is the header of a message
    /// that was looked at closely, as it was published.
    fn publish_to(
        &mut self,
        route: &Arc<Route>,
        batch: &Publishes<'_>,
        original: Option<&[u8]>,
        blob: Option<Arc<Blob>>,
    ) -> Result<bool, Fault> {
        // Room for a transaction is found when it is committed.
        let staged = self.is_transactional(batch.channel);
        let room = if staged {
            Some(Room::Reserved)
        } else {
            self.room_for(route, batch)
        };
        let Some(room) = room else {
            return Ok(false);
        };
        if self.is_traced() {
            let close = original.map(|original| (original, blob.as_ref()));
            self.trace(route, batch, close);
        }
        if staged {
            self.stage_publishes(route, batch, blob.as_ref())?;
            return Ok(true);
        }
        self.count_published(route, batch);
        if route.cells.is_empty() {
            self.return_unroutable(batch);
        }
        self.work.steps += route.cells.len() * batch.len();
        let store = &*self.broker.store;
        let room = room.claimed(store, &route.cells, batch, &mut self.work);
        let refused = enqueue(&route.cells, batch, blob, room, &mut self.work);
        if refused != 0 {
            self.note_refused(batch.route);
        }
        let Some(state) = self.channel(batch.channel) else {
            return Ok(true);
        };
        state.stats.published.add(batch.len() as u64);
        let Some(confirms) = &mut state.confirms else {
            return Ok(true);
        };
        state.stats.published_confirming.add(batch.len() as u64);
        let refused = if route.cells.is_empty() { 0 } else { refused };
        count(confirms, batch.len(), refused, mark(route));
        if !std::mem::replace(&mut state.confirming, true) {
            self.confirming.push(batch.channel);
        }
        Ok(true)
    }

    /// Counts a batch for its exchange and by its sizes; its channel counts it elsewhere.
    #[inline]
    pub(crate) fn count_published(&mut self, route: &Route, batch: &Publishes<'_>) {
        self.exchange.count(route, batch.len() as u64);
        batch.body_lens().for_each(|len| self.sizes.count(len));
    }

    /// Returns or drops what was counted just before.
    pub(crate) fn return_unroutable(&mut self, batch: &Publishes<'_>) {
        const NO_ROUTE: SoftCode = SoftCode::NoRoute;
        let mut returned = 0;
        let mut outlet = self.peer.outlet.lock();
        let frame_max = outlet.frame_max();
        for publish in batch.iter().filter(|publish| publish.mandatory) {
            self.work.reply(&mut outlet, |out| {
                let (code, text) = (NO_ROUTE.code(), NO_ROUTE.name().as_bytes());
                basic_return(out, batch.channel, code, text, batch.route);
                content(out, batch.channel, publish.header, publish.body, frame_max);
            });
            returned += 1;
        }
        drop(outlet);
        let dropped = batch.len() as u64 - returned;
        self.exchange.count_unroutable(returned, dropped);
        if let Some(state) = self.channel(batch.channel) {
            state.stats.returned.add(returned);
            state.stats.dropped.add(dropped);
        }
    }

    pub(crate) fn confirm_select(
        &mut self,
        channel: u16,
        select: ConfirmSelect,
    ) -> Result<(), Refusal> {
        if let Some(state) = self.channel(channel) {
            if state.transaction.is_some() {
                let text = "cannot switch from tx to confirm mode";
                return Err(Refusal::Precondition(text.into()));
            }
            state.confirms.get_or_insert_default();
            state.stats.confirming.set(1);
        }
        if !select.nowait {
            self.reply(channel, ConfirmSelectOk {});
        }
        Ok(())
    }
}

/// What a message's properties say of its way.
enum Inspected {
    /// Nothing: it goes where its routing key says.
    Plain,
    Routed(Route),
    /// That takes more than what is left of the turn.
    Later,
}

/// Whether a message of the batch has its `reply_to` replaced.
#[inline]
fn asks(batch: &Publishes<'_>) -> bool {
    let asks = |publish: Publish<'_>| asks_for_replies(publish.header);
    batch.properties & flag::REPLY_TO != 0 && batch.iter().any(asks)
}

/// Whether the store has a say in when these publishes may be confirmed.
fn mark(route: &Route) -> u64 {
    if route.cells.iter().any(|cell| cell.lane.is_some()) {
        UNSUBMITTED
    } else {
        0
    }
}

fn count(confirms: &mut Confirms, messages: usize, refused: u128, mark: u64) {
    if refused == 0 {
        return confirms.accepted(messages as u64, mark);
    }
    for index in 0..messages {
        if refused & (1 << index) == 0 {
            confirms.accepted(1, mark);
        } else {
            confirms.refused();
        }
    }
}

/// Puts a batch into every queue of its route; gives a bit for each message that one of them
/// refused.
pub(crate) fn enqueue(
    cells: &[Arc<QueueCell>],
    batch: &Publishes<'_>,
    blob: Option<Arc<Blob>>,
    room: Room,
    work: &mut Work,
) -> u128 {
    let blobs: Vec<_> = match blob {
        Some(blob) => vec![Some(blob)],
        None => shared_bodies(batch, cells),
    };
    let mut load = Load {
        batch,
        blobs: &blobs,
        tails: std::mem::take(&mut work.tails),
        now_ms: cells.first().map_or(0, |cell| cell.timer.now_ms()),
        expiration_ms: expiration_of(batch),
    };
    load.tails.begin(1);
    let (mut refused, mut backlog) = (0, 0);
    let by_many = cells.len() > 1;
    let mut pump = Pump::of_many(work, cells);
    for cell in cells {
        refused |= load.enqueue(cell, (room, by_many), &mut pump, &mut backlog);
    }
    drop(pump);
    work.pause_ms = work.pause_ms.max((backlog / PAUSE_BYTES).min(PAUSE_MS_MAX));
    if !work.targets.is_empty() {
        load.record(work);
    }
    work.tails = load.tails;
    refused
}

/// Whether a body is kept once, outside the chunks.
pub(crate) const fn is_shared(body_len: usize, by_many: bool) -> bool {
    body_len
        >= if by_many {
            SHARED_BY_MANY_BYTES_MIN
        } else {
            SHARED_BYTES_MIN
        }
}

/// Bodies that are large, or go to several queues, are kept once. Most batches have none.
fn shared_bodies(batch: &Publishes<'_>, cells: &[Arc<QueueCell>]) -> Vec<Option<Arc<Blob>>> {
    let shared = |len: usize| is_shared(len, cells.len() > 1);
    let Some(cell) = cells.first().filter(|_| shared(batch.body_len_max)) else {
        return Vec::new();
    };
    let share = |body: &[u8]| shared(body.len()).then(|| cell.memory.share(body.to_vec()));
    batch.iter().map(|publish| share(publish.body)).collect()
}

impl Load<'_> {
    /// `backlog` grows by what stays in the queue although its consumers have credit.
    fn enqueue<'c>(
        &mut self,
        cell: &'c Arc<QueueCell>,
        (room, by_many): (Room, bool),
        pump: &mut Pump<'c>,
        backlog: &mut u64,
    ) -> u128 {
        let mut refused = 0;
        let mut guard = pump.lock(cell);
        if cell.is_deleted() {
            return 0;
        }
        let state = &mut *guard;
        let passed = match room {
            Room::Plenty if !pump.traced => self.pass(cell, &mut state.queue, by_many, pump),
            Room::Plenty | Room::Scarce { .. } | Room::Reserved => 0,
        };
        if passed == self.batch.len() {
            pump.emptied(true);
            return 0;
        }
        let mut messages = self.batch.iter().enumerate();
        if let Some(last) = passed.checked_sub(1) {
            messages.nth(last);
        }
        for (index, publish) in messages {
            let message = self.message(cell, index, publish);
            let pushed = room.push(&mut state.queue, &message, pump);
            match pushed {
                Ok(place) => {
                    if message.persistent
                        && let Some(lane) = cell.lane_of(place.level)
                    {
                        let index = u32::try_from(index).unwrap_or(u32::MAX);
                        pump.work.targets.push((index, lane, place.seq));
                    }
                }
                Err(reason) => {
                    refused |= 1 << index;
                    state.refused(&message, reason);
                    pump.work.refuse(cell, reason);
                }
            }
        }
        cell.run(state, pump);
        pump.emptied(state.queue.ready() == 0);
        if !state.warm && state.queue.is_grown() {
            state.warm = true;
            pump.work.warm.push(Arc::clone(cell));
        }
        if state.queue.has_credit() {
            *backlog += state.queue.ready_bytes() + state.queue.ready() * RECORD_BYTES;
        }
        refused
    }

    /// Hands messages straight to a consumer that settles none, as long as it takes them: they are
    /// never stored. Gives how many.
    #[inline]
    fn pass(
        &mut self,
        cell: &QueueCell,
        queue: &mut Queue<Arc<Handle>>,
        by_many: bool,
        pump: &mut Pump<'_>,
    ) -> usize {
        let Some(consumer) = queue.receiver(self.batch.body_len_max as u64) else {
            return 0;
        };
        // What the journal has to know of goes the way of all others.
        if cell.lane.is_some() && self.is_persistent() {
            return 0;
        }
        let handle = &consumer.handle;
        let passed = if by_many && self.blobs.is_empty() {
            self.encode(handle.channel);
            pump.pass(handle, &self.tails)
        } else {
            let messages = self.batch.iter().enumerate();
            messages
                .take_while(|&(index, publish)| {
                    pump.pass_one(handle, &self.message(cell, index, publish))
                })
                .count()
        };
        queue.passed(passed as u64);
        passed
    }

    /// Encodes all messages for the first of many consumers.
    #[inline]
    fn encode(&mut self, channel: u16) {
        if self.tails.is_empty() {
            self.tails.begin(channel);
            for publish in self.batch.iter() {
                self.tails.push(&Content {
                    route: self.batch.route,
                    header: publish.header,
                    body: publish.body,
                });
            }
        }
    }

    fn is_persistent(&self) -> bool {
        let mut headers = self.batch.iter().map(|publish| publish.header);
        headers.any(|header| delivery_mode(header) == PERSISTENT)
    }

    #[inline]
    fn priority(&self, cell: &QueueCell, header: &[u8]) -> u8 {
        if self.batch.properties & flag::PRIORITY == 0 {
            return cell.level;
        }
        cell.priority_of(header, priority(header).unwrap_or(0))
    }

    #[expect(clippy::inline_always, reason = "a call costs as much as it does")]
    #[inline(always)]
    fn message<'a>(&'a self, cell: &QueueCell, index: usize, publish: Publish<'a>) -> Message<'a> {
        let body = match self.blobs.get(index) {
            Some(Some(blob)) => MessageBody::Shared(blob),
            _ => MessageBody::Inline(publish.body),
        };
        Message {
            route: self.batch.route,
            header: publish.header,
            body,
            entered_ms: self.now_ms,
            expiration_ms: self.expiration_ms,
            priority: self.priority(cell, publish.header),
            persistent: cell.lane.is_some() && delivery_mode(publish.header) == PERSISTENT,
            deaths: false,
            attempts: Attempts::NONE,
        }
    }

    /// Writes each message once into the turn's records, with all its durable targets.
    fn record(&self, work: &mut Work) {
        work.targets.sort_unstable();
        let Work {
            targets, journal, ..
        } = work;
        let mut lanes = Vec::with_capacity(1);
        let mut rest = targets.as_slice();
        for (index, publish) in (0u32..).zip(self.batch.iter()) {
            let of_one = rest.iter().take_while(|target| target.0 == index);
            lanes.clear();
            lanes.extend(of_one.map(|(_, lane, seq)| (*lane, *seq)));
            rest = rest.get(lanes.len()..).unwrap_or_default();
            let parts = MessageParts {
                entered_ms: Some(self.now_ms),
                expiration_ms: self.expiration_ms,
                deaths: false,
                route: self.batch.route,
                header: publish.header,
                body: &[publish.body],
            };
            journal.message(&lanes, &parts);
        }
        targets.clear();
        work.persistent = true;
    }
}

/// The content header as receivers see it, if it differs: without `BCC`, and with the name that
/// replies go to.
pub(crate) fn visible_header(header: &[u8], reply_name: Option<&str>) -> Option<Vec<u8>> {
    if reply_name.is_none() && !has_property(header, flag::HEADERS) {
        return None;
    }
    let mut properties = Properties::decode(header).ok()?;
    let blind = |headers: &RawTable<'_>| headers.get(b"BCC").is_some();
    let table = properties.headers.filter(blind).map(|headers| {
        let mut table = headers.to_table();
        table.remove(b"BCC");
        table
    });
    if table.is_none() && reply_name.is_none() {
        return None;
    }
    if let Some(table) = &table {
        properties.headers = Some(table.as_raw());
    }
    if let Some(name) = reply_name {
        properties.reply_to = Some(name.as_bytes());
    }
    let mut visible = Vec::with_capacity(header.len());
    properties.encode(decode_header(header).ok()?.body_size, &mut visible);
    Some(visible)
}

/// Encodes one confirm.
pub(crate) fn encode_confirm(out: &mut Vec<u8>, channel: u16, confirm: Confirm) {
    match confirm {
        Confirm::Ack { tag, multiple } => ack(out, channel, tag, multiple),
        Confirm::Nack { tag } => nack(out, channel, tag, false, false),
    }
}
