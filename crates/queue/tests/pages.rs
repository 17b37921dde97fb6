//! Chunks of a queue that leave memory and come back: what is asked of the disk, and what is not.

use std::sync::Arc;

use leveret_queue::{
    Attempts, ColdCursor, Consumer, ConsumerKey, Delivery, LoadedPage, Message, MessageBody, Offer,
    PageRead, Queue, Rank, Settings, Shape, Sink, Unacked,
};
use leveret_record::{Freed, Memory, MemoryLimits, RunFile, RunPlace, Spot};

const NOW_MS: u64 = 1_000_000;

struct Nobody;

impl Sink<u32> for Nobody {
    fn offer(&mut self, _: &Consumer<u32>, _: ConsumerKey, _: &Delivery<'_>) -> Offer {
        Offer::Refused
    }

    fn settled(&mut self, _: Rank) {}
}

/// A queue that keeps little in memory, and what it has written.
struct World {
    queue: Queue<u32>,
    memory: Memory,
    freed: Arc<Freed>,
    disk: Vec<u8>,
    now_ms: u64,
    /// Chunks that were read.
    reads: usize,
}

impl World {
    fn new() -> Self {
        let memory = Memory::new(MemoryLimits {
            chunk_bytes: 300,
            lane_bytes: 300,
            all_bytes: u64::MAX,
        });
        Self {
            queue: Queue::new(Settings::NONE, Shape::PLAIN, memory.clone()),
            memory,
            freed: Arc::default(),
            disk: Vec::new(),
            now_ms: NOW_MS,
            reads: 0,
        }
    }

    fn push(&mut self, expiration_ms: Option<u64>) {
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&20u64.to_be_bytes());
        header.extend_from_slice(&[0, 0]);
        let message = Message {
            route: b"\x02ex\x01k",
            header: &header,
            body: MessageBody::Inline(&[7; 20]),
            entered_ms: self.now_ms,
            expiration_ms,
            priority: 0,
            persistent: true,
            deaths: false,
            attempts: Attempts::NONE,
        };
        self.queue.push(&message, &mut Nobody).unwrap();
        self.queue.run(self.now_ms, &mut Nobody);
        self.write();
    }

    fn write(&mut self) {
        let mut bytes = Vec::new();
        while let Some(write) = self.queue.begin_write(self.now_ms, &mut bytes) {
            let place = RunPlace {
                run: 1,
                offset: self.disk.len() as u64,
                len: bytes.len() as u32,
                checksum: 0,
            };
            self.disk.append(&mut bytes);
            let run = Arc::new(RunFile::new(1, Arc::clone(&self.freed)));
            self.queue.written(&write, Some(Spot::new(run, place)));
        }
    }

    fn loaded(&mut self, read: &PageRead) -> LoadedPage {
        let RunPlace { offset, len, .. } = read.place;
        let bytes = &self.disk[offset as usize..][..len as usize];
        self.reads += 1;
        LoadedPage::decode(read.place, bytes, &self.memory).unwrap()
    }

    fn end_read(&mut self, read: &PageRead) -> bool {
        let page = self.loaded(read);
        let (queue, now_ms) = (&mut self.queue, self.now_ms);
        queue.page_read(read, page, now_ms, &mut Nobody)
    }

    /// Does all that the disk is asked for.
    fn rest(&mut self) {
        loop {
            self.queue.run(self.now_ms, &mut Nobody);
            self.write();
            let Some(read) = self.queue.begin_read(self.now_ms, false) else {
                return;
            };
            assert!(self.end_read(&read));
            assert!(self.reads < 10_000, "it does not come to rest");
        }
    }

    /// Time passes, and whoever keeps the queue's deadlines comes.
    fn wait(&mut self, ms: u64) {
        for _ in 0..ms / 500 {
            self.now_ms += 500;
            self.queue.woken(self.now_ms);
            self.rest();
        }
    }

    fn get(&mut self) -> Option<Unacked> {
        let mut got = None;
        self.queue.run(self.now_ms, &mut Nobody);
        self.queue.get(false, &mut Nobody, |delivery, _| {
            got = Some(delivery.unacked);
        });
        got
    }

    /// The same, after whatever has to be read for it.
    fn get_surely(&mut self) -> Unacked {
        loop {
            self.queue.run(self.now_ms, &mut Nobody);
            if !self.queue.waits_for_page() {
                return self.get().expect("the next one is in memory");
            }
            let read = self.queue.begin_read(self.now_ms, true).unwrap();
            assert!(self.end_read(&read));
        }
    }
}

/// Several who wait for the same chunk read it each for himself: none of them undoes what another
/// one has done.
#[test]
fn whichever_read_of_a_chunk_ends_first_gives_it() {
    let mut world = World::new();
    for _ in 0..100 {
        world.push(None);
    }
    while world.get().is_some() {}
    assert!(world.queue.waits_for_page());
    let first = world.queue.begin_read(NOW_MS, true).unwrap();
    let second = world.queue.begin_read(NOW_MS, true).unwrap();
    let third = world.queue.begin_read(NOW_MS, true).unwrap();
    assert_eq!((first.place, first.place), (second.place, third.place));
    world.queue.page_not_read(&third);
    assert!(world.end_read(&first));
    assert!(!world.queue.waits_for_page());
    assert!(!world.end_read(&second));
    assert_eq!(world.queue.page_lost(&third), None, "it is there");
    assert!(world.get().is_some());
}

/// What has expired leaves gaps behind which the next message is on the disk: that is not the same
/// as none.
#[test]
fn a_queue_whose_rest_in_memory_has_expired_is_not_said_to_be_empty() {
    for expiring in 1..12 {
        let mut world = World::new();
        world.push(None);
        for _ in 0..expiring {
            world.push(Some(1_000));
        }
        for _ in 0..60 {
            world.push(None);
        }
        world.wait(30_000);
        assert_eq!(world.queue.ready(), 61);
        for number in 0..61 {
            let got = world.get_surely();
            let skipped = if number == 0 { 0 } else { expiring };
            assert_eq!(got.seq, number + skipped);
        }
        assert_eq!(world.queue.ready(), 0);
    }
}

/// Messages that came back to chunks in which others have expired: these are not read again and
/// again to find nothing.
#[test]
fn chunks_are_not_read_for_ever_for_what_was_taken_out_of_them() {
    let mut world = World::new();
    let mut out = Vec::new();
    for number in 0..80u64 {
        world.push((number % 2 == 0).then_some(60_000));
    }
    for _ in 0..40 {
        out.push(world.get_surely());
    }
    // Those without an expiration come back, the others stay out.
    for unacked in out.iter().filter(|one| one.seq % 2 == 1).rev() {
        world.queue.requeue(None, unacked, false, &mut Nobody);
    }
    world.rest();
    world.wait(120_000);
    assert_eq!(world.queue.ready(), 40);
    let before = world.reads;
    world.wait(60_000);
    assert!(world.reads - before <= 12, "{} reads", world.reads - before);
    // What comes back now goes at once.
    for unacked in out.iter().filter(|one| one.seq % 2 == 0) {
        world.queue.requeue(None, unacked, false, &mut Nobody);
    }
    world.wait(60_000);
    assert_eq!(world.queue.ready(), 40);
    for number in 0..40 {
        assert_eq!(world.get_surely().seq, number * 2 + 1);
    }
}

/// Whoever looks at all chunks that nobody asks for meets each of them once, and none twice as
/// others go.
#[test]
fn chunks_that_nobody_asks_for_are_met_once_each() {
    let mut world = World::new();
    for _ in 0..200 {
        world.push(None);
    }
    let chunks = world.queue.paged_out().chunks;
    assert!(chunks > 20, "{chunks}");
    let mut cursor = ColdCursor::default();
    let all = std::iter::from_fn(|| world.queue.next_cold(&mut cursor));
    let all: Vec<_> = all.map(|read| read.place.offset).collect();
    assert_eq!(all.len() as u64, chunks);
    assert!(all.is_sorted(), "{all:?}");
    let mut cursor = ColdCursor::default();
    let mut met = Vec::new();
    while let Some(read) = world.queue.next_cold(&mut cursor) {
        met.push(read.place.offset);
        for _ in 0..8 {
            if world.queue.ready() > 20 {
                let got = world.get_surely();
                world.queue.settle(None, &got);
            }
        }
    }
    assert!(met.len() > 5 && met.len() < all.len(), "{met:?}");
    assert!(
        met.is_sorted() && met.iter().all(|it| all.contains(it)),
        "{met:?}"
    );
    world.queue.purge();
    assert!(world.queue.next_cold(&mut cursor).is_none());
    assert!(world.queue.next_cold(&mut ColdCursor::default()).is_none());
}

/// A purge is told of what is on the disk chunk by chunk, not message by message: a long queue is
/// locked no longer for it.
#[test]
fn a_purge_names_what_is_on_the_disk_in_ranges() {
    let mut world = World::new();
    for _ in 0..2_000 {
        world.push(None);
    }
    let out = world.queue.paged_out();
    assert!(out.messages > 1_500 && out.chunks < 500, "{out:?}");
    let (mut shown, mut seqs) = (0, Vec::new());
    world.queue.persistent_ready(|level, range| {
        assert_eq!(level, 0);
        shown += 1;
        seqs.extend(range);
    });
    assert!(seqs.into_iter().eq(0..2_000));
    let in_memory = 2_000 - out.messages;
    assert!(shown <= in_memory + out.chunks, "{shown} of {out:?}");
    assert_eq!(world.queue.purge(), 2_000);
    world
        .queue
        .persistent_ready(|_, seqs| panic!("{seqs:?} is still there"));
}
