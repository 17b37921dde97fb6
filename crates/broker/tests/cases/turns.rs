//! What one turn does of what was read, with connections in memory.

use std::sync::Arc;

use leveret_broker::{Access, Broker, BrokerConfig, Connection, Origin, Turn};
use leveret_codec::{
    BasicPublish, ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, ExchangeBind,
    ExchangeDeclare, Method, PROTOCOL_HEADER, Properties, QueueBind, QueueDeclare, RawTable, Table,
    content,
};
use leveret_session::Flush;
use leveret_store::InstantStore;

const QUEUES: usize = 300;
const MESSAGES: usize = 200;
/// Messages that go nowhere.
const LOST: usize = 60;

/// Nothing is written: nobody looks at what the broker answers.
struct NoSocket;

impl Flush for NoSocket {
    fn flush(&self) {}
    fn wake(&self) {}
    fn interrupt(&self) {}
}

fn broker() -> Arc<Broker> {
    let access = Access::default();
    let (config, store) = (BrokerConfig::default(), Arc::new(InstantStore));
    let broker = Broker::new(config, access, store);
    broker.first_start("guest", "guest", "/").unwrap();
    Arc::new(broker)
}

#[test]
fn an_error_in_a_message_without_a_body_is_told_at_once() {
    let broker = broker();
    let publish = |immediate| {
        let publish = BasicPublish {
            immediate,
            ..Default::default()
        };
        let mut bytes = Vec::new();
        Method::from(publish).encode(1, &mut bytes);
        bytes
    };
    let header = |payload: &[u8]| {
        let mut frame = vec![2, 0, 1, 0, 0, 0];
        frame.push(payload.len() as u8);
        frame.extend_from_slice(payload);
        frame.push(0xCE);
        frame
    };
    let empty = header(&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let (immediate, lawful) = (publish(true), publish(false));
    let of_another_class = header(&[0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0]);
    let cut_short = header(&[0, 60, 0, 0, 0, 0, 0, 0, 0]);
    for message in [
        [&immediate[..], &empty].concat(),
        [&lawful[..], &of_another_class].concat(),
        [&lawful[..], &cut_short].concat(),
    ] {
        let mut connection = connect(&broker);
        let turn = connection.receive(&message, 1);
        assert_eq!(turn.consumed, message.len());
        assert!(connection.is_closing(), "{message:?}");
    }
    // What may still become a message is waited for.
    let mut connection = connect(&broker);
    let announced = header(&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0]);
    for message in [&lawful[..], &[&lawful[..], &announced].concat()] {
        assert_eq!(connection.receive(message, 1).consumed, 0);
    }
}

/// A connection with channel 1 open.
fn connect(broker: &Arc<Broker>) -> Connection {
    let origin = Origin {
        name: "memory".into(),
        loopback: true,
        connected_at_ms: 0,
    };
    let mut connection = Connection::new(Arc::clone(broker), origin, 0, Arc::new(NoSocket));
    let start_ok = ConnectionStartOk {
        client_properties: RawTable::EMPTY,
        mechanism: b"PLAIN",
        response: b"\0guest\0guest",
        locale: b"en_US",
    };
    let tune_ok = ConnectionTuneOk {
        channel_max: 2047,
        frame_max: 131_072,
        heartbeat: 0,
    };
    let mut bytes = PROTOCOL_HEADER.to_vec();
    Method::from(start_ok).encode(0, &mut bytes);
    Method::from(tune_ok).encode(0, &mut bytes);
    Method::from(ConnectionOpen { virtual_host: b"/" }).encode(0, &mut bytes);
    Method::from(ChannelOpen {}).encode(1, &mut bytes);
    assert_eq!(connection.receive(&bytes, 1).consumed, bytes.len());
    connection
}

fn declare_and_bind(out: &mut Vec<u8>, queue: &str) {
    let declare = QueueDeclare {
        queue: queue.as_bytes(),
        nowait: true,
        ..Default::default()
    };
    let bind = QueueBind {
        queue: queue.as_bytes(),
        exchange: b"amq.fanout",
        nowait: true,
        ..Default::default()
    };
    Method::from(declare).encode(1, out);
    Method::from(bind).encode(1, out);
}

fn publish(out: &mut Vec<u8>, body: &[u8]) {
    let publish = BasicPublish {
        exchange: b"amq.fanout",
        ..Default::default()
    };
    publish_as(out, publish, &Properties::default(), body);
}

fn publish_as(
    out: &mut Vec<u8>,
    publish: BasicPublish<'_>,
    properties: &Properties<'_>,
    body: &[u8],
) {
    let mut header = Vec::new();
    properties.encode(body.len() as u64, &mut header);
    Method::from(publish).encode(1, out);
    content(out, 1, &header, body, 131_072);
}

#[test]
fn a_wide_route_takes_several_turns_and_loses_nothing() {
    let broker = broker();
    let mut connection = connect(&broker);
    let mut input = Vec::new();
    for queue in 0..QUEUES {
        declare_and_bind(&mut input, &format!("q{queue}"));
    }
    assert_eq!(connection.receive(&input, 1).consumed, input.len());

    input.clear();
    for message in 0..MESSAGES {
        // Bodies of no byte have no body frame to end with.
        publish(&mut input, &[b'x'; 2][..message % 3]);
    }
    let mut rest = input.as_slice();
    let mut turns = 0;
    while !rest.is_empty() {
        let Turn {
            consumed,
            unfinished,
            ended,
            ..
        } = connection.receive(rest, 1);
        assert!(consumed > 0 && !ended, "turn {turns}");
        rest = &rest[consumed..];
        assert!(unfinished || rest.is_empty(), "turn {turns}");
        turns += 1;
    }
    assert!(turns > 1, "{} copies in one turn", QUEUES * MESSAGES);

    let vhost = broker.vhost("/").expect("it was added");
    for queue in 0..QUEUES {
        let cell = vhost.queue(&format!("q{queue}")).expect("it was declared");
        assert_eq!(cell.lock().queue.ready(), MESSAGES as u64, "q{queue}");
    }
}

/// Exchanges and bindings among which it takes long to find out that a message goes nowhere, and
/// a publish of that kind.
struct Labyrinth {
    name: &'static str,
    made: Vec<u8>,
    publish: fn(number: usize, out: &mut Vec<u8>),
}

fn bind(exchange: &str, key: &str, arguments: RawTable<'_>, out: &mut Vec<u8>) {
    let bind = QueueBind {
        queue: b"q",
        exchange: exchange.as_bytes(),
        routing_key: key.as_bytes(),
        nowait: true,
        arguments,
    };
    Method::from(bind).encode(1, out);
}

/// No two messages have the same key, so that each is routed anew.
fn publish_to(exchange: &str, key: &str, headers: Option<RawTable<'_>>, out: &mut Vec<u8>) {
    let publish = BasicPublish {
        exchange: exchange.as_bytes(),
        routing_key: key.as_bytes(),
        ..Default::default()
    };
    let properties = Properties {
        headers,
        ..Default::default()
    };
    publish_as(out, publish, &properties, b"");
}

fn patterns() -> Labyrinth {
    let mut made = Vec::new();
    for number in 0..150 {
        let pattern = format!("{}b{number}", "#.a.".repeat(20));
        bind("amq.topic", &pattern, RawTable::EMPTY, &mut made);
    }
    Labyrinth {
        name: "patterns",
        made,
        publish: |number, out| {
            let key = format!("{number}{}", ".a".repeat(100));
            publish_to("amq.topic", &key, None, out);
        },
    }
}

/// Alike, but for the last.
fn table(last: &str) -> Table {
    let mut table = Table::new();
    for number in 0..30 {
        table.insert(format!("h{number}"), "x");
    }
    table.insert("last", last);
    table
}

fn headers() -> Labyrinth {
    let (table_of_all, mut made) = (table("y"), Vec::new());
    for number in 0..300 {
        let key = format!("{number}");
        bind("amq.headers", &key, table_of_all.as_raw(), &mut made);
    }
    Labyrinth {
        name: "headers",
        made,
        publish: |number, out| {
            let headers = table("z");
            publish_to(
                "amq.headers",
                &number.to_string(),
                Some(headers.as_raw()),
                out,
            );
        },
    }
}

fn exchanges() -> Labyrinth {
    const EXCHANGES: usize = 24;
    let mut made = Vec::new();
    for number in 0..EXCHANGES {
        let name = format!("x{number}");
        let declare = ExchangeDeclare {
            exchange: name.as_bytes(),
            kind: b"topic",
            nowait: true,
            ..Default::default()
        };
        Method::from(declare).encode(1, &mut made);
    }
    for (from, to) in (0..EXCHANGES * EXCHANGES).map(|pair| (pair / EXCHANGES, pair % EXCHANGES)) {
        let (source, destination) = (format!("x{from}"), format!("x{to}"));
        let bind = ExchangeBind {
            source: source.as_bytes(),
            destination: destination.as_bytes(),
            routing_key: b"#",
            nowait: true,
            ..Default::default()
        };
        Method::from(bind).encode(1, &mut made);
    }
    Labyrinth {
        name: "exchanges",
        made,
        publish: |number, out| publish_to("x0", &number.to_string(), None, out),
    }
}

/// Messages that go nowhere make no copies, and still have a turn end.
#[test]
fn a_turn_ends_after_so_many_steps_of_routing() {
    for labyrinth in [patterns(), headers(), exchanges()] {
        let name = labyrinth.name;
        let broker = broker();
        let mut connection = connect(&broker);
        let mut input = Vec::new();
        declare_and_bind(&mut input, "q");
        input.extend(labyrinth.made);
        assert_eq!(
            connection.receive(&input, 1).consumed,
            input.len(),
            "{name}"
        );
        input.clear();
        for number in 0..LOST {
            (labyrinth.publish)(number, &mut input);
        }
        let mut rest = input.as_slice();
        let mut turns = 0;
        while !rest.is_empty() {
            let turn = connection.receive(rest, 1);
            assert!(!turn.ended, "{name}, turn {turns}");
            rest = &rest[turn.consumed..];
            assert!(turn.unfinished || rest.is_empty(), "{name}, turn {turns}");
            turns += 1;
            // One message alone may take a few.
            assert!(turns < 100 * LOST, "{name}: no end");
        }
        assert!(turns > 1, "{name}: {LOST} messages in {turns} turns");
    }
}
