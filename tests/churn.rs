//! What comes and goes leaves nothing behind in the real binary: memory and descriptors come back.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use leveret_codec::{
    BasicCancel, BasicConsume, BasicPublish, ChannelClose, ExchangeBind, ExchangeDeclare,
    ExchangeDelete, ExchangeUnbind, QueueBind, QueueDeclare, QueueDelete, QueueUnbind,
};
use serde_json::Value;
use support::{Client, Server, encode, eventually, message};

/// Connections made, a few at a time; `LEVERET_CHURN` sets another number.
const CONNECTIONS: u32 = 3_000;
/// Connections made before memory is first measured. By then every thread has its buffers and the
/// allocator its arenas, which they keep; a leak of one byte a connection is in nobody's warm-up.
const WARM_UP: u32 = 2_000;
const VISITORS: u32 = 8;
const NAMES: u32 = 100;

/// A visit of one client, with everything it can make.
fn visit(server: &Server, visitor: u32, round: u32) {
    let mut client = server.login();
    let queue = format!("churn-{visitor}-{}", round % NAMES);
    // The visitor before may have left both behind, with a message: what stays must not pile up.
    delete(&mut client, &queue);
    let declare = QueueDeclare {
        durable: round % 10 == 3,
        exclusive: round % 8 == 4,
        ..support::declare(&queue, &[])
    };
    client.method(1, declare);
    client.expect(1, "queue.declare-ok");
    make_exchange(&mut client, &queue, round);
    let consume = BasicConsume {
        queue: queue.as_bytes(),
        consumer_tag: b"c",
        ..Default::default()
    };
    client.method(2, consume);
    client.expect(2, "basic.consume-ok");
    let publish = BasicPublish {
        exchange: queue.as_bytes(),
        routing_key: queue.as_bytes(),
        ..Default::default()
    };
    let mut frames = message(1, &queue, 5, &[b"hello"]);
    frames[0] = encode(1, publish);
    client.send(&frames.concat());
    client.skip_until(2, "basic.deliver");
    match round % 4 {
        // Gone without a word.
        0 => return,
        1 => {
            let cancel = BasicCancel {
                consumer_tag: b"c",
                nowait: false,
            };
            client.method(2, cancel);
            client.skip_until(2, "basic.cancel-ok");
        }
        2 => {
            client.method(2, ChannelClose::default());
            client.skip_until(2, "channel.close-ok");
        }
        _ => unbind(&mut client, &queue),
    }
    delete(&mut client, &queue);
    close(client);
}

/// Makes an exchange of the queue's name, behind `amq.topic` and in front of the queue.
fn make_exchange(client: &mut Client, queue: &str, round: u32) {
    let name = queue.as_bytes();
    let declare = ExchangeDeclare {
        exchange: name,
        kind: [&b"direct"[..], b"fanout", b"topic", b"headers"][(round / 4 % 4) as usize],
        durable: round % 10 == 3,
        auto_delete: round % 6 == 5,
        ..Default::default()
    };
    client.method(1, declare);
    client.expect(1, "exchange.declare-ok");
    let behind = ExchangeBind {
        destination: name,
        source: b"amq.topic",
        routing_key: name,
        ..Default::default()
    };
    client.method(1, behind);
    client.expect(1, "exchange.bind-ok");
    for exchange in [name, b"amq.topic"] {
        let bind = QueueBind {
            queue: name,
            exchange,
            routing_key: name,
            nowait: true,
            ..Default::default()
        };
        client.method(1, bind);
    }
}

/// Takes the bindings of the exchange away.
fn unbind(client: &mut Client, queue: &str) {
    let name = queue.as_bytes();
    let behind = ExchangeUnbind {
        destination: name,
        source: b"amq.topic",
        routing_key: name,
        ..Default::default()
    };
    client.method(1, behind);
    client.skip_until(1, "exchange.unbind-ok");
    let in_front = QueueUnbind {
        queue: name,
        exchange: name,
        routing_key: name,
        ..Default::default()
    };
    client.method(1, in_front);
    client.skip_until(1, "queue.unbind-ok");
}

/// Deletes a queue and the exchange of its name, whether or not they exist.
fn delete(client: &mut Client, queue: &str) {
    let delete = QueueDelete {
        queue: queue.as_bytes(),
        ..Default::default()
    };
    client.method(1, delete);
    client.skip_until(1, "queue.delete-ok");
    let delete = ExchangeDelete {
        exchange: queue.as_bytes(),
        ..Default::default()
    };
    client.method(1, delete);
    client.skip_until(1, "exchange.delete-ok");
}

fn close(mut client: Client) {
    client.method(0, support::close());
    client.skip_until(0, "connection.close-ok");
}

/// So many visits, several at a time.
fn visits(server: &Server, visits: u32) {
    thread::scope(|scope| {
        for visitor in 0..VISITORS {
            scope.spawn(move || {
                for round in 0..visits / VISITORS {
                    visit(server, visitor, round);
                }
            });
        }
    });
}

/// What a broker holds.
#[derive(Debug)]
struct Held {
    resident_bytes: u64,
    descriptors: usize,
    /// Its connections, channels, consumers, exchanges and queues.
    objects: Value,
    bindings: usize,
}

/// What is held once everything has been given back that will be, with nothing left behind.
fn at_rest(server: &Server) -> Held {
    let guest = server.http_as("guest", "guest");
    let objects = || guest.get("/api/overview")["object_totals"].take();
    let deadline = Instant::now() + Duration::from_secs(60);
    // Exclusive queues of visitors that have just vanished are theirs until that is noticed.
    while objects()["connections"] != 0 {
        assert!(Instant::now() < deadline, "visitors stay: {}", objects());
        sleep(Duration::from_millis(10));
    }
    let mut client = server.login();
    for visitor in 0..VISITORS {
        for name in 0..NAMES {
            delete(&mut client, &format!("churn-{visitor}-{name}"));
        }
    }
    close(client);
    sleep(Duration::from_secs(3));
    Held {
        resident_bytes: server.memory("VmRSS"),
        descriptors: server.descriptors(),
        objects: objects(),
        bindings: guest.get("/api/bindings").as_array().expect("a list").len(),
    }
}

/// The HTTP API is served, as its sampler looks at everything that comes and goes.
#[test]
fn memory_descriptors_and_objects_come_back_after_churn() {
    let connections = std::env::var("LEVERET_CHURN").map_or(CONNECTIONS, |number| {
        number.parse().expect("LEVERET_CHURN is a number")
    });
    let server = Server::start_http(&["management.sample_interval_ms=1000"]);
    visits(&server, WARM_UP);
    let before = at_rest(&server);
    for tenth in 1..=10 {
        visits(&server, connections / 10);
        println!("{tenth}/10: {} bytes", server.memory("VmRSS"));
    }
    let after = at_rest(&server);
    println!("{connections} connections: {before:?} before, {after:?} after");
    // What is given back may take its time on a machine that does other things.
    let bound = before.resident_bytes + before.resident_bytes / 10;
    let is_back = eventually(|| server.memory("VmRSS") <= bound);
    assert!(is_back, "{} bytes of {bound}", server.memory("VmRSS"));
    assert!(after.descriptors <= before.descriptors + before.descriptors / 10);
    assert_eq!(after.objects, before.objects);
    assert_eq!((before.bindings, after.bindings), (0, 0));
}
