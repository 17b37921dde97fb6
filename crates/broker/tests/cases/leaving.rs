//! What connections and channels held when they ended.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use leveret_broker::{Broker, QueueCell};
use leveret_codec::{
    BasicAck, BasicConsume, BasicGet, BasicQos, ChannelClose, Method, QueueDeclare, QueueDelete,
    RawTable, Table, Value,
};
use leveret_store::InstantStore;

use crate::support::store::DelayedStore;
use crate::support::{Client, broker, connect, declaration};

/// Waits for another thread, which may not come so far.
fn wait_for(mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_millis(500);
    while !reached() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}

fn consume<'a>(queue: &'a str, tag: &'a str, no_ack: bool) -> BasicConsume<'a> {
    BasicConsume {
        queue: queue.as_bytes(),
        consumer_tag: tag.as_bytes(),
        no_ack,
        ..Default::default()
    }
}

fn prefetch(prefetch_count: u16) -> BasicQos {
    BasicQos {
        prefetch_count,
        ..Default::default()
    }
}

fn cell(broker: &Broker, queue: &str) -> Arc<QueueCell> {
    let queue = broker.vhost("/").and_then(|vhost| vhost.queue(queue));
    queue.expect("the queue exists")
}

/// Ready and unacknowledged messages of a queue.
fn counts(broker: &Broker, queue: &str) -> (u64, u64) {
    let queue = cell(broker, queue);
    let state = queue.lock();
    (state.queue.ready(), state.queue.unacked())
}

#[test]
fn deliveries_to_a_socket_that_failed_go_back() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    client.say(1, consume("q", "c", false));
    client.publish(1, "q", "one", false);
    assert_eq!(counts(&broker, "q"), (0, 1));
    client.lose_socket();
    client.disconnect();
    assert_eq!(counts(&broker, "q"), (1, 0));
}

#[test]
fn nothing_is_delivered_to_a_socket_that_failed() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    client.say(1, consume("q", "c", true));
    client.lose_socket();
    Client::new(&broker).publish(1, "q", "one", false);
    assert_eq!(counts(&broker, "q"), (1, 0));
    client.disconnect();
    assert_eq!(counts(&broker, "q"), (1, 0));
}

#[test]
fn a_connection_that_ends_takes_nothing_of_what_it_gives_back() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    client.say(1, consume("q", "c", false));
    client.publish(1, "q", "one", false);
    // It would count as done with the moment it is sent.
    client.say(2, consume("q", "greedy", true));
    client.disconnect();
    assert_eq!(counts(&broker, "q"), (1, 0));
}

#[test]
fn what_consumers_of_one_channel_held_goes_to_others_in_order() {
    let broker = broker(Arc::new(InstantStore));
    let mut first = Client::new(&broker);
    first.declare(1, "q", false);
    first.say(1, prefetch(1));
    first.say(1, consume("q", "a", false));
    first.say(1, consume("q", "b", false));
    first.publish(1, "q", "one", false);
    first.publish(1, "q", "two", false);
    // The consumer that began first now holds the later message.
    let ack = BasicAck {
        delivery_tag: 1,
        multiple: false,
    };
    first.say(1, ack);
    first.publish(1, "q", "three", false);
    let mut second = Client::new(&broker);
    second.say(1, consume("q", "c", false));
    second.hear();
    first.say(1, ChannelClose::default());
    let heard = second.hear();
    let bodies: Vec<_> = heard
        .iter()
        .filter(|line| line.starts_with("body"))
        .collect();
    assert_eq!(bodies, ["body two", "body three"]);
}

/// A publisher on another thread pumps the queue while a connection with its active consumer ends.
#[test]
fn the_next_active_consumer_gets_what_the_last_one_held_before_what_is_new() {
    let broker = broker(Arc::new(InstantStore));
    let mut first = Client::new(&broker);
    let mut arguments = Table::new();
    arguments.insert("x-single-active-consumer", Value::Bool(true));
    let arguments = arguments.encoded();
    let declare = QueueDeclare {
        arguments: RawTable::parse(&arguments).expect("a table"),
        ..declaration("q", false)
    };
    first.say(1, declare);
    first.declare(1, "other", false);
    first.say(1, consume("q", "c", false));
    first.say(2, consume("other", "c", false));
    let mut second = Client::new(&broker);
    second.say(1, consume("q", "c", false));
    second.hear();
    for body in ["one", "two"] {
        first.publish(1, "q", body, false);
    }
    let other = cell(&broker, "other");
    let locked = other.lock();
    let ends = thread::spawn(|| first.disconnect());
    let q = cell(&broker, "q");
    wait_for(|| q.lock().queue.consumer_count() == 1);
    Client::new(&broker).publish(1, "q", "three", false);
    drop(locked);
    ends.join().expect("ends");
    let heard = second.hear();
    let bodies: Vec<_> = heard
        .iter()
        .filter(|line| line.starts_with("body"))
        .collect();
    assert_eq!(bodies, ["body one", "body two", "body three"]);
}

/// A client that is told when its consumers end with their queue.
fn notified(broker: &Arc<Broker>) -> Client {
    let mut capabilities = Table::new();
    capabilities.insert("consumer_cancel_notify", Value::Bool(true));
    let mut properties = Table::new();
    properties.insert("capabilities", Value::Table(capabilities));
    let properties = properties.encoded();
    let properties = RawTable::parse(&properties).expect("a table");
    Client::with_properties(broker, properties, 0)
}

/// Whoever deletes a queue tells its consumers while one of them closes its channel.
#[test]
fn nothing_is_told_on_a_channel_after_its_end() {
    let broker = broker(Arc::new(InstantStore));
    let (mut first, mut second) = (notified(&broker), notified(&broker));
    let mut deleter = Client::new(&broker);
    deleter.declare(1, "q", false);
    first.say(1, consume("q", "c", false));
    second.say(1, consume("q", "c", false));
    first.hear();
    second.hear();
    let q = cell(&broker, "q");
    let outlet = Arc::clone(&first.connection.peer().outlet);
    let locked = outlet.lock();
    let delete = QueueDelete {
        queue: b"q",
        ..Default::default()
    };
    let deletes = thread::spawn(move || deleter.say(1, delete));
    wait_for(|| q.is_deleted());
    // It waits for the first one's outlet now, or will soon.
    thread::sleep(Duration::from_millis(50));
    let closes = thread::spawn(move || {
        second.say(1, ChannelClose::default());
        second
    });
    wait_for(|| closes.is_finished());
    drop(locked);
    deletes.join().expect("deletes");
    let mut second = closes.join().expect("closes");
    assert_eq!(first.hear(), ["1 basic.cancel"]);
    let heard = second.hear();
    assert_eq!(heard.last().map(String::as_str), Some("1 channel.close-ok"));
}

#[test]
fn an_exclusive_queue_that_could_not_be_deleted_ends_with_its_connection() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    let declare = QueueDeclare {
        exclusive: true,
        ..declaration("mine", false)
    };
    client.say(1, declare);
    client.publish(1, "mine", "one", false);
    let delete = QueueDelete {
        queue: b"mine",
        if_empty: true,
        ..Default::default()
    };
    client.say(1, delete);
    assert_eq!(counts(&broker, "mine"), (1, 0));
    client.disconnect();
    assert!(
        broker
            .vhost("/")
            .is_some_and(|vhost| vhost.queue("mine").is_none())
    );
}

#[test]
fn a_consumer_gets_no_credit_for_what_was_fetched_while_it_waited_to_start() {
    let store = Arc::new(DelayedStore::default());
    let broker = broker(store.clone());
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    for body in ["one", "two", "three"] {
        client.publish(1, "q", body, false);
    }
    // Its answer waits for the disk, and so do those after it.
    client.declare(1, "durable", true);
    let get = BasicGet {
        queue: b"q",
        no_ack: false,
    };
    client.say(1, get);
    client.say(1, prefetch(1));
    client.say(1, consume("q", "c", false));
    client.hear();
    store.release();
    client.turn();
    assert_eq!(counts(&broker, "q"), (1, 2));
    let ack = BasicAck {
        delivery_tag: 1,
        multiple: false,
    };
    client.say(1, ack);
    assert_eq!(
        counts(&broker, "q"),
        (1, 1),
        "the consumer holds one already"
    );
}

#[test]
fn what_was_fetched_takes_no_prefetch() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    for body in ["one", "two", "three"] {
        client.publish(1, "q", body, false);
    }
    let qos = BasicQos {
        global: true,
        ..prefetch(1)
    };
    client.say(1, qos);
    let get = BasicGet {
        queue: b"q",
        no_ack: false,
    };
    client.say(1, get);
    client.hear();
    client.say(1, consume("q", "c", false));
    let heard = ["1 basic.consume-ok", "1 deliver 2", "body two"];
    assert_eq!(client.hear(), heard);
    let fetched = BasicAck {
        delivery_tag: 1,
        multiple: false,
    };
    client.say(1, fetched);
    assert!(client.hear().is_empty(), "one is out still");
    let both = BasicAck {
        delivery_tag: 0,
        multiple: true,
    };
    client.say(1, both);
    assert_eq!(client.hear(), ["1 deliver 3", "body three"]);
}

#[test]
fn a_channel_hears_of_its_own_consumers_behind_its_deletion() {
    let broker = broker(Arc::new(InstantStore));
    let (mut client, mut other) = (notified(&broker), notified(&broker));
    let delete = |nowait| QueueDelete {
        queue: b"q",
        nowait,
        ..Default::default()
    };
    client.declare(1, "q", false);
    client.say(1, consume("q", "a", false));
    client.say(1, consume("q", "b", false));
    other.say(1, consume("q", "c", false));
    other.hear();
    client.hear();
    client.say(1, delete(false));
    let heard = ["1 queue.delete-ok", "1 basic.cancel", "1 basic.cancel"];
    assert_eq!(client.hear(), heard);
    assert_eq!(other.hear(), ["1 basic.cancel"]);
    client.declare(1, "q", false);
    client.say(1, consume("q", "d", false));
    client.hear();
    client.say(1, delete(true));
    assert_eq!(client.hear(), ["1 basic.cancel"]);
}

/// The answer waits for the disk, and so does what comes behind it.
#[test]
fn the_end_of_its_own_consumers_waits_with_the_answer() {
    let store = Arc::new(DelayedStore::default());
    let broker = broker(Arc::clone(&store) as _);
    let mut client = notified(&broker);
    client.declare(1, "q", true);
    store.release();
    client.turn();
    client.hear();
    client.say(1, consume("q", "a", false));
    client.hear();
    let delete = QueueDelete {
        queue: b"q",
        ..Default::default()
    };
    client.say(1, delete);
    assert!(client.hear().is_empty());
    store.release();
    client.turn();
    assert_eq!(client.hear(), ["1 queue.delete-ok", "1 basic.cancel"]);
}

/// Others have their turn before a connection with very many consumers has left all of them.
#[test]
fn consumers_leave_a_part_at_a_time() {
    const CONSUMERS: usize = 5_000;
    const PART_MAX: usize = 2_048;
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    let mut all = Vec::new();
    for number in 0..CONSUMERS {
        let tag = format!("c{number}");
        let consume = BasicConsume {
            nowait: true,
            ..consume("q", &tag, false)
        };
        Method::from(consume).encode(1, &mut all);
    }
    client.send(&all);
    let cell = cell(&broker, "q");
    let consumers = || cell.lock().queue.consumer_count();
    assert_eq!(consumers(), CONSUMERS);
    let mut before = CONSUMERS;
    while client.connection.disconnect_partly() {
        let left = before - consumers();
        assert!((1..=PART_MAX).contains(&left), "{left}");
        before -= left;
    }
    assert!(before <= PART_MAX, "{before}");
    assert_eq!(consumers(), 0);
}

/// How long a connection takes to end whose channels have so many consumers each on one queue.
fn time_to_end(consumers: usize) -> Duration {
    let run = || {
        let broker = broker(Arc::new(InstantStore));
        let mut client = Client::new(&broker);
        client.declare(1, "q", false);
        for channel in [1, 2] {
            let mut all = Vec::new();
            for number in 0..consumers {
                let tag = format!("c{number}");
                let consume = BasicConsume {
                    nowait: true,
                    ..consume("q", &tag, false)
                };
                Method::from(consume).encode(channel, &mut all);
            }
            client.send(&all);
        }
        let queue = cell(&broker, "q");
        assert_eq!(queue.lock().queue.consumer_count(), 2 * consumers);
        let begun = Instant::now();
        while client.connection.disconnect_partly() {}
        let took = begun.elapsed();
        assert_eq!(queue.lock().queue.consumer_count(), 0);
        took
    };
    (0..3).map(|_| run()).min().unwrap_or_default()
}

/// Four times as many take about four times as long: 16 times, if each were searched for.
#[test]
fn the_end_of_a_connection_takes_as_long_as_it_has_consumers() {
    const FEW: usize = 2_000;
    // The machine may be busy the first time.
    let is_alike = |_| {
        let [few, many] = [FEW, 4 * FEW].map(time_to_end);
        println!("{few:?}, {many:?} for four times as many");
        many < few * 10
    };
    assert!((0..4).any(is_alike));
}

/// A stop waits for all who are there, so it has to tell all of them: those as well who come in
/// while it does.
#[test]
fn who_comes_in_while_the_broker_stops_is_sent_away() {
    let broker = broker(Arc::new(InstantStore));
    let (mut early, mut opened) = (connect(&broker), Client::new(&broker));
    broker.stop();
    let mut late = connect(&broker);
    assert!(early.receive(&[], 1).ended);
    assert!(late.receive(&[], 1).ended);
    opened.turn();
    assert!(opened.hear()[0].starts_with("0 close 320 CONNECTION_FORCED"));
}
