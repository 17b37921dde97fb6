//! Run files: chunks of queues that do not fit in memory, one behind the other as they come.
//!
//! They are an extension of memory. What a store hands over to them is synced first
//! ([`Runs::sync`]) and there again after a start ([`Runs::reopen`]); everything else is no truth,
//! and gone at the next start. A run is written until it is long
//! enough, then only read; what is not needed any more is given back to the disk, and the whole
//! file with the last of it. No file is here: whoever runs the broker brings them ([`RunFiles`]).

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod sim;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use leveret_record::{Freed, FreedPart, RunFile, RunPlace, Spot};
use parking_lot::Mutex;

/// Pieces that are smaller are given back with their whole run only.
const PIECE_MIN: u64 = 64 * 1024;
/// What is rewritten leaves one part in so many of what other writes leave free, and of a disk that
/// is full takes one part in so many of a run at once.
const REWRITE_PART: u64 = 4;
/// So many runs' worth is rewritten before places of before are given back.
const REWRITES_MAX: u64 = 4;

/// Why a run file could not be written or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunError {
    /// The disk is full, or has no more than it is to keep free.
    NoSpace,
    /// Not just now, as for want of a file descriptor.
    Busy(String),
    /// The system says so.
    Failed(String),
    /// What is there is not what was written.
    Corrupt,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpace => f.write_str("no space on the disk"),
            Self::Busy(text) | Self::Failed(text) => f.write_str(text),
            Self::Corrupt => f.write_str("checksum mismatch"),
        }
    }
}

/// The files, by their numbers. Nothing is synced but what is asked for.
pub trait RunFiles: Send + Sync {
    /// Writes at an offset that is the end of the file; at 0 it is made.
    ///
    /// # Errors
    /// What the disk says.
    fn write(&self, run: u64, offset: u64, bytes: &[u8]) -> Result<(), RunError>;

    /// Fills a buffer from an offset on.
    ///
    /// # Errors
    /// What the disk says.
    fn read(&self, run: u64, offset: u64, buf: &mut [u8]) -> Result<(), RunError>;

    /// Has what was written last: name, length and bytes.
    ///
    /// # Errors
    /// What the disk says: nobody can tell any more what it has.
    fn sync(&self, run: u64) -> Result<(), RunError>;

    /// How long it is, as far as the disk says.
    fn len(&self, run: u64) -> u64;

    /// Nothing is written to it any more.
    fn seal(&self, run: u64);

    /// Bytes of it are not needed any more; `false` if they cannot be given back.
    fn free(&self, run: u64, offset: u64, len: u64) -> bool;

    /// The file is not needed any more.
    fn remove(&self, run: u64);

    /// Bytes that are free on the disk.
    ///
    /// # Errors
    /// What the disk says.
    fn free_bytes(&self) -> Result<u64, RunError>;
}

/// Sizes of runs.
#[derive(Clone, Copy, Debug)]
pub struct RunsConfig {
    /// A run that is so long is not written any more.
    pub run_bytes: u64,
    /// So much stays free on the disk, until [`Runs::leave_free`] says otherwise.
    pub free_min: u64,
}

impl Default for RunsConfig {
    fn default() -> Self {
        Self {
            run_bytes: 64 << 20,
            free_min: 0,
        }
    }
}

/// What there is, and what was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunsStats {
    /// Run files.
    pub files: u64,
    /// Bytes in them that are needed.
    pub live_bytes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Writes that failed, for want of space included.
    pub write_errors: u64,
    /// Reads that failed, or gave something else than was written.
    pub read_errors: u64,
}

/// What a run takes of the disk.
#[derive(Clone, Copy, Debug, Default)]
struct RunSpace {
    /// Its length, less what was given back of it.
    there: u64,
    /// Bytes of it that somebody keeps.
    live: u64,
    /// It was told of when it had so many ([`Runs::take_sparse`]).
    told: Option<u64>,
}

impl RunSpace {
    fn is_sparse(&self) -> bool {
        let fewer = self.told.is_none_or(|told| self.live * 2 < told);
        self.live > 0 && self.live * 2 < self.there && fewer
    }
}

/// The run that is written.
#[derive(Default)]
struct Writing {
    next: u64,
    run: Option<(Arc<RunFile>, u64)>,
}

/// All run files of a broker.
pub struct Runs {
    files: Arc<dyn RunFiles>,
    run_bytes: u64,
    free_min: AtomicU64,
    freed: Arc<Freed>,
    writing: Mutex<Writing>,
    uses: Mutex<BTreeMap<u64, RunSpace>>,
    /// Runs that could not be synced once: what the disk has of them is not known.
    unsynced: Mutex<BTreeSet<u64>>,
    /// Bytes that were there at the start.
    kept: AtomicU64,
    made: AtomicU64,
    removed: AtomicU64,
    written: AtomicU64,
    read: AtomicU64,
    write_errors: AtomicU64,
    read_errors: AtomicU64,
    /// The last write failed.
    stopped: AtomicBool,
}

impl Runs {
    /// None yet.
    #[must_use]
    pub fn new(files: Arc<dyn RunFiles>, config: RunsConfig) -> Self {
        Self {
            files,
            run_bytes: config.run_bytes,
            free_min: AtomicU64::new(config.free_min),
            freed: Arc::default(),
            writing: Mutex::default(),
            uses: Mutex::default(),
            unsynced: Mutex::default(),
            kept: AtomicU64::new(0),
            made: AtomicU64::new(0),
            removed: AtomicU64::new(0),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            write_errors: AtomicU64::new(0),
            read_errors: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// From now on so much stays free on the disk.
    pub fn leave_free(&self, bytes: u64) {
        self.free_min.store(bytes, Ordering::Relaxed);
    }

    /// Writes pieces that follow each other in `bytes`, each up to one of the `ends`, at once;
    /// gives where each is.
    ///
    /// # Errors
    /// The disk has no space, or failed: none of them was written.
    pub fn write(&self, bytes: &[u8], ends: &[usize]) -> Result<Vec<Spot>, RunError> {
        let written = self.try_write(bytes, ends, self.free_min.load(Ordering::Relaxed));
        self.stopped.store(written.is_err(), Ordering::Relaxed);
        if written.is_err() {
            self.write_errors.fetch_add(1, Ordering::Relaxed);
        }
        written
    }

    /// The same for what is there already and takes less then: it may use most of what stays free
    /// otherwise, as much as [`Self::debt_max`] of it until the places of before are given back.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn rewrite(&self, bytes: &[u8], ends: &[usize]) -> Result<Vec<Spot>, RunError> {
        let free_min = self.free_min.load(Ordering::Relaxed);
        let written = self.try_write(bytes, ends, free_min / REWRITE_PART);
        if written.is_err() {
            self.write_errors.fetch_add(1, Ordering::Relaxed);
        }
        written
    }

    /// How many bytes may be there twice, for the time that it takes to give places of before back.
    #[must_use]
    pub fn debt_max(&self) -> u64 {
        let free_min = self.free_min.load(Ordering::Relaxed);
        let free = self.files.free_bytes().unwrap_or(0);
        let ample = free.saturating_sub(free_min) / REWRITE_PART;
        ample.clamp(self.run_bytes / REWRITE_PART, REWRITES_MAX * self.run_bytes)
    }

    fn try_write(
        &self,
        bytes: &[u8],
        ends: &[usize],
        free_min: u64,
    ) -> Result<Vec<Spot>, RunError> {
        let len = bytes.len() as u64;
        let free = self.files.free_bytes()?;
        if free < free_min.saturating_add(len) {
            return Err(RunError::NoSpace);
        }
        let mut writing = self.writing.lock();
        let (run, offset) = match writing.run.take() {
            Some(run) => run,
            None => {
                writing.next += 1;
                self.made.fetch_add(1, Ordering::Relaxed);
                (
                    Arc::new(RunFile::new(writing.next, Arc::clone(&self.freed))),
                    0,
                )
            }
        };
        // After a failure the run is given up: where it ends is not known.
        if let Err(error) = self.files.write(run.number(), offset, bytes) {
            self.files.seal(run.number());
            return Err(error);
        }
        let (mut spots, mut start) = (Vec::with_capacity(ends.len()), 0);
        for end in ends {
            let piece = bytes.get(start..*end).unwrap_or_default();
            let place = RunPlace {
                run: run.number(),
                offset: offset + start as u64,
                len: u32::try_from(piece.len()).unwrap_or(u32::MAX),
                checksum: crc32c::crc32c(piece),
            };
            spots.push(Spot::new(Arc::clone(&run), place));
            start = *end;
        }
        self.written.fetch_add(len, Ordering::Relaxed);
        let mut uses = self.uses.lock();
        let of_run = uses.entry(run.number()).or_default();
        (of_run.there, of_run.live) = (of_run.there + len, of_run.live + len);
        drop(uses);
        if offset + len < self.run_bytes {
            writing.run = Some((run, offset + len));
        } else {
            self.files.seal(run.number());
        }
        Ok(spots)
    }

    /// Makes what was written to a run last. After a failure it never does: a second attempt may
    /// succeed without what the first one lost.
    ///
    /// # Errors
    /// The disk failed, now or before.
    pub fn sync(&self, run: u64) -> Result<(), RunError> {
        let mut unsynced = self.unsynced.lock();
        if unsynced.contains(&run) {
            return Err(RunError::Failed("it could not be synced before".into()));
        }
        let synced = self.files.sync(run);
        if matches!(synced, Err(RunError::Failed(_) | RunError::NoSpace)) {
            unsynced.insert(run);
        }
        synced
    }

    /// Keeps places of before the start, each once. Runs from a number on were never used.
    #[must_use]
    pub fn reopen(&self, places: &[RunPlace], next_run: u64) -> Vec<Spot> {
        let mut files: BTreeMap<u64, Arc<RunFile>> = BTreeMap::new();
        let mut keep = |place: &RunPlace| {
            let new = || Arc::new(RunFile::new(place.run, Arc::clone(&self.freed)));
            let file = files.entry(place.run).or_insert_with(new);
            Spot::new(Arc::clone(file), *place)
        };
        let spots: Vec<Spot> = places.iter().map(&mut keep).collect();
        self.free_others(places);
        let bytes = places.iter().map(|place| u64::from(place.len)).sum();
        self.kept.fetch_add(bytes, Ordering::Relaxed);
        self.made.fetch_add(files.len() as u64, Ordering::Relaxed);
        let mut writing = self.writing.lock();
        writing.next = writing.next.max(next_run);
        spots
    }

    /// Has given back what these files have beside some places.
    fn free_others(&self, places: &[RunPlace]) {
        let mut sorted = places.to_vec();
        sorted.sort_unstable_by_key(|place| (place.run, place.offset));
        for of_run in sorted.chunk_by(|a, b| a.run == b.run) {
            let Some(run) = of_run.first().map(|first| first.run) else {
                continue;
            };
            let len = self.files.len(run);
            let all = RunSpace {
                there: len,
                live: len,
                told: None,
            };
            self.uses.lock().insert(run, all);
            let mut end = 0;
            for place in of_run {
                self.free_between(run, (end, place.offset));
                end = place.offset + u64::from(place.len);
            }
            self.free_between(run, (end, len));
        }
    }

    fn free_between(&self, run: u64, (from, to): (u64, u64)) {
        let mut offset = from;
        while offset < to {
            let len = u32::try_from(to - offset).unwrap_or(u32::MAX);
            self.freed.note(RunPlace {
                run,
                offset,
                len,
                checksum: 0,
            });
            offset += u64::from(len);
        }
    }

    /// Runs of which less than half is kept, and the rest cannot be given back without the whole
    /// file; each again only when much less is.
    #[must_use]
    pub fn take_sparse(&self) -> BTreeSet<u64> {
        let writing = self.writing.lock();
        let written = writing.run.as_ref().map(|(run, _)| run.number());
        let mut sparse = BTreeSet::new();
        for (run, one) in self.uses.lock().iter_mut() {
            if one.is_sparse() && Some(*run) != written {
                one.told = Some(one.live);
                sparse.insert(*run);
            }
        }
        sparse
    }

    /// Reads what is at a place.
    ///
    /// # Errors
    /// The disk failed, or what is there is not what was written.
    pub fn read(&self, place: RunPlace, buf: &mut Vec<u8>) -> Result<(), RunError> {
        self.check(place, buf)?;
        self.read.fetch_add(u64::from(place.len), Ordering::Relaxed);
        Ok(())
    }

    /// The same for somebody who does not want what is there, but to know that it is.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn check(&self, place: RunPlace, buf: &mut Vec<u8>) -> Result<(), RunError> {
        buf.clear();
        buf.resize(place.len as usize, 0);
        self.files.read(place.run, place.offset, buf)?;
        if crc32c::crc32c(buf) != place.checksum {
            return Err(RunError::Corrupt);
        }
        Ok(())
    }

    /// Counts a read that failed and was wanted.
    pub fn note_read_error(&self) {
        self.read_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives back to the disk what is not needed any more; `false` when there was nothing.
    pub fn give_back(&self) -> bool {
        let parts = self.freed.take();
        let mut pieces: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        let mut uses = self.uses.lock();
        for part in &parts {
            match part {
                FreedPart::Run(run) => {
                    pieces.remove(run);
                    uses.remove(run);
                    self.removed.fetch_add(1, Ordering::Relaxed);
                    self.files.remove(*run);
                }
                FreedPart::Bytes(place) => {
                    let of_run = pieces.entry(place.run).or_default();
                    of_run.push((place.offset, u64::from(place.len)));
                }
            }
        }
        for (run, pieces) in &mut pieces {
            let (freed, given) = self.give_pieces_back(*run, pieces);
            if let Some(one) = uses.get_mut(run) {
                one.live = one.live.saturating_sub(freed);
                one.there = one.there.saturating_sub(given);
            }
        }
        !parts.is_empty()
    }

    /// Gives pieces of one run back that are not too small; how many bytes they all had, and those.
    fn give_pieces_back(&self, run: u64, pieces: &mut [(u64, u64)]) -> (u64, u64) {
        pieces.sort_unstable();
        let (mut freed, mut given) = (0, 0);
        for together in pieces.chunk_by(|a, b| a.0 + a.1 == b.0) {
            let len = together.iter().map(|piece| piece.1).sum();
            freed += len;
            if let Some((offset, _)) = together.first()
                && len >= PIECE_MIN
                && self.files.free(run, *offset, len)
            {
                given += len;
            }
        }
        (freed, given)
    }

    /// Whether the last write failed: nothing leaves memory until one succeeds.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Bytes that were written since the start.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// What there is, and what was done.
    #[must_use]
    pub fn stats(&self) -> RunsStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RunsStats {
            files: of(&self.made).saturating_sub(of(&self.removed)),
            live_bytes: (of(&self.written) + of(&self.kept)).saturating_sub(self.freed.bytes()),
            written_bytes: of(&self.written),
            read_bytes: of(&self.read),
            write_errors: of(&self.write_errors),
            read_errors: of(&self.read_errors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimFiles;

    fn runs(run_bytes: u64) -> (Arc<SimFiles>, Runs) {
        let files = Arc::new(SimFiles::default());
        let config = RunsConfig {
            run_bytes,
            free_min: 100,
        };
        let runs = Runs::new(Arc::clone(&files) as Arc<dyn RunFiles>, config);
        (files, runs)
    }

    #[test]
    fn what_was_written_is_read_and_a_run_goes_with_the_last_of_it() {
        let (files, runs) = runs(8);
        let mut buf = Vec::new();
        let first = runs.write(b"abcdef", &[2, 6]).unwrap();
        let second = runs.write(b"ghi", &[3]).unwrap();
        let third = runs.write(b"j", &[1]).unwrap();
        for (spot, bytes) in
            first
                .iter()
                .chain(&second)
                .chain(&third)
                .zip([&b"ab"[..], b"cdef", b"ghi", b"j"])
        {
            runs.read(spot.place(), &mut buf).unwrap();
            assert_eq!(buf, bytes);
        }
        assert_eq!((runs.stats().files, runs.stats().live_bytes), (2, 10));
        drop(first);
        runs.give_back();
        assert_eq!(files.count(), 2);
        drop(second);
        assert!(runs.give_back() && !runs.give_back());
        assert_eq!(files.count(), 1, "the one that is written stays");
        assert_eq!((runs.stats().files, runs.stats().live_bytes), (1, 1));
        drop(third);
    }

    #[test]
    fn every_bit_that_flips_is_noticed() {
        let (files, runs) = runs(1 << 20);
        let spots = runs.write(b"some message", &[12]).unwrap();
        let (place, mut buf) = (spots[0].place(), Vec::new());
        for bit in 0..12 * 8 {
            files.flip(place.run, bit);
            assert_eq!(runs.read(place, &mut buf), Err(RunError::Corrupt), "{bit}");
            files.flip(place.run, bit);
        }
        assert_eq!(runs.read(place, &mut buf), Ok(()));
    }

    #[test]
    fn a_write_that_fails_gives_its_run_up_and_nothing_is_written_where_space_is_short() {
        let (files, runs) = runs(1 << 20);
        let kept = runs.write(b"one", &[3]).unwrap();
        files.fail_writes(true);
        let error = runs.write(b"two", &[3]).unwrap_err();
        assert!(matches!(error, RunError::Failed(_)) && runs.is_stopped());
        files.fail_writes(false);
        let spots = runs.write(b"three", &[5]).unwrap();
        assert_ne!(spots[0].place().run, kept[0].place().run);
        assert!(!runs.is_stopped());
        files.set_free_bytes(104);
        assert_eq!(runs.write(b"-five", &[5]).unwrap_err(), RunError::NoSpace);
        assert_eq!(runs.stats().write_errors, 2);
        let mut buf = Vec::new();
        assert_eq!(runs.read(kept[0].place(), &mut buf), Ok(()));
        assert_eq!(buf, b"one");
    }
}
