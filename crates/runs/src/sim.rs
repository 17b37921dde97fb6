//! Run files in memory, that fail when a test wants it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::{RunError, RunFiles};

/// Files that are none.
#[derive(Debug)]
pub struct SimFiles {
    files: Mutex<BTreeMap<u64, Vec<u8>>>,
    /// What a power cut leaves.
    synced: Mutex<BTreeMap<u64, Vec<u8>>>,
    /// Bytes that were given back of each.
    holes: Mutex<BTreeMap<u64, u64>>,
    fail_syncs: AtomicBool,
    fail_writes: AtomicBool,
    fail_reads: AtomicBool,
    busy: AtomicBool,
    free_bytes: AtomicU64,
}

impl Default for SimFiles {
    fn default() -> Self {
        Self {
            files: Mutex::default(),
            synced: Mutex::default(),
            holes: Mutex::default(),
            fail_syncs: AtomicBool::new(false),
            fail_writes: AtomicBool::new(false),
            fail_reads: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            free_bytes: AtomicU64::new(u64::MAX),
        }
    }
}

impl SimFiles {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.files.lock().len()
    }

    /// Bytes that they take of the disk.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let holes = self.holes.lock();
        let of = |(run, file): (&u64, &Vec<u8>)| {
            let holes = holes.get(run).copied().unwrap_or(0);
            (file.len() as u64).saturating_sub(holes)
        };
        self.files.lock().iter().map(of).sum()
    }

    /// Has writes fail, or not any more.
    pub fn fail_writes(&self, fail: bool) {
        self.fail_writes.store(fail, Ordering::Relaxed);
    }

    /// Has syncs fail, or not any more.
    pub fn fail_syncs(&self, fail: bool) {
        self.fail_syncs.store(fail, Ordering::Relaxed);
    }

    /// Cuts the power: only what was synced is left, and of that the runs that are kept.
    pub fn cut_power(&self, keep: impl Fn(u64) -> bool) {
        let mut synced = self.synced.lock();
        synced.retain(|run, _| keep(*run));
        self.files.lock().clone_from(&synced);
    }

    /// Has reads fail, or not any more.
    pub fn fail_reads(&self, fail: bool) {
        self.fail_reads.store(fail, Ordering::Relaxed);
    }

    /// Has reads fail as for want of a file descriptor, or not any more.
    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    /// Has the disk say that so much is free.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.free_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Flips a bit of a run.
    pub fn flip(&self, run: u64, bit: usize) {
        for files in [&self.files, &self.synced] {
            let mut files = files.lock();
            if let Some(byte) = files.get_mut(&run).and_then(|it| it.get_mut(bit / 8)) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }
}

fn failed() -> RunError {
    RunError::Failed("the disk fails".into())
}

impl RunFiles for SimFiles {
    fn write(&self, run: u64, offset: u64, bytes: &[u8]) -> Result<(), RunError> {
        if self.fail_writes.load(Ordering::Relaxed) {
            return Err(failed());
        }
        let mut files = self.files.lock();
        let file = files.entry(run).or_default();
        file.truncate(usize::try_from(offset).unwrap_or(usize::MAX));
        file.extend_from_slice(bytes);
        Ok(())
    }

    fn read(&self, run: u64, offset: u64, buf: &mut [u8]) -> Result<(), RunError> {
        if self.busy.load(Ordering::Relaxed) {
            return Err(RunError::Busy("too many files are open".into()));
        }
        if self.fail_reads.load(Ordering::Relaxed) {
            return Err(failed());
        }
        let files = self.files.lock();
        let file = files.get(&run).ok_or_else(failed)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = file.get(from..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(bytes.ok_or_else(failed)?);
        Ok(())
    }

    fn sync(&self, run: u64) -> Result<(), RunError> {
        if self.fail_syncs.load(Ordering::Relaxed) {
            return Err(failed());
        }
        if let Some(bytes) = self.files.lock().get(&run).cloned() {
            self.synced.lock().insert(run, bytes);
        }
        Ok(())
    }

    fn seal(&self, _: u64) {}

    fn len(&self, run: u64) -> u64 {
        self.files
            .lock()
            .get(&run)
            .map_or(0, |file| file.len() as u64)
    }

    fn free(&self, run: u64, offset: u64, len: u64) -> bool {
        let mut files = self.files.lock();
        let (from, to) = (offset, offset.saturating_add(len));
        let [from, to] = [from, to].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
        if let Some(bytes) = files.get_mut(&run).and_then(|file| file.get_mut(from..to)) {
            bytes.fill(0);
            *self.holes.lock().entry(run).or_default() += len;
            return true;
        }
        false
    }

    fn remove(&self, run: u64) {
        self.files.lock().remove(&run);
        self.holes.lock().remove(&run);
        self.synced.lock().remove(&run);
    }

    fn free_bytes(&self) -> Result<u64, RunError> {
        Ok(self.free_bytes.load(Ordering::Relaxed))
    }
}
