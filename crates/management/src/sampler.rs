//! Takes a sample of every counter at a fixed interval; rates and past values come from these.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use leveret_broker::{Broker, ConnectionId, Event, MessageCounts, QueueCell, Traffic};
use leveret_queue::Counters;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::history::{Ring, Span};

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
const READY: usize = 14;
const UNACKED: usize = 15;
const CHURN: usize = 16;
const BROKER: usize = 23;
/// Names of the churn counters.
const CHURNS: [(&str, Event); 7] = [
    ("connection_created", Event::ConnectionOpened),
    ("connection_closed", Event::ConnectionClosed),
    ("channel_created", Event::ChannelOpened),
    ("channel_closed", Event::ChannelClosed),
    ("queue_declared", Event::QueueDeclared),
    ("queue_created", Event::QueueCreated),
    ("queue_deleted", Event::QueueDeleted),
];

/// Counters of one object at one moment: those of [`MESSAGES`], then ready and unacknowledged.
pub(crate) type Values = [u64; 16];
type BrokerValues = [u64; BROKER];
type TrafficValues = [u64; 4];

/// All samples.
pub(crate) struct Sampler {
    state: Mutex<State>,
    long_max: usize,
}

struct State {
    broker: Ring<BROKER>,
    /// By the address of the cell, which stays taken as long as the weak reference is held.
    queues: HashMap<usize, (Weak<QueueCell>, Ring<16>)>,
    connections: HashMap<ConnectionId, Ring<4>>,
    /// Nothing moved in the last two samples: queues need not be looked at.
    still: u8,
}

impl Sampler {
    /// Keeps the past of so many queues.
    pub(crate) fn new(long_max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                broker: Ring::new(BROKER_SAMPLES),
                queues: HashMap::new(),
                connections: HashMap::new(),
                still: 0,
            }),
            long_max,
        }
    }

    /// Takes a sample.
    pub(crate) fn sample(&self, broker: &Broker, now_ms: u64) {
        let values = broker_values(broker);
        let mut state = self.state.lock();
        let moved = state.broker.last() != Some(&values);
        state.broker.push(now_ms, values);
        state.still = if moved {
            0
        } else {
            state.still.saturating_add(1)
        };
        let still = state.still >= RATE_SAMPLES as u8;
        drop(state);
        self.sample_connections(broker, now_ms);
        if !still {
            for vhost in broker.vhosts() {
                let cells: Vec<_> = vhost.directory.read().queues().cloned().collect();
                self.sample_queues(&cells, now_ms);
            }
        }
        self.state
            .lock()
            .queues
            .retain(|_, (cell, _)| cell.strong_count() > 0);
    }

    fn sample_connections(&self, broker: &Broker, now_ms: u64) {
        let peers = broker.peers();
        let traffic: Vec<_> = peers
            .iter()
            .map(|peer| (peer.id, traffic_values(peer.traffic())))
            .collect();
        let mut state = self.state.lock();
        let known = std::mem::take(&mut state.connections);
        let mut rings = HashMap::with_capacity(traffic.len());
        let mut known = known;
        for (id, values) in traffic {
            let ring = known.remove(&id);
            let mut ring = ring.unwrap_or_else(|| Ring::new(self.room(rings.len())));
            ring.push(now_ms, values);
            rings.insert(id, ring);
        }
        state.connections = rings;
    }

    fn sample_queues(&self, cells: &[Arc<QueueCell>], now_ms: u64) {
        for cell in cells {
            let values = queue_values(cell);
            let idle = values.iter().all(|value| *value == 0);
            let address = Arc::as_ptr(cell) as usize;
            let mut state = self.state.lock();
            let count = state.queues.len();
            if let Some((_, ring)) = state.queues.get_mut(&address) {
                ring.push(now_ms, values);
            } else if !idle && count < RATED_MAX {
                let mut ring = Ring::new(self.room(count));
                // It came to life since the last sample.
                ring.push(now_ms.saturating_sub(FIRST_INTERVAL_MS), [0; 16]);
                ring.push(now_ms, values);
                state.queues.insert(address, (Arc::downgrade(cell), ring));
            }
        }
    }

    const fn room(&self, count: usize) -> usize {
        if count < self.long_max {
            OBJECT_SAMPLES
        } else {
            RATE_SAMPLES
        }
    }

    /// The rate and maybe samples of one of the broker's values.
    fn broker_details(&self, field: usize, span: Option<Span>, now_ms: u64) -> Value {
        self.state.lock().broker.details(field, span, now_ms)
    }

    /// Adds the broker's message counters and their rates.
    pub(crate) fn message_stats(
        &self,
        broker: &Broker,
        span: Option<Span>,
        now_ms: u64,
    ) -> Map<String, Value> {
        let values = broker_values(broker);
        let mut stats = Map::new();
        for (field, name) in MESSAGES.iter().enumerate() {
            stats.insert((*name).to_owned(), values[field].into());
            let details = self.broker_details(field, span, now_ms);
            stats.insert(format!("{name}_details"), details);
        }
        stats
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
        with: impl FnOnce(Option<&Ring<16>>) -> T,
    ) -> T {
        let state = self.state.lock();
        let ring = state.queues.get(&(Arc::as_ptr(cell) as usize));
        with(ring.map(|(_, ring)| ring))
    }

    /// Rates of a connection's traffic: bytes in, reads, bytes out, writes.
    pub(crate) fn traffic_details(
        &self,
        id: ConnectionId,
        span: Option<Span>,
        now_ms: u64,
    ) -> [Value; 4] {
        let state = self.state.lock();
        let ring = state.connections.get(&id);
        std::array::from_fn(|field| details_of(ring, field, span, now_ms))
    }
}

/// A ring's details; those of an object without a ring are a rate of 0.
pub(crate) fn details_of<const N: usize>(
    ring: Option<&Ring<N>>,
    field: usize,
    span: Option<Span>,
    now_ms: u64,
) -> Value {
    match ring {
        Some(ring) => ring.details(field, span, now_ms),
        None => Ring::<N>::new(1).details(field, span, now_ms),
    }
}

/// `messages`, `messages_ready`, `messages_unacknowledged` and their details, of a queue.
pub(crate) fn length_details(
    ring: Option<&Ring<16>>,
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

fn queue_values(cell: &QueueCell) -> Values {
    let state = cell.lock();
    let queue = &state.queue;
    counter_values(queue.counters(), queue.ready(), queue.unacked())
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

/// A queue's first rate is over this long.
const FIRST_INTERVAL_MS: u64 = 5000;
