//! The firehose over HTTP, as RabbitMQ 4.3.6 has it.

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::http::Http;

fn start() -> (Server, Http) {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/vhosts/v", &json!({}));
    for queue in ["q", "trace"] {
        let declared = json!({"auto_delete": false});
        guest.done("PUT", &format!("/api/queues/v/{queue}"), &declared);
    }
    let all = json!({"routing_key": "#"});
    let path = "/api/bindings/v/e/amq.rabbitmq.trace/q/trace";
    guest.done("POST", path, &all);
    (server, guest)
}

fn tracing(guest: &Http) -> Value {
    guest.get("/api/vhosts/v")["tracing"].clone()
}

/// Fetches up to ten messages for good.
fn fetch(guest: &Http, queue: &str) -> Vec<Value> {
    let body = json!({"count": 10, "ackmode": "ack_requeue_false", "encoding": "auto"});
    let answer = guest.call(
        "POST",
        &format!("/api/queues/v/{queue}/get"),
        &body.to_string(),
    );
    answer.json().as_array().expect("messages").clone()
}

fn publish(guest: &Http) {
    let message = json!({
        "routing_key": "q", "payload": "hi", "payload_encoding": "string", "properties": {},
    });
    guest.done("POST", "/api/exchanges/v/amq.default/publish", &message);
}

#[test]
fn it_is_turned_on_and_off_with_its_virtual_host() {
    let (_server, guest) = start();
    assert_eq!(tracing(&guest), false);
    let put = |body: &Value| guest.call("PUT", "/api/vhosts/v", &body.to_string());
    for (body, then) in [
        (json!({"tracing": true}), true),
        (json!({}), true),
        (json!({"tracing": "true"}), true),
        (json!({"tracing": false}), false),
    ] {
        assert_eq!(put(&body).status, 204, "{body}");
        assert_eq!(tracing(&guest), then, "{body}");
    }
    for odd in [json!("x"), Value::Null] {
        let answer = put(&json!({"tracing": odd}));
        assert_eq!(answer.status, 400);
        let told = json!({"error": "bad_request", "reason": ["not_boolean", odd]});
        assert_eq!(answer.json(), told);
    }
    guest.done("PUT", "/api/vhosts/new", &json!({"tracing": true}));
    assert_eq!(guest.get("/api/vhosts/new")["tracing"], true);
}

#[test]
fn what_tools_publish_and_fetch_is_copied() {
    let (_server, guest) = start();
    publish(&guest);
    fetch(&guest, "q");
    assert!(fetch(&guest, "trace").is_empty());
    guest.done("PUT", "/api/vhosts/v", &json!({"tracing": true}));
    publish(&guest);
    assert_eq!(fetch(&guest, "q").len(), 1);
    let copies = fetch(&guest, "trace");
    let keys: Vec<_> = copies
        .iter()
        .map(|copy| copy["routing_key"].clone())
        .collect();
    assert_eq!(keys, ["publish.", "deliver.q"]);
    let headers = &copies[0]["properties"]["headers"];
    let node = guest.get("/api/overview")["node"].clone();
    let expected = json!({
        "channel": 1, "connection": "HTTP API", "exchange_name": "", "node": node,
        "properties": {}, "routed_queues": ["q"], "routing_keys": ["q"], "user": "guest",
        "vhost": "v",
    });
    assert_eq!(headers, &expected);
    assert!(fetch(&guest, "trace").is_empty(), "copies are not copied");
}
