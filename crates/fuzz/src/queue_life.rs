//! Priorities, age, failures and lengths of one queue against a plain map: what may never be handed
//! out, what dies when, and why.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use leveret_queue::{
    Attempts, BurialWait, Buried, Consumer, ConsumerKey, Consuming, Death, Delivery, Limits,
    Message, MessageBody, Offer, Overflow, Queue, Rank, Settings, Shape, Sink, Unacked,
};

use crate::paged::Pages;

const LEVELS: u8 = 4;
/// Within so many milliseconds what is dead has left the counts, wherever it stood.
const LATE_MS: u64 = 1_000;
/// The same where it stood on the disk.
const PAGED_LATE_MS: u64 = 11_000;
const BEGIN_MS: u64 = 1_000_000;

/// Reads input as a queue's settings, then as what is done to it, two bytes an operation.
pub fn queue_life(input: &[u8]) {
    let Some((&[kind, ttl, bound], operations)) = input.split_first_chunk() else {
        return;
    };
    let mut world = World::new(kind, ttl, bound);
    for operation in operations.chunks_exact(2) {
        world.apply(operation[0], operation[1]);
    }
    world.end();
}

/// Consumers take everything.
#[derive(Default)]
struct Taker {
    taken: Vec<Unacked>,
}

impl Sink<u32> for Taker {
    fn offer(&mut self, _: &Consumer<u32>, _: ConsumerKey, delivery: &Delivery<'_>) -> Offer {
        self.taken.push(delivery.unacked);
        Offer::Taken
    }

    fn settled(&mut self, _: Rank) {}
}

#[derive(Clone, Copy, Debug)]
struct Known {
    entered_ms: u64,
    /// When it came or came back.
    since_ms: u64,
    /// When it was handed out last.
    handed_ms: u64,
    own_ms: Option<u64>,
    attempts: Attempts,
}

/// What is served first comes first.
type Place = (Reverse<u8>, u64);

fn place(rank: Rank) -> Place {
    (Reverse(rank.level), rank.seq)
}

fn place_of(unacked: &Unacked) -> Place {
    (Reverse(unacked.level), unacked.seq)
}

struct World {
    pages: Pages,
    queue: Queue<u32>,
    settings: Settings,
    timeout_counts: bool,
    sink: Taker,
    now_ms: u64,
    wake_ms: u64,
    ready: BTreeMap<Place, Known>,
    out: Vec<(Option<ConsumerKey>, Unacked, Known)>,
    /// In about the order they died.
    dead: Vec<(Place, Death)>,
    consumer: Option<(ConsumerKey, u32)>,
    holds: Vec<Rank>,
    /// When something was held back last: that is for no longer than a turn.
    held_ms: u64,
}

impl World {
    fn new(kind: u8, ttl: u8, bound: u8) -> Self {
        let of = |bit: u8, value: u64| if kind & bit == 0 { u64::MAX } else { value };
        let settings = Settings {
            limits: Limits {
                ready_max: of(1, u64::from(bound % 8)),
                overflow: Overflow::DropHead,
                ..Limits::NONE
            },
            ttl_ms: of(2, u64::from(ttl) * 8),
            failures_max: u32::try_from(of(4, u64::from(bound % 3))).unwrap_or(u32::MAX),
            keeps_dead: kind & 8 != 0,
            drops_lowest: kind & 16 != 0,
        };
        let shape = Shape {
            levels: if kind & 32 == 0 { 1 } else { LEVELS.into() },
            ..Shape::PLAIN
        };
        let pages = Pages::new(bound);
        Self {
            queue: Queue::new(settings, shape, pages.memory.clone()),
            pages,
            settings,
            timeout_counts: kind & 64 != 0,
            sink: Taker::default(),
            now_ms: BEGIN_MS,
            wake_ms: u64::MAX,
            ready: BTreeMap::new(),
            out: Vec::new(),
            dead: Vec::new(),
            consumer: None,
            holds: Vec::new(),
            held_ms: 0,
        }
    }

    fn apply(&mut self, operation: u8, detail: u8) {
        let pick = usize::from(detail);
        match operation % 32 {
            0..=7 => drop(self.push(detail % 6, None)),
            8..=11 => drop(self.push(detail % 6, Some(u64::from(detail) * 12))),
            12..=14 => self.get(),
            15 | 16 => self.settle(pick),
            17 | 18 => self.reject(pick),
            19..=21 => self.requeue(pick, operation.is_multiple_of(2)),
            22 => self.take_back(u64::from(detail) * 6),
            23..=25 => self.wait(1 + u64::from(detail) * 6),
            26 => self.consume(u32::from(detail % 4)),
            27 => self.cancel(),
            28 => self.set_ttl(detail),
            29 => self.bury(pick % 6),
            30 if detail < 32 => self.purge(),
            30 => {
                let queue = &mut self.queue;
                self.pages.step(queue, pick, self.now_ms, &mut self.sink);
            }
            _ => self.hold_or_release(detail),
        }
        self.run();
        self.check();
    }

    fn deadline_ms(&self, known: &Known) -> u64 {
        let waits = known.own_ms.unwrap_or(u64::MAX).min(self.settings.ttl_ms);
        known.entered_ms.saturating_add(waits)
    }

    fn is_alive(&self, known: &Known) -> bool {
        self.deadline_ms(known) > self.now_ms
    }

    fn run(&mut self) {
        self.queue.run(self.now_ms, &mut self.sink);
        self.pages
            .rest(&mut self.queue, self.now_ms, &mut self.sink);
        self.wake_ms = self.queue.wakes_at();
        self.absorb();
    }

    /// What consumers got is the head of what may still be served.
    fn absorb(&mut self) {
        let taken = std::mem::take(&mut self.sink.taken);
        let count = taken.len() as u64;
        for unacked in taken {
            let known = self.take(&unacked);
            let (key, _) = self.consumer.expect("somebody took it");
            self.out.push((Some(key), unacked, known));
        }
        self.forget_the_gone(count);
    }

    fn take(&mut self, unacked: &Unacked) -> Known {
        let at = place_of(unacked);
        let known = self.ready.remove(&at);
        let mut known = known.unwrap_or_else(|| panic!("nobody put it there: {at:?}"));
        known.handed_ms = self.now_ms;
        assert_eq!(known.attempts, unacked.attempts);
        let just_came = known.since_ms == self.now_ms && known.entered_ms == self.now_ms;
        assert!(
            self.is_alive(&known) || just_came,
            "expired, and handed out"
        );
        let is_held = |held: &Rank| held.level == unacked.level && held.seq <= unacked.seq;
        assert!(!self.holds.iter().any(is_held), "served while it is held");
        let mut earlier = self.ready.range(..at);
        assert!(
            earlier.all(|(_, other)| !self.is_alive(other)),
            "out of turn"
        );
        known
    }

    /// The queue may count what expired behind others for a second.
    fn forget_the_gone(&mut self, taken: u64) {
        let mut shown = BTreeSet::new();
        let from = Rank {
            level: u8::MAX,
            seq: 0,
        };
        self.pages.peek(&self.queue, from, |one| {
            shown.insert(place(one.rank));
        });
        assert_eq!(shown.len() as u64, self.queue.ready());
        if !self.holds.is_empty() {
            self.held_ms = self.now_ms;
        }
        let (mut dropped, mut expired) = (Vec::new(), 0);
        let is_paged = self.pages.have_written();
        for (at, known) in std::mem::take(&mut self.ready) {
            if shown.contains(&at) {
                let since_ms = self.deadline_ms(&known).max(known.since_ms);
                let since_ms = since_ms.max(self.held_ms);
                let late_ms = if is_paged { PAGED_LATE_MS } else { LATE_MS };
                let late = since_ms.saturating_add(late_ms) <= self.now_ms;
                assert!(!late, "expired long ago, and still counted");
                self.ready.insert(at, known);
            } else if self.is_alive(&known) {
                dropped.push(at);
                self.dead.push((at, Death::MaxLength));
            } else {
                expired += 1;
                self.dead.push((at, Death::Expired));
            }
        }
        assert!(shown.iter().eq(self.ready.keys()), "nobody put it there");
        self.check_dropped(&dropped, if is_paged { expired + taken } else { 0 });
    }

    /// Those are dropped that stand first, or first in the lowest levels, and no more than needed.
    /// So many that `counted` have left while some that are to go were waited for, as they were on
    /// the disk.
    fn check_dropped(&self, dropped: &[Place], counted: u64) {
        let max = self.settings.limits.ready_max;
        let ready = self.ready.len() as u64;
        assert!(
            self.holds.iter().any(|_| true) || ready <= max || self.queue.waits_for_page(),
            "over the limit"
        );
        if dropped.is_empty() {
            return;
        }
        let is_full = ready + counted >= max;
        assert!(max != u64::MAX && is_full, "gone before its time");
        let turn = |at: &Place| match self.settings.drops_lowest {
            true => (at.0.0, at.1),
            false => (u8::MAX - at.0.0, at.1),
        };
        let last = dropped.iter().map(turn).max();
        let mut left = self.ready.keys().map(turn);
        assert!(left.all(|left| Some(left) > last), "another one goes first");
    }

    fn check(&self) {
        let dead = if self.settings.keeps_dead {
            self.dead.len()
        } else {
            0
        };
        assert_eq!(self.queue.dead(), dead);
        assert_eq!(self.queue.unacked(), self.out.len() as u64);
        let Some((key, prefetch)) = self.consumer else {
            return;
        };
        let held = self.out.iter().filter(|(of, ..)| *of == Some(key)).count();
        assert!(
            prefetch == 0 || held <= prefetch as usize,
            "beyond its credit"
        );
        let waits = prefetch == 0 || held < prefetch as usize;
        let served = self.holds.is_empty() && !self.queue.is_behind();
        let mut alive = self.ready.values().filter(|known| self.is_alive(known));
        assert!(
            !(waits && served) || alive.next().is_none(),
            "a ready message waits"
        );
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

    fn push(&mut self, priority: u8, expiration_ms: Option<u64>) -> Rank {
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
            deaths: priority.is_multiple_of(2),
            attempts: Attempts::NONE,
        };
        let rank = self.queue.push(&message, &mut self.sink);
        let rank = rank.expect("nothing is refused");
        let top = self.queue.shape().levels - 1;
        assert_eq!(u16::from(rank.level), u16::from(priority).min(top));
        let known = Known {
            entered_ms: self.now_ms,
            since_ms: self.now_ms,
            handed_ms: 0,
            own_ms: expiration_ms,
            attempts: Attempts::NONE,
        };
        self.ready.insert(place(rank), known);
        rank
    }

    fn get(&mut self) {
        self.run();
        while self.queue.waits_for_page() {
            let queue = &mut self.queue;
            self.pages.fetch_head(queue, self.now_ms, &mut self.sink);
            queue.run(self.now_ms, &mut self.sink);
        }
        self.wake_ms = self.queue.wakes_at();
        self.absorb();
        let mut got = None;
        let found = self.queue.get(false, &mut self.sink, |delivery, _| {
            got = Some(delivery.unacked);
        });
        assert_eq!(found, got.is_some());
        if let Some(unacked) = got {
            let known = self.take(&unacked);
            self.out.push((None, unacked, known));
        } else {
            let served = self.holds.is_empty() && !self.queue.is_behind();
            let mut alive = self.ready.values().filter(|known| self.is_alive(known));
            assert!(
                !served || alive.next().is_none(),
                "basic.get passed it over"
            );
        }
    }

    fn pick(&mut self, pick: usize) -> Option<(Option<ConsumerKey>, Unacked, Known)> {
        let at = pick.checked_rem(self.out.len())?;
        Some(self.out.remove(at))
    }

    fn settle(&mut self, pick: usize) {
        if let Some((consumer, unacked, _)) = self.pick(pick) {
            self.queue.settle(consumer, &unacked);
        }
    }

    fn reject(&mut self, pick: usize) {
        let Some((consumer, unacked, _)) = self.pick(pick) else {
            return;
        };
        let one = [unacked];
        self.queue
            .reject_all(consumer, &one, |one| *one, &mut self.sink);
        self.dead.push((place_of(&unacked), Death::Rejected));
    }

    fn requeue(&mut self, pick: usize, failed: bool) {
        let Some((consumer, unacked, known)) = self.pick(pick) else {
            return;
        };
        self.queue
            .requeue(consumer, &unacked, failed, &mut self.sink);
        self.came_back(&unacked, known, failed);
    }

    /// What was not settled within so many milliseconds goes back, and nothing else: what one
    /// consumer held in one step, as a failed attempt or not.
    fn take_back(&mut self, timeout_ms: u64) {
        let now_ms = self.now_ms;
        let is_overdue = |known: &Known| known.handed_ms + timeout_ms <= now_ms;
        let overdue = |one: &mut (_, _, Known)| is_overdue(&one.2);
        let mut back: Vec<_> = self.out.extract_if(.., overdue).collect();
        back.sort_by_key(|(consumer, ..)| consumer.is_some());
        let (sink, failed) = (&mut self.sink, self.timeout_counts);
        for run in back.chunk_by(|(a, ..), (b, ..)| a == b) {
            let unacked = |(_, unacked, _): &(_, Unacked, _)| *unacked;
            let consumer = run.first().and_then(|(consumer, ..)| *consumer);
            self.queue
                .requeue_all(consumer, run, (unacked, failed), sink);
        }
        for (_, unacked, known) in back {
            self.came_back(&unacked, known, failed);
        }
    }

    fn came_back(&mut self, unacked: &Unacked, mut known: Known, failed: bool) {
        known.attempts = known.attempts.and_one(failed);
        known.since_ms = self.now_ms;
        let at = place_of(unacked);
        if known.attempts.failed > self.settings.failures_max {
            self.dead.push((at, Death::DeliveryLimit));
        } else {
            self.ready.insert(at, known);
        }
    }

    fn consume(&mut self, prefetch: u32) {
        if self.consumer.is_none() {
            let asked = Consuming {
                prefetch,
                ..Consuming::default()
            };
            self.consumer = Some((self.queue.consume(0, asked), prefetch));
        }
    }

    fn cancel(&mut self) {
        if let Some((key, _)) = self.consumer.take() {
            self.queue.cancel(key);
            // What it holds is settled as what was fetched.
            let held = self.out.iter_mut().filter(|(of, ..)| *of == Some(key));
            held.for_each(|(of, ..)| *of = None);
        }
    }

    fn set_ttl(&mut self, detail: u8) {
        self.settings.ttl_ms = match detail % 3 {
            0 => u64::MAX,
            _ => u64::from(detail) * 8,
        };
        self.queue.set_settings(self.settings);
    }

    fn purge(&mut self) {
        assert_eq!(self.queue.purge(), self.ready.len() as u64);
        self.ready.clear();
    }

    /// A message comes that is not served, nor what comes after it, until its group is in the
    /// journal; or one is served from now on.
    fn hold_or_release(&mut self, detail: u8) {
        if detail.is_multiple_of(2)
            && let Some(at) = usize::from(detail).checked_rem(self.holds.len())
        {
            let held = self.holds.swap_remove(at);
            self.queue.release_hold(held);
            return;
        }
        let rank = self.push(detail % 6, None);
        self.queue.hold_from(rank);
        self.holds.push(rank);
    }

    fn bury(&mut self, most: usize) {
        let mut seen = Vec::new();
        let begun = self.queue.begin_burial(self.now_ms, |dead| {
            seen.push((place_of(&dead.unacked), dead.death));
            assert_eq!(dead.record.seq, dead.unacked.seq);
            seen.len() < most
        });
        if !begun {
            return;
        }
        let begun = self
            .queue
            .begin_burial(self.now_ms, |_| panic!("somebody else's"));
        assert!(!begun);
        for one in &seen {
            let at = self.dead.iter().position(|other| other == one);
            let at = at.unwrap_or_else(|| panic!("{one:?} is none of {:?}", self.dead));
            self.dead.remove(at);
        }
        self.queue.buried(Buried {
            count: seen.len(),
            stay: &[],
            wait: BurialWait {
                all: false,
                until_ms: 0,
            },
        });
    }

    /// All ends, and nothing stays.
    fn end(&mut self) {
        for held in std::mem::take(&mut self.holds) {
            self.queue.release_hold(held);
        }
        self.cancel();
        self.settings.ttl_ms = 1;
        self.queue.set_settings(self.settings);
        self.run();
        self.wait(5_000);
        assert_eq!(self.queue.ready(), 0, "{:?}", self.ready);
        while let Some((consumer, unacked, _)) = self.pick(0) {
            self.queue.settle(consumer, &unacked);
        }
        while self.queue.dead() > 0 {
            let before = self.queue.dead();
            self.pages
                .rest(&mut self.queue, self.now_ms, &mut self.sink);
            self.bury(usize::MAX);
            assert!(self.queue.dead() < before, "the dead are not moved on");
        }
        assert!(self.queue.shrink(), "an empty queue holds no memory");
        self.pages.end_of_queue(&self.queue);
    }
}
