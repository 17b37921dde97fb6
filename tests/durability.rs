//! What the real binary keeps over a stop, a crash and damage to its files.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use leveret_codec::{
    BasicAck, BasicConsume, BasicGet, BasicPublish, ConfirmSelect, ConnectionCloseOk, ExchangeBind,
    ExchangeDeclare, Method, Properties, QueueBind, QueueDeclare, QueueDelete, QueuePurge,
};
use support::{Client, Folder, Server, declare, encode, leveret, raw_frame, run_to_end};

fn durable(queue: &str) -> QueueDeclare<'_> {
    QueueDeclare {
        durable: true,
        ..declare(queue, &[])
    }
}

fn publish(client: &mut Client, exchange: &str, key: &str, body: &str, persistent: bool) {
    let publish = BasicPublish {
        exchange: exchange.as_bytes(),
        routing_key: key.as_bytes(),
        ..Default::default()
    };
    let mut header = Vec::new();
    let properties = Properties {
        delivery_mode: persistent.then_some(2),
        ..Properties::default()
    };
    properties.encode(body.len() as u64, &mut header);
    client.send(&encode(1, publish));
    client.send(&raw_frame(2, 1, &header));
    client.send(&raw_frame(3, 1, body.as_bytes()));
}

/// Waits for confirms up to this one.
fn confirmed(client: &mut Client, up_to: u64) {
    loop {
        let next = client.next();
        match next.method() {
            Method::BasicAck(ack) if ack.delivery_tag >= up_to => return,
            Method::BasicAck(_) => {}
            other => panic!("{other:?} instead of a confirm"),
        }
    }
}

/// Takes everything out of a queue: each body, with `!` if it was delivered before.
fn drain(client: &mut Client, queue: &str) -> Vec<String> {
    let mut bodies = Vec::new();
    loop {
        let get = BasicGet {
            queue: queue.as_bytes(),
            no_ack: true,
        };
        client.method(1, get);
        let answer = client.next();
        let redelivered = match answer.method() {
            Method::BasicGetOk(got) => got.redelivered,
            Method::BasicGetEmpty(_) => return bodies,
            other => panic!("{other:?} instead of a message"),
        };
        client.next();
        let body = String::from_utf8(client.next().payload).expect("text");
        bodies.push(if redelivered { body + "!" } else { body });
    }
}

/// Takes a message out and does not settle it.
fn take(client: &mut Client, queue: &str) {
    let get = BasicGet {
        queue: queue.as_bytes(),
        no_ack: false,
    };
    client.method(1, get);
    client.expect(1, "basic.get-ok");
    client.next();
    client.next();
}

/// A client that has declared all, and whose publishes are confirmed.
fn confirming(server: &Server) -> Client {
    let mut client = server.login();
    declare_all(&mut client);
    client.method(1, ConfirmSelect { nowait: false });
    client.expect(1, "confirm.select-ok");
    client
}

fn declare_all(client: &mut Client) {
    for queue in ["a", "b"] {
        declare_durable(client, queue);
    }
    client.declare(1, "transient");
    declare_fan(client, "fan", false);
    for queue in ["a", "b", "transient"] {
        bind(client, queue, "fan");
    }
}

/// Declares a durable fanout exchange.
fn declare_fan(client: &mut Client, exchange: &str, auto_delete: bool) {
    let exchange = ExchangeDeclare {
        exchange: exchange.as_bytes(),
        kind: b"fanout",
        durable: true,
        auto_delete,
        ..Default::default()
    };
    client.method(1, exchange);
    client.expect(1, "exchange.declare-ok");
}

fn bind(client: &mut Client, queue: &str, exchange: &str) {
    let bind = QueueBind {
        queue: queue.as_bytes(),
        exchange: exchange.as_bytes(),
        ..Default::default()
    };
    client.method(1, bind);
    client.expect(1, "queue.bind-ok");
}

/// Declares a durable queue; tells how many messages it has.
fn declare_durable(client: &mut Client, queue: &str) -> u32 {
    client.method(1, durable(queue));
    let answer = client.expect(1, "queue.declare-ok");
    let Method::QueueDeclareOk(ok) = answer.method() else {
        unreachable!("the name says so");
    };
    ok.message_count
}

fn purge(client: &mut Client, queue: &str) {
    let purge = QueuePurge {
        queue: queue.as_bytes(),
        nowait: false,
    };
    client.method(1, purge);
    client.expect(1, "queue.purge-ok");
}

fn delete(client: &mut Client, queue: &str) {
    let delete = QueueDelete {
        queue: queue.as_bytes(),
        ..Default::default()
    };
    client.method(1, delete);
    client.expect(1, "queue.delete-ok");
}

#[test]
fn a_stop_keeps_durable_things_and_persistent_messages_in_order() {
    let folder = Folder::new();
    let mut server = Server::start_in(&folder, &[]);
    let mut client = confirming(&server);
    for number in 0..5 {
        publish(&mut client, "fan", "", &format!("{number}"), number != 3);
    }
    publish(&mut client, "", "b", "last", true);
    confirmed(&mut client, 6);
    // One of them is out when the broker stops.
    take(&mut client, "b");
    server.terminate();
    client.expect(0, "connection.close");
    client.method(0, ConnectionCloseOk {});
    assert!(server.wait().success());
    drop(server);

    let server = Server::start_in(&folder, &[]);
    let mut client = server.login();
    assert_eq!(drain(&mut client, "a"), ["0", "1", "2", "4"]);
    assert_eq!(drain(&mut client, "b"), ["0!", "1", "2", "4", "last"]);
    // The binding is there, the queue that was not durable is not.
    publish(&mut client, "fan", "", "after", true);
    assert_eq!(drain(&mut client, "a"), ["after"]);
    let passive = QueueDeclare {
        passive: true,
        ..declare("transient", &[])
    };
    client.method(1, passive);
    client.expect(1, "channel.close");
}

#[test]
fn a_crash_loses_nothing_confirmed_and_brings_nothing_settled_back() {
    let folder = Folder::new();
    let server = Server::start_in(&folder, &[]);
    let mut client = confirming(&server);
    for number in 0..300 {
        publish(&mut client, "fan", "", &format!("{number}"), true);
    }
    confirmed(&mut client, 300);
    let consume = BasicConsume {
        queue: b"b",
        ..Default::default()
    };
    client.method(1, consume);
    client.expect(1, "basic.consume-ok");
    for _ in 0..300 * 3 {
        client.next();
    }
    let ack = BasicAck {
        delivery_tag: 100,
        multiple: true,
    };
    client.method(1, ack);
    // The answer waits for the disk, and the settlements went before it.
    purge(&mut client, "a");
    publish(&mut client, "", "a", "new", true);
    confirmed(&mut client, 301);
    server.kill();

    let server = Server::start_in(&folder, &[]);
    let mut client = server.login();
    assert_eq!(drain(&mut client, "a"), ["new"]);
    let expected: Vec<_> = (100..300).map(|number| format!("{number}!")).collect();
    assert_eq!(drain(&mut client, "b"), expected);
}

/// Numbered messages that were published to `fan`: so many are confirmed.
struct Publisher<'a> {
    client: Client,
    confirmed: &'a AtomicU64,
    /// The number of the first in this life of the broker.
    first: u64,
}

impl Publisher<'_> {
    fn publish_batch(&mut self) {
        const BATCH: u64 = 50;
        let begin = self.confirmed.load(Ordering::SeqCst);
        for number in begin..begin + BATCH {
            publish(&mut self.client, "fan", "", &number.to_string(), true);
        }
        confirmed(&mut self.client, begin + BATCH - self.first);
        self.confirmed.store(begin + BATCH, Ordering::SeqCst);
    }
}

/// Purges, deletes, declares and binds `q` again and again, and may purge it a last time; tells
/// what was confirmed before the last time it was emptied.
fn race(client: &mut Client, published: &AtomicU64, purge_last: bool) -> u64 {
    let mut before_last = 0;
    for _ in 0..20 {
        purge(client, "q");
        before_last = published.load(Ordering::SeqCst);
        delete(client, "q");
        declare_durable(client, "q");
        bind(client, "q", "fan");
    }
    if purge_last {
        before_last = published.load(Ordering::SeqCst);
        purge(client, "q");
    }
    before_last
}

/// Publishes while `q` is purged and deleted, and on for a while; gives what is in `q` at last.
fn publish_in_a_race(server: &Server, confirmed: &AtomicU64, purge_last: bool) -> Vec<String> {
    let mut racer = server.login();
    declare_fan(&mut racer, "fan", false);
    declare_durable(&mut racer, "q");
    bind(&mut racer, "q", "fan");
    let mut publisher = Publisher {
        client: server.login(),
        first: confirmed.load(Ordering::SeqCst),
        confirmed,
    };
    let select = ConfirmSelect { nowait: false };
    publisher.client.method(1, select);
    publisher.client.expect(1, "confirm.select-ok");
    let before_last = thread::scope(|scope| {
        let racing = scope.spawn(|| race(&mut racer, confirmed, purge_last));
        while !racing.is_finished() {
            publisher.publish_batch();
        }
        racing.join().expect("the racer is answered")
    });
    let at_end = confirmed.load(Ordering::SeqCst);
    assert!(at_end > publisher.first, "they did race");
    (0..4).for_each(|_| publisher.publish_batch());
    let end = confirmed.load(Ordering::SeqCst);
    let first = end - u64::from(declare_durable(&mut racer, "q"));
    assert!(
        (before_last..=at_end).contains(&first),
        "{first} is the first, {before_last} were there before the last time, {at_end} then"
    );
    (first..end).map(|number| number.to_string()).collect()
}

#[test]
fn a_crash_leaves_what_was_confirmed_after_the_last_of_many_purges_and_deletes() {
    let folder = Folder::new();
    let confirmed = AtomicU64::new(0);
    let mut expected = Vec::new();
    for life in 0..6 {
        let server = Server::start_in(&folder, &[]);
        if life > 0 {
            assert_eq!(drain(&mut server.login(), "q"), expected, "life {life}");
        }
        expected = publish_in_a_race(&server, &confirmed, life % 2 == 0);
        server.kill();
    }
    let server = Server::start_in(&folder, &[]);
    assert_eq!(drain(&mut server.login(), "q"), expected);
}

/// What a list of the HTTP API names, without what every broker has.
fn listed(server: &Server, what: &str) -> Vec<String> {
    let list = server
        .http_as("guest", "guest")
        .get(&format!("/api/{what}"));
    let fields = ["name", "source", "destination"];
    let list = list.as_array().expect("a list").iter();
    let names = list.map(|one| {
        fields
            .map(|field| one[field].as_str().unwrap_or(""))
            .join(" ")
    });
    names
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty() && !name.starts_with("amq."))
        .collect()
}

fn stop(mut server: Server, orderly: bool) {
    if !orderly {
        return server.kill();
    }
    server.terminate();
    assert!(server.wait().success());
}

#[test]
fn exchanges_that_a_queue_took_with_it_do_not_come_back() {
    for orderly in [false, true] {
        let folder = Folder::new();
        let server = Server::start_http_in(&folder, &[]);
        let mut client = server.login();
        declare_fan(&mut client, "a", true);
        declare_fan(&mut client, "b", true);
        let a_to_b = ExchangeBind {
            source: b"a",
            destination: b"b",
            ..Default::default()
        };
        client.method(1, a_to_b);
        client.expect(1, "exchange.bind-ok");
        declare_durable(&mut client, "q");
        bind(&mut client, "q", "b");
        drop(client);
        stop(server, orderly);

        let server = Server::start_http_in(&folder, &[]);
        let mut client = server.login();
        assert_eq!(listed(&server, "exchanges"), ["a", "b"]);
        assert_eq!(listed(&server, "bindings"), ["q", "a b", "b q"]);
        publish(&mut client, "a", "", "through both", true);
        assert_eq!(drain(&mut client, "q"), ["through both"]);
        delete(&mut client, "q");
        let lists = ["exchanges", "bindings", "queues"];
        let nothing = [const { Vec::<String>::new() }; 3];
        assert_eq!(lists.map(|what| listed(&server, what)), nothing);
        drop(client);
        stop(server, orderly);

        let server = Server::start_http_in(&folder, &[]);
        assert_eq!(lists.map(|what| listed(&server, what)), nothing);
    }
}

#[test]
fn a_committed_transaction_is_whole_after_a_crash_and_another_never_was() {
    let folder = Folder::new();
    let server = Server::start_in(&folder, &[]);
    let mut client = server.login();
    declare_all(&mut client);
    client.method(1, leveret_codec::TxSelect {});
    client.expect(1, "tx.select-ok");
    publish(&mut client, "", "a", "one", true);
    publish(&mut client, "fan", "", "two", true);
    client.method(1, leveret_codec::TxCommit {});
    client.expect(1, "tx.commit-ok");
    take(&mut client, "a");
    let ack = BasicAck {
        delivery_tag: 1,
        multiple: false,
    };
    client.method(1, ack);
    publish(&mut client, "", "b", "three", true);
    // An answer: what came before it was read, and is not committed.
    client.declare(1, "another");
    server.kill();

    let server = Server::start_in(&folder, &[]);
    let mut client = server.login();
    let left = drain(&mut client, "a");
    assert!(
        left.first().is_some_and(|body| body.starts_with("one")),
        "{left:?}"
    );
    assert_eq!(left.get(1).map(String::as_str), Some("two"));
    assert_eq!(drain(&mut client, "b"), ["two"]);
}

#[test]
fn a_folder_in_use_is_refused() {
    let folder = Folder::new();
    let _server = Server::start_in(&folder, &[]);
    let mut second = leveret();
    second
        .args(["--set", r#"amqp.listen=["127.0.0.1:0"]"#, "--data-dir"])
        .arg(folder.path());
    let second = run_to_end(&mut second);
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("another broker (process "), "{text}");
}

#[test]
fn a_folder_of_a_newer_version_is_refused_and_left_alone() {
    let folder = Folder::new();
    drop(Server::start_in(&folder, &[]));
    let path = folder.path().join("FORMAT");
    let before = std::fs::read(&path).expect("it is there");
    let mut copy = before.clone();
    for half in copy.chunks_mut(4096) {
        half[8] = 2;
        let checksum = crc32c::crc32c(&half[..44]);
        half[44..48].copy_from_slice(&checksum.to_le_bytes());
    }
    std::fs::write(&path, &copy).expect("it can be written");
    let refused = run_to_end(leveret().arg("--data-dir").arg(folder.path()));
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("start the version that wrote it"), "{text}");
    assert_eq!(std::fs::read(&path).expect("it is there"), copy);
    std::fs::write(&path, &before).expect("it can be written");
    Server::start_in(&folder, &[]).login();
}

/// Flips a bit of the only place in the folder where these bytes are.
fn rot(folder: &Folder, needle: &[u8]) {
    spoil(folder, needle, |bytes, at| bytes[at] ^= 1);
}

/// Changes the file in which this stands; gives its name.
fn spoil(folder: &Folder, needle: &[u8], how: impl FnOnce(&mut Vec<u8>, usize)) -> String {
    for entry in std::fs::read_dir(folder.path()).expect("a folder") {
        let path = entry.expect("an entry").path();
        let mut bytes = std::fs::read(&path).expect("a file");
        let found = bytes.windows(needle.len()).position(|part| part == needle);
        if let Some(at) = found {
            how(&mut bytes, at);
            std::fs::write(&path, bytes).expect("it can be written");
            let name = path.file_name().expect("a name");
            return name.to_string_lossy().into_owned();
        }
    }
    panic!("nowhere in the folder");
}

#[test]
fn rot_is_told_by_queue_and_message_and_loses_no_more() {
    let folder = Folder::new();
    let server = Server::start_in(&folder, &[]);
    let mut client = confirming(&server);
    for (number, body) in ["first", "needle", "last"].into_iter().enumerate() {
        publish(&mut client, "", "a", body, true);
        confirmed(&mut client, number as u64 + 1);
    }
    server.kill();
    rot(&folder, b"needle");

    let strict = ["--set", "storage.on_corruption=refuse", "--data-dir"];
    let refused = run_to_end(leveret().args(strict).arg(folder.path()));
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("confirmed data is unreadable"), "{text}");

    let server = Server::start_in(&folder, &[]);
    let told = server.log().into_iter().any(|line| {
        line.contains("ERROR") && line.contains("queue 'a' in vhost '/': messages 1 to 1")
    });
    assert!(told, "{:?}", server.log());
    assert_eq!(drain(&mut server.login(), "a"), ["first", "last"]);
}

#[test]
fn a_segment_that_was_cut_off_is_told_and_what_stands_before_is_kept() {
    let folder = Folder::new();
    let server = Server::start_in(&folder, &[]);
    let mut client = confirming(&server);
    for (number, body) in ["first", "needle", "last"].into_iter().enumerate() {
        publish(&mut client, "", "a", body, true);
        confirmed(&mut client, number as u64 + 1);
    }
    server.kill();
    let file = spoil(&folder, b"needle", |bytes, at| bytes.truncate(at));

    let server = Server::start_in(&folder, &[]);
    let log = server.log();
    let line = log.iter().find(|line| line.contains("ERROR"));
    let line = line.unwrap_or_else(|| panic!("{log:?}"));
    assert!(line.contains(&file) && line.contains("ends here"), "{line}");
    assert_eq!(drain(&mut server.login(), "a"), ["first"]);
}

#[test]
fn what_a_cut_segment_held_is_told_by_queue_and_message() {
    let folder = Folder::new();
    let mut server = Server::start_in(&folder, &[]);
    let mut client = confirming(&server);
    for (number, body) in ["first", "needle", "last"].into_iter().enumerate() {
        publish(&mut client, "", "a", body, true);
        confirmed(&mut client, number as u64 + 1);
    }
    // An orderly stop writes down what there is.
    server.terminate();
    assert!(server.wait().success());
    spoil(&folder, b"needle", |bytes, at| bytes.truncate(at));

    let server = Server::start_in(&folder, &[]);
    let told = server.log().into_iter().any(|line| {
        line.contains("ERROR") && line.contains("queue 'a' in vhost '/': messages 1 to 2")
    });
    assert!(told, "{:?}", server.log());
    assert_eq!(drain(&mut server.login(), "a"), ["first"]);
}

#[test]
fn a_first_user_that_comes_too_late_is_told_of() {
    let folder = Folder::new();
    let late = |server: &Server| {
        let log = server.log();
        let lines = log.iter().filter(|line| line.contains("default.user"));
        lines.cloned().collect::<Vec<_>>()
    };
    for (user, is_late) in [
        ("shop", false),
        ("shop", false),
        ("guest", false),
        ("app", true),
    ] {
        let user = format!("default.user={user}");
        let mut server = Server::start_in(&folder, &[&user]);
        let told = late(&server);
        assert_eq!(told.len(), usize::from(is_late), "{user}: {told:?}");
        let as_said = |line: &String| line.contains("WARN") && line.contains("\"app\"");
        assert!(told.iter().all(as_said), "{told:?}");
        server.terminate();
        assert!(server.wait().success());
    }
}

/// Deadlines are judged by the time at the start, also before any client has come.
#[test]
fn queues_and_messages_with_time_left_outlive_a_restart_and_others_do_not() {
    let folder = Folder::new();
    let server = Server::start_in(&folder, &[]);
    let mut client = server.login();
    let with = |name: &'static str, argument: &'static str, ms: i32| {
        let mut arguments = leveret_codec::Table::new();
        arguments.insert(argument, leveret_codec::Value::I32(ms));
        (name, arguments)
    };
    let queues = [
        with("unused", "x-expires", 60_000),
        with("long", "x-message-ttl", 60_000),
        with("short", "x-message-ttl", 1),
    ];
    for (name, arguments) in &queues {
        let arguments = arguments.as_raw();
        client.method(
            1,
            QueueDeclare {
                arguments,
                ..durable(name)
            },
        );
        client.expect(1, "queue.declare-ok");
    }
    client.method(1, ConfirmSelect { nowait: false });
    client.expect(1, "confirm.select-ok");
    publish(&mut client, "", "long", "stays", true);
    publish(&mut client, "", "short", "goes", true);
    publish(&mut client, "", "unused", "stays", true);
    confirmed(&mut client, 3);
    server.kill();
    drop(client);
    let server = Server::start_in(&folder, &[]);
    thread::sleep(std::time::Duration::from_millis(300));
    let mut client = server.login();
    assert_eq!(drain(&mut client, "long"), ["stays"]);
    assert_eq!(drain(&mut client, "unused"), ["stays"]);
    assert_eq!(drain(&mut client, "short"), [""; 0]);
}
