//! Deliveries that are not settled in time: who gets them then, and what a late settlement means.

use std::sync::Arc;

use leveret_broker::{ApplyTo, Broker, Effects, Policy, PolicyKind};
use leveret_codec::{
    BasicAck, BasicCancel, BasicConsume, BasicGet, BasicNack, BasicQos, BasicRecover, BasicReject,
    ChannelOpen, Method, QueueDelete, RawTable, Table, TxCommit, TxRollback, TxSelect, Value,
};
use leveret_session::DeliveryCounts;
use leveret_store::InstantStore;
use serde_json::json;

use crate::support::{Client, broker, consume, declaration};

/// How much later than its timeout a delivery may go back.
const SLACK_MS: u64 = 20;

/// A broker, a client and a clock.
struct World {
    broker: Arc<Broker>,
    client: Client,
    now_ms: u64,
    effects: Effects,
}

impl World {
    fn new() -> Self {
        let broker = broker(Arc::new(InstantStore));
        broker.set_now(1_000_000);
        Self {
            client: Client::new(&broker),
            broker,
            now_ms: 1_000_000,
            effects: Effects::default(),
        }
    }

    /// With a queue `q` of these arguments.
    fn with(arguments: &[(&str, Value)]) -> Self {
        let mut world = Self::new();
        world.declare("q", arguments);
        world
    }

    fn declare(&mut self, queue: &str, arguments: &[(&str, Value)]) {
        let mut table = Table::new();
        for (key, value) in arguments {
            table.insert(key, value.clone());
        }
        let arguments = table.encoded();
        let declare = leveret_codec::QueueDeclare {
            arguments: RawTable::parse(&arguments).unwrap(),
            ..declaration(queue, true)
        };
        let answer = self.client.ask(1, declare);
        assert_eq!(answer, "1 queue.declare-ok");
    }

    /// Lets time pass; whoever is due has turns until there is nothing left to do. Gives how many.
    fn wait(&mut self, ms: u64) -> usize {
        self.now_ms += ms;
        self.broker.run_due(self.now_ms, &mut self.effects);
        let mut turns = 1;
        while self.client.connection.receive(&[], self.now_ms).unfinished {
            turns += 1;
        }
        turns
    }

    fn publish(&mut self, bodies: &[&str]) {
        for body in bodies {
            self.client.publish(2, "q", body, true);
        }
    }

    fn get(&mut self, client: Option<&mut Client>, queue: &str) -> Vec<String> {
        let client = client.unwrap_or(&mut self.client);
        let get = BasicGet {
            queue: queue.as_bytes(),
            no_ack: false,
        };
        client.say(1, get);
        client.hear()
    }

    /// Messages that are ready and that are out.
    fn held(&self, queue: &str) -> (u64, u64) {
        let cell = self.broker.vhost("/").unwrap().queue(queue).unwrap();
        let state = cell.lock();
        (state.queue.ready(), state.queue.unacked())
    }

    /// Deliveries that went back in vain, and late settlements.
    fn counts(&self) -> (u64, u64) {
        let DeliveryCounts {
            timed_out, late, ..
        } = self.broker.totals().messages.deliveries;
        (timed_out, late)
    }

    fn policy(&self, definition: &serde_json::Value) {
        let policy = Policy {
            vhost: "/".into(),
            name: "p".into(),
            pattern: String::new(),
            apply_to: ApplyTo::All,
            priority: 0,
            definition: definition.as_object().unwrap().clone(),
        };
        let mut admin = self.broker.administer();
        admin.put_policy(PolicyKind::User, policy).unwrap();
    }

    /// Nothing waits for a time any more.
    fn is_at_rest(&mut self) -> bool {
        self.broker
            .run_due(self.now_ms, &mut self.effects)
            .is_none()
    }
}

fn timeout(ms: i64) -> (&'static str, Value) {
    ("x-consumer-timeout", Value::I64(ms))
}

fn ack(delivery_tag: u64, multiple: bool) -> BasicAck {
    BasicAck {
        delivery_tag,
        multiple,
    }
}

#[test]
fn a_delivery_goes_back_alone_and_its_late_acknowledgement_is_ignored_and_counted() {
    let mut world = World::with(&[timeout(500)]);
    world.publish(&["a", "b"]);
    let first = world.get(None, "q");
    assert_eq!(first, ["1 basic.get-ok", "body a"]);
    world.wait(400);
    assert_eq!(world.get(None, "q"), ["1 basic.get-ok", "body b"]);
    world.wait(100 - 1);
    assert_eq!(world.held("q"), (0, 2), "not yet");
    world.wait(1 + SLACK_MS);
    assert_eq!(world.held("q"), (1, 1), "the first one only");
    let mut other = Client::new(&world.broker.clone());
    assert_eq!(
        world.get(Some(&mut other), "q"),
        ["1 basic.get-ok", "body a"]
    );
    world.client.say(1, ack(1, false));
    assert_eq!(world.client.hear(), [""; 0], "the channel lives");
    assert_eq!(world.held("q"), (0, 2), "it is the other one's");
    assert_eq!(world.counts(), (1, 1));
    let answer = world.client.ask(1, ack(1, false));
    assert_eq!(
        answer,
        "1 close 406 PRECONDITION_FAILED - unknown delivery tag 1"
    );
}

#[test]
fn a_consumer_gets_what_it_had_again_and_its_prefetch_counts_that_once() {
    for global in [false, true] {
        let mut world = World::with(&[timeout(500)]);
        let qos = BasicQos {
            prefetch_size: 0,
            prefetch_count: 1,
            global,
        };
        world.client.say(1, qos);
        world.client.say(1, consume("q"));
        world.client.hear();
        world.publish(&["a", "b"]);
        assert_eq!(world.client.hear(), ["1 deliver 1", "body a"]);
        world.wait(500 + SLACK_MS);
        assert_eq!(world.client.hear(), ["1 deliver 2 again", "body a"]);
        world.client.say(1, ack(1, false));
        assert_eq!(world.client.hear(), [""; 0], "what is late makes no room");
        world.client.say(1, ack(2, false));
        assert_eq!(world.client.hear(), ["1 deliver 3", "body b"]);
        world.client.say(1, ack(3, false));
        assert_eq!(world.held("q"), (0, 0));
        assert_eq!(world.counts(), (1, 1));
        world.wait(10_000);
        assert!(world.is_at_rest());
    }
}

#[test]
fn whatever_comes_late_is_ignored_and_what_it_means_besides_is_done() {
    let settlements: [(Method<'static>, u64); 5] = [
        (ack(3, true).into(), 0),
        (ack(0, true).into(), 0),
        (
            BasicNack {
                delivery_tag: 3,
                multiple: true,
                requeue: false,
            }
            .into(),
            0,
        ),
        (ack(2, true).into(), 1),
        (
            BasicReject {
                delivery_tag: 2,
                requeue: true,
            }
            .into(),
            1,
        ),
    ];
    for (settlement, left) in settlements {
        let mut world = World::with(&[timeout(500)]);
        world.publish(&["a", "b"]);
        world.get(None, "q");
        world.get(None, "q");
        world.wait(500 + SLACK_MS);
        assert_eq!(world.held("q"), (2, 0));
        let mut other = Client::new(&world.broker.clone());
        world.get(Some(&mut other), "q");
        world.get(Some(&mut other), "q");
        world.publish(&["c"]);
        assert_eq!(world.get(None, "q"), ["1 basic.get-ok", "body c"]);
        world.client.say(1, settlement);
        assert_eq!(world.client.hear(), [""; 0], "{settlement:?}");
        assert_eq!(world.held("q"), (0, 2 + left), "{settlement:?}");
        let late = if matches!(settlement, Method::BasicReject(_)) {
            1
        } else {
            2
        };
        assert_eq!(world.counts(), (2, late), "{settlement:?}");
    }
}

#[test]
fn recovery_and_the_end_of_a_channel_pass_over_what_was_taken_back() {
    let mut world = World::with(&[timeout(500)]);
    world.publish(&["a", "b"]);
    world.get(None, "q");
    world.wait(500 + SLACK_MS);
    let mut other = Client::new(&world.broker.clone());
    world.get(Some(&mut other), "q");
    world.get(None, "q");
    world.client.say(1, BasicRecover { requeue: true });
    assert_eq!(world.client.hear(), ["1 basic.recover-ok"]);
    assert_eq!(world.held("q"), (1, 1));
    world.client.say(1, ack(1, false));
    assert_eq!(world.client.hear(), [""; 0]);
    let close = leveret_codec::ChannelClose {
        reply_code: 200,
        reply_text: b"",
        class_id: 0,
        method_id: 0,
    };
    assert_eq!(world.client.ask(1, close), "1 channel.close-ok");
    world.client.say(1, ChannelOpen {});
    world.client.hear();
    assert_eq!(world.held("q"), (1, 1));
    let answer = world.client.ask(1, ack(1, false));
    assert!(answer.contains("unknown delivery tag 1"), "{answer}");
}

#[test]
fn what_a_transaction_has_settled_waits_for_its_end_and_a_late_tag_for_more() {
    let mut world = World::with(&[timeout(500)]);
    world.client.say(1, TxSelect {});
    world.client.publish(2, "q", "a", true);
    world.client.publish(2, "q", "b", true);
    world.client.hear();
    world.get(None, "q");
    world.get(None, "q");
    world.client.say(1, ack(1, false));
    world.wait(500 + SLACK_MS);
    assert_eq!(world.held("q"), (1, 1), "the second one went back");
    world.client.say(1, ack(2, false));
    world.client.say(1, TxRollback {});
    assert_eq!(world.client.hear(), ["1 tx.rollback-ok"]);
    world.wait(1_000);
    assert_eq!(world.held("q"), (2, 0), "then the first one");
    world.client.say(1, ack(2, true));
    world.client.say(1, TxCommit {});
    assert_eq!(world.client.hear(), ["1 tx.commit-ok"]);
    assert_eq!(world.held("q"), (2, 0));
    assert_eq!(world.counts(), (2, 3));
}

#[test]
fn a_commit_settles_what_stood_in_it_when_the_time_was_over() {
    let mut world = World::with(&[timeout(500)]);
    world.client.say(1, TxSelect {});
    world.publish(&["a"]);
    world.get(None, "q");
    world.client.say(1, ack(1, false));
    world.wait(5_000);
    world.client.say(1, TxCommit {});
    world.wait(5_000);
    assert_eq!(world.held("q"), (0, 0));
    assert_eq!(world.counts(), (0, 0));
}

#[test]
fn a_queue_may_have_the_channel_closed_as_with_rabbitmq() {
    let action = ("x-consumer-timeout-action", Value::from("close"));
    let mut world = World::with(&[timeout(500), action]);
    world.declare("other", &[]);
    world.client.publish(2, "other", "c", true);
    world.publish(&["a"]);
    world.client.say(1, consume("q"));
    world.get(None, "other");
    world.wait(500 + SLACK_MS);
    assert_eq!(
        world.client.hear(),
        [
            "1 close 406 PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. \
          Timeout value used: 500 ms. This timeout value can be configured, see consumers doc \
          guide to learn more"
        ]
    );
    assert_eq!((world.held("q"), world.held("other")), ((1, 0), (1, 0)));
    world.client.say(1, leveret_codec::ChannelCloseOk {});
    world.client.say(1, ChannelOpen {});
    assert_eq!(world.client.hear(), ["1 channel.open-ok"]);
}

#[test]
fn it_comes_to_the_delivery_limit_only_where_it_counts() {
    for (counts, left) in [(false, 1), (true, 0)] {
        let limit = ("x-delivery-limit", Value::I32(1));
        let counts = ("x-consumer-timeout-counts", Value::Bool(counts));
        let mut world = World::with(&[timeout(500), limit, counts]);
        world.publish(&["a"]);
        for _ in 0..2 {
            world.get(None, "q");
            world.wait(500 + SLACK_MS);
        }
        assert_eq!(world.held("q"), (left, 0));
    }
}

#[test]
fn a_policy_holds_for_what_is_out_from_the_moment_it_is_set() {
    let mut world = World::with(&[]);
    world.publish(&["a", "b"]);
    world.client.say(1, consume("q"));
    world.client.say(
        1,
        BasicCancel {
            consumer_tag: b"tag",
            nowait: true,
        },
    );
    world.wait(10_000);
    world.policy(&json!({"consumer-timeout": 500}));
    world.wait(0);
    world.wait(480);
    assert_eq!(world.held("q"), (0, 2));
    // Longer: the time that has passed counts.
    world.policy(&json!({"consumer-timeout": 1_000}));
    world.wait(20 + SLACK_MS);
    assert_eq!(world.held("q"), (0, 2));
    world.policy(&json!({"consumer-timeout": 600}));
    world.wait(80);
    world.wait(SLACK_MS);
    assert_eq!(world.held("q"), (2, 0));
    // None: what is out stays out.
    world.get(None, "q");
    let mut admin = world.broker.administer();
    admin.delete_policy(PolicyKind::User, "/", "p").unwrap();
    drop(admin);
    world.wait(100_000);
    assert_eq!(world.held("q"), (1, 1));
    assert!(world.is_at_rest());
}

#[test]
fn a_consumers_own_timeout_goes_before_its_queues() {
    for (queue, own, back) in [
        (None, 500, true),
        (Some(500), 60_000, false),
        (Some(60_000), 500, true),
    ] {
        let arguments: Vec<_> = queue.map(timeout).into_iter().collect();
        let mut world = World::with(&arguments);
        let mut table = Table::new();
        table.insert("x-consumer-timeout", Value::I64(own));
        let arguments = table.encoded();
        let consume = BasicConsume {
            arguments: RawTable::parse(&arguments).unwrap(),
            ..consume("q")
        };
        world.client.say(1, consume);
        world.publish(&["a"]);
        world.client.hear();
        world.wait(500 + SLACK_MS);
        let heard = world.client.hear();
        assert_eq!(!heard.is_empty(), back, "{queue:?} {own}: {heard:?}");
    }
}

#[test]
fn what_is_late_for_a_deleted_queue_is_ignored_too() {
    let mut world = World::with(&[timeout(500)]);
    world.publish(&["a", "b"]);
    world.get(None, "q");
    world.wait(500 + SLACK_MS);
    world.get(None, "q");
    let delete = QueueDelete {
        queue: b"q",
        ..QueueDelete::default()
    };
    assert_eq!(world.client.ask(1, delete), "1 queue.delete-ok");
    world.wait(500 + SLACK_MS);
    world.client.say(1, ack(1, false));
    world.client.say(1, ack(2, false));
    assert_eq!(world.client.hear(), [""; 0]);
}

#[test]
fn very_many_at_once_go_back_in_order_and_a_part_at_a_time() {
    const MANY: usize = 100_000;
    let mut world = World::with(&[timeout(500)]);
    for at in 0..MANY {
        world.client.publish(2, "q", &at.to_string(), false);
    }
    world.client.say(1, consume("q"));
    // A client that reads.
    while world.held("q").0 > 0 {
        world.client.take();
    }
    world.client.say(
        1,
        BasicCancel {
            consumer_tag: b"tag",
            nowait: true,
        },
    );
    let turns = world.wait(500 + SLACK_MS);
    assert!((MANY / 8192..100).contains(&turns), "{turns} turns");
    assert_eq!(world.held("q"), (MANY as u64, 0));
    let mut other = Client::new(&world.broker.clone());
    for body in ["body 0", "body 1"] {
        assert_eq!(world.get(Some(&mut other), "q"), ["1 basic.get-ok", body]);
    }
    world.client.say(1, ack(MANY as u64, true));
    assert_eq!(world.counts(), (MANY as u64, MANY as u64));
}

#[test]
fn where_no_timeout_is_set_nothing_waits_for_a_time() {
    let mut world = World::with(&[]);
    world.publish(&["a"]);
    world.get(None, "q");
    assert!(world.is_at_rest());
    world.wait(1 << 40);
    assert_eq!(world.held("q"), (0, 1));
}

#[test]
fn a_connection_that_has_ended_is_not_waited_for() {
    let mut world = World::with(&[timeout(1_800_000)]);
    world.publish(&["a"]);
    world.get(None, "q");
    assert!(!world.is_at_rest());
    let client = std::mem::replace(&mut world.client, Client::new(&world.broker.clone()));
    client.disconnect();
    assert!(world.is_at_rest());
}
