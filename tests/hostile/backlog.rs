//! A tenant whose workers have stopped.

use leveret_codec::BasicConsume;

use crate::case::Case;
use crate::support::{eventually, message};

const BODY: [u8; 4096] = [7; 4096];
/// 64 MiB of them.
const MESSAGES: u32 = 16_000;

/// A queue grows to several times what there is memory for, and is drained. It costs the disk and
/// not the memory, and the bystander does not notice.
#[test]
fn a_backlog_beyond_memory_grows_and_drains_beside_others() {
    let case = Case::start_http(&[
        "limits.resident_bytes=\"24 MiB\"",
        "limits.queue_resident_bytes=\"2 MiB\"",
        "limits.disk_free_min=\"64 MiB\"",
    ]);
    let mut hog = case.server.login();
    hog.declare(1, "deep");
    let some = message(1, "deep", BODY.len() as u64, &[&BODY]).concat();
    for _ in 0..MESSAGES / 50 {
        hog.send(&some.repeat(50));
    }
    let mut watcher = case.server.login();
    assert!(eventually(|| watcher.count(1, "deep") == MESSAGES));
    let page = case.server.metrics().call("GET", "/metrics", "").text;
    let written = page.lines().find_map(|line| {
        let bytes = line.strip_prefix("rabbitmq_run_written_bytes_total ")?;
        bytes.parse::<f64>().ok()
    });
    assert!(written > Some(40e6), "{written:?}");
    let consume = BasicConsume {
        queue: b"deep",
        consumer_tag: b"c",
        no_ack: true,
        ..Default::default()
    };
    let mut worker = case.server.login();
    worker.method(1, consume);
    worker.expect(1, "basic.consume-ok");
    for _ in 0..MESSAGES {
        worker.expect(1, "basic.deliver");
        assert_eq!(worker.read_content(1), BODY);
    }
    drop((hog, worker, watcher));
    case.end(64);
}
