//! What is told of messages that died, of how long others have waited, and of priorities.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::Http;
use crate::support::{PATIENCE, Server};

fn publish(guest: &Http, priority: u8, expiration: Option<&str>) {
    let mut properties = json!({ "priority": priority });
    if let Some(expiration) = expiration {
        properties["expiration"] = expiration.into();
    }
    let body = json!({
        "properties": properties, "routing_key": "q", "payload": "m", "payload_encoding": "string"
    });
    guest.done("POST", "/api/exchanges/%2F/amq.default/publish", &body);
}

fn until(guest: &Http, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = guest.get(path);
        if holds(&found) {
            return found;
        }
        assert!(Instant::now() < end, "{found}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// As RabbitMQ tells of them in a quorum queue whose dead letters may not be lost.
#[test]
fn dead_letters_that_wait_are_told() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let narrow = json!({"x-max-length": 0, "x-overflow": "reject-publish"});
    let declare = json!({"durable": true, "arguments": narrow});
    guest.done("PUT", "/api/queues/%2F/dead", &declare);
    let arguments = json!({
        "x-queue-type": "quorum", "x-overflow": "reject-publish",
        "x-dead-letter-strategy": "at-least-once",
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"
    });
    let declare = json!({"durable": true, "arguments": arguments});
    guest.done("PUT", "/api/queues/%2F/q", &declare);
    assert_eq!(guest.get("/api/queues/%2F/q")["messages_dlx"], 0);
    publish(&guest, 2, Some("1"));
    let queue = until(&guest, "/api/queues/%2F/q", |q| q["messages_dlx"] == 1);
    assert_eq!(queue["message_bytes_dlx"], 1);
    assert_eq!(
        (&queue["messages"], &queue["messages_ready"]),
        (&json!(1), &json!(0))
    );
    let dead = guest.get("/api/queues/%2F/dead");
    assert!(dead.get("messages_dlx").is_none(), "{dead}");
}

#[test]
fn deaths_ages_and_levels_are_told() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/queues/%2F/dead", &json!({"durable": true}));
    let arguments = json!({
        "x-max-priority": 3, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"
    });
    let declare = json!({"durable": true, "arguments": arguments});
    guest.done("PUT", "/api/queues/%2F/q", &declare);
    publish(&guest, 2, None);
    publish(&guest, 1, Some("1"));
    until(&guest, "/api/queues/%2F/dead", |dead| dead["messages"] == 1);
    let queue = until(&guest, "/api/queues/%2F/q", |q| q["messages"] == 1);
    assert_eq!(queue["x_messages_expired"], 1);
    assert_eq!(queue["x_messages_dead_lettered"]["expired"], 1);
    assert_eq!(queue["x_messages_dead_lettered"]["rejected"], 0);
    assert_eq!(queue["backing_queue_status"]["priority_lengths"]["2"], 1);
    assert!(
        queue["x_oldest_message_ms"]
            .as_u64()
            .is_some_and(|ms| ms > 1_600_000_000_000)
    );
    let peeked = guest.get("/api/x/queues/%2F/q/peek");
    assert_eq!(peeked["items"][0]["priority"], 2);
    assert_eq!(peeked["items"][0]["delivery_count"], 0);
    let metrics = server.metrics();
    let page = metrics.call("GET", "/metrics", "").text;
    let moved = "rabbitmq_global_messages_dead_lettered_expired_total{queue_type=\
                 \"rabbit_classic_queue\",dead_letter_strategy=\"at_most_once\"} 1";
    assert!(page.contains(moved), "{page}");
    let page = metrics.call("GET", "/metrics/per-object", "").text;
    let age = "rabbitmq_queue_oldest_message_age_seconds{vhost=\"/\",queue=\"q\"} ";
    let age = page.lines().find_map(|line| line.strip_prefix(age));
    assert!(
        age.is_some_and(|age| age.parse::<f64>().is_ok_and(|age| age < 60.0)),
        "{page}"
    );
}
