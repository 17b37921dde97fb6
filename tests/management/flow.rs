//! Publishers that are slowed down.

use leveret_codec::BasicConsume;
use serde_json::Value;

use crate::support::{Server, eventually, message};

#[test]
fn a_publisher_that_is_slowed_down_is_in_flow() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let (mut publisher, mut consumer) = (server.login(), server.login());
    consumer.declare(1, "q");
    // It has credit, and reads nothing.
    let consume = BasicConsume {
        queue: b"q",
        no_ack: true,
        ..Default::default()
    };
    consumer.method(1, consume);
    consumer.expect(1, "basic.consume-ok");
    let some = message(1, "q", 60_000, &[&[b'x'; 60_000]]).concat();
    let states = |path: &str| -> Vec<Value> {
        let rows = guest.get(path);
        let rows = rows.as_array().expect("a list").iter();
        rows.map(|row| row["state"].clone()).collect()
    };
    let in_flow = eventually(|| {
        (0..50).for_each(|_| publisher.send(&some));
        let mut found = states("/api/connections");
        found.sort_by_key(ToString::to_string);
        found == ["flow", "running"]
    });
    assert!(in_flow, "{:?}", states("/api/connections"));
    let rows = guest.get("/api/connections");
    let rows = rows.as_array().expect("a list");
    let flow_ms: u64 = rows
        .iter()
        .filter_map(|row| row["x_flow_ms"].as_u64())
        .sum();
    assert!(flow_ms > 0, "{rows:?}");
    publisher.send(&some);
    let channels = eventually(|| {
        publisher.send(&some);
        let found = states("/api/channels");
        found.contains(&"flow".into()) && found.contains(&"running".into())
    });
    assert!(channels, "{:?}", states("/api/channels"));
    assert!(guest.get("/api/queues/%2F/q")["x_flow_ms"].is_u64());
    let metrics = server.metrics();
    let flow_s = |path: &str, name: &str| {
        let page = metrics.call("GET", path, "").text;
        let values = page.lines().filter(|line| line.starts_with(name));
        let values = values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        values.reduce(|a, b| a + b)
    };
    let connections = "rabbitmq_connection_flow_seconds_total";
    assert!(flow_s("/metrics", connections).is_some_and(|s| s > 0.0));
    assert!(flow_s("/metrics/per-object", connections).is_some_and(|s| s > 0.0));
    let queues = "rabbitmq_queue_flow_seconds_total{vhost=\"/\",queue=\"q\"}";
    assert!(flow_s("/metrics/per-object", queues).is_some());
}
