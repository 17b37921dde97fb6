//! Every list comes whole, packed or not, whatever its length.

use std::ops::Range;

use leveret_codec::{BasicConsume, BasicQos};
use leveret_management::{ENDPOINTS, Verb};
use serde_json::{Value, json};

use crate::scaled;
use crate::support::http::Http;
use crate::support::{Client, Server, encode};

/// Rows of a list before the end: more than one piece of an answer holds.
const SOME: usize = 200;
/// and in the end.
const MANY: usize = 20_000;
/// There may be no more policies of a virtual host,
const POLICIES_MAX: usize = 1_000;
/// nor more parameters than these,
const PARAMETERS_MAX: usize = 10_000;
/// So many virtual hosts, then, have as many policies as there are things; guest made them, and
/// may see them.
const VHOSTS: usize = MANY / POLICIES_MAX;
/// There may be no more virtual hosts beside them and `/`.
const VHOSTS_MAX: usize = 10_000 - VHOSTS - 1;
/// A process may have 20,000 files on many machines: not as many clients, then, but each of two
/// channels.
const CLIENTS_MAX: usize = 10_000;
/// A channel may have no more consumers.
const CONSUMERS_MAX: usize = 10_000;

/// A list: its path, the rows at first, those that each thing brings, and how many there may be.
type List = (&'static str, usize, usize, usize);
const LISTS: [List; 31] = [
    ("/api/queues", 0, 1, MANY),
    ("/api/queues/detailed", 0, 1, MANY),
    ("/api/queues/%2F", 0, 1, MANY),
    ("/api/exchanges/%2F", 7, 1, MANY),
    ("/api/exchanges/%2F/x-0/bindings/source", 0, 1, MANY),
    ("/api/bindings/%2F/e/x-0/q/q-0", 0, 1, MANY),
    // Each queue is bound to the default exchange too.
    ("/api/bindings", 0, 2, MANY),
    ("/api/bindings/%2F", 0, 2, MANY),
    ("/api/users", 1, 2, MANY),
    ("/api/users/without-permissions", 0, 1, MANY),
    ("/api/user-limits", 0, 1, MANY),
    ("/api/permissions", 1 + VHOSTS, 1, MANY),
    ("/api/vhosts/%2F/permissions", 1, 1, MANY),
    ("/api/topic-permissions", 0, 1, MANY),
    ("/api/vhosts/%2F/topic-permissions", 0, 1, MANY),
    ("/api/consumers", 0, 1, MANY),
    ("/api/consumers/%2F", 0, 1, MANY),
    ("/api/vhosts", 1 + VHOSTS, 1, VHOSTS_MAX),
    ("/api/vhost-limits", 0, 1, VHOSTS_MAX),
    ("/api/policies", 0, 1, MANY),
    ("/api/policies/v-0", 0, 1, POLICIES_MAX),
    ("/api/operator-policies", 0, 1, MANY),
    ("/api/operator-policies/v-0", 0, 1, POLICIES_MAX),
    ("/api/parameters/federation-upstream", 0, 1, MANY),
    (
        "/api/parameters/federation-upstream/v-0",
        0,
        1,
        PARAMETERS_MAX,
    ),
    ("/api/global-parameters", 2, 1, PARAMETERS_MAX),
    ("/api/connections", 1, 1, CLIENTS_MAX),
    ("/api/vhosts/%2F/connections", 1, 1, CLIENTS_MAX),
    ("/api/connections/username/guest", 1, 1, CLIENTS_MAX),
    // A login opens two.
    ("/api/channels", 2, 2, CLIENTS_MAX),
    ("/api/vhosts/%2F/channels", 2, 2, CLIENTS_MAX),
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
    let vhost = match path {
        path if path.contains("policies/{vhost}") || path.contains("/{component}/{vhost}") => "v-0",
        _ => "%2F",
    };
    [
        ("{vhost}", vhost),
        ("{queue}", "q-0"),
        ("{exchange}", "x-0"),
        ("{source}", "x-0"),
        ("{kind}", "q"),
        ("{destination}", "q-0"),
        ("username/{user}", "username/guest"),
        ("{user}", "u-0"),
        ("{component}", "federation-upstream"),
    ]
    .iter()
    .fold(path.to_owned(), |path, (name, value)| {
        path.replace(name, value)
    })
}

/// What each thing is a part of, how many there may be, and what it is.
type Kind = (&'static str, usize, fn(usize) -> Value);
const KINDS: [Kind; 13] = [
    ("vhosts", VHOSTS_MAX, |n| named('v', n + VHOSTS)),
    ("users", MANY, |n| {
        let limits = json!({"max-connections": 5});
        with(
            named('u', n),
            json!({"tags": "", "password_hash": "", "limits": limits}),
        )
    }),
    ("users", MANY, |n| {
        with(named('w', n), json!({"tags": "", "password_hash": ""}))
    }),
    ("permissions", MANY, |n| {
        with(
            of_user(n),
            json!({"configure": "", "write": "", "read": ""}),
        )
    }),
    ("topic_permissions", MANY, |n| {
        with(
            of_user(n),
            json!({"exchange": "amq.topic", "write": "", "read": ""}),
        )
    }),
    ("queues", MANY, |n| {
        with(
            named('q', n),
            json!({"vhost": "/", "durable": true, "arguments": {}}),
        )
    }),
    ("exchanges", MANY, |n| {
        let exchange = json!({"vhost": "/", "type": "topic", "durable": true, "arguments": {}});
        with(named('x', n), exchange)
    }),
    ("bindings", MANY, |n| {
        json!({"source": "x-0", "vhost": "/", "destination": "q-0", "destination_type": "queue",
            "routing_key": format!("k-{n}"), "arguments": {}})
    }),
    ("policies", MANY, |n| {
        with(with(named('p', n), of_several(n, POLICIES_MAX)), policy())
    }),
    ("parameters", MANY, |n| {
        let operator = json!({"component": "operator_policy", "value": policy()});
        with(with(named('o', n), of_several(n, POLICIES_MAX)), operator)
    }),
    ("parameters", MANY, |n| {
        let upstream = json!({"component": "federation-upstream",
            "value": {"uri": "amqp://localhost"}});
        with(with(named('f', n), of_several(n, PARAMETERS_MAX)), upstream)
    }),
    ("parameters", VHOSTS_MAX, |n| {
        json!({"component": "vhost-limits", "vhost": format!("v-{n}"), "name": "limits",
            "value": {"max-queues": 5}})
    }),
    ("global_parameters", PARAMETERS_MAX, |n| {
        with(named('g', n), json!({"value": n}))
    }),
];

fn named(kind: char, number: usize) -> Value {
    json!({"name": format!("{kind}-{number}")})
}

fn of_user(number: usize) -> Value {
    json!({"user": format!("u-{number}"), "vhost": "/"})
}

/// The virtual host of what may be there so often in each: all have as many as there are things.
fn of_several(number: usize, most: usize) -> Value {
    json!({"vhost": format!("v-{}", number / scaled(most))})
}

/// It fits no queue.
fn policy() -> Value {
    json!({"pattern": "^$", "definition": {"max-length": 1}})
}

fn with(mut one: Value, mut other: Value) -> Value {
    let (fields, others) = (one.as_object_mut(), other.as_object_mut());
    fields.expect("fields").append(others.expect("fields"));
    one
}

/// Makes what a stage has more than the one before.
fn make(http: &Http, consumer: &mut Client, numbers: Range<usize>) {
    for (kind, most, thing) in KINDS {
        let things: Vec<_> = (numbers.start..numbers.end.min(scaled(most)))
            .map(thing)
            .collect();
        // In parts: each is answered in time on a slow machine.
        for part in things.chunks(1000) {
            http.done("POST", "/api/definitions", &json!({ kind: part }));
        }
    }
    let one = |number: usize| {
        let channel = if number < CONSUMERS_MAX { 1 } else { 2 };
        let tag = format!("c-{number}");
        let consume = BasicConsume {
            queue: b"q-0",
            consumer_tag: tag.as_bytes(),
            nowait: true,
            ..Default::default()
        };
        encode(channel, consume)
    };
    consumer.send(&numbers.flat_map(one).collect::<Vec<u8>>());
    // Its answer comes behind all of them.
    consumer.method(1, BasicQos::default());
    consumer.expect(1, "basic.qos-ok");
}

/// Asks every endpoint, and compares the lists of which it is known how long they are.
fn assert_whole(http: &Http, count: usize, columns: &str) {
    let gets = ENDPOINTS
        .iter()
        .filter(|endpoint| endpoint.verb == Verb::Get);
    let mut known = 0;
    for path in gets.map(|endpoint| first(endpoint.path)) {
        let rows = rows(http, &format!("{path}{columns}"));
        if let Some((path, besides, times, most)) = LISTS.iter().find(|list| list.0 == path) {
            let expected = besides + times * count.min(scaled(*most));
            assert_eq!(rows, Some(expected), "{path} of {count}");
            known += 1;
        }
    }
    assert_eq!(known, LISTS.len(), "lists that are endpoints");
}

#[test]
fn every_list_is_whole_packed_or_not() {
    let server = Server::start_http(&[]);
    let http = server.http_as("guest", "guest");
    for number in 0..VHOSTS {
        // Their policies are compared with no queues.
        http.done("PUT", &format!("/api/vhosts/v-{number}"), &json!({}));
    }
    let mut consumer = server.login();
    let mut clients = Vec::new();
    let some = SOME.min(scaled(CLIENTS_MAX));
    for (numbers, columns) in [
        (0..0, ""),
        (0..1, ""),
        (1..some, ""),
        // Enough of each row that the list is long.
        (
            some..scaled(MANY),
            "?columns=name,routing_key,consumer_tag,user,tags,vhost",
        ),
    ] {
        make(&http, &mut consumer, numbers.clone());
        clients.resize_with(numbers.end.min(scaled(CLIENTS_MAX)), || server.login());
        assert_whole(&http, numbers.end, columns);
    }
}
