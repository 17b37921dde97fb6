//! Tenants whose messages die all at once: nowhere, into another queue, and into very many.

use std::thread::sleep;
use std::time::{Duration, Instant};

use leveret_codec::{ExchangeDeclare, Method, QueueBind, QueueDeclare, Table, Value};
use serde_json::json;

use crate::case::Case;
use crate::support::{Client, message};

/// Until all of them are where they belong.
const SOON: Duration = Duration::from_secs(180);

/// A policy has everything expire that waits in the queue `q`.
fn expire_all(case: &Case) {
    let policy = json!({
        "pattern": "^q$",
        "apply-to": "queues",
        "definition": {"message-ttl": 1},
    });
    let http = case.server.http_as("guest", "guest");
    http.done("PUT", "/api/policies/%2F/now", &policy);
}

fn declare_with(client: &mut Client, queue: &str, arguments: &[(&str, Value)]) {
    let mut table = Table::new();
    for (name, value) in arguments {
        table.insert(*name, value.clone());
    }
    let declare = QueueDeclare {
        queue: queue.as_bytes(),
        arguments: table.as_raw(),
        ..Default::default()
    };
    client.method(1, declare);
    client.expect(1, "queue.declare-ok");
}

fn text(value: &str) -> Value {
    Value::LongString(value.as_bytes().to_vec())
}

/// Publishes so many messages of 100 bytes into the queue `q`.
fn fill(client: &mut Client, count: usize) {
    const AT_ONCE: usize = 1000;
    let many = message(1, "q", 100, &[&[7; 100]]).concat().repeat(AT_ONCE);
    for _ in 0..count / AT_ONCE {
        client.send(&many);
    }
}

fn count(client: &mut Client, queue: &str) -> usize {
    let passive = QueueDeclare {
        queue: queue.as_bytes(),
        passive: true,
        ..Default::default()
    };
    client.method(1, passive);
    match client.expect(1, "queue.declare-ok").method() {
        Method::QueueDeclareOk(ok) => ok.message_count as usize,
        other => panic!("{}", other.name()),
    }
}

/// Waits until the queue has so many messages.
fn wait_for(client: &mut Client, queue: &str, wanted: usize) {
    let start = Instant::now();
    loop {
        let found = count(client, queue);
        if found == wanted {
            return;
        }
        assert!(start.elapsed() < SOON, "{queue}: {found} of {wanted}");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn two_hundred_thousand_messages_expire_at_once() {
    const COUNT: usize = 200_000;
    let case = Case::start_http(&[]);
    let mut tenant = case.server.login();
    tenant.declare(1, "q");
    fill(&mut tenant, COUNT);
    wait_for(&mut tenant, "q", COUNT);
    let start = Instant::now();
    expire_all(&case);
    wait_for(&mut tenant, "q", 0);
    println!("{COUNT} messages were gone after {:.2?}", start.elapsed());
    case.end(96);
}

#[test]
fn fifty_thousand_messages_expire_at_once_into_another_queue() {
    const COUNT: usize = 50_000;
    let case = Case::start_http(&[]);
    let mut tenant = case.server.login();
    tenant.declare(1, "dead");
    let arguments = [
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("dead")),
    ];
    declare_with(&mut tenant, "q", &arguments);
    fill(&mut tenant, COUNT);
    wait_for(&mut tenant, "q", COUNT);
    let start = Instant::now();
    expire_all(&case);
    wait_for(&mut tenant, "dead", COUNT);
    println!("{COUNT} messages were moved after {:.2?}", start.elapsed());
    case.end(96);
}

#[test]
fn messages_that_expire_at_once_go_to_two_hundred_queues_each() {
    const COUNT: usize = 2000;
    const QUEUES: usize = 200;
    let case = Case::start_http(&[]);
    let mut tenant = case.server.login();
    let fanout = ExchangeDeclare {
        exchange: b"dlx",
        kind: b"fanout",
        ..Default::default()
    };
    tenant.method(1, fanout);
    tenant.expect(1, "exchange.declare-ok");
    for number in 0..QUEUES {
        let queue = format!("dead-{number}");
        tenant.declare(1, &queue);
        let bind = QueueBind {
            queue: queue.as_bytes(),
            exchange: b"dlx",
            ..Default::default()
        };
        tenant.method(1, bind);
        tenant.expect(1, "queue.bind-ok");
    }
    declare_with(&mut tenant, "q", &[("x-dead-letter-exchange", text("dlx"))]);
    fill(&mut tenant, COUNT);
    wait_for(&mut tenant, "q", COUNT);
    let start = Instant::now();
    expire_all(&case);
    for number in 0..QUEUES {
        wait_for(&mut tenant, &format!("dead-{number}"), COUNT);
    }
    let copies = COUNT * QUEUES;
    println!("{copies} copies were made after {:.2?}", start.elapsed());
    case.end(384);
}
