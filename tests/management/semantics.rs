//! What requests mean and how they are refused, compared with RabbitMQ 4.3.6: each value here was
//! asked of it.

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::http::Http;

/// A broker, its first user, and a virtual host `v` that this one may enter.
fn start() -> (Server, Http) {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/vhosts/v", &json!({}));
    (server, guest)
}

/// Refused with this status and these words.
fn refused(guest: &Http, (method, path): (&str, &str), body: &Value, said: (u16, &str, Value)) {
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let answer = guest.call(method, path, &text);
    let (status, error, reason) = said;
    assert_eq!(
        answer.status, status,
        "{method} {path} {body}: {}",
        answer.text
    );
    assert_eq!(
        answer.json(),
        json!({"error": error, "reason": reason}),
        "{method} {path} {body}"
    );
}

fn message_to(key: &str) -> Value {
    json!({"routing_key": key, "payload": "a", "payload_encoding": "string", "properties": {}})
}

#[test]
fn a_queue_is_declared_as_its_arguments_say() {
    let (_server, guest) = start();
    let shown = |name: &str| {
        let queue = guest.get(&format!("/api/queues/v/{name}"));
        (
            queue["type"].clone(),
            queue["durable"].clone(),
            queue["arguments"].clone(),
        )
    };
    let classic = || json!({"x-queue-type": "classic"});
    for (name, body) in [
        ("absent", json!({})),
        ("beside", json!({"type": "quorum"})),
        ("nonsense", json!({"type": "nonsense"})),
        ("empty", json!({"arguments": {"x-queue-type": ""}})),
        (
            "undefined",
            json!({"arguments": {"x-queue-type": "undefined"}}),
        ),
    ] {
        guest.done("PUT", &format!("/api/queues/v/{name}"), &body);
        assert_eq!(
            shown(name),
            (json!("classic"), json!(false), classic()),
            "{name}"
        );
    }
    guest.done(
        "PUT",
        "/api/vhosts/v",
        &json!({"default_queue_type": "quorum"}),
    );
    for (name, kind) in [("a", ""), ("b", "undefined"), ("c", "quorum")] {
        let body = json!({"durable": true, "arguments": {"x-queue-type": kind}});
        guest.done("PUT", &format!("/api/queues/v/{name}"), &body);
        assert_eq!(shown(name).0, "quorum", "{kind:?}");
        // A file of definitions means the same.
        let body = json!({"name": format!("of a file {name}"), "vhost": "v", "durable": true,
            "arguments": {"x-queue-type": kind}});
        guest.done("POST", "/api/definitions", &json!({"queues": [body]}));
        assert_eq!(
            shown(&format!("of%20a%20file%20{name}")).0,
            "quorum",
            "{kind:?}"
        );
    }
    let reason = "invalid property 'non-durable' for queue 'd' in vhost 'v'";
    let body = json!({"arguments": {"x-queue-type": ""}});
    refused(
        &guest,
        ("PUT", "/api/queues/v/d"),
        &body,
        (400, "bad_request", json!(reason)),
    );
    let exchange = json!({"type": "fanout"});
    guest.done("PUT", "/api/exchanges/v/x", &exchange);
    assert_eq!(guest.get("/api/exchanges/v/x")["durable"], false);
    let declared = &guest.get("/api/overview")["churn_rates"]["queue_declared"];
    assert!(declared.as_u64() >= Some(8), "{declared}");
}

#[test]
fn a_node_that_is_not_this_one_makes_no_queue() {
    let (_server, guest) = start();
    let node = guest.get("/api/overview")["node"].clone();
    guest.done("PUT", "/api/queues/v/q", &json!({"node": node}));
    let reason = json!("Node rabbit@nowhere is not a cluster member");
    let body = json!({"node": "rabbit@nowhere"});
    refused(
        &guest,
        ("PUT", "/api/queues/v/r"),
        &body,
        (400, "bad_request", reason),
    );
}

#[test]
fn a_virtual_host_is_what_was_said_last() {
    let (_server, guest) = start();
    let all = json!({"description": "d", "tags": "a,b", "default_queue_type": "quorum"});
    guest.done("PUT", "/api/vhosts/v", &all);
    guest.done("PUT", "/api/vhosts/v", &json!({"description": "e"}));
    let vhost = guest.get("/api/vhosts/v");
    let said = [
        &vhost["description"],
        &vhost["tags"],
        &vhost["default_queue_type"],
    ];
    assert_eq!(said, [&json!("e"), &json!([]), &json!("classic")]);
    guest.done("POST", "/api/vhosts/v/deletion/protection", &Value::Null);
    guest.done("PUT", "/api/vhosts/v", &json!({}));
    assert_eq!(guest.get("/api/vhosts/v")["protected_from_deletion"], true);
    for (value, reason) in [
        (json!(""), "default_queue_type must not be an empty string"),
        (json!("nope"), "nope is not a valid queue type"),
        (json!(5), "5 is not a valid default_queue_type value"),
    ] {
        let body = json!({"default_queue_type": value});
        refused(
            &guest,
            ("PUT", "/api/vhosts/v"),
            &body,
            (400, "bad_request", json!(reason)),
        );
    }
}

#[test]
fn values_of_the_wrong_kind_are_named_as_rabbitmq_names_them() {
    let (_server, guest) = start();
    guest.done("PUT", "/api/queues/v/q", &json!({}));
    let bad = |reason: Value| (400, "bad_request", reason);
    let queue = ("PUT", "/api/queues/v/q");
    refused(
        &guest,
        queue,
        &json!({"durable": "yes"}),
        bad(json!(["not_boolean", "yes"])),
    );
    refused(
        &guest,
        queue,
        &json!({"arguments": {"x": null}}),
        bad(json!("null_not_allowed")),
    );
    refused(&guest, queue, &json!([]), bad(json!("not_json")));
    let twice = "invalid payload: the request body JSON-decoded to a string. Is the input \
                 doubly-JSON-encoded?";
    refused(&guest, queue, &json!("{}"), bad(json!(twice)));
    let broken = guest.call("PUT", "/api/queues/v/q", "{");
    assert_eq!(
        broken.json(),
        json!({"error": "bad_request", "reason": "not_json"})
    );
    let keys = "[{key_missing,configure},{key_missing,write},{key_missing,read}]";
    refused(
        &guest,
        ("PUT", "/api/permissions/v/guest"),
        &json!({}),
        bad(json!(keys)),
    );
    let keys = "[{key_missing,ackmode},{key_missing,count},{key_missing,encoding}]";
    refused(
        &guest,
        ("POST", "/api/queues/v/q/get"),
        &json!({}),
        bad(json!(keys)),
    );
    let publish = ("POST", "/api/exchanges/v/amq.default/publish");
    let keys = "[{key_missing,routing_key},\n {key_missing,properties},\n {key_missing,payload},\n \
                {key_missing,payload_encoding}]";
    refused(&guest, publish, &json!({}), bad(json!(keys)));
    let message = |key: &str, value: Value| {
        let mut message = message_to("q");
        message[key] = value;
        message
    };
    for (key, value, reason) in [
        ("payload", json!(5), json!("payload_not_string")),
        (
            "payload_encoding",
            json!("x"),
            json!(["unsupported_encoding", "x"]),
        ),
        (
            "properties",
            json!({"priority": "x"}),
            json!(["not_int", "priority"]),
        ),
        (
            "properties",
            json!({"content_type": 5}),
            json!(["not_string", "content_type"]),
        ),
    ] {
        refused(&guest, publish, &message(key, value), bad(reason));
    }
}

#[test]
fn a_negative_count_gets_all() {
    let (_server, guest) = start();
    guest.done("PUT", "/api/queues/v/q", &json!({}));
    let message = message_to("q");
    for _ in 0..3 {
        guest.done("POST", "/api/exchanges/v/amq.default/publish", &message);
    }
    let get = |count: i64| {
        let body = json!({"count": count, "ackmode": "ack_requeue_true", "encoding": "auto"});
        let answer = guest.call("POST", "/api/queues/v/q/get", &body.to_string());
        answer.json().as_array().unwrap().clone()
    };
    assert_eq!([get(-1).len(), get(0).len(), get(2).len()], [3, 0, 2]);
    assert_eq!(get(1)[0]["properties"], json!([]));
}

#[test]
fn what_is_missing_is_told_in_rabbitmqs_words() {
    let (_server, guest) = start();
    guest.done("PUT", "/api/queues/v/q", &json!({}));
    let absent = |reason: &str| (404, "not_found", json!(reason));
    for (method, path, reason) in [
        ("PUT", "/api/queues/none/q", "vhost_not_found"),
        ("PUT", "/api/exchanges/none/x", "vhost_not_found"),
        ("POST", "/api/queues/v/none/get", "queue_not_found"),
        (
            "POST",
            "/api/exchanges/v/none/publish",
            "exchange_not_found",
        ),
        ("PUT", "/api/policies/none/p", "vhost_not_found"),
        (
            "PUT",
            "/api/vhost-limits/none/max-queues",
            "vhost_not_found",
        ),
        (
            "POST",
            "/api/bindings/v/e/amq.direct/q/none",
            "no queue 'none' in vhost 'v'",
        ),
        (
            "POST",
            "/api/bindings/v/e/none/q/q",
            "no exchange 'none' in vhost 'v'",
        ),
    ] {
        refused(&guest, (method, path), &json!({}), absent(reason));
    }
    for path in [
        "/api/queues/v/none/bindings",
        "/api/queues/none/q/bindings",
        "/api/exchanges/v/none/bindings/source",
        "/api/exchanges/none/x/bindings/destination",
        "/api/bindings/v/e/none/q/none",
        "/api/bindings/v/e/amq.direct/e/none",
    ] {
        assert_eq!(guest.get(path), json!([]), "{path}");
    }
    let nobody = ("PUT", "/api/permissions/v/nobody");
    let all = json!({"configure": "", "write": "", "read": ""});
    let reason = json!("vhost_or_user_not_found");
    refused(&guest, nobody, &all, (400, "bad_request", reason));
}

#[test]
fn topic_permissions_are_found_where_there_are_some() {
    let (_server, guest) = start();
    let path = "/api/topic-permissions/v/guest";
    assert_eq!(guest.call("GET", path, "").status, 404);
    assert_eq!(guest.get("/api/users/guest/topic-permissions"), json!([]));
    let wrong = json!({"exchange": "none", "write": "", "read": ""});
    let reason = json!(["no_such_exchange", "none"]);
    refused(&guest, ("PUT", path), &wrong, (400, "bad_request", reason));
    guest.done(
        "PUT",
        path,
        &json!({"exchange": "amq.topic", "write": "", "read": ""}),
    );
    assert_eq!(guest.get(path).as_array().unwrap().len(), 1);
}

#[test]
fn every_answer_names_the_methods_of_its_path() {
    let (_server, guest) = start();
    for (method, path, status, methods) in [
        ("GET", "/api/queues/v", 200, "HEAD, GET, OPTIONS"),
        (
            "POST",
            "/api/queues/v/q",
            405,
            "HEAD, GET, PUT, DELETE, OPTIONS",
        ),
        ("GET", "/api/queues/v/q/get", 405, "POST, OPTIONS"),
        ("GET", "/api/definitions", 200, "HEAD, GET, POST, OPTIONS"),
        ("GET", "/api/cluster-name", 200, "HEAD, GET, PUT, OPTIONS"),
        ("GET", "/api/nothing", 404, "HEAD, GET, OPTIONS"),
        (
            "OPTIONS",
            "/api/queues/v/q",
            200,
            "HEAD, GET, PUT, DELETE, OPTIONS",
        ),
    ] {
        let answer = guest.call(method, path, "");
        assert_eq!(
            (answer.status, answer.header("allow")),
            (status, Some(methods)),
            "{path}"
        );
    }
}

#[test]
fn only_the_lists_that_rabbitmq_cuts_come_in_pages() {
    let (_server, guest) = start();
    for path in [
        "bindings",
        "bindings/v",
        "vhosts",
        "policies",
        "operator-policies",
        "consumers",
        "permissions",
        "topic-permissions",
        "parameters",
        "vhosts/v/permissions",
        "vhosts/v/connections",
        "vhosts/v/channels",
        "queues/v/q/bindings",
    ] {
        assert!(
            guest.get(&format!("/api/{path}?page=1")).is_array(),
            "{path}"
        );
    }
    for path in [
        "queues",
        "queues/v",
        "exchanges",
        "exchanges/v",
        "users",
        "connections",
        "channels",
    ] {
        let page = guest.get(&format!("/api/{path}?page=1"));
        assert!(page["items"].is_array(), "{path}");
        assert!(page["page_count"].as_u64() >= Some(1), "{path}");
    }
    let wrong = ("GET", "/api/queues?page=0");
    let reason = json!("Invalid pagination parameters: page number 0, page size undefined");
    refused(
        &guest,
        wrong,
        &Value::Null,
        (400, "invalid_pagination_parameters", reason),
    );
}

#[test]
fn limits_and_operator_policies_are_parameters_too() {
    let (_server, guest) = start();
    let limits = "/api/parameters/vhost-limits/v/limits";
    let put =
        |path: &str, value: Value| guest.call("PUT", path, &json!({"value": value}).to_string());
    assert_eq!(put(limits, json!({"max-queues": 11})).status, 201);
    let listed = json!([{"vhost": "v", "value": {"max-queues": 11}}]);
    assert_eq!(guest.get("/api/vhost-limits/v"), listed);
    let parameter = json!({"vhost": "v", "component": "vhost-limits", "name": "limits",
        "value": {"max-queues": 11}});
    assert_eq!(guest.get(limits), parameter);
    assert_eq!(guest.get("/api/parameters"), json!([parameter]));
    let text = "Validation failed\n\nmax-queues should be a number, actually was <<\"x\">>\n";
    for path in [limits, "/api/vhost-limits/v/max-queues"] {
        let value = if path == limits {
            json!({"max-queues": "x"})
        } else {
            json!("x")
        };
        let body = json!({"value": value});
        refused(
            &guest,
            ("PUT", path),
            &body,
            (400, "bad_request", json!(text)),
        );
    }
    assert_eq!(put(limits, json!({"max-connections": 3})).status, 204);
    assert_eq!(
        guest.get("/api/vhost-limits/v")[0]["value"],
        json!({"max-connections": 3})
    );
    assert_eq!(guest.call("DELETE", limits, "").status, 204);
    assert_eq!(guest.call("DELETE", limits, "").status, 404);
    let policy = json!({"pattern": "^x", "definition": {"max-length": 5}, "apply-to": "queues",
        "priority": 1});
    let path = "/api/parameters/operator_policy/v/o";
    assert_eq!(put(path, policy.clone()).status, 201);
    assert_eq!(guest.get(path)["value"], policy);
    assert_eq!(guest.get("/api/operator-policies/v/o")["priority"], 1);
    let body = json!({"value": {"pattern": "^x", "zzz": 1}});
    let text = "Validation failed\n\nUnrecognised terms [{<<\"zzz\">>,1}] in o\nKey \
                \"definition\" not found in o\nKey \"priority\" not found in o\n";
    refused(
        &guest,
        ("PUT", path),
        &body,
        (400, "bad_request", json!(text)),
    );
    assert_eq!(guest.call("DELETE", path, "").status, 204);
    assert_eq!(guest.get("/api/operator-policies/v"), json!([]));
}

#[test]
fn parameters_of_plugins_are_checked_before_they_are_kept() {
    let (server, guest) = start();
    let path = "/api/parameters/federation-upstream/v/u";
    let body = json!({"value": {"uri": "amqp://h:0", "nope": 1}});
    let text = "Validation failed\n\nUnrecognised terms [{<<\"nope\">>,1}] in u\n\"amqp://h:0\" \
                not a valid URI: {{port_out_of_range,0},\"amqp://h:0\"}\n";
    refused(
        &guest,
        ("PUT", path),
        &body,
        (400, "bad_request", json!(text)),
    );
    let secret = json!({"value": {"uri": "http://u:hunter2@h"}}).to_string();
    let answer = guest.call("PUT", path, &secret);
    assert_eq!(
        (answer.status, answer.text.contains("hunter2")),
        (400, false)
    );
    guest.done("PUT", path, &json!({"value": {"uri": "amqp://h"}}));
    let body = json!({"value": {"src-uri": "amqp://", "src-queue": "a"}});
    let text = "Validation failed\n\nKey \"dest-uri\" not found in s\n";
    let shovel = ("PUT", "/api/parameters/shovel/v/s");
    refused(&guest, shovel, &body, (400, "bad_request", json!(text)));
    let definitions = json!({"vhosts": [{"name": "v"}], "parameters": [
        {"vhost": "v", "component": "shovel", "name": "s", "value": {}}]});
    let import = guest.call("POST", "/api/definitions", &definitions.to_string());
    assert_eq!(import.status, 400, "{}", import.text);
    assert!(import.text.contains("src-uri"), "{}", import.text);
    drop(server);
}

#[test]
fn tools_find_the_flags_and_paths_they_ask_for() {
    let (_server, guest) = start();
    let flags = guest.get("/api/feature-flags?columns=name,stability,state");
    let flag = |name: &str| {
        let mut flags = flags.as_array().unwrap().iter();
        flags
            .find(|flag| flag["name"] == name)
            .cloned()
            .unwrap_or_default()
    };
    for name in ["khepri_db", "rabbitmq_4.2.0"] {
        let stable = json!({"name": name, "stability": "stable", "state": "enabled"});
        assert_eq!(flag(name), stable);
    }
    let features = guest.get("/api/deprecated-features?columns=name,deprecation_phase");
    let ram = json!({"name": "ram_node_type", "deprecation_phase": "removed"});
    assert!(features.as_array().unwrap().contains(&ram), "{features}");
    let quorum = "/api/health/checks/quorum-queues-without-elected-leaders";
    for path in [
        format!("{quorum}/all-vhosts/pattern/.*"),
        format!("{quorum}/vhost/v/pattern/.*"),
        "/api/health/checks/node-is-quorum-critical".to_owned(),
    ] {
        assert_eq!(guest.get(&path)["status"], "ok", "{path}");
    }
    for path in [
        "federation-links/state/down",
        "federation-links/v/state/down",
        "shovels/v",
    ] {
        assert_eq!(guest.get(&format!("/api/{path}")), json!([]), "{path}");
    }
    let node = guest.get("/api/overview")["node"]
        .as_str()
        .unwrap()
        .to_owned();
    let memory = guest.get(&format!("/api/nodes/{node}/memory/relative"));
    assert_eq!(memory["memory"]["total"], 100);
    let whole = guest.get("/api/all-configuration");
    assert_eq!(whole["rabbitmq_definition_format"], "cluster");
    assert_eq!(
        guest.call("POST", "/api/all-configuration", "{}").status,
        204
    );
}

#[test]
fn lists_show_what_is_in_virtual_hosts_that_the_user_may_enter() {
    let (server, guest) = start();
    guest.done("PUT", "/api/queues/v/q", &json!({}));
    guest.done(
        "PUT",
        "/api/users/m",
        &json!({"password": "p", "tags": "monitoring"}),
    );
    let monitor = server.http_as("m", "p");
    let lists = ["queues", "exchanges", "bindings"];
    for list in lists {
        assert_eq!(monitor.get(&format!("/api/{list}")), json!([]), "{list}");
        let answer = monitor.call("GET", &format!("/api/{list}/v"), "");
        let hidden = json!({"error": "not_found", "reason": "Not Found"});
        assert_eq!((answer.status, answer.json()), (404, hidden), "{list}");
    }
    assert_eq!(monitor.get("/api/vhosts").as_array().unwrap().len(), 2);
    let all = json!({"configure": "", "write": "", "read": ""});
    guest.done("PUT", "/api/permissions/v/m", &all);
    for list in lists {
        assert_ne!(monitor.get(&format!("/api/{list}")), json!([]), "{list}");
    }
    guest.done("DELETE", "/api/permissions/v/guest", &Value::Null);
    assert_eq!(guest.get("/api/queues"), json!([]));
    assert_eq!(guest.get("/api/queues/v").as_array().unwrap().len(), 1);
}

/// A file with a mistake in each of several places, and a few that depend on them.
fn mistaken() -> Value {
    let permission =
        |user: &str| json!({"user": user, "vhost": "v", "configure": "", "write": "", "read": ""});
    let bound = |source: &str, destination: &str| {
        json!({"vhost": "v", "source": source, "destination": destination,
            "destination_type": "queue", "routing_key": ""})
    };
    json!({
        "users": [{"name": "u"}],
        "vhosts": [{"name": "v"}, {"name": "w", "tags": 1}],
        "permissions": [permission("nobody"), permission("u")],
        "policies": [{"vhost": "v", "name": "p", "pattern": "x", "definition": {"nope": 1}},
            {"vhost": "w", "name": "p", "pattern": "x", "definition": {"max-length": 1}}],
        "exchanges": [{"vhost": "v", "name": "x", "durable": true}],
        "queues": [{"vhost": "v", "name": "q", "arguments": {"x-max-length": -1}},
            {"vhost": "v", "name": "good"}, {"vhost": "v", "name": "r", "durable": 7}],
        "bindings": [bound("amq.topic", "none"), bound("x", "good"), bound("x", "r")],
    })
}

/// Mistakes of form and what only the effect shows come in one answer; whatever depends on what
/// cannot be read is judged by itself.
#[test]
fn everything_wrong_with_a_file_is_told_at_once_and_by_name() {
    let (_server, guest) = start();
    let import = |options: &str| {
        let path = format!("/api/definitions{options}");
        guest.call("POST", &path, &mistaken().to_string())
    };
    let lines = [
        "users[0] ('u'): tags_not_present",
        "vhosts[1] ('w'): ",
        "exchanges[0] ('x' in vhost 'v'): [{key_missing,type}]",
        "queues[2] ('r' in vhost 'v'): ",
        "permissions[0] ('nobody' in vhost 'v'): ",
        "policies[0] ('p' in vhost 'v'): Validation failed: [{<<\"nope\">>,1}] are not recognised",
        "queues[0] ('q' in vhost 'v'): invalid arg 'x-max-length'",
        "bindings[0] ('amq.topic' to 'none' in vhost 'v'): no queue 'none' in vhost 'v'",
    ];
    for options in ["", "?dry_run=true"] {
        let told = import(options);
        let reason = told.json()["reason"].as_str().unwrap().to_owned();
        let found: Vec<_> = reason.lines().collect();
        assert_eq!((told.status, found.len()), (400, lines.len()), "{reason}");
        for (line, begin) in found.iter().zip(lines) {
            assert!(line.starts_with(begin), "{begin}: {reason}");
        }
    }
    assert_eq!(guest.get("/api/queues/v"), json!([]));
    assert_eq!(guest.call("GET", "/api/users/u", "").status, 404);
    assert_eq!(guest.call("GET", "/api/vhosts/w", "").status, 404);
}

#[test]
fn what_has_no_effect_is_listed_wherever_it_is_set() {
    let (_server, guest) = start();
    let file = json!({
        "queues": [{"vhost": "v", "name": "q", "durable": true,
            "arguments": {"x-max-age": "1D", "x-max-length": 7, "x-queue-mode": "lazy"}}],
        "policies": [{"vhost": "v", "name": "p", "pattern": "^a",
            "definition": {"max-age": "1D", "max-length": 5}}],
        "parameters": [{"vhost": "v", "component": "federation-upstream", "name": "u",
            "value": {"uri": "amqp://h"}}],
    });
    let row = |kind: &str, name: &str, key: &str| {
        let keys = [key];
        json!({"kind": kind, "vhost": "v", "name": name, "keys": keys})
    };
    let rows = json!([
        row("parameter", "u", "federation-upstream"),
        row("policy", "p", "max-age"),
        row("queue", "q", "x-max-age"),
    ]);
    let import = |options: &str| {
        guest.call(
            "POST",
            &format!("/api/definitions{options}"),
            &file.to_string(),
        )
    };
    assert_eq!(import("?dry_run=true").json()["ignored"], rows);
    assert_eq!(import("?report=true").json()["ignored"], rows);
    assert_eq!(import("").status, 204);
    guest.done(
        "PUT",
        "/api/queues/v/declared",
        &json!({"arguments": {"x-max-age": "2D"}}),
    );
    let listed = json!([
        row("parameter", "u", "federation-upstream"),
        row("policy", "p", "max-age"),
        row("queue", "declared", "x-max-age"),
        row("queue", "q", "x-max-age"),
    ]);
    assert_eq!(guest.get("/api/x/ignored"), listed);
}

#[test]
fn a_file_comes_in_without_what_leveret_cannot_have() {
    let (_server, guest) = start();
    let bound = |source: &str, destination: &str| {
        json!({"vhost": "v", "source": source, "destination": destination,
            "destination_type": "queue", "routing_key": "k"})
    };
    let file = json!({
        "queues": [{"vhost": "v", "name": "q", "durable": true},
            {"vhost": "v", "name": "s", "durable": true, "arguments": {"x-queue-type": "stream"}}],
        "exchanges": [{"vhost": "v", "name": "x", "type": "x-delayed-message", "durable": true}],
        "policies": [{"vhost": "v", "name": "p", "pattern": "^a", "definition": {"nope": 5}}],
        "bindings": [bound("x", "q"), bound("internal", "q"), bound("amq.topic", "s"),
            bound("amq.topic", "q")],
    });
    let import = |options: &str| {
        guest.call(
            "POST",
            &format!("/api/definitions{options}"),
            &file.to_string(),
        )
    };
    assert_eq!(import("").status, 400);
    let report = import("?skip_unsupported=true&report=true").json();
    let left_out = report["left_out"].as_array().unwrap().len();
    let skipped = report["skipped"].as_array().unwrap().len();
    assert_eq!((left_out, skipped), (2, 4), "{report}");
    assert_eq!(
        guest.get("/api/queues/v?columns=name"),
        json!([{"name": "q"}])
    );
    let bindings = guest.get("/api/exchanges/v/amq.topic/bindings/source");
    assert_eq!(bindings.as_array().unwrap().len(), 1);
    // Internal exchanges are in no file of RabbitMQ's; their bindings are.
    let internal =
        json!({"queues": [{"vhost": "v", "name": "q"}], "bindings": [bound("internal", "q")]});
    let import = |options: &str| {
        let path = format!("/api/definitions{options}");
        guest.call("POST", &path, &internal.to_string())
    };
    assert_eq!(import("").status, 204);
    let told = "bindings[0] ('internal' to 'q' in vhost 'v'): left out, no exchange 'internal' in \
                vhost 'v'";
    assert_eq!(import("?report=true").json()["left_out"], json!([told]));
}
