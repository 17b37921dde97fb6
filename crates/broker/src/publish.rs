//! Publishing: from a batch into every queue its route leads to.

pub(crate) mod direct;
pub(crate) mod expiration;
pub(crate) mod firehose;
pub(crate) mod reply_to;
pub(crate) mod room;
pub(crate) mod routes;
pub(crate) mod space;

use std::sync::Arc;

use leveret_codec::{
    Content, Properties, RawTable, Tails, decode_header, delivery_mode, flag, has_property,
    priority,
};
use leveret_queue::{Attempts, Message, MessageBody, Queue};
use leveret_record::Blob;
use leveret_session::{BatchMessage, Publishes};
use leveret_store::MessageParts;

use crate::publish::expiration::expiration_of;
use crate::publish::room::Room;
use crate::queue::cell::QueueCell;
use crate::queue::consumer::Handle;
use crate::queue::copied::is_shared;
use crate::queue::effects::Effects;
use crate::queue::pace;
use crate::queue::pump::Pump;

/// Ready bytes of a route's queues above which its publisher pauses while consumers have credit.
const PAUSE_BYTES: u64 = 512 * 1024;
/// For each such a backlog one millisecond, up to these: a wide route's backlog grows faster than a
/// millisecond a turn holds it.
pub(crate) const PAUSE_MS_MAX: u64 = 5;
pub(crate) const PERSISTENT: u8 = 2;
pub(crate) const PUBLISH: (u16, u16) = (60, 40);
/// A batch and its bodies that are shared.
struct SharedBatch<'a> {
    batch: &'a Publishes<'a>,
    blobs: &'a [Option<Arc<Blob>>],
    /// The messages for consumers that take them at once, made when the first of those is met.
    tails: Tails,
    now_ms: u64,
    /// The own expiration of a batch of one.
    expiration_ms: Option<u64>,
}

/// Puts a batch into every queue of its route; gives a bit for each message that one of them
/// refused.
pub(crate) fn enqueue(
    cells: &[Arc<QueueCell>],
    batch: &Publishes<'_>,
    blob: Option<Arc<Blob>>,
    room: Room,
    effects: &mut Effects,
) -> u128 {
    let blobs: Vec<_> = match blob {
        Some(blob) => vec![Some(blob)],
        None => shared_bodies(batch, cells),
    };
    let mut shared = SharedBatch {
        batch,
        blobs: &blobs,
        tails: std::mem::take(&mut effects.tails),
        now_ms: cells.first().map_or(0, |cell| cell.timer.now_ms()),
        expiration_ms: expiration_of(batch),
    };
    shared.tails.begin(1);
    let (mut refused, mut backlog) = (0, 0);
    let by_many = cells.len() > 1;
    let mut pump = Pump::of_many(effects, cells);
    for cell in cells {
        refused |= shared.enqueue(cell, (room, by_many), &mut pump, &mut backlog);
    }
    drop(pump);
    effects.pause_ms = effects
        .pause_ms
        .max((backlog / PAUSE_BYTES).min(PAUSE_MS_MAX));
    if !effects.targets.is_empty() {
        shared.record(effects);
    }
    effects.tails = shared.tails;
    refused
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

impl SharedBatch<'_> {
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
        let mut message = self.any_message();
        for (index, publish) in messages {
            self.make(&mut message, cell, (index, publish));
            let pushed = room.push(&mut state.queue, &message, pump);
            match pushed {
                Ok(place) => {
                    if message.persistent
                        && let Some(lane) = cell.lane_of(place.level)
                    {
                        let index = u32::try_from(index).unwrap_or(u32::MAX);
                        pump.effects.targets.push((index, lane, place.seq));
                    }
                }
                Err(reason) => {
                    refused |= 1 << index;
                    state.refused(&message, reason);
                    pump.effects.refuse(cell, reason);
                }
            }
        }
        cell.run(state, pump);
        pump.emptied(state.queue.ready() == 0);
        if !state.warm && state.queue.is_grown() {
            state.warm = true;
            pump.effects.warm.push(Arc::clone(cell));
        }
        if state.queue.is_paged() {
            *backlog += above_share(cell, &state.queue);
        }
        let waiting = pace::backlog(&state.queue);
        if state.queue.has_credit() {
            *backlog += waiting;
        }
        let wait_ms = cell.came(state, self.batch.len(), waiting);
        if wait_ms > 0 {
            pump.effects.slow_down(cell, wait_ms);
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
    fn message<'a>(
        &'a self,
        cell: &QueueCell,
        index: usize,
        publish: BatchMessage<'a>,
    ) -> Message<'a> {
        let mut message = self.any_message();
        self.make(&mut message, cell, (index, publish));
        message
    }

    /// What is the same of all messages.
    fn any_message(&self) -> Message<'_> {
        Message {
            route: self.batch.route,
            header: &[],
            body: MessageBody::Inline(&[]),
            entered_ms: self.now_ms,
            expiration_ms: self.expiration_ms,
            priority: 0,
            persistent: false,
            deaths: false,
            attempts: Attempts::NONE,
        }
    }

    /// Makes another message of one.
    #[expect(clippy::inline_always, reason = "a call costs as much as it does")]
    #[inline(always)]
    fn make<'a>(
        &'a self,
        message: &mut Message<'a>,
        cell: &QueueCell,
        (index, publish): (usize, BatchMessage<'a>),
    ) {
        message.header = publish.header;
        message.body = match self.blobs.get(index) {
            Some(Some(blob)) => MessageBody::Shared(blob),
            _ => MessageBody::Inline(publish.body),
        };
        message.priority = self.priority(cell, publish.header);
        message.persistent = cell.lane.is_some() && delivery_mode(publish.header) == PERSISTENT;
    }

    /// Writes each message once into the turn's records, with all its durable targets.
    fn record(&self, effects: &mut Effects) {
        effects.record(self.batch.iter(), |journal, lanes, publish| {
            let parts = MessageParts {
                entered_ms: Some(self.now_ms),
                expiration_ms: self.expiration_ms,
                deaths: false,
                route: self.batch.route,
                header: publish.header,
                body: &[publish.body],
            };
            journal.message(lanes, &parts);
        });
        effects.persistent = true;
    }
}

/// How far the disk is behind with a queue that is longer than its share of memory, as bytes of a
/// backlog: what comes is slowed down to what it takes.
#[inline(never)]
fn above_share(cell: &QueueCell, queue: &Queue<Arc<Handle>>) -> u64 {
    /// So much may wait, in shares of a lane.
    const SHARES: u64 = 2;
    /// What is beyond counts as one part in so many of it.
    const PART: u64 = 8;
    if !cell.pager.makes_room() {
        return 0;
    }
    let most = cell.memory.limits().lane_bytes.saturating_mul(SHARES);
    queue.held_bytes().saturating_sub(most) / PART
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
