//! The memory for messages is full.

use leveret_codec::ConfirmSelect;

use crate::case::Case;
use crate::support::{Client, message};

const BODY: [u8; 1000] = [7; 1000];

/// A tenant fills three queues until it is read no more; five others of its virtual host, and the
/// bystander in another one, go on.
#[test]
fn queues_that_fill_the_memory_for_messages_leave_room_for_others() {
    let case = Case::start_http(&[
        "limits.resident_bytes=\"48 MiB\"",
        "limits.queue_resident_bytes=0",
    ]);
    let mut hogs: Vec<Client> = (0..3).map(|_| case.server.login()).collect();
    for (index, hog) in hogs.iter_mut().enumerate() {
        let queue = format!("hog{index}");
        hog.declare(1, &queue);
        hog.send_until_stuck(&message(1, &queue, 1000, &[&BODY]).concat().repeat(50));
    }
    for index in 0..5 {
        let queue = format!("other{index}");
        let mut other = case.server.login();
        other.declare(1, &queue);
        other.method(1, ConfirmSelect { nowait: false });
        other.expect(1, "confirm.select-ok");
        for _ in 0..20 {
            other.send(&message(1, &queue, 1000, &[&BODY]).concat());
            other.expect(1, "basic.ack");
        }
        for _ in 0..20 {
            assert_eq!(other.get(1, &queue), BODY);
        }
    }
    let page = case.server.metrics().call("GET", "/metrics", "").text;
    let refused = "rabbitmq_queue_messages_refused_total{reason=\"memory\"} 0";
    assert!(page.contains(refused), "nothing is lost");
    let alarms = case.server.http_as("guest", "guest");
    let alarms = alarms.call("GET", "/api/health/checks/alarms", "");
    assert_eq!(alarms.status, 200, "{}", alarms.text);
    let told = |line: &String| line.contains("publishers are blocked") && line.contains("hog0");
    assert!(case.server.log().iter().any(told));
    drop(hogs);
    case.end(128);
}
