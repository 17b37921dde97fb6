//! What a queue writes to a run file is a format of the disk: a journal that has handed chunks over
//! relies on them, also after an upgrade. `GOLDEN=write` makes the file of a format that has none;
//! one that exists is never changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_queue::{
    Attempts, Consumer, ConsumerKey, Delivery, LoadedPage, Message, MessageBody, Offer, PageFilter,
    Queue, Rank, Settings, Shape, Sink,
};
use leveret_record::{Blob, Body, Freed, Memory, MemoryLimits, RunFile, RunPlace, Spot};

const NOW_MS: u64 = 1_700_000_000_000;
const MESSAGES: u64 = 24;
/// Where the chunks of the file end.
const ENDS: [usize; 4] = [822, 1677, 2532, 3346];

struct Nobody;

impl Sink<u32> for Nobody {
    fn offer(&mut self, _: &Consumer<u32>, _: ConsumerKey, _: &Delivery<'_>) -> Offer {
        Offer::Refused
    }

    fn settled(&mut self, _: Rank) {}
}

/// Every kind of record.
fn message<'a>(seq: u64, [header, body]: &'a [Vec<u8>; 2], blob: &'a Arc<Blob>) -> Message<'a> {
    let deaths = seq % 8 >= 6;
    Message {
        route: b"\x06orders\x07eu.paid",
        header,
        body: match seq % 8 {
            4 => MessageBody::Shared(blob),
            _ => MessageBody::Inline(body),
        },
        entered_ms: NOW_MS + seq * 10,
        expiration_ms: match seq % 8 {
            2 => Some(1),
            3 => Some(u64::from(u32::MAX) + seq),
            _ => None,
        },
        priority: 0,
        persistent: seq % 8 != 1,
        deaths,
        attempts: match seq % 8 {
            5 => Attempts {
                acquired: 70_000 + seq as u32,
                failed: 3,
            },
            _ => Attempts::NONE,
        },
    }
}

/// A content header, which says how long the body is, and the body.
fn content(seq: u64) -> [Vec<u8>; 2] {
    let body = format!("body of message {seq:03}").into_bytes();
    let len = match seq % 8 {
        4 => SHARED_BYTES,
        _ => body.len(),
    };
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(len as u64).to_be_bytes());
    let rest: &[u8] = match seq % 8 {
        6.. => b"what tells of deaths is so long that it is kept once",
        _ => b"properties",
    };
    header.extend_from_slice(rest);
    [header, body]
}

const SHARED_BYTES: usize = 256;

fn shared(memory: &Memory) -> Arc<Blob> {
    memory.share((0..=255).collect())
}

/// Chunks behind each other, and where each ends.
fn written() -> (Vec<u8>, Vec<usize>) {
    let memory = Memory::new(MemoryLimits {
        chunk_bytes: 600,
        lane_bytes: 600,
        all_bytes: u64::MAX,
    });
    let mut queue: Queue<u32> = Queue::new(Settings::NONE, Shape::PLAIN, memory.clone());
    let blob = shared(&memory);
    for seq in 0..MESSAGES + 40 {
        let content = content(seq);
        queue
            .push(&message(seq, &content, &blob), &mut Nobody)
            .unwrap();
    }
    // What has expired behind others leaves from the middle.
    queue.run(NOW_MS + 10_000, &mut Nobody);
    let (freed, mut bytes, mut ends) = (Arc::<Freed>::default(), Vec::new(), Vec::new());
    while let Some(write) = queue.begin_write(NOW_MS, &mut bytes) {
        let place = RunPlace {
            run: 1,
            offset: bytes.len() as u64,
            len: 1,
            checksum: 0,
        };
        ends.push(bytes.len());
        let run = Arc::new(RunFile::new(1, Arc::clone(&freed)));
        queue.written(&write, Some(Spot::new(run, place)));
    }
    ends.truncate(ENDS.len());
    bytes.truncate(*ends.last().unwrap());
    (bytes, ends)
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v3.run")
}

fn pages() -> Vec<LoadedPage> {
    let bytes = std::fs::read(golden()).unwrap();
    assert_eq!(bytes.len(), *ENDS.last().unwrap());
    let mut start = 0;
    let page = |end: usize| {
        let place = RunPlace {
            run: 1,
            offset: start as u64,
            len: (end - start) as u32,
            checksum: 0,
        };
        let page = LoadedPage::decode(place, &bytes[start..end], &Memory::default());
        start = end;
        page.unwrap()
    };
    ENDS.into_iter().map(page).collect()
}

/// Another encoding needs another kind of record in the journal, and this file has to be read all
/// the same.
#[test]
fn what_is_written_is_what_earlier_versions_read() {
    let (bytes, ends) = written();
    if std::env::var("GOLDEN").is_ok() && !golden().exists() {
        std::fs::write(golden(), &bytes).unwrap();
    }
    assert_eq!(ends, ENDS);
    assert!(bytes == std::fs::read(golden()).unwrap(), "it has changed");
}

#[test]
fn a_run_file_of_this_version_is_read() {
    let memory = Memory::default();
    let (blob, mut next) = (shared(&memory), None);
    for page in pages() {
        let mut base_ms = None;
        page.each(|record, found| {
            let seq = next.unwrap_or(record.seq);
            let content = content(seq);
            let expected = message(seq, &content, &blob);
            assert_eq!(record.seq, seq);
            let base_ms = *base_ms.get_or_insert(expected.entered_ms);
            assert_eq!(base_ms + u64::from(record.entered), expected.entered_ms);
            assert_eq!(record.attempts, expected.attempts, "{seq}");
            assert_eq!(record.persistent, expected.persistent, "{seq}");
            assert_eq!(record.marks.deaths(), expected.deaths, "{seq}");
            assert_eq!(record.marks.left(), seq % 8 == 2, "{seq}");
            assert_eq!(record.expiration_ms, expected.expiration_ms, "{seq}");
            assert_eq!(
                (record.route, record.header),
                (expected.route, expected.header)
            );
            match (record.body, found) {
                (Body::Inline(found), None) => assert_eq!(found, content[1]),
                (Body::Blob { len: 256, .. }, Some(found)) => assert_eq!(***found, **blob),
                other => panic!("{seq}: {other:?}"),
            }
            next = Some(seq + 1);
        });
    }
    assert!(next >= Some(MESSAGES), "{next:?}");
}

/// What is left of a chunk after a restart: ranges of its messages, and attempts since.
#[test]
fn a_part_of_a_chunk_of_this_version_is_read() {
    let mut numbers = Vec::new();
    for page in pages() {
        let mut all = Vec::new();
        page.each(|record, _| all.push(record.seq));
        let tried = Attempts::NONE.and_one(true);
        let kept = [all[0], all[2], all[all.len() - 1]];
        let filter = PageFilter {
            ranges: kept.iter().map(|seq| (*seq, seq + 1)).collect(),
            attempts: vec![(kept[1], kept[1] + 1, tried)],
        };
        page.filtered(&filter).unwrap().each(|record, _| {
            if record.seq == kept[1] {
                assert!(record.attempts.acquired > 0);
            }
            assert!(!record.marks.left(), "the store says what has left");
            numbers.push(record.seq);
        });
        let filter = PageFilter {
            ranges: vec![(1 << 40, (1 << 40) + 1)],
            ..filter
        };
        let again = pages().remove(0);
        assert!(again.filtered(&filter).is_none(), "it is not there");
    }
    assert_eq!(numbers.len(), 3 * ENDS.len());
}
