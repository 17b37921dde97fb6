//! The exchange types of RabbitMQ's plugins, as its clients and its API know them.

use leveret_codec::{
    BasicPublish, ChannelCloseOk, ChannelOpen, ExchangeDeclare, Method, Properties, QueueBind,
    RawTable, Table,
};
use serde_json::{Value, json};

use crate::support::http::Http;
use crate::support::{Client, Server, encode, raw_frame};

const TYPES: [(&str, &str); 4] = [
    ("x-consistent-hash", "Consistent Hashing Exchange"),
    (
        "x-local-random",
        "Picks one random local binding (queue) to route via (to).",
    ),
    ("x-modulus-hash", "Modulus Hashing Exchange"),
    (
        "x-random",
        "Randomly picks a binding (queue) to route via (to).",
    ),
];

/// What the broker closes channel 1 with; it is opened again.
fn refused<'a>(client: &mut Client, method: impl Into<Method<'a>>) -> (u16, String) {
    client.method(1, method);
    let close = client.next();
    let Method::ChannelClose(close) = close.method() else {
        panic!("{}", close.method().name());
    };
    let text = String::from_utf8_lossy(close.reply_text).into_owned();
    let code = close.reply_code;
    client.method(1, ChannelCloseOk {});
    client.method(1, ChannelOpen {});
    client.expect(1, "channel.open-ok");
    (code, text)
}

fn hash_by<'a>(name: &'a str, arguments: &'a [u8]) -> ExchangeDeclare<'a> {
    ExchangeDeclare {
        exchange: name.as_bytes(),
        kind: b"x-consistent-hash",
        arguments: RawTable::parse(arguments).expect("a lawful table"),
        ..Default::default()
    }
}

fn bind<'a>(exchange: &'a str, queue: &'a str, key: &'a str) -> QueueBind<'a> {
    QueueBind {
        queue: queue.as_bytes(),
        exchange: exchange.as_bytes(),
        routing_key: key.as_bytes(),
        ..Default::default()
    }
}

#[test]
fn they_are_in_the_overview_with_rabbitmqs_words() {
    let server = Server::start_http(&[]);
    let types = server.http_as("guest", "guest").get("/api/overview")["exchange_types"].clone();
    let types = types.as_array().expect("a list");
    let of = |name: &str| types.iter().find(|one| one["name"] == name);
    for (name, description) in TYPES {
        let one = of(name).expect("it is listed");
        assert_eq!(one["description"], description);
        assert_eq!(one["enabled"], true);
    }
    let names: Vec<_> = types
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert!(names.is_sorted() && names.len() == 8, "{names:?}");
}

#[test]
fn channels_are_closed_with_rabbitmqs_words() {
    let server = Server::start_http(&[]);
    let http = server.http_as("guest", "guest");
    for (kind, _) in TYPES {
        let path = format!("/api/exchanges/%2F/{kind}");
        http.done("PUT", &path, &json!({"type": kind, "durable": true}));
    }
    let quorum = json!({"durable": true, "arguments": {"x-queue-type": "quorum"}});
    http.done("PUT", "/api/queues/%2F/quorum", &quorum);
    let mut client = server.login();
    client.declare(1, "q");
    let table = |fields: &[(&str, &str)]| {
        let mut table = Table::new();
        for (name, value) in fields {
            table.insert(name, *value);
        }
        table.encoded()
    };
    let both = table(&[("hash-header", "h"), ("hash-property", "message_id")]);
    let bogus = table(&[("hash-property", "bogus")]);
    for (arguments, text) in [
        (both, "hash-header and hash-property are mutually exclusive"),
        (bogus, "Unsupported property: bogus"),
    ] {
        let expected = format!("PRECONDITION_FAILED - {text}");
        let got = refused(&mut client, hash_by("hash", &arguments));
        assert_eq!(got, (406, expected));
    }
    let hash = "x-consistent-hash";
    for (exchange, queue, key, text) in [
        (
            hash,
            "q",
            "abc",
            "The binding key must be an integer: <<\"abc\">>",
        ),
        (hash, "q", "0", "The binding key must be greater than 0"),
        (hash, "q", "10001", "The binding key must not exceed 10000"),
        (
            "x-local-random",
            "q",
            "k",
            "Non empty binding 'k' key not permitted",
        ),
        (
            "x-local-random",
            "quorum",
            "",
            "Queue type rabbit_quorum_queue not valid for this exchange type",
        ),
    ] {
        let expected = format!("PRECONDITION_FAILED - {text}");
        assert_eq!(
            refused(&mut client, bind(exchange, queue, key)),
            (406, expected)
        );
    }
    let path = "/api/bindings/%2F/e/x-consistent-hash/q/q";
    let answer = http.call("POST", path, r#"{"routing_key": "k"}"#);
    assert_eq!(answer.status, 400, "{}", answer.text);
    let reason = "The binding key must be an integer: <<\"k\">>";
    assert_eq!(answer.json()["reason"], reason);
}

fn ready(client: &mut Client) -> [u32; 3] {
    ["a", "b", "c"].map(|queue| client.count(1, queue))
}

fn publish(client: &mut Client, exchange: &str, properties: &Properties<'_>) {
    let publish = BasicPublish {
        exchange: exchange.as_bytes(),
        routing_key: b"same",
        ..Default::default()
    };
    let mut header = Vec::new();
    properties.encode(0, &mut header);
    client.send(&[encode(1, publish), raw_frame(2, 1, &header)].concat());
}

/// A message may come alone in a read or among others, with the property that is hashed as its only
/// one or with headers besides: it always goes to the queue of that property.
#[test]
fn messages_are_spread_by_a_property_and_each_value_keeps_its_queue() {
    const VALUES: u32 = 60;
    let server = Server::start_http(&[]);
    let http = server.http_as("guest", "guest");
    let arguments = json!({"hash-property": "message_id"});
    let by_id = json!({"type": "x-consistent-hash", "arguments": arguments});
    http.done("PUT", "/api/exchanges/%2F/by-id", &by_id);
    let mut client = server.login();
    for queue in ["a", "b", "c"] {
        client.declare(1, queue);
        client.method(1, bind("by-id", queue, "10"));
        client.expect(1, "queue.bind-ok");
    }
    let mut headers = Table::new();
    headers.insert("h", "x");
    for value in 0..VALUES {
        let id = format!("id {value}");
        let plain = Properties {
            message_id: Some(id.as_bytes()),
            ..Default::default()
        };
        let with_headers = Properties {
            headers: Some(headers.as_raw()),
            ..plain
        };
        let before = ready(&mut client);
        publish(&mut client, "by-id", &plain);
        let after = ready(&mut client);
        for _ in 0..3 {
            publish(&mut client, "by-id", &plain);
            publish(&mut client, "by-id", &with_headers);
        }
        let rest = ready(&mut client);
        for queue in 0..3 {
            let (one, others) = (after[queue] - before[queue], rest[queue] - after[queue]);
            assert_eq!(others, 6 * one, "{id} in queue {queue}");
        }
    }
    let all = ready(&mut client);
    assert_eq!(all.iter().sum::<u32>(), 7 * VALUES);
    assert!(all.iter().all(|count| *count > 0), "{all:?}");
}

#[test]
fn messages_are_drawn_one_by_one() {
    let server = Server::start_http(&[]);
    let http = server.http_as("guest", "guest");
    http.done(
        "PUT",
        "/api/exchanges/%2F/any",
        &json!({"type": "x-random"}),
    );
    let mut client = server.login();
    for queue in ["a", "b", "c"] {
        client.declare(1, queue);
        client.method(1, bind("any", queue, ""));
        client.expect(1, "queue.bind-ok");
    }
    // All in one read, with one routing key.
    for _ in 0..600 {
        publish(&mut client, "any", &Properties::default());
    }
    let counts = ready(&mut client);
    assert_eq!(counts.iter().sum::<u32>(), 600);
    assert!(counts.iter().all(|n| (140..260).contains(n)), "{counts:?}");
}

fn exported(http: &Http, list: &str) -> Vec<Value> {
    let definitions = http.get("/api/definitions");
    let list = definitions[list].as_array().expect("a list").clone();
    list.into_iter()
        .filter(|one| one.to_string().contains("hash"))
        .collect()
}

#[test]
fn definitions_keep_them() {
    let servers = [Server::start_http(&[]), Server::start_http(&[])];
    let [from, to] = servers
        .each_ref()
        .map(|server| server.http_as("guest", "guest"));
    let arguments = json!({"hash-header": "h"});
    let hash = json!({"type": "x-consistent-hash", "durable": true, "arguments": arguments});
    from.done("PUT", "/api/exchanges/%2F/hash", &hash);
    from.done("PUT", "/api/queues/%2F/of-hash", &json!({"durable": true}));
    let path = "/api/bindings/%2F/e/hash/q/of-hash";
    from.done("POST", path, &json!({"routing_key": "7"}));
    to.done("POST", "/api/definitions", &from.get("/api/definitions"));
    for list in ["exchanges", "bindings"] {
        assert_eq!(exported(&from, list).len(), 1);
        assert_eq!(exported(&to, list), exported(&from, list));
    }
}
