//! The HTTP API of the real binary: who may do what, what is refused, and what survives.

mod bodies;
mod deaths;
mod declarers;
mod exchanges;
mod figures;
mod firehose;
mod flow;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

mod quotas;
mod semantics;
mod timeouts;

use std::collections::BTreeSet;

use leveret_codec::BasicConsume;
use leveret_management::{Clearance, ENDPOINTS, Endpoint};
use serde_json::{Value, json};
use support::Server;
use support::http::Http;

/// One kind of user.
struct Role {
    name: &'static str,
    tags: &'static [&'static str],
    in_vhost: bool,
}

const ROLES: [Role; 6] = [
    Role {
        name: "untagged",
        tags: &[],
        in_vhost: true,
    },
    Role {
        name: "manager",
        tags: &["management"],
        in_vhost: true,
    },
    Role {
        name: "outsider",
        tags: &["management"],
        in_vhost: false,
    },
    Role {
        name: "policymaker",
        tags: &["policymaker"],
        in_vhost: true,
    },
    Role {
        name: "monitor",
        tags: &["monitoring"],
        in_vhost: false,
    },
    Role {
        name: "admin",
        tags: &["administrator"],
        in_vhost: true,
    },
];

impl Role {
    fn has(&self, tag: &str) -> bool {
        self.tags.contains(&tag)
    }

    /// What the documentation promises.
    fn may(&self, endpoint: &Endpoint) -> bool {
        let admin = self.has("administrator");
        let monitor = admin || self.has("monitoring");
        let vhost = endpoint.path.contains("{vhost}");
        match endpoint.access {
            Clearance::Management => !self.tags.is_empty(),
            Clearance::Vhost => !self.tags.is_empty() && (self.in_vhost || admin || !vhost),
            Clearance::VhostVisible => !self.tags.is_empty() && (self.in_vhost || monitor),
            Clearance::Policymaker => admin || self.has("policymaker") && (self.in_vhost || !vhost),
            Clearance::Monitoring => monitor,
            Clearance::Administrator => admin,
        }
    }
}

/// A path in which nothing that matters exists.
fn example(endpoint: &Endpoint, role: &str) -> String {
    let vhost = if endpoint.path == "/api/vhosts/{vhost}" && endpoint.verb.name() != "GET" {
        "elsewhere"
    } else {
        "%2F"
    };
    let user = if endpoint.path.starts_with("/api/connections/username") {
        role
    } else {
        "nobody"
    };
    let mut path = endpoint
        .path
        .replace("{vhost}", vhost)
        .replace("{user}", user);
    while let Some(start) = path.find('{') {
        let end = path.find('}').unwrap();
        path.replace_range(start..=end, "nothing");
    }
    path
}

#[test]
fn nobody_reaches_what_tags_or_permissions_forbid() {
    let server = Server::start_http(&["limits.login_failures_per_minute=1000000"]);
    let guest = server.http_as("guest", "guest");
    for role in &ROLES {
        let user = json!({"password": "p", "tags": role.tags.join(",")});
        guest.done("PUT", &format!("/api/users/{}", role.name), &user);
        if role.in_vhost {
            let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
            guest.done("PUT", &format!("/api/permissions/%2F/{}", role.name), &all);
        }
    }
    let mut checked = 0;
    for endpoint in ENDPOINTS {
        let method = endpoint.verb.name();
        let wrong = server
            .http_as("admin", "wrong")
            .call(method, &example(endpoint, "admin"), "");
        assert_eq!(wrong.status, 401, "{method} {}", endpoint.path);
        // Those who may would end the broker.
        let ends = (method, endpoint.path) == ("DELETE", "/api/x/app");
        for role in ROLES.iter().filter(|role| !ends || !role.may(endpoint)) {
            let path = example(endpoint, role.name);
            let answer = server.http_as(role.name, "p").call(method, &path, "");
            // What is in a virtual host is not there for those who may not enter it.
            let hidden = json!({"error": "not_found", "reason": "Not Found"});
            let refused = answer.status == 401 || answer.json() == hidden;
            let (name, may) = (role.name, role.may(endpoint));
            assert_eq!(
                !refused, may,
                "{name}: {method} {path}: {} {}",
                answer.status, answer.text
            );
            assert!(
                answer.status < 500 || answer.status == 503,
                "{name}: {method} {path}: {}",
                answer.text
            );
            checked += 1;
        }
    }
    // One is left out for one role.
    assert_eq!(checked, ENDPOINTS.len() * ROLES.len() - 1);
    assert!(ENDPOINTS.len() > 100);
}

/// Requests that are refused: method, path, body, status and error.
const ERRORS: &[(&str, &str, &str, u16, &str)] = &[
    ("GET", "/api/queues/%2F/none", "", 404, "Object Not Found"),
    ("GET", "/api/queues/nowhere", "", 404, "Object Not Found"),
    ("GET", "/api/no-such-thing", "", 404, "Object Not Found"),
    ("DELETE", "/api/overview", "", 405, "Method Not Allowed"),
    ("PUT", "/api/queues/%2F/q", "{not json", 400, "bad_request"),
    ("PUT", "/api/queues/%2F/q", "[]", 400, "bad_request"),
    (
        "PUT",
        "/api/queues/%2F/q",
        r#"{"durable":"maybe"}"#,
        400,
        "bad_request",
    ),
    ("PUT", "/api/queues/%2F/amq.q", "{}", 401, "not_authorised"),
    (
        "PUT",
        "/api/exchanges/%2F/x",
        r#"{"type":"none"}"#,
        400,
        "bad_request",
    ),
    ("PUT", "/api/users/u", "{}", 400, "bad_request"),
    (
        "PUT",
        "/api/policies/%2F/p",
        r#"{"pattern":"(","definition":{"max-length":1}}"#,
        400,
        "bad_request",
    ),
    (
        "PUT",
        "/api/policies/%2F/p",
        r#"{"pattern":".*","definition":{"nonsense":1}}"#,
        400,
        "bad_request",
    ),
    (
        "PUT",
        "/api/parameters/none/%2F/p",
        r#"{"value":{}}"#,
        400,
        "bad_request",
    ),
    (
        "PUT",
        "/api/vhost-limits/%2F/max-queues",
        r#"{"value":"many"}"#,
        400,
        "bad_request",
    ),
    (
        "GET",
        "/api/queues?page=0",
        "",
        400,
        "invalid_pagination_parameters",
    ),
    (
        "GET",
        "/api/queues?page=1&page_size=501",
        "",
        400,
        "invalid_pagination_parameters",
    ),
    ("GET", "/api/queues?page=2", "", 400, "page_out_of_range"),
    (
        "GET",
        "/api/queues?page=1&name=(&use_regex=true",
        "",
        400,
        "bad_request",
    ),
    (
        "GET",
        "/api/overview?lengths_age=60000&lengths_incr=1",
        "",
        400,
        "bad_request",
    ),
    (
        "POST",
        "/api/definitions",
        r#"{"queues":[{"name":"q"}]}"#,
        400,
        "bad_request",
    ),
];

#[test]
fn errors_have_rabbitmqs_form() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    for (method, path, body, status, error) in ERRORS {
        let answer = guest.call(method, path, body);
        assert_eq!(answer.status, *status, "{method} {path}: {}", answer.text);
        let said = answer.json();
        assert_eq!(said["error"], *error, "{method} {path}");
        // A value of the wrong kind is given beside what it is not.
        let reason = &said["reason"];
        assert!(reason.is_string() || reason.is_array(), "{method} {path}");
    }
    let pattern = "/api/queues?page=1&use_regex=true&name=";
    for (name, status) in [("%5E%5Cw%2B%5C.%5Cw%2B%24", 200), ("%5Cw%7B1000%7D", 400)] {
        let answer = guest.call("GET", &format!("{pattern}{name}"), "");
        assert_eq!(answer.status, status, "{name}: {}", answer.text);
    }
    let large = json!({"headers": {"h": "x".repeat(128 << 10)}}).to_string();
    let routes = "/api/x/routes/%2F/amq.headers";
    assert_eq!(guest.call("POST", routes, &large).status, 413);
    let huge = "x".repeat(21 << 20);
    let queue = "/api/queues/%2F/huge";
    assert_eq!(guest.call("PUT", queue, &huge).status, 413);
    let nobody = server
        .http_as("nobody", "x")
        .call("GET", "/api/overview", "");
    assert_eq!(
        (nobody.status, nobody.header("www-authenticate")),
        (401, None)
    );
}

#[test]
fn paths_bodies_and_methods_are_taken_leniently() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/vhosts/a%2Fb", &json!({}));
    guest.done(
        "PUT",
        "/api/permissions/a%2Fb/guest",
        &json!({"configure": ".*", "write": ".*", "read": ".*"}),
    );
    assert_eq!(
        guest.call("PUT", "/api/queues/a%2Fb/q+1%20/", "").status,
        201
    );
    assert_eq!(
        guest
            .call("PUT", "/api/queues/a%2Fb/q+1%20", "undefined")
            .status,
        204
    );
    let text = r#"{"durable":"true","auto_delete":"false","arguments":{"x-max-length":10}}"#;
    assert_eq!(
        guest.call("PUT", "/api/queues/a%2Fb/text", text).status,
        201
    );
    let queue = guest.get("/api/queues/a%2Fb/text");
    assert_eq!(
        (&queue["durable"], &queue["arguments"]["x-max-length"]),
        (&json!(true), &json!(10))
    );
    let names = guest.get("/api/queues/a%2Fb/?columns=name");
    assert_eq!(names, json!([{"name": "q+1 "}, {"name": "text"}]));
    for path in [
        "/api/queues/",
        "/api/users/",
        "/api/health/checks/virtual-hosts/",
    ] {
        assert_eq!(guest.call("GET", path, "").status, 200, "{path}");
    }
    let head = guest.call("HEAD", "/api/overview", "");
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    let options = guest.call("OPTIONS", "/api/queues/%2F/q", "");
    assert_eq!(
        options.header("allow"),
        Some("HEAD, GET, PUT, DELETE, OPTIONS")
    );
    let default = guest.get("/api/exchanges/%2F/amq.default");
    assert_eq!(default["name"], "");
}

#[test]
fn lists_are_filtered_sorted_and_cut() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    for number in 0..25 {
        guest.done(
            "PUT",
            &format!("/api/queues/%2F/Queue-{number:02}"),
            &json!({}),
        );
    }
    for _ in 0..3 {
        let message = message("Queue-07");
        guest.done("POST", "/api/exchanges/%2F/amq.default/publish", &message);
    }
    let page = guest.get("/api/queues?page=2&page_size=10&columns=name");
    let counts = [
        "total_count",
        "item_count",
        "filtered_count",
        "page",
        "page_size",
        "page_count",
    ];
    assert_eq!(
        counts.map(|name| page[name].as_u64().unwrap()),
        [25, 10, 25, 2, 10, 3]
    );
    assert_eq!(page["items"][0], json!({"name": "Queue-10"}));
    let found = guest.get("/api/queues?page=1&name=queue-2");
    assert_eq!(
        (
            found["filtered_count"].as_u64(),
            found["total_count"].as_u64()
        ),
        (Some(5), Some(25))
    );
    let found = guest.get("/api/queues?page=1&name=%5Equeue-0%5B1-3%5D%24&use_regex=true");
    assert_eq!(found["filtered_count"], 3);
    let sorted = guest.get(
        "/api/queues?sort=messages&sort_reverse=true&columns=name,messages&page=1&page_size=1",
    );
    assert_eq!(
        sorted["items"],
        json!([{"name": "Queue-07", "messages": 3}])
    );
    let published = guest.get("/api/queues?sort=message_stats.publish&sort_reverse=true");
    assert_eq!(published[0]["name"], "Queue-07");
    let reversed = guest.get("/api/queues/%2F?sort_reverse=true&columns=name");
    assert_eq!(reversed[0]["name"], "Queue-24");
}

#[test]
fn pages_go_on_from_one_vhost_to_the_next() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/vhosts/%21before", &json!({}));
    let mut declared = Vec::new();
    for vhost in ["%21before", "%2F"] {
        for name in ["c", "a", "b", "e", "d"] {
            guest.done("PUT", &format!("/api/queues/{vhost}/{name}"), &json!({}));
            declared.push((vhost.replace("%21", "!").replace("%2F", "/"), name));
        }
    }
    guest.done("DELETE", "/api/queues/%2F/b", &json!({}));
    declared.retain(|(vhost, name)| (vhost.as_str(), *name) != ("/", "b"));
    declared.sort();
    let shown = |items: &Value| -> Vec<(String, String)> {
        let text = |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
        let items = items.as_array().unwrap().iter();
        items
            .map(|item| (text(item, "vhost"), text(item, "name")))
            .collect()
    };
    for parameters in [
        "",
        "&sort_reverse=true",
        "&name=",
        "&sort=vhost",
        "&use_regex=true",
    ] {
        let mut pages = Vec::new();
        for page in 1..=5 {
            let path = format!("/api/queues?page={page}&page_size=2{parameters}");
            let page = guest.get(&path);
            assert_eq!(
                (page["total_count"].as_u64(), page["page_count"].as_u64()),
                (Some(9), Some(5))
            );
            pages.extend(shown(&page["items"]));
        }
        if parameters == "&sort_reverse=true" {
            pages.reverse();
        }
        let all: Vec<_> = pages.iter().map(|(v, n)| (v.clone(), n.as_str())).collect();
        assert_eq!(all, declared, "{parameters}");
    }
    let found = guest.get("/api/queues?page=2&page_size=1&name=A&sort_reverse=true");
    assert_eq!(
        shown(&found["items"]),
        [("!before".to_owned(), "a".to_owned())]
    );
    let all = shown(&guest.get("/api/queues?sort_reverse=true"));
    assert_eq!(all[0], ("/".to_owned(), "e".to_owned()));
    assert_eq!(all.len(), 9);
}

/// A message for RabbitMQ's publish endpoint.
fn message(key: &str) -> Value {
    json!({"routing_key": key, "payload": "x", "payload_encoding": "string", "properties": {}})
}

/// What a definitions file holds, without what differs from broker to broker.
fn comparable(guest: &Http) -> Value {
    let mut definitions = guest.get("/api/definitions");
    let object = definitions.as_object_mut().unwrap();
    object.retain(|key, value| value.is_array() && key != "global_parameters");
    for list in object.values_mut() {
        let list = list.as_array_mut().unwrap();
        list.sort_by_key(Value::to_string);
    }
    definitions
}

const FILE: &str = include_str!("../fixtures/definitions-rabbitmq-3.10.json");

#[test]
fn definitions_of_rabbitmq_come_in_whole_and_go_round_unchanged() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let before = comparable(&guest);
    let plan = guest.call("POST", "/api/definitions?dry_run=true", FILE);
    assert_eq!(plan.status, 200, "{}", plan.text);
    assert!(
        !plan.json()["queues"]["create"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert_eq!(comparable(&guest), before);
    let answer = guest.call("POST", "/api/definitions", FILE);
    assert_eq!(answer.status, 204, "{}", answer.text);
    let first = guest.get("/api/definitions");
    let given: Value = serde_json::from_str(FILE).unwrap();
    for section in [
        "users",
        "vhosts",
        "permissions",
        "topic_permissions",
        "policies",
        "queues",
        "exchanges",
        "bindings",
    ] {
        let names = |file: &Value| -> BTreeSet<String> {
            let items = file[section].as_array().unwrap().iter();
            items
                .map(|item| {
                    format!(
                        "{}{}{}{}",
                        item["vhost"], item["name"], item["user"], item["destination"]
                    )
                })
                .collect()
        };
        assert!(names(&first).is_superset(&names(&given)), "{section}");
    }
    let once = comparable(&guest);
    assert_eq!(
        guest
            .call("POST", "/api/definitions", &first.to_string())
            .status,
        204
    );
    assert_eq!(comparable(&guest), once);
    let other = Server::start_http(&[]);
    let there = other.http_as("guest", "guest");
    assert_eq!(
        there
            .call("POST", "/api/definitions", &first.to_string())
            .status,
        204
    );
    assert_eq!(comparable(&other.http_as("guest", "guest")), once);
}

#[test]
fn definitions_that_are_wrong_change_nothing() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let before = comparable(&guest);
    let queue = json!({"vhost": "/", "name": "q"});
    let wrong = [
        json!({"queues": [queue, {"vhost": "/", "name": "r", "arguments": {"x-max-length": -1}}]}),
        json!({"queues": [queue, {"vhost": "missing", "name": "r"}]}),
        json!({"queues": [queue], "bindings": [{"vhost": "/", "source": "amq.topic",
            "destination": "r", "destination_type": "queue", "routing_key": ""}]}),
        json!({"queues": [queue], "users": [{"name": "u", "password_hash": "!", "tags": ""}]}),
        json!({"queues": [queue], "permissions": [{"user": "none", "vhost": "/", "configure": "",
            "write": "", "read": ""}]}),
        json!({"queues": [queue], "policies": [{"vhost": "/", "name": "p", "pattern": "(",
            "definition": {"max-length": 1}}]}),
        json!({"queues": "all"}),
        json!({"queues": [queue], "exchanges": [1]}),
    ];
    for file in wrong {
        let answer = guest.call("POST", "/api/definitions", &file.to_string());
        assert_eq!(answer.status, 400, "{file}: {}", answer.text);
        assert!(answer.json()["reason"].is_string(), "{}", answer.text);
        assert_eq!(comparable(&guest), before, "{file}");
    }
}

#[test]
fn a_queue_tells_what_it_refused_and_what_it_dropped() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let queues = [("closed", 0, "reject-publish"), ("newest", 2, "drop-head")];
    for (name, max, overflow) in queues {
        let arguments = json!({"x-max-length": max, "x-overflow": overflow});
        let path = format!("/api/queues/%2F/{name}");
        guest.done("PUT", &path, &json!({"arguments": arguments}));
    }
    let publish = |queue: &str| {
        let path = "/api/exchanges/%2F/amq.default/publish";
        let answer = guest.call("POST", path, &message(queue).to_string());
        (answer.status, answer.json()["reason"].clone())
    };
    for _ in 0..5 {
        assert_eq!(publish("closed"), (400, json!("rejected")));
        assert_eq!(publish("newest"), (200, Value::Null));
    }
    let counted = |name: &str| {
        let queue = guest.get(&format!("/api/queues/%2F/{name}"));
        ["x_messages_refused", "x_messages_dropped"].map(|field| queue[field].as_u64())
    };
    assert_eq!(counted("closed"), [Some(5), Some(0)]);
    assert_eq!(counted("newest"), [Some(0), Some(3)]);
    let sorted = guest.get("/api/queues?sort=x_messages_dropped&sort_reverse=true&columns=name");
    assert_eq!(sorted, json!([{"name": "newest"}, {"name": "closed"}]));
}

#[test]
fn ingress_tells_publishers_to_wait_and_loses_nothing() {
    const MESSAGES: usize = 60;
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let arguments = json!({"x-max-length": 10, "x-overflow": "reject-publish"});
    guest.done(
        "PUT",
        "/api/queues/%2F/small",
        &json!({"arguments": arguments}),
    );
    let publish = |number: usize| {
        let path = "/api/x/publish/%2F/amq.default?routing_key=small";
        guest.call_as("POST", path, &number.to_string(), "text/plain")
    };
    for number in 0..10 {
        assert_eq!(publish(number).status, 202);
    }
    let full = publish(10);
    assert_eq!((full.status, full.header("retry-after")), (503, Some("1")));
    let unroutable = guest.call_as(
        "POST",
        "/api/x/publish/%2F/amq.default?routing_key=none",
        "x",
        "text/plain",
    );
    assert_eq!(unroutable.status, 404);
    let batch = json!([{"routing_key": "small", "payload": "x"}, {"routing_key": "none"}]);
    let answer = guest.call_as(
        "POST",
        "/api/x/publish/%2F/amq.default",
        &batch.to_string(),
        "application/json",
    );
    assert_eq!(answer.status, 503);
    let statuses: Vec<_> = answer.json()["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["status"].clone())
        .collect();
    assert_eq!(statuses, [503, 404]);
    let mut received = Vec::new();
    let mut next = 10;
    while received.len() < MESSAGES {
        if next < MESSAGES && publish(next).status == 202 {
            next += 1;
            continue;
        }
        let body = json!({"count": 7, "ackmode": "ack_requeue_false", "encoding": "auto"});
        let answer = guest.call("POST", "/api/queues/%2F/small/get", &body.to_string());
        let payloads = answer.json();
        let payloads = payloads.as_array().unwrap().iter();
        received.extend(payloads.map(|m| m["payload"].as_str().unwrap().parse::<usize>().unwrap()));
    }
    assert_eq!(received, (0..MESSAGES).collect::<Vec<_>>());
    assert_eq!(guest.call("PUT", "/api/x/alarms/memory", "").status, 204);
    assert_eq!(publish(0).status, 503);
    assert_eq!(guest.get("/api/nodes")[0]["mem_alarm"], true);
    assert_eq!(
        guest.call("GET", "/api/health/checks/alarms", "").status,
        503
    );
    assert_eq!(guest.call("DELETE", "/api/x/alarms/memory", "").status, 204);
    assert_eq!(publish(0).status, 202);
}

#[test]
fn peeking_takes_nothing_and_finds_what_is_asked_for() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/queues/%2F/q", &json!({}));
    for number in 0..300 {
        let colour = if number % 3 == 0 { "red" } else { "blue" };
        let properties = json!({"headers": {"colour": colour}, "timestamp": 1_000 + number});
        let mut message = message("q");
        message["payload"] = number.to_string().into();
        message["properties"] = properties;
        guest.done("POST", "/api/exchanges/%2F/amq.default/publish", &message);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = guest.get(&format!(
            "/api/x/queues/%2F/q/peek?count=33&header.colour=red&cursor={cursor}"
        ));
        let items = page["items"].as_array().unwrap();
        seen.extend(
            items
                .iter()
                .map(|m| m["payload"].as_str().unwrap().parse::<u64>().unwrap()),
        );
        match page["cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, (0..300).step_by(3).collect::<Vec<_>>());
    let queue = guest.get("/api/queues/%2F/q");
    assert_eq!(
        (&queue["messages_ready"], &queue["messages_unacknowledged"]),
        (&json!(300), &json!(0))
    );
    let first = guest.get("/api/x/queues/%2F/q/peek?count=1");
    assert_eq!(first["items"][0]["redelivered"], false);
    let young = guest.get("/api/x/queues/%2F/q/peek?max_age=10");
    assert_eq!(young["items"], json!([]));
    assert_eq!(
        guest
            .call("GET", "/api/x/queues/%2F/q/peek?cursor=x", "")
            .status,
        400
    );
}

/// A segment of a path, percent-decoded once.
fn decoded(segment: &str) -> String {
    let mut parts = segment.split('%');
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (code, rest) = part.split_at(2);
        text.push(char::from(u8::from_str_radix(code, 16).unwrap()));
        text.push_str(rest);
    }
    text
}

#[test]
fn a_binding_is_found_by_the_key_that_rabbitmq_gives_it() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/queues/%2F/q", &json!({}));
    let bindings = "/api/bindings/%2F/e/amq.topic/q/q";
    for key in ["a b", "a+b"] {
        let binding = json!({"routing_key": key}).to_string();
        assert_eq!(guest.call("POST", bindings, &binding).status, 201);
    }
    let keys = || -> Vec<(String, String)> {
        let text = |row: &Value, column: &str| row[column].as_str().unwrap().to_owned();
        let rows = guest.get(bindings);
        let row = |row| (text(row, "routing_key"), text(row, "properties_key"));
        rows.as_array().unwrap().iter().map(row).collect()
    };
    let pair = |key: &str, properties: &str| (key.to_owned(), properties.to_owned());
    assert_eq!(keys(), [pair("a b", "a+b"), pair("a+b", "a%2Bb")]);
    let gone = guest.call("DELETE", &format!("{bindings}/a+b"), "");
    assert_eq!(gone.status, 204);
    assert_eq!(keys(), [pair("a+b", "a%2Bb")]);
    // Not encoded for the path, as people type it.
    let gone = guest.call("DELETE", &format!("{bindings}/a%2Bb"), "");
    assert_eq!(gone.status, 204);
    assert_eq!(keys(), []);
}

#[test]
fn policies_are_listed_to_those_who_may_enter_their_virtual_host() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let policy = json!({"pattern": "^a", "definition": {"max-length": 5}});
    guest.done("PUT", "/api/policies/%2F/p", &policy);
    for (name, enters) in [("inside", true), ("outside", false)] {
        let user = json!({"password": "p", "tags": "monitoring"});
        guest.done("PUT", &format!("/api/users/{name}"), &user);
        if enters {
            let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
            guest.done("PUT", &format!("/api/permissions/%2F/{name}"), &all);
        }
        let monitor = server.http_as(name, "p");
        let listed = monitor.get("/api/policies").as_array().unwrap().len();
        assert_eq!(listed, usize::from(enters), "{name}");
        let status = |path: &str| monitor.call("GET", path, "").status;
        assert_eq!(status("/api/policies/%2F"), if enters { 200 } else { 404 });
        assert_eq!(status("/api/policies/%2F/p"), 401);
    }
}

#[test]
fn the_route_tester_tells_which_bindings_match() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/exchanges/%2F/t", &json!({"type": "topic"}));
    for (queue, key) in [("a", "orders.#"), ("b", "*.created")] {
        guest.done("PUT", &format!("/api/queues/%2F/{queue}"), &json!({}));
        let answer = guest.call(
            "POST",
            &format!("/api/bindings/%2F/e/t/q/{queue}"),
            &json!({"routing_key": key}).to_string(),
        );
        assert_eq!(answer.status, 201);
        let place = answer.header("location").unwrap().to_owned();
        let listed = guest.get(&format!("/api/bindings/%2F/e/t/q/{queue}"));
        let key = listed[0]["properties_key"].as_str().unwrap();
        let last = decoded(place.rsplit('/').next().unwrap());
        assert_eq!(last, key, "{place}");
    }
    let answer = guest
        .call(
            "POST",
            "/api/x/routes/%2F/t",
            r#"{"routing_key":"orders.created"}"#,
        )
        .json();
    assert_eq!(answer["queues"], json!(["a", "b"]));
    let answer = guest
        .call(
            "POST",
            "/api/x/routes/%2F/t",
            r#"{"routing_key":"bills.created"}"#,
        )
        .json();
    assert_eq!(answer["queues"], json!(["b"]));
    let shown: Vec<_> = ["destination", "destination_type", "routing_key"]
        .map(|name| answer["bindings"][0][name].clone())
        .into();
    assert_eq!(shown, ["a", "queue", "orders.#"]);
    let matches: Vec<_> = answer["bindings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["matches"].clone())
        .collect();
    assert_eq!(matches, [false, true]);
    assert_eq!(guest.get("/api/queues/%2F/b")["messages"], 0);
}

#[test]
fn metrics_and_probes_need_no_password() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/queues/%2F/q", &json!({}));
    let message =
        json!({"routing_key": "q", "payload": "x", "payload_encoding": "string", "properties": {}});
    guest.done("POST", "/api/exchanges/%2F/amq.default/publish", &message);
    let metrics = server.metrics();
    let page = metrics.call("GET", "/metrics", "");
    assert_eq!(
        page.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    for line in [
        "rabbitmq_queues 1",
        "rabbitmq_queue_messages_ready 1",
        r#"rabbitmq_global_messages_received_total{protocol="amqp091"} 1"#,
        r#"rabbitmq_message_size_bytes_bucket{protocol="amqp091",le="1e+06"} 1"#,
        "rabbitmq_alarms_memory_used_watermark 0",
    ] {
        assert!(
            page.text.lines().any(|found| found == line),
            "{line} in {}",
            page.text
        );
    }
    let identities = page
        .text
        .lines()
        .filter(|line| line.starts_with("rabbitmq_identity_info{"));
    assert_eq!(identities.count(), 1);
    for line in page.text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert_eq!(metrics.call("GET", "/livez", "").status, 200);
    assert_eq!(metrics.call("GET", "/readyz", "").status, 200);
}

#[test]
fn closing_for_clients_and_opening_again_keeps_what_is_durable() {
    let server = Server::start_http(&["amqp.close_timeout_ms=1000"]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/queues/%2F/durable", &json!({"durable": true}));
    guest.done("PUT", "/api/queues/%2F/transient", &json!({}));
    let client = server.login();
    guest.done("PUT", "/api/x/app", &json!({"running": false}));
    client.expect_close(320, "shutdown");
    assert_eq!(server.metrics().call("GET", "/readyz", "").status, 503);
    assert!(std::net::TcpStream::connect(server.address).is_err());
    guest.done("PUT", "/api/x/app", &json!({"running": true}));
    let names = guest.get("/api/queues?columns=name");
    assert_eq!(names, json!([{"name": "durable"}]));
    server.login().declare(1, "again");
}

#[test]
fn rates_and_samples_follow_the_traffic() {
    let server = Server::start_http(&["management.sample_interval_ms=200"]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/queues/%2F/q", &json!({}));
    guest.done("PUT", "/api/queues/%2F/unused", &json!({}));
    let deadline = std::time::Instant::now() + support::PATIENCE;
    loop {
        for _ in 0..20 {
            let message = message("q");
            guest.done("POST", "/api/exchanges/%2F/amq.default/publish", &message);
        }
        let queue = guest.get(
            "/api/queues/%2F/q?lengths_age=60&lengths_incr=5&msg_rates_age=60&msg_rates_incr=5",
        );
        let rate = queue["message_stats"]["publish_details"]["rate"]
            .as_f64()
            .unwrap_or(0.0);
        let overview = guest.get("/api/overview");
        let total = overview["message_stats"]["publish_details"]["rate"]
            .as_f64()
            .unwrap();
        let by_rate = "sort=message_stats.publish_details.rate&sort_reverse=true";
        let busiest = guest.get(&format!("/api/queues?{by_rate}"))[0]["name"] == "q";
        if rate > 0.0 && total > 0.0 && busiest {
            let samples = queue["messages_details"]["samples"].as_array().unwrap();
            assert_eq!(samples.len(), 13);
            assert!(samples[0]["timestamp"].as_u64() > samples[1]["timestamp"].as_u64());
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{queue}");
    }
}

#[test]
fn channels_and_exchanges_have_rates() {
    let server = Server::start_http(&["management.sample_interval_ms=200"]);
    let guest = server.http_as("guest", "guest");
    let mut client = server.login();
    client.declare(1, "q");
    guest.done("POST", "/api/bindings/%2F/e/amq.fanout/q/q", &json!({}));
    let unused = guest.get("/api/exchanges/%2F/amq.topic");
    assert_eq!(unused["message_stats"], Value::Null);
    guest.done(
        "POST",
        "/api/exchanges/%2F/amq.topic/publish",
        &message("nowhere"),
    );
    let stats = guest.get("/api/exchanges/%2F/amq.topic")["message_stats"].clone();
    let counted = [
        "publish_in",
        "publish_out",
        "return_unroutable",
        "drop_unroutable",
    ];
    assert_eq!(
        counted.map(|name| stats[name].as_u64()),
        [1, 0, 1, 0].map(Some)
    );
    assert_eq!(guest.get("/api/channels")[0]["transactional"], false);
    let rate = |stats: &Value, name: &str| stats[name]["rate"].as_f64().unwrap();
    let deadline = std::time::Instant::now() + support::PATIENCE;
    loop {
        for _ in 0..20 {
            for frame in support::message(1, "q", 1, &[b"x"]) {
                client.send(&frame);
            }
            let message = message("");
            guest.done("POST", "/api/exchanges/%2F/amq.fanout/publish", &message);
        }
        let channels = guest.get("/api/channels?msg_rates_age=60&msg_rates_incr=5");
        let stats = &channels[0]["message_stats"];
        let fanout = guest.get("/api/exchanges/%2F/amq.fanout");
        let exchange = &fanout["message_stats"];
        if rate(stats, "publish_details") > 0.0 && rate(exchange, "publish_in_details") > 0.0 {
            assert!(stats["publish"].as_u64() >= Some(20));
            let samples = stats["publish_details"]["samples"].as_array().unwrap();
            assert_eq!(samples.len(), 13);
            assert_eq!(exchange["publish_in"], exchange["publish_out"]);
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{channels} {fanout}");
    }
}

#[test]
fn connections_show_what_was_agreed_on() {
    let server = Server::start_http(&["amqp.frame_max=200000"]);
    let guest = server.http_as("guest", "guest");
    let _client = server.login_with_heartbeat(7);
    let connection = guest.get("/api/connections")[0].clone();
    let shown = ["auth_mechanism", "timeout", "channel_max", "frame_max"];
    assert_eq!(
        shown.map(|name| connection[name].clone()),
        [json!("PLAIN"), json!(7), json!(2047), json!(131_072)]
    );
}

/// Who knows the name can answer in another's place.
#[test]
fn names_for_replies_are_told_to_nobody() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let mut client = server.login();
    client.declare(1, "q");
    let consume = BasicConsume {
        queue: b"amq.rabbitmq.reply-to",
        no_ack: true,
        ..Default::default()
    };
    client.method(1, consume);
    client.expect(1, "basic.consume-ok");
    for path in [
        "/api/bindings",
        "/api/bindings/%2F",
        "/api/exchanges/%2F/amq.default/bindings/source",
        "/api/queues",
        "/api/definitions",
    ] {
        let shown = guest.get(path).to_string();
        assert!(shown.contains("\"q\""), "{path}: {shown}");
        assert!(!shown.contains("reply-to"), "{path}: {shown}");
    }
    assert_eq!(guest.get("/api/consumers"), json!([]));
    assert_eq!(guest.get("/api/overview")["object_totals"]["queues"], 1);
    assert_eq!(guest.get("/api/channels")[0]["consumer_count"], 0);
}

#[test]
fn channels_show_what_is_not_committed() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let mut client = server.login();
    client.declare(1, "q");
    let shown = || {
        let channel = guest.get("/api/channels")[0].clone();
        let names = ["transactional", "messages_uncommitted", "acks_uncommitted"];
        names.map(|name| channel[name].clone())
    };
    client.method(1, leveret_codec::TxSelect {});
    client.expect(1, "tx.select-ok");
    for frame in support::message(1, "q", 1, &[b"x"]) {
        client.send(&frame);
    }
    // An answer after the publish: it has been read.
    client.declare(1, "q");
    assert_eq!(shown(), [json!(true), json!(1), json!(0)]);
    client.method(1, leveret_codec::TxCommit {});
    client.expect(1, "tx.commit-ok");
    assert_eq!(shown(), [json!(true), json!(0), json!(0)]);
    client.method(
        1,
        leveret_codec::BasicGet {
            queue: b"q",
            no_ack: false,
        },
    );
    client.expect(1, "basic.get-ok");
    assert_eq!(client.next().kind, leveret_codec::FrameKind::Header);
    assert_eq!(client.next().payload, b"x");
    client.method(
        1,
        leveret_codec::BasicAck {
            delivery_tag: 1,
            multiple: false,
        },
    );
    client.declare(1, "q");
    assert_eq!(shown(), [json!(true), json!(0), json!(1)]);
    client.method(1, leveret_codec::TxRollback {});
    client.expect(1, "tx.rollback-ok");
    assert_eq!(shown(), [json!(true), json!(0), json!(0)]);
}

#[test]
fn pages_of_known_servers_may_use_the_api() {
    let origins = "management.cors_origins=[\"https://tools.example\"]";
    let server = Server::start_http(&[origins]);
    let asked = |origin: &str, method: &str| {
        let fields = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "authorization"),
        ];
        let guest = server.http_as("guest", "guest");
        guest.call_with(method, "/api/queues", &fields)
    };
    let known = asked("https://tools.example", "OPTIONS");
    assert_eq!(known.status, 200);
    let allowed = [
        ("access-control-allow-origin", "https://tools.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-headers", "authorization"),
        ("access-control-max-age", "1800"),
    ];
    for (name, value) in allowed {
        assert_eq!(known.header(name), Some(value), "{name}");
    }
    let got = asked("https://tools.example", "GET");
    let origin = got.header("access-control-allow-origin");
    assert_eq!((got.status, origin), (200, Some("https://tools.example")));
    let unknown = asked("https://elsewhere.example", "OPTIONS");
    assert_eq!(unknown.header("access-control-allow-origin"), None);
    let closed = Server::start_http(&[]);
    let guest = closed.http_as("guest", "guest");
    let fields = [("origin", "https://tools.example")];
    let answer = guest.call_with("GET", "/api/queues", &fields);
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[test]
fn answers_are_compressed_for_those_who_ask() {
    use base64::Engine as _;
    use std::io::{Read as _, Write as _};
    let server = Server::start_http(&[]);
    let credentials = base64::engine::general_purpose::STANDARD.encode("guest:guest");
    // A client that shows what came over the wire.
    let answer = |encoding: &str| {
        let mut stream = std::net::TcpStream::connect(server.api()).unwrap();
        let request = format!(
            "GET /api/exchanges HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {credentials}\r\n\
             Accept-Encoding: {encoding}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    };
    let (plain, packed) = (answer("identity"), answer("gzip"));
    let says = |answer: &[u8], field: &str| String::from_utf8_lossy(answer).contains(field);
    assert!(says(&plain, "200 OK") && says(&packed, "200 OK"));
    assert!(!says(&plain, "content-encoding"));
    assert!(says(&packed, "content-encoding: gzip"));
    assert!(packed.len() < plain.len());
}

#[test]
fn settings_are_shown_without_passwords() {
    let server = Server::start_http(&["default.password=\"not for eyes\"", "limits.queues_max=77"]);
    let guest = server.http_as("guest", "not for eyes");
    let answer = guest.call("GET", "/api/x/config/effective", "");
    let settings = answer.json();
    assert_eq!(settings["limits"]["queues_max"], 77);
    assert_eq!(settings["default"]["user"], "guest");
    assert!(!answer.text.contains("not for eyes"), "{}", answer.text);
    for (setting, section, key, value) in [
        ("channel_max", "amqp", "channel_max", json!(7)),
        (
            "loopback_users",
            "amqp",
            "loopback_users",
            json!(["nobody"]),
        ),
        (
            "vm_memory_high_watermark",
            "limits",
            "memory_high_watermark",
            json!(0.5),
        ),
    ] {
        let path = format!("/api/x/settings/{setting}");
        guest.done("PUT", &path, &json!({"value": value}));
        let settings = guest.get("/api/x/config/effective");
        assert_eq!(settings[section][key], value, "{setting}");
        assert_eq!(guest.get(&path)["value"], value);
    }
}

#[test]
fn what_amqp_refuses_http_refuses() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let user = json!({"password": "p", "tags": "management"});
    guest.done("PUT", "/api/users/own", &user);
    let own = json!({"configure": "^own", "write": "^own", "read": "^own"});
    guest.done("PUT", "/api/permissions/%2F/own", &own);
    let http = server.http_as("own", "p");
    // What dies there would be published in this user's name.
    for (path, argument) in [
        ("/api/queues/%2F/own-queue", "x-dead-letter-exchange"),
        ("/api/exchanges/%2F/own-exchange", "alternate-exchange"),
    ] {
        let kind = json!({"type": if path.contains("queues") { "classic" } else { "direct" }});
        let mut body = kind;
        body["arguments"] = json!({argument: "amq.fanout"});
        let answer = http.call("PUT", path, &body.to_string());
        assert_eq!(answer.status, 401, "{path}: {}", answer.text);
        let reason = answer.json()["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(
            reason.contains("write access to exchange 'amq.fanout'"),
            "{reason}"
        );
    }
    http.done("PUT", "/api/queues/%2F/own-queue", &json!({}));
    let other = http.call("PUT", "/api/queues/%2F/own-queue", r#"{"durable":true}"#);
    assert_eq!(
        other.json()["reason"],
        "inequivalent arg 'durable' for queue 'own-queue' in vhost '/': received 'true' but \
         current is 'false'"
    );
}

/// A user with these tags, its name as password, and all permissions in the default virtual host.
fn user(guest: &Http, name: &str, tags: &str) {
    let body = json!({"password": name, "tags": tags});
    guest.done("PUT", &format!("/api/users/{name}"), &body);
    let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
    guest.done("PUT", &format!("/api/permissions/%2F/{name}"), &all);
}

#[test]
fn a_list_that_is_not_read_keeps_no_place() {
    use base64::Engine as _;
    use std::io::{Read as _, Write as _};
    let settings = [
        "management.requests_max=1",
        "limits.arguments_bytes_max=1 MiB",
    ];
    let server = Server::start_http(&settings);
    let guest = server.http_as("guest", "guest");
    // More than the buffers between the two hold.
    let body = json!({"arguments": {"note": "x".repeat(256 << 10)}});
    for number in 0..60 {
        guest.done("PUT", &format!("/api/exchanges/%2F/e{number}"), &body);
    }
    let credentials = base64::engine::general_purpose::STANDARD.encode("guest:guest");
    let mut slow = std::net::TcpStream::connect(server.api()).unwrap();
    let request = format!(
        "GET /api/exchanges HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {credentials}\r\n\r\n"
    );
    slow.write_all(request.as_bytes()).unwrap();
    slow.read_exact(&mut [0; 15]).unwrap();
    // One who does not read keeps nobody from the only place.
    assert_eq!(guest.call("GET", "/api/whoami", "").status, 200);
    drop(slow);
}

#[test]
fn a_password_of_a_wrong_type_is_in_no_answer_and_no_log() {
    const PASSWORD: u64 = 918_273_645;
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let wrong = json!({"name": "bob", "password": PASSWORD, "tags": ""});
    let file = json!({"users": [wrong]});
    for (method, path, body) in [
        ("PUT", "/api/users/bob", &wrong),
        ("POST", "/api/definitions", &file),
    ] {
        let answer = guest.call(method, path, &body.to_string());
        assert_eq!(answer.status, 400);
        let reason = answer.json()["reason"].to_string();
        assert!(
            reason.contains("must be a string, not a number"),
            "{reason}"
        );
        assert!(!answer.text.contains(&PASSWORD.to_string()));
    }
    let deadline = std::time::Instant::now() + support::PATIENCE;
    let noted = |log: &[String]| {
        let lines = log.iter().filter(|line| line.contains("not a number"));
        lines.count() == 2
    };
    while !noted(&server.log()) {
        assert!(std::time::Instant::now() < deadline, "{:?}", server.log());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let told = |line: &String| line.contains(&PASSWORD.to_string());
    assert!(!server.log().iter().any(told), "{:?}", server.log());
}

#[test]
fn managers_see_their_own_consumers_and_the_counters_of_their_virtual_hosts() {
    let server = Server::start_http(&["management.sample_interval_ms=200"]);
    let guest = server.http_as("guest", "guest");
    user(&guest, "own", "management");
    user(&guest, "watcher", "monitoring");
    let mut clients = [server.login(), server.login_as("own")];
    for (client, tag) in clients.iter_mut().zip(["of-guest", "of-own"]) {
        client.declare(1, "q");
        let consume = BasicConsume {
            queue: b"q",
            consumer_tag: tag.as_bytes(),
            ..Default::default()
        };
        client.method(1, consume);
        client.expect(1, "basic.consume-ok");
    }
    let tags = |name: &str| {
        let consumers = server.http_as(name, name).get("/api/consumers");
        let consumers = consumers.as_array().unwrap().iter();
        let tags = consumers.map(|one| one["consumer_tag"].as_str().unwrap().to_owned());
        tags.collect::<Vec<_>>()
    };
    assert_eq!(tags("own"), ["of-own"]);
    assert_eq!(tags("watcher"), ["of-guest", "of-own"]);

    guest.done("PUT", "/api/vhosts/other", &json!({}));
    guest.done("PUT", "/api/queues/other/there", &json!({}));
    guest.done("PUT", "/api/queues/%2F/here", &json!({}));
    for (path, key, count) in [("other", "there", 5), ("%2F", "here", 2)] {
        for _ in 0..count {
            let path = format!("/api/exchanges/{path}/amq.default/publish");
            guest.done("POST", &path, &message(key));
        }
    }
    let overview = |name: &str| server.http_as(name, name).get("/api/overview");
    let (part, whole) = (overview("own"), overview("watcher"));
    assert_eq!(part["message_stats"]["publish"], 2);
    assert_eq!(part["queue_totals"]["messages"], 2);
    assert!(part["message_stats"]["publish_details"]["rate"].is_number());
    assert!(part["queue_totals"]["messages_details"]["rate"].is_number());
    assert_eq!(whole["message_stats"]["publish"], 7);
    assert_eq!(whole["queue_totals"]["messages"], 7);
}

#[test]
fn an_exclusive_queue_is_its_connections_alone_but_for_administrators() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    user(&guest, "own", "management");
    let http = server.http_as("own", "own");
    let mut client = server.login();
    let declare = leveret_codec::QueueDeclare {
        exclusive: true,
        ..support::declare("mine", &[])
    };
    client.method(1, declare);
    client.expect(1, "queue.declare-ok");
    let bind = leveret_codec::QueueBind {
        queue: b"mine",
        exchange: b"amq.fanout",
        ..Default::default()
    };
    client.method(1, bind);
    client.expect(1, "queue.bind-ok");
    let bindings = "/api/bindings/%2F/e/amq.fanout/q/mine";
    for (method, path) in [
        ("DELETE", "/api/queues/%2F/mine"),
        ("DELETE", "/api/queues/%2F/mine/contents"),
        ("POST", bindings),
        ("DELETE", "/api/bindings/%2F/e/amq.fanout/q/mine/~"),
        ("GET", "/api/x/queues/%2F/mine/peek"),
    ] {
        let answer = http.call(method, path, "");
        assert_eq!(answer.status, 400, "{method} {path}: {}", answer.text);
        let text = "\"reason\":\"cannot obtain exclusive access to locked queue 'mine'";
        assert!(
            answer.text.contains(text),
            "{method} {path}: {}",
            answer.text
        );
    }
    let fetch = r#"{"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}"#;
    let answer = http.call("POST", "/api/queues/%2F/mine/get", fetch);
    let text = "\"reason\":\"405 RESOURCE_LOCKED - cannot obtain";
    assert!(answer.text.contains(text), "{}", answer.text);
    assert_eq!(guest.call("POST", bindings, "").status, 400);
    assert_eq!(guest.get(bindings).as_array().unwrap().len(), 1);
    guest.done("DELETE", "/api/queues/%2F/mine", &json!({}));
}

#[test]
fn administrators_set_rules_in_virtual_hosts_they_may_not_enter() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let root = json!({"password": "root", "tags": "administrator"});
    guest.done("PUT", "/api/users/root", &root);
    let http = server.http_as("root", "root");
    let policy = json!({"pattern": ".*", "definition": {"max-length": 1}});
    http.done("PUT", "/api/policies/%2F/p", &policy);
    assert_eq!(http.get("/api/policies/%2F")[0]["name"], "p");
    assert_eq!(http.get("/api/parameters/none/%2F"), json!([]));
    assert_eq!(http.get("/api/aliveness-test/%2F")["status"], "ok");
    let refused = http.call("PUT", "/api/queues/%2F/q", "");
    assert_eq!(refused.status, 401, "{}", refused.text);
}

#[test]
fn a_header_chooses_the_virtual_host_of_lists() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/vhosts/other", &json!({}));
    let _client = server.login();
    for (vhost, there) in [("/", true), ("other", false), ("", true)] {
        for path in ["/api/connections", "/api/channels", "/api/exchanges"] {
            let answer = guest.call_with("GET", path, &[("x-vhost", vhost)]);
            let rows = answer.json();
            let there = there || path == "/api/exchanges";
            let listed = !rows.as_array().unwrap().is_empty();
            assert_eq!(listed, there, "{path} {vhost}: {}", answer.text);
        }
    }
}

#[test]
fn deleting_a_binding_deletes_no_other() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/queues/%2F/q", &json!({}));
    let path = "/api/bindings/%2F/e/amq.topic/q/q";
    let keys = || -> BTreeSet<String> {
        let bindings = guest.get(path);
        let bindings = bindings.as_array().unwrap().iter();
        bindings
            .map(|binding| binding["routing_key"].as_str().unwrap().to_owned())
            .collect()
    };
    for (first, second, properties, left) in [
        ("~", "", "~", "~"),
        ("", "~", "~", "~"),
        ("a/b", "a%2Fb", "a%252Fb", "a%2Fb"),
        ("a%2Fb", "a/b", "a%252Fb", "a%2Fb"),
    ] {
        for key in [first, second] {
            guest.done("POST", path, &json!({"routing_key": key}));
        }
        let delete = |properties: &str| {
            let path = format!("{path}/{properties}");
            guest.call("DELETE", &path, "").status
        };
        assert_eq!(delete(properties), 204, "{properties}");
        assert_eq!(keys(), [left.to_owned()].into(), "{properties}");
        // Decoded once more it stands for the only one there is.
        assert_eq!(delete(&left.replace('%', "%25")), 204, "{left}");
        assert!(keys().is_empty(), "{left}");
    }
}

#[test]
fn numbers_stay_as_they_are_given() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    for number in [
        "446408957329079.56",
        "0.1",
        "1.7976931348623157e+308",
        "18446744073709551615",
    ] {
        let body = format!("{{\"value\":{number}}}");
        let put = guest.call("PUT", "/api/global-parameters/n", &body);
        assert!([201, 204].contains(&put.status), "{}", put.text);
        let shown = guest.call("GET", "/api/global-parameters/n", "").text;
        assert!(shown.contains(number), "{number}: {shown}");
    }
}

#[test]
fn what_is_changed_while_a_password_is_hashed_stays_changed() {
    let server = Server::start_http(&["default.password_hashing=argon2id"]);
    let guest = server.http_as("guest", "guest");
    let body = json!({"password": "p", "tags": ""});
    guest.done("PUT", "/api/users/u", &body);
    let limit = "/api/user-limits/u/max-connections";
    for _ in 0..5 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                server
                    .http_as("guest", "guest")
                    .done("PUT", "/api/users/u", &body);
            });
            std::thread::sleep(std::time::Duration::from_millis(15));
            guest.done("PUT", limit, &json!({"value": 1}));
        });
        assert_eq!(
            guest.get("/api/user-limits/u")[0]["value"],
            json!({"max-connections": 1})
        );
        guest.done("DELETE", limit, &json!({}));
    }
}

#[test]
fn what_is_refused_is_noted() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    user(&guest, "manager", "management");
    let manager = server.http_as("manager", "manager");
    let evil = r#"{"password":"quiet","tags":"administrator"}"#;
    let large = json!({"arguments": {"note": "quiet".repeat(20_000)}}).to_string();
    for (http, method, path, body, status) in [
        (&manager, "DELETE", "/api/vhosts/%2F", "", 401),
        (&manager, "PUT", "/api/users/evil", evil, 401),
        (&manager, "PUT", "/api/overview", "", 405),
        (&guest, "PUT", "/api/queues/%2F/large", &large, 413),
    ] {
        assert_eq!(http.call(method, path, body).status, status, "{path}");
    }
    let stranger = server.http_as("stranger", "quiet");
    assert_eq!(stranger.call("DELETE", "/api/users/guest", "").status, 401);
    // Asking is no administration, and a path that does not exist is none's.
    assert_eq!(manager.call("GET", "/api/users", "").status, 401);
    assert_eq!(manager.call("PUT", "/api/none", "").status, 404);
    let all = [
        ["manager", "DELETE", "/api/vhosts/{vhost}", "401"],
        [
            "manager",
            "PUT",
            "/api/users/{user}",
            "Not administrator user",
        ],
        ["manager", "PUT", "/api/overview", "405"],
        ["guest", "PUT", "/api/queues/{vhost}/{queue}", "413"],
        ["stranger", "login over HTTP refused", "unknown user", ""],
    ];
    let is_noted = |log: &[String], words: &[&str; 4]| {
        let line = log
            .iter()
            .find(|line| words.iter().all(|word| line.contains(word)));
        line.is_some()
    };
    let deadline = std::time::Instant::now() + support::PATIENCE;
    while !all.iter().all(|words| is_noted(&server.log(), words)) {
        assert!(std::time::Instant::now() < deadline, "{:?}", server.log());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    for word in ["quiet", "/api/none", "GET"] {
        assert!(
            !server.log().iter().any(|line| line.contains(word)),
            "{word}"
        );
    }
}

/// Clients that log in only after a challenge send the same request again on the same connection.
#[test]
fn a_connection_goes_on_after_a_request_that_was_refused_before_its_body_came() {
    use base64::Engine as _;
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let server = Server::start_http(&[]);
    let credentials = base64::engine::general_purpose::STANDARD.encode("guest:guest");
    let credentials = format!("Authorization: Basic {credentials}\r\n");
    let mut stream = BufReader::new(std::net::TcpStream::connect(server.api()).unwrap());
    let mut ask = |method: &str, path: &str, fields: &str, body: &str| {
        let len = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {len}\r\n\r\n");
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        // The server decides before it has the body.
        std::thread::sleep(std::time::Duration::from_millis(50));
        stream.get_mut().write_all(body.as_bytes()).unwrap();
        let (mut answer, mut line) = (Vec::new(), String::new());
        while stream.read_line(&mut line).unwrap() > 2 {
            answer.push(std::mem::take(&mut line).trim_end().to_lowercase());
        }
        let field = |name: &str| answer.iter().find_map(|line| line.strip_prefix(name));
        let len = field("content-length: ").map_or(0, |len| len.parse().unwrap());
        stream.read_exact(&mut vec![0; len]).unwrap();
        assert_eq!(field("connection: "), None);
        answer.swap_remove(0)
    };
    let (queue, large) = ("/api/queues/%2F/q", " ".repeat(200_000));
    let body = "{\"durable\":true}";
    let unauthorized = "http/1.1 401 unauthorized";
    assert_eq!(ask("PUT", queue, "", body), unauthorized);
    assert_eq!(ask("PUT", queue, "", &large), unauthorized);
    let missing = ask("PUT", "/api/no/such", &credentials, body);
    assert_eq!(missing, "http/1.1 404 not found");
    let not_allowed = ask("POST", "/api/overview", &credentials, body);
    assert_eq!(not_allowed, "http/1.1 405 method not allowed");
    assert_eq!(
        ask("PUT", queue, &credentials, body),
        "http/1.1 201 created"
    );
}
