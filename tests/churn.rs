//! What comes and goes leaves nothing behind in the real binary: memory and descriptors come back.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::thread::{self, sleep};
use std::time::Duration;

use leveret_codec::{BasicCancel, BasicConsume, ChannelClose, QueueBind, QueueDelete, RawTable};
use support::{Client, Server, message};

/// Connections made, a few at a time; `LEVERET_CHURN` sets another number.
const CONNECTIONS: u32 = 3_000;
const VISITORS: u32 = 8;

/// A visit of one client, with everything it can make.
fn visit(server: &Server, visitor: u32, round: u32) {
    let mut client = server.login();
    let queue = format!("churn-{visitor}-{}", round % 100);
    client.declare(1, &queue);
    let bind = QueueBind {
        queue: queue.as_bytes(),
        exchange: b"amq.topic",
        routing_key: queue.as_bytes(),
        nowait: true,
        arguments: RawTable::EMPTY,
    };
    client.method(1, bind);
    let consume = BasicConsume {
        queue: queue.as_bytes(),
        consumer_tag: b"c",
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments: RawTable::EMPTY,
    };
    client.method(2, consume);
    client.expect(2, "basic.consume-ok");
    client.send(&message(1, &queue, 5, &[b"hello"]).concat());
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
            let close = ChannelClose {
                reply_code: 200,
                reply_text: b"",
                class_id: 0,
                method_id: 0,
            };
            client.method(2, close);
            client.skip_until(2, "channel.close-ok");
        }
        _ => {}
    }
    let delete = QueueDelete {
        queue: queue.as_bytes(),
        if_unused: false,
        if_empty: false,
        nowait: false,
    };
    client.method(1, delete);
    client.skip_until(1, "queue.delete-ok");
    close(client);
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

/// Memory and descriptors once everything has been given back that will be.
fn at_rest(server: &Server) -> (u64, usize) {
    sleep(Duration::from_secs(3));
    (server.memory("VmRSS"), server.descriptors())
}

#[test]
fn memory_and_descriptors_come_back_after_churn() {
    let connections = std::env::var("LEVERET_CHURN").map_or(CONNECTIONS, |number| {
        number.parse().expect("LEVERET_CHURN is a number")
    });
    let server = Server::start();
    visits(&server, connections / 3);
    let (memory_before, descriptors_before) = at_rest(&server);
    visits(&server, connections);
    let (memory, descriptors) = at_rest(&server);
    println!(
        "{connections} connections: {memory_before} bytes and {descriptors_before} descriptors \
         before, {memory} and {descriptors} after"
    );
    assert!(memory <= memory_before + memory_before / 10);
    assert!(descriptors <= descriptors_before + descriptors_before / 10);
}
