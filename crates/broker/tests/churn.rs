//! What comes and goes leaves no memory behind: bytes of the heap are counted.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::sync::{Arc, Mutex, PoisonError};

use leveret_broker::{Broker, BrokerConfig, Existing, HoldingCounts, Ticker};
use leveret_codec::{
    BasicCancel, BasicConsume, ChannelClose, ConnectionClose, ExchangeDeclare, ExchangeDelete,
    QueueBind, QueueDelete, QueueUnbind, RawTable,
};
use leveret_store::InstantStore;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::{Client, broker_with};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// Both tests count what the whole process does.
static ALONE: Mutex<()> = Mutex::new(());

fn heap_bytes() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Deliveries under way, to a consumer that is cancelled, closed with its channel, or neither.
fn use_queue(client: &mut Client, queue: &str, round: u32) {
    let consume = BasicConsume {
        queue: queue.as_bytes(),
        consumer_tag: b"c",
        nowait: true,
        ..Default::default()
    };
    client.say(2, consume);
    for _ in 0..20 {
        client.publish(1, queue, "a message", true);
        client.hear();
    }
    if round.is_multiple_of(5) {
        let cancel = BasicCancel {
            consumer_tag: b"c",
            nowait: true,
        };
        client.say(2, cancel);
        client.say(2, ChannelClose::default());
    }
}

/// Everything a client can make, made and left behind or taken away in turn.
fn visit(broker: &Arc<Broker>, round: u32) {
    let mut client = Client::new(broker);
    let queue = format!("q{round}");
    client.declare(1, &queue, round.is_multiple_of(2));
    let exchange = format!("x{round}");
    let declare = ExchangeDeclare {
        exchange: exchange.as_bytes(),
        kind: b"topic",
        durable: true,
        nowait: true,
        ..Default::default()
    };
    client.say(1, declare);
    for key in 0..10 {
        let key = format!("key.{key}");
        let bind = QueueBind {
            queue: queue.as_bytes(),
            exchange: exchange.as_bytes(),
            routing_key: key.as_bytes(),
            nowait: true,
            arguments: RawTable::EMPTY,
        };
        client.say(1, bind);
        if round.is_multiple_of(3) {
            let unbind = QueueUnbind {
                queue: queue.as_bytes(),
                exchange: exchange.as_bytes(),
                routing_key: key.as_bytes(),
                arguments: RawTable::EMPTY,
            };
            client.say(1, unbind);
        }
    }
    use_queue(&mut client, &queue, round);
    let delete = QueueDelete {
        queue: queue.as_bytes(),
        nowait: true,
        ..Default::default()
    };
    client.say(1, delete);
    let delete = ExchangeDelete {
        exchange: exchange.as_bytes(),
        if_unused: false,
        nowait: true,
    };
    client.say(1, delete);
    if round.is_multiple_of(7) {
        client.say(0, ConnectionClose::default());
    }
    client.connection.disconnect();
}

fn settle(broker: &Broker) {
    let mut ticker = Ticker::default();
    for now_ms in (0..3000).step_by(250) {
        ticker.tick(broker, now_ms);
    }
}

#[test]
fn memory_comes_back_after_churn_and_after_a_burst() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = broker_with(BrokerConfig::default(), Arc::new(InstantStore));
    for round in 0..500 {
        visit(&broker, round);
    }
    settle(&broker);
    let before = heap_bytes();
    for round in 0..5_000 {
        visit(&broker, round);
    }
    settle(&broker);
    let after = heap_bytes();
    assert!(
        after <= before + before / 10,
        "{before} bytes before, {after} after churn"
    );

    // A burst: much at once, then all of it gone.
    let mut clients: Vec<Client> = (0..2_000).map(|_| Client::new(&broker)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        for part in 0..10 {
            let queue = format!("burst-{number}-{part}");
            client.declare(1, &queue, false);
            client.publish(1, &queue, "a message", false);
        }
        client.hear();
    }
    assert_eq!(broker.events.existing(Existing::Queues), 20_000);
    let during = heap_bytes();
    assert!(during > 5 * before, "{during} bytes at once");
    for (number, client) in clients.iter_mut().enumerate() {
        for part in 0..10 {
            let queue = format!("burst-{number}-{part}");
            let delete = QueueDelete {
                queue: queue.as_bytes(),
                nowait: true,
                ..Default::default()
            };
            client.say(1, delete);
        }
        client.connection.disconnect();
    }
    drop(clients);
    settle(&broker);
    let after = heap_bytes();
    assert!(
        after <= before + before / 10,
        "{before} bytes before, {after} after a burst"
    );

    let vhost = broker.vhost("/").unwrap();
    assert_eq!(vhost.holdings.get(), HoldingCounts::default());
    assert_eq!(broker.peer_count(), 0);
    assert_eq!(broker.events.existing(Existing::Queues), 0);
    assert_eq!(broker.events.existing(Existing::Bindings), 0);
}

/// Tracing that is off copies nothing and keeps nothing: what it costs is one look at a flag for
/// each batch, which the callgrind suite bounds with everything else.
#[test]
fn nothing_is_allocated_for_a_message_unless_it_is_traced() {
    const MESSAGES: usize = 100;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = broker_with(BrokerConfig::default(), Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    let consume = BasicConsume {
        queue: b"q",
        no_ack: true,
        ..Default::default()
    };
    client.say(1, consume);
    let batch = support::optional(1, "q").repeat(MESSAGES);
    let mut allocations = |traced| {
        broker.set_tracing("/", traced).unwrap();
        // What is kept for the next time is there by then.
        for _ in 0..3 {
            client.send(&batch);
            client.take();
        }
        let before = ALLOCATOR.stats().allocations;
        client.send(&batch);
        client.take();
        ALLOCATOR.stats().allocations - before
    };
    let [before, traced, after] = [false, true, false].map(&mut allocations);
    println!("{before}, {traced} traced, {after}");
    assert!(before < MESSAGES / 4 && after < MESSAGES / 4);
    assert!(traced > 4 * MESSAGES, "a publish and a delivery each");
}
