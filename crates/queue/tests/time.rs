//! Priorities, age and holds by example; the model that random histories are compared with is the
//! fuzz target's, `crates/fuzz/src/queue_life.rs`.

use leveret_queue::{
    Attempts, Consumer, ConsumerKey, Consuming, Delivery, Limits, Message, MessageBody, Offer,
    Overflow, Queue, Rank, Settings, Shape, Sink, Unacked,
};
use leveret_record::Memory;

const LEVELS: u16 = 4;

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

    fn settled(&mut self, rank: Rank) {
        self.gone.push(rank);
    }
}

struct World {
    queue: Queue<u32>,
    sink: Taker,
    now_ms: u64,
}

fn world(settings: Settings) -> World {
    let shape = Shape {
        levels: LEVELS,
        ..Shape::PLAIN
    };
    World {
        queue: Queue::new(settings, shape, Memory::default()),
        sink: Taker::default(),
        now_ms: 1_000_000,
    }
}

impl World {
    fn push(&mut self, priority: u8) {
        self.push_for(priority, None);
    }

    /// A message that may wait for so long.
    fn push_for(&mut self, priority: u8, expiration_ms: Option<u64>) {
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
        let rank = self.queue.push(&message, &mut self.sink).unwrap();
        assert_eq!(rank.level, priority.min(LEVELS as u8 - 1));
    }
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
            world.push(priority);
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
    world.push(0);
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
        world.push(0);
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
    world.push(0);
    world.push(0);
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
fn what_was_held_back_has_its_deadline_when_the_hold_ends() {
    let mut world = world(Settings {
        ttl_ms: 100,
        ..Settings::NONE
    });
    world.push(0);
    let first = Rank { level: 0, seq: 0 };
    world.queue.hold_from(first);
    world.queue.run(world.now_ms, &mut world.sink);
    world.now_ms += 50;
    world.push(1);
    world.queue.run(world.now_ms, &mut world.sink);
    world.queue.release_hold(first);
    world.queue.run(world.now_ms, &mut world.sink);
    assert_eq!(world.queue.wakes_at(), world.now_ms + 50);
}

#[test]
fn a_million_messages_that_expire_at_once_go_in_slices() {
    let mut world = world(Settings {
        ttl_ms: 10,
        ..Settings::NONE
    });
    for _ in 0..100_000 {
        world.push(0);
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
    assert!((380..400).contains(&runs), "{runs} runs");
}

/// Others have the queue meanwhile.
#[test]
fn a_million_messages_over_a_new_limit_go_in_slices() {
    let mut world = world(Settings::NONE);
    for _ in 0..100_000 {
        world.push(0);
    }
    world.queue.run(world.now_ms, &mut world.sink);
    world.queue.set_settings(Settings {
        limits: Limits {
            ready_max: 1,
            ..Limits::NONE
        },
        ..Settings::NONE
    });
    let mut runs = 0;
    while world.queue.ready() > 1 {
        let before = world.queue.ready();
        world.queue.run(world.now_ms, &mut world.sink);
        let dropped = before - world.queue.ready();
        assert!((1..=16 * 1024).contains(&dropped), "{dropped}");
        assert_eq!(
            world.queue.wakes_at() <= world.now_ms,
            world.queue.ready() > 1
        );
        world.queue.woken(world.now_ms);
        runs += 1;
    }
    assert!(runs > 3, "{runs} runs");
    assert_eq!(world.queue.counters().dropped, 99_999);
}

/// However busy a higher one is.
#[test]
fn what_expires_behind_others_goes_within_a_second_at_every_level() {
    const EACH: usize = 400;
    let mut world = world(Settings::NONE);
    for level in [3, 1] {
        world.push(level);
        for _ in 0..EACH {
            world.push_for(level, Some(100));
        }
    }
    let begun_ms = world.now_ms;
    while world.now_ms < begun_ms + 1_100 {
        world.now_ms += 20;
        world.push_for(3, Some(100));
        world.queue.woken(world.now_ms);
        world.queue.run(world.now_ms, &mut world.sink);
    }
    let levels: Vec<_> = world.queue.ready_by_level().collect();
    let low = levels.iter().find(|(level, _)| *level == 1);
    assert_eq!(low, Some(&(1, 1)), "{levels:?}");
}
