//! A simulated disk that keeps a trace of every write, from which any crash can be made.
//!
//! A crash may lose, keep or reorder each unsynced 4 KiB block on its own, tear one at 512 bytes,
//! and keep or lose each name created or removed since the directory was synced. Calls can be made
//! to fail, and the disk to be full.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::vfs::{DiskError, Vfs, VfsFile};

mod crash;

pub use crash::{CrashPoints, DiskImage};

/// A small seeded generator; the same seed gives the same numbers everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits (splitmix64).
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.draw().checked_rem(limit).unwrap_or(0)
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// One change of the disk, in the order they were made.
#[derive(Clone, Debug)]
pub enum DiskChange {
    /// Bytes written to a file, by number.
    Write {
        /// The file's number.
        file: usize,
        /// Where.
        offset: u64,
        /// What.
        data: Arc<[u8]>,
    },
    /// A file synced.
    Sync(usize),
    /// A name created for a new file.
    Create(String, usize),
    /// A name removed.
    Remove(String),
    /// The directory synced.
    SyncDir,
}

/// What a call of the disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DiskCall {
    /// `open`.
    Open,
    /// `create`.
    Create,
    /// `write_at`.
    Write,
    /// Any other.
    Other,
}

/// A failure to inject.
#[derive(Clone, Debug)]
pub struct DiskFault {
    /// The number of the call that fails, counted from the disk's beginning.
    pub at: u64,
    /// Whether all later calls fail too.
    pub for_ever: bool,
    /// How it fails.
    pub error: DiskError,
}

/// The disk. Clones share it.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Default)]
struct DiskState {
    /// What readers see, by file number.
    files: Vec<Vec<u8>>,
    names: BTreeMap<String, usize>,
    base: DiskImage,
    trace: Vec<DiskChange>,
    calls: u64,
    fault: Option<DiskFault>,
    /// Bytes all files together may have; 0: no limit.
    capacity: u64,
    /// Names whose syncs do nothing, by prefix; "/" is the directory.
    deaf: Vec<String>,
    /// Bytes of files, by name, that cannot be read.
    spoilt: Vec<(String, Range<u64>)>,
    /// Names whose syncs fail, by prefix, and how.
    unsynced: Option<(String, DiskError)>,
    /// Files, by number, that have another name.
    links: Vec<usize>,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk as a crash left it.
    #[must_use]
    pub fn from_image(image: &DiskImage) -> Self {
        let disk = Self::new();
        {
            let mut state = disk.state.lock();
            for (name, content) in &image.files {
                let number = state.files.len();
                state.files.push(content.clone());
                state.names.insert(name.clone(), number);
            }
            state.base = image.clone();
        }
        disk
    }

    /// All changes so far, and the image they began with.
    #[must_use]
    pub fn crash_points(&self) -> CrashPoints {
        let state = self.state.lock();
        CrashPoints::new(&state.base, state.trace.clone())
    }

    /// How many changes there have been.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.state.lock().trace.len()
    }

    /// How many calls there have been.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// What a reader sees now.
    #[must_use]
    pub fn image(&self) -> DiskImage {
        let state = self.state.lock();
        let content = |number: &usize| state.files.get(*number).cloned().unwrap_or_default();
        DiskImage {
            files: state
                .names
                .iter()
                .map(|(name, n)| (name.clone(), content(n)))
                .collect(),
        }
    }

    /// Gives a file another name, in another directory; gives the number to ask for it with.
    ///
    /// # Errors
    /// There is no such file.
    pub fn link(&self, name: &str) -> Result<usize, DiskError> {
        let mut state = self.state.lock();
        let number = *state.names.get(name).ok_or(DiskError::Missing)?;
        state.links.push(number);
        Ok(number)
    }

    /// What is in a file that was given another name.
    #[must_use]
    pub fn linked(&self, number: usize) -> Vec<u8> {
        let state = self.state.lock();
        state.files.get(number).cloned().unwrap_or_default()
    }

    /// Takes the other name away again.
    pub fn unlink(&self, number: usize) {
        let mut state = self.state.lock();
        if let Some(at) = state.links.iter().position(|link| *link == number) {
            state.links.swap_remove(at);
        }
    }

    /// Makes a later call fail.
    pub fn inject(&self, fault: Option<DiskFault>) {
        self.state.lock().fault = fault;
    }

    /// Limits the bytes of all files together; 0: no limit.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = bytes;
    }

    /// Makes syncs of files with this prefix do nothing ("/": of the directory): a mutation that a
    /// crash test must notice.
    pub fn deafen(&self, prefix: &str) {
        self.state.lock().deaf.push(prefix.to_owned());
    }

    /// Makes reads that touch these bytes of a file fail, for ever.
    pub fn spoil(&self, name: &str, bytes: Range<u64>) {
        self.state.lock().spoilt.push((name.to_owned(), bytes));
    }

    /// Makes syncs of files with this prefix fail, until told otherwise.
    pub fn fail_syncs(&self, fault: Option<(&str, DiskError)>) {
        self.state.lock().unsynced = fault.map(|(prefix, error)| (prefix.to_owned(), error));
    }

    fn call(&self, call: DiskCall) -> Result<MutexGuard<'_, DiskState>, DiskError> {
        let mut state = self.state.lock();
        let number = state.calls;
        state.calls += 1;
        match &state.fault {
            // Only what needs space can find none, and only what opens a file no descriptor.
            Some(fault) if !call.may_meet(&fault.error) => Ok(state),
            Some(fault) if fault.at == number || (fault.for_ever && fault.at < number) => {
                Err(fault.error.clone())
            }
            _ => Ok(state),
        }
    }
}

impl DiskCall {
    fn may_meet(self, error: &DiskError) -> bool {
        match error {
            DiskError::NoSpace => matches!(self, Self::Create | Self::Write),
            DiskError::Busy(_) => matches!(self, Self::Open | Self::Create),
            DiskError::Missing | DiskError::Failed(_) => true,
        }
    }
}

impl DiskState {
    fn is_file(&self, number: usize, is_name: impl Fn(&str) -> bool) -> bool {
        let mut names = self.names.iter();
        names.any(|(name, n)| *n == number && is_name(name))
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|number| self.files.get(*number))
            .map(len_of)
            .sum()
    }

    fn is_deaf(&self, file: Option<usize>) -> bool {
        self.deaf.iter().any(|prefix| match file {
            None => prefix == "/",
            Some(file) => self.is_file(file, |name| name.starts_with(prefix)),
        })
    }
}

fn len_of(content: impl AsRef<[u8]>) -> u64 {
    content.as_ref().len() as u64
}

impl Vfs for SimDisk {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        Ok(self.call(DiskCall::Other)?.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> Result<Arc<dyn VfsFile>, DiskError> {
        let state = self.call(DiskCall::Open)?;
        let number = *state.names.get(name).ok_or(DiskError::Missing)?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            number,
        }))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn VfsFile>, DiskError> {
        let mut state = self.call(DiskCall::Create)?;
        let number = match state.names.get(name) {
            Some(number) => *number,
            None => {
                let number = state.files.len();
                state.files.push(Vec::new());
                state.names.insert(name.to_owned(), number);
                state
                    .trace
                    .push(DiskChange::Create(name.to_owned(), number));
                number
            }
        };
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            number,
        }))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let mut state = self.call(DiskCall::Other)?;
        state.names.remove(name).ok_or(DiskError::Missing)?;
        state.trace.push(DiskChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        let mut state = self.call(DiskCall::Other)?;
        if !state.is_deaf(None) {
            state.trace.push(DiskChange::SyncDir);
        }
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let state = self.call(DiskCall::Other)?;
        Ok(match state.capacity {
            0 => u64::MAX,
            capacity => capacity.saturating_sub(state.used()),
        })
    }
}

struct SimFile {
    disk: SimDisk,
    number: usize,
}

impl VfsFile for SimFile {
    fn size(&self) -> Result<u64, DiskError> {
        Ok(self
            .disk
            .call(DiskCall::Other)?
            .files
            .get(self.number)
            .map_or(0, len_of))
    }

    fn names(&self) -> Result<u64, DiskError> {
        // No call: who looks at it must not move the faults of others.
        let state = self.disk.state.lock();
        let others = state.links.iter().filter(|link| **link == self.number);
        Ok(1 + others.count() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, DiskError> {
        let state = self.disk.call(DiskCall::Other)?;
        let content = state.files.get(self.number).map_or(&[][..], Vec::as_slice);
        let end = offset + buf.len() as u64;
        let touches = |bytes: &Range<u64>| bytes.start < end && offset < bytes.end;
        let mut spoilt = state.spoilt.iter();
        if spoilt.any(|(name, bytes)| touches(bytes) && state.is_file(self.number, |n| n == name)) {
            return Err(DiskError::Failed("unreadable".to_owned()));
        }
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = content.get(from..).unwrap_or(&[]);
        let count = rest.len().min(buf.len());
        if let (Some(buf), Some(rest)) = (buf.get_mut(..count), rest.get(..count)) {
            buf.copy_from_slice(rest);
        }
        Ok(count)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let mut state = self.disk.call(DiskCall::Write)?;
        let end = offset + data.len() as u64;
        let size = state.files.get(self.number).map_or(0, len_of);
        if state.capacity != 0 && state.used() + end.saturating_sub(size) > state.capacity {
            return Err(DiskError::NoSpace);
        }
        let data: Arc<[u8]> = data.into();
        if let Some(content) = state.files.get_mut(self.number) {
            crash::overwrite(content, offset, &data);
        }
        state.trace.push(DiskChange::Write {
            file: self.number,
            offset,
            data,
        });
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> Result<(), DiskError> {
        let size = self.size()?;
        let zeros = vec![0; usize::try_from(bytes.saturating_sub(size)).unwrap_or(0)];
        self.write_at(size, &zeros)
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut state = self.disk.call(DiskCall::Other)?;
        if let Some((prefix, error)) = &state.unsynced
            && state.is_file(self.number, |name| name.starts_with(prefix))
        {
            return Err(error.clone());
        }
        if !state.is_deaf(Some(self.number)) {
            state.trace.push(DiskChange::Sync(self.number));
        }
        Ok(())
    }
}
