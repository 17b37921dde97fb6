//! Every number of things a client can make has a limit, and RabbitMQ's text where it has one.

use std::sync::Arc;

use crate::support::{self, Client, broker_with};
use leveret_broker::{BrokerConfig, Existing};
use leveret_codec::{
    BasicCancel, BasicConsume, ChannelOpen, ExchangeDeclare, Method, QueueBind, QueueDeclare,
    QueueDelete, QueueUnbind, RawTable, Table,
};
use leveret_store::InstantStore;

/// A fresh client's answer on channel 1, which the limit may have closed.
fn ask<'a>(client: &mut Client, method: impl Into<Method<'a>>) -> String {
    client.ask(1, method)
}

fn bind(key: &str) -> QueueBind<'_> {
    QueueBind {
        queue: b"q",
        exchange: b"amq.topic",
        routing_key: key.as_bytes(),
        ..Default::default()
    }
}

/// A lane's number is never given twice, as late records of the old queue would be the new one's.
#[test]
fn durable_queues_of_a_store() {
    let broker = broker_with(BrokerConfig::default(), Arc::new(InstantStore));
    let nothing = std::collections::BTreeMap::new();
    broker.restore(&nothing, u32::MAX - 1).unwrap();
    let mut client = Client::new(&broker);
    let durable = |queue: &'static str, durable| QueueDeclare {
        queue: queue.as_bytes(),
        durable,
        ..Default::default()
    };
    assert!(ask(&mut client, durable("last", true)).contains("declare-ok"));
    let refused = ask(&mut client, durable("one more", true));
    assert!(
        refused.contains("cannot declare queue 'one more'"),
        "{refused}"
    );
    assert!(ask(&mut client, durable("transient", false)).contains("declare-ok"));
}

#[test]
fn bindings_of_the_broker() {
    let config = BrokerConfig {
        bindings_max: 2,
        ..BrokerConfig::default()
    };
    let broker = broker_with(config, Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    client.hear();
    for key in ["a", "b", "b"] {
        assert_eq!(ask(&mut client, bind(key)), "1 queue.bind-ok");
    }
    assert_eq!(
        ask(&mut client, bind("c")),
        "1 close 406 PRECONDITION_FAILED - cannot bind to exchange 'amq.topic': binding \
         limit (2) is reached"
    );
    assert_eq!(
        ask(&mut client, bind("a")),
        "1 queue.bind-ok",
        "it is there already"
    );
    let unbind = QueueUnbind {
        queue: b"q",
        exchange: b"amq.topic",
        routing_key: b"a",
        arguments: RawTable::EMPTY,
    };
    assert_eq!(ask(&mut client, unbind), "1 queue.unbind-ok");
    assert_eq!(ask(&mut client, bind("c")), "1 queue.bind-ok");
    assert_eq!(broker.events.existing(Existing::Bindings), 2);
    let delete = QueueDelete {
        queue: b"q",
        ..Default::default()
    };
    assert_eq!(ask(&mut client, delete), "1 queue.delete-ok");
    assert_eq!(broker.events.existing(Existing::Bindings), 0);
}

#[test]
fn queues_and_exchanges_of_the_broker() {
    let config = BrokerConfig {
        queues_max: 1,
        exchanges_max: 8,
        ..BrokerConfig::default()
    };
    let broker = broker_with(config, Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    let declare = |name| support::declaration(name, false);
    assert_eq!(ask(&mut client, declare("q")), "1 queue.declare-ok");
    assert_eq!(ask(&mut client, declare("q")), "1 queue.declare-ok");
    assert_eq!(
        ask(&mut client, declare("r")),
        "1 close 406 PRECONDITION_FAILED - cannot declare queue 'r': queue limit in \
         cluster (1) is reached"
    );
    let exchange = |name: &'static [u8]| ExchangeDeclare {
        exchange: name,
        kind: b"fanout",
        ..Default::default()
    };
    // Seven are there from the start.
    for name in [b"x", b"x"] {
        assert_eq!(ask(&mut client, exchange(name)), "1 exchange.declare-ok");
    }
    assert_eq!(
        ask(&mut client, exchange(b"y")),
        "1 close 406 PRECONDITION_FAILED - cannot declare exchange 'y' in vhost '/': exchange \
         limit of 8 is reached"
    );
}

/// Arguments that take so many bytes: a key, a letter, a length and the rest.
fn arguments(bytes: usize) -> Vec<u8> {
    let mut arguments = Table::new();
    arguments.insert("a", &*vec![7u8; bytes - 7]);
    arguments.encoded()
}

fn consume<'a>(tag: &'a str, arguments: RawTable<'a>) -> BasicConsume<'a> {
    BasicConsume {
        queue: b"q",
        consumer_tag: tag.as_bytes(),
        arguments,
        ..Default::default()
    }
}

#[test]
fn arguments_of_whatever_is_kept() {
    let config = BrokerConfig {
        arguments_bytes_max: 1000,
        ..BrokerConfig::default()
    };
    let broker = broker_with(config, Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    client.hear();
    let refused = "close 406 PRECONDITION_FAILED - arguments of 1001 bytes exceed \
                   limits.arguments_bytes_max (1000)";
    for bytes in [1001, 1000] {
        let arguments = arguments(bytes);
        let arguments = RawTable::parse(&arguments).unwrap();
        let queue = QueueDeclare {
            arguments,
            ..support::declaration("r", false)
        };
        let exchange = ExchangeDeclare {
            exchange: b"x",
            kind: b"fanout",
            arguments,
            ..Default::default()
        };
        let bind = QueueBind {
            arguments,
            ..bind("k")
        };
        let methods: [(Method<'_>, &str); 4] = [
            (queue.into(), "queue.declare-ok"),
            (exchange.into(), "exchange.declare-ok"),
            (bind.into(), "queue.bind-ok"),
            (consume("c", arguments).into(), "basic.consume-ok"),
        ];
        for (method, accepted) in methods {
            let expected = if bytes > 1000 { refused } else { accepted };
            assert_eq!(ask(&mut client, method), format!("1 {expected}"));
        }
    }
    // Declaring again compares nothing that is unknown, and keeps nothing.
    let more = arguments(1001);
    let again = QueueDeclare {
        arguments: RawTable::parse(&more).unwrap(),
        ..support::declaration("q", false)
    };
    assert_eq!(ask(&mut client, again), "1 queue.declare-ok");
}

#[test]
fn arguments_of_all_consumers_of_a_connection() {
    const ACCEPTED: &str = "1 basic.consume-ok";
    let config = BrokerConfig {
        arguments_bytes_max: 1000,
        ..BrokerConfig::default()
    };
    let broker = broker_with(config, Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    client.hear();
    let most = arguments(1000);
    let most = RawTable::parse(&most).unwrap();
    for number in 0..256 {
        let tag = format!("c{number}");
        assert_eq!(ask(&mut client, consume(&tag, most)), ACCEPTED);
    }
    assert_eq!(ask(&mut client, consume("none", RawTable::EMPTY)), ACCEPTED);
    let cancel = BasicCancel {
        consumer_tag: b"c3",
        nowait: true,
    };
    client.say(1, cancel);
    assert_eq!(ask(&mut client, consume("d", most)), ACCEPTED);
    assert_eq!(
        ask(&mut client, consume("e", most)),
        "1 close 406 PRECONDITION_FAILED - arguments of all consumers of the connection exceed \
         256000 bytes"
    );
    // They went with the channel.
    assert_eq!(ask(&mut client, consume("e", most)), ACCEPTED);
}

#[test]
fn consumers_of_a_channel() {
    let config = BrokerConfig {
        consumers_per_channel_max: 1,
        ..BrokerConfig::default()
    };
    let broker = broker_with(config, Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    client.hear();
    let consume = |tag: &'static [u8]| BasicConsume {
        queue: b"q",
        consumer_tag: tag,
        ..Default::default()
    };
    client.say(1, consume(b"a"));
    assert_eq!(client.hear(), ["1 basic.consume-ok"]);
    client.say(1, consume(b"b"));
    assert_eq!(
        client.hear(),
        ["0 close 530 NOT_ALLOWED - reached maximum (1) of consumers per channel"]
    );
}

#[test]
fn channels_of_a_connection() {
    let broker = broker_with(
        BrokerConfig {
            channel_max: 2047,
            ..BrokerConfig::default()
        },
        Arc::new(InstantStore),
    );
    let mut client = Client::new(&broker);
    for channel in 3..=2047 {
        client.say(channel, ChannelOpen {});
    }
    client.hear();
    client.say(2048, ChannelOpen {});
    assert_eq!(
        client.hear(),
        [
            "0 close 530 NOT_ALLOWED - number of channels opened (2047) has reached the negotiated \
          channel_max (2047)"
        ]
    );
}

#[test]
fn connections_of_a_user_and_to_a_virtual_host() {
    for (config, text) in [
        (
            BrokerConfig {
                connections_per_user_max: Some(1),
                ..BrokerConfig::default()
            },
            "connection refused for user 'guest': user connection limit (1) is reached",
        ),
        (
            BrokerConfig {
                connections_per_vhost_max: Some(1),
                ..BrokerConfig::default()
            },
            "access to vhost '/' refused for user 'guest': connection limit (1) is reached",
        ),
        (
            BrokerConfig {
                connections_max: 1,
                ..BrokerConfig::default()
            },
            "connection refused: node connection limit (1) is reached",
        ),
    ] {
        let broker = broker_with(config, Arc::new(InstantStore));
        let mut first = Client::new(&broker);
        let mut second = Client::open(&broker, "guest", "/");
        let expected = format!("0 close 530 NOT_ALLOWED - {text}");
        assert_eq!(second.hear().last(), Some(&expected));
        second.connection.disconnect();
        first.connection.disconnect();
        Client::new(&broker);
    }
}
