//! Very many consumers: beginning, and leaving all at once.

use std::thread::sleep;
use std::time::{Duration, Instant};

use leveret_codec::{BasicConsume, BasicQos, ChannelOpen, Method, QueueDeclare};

use crate::case::{Case, is_full};
use crate::support::{Client, encode, message};

const OF_CHANNEL: u32 = 10_000;
/// What the consumers of a channel cost, MiB.
const OF_CHANNEL_MIB: u64 = 9;
/// Until all of them are there, and until all of them are gone.
const SOON: Duration = Duration::from_secs(180);

/// Channels of each of two connections: 140,000 consumers, or 200,000.
fn channels() -> u16 {
    if is_full() { 10 } else { 7 }
}

/// Has a connection consume `q` 70,000 times, or 100,000.
fn consume_often(client: &mut Client) {
    for channel in 1..=channels() {
        if channel > 2 {
            client.method(channel, ChannelOpen {});
            client.expect(channel, "channel.open-ok");
        }
        let consume = BasicConsume {
            queue: b"q",
            nowait: true,
            ..Default::default()
        };
        let many = encode(channel, consume).repeat(1000);
        for _ in 0..OF_CHANNEL / 1000 {
            client.send(&many);
        }
    }
    // Its answer comes behind all of them.
    client.method(1, BasicQos::default());
    client.expect(1, "basic.qos-ok");
}

/// How many consumers a queue has.
fn count(client: &mut Client, queue: &str) -> u32 {
    let passive = QueueDeclare {
        queue: queue.as_bytes(),
        passive: true,
        ..Default::default()
    };
    client.method(1, passive);
    match client.expect(1, "queue.declare-ok").method() {
        Method::QueueDeclareOk(ok) => ok.consumer_count,
        other => panic!("{}", other.name()),
    }
}

fn wait_for(client: &mut Client, consumers: u32) {
    let start = Instant::now();
    while count(client, "q") != consumers {
        assert!(start.elapsed() < SOON, "{} consumers", count(client, "q"));
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_connections_with_70_000_consumers_hang_up() {
    let case = Case::start();
    let mut witness = case.server.login();
    witness.declare(1, "q");
    let start = Instant::now();
    let mut peers = [case.server.login(), case.server.login()];
    for peer in &mut peers {
        consume_often(peer);
    }
    let consumers = 2 * u32::from(channels()) * OF_CHANNEL;
    wait_for(&mut witness, consumers);
    let begun = start.elapsed();
    drop(peers);
    let start = Instant::now();
    wait_for(&mut witness, 0);
    let gone = start.elapsed();
    println!("{consumers} consumers: {begun:.1?} to begin, {gone:.1?} to leave");
    // Whoever is left is served.
    witness.send(&message(1, "q", 2, &[b"hi"]).concat());
    assert_eq!(witness.get(1, "q"), b"hi");
    case.end(2 * u64::from(channels()) * OF_CHANNEL_MIB + 2);
}
