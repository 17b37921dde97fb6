//! Messages that are begun and not completed, and transactions that are not committed: over the
//! budget, and without progress, those who hold them are closed and nobody else.

use std::sync::Arc;

use crate::support::{self, Client, broker_with};
use leveret_broker::{Alarm, Broker, BrokerConfig, Ticker, UnfinishedClosed};
use leveret_codec::{BasicPublish, ChannelClose, Method, TxRollback, TxSelect, header_frame};
use leveret_store::InstantStore;

const KIB: u64 = 1024;
const CLOSED: &str = "0 close 506 RESOURCE_ERROR";

fn broker(unfinished_bytes_max: u64) -> Arc<Broker> {
    let config = BrokerConfig {
        unfinished_bytes_max,
        body_timeout_ms: 60_000,
        ..BrokerConfig::default()
    };
    broker_with(config, Arc::new(InstantStore))
}

/// The beginning of a message on channel 1, of `size` bytes, of which so many are sent.
fn begun(size: u64, sent: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let publish = BasicPublish {
        routing_key: b"q",
        ..BasicPublish::default()
    };
    Method::from(publish).encode(1, &mut bytes);
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&size.to_be_bytes());
    header.extend_from_slice(&[0, 0]);
    header_frame(&mut bytes, 1, &header);
    for part in vec![7; sent].chunks(64 << 10) {
        bytes.extend(body(part));
    }
    bytes
}

fn body(part: &[u8]) -> Vec<u8> {
    let mut bytes = vec![3, 0, 1];
    bytes.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(part);
    bytes.push(0xce);
    bytes
}

fn is_closed(client: &mut Client) -> bool {
    client.turn();
    client.hear().iter().any(|heard| heard.contains(CLOSED))
}

#[test]
fn over_the_budget_who_holds_most_for_longest_is_closed_and_frees_an_eighth() {
    let broker = broker(1000 * KIB);
    let mut attackers: Vec<_> = (0..6).map(|_| Client::new(&broker)).collect();
    for client in &mut attackers {
        client.send_at(&begun(10_000 * KIB, 150 << 10), 1);
    }
    let mut honest = Client::new(&broker);
    honest.declare(1, "q", false);
    honest.hear();
    // It holds more than any of them, but only just.
    honest.send_at(&begun(400 * KIB, 200 << 10), 60_000);
    honest.send_at(&body(&[7; 100 << 10]).repeat(2), 60_001);
    let closed = attackers
        .iter_mut()
        .filter_map(|client| is_closed(client).then_some(()));
    let closed = closed.count() as u64;
    assert!((1..=5).contains(&closed), "{closed}");
    assert!(!is_closed(&mut honest));
    assert_eq!(support::ready(&broker, "q"), 1);
    assert!(broker.unfinished_bytes() <= 1000 * KIB);
    let expected = UnfinishedClosed {
        over_budget: closed,
        stalled: 0,
    };
    assert_eq!(broker.unfinished_closed(), expected);
    for client in attackers {
        client.disconnect();
    }
    assert_eq!(broker.unfinished_bytes(), 0, "nothing is counted for ever");
}

#[test]
fn transactions_and_halves_of_large_frames_count_until_they_are_over() {
    let broker = broker(u64::MAX);
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    client.say(1, TxSelect {});
    client.hear();
    client.publish(1, "q", &"x".repeat(10_000), false);
    assert!((10_000..12_000).contains(&broker.unfinished_bytes()));
    client.say(1, TxRollback {});
    assert_eq!(broker.unfinished_bytes(), 0);
    client.publish(1, "q", &"x".repeat(10_000), false);
    client.say(
        1,
        ChannelClose {
            reply_code: 200,
            reply_text: b"",
            class_id: 0,
            method_id: 0,
        },
    );
    assert_eq!(broker.unfinished_bytes(), 0);

    let mut half = Client::new(&broker);
    let frame = body(&[7; 50_000]);
    half.send_unread(&begun(50_000, 0));
    half.send_unread(&frame[..40_000]);
    assert!(broker.unfinished_bytes() >= 40_000);
    half.disconnect();
    assert_eq!(broker.unfinished_bytes(), 0);
}

#[test]
fn a_message_without_progress_is_closed_whatever_else_its_client_sends() {
    let broker = broker(u64::MAX);
    let mut ticker = Ticker::default();
    let (mut stalled, mut slow) = (Client::new(&broker), Client::new(&broker));
    let (mut blocked, mut staging) = (Client::new(&broker), Client::new(&broker));
    staging.say(1, TxSelect {});
    staging.publish(1, "q", "x", false);
    for client in [&mut stalled, &mut slow, &mut blocked] {
        client.send_at(&begun(100_000, 10), 1);
    }
    let heartbeat = [8, 0, 0, 0, 0, 0, 0, 0xce];
    for seconds in 1..=58 {
        stalled.send_at(&heartbeat, seconds * 1000);
        ticker.tick(&broker, seconds * 1000);
    }
    // A part of a frame is progress, too.
    slow.send_at(&body(b"x")[..7], 58_000);
    broker.force_alarm(Alarm::Memory, true);
    blocked.send_at(&body(b"x"), 58_000);
    for seconds in 59..=110 {
        ticker.tick(&broker, seconds * 1000);
    }
    broker.force_alarm(Alarm::Memory, false);
    for (client, expected) in [
        (&mut stalled, true),
        (&mut slow, false),
        (&mut blocked, false),
        (&mut staging, false),
    ] {
        client.connection.receive(&[], 110_000);
        let heard = client.hear();
        let closed = heard.iter().any(|heard| heard.contains(CLOSED));
        assert_eq!(closed, expected, "{heard:?}");
    }
    assert_eq!(broker.unfinished_closed().stalled, 1);
}
