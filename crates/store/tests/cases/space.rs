//! Space that was claimed: what a start makes of segments that were made for one large message.

use std::sync::Arc;

use leveret_record::Attempts;
use leveret_store::sim::{DiskImage, SimDisk};
use leveret_store::{
    Batch, Damage, Journal, JournalConfig, LaneId, MessageParts, Progress, Recovered, Store,
    StoreSabotage,
};

use crate::support::tiny;

fn open(image: &DiskImage, config: &JournalConfig) -> Recovered {
    Journal::open(Arc::new(SimDisk::from_image(image)), config.clone()).unwrap()
}

/// Claims, submits and commits a message.
fn publish(journal: &Journal, seq: u64, len: usize) {
    let mut batch = Batch::new();
    journal.claim(&mut batch, 1, len).unwrap();
    let parts = MessageParts {
        body: &[&vec![7; len]],
        ..MessageParts::default()
    };
    batch.message(&[(LaneId(1), seq)], &parts);
    journal.submit(&mut batch).unwrap();
    assert_eq!(journal.commit(), Ok(Progress::Committed));
}

fn contents(opened: Recovered) -> Vec<(u64, usize)> {
    let mut found = Vec::new();
    let replayed = opened
        .messages
        .replay(|message| found.push((message.seq, message.body.len())));
    replayed.unwrap();
    found
}

/// What a kill leaves of a store that a large message was written to, and its messages.
fn with_large(len: usize, checkpoint: bool, cover: bool) -> (DiskImage, Vec<(u64, usize)>) {
    let disk = SimDisk::new();
    let config = tiny(StoreSabotage::None);
    let opened = Journal::open(Arc::new(disk.clone()), config).unwrap();
    let journal = opened.journal;
    let lens = [100, len, 100, len + 5_000];
    for (seq, len) in (0..).zip(lens) {
        publish(&journal, seq, len);
    }
    if checkpoint {
        journal.checkpoint().unwrap();
        publish(&journal, 4, len);
    }
    if cover {
        journal.cover().unwrap();
    }
    let lens = lens.into_iter().chain(checkpoint.then_some(len));
    (disk.image(), (0..).zip(lens).collect())
}

/// The segment of a large message is of no usual size, and longer than the message.
#[test]
fn a_segment_made_for_a_large_message_is_no_damage() {
    // As after a move to a larger disk.
    let grown = JournalConfig {
        segment_bytes: 40 << 10,
        first_segment_bytes: 20 << 10,
        start_segment_bytes: 12 << 10,
        ..tiny(StoreSabotage::None)
    };
    for len in (9_000..90_000).step_by(1_777) {
        for kind in 0..4 {
            let (mut image, expected) = with_large(len, kind & 1 != 0, kind & 2 != 0);
            for config in [
                tiny(StoreSabotage::None),
                grown.clone(),
                tiny(StoreSabotage::None),
            ] {
                let disk = SimDisk::from_image(&image);
                let opened = Journal::open(Arc::new(disk.clone()), config).unwrap();
                assert_eq!(opened.damage, Vec::<Damage>::new(), "{len} bytes, {kind}");
                image = disk.image();
                assert_eq!(contents(opened), expected, "{len} bytes, {kind}");
            }
        }
    }
}

/// Cut to whatever length, also to one that segments usually have, or its message needs.
#[test]
fn a_segment_made_for_a_large_message_that_was_cut_is_named() {
    let mut lost_some = 0;
    for kind in 0..4 {
        let (image, expected) = with_large(50_000, kind & 1 != 0, kind & 2 != 0);
        for (name, content) in &image.files {
            if !name.starts_with("journal-") {
                continue;
            }
            for len in (0..content.len()).step_by(2048) {
                let mut cut = image.clone();
                cut.files.get_mut(name).unwrap().truncate(len);
                let mut opened = open(&cut, &tiny(StoreSabotage::None));
                let damage = std::mem::take(&mut opened.damage);
                if contents(opened) != expected {
                    lost_some += 1;
                    let named = damage.iter().any(|damage| damage.file == *name);
                    assert!(named, "{name} cut to {len}, {kind}: {damage:?}");
                }
            }
        }
    }
    assert!(lost_some > 100, "{lost_some}");
}

/// Commits what was submitted, with housekeeping beside it as in the binary.
fn settle_down(journal: &Journal) {
    for _ in 0..40 {
        let progress = journal.commit().unwrap();
        while journal.housekeep().unwrap() {}
        if progress != Progress::Stalled {
            return;
        }
    }
    panic!("acknowledgements wait for space");
}

/// A disk that is full of small messages and of what others wrote; returns how many there are.
fn full_of_small_ones(disk: &SimDisk, config: &JournalConfig) -> (Journal, u64) {
    disk.set_capacity(2 << 20);
    let opened = Journal::open(Arc::new(disk.clone()), config.clone()).unwrap();
    let journal = opened.journal;
    let mut batch = Batch::new();
    let mut next = 0;
    loop {
        let (messages, bytes) = (20, 20 * 150);
        if journal.claim(&mut batch, messages, bytes).is_err() {
            while journal.housekeep().unwrap() {}
            journal.check_space().unwrap();
            if journal.claim(&mut batch, messages, bytes).is_err() {
                let files = disk.image().files;
                disk.set_capacity(files.values().map(|file| file.len() as u64).sum());
                return (journal, next);
            }
        }
        for _ in 0..messages {
            let parts = MessageParts {
                body: &[&[7; 64]],
                ..MessageParts::default()
            };
            batch.message(&[(LaneId(1), next)], &parts);
            next += 1;
        }
        journal.submit(&mut batch).unwrap();
        assert_eq!(journal.commit(), Ok(Progress::Committed));
        if next % 640 == 0 {
            while journal.housekeep().unwrap() {}
        }
    }
}

/// Whatever is acknowledged in whichever order, and delivered before: a checkpoint that has to list
/// every second message finds its place, and a turn of very many is written in parts.
#[test]
fn acknowledgements_in_any_order_progress_on_a_full_disk() {
    let config = JournalConfig {
        segment_bytes: 32 << 10,
        first_segment_bytes: 16 << 10,
        start_segment_bytes: 8 << 10,
        frame_bytes_max: 8 << 10,
        reserve_segments: 2,
        ..tiny(StoreSabotage::None)
    };
    for at_once in [1, 10, 100_000] {
        let disk = SimDisk::new();
        let (journal, count) = full_of_small_ones(&disk, &config);
        assert!(count > 5_000, "{count}");
        let mut batch = Batch::new();
        let mut left: Vec<u64> = (0..count).collect();
        for (step, first) in [(2, 0), (2, 1), (1, 0)] {
            let turn: Vec<u64> = left.iter().copied().skip(first).step_by(step).collect();
            for some in turn.chunks(at_once) {
                for seq in some {
                    let attempts = Attempts {
                        acquired: 1 + (*seq % 3) as u32,
                        failed: 0,
                    };
                    batch.returned(LaneId(1), *seq, attempts);
                    batch.settle(LaneId(1), *seq);
                }
                journal.submit(&mut batch).unwrap();
                if at_once > 1 || some.first().is_some_and(|seq| seq % 50 == 0) {
                    settle_down(&journal);
                }
            }
            settle_down(&journal);
            left.retain(|seq| turn.binary_search(seq).is_err());
            let opened = open(&disk.image(), &config);
            assert_eq!(opened.damage, []);
            let found: Vec<u64> = contents(opened).into_iter().map(|(seq, _)| seq).collect();
            assert_eq!(found, left, "{at_once} at once, {step}");
        }
    }
}

/// Messages are refused until there are segments, so these must not wait for the first message.
#[test]
fn a_start_on_a_full_disk_heals_before_anything_is_written() {
    let disk = SimDisk::new();
    let config = tiny(StoreSabotage::None);
    drop(Journal::open(Arc::new(disk.clone()), config.clone()).unwrap());
    let files = disk.image().files;
    disk.set_capacity(files.values().map(|file| file.len() as u64).sum());
    // A kill that follows leaves a tail that a start writes again in a segment of its own.
    let journal = Journal::open(Arc::new(disk.clone()), config.clone()).unwrap();
    let mut batch = Batch::new();
    batch.topology(b"a queue", Some(b"durable"));
    journal.journal.submit(&mut batch).unwrap();
    journal.journal.commit().unwrap();
    let opened = Journal::open(Arc::new(disk.clone()), config).unwrap();
    let journal = opened.journal;
    assert!(journal.admission().is_err());
    disk.set_capacity(2 << 20);
    for _ in 0..3 {
        journal.check_space().unwrap();
        while journal.housekeep().unwrap() {}
    }
    assert_eq!(journal.admission(), Ok(()));
}
