//! Who is served when a channel has room again: the queue that has waited longest.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::support::{Client, broker};
use leveret_codec::{
    BasicAck, BasicCancel, BasicConsume, BasicNack, BasicQos, ChannelClose, TxCommit, TxSelect,
};
use leveret_store::InstantStore;
use proptest::prelude::*;

fn qos(prefetch_count: u16, global: bool) -> BasicQos {
    BasicQos {
        prefetch_size: 0,
        prefetch_count,
        global,
    }
}

fn ack(delivery_tag: u64, multiple: bool) -> BasicAck {
    BasicAck {
        delivery_tag,
        multiple,
    }
}

fn consume<'a>(queue: &'a str, tag: &'a str) -> BasicConsume<'a> {
    BasicConsume {
        queue: queue.as_bytes(),
        consumer_tag: tag.as_bytes(),
        ..Default::default()
    }
}

fn name(queue: usize) -> String {
    format!("q{queue}")
}

/// A client with so many queues, whose messages say where they are.
fn client_with(queues: usize, messages: usize) -> Client {
    let mut client = Client::new(&broker(Arc::new(InstantStore)));
    for queue in (0..queues).map(name) {
        client.declare(1, &queue, false);
        for _ in 0..messages {
            client.publish(1, &queue, &queue, false);
        }
    }
    client.hear();
    client
}

/// The queues that deliveries came from, in their order.
fn delivered(client: &mut Client) -> Vec<usize> {
    let heard = client.hear();
    let bodies = heard.iter().filter_map(|line| line.strip_prefix("body q"));
    bodies
        .map(|queue| queue.parse().expect("a number"))
        .collect()
}

fn shares(delivered: &[usize]) -> Vec<usize> {
    let mut shares = BTreeMap::new();
    for queue in delivered {
        *shares.entry(*queue).or_default() += 1;
    }
    shares.into_values().collect()
}

#[test]
fn three_queues_of_a_channel_that_takes_one_at_a_time_have_equal_shares() {
    let mut client = client_with(3, 100);
    client.say(1, qos(1, true));
    for queue in (0..3).map(name) {
        client.say(1, consume(&queue, &queue));
    }
    let mut served = delivered(&mut client);
    assert_eq!(served, [0]);
    for tag in 1..=98 {
        client.say(1, ack(tag, false));
        let next = delivered(&mut client);
        assert_eq!(next, [tag as usize % 3]);
        served.extend(next);
    }
    assert_eq!(shares(&served), [33, 33, 33], "acknowledged");
    client.say(1, ack(99, false));
    served.extend(delivered(&mut client));
    assert_eq!(shares(&served[1..]), [33, 33, 33], "for 99 acks");
}

#[test]
fn room_that_comes_at_once_is_shared_too() {
    let mut client = client_with(3, 100);
    client.say(1, qos(9, true));
    for queue in (0..3).map(name) {
        client.say(1, consume(&queue, &queue));
    }
    assert_eq!(delivered(&mut client), [0; 9]);
    for round in 1..=10 {
        client.say(1, ack(9 * round, true));
        assert_eq!(shares(&delivered(&mut client)), [3, 3, 3], "round {round}");
    }
}

#[test]
fn consumers_of_one_queue_share_its_part() {
    let mut client = client_with(2, 100);
    client.say(1, qos(1, true));
    for tag in ["a", "b", "c"] {
        client.say(1, consume("q0", tag));
    }
    client.say(1, consume("q1", "d"));
    let mut served = delivered(&mut client);
    for tag in 1..60 {
        client.say(1, ack(tag, false));
        served.extend(delivered(&mut client));
    }
    assert_eq!(shares(&served), [30, 30]);
}

#[test]
fn a_consumer_that_goes_leaves_its_place_to_no_one_and_its_queue_to_the_others() {
    let mut client = client_with(2, 3);
    client.say(1, qos(1, true));
    client.say(1, consume("q0", "a"));
    client.say(1, consume("q1", "b"));
    client.say(1, consume("q1", "c"));
    assert_eq!(delivered(&mut client), [0]);
    let consumer_tag = &b"b"[..];
    let nowait = false;
    client.say(
        1,
        BasicCancel {
            consumer_tag,
            nowait,
        },
    );
    client.say(1, ack(1, false));
    let mut served = delivered(&mut client);
    for tag in 2..=6 {
        client.say(1, ack(tag, false));
        served.extend(delivered(&mut client));
    }
    assert_eq!(shares(&served), [2, 3]);
}

#[test]
fn whatever_makes_room_serves_those_who_wait() {
    // What was taken back, a commit, a higher limit, and none.
    let mut client = client_with(3, 10);
    client.say(2, TxSelect {});
    client.say(2, qos(1, true));
    for queue in (0..3).map(name) {
        client.say(2, consume(&queue, &queue));
    }
    assert_eq!(delivered(&mut client), [0]);
    client.say(2, ack(1, false));
    assert_eq!(delivered(&mut client), [0; 0]);
    client.say(2, TxCommit {});
    assert_eq!(delivered(&mut client), [1]);
    client.say(2, qos(3, true));
    assert_eq!(delivered(&mut client), [2, 0]);
    client.say(2, qos(0, true));
    let left = delivered(&mut client);
    assert_eq!(shares(&left), [8, 9, 9]);
    client.say(2, ChannelClose::default());
    client.hear();
    client.say(1, qos(2, true));
    for queue in (0..3).map(name) {
        client.say(1, consume(&queue, &queue));
    }
    assert_eq!(delivered(&mut client), [0, 0]);
    let back = BasicNack {
        delivery_tag: 1,
        multiple: false,
        requeue: true,
    };
    client.say(1, back);
    assert_eq!(delivered(&mut client), [1]);
}

#[derive(Clone, Debug)]
enum Op {
    Publish(usize),
    Ack { pick: usize, multiple: bool },
    Qos(u16),
    Consume(usize),
    Cancel(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..QUEUES).prop_map(Op::Publish),
        6 => (any::<usize>(), prop::bool::weighted(0.2))
            .prop_map(|(pick, multiple)| Op::Ack { pick, multiple }),
        1 => (1..5u16).prop_map(Op::Qos),
        1 => (0..QUEUES).prop_map(Op::Consume),
        1 => (0..QUEUES).prop_map(Op::Cancel),
    ]
}

const QUEUES: usize = 4;

/// What a channel with one consumer of each queue owes.
#[derive(Default)]
struct Model {
    ready: [usize; QUEUES],
    /// With the consumer's own prefetch.
    consumers: [Option<usize>; QUEUES],
    /// Tags of deliveries that wait for their ack, and who they were to: the queue, and whether its
    /// consumer then is there still.
    out: BTreeMap<u64, (usize, bool)>,
    prefetch: usize,
    next_tag: u64,
    /// Since when a queue has waited for room; after those that have had nothing yet.
    waiting: [Option<(bool, u64)>; QUEUES],
    /// It has waited before.
    known: [bool; QUEUES],
    clock: u64,
}

impl Model {
    fn has_work(&self, queue: usize) -> bool {
        let held = |(of, counts): &&(usize, bool)| *of == queue && *counts;
        let held = self.out.values().filter(held).count();
        let prefetch = self.consumers[queue];
        self.ready[queue] > 0 && prefetch.is_some_and(|most| most == 0 || held < most)
    }

    /// Who could be served and is not yet waits from now on, if not for longer.
    fn note_waiting(&mut self) {
        self.clock += 1;
        let last = self.out.last_key_value();
        let last = last.filter(|(tag, _)| **tag == self.next_tag);
        for queue in 0..QUEUES {
            if !self.has_work(queue) {
                self.waiting[queue] = None;
            } else if self.waiting[queue].is_none() {
                let served = last.is_some_and(|(_, (of, counts))| *of == queue && *counts);
                let known = std::mem::replace(&mut self.known[queue], true);
                self.waiting[queue] = Some((known || served, self.clock));
            }
        }
    }

    fn deliver(&mut self, queue: usize) -> Result<(), TestCaseError> {
        prop_assert!(self.has_work(queue), "queue {queue} has nothing to give");
        prop_assert!(self.out.len() < self.prefetch, "there is no room");
        let since = self.waiting[queue].unwrap_or((true, u64::MAX));
        let longest = self.waiting.iter().flatten().min().copied();
        prop_assert!(
            longest.is_none_or(|longest| longest >= since),
            "others wait longer"
        );
        self.ready[queue] -= 1;
        self.next_tag += 1;
        self.out.insert(self.next_tag, (queue, true));
        self.waiting[queue] = None;
        self.note_line();
        Ok(())
    }

    /// Whoever finds a line, or no room, waits from now on.
    fn note_line(&mut self) {
        if self.waiting.iter().any(Option::is_some) || self.out.len() >= self.prefetch {
            self.note_waiting();
        }
    }
}

fn apply(op: &Op, client: &mut Client, model: &mut Model) {
    match *op {
        Op::Publish(queue) => {
            model.ready[queue] += 1;
            client.publish(2, &name(queue), &name(queue), false);
        }
        Op::Ack { pick, multiple } => {
            let tags: Vec<_> = model.out.keys().copied().collect();
            if tags.is_empty() {
                return;
            }
            let tag = tags[pick % tags.len()];
            model
                .out
                .retain(|at, _| if multiple { *at > tag } else { *at != tag });
            client.say(1, ack(tag, multiple));
        }
        Op::Qos(prefetch) => {
            model.prefetch = usize::from(prefetch);
            client.say(1, qos(prefetch, true));
        }
        Op::Consume(queue) if model.consumers[queue].is_none() => {
            // Every other one has a limit of its own as well.
            let own = if queue % 2 == 0 { 0 } else { 2 };
            model.consumers[queue] = Some(usize::from(own));
            client.say(1, qos(own, false));
            client.say(1, consume(&name(queue), &name(queue)));
        }
        Op::Cancel(queue) if model.consumers[queue].is_some() => {
            model.consumers[queue] = None;
            model.known[queue] = false;
            for (of, counts) in model.out.values_mut() {
                *counts &= *of != queue;
            }
            let consumer_tag = name(queue);
            client.say(
                1,
                BasicCancel {
                    consumer_tag: consumer_tag.as_bytes(),
                    nowait: true,
                },
            );
        }
        Op::Consume(_) | Op::Cancel(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_queue_that_has_waited_longest_is_served(ops in prop::collection::vec(op(), 1..80)) {
        let mut client = client_with(QUEUES, 0);
        let mut model = Model { prefetch: 2, ..Model::default() };
        client.say(1, qos(2, true));
        for op in &ops {
            apply(op, &mut client, &mut model);
            model.note_line();
            for queue in delivered(&mut client) {
                model.deliver(queue)?;
            }
            let idle = (0..QUEUES).find(|&queue| model.has_work(queue));
            if model.out.len() < model.prefetch {
                prop_assert_eq!(idle, None, "there is room for it");
            }
            model.note_waiting();
        }
    }
}
