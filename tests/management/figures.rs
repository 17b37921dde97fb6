//! Metrics of single objects, and what virtual hosts and exchanges came to.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use leveret_codec::{BasicConsume, TxCommit, TxSelect};
use serde_json::{Value, json};

use crate::support::http::{Answer, Http};
use crate::support::machine::on_time;
use crate::support::{PATIENCE, Server, message};

/// The value of a line.
fn value(page: &Answer, line: &str) -> Option<f64> {
    let mut lines = page.text.lines();
    let rest = lines.find_map(|found| found.strip_prefix(line)?.strip_prefix(' '))?;
    rest.parse().ok()
}

/// The text format: each name is announced once, its lines follow, and no line comes twice.
fn assert_well_formed(page: &Answer) {
    let (mut announced, mut series) = (HashSet::new(), HashSet::new());
    let mut name = "";
    for line in page.text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (of, kind) = rest.split_once(' ').unwrap();
            assert!(announced.insert(of), "{of} twice");
            assert!(["gauge", "counter", "histogram", "untyped"].contains(&kind));
            name = of;
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (of, help) = rest.split_once(' ').unwrap();
            assert!(of == name && !help.is_empty(), "{line}");
        } else {
            let (of, number) = line.rsplit_once(' ').unwrap();
            assert!(series.insert(of), "{of} twice");
            assert!(number.parse::<f64>().is_ok(), "{line}");
            let of = of.split_once('{').map_or(of, |(of, labels)| {
                assert!(labels.ends_with("\"}"), "{line}");
                of
            });
            let suffix = of.strip_prefix(name);
            let known = ["", "_bucket", "_count", "_sum"];
            assert!(
                suffix.is_some_and(|suffix| known.contains(&suffix)),
                "{line} under {name}"
            );
        }
    }
}

#[test]
fn metrics_of_single_objects_have_rabbitmqs_names() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/vhosts/other", &json!({}));
    guest.done("PUT", "/api/queues/other/quiet", &json!({}));
    let mut client = server.login();
    client.declare(1, "q\"uoted");
    client.declare(1, "q");
    client.send(&message(1, "q", 2, &[b"hi"]).concat());
    assert_eq!(client.get(1, "q"), b"hi");
    client.send(&message(1, "q", 3, &[b"you"]).concat());
    let consume = BasicConsume {
        queue: b"q\"uoted",
        ..Default::default()
    };
    client.method(1, consume);
    client.expect(1, "basic.consume-ok");
    assert_eq!(client.count(1, "q"), 1);
    let metrics = server.metrics();
    let page = metrics.call("GET", "/metrics/per-object", "");
    assert_well_formed(&page);
    for (line, expected) in [
        (r#"rabbitmq_queue_messages_ready{vhost="/",queue="q"}"#, 1.0),
        (r#"rabbitmq_queue_messages_bytes{vhost="/",queue="q"}"#, 3.0),
        (
            r#"rabbitmq_queue_messages_refused_total{vhost="/",queue="q"}"#,
            0.0,
        ),
        (
            r#"rabbitmq_queue_consumers{vhost="/",queue="q\"uoted"}"#,
            1.0,
        ),
        (
            r#"rabbitmq_queue_messages_published_total{queue_vhost="/",queue="q"}"#,
            2.0,
        ),
        (
            r#"rabbitmq_queue_messages_ready{vhost="other",queue="quiet"}"#,
            0.0,
        ),
        (
            r#"rabbitmq_exchange_messages_published_total{vhost="/",exchange=""}"#,
            2.0,
        ),
        (r#"rabbitmq_auth_attempts_total{protocol="amqp091"}"#, 1.0),
        (r#"rabbitmq_global_publishers{protocol="amqp091"}"#, 1.0),
        (r#"rabbitmq_global_consumers{protocol="amqp091"}"#, 1.0),
        ("rabbitmq_queues", 3.0),
    ] {
        assert_eq!(value(&page, line), Some(expected), "{line}");
    }
    let channel = guest.get("/api/channels")[0]["name"].clone();
    let published =
        format!(r#"rabbitmq_channel_messages_published_total{{channel={channel},vhost="/"}}"#);
    assert_eq!(value(&page, &published), Some(2.0), "{published}");
}

/// Lines of a page after what the test below does.
const SUMS: &[(&str, f64)] = &[
    (r#"rabbitmq_global_publishers{protocol="amqp091"}"#, 1.0),
    (r#"rabbitmq_global_consumers{protocol="amqp091"}"#, 1.0),
    ("rabbitmq_queue_messages_ready", 0.0),
    ("rabbitmq_queue_messages_unacked", 2.0),
    ("rabbitmq_queue_messages_ram", 2.0),
    ("rabbitmq_queue_messages_bytes", 4.0),
    ("rabbitmq_queue_messages_dropped_total", 1.0),
    ("rabbitmq_queue_messages_published_total", 4.0),
    (
        r#"rabbitmq_queue_messages_refused_total{reason="length"}"#,
        0.0,
    ),
    ("rabbitmq_queue_consumers", 1.0),
    ("rabbitmq_queue_messages_ram", 2.0),
    ("rabbitmq_queue_messages_ram_bytes", 4.0),
    ("rabbitmq_queue_messages_paged_out", 0.0),
    ("rabbitmq_queue_messages_paged_out_bytes", 0.0),
    ("rabbitmq_queue_messages_delivered_ack_total", 2.0),
    ("rabbitmq_queue_get_total", 1.0),
    ("rabbitmq_channels", 2.0),
    ("rabbitmq_channel_consumers", 1.0),
    ("rabbitmq_channel_messages_unacked", 2.0),
    ("rabbitmq_channel_messages_published_total", 5.0),
    ("rabbitmq_channel_messages_unroutable_dropped_total", 1.0),
    ("rabbitmq_channel_messages_delivered_ack_total", 2.0),
    ("rabbitmq_exchange_messages_published_total", 5.0),
    ("rabbitmq_exchange_messages_unroutable_dropped_total", 1.0),
    ("rabbitmq_connection_channels", 2.0),
];

#[test]
fn metrics_of_all_objects_are_the_sums_of_those_of_single_ones() {
    let server = Server::start_http(&["management.sample_interval_ms=100"]);
    let guest = server.http_as("guest", "guest");
    let mut client = server.login();
    let full = json!({"arguments": {"x-max-length": 1}});
    guest.done("PUT", "/api/queues/%2F/full", &full);
    client.declare(1, "q");
    for queue in ["q", "q", "full", "full", "nowhere"] {
        client.send(&message(1, queue, 2, &[b"hi"]).concat());
    }
    assert_eq!(client.get(1, "full"), b"hi");
    client.method(
        1,
        BasicConsume {
            queue: b"q",
            ..Default::default()
        },
    );
    client.expect(1, "basic.consume-ok");
    let bytes = "rabbitmq_queue_messages_unacked_bytes";
    let metrics = server.metrics();
    let until = Instant::now() + PATIENCE;
    let page = loop {
        let page = metrics.call("GET", "/metrics", "");
        if value(&page, bytes) == Some(4.0) {
            break page;
        }
        assert!(Instant::now() < until, "no sample is taken");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_well_formed(&page);
    for (line, expected) in SUMS {
        assert_eq!(value(&page, line), Some(*expected), "{line}");
    }
    // What a single object has a metric of, has a sum, unless it is no sum of anything.
    let single = metrics.call("GET", "/metrics/per-object", "");
    let names = |page: &Answer| -> HashSet<String> {
        let lines = page.text.lines();
        let heads = lines.filter_map(|line| line.strip_prefix("# TYPE "));
        heads
            .map(|head| head.split(' ').next().unwrap().to_owned())
            .collect()
    };
    let mut left: Vec<_> = names(&single).difference(&names(&page)).cloned().collect();
    left.sort();
    let alone = ["capacity", "utilisation"].map(|of| format!("rabbitmq_queue_consumer_{of}"));
    let others = ["flow_seconds_total", "info", "oldest_message_age_seconds"];
    let others = others.map(|of| format!("rabbitmq_queue_{of}"));
    assert_eq!(left, [alone.to_vec(), others.to_vec()].concat());
}

#[test]
fn a_pattern_that_fits_many_queues_and_one_that_fits_few_find_the_same() {
    let server = Server::start_http(&[]);
    let mut client = server.login();
    for index in 0..1_500 {
        client.declare(1, &format!("q{index:04}"));
    }
    for (pattern, expected) in [
        ("%5Eq", 1_500),
        ("%5Eq0", 1_000),
        ("%5Eq1", 500),
        ("%5Eq14..%24", 100),
        ("%5Eq0700%24", 1),
        ("%5Eq(1%7C00)4", 110),
        ("14..%24", 100),
        ("%5Er", 0),
        ("%5Eq07%7C1499", 101),
    ] {
        let query = format!("family=queue_coarse_metrics&queue={pattern}");
        let lines = names(&server, &query);
        for metric in ["_ready", "_unacked", ""] {
            let metric = format!("rabbitmq_detailed_queue_messages{metric}{{");
            let found = lines.iter().filter(|line| line.starts_with(&metric));
            assert_eq!(found.count(), expected, "{pattern} {metric}");
        }
    }
}

/// Whoever names a queue, what queues' names begin with, or a small virtual host does not pay for
/// all the others.
#[test]
fn few_of_many_queues_are_found_without_looking_at_the_others() {
    const QUEUES: usize = 8_000;
    const ROUNDS: usize = 15;
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let queue =
        |vhost: &str, number: usize| json!({"vhost": vhost, "name": format!("q{number:04}")});
    let mut queues: Vec<_> = (0..QUEUES).map(|number| queue("/", number)).collect();
    queues.extend((0..10).map(|number| queue("small", number)));
    let vhosts = json!([{"name": "small"}]);
    let file = json!({"vhosts": vhosts, "queues": queues});
    guest.done("POST", "/api/definitions", &file);
    let took = |choice: &str, queues: usize| {
        let begun = Instant::now();
        let found = names(&server, &format!("family=queue_consumer_count&{choice}"));
        let took = begun.elapsed();
        let consumers = |line: &&String| line.starts_with("rabbitmq_detailed_queue_consumers{");
        assert_eq!(found.iter().filter(consumers).count(), queues, "{choice}");
        took
    };
    on_time(|| {
        for few in ["queue=%5Eq0700%24", "queue=%5Eq070", "vhost=small"] {
            let count = if few.ends_with("%24") { 1 } else { 10 };
            // In turns, so that what else the machine does strikes both alike.
            let all = (0..ROUNDS).map(|_| (took(few, count), took("queue=q1234%24", 1)));
            let (few_took, anywhere): (Vec<_>, Vec<_>) = all.unzip();
            let [few_took, anywhere] = [few_took, anywhere].map(|mut all| {
                all.sort_unstable();
                all[ROUNDS / 2]
            });
            assert!(
                few_took * 2 < anywhere,
                "{few}: {few_took:?}, {anywhere:?} otherwise"
            );
        }
    });
}

/// The lines of a page of detailed metrics.
fn names(server: &Server, query: &str) -> Vec<String> {
    let path = format!("/metrics/detailed?{query}");
    let page = server.metrics().call("GET", &path, "");
    assert_well_formed(&page);
    let lines = page.text.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

#[test]
fn detailed_metrics_are_those_of_the_families_and_objects_asked_for() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/vhosts/other", &json!({}));
    for queue in ["%2F/a", "%2F/b", "other/a"] {
        guest.done("PUT", &format!("/api/queues/{queue}"), &json!({}));
    }
    let names = |query: &str| names(&server, query);
    // What it is about is always said.
    assert_eq!(names("").len(), 2);
    assert_eq!(names("family=nope").len(), 2);
    let coarse = |query: &str| {
        let mut found = names(&format!("family=queue_coarse_metrics&{query}"));
        found.retain(|line| line.starts_with("rabbitmq_detailed_queue_messages{"));
        found
    };
    let line = |vhost: &str, queue: &str| {
        format!(r#"rabbitmq_detailed_queue_messages{{vhost="{vhost}",queue="{queue}"}} 0"#)
    };
    assert_eq!(
        coarse(""),
        [line("/", "a"), line("/", "b"), line("other", "a")]
    );
    assert_eq!(coarse("vhost=other"), [line("other", "a")]);
    assert!(coarse("vhost=nowhere").is_empty());
    // A pattern, as RabbitMQ has it.
    assert_eq!(coarse("queue=a"), [line("/", "a"), line("other", "a")]);
    assert_eq!(coarse("queue=%5E%5Bb-z%5D%24"), [line("/", "b")]);
    assert!(coarse("queue=b&vhost=other").is_empty());
    assert_eq!(coarse("vhost=other&vhost=%2F&queue=").len(), 3);
    for (query, why) in [
        (
            "queue=a&queue=b",
            "Only one 'queue' query parameter is allowed",
        ),
        ("queue=(", "Invalid 'queue' regex"),
    ] {
        let refused = server
            .metrics()
            .call("GET", &format!("/metrics/detailed?{query}"), "");
        assert_eq!(refused.status, 400);
        assert!(refused.text.starts_with(why), "{}", refused.text);
    }
    // What several families have comes once: names() looks.
    let queues = "family=queue_coarse_metrics&family=queue_metrics&family=queue_consumer_count";
    let info = |line: &&String| line.starts_with("rabbitmq_detailed_queue_info{");
    assert_eq!(names(queues).iter().filter(info).count(), 3);
    // RabbitMQ tells these of all virtual hosts in any case.
    assert_eq!(names("family=vhost_status&vhost=other").len(), 4);
}

/// Families, and a line that each of them has.
const LINES: &[(&str, &str)] = &[
    (
        "queue_metrics",
        r#"rabbitmq_detailed_queue_consumers{vhost="/",queue="a"} 0"#,
    ),
    (
        "queue_consumer_count",
        r#"rabbitmq_detailed_queue_consumers{vhost="/",queue="a"} 0"#,
    ),
    (
        "queue_coarse_metrics",
        "rabbitmq_detailed_queue_info{vhost=\"/\",queue=\"a\",\
         queue_type=\"rabbit_classic_queue\",membership=\"leader\"} 1",
    ),
    (
        "queue_delivery_metrics",
        r#"rabbitmq_detailed_queue_messages_acked_total{vhost="/",queue="a"} 0"#,
    ),
    (
        "exchange_names",
        r#"rabbitmq_cluster_exchange_name{vhost="/",exchange="amq.topic",type="topic"} 1"#,
    ),
    (
        "exchange_bindings",
        r#"rabbitmq_cluster_exchange_bindings{vhost="/",exchange="amq.topic",type="topic"} 0"#,
    ),
    (
        "exchange_metrics",
        r#"rabbitmq_detailed_exchange_messages_published_total{vhost="/",exchange=""} 0"#,
    ),
    (
        "vhost_status",
        r#"rabbitmq_cluster_vhost_status{vhost="other"} 1"#,
    ),
    (
        "connection_churn_metrics",
        "rabbitmq_detailed_queues_created_total 3",
    ),
    (
        "auth_attempt_metrics",
        r#"rabbitmq_detailed_auth_attempts_failed_total{protocol="http"} 0"#,
    ),
];

#[test]
fn families_have_rabbitmqs_names_and_labels() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/vhosts/other", &json!({}));
    for queue in ["%2F/a", "%2F/b", "other/a"] {
        guest.done("PUT", &format!("/api/queues/{queue}"), &json!({}));
    }
    for (family, line) in LINES {
        let found = names(&server, &format!("family={family}"));
        let has_it = found.iter().any(|found| found == line);
        assert!(has_it, "{line} in {found:#?}");
    }
    for family in ["node_metrics", "node_coarse_metrics"] {
        let found = names(&server, &format!("family={family}"));
        assert!(found.len() > 4, "{family}");
    }
}

/// A metric's name, and its value where that is known.
type ClientMetric = (&'static str, Option<u32>);

/// Families of connections and channels: RabbitMQ's names, the labels, and what one client's
/// traffic comes to.
const OF_CLIENTS: &[(&str, &str, &[ClientMetric])] = &[
    (
        "channel_queue_exchange_metrics",
        r#"queue_vhost="/",queue="q""#,
        &[("queue_messages_published_total", Some(3))],
    ),
    (
        "channel_exchange_metrics",
        r#"channel="NAME (1)",vhost="/""#,
        &[
            ("channel_messages_published_total", Some(4)),
            ("channel_messages_confirmed_total", Some(0)),
            ("channel_messages_unroutable_returned_total", Some(0)),
            ("channel_messages_unroutable_dropped_total", Some(1)),
        ],
    ),
    (
        "channel_queue_metrics",
        r#"channel="NAME (1)",vhost="/""#,
        &[
            ("channel_get_ack_total", Some(0)),
            ("channel_get_total", Some(2)),
            ("channel_messages_delivered_ack_total", Some(0)),
            ("channel_messages_delivered_total", Some(0)),
            ("channel_messages_redelivered_total", Some(0)),
            ("channel_messages_acked_total", Some(0)),
            ("channel_get_empty_total", Some(0)),
        ],
    ),
    (
        "connection_coarse_metrics",
        r#"channel="NAME""#,
        &[
            ("connection_incoming_bytes_total", None),
            ("connection_outgoing_bytes_total", None),
        ],
    ),
    (
        "connection_metrics",
        r#"channel="NAME""#,
        &[
            ("connection_incoming_packets_total", None),
            ("connection_outgoing_packets_total", None),
            ("connection_pending_packets", Some(0)),
            ("connection_channels", Some(2)),
            ("connection_flow_seconds_total", Some(0)),
        ],
    ),
];

#[test]
fn families_of_clients_have_rabbitmqs_names_and_labels() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let mut client = server.login();
    client.declare(1, "q");
    for queue in ["q", "q", "q", "nowhere"] {
        client.send(&message(1, queue, 2, &[b"hi"]).concat());
    }
    for _ in 0..2 {
        assert_eq!(client.get(1, "q"), b"hi");
    }
    let connections = guest.get("/api/connections");
    let name = connections[0]["name"].as_str().expect("it has a name");
    for (family, labels, metrics) in OF_CLIENTS {
        let labels = labels.replace("NAME", name);
        let mut found = names(&server, &format!("family={family}"));
        found.retain(|line| line.contains(&labels));
        assert_eq!(found.len(), metrics.len(), "{found:#?}");
        for (line, (metric, expected)) in found.iter().zip(*metrics) {
            let begin = format!("rabbitmq_detailed_{metric}{{{labels}}} ");
            let value = line.strip_prefix(&begin);
            let value = value.and_then(|value| value.parse::<u32>().ok());
            let right = value.is_some_and(|value| expected.map_or(value > 0, |it| it == value));
            assert!(right, "{begin}{expected:?}: {line}");
        }
    }
}

#[test]
fn what_a_full_queue_refused_and_dropped_is_told_of_each_queue() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    for (queue, overflow) in [("refuses", "reject-publish"), ("drops", "drop-head")] {
        let arguments = json!({"x-max-length": 1, "x-overflow": overflow});
        let path = format!("/api/queues/%2F/{queue}");
        guest.done("PUT", &path, &json!({"arguments": arguments}));
        let body = json!({"routing_key": queue, "payload": "x", "payload_encoding": "string",
                          "properties": {}});
        for _ in 0..3 {
            // Some are refused.
            let path = "/api/exchanges/%2F/amq.default/publish";
            guest.call("POST", path, &body.to_string());
        }
    }
    let page = server
        .metrics()
        .call("GET", "/metrics/detailed?family=queue_metrics", "");
    for (metric, queue, expected) in [
        ("refused", "refuses", 2.0),
        ("dropped", "refuses", 0.0),
        ("refused", "drops", 0.0),
        ("dropped", "drops", 2.0),
    ] {
        let name = format!("rabbitmq_detailed_queue_messages_{metric}_total");
        let line = format!(r#"{name}{{vhost="/",queue="{queue}"}}"#);
        assert_eq!(value(&page, &line), Some(expected), "{line}");
    }
}

/// Asks again until it is so, as samples come now and then.
fn wait_for(guest: &Http, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = guest.get(path);
        if is_so(&found) {
            return found;
        }
        assert!(Instant::now() < until, "{path}: {found}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_virtual_host_tells_what_connections_to_it_came_to() {
    let server = Server::start_http(&["management.sample_interval_ms=100"]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/vhosts/other", &json!({}));
    let mut client = server.login();
    client.declare(1, "q");
    client.send(&message(1, "q", 2, &[b"hi"]).concat());
    client.send(&message(1, "q", 2, &[b"hi"]).concat());
    assert_eq!(client.get(1, "q"), b"hi");
    let used = |vhost: &Value| vhost["message_stats"]["publish"] == 2;
    let vhost = wait_for(&guest, "/api/vhosts/%2F", used);
    assert_eq!(vhost["message_stats"]["get_no_ack"], 1);
    assert!(vhost["recv_oct"].as_u64() > Some(100), "{vhost}");
    assert!(vhost["send_oct"].as_u64() > Some(100), "{vhost}");
    assert!(vhost["send_oct_details"]["rate"].is_number());
    assert_eq!(vhost["messages_ready"], 1);
    assert!(vhost["messages_ready_details"]["rate"].is_number());
    // It stays when the connection is gone, and what comes over HTTP counts too.
    drop(client);
    let body = json!({"routing_key": "q", "payload": "x", "payload_encoding": "string",
                      "properties": {}});
    guest.done("POST", "/api/exchanges/%2F/amq.default/publish", &body);
    wait_for(&guest, "/api/vhosts/%2F", |vhost| {
        vhost["message_stats"]["publish"] == 3
    });
    let other = guest.get("/api/vhosts/other");
    assert_eq!(other.get("message_stats"), None, "{other}");
    let exchange = guest.get("/api/exchanges/%2F/amq.default");
    assert_eq!(exchange["message_stats"]["publish_in"], 3);
    assert_eq!(
        (&exchange["incoming"], &exchange["outgoing"]),
        (&json!([]), &json!([]))
    );
}

#[test]
fn what_was_refused_is_counted_by_the_exchange_it_was_published_to() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let full = json!({"arguments": {"x-max-length": 1, "x-overflow": "reject-publish"}});
    guest.done("PUT", "/api/queues/%2F/full", &full);
    guest.done("POST", "/api/bindings/%2F/e/amq.fanout/q/full", &json!({}));
    let body = json!({"routing_key": "full", "payload": "x", "payload_encoding": "string",
                      "properties": {}});
    for exchange in [
        "amq.default",
        "amq.default",
        "amq.fanout",
        "amq.fanout",
        "amq.fanout",
    ] {
        // All but the first are refused.
        let path = format!("/api/exchanges/%2F/{exchange}/publish");
        guest.call("POST", &path, &body.to_string());
    }
    let mut client = server.login();
    client.method(1, TxSelect {});
    client.expect(1, "tx.select-ok");
    client.send(&message(1, "full", 2, &[b"hi"]).concat());
    client.send(&message(1, "full", 2, &[b"hi"]).concat());
    client.method(1, TxCommit {});
    client.expect(1, "channel.close");
    for (exchange, name, refused) in [("", "amq.default", 3), ("amq.fanout", "amq.fanout", 3)] {
        let labels = format!(r#"vhost="/",exchange="{exchange}""#);
        let line = format!("rabbitmq_exchange_messages_refused_total{{{labels}}}");
        let page = server.metrics().call("GET", "/metrics/per-object", "");
        assert_eq!(value(&page, &line), Some(f64::from(refused)), "{line}");
        let shown = guest.get(&format!("/api/exchanges/%2F/{name}"));
        assert_eq!(shown["x_messages_refused"], refused, "{shown}");
    }
    let page = server.metrics().call("GET", "/metrics", "");
    for name in [
        "exchange_messages_refused_total",
        "queue_messages_refused_total{reason=\"length\"}",
    ] {
        assert_eq!(
            value(&page, &format!("rabbitmq_{name}")),
            Some(6.0),
            "{name}"
        );
    }
}
