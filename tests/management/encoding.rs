//! Every list comes whole, packed or not, whatever its length.

use std::ops::Range;

use leveret_codec::{BasicConsume, BasicQos, ChannelOpen};
use leveret_management::{ENDPOINTS, Verb};
use serde_json::{Value, json};

use crate::support::http::Http;
use crate::support::{Client, Server, encode};

/// So many queues, exchanges, bindings, consumers and users in the end, a tenth as many channels
/// (20,000 take seven seconds to ask for in a debug build), and of other kinds
const MANY: usize = 20_000;
/// so many: more rows than one piece of an answer holds. Connections are a socket here and there,
/// policies are compared with each queue, virtual hosts bring seven exchanges each, and parameters
/// and permissions take a debug build a millisecond or two each.
const SOME: usize = 200;
/// Lists, what is in them at first, and how many rows of each come with each stage's things.
const LONG: [(&str, usize, usize); 5] = [
    ("/api/queues?columns=name", 0, 1),
    ("/api/exchanges/%2F?columns=name", 7, 1),
    (
        "/api/exchanges/%2F/x-0/bindings/source?columns=routing_key",
        0,
        1,
    ),
    ("/api/users?columns=name", 1, 1),
    ("/api/consumers?columns=consumer_tag", 0, 1),
];
const SHORT: [(&str, usize, usize); 19] = [
    ("/api/queues", 0, 1),
    ("/api/queues/%2F", 0, 1),
    ("/api/exchanges/%2F", 7, 1),
    ("/api/exchanges/%2F/x-0/bindings/source", 0, 1),
    ("/api/bindings/%2F/e/x-0/q/q-0", 0, 1),
    // Each queue is bound to the default exchange too.
    ("/api/bindings/%2F", 0, 2),
    ("/api/users", 1, 1),
    ("/api/permissions", 1, 1),
    ("/api/topic-permissions", 0, 1),
    ("/api/consumers", 0, 1),
    ("/api/consumers/%2F", 0, 1),
    ("/api/vhosts", 1, 1),
    ("/api/policies", 0, 1),
    ("/api/operator-policies", 0, 1),
    ("/api/parameters/federation-upstream", 0, 1),
    ("/api/vhost-limits", 0, 1),
    ("/api/connections", 1, 1),
    // A login opens two.
    ("/api/channels", 2, 2),
    ("/api/vhosts/%2F/channels", 2, 2),
];

/// The rows of a list, or what else an endpoint answers; both ways of sending it say the same.
fn rows(http: &Http, path: &str) -> Option<usize> {
    let [plain, packed] = ["identity", "gzip"].map(|encoding| {
        let answer = http.call_with("GET", path, &[("accept-encoding", encoding)]);
        // The client unpacks it and says nothing; but of one piece that is not packed, the length
        // is known.
        if (1000..50_000).contains(&answer.text.len()) {
            let has_length = answer.header("content-length").is_some();
            assert_eq!(has_length, encoding == "identity", "{path}");
        }
        let value = serde_json::from_str::<Value>(&answer.text);
        let value = value.unwrap_or_else(|error| {
            panic!("{path} as {encoding}: {error}: {} bytes", answer.text.len())
        });
        value.as_array().map(Vec::len)
    });
    assert_eq!(plain, packed, "{path}");
    plain
}

/// A path of an endpoint in which the first of each kind is named.
fn first(path: &str) -> String {
    [
        ("{vhost}", "%2F"),
        ("{queue}", "q-0"),
        ("{exchange}", "x-0"),
        ("{source}", "x-0"),
        ("{kind}", "q"),
        ("{destination}", "q-0"),
        ("{user}", "u-0"),
        ("{component}", "federation-upstream"),
    ]
    .iter()
    .fold(path.to_owned(), |path, (name, value)| {
        path.replace(name, value)
    })
}

/// Definitions of the things from one number to another.
fn definitions(numbers: Range<usize>) -> Value {
    let few = numbers.start.min(SOME)..numbers.end.min(SOME);
    let each = |make: &dyn Fn(usize) -> Value| numbers.clone().map(make).collect::<Value>();
    let some = |make: &dyn Fn(usize) -> Value| few.clone().map(make).collect::<Value>();
    json!({
        "vhosts": some(&|n| json!({"name": format!("v-{n}")})),
        "users": each(&|n| json!({"name": format!("u-{n}"), "tags": "", "password_hash": ""})),
        "permissions": some(&|n| json!({"user": format!("u-{n}"), "vhost": "/",
            "configure": "", "write": "", "read": ""})),
        "topic_permissions": some(&|n| json!({"user": format!("u-{n}"), "vhost": "/",
            "exchange": "amq.topic", "write": "", "read": ""})),
        "queues": each(&|n| json!({"name": format!("q-{n}"), "vhost": "/", "durable": true,
            "auto_delete": false, "arguments": {}})),
        "exchanges": each(&|n| json!({"name": format!("x-{n}"), "vhost": "/", "type": "topic",
            "durable": true, "auto_delete": false, "internal": false, "arguments": {}})),
        "bindings": each(&|n| json!({"source": "x-0", "vhost": "/", "destination": "q-0",
            "destination_type": "queue", "routing_key": format!("k-{n}"), "arguments": {}})),
        "policies": some(&|n| json!({"name": format!("p-{n}"), "vhost": "/", "pattern": "^$",
            "definition": {"max-length": 1}})),
        "parameters": some(&|n| json!({"component": "federation-upstream", "vhost": "/",
            "name": format!("f-{n}"), "value": {"uri": "amqp://localhost"}})),
    })
}

/// Consumers of the first queue.
fn consume(client: &mut Client, numbers: Range<usize>) {
    // One channel may have 10,000.
    let one = |number: usize| {
        let channel = if number < MANY / 2 { 1 } else { 2 };
        let tag = format!("c-{number}");
        let consume = BasicConsume {
            queue: b"q-0",
            consumer_tag: tag.as_bytes(),
            nowait: true,
            ..Default::default()
        };
        encode(channel, consume)
    };
    client.send(&numbers.flat_map(one).collect::<Vec<u8>>());
    // Its answer comes behind all of them.
    client.method(1, BasicQos::default());
    client.expect(1, "basic.qos-ok");
}

/// Opens so many channels on each of these connections, beside the two that it has.
fn open_channels(clients: &mut [Client], channels: usize) {
    for client in clients {
        let numbers: Vec<u16> = (3..).take(channels).collect();
        let opens = numbers
            .iter()
            .flat_map(|channel| encode(*channel, ChannelOpen {}));
        client.send(&opens.collect::<Vec<u8>>());
        for channel in numbers {
            client.expect(channel, "channel.open-ok");
        }
    }
}

/// Makes what a stage has more than the one before.
fn make(http: &Http, consumer: &mut Client, numbers: Range<usize>) {
    let made = definitions(numbers.clone());
    for (kind, things) in made.as_object().expect("an object") {
        // In parts: each is answered in time on a slow machine.
        for part in things.as_array().expect("a list").chunks(1000) {
            http.done("POST", "/api/definitions", &json!({ kind: part }));
        }
    }
    let few = numbers.start.min(SOME)..numbers.end.min(SOME);
    for number in few {
        let policy = json!({"pattern": "^$", "definition": {"max-length": 1}});
        let path = format!("/api/operator-policies/%2F/o-{number}");
        http.done("PUT", &path, &policy);
        let path = format!("/api/vhost-limits/v-{number}/max-queues");
        http.done("PUT", &path, &json!({"value": 5}));
    }
    consume(consumer, numbers);
}

fn assert_whole(http: &Http, lists: &[(&str, usize, usize)], count: usize) {
    for (path, besides, times) in lists {
        let rows = rows(http, path).expect("a list");
        assert_eq!(rows, besides + count * times, "{path} of {count}");
    }
}

#[test]
fn every_list_is_whole_packed_or_not() {
    let server = Server::start_http(&[]);
    let http = server.http_as("guest", "guest");
    let mut consumer = server.login();
    let mut connections = Vec::new();
    for numbers in [0..0, 0..1, 1..SOME] {
        make(&http, &mut consumer, numbers.clone());
        connections.resize_with(numbers.end, || server.login());
        assert_whole(&http, &SHORT, numbers.end);
        assert_whole(&http, &LONG, numbers.end);
        // What is no list, or has fewer rows, is whole too.
        let gets = ENDPOINTS
            .iter()
            .filter(|endpoint| endpoint.verb == Verb::Get);
        let lists = gets.filter(|endpoint| rows(&http, &first(endpoint.path)).is_some());
        let least = if numbers.end == 0 { 20 } else { 30 };
        assert!(lists.count() > least, "{numbers:?}");
    }
    make(&http, &mut consumer, SOME..MANY);
    assert_whole(&http, &LONG, MANY);
    open_channels(&mut connections[..10], MANY / 100);
    let channels = rows(&http, "/api/channels?columns=name");
    assert_eq!(channels, Some(2 * (1 + SOME) + MANY / 10));
}
