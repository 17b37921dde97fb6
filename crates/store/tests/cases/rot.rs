//! Every bit of a small store flipped in turn: detected, or in bytes that mean nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use leveret_record::Attempts;
use leveret_store::sim::{DiskImage, Rng, SimDisk};
use leveret_store::{
    Batch, Damage, Journal, JournalConfig, LaneId, MessageParts, OpenError, Store, StoreSabotage,
    Vfs,
};

use crate::support::history;
use crate::support::model::Visible;
use crate::support::tiny;

fn commit(journal: &Journal, fill: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    fill(&mut batch);
    journal.submit(&mut batch).unwrap();
    journal.commit().unwrap();
}

fn message(batch: &mut Batch, targets: &[(u32, u64)]) {
    let targets: Vec<_> = targets
        .iter()
        .map(|(lane, seq)| (LaneId(*lane), *seq))
        .collect();
    let body = [targets[0].1 as u8; 40];
    let parts = MessageParts {
        route: b"\x02ex\x03key",
        header: b"header",
        body: &[&body],
        entered_ms: Some(10),
        expiration_ms: Some(9),
        deaths: true,
    };
    batch.message(&targets, &parts);
}

/// Frames before and after a checkpoint, with everything a frame can hold.
pub(crate) fn small_store() -> DiskImage {
    let disk = SimDisk::new();
    let journal = Journal::open(Arc::new(disk.clone()), tiny(StoreSabotage::None))
        .unwrap()
        .journal;
    commit(&journal, |batch| {
        (0..3).for_each(|seq| message(batch, &[(1, seq)]));
        batch.topology(b"queue one", Some(b"durable"));
    });
    commit(&journal, |batch| message(batch, &[(1, 3), (2, 0)]));
    journal.checkpoint().unwrap();
    commit(&journal, |batch| {
        (4..7).for_each(|seq| message(batch, &[(1, seq)]));
        batch.settle(LaneId(1), 1);
        let attempts = Attempts {
            acquired: 3,
            failed: 1,
        };
        batch.returned(LaneId(1), 2, attempts);
    });
    commit(&journal, |batch| {
        batch.reset(LaneId(2), 1);
        batch.topology(b"queue two", Some(b"durable"));
    });
    journal.cover().unwrap();
    disk.image()
}

/// Opens an image; `Err` is a refusal.
pub(crate) fn open(image: &DiskImage) -> Result<(Visible, Vec<Damage>), String> {
    open_with(image, StoreSabotage::None)
}

fn open_with(image: &DiskImage, sabotage: StoreSabotage) -> Result<(Visible, Vec<Damage>), String> {
    let disk = Arc::new(SimDisk::from_image(image));
    let opened = Journal::open(Arc::clone(&disk) as _, tiny(sabotage));
    let mut opened = opened.map_err(|error| error.to_string())?;
    let damage = std::mem::take(&mut opened.damage);
    let (visible, _, _) = Visible::take(opened, &disk)?;
    Ok((visible, damage))
}

/// What is missing must be named, unless what is lost is settlements or a frame's unreadable rest.
fn judge(expected: &Visible, image: &DiskImage, radius: usize) -> Result<&'static str, String> {
    let Ok((found, damage)) = open(image) else {
        return Ok("refused");
    };
    for (key, value) in &found.messages {
        if expected
            .messages
            .get(key)
            .is_some_and(|other| other.0 != value.0)
        {
            return Err(format!("{key:?} has another body"));
        }
    }
    if found == *expected {
        return Ok(if damage.is_empty() {
            "dead"
        } else {
            "repaired"
        });
    }
    if damage.is_empty() {
        return Err(format!("unnoticed: {}", expected.difference(&found)));
    }
    let found_keys: BTreeSet<_> = found.messages.keys().collect();
    let missing = expected
        .messages
        .keys()
        .filter(|key| !found_keys.contains(key))
        .count();
    if missing > radius {
        return Err(format!("{missing} messages for one bit: {damage:?}"));
    }
    Ok("named")
}

#[test]
fn every_bit_is_checked_or_means_nothing() {
    let image = small_store();
    let (expected, damage) = open(&image).unwrap();
    assert_eq!((expected.messages.len(), damage.len()), (6, 0));
    let mut counts = std::collections::BTreeMap::new();
    for (name, content) in &image.files {
        for bit in 0..content.len() * 8 {
            // Of what was never written a few bits will do.
            let around = &content[bit / 512 * 64..][..64.min(content.len() - bit / 512 * 64)];
            if around.iter().all(|byte| *byte == 0) && bit % 509 != 0 {
                continue;
            }
            let mut flipped = image.clone();
            flipped.files.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
            match judge(&expected, &flipped, 4) {
                Ok(verdict) => *counts.entry((name.clone(), verdict)).or_insert(0) += 1,
                Err(wrong) => panic!("{name} bit {bit}: {wrong}"),
            }
        }
    }
    println!("{counts:?}");
    let total = |verdict| {
        counts
            .iter()
            .filter(|((_, v), _)| *v == verdict)
            .map(|(_, n)| n)
            .sum()
    };
    let (named, repaired, refused): (i32, i32, i32) =
        (total("named"), total("repaired"), total("refused"));
    assert!(
        named > 1_000 && repaired > 1_000 && refused > 100,
        "{counts:?}"
    );
}

/// Either copy of FORMAT may rot: the other one is enough, and the next rot finds two again.
#[test]
fn an_open_repairs_a_rotten_copy_of_the_format() {
    let image = small_store();
    let whole = &image.files["FORMAT"];
    for at in [0, 9, 20, 47, 4096, 4100, 4143] {
        let mut rotten = image.clone();
        rotten.files.get_mut("FORMAT").unwrap()[at] ^= 16;
        let disk = SimDisk::from_image(&rotten);
        for is_first in [true, false] {
            let opened = Journal::open(Arc::new(disk.clone()), tiny(StoreSabotage::None)).unwrap();
            assert_eq!(opened.format_repaired, is_first, "byte {at}");
            assert!(opened.damage.is_empty(), "{:?}", opened.damage);
            assert_eq!(&disk.image().files["FORMAT"], whole, "byte {at}");
        }
    }
}

/// The same at random places of stores with a past: seals, recycled segments, several epochs.
#[test]
fn a_flipped_bit_in_a_used_store_is_not_unnoticed() {
    let mut rng = Rng::new(3);
    for seed in 0..60 {
        let mut points = history::play(seed, 100, &tiny(StoreSabotage::None), None).points;
        while points.advance() {}
        let disk = SimDisk::from_image(&points.keep_all());
        let journal = Journal::open(Arc::new(disk.clone()), tiny(StoreSabotage::None))
            .unwrap()
            .journal;
        commit(&journal, |batch| message(batch, &[(700, 0)]));
        journal.cover().unwrap();
        let image = disk.image();
        let expected = open(&image).unwrap().0;
        for _ in 0..150 {
            let mut flipped = image.clone();
            let at = rng.below(flipped.files.len() as u64) as usize;
            let content = flipped.files.values_mut().nth(at).unwrap();
            if content.is_empty() {
                continue;
            }
            let bit = rng.below(content.len() as u64 * 8) as usize;
            content[bit / 8] ^= 1 << (bit % 8);
            if let Err(wrong) = judge(&expected, &flipped, usize::MAX) {
                panic!("seed {seed}, file {at} bit {bit}: {wrong}");
            }
        }
    }
}

/// A sector rots in a frame after the last checkpoint, and with it a declaration that later frames
/// rely on: nothing is opened, and nothing is changed.
#[test]
fn rot_that_hides_a_declaration_opens_nothing() {
    let disk = SimDisk::new();
    let open = |config| Journal::open(Arc::new(disk.clone()), config);
    let journal = open(tiny(StoreSabotage::None)).unwrap().journal;
    let at = disk.image().files["journal-000000"].len();
    commit(&journal, |batch| {
        batch.topology(b"lane 1", Some(b"durable"))
    });
    commit(&journal, |batch| message(batch, &[(1, 0)]));
    journal.cover().unwrap();
    drop(journal);
    let file = disk.open("journal-000000").unwrap();
    let rotten = (1..at / 4096).find(|block| {
        let mut bytes = vec![0; 4096];
        file.read_at(*block as u64 * 4096, &mut bytes).unwrap();
        bytes.windows(6).any(|window| window == b"lane 1")
    });
    // Header and record: nothing tells what was there.
    let rotten = rotten.expect("the declaration is there") as u64 * 4096;
    file.write_at(rotten, &[0; 512]).unwrap();
    let before = disk.image();
    let config = JournalConfig {
        missing: Some(|topology, lanes| {
            let lost = lanes
                .iter()
                .find(|lane| !topology.contains_key(format!("lane {}", lane.0).as_bytes()));
            lost.map(|lane| format!("lane {}", lane.0))
        }),
        ..tiny(StoreSabotage::None)
    };
    let refused = open(config).err();
    assert!(
        matches!(&refused, Some(OpenError::Incomplete { missing, .. }) if missing == "lane 1"),
        "{refused:?}"
    );
    assert_eq!(disk.image(), before);
    // Without a gap nobody asks: the broker has a rule of its own for a lane without a queue.
    assert!(open(tiny(StoreSabotage::None)).is_ok());
}

/// Confirmed messages in several segments, after a checkpoint and before any other.
fn long_tail() -> (DiskImage, Visible) {
    tail_with(|_| {})
}

/// The same, with something done at the end.
fn tail_with(end: impl FnOnce(&Journal)) -> (DiskImage, Visible) {
    let disk = SimDisk::new();
    let journal = Journal::open(Arc::new(disk.clone()), tiny(StoreSabotage::None))
        .unwrap()
        .journal;
    for seq in 0..20 {
        commit(&journal, |batch| message(batch, &[(1, seq)]));
        while journal.housekeep().unwrap() {}
    }
    end(&journal);
    journal.cover().unwrap();
    let image = disk.image();
    let (expected, damage) = open(&image).unwrap();
    assert!(damage.is_empty(), "{damage:?}");
    (image, expected)
}

fn segments(image: &DiskImage) -> Vec<String> {
    let names = image.files.keys();
    let names = names.filter(|name| name.starts_with("journal-"));
    names.cloned().collect()
}

/// A segment is as long as it was made, so one that is shorter has lost what was there.
#[test]
fn a_segment_that_was_cut_off_is_named_wherever_it_was_cut() {
    let (image, expected) = long_tail();
    let mut lost_some = 0;
    for name in segments(&image) {
        for len in (0..image.files[&name].len()).step_by(1024) {
            let mut cut = image.clone();
            cut.files.get_mut(&name).unwrap().truncate(len);
            let (found, damage) = open(&cut).unwrap();
            if found != expected {
                lost_some += 1;
                assert!(!damage.is_empty(), "{name} cut to {len}");
                assert!(
                    damage.iter().any(|damage| damage.file == name),
                    "{damage:?}"
                );
            }
        }
    }
    assert!(lost_some > 20, "{lost_some}");
}

/// What the last checkpoint knew to be in a segment is named message by message, whatever is left
/// of the file.
#[test]
fn what_a_checkpoint_knew_of_a_cut_segment_is_named_by_queue_and_number() {
    let (image, expected) = tail_with(|journal| journal.checkpoint().unwrap());
    let mut lost_some = 0;
    for name in segments(&image) {
        for len in (0..image.files[&name].len()).step_by(1024) {
            let mut cut = image.clone();
            cut.files.get_mut(&name).unwrap().truncate(len);
            let (found, damage) = open(&cut).unwrap();
            let left: BTreeSet<_> = found.messages.keys().collect();
            let missing = expected.messages.keys().filter(|key| !left.contains(key));
            let missing: Vec<_> = missing.copied().collect();
            let ranges = damage.iter().flat_map(|damage| &damage.lost);
            let named = ranges.flat_map(|(lane, from, to)| (*from..*to).map(|seq| (lane.0, seq)));
            let mut named: Vec<_> = named.collect();
            named.sort_unstable();
            assert_eq!(named, missing, "{name} cut to {len}: {damage:?}");
            lost_some += missing.len();
        }
    }
    assert!(lost_some > 20, "{lost_some}");
}

/// What is lost without a word when one segment after the other is lost, or overwritten by each of
/// the others and by zeros: names of the segments, and numbers of the messages.
fn lost_unseen(image: &DiskImage, expected: &Visible) -> BTreeSet<(String, Vec<u64>)> {
    let names = segments(image);
    let (mut lost_some, mut unseen) = (0, BTreeSet::new());
    for name in &names {
        let zeros = vec![0; image.files[name].len()];
        let others = names.iter().map(|other| image.files.get(other).cloned());
        for other in others.chain([Some(zeros), None]) {
            let mut copied = image.clone();
            let is_zero = |bytes: &Vec<u8>| bytes.iter().all(|byte| *byte == 0);
            let is_excused = other.as_ref().is_some_and(is_zero);
            match other {
                Some(other) => copied.files.insert(name.clone(), other),
                None => copied.files.remove(name),
            };
            let (found, damage) = open(&copied).unwrap();
            if &found == expected {
                continue;
            }
            lost_some += 1;
            if damage.is_empty() {
                assert!(is_excused, "{name}: {}", expected.difference(&found));
                let left = |key: &&(u32, u64)| !found.messages.contains_key(key);
                let lost = expected.messages.keys().filter(left);
                unseen.insert((name.clone(), lost.map(|(_, seq)| *seq).collect()));
            }
        }
    }
    assert!(lost_some > 4, "{lost_some}");
    unseen
}

/// A file copied over another one, or lost, has taken what was in it along. Zeros are what a
/// segment is in which nothing was written yet: they can be told apart as soon as a checkpoint or
/// a frame of a later segment knows better, so in all segments but the one that is written.
#[test]
fn a_segment_that_is_a_copy_or_missing_is_named() {
    let (image, expected) = long_tail();
    let unseen = lost_unseen(&image, &expected);
    let [(written, lost)] = &*Vec::from_iter(unseen) else {
        panic!("one segment is written");
    };
    // The last messages, and no others.
    let first = *lost.first().unwrap();
    assert_eq!(lost, &(first..20).collect::<Vec<_>>());
    // A checkpoint while it is written tells, whatever comes then.
    let (known, expected) = tail_with(|journal| journal.checkpoint().unwrap());
    assert_eq!(lost_unseen(&known, &expected), BTreeSet::new());
    // So does the next segment's first frame.
    let (longer, expected) = tail_with(|journal| {
        commit(journal, |batch| batch.settle(LaneId(1), 0));
        (0..8).for_each(|_| commit(journal, |batch| batch.settle(LaneId(1), 1)));
    });
    let unseen = lost_unseen(&longer, &expected);
    assert!(unseen.iter().all(|(name, _)| name != written), "{unseen:?}");
}

/// A journal that ends at the first bad frame loses confirmed messages without a word.
#[test]
fn truncation_at_rot_would_be_noticed() {
    let image = small_store();
    let (expected, _) = open(&image).unwrap();
    let unnoticed = (0..12 << 10).any(|byte: usize| {
        let mut flipped = image.clone();
        flipped.files.get_mut("journal-000005").unwrap()[byte] ^= 1;
        let opened = open_with(&flipped, StoreSabotage::TruncateAtRot);
        opened.is_ok_and(|(found, damage)| damage.is_empty() && found != expected)
    });
    assert!(unnoticed);
}
