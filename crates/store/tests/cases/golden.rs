//! Stores written by earlier versions open, and with the same contents. `GOLDEN=write` makes the
//! directory of the present format; one that exists is never changed.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_record::{Attempts, RunPlace};
use leveret_store::sim::{DiskImage, SimDisk};
use leveret_store::{
    Batch, Journal, JournalConfig, LaneId, MessageParts, MovedChunk, MovedPiece, Store,
    StoreSabotage,
};

use crate::support::tiny;

fn submit(journal: &Journal, fill: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    fill(&mut batch);
    journal.submit(&mut batch).unwrap();
    journal.commit().unwrap();
}

fn message(batch: &mut Batch, targets: &[(LaneId, u64)], expiration_ms: Option<u64>) {
    let body = [b"message ", &[b'a' + targets[0].1 as u8][..]];
    let parts = MessageParts {
        entered_ms: Some(50),
        expiration_ms,
        deaths: expiration_ms.is_some(),
        route: b"\x02ex\x03key",
        header: b"header",
        body: &body,
    };
    batch.message(targets, &parts);
}

fn write() -> DiskImage {
    let (one, two, gone) = (LaneId(1), LaneId(2), LaneId(3));
    let disk = SimDisk::new();
    let journal = Journal::open(Arc::new(disk.clone()), tiny(StoreSabotage::None))
        .unwrap()
        .journal;
    submit(&journal, |batch| {
        batch.topology(b"queue one", Some(b"durable"));
        batch.topology(b"queue two", Some(b"durable"));
        batch.topology(b"queue three", Some(b"durable"));
        (0..4).for_each(|seq| message(batch, &[(one, seq)], None));
        message(batch, &[(two, 0), (gone, 0)], Some(77));
    });
    submit(&journal, |batch| batch.settle(one, 1));
    journal.checkpoint().unwrap();
    submit(&journal, |batch| {
        batch.begin_group();
        batch.topology(b"queue three", None);
        batch.reset(gone, u64::MAX);
        batch.end_group();
        let attempts = Attempts {
            acquired: 300,
            failed: 2,
        };
        batch.returned(one, 2, attempts);
        message(batch, &[(one, 4), (two, 1)], None);
    });
    journal.cover().unwrap();
    disk.image()
}

fn directory(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(version)
}

fn read(version: &str) -> DiskImage {
    let mut image = DiskImage::default();
    for entry in std::fs::read_dir(directory(version)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        image.files.insert(name, std::fs::read(&path).unwrap());
    }
    image
}

/// What is left of a message: lane, number, body, when it came, its own expiration, whether it has
/// died, how often it was tried.
type Left = (
    u32,
    u64,
    &'static str,
    Option<u64>,
    Option<u64>,
    bool,
    (u32, u32),
);

fn check(disk: Arc<SimDisk>, expected: [Left; 6]) {
    let opened = Journal::open(disk, tiny(StoreSabotage::None)).unwrap();
    assert!(!opened.created && opened.damage.is_empty());
    assert_eq!(opened.next_lane, 4);
    let next: Vec<_> = opened
        .lanes
        .iter()
        .map(|one| (one.lane.0, one.next_seq))
        .collect();
    assert_eq!(next, [(1, 5), (2, 2)]);
    let keys: Vec<_> = opened.topology.keys().map(Vec::as_slice).collect();
    assert_eq!(keys, [&b"queue one"[..], b"queue two"]);
    let mut left = expected.to_vec();
    let replayed = opened.messages.replay(|m| {
        let same = |left: &Left| (left.0, left.1) == (m.lane.0, m.seq);
        let at = left.iter().position(same).unwrap();
        let (lane, seq, body, entered, expiration, deaths, tried) = left.remove(at);
        assert_eq!((m.lane.0, m.seq, m.body), (lane, seq, body.as_bytes()));
        assert_eq!(
            (m.entered_ms, m.expiration_ms, m.deaths),
            (entered, expiration, deaths)
        );
        assert_eq!((m.attempts.acquired, m.attempts.failed), tried, "{seq}");
    });
    replayed.unwrap();
    assert!(left.is_empty());
}

/// What the first version wrote: no times, and one count.
#[test]
fn a_store_of_the_first_version_opens_and_is_of_this_one_afterwards() {
    let disk = Arc::new(SimDisk::from_image(&read("v1")));
    for _ in 0..2 {
        let expected = [
            (1, 0, "message a", None, None, false, (0, 0)),
            (1, 2, "message c", None, None, false, (3, 0)),
            (1, 3, "message d", None, None, false, (0, 0)),
            (1, 4, "message e", None, None, false, (0, 0)),
            (2, 0, "message a", None, Some(77), false, (0, 0)),
            (2, 1, "message e", None, None, false, (0, 0)),
        ];
        check(Arc::clone(&disk), expected);
    }
    let features = |image: &DiskImage| image.files["FORMAT"][12];
    assert_eq!((features(&read("v1")), features(&disk.image())), (0, 7));
}

/// So many messages come into each of three lanes; every sixth is settled.
const OF_LANE: u64 = 400_000;
const IN_FRAME: u64 = 1_000;
/// These come before the checkpoint.
const EARLY: u64 = 360_000;

fn body_of(lane: u32, seq: u64) -> [u8; 12] {
    let mut body = [0; 12];
    body[..4].copy_from_slice(&lane.to_le_bytes());
    body[4..].copy_from_slice(&seq.to_le_bytes());
    body
}

/// As often as it was delivered in the first version.
const fn tried(lane: u32, seq: u64) -> u32 {
    if seq < EARLY && seq.is_multiple_of(1_000) {
        lane
    } else {
        0
    }
}

fn large() -> JournalConfig {
    JournalConfig {
        segment_bytes: 8 << 20,
        first_segment_bytes: 1 << 20,
        start_segment_bytes: 64 << 10,
        window_bytes: 1 << 30,
        checkpoint_bytes: 1 << 30,
        ..tiny(StoreSabotage::None)
    }
}

fn fill(journal: &Journal, seqs: Range<u64>) {
    let of_frame = |first| {
        let lanes = 1..=3;
        lanes.flat_map(move |lane| (first..first + IN_FRAME).map(move |seq| (lane, seq)))
    };
    for first in seqs.step_by(IN_FRAME as usize) {
        submit(journal, |batch| {
            for (lane, seq) in of_frame(first) {
                let parts = MessageParts {
                    route: b"\x02ex\x03key",
                    header: b"header",
                    body: &[&body_of(lane, seq)],
                    ..MessageParts::default()
                };
                batch.message(&[(LaneId(lane), seq)], &parts);
            }
        });
        submit(journal, |batch| {
            for (lane, seq) in of_frame(first) {
                if seq % 6 == 5 {
                    batch.settle(LaneId(lane), seq);
                } else if tried(lane, seq) > 0 {
                    let (acquired, failed) = (tried(lane, seq), 0);
                    batch.returned(LaneId(lane), seq, Attempts { acquired, failed });
                }
            }
        });
    }
}

/// A store in the first version's form: no times, counts as one number in the checkpoint, which
/// covers all of the journal that has any, and no feature in FORMAT.
fn of_the_first_version() -> DiskImage {
    let disk = SimDisk::new();
    let opened = Journal::open(Arc::new(disk.clone()), large());
    let journal = opened.unwrap().journal;
    fill(&journal, 0..EARLY);
    journal.checkpoint().unwrap();
    fill(&journal, EARLY..OF_LANE);
    journal.cover().unwrap();
    let mut image = disk.image();
    let format = image.files.get_mut("FORMAT").unwrap();
    for copy in format.chunks_mut(4096) {
        copy[12] = 0;
        let crc = crc32c::crc32c(&copy[..44]);
        copy[44..48].copy_from_slice(&crc.to_le_bytes());
    }
    image
}

#[test]
fn a_million_messages_of_the_first_version_are_kept() {
    let disk = SimDisk::from_image(&of_the_first_version());
    let opened = Journal::open(Arc::new(disk.clone()), large()).unwrap();
    assert!(!opened.created && opened.damage.is_empty());
    let unsettled = || (0..OF_LANE).filter(|seq| seq % 6 != 5);
    let mut left = [unsettled(), unsettled(), unsettled()];
    let replayed = opened.messages.replay(|m| {
        let next = left[m.lane.0 as usize - 1].next();
        assert_eq!(next, Some(m.seq), "lane {}", m.lane.0);
        assert_eq!(m.body, body_of(m.lane.0, m.seq));
        let seen = (m.entered_ms, m.expiration_ms, m.deaths, m.attempts.failed);
        assert_eq!(seen, (None, None, false, 0));
        assert_eq!(m.attempts.acquired, tried(m.lane.0, m.seq));
    });
    replayed.unwrap();
    assert!(left.iter_mut().all(|left| left.next().is_none()));
    assert_eq!(disk.image().files["FORMAT"][12], 7);
}

/// What the second and later versions show of the same.
fn timed() -> [Left; 6] {
    let entered = Some(50);
    [
        (1, 0, "message a", entered, None, false, (0, 0)),
        (1, 2, "message c", entered, None, false, (300, 2)),
        (1, 3, "message d", entered, None, false, (0, 0)),
        (1, 4, "message e", entered, None, false, (0, 0)),
        (2, 0, "message a", entered, Some(77), true, (0, 0)),
        (2, 1, "message e", entered, None, false, (0, 0)),
    ]
}

#[test]
fn a_store_of_the_second_version_opens() {
    check(Arc::new(SimDisk::from_image(&read("v2"))), timed());
}

fn chunk(run: u64) -> MovedChunk {
    let place = RunPlace {
        run,
        offset: 4096,
        len: 700,
        checksum: 0x1234_5678,
    };
    MovedChunk {
        lane: LaneId(4),
        place,
        messages: 3,
        bytes: 30,
        base_ms: 50,
        own_ms: 77,
    }
}

/// The same, and chunks that were moved before and after the last checkpoint.
fn write_moved() -> DiskImage {
    let disk = SimDisk::from_image(&write());
    let opened = Journal::open(Arc::new(disk.clone()), tiny(StoreSabotage::None));
    let journal = opened.unwrap().journal;
    submit(&journal, |batch| {
        batch.topology(b"queue four", Some(b"durable"));
        (0..6).for_each(|seq| message(batch, &[(LaneId(4), seq)], None));
    });
    submit(&journal, |batch| batch.moved(chunk(8), &[(0, 3)]));
    journal.checkpoint().unwrap();
    submit(&journal, |batch| {
        batch.settle(LaneId(4), 1);
        batch.moved(chunk(9), &[(3, 6)]);
        batch.returned(LaneId(4), 5, Attempts::NONE.and_one(true));
    });
    journal.cover().unwrap();
    disk.image()
}

#[test]
fn a_store_of_this_version_opens() {
    if std::env::var("GOLDEN").is_ok() && !directory("v3").exists() {
        std::fs::create_dir_all(directory("v3")).unwrap();
        for (name, content) in write_moved().files {
            std::fs::write(directory("v3").join(name), content).unwrap();
        }
    }
    let disk = Arc::new(SimDisk::from_image(&read("v3")));
    for _ in 0..2 {
        let opened = Journal::open(Arc::clone(&disk) as _, tiny(StoreSabotage::None)).unwrap();
        assert_eq!((opened.moved.next_run, opened.messages.len()), (10, 6));
        let tried = Attempts::NONE.and_one(true);
        let pieces = [
            (chunk(8), vec![(0, 1), (2, 3)], vec![]),
            (chunk(9), vec![(3, 6)], vec![(5, 6, tried)]),
        ];
        let pieces = pieces.map(|(chunk, ranges, attempts)| MovedPiece {
            chunk,
            ranges,
            attempts,
            is_whole: true,
        });
        assert_eq!(opened.moved.pieces, pieces);
    }
}
