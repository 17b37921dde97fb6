//! The queue itself: what is ready, what is out, who gets the next message.

mod pump;
mod requeue;
mod settle;

use std::ops::ControlFlow;
use std::sync::Arc;

use leveret_record::{Blob, Position, Record, Unacked};

use crate::chunk::{Chunks, Message};
use crate::consumers::{Consumer, ConsumerKey, Consumers, Consuming};
use crate::limits::{Limits, Overflow};
use crate::requeued::Requeued;
use crate::reserve::Reserved;

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

/// Why a message left the queue without a settlement from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Sent to a `no_ack` consumer.
    Sent,
    /// Dropped from the head to keep a length limit.
    Overflow,
    /// Purged.
    Purged,
}

/// Where a queue's decisions go.
pub trait Sink<C> {
    /// A message for the consumer whose turn it is.
    fn offer(&mut self, consumer: &Consumer<C>, key: ConsumerKey, delivery: &Delivery<'_>)
    -> Offer;

    /// A persistent message is no longer in the queue.
    fn gone(&mut self, seq: u64, why: Gone);
}

/// The queue is full and its policy is to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

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
    /// Messages dropped from the head.
    pub dropped: u64,
}

/// One queue.
///
/// Invariant: `ready` counts the records at and after the cursor plus `requeued`.
///
/// Fields are laid out by how often a publish touches them: a message to 100,000 queues costs a
/// cache miss for each line.
#[derive(Debug)]
#[repr(C)]
pub struct Queue<C> {
    pub(crate) limits: Limits,
    next_seq: u64,
    pub(crate) ready: u64,
    pub(crate) ready_bytes: u64,
    pub(crate) unacked: u64,
    pub(crate) unacked_bytes: u64,
    chunks: Chunks,
    consumers: Consumers<C>,
    pub(crate) counters: Counters,
    requeued: Requeued,
    pub(crate) reserved: Option<Box<Reserved>>,
}

impl<C> Queue<C> {
    /// An empty queue. With `single_active` only one consumer is served at a time.
    #[must_use]
    pub fn new(limits: Limits, single_active: bool) -> Self {
        Self {
            chunks: Chunks::default(),
            requeued: Requeued::default(),
            reserved: None,
            consumers: Consumers::new(single_active),
            limits,
            counters: Counters::default(),
            next_seq: 0,
            ready: 0,
            ready_bytes: 0,
            unacked: 0,
            unacked_bytes: 0,
        }
    }

    /// Appends a message and gives its sequence number.
    ///
    /// The caller pumps afterwards, then calls [`Queue::trim`]: a message that a consumer can take
    /// at once never counts against a length limit.
    ///
    /// # Errors
    /// [`Refused`] when the queue is full and refuses; nothing is stored.
    #[inline]
    pub fn push(&mut self, message: &Message<'_>, sink: &mut impl Sink<C>) -> Result<u64, Refused> {
        let bytes = message.body_len();
        if !self.has_room(bytes) {
            self.pump(sink);
            if !self.has_room(bytes) {
                self.counters.refused += 1;
                return Err(Refused);
            }
        }
        Ok(self.accept(message))
    }

    #[inline]
    pub(crate) fn accept(&mut self, message: &Message<'_>) -> u64 {
        self.counters.published += 1;
        self.append(message, message.body_len())
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
    pub const fn passed(&mut self, messages: u64) {
        self.next_seq += messages;
        self.counters.published += messages;
        self.counters.delivered_no_ack += messages;
    }

    /// Appends a message whatever the limits: what recovery found.
    pub fn restore(&mut self, message: &Message<'_>, seq: u64) {
        self.next_seq = self.next_seq.max(seq);
        self.append(message, message.body_len());
    }

    /// Begins after what recovery found, so that no sequence number is used twice.
    pub const fn begin_at(&mut self, seq: u64) {
        self.next_seq = seq;
    }

    fn append(&mut self, message: &Message<'_>, bytes: u64) -> u64 {
        let seq = self.next_seq;
        self.chunks.append(message, seq);
        self.next_seq += 1;
        self.ready += 1;
        self.ready_bytes += bytes;
        seq
    }

    #[inline]
    fn has_room(&self, bytes: u64) -> bool {
        let limits = &self.limits;
        let fits = self.ready + self.unacked < limits.total_max
            && self.ready_bytes + self.unacked_bytes + bytes <= limits.total_bytes_max;
        fits && (limits.overflow == Overflow::DropHead
            || (self.ready < limits.ready_max
                && self.ready_bytes + bytes <= limits.ready_bytes_max))
    }

    /// Drops messages from the head while a `drop-head` limit is exceeded.
    #[inline]
    pub fn trim(&mut self, sink: &mut impl Sink<C>) {
        if self.limits.overflow == Overflow::RejectPublish {
            // What came back above the limit stays: only a publish can be refused.
            return;
        }
        while self.ready > self.limits.ready_max || self.ready_bytes > self.limits.ready_bytes_max {
            let Some(delivery) = self.take_head() else {
                return;
            };
            let Unacked {
                seq,
                position,
                persistent,
                ..
            } = delivery;
            self.chunks.release(position);
            self.counters.dropped += 1;
            if persistent {
                sink.gone(seq, Gone::Overflow);
            }
        }
    }

    /// Counts what is ready no more.
    #[inline]
    const fn left(&mut self, messages: u64, bytes: u64) {
        self.ready -= messages;
        self.ready_bytes -= bytes;
    }

    /// Takes the head message for `basic.get`; `give` sees it and how many stay ready.
    ///
    /// Returns `false` when the queue is empty. With `no_ack` it is settled at once.
    pub fn get(
        &mut self,
        no_ack: bool,
        sink: &mut impl Sink<C>,
        give: impl FnOnce(&Delivery<'_>, u64),
    ) -> bool {
        let left = self.ready.saturating_sub(1);
        let Some(position) = self.head() else {
            self.counters.got_empty += 1;
            return false;
        };
        let Some((record, blob, next)) = self.chunks.record(position) else {
            return false;
        };
        let unacked = self.unacked_of(position, &record);
        give(
            &Delivery {
                record: &record,
                blob,
                unacked,
            },
            left,
        );
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

    /// The next message in order: requeued ones are older than any never read.
    #[inline]
    fn head(&mut self) -> Option<Position> {
        match self.requeued.first() {
            Some((_, position)) => Some(position),
            None => self.chunks.head(),
        }
    }

    #[inline]
    fn unacked_of(&self, position: Position, record: &Record<'_>) -> Unacked {
        let seq = match self.requeued.first() {
            Some((seq, _)) => seq,
            None => record.seq,
        };
        unacked(seq, position, record)
    }

    /// Takes a message off the ready ones.
    #[inline]
    fn leave(&mut self, unacked: &Unacked, next: u32) {
        if self.requeued.is_empty() {
            self.chunks.advance(next);
        } else {
            self.requeued.pop_first(next);
        }
        self.left(1, u64::from(unacked.body_len));
        self.counters.redelivered += u64::from(unacked.deliveries > 0);
    }

    fn take_head(&mut self) -> Option<Unacked> {
        let position = self.head()?;
        let (record, _, next) = self.chunks.record(position)?;
        let unacked = self.unacked_of(position, &record);
        self.leave(&unacked, next);
        Some(unacked)
    }

    #[inline]
    fn hold(&mut self, unacked: &Unacked) {
        self.unacked += 1;
        self.unacked_bytes += u64::from(unacked.body_len);
    }

    fn settle_sent(&mut self, unacked: &Unacked, sink: &mut impl Sink<C>) {
        self.chunks.release(unacked.position);
        if unacked.persistent {
            sink.gone(unacked.seq, Gone::Sent);
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

    /// Shows the sequence numbers of all ready persistent messages, in order.
    pub fn persistent_ready(&self, mut show: impl FnMut(u64)) {
        let _ = self.requeued_from(0, |seq, record, _| {
            if record.persistent {
                show(seq);
            }
            ControlFlow::Continue(())
        });
        self.chunks.unread(|record| {
            if record.persistent {
                show(record.seq);
            }
        });
    }

    pub(crate) const fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    /// Drops all ready messages and tells how many there were; unacknowledged ones stay.
    pub fn purge(&mut self) -> u64 {
        let purged = self.ready;
        self.release_requeued();
        if self.chunks.head().is_some() {
            self.chunks.release_unread();
        }
        (self.ready, self.ready_bytes) = (0, 0);
        purged
    }

    /// Registers a consumer; the caller pumps afterwards.
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
        let empty = Self::new(*self.limits(), self.is_single_active());
        std::mem::replace(self, empty)
    }

    /// The owners' handles of all its consumers.
    pub fn handles(&self) -> impl Iterator<Item = &C> {
        self.consumers.iter().map(|(_, consumer)| &consumer.handle)
    }

    /// Changes a running consumer's prefetch; the caller pumps afterwards.
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

    /// The sequence number of the next message.
    #[must_use]
    pub const fn next_seq(&self) -> u64 {
        self.next_seq
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
        self.chunks.shrink()
    }

    /// Whether the queue holds more memory than a queue that was ever used may keep.
    #[must_use]
    pub fn is_grown(&self) -> bool {
        self.chunks.is_grown()
    }

    /// Memory that the queue keeps from others, bytes: its chunks, and all bodies as if none of
    /// them was in a chunk. At least what it really is, and at most twice that.
    #[must_use]
    pub const fn held_bytes(&self) -> u64 {
        self.chunks.resident_bytes() as u64 + self.ready_bytes + self.unacked_bytes
    }

    /// Counts messages that others than the queue refuse.
    pub const fn refuse(&mut self, messages: u64) {
        self.counters.refused += messages;
    }

    /// Bytes of chunk memory held.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        self.chunks.resident_bytes()
    }
}

#[inline]
const fn unacked(seq: u64, position: Position, record: &Record<'_>) -> Unacked {
    Unacked {
        seq,
        position,
        body_len: record.body.len(),
        deliveries: record.deliveries,
        persistent: record.persistent,
    }
}
