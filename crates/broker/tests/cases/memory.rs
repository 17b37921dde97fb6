//! The memory for messages: long queues leave room for others, their publishers wait, and what is
//! refused is counted.

use std::sync::Arc;

use crate::support::{Client, broker_with, message, ready};
use leveret_broker::{Broker, BrokerConfig, Outcome, Reason};
use leveret_codec::{ConfirmSelect, QueuePurge, RawTable, Table, TxCommit, TxSelect, Value};
use leveret_store::InstantStore;

const MIB: u64 = 1 << 20;

fn broker() -> Arc<Broker> {
    let config = BrokerConfig {
        resident_bytes_max: 32 * MIB,
        ..BrokerConfig::default()
    };
    broker_with(config, Arc::new(InstantStore))
}

fn capable(broker: &Arc<Broker>) -> Client {
    let mut capabilities = Table::new();
    capabilities.insert("connection.blocked", Value::Bool(true));
    let mut properties = Table::new();
    properties.insert("capabilities", Value::Table(capabilities));
    Client::with_properties(broker, RawTable::parse(&properties.encoded()).unwrap(), 0)
}

fn some(queue: &str) -> Vec<u8> {
    message(1, ("", queue), &"x".repeat(1000), (false, false)).repeat(50)
}

/// Publishes until the connection has to wait.
fn fill(client: &mut Client, queue: &str) {
    client.declare(1, queue, false);
    let some = some(queue);
    for _ in 0..1000 {
        client.send_unread(&some);
        if client.connection.is_blocked() {
            return;
        }
    }
    panic!("50 MB fit into 32");
}

#[test]
fn long_queues_block_their_publishers_and_leave_room_for_others() {
    let broker = broker();
    let mut hogs: Vec<_> = (0..3).map(|_| capable(&broker)).collect();
    for (hog, queue) in hogs.iter_mut().zip(["h0", "h1", "h2"]) {
        fill(hog, queue);
        let told = ["1 queue.declare-ok", "0 connection.blocked"];
        assert_eq!(hog.hear(), told);
    }
    let mut others: Vec<_> = (0..5).map(|_| capable(&broker)).collect();
    for (other, queue) in others.iter_mut().zip(["o0", "o1", "o2", "o3", "o4"]) {
        other.declare(1, queue, false);
        other.send(&some(queue));
        assert_eq!(ready(&broker, queue), 50);
        assert!(!other.connection.is_blocked());
    }
    assert_eq!(broker.refused.total(Reason::Memory), 0, "nothing is lost");
    let noted = broker.refused.take_noted().places;
    assert!(noted.keys().all(|place| place.outcome == Outcome::Waits));
    assert_eq!(noted.len(), 3, "{noted:?}");

    let [first, second, _] = &mut hogs[..] else {
        unreachable!("there are three");
    };
    first.connection.look_for_room(60_000);
    assert!(first.connection.is_blocked(), "however long it takes");
    let purge = QueuePurge {
        queue: b"h0",
        nowait: true,
    };
    others[0].say(1, purge);
    let before = ready(&broker, "h0");
    first.connection.look_for_room(60_000);
    first.turn();
    assert_eq!(first.hear(), ["0 connection.unblocked"]);
    assert!(ready(&broker, "h0") > before, "what waited is there");
    second.connection.look_for_room(60_000);
    second.turn();
    assert!(!second.connection.is_blocked(), "there is room for all");
}

#[test]
fn in_confirm_mode_a_publisher_waits_and_is_then_refused_and_counted() {
    let broker = broker();
    let mut hog = capable(&broker);
    hog.say(1, ConfirmSelect { nowait: true });
    fill(&mut hog, "h");
    hog.hear();
    hog.connection.look_for_room(1000);
    assert!(hog.connection.is_blocked());
    hog.connection.look_for_room(2002);
    hog.turn();
    let heard = hog.hear();
    assert_eq!(
        heard.first().map(String::as_str),
        Some("0 connection.unblocked")
    );
    let nacks = heard.iter().filter(|heard| heard.contains("nack")).count() as u64;
    assert!(nacks > 0, "{heard:?}");
    assert_eq!(broker.refused.total(Reason::Memory), nacks);
    let vhost = broker.vhost("/").unwrap();
    let cell = vhost.queue("h").unwrap();
    assert_eq!(cell.lock().queue.counters().refused, nacks);
    let noted = broker.refused.take_noted().places;
    let (place, count) = noted.iter().next().unwrap();
    assert_eq!(place.outcome, Outcome::Refused(Reason::Memory));
    assert_eq!((&*place.queue, *count), ("h", nacks));

    let mut committing = Client::new(&broker);
    committing.say(1, TxSelect {});
    committing.publish(1, "h", "x", false);
    committing.say(1, TxCommit {});
    let heard = committing.hear().pop().unwrap();
    assert!(heard.contains("the memory for messages is full"), "{heard}");
    assert_eq!(broker.refused.total(Reason::Memory), nacks + 1);
}

/// What one broker holds, knows of the time and has queues of is nothing to another one.
#[test]
fn two_brokers_in_one_process_share_nothing() {
    let (full, other) = (broker(), broker());
    let (mut hog, mut client) = (capable(&full), capable(&other));
    fill(&mut hog, "h");
    assert!(full.memory.resident_bytes() > 16 * MIB);
    assert_eq!(other.memory.resident_bytes(), 0);
    client.declare(1, "q", false);
    client.send(&some("q"));
    assert!(!client.connection.is_blocked());
    assert_eq!(ready(&other, "q"), 50);
    let held = other.memory.resident_bytes();
    let now_ms = other.now_ms();
    full.set_now(now_ms + 1_000_000);
    let purge = QueuePurge {
        queue: b"h",
        nowait: false,
    };
    // The one who has filled it is not read.
    capable(&full).say(1, purge);
    assert!(full.memory.resident_bytes() < MIB);
    assert_eq!(
        (other.memory.resident_bytes(), other.now_ms()),
        (held, now_ms)
    );
    let names = |broker: &Broker| {
        let vhost = broker.vhost("/").unwrap();
        let directory = vhost.directory.read();
        directory
            .queues()
            .map(|cell| cell.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (names(&full), names(&other)),
        (vec!["h".into()], vec!["q".into()])
    );
    assert_eq!((full.peer_count(), other.peer_count()), (2, 1));
}
