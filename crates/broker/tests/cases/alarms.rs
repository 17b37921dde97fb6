//! While an alarm is on, connections that publish are blocked; all others go on.

use std::sync::Arc;

use crate::support::store::DelayedStore;
use crate::support::{self, Client, broker, broker_with};
use leveret_broker::{Alarm, AlarmState, Broker, BrokerConfig, Measured, Ticker};
use leveret_codec::{
    BasicAck, BasicGet, BasicPublish, Method, Properties, RawTable, Table, TxCommit, TxSelect,
    Value, header_frame,
};
use leveret_store::{InstantStore, StoreRefusal};

fn capable(broker: &Arc<Broker>) -> Client {
    let mut capabilities = Table::new();
    capabilities.insert("connection.blocked", Value::Bool(true));
    let mut properties = Table::new();
    properties.insert("capabilities", Value::Table(capabilities));
    Client::with_properties(broker, RawTable::parse(&properties.encoded()).unwrap(), 0)
}

const MIB: u64 = 1 << 20;

/// A broker whose alarms are at 1000 MiB of memory and of free disk.
fn small() -> Arc<Broker> {
    let config = BrokerConfig {
        memory_limit_bytes: 2000 * MIB,
        memory_high_watermark: 0.5,
        disk_free_min: 1000 * MIB,
        ..BrokerConfig::default()
    };
    broker_with(config, Arc::new(InstantStore))
}

/// A message for `q`.
fn publish(body: &str) -> Vec<u8> {
    support::message(1, ("", "q"), body, (false, false))
}

fn ready(broker: &Broker) -> u64 {
    support::ready(broker, "q")
}

fn unacked(broker: &Broker) -> u64 {
    let queue = broker.vhost("/").and_then(|vhost| vhost.queue("q"));
    let queue = queue.expect("the queue exists");
    queue.lock().queue.unacked()
}

fn measure(broker: &Broker, memory: u64, disk: u64) {
    broker.measure(Measured {
        memory_bytes: Some(memory * MIB),
        disk_free_bytes: Some(disk * MIB),
    });
}

#[test]
fn a_store_without_space_raises_the_disk_alarm_whatever_is_measured() {
    let store = Arc::new(DelayedStore::default());
    let broker = broker(store.clone());
    let disk = || broker.alarms().map(|alarm| alarm.active);
    store.refuse(Some(StoreRefusal::DiskFull));
    measure(&broker, 0, u64::MAX / MIB);
    assert_eq!(disk(), Alarm::ALL.map(|alarm| alarm == Alarm::Disk));
    store.refuse(None);
    measure(&broker, 0, u64::MAX / MIB);
    assert_eq!(disk(), [false, false]);
}

#[test]
fn who_published_before_is_blocked_when_it_publishes_next_and_served_until_then() {
    let broker = broker(Arc::new(InstantStore));
    let (mut publisher, mut silent) = (capable(&broker), Client::new(&broker));
    publisher.declare(1, "q", false);
    for client in [&mut publisher, &mut silent] {
        client.publish(1, "q", "x", false);
        client.hear();
    }
    broker.force_alarm(Alarm::Memory, true);
    assert!(publisher.hear().is_empty(), "an alarm alone is not told");
    assert!(!publisher.connection.is_blocked());
    let get = BasicGet {
        queue: b"q",
        no_ack: false,
    };
    publisher.say(1, get);
    assert_eq!(publisher.hear(), ["1 basic.get-ok", "body x"]);
    assert_eq!(unacked(&broker), 1);
    publisher.say(
        1,
        BasicAck {
            delivery_tag: 1,
            multiple: false,
        },
    );
    assert_eq!(unacked(&broker), 0, "it is settled");

    for client in [&mut publisher, &mut silent] {
        client.send_unread(&publish("late"));
        assert!(client.connection.is_blocked());
    }
    assert_eq!(publisher.hear(), ["0 connection.blocked"]);
    assert!(silent.hear().is_empty(), "it is not capable");
    broker.force_alarm(Alarm::Disk, true);
    broker.force_alarm(Alarm::Memory, false);
    assert!(publisher.hear().is_empty(), "the disk alarm is still on");
    assert!(publisher.connection.is_blocked() && silent.connection.is_blocked());
    assert_eq!(ready(&broker), 1, "nothing was routed meanwhile");
    broker.force_alarm(Alarm::Disk, false);
    assert_eq!(publisher.hear(), ["0 connection.unblocked"]);
    assert!(silent.hear().is_empty(), "it is not capable");
    for client in [&mut publisher, &mut silent] {
        assert!(!client.connection.is_blocked());
        client.turn();
    }
    assert_eq!(ready(&broker), 3);
}

#[test]
fn nothing_of_a_read_is_routed_during_an_alarm_also_for_a_new_connection() {
    let broker = broker(Arc::new(InstantStore));
    let mut consumer = capable(&broker);
    consumer.declare(1, "q", false);
    broker.force_alarm(Alarm::Memory, true);
    let mut late = capable(&broker);
    late.send_unread(&publish("x").repeat(500));
    assert_eq!(late.hear(), ["0 connection.blocked"]);
    late.send_unread(&[]);
    assert_eq!(ready(&broker), 0);
    assert_eq!(consumer.hear(), ["1 queue.declare-ok"]);
    consumer.declare(1, "q", false);
    assert_eq!(consumer.hear(), ["1 queue.declare-ok"], "others are served");
    broker.force_alarm(Alarm::Memory, false);
    late.turn();
    assert_eq!(ready(&broker), 500);
}

#[test]
fn what_comes_before_a_publish_in_the_same_read_is_done() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = capable(&broker);
    broker.force_alarm(Alarm::Memory, true);
    let mut bytes = Vec::new();
    Method::from(support::declaration("q", false)).encode(1, &mut bytes);
    bytes.extend(publish("x"));
    Method::from(TxSelect {}).encode(2, &mut bytes);
    client.send_unread(&bytes);
    assert_eq!(
        client.hear(),
        ["1 queue.declare-ok", "0 connection.blocked"]
    );
    broker.force_alarm(Alarm::Memory, false);
    client.turn();
    assert_eq!(client.hear(), ["0 connection.unblocked", "2 tx.select-ok"]);
    assert_eq!(ready(&broker), 1);
}

/// The method and content header of a message whose body has yet to come: it is too long to be
/// waited for in the read buffer.
fn begun(body_bytes: u64) -> Vec<u8> {
    let mut headers = Table::new();
    headers.insert("long", &*vec![b'x'; 20_000]);
    let properties = Properties {
        headers: Some(headers.as_raw()),
        ..Properties::default()
    };
    let publish = BasicPublish {
        routing_key: b"q",
        ..BasicPublish::default()
    };
    let mut begun = Vec::new();
    Method::from(publish).encode(1, &mut begun);
    let mut header = Vec::new();
    properties.encode(body_bytes, &mut header);
    header_frame(&mut begun, 1, &header);
    begun
}

#[test]
fn a_message_that_comes_in_parts_waits_wherever_it_is_interrupted() {
    let broker = broker(Arc::new(InstantStore));
    let (mut early, mut late, mut last) = (capable(&broker), capable(&broker), capable(&broker));
    early.declare(1, "q", false);
    early.hear();
    let body = |byte: &[u8]| {
        let mut frame = vec![3, 0, 1, 0, 0, 0, 1];
        frame.extend_from_slice(byte);
        frame.push(0xce);
        frame
    };
    early.send(&begun(2));
    last.send(&begun(1));
    broker.force_alarm(Alarm::Memory, true);
    assert!(!early.connection.is_blocked());
    early.send_unread(&body(b"a"));
    late.send_unread(&[begun(1), body(b"b")].concat());
    last.send_unread(&body(b"c"));
    for client in [&mut early, &mut late, &mut last] {
        assert_eq!(client.hear(), ["0 connection.blocked"]);
        assert!(client.connection.is_blocked());
        client.send_unread(&[]);
    }
    assert_eq!(ready(&broker), 0);
    broker.force_alarm(Alarm::Memory, false);
    for client in [&mut early, &mut late, &mut last] {
        client.turn();
    }
    early.send(&body(b"d"));
    assert_eq!(ready(&broker), 3);
}

#[test]
fn a_publish_in_a_transaction_waits_and_its_commit_too() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = capable(&broker);
    client.declare(1, "q", false);
    client.say(1, TxSelect {});
    client.hear();
    broker.force_alarm(Alarm::Memory, true);
    let mut bytes = publish("x");
    Method::from(TxCommit {}).encode(1, &mut bytes);
    client.send_unread(&bytes);
    assert_eq!(client.hear(), ["0 connection.blocked"]);
    broker.force_alarm(Alarm::Memory, false);
    client.turn();
    assert_eq!(client.hear(), ["0 connection.unblocked", "1 tx.commit-ok"]);
    assert_eq!(ready(&broker), 1);
}

#[test]
fn what_a_client_left_that_hung_up_is_read_to_its_end() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = capable(&broker);
    client.declare(1, "q", false);
    broker.force_alarm(Alarm::Memory, true);
    client.send_unread(&publish("x"));
    client.connection.hang_up();
    client.turn();
    assert_eq!(ready(&broker), 1);
}

#[test]
fn the_silence_of_a_blocked_client_does_not_kill_it() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::with_properties(&broker, RawTable::EMPTY, 1);
    client.declare(1, "q", false);
    client.hear();
    broker.force_alarm(Alarm::Memory, true);
    client.send_unread(&publish("x"));
    let mut ticker = Ticker::default();
    for now_ms in (0..60_000).step_by(250) {
        ticker.tick(&broker, now_ms);
    }
    assert!(!client.connection.peer().is_dead());
    let heard = client.hear();
    assert!(heard.is_empty(), "only heartbeats: {heard:?}");
    broker.force_alarm(Alarm::Memory, false);
    for now_ms in (60_000..70_000).step_by(250) {
        ticker.tick(&broker, now_ms);
    }
    assert!(client.connection.peer().is_dead(), "it counts again");
}

#[test]
fn alarms_follow_what_is_measured_and_do_not_flicker() {
    let broker = small();
    let states = |broker: &Broker| broker.alarms().map(|AlarmState { active, .. }| active);
    for (memory, disk, expected) in [
        (1000, 1000, [false, false]),
        (1001, 1000, [true, false]),
        (990, 1000, [true, false]),
        (949, 999, [false, true]),
        (949, 1020, [false, true]),
        (949, 1050, [false, false]),
    ] {
        measure(&broker, memory, disk);
        assert_eq!(states(&broker), expected, "{memory} used, {disk} free");
    }
    measure(&broker, 500, 2000);
    assert_eq!(states(&broker), [false, false]);
    for (watermark, on) in [(0.1, true), (0.5, false), (0.1, true)] {
        broker.set_memory_high_watermark(watermark);
        assert_eq!(states(&broker), [on, false], "without another measurement");
    }
    // Messages of the tests beside this one are in the account too.
    assert_eq!(broker.memory_used().div_ceil(MIB), 500);
    assert_eq!(broker.memory_alarm_bytes(), 200 * MIB);
    broker.measure(Measured::default());
    assert_eq!(states(&broker), [true, false], "nothing new is known");
}
