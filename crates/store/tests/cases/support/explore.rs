//! Crashes a history everywhere, recovers, and compares with what must have survived.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_store::sim::{CrashPoints, DiskImage, Rng, SimDisk};
use leveret_store::{Batch, Journal, JournalConfig, LaneId, MessageParts, Store, StoreSabotage};

use parking_lot::Mutex;

use super::history::{self, Mark, Played};
use super::model::{Model, Visible};
use super::runs::Runs;
use super::tiny_for;

/// What an exploration found.
#[derive(Default)]
pub(crate) struct Report {
    /// Images seen, by fingerprint.
    pub(crate) seen: HashSet<u64>,
    /// Histories played.
    pub(crate) histories: u64,
    /// The first violation, with the seed that shows it.
    pub(crate) violation: Option<String>,
}

/// Explores histories from `seed` on until `states` distinct crash states were checked or one is
/// wrong.
pub(crate) fn explore(
    seed: u64,
    states: usize,
    sabotage: StoreSabotage,
    deaf: Option<&str>,
) -> Report {
    let mut report = Report::default();
    for seed in seed.. {
        if report.seen.len() >= states || report.violation.is_some() {
            break;
        }
        report.add(look_at(seed, sabotage, deaf));
    }
    report
}

/// The same with so many threads. A seed shows the same whatever was looked at before.
pub(crate) fn explore_together(threads: usize, seed: u64, states: usize) -> Report {
    let (next, report) = (AtomicU64::new(seed), Mutex::new(Report::default()));
    let work = || {
        loop {
            let so_far = report.lock();
            if so_far.seen.len() >= states || so_far.violation.is_some() {
                return;
            }
            drop(so_far);
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let one = look_at(seed, StoreSabotage::None, None);
            report.lock().add(one);
        }
    };
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    report.into_inner()
}

impl Report {
    fn add(&mut self, other: Self) {
        self.seen.extend(other.seen);
        self.histories += other.histories;
        self.violation = self.violation.take().or(other.violation);
    }
}

/// Explores one history.
fn look_at(seed: u64, sabotage: StoreSabotage, deaf: Option<&str>) -> Report {
    let mut seen = HashSet::new();
    let config = tiny_for(sabotage, seed);
    let played = history::play(seed, 120, &config, deaf);
    let found = check_history(played, seed, &config, &mut seen);
    Report {
        seen,
        histories: 1,
        violation: found
            .err()
            .map(|violation| format!("seed {seed}: {violation}")),
    }
}

fn check_history(
    played: Played,
    seed: u64,
    config: &JournalConfig,
    seen: &mut HashSet<u64>,
) -> Result<(), String> {
    let Played {
        mut points,
        marks,
        states,
        violation,
    } = played;
    if let Some(violation) = violation {
        return Err(violation);
    }
    let mut rng = Rng::new(seed ^ 0xdead);
    let mut mark = 0;
    loop {
        while marks
            .get(mark + 1)
            .is_some_and(|next| next.changes <= points.at())
        {
            mark += 1;
        }
        let allowed: Vec<&Model> = marks[mark]
            .allowed
            .iter()
            .filter_map(|state| states.get(*state))
            .collect();
        for image in images(&points, &mut rng) {
            if !seen.insert(image.fingerprint()) {
                continue;
            }
            check_image(&image, &allowed, config, (&mut rng, seen))
                .map_err(|violation| describe(&points, &marks[mark], &violation))?;
        }
        if !points.advance() {
            return Ok(());
        }
    }
}

fn describe(points: &CrashPoints, mark: &Mark, violation: &str) -> String {
    format!(
        "crash after change {} ({:?}): {violation}",
        points.at(),
        mark.allowed
    )
}

fn images(points: &CrashPoints, rng: &mut Rng) -> Vec<DiskImage> {
    let mut images = vec![points.lose_all()];
    let at_stake = points.at_stake();
    if at_stake > 0 {
        images.push(points.keep_all());
        for _ in 0..at_stake.min(6) {
            images.push(points.lose_some(rng));
        }
    }
    images
}

fn check_image(
    image: &DiskImage,
    allowed: &[&Model],
    config: &JournalConfig,
    (rng, seen): (&mut Rng, &mut HashSet<u64>),
) -> Result<(), String> {
    let disk = SimDisk::from_image(image);
    let (visible, journal) = recover(&disk, allowed, config)?;
    match rng.below(6) {
        0 => crash_in_recovery(&disk, &visible, config, (rng, seen))?,
        1 => go_on(&disk, journal, (visible, config))?,
        2 => lose_a_checkpoint(image, (&visible, allowed), config)?,
        _ => {}
    }
    Ok(())
}

/// Opens the store and compares it with the states that may be left.
pub(crate) fn recover(
    disk: &SimDisk,
    allowed: &[&Model],
    config: &JournalConfig,
) -> Result<(Visible, Journal), String> {
    let opened = Journal::open(Arc::new(disk.clone()), config.clone());
    let opened = opened.map_err(|error| error.to_string())?;
    if let Some(damage) = opened.damage.first() {
        return Err(format!("a crash looks like damage: {damage}"));
    }
    // Files that nothing refers to go at once, as when a broker starts.
    let removed = Runs::of(&opened.moved, disk);
    removed.map_err(|error| error.to_string())?;
    let (visible, journal, next) = Visible::take(opened, disk)?;
    let differences: Vec<String> = allowed
        .iter()
        .map(|model| difference(model, &visible, &next))
        .collect();
    if differences.iter().all(|difference| !difference.is_empty()) {
        return Err(format!("wrong state: {}", differences.join(" |")));
    }
    Ok((visible, journal))
}

/// What a store shows that this model does not, or the reverse; empty if they agree.
fn difference(model: &Model, found: &Visible, next: &BTreeMap<u32, u64>) -> String {
    let mut text = model.visible(found).difference(found);
    for lane in model.lanes.keys() {
        let (at, least) = (next.get(lane).copied().unwrap_or(0), model.next_min(*lane));
        if at < least {
            text += &format!(" lane {lane} goes on at {at}, {least} is taken");
        }
    }
    text
}

/// Recovery itself is interrupted; the second one must find the same.
fn crash_in_recovery(
    disk: &SimDisk,
    expected: &Visible,
    config: &JournalConfig,
    (rng, seen): (&mut Rng, &mut HashSet<u64>),
) -> Result<(), String> {
    let mut points = disk.crash_points();
    loop {
        for image in images(&points, rng) {
            if seen.insert(image.fingerprint()) {
                let (found, _) = reopen(&SimDisk::from_image(&image), config)
                    .map_err(|error| format!("second recovery: {error}"))?;
                if found != *expected {
                    let difference = expected.difference(&found);
                    return Err(format!("second recovery differs: {difference}"));
                }
            }
        }
        if !points.advance() {
            return Ok(());
        }
    }
}

fn reopen(disk: &SimDisk, config: &JournalConfig) -> Result<(Visible, Journal), String> {
    let opened = Journal::open(Arc::new(disk.clone()), config.clone());
    let opened = opened.map_err(|error| error.to_string())?;
    let (visible, journal, _) = Visible::take(opened, disk)?;
    Ok((visible, journal))
}

/// Life goes on after a crash: a few commits, a power cut, and everything is there.
fn go_on(
    disk: &SimDisk,
    journal: Journal,
    (mut expected, config): (Visible, &JournalConfig),
) -> Result<(), String> {
    let mut batch = Batch::new();
    for seq in 0..3 {
        let parts = MessageParts {
            route: b"\x02ex\x03key",
            header: b"header",
            body: &[b"after"],
            ..MessageParts::default()
        };
        batch.message(&[(LaneId(900), seq)], &parts);
        expected
            .messages
            .insert((900, seq), (b"after".to_vec(), (None, None, false), 0));
        if let Some((lane, settled)) = expected.messages.keys().next().copied() {
            expected.messages.remove(&(lane, settled));
            batch.settle(LaneId(lane), settled);
        }
        journal
            .submit(&mut batch)
            .map_err(|refusal| format!("{refusal:?}"))?;
        journal.commit().map_err(|error| error.to_string())?;
        for _ in 0..8 {
            journal.housekeep().map_err(|error| error.to_string())?;
        }
    }
    let mut points = disk.crash_points();
    while points.advance() {}
    let (found, _) = reopen(&SimDisk::from_image(&points.lose_all()), config)
        .map_err(|error| format!("after going on: {error}"))?;
    if found != expected {
        return Err(format!("after going on: {}", expected.difference(&found)));
    }
    Ok(())
}

/// One of two good checkpoints rots: the other must do. It shows the same; only a count that came
/// before its message may be known to one and forgotten by the other, if the states that may be
/// left say so.
fn lose_a_checkpoint(
    image: &DiskImage,
    (expected, allowed): (&Visible, &[&Model]),
    config: &JournalConfig,
) -> Result<(), String> {
    let names = ["checkpoint.A", "checkpoint.B"];
    if !names
        .iter()
        .all(|name| image.files.get(*name).is_some_and(|file| is_intact(file)))
    {
        return Ok(());
    }
    for name in names {
        let mut image = image.clone();
        if let Some(byte) = image.files.get_mut(name).and_then(|file| file.get_mut(40)) {
            *byte ^= 1;
        }
        let (found, _) = reopen(&SimDisk::from_image(&image), config)
            .map_err(|error| format!("without {name}: {error}"))?;
        let may_be = allowed.iter().any(|model| model.visible(&found) == found);
        if !may_be || !expected.is_but_for_counts(&found) {
            return Err(format!("without {name}: {}", expected.difference(&found)));
        }
    }
    Ok(())
}

/// Whether a checkpoint file is whole, by its checksum.
fn is_intact(file: &[u8]) -> bool {
    let word = |at: usize| {
        file.get(at..at + 4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    };
    let len = word(24).unwrap_or(0) as usize + 32;
    file.get(8..len)
        .is_some_and(|bytes| Some(crc32c::crc32c(bytes)) == word(4))
}
