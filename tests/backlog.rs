//! A backlog that is several times what there is memory for: it costs disk, and is served whole and
//! in order.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use leveret_codec::{
    BasicAck, BasicConsume, BasicNack, BasicPublish, ConfirmSelect, Method, Properties,
    QueueDeclare, QueueDelete, QueuePurge, Table, Value,
};
use support::{Client, Folder, Server, declare, encode, eventually, raw_frame};

const MIB: u64 = 1 << 20;
const LITTLE_MEMORY: [&str; 3] = [
    "limits.resident_bytes=\"16 MiB\"",
    "limits.queue_resident_bytes=\"2 MiB\"",
    "limits.disk_free_min=\"64 MiB\"",
];
/// So many messages of 4 KiB are three times what all queues may hold in memory.
const MESSAGES: u32 = 12_000;
const BODY_BYTES: usize = 4096;
/// What the broker may take beyond what it had at first.
const RESIDENT_MAX: u64 = 64 * MIB;
/// What it takes while it reads its journal, a segment at a time; the same for any backlog.
const RECOVERING_MAX: u64 = 192 * MIB;

fn body(number: u32) -> Vec<u8> {
    let mut body = vec![7; BODY_BYTES];
    body[..4].copy_from_slice(&number.to_be_bytes());
    body
}

fn number(body: &[u8]) -> u32 {
    assert_eq!(body.len(), BODY_BYTES);
    assert!(body[4..].iter().all(|byte| *byte == 7));
    u32::from_be_bytes(*body.first_chunk().unwrap())
}

fn publish(queue: &str, number: u32, persistent: bool, expiration: Option<&str>) -> Vec<u8> {
    let body = body(number);
    let mut frames = encode(
        1,
        BasicPublish {
            routing_key: queue.as_bytes(),
            ..Default::default()
        },
    );
    let properties = Properties {
        delivery_mode: persistent.then_some(2),
        expiration: expiration.map(str::as_bytes),
        ..Properties::default()
    };
    let mut header = Vec::new();
    properties.encode(body.len() as u64, &mut header);
    frames.extend(raw_frame(2, 1, &header));
    frames.extend(raw_frame(3, 1, &body));
    frames
}

/// Publishes a backlog with confirms, none of which may be a refusal.
fn fill(client: &mut Client, queue: &str, messages: u32, persistent: bool) {
    fill_from(client, queue, 0..messages, persistent);
}

fn fill_from(client: &mut Client, queue: &str, numbers: Range<u32>, persistent: bool) {
    client.method(1, ConfirmSelect { nowait: false });
    client.expect(1, "confirm.select-ok");
    const BATCH: u32 = 200;
    let begun = numbers.start;
    for first in numbers.clone().step_by(BATCH as usize) {
        let last = numbers.end.min(first + BATCH);
        let frames: Vec<_> = (first..last)
            .flat_map(|number| publish(queue, number, persistent, None))
            .collect();
        client.send(&frames);
        let mut confirmed = 0;
        while confirmed < u64::from(last - begun) {
            let answer = client.next();
            match answer.method() {
                Method::BasicAck(BasicAck { delivery_tag, .. }) => {
                    confirmed = delivery_tag;
                }
                Method::ConnectionBlocked(_) | Method::ConnectionUnblocked(_) => {}
                other => panic!("{} instead of a confirm", other.name()),
            }
        }
    }
}

fn declare_with(client: &mut Client, queue: &str, durable: bool, arguments: &Table) {
    let arguments = arguments.encoded();
    client.method(
        1,
        QueueDeclare {
            durable,
            ..declare(queue, &arguments)
        },
    );
    client.expect(1, "queue.declare-ok");
}

/// Ready messages, as a passive declaration tells.
fn count(client: &mut Client, queue: &str) -> u32 {
    client.method(
        1,
        QueueDeclare {
            passive: true,
            ..declare(queue, &[])
        },
    );
    let answer = client.expect(1, "queue.declare-ok");
    let Method::QueueDeclareOk(told) = answer.method() else {
        unreachable!("the name says so");
    };
    told.message_count
}

fn drain_in_order(client: &mut Client, queue: &str, messages: u32) {
    drain_numbers(client, queue, 0..messages);
}

fn drain_numbers(client: &mut Client, queue: &str, numbers: Range<u32>) {
    client.method(
        1,
        BasicConsume {
            queue: queue.as_bytes(),
            consumer_tag: b"c",
            no_ack: true,
            ..Default::default()
        },
    );
    client.expect(1, "basic.consume-ok");
    for expected in numbers {
        client.expect(1, "basic.deliver");
        assert_eq!(number(&client.read_content(1)), expected);
    }
}

fn a_backlog_is_taken_and_served(persistent: bool) {
    let server = Server::start_http(&LITTLE_MEMORY);
    let before = server.memory("VmRSS");
    let mut client = server.login();
    declare_with(&mut client, "deep", true, &Table::new());
    let begun = Instant::now();
    fill(&mut client, "deep", MESSAGES, persistent);
    println!("{MESSAGES} messages in {:?}", begun.elapsed());
    let page = server.metrics().call("GET", "/metrics/per-object", "").text;
    let paged = page
        .lines()
        .find_map(|line| line.strip_prefix("rabbitmq_queue_messages_paged_out{"))
        .expect("it is told");
    println!("{paged}");
    let begun = Instant::now();
    drain_in_order(&mut server.login(), "deep", MESSAGES);
    println!("drained in {:?}", begun.elapsed());
    let peak = server.memory("VmHWM").saturating_sub(before);
    println!("{} MiB more at most", peak / MIB);
    assert!(peak < RESIDENT_MAX, "{} MiB", peak / MIB);
    let files = || {
        let page = server.metrics().call("GET", "/metrics", "").text;
        let line = page
            .lines()
            .find(|it| it.starts_with("rabbitmq_run_files "));
        line.map(str::to_owned)
    };
    assert!(eventually(|| {
        files().is_some_and(|line| line.ends_with(" 0") || line.ends_with(" 1"))
    }));
}

#[test]
fn a_transient_backlog_beyond_memory_is_taken_and_served_in_order() {
    a_backlog_is_taken_and_served(false);
}

#[test]
fn a_persistent_backlog_beyond_memory_is_taken_and_served_in_order() {
    a_backlog_is_taken_and_served(true);
}

#[test]
fn a_backlog_beyond_memory_comes_back_after_a_kill_without_memory_for_it() {
    let folder = Folder::new();
    let server = Server::start_in(&folder, &LITTLE_MEMORY);
    let mut client = server.login();
    declare_with(&mut client, "deep", true, &Table::new());
    fill(&mut client, "deep", MESSAGES, true);
    server.kill();
    let server = Server::start_in(&folder, &LITTLE_MEMORY);
    let peak = server.memory("VmHWM");
    println!("{} MiB after the start", peak / MIB);
    drain_in_order(&mut server.login(), "deep", MESSAGES);
    assert!(peak < RECOVERING_MAX, "{} MiB", peak / MIB);
}

/// A journal that is to be a fraction of the backlog.
const SHORT_JOURNAL: [&str; 4] = [
    LITTLE_MEMORY[0],
    LITTLE_MEMORY[1],
    LITTLE_MEMORY[2],
    "storage.journal_window=\"16 MiB\"",
];
/// Bytes of journal files there may be then: the window, what is kept free, and segments that wait
/// for checkpoints.
const JOURNAL_MAX: u64 = 64 * MIB;

/// Bytes of the files in a data folder whose names begin so.
fn bytes_of(folder: &Folder, prefix: &str) -> u64 {
    let entries = std::fs::read_dir(folder.path()).unwrap();
    let files = entries.filter_map(|entry| {
        let entry = entry.unwrap();
        let is_one = entry.file_name().to_str().unwrap().starts_with(prefix);
        is_one.then(|| entry.metadata().unwrap().len())
    });
    files.sum()
}

/// Kills the broker while a backlog leaves its journal, again and again: all that was confirmed is
/// there, in order, and the journal is short.
#[test]
fn a_backlog_leaves_the_journal_and_is_there_after_kills() {
    const PART: u32 = MESSAGES / 3;
    let folder = Folder::new();
    for round in 0..3 {
        let server = Server::start_in(&folder, &SHORT_JOURNAL);
        let mut client = server.login();
        if round == 0 {
            declare_with(&mut client, "deep", true, &Table::new());
        }
        assert_eq!(count(&mut client, "deep"), round * PART);
        fill_from(&mut client, "deep", round * PART..(round + 1) * PART, true);
        if round == 1 {
            let is_short = || bytes_of(&folder, "journal-") < JOURNAL_MAX;
            assert!(
                eventually(is_short),
                "{}",
                bytes_of(&folder, "journal-") / MIB
            );
        }
        server.kill();
    }
    println!("{} MiB of journal", bytes_of(&folder, "journal-") / MIB);
    let server = Server::start_in(&folder, &SHORT_JOURNAL);
    let mut client = server.login();
    for expected in 0..PART {
        assert_eq!(number(&client.get(1, "deep")), expected);
    }
    // They are settled. The answer to this waits for the disk.
    declare_with(&mut client, "other", true, &Table::new());
    server.kill();
    let server = Server::start_in(&folder, &SHORT_JOURNAL);
    drain_numbers(&mut server.login(), "deep", PART..MESSAGES);
}

#[test]
fn what_is_on_the_disk_is_got_purged_and_requeued() {
    let server = Server::start_with(&LITTLE_MEMORY);
    let mut client = server.login();
    declare_with(&mut client, "deep", true, &Table::new());
    fill(&mut client, "deep", 6_000, false);
    for expected in 0..2_000 {
        assert_eq!(number(&client.get(1, "deep")), expected);
    }
    // All that is left is handed out, and comes back.
    let mut other = server.login();
    other.method(
        1,
        BasicConsume {
            queue: b"deep",
            consumer_tag: b"c",
            ..Default::default()
        },
    );
    other.expect(1, "basic.consume-ok");
    for expected in 2_000..6_000 {
        other.expect(1, "basic.deliver");
        assert_eq!(number(&other.read_content(1)), expected);
    }
    other.method(
        1,
        BasicNack {
            delivery_tag: 4_000,
            multiple: true,
            requeue: true,
        },
    );
    for expected in 2_000..6_000 {
        other.expect(1, "basic.deliver");
        assert_eq!(number(&other.read_content(1)), expected);
    }
    drop(other);
    assert!(eventually(|| count(&mut client, "deep") == 4_000));
    assert_eq!(number(&client.get(1, "deep")), 2_000);
    client.method(
        1,
        QueuePurge {
            queue: b"deep",
            ..Default::default()
        },
    );
    let purged = client.expect(1, "queue.purge-ok");
    let Method::QueuePurgeOk(purged) = purged.method() else {
        unreachable!("the name says so");
    };
    assert_eq!(purged.message_count, 3_999);
    fill_more(&mut client, 3_000);
    let begun = Instant::now();
    client.method(
        1,
        QueueDelete {
            queue: b"deep",
            ..Default::default()
        },
    );
    client.expect(1, "queue.delete-ok");
    assert!(begun.elapsed() < Duration::from_secs(1));
}

/// More of them, with no look at the confirms.
fn fill_more(client: &mut Client, messages: u32) {
    let frames: Vec<_> = (0..messages)
        .flat_map(|number| publish("deep", number, false, None))
        .collect();
    client.send(&frames);
    let mut confirmed = 0;
    while confirmed < 6_000 + u64::from(messages) {
        let answer = client.expect(1, "basic.ack");
        if let Method::BasicAck(ack) = answer.method() {
            confirmed = ack.delivery_tag;
        }
    }
}

#[test]
fn what_is_on_the_disk_expires_goes_over_the_limit_and_is_dead_lettered() {
    let server = Server::start_with(&LITTLE_MEMORY);
    let mut client = server.login();
    let mut arguments = Table::new();
    arguments.insert("x-dead-letter-exchange", Value::LongString(Vec::new()));
    arguments.insert(
        "x-dead-letter-routing-key",
        Value::LongString(b"dead".to_vec()),
    );
    arguments.insert("x-message-ttl", Value::I32(20_000));
    arguments.insert("x-max-length", Value::I32(4_000));
    declare_with(&mut client, "deep", true, &arguments);
    declare_with(&mut client, "dead", true, &Table::new());
    fill(&mut client, "deep", 6_000, false);
    assert!(eventually(|| count(&mut client, "deep") <= 4_000));
    assert!(eventually(|| count(&mut client, "deep") == 0));
    assert!(eventually(|| count(&mut client, "dead") == 6_000));
    drain_in_order(&mut server.login(), "dead", 6_000);
}

/// Flips a byte in the middle of each run file.
fn damage(folder: &Folder) -> usize {
    let runs = std::fs::read_dir(folder.path().join("runs")).expect("it is there");
    let mut damaged = 0;
    for run in runs {
        let path = run.expect("it is listed").path();
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).open(path).unwrap();
        let middle = file.metadata().unwrap().len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, middle).unwrap();
        file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
        damaged += 1;
    }
    damaged
}

/// Takes messages up to one with this number; their numbers.
fn drain_up_to(client: &mut Client, queue: &str, last: u32) -> Vec<u32> {
    let consume = BasicConsume {
        queue: queue.as_bytes(),
        consumer_tag: b"c",
        no_ack: true,
        ..Default::default()
    };
    client.method(1, consume);
    client.expect(1, "basic.consume-ok");
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        client.expect(1, "basic.deliver");
        numbers.push(number(&client.read_content(1)));
    }
    numbers
}

#[test]
fn what_rots_on_the_disk_is_not_delivered_but_named_and_comes_back_from_the_journal() {
    const MESSAGES: u32 = 5_000;
    let folder = Folder::new();
    let server = Server::start_http_in(&folder, &LITTLE_MEMORY);
    let mut client = server.login();
    declare_with(&mut client, "deep", true, &Table::new());
    fill(&mut client, "deep", MESSAGES, true);
    let asleep = || {
        let row = server.http_as("guest", "guest").get("/api/queues/%2F/deep");
        row["messages_paged_out"].as_u64().unwrap() > 4_000
    };
    assert!(eventually(asleep));
    let sum = |name: &str| {
        let page = server.metrics().call("GET", "/metrics", "").text;
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse::<f64>().ok()).unwrap()
    };
    assert!(eventually(|| {
        let away = sum("rabbitmq_queue_messages_paged_out");
        let bytes = sum("rabbitmq_queue_messages_paged_out_bytes");
        let there = sum("rabbitmq_queue_messages_ready_ram");
        away > 4_000.0 && bytes == away * BODY_BYTES as f64 && away + there == f64::from(MESSAGES)
    }));
    assert!(damage(&folder) > 0);
    let got = drain_up_to(&mut server.login(), "deep", MESSAGES - 1);
    let missing: Vec<_> = (0..MESSAGES).filter(|one| !got.contains(one)).collect();
    assert!(!missing.is_empty() && got.is_sorted());
    let row = server.http_as("guest", "guest").get("/api/queues/%2F/deep");
    assert_eq!(row["x_messages_lost"], missing.len());
    assert_eq!(row["messages"], 0);
    let named = |line: &String| line.contains("ERROR") && line.contains("could not be read back");
    assert!(
        eventually(|| server.log().iter().any(named)),
        "{:?}",
        server.log()
    );
    server.kill();
    let server = Server::start_in(&folder, &LITTLE_MEMORY);
    let last = *missing.last().unwrap();
    let back = drain_up_to(&mut server.login(), "deep", last);
    assert_eq!(back, missing);
}
