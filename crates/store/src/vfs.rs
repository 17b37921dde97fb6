//! The disk as the journal sees it: one flat directory, positioned reads and writes, syncs.
//!
//! The journal assumes only that a returned sync makes the writes before it survive; nothing about
//! the order of unsynced writes, and nothing about a block that was being written.

use std::fmt;
use std::sync::Arc;

/// Why the disk did not do as told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskError {
    /// No space left: nothing was damaged, a later attempt may succeed.
    NoSpace,
    /// No file could be opened just now (descriptors or memory have run out): nothing has happened,
    /// a later attempt may succeed.
    Busy(String),
    /// No such file.
    Missing,
    /// Anything else, in the operating system's words.
    Failed(String),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpace => f.write_str("no space left on the disk"),
            Self::Missing => f.write_str("no such file"),
            Self::Busy(reason) | Self::Failed(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for DiskError {}

/// One directory, which belongs to this process alone while the journal is open.
pub trait Vfs: Send + Sync {
    /// The names of all files.
    ///
    /// # Errors
    /// [`DiskError`], as for everything here.
    fn list(&self) -> Result<Vec<String>, DiskError>;

    /// Opens a file that exists, for reading and writing.
    ///
    /// # Errors
    /// `Missing` if it does not exist; `Busy` or `Failed`.
    fn open(&self, name: &str) -> Result<Arc<dyn VfsFile>, DiskError>;

    /// Opens a file for reading and writing, creating it empty if need be; never truncates. The
    /// new name survives a crash only after [`Self::sync_dir`].
    ///
    /// # Errors
    /// `NoSpace`, `Busy` or `Failed`.
    fn create(&self, name: &str) -> Result<Arc<dyn VfsFile>, DiskError>;

    /// Removes a file; it may come back in a crash before the next [`Self::sync_dir`].
    ///
    /// # Errors
    /// `Missing` or `Failed`.
    fn remove(&self, name: &str) -> Result<(), DiskError>;

    /// Makes created and removed names survive.
    ///
    /// # Errors
    /// `Failed`: it is unknown which names survive.
    fn sync_dir(&self) -> Result<(), DiskError>;

    /// Bytes the process may still write before the disk is full.
    ///
    /// # Errors
    /// `Failed`.
    fn free_bytes(&self) -> Result<u64, DiskError>;
}

/// One open file.
pub trait VfsFile: Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// `Failed`.
    fn size(&self) -> Result<u64, DiskError>;

    /// How many names it has: with more than one, others may rely on what is in it.
    ///
    /// # Errors
    /// `Failed`.
    fn names(&self) -> Result<u64, DiskError>;

    /// Fills `buf` from `offset` as far as the file goes; returns how many bytes that was.
    ///
    /// # Errors
    /// `Failed`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, DiskError>;

    /// Writes all of `data` at `offset`, extending the file if need be.
    ///
    /// # Errors
    /// `NoSpace` or `Failed`; part of it may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError>;

    /// Makes the file this long and has the disk keep space for all of it, quickly: what is new in
    /// it reads as zeros.
    ///
    /// # Errors
    /// `NoSpace` or `Failed`.
    fn allocate(&self, bytes: u64) -> Result<(), DiskError>;

    /// Makes everything written to this file, and its length, survive.
    ///
    /// # Errors
    /// `Failed` or `NoSpace`: it is unknown what survives, and no later sync can tell. A file that
    /// nothing refers to yet can be given up.
    fn sync(&self) -> Result<(), DiskError>;
}

const BLOCK: usize = 4096;

/// Fills `bytes` from the file's beginning, as far as it goes. Blocks that the disk fails to read
/// are zeros, as if they had rotted; returns where they are.
pub(crate) fn read_readable(file: &dyn VfsFile, bytes: &mut Vec<u8>) -> Vec<u64> {
    if let Ok(read) = file.read_at(0, bytes) {
        bytes.truncate(read);
        return Vec::new();
    }
    let mut unreadable = Vec::new();
    let mut offset = 0;
    for block in bytes.chunks_mut(BLOCK) {
        if file.read_at(offset, block).is_err() {
            block.fill(0);
            unreadable.push(offset);
        }
        offset += block.len() as u64;
    }
    unreadable
}
