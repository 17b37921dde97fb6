//! Stores written by earlier versions open, and with the same contents. `GOLDEN=write` makes the
//! directory of the present format; one that exists is never changed.

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use leveret_store::sim::{Image, SimDisk};
use leveret_store::{Journal, LaneId, MessageParts, Sabotage, Scratch, Store};

use support::model::Visible;
use support::tiny;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn submit(journal: &Journal, fill: impl FnOnce(&mut Scratch)) {
    let mut scratch = Scratch::new();
    fill(&mut scratch);
    journal.submit(&mut scratch).unwrap();
    journal.commit().unwrap();
}

fn message(scratch: &mut Scratch, targets: &[(LaneId, u64)], expiry_ms: Option<u64>) {
    let body = [b"message ", &[b'a' + targets[0].1 as u8][..]];
    let parts = MessageParts {
        expiry_ms,
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
        scratch.returned(one, 2, 3);
        message(scratch, &[(one, 4), (two, 1)], None);
    });
    journal.cover().unwrap();
    disk.image()
}

fn read() -> Image {
    let mut image = Image::default();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        image.files.insert(name, std::fs::read(&path).unwrap());
    }
    image
}

#[test]
fn a_store_of_format_1_opens() {
    if std::env::var("GOLDEN").is_ok() && !directory().exists() {
        std::fs::create_dir_all(directory()).unwrap();
        for (name, content) in write().files {
            std::fs::write(directory().join(name), content).unwrap();
        }
    }
    let disk = Arc::new(SimDisk::from_image(&read()));
    let opened = Journal::open(disk, tiny(Sabotage::None)).unwrap();
    assert!(!opened.created && opened.damage.is_empty());
    assert_eq!(opened.next_lane, 4);
    let (found, _, next) = Visible::take(opened).unwrap();
    assert_eq!(next.into_iter().collect::<Vec<_>>(), [(1, 5), (2, 2)]);
    let expected = [
        ((1, 0), "message a", None, 0),
        ((1, 2), "message c", None, 3),
        ((1, 3), "message d", None, 0),
        ((1, 4), "message e", None, 0),
        ((2, 0), "message a", Some(77), 0),
        ((2, 1), "message e", None, 0),
    ];
    let expected =
        expected.map(|(key, body, expiry, count)| (key, (body.as_bytes().to_vec(), expiry, count)));
    assert_eq!(found.messages.into_iter().collect::<Vec<_>>(), expected);
    let keys: Vec<_> = found.topology.keys().map(Vec::as_slice).collect();
    assert_eq!(keys, [&b"queue one"[..], b"queue two"]);
}
