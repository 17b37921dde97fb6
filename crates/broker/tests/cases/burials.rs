//! Dead messages that cannot be moved on at once, and those whose queue ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use leveret_broker::{ApplyTo, Broker, Effects, Outcome, Policy, PolicyKind, Reason, RefusedAt};
use leveret_codec::{
    BasicCancel, BasicGet, BasicNack, ConnectionClose, Method, QueueBind, QueueDeclare,
    QueueDelete, RawTable, Table, Value,
};
use leveret_store::{Batch, InstantStore, Store, StoreRefusal, Ticket, Waiter};
use serde_json::{Value as Json, json};

use crate::support::{Client, broker, consume, declaration, message, ready};

/// A broker with a queue `dead`, a client and a clock.
struct World {
    broker: Arc<Broker>,
    client: Client,
    now_ms: u64,
    effects: Effects,
}

impl World {
    fn new() -> Self {
        Self::with(Arc::new(InstantStore))
    }

    fn with(store: Arc<dyn Store>) -> Self {
        let broker = broker(store);
        broker.set_now(1_000_000);
        let mut world = Self {
            client: Client::new(&broker),
            broker,
            now_ms: 1_000_000,
            effects: Effects::default(),
        };
        world.declare(declaration("dead", true), &[]);
        world
    }

    fn declare(&mut self, queue: QueueDeclare<'_>, arguments: &[(&str, Value)]) {
        let mut table = Table::new();
        for (key, value) in arguments {
            table.insert(key, value.clone());
        }
        let arguments = table.encoded();
        let declare = QueueDeclare {
            arguments: RawTable::parse(&arguments).unwrap(),
            ..queue
        };
        assert_eq!(self.client.ask(1, declare), "1 queue.declare-ok");
    }

    /// A queue `q` whose dead letters go to `dead`.
    fn dying(&mut self, queue: QueueDeclare<'_>, arguments: &[(&str, Value)]) {
        let to_dead = [
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text("dead")),
        ];
        self.declare(queue, &[&to_dead, arguments].concat());
    }

    fn publish(&mut self, queue: &str, messages: usize) {
        let one = message(1, ("", queue), "body", (false, true));
        self.client.send(&one.repeat(messages));
    }

    /// Fetches messages and leaves them out.
    fn get(&mut self, messages: usize) {
        for _ in 0..messages {
            let get = BasicGet {
                queue: b"q",
                no_ack: false,
            };
            self.client.say(1, get);
        }
        let heard = self.client.hear();
        let got = heard.iter().filter(|line| line.ends_with("get-ok"));
        assert_eq!(got.count(), messages, "{heard:?}");
    }

    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        let until = self.now_ms;
        while let Some(next_ms) = self.broker.run_due(self.now_ms, &mut self.effects)
            && next_ms <= until
        {}
    }

    fn set_policy(&mut self, definition: Json) {
        let policy = Policy {
            vhost: "/".to_owned(),
            name: "p".to_owned(),
            pattern: "^q$".to_owned(),
            apply_to: ApplyTo::Queues,
            priority: 0,
            definition: definition.as_object().cloned().unwrap(),
        };
        let mut admin = self.broker.administer();
        admin.put_policy(PolicyKind::User, policy).unwrap();
    }

    fn exists(&self, queue: &str) -> bool {
        let vhost = self.broker.vhost("/").expect("it exists");
        vhost.queue(queue).is_some()
    }
}

fn text(text: &str) -> Value {
    Value::LongString(text.as_bytes().to_vec())
}

fn number(number: i32) -> Value {
    Value::I32(number)
}

/// Rejects all that are out.
fn reject_all() -> BasicNack {
    BasicNack {
        delivery_tag: 0,
        multiple: true,
        requeue: false,
    }
}

fn bytes<'a>(methods: impl IntoIterator<Item = Method<'a>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for method in methods {
        method.encode(1, &mut bytes);
    }
    bytes
}

/// What was rejected in the read that ends the queue is moved on, however much it is.
#[test]
fn the_dead_of_a_queue_that_ends_are_moved_on() {
    let delete = QueueDelete {
        queue: b"q",
        ..Default::default()
    };
    for messages in [3, 10_000] {
        let mut world = World::new();
        world.dying(declaration("q", true), &[]);
        world.publish("q", messages);
        world.get(messages);
        let both = bytes([reject_all().into(), Method::from(delete)]);
        world.client.send(&both);
        assert!(!world.exists("q"));
        assert_eq!(ready(&world.broker, "dead"), messages as u64);
    }
}

#[test]
fn the_dead_of_an_exclusive_queue_are_moved_on_with_its_connection() {
    let mut world = World::new();
    let exclusive = QueueDeclare {
        exclusive: true,
        ..declaration("q", false)
    };
    world.dying(exclusive, &[]);
    world.publish("q", 3);
    world.get(3);
    let mut both = bytes([reject_all().into()]);
    let close = ConnectionClose {
        reply_code: 200,
        reply_text: b"",
        class_id: 0,
        method_id: 0,
    };
    Method::from(close).encode(0, &mut both);
    world.client.send_unread(&both);
    world.client.disconnect();
    assert_eq!(ready(&world.broker, "dead"), 3);
}

#[test]
fn the_dead_of_a_queue_are_moved_on_when_its_last_consumer_leaves() {
    const MESSAGES: usize = 10_000;
    let mut world = World::new();
    let auto = QueueDeclare {
        auto_delete: true,
        ..declaration("q", true)
    };
    world.dying(auto, &[]);
    world.publish("q", MESSAGES);
    world.client.say(1, consume("q"));
    world.client.hear();
    let cancel = BasicCancel {
        consumer_tag: b"tag",
        nowait: false,
    };
    let both = bytes([reject_all().into(), cancel.into()]);
    world.client.send(&both);
    assert!(!world.exists("q"));
    assert_eq!(ready(&world.broker, "dead"), MESSAGES as u64);
}

#[test]
fn what_has_waited_too_long_dies_before_its_queue_ends() {
    let mut world = World::new();
    let times = [
        ("x-message-ttl", number(1_000)),
        ("x-expires", number(2_500)),
    ];
    world.dying(declaration("q", true), &times);
    world.publish("q", 5_000);
    world.wait(4_000);
    assert!(!world.exists("q"));
    assert_eq!(ready(&world.broker, "dead"), 5_000);
}

/// As if it was used just now, whenever that was.
#[test]
fn a_policy_that_has_a_queue_expire_begins_its_life_anew() {
    let mut world = World::new();
    world.declare(declaration("q", true), &[]);
    world.wait(8_000);
    world.set_policy(json!({"expires": 4_000}));
    world.wait(3_900);
    assert!(world.exists("q"));
    world.set_policy(json!({"expires": 3_000}));
    world.wait(2_900);
    assert!(world.exists("q"));
    world.wait(200);
    assert!(!world.exists("q"));
}

/// A queue that loses none of its dead, and where they go for good is full.
fn full() -> World {
    let mut world = World::new();
    let limits = [
        ("x-max-length", number(1)),
        ("x-overflow", text("reject-publish")),
    ];
    world.declare(declaration("narrow", true), &limits);
    world.publish("narrow", 1);
    let careful = [
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("narrow")),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        ("x-max-length", number(5_000)),
    ];
    world.declare(declaration("q", true), &careful);
    world
}

fn stuck(world: &World) -> u64 {
    let vhost = world.broker.vhost("/").expect("it exists");
    let cell = vhost.queue("q").expect("it was declared");
    cell.lock().queue.stuck()
}

#[test]
fn the_living_are_served_however_many_dead_ones_wait() {
    let mut world = full();
    world.publish("q", 2_000);
    world.get(2_000);
    world.client.say(1, reject_all());
    assert_eq!(stuck(&world), 2_000);
    world.set_policy(json!({"message-ttl": 60_000}));
    world.publish("q", 10);
    world.get(10);
    let requeue = BasicNack {
        requeue: true,
        ..reject_all()
    };
    world.client.say(1, requeue);
    world.get(10);
    // They die, too, when their time has come.
    let requeue = BasicNack {
        requeue: true,
        ..reject_all()
    };
    world.client.say(1, requeue);
    world.wait(61_000);
    assert_eq!((ready(&world.broker, "q"), stuck(&world)), (0, 2_010));
}

#[test]
fn dead_ones_that_wait_count_towards_the_limits() {
    let mut world = full();
    world.set_policy(json!({"max-length": 10}));
    for _ in 0..10 {
        world.publish("q", 1);
        world.get(1);
        world.client.say(1, reject_all());
    }
    assert_eq!(stuck(&world), 10);
    world.publish("q", 1);
    assert_eq!(ready(&world.broker, "q"), 0, "it is refused");
    // Room for one of them, which is found within a second.
    let get = BasicGet {
        queue: b"narrow",
        no_ack: true,
    };
    world.client.say(2, get);
    world.wait(1_000);
    assert_eq!((ready(&world.broker, "narrow"), stuck(&world)), (1, 9));
    world.publish("q", 2);
    assert_eq!(ready(&world.broker, "q"), 1);
}

/// It is tried now and then, and not whenever somebody uses the queue.
#[test]
fn dead_ones_that_wait_are_left_alone_for_a_while() {
    let mut world = full();
    world.publish("q", 100);
    world.get(100);
    world.client.say(1, reject_all());
    let refused = |world: &World| {
        let vhost = world.broker.vhost("/").expect("it exists");
        let cell = vhost.queue("narrow").expect("it was declared");
        cell.lock().queue.counters().refused
    };
    let before = refused(&world);
    for _ in 0..50 {
        world.publish("q", 1);
        world.get(1);
    }
    assert_eq!(refused(&world), before);
    world.wait(1_000);
    assert!(refused(&world) > before);
}

#[test]
fn one_without_a_way_holds_up_no_other() {
    let mut world = World::new();
    let bind = QueueBind {
        queue: b"dead",
        exchange: b"amq.direct",
        routing_key: b"q",
        ..Default::default()
    };
    world.client.say(1, bind);
    world.client.hear();
    let careful = [
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-exchange", text("amq.direct")),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ];
    world.declare(declaration("q", true), &careful);
    let to_fanout = QueueBind {
        queue: b"q",
        exchange: b"amq.fanout",
        routing_key: b"",
        ..Default::default()
    };
    world.client.say(1, to_fanout);
    world.client.hear();
    for key in ["lost", "q", "lost", "q", "q"] {
        world.client.publish_to_exchange(1, "amq.fanout", key);
    }
    world.get(5);
    world.client.say(1, reject_all());
    assert_eq!((ready(&world.broker, "dead"), stuck(&world)), (3, 2));
    world.wait(5_000);
    assert_eq!((ready(&world.broker, "dead"), stuck(&world)), (3, 2));
    let late = QueueBind {
        routing_key: b"lost",
        ..bind
    };
    world.client.say(1, late);
    world.wait(1_000);
    assert_eq!((ready(&world.broker, "dead"), stuck(&world)), (5, 0));
}

/// A store that notes how many bytes it was given at once at most, and says how many wait.
#[derive(Default)]
struct Noting {
    most_bytes: AtomicUsize,
    staged_bytes: AtomicUsize,
}

impl Store for Noting {
    fn submit(&self, batch: &mut Batch) -> Result<Ticket, StoreRefusal> {
        self.most_bytes
            .fetch_max(batch.bytes_len(), Ordering::Relaxed);
        InstantStore.submit(batch)
    }

    fn admission(&self) -> Result<(), StoreRefusal> {
        InstantStore.admission()
    }

    fn durable(&self) -> Ticket {
        InstantStore.durable()
    }

    fn wake_at(&self, ticket: Ticket, waiter: Arc<dyn Waiter>) {
        InstantStore.wake_at(ticket, waiter);
    }

    fn staged_bytes(&self) -> usize {
        self.staged_bytes.load(Ordering::Relaxed)
    }
}

/// What is not written yet is in memory.
#[test]
fn the_dead_wait_for_a_store_that_is_behind() {
    let store = Arc::new(Noting::default());
    let mut world = World::with(Arc::clone(&store) as _);
    world.dying(declaration("q", true), &[]);
    world.publish("q", 10);
    world.get(10);
    store.staged_bytes.store(64 << 20, Ordering::Relaxed);
    world.client.say(1, reject_all());
    world.wait(1_000);
    assert_eq!(ready(&world.broker, "dead"), 0);
    store.staged_bytes.store(0, Ordering::Relaxed);
    world.wait(10);
    assert_eq!(ready(&world.broker, "dead"), 10);
}

/// Their bodies are shared in memory, and copied into the journal all the same.
#[test]
fn a_group_of_large_messages_is_as_small_as_one_of_small_ones() {
    const MESSAGES: usize = 100;
    const BYTES: usize = 256 << 10;
    const GROUP_BYTES: usize = 4 << 20;
    let store = Arc::new(Noting::default());
    let mut world = World::with(Arc::clone(&store) as _);
    world.dying(declaration("q", true), &[]);
    let body = "x".repeat(BYTES);
    for _ in 0..MESSAGES {
        world.client.publish(1, "q", &body, true);
    }
    store.most_bytes.store(0, Ordering::Relaxed);
    world.set_policy(json!({"message-ttl": 1}));
    world.wait(1_000);
    assert_eq!(ready(&world.broker, "dead"), MESSAGES as u64);
    let most = store.most_bytes.load(Ordering::Relaxed);
    assert!((BYTES..GROUP_BYTES + 2 * BYTES).contains(&most), "{most}");
}

/// Nobody is told of them: what is left is the account of refused messages.
#[test]
fn dead_letters_that_their_target_refuses_are_counted_and_noted() {
    let mut world = World::new();
    let full = [
        ("x-max-length", number(2)),
        ("x-overflow", text("reject-publish")),
    ];
    world.declare(declaration("full", true), &full);
    let dying = [
        ("x-dead-letter-exchange", text("amq.fanout")),
        ("x-message-ttl", number(10)),
    ];
    world.declare(declaration("q", true), &dying);
    for queue in ["full", "dead"] {
        let bind = QueueBind {
            queue: queue.as_bytes(),
            exchange: b"amq.fanout",
            ..Default::default()
        };
        assert_eq!(world.client.ask(1, bind), "1 queue.bind-ok");
    }
    world.publish("q", 5);
    world.wait(10);
    assert_eq!(
        ["full", "dead"].map(|queue| ready(&world.broker, queue)),
        [2, 5]
    );
    assert_eq!(world.broker.refused.total(Reason::Length), 3);
    let vhost = world.broker.vhost("/").unwrap();
    let refused = |queue| vhost.queue(queue).unwrap().lock().queue.counters().refused;
    assert_eq!(["q", "full", "dead"].map(refused), [0, 3, 0]);
    let directory = vhost.directory.read();
    let counts = directory.router.exchange("amq.fanout").unwrap().counts();
    assert_eq!(counts.refused.load(Ordering::Relaxed), 3);
    let noted = world.broker.refused.take_noted().places;
    let place = RefusedAt {
        vhost: "/".into(),
        queue: "full".into(),
        exchange: "amq.fanout".into(),
        outcome: Outcome::Refused(Reason::Length),
    };
    assert_eq!(noted.into_iter().collect::<Vec<_>>(), [(place, 3)]);
}

/// Their queue tells how many it moved on; their exchange, that they led nowhere from there.
#[test]
fn dead_letters_that_lead_to_no_queue_are_counted_by_their_exchange() {
    let mut world = World::new();
    let dying = [
        ("x-dead-letter-exchange", text("amq.topic")),
        ("x-message-ttl", number(10)),
    ];
    world.declare(declaration("q", true), &dying);
    world.publish("q", 5);
    world.wait(10);
    let vhost = world.broker.vhost("/").unwrap();
    let directory = vhost.directory.read();
    let counts = directory.router.exchange("amq.topic").unwrap().counts();
    assert_eq!(counts.dropped.load(Ordering::Relaxed), 5);
}
