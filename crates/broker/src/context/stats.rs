//! What is counted, and how it is read.
//!
//! A total has one writer, the thread that runs a connection's turn, and is written once per batch;
//! or it is kept under a lock that is held anyway. Reading sums over connections and channels,
//! never over queues.

use std::array;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use leveret_queue::Death;
use leveret_session::{DeliveryCounts, Verdict};
use parking_lot::Mutex;

/// Upper bounds of the message sizes counted together, bytes; the last class has none.
pub const SIZE_BOUNDS: [u64; 8] = [
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
];
const SIZE_CLASSES: usize = SIZE_BOUNDS.len() + 1;
/// So many queues in a row count in places of their own, so that cores do not share a cache line.
const HOLDING_SHARDS: usize = 16;

/// A number that one thread at a time changes and anybody reads.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds; must not run twice at the same time.
    #[inline]
    pub fn add(&self, number: u64) {
        self.set(self.get() + number);
    }

    /// Subtracts, on the same condition.
    pub fn subtract(&self, number: u64) {
        self.set(self.get().saturating_sub(number));
    }

    /// Puts a number in place of the one there is.
    #[inline]
    pub fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    /// Reads.
    #[must_use]
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Messages that passed a channel, a connection or the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// Taken from publishers.
    pub published: u64,
    /// Published on a channel in confirm mode.
    pub published_confirming: u64,
    /// Confirmed with `basic.ack`.
    pub confirmed: u64,
    /// Led to no queue and were returned, being `mandatory`.
    pub returned: u64,
    /// Led to no queue and were dropped.
    pub dropped: u64,
    /// Delivered or fetched.
    pub deliveries: DeliveryCounts,
    /// `basic.get` that found nothing.
    pub got_empty: u64,
    /// Acknowledged.
    pub acked: u64,
    /// Rejected for good.
    pub rejected: u64,
    /// Given back to their queues.
    pub requeued: u64,
}

impl MessageCounts {
    /// Messages that led to a queue.
    #[must_use]
    pub const fn routed(&self) -> u64 {
        self.published
            .saturating_sub(self.returned)
            .saturating_sub(self.dropped)
    }
}

impl AddAssign for MessageCounts {
    fn add_assign(&mut self, other: Self) {
        self.published += other.published;
        self.published_confirming += other.published_confirming;
        self.confirmed += other.confirmed;
        self.returned += other.returned;
        self.dropped += other.dropped;
        self.deliveries += other.deliveries;
        self.got_empty += other.got_empty;
        self.acked += other.acked;
        self.rejected += other.rejected;
        self.requeued += other.requeued;
    }
}

/// One open channel as others see it; its deliveries are counted in its connection's outlet.
#[derive(Debug, Default)]
pub struct ChannelStats {
    /// As frames name it.
    pub number: u16,
    /// Taken from publishers.
    pub published: Count,
    /// Published in confirm mode.
    pub published_confirming: Count,
    /// Confirmed with `basic.ack`.
    pub confirmed: Count,
    /// Led to no queue and went back, being `mandatory`.
    pub returned: Count,
    /// Dropped, as they led to no queue.
    pub dropped: Count,
    /// `basic.get` that found nothing.
    pub got_empty: Count,
    /// Acknowledged.
    pub acked: Count,
    /// Rejected for good.
    pub rejected: Count,
    /// Given back to their queues.
    pub requeued: Count,
    /// 1 in confirm mode.
    pub confirming: Count,
    /// Publishes that wait for their confirm.
    pub unconfirmed: Count,
    /// 1 in tx mode.
    pub transactional: Count,
    /// Publishes that wait for `tx.commit`.
    pub uncommitted: Count,
    /// Deliveries whose settlement waits for `tx.commit`.
    pub uncommitted_settlements: Count,
    /// Consumers that their queues know; changed with the connection's outlet locked.
    pub consumers: Count,
    /// Prefetch of consumers started from now on; 0 means no limit.
    pub prefetch: Count,
    /// Prefetch of the whole channel; 0 means no limit.
    pub channel_prefetch: Count,
}

impl ChannelStats {
    /// Where deliveries that end so are counted.
    pub(crate) const fn settled(&self, verdict: Verdict) -> &Count {
        match verdict {
            Verdict::Ack => &self.acked,
            Verdict::Discard => &self.rejected,
            Verdict::Requeue | Verdict::Retry => &self.requeued,
        }
    }

    /// Its totals; `deliveries` come from the connection's outlet.
    #[must_use]
    pub fn counts(&self, deliveries: DeliveryCounts) -> MessageCounts {
        MessageCounts {
            published: self.published.get(),
            published_confirming: self.published_confirming.get(),
            confirmed: self.confirmed.get(),
            returned: self.returned.get(),
            dropped: self.dropped.get(),
            deliveries,
            got_empty: self.got_empty.get(),
            acked: self.acked.get(),
            rejected: self.rejected.get(),
            requeued: self.requeued.get(),
        }
    }
}

/// A connection's channels: the open ones, and what the closed ones came to.
#[derive(Debug, Default)]
pub(crate) struct ChannelList {
    pub(crate) open: Vec<Arc<ChannelStats>>,
    ended: MessageCounts,
}

impl ChannelList {
    pub(crate) fn end(&mut self, number: u16) {
        self.open.retain(|channel| {
            let ends = channel.number == number;
            if ends {
                self.ended += channel.counts(DeliveryCounts::default());
            }
            !ends
        });
    }

    /// Totals without deliveries.
    pub(crate) fn counts(&self) -> MessageCounts {
        let mut counts = self.ended;
        for channel in &self.open {
            counts += channel.counts(DeliveryCounts::default());
        }
        counts
    }
}

/// Sizes of published messages: how many are in each class of [`SIZE_BOUNDS`], and all bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizeCounts {
    /// Messages of up to that many bytes, but more than the class before.
    pub classes: [u64; SIZE_CLASSES],
    /// Body bytes of all.
    pub bytes: u64,
}

impl SizeCounts {
    /// Counts one message.
    #[inline]
    pub fn count(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.bytes += bytes;
        let [smallest, ..] = &mut self.classes;
        if bytes <= SIZE_BOUNDS[0] {
            *smallest += 1;
            return;
        }
        let class = SIZE_BOUNDS.iter().position(|bound| bytes <= *bound);
        if let Some(count) = self.classes.get_mut(class.unwrap_or(SIZE_BOUNDS.len())) {
            *count += 1;
        }
    }
}

impl AddAssign for SizeCounts {
    fn add_assign(&mut self, other: Self) {
        for (count, more) in self.classes.iter_mut().zip(other.classes) {
            *count += more;
        }
        self.bytes += other.bytes;
    }
}

/// The same while a connection's reader still counts.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    classes: [Count; SIZE_CLASSES],
    bytes: Count,
}

impl Sizes {
    pub(crate) fn add(&self, sizes: &SizeCounts) {
        for (count, more) in self.classes.iter().zip(sizes.classes) {
            if more > 0 {
                count.add(more);
            }
        }
        self.bytes.add(sizes.bytes);
    }

    pub(crate) fn get(&self) -> SizeCounts {
        SizeCounts {
            classes: array::from_fn(|class| self.classes.get(class).map_or(0, Count::get)),
            bytes: self.bytes.get(),
        }
    }
}

/// What went over a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes read.
    pub received_bytes: u64,
    /// Reads that brought bytes.
    pub reads: u64,
    /// Bytes written.
    pub sent_bytes: u64,
    /// Writes that took bytes.
    pub writes: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.received_bytes += other.received_bytes;
        self.reads += other.reads;
        self.sent_bytes += other.sent_bytes;
        self.writes += other.writes;
    }
}

/// What one connection, or all of them together, came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many messages, by what was done with them.
    pub messages: MessageCounts,
    /// Sizes of published messages.
    pub sizes: SizeCounts,
    /// Bytes.
    pub traffic: Traffic,
    /// How long publishing was slowed down, milliseconds.
    pub flow_ms: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.sizes += other.sizes;
        self.traffic += other.traffic;
        self.flow_ms += other.flow_ms;
    }
}

/// How often something rare has happened since the broker started.
#[derive(Debug, Default)]
pub struct Events {
    connections_opened: AtomicU64,
    connections_closed: AtomicU64,
    channels_opened: AtomicU64,
    channels_closed: AtomicU64,
    queues_declared: AtomicU64,
    queues_created: AtomicU64,
    queues_deleted: AtomicU64,
    logins_accepted: AtomicU64,
    logins_refused: AtomicU64,
    existing: [AtomicUsize; 3],
}

/// What virtual hosts consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Queues of every type.
    Queues,
    /// Exchanges, the predeclared ones included.
    Exchanges,
    /// Bindings, those of the default exchange left out.
    Bindings,
}

impl Existing {
    pub(crate) const ALL: [Self; 3] = [Self::Queues, Self::Exchanges, Self::Bindings];
}

/// What comes and goes, counted: RabbitMQ speaks of churn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Churn {
    /// A connection was accepted.
    ConnectionOpened,
    /// A connection ended.
    ConnectionClosed,
    /// `channel.open`.
    ChannelOpened,
    /// A channel ended, by itself or with its connection.
    ChannelClosed,
    /// `queue.declare`, of a queue that exists or not.
    QueueDeclared,
    /// A queue was made.
    QueueCreated,
    /// A queue was deleted, by a client or with its connection.
    QueueDeleted,
    /// A login was accepted.
    LoginAccepted,
    /// A login was refused.
    LoginRefused,
}

impl Events {
    /// Counts one.
    pub fn count(&self, event: Churn) {
        self.of(event).fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self, event: Churn) -> u64 {
        self.of(event).load(Ordering::Relaxed)
    }

    /// How many there are in all virtual hosts together.
    #[must_use]
    pub fn existing(&self, kind: Existing) -> usize {
        self.existing_of(kind).load(Ordering::Relaxed)
    }

    /// A virtual host has `now` instead of `before`.
    pub(crate) fn exist(&self, kind: Existing, before: usize, now: usize) {
        let change = now.wrapping_sub(before);
        self.existing_of(kind).fetch_add(change, Ordering::Relaxed);
    }

    const fn existing_of(&self, kind: Existing) -> &AtomicUsize {
        let [queues, exchanges, bindings] = &self.existing;
        match kind {
            Existing::Queues => queues,
            Existing::Exchanges => exchanges,
            Existing::Bindings => bindings,
        }
    }

    const fn of(&self, event: Churn) -> &AtomicU64 {
        match event {
            Churn::ConnectionOpened => &self.connections_opened,
            Churn::ConnectionClosed => &self.connections_closed,
            Churn::ChannelOpened => &self.channels_opened,
            Churn::ChannelClosed => &self.channels_closed,
            Churn::QueueDeclared => &self.queues_declared,
            Churn::QueueCreated => &self.queues_created,
            Churn::QueueDeleted => &self.queues_deleted,
            Churn::LoginAccepted => &self.logins_accepted,
            Churn::LoginRefused => &self.logins_refused,
        }
    }
}

/// What queues hold at this moment: of one queue, or of all queues of a virtual host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldingCounts {
    /// Ready messages.
    pub ready: u64,
    /// Deliveries that wait for their settlement.
    pub unacked: u64,
    /// Those that are subscribed now.
    pub consumers: u64,
    /// Body bytes of what is ready or waits for its settlement.
    pub bytes: u64,
}

/// What all queues of a virtual host hold, kept up to date by each of them.
#[derive(Debug, Default)]
pub struct Holdings {
    shards: [HoldingShard; HOLDING_SHARDS],
    traced: AtomicBool,
    leased: AtomicBool,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct HoldingShard {
    ready: AtomicI64,
    unacked: AtomicI64,
    consumers: AtomicI64,
    bytes: AtomicI64,
}

impl Holdings {
    /// Whether what passes through the virtual host is traced.
    #[inline]
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.traced.load(Ordering::Relaxed)
    }

    /// Whether a queue has had deliveries that must be settled in time.
    pub(crate) fn is_leased(&self) -> bool {
        self.leased.load(Ordering::Relaxed)
    }

    pub(crate) fn set_leased(&self) {
        self.leased.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set_traced(&self, on: bool) {
        self.traced.store(on, Ordering::Relaxed);
    }

    /// The sum; a little out of step with itself while messages move.
    #[must_use]
    pub fn get(&self) -> HoldingCounts {
        let sum = |of: fn(&HoldingShard) -> &AtomicI64| {
            let sum: i64 = self
                .shards
                .iter()
                .map(|shard| of(shard).load(Ordering::Relaxed))
                .sum();
            u64::try_from(sum).unwrap_or(0)
        };
        HoldingCounts {
            ready: sum(|shard| &shard.ready),
            unacked: sum(|shard| &shard.unacked),
            consumers: sum(|shard| &shard.consumers),
            bytes: sum(|shard| &shard.bytes),
        }
    }

    /// One queue holds `after` instead of `before`; `queue` chooses where that is counted.
    #[inline]
    pub(crate) fn change(&self, queue: u32, before: HoldingCounts, after: HoldingCounts) {
        let Some(shard) = self.shards.get(queue as usize % HOLDING_SHARDS) else {
            return;
        };
        let change = |total: &AtomicI64, before: u64, after: u64| {
            if before != after {
                total.fetch_add(after.wrapping_sub(before).cast_signed(), Ordering::Relaxed);
            }
        };
        change(&shard.ready, before.ready, after.ready);
        change(&shard.unacked, before.unacked, after.unacked);
        change(&shard.consumers, before.consumers, after.consumers);
        change(&shard.bytes, before.bytes, after.bytes);
    }
}

/// Totals of what is gone: connections that ended, and what never had one.
#[derive(Debug, Default)]
pub(crate) struct Ended(Mutex<Totals>);

impl Ended {
    pub(crate) fn add(&self, totals: Totals) {
        *self.0.lock() += totals;
    }

    pub(crate) fn get(&self) -> Totals {
        *self.0.lock()
    }
}

/// What became of dead messages since the broker was started.
#[derive(Debug, Default)]
pub struct DeathCounts {
    /// By kind of queue, strategy and [`Death`].
    moved_on: [[[AtomicU64; 4]; 2]; 2],
}

impl DeathCounts {
    /// How many died so, in quorum queues or others, with the strategy at-least-once or the other
    /// one, and were moved on, or dropped as nobody wanted them.
    #[must_use]
    pub fn moved_on(&self, death: Death, quorum: bool, at_least_once: bool) -> u64 {
        let count = self.counter(death, quorum, at_least_once);
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Where deaths of a kind are counted.
    pub(crate) fn counter(
        &self,
        death: Death,
        quorum: bool,
        at_least_once: bool,
    ) -> Option<&AtomicU64> {
        let of_kind = self.moved_on.get(usize::from(quorum))?;
        let of_strategy = of_kind.get(usize::from(at_least_once))?;
        of_strategy.get(death as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_into_the_class_whose_bound_they_do_not_exceed() {
        let mut sizes = SizeCounts::default();
        for bytes in [0, 100, 101, 1_000, 10_000_001, 100_000_000, 100_000_001] {
            sizes.count(bytes);
        }
        assert_eq!(sizes.classes, [2, 2, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(sizes.bytes, 210_001_203);
    }
}
