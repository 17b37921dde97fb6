//! The queue itself: what is ready, what is out, who gets the next message.

mod bury;
mod cold;
mod expire;
mod page;
mod pump;
mod purge;
mod requeue;
mod settle;
mod trim;

use std::sync::Arc;

use leveret_record::{Blob, Memory, Record, Unacked};

use crate::consumers::{Consumer, ConsumerKey, Consumers, Consuming};
use crate::lane::Lanes;
use crate::limits::{Overflow, Settings, Shape};
use crate::message::Message;
use crate::queue::bury::Mortuary;
use crate::reserve::Reserved;

pub use bury::{BurialWait, Buried, Dead};
pub use cold::ColdCursor;
pub use page::{LostPage, PageRead, PageRewrite, PageWrite};

/// A message on its way to a consumer.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The record; its body is in `blob` when it is a shared one.
    pub record: &'a Record<'a>,
    /// The shared body, if the record names one.
    pub blob: Option<&'a Arc<Blob>>,
    /// What to give back when the delivery is settled.
    pub unacked: Unacked,
}

/// A consumer's answer to an offered message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// The message is on its way.
    Taken,
    /// No room for it now; the rest of this pump goes on without this consumer.
    Refused,
    /// The consumer takes nothing any more: it is about to be cancelled, and not asked again.
    Gone,
}

/// A message's place in its queue, and in what the store calls a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rank {
    /// Its level of priority; 0 in a queue without.
    pub level: u8,
    /// Its sequence number in that level.
    pub seq: u64,
}

/// Where a queue's decisions go.
pub trait Sink<C> {
    /// A message for the consumer whose turn it is.
    fn offer(&mut self, consumer: &Consumer<C>, key: ConsumerKey, delivery: &Delivery<'_>)
    -> Offer;

    /// A persistent message is no longer in the queue, and nobody settles it.
    fn settled(&mut self, rank: Rank);
}

/// The queue is full and its policy is to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

/// Totals since the queue was declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages accepted.
    pub published: u64,
    /// Publishes refused because the queue, the memory for messages or the disk was full.
    pub refused: u64,
    /// Deliveries to consumers that acknowledge.
    pub delivered: u64,
    /// Deliveries to consumers that do not acknowledge.
    pub delivered_no_ack: u64,
    /// Messages fetched with `basic.get`, to be acknowledged.
    pub got: u64,
    /// Messages fetched with `basic.get`, not to be acknowledged.
    pub got_no_ack: u64,
    /// Deliveries of a message that was delivered before.
    pub redelivered: u64,
    /// `basic.get` that found nothing.
    pub got_empty: u64,
    /// Messages acknowledged.
    pub acked: u64,
    /// Messages rejected for good.
    pub rejected: u64,
    /// Deliveries that came back.
    pub requeued: u64,
    /// Messages dropped to keep a length limit.
    pub dropped: u64,
    /// Messages that have waited too long.
    pub expired: u64,
    /// Messages that have failed too often.
    pub delivery_limited: u64,
    /// Messages that could not be read back from the disk.
    pub lost: u64,
    /// Messages that were moved on after they had died, by [`crate::Death`].
    pub moved_on: [u64; 4],
}

/// One queue.
///
/// Invariant: `ready` counts the records at and after the cursors plus `requeued`, of all levels.
///
/// Fields are laid out by how often a publish touches them: a message to 100,000 queues costs a
/// cache miss for each line.
#[derive(Debug)]
#[repr(C)]
pub struct Queue<C> {
    pub(crate) settings: Settings,
    pub(crate) ready: u64,
    pub(crate) ready_bytes: u64,
    pub(crate) unacked: u64,
    pub(crate) unacked_bytes: u64,
    /// Messages may die of age.
    mortal: bool,
    /// A message has come that may not wait at all.
    instant: bool,
    /// Something has changed what [`Self::wake_ms`] was computed from.
    stale: bool,
    /// More had to expire than one run bears: nothing is served before that.
    behind: bool,
    /// Nothing dies of age before this, unix milliseconds.
    due_ms: u64,
    /// Somebody runs the queue at this time, unix milliseconds.
    wake_ms: u64,
    lanes: Lanes,
    consumers: Consumers<C>,
    pub(crate) counters: Counters,
    pub(crate) reserved: Option<Box<Reserved>>,
    mortuary: Option<Box<Mortuary>>,
}

impl<C> Queue<C> {
    /// An empty queue, whose messages are counted there.
    #[must_use]
    pub fn new(settings: Settings, shape: Shape, memory: Memory) -> Self {
        Self {
            settings,
            lanes: Lanes::new(shape.levels, memory),
            reserved: None,
            consumers: Consumers::new(shape.single_active),
            counters: Counters::default(),
            ready: 0,
            ready_bytes: 0,
            unacked: 0,
            unacked_bytes: 0,
            mortal: settings.ttl_ms != u64::MAX,
            instant: false,
            stale: false,
            behind: false,
            due_ms: u64::MAX,
            wake_ms: u64::MAX,
            mortuary: None,
        }
    }

    /// What it is for as long as it exists.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        Shape {
            single_active: self.consumers.is_single_active(),
            levels: self.lanes.levels(),
        }
    }

    /// Has everything happen that happens on its own: what is past its deadline dies, consumers
    /// are served, what may not wait and found nobody dies, and what is over a length limit.
    ///
    /// Called after every change. `now_ms` is in unix milliseconds and never goes back.
    #[inline]
    pub fn run(&mut self, now_ms: u64, sink: &mut impl Sink<C>) {
        if self.mortal {
            self.run_mortal(now_ms, sink);
        } else {
            self.pump(now_ms, sink);
            self.trim(now_ms, sink);
        }
    }

    /// Appends a message and gives its rank. The caller calls [`Queue::run`] afterwards: a message
    /// that a consumer can take at once never counts against a length limit.
    ///
    /// # Errors
    /// [`QueueFull`] when the queue is full and refuses; nothing is stored.
    #[expect(clippy::inline_always, reason = "a call costs as much as it does")]
    #[inline(always)]
    pub fn push(
        &mut self,
        message: &Message<'_>,
        sink: &mut impl Sink<C>,
    ) -> Result<Rank, QueueFull> {
        let bytes = message.body_len();
        if !self.has_room(bytes) {
            self.run(message.entered_ms, sink);
            if !self.has_room(bytes) {
                self.counters.refused += 1;
                return Err(QueueFull);
            }
        }
        Ok(self.accept(message, bytes))
    }

    #[expect(clippy::inline_always, reason = "a call costs as much as it does")]
    #[inline(always)]
    pub(crate) fn accept(&mut self, message: &Message<'_>, bytes: u64) -> Rank {
        self.counters.published += 1;
        self.append(message, bytes)
    }

    /// The consumer that takes messages at once and settles none, if there are no others and
    /// there is room for messages of up to so many bytes. They need not be stored: the caller
    /// hands them over, then calls [`Queue::passed`].
    #[inline]
    #[must_use]
    pub fn receiver(&self, body_bytes_max: u64) -> Option<&Consumer<C>> {
        if self.ready > 0 || !self.has_room(body_bytes_max) {
            return None;
        }
        let consumer = self.consumers.only()?;
        consumer.asked.no_ack.then_some(consumer)
    }

    /// Counts messages that went straight to the [`Queue::receiver`].
    pub fn passed(&mut self, messages: u64) {
        self.lanes.at_mut(0).next_seq += messages;
        self.counters.published += messages;
        self.counters.delivered_no_ack += messages;
    }

    /// Appends a message whatever the limits, at a rank it had before: what recovery found.
    pub fn restore(&mut self, message: &Message<'_>, rank: Rank) {
        let level = self.lanes.level_of(rank.level);
        let lane = self.lanes.at_mut(level);
        lane.next_seq = lane.next_seq.max(rank.seq);
        let message = Message {
            priority: level,
            ..*message
        };
        self.append(&message, message.body_len());
    }

    /// Begins a level after what recovery found, so that no sequence number is used twice.
    pub fn begin_at(&mut self, next: Rank) {
        let level = self.lanes.level_of(next.level);
        self.lanes.at_mut(level).next_seq = next.seq;
    }

    #[expect(clippy::inline_always, reason = "a call costs as much as it does")]
    #[inline(always)]
    fn append(&mut self, message: &Message<'_>, bytes: u64) -> Rank {
        self.ready += 1;
        self.ready_bytes += bytes;
        let (level, seq) = match self.lanes.plain() {
            Some(lane) => {
                lane.ready += 1;
                (0, lane.append(message))
            }
            None => self.append_to_level(message),
        };
        if self.mortal || message.expiration_ms.is_some() {
            self.note_deadline(message);
        }
        Rank { level, seq }
    }

    #[inline(never)]
    fn append_to_level(&mut self, message: &Message<'_>) -> (u8, u64) {
        let level = self.lanes.level_of(message.priority);
        let seq = self.lanes.at_mut(level).append(message);
        self.lanes.appended_to(level);
        self.lanes.came(level, 1);
        (level, seq)
    }

    /// Whether a message of so many bytes would not be refused.
    #[must_use]
    #[inline]
    pub fn has_room(&self, bytes: u64) -> bool {
        self.has_room_for(1, bytes)
    }

    /// Whether none of so many messages would be refused that have so many bytes together.
    #[must_use]
    #[inline]
    pub fn has_room_for(&self, messages: u64, bytes: u64) -> bool {
        let limits = &self.settings.limits;
        let (messages, bytes) = (self.ready + messages, self.ready_bytes + bytes);
        let fits = self.unacked + messages <= limits.total_max
            && self.unacked_bytes + bytes <= limits.total_bytes_max;
        fits && (limits.overflow == Overflow::DropHead
            || (messages <= limits.ready_max && bytes <= limits.ready_bytes_max))
    }

    /// Counts what is ready no more.
    #[inline]
    fn uncount_ready(&mut self, level: u8, messages: u64, bytes: u64) {
        self.ready -= messages;
        self.ready_bytes -= bytes;
        self.lanes.went(level, messages);
    }

    /// Takes the head message for `basic.get`, after a [`Queue::run`]; `give` sees it and how many
    /// stay ready.
    ///
    /// Returns `false` when there is none, or it is not in memory ([`Queue::waits_for_page`]).
    /// With `no_ack` it is settled at once.
    pub fn get(
        &mut self,
        no_ack: bool,
        sink: &mut impl Sink<C>,
        give: impl FnOnce(&Delivery<'_>, u64),
    ) -> bool {
        let left = self.ready.saturating_sub(1);
        let level = self.lanes.top();
        let lane = self.lanes.at_mut(level);
        let head = if self.behind { None } else { lane.head() };
        let Some((found, unacked)) = head.and_then(|head| lane.look(level, head)) else {
            self.counters.got_empty += u64::from(!self.waits_for_page());
            return false;
        };
        give(
            &Delivery {
                record: &found.record,
                blob: found.blob,
                unacked,
            },
            left,
        );
        let next = found.next;
        self.leave(&unacked, next);
        if no_ack {
            self.counters.got_no_ack += 1;
            self.settle_sent(&unacked, sink);
        } else {
            self.counters.got += 1;
            self.hold(&unacked);
        }
        true
    }

    /// Takes a message off the ready ones.
    #[inline]
    fn leave(&mut self, unacked: &Unacked, next: u32) {
        let lane = self.lanes.at_mut(unacked.level);
        lane.take_head(next, unacked.body_len);
        self.uncount_ready(unacked.level, 1, u64::from(unacked.body_len));
        self.counters.redelivered += u64::from(unacked.attempts.acquired > 0);
    }

    /// Takes the head of a level off, for nobody.
    fn take_head(&mut self, level: u8) -> Option<Unacked> {
        let lane = self.lanes.at_mut(level);
        let head = lane.head()?;
        let (found, unacked) = lane.look(level, head)?;
        let next = found.next;
        lane.take_head(next, unacked.body_len);
        self.uncount_ready(level, 1, u64::from(unacked.body_len));
        Some(unacked)
    }

    #[inline]
    fn hold(&mut self, unacked: &Unacked) {
        self.unacked += 1;
        self.unacked_bytes += u64::from(unacked.body_len);
    }

    fn settle_sent(&mut self, unacked: &Unacked, sink: &mut impl Sink<C>) {
        let lane = self.lanes.at_mut(unacked.level);
        lane.chunks.release(unacked.position, unacked.body_len);
        if unacked.persistent {
            sink.settled(rank(unacked));
        }
    }

    #[inline]
    fn returned(&mut self, consumer: Option<ConsumerKey>, messages: u64, bytes: u64) {
        self.unacked -= messages;
        self.unacked_bytes -= bytes;
        if let Some(key) = consumer {
            let messages = u32::try_from(messages).unwrap_or(u32::MAX);
            self.consumers.returned(key, messages);
        }
    }

    pub(crate) const fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// Registers a consumer; the caller runs the queue afterwards.
    pub fn consume(&mut self, handle: C, asked: Consuming) -> ConsumerKey {
        self.consumers.add(handle, asked)
    }

    /// Removes a consumer; its unacknowledged deliveries stay out.
    pub fn cancel(&mut self, key: ConsumerKey) -> Option<C> {
        self.consumers.remove(key)
    }

    /// Takes everything out, as the queue is going away: what stays is an empty queue. Nothing of
    /// what was delivered may be given back to it any more.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let memory = self.lanes.memory().clone();
        let empty = Self::new(self.settings(), self.shape(), memory);
        std::mem::replace(self, empty)
    }

    /// The owners' handles of all its consumers.
    pub fn handles(&self) -> impl Iterator<Item = &C> {
        self.consumers.iter().map(|(_, consumer)| &consumer.handle)
    }

    /// Changes a running consumer's prefetch; the caller runs the queue afterwards.
    pub fn set_prefetch(&mut self, key: ConsumerKey, prefetch: u32) {
        self.consumers.set_prefetch(key, prefetch);
    }

    /// Ready messages.
    #[must_use]
    pub const fn ready(&self) -> u64 {
        self.ready
    }

    /// Body bytes of ready messages.
    #[must_use]
    pub const fn ready_bytes(&self) -> u64 {
        self.ready_bytes
    }

    /// Messages delivered and not settled.
    #[must_use]
    pub const fn unacked(&self) -> u64 {
        self.unacked
    }

    /// Body bytes of messages delivered and not settled.
    #[must_use]
    pub const fn unacked_bytes(&self) -> u64 {
        self.unacked_bytes
    }

    /// The sequence number of the next message of a level.
    #[must_use]
    pub fn next_seq(&self, level: u8) -> u64 {
        self.lanes.at(level).next_seq
    }

    /// Ready messages of each level that was ever used, highest first.
    pub fn ready_by_level(&self) -> impl Iterator<Item = (u8, u64)> {
        self.lanes.iter().map(|(level, lane)| (level, lane.ready))
    }

    /// When the message that has waited longest came, unix milliseconds; about, if it is not in
    /// memory.
    pub fn oldest_ms(&mut self) -> Option<u64> {
        let entered = |lane: &mut crate::lane::Lane| {
            let head = lane.head()?;
            let found = lane.chunks.record(head).map(|found| found.entered_ms);
            found.or_else(|| Some(lane.chunks.away_times(head.chunk)?.0))
        };
        self.lanes.iter_mut().filter_map(entered).min()
    }

    /// Registered consumers.
    #[must_use]
    pub fn consumer_count(&self) -> usize {
        self.consumers.len()
    }

    /// Whether only one consumer is served at a time.
    #[must_use]
    pub const fn is_single_active(&self) -> bool {
        self.consumers.is_single_active()
    }

    /// Whether a consumer that wants the queue for itself is registered.
    #[must_use]
    pub const fn has_exclusive_consumer(&self) -> bool {
        self.consumers.any_exclusive()
    }

    /// Whether a consumer could take more than it gets: consumption is not what holds it up.
    #[must_use]
    pub const fn has_credit(&self) -> bool {
        self.consumers.any_ready()
    }

    /// All consumers, with whether each is the active one.
    pub fn consumers(&self) -> impl Iterator<Item = (ConsumerKey, &Consumer<C>, bool)> {
        self.consumers
            .iter()
            .map(|(key, consumer)| (key, consumer, self.consumers.is_active(key)))
    }

    /// Those behind this one's place, which may be gone by now, or all; so a list goes on where it
    /// stopped.
    pub fn consumers_after(
        &self,
        after: Option<ConsumerKey>,
    ) -> impl Iterator<Item = (ConsumerKey, &Consumer<C>, bool)> {
        let later = self.consumers.iter_after(after);
        later.map(|(key, consumer)| (key, consumer, self.consumers.is_active(key)))
    }

    /// One consumer.
    #[must_use]
    pub fn consumer(&self, key: ConsumerKey) -> Option<&Consumer<C>> {
        self.consumers.get(key)
    }

    /// Totals since the queue was declared.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Gives the memory of an empty queue back; `false` when it still holds messages.
    pub fn shrink(&mut self) -> bool {
        let mut shrunk = true;
        for lane in self.lanes.iter_mut() {
            // Passes what has left.
            lane.chunks.head();
            shrunk &= lane.chunks.shrink();
        }
        shrunk
    }

    /// Whether the queue holds more memory than a queue that was ever used may keep.
    #[must_use]
    pub fn is_grown(&self) -> bool {
        let mut lanes = self.lanes.iter();
        lanes.any(|(_, lane)| lane.chunks.is_grown())
    }

    /// Memory that the queue keeps from others, bytes: its chunks in memory, and their shared
    /// bodies as if nobody else had them.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.lanes.weight()
    }

    /// Counts messages that others than the queue refuse.
    pub const fn refuse(&mut self, messages: u64) {
        self.counters.refused += messages;
    }

    /// Bytes of chunk memory held.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        self.lanes.resident_bytes()
    }
}

#[inline]
pub(crate) const fn rank(unacked: &Unacked) -> Rank {
    Rank {
        level: unacked.level,
        seq: unacked.seq,
    }
}
