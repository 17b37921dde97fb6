//! What one turn does of what was read, with connections in memory.

use std::sync::Arc;

use leveret_broker::{Access, Broker, BrokerConfig, Connection, Origin, Turn};
use leveret_codec::{
    BasicPublish, ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method,
    PROTOCOL_HEADER, QueueBind, QueueDeclare, RawTable, content,
};
use leveret_session::Flush;
use leveret_store::InstantStore;

const QUEUES: usize = 300;
const MESSAGES: usize = 200;

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
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(body.len() as u64).to_be_bytes());
    header.extend_from_slice(&[0, 0]);
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
