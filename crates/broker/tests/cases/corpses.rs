//! What queues leave behind when they are deleted, while connections that used them go on.

use std::sync::{Arc, Weak};

use leveret_broker::{Broker, BrokerConfig, Handle, QueueCell};
use leveret_codec::{BasicCancel, BasicConsume, BasicQos, QueueDeclare, QueueDelete};
use leveret_store::InstantStore;

use crate::support::{Client, broker, broker_with, consume, declaration};

/// Far more than any list keeps of what is gone.
const ROUNDS: usize = 1000;
const KEPT_MAX: usize = 64;

fn cell(broker: &Broker, queue: &str) -> Arc<QueueCell> {
    let queue = broker.vhost("/").and_then(|vhost| vhost.queue(queue));
    queue.expect("the queue exists")
}

fn delete(queue: &str) -> QueueDelete<'_> {
    QueueDelete {
        queue: queue.as_bytes(),
        ..Default::default()
    }
}

fn kept<T>(gone: &[Weak<T>]) -> usize {
    gone.iter().filter(|one| one.strong_count() > 0).count()
}

#[test]
fn a_deleted_queue_holds_no_messages() {
    let broker = broker(Arc::new(InstantStore));
    let (mut publisher, mut consumer) = (Client::new(&broker), Client::new(&broker));
    publisher.declare(1, "q", false);
    consumer.say(1, consume("q"));
    for _ in 0..100 {
        publisher.publish(1, "q", &"x".repeat(100), false);
    }
    let cell = cell(&broker, "q");
    assert_eq!(cell.lock().queue.unacked(), 100);
    publisher.say(1, delete("q"));
    assert_eq!(cell.lock().queue.unacked(), 0);
    assert_eq!(cell.lock().queue.resident_bytes(), 0);
    consumer.disconnect();
    assert_eq!(cell.lock().queue.ready(), 0);
}

#[test]
fn a_connection_forgets_exclusive_queues_that_have_ended() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    let mut cells = Vec::new();
    for _ in 0..ROUNDS {
        let declare = QueueDeclare {
            exclusive: true,
            auto_delete: true,
            ..declaration("mine", false)
        };
        client.say(1, declare);
        cells.push(Arc::downgrade(&cell(&broker, "mine")));
        client.say(1, consume("mine"));
        let cancel = BasicCancel {
            consumer_tag: b"tag",
            nowait: false,
        };
        client.say(1, cancel);
        client.hear();
    }
    assert!(kept(&cells) <= KEPT_MAX, "{} are kept", kept(&cells));
}

#[test]
fn a_channel_forgets_consumers_whose_queues_have_ended() {
    let config = BrokerConfig {
        consumers_per_channel_max: 10,
        ..BrokerConfig::default()
    };
    let broker = broker_with(config, Arc::new(InstantStore));
    let (mut client, mut other) = (Client::new(&broker), Client::new(&broker));
    let channels = client.connection.peer().channels();
    let mut cells = Vec::new();
    client.declare(1, "stays", false);
    client.say(1, consume("stays"));
    for round in 0..ROUNDS {
        client.declare(1, "q", false);
        cells.push(Arc::downgrade(&cell(&broker, "q")));
        let consume = BasicConsume {
            queue: b"q",
            ..Default::default()
        };
        client.say(1, consume);
        assert_eq!(channels[0].consumers.get(), 2);
        let deleter = if round % 2 == 0 {
            &mut client
        } else {
            &mut other
        };
        deleter.say(1, delete("q"));
        assert_eq!(channels[0].consumers.get(), 1);
        let heard = client.hear();
        assert!(
            !heard.iter().any(|line| line.contains("close")),
            "{heard:?} in round {round}"
        );
    }
    assert!(kept(&cells) <= KEPT_MAX, "{} are kept", kept(&cells));
}

/// A channel whose prefetch is used up and is not settled.
fn fill(client: &mut Client) {
    let qos = BasicQos {
        prefetch_count: 1,
        global: true,
        ..Default::default()
    };
    client.say(1, qos);
    client.say(1, consume("busy"));
    client.publish(2, "busy", "for whoever comes next", false);
}

/// A consumer of that channel whose queue has something for it, which waits for room therefore.
fn starve(client: &mut Client) -> Weak<Handle> {
    client.declare(2, "q", false);
    client.publish(2, "q", "a message", false);
    let consume = BasicConsume {
        queue: b"q",
        consumer_tag: b"starved",
        nowait: true,
        ..Default::default()
    };
    client.say(1, consume);
    let cell = client.broker.vhost("/").and_then(|vhost| vhost.queue("q"));
    let cell = cell.expect("exists");
    let state = cell.lock();
    assert_eq!(state.queue.ready(), 1);
    Arc::downgrade(state.queue.handles().next().expect("a consumer"))
}

#[test]
fn consumers_that_end_while_they_wait_for_room_are_forgotten() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(2, "busy", false);
    client.publish(2, "busy", "a message", false);
    fill(&mut client);
    // The broker's bytes are not taken from here on: no flush looks for who waits.
    let mut handles = Vec::new();
    for _ in 0..ROUNDS / 4 {
        handles.push(starve(&mut client));
        let cancel = BasicCancel {
            consumer_tag: b"starved",
            nowait: true,
        };
        client.say(1, cancel);
        client.say(2, delete("q"));
        handles.push(starve(&mut client));
        client.say(2, delete("q"));
    }
    assert!(kept(&handles) <= KEPT_MAX, "{} are kept", kept(&handles));
}
