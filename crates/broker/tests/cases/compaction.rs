//! What is left of long queues takes little of the disk, whatever was settled of them and in which
//! order: at most twice what lives, the journal's window, and a reserve.

use leveret_codec::{BasicAck, BasicCancel, BasicNack};
use leveret_runs::RunFiles as _;
use leveret_store::{Batch, Store as _};

use crate::moving::{World, numbers};
use crate::support::{consume, declaration, ready};

const MESSAGES: usize = 3_000;
/// Bytes of a message on the disk, about: head, route, content header, body.
const MESSAGE_BYTES: usize = 20 + 3 + 16 + 60;
/// The journal's window, and what it takes beside: see `config` in `moving.rs`.
const WINDOW: usize = (128 + 80) << 10;
/// The run that is written, places that wait for a checkpoint, and tables of small chunks.
const RESERVE: usize = 32 << 10;

impl World {
    fn ack(&mut self, delivery_tag: u64) {
        let multiple = false;
        self.client.say(
            2,
            BasicAck {
                delivery_tag,
                multiple,
            },
        );
    }

    fn requeue(&mut self, delivery_tag: u64, multiple: bool) {
        let nack = BasicNack {
            delivery_tag,
            multiple,
            requeue: true,
        };
        self.client.say(2, nack);
    }

    fn cancel(&mut self) {
        let consumer_tag = b"tag";
        let nowait = false;
        self.client.say(
            2,
            BasicCancel {
                consumer_tag,
                nowait,
            },
        );
        self.client.hear();
    }

    /// Five quiet seconds.
    fn rest(&mut self) {
        for _ in 0..3 {
            self.turn();
        }
    }

    /// Whether the disk has little else than what lives.
    fn assert_small(&self, live: usize) {
        let (journal, runs) = (self.journal_bytes(), self.files.used_bytes());
        let most = 2 * live * MESSAGE_BYTES + WINDOW + RESERVE;
        let used = journal + usize::try_from(runs).unwrap();
        println!("{live} live: {journal} of journal + {runs} of runs, at most {most}");
        assert!(used <= most, "{journal} + {runs} of {most} for {live}");
        assert!(
            runs as usize <= 2 * live * MESSAGE_BYTES + RESERVE,
            "{runs} for {live}"
        );
    }
}

/// A message is acknowledged or not by its number; after that all that is left is there.
fn acknowledge(keeps: impl Fn(usize) -> bool) {
    let mut world = World::new();
    world.fill(0..MESSAGES);
    let (taken, _) = world.take_all();
    assert_eq!(taken.len(), MESSAGES);
    for (tag, number) in (1..).zip(&taken) {
        if !keeps(*number) {
            world.ack(tag);
        }
        if tag.is_multiple_of(200) {
            world.turn();
        }
    }
    world.cancel();
    world.rest();
    let left: Vec<usize> = taken.into_iter().filter(|number| keeps(*number)).collect();
    world.assert_small(left.len());
    assert!(world.broker.runs_stats().files > 0 || left.len() < 100);
    let mut world = world.cut_power(1);
    assert_eq!(ready(&world.broker, "q"), left.len() as u64);
    world.rest();
    world.assert_small(left.len());
    let (again, tried) = world.take_all();
    assert_eq!((again, tried), (left.clone(), left.len()));
    // What is lost is told.
    assert!(world.broker.take_lost().is_empty());
}

#[test]
fn all_but_few_are_acknowledged() {
    acknowledge(|number| number.is_multiple_of(64));
}

#[test]
fn random_ones_are_acknowledged() {
    let mut state = 7_u64;
    let keeps: Vec<bool> = (0..MESSAGES)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state >> 33 & 3 == 0
        })
        .collect();
    acknowledge(|number| keeps[number]);
}

#[test]
fn storms_of_requeues_and_acknowledgements() {
    let mut world = World::new();
    world.fill(0..MESSAGES);
    let mut left: Vec<usize> = (0..MESSAGES).collect();
    let mut first = 1;
    for round in 0..4_usize {
        let (taken, _) = world.take_all();
        assert_eq!(taken, left, "round {round}");
        world.cancel();
        for (tag, number) in (first..).zip(&taken) {
            // Most go, some come back one by one, the others together.
            match (number + round) % 5 {
                0..=1 => world.ack(tag),
                2 => world.requeue(tag, false),
                _ => {}
            }
            if tag.is_multiple_of(200) {
                world.turn();
            }
        }
        world.requeue(0, true);
        world.rest();
        first += taken.len() as u64;
        left.retain(|number| (number + round) % 5 > 1);
        world.assert_small(left.len());
    }
    let mut world = world.cut_power(1);
    assert_eq!(world.take_all().0, left);
}

#[test]
fn many_queues_with_little_in_each() {
    const QUEUES: usize = 100;
    let mut world = World::new();
    let name = |queue: usize| format!("q{queue}");
    for queue in 0..QUEUES {
        world.client.say(1, declaration(&name(queue), true));
    }
    world.turn();
    for number in 0..MESSAGES {
        let (queue, body) = (name(number % QUEUES), format!("{number:0>60}"));
        world.client.publish(1, &queue, &body, true);
        if number.is_multiple_of(20) {
            world.turn();
        }
    }
    world.turn();
    let (mut tag, mut left) = (0, 0);
    for queue in 0..QUEUES {
        world.client.say(2, consume(&name(queue)));
        let mut taken = Vec::new();
        for _ in 0..40 {
            world.read_pages();
            taken.extend(numbers(&world.client.hear()));
        }
        assert_eq!(taken.len(), MESSAGES / QUEUES);
        for index in 0..taken.len() {
            tag += 1;
            // One is left of each.
            if index != queue % taken.len() {
                world.ack(tag);
            }
        }
        left += 1;
        world.cancel();
    }
    world.requeue(0, true);
    world.rest();
    world.assert_small(left);
    let world = world.cut_power(1);
    for queue in 0..QUEUES {
        assert_eq!(ready(&world.broker, &name(queue)), 1);
    }
}

#[test]
fn transient_messages_leave_the_disk_as_well() {
    let mut world = World::new();
    for number in 0..MESSAGES {
        let body = format!("{number:0>60}");
        world.client.publish(1, "q", &body, false);
        if number.is_multiple_of(20) {
            world.turn();
        }
    }
    let (taken, _) = world.take_all();
    assert_eq!(taken.len(), MESSAGES);
    world.cancel();
    for tag in (1..=MESSAGES as u64).filter(|tag| !tag.is_multiple_of(16)) {
        world.ack(tag);
    }
    world.rest();
    world.assert_small(MESSAGES / 16);
    world.requeue(0, true);
    let left: Vec<usize> = (0..MESSAGES)
        .filter(|it| (it + 1).is_multiple_of(16))
        .collect();
    assert_eq!(world.take_all().0, left);
}

/// On a full disk nothing leaves memory, but what is there already is rewritten, little at once.
#[test]
fn a_full_disk_is_emptied_by_what_is_settled() {
    let mut world = World::new();
    world.fill(0..MESSAGES);
    let (taken, _) = world.take_all();
    world.broker.leave_free(40_000);
    world.files.set_free_bytes(20_000);
    let written = world.broker.runs_stats().written_bytes;
    for (tag, number) in (1..).zip(&taken) {
        if !number.is_multiple_of(16) {
            world.ack(tag);
        }
    }
    world.cancel();
    for _ in 0..400 {
        world.turn_on_full_disk();
        assert!(
            world.broker.owed_bytes() <= 3_000,
            "{}",
            world.broker.owed_bytes()
        );
    }
    assert!(world.broker.runs_stats().written_bytes > written);
    let left: Vec<usize> = taken
        .into_iter()
        .filter(|it| it.is_multiple_of(16))
        .collect();
    world.assert_small(left.len());
    // Not even that much is there.
    world.files.set_free_bytes(1);
    world.turn_on_full_disk();
    assert!(world.files.free_bytes().is_ok());
    let mut world = world.cut_power(1);
    assert_eq!(world.take_all().0, left);
}

/// Nothing is written again and again of which the journal can take no note.
#[test]
fn where_the_journal_has_no_room_nobody_goes_on_to_write() {
    let mut world = World::new();
    world.fill(0..MESSAGES);
    let (taken, _) = world.take_all();
    world.broker.leave_free(40_000);
    world.files.set_free_bytes(20_000);
    for (tag, _) in (1..).zip(&taken).filter(|(_, it)| !it.is_multiple_of(16)) {
        world.ack(tag);
    }
    world.cancel();
    world.turn_on_full_disk();
    let mut held = Batch::new();
    for bytes in [1_000, 100, 10, 1] {
        while world.journal.admit_change(&mut held, bytes).is_ok() {}
    }
    let written = world.broker.runs_stats().written_bytes;
    world.now_ms += 1_200;
    world.broker.set_now(world.now_ms);
    assert_eq!(world.broker.rewrite_chunks(), Ok(false));
    assert!(world.broker.runs_stats().written_bytes > written);
}
