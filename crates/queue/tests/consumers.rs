//! Whose turn it is against a plain model, and what very many consumers cost.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use leveret_queue::{
    Attempts, Consumer, ConsumerKey, Consuming, Delivery, Message, MessageBody, Offer, Queue, Rank,
    Settings, Shape, Sink, Unacked,
};
use leveret_record::Memory;
use proptest::prelude::*;

const NOW_MS: u64 = 1_000;

/// Takes everything, but for consumers that are full or gone.
#[derive(Default)]
struct Taker {
    full: BTreeSet<u32>,
    gone: BTreeSet<u32>,
    taken: Vec<(u32, Unacked)>,
    asked: usize,
}

impl Sink<u32> for Taker {
    fn offer(
        &mut self,
        consumer: &Consumer<u32>,
        _: ConsumerKey,
        delivery: &Delivery<'_>,
    ) -> Offer {
        self.asked += 1;
        if self.gone.contains(&consumer.handle) {
            return Offer::Gone;
        }
        if self.full.contains(&consumer.handle) {
            return Offer::Refused;
        }
        self.taken.push((consumer.handle, delivery.unacked));
        Offer::Taken
    }

    fn settled(&mut self, _: Rank) {}
}

fn push(queue: &mut Queue<u32>, sink: &mut Taker) {
    let message = Message {
        route: b"\x00\x01k",
        header: &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        body: MessageBody::Inline(b"x"),
        entered_ms: NOW_MS,
        expiration_ms: None,
        priority: 0,
        persistent: false,
        deaths: false,
        attempts: Attempts::NONE,
    };
    queue.push(&message, sink).expect("there is room");
    queue.run(NOW_MS, sink);
}

#[derive(Clone, Debug)]
enum Op {
    Add { priority: i32, prefetch: u32 },
    Cancel(usize),
    Push,
    Settle(usize),
    Full(usize),
    Room,
    Gone(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..4i32, 0..3u32).prop_map(|(priority, prefetch)| Op::Add { priority, prefetch }),
        2 => any::<usize>().prop_map(Op::Cancel),
        6 => Just(Op::Push),
        4 => any::<usize>().prop_map(Op::Settle),
        1 => any::<usize>().prop_map(Op::Full),
        1 => Just(Op::Room),
        1 => any::<usize>().prop_map(Op::Gone),
    ]
}

/// One consumer as the model has it.
struct Plain {
    asked: Consuming,
    key: ConsumerKey,
    unacked: u32,
}

impl Plain {
    fn has_credit(&self) -> bool {
        self.asked.prefetch == 0 || self.unacked < self.asked.prefetch
    }
}

/// A list of each priority, searched and shifted.
#[derive(Default)]
struct Model {
    consumers: BTreeMap<u32, Plain>,
    turns: BTreeMap<Reverse<i32>, VecDeque<u32>>,
    ready: usize,
    expected: Vec<u32>,
}

impl Model {
    fn seat(&mut self, handle: u32, taker: &Taker) {
        let Some(consumer) = self.consumers.get(&handle) else {
            return;
        };
        let turns = self
            .turns
            .entry(Reverse(consumer.asked.priority))
            .or_default();
        if consumer.has_credit() && !turns.contains(&handle) && !taker.gone.contains(&handle) {
            turns.push_back(handle);
        }
    }

    fn pump(&mut self, taker: &Taker) {
        let mut refused = BTreeSet::new();
        while self.ready > 0 {
            let Some(handle) = self.take_turn(taker, &mut refused) else {
                return;
            };
            self.ready -= 1;
            self.expected.push(handle);
            self.consumers.get_mut(&handle).expect("is there").unacked += 1;
            self.seat(handle, taker);
        }
    }

    /// The next one who takes a message, off its list.
    fn take_turn(&mut self, taker: &Taker, refused: &mut BTreeSet<u32>) -> Option<u32> {
        for turns in self.turns.values_mut() {
            turns.retain(|handle| !taker.gone.contains(handle));
            while turns.iter().any(|handle| !refused.contains(handle)) {
                let handle = turns.pop_front()?;
                if !refused.contains(&handle) && !taker.full.contains(&handle) {
                    return Some(handle);
                }
                refused.insert(handle);
                turns.push_back(handle);
            }
        }
        None
    }

    fn pick(&self, pick: usize) -> Option<u32> {
        let handles: Vec<_> = self.consumers.keys().collect();
        (!handles.is_empty()).then(|| *handles[pick % handles.len()])
    }
}

struct World {
    queue: Queue<u32>,
    taker: Taker,
    model: Model,
    out: Vec<(u32, Unacked)>,
    next: u32,
}

impl World {
    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Add { priority, prefetch } => self.add(priority, prefetch),
            Op::Push => {
                push(&mut self.queue, &mut self.taker);
                self.model.ready += 1;
            }
            Op::Settle(pick) if !self.out.is_empty() => {
                let (handle, unacked) = self.out.remove(pick % self.out.len());
                let consumer = self.model.consumers.get_mut(&handle);
                let key = consumer.map(|consumer| {
                    consumer.unacked -= 1;
                    consumer.key
                });
                self.queue.settle(key, &unacked);
                self.model.seat(handle, &self.taker);
            }
            Op::Room => self.taker.full.clear(),
            Op::Cancel(pick) | Op::Full(pick) | Op::Gone(pick) => {
                if let Some(handle) = self.model.pick(pick) {
                    self.end(op, handle);
                }
            }
            Op::Settle(_) => {}
        }
        self.queue.run(NOW_MS, &mut self.taker);
        self.model.pump(&self.taker);
        let taken = self.taker.taken.drain(..);
        self.out.extend(taken);
    }

    fn add(&mut self, priority: i32, prefetch: u32) {
        let asked = Consuming {
            priority,
            prefetch,
            ..Consuming::default()
        };
        let key = self.queue.consume(self.next, asked);
        let plain = Plain {
            asked,
            key,
            unacked: 0,
        };
        self.model.consumers.insert(self.next, plain);
        self.model.seat(self.next, &self.taker);
        self.next += 1;
    }

    fn end(&mut self, op: &Op, handle: u32) {
        match op {
            Op::Full(_) => drop(self.taker.full.insert(handle)),
            Op::Gone(_) => drop(self.taker.gone.insert(handle)),
            _ => {
                let consumer = self.model.consumers.remove(&handle).expect("is there");
                let turns = self.model.turns.values_mut();
                turns.for_each(|turns| turns.retain(|other| *other != handle));
                assert_eq!(self.queue.cancel(consumer.key), Some(handle));
            }
        }
    }
}

proptest! {
    #[test]
    fn turns_are_those_of_a_list_for_each_priority(ops in prop::collection::vec(op(), 1..150)) {
        let mut world = World {
            queue: Queue::new(Settings::NONE, Shape::PLAIN, Memory::default()),
            taker: Taker::default(),
            model: Model::default(),
            out: Vec::new(),
            next: 0,
        };
        let mut seen = Vec::new();
        for op in &ops {
            let before = world.out.len();
            let settled = usize::from(matches!(op, Op::Settle(_)) && before > 0);
            world.apply(op);
            let new = &world.out[before - settled..];
            seen.extend(new.iter().map(|(handle, _)| *handle));
            prop_assert_eq!(&seen, &world.model.expected);
            prop_assert_eq!(world.queue.ready(), world.model.ready as u64);
            prop_assert_eq!(world.queue.consumer_count(), world.model.consumers.len());
        }
    }
}

/// What adding and removing so many consumers takes for each of them, in the best of three runs.
fn cost_of_each(many: u32, asked: impl Fn(u32) -> Consuming, single_active: bool) -> Duration {
    let run = || {
        let mut queue = Queue::new(
            Settings::NONE,
            Shape {
                single_active,
                levels: 1,
            },
            Memory::default(),
        );
        let start = Instant::now();
        let keys: Vec<_> = (0..many)
            .map(|handle| {
                assert!(!queue.has_exclusive_consumer());
                queue.consume(handle, asked(handle))
            })
            .collect();
        for key in keys {
            queue.cancel(key);
        }
        assert_eq!(queue.consumer_count(), 0);
        start.elapsed() / many
    };
    (0..3).map(|_| run()).min().unwrap_or_default()
}

#[test]
fn a_consumer_among_many_costs_what_one_among_few_does() {
    const FEW: u32 = 500;
    const MANY: u32 = 64 * FEW;
    let same = |_| Consuming::default();
    let others = |handle: u32| Consuming {
        priority: handle.reverse_bits() as i32,
        ..Consuming::default()
    };
    let check = |asked: &dyn Fn(u32) -> Consuming, single_active| {
        // By searching it would be 64 times as much. The machine may be busy the first time.
        let is_alike = |_| {
            let few = cost_of_each(FEW, asked, single_active);
            let many = cost_of_each(MANY, asked, single_active);
            println!("{many:?} among many, {few:?} among few");
            many < few * 20
        };
        assert!((0..3).any(is_alike));
    };
    check(&same, false);
    check(&others, false);
    check(&same, true);
    check(&others, true);
}

#[test]
fn who_takes_nothing_any_more_is_asked_once() {
    let (mut queue, mut taker) = (
        Queue::new(Settings::NONE, Shape::PLAIN, Memory::default()),
        Taker::default(),
    );
    for handle in 0..100 {
        queue.consume(handle, Consuming::default());
        taker.gone.insert(handle);
    }
    for _ in 0..10 {
        push(&mut queue, &mut taker);
    }
    assert_eq!((taker.asked, queue.ready()), (100, 10));
    assert!(!queue.has_credit());
}
