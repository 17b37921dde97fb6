//! Takes a sample of every counter at a fixed interval; rates and past values come from these.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use leveret_broker::{Broker, ChannelStats, Churn, MessageCounts, Peer, QueueCell, Traffic, Vhost};
use leveret_queue::{Counters, Queue};
use leveret_router::ExchangeCounts;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::history::{AskedSpans, SampleRing, Span};
use crate::walk;

/// Samples of the whole broker: an hour at the default interval.
const BROKER_SAMPLES: usize = 720;
/// Samples of one queue or connection: ten minutes at the default interval.
const OBJECT_SAMPLES: usize = 120;
/// Of further objects only what a rate needs.
const RATE_SAMPLES: usize = 2;
/// Most objects with a rate.
const RATED_MAX: usize = 200_000;

/// Names of the message counters, in the order of their values.
pub(crate) const MESSAGES: [&str; 14] = [
    "publish",
    "confirm",
    "return_unroutable",
    "drop_unroutable",
    "deliver",
    "deliver_no_ack",
    "deliver_get",
    "get",
    "get_no_ack",
    "get_empty",
    "redeliver",
    "ack",
    "disk_reads",
    "disk_writes",
];
/// The same of an exchange: RabbitMQ's two, and what led to no queue.
const EXCHANGE_COUNTERS: [&str; 4] = [
    "publish_in",
    "publish_out",
    "return_unroutable",
    "drop_unroutable",
];
pub(crate) const READY: usize = 14;
pub(crate) const UNACKED: usize = 15;
const CHURN: usize = 16;
const BROKER: usize = 23;
/// Names of the churn counters.
const CHURNS: [(&str, Churn); 7] = [
    ("connection_created", Churn::ConnectionOpened),
    ("connection_closed", Churn::ConnectionClosed),
    ("channel_created", Churn::ChannelOpened),
    ("channel_closed", Churn::ChannelClosed),
    ("queue_declared", Churn::QueueDeclared),
    ("queue_created", Churn::QueueCreated),
    ("queue_deleted", Churn::QueueDeleted),
];

/// Counters of one object at one moment: those of [`MESSAGES`], then ready and unacknowledged.
pub(crate) type Values = [u64; 16];
type BrokerValues = [u64; BROKER];
type TrafficValues = [u64; 4];
/// Those of a virtual host: [`Values`], then bytes received and sent.
type VhostValues = [u64; VHOST];
const VHOST: usize = 18;

/// Ready bytes, unacknowledged bytes, memory, messages published to queues, messages dropped,
/// messages on the disk only and their bytes.
pub(crate) type QueueSums = [u64; 7];

/// All samples.
pub(crate) struct Sampler {
    state: Mutex<SamplerState>,
}

struct SamplerState {
    broker: SampleRing<BROKER>,
    queues: SampledObjects<QueueCell, 16>,
    exchanges: SampledObjects<ExchangeCounts, 4>,
    channels: SampledObjects<ChannelStats, 16>,
    connections: SampledObjects<Peer, 4>,
    vhosts: SampledObjects<Vhost, VHOST>,
    /// Over all queues.
    sums: QueueSums,
    /// When the last sample was taken.
    before_ms: Option<u64>,
    /// Nothing moved in the last two samples: what counts messages need not be looked at.
    still: u8,
}

/// When a sample is taken, and when the one before was.
#[derive(Clone, Copy)]
struct Tick {
    now_ms: u64,
    before_ms: Option<u64>,
}

/// Samples of all objects of one kind.
struct SampledObjects<T, const N: usize> {
    /// By the address of the object, which stays taken as long as the weak reference is held.
    rings: HashMap<usize, (Weak<T>, SampleRing<N>)>,
    /// Keeps the past of so many.
    long_max: usize,
}

impl<T, const N: usize> SampledObjects<T, N> {
    fn new(long_max: usize) -> Self {
        Self {
            rings: HashMap::new(),
            long_max,
        }
    }

    fn push(&mut self, object: &Arc<T>, tick: Tick, values: [u64; N]) {
        let (address, count) = (Arc::as_ptr(object) as usize, self.rings.len());
        if let Some((_, ring)) = self.rings.get_mut(&address) {
            // It was left out while it was still: what moved has moved since the tick before.
            if let Some(before_ms) = tick.before_ms {
                ring.hold_until(before_ms);
            }
            return ring.push(tick.now_ms, values);
        }
        let idle = values.iter().all(|value| *value == 0);
        if idle || count >= RATED_MAX {
            return;
        }
        let long = count < self.long_max;
        let mut ring = SampleRing::new(if long { OBJECT_SAMPLES } else { RATE_SAMPLES });
        // It came to life since the last sample.
        if let Some(before_ms) = tick.before_ms {
            ring.push(before_ms, [0; N]);
        }
        ring.push(tick.now_ms, values);
        self.rings.insert(address, (Arc::downgrade(object), ring));
    }

    fn ring(&self, object: &Arc<T>) -> Option<&SampleRing<N>> {
        let known = self.rings.get(&(Arc::as_ptr(object) as usize));
        known.map(|(_, ring)| ring)
    }

    fn forget_ended(&mut self) {
        self.rings
            .retain(|_, (object, _)| object.strong_count() > 0);
    }
}

impl Sampler {
    /// Keeps the past of so many queues, and of so many other objects of each kind.
    pub(crate) fn new(long_max: usize) -> Self {
        Self {
            state: Mutex::new(SamplerState {
                broker: SampleRing::new(BROKER_SAMPLES),
                queues: SampledObjects::new(long_max),
                exchanges: SampledObjects::new(long_max),
                channels: SampledObjects::new(long_max),
                connections: SampledObjects::new(long_max),
                vhosts: SampledObjects::new(long_max),
                sums: QueueSums::default(),
                before_ms: None,
                still: 0,
            }),
        }
    }

    /// Takes a sample.
    pub(crate) fn sample(&self, broker: &Arc<Broker>, now_ms: u64) {
        let values = broker_values(broker);
        let mut state = self.state.lock();
        let tick = Tick {
            now_ms,
            before_ms: state.before_ms.replace(now_ms),
        };
        let moved = state.broker.last() != Some(&values);
        state.broker.push(now_ms, values);
        state.still = if moved {
            0
        } else {
            state.still.saturating_add(1)
        };
        let still = state.still >= RATE_SAMPLES as u8;
        drop(state);
        self.sample_connections(broker, still, tick);
        self.sample_vhosts(broker, tick);
        if !still {
            self.sample_topology(broker, tick);
        }
        let mut state = self.state.lock();
        state.queues.forget_ended();
        state.exchanges.forget_ended();
        state.channels.forget_ended();
        state.connections.forget_ended();
        state.vhosts.forget_ended();
    }

    /// Of each object on its own: whoever reads a rate need not wait for all of them.
    fn sample_connections(&self, broker: &Arc<Broker>, still: bool, tick: Tick) {
        for peer in walk::peers(broker) {
            let traffic = traffic_values(peer.traffic());
            self.state.lock().connections.push(&peer, tick, traffic);
            if still {
                continue;
            }
            for channel in peer.channels() {
                let values = channel_values(&peer, &channel);
                self.state.lock().channels.push(&channel, tick, values);
            }
        }
    }

    fn sample_vhosts(&self, broker: &Broker, tick: Tick) {
        let totals = broker.totals_by_vhost();
        for vhost in broker.vhosts() {
            let totals = totals.get(&*vhost.name).copied().unwrap_or_default();
            let held = vhost.holdings.get();
            let mut values = VhostValues::default();
            let (counted, traffic) = values.split_at_mut(UNACKED + 1);
            counted.copy_from_slice(&values_of(&totals.messages, held.ready, held.unacked));
            traffic.copy_from_slice(&[totals.traffic.received_bytes, totals.traffic.sent_bytes]);
            self.state.lock().vhosts.push(&vhost, tick, values);
        }
    }

    /// What connections to a virtual host came to at the last sample, what its queues held and
    /// how all that changes; nothing of one that was never used.
    pub(crate) fn vhost_stats(
        &self,
        vhost: &Arc<Vhost>,
        window: &AskedSpans,
        now_ms: u64,
    ) -> Map<String, Value> {
        let mut row = Map::new();
        let state = self.state.lock();
        let ring = state.vhosts.ring(vhost);
        for (name, details) in length_details(ring, window.lengths, now_ms) {
            row.insert(name.to_owned(), details);
        }
        let Some(values) = ring.and_then(SampleRing::last) else {
            return row;
        };
        for (field, name) in [(UNACKED + 1, "recv_oct"), (UNACKED + 2, "send_oct")] {
            row.insert(name.to_owned(), values[field].into());
            let details = details_of(ring, field, window.data_rates, now_ms);
            row.insert(format!("{name}_details"), details);
        }
        let counters = MESSAGES.into_iter().enumerate();
        let counters = counters
            .filter(|(_, name)| !name.starts_with("disk"))
            .map(|(field, name)| (field, name, values[field]));
        let stats = stats(ring, counters, window.message_rates, now_ms);
        row.insert("message_stats".to_owned(), stats.into());
        row
    }

    /// Of the queues there were at the last sample.
    pub(crate) fn sums_of_queues(&self) -> QueueSums {
        self.state.lock().sums
    }

    fn sample_topology(&self, broker: &Broker, tick: Tick) {
        let mut sums = QueueSums::default();
        for vhost in broker.vhosts() {
            for cell in walk::queues(&vhost) {
                let state = cell.lock();
                let values = values_of_queue(&state.queue);
                add(&mut sums, &state.queue);
                drop(state);
                self.state.lock().queues.push(&cell, tick, values);
            }
            for counts in walk::exchanges(&vhost, |exchange| Arc::clone(exchange.counts())) {
                let values = exchange_values(&counts);
                self.state.lock().exchanges.push(&counts, tick, values);
            }
        }
        self.state.lock().sums = sums;
    }

    /// The rate and maybe samples of one of the broker's values.
    fn broker_details(&self, field: usize, span: Option<Span>, now_ms: u64) -> Value {
        self.state.lock().broker.details(field, span, now_ms)
    }

    /// The broker's message counters and their rates.
    pub(crate) fn message_stats(
        &self,
        broker: &Broker,
        span: Option<Span>,
        now_ms: u64,
    ) -> Map<String, Value> {
        let values = broker_values(broker);
        let state = self.state.lock();
        let counters = MESSAGES.iter().zip(values).enumerate();
        let counters = counters.map(|(field, (name, value))| (field, *name, value));
        stats(Some(&state.broker), counters, span, now_ms)
    }

    /// What the broker's queues hold, and how that changes.
    pub(crate) fn queue_totals(
        &self,
        (ready, unacked): (u64, u64),
        span: Option<Span>,
        now_ms: u64,
    ) -> Map<String, Value> {
        let mut totals = Map::new();
        let rings = self.state.lock();
        let ready_details = rings.broker.details(READY, span, now_ms);
        let unacked_details = rings.broker.details(UNACKED, span, now_ms);
        drop(rings);
        totals.insert("messages".to_owned(), (ready + unacked).into());
        totals.insert(
            "messages_details".to_owned(),
            sum(&ready_details, &unacked_details),
        );
        totals.insert("messages_ready".to_owned(), ready.into());
        totals.insert("messages_ready_details".to_owned(), ready_details);
        totals.insert("messages_unacknowledged".to_owned(), unacked.into());
        totals.insert(
            "messages_unacknowledged_details".to_owned(),
            unacked_details,
        );
        totals
    }

    /// How often connections, channels and queues come and go.
    pub(crate) fn churn(&self, broker: &Broker, span: Option<Span>, now_ms: u64) -> Value {
        let mut rates = Map::new();
        for (index, (name, event)) in CHURNS.iter().enumerate() {
            rates.insert((*name).to_owned(), broker.events.get(*event).into());
            let details = self.broker_details(CHURN + index, span, now_ms);
            rates.insert(format!("{name}_details"), details);
        }
        Value::Object(rates)
    }

    /// Runs `with` on a queue's ring; a queue that was never used has none.
    pub(crate) fn with_queue<T>(
        &self,
        cell: &Arc<QueueCell>,
        with: impl FnOnce(Option<&SampleRing<16>>) -> T,
    ) -> T {
        with(self.state.lock().queues.ring(cell))
    }

    /// A channel's message counters and their rates.
    pub(crate) fn channel_stats(
        &self,
        (peer, channel): (&Peer, &Arc<ChannelStats>),
        span: Option<Span>,
        now_ms: u64,
    ) -> Map<String, Value> {
        let values = channel_values(peer, channel);
        let state = self.state.lock();
        let counters = MESSAGES.iter().zip(values).enumerate();
        let counters = counters
            .filter(|(_, (name, _))| !name.starts_with("disk"))
            .map(|(field, (name, value))| (field, *name, value));
        stats(state.channels.ring(channel), counters, span, now_ms)
    }

    /// How much was published to an exchange, and from there; nothing of one never used.
    pub(crate) fn exchange_stats(
        &self,
        counts: &Arc<ExchangeCounts>,
        span: Option<Span>,
        now_ms: u64,
    ) -> Option<Map<String, Value>> {
        let values = exchange_values(counts);
        if values == [0; 4] {
            return None;
        }
        let state = self.state.lock();
        let counters = EXCHANGE_COUNTERS.into_iter().zip(values).enumerate();
        let counters = counters.map(|(field, (name, value))| (field, name, value));
        let ring = state.exchanges.ring(counts);
        Some(stats(ring, counters, span, now_ms))
    }

    /// Rates of a connection's traffic: bytes in, reads, bytes out, writes.
    pub(crate) fn traffic_details(
        &self,
        peer: &Arc<Peer>,
        span: Option<Span>,
        now_ms: u64,
    ) -> [Value; 4] {
        let state = self.state.lock();
        let ring = state.connections.ring(peer);
        std::array::from_fn(|field| details_of(ring, field, span, now_ms))
    }
}

/// Counters, each with its place in the ring, its name and its value now, and their rates.
pub(crate) fn stats<const N: usize>(
    ring: Option<&SampleRing<N>>,
    counters: impl Iterator<Item = (usize, &'static str, u64)>,
    span: Option<Span>,
    now_ms: u64,
) -> Map<String, Value> {
    let mut stats = Map::new();
    for (field, name, value) in counters {
        stats.insert(name.to_owned(), value.into());
        let details = details_of(ring, field, span, now_ms);
        stats.insert(format!("{name}_details"), details);
    }
    stats
}

/// A ring's details; those of an object without a ring are a rate of 0.
pub(crate) fn details_of<const N: usize>(
    ring: Option<&SampleRing<N>>,
    field: usize,
    span: Option<Span>,
    now_ms: u64,
) -> Value {
    match ring {
        Some(ring) => ring.details(field, span, now_ms),
        None => SampleRing::<N>::new(1).details(field, span, now_ms),
    }
}

/// `messages`, `messages_ready`, `messages_unacknowledged` and their details, of a queue.
pub(crate) fn length_details<const N: usize>(
    ring: Option<&SampleRing<N>>,
    span: Option<Span>,
    now_ms: u64,
) -> [(&'static str, Value); 3] {
    let ready = details_of(ring, READY, span, now_ms);
    let unacked = details_of(ring, UNACKED, span, now_ms);
    [
        ("messages_details", sum(&ready, &unacked)),
        ("messages_ready_details", ready),
        ("messages_unacknowledged_details", unacked),
    ]
}

/// The sum of two details, point by point.
fn sum(a: &Value, b: &Value) -> Value {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
        return Value::Null;
    };
    let mut total = Map::new();
    for (name, value) in a {
        let other = b.get(name);
        let added = match (value, other) {
            (Value::Array(these), Some(Value::Array(those))) => these
                .iter()
                .zip(those)
                .map(|(a, b)| add_samples(a, b))
                .collect(),
            (value, other) => {
                let number = |value: Option<&Value>| value.and_then(Value::as_f64).unwrap_or(0.0);
                Value::from(number(Some(value)) + number(other))
            }
        };
        total.insert(name.clone(), added);
    }
    Value::Object(total)
}

fn add_samples(a: &Value, b: &Value) -> Value {
    let number = |value: &Value| value["sample"].as_u64().unwrap_or(0);
    serde_json::json!({"sample": number(a) + number(b), "timestamp": a["timestamp"]})
}

fn broker_values(broker: &Broker) -> BrokerValues {
    let mut values = [0; BROKER];
    let (mut ready, mut unacked) = (0, 0);
    for vhost in broker.vhosts() {
        let held = vhost.holdings.get();
        ready += held.ready;
        unacked += held.unacked;
    }
    let counted = values_of(&broker.totals().messages, ready, unacked);
    values[..16].copy_from_slice(&counted);
    for (index, (_, event)) in CHURNS.iter().enumerate() {
        values[CHURN + index] = broker.events.get(*event);
    }
    values
}

/// Counts in the order of [`MESSAGES`].
pub(crate) fn values_of(counts: &MessageCounts, ready: u64, unacked: u64) -> Values {
    let deliveries = counts.deliveries;
    [
        counts.published,
        counts.confirmed,
        counts.returned,
        counts.dropped,
        deliveries.delivered,
        deliveries.delivered_no_ack,
        deliveries.delivered + deliveries.delivered_no_ack + deliveries.got + deliveries.got_no_ack,
        deliveries.got,
        deliveries.got_no_ack,
        counts.got_empty,
        deliveries.redelivered,
        counts.acked,
        0,
        0,
        ready,
        unacked,
    ]
}

/// A queue's values now.
pub(crate) fn queue_values(cell: &QueueCell) -> Values {
    values_of_queue(&cell.lock().queue)
}

fn values_of_queue<C>(queue: &Queue<C>) -> Values {
    counter_values(queue.counters(), queue.ready(), queue.unacked())
}

fn add<C>(sums: &mut QueueSums, queue: &Queue<C>) {
    let away = queue.paged_out();
    let more = [
        queue.ready_bytes(),
        queue.unacked_bytes(),
        (queue.resident_bytes() + size_of::<QueueCell>()) as u64,
        queue.counters().published,
        queue.counters().dropped,
        away.messages,
        away.bytes,
    ];
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum += more;
    }
}

fn channel_values(peer: &Peer, channel: &ChannelStats) -> Values {
    let outlet = peer.outlet.lock();
    let unacked = outlet.unacked(channel.number) as u64;
    let deliveries = outlet.delivery_counts(channel.number);
    drop(outlet);
    values_of(&channel.counts(deliveries), 0, unacked)
}

/// In the order of [`EXCHANGE_COUNTERS`].
fn exchange_values(counts: &ExchangeCounts) -> [u64; 4] {
    let ExchangeCounts {
        published_in,
        published_out,
        returned,
        dropped,
        refused: _,
    } = counts;
    [published_in, published_out, returned, dropped].map(|count| count.load(Ordering::Relaxed))
}

/// A queue's counters in the order of [`MESSAGES`].
pub(crate) fn counter_values(counters: &Counters, ready: u64, unacked: u64) -> Values {
    [
        counters.published,
        0,
        0,
        0,
        counters.delivered,
        counters.delivered_no_ack,
        counters.delivered + counters.delivered_no_ack + counters.got + counters.got_no_ack,
        counters.got,
        counters.got_no_ack,
        counters.got_empty,
        counters.redelivered,
        counters.acked,
        0,
        0,
        ready,
        unacked,
    ]
}

const fn traffic_values(traffic: Traffic) -> TrafficValues {
    [
        traffic.received_bytes,
        traffic.reads,
        traffic.sent_bytes,
        traffic.writes,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_over_one_interval_at_first_and_after_a_quiet_time() {
        let mut objects = SampledObjects::<u8, 1>::new(10);
        let object = Arc::new(0);
        let mut rate = |before_ms, now_ms, value| {
            let tick = Tick {
                now_ms,
                before_ms: Some(before_ms),
            };
            objects.push(&object, tick, [value]);
            objects.ring(&object).map(|ring| ring.rate(0))
        };
        assert_eq!(rate(1_000, 2_000, 0), None);
        assert_eq!(rate(2_000, 3_000, 10), Some(10.0));
        assert_eq!(rate(3_000, 4_000, 12), Some(2.0));
        // Nothing moved for a minute, and nothing was taken.
        assert_eq!(rate(64_000, 65_000, 17), Some(5.0));
    }
}
