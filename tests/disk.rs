//! The real binary on a disk that is full, and on one that fails.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use leveret_codec::{
    BasicAck, BasicConsume, BasicGet, BasicPublish, ConfirmSelect, Method, Properties,
    QueueDeclare, Table, TxCommit, TxSelect, Value,
};
use serde_json::json;
use support::machine::on_time;
use support::{Client, Folder, PATIENCE, Server, declare, encode, raw_frame};

const BODY_BYTES: usize = 16 * 1024;
/// Exit code after a write or sync of the journal failed.
const JOURNAL_FAILED: i32 = 3;

/// A small file system of its own, gone when dropped.
struct SmallDisk {
    folder: Folder,
}

impl SmallDisk {
    fn mount(mib: u32) -> Self {
        let folder = Folder::new();
        std::fs::create_dir_all(folder.path()).expect("a folder to mount on");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]);
        let output = mount.arg(folder.path()).output().expect("mount can be run");
        assert!(
            output.status.success(),
            "a small tmpfs is mounted, which needs root; run: sudo -E cargo test --test disk\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self { folder }
    }

    fn start(&self, free_min: &str) -> Server {
        let setting = format!("limits.disk_free_min={free_min}");
        Server::start_in(&self.folder, &[&setting])
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        let _ = unmount.arg("--lazy").arg(self.folder.path()).status();
    }
}

/// What the broker has said to a publisher.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Confirmed,
    Refused,
    /// The connection is not read for now; the message is settled later.
    Blocked,
}

/// A publisher in confirm mode, with one message on its way.
struct Publisher {
    client: Client,
    sent: u64,
    /// The number of its first message is one more.
    before: u64,
    body_bytes: usize,
    /// The numbers of the messages that were confirmed, in order.
    confirmed: Vec<u64>,
}

impl Publisher {
    fn new(server: &Server) -> Self {
        let mut capabilities = Table::new();
        capabilities.insert("connection.blocked", Value::Bool(true));
        let mut properties = Table::new();
        properties.insert("capabilities", Value::Table(capabilities));
        let mut client = server.login_with(&properties.encoded(), 0);
        let durable = QueueDeclare {
            durable: true,
            ..declare("full", &[])
        };
        client.method(1, durable);
        client.expect(1, "queue.declare-ok");
        client.method(1, ConfirmSelect { nowait: false });
        client.expect(1, "confirm.select-ok");
        Self {
            client,
            sent: 0,
            before: 0,
            body_bytes: BODY_BYTES,
            confirmed: Vec::new(),
        }
    }

    /// Publishes one message and waits for what the broker says to it.
    fn publish(&mut self, persistent: bool) -> Answer {
        self.send(persistent);
        self.answer()
    }

    fn send(&mut self, persistent: bool) {
        self.sent += 1;
        let properties = Properties {
            delivery_mode: persistent.then_some(2),
            ..Properties::default()
        };
        let publish = BasicPublish {
            routing_key: b"full",
            ..Default::default()
        };
        let mut body = (self.before + self.sent).to_be_bytes().to_vec();
        body.resize(self.body_bytes, b'x');
        let mut header = Vec::new();
        properties.encode(body.len() as u64, &mut header);
        let mut frames = [encode(1, publish), raw_frame(2, 1, &header)].concat();
        for piece in body.chunks(100_000) {
            frames.extend_from_slice(&raw_frame(3, 1, piece));
        }
        self.client.send(&frames);
    }

    /// What the broker says to the last message.
    fn answer(&mut self) -> Answer {
        loop {
            let answer = match self.client.next().method() {
                Method::BasicAck(ack) => (Answer::Confirmed, ack.delivery_tag),
                Method::BasicNack(nack) => (Answer::Refused, nack.delivery_tag),
                Method::ConnectionBlocked(_) => (Answer::Blocked, self.sent),
                Method::ConnectionUnblocked(_) => continue,
                other => panic!("{other:?} instead of a confirm"),
            };
            assert_eq!(answer.1, self.sent);
            if answer.0 == Answer::Confirmed {
                self.confirmed.push(self.before + self.sent);
            }
            return answer.0;
        }
    }

    /// Publishes until the disk is full; how it was told.
    fn fill(&mut self) -> Answer {
        loop {
            let answer = self.publish(true);
            if answer != Answer::Confirmed {
                return answer;
            }
            assert!(self.sent * (BODY_BYTES as u64) < 1 << 30, "never full");
        }
    }

    /// Publishes until a message is confirmed again; its number.
    fn heal(&mut self, mut told: Answer) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while told == Answer::Blocked {
                told = self.answer();
            }
            told = self.publish(true);
            if told == Answer::Confirmed {
                return self.sent;
            }
            let now = Instant::now();
            assert!(now < deadline, "persistent messages stay refused");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Takes all messages there are by consuming, number `last` among them; their numbers.
fn drain(server: &Server, last: u64) -> Vec<u64> {
    let mut client = server.login();
    let consume = BasicConsume {
        queue: b"full",
        ..Default::default()
    };
    client.method(1, consume);
    client.expect(1, "basic.consume-ok");
    let mut numbers = Vec::new();
    loop {
        let next = client.next();
        let tag = match next.method() {
            Method::BasicDeliver(deliver) => deliver.delivery_tag,
            Method::QueueDeclareOk(ok) => {
                assert_eq!(ok.message_count, 0);
                return numbers;
            }
            other => panic!("{other:?} instead of a message"),
        };
        client.next();
        let body = client.next().payload;
        let number = body.first_chunk::<8>().expect("a number in front");
        numbers.push(u64::from_be_bytes(*number));
        let ack = BasicAck {
            delivery_tag: tag,
            multiple: false,
        };
        client.method(1, ack);
        if numbers.last() == Some(&last) {
            // Answered behind what is still being delivered.
            client.method(1, passive());
        }
    }
}

fn passive() -> QueueDeclare<'static> {
    QueueDeclare {
        passive: true,
        ..declare("full", &[])
    }
}

/// Drains the queue: all of `confirmed` is there in order, and at most one message more, which was
/// not answered yet.
fn assert_whole(server: &Server, confirmed: &[u64]) {
    let last = confirmed.last().expect("something was confirmed");
    let mut got = drain(server, *last);
    got.retain(|number| *number != last + 1);
    assert_eq!(got, confirmed);
}

/// Fills the disk, drains it while it is full, and goes on; then once more with a crash while it
/// is full.
fn fill_drain_and_heal(free_min: &str, mib: u32) {
    let disk = SmallDisk::mount(mib);
    let server = disk.start(free_min);
    let mut publisher = Publisher::new(&server);
    let mut told = publisher.fill();
    let filled = publisher.confirmed.len() * BODY_BYTES;
    assert!(filled > 4 << 20, "{filled} bytes, {:?}", server.log());
    let warned = |line: &String| line.contains("WARN") && line.contains("disk");
    assert!(server.log().iter().any(warned), "{:?}", server.log());
    if told == Answer::Refused {
        // What needs no disk is not refused.
        told = publisher.publish(false);
    }
    assert_whole(&server, &publisher.confirmed);
    let healed = publisher.heal(told);
    drain(&server, healed);

    publisher.confirmed.clear();
    publisher.fill();
    server.kill();
    let server = disk.start(free_min);
    assert_whole(&server, &publisher.confirmed);
    let mut publisher = Publisher::new(&server);
    let healed = publisher.heal(Answer::Refused);
    server.kill();
    let server = disk.start(free_min);
    assert_eq!(drain(&server, healed), publisher.confirmed);
}

#[test]
fn a_disk_below_its_floor_refuses_drains_and_heals() {
    fill_drain_and_heal("32MiB", 128);
}

#[test]
fn a_disk_without_a_floor_refuses_at_the_last_byte_drains_and_heals() {
    fill_drain_and_heal("0", 64);
}

#[test]
fn a_very_small_disk_serves_as_well() {
    fill_drain_and_heal("8MiB", 32);
}

/// A broker to which a file that grows too large is an error, not the end.
fn start_with_limited_files(folder: &Folder) -> Server {
    let mut shell = Command::new("/bin/sh");
    shell.current_dir(env!("CARGO_TARGET_TMPDIR")).env_clear();
    shell.args([
        "-c",
        r#"trap '' XFSZ; exec "$@""#,
        "sh",
        env!("CARGO_BIN_EXE_leveret"),
    ]);
    Server::start_from(shell, folder, &[])
}

fn limit_files(server: &Server, bytes: u64) {
    let limit = rustix::process::Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    let resource = rustix::process::Resource::Fsize;
    rustix::process::prlimit(Some(server.pid()), resource, limit).expect("it is ours");
}

#[test]
fn a_failed_write_ends_the_broker_and_nothing_is_confirmed_after_it() {
    let folder = Folder::new();
    let mut server = start_with_limited_files(&folder);
    let mut publisher = Publisher::new(&server);
    for _ in 0..5 {
        assert_eq!(publisher.publish(true), Answer::Confirmed);
    }
    limit_files(&server, 4096);
    publisher.send(true);
    let rest = publisher.client.expect_end();
    // It may be refused, if the journal has noticed before the message came.
    let confirmed = rest.windows(4).any(|bytes| bytes == [0, 60, 0, 80]);
    assert!(!confirmed, "confirmed after the failure: {rest:?}");
    assert_eq!(server.wait().code(), Some(JOURNAL_FAILED));
    let log = server.log();
    let told =
        |line: &String| line.contains("ERROR") && line.contains("nothing more can be confirmed");
    assert!(log.iter().any(told), "{log:?}");
    drop(server);

    let server = Server::start_in(&folder, &[]);
    assert_whole(&server, &publisher.confirmed);
}

/// Without space declarations are refused and nothing waits for ever; an orderly stop ends.
#[test]
fn a_disk_without_any_space_refuses_declarations_and_stops_in_order() {
    let disk = SmallDisk::mount(32);
    let mut server = disk.start("0");
    let mut publisher = Publisher::new(&server);
    publisher.fill();
    // Declarations go on from a part of the reserve until that is used up.
    let mut client = server.login();
    let mut arguments = Table::new();
    arguments.insert("x-note", Value::LongString(vec![b'x'; 10_000]));
    let arguments = arguments.encoded();
    let refused = (0..1_000).any(|number| {
        let name = format!("queue {number}");
        let durable = QueueDeclare {
            durable: true,
            ..declare(&name, &arguments)
        };
        client.method(1, durable);
        match client.next().method() {
            Method::QueueDeclareOk(_) => false,
            Method::ChannelClose(close) => {
                assert_eq!(close.reply_code, 406);
                true
            }
            other => panic!("{other:?} instead of an answer"),
        }
    });
    assert!(refused, "{:?}", server.log());
    server.terminate();
    assert_eq!(server.wait().code(), Some(0), "{:?}", server.log());
    drop(server);
    let server = disk.start("0");
    assert_whole(&server, &publisher.confirmed);
}

/// What is refused or carried out without any wait for space is answered within this time, also by
/// an unoptimised broker that reads 95 MB.
const AT_ONCE: Duration = Duration::from_secs(4);

impl SmallDisk {
    /// Has somebody else write until not one byte is left.
    fn fill_from_outside(&self) {
        let file = std::fs::File::create(self.folder.path().join("outside"));
        let mut file = file.expect("a file can be made");
        let mut piece = 4 << 20;
        while piece > 0 {
            let zeros = vec![0; piece];
            match file.write(&zeros) {
                Ok(written) if written > 0 => {}
                _ => piece /= 2,
            }
        }
    }

    /// What files of the data folder take whose names begin so.
    fn bytes_of(&self, prefix: &str) -> u64 {
        let files = std::fs::read_dir(self.folder.path()).expect("a data folder");
        let files = files.map(|file| file.expect("a file"));
        let ours = files.filter(|file| file.file_name().to_string_lossy().starts_with(prefix));
        ours.map(|file| file.metadata().expect("it is there").len())
            .sum()
    }

    fn remove_what_fills_it(&self) {
        std::fs::remove_file(self.folder.path().join("outside")).expect("it was there");
    }
}

/// A durable declaration is answered at once: carried out, or refused with 406.
fn declare_durably(server: &Server, name: &str) -> Option<String> {
    let begun = Instant::now();
    let mut client = server.login();
    let durable = QueueDeclare {
        durable: true,
        ..declare(name, &[])
    };
    client.method(1, durable);
    let answer = client.next();
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    match answer.method() {
        Method::QueueDeclareOk(_) => None,
        Method::ChannelClose(close) => {
            assert_eq!(close.reply_code, 406);
            Some(String::from_utf8_lossy(close.reply_text).into_owned())
        }
        other => panic!("{other:?} instead of an answer"),
    }
}

/// Takes and acknowledges one message; the answer to what follows it says that it was read.
fn acknowledge_one(server: &Server) -> u64 {
    let mut client = server.login();
    let get = BasicGet {
        queue: b"full",
        no_ack: false,
    };
    client.method(1, get);
    client.expect(1, "basic.get-ok");
    let number = client.read_content(1);
    let ack = BasicAck {
        delivery_tag: 1,
        multiple: false,
    };
    client.method(1, ack);
    client.method(1, passive());
    client.expect(1, "queue.declare-ok");
    u64::from_be_bytes(*number.first_chunk::<8>().expect("a number in front"))
}

/// What a message of 95 MB does not find is said at once, and neither declarations nor
/// acknowledgements wait behind it, also once nothing at all is left; those last.
#[test]
fn a_message_larger_than_the_disk_is_refused_and_nothing_waits_behind_it() {
    on_time(|| {
        let disk = SmallDisk::mount(80);
        let server = disk.start("0");
        let mut publisher = Publisher::new(&server);
        for _ in 0..4 {
            assert_eq!(publisher.publish(true), Answer::Confirmed);
        }
        publisher.body_bytes = 95 << 20;
        let begun = Instant::now();
        assert_eq!(publisher.publish(true), Answer::Refused);
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        assert_eq!(declare_durably(&server, "behind"), None);
        assert_eq!(acknowledge_one(&server), publisher.confirmed.remove(0));
        publisher.body_bytes = BODY_BYTES;
        assert_eq!(publisher.publish(true), Answer::Confirmed);

        disk.fill_from_outside();
        publisher.body_bytes = 95 << 20;
        assert_eq!(publisher.publish(true), Answer::Refused);
        let _answered = declare_durably(&server, "at the last byte");
        assert_eq!(acknowledge_one(&server), publisher.confirmed.remove(0));
        // An acknowledgement that nobody waits for is written within some milliseconds.
        std::thread::sleep(Duration::from_millis(300));
        server.kill();
        let server = disk.start("0");
        assert_whole(&server, &publisher.confirmed);
    });
}

/// Whoever publishes, and whether told or not: counted by queue, by exchange and by reason, and
/// named in the log.
#[test]
fn what_a_full_disk_refuses_is_counted_and_told() {
    let disk = SmallDisk::mount(24);
    let server = Server::start_http_in(&disk.folder, &["limits.disk_free_min=0"]);
    let http = server.http_as("guest", "guest");
    let mut publisher = Publisher::new(&server);
    http.done(
        "POST",
        "/api/bindings/%2F/e/amq.fanout/q/full",
        &json!({"routing_key": ""}),
    );
    publisher.body_bytes = 30 << 20;
    assert_eq!(publisher.publish(true), Answer::Refused);
    let path = "/api/x/publish/%2F/amq.fanout?routing_key=full";
    let answer = http.call_as("POST", path, &"x".repeat(30 << 20), "text/plain");
    assert_eq!(answer.status, 503, "{}", answer.text);
    let mut client = server.login();
    client.method(1, TxSelect {});
    client.expect(1, "tx.select-ok");
    publisher.client = client;
    publisher.send(true);
    publisher.client.method(1, TxCommit {});
    let closed = publisher.client.expect(1, "channel.close");
    let Method::ChannelClose(close) = closed.method() else {
        unreachable!("the name says so");
    };
    let text = String::from_utf8_lossy(close.reply_text);
    assert_eq!(close.reply_code, 406);
    assert!(text.ends_with("the disk is full"), "{text}");

    let queue = http.get("/api/queues/%2F/full");
    assert_eq!(queue["x_messages_refused"], 3, "{queue}");
    for (exchange, refused) in [("amq.default", 2), ("amq.fanout", 1)] {
        let shown = http.get(&format!("/api/exchanges/%2F/{exchange}"));
        assert_eq!(shown["x_messages_refused"], refused, "{shown}");
    }
    let page = server.metrics().call("GET", "/metrics", "").text;
    for (reason, refused) in [("disk", 3), ("length", 0), ("memory", 0)] {
        let name = "rabbitmq_queue_messages_refused_total";
        let line = format!("{name}{{reason=\"{reason}\"}} {refused}\n");
        assert!(page.contains(&line), "{line}{page}");
    }
    let told = |line: &String| {
        let of = ["messages refused", "WARN", "\"full\"", "\"disk\""];
        of.iter().all(|part| line.contains(part))
    };
    let deadline = Instant::now() + PATIENCE;
    while !server.log().iter().any(told) {
        assert!(Instant::now() < deadline, "{:?}", server.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Once a full disk is drained, messages are confirmed again within a second.
#[test]
fn a_drained_disk_heals_within_a_second() {
    on_time(|| {
        let disk = SmallDisk::mount(80);
        let server = disk.start("8MiB");
        let mut publisher = Publisher::new(&server);
        publisher.body_bytes = 100_000;
        for _ in 0..2 {
            let told = publisher.fill();
            let last = *publisher.confirmed.last().expect("some");
            drain(&server, last);
            let drained = Instant::now();
            publisher.heal(told);
            let healed = drained.elapsed();
            assert!(healed < Duration::from_secs(1), "{healed:?}");
        }
    });
}

/// Filled, filled by others, killed, started, drained, removed: and that again and again.
#[test]
fn a_full_disk_lets_every_start_begin() {
    let disk = SmallDisk::mount(64);
    let mut server = disk.start("0");
    for round in 0..4 {
        let mut publisher = Publisher::new(&server);
        publisher.body_bytes = 100_000;
        publisher.heal(Answer::Refused);
        publisher.fill();
        disk.fill_from_outside();
        server.kill();
        server = disk.start("0");
        server.kill();
        server = disk.start("0");
        println!("round {round}: {} messages", publisher.confirmed.len());
        assert_whole(&server, &publisher.confirmed);
        disk.remove_what_fills_it();
    }
}

/// Over HTTP, too, nothing waits for space: what is declared is refused and says why, what is
/// deleted is gone, also after a crash.
#[test]
fn a_full_disk_is_administrated_over_http() {
    on_time(|| {
        let disk = SmallDisk::mount(48);
        let free_min = "limits.disk_free_min=0";
        let server = Server::start_http_in(&disk.folder, &[free_min]);
        let http = server.http_as("guest", "guest");
        let durable = serde_json::json!({"durable": true});
        let user = serde_json::json!({"password": "p", "tags": "x".repeat(10_000)});
        for number in 0..40 {
            http.done("PUT", &format!("/api/queues/%2F/old-{number}"), &durable);
            http.done("PUT", &format!("/api/users/old-{number}"), &user);
        }
        let mut publisher = Publisher::new(&server);
        publisher.fill();
        disk.fill_from_outside();
        for path in [
            "queues/%2F/new",
            "exchanges/%2F/new",
            "users/new",
            "vhosts/new",
        ] {
            let refused = (0..2_000).find_map(|number| {
                let body = match path {
                    "users/new" => user.to_string(),
                    "exchanges/%2F/new" => r#"{"type":"topic","durable":true}"#.to_owned(),
                    _ => durable.to_string(),
                };
                let begun = Instant::now();
                let answer = http.call("PUT", &format!("/api/{path}-{number}"), &body);
                assert!(begun.elapsed() < AT_ONCE, "{path}: {:?}", begun.elapsed());
                (answer.status >= 400).then(|| (answer.status, answer.text.clone()))
            });
            let (status, body) = refused.unwrap_or_else(|| panic!("{path} is never refused"));
            assert_eq!(status, 400, "{body:?}");
            assert!(body.contains("the disk is full"), "{path}: {body}");
        }
        for number in 0..40 {
            http.done(
                "DELETE",
                &format!("/api/queues/%2F/old-{number}"),
                &serde_json::json!({}),
            );
            http.done(
                "DELETE",
                &format!("/api/users/old-{number}"),
                &serde_json::json!({}),
            );
        }
        server.kill();
        let server = Server::start_http_in(&disk.folder, &[free_min]);
        let http = server.http_as("guest", "guest");
        let queues = http.get("/api/queues");
        let names = queues.as_array().expect("a list").iter();
        let names: Vec<_> = names.filter_map(|queue| queue["name"].as_str()).collect();
        assert!(
            names.iter().all(|name| !name.starts_with("old-")),
            "{names:?}"
        );
        assert_whole(&server, &publisher.confirmed);
    });
}

/// Every other one of very many messages is acknowledged: what a checkpoint then has to list is
/// longer than a segment of this disk.
#[test]
fn very_many_scattered_acknowledgements_are_written_on_a_full_disk() {
    on_time(|| {
        const MESSAGES: u64 = 100_000;
        let disk = SmallDisk::mount(64);
        let server = disk.start("0");
        let mut publisher = Publisher::new(&server);
        publisher.body_bytes = 64;
        for _ in 0..MESSAGES {
            publisher.send(true);
        }
        let mut confirmed = 0;
        while confirmed < MESSAGES {
            match publisher.client.next().method() {
                Method::BasicAck(ack) => confirmed = confirmed.max(ack.delivery_tag),
                other => panic!("{other:?} instead of a confirm"),
            }
        }
        disk.fill_from_outside();
        let mut client = server.login();
        let consume = BasicConsume {
            queue: b"full",
            ..Default::default()
        };
        client.method(1, consume);
        client.expect(1, "basic.consume-ok");
        for _ in 0..MESSAGES {
            client.expect(1, "basic.deliver");
            client.read_content(1);
        }
        let mut acks = Vec::new();
        for delivery_tag in (1..=MESSAGES).step_by(2) {
            let ack = BasicAck {
                delivery_tag,
                multiple: false,
            };
            acks.extend_from_slice(&encode(1, ack));
        }
        client.send(&acks);
        client.method(1, passive());
        client.expect(1, "queue.declare-ok");
        std::thread::sleep(Duration::from_secs(1));
        server.kill();
        let server = disk.start("0");
        let expected: Vec<u64> = (1..=MESSAGES).filter(|number| number % 2 == 0).collect();
        assert_eq!(drain(&server, MESSAGES), expected);
    });
}

/// Clients that take every descriptor there is do not keep the journal from new segments.
#[test]
fn a_broker_without_descriptors_for_clients_goes_on_and_confirms() {
    let disk = SmallDisk::mount(128);
    let mut shell = Command::new("/bin/sh");
    shell.current_dir(env!("CARGO_TARGET_TMPDIR")).env_clear();
    let limited = r#"ulimit -n 64; exec "$@""#;
    shell.args(["-c", limited, "sh", env!("CARGO_BIN_EXE_leveret")]);
    let server = Server::start_from(shell, &disk.folder, &["limits.disk_free_min=0"]);
    let mut publisher = Publisher::new(&server);
    let others: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(server.address).expect("the backlog is long"))
        .collect();
    let deadline = Instant::now() + PATIENCE;
    let exhausted = |line: &String| line.contains("cannot accept a connection");
    while !server.log().iter().any(exhausted) {
        assert!(Instant::now() < deadline, "{:?}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let segments = || {
        let files = std::fs::read_dir(disk.folder.path()).expect("a data folder");
        let names = files.map(|file| file.expect("a file").file_name());
        names
            .filter(|name| name.to_string_lossy().starts_with("journal-"))
            .count()
    };
    let before = segments();
    while segments() < before + 6 {
        assert_eq!(publisher.publish(true), Answer::Confirmed);
        assert!(publisher.sent < 4_000, "{before} segments are enough");
    }
    drop(others);
    assert_whole(&server, &publisher.confirmed);
}

/// So little of the memory that a backlog of some megabytes is too much for it.
const LITTLE_MEMORY: [&str; 2] = [
    "limits.resident_bytes=\"24 MiB\"",
    "limits.queue_resident_bytes=\"1 MiB\"",
];

/// What does not fit in memory takes of the disk what the journal does not need: on a full disk it
/// is its own publisher that waits, and persistent messages of others go on. All that was taken is
/// there, and it goes on when there is room.
#[test]
fn a_backlog_that_fills_the_disk_stops_nobody_else_and_loses_nothing() {
    let disk = SmallDisk::mount(256);
    let floor = "limits.disk_free_min=\"16 MiB\"";
    let settings = [&LITTLE_MEMORY[..], &[floor]].concat();
    let server = Server::start_in(&disk.folder, &settings);
    let mut publisher = Publisher::new(&server);
    publisher.body_bytes = 32 << 10;
    let told = loop {
        let answer = publisher.publish(false);
        if answer != Answer::Confirmed {
            break answer;
        }
        assert!(publisher.sent < 16_384, "{:?}", server.log());
    };
    let taken = publisher.sent * publisher.body_bytes as u64;
    assert!(taken > 100 << 20, "{taken} bytes");
    let warned = |line: &String| line.contains("WARN") && line.contains("do not fit in memory");
    assert!(server.log().iter().any(warned), "{:?}", server.log());
    let mut other = server.login();
    declare_durably(&server, "other");
    other.method(1, ConfirmSelect { nowait: false });
    other.expect(1, "confirm.select-ok");
    for _ in 0..20 {
        let publish = BasicPublish {
            routing_key: b"other",
            ..Default::default()
        };
        let properties = Properties {
            delivery_mode: Some(2),
            ..Properties::default()
        };
        let mut header = Vec::new();
        properties.encode(4, &mut header);
        let content = [raw_frame(2, 1, &header), raw_frame(3, 1, b"body")].concat();
        other.send(&[encode(1, publish), content].concat());
        other.expect(1, "basic.ack");
    }
    let mut last = told;
    while last == Answer::Blocked {
        last = publisher.answer();
    }
    let confirmed = std::mem::take(&mut publisher.confirmed);
    assert_whole(&server, &confirmed);
    for _ in 0..2_000 {
        while publisher.publish(false) != Answer::Confirmed {}
    }
    assert_whole(&server, &publisher.confirmed);
}

/// The line that says how much has come back beyond what may be in memory.
fn beyond(server: &Server) -> Option<String> {
    let told = |line: &String| line.contains("WARN") && line.contains("takes no run files");
    server.log().into_iter().find(told)
}

/// What the journal may hold is bounded by what there is memory for: so a start finds room for all
/// of it when the disk has none, also if the backlog is several times as long.
#[test]
fn a_start_with_a_long_backlog_and_a_full_disk_needs_no_more_memory_than_it_may() {
    let disk = SmallDisk::mount(192);
    let floor = "limits.disk_free_min=\"1 MiB\"";
    let settings = ["limits.resident_bytes=\"32 MiB\"", LITTLE_MEMORY[1], floor];
    let mut server = Server::start_in(&disk.folder, &settings);
    let mut publisher = Publisher::new(&server);
    publisher.body_bytes = 100_000;
    for _ in 0..600 {
        assert_eq!(publisher.publish(true), Answer::Confirmed);
    }
    for _ in 0..2 {
        server.kill();
        let journal = disk.bytes_of("journal-");
        assert!(
            journal < 64 << 20,
            "{journal} bytes for a backlog of 57 MiB"
        );
        disk.fill_from_outside();
        server = Server::start_in(&disk.folder, &settings);
        assert_eq!(beyond(&server), None, "{:?}", server.log());
        disk.remove_what_fills_it();
    }
    disk.fill_from_outside();
    assert_whole(&server, &publisher.confirmed);
}

/// A backlog that is in the journal alone, as of an earlier version or with more memory, comes back
/// although it fits neither in memory nor on the disk: it is told, drained, and heals.
#[test]
fn a_start_whose_backlog_has_no_room_on_the_disk_has_it_in_memory() {
    let disk = SmallDisk::mount(192);
    let floor = "limits.disk_free_min=\"1 MiB\"";
    // No run files at all.
    let server = Server::start_in(&disk.folder, &["limits.queue_resident_bytes=0", floor]);
    let mut publisher = Publisher::new(&server);
    publisher.body_bytes = 100_000;
    for _ in 0..300 {
        assert_eq!(publisher.publish(true), Answer::Confirmed);
    }
    server.kill();
    disk.fill_from_outside();
    let little = ["limits.resident_bytes=\"8 MiB\"", LITTLE_MEMORY[1], floor];
    let server = Server::start_in(&disk.folder, &little);
    assert!(beyond(&server).is_some(), "{:?}", server.log());
    server.kill();
    let server = Server::start_in(&disk.folder, &little);
    let mut confirmed = publisher.confirmed;
    let mut publisher = Publisher::new(&server);
    publisher.before = confirmed.len() as u64;
    let told = publisher.publish(true);
    assert_ne!(told, Answer::Confirmed);
    disk.remove_what_fills_it();
    publisher.heal(told);
    confirmed.append(&mut publisher.confirmed);
    assert_whole(&server, &confirmed);
}

impl SmallDisk {
    /// Has somebody else make files until there can be no more.
    fn take_all_names(&self) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "remount,nr_inodes=200"]);
        let output = mount.arg(self.folder.path()).output().expect("mount");
        assert!(output.status.success(), "{output:?}");
        let name = |number| self.folder.path().join(format!("outside-{number}"));
        let made = (0..400).take_while(|number| std::fs::File::create(name(*number)).is_ok());
        assert!(made.count() < 400);
    }
}

/// A start has no need of the folder for run files, which older versions did not make.
#[test]
fn a_disk_that_takes_no_folder_lets_a_start_begin() {
    let disk = SmallDisk::mount(32);
    let server = disk.start("0");
    let mut publisher = Publisher::new(&server);
    publisher.body_bytes = 100_000;
    publisher.fill();
    server.kill();
    std::fs::remove_dir(disk.folder.path().join("runs")).expect("it has no run files");
    disk.fill_from_outside();
    disk.take_all_names();
    let server = disk.start("0");
    assert_whole(&server, &publisher.confirmed);
}
