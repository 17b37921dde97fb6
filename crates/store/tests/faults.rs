//! The disk fails at every call in turn, or is full: fail-stop or patience, and nothing lost.

mod support;

use std::sync::Arc;

use leveret_store::sim::{CrashPoints, Fault, Image, SimDisk};
use leveret_store::{
    Config, DiskError, Journal, LaneId, MessageParts, Progress, Sabotage, Scratch, Store,
    StoreRefusal,
};

use support::history::{Played, play_with_fault};
use support::model::Visible;
use support::tiny;

/// Calls of a history of this many steps, about.
const STEPS: u64 = 60;
const CALLS: u64 = 250;

/// What is left is one of the states that may be.
fn check(played: &Played, image: &Image, config: &Config) -> Result<(), String> {
    let disk = Arc::new(SimDisk::from_image(image));
    let opened = Journal::open(disk, config.clone()).map_err(|error| error.to_string())?;
    let (found, _, _) = Visible::take(opened)?;
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

fn after_the_fault(points: &CrashPoints) -> [Image; 2] {
    [points.keep_all(), points.lose_all()]
}

#[test]
fn an_io_error_at_any_call_stops_the_journal_and_loses_nothing() {
    let config = tiny(Sabotage::None);
    let mut stopped = 0;
    for seed in 0..4 {
        for at in 0..CALLS {
            let error = DiskError::Failed("injected".to_owned());
            let fault = Fault {
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
    let config = tiny(Sabotage::None);
    for seed in 0..4 {
        for at in 0..CALLS {
            let fault = Fault {
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

fn publish(journal: &Journal, seq: u64) {
    let mut scratch = Scratch::new();
    let parts = MessageParts {
        body: &[&[7; 1_000]],
        ..MessageParts::default()
    };
    scratch.message(&[(LaneId(1), seq)], &parts);
    journal.submit(&mut scratch).unwrap();
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
        let mut scratch = Scratch::new();
        for seq in first..next {
            scratch.settle(LaneId(1), seq);
            journal.submit(&mut scratch).unwrap();
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
fn small_disk(floor: u64) -> (SimDisk, Config) {
    let disk = SimDisk::new();
    disk.set_capacity(400 << 10);
    let config = Config {
        disk_free_min: floor,
        window_bytes: 1 << 30,
        ..tiny(Sabotage::None)
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
    let config = Config {
        disk_free_min: 24 << 10,
        ..tiny(Sabotage::None)
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
