//! Takes N messages through codec, session and broker in memory: publish, deliver, acknowledge; or,
//! with a second argument, other ways. `fanout`: N copies to the unacknowledging consumers of 1,000
//! queues. `dead-letter`: all are published, then rejected one by one, and go on to another queue.
//!
//! `cargo xtask callgrind` counts its instructions for two values of N. It also counts allocations,
//! of the second half, and fails when there are too many.

use std::sync::Arc;

use bytes::Buf as _;
use leveret_broker::{Access, Broker, BrokerConfig, Connection, Origin};
use leveret_codec::{
    BasicAck, BasicConsume, BasicPublish, BasicQos, BasicReject, ChannelOpen, ConnectionOpen,
    ConnectionStartOk, ConnectionTuneOk, Method, PROTOCOL_HEADER, QueueBind, QueueDeclare,
    RawTable, Table, Value, content,
};
use leveret_session::Flush;
use leveret_store::InstantStore;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// Messages of one read: what a 64 KiB read of small messages brings, about.
const BATCH: u64 = 500;

/// Nothing is flushed: the test takes the bytes itself.
struct NoSocket;

impl Flush for NoSocket {
    fn flush(&self) {}
    fn wake(&self) {}
    fn interrupt(&self) {}
}

fn connect(broker: &Arc<Broker>) -> Connection {
    let origin = Origin {
        name: "memory".into(),
        loopback: true,
        connected_at_ms: 0,
    };
    let mut connection = Connection::new(Arc::clone(broker), origin, 0, Arc::new(NoSocket));
    let mut bytes = PROTOCOL_HEADER.to_vec();
    let table = RawTable::EMPTY;
    let start_ok = ConnectionStartOk {
        client_properties: table,
        mechanism: b"PLAIN",
        response: b"\0guest\0guest",
        locale: b"en_US",
    };
    Method::from(start_ok).encode(0, &mut bytes);
    let tune_ok = ConnectionTuneOk {
        channel_max: 2047,
        frame_max: 131_072,
        heartbeat: 0,
    };
    Method::from(tune_ok).encode(0, &mut bytes);
    Method::from(ConnectionOpen { virtual_host: b"/" }).encode(0, &mut bytes);
    Method::from(ChannelOpen {}).encode(1, &mut bytes);
    send(&mut connection, &bytes);
    assert!(connection.is_running(), "the handshake succeeds");
    connection
}

fn send(connection: &mut Connection, bytes: &[u8]) {
    let turn = connection.receive(bytes, 1);
    assert_eq!(turn.consumed, bytes.len());
    assert!(!turn.ended);
}

/// Takes everything a connection would write and tells how many bytes that were.
fn drain(connection: &Connection) -> usize {
    let mut taken = 0;
    let mut starved = Vec::new();
    let outlet = &connection.peer().outlet;
    loop {
        let Some(mut pending) = outlet.lock().begin_flush() else {
            return taken;
        };
        taken += pending.remaining();
        pending.advance(pending.remaining());
        outlet.lock().end_flush(pending, &mut starved);
        starved.clear();
    }
}

fn prefetch(bytes: &mut Vec<u8>) {
    let qos = BasicQos {
        prefetch_size: 0,
        prefetch_count: 1000,
        global: false,
    };
    Method::from(qos).encode(1, bytes);
}

fn consume(bytes: &mut Vec<u8>, queue: &str, no_ack: bool) {
    let consume = BasicConsume {
        queue: queue.as_bytes(),
        consumer_tag: queue.as_bytes(),
        no_local: false,
        no_ack,
        exclusive: false,
        nowait: false,
        arguments: RawTable::EMPTY,
    };
    Method::from(consume).encode(1, bytes);
}

fn declare(bytes: &mut Vec<u8>, queue: &str) {
    declare_with(bytes, queue, RawTable::EMPTY);
}

fn declare_with(bytes: &mut Vec<u8>, queue: &str, arguments: RawTable<'_>) {
    let declare = QueueDeclare {
        queue: queue.as_bytes(),
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments,
    };
    Method::from(declare).encode(1, bytes);
}

/// What one read of a publisher brings.
fn publishes(exchange: &[u8], routing_key: &[u8]) -> Vec<u8> {
    let mut batch = Vec::new();
    let publish = BasicPublish {
        exchange,
        routing_key,
        mandatory: false,
        immediate: false,
    };
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&16u64.to_be_bytes());
    header.extend_from_slice(&[0x10, 0, 1]);
    for _ in 0..BATCH {
        Method::from(publish).encode(1, &mut batch);
        content(&mut batch, 1, &header, &[7; 16], 131_072);
    }
    batch
}

/// Counts allocations from the middle on.
struct Meter {
    middle: u64,
    region: Region<'static, std::alloc::System>,
}

impl Meter {
    fn new(messages: u64) -> Self {
        Self {
            middle: messages / 2,
            region: Region::new(ALLOCATOR),
        }
    }

    fn reached(&mut self, done: u64) {
        if done <= self.middle {
            self.region = Region::new(ALLOCATOR);
        }
    }

    fn check(&self, done: u64) {
        let allocations = self.region.change().allocations;
        println!("{done} messages, {allocations} allocations in the second half");
        let allowed = usize::try_from(self.middle / 1000).unwrap_or(0);
        assert!(
            allocations <= allowed,
            "at most 0.001 allocations a message"
        );
    }
}

/// One publisher, one queue, one consumer that acknowledges.
fn one_to_one(broker: &Arc<Broker>, messages: u64) {
    let (mut publisher, mut consumer) = (connect(broker), connect(broker));
    let mut bytes = Vec::new();
    declare(&mut bytes, "q");
    prefetch(&mut bytes);
    consume(&mut bytes, "q", false);
    send(&mut consumer, &bytes);
    drain(&consumer);
    let batch = publishes(b"", b"q");
    let mut meter = Meter::new(messages);
    let (mut tag, mut ack) = (0, Vec::new());
    while tag < messages {
        meter.reached(tag);
        send(&mut publisher, &batch);
        assert!(drain(&consumer) > batch.len(), "every message is delivered");
        tag += BATCH;
        ack.clear();
        let delivered = BasicAck {
            delivery_tag: tag,
            multiple: true,
        };
        Method::from(delivered).encode(1, &mut ack);
        send(&mut consumer, &ack);
    }
    meter.check(tag);
}

/// One publisher, 50 connections with 20 queues each.
fn fanout(broker: &Arc<Broker>, copies: u64) {
    const QUEUES: usize = 20;
    let mut publisher = connect(broker);
    let consumers: Vec<_> = (0..50)
        .map(|connection| {
            let mut consumer = connect(broker);
            let mut bytes = Vec::new();
            for number in 0..QUEUES {
                let queue = format!("{connection}-{number}");
                declare(&mut bytes, &queue);
                let bind = QueueBind {
                    queue: queue.as_bytes(),
                    exchange: b"amq.fanout",
                    routing_key: b"",
                    nowait: false,
                    arguments: RawTable::EMPTY,
                };
                Method::from(bind).encode(1, &mut bytes);
                consume(&mut bytes, &queue, true);
            }
            send(&mut consumer, &bytes);
            drain(&consumer);
            consumer
        })
        .collect();
    let each = (consumers.len() * QUEUES) as u64;
    let batch = publishes(b"amq.fanout", b"routing-key");
    let mut meter = Meter::new(copies);
    let mut done = 0;
    while done < copies {
        meter.reached(done);
        let mut rest = batch.as_slice();
        while !rest.is_empty() {
            let turn = publisher.receive(rest, 1);
            rest = &rest[turn.consumed..];
            let taken: usize = consumers.iter().map(drain).sum();
            assert!(taken > turn.consumed * 1000, "every copy is delivered");
        }
        done += BATCH * each;
    }
    meter.check(done);
}

/// One publisher, one queue, one consumer that rejects, and a queue for what is dead.
fn dead_letter(broker: &Arc<Broker>, messages: u64) {
    let (mut publisher, mut consumer) = (connect(broker), connect(broker));
    let mut to_dead = Table::new();
    let text = |text: &str| Value::LongString(text.as_bytes().to_vec());
    to_dead.insert("x-dead-letter-exchange", text(""));
    to_dead.insert("x-dead-letter-routing-key", text("dead"));
    let mut bytes = Vec::new();
    declare(&mut bytes, "dead");
    declare_with(&mut bytes, "q", to_dead.as_raw());
    send(&mut consumer, &bytes);
    let batch = publishes(b"", b"q");
    for _ in 0..messages / BATCH {
        send(&mut publisher, &batch);
    }
    bytes.clear();
    prefetch(&mut bytes);
    consume(&mut bytes, "q", false);
    send(&mut consumer, &bytes);
    let (mut tag, mut rejects) = (0, Vec::new());
    while tag < messages / BATCH * BATCH {
        drain(&consumer);
        rejects.clear();
        for _ in 0..BATCH {
            tag += 1;
            let delivery_tag = tag;
            let requeue = false;
            Method::from(BasicReject {
                delivery_tag,
                requeue,
            })
            .encode(1, &mut rejects);
        }
        send(&mut consumer, &rejects);
    }
    let mut dead = connect(broker);
    bytes.clear();
    consume(&mut bytes, "dead", true);
    send(&mut dead, &bytes);
    assert!(drain(&dead) > 0, "they are there");
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let messages = arguments
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1_000_000);
    let broker = Arc::new(Broker::new(
        BrokerConfig::default(),
        Access::new(Vec::new()),
        Arc::new(InstantStore),
    ));
    broker.first_start("guest", "guest", "/").unwrap();
    match arguments.next().as_deref() {
        None => one_to_one(&broker, messages),
        Some("fanout") => fanout(&broker, messages),
        Some("dead-letter") => dead_letter(&broker, messages),
        Some(other) => panic!("no path {other}"),
    }
}
