//! Answers that RabbitMQ 3.10 gave to the same commands, side by side.

use std::sync::Arc;

use crate::support::{self, Client, broker, consume, declaration};
use leveret_broker::VhostMetadata;
use leveret_codec::{
    BasicConsume, BasicGet, BasicPublish, BasicQos, BasicReject, ChannelClose, ConfirmSelect,
    ExchangeDeclare, Method, Properties, QueueBind, QueueDeclare, QueueDelete, QueueUnbind,
    RawTable, Table, TxCommit, TxSelect, Value, content,
};
use leveret_store::InstantStore;

/// Two connections to one broker, with their first channels open.
fn clients() -> (Client, Client) {
    let broker = broker(Arc::new(InstantStore));
    (Client::new(&broker), Client::new(&broker))
}

fn ask<'a>(client: &mut Client, method: impl Into<Method<'a>>) -> String {
    client.say(1, method);
    client.hear().join("; ")
}

fn encoded(arguments: &[(&str, Value)]) -> Vec<u8> {
    let mut table = Table::new();
    for (key, value) in arguments {
        table.insert(key, value.clone());
    }
    table.encoded()
}

fn declare(client: &mut Client, queue: &str, arguments: &[(&str, Value)]) -> String {
    let encoded = encoded(arguments);
    let arguments = RawTable::parse(&encoded).unwrap();
    let declare = QueueDeclare {
        arguments,
        ..declaration(queue, false)
    };
    ask(client, declare)
}

fn get(client: &mut Client, queue: &str) -> String {
    let get = BasicGet {
        queue: queue.as_bytes(),
        no_ack: false,
    };
    ask(client, get)
}

#[test]
fn an_exclusive_queue_is_the_same_durable_or_not() {
    let (mut client, _) = clients();
    for durable in [true, false, true] {
        let declare = QueueDeclare {
            exclusive: true,
            ..declaration("q", durable)
        };
        assert_eq!(ask(&mut client, declare), "1 queue.declare-ok");
    }
}

#[test]
fn a_passive_declaration_always_means_the_name_it_gives() {
    let (mut client, _) = clients();
    client.declare(1, "q", false);
    client.hear();
    let declare = QueueDeclare {
        passive: true,
        ..QueueDeclare::default()
    };
    let told = "1 close 404 NOT_FOUND - no queue '' in vhost '/'";
    assert_eq!(ask(&mut client, declare), told);
}

#[test]
fn unbinding_without_names_undoes_binding_without_names() {
    let (mut client, _) = clients();
    client.declare(1, "q", false);
    client.hear();
    let (exchange, nowait) = (&b"amq.direct"[..], false);
    let bind = QueueBind {
        exchange,
        nowait,
        ..QueueBind::default()
    };
    assert_eq!(ask(&mut client, bind), "1 queue.bind-ok");
    client.publish_to_exchange(1, "amq.direct", "q");
    assert_eq!(get(&mut client, "q"), "1 basic.get-ok; body body");
    let unbind = QueueUnbind {
        exchange,
        ..QueueUnbind::default()
    };
    assert_eq!(ask(&mut client, unbind), "1 queue.unbind-ok");
    client.publish_to_exchange(1, "amq.direct", "q");
    assert_eq!(get(&mut client, "q"), "1 basic.get-empty");
}

#[test]
fn of_what_is_wrong_with_a_binding_the_exchange_is_told_first() {
    let (mut client, mut other) = clients();
    let bind = |exchange| QueueBind {
        queue: b"q",
        exchange,
        ..QueueBind::default()
    };
    let missing = "1 close 404 NOT_FOUND - no exchange 'x' in vhost '/'";
    assert_eq!(ask(&mut client, bind(b"x")), missing);
    client.say(1, leveret_codec::ChannelCloseOk {});
    let own = QueueDeclare {
        exclusive: true,
        ..declaration("q", false)
    };
    assert_eq!(ask(&mut other, own), "1 queue.declare-ok");
    let unbind = QueueUnbind {
        queue: b"q",
        exchange: b"amq.direct",
        ..QueueUnbind::default()
    };
    client.say(1, leveret_codec::ChannelOpen {});
    client.hear();
    assert_eq!(
        ask(&mut client, unbind),
        "1 queue.unbind-ok",
        "it is not bound"
    );
    assert_eq!(ask(&mut other, bind(b"amq.direct")), "1 queue.bind-ok");
    assert!(ask(&mut client, unbind).starts_with("1 close 405 RESOURCE_LOCKED"));
}

#[test]
fn a_queue_with_one_active_consumer_takes_no_exclusive_one() {
    let (mut client, _) = clients();
    let single = [("x-single-active-consumer", Value::Bool(true))];
    declare(&mut client, "q", &single);
    let consume = BasicConsume {
        queue: b"q",
        exclusive: true,
        ..BasicConsume::default()
    };
    let told = "1 close 403 ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use";
    assert_eq!(ask(&mut client, consume), told);
}

#[test]
fn what_comes_back_above_a_drop_head_limit_is_dropped() {
    let (mut client, mut other) = clients();
    declare(&mut client, "q", &[("x-max-length", Value::I32(1))]);
    let reject = BasicReject {
        delivery_tag: 1,
        requeue: true,
    };
    client.publish(1, "q", "old", false);
    assert_eq!(get(&mut client, "q"), "1 basic.get-ok; body old");
    client.publish(1, "q", "new", false);
    assert_eq!(ask(&mut client, reject), "");
    assert_eq!(get(&mut client, "q"), "1 basic.get-ok; body new");
    client.publish(1, "q", "newer", false);
    client.disconnect();
    assert_eq!(get(&mut other, "q"), "1 basic.get-ok; body newer");
    assert_eq!(get(&mut other, "q"), "1 basic.get-empty");
}

#[test]
fn what_has_lost_its_queue_by_the_commit_comes_back() {
    let (mut client, mut other) = clients();
    client.declare(1, "q", false);
    client.say(1, TxSelect {});
    client.hear();
    client.publish(1, "q", "lost", false);
    let delete = QueueDelete {
        queue: b"q",
        ..QueueDelete::default()
    };
    assert_eq!(ask(&mut other, delete), "1 queue.delete-ok");
    let told = "1 basic.return; body lost; 1 tx.commit-ok";
    assert_eq!(ask(&mut client, TxCommit {}), told);
}

#[test]
fn what_can_be_confirmed_is_confirmed_before_a_channel_ends() {
    let (mut client, _) = clients();
    assert_eq!(
        ask(&mut client, ConfirmSelect { nowait: false }),
        "1 confirm.select-ok"
    );
    let mut bytes = Vec::new();
    for _ in 0..3 {
        bytes.extend(support::optional(1, "nowhere"));
    }
    Method::from(ChannelClose::default()).encode(1, &mut bytes);
    client.send(&bytes);
    assert_eq!(client.hear(), ["1 ack 3", "1 channel.close-ok"]);
}

#[test]
fn arguments_are_refused_and_compared_in_rabbitmqs_words() {
    let (mut client, _) = clients();
    let told = declare(
        &mut client,
        "q",
        &[("x-message-ttl", Value::I64(315_360_000_001))],
    );
    assert!(
        told.ends_with("{value_too_large,315360000001}"),
        "it says {told}"
    );
    let (mut client, _) = clients();
    declare(&mut client, "q", &[("x-max-length", Value::I32(5))]);
    let told = declare(&mut client, "q", &[("x-max-length", Value::F64(5.0))]);
    assert!(
        told.contains("received '5.0' but current is '5'"),
        "it says {told}"
    );
}

#[test]
fn an_alternate_exchange_that_is_no_name_is_refused_in_rabbitmqs_words() {
    let (mut client, _) = clients();
    let encoded = encoded(&[("alternate-exchange", Value::I32(1))]);
    let declare = ExchangeDeclare {
        exchange: b"e",
        kind: b"fanout",
        arguments: RawTable::parse(&encoded).unwrap(),
        ..ExchangeDeclare::default()
    };
    assert_eq!(
        ask(&mut client, declare),
        "1 close 406 PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' \
         in exchange 'e' in vhost '/'"
    );
}

#[test]
fn a_virtual_host_that_is_no_text_is_not_the_one_it_is_shown_as() {
    let broker = broker(Arc::new(InstantStore));
    let metadata = VhostMetadata::default();
    broker.administer().put_vhost("\u{fffd}", metadata).unwrap();
    let mut client = Client::open(&broker, "guest", b"\xff");
    assert_eq!(
        client.hear().last().unwrap(),
        "0 close 530 NOT_ALLOWED - vhost \u{fffd} not found"
    );
}

/// Celery changes the prefetch of a running worker so; for all others it holds for consumers that
/// start later.
#[test]
fn prefetch_holds_for_running_consumers_of_py_amqp_alone() {
    for (product, delivered) in [("py-amqp", 3), ("pika", 1)] {
        let properties = encoded(&[("product", Value::LongString(product.into()))]);
        let properties = RawTable::parse(&properties).unwrap();
        let broker = broker(Arc::new(InstantStore));
        let mut client = Client::with_properties(&broker, properties, 0);
        let qos = |prefetch_count| BasicQos {
            prefetch_size: 0,
            prefetch_count,
            global: false,
        };
        client.declare(1, "q", false);
        client.say(1, qos(1));
        client.say(1, consume("q"));
        for _ in 0..4 {
            client.publish(1, "q", "m", false);
        }
        client.say(1, qos(3));
        let heard = client.hear();
        let deliveries = heard.iter().filter(|it| it.contains("deliver"));
        assert_eq!(deliveries.count(), delivered, "{product}: {heard:?}");
    }
}

#[test]
fn carbon_copies_go_to_further_queues_once_each() {
    let copies = |keys: &[&str]| {
        let keys = keys.iter().map(|key| Value::LongString((*key).into()));
        Value::Array(keys.collect())
    };
    let text = |name: &str| {
        format!(
            "1 close 406 PRECONDITION_FAILED - invalid message: \
             {{unacceptable_type_in_header,\"{name}\",longstr}}"
        )
    };
    let string = Value::LongString(b"b".to_vec());
    let empty = "1 basic.get-empty".to_owned();
    let got = "1 basic.get-ok; body m".to_owned();
    for (key, headers, in_b) in [
        ("a", vec![("CC", copies(&["b"]))], got.clone()),
        ("a", vec![("BCC", copies(&["b", "b"]))], got.clone()),
        (
            "a",
            vec![("CC", copies(&["b"])), ("BCC", copies(&["b", "a"]))],
            got.clone(),
        ),
        // Only the copy has a queue: nothing is returned.
        ("nowhere", vec![("CC", copies(&["b"]))], got),
        ("a", vec![("CC", copies(&["nowhere"]))], empty),
        ("a", vec![("CC", string.clone())], text("CC")),
        ("a", vec![("BCC", string)], text("BCC")),
    ] {
        for transactional in [false, true] {
            let (mut client, _) = clients();
            client.declare(1, "a", false);
            client.declare(1, "b", false);
            client.hear();
            if transactional {
                ask(&mut client, TxSelect {});
            }
            client.send(&copied(key, &headers, b"m"));
            let mut told = client.hear().join("; ");
            if told.is_empty() {
                if transactional {
                    assert_eq!(ask(&mut client, TxCommit {}), "1 tx.commit-ok");
                }
                let in_a = if key == "a" {
                    "1 basic.get-ok; body m"
                } else {
                    "1 basic.get-empty"
                };
                assert_eq!(get(&mut client, "a"), in_a, "{headers:?}");
                assert_eq!(get(&mut client, "a"), "1 basic.get-empty", "{headers:?}");
                told = get(&mut client, "b");
                assert_eq!(get(&mut client, "b"), "1 basic.get-empty", "{headers:?}");
            }
            assert_eq!(told, in_b, "{key} {headers:?} {transactional}");
        }
    }
}

/// A mandatory message to the default exchange with these headers.
fn copied(key: &str, headers: &[(&str, Value)], body: &[u8]) -> Vec<u8> {
    let publish = BasicPublish {
        routing_key: key.as_bytes(),
        mandatory: true,
        ..BasicPublish::default()
    };
    let mut bytes = Vec::new();
    Method::from(publish).encode(1, &mut bytes);
    let headers = encoded(headers);
    let properties = Properties {
        headers: Some(RawTable::parse(&headers).unwrap()),
        ..Properties::default()
    };
    let mut header = Vec::new();
    properties.encode(body.len() as u64, &mut header);
    content(&mut bytes, 1, &header, body, 131_072);
    bytes
}
