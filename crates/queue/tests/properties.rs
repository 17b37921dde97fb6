//! The queue against a plain `Vec` model: same order, same counts, whatever the operations.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use leveret_queue::{
    Consumer, ConsumerKey, Consuming, Delivery, Limits, LoadedPage, Message, MessageBody, Offer,
    Overflow, PageRead, PageRewrite, PageWrite, Queue, Rank, Settings, Shape, Sink, Unacked,
};
use leveret_record::{Attempts, Blob, Body, Freed, Memory, MemoryLimits, RunFile, RunPlace, Spot};
use proptest::prelude::*;

const ROUTE: &[u8] = b"\x02ex\x01k";
const NOW_MS: u64 = 1_000;

/// Takes everything, or refuses for the consumers in `full`.
#[derive(Default)]
struct Taker {
    deliveries: Vec<(u32, Vec<u8>, Unacked)>,
    full: Vec<u32>,
    gone: Vec<u64>,
}

fn body_of(delivery: &Delivery<'_>) -> Vec<u8> {
    match delivery.record.body {
        Body::Inline(bytes) => bytes.to_vec(),
        Body::Blob { .. } => delivery.blob.expect("a blob record has its blob").to_vec(),
    }
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
        self.deliveries
            .push((consumer.handle, body_of(delivery), delivery.unacked));
        Offer::Taken
    }

    fn settled(&mut self, rank: Rank) {
        self.gone.push(rank.seq);
    }
}

fn header(len: usize) -> Vec<u8> {
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(len as u64).to_be_bytes());
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

fn plain_queue(limits: Limits) -> Queue<u32> {
    let settings = Settings {
        limits,
        ..Settings::NONE
    };
    Queue::new(settings, Shape::PLAIN, Memory::default())
}

fn push(queue: &mut Queue<u32>, body: MessageBody<'_>, sink: &mut Taker) -> bool {
    let len = match body {
        MessageBody::Inline(bytes) => bytes.len(),
        MessageBody::Shared(blob) => blob.len(),
    };
    let header = header(len);
    let stored = queue.push(&message(&header, body), sink).is_ok();
    queue.run(NOW_MS, sink);
    stored
}

#[derive(Clone, Debug)]
enum Op {
    Push {
        size: usize,
        shared: bool,
    },
    Get {
        no_ack: bool,
    },
    Settle(usize),
    Requeue(usize),
    /// Some of what one consumer holds comes back at once, from one delivery on.
    RequeueSome(usize, usize),
    Purge,
    Consume {
        prefetch: u32,
        no_ack: bool,
    },
    Cancel(usize),
    /// A consumer goes, and all it holds comes back.
    Leave(usize),
    Shrink,
    /// Something is written, as far as that.
    Write {
        done: bool,
        fails: bool,
    },
    /// Something is read, as far as that.
    Read {
        done: bool,
        urgent: bool,
    },
    /// A chunk of which little lives is rewritten, as far as that.
    Rewrite {
        done: bool,
        fails: bool,
    },
    /// Something that was begun is done.
    Done(usize),
    Review,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..600usize, any::<bool>()).prop_map(|(size, shared)| Op::Push { size, shared }),
        2 => any::<bool>().prop_map(|no_ack| Op::Get { no_ack }),
        6 => any::<usize>().prop_map(Op::Settle),
        4 => any::<usize>().prop_map(Op::Requeue),
        2 => (any::<usize>(), 1..6usize).prop_map(|(pick, count)| Op::RequeueSome(pick, count)),
        1 => Just(Op::Purge),
        1 => (0..4u32, any::<bool>())
            .prop_map(|(prefetch, no_ack)| Op::Consume { prefetch, no_ack }),
        1 => any::<usize>().prop_map(Op::Cancel),
        1 => any::<usize>().prop_map(Op::Leave),
        1 => Just(Op::Shrink),
        8 => (any::<bool>(), 0..8u8)
            .prop_map(|(done, fails)| Op::Write { done, fails: fails == 0 }),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(done, urgent)| Op::Read { done, urgent }),
        4 => (any::<bool>(), 0..8u8)
            .prop_map(|(done, fails)| Op::Rewrite { done, fails: fails == 0 }),
        4 => any::<usize>().prop_map(Op::Done),
        1 => Just(Op::Review),
    ]
}

/// Ready messages by sequence number, and what is out.
#[derive(Default)]
struct Model {
    next: u64,
    ready: Vec<(u64, Vec<u8>, u32)>,
    out: Vec<(Option<ConsumerKey>, Vec<u8>, Unacked)>,
}

impl Model {
    fn took(&mut self, body: &[u8], unacked: &Unacked) {
        let (seq, expected, deliveries) = self.ready.remove(0);
        assert_eq!((seq, deliveries), (unacked.seq, unacked.attempts.acquired));
        assert_eq!(expected, body);
    }

    fn put_back(&mut self, body: Vec<u8>, unacked: &Unacked) {
        let at = self.ready.partition_point(|(seq, ..)| *seq < unacked.seq);
        self.ready
            .insert(at, (unacked.seq, body, unacked.attempts.acquired + 1));
    }
}

/// What was written, and what is being done with it.
#[derive(Default)]
struct Disk {
    bytes: Vec<u8>,
    freed: Arc<Freed>,
    begun: Vec<Begun>,
    /// Chunks that were written, and that were read.
    done: (usize, usize),
    /// Chunks that were rewritten, and when that was looked for.
    rewritten: usize,
    now_ms: u64,
}

enum Begun {
    Write(PageWrite, Vec<u8>),
    Rewrite(PageRewrite, Vec<u8>),
    Read(PageRead),
}

impl Disk {
    fn write(&mut self, bytes: &[u8]) -> Spot {
        let place = RunPlace {
            run: 1,
            offset: self.bytes.len() as u64,
            len: bytes.len() as u32,
            checksum: 0,
        };
        self.bytes.extend_from_slice(bytes);
        self.done.0 += 1;
        Spot::new(Arc::new(RunFile::new(1, Arc::clone(&self.freed))), place)
    }

    fn read(&mut self, place: RunPlace, memory: &Memory) -> LoadedPage {
        let bytes = &self.bytes[place.offset as usize..][..place.len as usize];
        self.done.1 += 1;
        LoadedPage::decode(place, bytes, memory).expect("what was written is read")
    }

    fn end(&mut self, begun: Begun, queue: &mut Queue<u32>, memory: &Memory, sink: &mut Taker) {
        match begun {
            Begun::Write(write, bytes) => {
                let spot = self.write(&bytes);
                queue.written(&write, Some(spot));
            }
            Begun::Read(read) => {
                let page = self.read(read.place, memory);
                queue.page_read(&read, page, NOW_MS, sink);
            }
            Begun::Rewrite(rewrite, bytes) => {
                let spot = (!bytes.is_empty()).then(|| self.write(&bytes));
                self.rewritten += usize::from(queue.rewritten(rewrite, spot).is_some());
            }
        }
    }
}

struct World {
    memory: Memory,
    disk: Disk,
    queue: Queue<u32>,
    model: Model,
    sink: Taker,
    keys: Vec<(ConsumerKey, u32, bool)>,
    names: u32,
    /// Shared bodies, by the sequence numbers of their messages.
    shared: Vec<(u64, Weak<Blob>)>,
}

impl World {
    fn new(memory: Memory) -> Self {
        Self {
            queue: Queue::new(Settings::NONE, Shape::PLAIN, memory.clone()),
            memory,
            disk: Disk::default(),
            model: Model::default(),
            sink: Taker::default(),
            keys: Vec::new(),
            names: 0,
            shared: Vec::new(),
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Push { size, shared } => self.push(size, shared),
            Op::Get { no_ack } => self.get(no_ack),
            Op::Settle(pick) => self.settle(pick),
            Op::Requeue(pick) => self.requeue(pick),
            Op::RequeueSome(pick, count) => self.requeue_some(pick, count),
            Op::Purge => {
                let mut shown = Vec::new();
                self.queue.persistent_ready(|_, seqs| shown.extend(seqs));
                assert!(
                    shown
                        .iter()
                        .eq(self.model.ready.iter().map(|(seq, ..)| seq))
                );
                let purged = self.queue.purge();
                assert_eq!(purged, self.model.ready.len() as u64);
                self.model.ready.clear();
            }
            Op::Consume { prefetch, no_ack } => {
                let asked = Consuming {
                    prefetch,
                    no_ack,
                    ..Consuming::default()
                };
                self.keys
                    .push((self.queue.consume(self.names, asked), self.names, no_ack));
                self.names += 1;
            }
            Op::Cancel(pick) if !self.keys.is_empty() => {
                let (key, name, _) = self.keys.remove(pick % self.keys.len());
                assert_eq!(self.queue.cancel(key), Some(name));
                assert_eq!(self.queue.cancel(key), None);
            }
            Op::Leave(pick) if !self.keys.is_empty() => {
                let (key, ..) = self.keys.remove(pick % self.keys.len());
                self.queue.cancel(key);
                self.requeue_from(0, Some(key), usize::MAX);
            }
            Op::Cancel(_) | Op::Leave(_) => {}
            Op::Shrink => {
                let empty = self.model.ready.is_empty() && self.model.out.is_empty();
                assert!(!self.queue.shrink() || empty);
            }
            Op::Write { done, fails } => self.begin_write(done, fails),
            Op::Read { done, urgent } => self.begin_read(done, urgent),
            Op::Rewrite { done, fails } => self.begin_rewrite(done, fails),
            Op::Done(pick) if !self.disk.begun.is_empty() => {
                let begun = self.disk.begun.remove(pick % self.disk.begun.len());
                let (queue, memory) = (&mut self.queue, &self.memory);
                self.disk.end(begun, queue, memory, &mut self.sink);
            }
            Op::Done(_) => {}
            Op::Review => self.queue.review_pages(),
        }
        self.queue.run(NOW_MS, &mut self.sink);
        self.absorb();
        self.check();
        self.check_shared();
    }

    fn begin_write(&mut self, done: bool, fails: bool) {
        let mut bytes = Vec::new();
        let Some(write) = self.queue.begin_write(NOW_MS, &mut bytes) else {
            assert!(!self.queue.wants_write(NOW_MS));
            return;
        };
        match (done, fails) {
            (true, true) => self.queue.written(&write, None),
            (true, false) => {
                let spot = self.disk.write(&bytes);
                self.queue.written(&write, Some(spot));
            }
            (false, _) => self.disk.begun.push(Begun::Write(write, bytes)),
        }
    }

    fn begin_rewrite(&mut self, done: bool, fails: bool) {
        let mut bytes = Vec::new();
        self.disk.now_ms += 600;
        let begun = self.queue.begin_rewrite(self.disk.now_ms, &mut bytes);
        let Some(mut rewrite) = begun else { return };
        if rewrite.rewriting.is_to_be_read() {
            let page = self.disk.read(rewrite.rewriting.place(), &self.memory);
            rewrite.rewriting.compact(page, &mut bytes);
        }
        if fails {
            self.queue.not_rewritten(&rewrite);
            return;
        }
        let begun = Begun::Rewrite(rewrite, bytes);
        match done {
            true => {
                let (queue, memory) = (&mut self.queue, &self.memory);
                self.disk.end(begun, queue, memory, &mut self.sink);
            }
            false => self.disk.begun.push(begun),
        }
    }

    fn begin_read(&mut self, done: bool, urgent: bool) {
        let Some(read) = self.queue.begin_read(NOW_MS, urgent) else {
            assert!(!urgent || !self.queue.waits_for_page());
            return;
        };
        if done {
            let page = self.disk.read(read.place, &self.memory);
            let wanted = self.queue.page_read(&read, page, NOW_MS, &mut self.sink);
            assert!(wanted);
            assert!(!self.queue.waits_for_page() || !urgent);
        } else {
            self.disk.begun.push(Begun::Read(read));
        }
    }

    /// A ready message that is on the disk is seen there.
    fn peek(&mut self) {
        let (mut seen, mut copy, mut from) = (Vec::new(), None, 0);
        loop {
            let rank = Rank {
                level: 0,
                seq: from,
            };
            let place = self.queue.peek(rank, copy.as_ref(), |one| {
                seen.push(one.rank.seq);
                from = one.rank.seq + 1;
                std::ops::ControlFlow::Continue(())
            });
            let Some(place) = place else { break };
            copy = Some(self.disk.read(place, &self.memory));
        }
        assert!(seen.iter().eq(self.model.ready.iter().map(|(seq, ..)| seq)));
    }

    /// Has the disk do all that it is asked for.
    fn rest(&mut self) {
        for _ in 0..1_000 {
            for begun in std::mem::take(&mut self.disk.begun) {
                let (queue, memory) = (&mut self.queue, &self.memory);
                self.disk.end(begun, queue, memory, &mut self.sink);
            }
            self.begin_write(false, false);
            self.begin_read(false, false);
            self.queue.run(NOW_MS, &mut self.sink);
            self.absorb();
            self.check();
            if self.disk.begun.is_empty() {
                return;
            }
        }
        panic!("the disk does not come to rest");
    }

    /// A shared body lives no longer than its message is ready or out; while it does, it lives or
    /// is on the disk.
    fn check_shared(&mut self) {
        let ready = self.model.ready.iter().map(|(seq, ..)| *seq);
        let out = self.model.out.iter().map(|(.., unacked)| unacked.seq);
        let there: HashSet<_> = ready.chain(out).collect();
        self.shared.retain(|(seq, blob)| {
            let lives = blob.strong_count() > 0;
            let is_paged = self.disk.done.0 > 0;
            assert!(is_paged || lives == there.contains(seq), "body of {seq}");
            assert!(!lives || there.contains(seq), "body of message {seq}");
            lives
        });
    }

    fn push(&mut self, size: usize, shared: bool) {
        let body = vec![self.model.next as u8; size];
        self.model.ready.push((self.model.next, body.clone(), 0));
        let blob = Memory::default().share(body.clone());
        let stored = if shared {
            MessageBody::Shared(&blob)
        } else {
            MessageBody::Inline(&body)
        };
        assert!(push(&mut self.queue, stored, &mut self.sink));
        if shared {
            self.shared.push((self.model.next, Arc::downgrade(&blob)));
        }
        self.model.next += 1;
    }

    fn get(&mut self, no_ack: bool) {
        let mut got = None;
        let expected = !self.model.ready.is_empty() && !self.queue.waits_for_page();
        let left = self.model.ready.len().saturating_sub(1) as u64;
        let found = self.queue.get(no_ack, &mut self.sink, |delivery, ready| {
            assert_eq!(ready, left);
            got = Some((body_of(delivery), delivery.unacked));
        });
        assert_eq!(found, got.is_some());
        assert_eq!(found, expected);
        if let Some((body, unacked)) = got {
            self.model.took(&body, &unacked);
            if !no_ack {
                self.model.out.push((None, body, unacked));
            }
        }
    }

    fn settle(&mut self, pick: usize) {
        if !self.model.out.is_empty() {
            let (key, _, unacked) = self.model.out.remove(pick % self.model.out.len());
            self.queue.settle(key, &unacked);
        }
    }

    fn requeue(&mut self, pick: usize) {
        if !self.model.out.is_empty() {
            let (key, body, unacked) = self.model.out.remove(pick % self.model.out.len());
            self.queue.requeue(key, &unacked, false, &mut self.sink);
            self.model.put_back(body, &unacked);
        }
    }

    fn requeue_some(&mut self, pick: usize, count: usize) {
        if !self.model.out.is_empty() {
            let from = pick % self.model.out.len();
            self.requeue_from(from, self.model.out[from].0, count);
        }
    }

    /// So many of the deliveries that one consumer holds come back, from one on.
    fn requeue_from(&mut self, from: usize, key: Option<ConsumerKey>, count: usize) {
        let held = self.model.out.iter().enumerate().skip(from);
        let back: Vec<_> = held
            .filter(|(_, (of, ..))| *of == key)
            .map(|(at, _)| at)
            .take(count)
            .collect();
        let mut deliveries: Vec<_> = back
            .iter()
            .rev()
            .map(|at| self.model.out.remove(*at))
            .collect();
        deliveries.reverse();
        let unacked = |(.., unacked): &(_, _, Unacked)| *unacked;
        let queue = &mut self.queue;
        queue.requeue_all(key, &deliveries, (unacked, false), &mut self.sink);
        for (_, body, unacked) in deliveries {
            self.model.put_back(body, &unacked);
        }
    }

    /// Compares what consumers got with the model's head.
    fn absorb(&mut self) {
        for (name, body, unacked) in std::mem::take(&mut self.sink.deliveries) {
            self.model.took(&body, &unacked);
            let (key, _, no_ack) = self
                .keys
                .iter()
                .find(|(_, n, _)| *n == name)
                .expect("only live consumers get");
            if !no_ack {
                self.model.out.push((Some(*key), body, unacked));
            }
        }
    }

    fn check(&self) {
        let bytes = |list: &[Vec<u8>]| list.iter().map(Vec::len).sum::<usize>() as u64;
        let ready: Vec<_> = self
            .model
            .ready
            .iter()
            .map(|(_, body, _)| body.clone())
            .collect();
        let out: Vec<_> = self
            .model
            .out
            .iter()
            .map(|(_, body, _)| body.clone())
            .collect();
        assert_eq!(self.queue.ready(), ready.len() as u64);
        assert_eq!(self.queue.ready_bytes(), bytes(&ready));
        assert_eq!(self.queue.unacked(), out.len() as u64);
        assert_eq!(self.queue.unacked_bytes(), bytes(&out));
        assert_eq!(self.queue.consumer_count(), self.keys.len());
        for (key, consumer, _) in self.queue.consumers() {
            let held = self
                .model
                .out
                .iter()
                .filter(|(k, ..)| *k == Some(key))
                .count();
            assert_eq!(consumer.unacked as usize, held);
            let limit = consumer.asked.prefetch;
            assert!(limit == 0 || consumer.unacked <= limit, "credit exceeded");
        }
        let is_away = self.queue.waits_for_page();
        assert!(
            self.queue.ready() == 0 || !self.queue.has_credit() || is_away,
            "a ready message waits"
        );
        let reads = |begun: &Begun| matches!(begun, Begun::Read(_));
        let is_read = self.queue.wants_read(NOW_MS) || self.disk.begun.iter().any(reads);
        assert!(
            !is_away || is_read || !self.queue.has_credit(),
            "nobody reads"
        );
        let out = self.queue.paged_out();
        assert!(out.messages <= self.queue.ready() && out.bytes <= self.queue.ready_bytes());
        assert_eq!(self.queue.held_bytes(), self.memory_held());
    }

    /// The bodies in this test are of their own accounts, until they were on the disk.
    fn memory_held(&self) -> u64 {
        let chunks = self.queue.resident_bytes() as u64;
        let bodies = self.queue.held_bytes() - chunks;
        assert!(self.memory.resident_bytes() >= chunks);
        chunks + bodies
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn behaves_like_a_list(ops in prop::collection::vec(op(), 1..200)) {
        let mut world = World::new(Memory::default());
        for op in &ops {
            world.apply(op);
        }
        while !world.model.out.is_empty() {
            world.settle(0);
            world.queue.run(NOW_MS, &mut world.sink);
            world.absorb();
        }
        world.apply(&Op::Purge);
        assert!(world.queue.shrink(), "an empty queue holds no memory");
        assert_eq!(world.queue.resident_bytes(), 0);
    }
}

/// Nothing of a lane but a kilobyte stays in memory, or less and less.
fn tiny() -> impl Strategy<Value = Memory> {
    let all_bytes = prop_oneof![Just(u64::MAX), 2_000..20_000u64];
    (1..600usize, 0..3_000u64, all_bytes).prop_map(|(chunk_bytes, lane_bytes, all_bytes)| {
        Memory::new(MemoryLimits {
            chunk_bytes,
            lane_bytes,
            all_bytes,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn behaves_like_a_list_when_most_of_it_is_on_the_disk(
        memory in tiny(),
        ops in prop::collection::vec(op(), 1..300),
    ) {
        let mut world = World::new(memory.clone());
        for op in &ops {
            world.apply(op);
        }
        world.peek();
        world.rest();
        while !world.model.ready.is_empty() {
            world.apply(&Op::Read { done: true, urgent: true });
            world.apply(&Op::Get { no_ack: true });
        }
        while !world.model.out.is_empty() {
            world.apply(&Op::Settle(0));
        }
        world.disk.begun.clear();
        assert!(world.queue.shrink(), "an empty queue holds no memory");
        prop_assert_eq!(world.queue.held_bytes(), 0);
        prop_assert_eq!(memory.resident_bytes(), 0);
        prop_assert_eq!(world.queue.paged_out().chunks, 0);
        prop_assert_eq!(world.disk.freed.bytes(), world.disk.bytes.len() as u64);
    }
}

/// Of a long queue most is settled in no order; what is left takes little of the disk, stays where
/// it is, and comes back as it was.
#[test]
fn what_is_left_of_a_long_queue_is_rewritten_until_the_disk_has_little_else() {
    for (every, mixed) in [(3, false), (5, true), (64, false)] {
        let memory = Memory::new(MemoryLimits {
            chunk_bytes: 4096,
            lane_bytes: 16 * 1024,
            all_bytes: u64::MAX,
        });
        let mut world = World::new(memory);
        for number in 0..6_000usize {
            let size = if mixed && number % 40 == 0 { 2_000 } else { 30 };
            world.push(size, mixed && number % 80 == 0);
            world.queue.run(NOW_MS, &mut world.sink);
            world.begin_write(true, false);
        }
        // All is out, or comes back once more in parts.
        while !world.model.ready.is_empty() {
            world.begin_read(true, true);
            world.get(false);
            world.begin_write(true, false);
        }
        let gone = |index: usize| !index.is_multiple_of(every);
        for pick in (0..world.model.out.len()).rev().filter(|it| gone(*it)) {
            world.settle(pick);
        }
        for pick in (0..world.model.out.len())
            .rev()
            .filter(|it| it.is_multiple_of(2))
        {
            world.requeue(pick);
        }
        for _ in 0..2_000 {
            world.begin_write(true, false);
            world.begin_rewrite(true, false);
        }
        let live: usize = world.model.ready.iter().map(|it| it.1.len() + 60).sum();
        let out: usize = world.model.out.iter().map(|it| it.1.len() + 60).sum();
        let used = world.disk.bytes.len() as u64 - world.disk.freed.bytes();
        let most = 2 * (live + out) + 20 * 1024;
        assert!(used <= most as u64, "{used} of {most}, every {every}");
        assert!(world.disk.rewritten > 10, "{}", world.disk.rewritten);
        world.rest();
        while !world.model.ready.is_empty() {
            world.begin_read(true, true);
            world.get(true);
        }
        while !world.model.out.is_empty() {
            world.settle(0);
        }
        assert!(world.queue.shrink());
    }
}

#[test]
fn a_long_queue_leaves_memory_and_comes_back_in_order() {
    let memory = Memory::new(MemoryLimits {
        chunk_bytes: 1024,
        lane_bytes: 8 * 1024,
        all_bytes: u64::MAX,
    });
    let mut world = World::new(memory);
    for number in 0..5_000usize {
        let shared = number % 7 == 0;
        world.push(number % 90, shared);
        world.queue.run(NOW_MS, &mut world.sink);
        world.begin_write(true, false);
    }
    assert!(world.queue.held_bytes() <= 10 * 1024);
    assert!(world.queue.paged_out().messages > 4_000);
    world.peek();
    world.queue.consume(0, Consuming::default());
    let mut most = 0;
    while world.queue.ready() > 0 {
        world.queue.run(NOW_MS, &mut world.sink);
        world.begin_read(true, false);
        world.begin_write(true, false);
        for (name, body, unacked) in std::mem::take(&mut world.sink.deliveries) {
            assert_eq!(name, 0);
            world.model.took(&body, &unacked);
            world.queue.settle(None, &unacked);
        }
        most = most.max(world.queue.held_bytes());
    }
    assert!(most <= 12 * 1024, "{most}");
    assert!(world.model.ready.is_empty());
}

/// Fetching and giving back, of few messages in one chunk.
fn back_and_forth() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Get { no_ack: false }),
        1 => (any::<usize>(), 1..6usize).prop_map(|(pick, count)| Op::RequeueSome(pick, count)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn what_comes_back_in_any_order_goes_out_in_its_own(
        ops in prop::collection::vec(back_and_forth(), 200)
    ) {
        let mut world = World::new(Memory::default());
        for size in 1..8 {
            world.apply(&Op::Push { size, shared: false });
        }
        for op in &ops {
            world.apply(op);
        }
        while !world.model.ready.is_empty() {
            world.apply(&Op::Get { no_ack: true });
        }
    }
}

fn queue(limits: Limits) -> (Queue<u32>, Taker) {
    (plain_queue(limits), Taker::default())
}

#[test]
fn competing_consumers_alternate_exactly() {
    let (mut queue, mut sink) = queue(Limits::NONE);
    for name in 0..3 {
        queue.consume(
            name,
            Consuming {
                prefetch: 4,
                ..Consuming::default()
            },
        );
    }
    for n in 0..9u8 {
        push(&mut queue, MessageBody::Inline(&[n]), &mut sink);
    }
    let order: Vec<_> = sink.deliveries.iter().map(|(name, ..)| *name).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_full_consumer_does_not_hold_up_the_others() {
    let (mut queue, mut sink) = queue(Limits::NONE);
    for name in 0..3 {
        queue.consume(
            name,
            Consuming {
                no_ack: true,
                ..Consuming::default()
            },
        );
    }
    sink.full = vec![0, 2];
    for n in 0..20u8 {
        push(&mut queue, MessageBody::Inline(&[n]), &mut sink);
    }
    assert_eq!(sink.deliveries.len(), 20);
    assert!(sink.deliveries.iter().all(|(name, ..)| *name == 1));
}

#[test]
fn higher_priority_consumers_go_first_until_out_of_credit() {
    let (mut queue, mut sink) = queue(Limits::NONE);
    queue.consume(
        1,
        Consuming {
            prefetch: 9,
            ..Consuming::default()
        },
    );
    queue.consume(
        2,
        Consuming {
            prefetch: 2,
            priority: 5,
            ..Consuming::default()
        },
    );
    for n in 0..4u8 {
        push(&mut queue, MessageBody::Inline(&[n]), &mut sink);
    }
    let order: Vec<_> = sink.deliveries.iter().map(|(name, ..)| *name).collect();
    assert_eq!(order, [2, 2, 1, 1]);
}

#[test]
fn only_the_single_active_consumer_is_served() {
    let mut queue = Queue::new(
        Settings::NONE,
        Shape {
            single_active: true,
            ..Shape::PLAIN
        },
        Memory::default(),
    );
    let mut sink = Taker::default();
    let first = queue.consume(
        1,
        Consuming {
            prefetch: 1,
            ..Consuming::default()
        },
    );
    queue.consume(2, Consuming::default());
    push(&mut queue, MessageBody::Inline(b"a"), &mut sink);
    push(&mut queue, MessageBody::Inline(b"b"), &mut sink);
    assert_eq!(sink.deliveries.len(), 1, "the other one waits");
    queue.cancel(first);
    queue.run(NOW_MS, &mut sink);
    assert_eq!(sink.deliveries[1].0, 2);
}

#[test]
fn drop_head_keeps_the_newest_ready_messages() {
    let limits = Limits {
        ready_max: 3,
        ..Limits::NONE
    };
    let (mut queue, mut sink) = queue(limits);
    for n in 0..10u8 {
        assert!(push(&mut queue, MessageBody::Inline(&[n]), &mut sink));
    }
    assert_eq!(queue.ready(), 3);
    assert_eq!(sink.gone, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn reject_publish_counts_ready_messages_only() {
    let limits = Limits {
        ready_max: 2,
        overflow: Overflow::RejectPublish,
        ..Limits::NONE
    };
    let (mut queue, mut sink) = queue(limits);
    queue.consume(
        0,
        Consuming {
            prefetch: 1,
            ..Consuming::default()
        },
    );
    let stored: Vec<_> = (0..5u8)
        .map(|n| push(&mut queue, MessageBody::Inline(&[n]), &mut sink))
        .collect();
    assert_eq!(stored, [true, true, true, false, false]);
    assert_eq!(
        (queue.ready(), queue.unacked(), queue.counters().refused),
        (2, 1, 2)
    );
}

#[test]
fn reject_publish_never_drops_what_came_back_above_the_limit() {
    let limits = Limits {
        ready_max: 1,
        overflow: Overflow::RejectPublish,
        ..Limits::NONE
    };
    let (mut queue, mut sink) = queue(limits);
    let consumer = queue.consume(0, Consuming::default());
    for n in 0..3u8 {
        assert!(push(&mut queue, MessageBody::Inline(&[n]), &mut sink));
    }
    queue.cancel(consumer);
    for (_, _, unacked) in std::mem::take(&mut sink.deliveries) {
        queue.requeue(None, &unacked, true, &mut sink);
    }
    assert!(!push(&mut queue, MessageBody::Inline(&[3]), &mut sink));
    assert_eq!((queue.ready(), sink.gone.len()), (3, 0));
}

#[test]
fn total_limits_count_unacknowledged_messages_too() {
    let limits = Limits {
        total_max: 2,
        ..Limits::NONE
    };
    let (mut queue, mut sink) = queue(limits);
    queue.consume(0, Consuming::default());
    let stored: Vec<_> = (0..3u8)
        .map(|n| push(&mut queue, MessageBody::Inline(&[n]), &mut sink))
        .collect();
    assert_eq!(stored, [true, true, false]);
    let (_, _, unacked) = sink.deliveries[0].clone();
    queue.settle(None, &unacked);
    assert!(push(&mut queue, MessageBody::Inline(&[4]), &mut sink));
}

/// What was shortened from its front stays whole when earlier messages come back beside it.
#[test]
fn messages_given_back_in_several_steps_are_all_there() {
    let mut world = World::new(Memory::default());
    for size in 1..7 {
        world.apply(&Op::Push {
            size,
            shared: false,
        });
    }
    let get = |world: &mut World, times| {
        for _ in 0..times {
            world.apply(&Op::Get { no_ack: false });
        }
    };
    get(&mut world, 6);
    world.apply(&Op::RequeueSome(2, 4));
    get(&mut world, 2);
    world.apply(&Op::RequeueSome(0, 3));
    get(&mut world, 2);
    world.apply(&Op::RequeueSome(1, 1));
    get(&mut world, 4);
    assert_eq!(world.model.out.len(), 6);
}

/// What was out for long is ready again after a restart, far before the rest.
#[test]
fn sequence_numbers_stay_whole_over_a_restart() {
    const FAR: u64 = 5 << 32;
    let at = |seq| Rank { level: 0, seq };
    let (mut queue, mut sink) = queue(Limits::NONE);
    let header = header(1);
    for seq in [5, FAR + 4, FAR + 5] {
        queue.restore(&message(&header, MessageBody::Inline(b"x")), at(seq));
    }
    queue.begin_at(at(FAR + 9));
    let mut peeked = Vec::new();
    queue.peek(at(6), None, |one| {
        peeked.push(one.rank.seq);
        std::ops::ControlFlow::Continue(())
    });
    assert_eq!(peeked, [FAR + 4, FAR + 5]);
    assert!(push(&mut queue, MessageBody::Inline(b"y"), &mut sink));
    queue.consume(1, Consuming::default());
    queue.run(NOW_MS, &mut sink);
    let seqs: Vec<_> = sink
        .deliveries
        .iter()
        .map(|(.., unacked)| unacked.seq)
        .collect();
    assert_eq!(seqs, [5, FAR + 4, FAR + 5, FAR + 9]);
}

/// What is read ahead makes the lane's share smaller: it must not leave again for that, and be read
/// for ever.
#[test]
fn what_is_read_ahead_stays_when_memory_is_short() {
    let memory = Memory::new(MemoryLimits {
        chunk_bytes: 1,
        lane_bytes: 1044,
        all_bytes: 2126,
    });
    let push = |size| Op::Push {
        size,
        shared: false,
    };
    let share = |size| Op::Push { size, shared: true };
    let ops = [
        push(0),
        push(0),
        Op::Get { no_ack: true },
        push(0),
        Op::Get { no_ack: false },
        push(0),
        share(474),
        push(52),
        push(0),
        push(0),
        push(0),
        Op::Consume {
            prefetch: 0,
            no_ack: false,
        },
        push(0),
        Op::Settle(16709048523314367678),
        push(0),
        Op::Shrink,
        Op::Settle(6524778910769027469),
        Op::Leave(9925702690257636327),
        push(163),
        share(342),
        Op::Write {
            done: true,
            fails: false,
        },
        Op::Get { no_ack: false },
        Op::Settle(11291039439922514581),
        share(139),
        push(354),
        share(237),
    ];
    let mut world = World::new(memory);
    for op in &ops {
        world.apply(op);
    }
    world.peek();
    world.rest();
}
