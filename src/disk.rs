//! The real disk under the journal: one directory, locked against a second broker.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use leveret_store::{DiskError, Vfs, VfsFile};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};
use rustix::io::Errno;

use crate::descriptors::with_spare;

pub(crate) const LOCK: &str = "LOCK";

/// How much is written at once on file systems that cannot keep space otherwise.
const ZERO_PIECE: usize = 1 << 20;

/// The size of the file system that a directory is in, bytes.
pub(crate) fn total_bytes(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path)?;
    Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
}

/// The journal's directory. Locked while this lives.
pub struct Disk {
    path: PathBuf,
    directory: File,
    _lock: File,
    /// Makes the name of the directory durable; the first [`Vfs::sync_dir`] waits for it.
    naming: Mutex<Option<JoinHandle<io::Result<()>>>>,
}

/// Why a directory cannot be used.
#[derive(Debug)]
pub enum DiskRefusal {
    /// Another broker has it, with this process id as far as it said.
    InUse(String),
    /// The operating system refused.
    Io(io::Error),
}

impl std::fmt::Display for DiskRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InUse(pid) => write!(f, "another broker (process {pid}) uses this directory"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DiskRefusal {}

impl From<io::Error> for DiskRefusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Disk {
    /// The size of the file system, bytes.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub fn total_bytes(&self) -> io::Result<u64> {
        total_bytes(&self.path)
    }

    fn open_with(&self, options: &OpenOptions, name: &str) -> Result<Arc<dyn VfsFile>, DiskError> {
        let path = self.path.join(name);
        let file = with_spare(|| options.open(&path));
        Ok(Arc::new(DiskFile(file.map_err(unopened)?)))
    }

    /// Makes the directory if need be, and locks it.
    ///
    /// # Errors
    /// [`DiskRefusal`].
    pub fn open(path: &Path) -> Result<Self, DiskRefusal> {
        let parents = parents(path);
        std::fs::create_dir_all(path)?;
        // Syncs side by side cost a start little more than one.
        let naming = thread::spawn(move || parents.iter().try_for_each(|parent| name(parent)));
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))?;
        acquire(&lock, FlockOperation::NonBlockingLockExclusive)?;
        lock.set_len(0)?;
        // Only a hint for the message above: a full disk must not keep the broker from starting.
        drop(writeln!(lock, "{}", std::process::id()));
        Ok(Self {
            directory: File::open(path)?,
            path: path.to_owned(),
            _lock: lock,
            naming: Mutex::new(Some(naming)),
        })
    }
}

/// Takes the lock of a directory, or says who has it.
pub(crate) fn acquire(lock: &File, how: FlockOperation) -> Result<(), DiskRefusal> {
    match flock(lock, how) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            lock.take(32).read_to_string(&mut pid)?;
            Err(DiskRefusal::InUse(pid.trim().to_owned()))
        }
        Err(errno) => Err(io::Error::from(errno).into()),
    }
}

/// The directories that hold the names of `path` and of those above it that are not there yet.
/// That of `path` itself may be new as well: an earlier start may have ended before its name was
/// durable.
fn parents(path: &Path) -> Vec<PathBuf> {
    let missing = path.ancestors().skip(1);
    let missing = missing.take_while(|above| !above.as_os_str().is_empty() && !above.exists());
    std::iter::once(path)
        .chain(missing)
        .map(|named| match named.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        })
        .collect()
}

/// Why no file could be opened: none, or not just now.
pub(crate) fn unopened(error: io::Error) -> DiskError {
    match Errno::from_io_error(&error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => DiskError::Busy(error.to_string()),
        _ => failed(error),
    }
}

/// Makes the names in a directory durable. One that may not be read, or is on a file system that
/// cannot be written, holds none that were made; one that knows no sync can do no better.
fn name(directory: &Path) -> io::Result<()> {
    use ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    match File::open(directory).and_then(|directory| directory.sync_all()) {
        Err(error) => match error.kind() {
            InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported => Ok(()),
            _ => Err(error),
        },
        Ok(()) => Ok(()),
    }
}

fn failed(error: io::Error) -> DiskError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DiskError::NoSpace,
        ErrorKind::NotFound => DiskError::Missing,
        _ => DiskError::Failed(error.to_string()),
    }
}

/// What is in a directory, in order.
pub(crate) fn names_in(path: &Path) -> Result<Vec<String>, DiskError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

impl Vfs for Disk {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        names_in(&self.path)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn VfsFile>, DiskError> {
        let mut options = OpenOptions::new();
        self.open_with(options.read(true).write(true), name)
    }

    fn create(&self, name: &str) -> Result<Arc<dyn VfsFile>, DiskError> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        self.open_with(options, name)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        std::fs::remove_file(self.path.join(name)).map_err(failed)
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        if let Some(naming) = self.naming.lock().take() {
            let named = naming
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("panic")));
            named.map_err(failed)?;
        }
        self.directory.sync_all().map_err(failed)
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let stat = statvfs(&self.path).map_err(|errno| failed(errno.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

pub(crate) struct DiskFile(pub(crate) File);

impl VfsFile for DiskFile {
    fn size(&self) -> Result<u64, DiskError> {
        Ok(self.0.metadata().map_err(failed)?.len())
    }

    fn names(&self) -> Result<u64, DiskError> {
        Ok(self.0.metadata().map_err(failed)?.nlink())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, DiskError> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.0.write_all_at(data, offset).map_err(failed)
    }

    fn allocate(&self, bytes: u64) -> Result<(), DiskError> {
        match fallocate(&self.0, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let zeros = vec![0; ZERO_PIECE];
                let mut at = self.size()?;
                while at < bytes {
                    let len = (bytes - at).min(ZERO_PIECE as u64);
                    let piece = usize::try_from(len).ok().and_then(|len| zeros.get(..len));
                    self.write_at(at, piece.unwrap_or(&zeros))?;
                    at += len;
                }
                Ok(())
            }
            Err(errno) => Err(failed(errno.into())),
        }
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.0.sync_data().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_every_new_directory_is_synced() {
        let there = std::env::temp_dir();
        assert_eq!(
            parents(&there.join("no-such-leveret/a/b")),
            [
                there.join("no-such-leveret/a"),
                there.join("no-such-leveret"),
                there.clone()
            ]
        );
        assert_eq!(parents(&there), [Path::new("/")]);
        assert_eq!(parents(Path::new("data")), [Path::new(".")]);
        assert_eq!(parents(Path::new("./data")), [Path::new(".")]);
    }
}
