//! Publishing, fetching and purging over HTTP.

use serde_json::json;

use crate::peer::{Queue, VHOST, client, name, object};

#[test]
fn published_fetched_and_purged() {
    let (client, queue) = (client(), Queue::declare("queue", None));
    let properties = object(json!({
        "content_type": "text/plain", "delivery_mode": 2, "headers": {"n": 1, "t": "x"},
    }));
    for payload in ["first", "zweite Ärmel", "third"] {
        let properties = properties.clone();
        let routed = client.publish_message(VHOST, "", &queue.name, payload, properties);
        assert!(routed.expect("publish").routed);
    }
    let fetched = client.get_messages(VHOST, &queue.name, 2, "ack_requeue_true");
    let fetched = fetched.expect("get");
    assert_eq!(fetched.len(), 2);
    assert_eq!(fetched[1].payload, "zweite Ärmel");
    assert_eq!(fetched[1].payload_encoding, "string");
    assert_eq!(fetched[0].message_count, 2);
    assert_eq!(fetched[0].properties.0["headers"], properties["headers"]);
    assert_eq!(fetched[0].properties.0["content_type"], "text/plain");
    let again = client.get_messages(VHOST, &queue.name, 1, "ack_requeue_false");
    let again = again.expect("get");
    assert!(again[0].redelivered);
    assert_eq!(again[0].payload, "first");
    client.purge_queue(VHOST, &queue.name).expect("purge");
    let none = client.get_messages(VHOST, &queue.name, 1, "ack_requeue_false");
    assert!(none.expect("get").is_empty());
}

#[test]
fn published_nowhere() {
    let key = name("no-queue");
    let properties = Default::default();
    let routed = client().publish_message(VHOST, "", &key, "x", properties);
    assert!(!routed.expect("publish").routed);
    let nowhere = client().get_messages(VHOST, &key, 1, "ack_requeue_false");
    nowhere.unwrap_err();
}
