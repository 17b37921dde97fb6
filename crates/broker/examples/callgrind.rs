//! Takes N messages through codec, session and broker in memory: publish, deliver, acknowledge.
//!
//! `cargo xtask callgrind` counts its instructions for two values of N; `allocations` as a second
//! argument counts allocations of the last half instead.

use std::sync::Arc;

use leveret_broker::{Access, Broker, BrokerConfig, Connection, Origin};
use leveret_codec::{
    BasicAck, BasicConsume, BasicPublish, BasicQos, ChannelOpen, ConnectionOpen, ConnectionStartOk,
    ConnectionTuneOk, Method, PROTOCOL_HEADER, QueueDeclare, RawTable, content,
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
    let declare = QueueDeclare {
        queue: b"q",
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: table,
    };
    Method::from(declare).encode(1, &mut bytes);
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
        while !pending.is_done() {
            let mut parts = [&[][..]; 8];
            let count = pending.parts(&mut parts);
            let bytes = parts.iter().take(count).map(|part| part.len()).sum();
            pending.advance(bytes);
            taken += bytes;
        }
        outlet.lock().end_flush(pending, &mut starved);
        starved.clear();
    }
}

fn subscribe(consumer: &mut Connection) {
    let mut bytes = Vec::new();
    Method::from(BasicQos {
        prefetch_size: 0,
        prefetch_count: 1000,
        global: false,
    })
    .encode(1, &mut bytes);
    let consume = BasicConsume {
        queue: b"q",
        consumer_tag: b"c",
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments: RawTable::EMPTY,
    };
    Method::from(consume).encode(1, &mut bytes);
    send(consumer, &bytes);
    drain(consumer);
}

fn main() {
    let messages = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(100_000);
    let broker = Arc::new(Broker::new(
        BrokerConfig::default(),
        Access::new(Vec::new()),
        Arc::new(InstantStore),
    ));
    broker.first_start("guest", "guest", "/").unwrap();
    let (mut publisher, mut consumer) = (connect(&broker), connect(&broker));

    subscribe(&mut consumer);
    let mut batch = Vec::new();
    let publish = BasicPublish {
        exchange: b"",
        routing_key: b"q",
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
    let mut region = Region::new(ALLOCATOR);
    let (mut tag, mut ack) = (0, Vec::new());
    while tag < messages {
        if tag <= messages / 2 {
            region = Region::new(ALLOCATOR);
        }
        send(&mut publisher, &batch);
        assert!(drain(&consumer) > batch.len(), "every message is delivered");
        tag += BATCH;
        ack.clear();
        Method::from(BasicAck {
            delivery_tag: tag,
            multiple: true,
        })
        .encode(1, &mut ack);
        send(&mut consumer, &ack);
    }
    let allocations = region.change().allocations;
    println!("{tag} messages, {allocations} allocations in the second half");
    let allowed = usize::try_from(messages / 2000).unwrap_or(0);
    assert!(
        allocations <= allowed,
        "at most 0.001 allocations a message"
    );
}
