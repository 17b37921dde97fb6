//! A journal's directory that is only looked at.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_store::{DiskError, Vfs, VfsFile};
use rustix::fs::FlockOperation;

use crate::disk::{DiskFile, DiskRefusal, LOCK, acquire, names_in, unopened};

/// A directory that no broker uses meanwhile; others may look at it as well. Nothing in it is
/// written, not even the lock.
pub(crate) struct ReadOnlyDisk {
    path: PathBuf,
    /// None: no broker has ever used the directory, as with a backup.
    _lock: Option<File>,
}

impl ReadOnlyDisk {
    /// Keeps brokers out of the directory.
    ///
    /// # Errors
    /// [`DiskRefusal`].
    pub(crate) fn open(path: &Path) -> Result<Self, DiskRefusal> {
        // A directory that is not there is told of as such, not as one without a lock.
        std::fs::read_dir(path)?;
        let lock = match File::open(path.join(LOCK)) {
            Ok(lock) => Some(lock),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(lock) = &lock {
            acquire(lock, FlockOperation::NonBlockingLockShared)?;
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }
}

impl Vfs for ReadOnlyDisk {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        names_in(&self.path)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn VfsFile>, DiskError> {
        let file = OpenOptions::new().read(true).open(self.path.join(name));
        Ok(Arc::new(DiskFile(file.map_err(unopened)?)))
    }

    fn create(&self, _name: &str) -> Result<Arc<dyn VfsFile>, DiskError> {
        Err(read_only())
    }

    fn remove(&self, _name: &str) -> Result<(), DiskError> {
        Err(read_only())
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        Err(read_only())
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        Ok(0)
    }
}

fn read_only() -> DiskError {
    DiskError::Failed("this directory is only looked at".to_owned())
}
