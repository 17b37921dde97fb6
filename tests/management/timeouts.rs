//! What is told of deliveries that were not acknowledged in time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use leveret_codec::{BasicAck, BasicConsume};
use serde_json::json;

use crate::support::{PATIENCE, Server, message};

#[test]
fn deliveries_that_time_out_and_what_comes_late_are_counted() {
    let server = Server::start_http(&["limits.consumer_timeout_ms=70000"]);
    let guest = server.http_as("guest", "guest");
    let counts = ("x-consumer-timeout-counts", "x-delivery-limit");
    let arguments = json!({"x-consumer-timeout": 300, counts.0: true, counts.1: 0});
    let declare = json!({"durable": true, "arguments": arguments});
    guest.done("PUT", "/api/queues/%2F/q", &declare);
    guest.done("PUT", "/api/queues/%2F/other", &json!({"durable": true}));
    let queue = guest.get("/api/queues/%2F/other");
    assert_eq!(queue["x_consumer_timeout_ms"], 70_000);
    let ignored = guest.get("/api/x/ignored");
    assert_eq!(ignored, json!([]));

    let mut client = server.login();
    let consume = BasicConsume {
        queue: b"q",
        consumer_tag: b"c",
        ..Default::default()
    };
    client.method(1, consume);
    client.expect(1, "basic.consume-ok");
    let consumers = guest.get("/api/consumers/%2F");
    assert_eq!(consumers[0]["consumer_timeout"], 300);
    client.send(&message(1, "q", 2, &[b"hi"]).concat());
    client.expect(1, "basic.deliver");
    let end = Instant::now() + PATIENCE;
    let queue = loop {
        let queue = guest.get("/api/queues/%2F/q");
        if queue["messages"] == 0 {
            break queue;
        }
        assert!(Instant::now() < end, "{queue}");
        sleep(Duration::from_millis(20));
    };
    assert_eq!(queue["x_consumer_timeout_ms"], 300);
    assert_eq!(queue["x_messages_timed_out"], 1);
    let ack = BasicAck {
        delivery_tag: 1,
        multiple: false,
    };
    client.method(1, ack);
    client.read_content(1);
    // Its answer comes behind that.
    client.method(1, leveret_codec::BasicQos::default());
    client.expect(1, "basic.qos-ok");
    let channels = guest.get("/api/channels");
    let channel = &channels[0];
    assert_eq!(channel["x_messages_timed_out"], 1, "{channels}");
    assert_eq!(channel["x_messages_acknowledged_late"], 1, "{channels}");
    let page = server.metrics().call("GET", "/metrics", "").text;
    for counted in ["timed_out", "acknowledged_late"] {
        let line = page
            .lines()
            .find(|line| line.starts_with(&format!("rabbitmq_global_messages_{counted}_total")));
        assert!(line.is_some_and(|line| line.ends_with(" 1")), "{line:?}");
    }
}
