//! What publishers are told of messages that are refused: why, and when to try again.

use std::sync::Arc;

use leveret_broker::{ApplyTo, Broker, BrokerConfig, Policy, PolicyKind};
use leveret_codec::{
    BasicGet, ConfirmSelect, FrameKind, Method, Properties, QueueDeclare, RawTable, Table, Value,
    frame,
};
use leveret_store::InstantStore;

use crate::support::{Client, broker_with, message};

const START_MS: u64 = 1_000_000;
const FRAME_MAX: u32 = 131_072;

fn broker() -> Arc<Broker> {
    let broker = broker_with(BrokerConfig::default(), Arc::new(InstantStore));
    broker.set_now(START_MS);
    broker
}

fn table(entries: &[(&str, Value)]) -> Vec<u8> {
    let mut table = Table::new();
    for (key, value) in entries {
        table.insert(key, value.clone());
    }
    table.encoded()
}

fn text(value: &str) -> Value {
    Value::LongString(value.as_bytes().to_vec())
}

/// A client that asks for reasons, if it `asks`, in confirm mode on channel 1.
fn publisher(broker: &Arc<Broker>, asks: bool) -> Client {
    let mut capabilities = Table::new();
    capabilities.insert("publisher_nack_reason", Value::Bool(asks));
    let properties = table(&[("capabilities", Value::Table(capabilities))]);
    let mut client = Client::with_properties(broker, RawTable::parse(&properties).unwrap(), 0);
    client.say(1, ConfirmSelect { nowait: true });
    client
}

/// A queue that refuses what is more than this.
fn declare(client: &mut Client, limit: (&str, i64), more: &[(&str, Value)]) {
    let mut arguments = vec![
        ("x-overflow", text("reject-publish")),
        (limit.0, Value::I64(limit.1)),
    ];
    arguments.extend_from_slice(more);
    let arguments = table(&arguments);
    let declare = QueueDeclare {
        queue: b"q",
        arguments: RawTable::parse(&arguments).unwrap(),
        ..QueueDeclare::default()
    };
    client.say(1, declare);
    client.take();
}

/// What was heard: returns with their text, wait and body, and confirms.
fn heard(client: &mut Client) -> Vec<String> {
    let bytes = client.take();
    let (mut rest, mut heard) = (&bytes[..], Vec::<String>::new());
    while let Some((frame, len)) = frame(rest, FRAME_MAX).expect("lawful frames") {
        match frame.kind {
            FrameKind::Method => heard.push(match Method::decode(frame.payload).unwrap() {
                Method::BasicAck(ack) => format!("ack {}", ack.delivery_tag),
                Method::BasicNack(nack) => format!("nack {}", nack.delivery_tag),
                Method::BasicReturn(back) => {
                    let text = String::from_utf8_lossy(back.reply_text);
                    format!("return {} {text}", back.reply_code)
                }
                other => other.name().to_owned(),
            }),
            FrameKind::Header => {
                let headers = Properties::decode(frame.payload).unwrap().headers;
                let wait = headers.and_then(|headers| headers.get(b"x-retry-after-ms"));
                let wait = wait.and_then(|wait| wait.as_integer());
                heard.extend(wait.map(|ms| format!("in {ms} ms")));
            }
            FrameKind::Body => heard.push(String::from_utf8_lossy(frame.payload).into()),
            FrameKind::Heartbeat => {}
        }
        rest = &rest[len..];
    }
    heard
}

fn publish(client: &mut Client, bodies: &[&str]) -> Vec<String> {
    let messages = bodies
        .iter()
        .map(|body| message(1, ("", "q"), body, (false, false)));
    client.send(&messages.collect::<Vec<_>>().concat());
    heard(client)
}

#[test]
fn who_asks_is_told_which_queue_is_full_before_each_nack() {
    let broker = broker();
    let mut client = publisher(&broker, true);
    declare(&mut client, ("x-max-length", 2), &[]);
    let full = "return 506 queue 'q' in vhost '/' is full (2 of 2 messages)";
    let told = publish(&mut client, &["a", "b", "c", "d"]);
    let back = |body| [full, "in 1000 ms", body];
    let wanted = [&back("c")[..], &back("d"), &["ack 2", "nack 3", "nack 4"]].concat();
    assert_eq!(told, wanted);
}

#[test]
fn who_does_not_ask_hears_what_rabbitmq_says() {
    let broker = broker();
    let mut client = publisher(&broker, false);
    declare(&mut client, ("x-max-length", 1), &[]);
    assert_eq!(publish(&mut client, &["a", "b"]), ["ack 1", "nack 2"]);
}

#[test]
fn what_is_out_counts_for_the_limit_of_all_queues() {
    let mut config = BrokerConfig::default();
    config.queue.length_max = 3;
    let broker = broker_with(config, Arc::new(InstantStore));
    let mut client = publisher(&broker, true);
    client.declare(1, "q", false);
    publish(&mut client, &["a", "b", "c"]);
    let get = BasicGet {
        queue: b"q",
        no_ack: false,
    };
    client.say(1, get);
    client.take();
    let told = publish(&mut client, &["d"]);
    let full = "return 506 queue 'q' in vhost '/' is full (3 of 3 messages)";
    assert_eq!(told[0], full);
}

#[test]
fn a_queue_may_tell_every_client() {
    let broker = broker();
    let mut client = publisher(&broker, false);
    let tells = [("x-nack-reason", text("return"))];
    declare(&mut client, ("x-max-length-bytes", 10), &tells);
    let full = "return 506 queue 'q' in vhost '/' is full (8 of 10 bytes)";
    let told = publish(&mut client, &["12345678", "123"]);
    assert_eq!(told, [full, "in 1000 ms", "123", "ack 1", "nack 2"]);
}

#[test]
fn a_policy_has_queues_tell_it_and_is_taken_back() {
    let broker = broker();
    let mut client = publisher(&broker, false);
    declare(&mut client, ("x-max-length", 1), &[]);
    let set_policy = |value: &str| {
        let definition = serde_json::json!({ "nack-reason": value });
        let policy = Policy {
            vhost: "/".into(),
            name: "tell".into(),
            pattern: String::new(),
            apply_to: ApplyTo::Queues,
            priority: 0,
            definition: definition.as_object().unwrap().clone(),
        };
        let mut administer = broker.administer();
        administer.put_policy(PolicyKind::User, policy).unwrap();
    };
    set_policy("return");
    assert_eq!(publish(&mut client, &["a", "b"]).len(), 5);
    set_policy("none");
    assert_eq!(publish(&mut client, &["c"]), ["nack 3"]);
}

#[test]
fn who_does_not_confirm_gets_nothing_back() {
    let broker = broker();
    let mut client = publisher(&broker, true);
    declare(&mut client, ("x-max-length", 1), &[]);
    let mandatory = message(2, ("", "q"), "body", (true, false));
    client.send(&mandatory.repeat(3));
    assert_eq!(heard(&mut client), [""; 0]);
}

#[test]
fn the_wait_follows_the_rate_at_which_the_queue_is_drained() {
    let broker = broker();
    let mut client = publisher(&broker, true);
    let mut consumer = Client::new(&broker);
    declare(&mut client, ("x-max-length", 40), &[]);
    publish(&mut client, &["x"; 41]);
    // Ten a second: a quarter of the queue takes one.
    for second in 1..4 {
        broker.set_now(START_MS + second * 1000);
        for _ in 0..10 {
            let get = BasicGet {
                queue: b"q",
                no_ack: true,
            };
            consumer.say(1, get);
        }
        let told = publish(&mut client, &["x"; 11]);
        assert!(told.contains(&"in 1000 ms".to_owned()), "{told:?}");
    }
    // A hundred a second.
    broker.set_now(START_MS + 3400);
    for _ in 0..40 {
        let get = BasicGet {
            queue: b"q",
            no_ack: true,
        };
        consumer.say(1, get);
    }
    let told = publish(&mut client, &["x"; 41]);
    assert!(told.contains(&"in 250 ms".to_owned()), "{told:?}");
}
