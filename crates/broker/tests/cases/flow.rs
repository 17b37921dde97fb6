//! Publishers that wait while consumers work a backlog down.

use std::sync::Arc;

use leveret_broker::{Broker, Pause};
use leveret_codec::{BasicAck, BasicQos, Method};
use leveret_store::InstantStore;

use crate::support::{Client, broker, consume, message};

const BODY_BYTES: usize = 4000;
/// A backlog of so many of them is short.
const SHORT: u64 = 1024 * 1024 / (BODY_BYTES as u64 + 64);

/// Clients of one queue, who do something every millisecond.
struct Scene {
    broker: Arc<Broker>,
    publishers: Vec<Client>,
    consumer: Client,
    now_ms: u64,
    /// Messages that were published, and acknowledged.
    published: u64,
    settled: u64,
    /// Milliseconds in which a publisher had to wait.
    waits: u64,
}

impl Scene {
    fn new(publishers: usize) -> Self {
        let broker = broker(Arc::new(InstantStore));
        let mut consumer = Client::new(&broker);
        consumer.declare(1, "q", false);
        consumer.hear();
        Self {
            publishers: (0..publishers).map(|_| Client::new(&broker)).collect(),
            broker,
            consumer,
            now_ms: 1_000_000,
            published: 0,
            settled: 0,
            waits: 0,
        }
    }

    /// Has the consumer take so many messages each time.
    fn consume(&mut self, prefetch: u16) {
        let qos = BasicQos {
            prefetch_count: prefetch,
            ..Default::default()
        };
        self.consumer.say(1, qos);
        self.consumer.say(1, consume("q"));
    }

    /// For so long each publisher that need not wait sends so many messages each millisecond, and
    /// the consumer settles what it was given.
    fn run(&mut self, ms: u64, messages: usize) {
        let body = "x".repeat(BODY_BYTES);
        let batch = message(1, ("", "q"), &body, (false, false)).repeat(messages);
        for _ in 0..ms {
            self.now_ms += 1;
            for publisher in &mut self.publishers {
                if publisher.connection.pause(false, self.now_ms).is_none() {
                    publisher.send_at(&batch, self.now_ms);
                    self.published += messages as u64;
                } else {
                    self.waits += 1;
                }
            }
            self.settle();
        }
    }

    fn settle(&mut self) {
        let heard = self.consumer.hear();
        let mut tags = heard
            .iter()
            .filter_map(|line| line.strip_prefix("1 deliver "));
        let Some(last) = tags.next_back() else {
            return;
        };
        let delivery_tag: u64 = last.parse().expect("a tag");
        let ack = BasicAck {
            delivery_tag,
            multiple: true,
        };
        let mut bytes = Vec::new();
        Method::from(ack).encode(1, &mut bytes);
        self.consumer.send_at(&bytes, self.now_ms);
        self.settled = delivery_tag;
    }

    fn ready(&self) -> u64 {
        crate::support::ready(&self.broker, "q")
    }

    /// What was published and settled meanwhile.
    fn measured(&mut self, ms: u64, messages: usize) -> (u64, u64) {
        let before = (self.published, self.settled);
        self.run(ms, messages);
        (self.published - before.0, self.settled - before.1)
    }
}

#[test]
fn a_backlog_gets_short_and_publishers_then_go_as_fast_as_consumers() {
    let mut scene = Scene::new(2);
    scene.run(1, 1500);
    assert_eq!(scene.ready(), 3000);
    scene.consume(8);
    scene.run(1000, 50);
    let (published, settled) = scene.measured(500, 50);
    assert_eq!(settled, 4000, "consumers are never short of messages");
    assert!(
        published.abs_diff(settled) < settled / 10,
        "{published} in, {settled} out"
    );
    let ready = scene.ready();
    assert!((SHORT / 2..3 * SHORT).contains(&ready), "{ready}");
}

#[test]
fn publishers_share_a_part_of_what_leaves_however_many_they_are() {
    for publishers in [1, 10] {
        let run = |before: usize| {
            let mut scene = Scene::new(publishers);
            scene.run(1, before / publishers);
            scene.consume(8);
            scene.run(100, 10);
            scene.measured(200, 10)
        };
        let (published, settled) = run(3000);
        let half = settled * 2 / 5..=settled * 3 / 5;
        assert!(half.contains(&published), "{publishers}: {published}");
        let (published, settled) = run(7500);
        let eighth = settled / 10..=settled / 5;
        assert!(eighth.contains(&published), "{publishers}: {published}");
    }
}

#[test]
fn slow_work_is_what_a_queue_is_for() {
    let mut scene = Scene::new(2);
    scene.consume(3);
    scene.run(1000, 10);
    assert_eq!((scene.published, scene.waits), (20_000, 0));
    assert_eq!(scene.settled, 3000);
}

#[test]
fn while_processors_are_idle_nobody_waits() {
    let mut scene = Scene::new(2);
    scene.run(1, 500);
    assert!(!scene.broker.wants_cores());
    scene.consume(20);
    scene.run(50, 20);
    assert!(scene.broker.wants_cores(), "it has been asked");
    assert!(scene.waits > 0);
    scene.broker.set_cores_idle(true);
    let (published, _) = scene.measured(200, 20);
    assert_eq!(published, 8000);
    assert!(scene.broker.wants_cores(), "it goes on asking");
    scene.broker.set_cores_idle(false);
    let (published, settled) = scene.measured(200, 20);
    assert!(published < settled, "{published}");
}

#[test]
fn a_burst_while_no_consumer_is_at_work_is_taken_at_full_speed() {
    let mut scene = Scene::new(2);
    scene.run(50, 50);
    assert_eq!((scene.published, scene.waits), (5000, 0));
    scene.consume(20);
    scene.run(100, 50);
    assert!(scene.waits > 0);
    // It settles nothing more.
    let consumer = std::mem::replace(&mut scene.consumer, Client::new(&scene.broker));
    scene.run(200, 10);
    let (published, _) = scene.measured(100, 10);
    assert_eq!(published, 2000);
    consumer.disconnect();
}

#[test]
fn who_consumes_too_does_not_wait() {
    let mut scene = Scene::new(2);
    scene.run(1, 500);
    scene.consume(20);
    let [first, _] = &mut scene.publishers[..] else {
        panic!("there are two")
    };
    first.declare(2, "another", false);
    first.say(2, consume("another"));
    first.hear();
    scene.run(100, 20);
    assert!(
        scene.published > 1000 + 100 * 20,
        "the first one's, and more"
    );
    let now_ms = scene.now_ms;
    let pauses = scene.publishers.iter_mut();
    let pauses: Vec<_> = pauses
        .map(|one| one.connection.pause(false, now_ms))
        .collect();
    assert!(
        matches!(pauses[..], [None, Some(Pause::Flow(1..))]),
        "{pauses:?}"
    );
}

#[test]
fn who_waits_is_in_flow_until_a_second_later() {
    let mut scene = Scene::new(1);
    scene.run(1, 500);
    scene.consume(20);
    scene.run(1000, 50);
    let peer = Arc::clone(scene.publishers[0].connection.peer());
    assert!(peer.is_in_flow(scene.now_ms));
    assert!(!scene.consumer.connection.peer().is_in_flow(scene.now_ms));
    let flow_ms = peer.flow_ms();
    assert!((scene.waits..=1000).contains(&flow_ms), "{flow_ms}");
    let cell = scene.broker.vhost("/").unwrap().queue("q").unwrap();
    assert_eq!(cell.lock().flow_ms(), flow_ms);
    scene.run(200, 0);
    scene.run(2000, 0);
    assert!(!peer.is_in_flow(scene.now_ms));
    assert!(peer.flow_ms() - flow_ms < 200);
}
