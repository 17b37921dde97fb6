//! What the real binary keeps over a stop, a crash and damage to its files.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use leveret_codec::{
    BasicAck, BasicConsume, BasicGet, BasicPublish, ConfirmSelect, ConnectionCloseOk,
    ExchangeDeclare, Method, Properties, QueueBind, QueueDeclare, QueuePurge,
};
use support::{Client, Folder, Server, declare, encode, leveret, raw_frame};

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
        client.method(1, durable(queue));
        client.expect(1, "queue.declare-ok");
    }
    client.declare(1, "transient");
    let exchange = ExchangeDeclare {
        exchange: b"fan",
        kind: b"fanout",
        durable: true,
        ..Default::default()
    };
    client.method(1, exchange);
    client.expect(1, "exchange.declare-ok");
    for queue in ["a", "b", "transient"] {
        let bind = QueueBind {
            queue: queue.as_bytes(),
            exchange: b"fan",
            ..Default::default()
        };
        client.method(1, bind);
        client.expect(1, "queue.bind-ok");
    }
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
    let purge = QueuePurge {
        queue: b"a",
        nowait: false,
    };
    client.method(1, purge);
    // The answer waits for the disk, and the settlements went before it.
    client.expect(1, "queue.purge-ok");
    publish(&mut client, "", "a", "new", true);
    confirmed(&mut client, 301);
    server.kill();

    let server = Server::start_in(&folder, &[]);
    let mut client = server.login();
    assert_eq!(drain(&mut client, "a"), ["new"]);
    let expected: Vec<_> = (100..300).map(|number| format!("{number}!")).collect();
    assert_eq!(drain(&mut client, "b"), expected);
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
    let second = leveret()
        .args(["--set", r#"amqp.listen=["127.0.0.1:0"]"#, "--data-dir"])
        .arg(folder.path())
        .output()
        .expect("it runs");
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
    let refused = leveret().arg("--data-dir").arg(folder.path()).output();
    let refused = refused.expect("it runs");
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("start the version that wrote it"), "{text}");
    assert_eq!(std::fs::read(&path).expect("it is there"), copy);
    std::fs::write(&path, &before).expect("it can be written");
    Server::start_in(&folder, &[]).login();
}

/// Flips a bit of the only place in the folder where these bytes are.
fn rot(folder: &Folder, needle: &[u8]) {
    for entry in std::fs::read_dir(folder.path()).expect("a folder") {
        let path = entry.expect("an entry").path();
        let mut bytes = std::fs::read(&path).expect("a file");
        let found = bytes.windows(needle.len()).position(|part| part == needle);
        if let Some(at) = found {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).expect("it can be written");
            return;
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
    let refused = leveret().args(strict).arg(folder.path()).output();
    let refused = refused.expect("it runs");
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
