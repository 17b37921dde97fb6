//! Priorities, age and failures against a plain model: what may never be handed out, what dies
//! when, and why.

use std::collections::BTreeMap;

use leveret_queue::{
    Attempts, Consumer, ConsumerKey, Consuming, Death, Delivery, Limits, Message, MessageBody,
    Offer, Overflow, Queue, Rank, Settings, Shape, Sink, Unacked,
};
use leveret_record::Memory;
use proptest::prelude::*;

const LEVELS: u16 = 4;
/// Within so many milliseconds what is dead has left the counts, wherever it stood.
const LATE_MS: u64 = 1_000;

#[derive(Default)]
struct Taker {
    taken: Vec<Unacked>,
    gone: Vec<Rank>,
}

impl Sink<u32> for Taker {
    fn offer(&mut self, _: &Consumer<u32>, _: ConsumerKey, delivery: &Delivery<'_>) -> Offer {
        self.taken.push(delivery.unacked);
        Offer::Taken
    }

    fn gone(&mut self, rank: Rank) {
        self.gone.push(rank);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Push {
        priority: u8,
        expiration_ms: Option<u64>,
    },
    Get,
    Ack(usize),
    Reject(usize),
    Requeue(usize, bool),
    Wait(u64),
    Consume(u32),
    Cancel,
    Ttl(Option<u64>),
    /// So many of the dead are moved on.
    Bury(usize),
    Purge,
}

fn op() -> impl Strategy<Value = Op> {
    let expiration = prop_oneof![3 => Just(None), 1 => (0..3_000u64).prop_map(Some)];
    let ttl = prop_oneof![1 => Just(None), 2 => (0..2_000u64).prop_map(Some)];
    prop_oneof![
        10 => (0..6u8, expiration).prop_map(|(priority, expiration_ms)| Op::Push {
            priority,
            expiration_ms,
        }),
        4 => Just(Op::Get),
        3 => any::<usize>().prop_map(Op::Ack),
        2 => any::<usize>().prop_map(Op::Reject),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(pick, failed)| Op::Requeue(pick, failed)),
        6 => (1..1_500u64).prop_map(Op::Wait),
        1 => (1..4u32).prop_map(Op::Consume),
        1 => Just(Op::Cancel),
        1 => ttl.prop_map(Op::Ttl),
        3 => (0..5usize).prop_map(Op::Bury),
        1 => Just(Op::Purge),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Known {
    entered_ms: u64,
    /// When it came or came back.
    since_ms: u64,
    own_ms: Option<u64>,
    attempts: Attempts,
}

type Key = (std::cmp::Reverse<u8>, u64);

fn key(rank: Rank) -> Key {
    (std::cmp::Reverse(rank.level), rank.seq)
}

fn of(unacked: &Unacked) -> Rank {
    Rank {
        level: unacked.level,
        seq: unacked.seq,
    }
}

struct World {
    queue: Queue<u32>,
    settings: Settings,
    sink: Taker,
    now_ms: u64,
    wake_ms: u64,
    ready: BTreeMap<Key, Known>,
    out: Vec<(Option<ConsumerKey>, Unacked, Known)>,
    dead: Vec<(Key, Death)>,
    consumer: Option<ConsumerKey>,
}

impl World {
    fn new(settings: Settings) -> Self {
        let shape = Shape {
            levels: LEVELS,
            ..Shape::PLAIN
        };
        Self {
            queue: Queue::new(settings, shape, Memory::default()),
            settings,
            sink: Taker::default(),
            now_ms: 1_000_000,
            wake_ms: u64::MAX,
            ready: BTreeMap::new(),
            out: Vec::new(),
            dead: Vec::new(),
            consumer: None,
        }
    }

    fn deadline(&self, known: &Known) -> u64 {
        let waits = known.own_ms.unwrap_or(u64::MAX).min(self.settings.ttl_ms);
        known.entered_ms.saturating_add(waits)
    }

    fn run(&mut self) {
        self.queue.run(self.now_ms, &mut self.sink);
        self.wake_ms = self.queue.wakes_at();
        self.absorb();
    }

    /// What consumers got is the head of what may still be served.
    fn absorb(&mut self) {
        for unacked in std::mem::take(&mut self.sink.taken) {
            let known = self.take(&unacked);
            self.out.push((self.consumer, unacked, known));
        }
        self.forget_the_expired();
    }

    fn take(&mut self, unacked: &Unacked) -> Known {
        let known = self.ready.remove(&key(of(unacked))).expect("it was ready");
        assert_eq!(known.attempts, unacked.attempts);
        let deadline_ms = self.deadline(&known);
        let just_came = known.entered_ms == self.now_ms;
        assert!(
            deadline_ms > self.now_ms || just_came,
            "expired, and handed out"
        );
        let earlier = self.ready.range(..key(of(unacked)));
        for (_, other) in earlier {
            assert!(self.deadline(other) <= self.now_ms, "out of turn");
        }
        known
    }

    /// The queue may count what expired behind others for a second.
    fn forget_the_expired(&mut self) {
        let mut shown = Vec::new();
        let from = Rank {
            level: u8::MAX,
            seq: 0,
        };
        self.queue.peek(from, |one| {
            shown.push(key(one.rank));
            std::ops::ControlFlow::Continue(())
        });
        assert_eq!(shown.len() as u64, self.queue.ready());
        let before = std::mem::take(&mut self.ready);
        for (at, known) in before {
            if shown.contains(&at) {
                let since_ms = self.deadline(&known).max(known.since_ms);
                let late = since_ms.saturating_add(LATE_MS) <= self.now_ms;
                assert!(!late, "expired long ago, and still counted");
                self.ready.insert(at, known);
            } else {
                let limit = self.settings.limits.ready_max != u64::MAX;
                let expired = self.deadline(&known) <= self.now_ms;
                assert!(expired || limit, "gone before its time");
                self.dead.push((
                    at,
                    if expired {
                        Death::Expired
                    } else {
                        Death::MaxLength
                    },
                ));
            }
        }
        let listed: Vec<_> = self.ready.keys().copied().collect();
        assert_eq!(shown, listed);
    }

    fn wait(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.wake_ms <= until_ms {
            self.now_ms = self.now_ms.max(self.wake_ms);
            self.queue.woken(self.now_ms);
            self.run();
            if self.queue.dead() > 4_000 {
                return;
            }
        }
        self.now_ms = until_ms;
        self.run();
    }

    fn push(&mut self, priority: u8, expiration_ms: Option<u64>) {
        let body = [priority; 20];
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&(body.len() as u64).to_be_bytes());
        header.extend_from_slice(&[0, 0]);
        let message = Message {
            route: b"\0\x01k",
            header: &header,
            body: MessageBody::Inline(&body),
            entered_ms: self.now_ms,
            expiration_ms,
            priority,
            persistent: true,
            deaths: false,
            attempts: Attempts::NONE,
        };
        let Ok(rank) = self.queue.push(&message, &mut self.sink) else {
            return;
        };
        assert_eq!(rank.level, priority.min(LEVELS as u8 - 1));
        let known = Known {
            entered_ms: self.now_ms,
            since_ms: self.now_ms,
            own_ms: expiration_ms,
            attempts: Attempts::NONE,
        };
        self.ready.insert(key(rank), known);
    }

    fn pick(&mut self, pick: usize) -> Option<(Option<ConsumerKey>, Unacked, Known)> {
        let at = pick.checked_rem(self.out.len())?;
        Some(self.out.remove(at))
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Push {
                priority,
                expiration_ms,
            } => self.push(priority, expiration_ms),
            Op::Get => {
                self.run();
                let mut got = None;
                self.queue.get(false, &mut self.sink, |delivery, _| {
                    got = Some(delivery.unacked)
                });
                if let Some(unacked) = got {
                    let known = self.take(&unacked);
                    self.out.push((None, unacked, known));
                } else {
                    let alive = self
                        .ready
                        .values()
                        .filter(|one| self.deadline(one) > self.now_ms);
                    assert!(alive.count() == 0 || self.queue.is_behind());
                }
            }
            Op::Ack(_) | Op::Reject(_) | Op::Requeue(..) => self.settle(op),
            Op::Wait(ms) => self.wait(ms),
            Op::Consume(prefetch) if self.consumer.is_none() => {
                let asked = Consuming {
                    prefetch,
                    ..Consuming::default()
                };
                self.consumer = Some(self.queue.consume(0, asked));
            }
            Op::Cancel => {
                if let Some(key) = self.consumer.take() {
                    self.queue.cancel(key);
                }
            }
            Op::Consume(_) => {}
            Op::Ttl(ttl_ms) => {
                self.settings.ttl_ms = ttl_ms.unwrap_or(u64::MAX);
                self.queue.set_settings(self.settings);
            }
            Op::Bury(most) => self.bury(most),
            Op::Purge => {
                self.queue.purge();
                self.ready.clear();
            }
        }
        self.run();
        let dead = if self.settings.keeps_dead {
            self.dead.len()
        } else {
            0
        };
        assert_eq!(self.queue.dead(), dead);
        assert_eq!(self.queue.unacked(), self.out.len() as u64);
    }

    fn settle(&mut self, op: &Op) {
        let (Op::Ack(pick) | Op::Reject(pick) | Op::Requeue(pick, _)) = *op else {
            return;
        };
        let Some((consumer, unacked, mut known)) = self.pick(pick) else {
            return;
        };
        let at = key(of(&unacked));
        match *op {
            Op::Requeue(_, failed) => {
                self.queue
                    .requeue(consumer, &unacked, failed, &mut self.sink);
                known.attempts = known.attempts.and_one(failed);
                known.since_ms = self.now_ms;
                if known.attempts.failed > self.settings.failures_max {
                    self.dead.push((at, Death::DeliveryLimit));
                } else {
                    self.ready.insert(at, known);
                }
            }
            Op::Reject(_) => {
                self.queue
                    .reject_all(consumer, &[unacked], |one| *one, &mut self.sink);
                self.dead.push((at, Death::Rejected));
            }
            _ => self.queue.settle(consumer, &unacked),
        }
    }

    fn bury(&mut self, most: usize) {
        let mut seen = Vec::new();
        let begun = self.queue.begin_burial(|dead| {
            seen.push((key(of(&dead.unacked)), dead.death));
            assert_eq!(dead.record.seq, dead.unacked.seq);
            seen.len() < most
        });
        if !begun {
            return;
        }
        assert!(!self.queue.begin_burial(|_| panic!("somebody else's")));
        let count = seen.len();
        let mut expected = self.dead.drain(..count).collect::<Vec<_>>();
        // Deaths of one moment are seen in the order of the queue, the model's in that of ranks.
        seen.sort_unstable_by_key(|(at, _)| *at);
        expected.sort_unstable_by_key(|(at, _)| *at);
        if self.settings.limits.ready_max == u64::MAX {
            assert_eq!(seen.len(), expected.len());
        }
        self.queue.buried(count);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_dead_is_handed_out_and_nothing_dies_early(
        ops in prop::collection::vec(op(), 1..120),
        ttl in prop_oneof![Just(u64::MAX), 0..2_000u64],
        keeps_dead in any::<bool>(),
        failures_max in prop_oneof![Just(u32::MAX), 0..3u32],
    ) {
        let settings = Settings {
            ttl_ms: ttl,
            keeps_dead,
            failures_max,
            ..Settings::NONE
        };
        let mut world = World::new(settings);
        for op in &ops {
            world.apply(op);
        }
        world.apply(&Op::Ttl(Some(1)));
        world.wait(5_000);
        assert_eq!(world.queue.ready(), 0, "{:?}", world.ready);
        while let Some((consumer, unacked, _)) = world.pick(0) {
            world.queue.settle(consumer, &unacked);
        }
        world.bury(usize::MAX);
        prop_assert!(world.queue.shrink(), "an empty queue holds no memory");
        prop_assert_eq!(world.queue.resident_bytes(), 0);
    }
}

fn world(settings: Settings) -> World {
    World::new(settings)
}

#[test]
fn over_the_limit_the_head_goes_or_the_lowest_level() {
    for (drops_lowest, gone) in [(false, 3), (true, 0)] {
        let limits = Limits {
            ready_max: 2,
            overflow: Overflow::DropHead,
            ..Limits::NONE
        };
        let mut world = world(Settings {
            limits,
            drops_lowest,
            ..Settings::NONE
        });
        for priority in [3, 0, 1] {
            world.push(priority, None);
        }
        world.queue.run(world.now_ms, &mut world.sink);
        let levels: Vec<_> = world.sink.gone.iter().map(|rank| rank.level).collect();
        assert_eq!(levels, [gone]);
    }
}

#[test]
fn a_message_that_may_not_wait_is_served_or_dies() {
    let settings = Settings {
        ttl_ms: 0,
        ..Settings::NONE
    };
    let mut world = world(settings);
    world.push(0, None);
    world.queue.run(world.now_ms, &mut world.sink);
    assert_eq!(
        (world.queue.ready(), world.queue.counters().expired),
        (0, 1)
    );
    let asked = Consuming {
        prefetch: 1,
        ..Consuming::default()
    };
    world.queue.consume(1, asked);
    for _ in 0..3 {
        world.push(0, None);
    }
    world.queue.run(world.now_ms, &mut world.sink);
    assert_eq!(world.sink.taken.len(), 1);
    assert_eq!(
        (world.queue.ready(), world.queue.counters().expired),
        (0, 3)
    );
}

#[test]
fn what_is_held_back_is_served_when_the_hold_ends() {
    let mut world = world(Settings::NONE);
    world.push(0, None);
    world.push(0, None);
    let second = Rank { level: 0, seq: 1 };
    world.queue.hold_from(second);
    world.queue.consume(1, Consuming::default());
    world.queue.run(world.now_ms, &mut world.sink);
    assert_eq!(world.sink.taken.len(), 1);
    world.queue.release_hold(second);
    world.queue.run(world.now_ms, &mut world.sink);
    assert_eq!(world.sink.taken.len(), 2);
}

#[test]
fn a_million_messages_that_expire_at_once_go_in_slices() {
    let mut world = world(Settings {
        ttl_ms: 10,
        ..Settings::NONE
    });
    for _ in 0..100_000 {
        world.push(0, None);
    }
    world.queue.run(world.now_ms, &mut world.sink);
    let (now_ms, mut runs) = (world.now_ms + 10, 0);
    loop {
        world.queue.woken(now_ms);
        world.queue.run(now_ms, &mut world.sink);
        runs += 1;
        if !world.queue.is_behind() {
            break;
        }
    }
    assert_eq!(world.queue.ready(), 0);
    assert!((12..40).contains(&runs), "{runs} runs");
}
