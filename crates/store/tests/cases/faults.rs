//! The disk fails at every call in turn, or is full: fail-stop or patience, and nothing lost.

use std::sync::Arc;

use leveret_store::sim::{CrashPoints, DiskFault, DiskImage, SimDisk};
use leveret_store::{
    Batch, DiskError, Journal, JournalConfig, LaneId, MessageParts, OnCorruption, OpenError,
    Progress, Store, StoreRefusal, StoreSabotage,
};

use crate::support::history::{Played, play_with_fault};
use crate::support::model::Visible;
use crate::support::tiny;

/// Calls of a history of this many steps, about.
const STEPS: u64 = 60;
const CALLS: u64 = 250;

/// What is left is one of the states that may be.
fn check(played: &Played, image: &DiskImage, config: &JournalConfig) -> Result<(), String> {
    let disk = Arc::new(SimDisk::from_image(image));
    let opened = Journal::open(Arc::clone(&disk) as _, config.clone());
    let opened = opened.map_err(|error| error.to_string())?;
    let (found, _, _) = Visible::take(opened, &disk)?;
    let allowed = &played.marks.last().ok_or("no mark")?.allowed;
    let states = allowed.iter().filter_map(|state| played.states.get(*state));
    let differences: Vec<_> = states
        .map(|state| state.visible(&found).difference(&found))
        .collect();
    if differences.iter().all(|difference| !difference.is_empty()) {
        return Err(differences.join(" |"));
    }
    Ok(())
}

fn after_the_fault(points: &CrashPoints) -> [DiskImage; 2] {
    [points.keep_all(), points.lose_all()]
}

#[test]
fn an_io_error_at_any_call_stops_the_journal_and_loses_nothing() {
    let config = tiny(StoreSabotage::None);
    let mut stopped = 0;
    for seed in 0..4 {
        for at in 0..CALLS {
            let error = DiskError::Failed("injected".to_owned());
            let fault = DiskFault {
                at,
                for_ever: false,
                error,
            };
            let played = play_with_fault(seed, STEPS, &config, fault);
            stopped += u32::from(played.violation.is_some());
            assert_ne!(
                played.violation.as_deref(),
                Some("announced after a failure")
            );
            for image in after_the_fault(&played.points) {
                let checked = check(&played, &image, &config);
                assert_eq!(
                    checked,
                    Ok(()),
                    "seed {seed}, call {at}, {:?}",
                    played.violation
                );
            }
        }
    }
    assert!(stopped > 100, "only {stopped} faults were met");
}

#[test]
fn no_space_at_any_call_stops_nothing() {
    let config = tiny(StoreSabotage::None);
    for seed in 0..4 {
        for at in 0..CALLS {
            let fault = DiskFault {
                at,
                for_ever: false,
                error: DiskError::NoSpace,
            };
            let played = play_with_fault(seed, STEPS, &config, fault);
            let violation = played.violation.as_deref();
            let excused =
                violation.is_none_or(|text| text.starts_with("the journal has failed: checkpoint"));
            assert!(excused, "seed {seed}, call {at}: {violation:?}");
            for image in after_the_fault(&played.points) {
                assert_eq!(
                    check(&played, &image, &config),
                    Ok(()),
                    "seed {seed}, call {at}"
                );
            }
        }
    }
}

/// What is unreadable is told once and left alone; the rest of the segment is emptied, and the
/// journal goes on.
#[test]
fn a_segment_that_cannot_be_read_is_not_emptied_for_ever() {
    let disk = SimDisk::new();
    let config = tiny(StoreSabotage::None);
    let open = || Journal::open(Arc::new(disk.clone()), config.clone());
    let journal = open().unwrap().journal;
    let (mut next, mut told) = (0, 0);
    for _ in 0..400 {
        publish(&journal, next);
        // Every tenth stays, so that segments must be emptied to be used again.
        if next % 10 != 0 {
            settle(&journal, next);
        }
        next += 1;
        if next == 12 {
            disk.spoil("journal-000005", 4096..8192);
            disk.spoil("journal-000005", 0..10);
        }
        assert!((0..100).any(|_| !journal.housekeep().unwrap()), "no end");
        told += journal.take_damage().len();
    }
    assert!(told > 0);
    drop(journal);
    let refuse = JournalConfig {
        on_corruption: OnCorruption::Refuse,
        ..config.clone()
    };
    let refused = Journal::open(Arc::new(disk.clone()), refuse);
    assert!(matches!(refused.err(), Some(OpenError::Damaged(_))));
    let opened = open().unwrap();
    let lost: u64 = opened
        .damage
        .iter()
        .flat_map(|damage| &damage.lost)
        .map(|(_, from, to)| to - from)
        .sum();
    assert!(lost > 0 && lost <= 2, "{:?}", opened.damage);
    let mut count = 0;
    opened.messages.replay(|_| count += 1).unwrap();
    assert_eq!(count, 40 - lost);
}

/// A checkpoint that cannot be read: the other one does.
#[test]
fn an_unreadable_checkpoint_is_one_that_is_torn() {
    let disk = SimDisk::new();
    let config = tiny(StoreSabotage::None);
    let open = || Journal::open(Arc::new(disk.clone()), config.clone());
    let journal = open().unwrap().journal;
    publish(&journal, 0);
    journal.checkpoint().unwrap();
    journal.checkpoint().unwrap();
    disk.spoil("checkpoint.A", 0..1);
    assert_eq!(open().unwrap().messages.len(), 1);
}

/// The last frame, which no later one proves, is not taken for the tail of a torn write.
#[test]
fn a_last_frame_that_cannot_be_read_is_named() {
    let disk = SimDisk::new();
    let config = tiny(StoreSabotage::None);
    let open = || Journal::open(Arc::new(disk.clone()), config.clone()).unwrap();
    publish(&open().journal, 0);
    disk.spoil("journal-000000", 4096..8192);
    assert_eq!(open().damage.len(), 1);
}

/// Steps before it succeed; it is the last one that fails, again and again.
#[test]
fn a_sync_that_always_fails_stops_housekeeping_in_the_end() {
    for (prefix, pieces) in [("checkpoint", 40), ("journal-000005", 400)] {
        let disk = SimDisk::new();
        let opened = Journal::open(Arc::new(disk.clone()), tiny(StoreSabotage::None));
        let journal = opened.unwrap().journal;
        disk.fail_syncs(Some((prefix, DiskError::Failed("injected".to_owned()))));
        let mut stopped = false;
        for seq in 0..100 {
            publish(&journal, seq);
            stopped = (0..pieces).any(|_| journal.housekeep().is_err());
            if stopped {
                break;
            }
        }
        assert!(stopped, "{prefix}");
    }
}

/// Files that nothing refers to yet: without space for them the disk is full, not broken.
#[test]
fn a_sync_that_finds_no_space_for_what_nothing_refers_to_stops_nothing() {
    for prefix in ["checkpoint", "journal-000005"] {
        let disk = SimDisk::new();
        let opened = Journal::open(Arc::new(disk.clone()), tiny(StoreSabotage::None));
        let journal = opened.unwrap().journal;
        disk.fail_syncs(Some((prefix, DiskError::NoSpace)));
        let refused = (0..100).any(|seq| {
            publish(&journal, seq);
            housekeep(&journal);
            journal.admission() == Err(StoreRefusal::DiskFull)
        });
        assert!(refused, "{prefix}");
        disk.fail_syncs(None);
        housekeep(&journal);
        housekeep(&journal);
        assert_eq!(journal.admission(), Ok(()), "{prefix} does not heal");
    }
}

/// The process has no descriptor left for as long as it likes: checkpoints go on, new segments
/// wait.
#[test]
fn no_descriptor_is_patience_not_the_end() {
    let disk = SimDisk::new();
    let opened = Journal::open(Arc::new(disk.clone()), tiny(StoreSabotage::None));
    let journal = opened.unwrap().journal;
    publish(&journal, 0);
    housekeep(&journal);
    disk.inject(Some(DiskFault {
        at: disk.calls(),
        for_ever: true,
        error: DiskError::Busy("too many open files".to_owned()),
    }));
    let mut next = 1;
    while journal.admission().is_ok() {
        publish(&journal, next);
        housekeep(&journal);
        next += 1;
        assert!(next < 2_000, "never short of segments");
    }
    journal.checkpoint().unwrap();
    disk.inject(None);
    housekeep(&journal);
    housekeep(&journal);
    assert_eq!(journal.admission(), Ok(()));
    publish(&journal, next);
}

fn settle(journal: &Journal, seq: u64) {
    let mut batch = Batch::new();
    batch.settle(LaneId(1), seq);
    journal.submit(&mut batch).unwrap();
    journal.commit().unwrap();
}

fn publish(journal: &Journal, seq: u64) {
    let mut batch = Batch::new();
    let parts = MessageParts {
        body: &[&[7; 1_000]],
        ..MessageParts::default()
    };
    batch.message(&[(LaneId(1), seq)], &parts);
    journal.submit(&mut batch).unwrap();
    assert_eq!(journal.commit(), Ok(Progress::Committed));
}

fn housekeep(journal: &Journal) {
    for _ in 0..200 {
        if !journal.housekeep().unwrap() {
            break;
        }
    }
    journal.check_space().unwrap();
}

/// Publishes until the disk is full, drains it, and sees it heal, three times.
fn fill_and_drain(journal: &Journal) -> u64 {
    let mut next = 0;
    for _ in 0..3 {
        let first = next;
        while journal.admission().is_ok() {
            publish(journal, next);
            next += 1;
            housekeep(journal);
            assert!(next - first < 2_000, "never full");
        }
        assert_eq!(journal.admission(), Err(StoreRefusal::DiskFull));
        assert!(next - first > 20, "full after {} messages", next - first);
        let mut batch = Batch::new();
        for seq in first..next {
            batch.settle(LaneId(1), seq);
            journal.submit(&mut batch).unwrap();
            let patient = (0..4).any(|_| {
                let progress = journal.commit().unwrap();
                housekeep(journal);
                progress == Progress::Committed
            });
            assert!(patient, "stuck while draining at {seq} of {first}..{next}");
        }
        housekeep(journal);
        // The timer looks again and again.
        housekeep(journal);
        assert_eq!(journal.admission(), Ok(()), "does not heal");
    }
    next
}

/// A disk on which the journal's own files are most of what there is.
fn small_disk(floor: u64) -> (SimDisk, JournalConfig) {
    let disk = SimDisk::new();
    disk.set_capacity(400 << 10);
    let config = JournalConfig {
        disk_free_min: floor,
        window_bytes: 1 << 30,
        ..tiny(StoreSabotage::None)
    };
    (disk, config)
}

#[test]
fn a_disk_that_the_journal_has_filled_itself_heals_whatever_the_floor() {
    for floor in (0..=160).step_by(8) {
        let (disk, config) = small_disk(floor << 10);
        let opened = Journal::open(Arc::new(disk), config).unwrap();
        println!("floor {floor} KiB");
        fill_and_drain(&opened.journal);
    }
}

#[test]
fn a_full_disk_refuses_drains_and_heals() {
    let disk = SimDisk::new();
    disk.set_capacity(400 << 10);
    let config = JournalConfig {
        disk_free_min: 24 << 10,
        ..tiny(StoreSabotage::None)
    };
    let journal = Journal::open(Arc::new(disk.clone()), config.clone())
        .unwrap()
        .journal;
    let mut next = fill_and_drain(&journal);
    // A restart on a full disk, too.
    while journal.admission().is_ok() {
        publish(&journal, next);
        next += 1;
        housekeep(&journal);
    }
    drop(journal);
    disk.set_capacity(
        disk.image()
            .files
            .values()
            .map(|file| file.len() as u64)
            .sum(),
    );
    let opened = Journal::open(Arc::new(disk), config).unwrap();
    assert!(opened.messages.len() > 40);
    housekeep(&opened.journal);
    assert_eq!(opened.journal.admission(), Err(StoreRefusal::DiskFull));
}

/// Writes until not one byte is left for anybody else.
fn fill_from_outside(disk: &SimDisk) {
    let files = disk.image().files;
    disk.set_capacity(files.values().map(|file| file.len() as u64).sum());
}

/// What a process leaves that is killed while it waits for work: the last frame is not proven.
#[test]
fn a_full_disk_lets_every_start_begin() {
    for size in [100, 5_000, 14_000, 60_000] {
        let (disk, config) = small_disk(0);
        let open = || Journal::open(Arc::new(disk.clone()), config.clone());
        let mut journal = open().unwrap().journal;
        let mut next = 0;
        let mut batch = Batch::new();
        for round in 0..30 {
            let parts = MessageParts {
                body: &[&vec![7; size]],
                ..MessageParts::default()
            };
            disk.set_capacity(400 << 10);
            if journal.admission().is_ok() {
                batch.message(&[(LaneId(1), next)], &parts);
                journal.submit(&mut batch).unwrap();
                if journal.commit().unwrap() == Progress::Committed {
                    next += 1;
                }
            }
            if round % 3 == 0 {
                housekeep(&journal);
            }
            fill_from_outside(&disk);
            for restart in 0..4 {
                let opened = open().map_err(|error| error.to_string());
                let opened = opened.unwrap_or_else(|error| {
                    panic!("{size} bytes, round {round}, start {restart}: {error}")
                });
                assert!(opened.damage.is_empty(), "{:?}", opened.damage);
                assert_eq!(opened.messages.len() as u64, next, "round {round}");
                journal = opened.journal;
            }
        }
        assert!(next > 1, "{size} bytes: nothing was ever published");
    }
}
