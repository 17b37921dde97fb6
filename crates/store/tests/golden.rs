//! Stores written by earlier versions open, and with the same contents. `GOLDEN=write` makes the
//! directory of the present format; one that exists is never changed.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_record::Attempts;
use leveret_store::sim::{Image, SimDisk};
use leveret_store::{Journal, LaneId, MessageParts, Sabotage, Scratch, Store};

use support::tiny;

fn submit(journal: &Journal, fill: impl FnOnce(&mut Scratch)) {
    let mut scratch = Scratch::new();
    fill(&mut scratch);
    journal.submit(&mut scratch).unwrap();
    journal.commit().unwrap();
}

fn message(scratch: &mut Scratch, targets: &[(LaneId, u64)], expiration_ms: Option<u64>) {
    let body = [b"message ", &[b'a' + targets[0].1 as u8][..]];
    let parts = MessageParts {
        entered_ms: Some(50),
        expiration_ms,
        deaths: expiration_ms.is_some(),
        route: b"\x02ex\x03key",
        header: b"header",
        body: &body,
    };
    scratch.message(targets, &parts);
}

fn write() -> Image {
    let (one, two, gone) = (LaneId(1), LaneId(2), LaneId(3));
    let disk = SimDisk::new();
    let journal = Journal::open(Arc::new(disk.clone()), tiny(Sabotage::None))
        .unwrap()
        .journal;
    submit(&journal, |scratch| {
        scratch.topology(b"queue one", Some(b"durable"));
        scratch.topology(b"queue two", Some(b"durable"));
        scratch.topology(b"queue three", Some(b"durable"));
        (0..4).for_each(|seq| message(scratch, &[(one, seq)], None));
        message(scratch, &[(two, 0), (gone, 0)], Some(77));
    });
    submit(&journal, |scratch| scratch.settle(one, 1));
    journal.checkpoint().unwrap();
    submit(&journal, |scratch| {
        scratch.begin_group();
        scratch.topology(b"queue three", None);
        scratch.reset(gone, u64::MAX);
        scratch.end_group();
        let attempts = Attempts {
            acquired: 300,
            failed: 2,
        };
        scratch.returned(one, 2, attempts);
        message(scratch, &[(one, 4), (two, 1)], None);
    });
    journal.cover().unwrap();
    disk.image()
}

fn directory(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(version)
}

fn read(version: &str) -> Image {
    let mut image = Image::default();
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
    let opened = Journal::open(disk, tiny(Sabotage::None)).unwrap();
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
    let features = |image: &Image| image.files["FORMAT"][12];
    assert_eq!((features(&read("v1")), features(&disk.image())), (0, 1));
}

#[test]
fn a_store_of_this_version_opens() {
    if std::env::var("GOLDEN").is_ok() && !directory("v2").exists() {
        std::fs::create_dir_all(directory("v2")).unwrap();
        for (name, content) in write().files {
            std::fs::write(directory("v2").join(name), content).unwrap();
        }
    }
    let entered = Some(50);
    let expected = [
        (1, 0, "message a", entered, None, false, (0, 0)),
        (1, 2, "message c", entered, None, false, (300, 2)),
        (1, 3, "message d", entered, None, false, (0, 0)),
        (1, 4, "message e", entered, None, false, (0, 0)),
        (2, 0, "message a", entered, Some(77), true, (0, 0)),
        (2, 1, "message e", entered, None, false, (0, 0)),
    ];
    check(Arc::new(SimDisk::from_image(&read("v2"))), expected);
}
