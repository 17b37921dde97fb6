//! What is said of a store that is only looked at, against what an open makes of it.

use std::sync::Arc;

use leveret_store::sim::{DiskImage, Rng, SimDisk};
use leveret_store::{Journal, OpenError, StoreContents, StoreSabotage, Vfs};

use crate::rot::{open, small_store};
use crate::support::model::Visible;
use crate::support::{history, tiny};

/// Looks at an image; nothing may be written.
fn inspect(image: &DiskImage) -> Result<StoreContents, OpenError> {
    let disk = SimDisk::from_image(image);
    let inspected = Journal::inspect(&disk, &tiny(StoreSabotage::None));
    assert_eq!(disk.changes(), 0, "something was written");
    inspected
}

/// What is in an inspected store, by way of a new one with copies of its run files.
fn salvaged(inspected: StoreContents, image: &DiskImage) -> Visible {
    let (disk, chunks) = (SimDisk::new(), inspected.moved.chunks());
    let opened = Journal::open(Arc::new(disk.clone()), tiny(StoreSabotage::None)).unwrap();
    for (name, content) in image
        .files
        .iter()
        .filter(|(name, _)| name.starts_with("run-"))
    {
        disk.create(name).unwrap().write_at(0, content).unwrap();
    }
    inspected.salvage_to(&opened.journal, &chunks).unwrap();
    let (visible, damage) = open(&disk.image()).unwrap();
    assert!(damage.is_empty(), "{damage:?}");
    visible
}

/// One checkpoint of a store that was saved rots: the other one says the same.
#[test]
fn what_was_saved_is_there_without_either_checkpoint() {
    let histories = (0..20).map(|seed| {
        let mut points = history::play(seed, 100, &tiny(StoreSabotage::None), None).points;
        while points.advance() {}
        points.keep_all()
    });
    let with_chunks = histories.map(|image| (inspect(&image).unwrap(), image));
    let mut with_chunks = with_chunks.filter(|(it, _)| it.moved.chunks().len() > 2);
    let (inspected, image) = with_chunks.next().expect("messages are moved");
    let (chunks, disk) = (inspected.moved.chunks(), SimDisk::new());
    for (name, content) in image
        .files
        .iter()
        .filter(|(name, _)| name.starts_with("run-"))
    {
        disk.create(name).unwrap().write_at(0, content).unwrap();
    }
    let opened = Journal::open(Arc::new(disk.clone()), tiny(StoreSabotage::None)).unwrap();
    inspected.salvage_to(&opened.journal, &chunks).unwrap();
    let (visible, _) = open(&image).unwrap();
    for name in ["checkpoint.A", "checkpoint.B"] {
        let mut image = disk.image();
        image.files.get_mut(name).unwrap().fill(0);
        assert_eq!(open(&image), Ok((visible.clone(), Vec::new())), "{name}");
    }
}

/// If a look finds nothing wrong, an open must find all; gives whether something was wrong.
fn is_wrong(expected: &Visible, image: &DiskImage) -> Result<bool, String> {
    match inspect(image) {
        Err(_) => Ok(true),
        Ok(inspected) if !inspected.findings.is_empty() => Ok(true),
        Ok(_) => {
            let (found, damage) = open(image)?;
            if !damage.is_empty() {
                return Err(format!("not found: {damage:?}"));
            }
            if found != *expected {
                return Err(format!("not found: {}", expected.difference(&found)));
            }
            Ok(false)
        }
    }
}

#[test]
fn every_flipped_byte_is_found_or_harmless() {
    let image = small_store();
    let (expected, _) = open(&image).unwrap();
    assert_eq!(is_wrong(&expected, &image), Ok(false));
    let (mut wrong, mut harmless) = (0, 0);
    for (name, content) in &image.files {
        for at in 0..content.len() {
            let mut flipped = image.clone();
            flipped.files.get_mut(name).unwrap()[at] ^= 1 << (at % 8);
            match is_wrong(&expected, &flipped) {
                Ok(true) => wrong += 1,
                Ok(false) => harmless += 1,
                Err(reason) => panic!("{name} byte {at}: {reason}"),
            }
        }
    }
    // What is harmless was never written, or belongs to a checkpoint of which there is another.
    assert!(wrong > 1_000 && harmless > wrong, "{wrong} {harmless}");
}

/// Stores with a past, wherever they were killed: nothing is wrong, and all is there.
#[test]
fn a_killed_store_is_found_well_and_whole() {
    let mut rng = Rng::new(11);
    let mut seen = 0;
    for seed in 0..30 {
        let mut points = history::play(seed, 80, &tiny(StoreSabotage::None), None).points;
        while points.advance() {
            if !rng.one_in(50) {
                continue;
            }
            for image in [
                points.keep_all(),
                points.lose_all(),
                points.lose_some(&mut rng),
            ] {
                let Ok((expected, damage)) = open(&image) else {
                    // Before anything was durable there is nothing to open.
                    continue;
                };
                assert!(damage.is_empty(), "seed {seed}: {damage:?}");
                let inspected = match inspect(&image) {
                    Err(OpenError::NoStore) => continue,
                    inspected => inspected.unwrap(),
                };
                assert_eq!(inspected.findings, [], "seed {seed} at {}", points.at());
                assert_eq!(salvaged(inspected, &image), expected, "seed {seed}");
                seen += 1;
            }
        }
    }
    assert!(seen > 200, "{seen}");
}

/// Stores with a past and a flipped bit: what a look calls well an open finds whole, and what can
/// be read of the others is saved.
#[test]
fn a_flipped_bit_in_a_used_store_is_found_and_the_rest_is_saved() {
    let mut rng = Rng::new(5);
    let mut wrong = 0;
    for seed in 0..40 {
        let mut points = history::play(seed, 80, &tiny(StoreSabotage::None), None).points;
        while points.advance() {}
        let disk = SimDisk::from_image(&points.keep_all());
        let journal = Journal::open(Arc::new(disk.clone()), tiny(StoreSabotage::None))
            .unwrap()
            .journal;
        journal.cover().unwrap();
        let image = disk.image();
        let expected = open(&image).unwrap().0;
        for _ in 0..30 {
            let mut flipped = image.clone();
            let at = rng.below(flipped.files.len() as u64) as usize;
            let (name, content) = flipped.files.iter_mut().nth(at).unwrap();
            // Run files are not looked at: whoever reads a chunk has its checksum.
            if content.is_empty() || name.starts_with("run-") {
                continue;
            }
            let bit = rng.below(content.len() as u64 * 8) as usize;
            content[bit / 8] ^= 1 << (bit % 8);
            match is_wrong(&expected, &flipped) {
                Ok(is_wrong) => wrong += i32::from(is_wrong),
                Err(reason) => panic!("seed {seed}, file {at} bit {bit}: {reason}"),
            }
            if let (Ok(inspected), Ok((opened, _))) = (inspect(&flipped), open(&flipped)) {
                assert_eq!(
                    salvaged(inspected, &flipped),
                    opened,
                    "seed {seed}, file {at} bit {bit}"
                );
            }
        }
    }
    assert!(wrong > 30, "{wrong}");
}

#[test]
fn what_is_no_store_is_said_to_be_none() {
    let empty = DiskImage::default();
    assert!(matches!(inspect(&empty), Err(OpenError::NoStore)));
    let mut image = small_store();
    image.files.remove("FORMAT");
    assert!(matches!(inspect(&image), Err(OpenError::NoFormat)));
}
