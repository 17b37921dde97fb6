//! While an alarm is on, connections that publish are blocked; all others go on.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::sync::Arc;

use leveret_broker::{Alarm, AlarmState, Broker, BrokerConfig, Measured, Ticker};
use leveret_codec::{
    BasicPublish, Method, Properties, RawTable, Table, TxSelect, Value, header_frame,
};
use leveret_store::{DelayedStore, InstantStore, StoreRefusal};
use support::{Client, broker, broker_with};

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
fn who_has_published_is_blocked_and_told_once_and_all_others_go_on() {
    let broker = broker(Arc::new(InstantStore));
    let (mut publisher, mut silent, mut consumer) =
        (capable(&broker), Client::new(&broker), capable(&broker));
    publisher.publish(1, "nowhere", "x", false);
    silent.publish(1, "nowhere", "x", false);
    publisher.hear();
    silent.hear();

    broker.force_alarm(Alarm::Memory, true);
    broker.force_alarm(Alarm::Disk, true);
    assert_eq!(publisher.hear(), ["0 connection.blocked"]);
    assert!(publisher.connection.is_blocked() && silent.connection.is_blocked());
    assert!(!consumer.connection.is_blocked());
    consumer.declare(1, "q", false);
    assert_eq!(consumer.hear(), ["1 queue.declare-ok"]);

    broker.force_alarm(Alarm::Memory, false);
    assert!(
        publisher.connection.is_blocked(),
        "the disk alarm is still on"
    );
    broker.force_alarm(Alarm::Disk, false);
    assert_eq!(publisher.hear(), ["0 connection.unblocked"]);
    assert!(!publisher.connection.is_blocked() && !silent.connection.is_blocked());
    assert_eq!(silent.hear(), Vec::<String>::new(), "it is not capable");
}

#[test]
fn who_publishes_during_an_alarm_is_blocked_then() {
    let broker = broker(Arc::new(InstantStore));
    broker.force_alarm(Alarm::Memory, true);
    let mut late = capable(&broker);
    late.declare(1, "q", false);
    assert_eq!(late.hear(), ["1 queue.declare-ok"]);
    assert!(!late.connection.is_blocked());
    late.publish(1, "q", "x", false);
    assert_eq!(late.hear(), ["0 connection.blocked"]);
    assert!(late.connection.is_blocked());
}

#[test]
fn a_message_that_is_only_begun_counts() {
    let broker = broker(Arc::new(InstantStore));
    let (mut early, mut late) = (capable(&broker), capable(&broker));
    let mut headers = Table::new();
    headers.insert("long", &*vec![b'x'; 20_000]);
    let properties = Properties {
        headers: Some(headers.as_raw()),
        ..Properties::default()
    };
    // It is too long to be waited for in the read buffer, and its one byte does not come.
    let mut begun = Vec::new();
    Method::from(BasicPublish::default()).encode(1, &mut begun);
    let mut header = Vec::new();
    properties.encode(1, &mut header);
    header_frame(&mut begun, 1, &header);
    early.send(&begun);
    broker.force_alarm(Alarm::Memory, true);
    late.send(&begun);
    for client in [&mut early, &mut late] {
        assert_eq!(client.hear(), ["0 connection.blocked"]);
        assert!(client.connection.is_blocked());
    }
}

#[test]
fn a_publish_in_a_transaction_counts_before_its_commit() {
    let broker = broker(Arc::new(InstantStore));
    let (mut early, mut late) = (capable(&broker), capable(&broker));
    for client in [&mut early, &mut late] {
        client.say(1, TxSelect {});
        assert_eq!(client.hear(), ["1 tx.select-ok"]);
    }
    early.publish(1, "nowhere", "x", false);
    broker.force_alarm(Alarm::Memory, true);
    late.publish(1, "nowhere", "x", false);
    for client in [&mut early, &mut late] {
        assert_eq!(client.hear(), ["0 connection.blocked"]);
        assert!(client.connection.is_blocked());
    }
}

#[test]
fn the_silence_of_a_blocked_client_does_not_kill_it() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::with_properties(&broker, RawTable::EMPTY, 1);
    client.publish(1, "nowhere", "x", false);
    client.hear();
    broker.force_alarm(Alarm::Memory, true);
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
