//! Messages that the journal has handed over to run files: it stays short, and a start finds them
//! there without reading them.

use std::sync::Arc;

use leveret_broker::{
    Access, Broker, BrokerConfig, Effects, LostMessages, MovedReader, NotRestored, PageOut,
    Restored, Runs, RunsConfig, Scrub, ScrubStep,
};
use leveret_codec::{BasicAck, BasicGet, QueuePurge};
use leveret_runs::sim::SimFiles;
use leveret_store::sim::SimDisk;
use leveret_store::{Journal, JournalConfig, MovedPiece, Store};

use crate::support::{Client, consume, declaration, ready};

const START_MS: u64 = 1_000_000;
const MESSAGES: usize = 1_500;

fn config() -> JournalConfig {
    JournalConfig {
        segment_bytes: 16 << 10,
        first_segment_bytes: 12 << 10,
        start_segment_bytes: 8 << 10,
        window_bytes: 128 << 10,
        checkpoint_bytes: 32 << 10,
        reserve_segments: 2,
        disk_free_min: 0,
        ..JournalConfig::default()
    }
}

fn settings() -> BrokerConfig {
    BrokerConfig {
        chunk_bytes: 500,
        queue_resident_bytes: 1,
        ..BrokerConfig::default()
    }
}

/// A broker that keeps nearly nothing in memory, with a journal that is to be short.
pub(crate) struct World {
    disk: SimDisk,
    pub(crate) files: Arc<SimFiles>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) client: Client,
    effects: Effects,
    pub(crate) now_ms: u64,
    /// Messages that the start found in the journal, and those that it found elsewhere.
    pub(crate) found: (usize, u64),
}

impl World {
    pub(crate) fn new() -> Self {
        let mut world = Self::open(SimDisk::new(), Arc::default(), 1);
        world.client.say(1, declaration("q", true));
        world.turn();
        world
    }

    fn open(disk: SimDisk, files: Arc<SimFiles>, queue_resident_bytes: u64) -> Self {
        let settings = BrokerConfig {
            queue_resident_bytes,
            ..settings()
        };
        let (world, restored) = Self::start(disk, files, settings);
        assert_eq!(restored.unwrap().orphans, 0);
        world
    }

    fn start(
        disk: SimDisk,
        files: Arc<SimFiles>,
        settings: BrokerConfig,
    ) -> (Self, Result<Restored, NotRestored>) {
        let opened = Journal::open(Arc::new(disk.clone()), config()).unwrap();
        assert!(opened.damage.is_empty(), "{:?}", opened.damage);
        let needed = opened.moved.runs();
        files.cut_power(|run| needed.contains(&run));
        let journal = Arc::new(opened.journal);
        let store = Arc::clone(&journal) as Arc<dyn Store>;
        let broker = Broker::new(settings, Access::default(), store);
        let sizes = RunsConfig {
            run_bytes: 4_000,
            free_min: 0,
        };
        broker.page_to(Runs::new(Arc::clone(&files) as Arc<_>, sizes));
        broker.set_now(START_MS);
        broker.restore(&opened.topology, opened.next_lane).unwrap();
        let moved = opened.moved.pieces.iter().map(|it| it.messages()).sum();
        let found = (opened.messages.len(), moved);
        let restored = broker.restore_messages(&opened.lanes, opened.messages, opened.moved);
        if opened.topology.is_empty() {
            broker.first_start("guest", "guest", "/").unwrap();
        }
        let broker = Arc::new(broker);
        let world = Self {
            client: Client::new(&broker),
            disk,
            files,
            journal,
            broker,
            effects: Effects::default(),
            now_ms: START_MS,
            found,
        };
        (world, restored)
    }

    /// The power fails: what is on the disk is all that is left.
    pub(crate) fn cut_power(self, queue_resident_bytes: u64) -> Self {
        Self::open(self.left(), self.files, queue_resident_bytes)
    }

    fn left(&self) -> SimDisk {
        let mut points = self.disk.crash_points();
        while points.advance() {}
        SimDisk::from_image(&points.lose_all())
    }

    /// All threads do what there is to do.
    pub(crate) fn turn(&mut self) {
        let mut out = PageOut::default();
        for _ in 0..4 {
            while self.broker.begin_page_out(&mut out) {
                self.broker.finish_page_out(&mut out).unwrap();
            }
            self.now_ms += 600;
            self.broker.set_now(self.now_ms);
            self.broker.move_chunks().unwrap();
            while self.broker.rewrite_chunks().unwrap() {}
            self.journal.commit().unwrap();
            for _ in 0..40 {
                self.journal.housekeep().unwrap();
            }
            self.broker.give_runs_back();
        }
        self.client.turn();
    }

    /// The same where nothing leaves memory: a failure of that is what is expected.
    pub(crate) fn turn_on_full_disk(&mut self) {
        let mut out = PageOut::default();
        if self.broker.begin_page_out(&mut out) {
            assert!(self.broker.finish_page_out(&mut out).is_err());
        }
        self.now_ms += 1_200;
        self.broker.set_now(self.now_ms);
        self.broker.move_chunks().unwrap();
        // For want of space it waits.
        let _ = self.broker.rewrite_chunks();
        self.journal.judge_space(Some(0));
        self.journal.commit().unwrap();
        for _ in 0..40 {
            self.journal.housekeep().unwrap();
        }
        self.broker.give_runs_back();
    }

    /// Reads what is asked for.
    pub(crate) fn read_pages(&mut self) {
        while let Some(page) = self.broker.begin_page_in() {
            self.broker.finish_page_in(page, &mut self.effects);
        }
    }

    pub(crate) fn fill(&mut self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            self.client.publish(1, "q", &format!("{number:0>60}"), true);
            if number % 20 == 0 {
                self.turn();
            }
        }
        self.turn();
    }

    /// Fetches so many messages; those are acknowledged that `settles` says.
    fn get(&mut self, count: usize, settles: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut got = Vec::new();
        for tag in 1..=count as u64 {
            let get = BasicGet {
                queue: b"q",
                no_ack: false,
            };
            self.client.say(1, get);
            let heard = numbers(&self.client.hear());
            if heard.iter().all(|number| settles(*number)) {
                let multiple = false;
                let delivery_tag = tag;
                let ack = BasicAck {
                    delivery_tag,
                    multiple,
                };
                self.client.say(1, ack);
            }
            got.extend(heard);
        }
        self.turn();
        got
    }

    /// Has a consumer take all there is: numbers, and how many were tried before.
    pub(crate) fn take_all(&mut self) -> (Vec<usize>, usize) {
        self.client.say(2, consume("q"));
        let (mut taken, mut again) = (Vec::new(), 0);
        loop {
            self.read_pages();
            let heard = self.client.hear();
            again += heard.iter().filter(|it| it.ends_with(" again")).count();
            let numbers = numbers(&heard);
            if numbers.is_empty() {
                return (taken, again);
            }
            taken.extend(numbers);
        }
    }

    pub(crate) fn journal_bytes(&self) -> usize {
        let image = self.disk.image();
        let files = image.files.iter().filter(|it| it.0.starts_with("journal-"));
        files.map(|(_, content)| content.len()).sum()
    }

    fn lost(&self) -> Vec<LostMessages> {
        self.broker.take_lost()
    }
}

pub(crate) fn numbers(heard: &[String]) -> Vec<usize> {
    let bodies = heard.iter().filter_map(|line| line.strip_prefix("body "));
    bodies.map(|body| body.parse().unwrap()).collect()
}

fn all() -> Vec<usize> {
    (0..MESSAGES).collect()
}

#[test]
fn a_long_queue_leaves_the_journal_and_is_there_after_a_power_cut() {
    let mut world = World::new();
    world.fill(0..MESSAGES);
    let bytes = world.journal_bytes();
    assert!(bytes < 300 << 10, "{bytes} bytes of journal");
    let mut world = world.cut_power(1);
    let (journal, moved) = world.found;
    assert_eq!(journal as u64 + moved, MESSAGES as u64);
    assert!(moved > MESSAGES as u64 / 2, "{moved} were moved");
    assert_eq!(ready(&world.broker, "q"), MESSAGES as u64);
    // Nothing was read for that.
    assert_eq!(world.broker.runs_stats().read_bytes, 0);
    assert_eq!(world.take_all(), (all(), 0));
    assert!(world.lost().is_empty());
}

#[test]
fn what_is_settled_and_tried_of_a_moved_chunk_is_known_after_a_restart() {
    let mut world = World::new();
    world.fill(0..MESSAGES);
    // Twice, so that chunks come back of which only parts were left before.
    let mut world = world.cut_power(1);
    let is_settled = |number: usize| !number.is_multiple_of(3);
    let got = world.get(300, is_settled);
    assert_eq!(got, (0..300).collect::<Vec<_>>());
    let mut world = world.cut_power(1);
    let left: Vec<usize> = all()
        .into_iter()
        .filter(|number| *number >= 300 || !is_settled(*number))
        .collect();
    assert_eq!(ready(&world.broker, "q"), left.len() as u64);
    let got = world.get(50, |_| false);
    assert_eq!(got, left[..50]);
    let mut world = world.cut_power(1);
    assert_eq!(world.take_all(), (left, 100));
}

#[test]
fn what_goes_on_after_a_restart_is_moved_as_well_and_goes_with_its_messages() {
    let mut world = World::new();
    world.fill(0..MESSAGES);
    let mut world = world.cut_power(1);
    world.fill(MESSAGES..2 * MESSAGES);
    let bytes = world.journal_bytes();
    assert!(bytes < 300 << 10, "{bytes} bytes of journal");
    let mut world = world.cut_power(1);
    let (taken, _) = world.take_all();
    assert_eq!(taken, (0..2 * MESSAGES).collect::<Vec<_>>());
    let ack = BasicAck {
        delivery_tag: 0,
        multiple: true,
    };
    world.client.say(2, ack);
    for _ in 0..10 {
        world.turn();
    }
    world.journal.checkpoint().unwrap();
    world.journal.checkpoint().unwrap();
    world.turn();
    assert!(world.files.count() <= 1, "{} files", world.files.count());
    let world = world.cut_power(1);
    assert_eq!((world.found, ready(&world.broker, "q")), ((0, 0), 0));
}

#[test]
fn a_purge_after_a_restart_reads_nothing_and_frees_all() {
    let mut world = World::new();
    world.fill(0..MESSAGES);
    let mut world = world.cut_power(1);
    let purge = QueuePurge {
        queue: b"q",
        nowait: false,
    };
    world.client.say(1, purge);
    world.turn();
    assert_eq!(world.broker.runs_stats().read_bytes, 0);
    world.fill(0..10);
    world.journal.checkpoint().unwrap();
    world.journal.checkpoint().unwrap();
    world.turn();
    assert!(world.files.count() <= 1, "{} files", world.files.count());
    let mut world = world.cut_power(1);
    assert_eq!(world.take_all().0, (0..10).collect::<Vec<_>>());
}

#[test]
fn a_broker_that_keeps_all_in_memory_reads_what_was_moved_before() {
    let mut world = World::new();
    world.fill(0..MESSAGES);
    let mut world = world.cut_power(0);
    assert_eq!(ready(&world.broker, "q"), MESSAGES as u64);
    assert_eq!(world.take_all(), (all(), 0));
}

#[test]
fn rot_in_a_moved_chunk_costs_its_messages_and_is_told() {
    for queue_resident_bytes in [1, 0] {
        let mut world = World::new();
        world.fill(0..MESSAGES);
        world.files.flip(3, 8 * 1_000);
        let mut world = world.cut_power(queue_resident_bytes);
        let (taken, _) = world.take_all();
        let lost = world.lost();
        let [lost] = &lost[..] else {
            panic!("{lost:?}");
        };
        assert!(lost.moved && lost.reason.contains("checksum"), "{lost:?}");
        let gone = lost.page.first as usize..=lost.page.last as usize;
        let left: Vec<_> = all().into_iter().filter(|it| !gone.contains(it)).collect();
        assert_eq!(taken, left);
        assert_eq!(lost.page.messages as usize, gone.count());
        assert_eq!(ready(&world.broker, "q"), 0);
    }
}

impl World {
    /// Ends a pass; gives how many bytes were read for that.
    fn end_pass(&self, scrub: &mut Scrub) -> u64 {
        let mut read = 0;
        while let ScrubStep::Read(bytes) = self.broker.scrub(scrub) {
            read += bytes;
        }
        read
    }
}

#[test]
fn rot_in_what_nobody_reads_is_found_by_a_pass_and_the_rest_goes_on() {
    let mut world = World::new();
    world.fill(0..MESSAGES);
    world.files.flip(3, 8 * 1_000);
    let mut world = world.cut_power(1);
    let mut scrub = Scrub::default();
    let before = world.broker.runs_stats();
    assert_eq!(world.broker.scrub_stats().ended_ms, None);
    let read = world.end_pass(&mut scrub);
    let lost = world.lost();
    let [one] = &lost[..] else {
        panic!("{lost:?}");
    };
    assert!(one.moved && one.reason.contains("checksum"), "{one:?}");
    let left = MESSAGES as u64 - one.page.messages;
    assert_eq!(ready(&world.broker, "q"), left);
    let (stats, runs) = (world.broker.scrub_stats(), world.broker.runs_stats());
    assert_eq!((stats.passes, stats.bytes), (1, read));
    assert!(
        stats.chunks > 100 && stats.ended_ms >= Some(START_MS),
        "{stats:?}"
    );
    assert_eq!(runs.read_errors, before.read_errors + 1);
    assert_eq!(
        runs.read_bytes, before.read_bytes,
        "nobody has asked for them"
    );
    world.end_pass(&mut scrub);
    assert_eq!(world.broker.scrub_stats().passes, 2);
    assert!(world.lost().is_empty(), "it was found before");
    let gone = one.page.first as usize..=one.page.last as usize;
    let left: Vec<_> = all().into_iter().filter(|it| !gone.contains(it)).collect();
    assert_eq!(world.take_all().0, left);
    assert!(world.lost().is_empty());
}

#[test]
fn a_pass_keeps_nothing_and_takes_nothing_that_goes_meanwhile_for_rot() {
    let mut world = World::new();
    world.fill(0..MESSAGES);
    let mut world = world.cut_power(1);
    let mut scrub = Scrub::default();
    for _ in 0..20 {
        assert_ne!(world.broker.scrub(&mut scrub), ScrubStep::Ended);
    }
    world.get(500, |_| true);
    assert_ne!(world.broker.scrub(&mut scrub), ScrubStep::Ended);
    let purge = QueuePurge {
        queue: b"q",
        nowait: false,
    };
    world.client.say(1, purge);
    world.turn();
    world.fill(0..10);
    world.journal.checkpoint().unwrap();
    world.journal.checkpoint().unwrap();
    world.turn();
    assert!(world.files.count() <= 1, "{} files", world.files.count());
    world.end_pass(&mut scrub);
    // A disk that is busy says nothing of what it has.
    world.fill(10..MESSAGES);
    world.files.set_busy(true);
    world.end_pass(&mut scrub);
    world.files.set_busy(false);
    assert!(world.lost().is_empty());
    assert_eq!(world.take_all().0, all());
}

/// What `leveret data` makes of it: every byte of a run file belongs to a chunk, and is found when
/// it is not what it was.
#[test]
fn every_flipped_byte_of_a_run_file_is_found_by_whoever_only_looks() {
    let mut world = World::new();
    world.fill(0..MESSAGES);
    let settles = |number: usize| number.is_multiple_of(2);
    world.get(100, settles);
    world.journal.cover().unwrap();
    let inspected = Journal::inspect(&world.disk, &config()).unwrap();
    let chunks = inspected.moved.chunks();
    let mut reader = MovedReader::new(Arc::clone(&world.files) as Arc<_>);
    let mut read = |piece: &MovedPiece| {
        let mut found = Vec::new();
        let read = reader.read(piece, |message| {
            let number: usize = str::from_utf8(message.body).unwrap().parse().unwrap();
            assert_eq!(message.seq, number as u64);
            assert!(message.entered_ms >= Some(START_MS), "{message:?}");
            found.push(number);
        });
        read.map(|()| found)
    };
    let mut found: Vec<usize> = chunks.iter().flat_map(|it| read(it).unwrap()).collect();
    // What was written anew is elsewhere on the disk.
    found.sort_unstable();
    let expected: Vec<usize> = all()
        .into_iter()
        .filter(|it| *it >= 100 || !settles(*it))
        .collect();
    assert_eq!(found, expected[..found.len()]);
    assert!(found.len() > MESSAGES / 2, "{}", found.len());
    let run = chunks[20].chunk.place.run;
    let of_run: Vec<_> = chunks
        .iter()
        .filter(|it| it.chunk.place.run == run)
        .collect();
    let end = of_run
        .iter()
        .map(|it| it.chunk.place.offset + u64::from(it.chunk.place.len));
    for byte in 0..end.max().unwrap() {
        let bit = (byte * 8 + byte % 8) as usize;
        world.files.flip(run, bit);
        let wrong = of_run.iter().filter(|piece| read(piece).is_err());
        assert_eq!(wrong.count(), 1, "byte {byte}");
        world.files.flip(run, bit);
    }
}

#[test]
fn what_cannot_be_synced_stays_in_the_journal() {
    let mut world = World::new();
    world.files.fail_syncs(true);
    for number in 0..MESSAGES {
        world
            .client
            .publish(1, "q", &format!("{number:0>60}"), true);
        if number % 50 == 0 {
            world.journal.commit().unwrap();
        }
    }
    let mut out = PageOut::default();
    while world.broker.begin_page_out(&mut out) {
        world.broker.finish_page_out(&mut out).unwrap();
    }
    world.journal.commit().unwrap();
    assert!(world.broker.move_chunks().is_err());
    // What a failed sync leaves is not known: a later one proves nothing.
    world.files.fail_syncs(false);
    assert!(world.broker.move_chunks().is_err());
    world.journal.commit().unwrap();
    let mut world = world.cut_power(1);
    assert_eq!(world.found, (MESSAGES, 0));
    assert_eq!(world.take_all(), (all(), 0));
}

/// A journal that is longer than may be in memory comes back all the same when the disk takes
/// nothing, and is written later. Only what the system would kill the process for is refused.
#[test]
fn a_full_disk_has_what_is_too_much_for_memory_in_memory() {
    let mut world = World::open(SimDisk::new(), Arc::default(), 0);
    world.client.say(1, declaration("q", true));
    world.turn();
    world.fill(0..MESSAGES);
    let (left, files) = (world.left(), Arc::clone(&world.files));
    files.set_free_bytes(0);
    let little = BrokerConfig {
        resident_bytes_max: 10_000,
        ..settings()
    };
    let least = BrokerConfig {
        memory_limit_bytes: 40_000,
        ..little.clone()
    };
    let (_, refused) = World::start(left.clone(), Arc::clone(&files), least);
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("more than there is memory"), "{refused}");
    let (mut world, restored) = World::start(left, Arc::clone(&files), little);
    let restored = restored.unwrap();
    assert_eq!(restored.messages, MESSAGES as u64);
    assert!(restored.beyond_bytes > 50_000, "{restored:?}");
    files.set_free_bytes(u64::MAX);
    world.turn();
    assert!(files.count() > 0);
    assert!(world.broker.memory.resident_bytes() < 50_000);
    assert_eq!(world.get(MESSAGES, |_| true), all());
}
