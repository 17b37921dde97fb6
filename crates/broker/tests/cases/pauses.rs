//! When a connection is not read, and how long that may last.

use std::sync::Arc;

use crate::support::store::DelayedStore;
use crate::support::{Client, broker_with, consume};
use leveret_broker::{Broker, BrokerConfig, Pause, Ticker};
use leveret_codec::RawTable;
use leveret_store::{InstantStore, Store};

/// A broker that keeps 100 bytes of replies for a client.
fn small(store: Arc<dyn Store>) -> Arc<Broker> {
    let config = BrokerConfig {
        reply_bytes_max: 100,
        ..BrokerConfig::default()
    };
    broker_with(config, store)
}

/// Ticks for so many seconds from a time, with what the client's reader does in a pause.
fn wait(ticker: &mut Ticker, broker: &Broker, client: &mut Client, (from_ms, seconds): (u64, u64)) {
    for now_ms in (from_ms..from_ms + seconds * 1000).step_by(250) {
        client.connection.pause(true, now_ms);
        ticker.tick(broker, now_ms);
    }
}

#[test]
fn the_silence_of_a_client_that_is_not_read_does_not_kill_it() {
    let store = Arc::new(DelayedStore::default());
    let broker = small(store.clone());
    for pause in [Pause::Replies, Pause::Disk] {
        let mut client = Client::with_properties(&broker, RawTable::EMPTY, 1);
        client.declare(1, "q", true);
        store.release();
        client.hear();
        assert_eq!(client.connection.pause(true, 0), None);
        if pause == Pause::Replies {
            (0..10).for_each(|_| client.declare(1, "q", true));
        } else {
            client.publish(1, "q", &"x".repeat(9 << 20), true);
        }
        assert_eq!(client.connection.pause(true, 0), Some(pause));
        let mut ticker = Ticker::default();
        wait(&mut ticker, &broker, &mut client, (0, 60));
        assert!(!client.connection.peer().is_dead(), "{pause:?}");
        client.hear();
        store.release();
        wait(&mut ticker, &broker, &mut client, (60_000, 10));
        assert!(client.connection.peer().is_dead(), "it counts again");
    }
}

#[test]
fn a_client_that_takes_nothing_of_its_replies_is_given_up() {
    let broker = small(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    let mut ticker = Ticker::default();
    for (from_ms, seconds, dead) in [(0, 100, false), (100_000, 100, false), (200_000, 125, true)] {
        (0..10).for_each(|_| client.declare(1, "q", false));
        wait(&mut ticker, &broker, &mut client, (from_ms, seconds));
        assert_eq!(client.connection.peer().is_dead(), dead, "{from_ms}");
        client.hear();
    }
}

#[test]
fn a_client_is_read_while_a_large_delivery_is_on_its_way_to_it() {
    let broker = small(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    client.say(1, consume("q"));
    client.hear();
    client.publish(2, "q", &"x".repeat(100_000), false);
    assert!(client.connection.peer().outlet.lock().queued() > 100_000);
    assert_eq!(client.connection.pause(true, 0), None);
    client.hear();
    client.publish(2, "q2", &"x".repeat(1000), false);
    assert_eq!(
        client.connection.pause(true, 0),
        Some(Pause::Replies),
        "what comes back is a reply"
    );
}
