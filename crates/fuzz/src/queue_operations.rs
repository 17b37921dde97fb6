//! One queue against a plain list, whatever is done to it.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use leveret_queue::{
    Consumer, ConsumerKey, Consuming, Delivery, Limits, Message, MessageBody, Offer, Overflow,
    Queue, Rank, Settings, Shape, Sink, Unacked,
};
use leveret_record::{Attempts, Blob, Body, Memory};

use crate::paged::Pages;
use crate::queue_life;

const ROUTE: &[u8] = b"\x02ex\x01k";
const NOW_MS: u64 = 1_000;
const CONSUMERS_MAX: usize = 8;
const SIZES: [usize; 8] = [0, 1, 7, 60, 90, 200, 900, 3_000];
/// Larger than a chunk.
const LARGE: usize = 300_000;
/// Where a restart leaves a queue that had one message out for very long.
const FAR: u64 = (5 << 32) - 7;

/// The bit of the first byte that makes it a queue whose messages die.
const MORTAL: u8 = 0x80;

/// Reads input as a queue's limits, then as what is done to it, two bytes an operation.
pub fn queue_operations(input: &[u8]) {
    let Some((&[kind, bound], operations)) = input.split_first_chunk() else {
        return;
    };
    if kind & MORTAL != 0 {
        return queue_life(input);
    }
    let mut world = World::new(kind, bound);
    for operation in operations.chunks_exact(2) {
        world.apply(operation[0], operation[1]);
    }
    world.drain();
}

enum Event {
    Offered(u32, Unacked, Vec<u8>),
    Gone(u64),
}

/// Takes everything, or refuses for those who are full; keeps what happened in order.
#[derive(Default)]
struct Taker {
    events: Vec<Event>,
    full: Vec<u32>,
}

impl Sink<u32> for Taker {
    fn offer(
        &mut self,
        consumer: &Consumer<u32>,
        _: ConsumerKey,
        delivery: &Delivery<'_>,
    ) -> Offer {
        if self.full.contains(&consumer.handle) {
            return Offer::Refused;
        }
        let event = Event::Offered(consumer.handle, delivery.unacked, body_of(delivery));
        self.events.push(event);
        Offer::Taken
    }

    fn settled(&mut self, rank: Rank) {
        self.events.push(Event::Gone(rank.seq));
    }
}

/// A content header without properties; a record takes its body's size from there.
fn header(body_len: usize) -> Vec<u8> {
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(body_len as u64).to_be_bytes());
    header.extend_from_slice(&[0, 0]);
    header
}

/// Half of them are dead letters, whose headers are kept once where they are alike.
fn message<'a>(header: &'a [u8], body: MessageBody<'a>) -> Message<'a> {
    let deaths = match body {
        MessageBody::Inline(bytes) => bytes.len() % 2 == 1,
        MessageBody::Shared(blob) => blob.len() % 2 == 1,
    };
    Message {
        route: ROUTE,
        header,
        body,
        entered_ms: NOW_MS,
        expiration_ms: None,
        priority: 0,
        persistent: true,
        deaths,
        attempts: Attempts::NONE,
    }
}

fn body_of(delivery: &Delivery<'_>) -> Vec<u8> {
    match delivery.record.body {
        Body::Inline(bytes) => bytes.to_vec(),
        Body::Blob { .. } => delivery.blob.expect("a blob record has its blob").to_vec(),
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Ready {
    seq: u64,
    body_len: usize,
    attempts: Attempts,
}

struct Seat {
    name: u32,
    key: ConsumerKey,
    asked: Consuming,
}

struct Out {
    key: Option<ConsumerKey>,
    unacked: Unacked,
}

struct World {
    pages: Pages,
    queue: Queue<u32>,
    limits: Limits,
    single_active: bool,
    sink: Taker,
    ready: Vec<Ready>,
    out: Vec<Out>,
    seats: Vec<Seat>,
    active: Option<u32>,
    names: u32,
    /// Shared bodies, by the sequence numbers of their messages.
    shared: Vec<(u64, Weak<Blob>)>,
}

impl World {
    fn new(kind: u8, bound: u8) -> Self {
        let of = |bit: u8, bound: u64| if kind & bit == 0 { u64::MAX } else { bound };
        let limits = Limits {
            ready_max: of(1, u64::from(bound % 16)),
            ready_bytes_max: of(2, u64::from(bound) * 16),
            total_max: of(4, u64::from(bound % 32)),
            total_bytes_max: of(8, u64::from(bound) * 64),
            overflow: if kind & 16 == 0 {
                Overflow::DropHead
            } else {
                Overflow::RejectPublish
            },
        };
        let single_active = kind & 32 != 0;
        let settings = Settings {
            limits,
            ..Settings::NONE
        };
        let shape = Shape {
            single_active,
            levels: 1,
        };
        let pages = Pages::new(bound);
        let mut world = Self {
            queue: Queue::new(settings, shape, pages.memory.clone()),
            pages,
            limits,
            single_active,
            sink: Taker::default(),
            ready: Vec::new(),
            out: Vec::new(),
            seats: Vec::new(),
            active: None,
            names: 0,
            shared: Vec::new(),
        };
        if kind & 64 != 0 {
            world.restart(u64::from(bound));
        }
        world
    }

    /// The queue begins with what was out before a restart, long ago.
    fn restart(&mut self, seq: u64) {
        let body = [seq as u8];
        let header = header(body.len());
        let message = message(&header, MessageBody::Inline(&body));
        let at = |seq| Rank { level: 0, seq };
        self.queue.restore(&message, at(seq));
        self.queue.begin_at(at(FAR));
        self.ready.push(Ready {
            seq,
            body_len: body.len(),
            attempts: Attempts::NONE,
        });
    }

    fn apply(&mut self, operation: u8, detail: u8) {
        let pick = usize::from(detail);
        match operation % 16 {
            0..=4 => self.push(pick, operation & 16 != 0),
            5 => self.get(detail & 1 != 0),
            6..=8 => self.settle(pick),
            9 => self.requeue(pick),
            10 if operation & 16 == 0 => self.requeue_some(pick, 1 + pick / 16),
            10 => self.requeue_some(0, usize::MAX),
            11 => self.consume(detail),
            12 => self.cancel(pick),
            13 => self.set_prefetch(pick),
            14 => self.fill_or_empty(pick),
            _ if detail < 32 => self.purge(),
            _ if detail < 160 => {
                let queue = &mut self.queue;
                self.pages.step(queue, pick, NOW_MS, &mut self.sink);
            }
            _ => {
                let empty = self.ready.is_empty() && self.out.is_empty();
                assert!(!self.queue.shrink() || empty);
            }
        }
        self.queue.run(NOW_MS, &mut self.sink);
        self.absorb();
        self.check();
        self.check_shared();
    }

    /// A shared body lives as long as its message is ready or out, and no longer.
    fn check_shared(&mut self) {
        if self.shared.is_empty() {
            return;
        }
        let ready = self.ready.iter().map(|ready| ready.seq);
        let out = self.out.iter().map(|out| out.unacked.seq);
        let there: HashSet<_> = ready.chain(out).collect();
        self.shared.retain(|(seq, blob)| {
            let lives = blob.strong_count() > 0;
            let is_there = there.contains(seq);
            assert!(
                lives == is_there || self.pages.have_written() && is_there,
                "body of {seq}"
            );
            lives
        });
    }

    fn push(&mut self, pick: usize, shared: bool) {
        let seq = self.queue.next_seq(0);
        let size = if pick == 255 {
            LARGE
        } else {
            SIZES[pick % SIZES.len()]
        };
        let body = vec![seq as u8; size];
        let blob = Memory::default().share(body.clone());
        let header = header(body.len());
        let stored = if shared {
            MessageBody::Shared(&blob)
        } else {
            MessageBody::Inline(&body)
        };
        let message = message(&header, stored);
        let pushed = self.queue.push(&message, &mut self.sink);
        if pushed.is_ok() {
            assert_eq!(pushed, Ok(Rank { level: 0, seq }));
            let body_len = body.len();
            self.ready.push(Ready {
                seq,
                body_len,
                attempts: Attempts::NONE,
            });
            if shared {
                self.shared.push((seq, Arc::downgrade(&blob)));
            }
        }
        drop(blob);
        self.absorb();
        assert!(
            pushed.is_ok() || !self.has_room(body.len()),
            "refused with room"
        );
    }

    fn has_room(&self, bytes: usize) -> bool {
        let (ready, ready_bytes) = (self.ready.len() as u64, self.ready_bytes());
        let held = ready + self.out.len() as u64;
        let held_bytes = ready_bytes + self.out_bytes();
        let limits = &self.limits;
        held < limits.total_max
            && held_bytes + bytes as u64 <= limits.total_bytes_max
            && (limits.overflow == Overflow::DropHead
                || ready < limits.ready_max && ready_bytes + bytes as u64 <= limits.ready_bytes_max)
    }

    fn ready_bytes(&self) -> u64 {
        self.ready.iter().map(|ready| ready.body_len as u64).sum()
    }

    fn out_bytes(&self) -> u64 {
        let bytes = |out: &Out| u64::from(out.unacked.body_len);
        self.out.iter().map(bytes).sum()
    }

    fn get(&mut self, no_ack: bool) {
        let mut got = None;
        let is_away = self.queue.waits_for_page();
        let left = self.ready.len().saturating_sub(1) as u64;
        let found = self.queue.get(no_ack, &mut self.sink, |delivery, ready| {
            assert_eq!(ready, left);
            got = Some((delivery.unacked, body_of(delivery)));
        });
        assert_eq!(found, got.is_some());
        assert_eq!(found, !self.ready.is_empty() && !is_away);
        if let Some((unacked, body)) = got {
            self.take_head(&unacked, &body);
            if !no_ack {
                self.out.push(Out { key: None, unacked });
            }
        }
        self.absorb();
    }

    fn take_head(&mut self, unacked: &Unacked, body: &[u8]) {
        let expected = self.ready.remove(0);
        let taken = Ready {
            seq: unacked.seq,
            body_len: body.len(),
            attempts: unacked.attempts,
        };
        assert_eq!(taken, expected);
        assert!(body.iter().all(|byte| *byte == taken.seq as u8));
        assert!(unacked.persistent);
    }

    fn settle(&mut self, pick: usize) {
        if !self.out.is_empty() {
            let out = self.out.remove(pick % self.out.len());
            self.queue.settle(out.key, &out.unacked);
        }
    }

    fn requeue(&mut self, pick: usize) {
        if self.out.is_empty() {
            return;
        }
        let Out { key, unacked } = self.out.remove(pick % self.out.len());
        self.queue.requeue(key, &unacked, true, &mut self.sink);
        self.put_back(&unacked);
    }

    /// Of what one consumer holds so much comes back, from one delivery on.
    fn requeue_some(&mut self, pick: usize, count: usize) {
        let Some(from) = pick.checked_rem(self.out.len()) else {
            return;
        };
        let key = self.out[from].key;
        let mut back = Vec::new();
        let mut at = 0;
        self.out.retain(|out| {
            at += 1;
            let comes = at > from && out.key == key && back.len() < count;
            if comes {
                back.push(out.unacked);
            }
            !comes
        });
        let unacked = |unacked: &Unacked| *unacked;
        let queue = &mut self.queue;
        queue.requeue_all(key, &back, (unacked, true), &mut self.sink);
        for unacked in back {
            self.put_back(&unacked);
        }
    }

    fn put_back(&mut self, unacked: &Unacked) {
        let at = self.ready.partition_point(|ready| ready.seq < unacked.seq);
        let body_len = unacked.body_len as usize;
        let back = Ready {
            seq: unacked.seq,
            body_len,
            attempts: unacked.attempts.and_one(true),
        };
        self.ready.insert(at, back);
    }

    fn consume(&mut self, detail: u8) {
        if self.seats.len() >= CONSUMERS_MAX {
            return;
        }
        let asked = Consuming {
            prefetch: u32::from(detail & 3),
            no_ack: detail & 4 != 0,
            exclusive: false,
            priority: i32::from(detail >> 6),
        };
        let name = self.names;
        self.names += 1;
        let key = self.queue.consume(name, asked);
        self.seats.push(Seat { name, key, asked });
        if self.active.is_none() {
            self.active = Some(name);
        }
    }

    fn cancel(&mut self, pick: usize) {
        if self.seats.is_empty() {
            return;
        }
        let seat = self.seats.remove(pick % self.seats.len());
        assert_eq!(self.queue.cancel(seat.key), Some(seat.name));
        assert_eq!(self.queue.cancel(seat.key), None);
        if self.active == Some(seat.name) {
            let oldest = |seat: &&Seat| (-seat.asked.priority, seat.name);
            self.active = self.seats.iter().min_by_key(oldest).map(|seat| seat.name);
        }
    }

    fn set_prefetch(&mut self, pick: usize) {
        let count = self.seats.len();
        if let Some(seat) = self.seats.get_mut(pick.checked_rem(count).unwrap_or(0)) {
            seat.asked.prefetch = (pick >> 4) as u32 & 3;
            self.queue.set_prefetch(seat.key, seat.asked.prefetch);
        }
    }

    /// One consumer's connection gets full, or has room again.
    fn fill_or_empty(&mut self, pick: usize) {
        let count = self.seats.len();
        let Some(seat) = self.seats.get(pick.checked_rem(count).unwrap_or(0)) else {
            return;
        };
        match self.sink.full.iter().position(|name| *name == seat.name) {
            Some(at) => drop(self.sink.full.remove(at)),
            None => self.sink.full.push(seat.name),
        }
    }

    fn purge(&mut self) {
        assert_eq!(self.queue.purge(), self.ready.len() as u64);
        self.ready.clear();
    }

    /// Compares what happened with the list's head.
    fn absorb(&mut self) {
        for event in std::mem::take(&mut self.sink.events) {
            match event {
                Event::Offered(name, unacked, body) => self.offered(name, unacked, &body),
                // What was sent to one who settles nothing has left the list already.
                Event::Gone(seq) if self.ready.first().is_some_and(|one| one.seq == seq) => {
                    self.ready.remove(0);
                    assert_eq!(self.limits.overflow, Overflow::DropHead);
                }
                Event::Gone(seq) => assert!(self.ready.iter().all(|ready| ready.seq != seq)),
            }
        }
    }

    fn offered(&mut self, name: u32, unacked: Unacked, body: &[u8]) {
        self.take_head(&unacked, body);
        assert!(!self.single_active || self.active == Some(name));
        let seat = self.seats.iter().find(|seat| seat.name == name);
        let seat = seat.expect("only live consumers get");
        if !seat.asked.no_ack {
            let key = Some(seat.key);
            self.out.push(Out { key, unacked });
        }
    }

    fn held(&self, seat: &Seat) -> u32 {
        let held = self.out.iter().filter(|out| out.key == Some(seat.key));
        held.count() as u32
    }

    fn check(&self) {
        let queue = &self.queue;
        assert_eq!(queue.ready(), self.ready.len() as u64);
        assert_eq!(queue.ready_bytes(), self.ready_bytes());
        assert_eq!(queue.unacked(), self.out.len() as u64);
        assert_eq!(queue.unacked_bytes(), self.out_bytes());
        assert_eq!(queue.consumer_count(), self.seats.len());
        let mut persistent = Vec::new();
        queue.persistent_ready(|_, seqs| persistent.extend(seqs));
        assert!(
            persistent
                .into_iter()
                .eq(self.ready.iter().map(|ready| ready.seq))
        );
        let is_away = queue.waits_for_page();
        if self.limits.overflow == Overflow::DropHead && !is_away {
            assert!(queue.ready() <= self.limits.ready_max);
            assert!(queue.ready_bytes() <= self.limits.ready_bytes_max);
        }
        for seat in &self.seats {
            let held = self.held(seat);
            let consumer = queue.consumer(seat.key).expect("registered");
            assert_eq!(consumer.unacked, held);
            let credit =
                seat.asked.no_ack || seat.asked.prefetch == 0 || held < seat.asked.prefetch;
            let served = !self.single_active || self.active == Some(seat.name);
            let waits = credit && served && !self.sink.full.contains(&seat.name);
            let is_served = !waits || self.ready.is_empty() || is_away;
            assert!(is_served, "a ready message waits");
        }
    }

    fn drain(&mut self) {
        self.pages.rest(&mut self.queue, NOW_MS, &mut self.sink);
        self.absorb();
        self.check();
        while !self.out.is_empty() {
            self.settle(0);
            self.queue.run(NOW_MS, &mut self.sink);
            self.absorb();
        }
        self.purge();
        assert!(self.queue.shrink(), "an empty queue holds no memory");
        self.pages.end_of_queue(&self.queue);
    }
}
