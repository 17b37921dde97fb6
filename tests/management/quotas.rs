//! Limits of what may be published into a virtual host, from the API and from a client.

use std::time::{Duration, Instant};

use leveret_codec::{ConfirmSelect, ConnectionClose};
use serde_json::{Value, json};

use crate::support::http::{Answer, Http};
use crate::support::{Folder, Server, eventually, message};

const LIMITS: &str = "/api/vhost-limits/%2F";

fn limit(guest: &Http, name: &str, value: i64) {
    guest.done("PUT", &format!("{LIMITS}/{name}"), &json!({"value": value}));
}

fn ingress(guest: &Http, body: &Value) -> Answer {
    let path = "/api/x/publish/%2F/amq.default";
    guest.call_as("POST", path, &body.to_string(), "application/json")
}

#[test]
fn http_publishers_are_told_when_to_come_again() {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/queues/%2F/q", &json!({"durable": true}));
    limit(&guest, "max-bytes", 1000);
    let one = json!({"routing_key": "q", "payload": "x".repeat(600)});
    for _ in 0..2 {
        assert_eq!(ingress(&guest, &one).status, 202);
    }
    let text = "vhost '/' has reached its limit max-bytes (1000)";
    let refusal = json!({"error": "too_many_requests", "reason": text, "retry_after_ms": 1000});
    let refused = ingress(&guest, &one);
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (429, Some("1"))
    );
    assert_eq!(refused.json(), refusal);
    let list = ingress(&guest, &json!([one, {"routing_key": "none"}]));
    assert_eq!((list.status, list.header("retry-after")), (429, Some("1")));
    assert_eq!(list.json()["results"][0]["status"], 429);
    let body = json!({"routing_key": "q", "payload": "x", "payload_encoding": "string",
        "properties": {}});
    let publish = "/api/exchanges/%2F/amq.default/publish";
    assert_eq!(guest.call("POST", publish, &body.to_string()).status, 429);
    let vhost = guest.get("/api/vhosts/%2F");
    assert_eq!(
        (&vhost["x_message_bytes"], &vhost["x_times_limited"]),
        (&json!(1200), &json!(4))
    );
    guest.done("DELETE", "/api/queues/%2F/q/contents", &json!({}));
    assert_eq!(ingress(&guest, &one).status, 202);
    let wrong = guest.call("PUT", &format!("{LIMITS}/max-bites"), r#"{"value": 1}"#);
    assert_eq!(wrong.status, 400, "{}", wrong.text);
}

#[test]
fn a_client_is_slowed_to_the_rate_and_limits_come_back_with_the_broker() {
    const RATE: u64 = 400;
    const MESSAGES: usize = 1200;
    let folder = Folder::new();
    let mut server = Server::start_http_in(&folder, &[]);
    limit(
        &server.http_as("guest", "guest"),
        "max-publish-rate",
        RATE as i64,
    );
    server.terminate();
    assert!(server.wait().success());
    let server = Server::start_http_in(&folder, &[]);
    let guest = server.http_as("guest", "guest");
    let value = json!({"max-publish-rate": RATE});
    assert_eq!(guest.get(LIMITS)[0]["value"], value);
    assert_eq!(
        guest.get("/api/definitions/%2F")["parameters"][0]["value"],
        value
    );
    let mut client = server.login();
    client.declare(1, "q");
    client.method(1, ConfirmSelect::default());
    client.expect(1, "confirm.select-ok");
    let begun = Instant::now();
    client.send(&message(1, "q", 1, &[b"x"]).concat().repeat(MESSAGES));
    let all = eventually(|| guest.get("/api/queues/%2F/q")["messages"] == MESSAGES);
    let took = begun.elapsed();
    assert!(all, "{}", guest.get("/api/queues/%2F/q")["messages"]);
    // A second's worth comes at once, a batch may be taken before its time, and who waits is looked
    // at now and then.
    let least = Duration::from_millis((MESSAGES as u64 - RATE - 128) * 1000 / RATE);
    assert!(took >= least && took < 4 * least, "{took:?}");
    client.method(0, ConnectionClose::default());
}
