//! Run files in the data folder: what does not fit in memory. At a start all of them go that the
//! journal has not handed anything over to.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use leveret_broker::{RunError, RunFiles, Runs, RunsConfig};
use parking_lot::Mutex;
use rustix::fs::statvfs;
use rustix::io::Errno;

use crate::descriptors::with_spare;

/// The folder in the data folder.
pub(crate) const FOLDER: &str = "runs";
const EXTENSION: &str = "run";
/// Files that are kept open for reading: each queue reads one behind the other.
const OPEN_MAX: usize = 16;
/// What cannot be read, be it for want of descriptors or memory, is tried again so often,
const READ_TRIES: u32 = 20;
/// this far apart: whoever asks comes again at once, and a disk that fails for a moment is not to
/// cost a queue all that it has there.
const READ_PAUSE: Duration = Duration::from_millis(50);
/// What may be written while queues come back: a start that has not enough of the disk would need
/// memory instead. The rest is one part in so many of what stays free otherwise.
const START_PART: u64 = 4;

/// What run files leave free of the disk, of what the journal does: so much more that a backlog
/// that is on the disk only for want of memory stops no publisher of persistent messages, and
/// raises no alarm.
pub(crate) fn left_free(disk_free_min: u64) -> u64 {
    let more = RunsConfig::default().run_bytes;
    disk_free_min
        .saturating_add(disk_free_min / 2)
        .saturating_add(more)
}

/// Run files for what comes back at a start.
pub(crate) fn runs_at_start(folder: RunFolder, disk_free_min: u64) -> Runs {
    let config = RunsConfig {
        free_min: disk_free_min / START_PART,
        ..RunsConfig::default()
    };
    Runs::new(Arc::new(folder), config)
}

/// Files that are read or written.
#[derive(Default)]
struct OpenFiles {
    /// The one that is written.
    written: Option<(u64, Arc<File>)>,
    /// Those that were read last, the latest at the end.
    read: Vec<(u64, Arc<File>)>,
}

/// The folder of run files.
pub(crate) struct RunFolder {
    path: PathBuf,
    open: Mutex<OpenFiles>,
}

impl RunFolder {
    /// Removes the run files of before but for those to be kept, or makes the folder: it may be a
    /// mount or a link to one.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn open(data_dir: &Path, kept: &BTreeSet<u64>) -> io::Result<Self> {
        let path = data_dir.join(FOLDER);
        match make(&path) {
            // On a full disk it is made when something is to be written.
            Err(error) if failed(&error) == RunError::NoSpace && !path.exists() => {
                let open = Mutex::default();
                return Ok(Self { path, open });
            }
            made => made?,
        }
        for entry in fs::read_dir(&path)? {
            let file = entry?.path();
            if is_run(&file) && !run_of(&file).is_some_and(|run| kept.contains(&run)) {
                fs::remove_file(file)?;
            }
        }
        Ok(Self {
            path,
            open: Mutex::default(),
        })
    }

    /// A folder that is only read; it need not be there.
    pub(crate) fn look(data_dir: &Path) -> Self {
        Self {
            path: data_dir.join(FOLDER),
            open: Mutex::default(),
        }
    }

    /// Makes the names of its files last.
    fn sync_names(&self) -> io::Result<()> {
        with_spare(|| File::open(&self.path))?.sync_all()
    }

    fn path_of(&self, run: u64) -> PathBuf {
        self.path.join(name_of(run))
    }

    fn written(&self, run: u64) -> io::Result<Arc<File>> {
        let mut open = self.open.lock();
        if let Some((number, file)) = &open.written
            && *number == run
        {
            return Ok(Arc::clone(file));
        }
        let path = self.path_of(run);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        // The spare descriptors are the journal's: what cannot be written stays in memory.
        let file = Arc::new(options.open(&path)?);
        open.written = Some((run, Arc::clone(&file)));
        Ok(file)
    }

    fn readable(&self, run: u64) -> io::Result<Arc<File>> {
        let mut open = self.open.lock();
        if let Some((number, file)) = &open.written
            && *number == run
        {
            return Ok(Arc::clone(file));
        }
        if let Some(at) = open.read.iter().position(|(number, _)| *number == run) {
            let last = open.read.remove(at);
            let file = Arc::clone(&last.1);
            open.read.push(last);
            return Ok(file);
        }
        let path = self.path_of(run);
        let file = match File::open(&path) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::MFILE) => {
                // One of the journal's, for this read only.
                open.read.clear();
                return with_spare(|| File::open(&path)).map(Arc::new);
            }
            opened => Arc::new(opened?),
        };
        if open.read.len() >= OPEN_MAX {
            open.read.remove(0);
        }
        open.read.push((run, Arc::clone(&file)));
        Ok(file)
    }
}

/// Makes the folder, if it is not there. Its name is as durable as what will be in it.
fn make(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let above = path.parent().unwrap_or(path);
    File::open(above)?.sync_all()
}

pub(crate) fn name_of(run: u64) -> String {
    format!("{run:016x}.{EXTENSION}")
}

/// The number in a file's name.
pub(crate) fn run_of(file: &Path) -> Option<u64> {
    u64::from_str_radix(file.file_stem()?.to_str()?, 16).ok()
}

/// Whether a file is one of these, by its name.
pub(crate) fn is_run(file: &Path) -> bool {
    file.extension().is_some_and(|it| it == EXTENSION)
}

fn failed(error: &io::Error) -> RunError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => RunError::NoSpace,
        ErrorKind::NotFound => RunError::Failed("the file is missing".to_owned()),
        ErrorKind::UnexpectedEof => RunError::Failed("the file is too short".to_owned()),
        _ => match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => RunError::Busy(error.to_string()),
            _ => RunError::Failed(error.to_string()),
        },
    }
}

impl RunFiles for RunFolder {
    fn write(&self, run: u64, offset: u64, bytes: &[u8]) -> Result<(), RunError> {
        let file = self.written(run).map_err(|error| failed(&error))?;
        file.write_all_at(bytes, offset)
            .map_err(|error| failed(&error))
    }

    fn read(&self, run: u64, offset: u64, buf: &mut [u8]) -> Result<(), RunError> {
        let mut tries = 0;
        loop {
            let file = self.readable(run);
            let error = match file.and_then(|file| file.read_exact_at(buf, offset)) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let is_gone = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof);
            if is_gone || tries == READ_TRIES {
                return Err(failed(&error));
            }
            tries += 1;
            thread::sleep(READ_PAUSE);
        }
    }

    fn sync(&self, run: u64) -> Result<(), RunError> {
        let file = self.readable(run).map_err(|error| failed(&error))?;
        let synced = file.sync_all().and_then(|()| self.sync_names());
        synced.map_err(|error| failed(&error))
    }

    fn seal(&self, run: u64) {
        let mut open = self.open.lock();
        open.written.take_if(|(number, _)| *number == run);
    }

    fn len(&self, run: u64) -> u64 {
        fs::metadata(self.path_of(run)).map_or(0, |file| file.len())
    }

    fn free(&self, run: u64, offset: u64, len: u64) -> bool {
        let file = OpenOptions::new().write(true).open(self.path_of(run));
        // Where that is not possible, the space comes back with the whole file; so it does where a
        // backup has another name for it, and needs what is in it.
        let freed = file.and_then(|file| match file.metadata()?.nlink() {
            1 => punch(&file, offset, len).map(|()| true),
            _ => Ok(false),
        });
        freed.unwrap_or(false)
    }

    fn remove(&self, run: u64) {
        // What stays is removed at the next start. Whoever reads it now for nobody any more must
        // not keep it open, so it goes first.
        let _ = fs::remove_file(self.path_of(run));
        let mut open = self.open.lock();
        open.written.take_if(|(number, _)| *number == run);
        open.read.retain(|(number, _)| *number != run);
    }

    fn free_bytes(&self) -> Result<u64, RunError> {
        let stat = match statvfs(&self.path) {
            Err(Errno::NOENT) => make(&self.path).and_then(|()| Ok(statvfs(&self.path)?)),
            stat => stat.map_err(Into::into),
        };
        let stat = stat.map_err(|error| failed(&error))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[cfg(target_os = "linux")]
fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, offset, len)?)
}

#[cfg(not(target_os = "linux"))]
fn punch(_: &File, _: u64, _: u64) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_written_read_and_given_back_and_none_outlives_a_start() {
        let place = std::env::temp_dir().join(format!("leveret-runs-{}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        let folder = RunFolder::open(&place, &BTreeSet::new()).unwrap();
        let piece = vec![7; 1 << 20];
        for number in 0..4 {
            folder.write(1, number << 20, &piece).unwrap();
        }
        folder.write(2, 0, b"other").unwrap();
        folder.seal(1);
        let mut buf = vec![0; 1 << 20];
        folder.read(1, 3 << 20, &mut buf).unwrap();
        assert_eq!(buf, piece);
        let blocks = || fs::metadata(folder.path_of(1)).unwrap().blocks();
        let before = blocks();
        folder.free(1, 1 << 20, 1 << 20);
        // A file system that cannot do so keeps them.
        assert!(blocks() == before || blocks() <= before - (1 << 20) / 512);
        folder.read(1, 0, &mut buf).unwrap();
        assert_eq!(buf, piece);
        folder.remove(1);
        assert!(folder.read(1, 0, &mut buf).is_err());
        assert!(folder.free_bytes().unwrap() > 0);
        fs::write(place.join("runs/note"), "not ours").unwrap();
        folder.sync(2).unwrap();
        let kept = RunFolder::open(&place, &BTreeSet::from([2])).unwrap();
        let mut other = [0; 5];
        kept.read(2, 0, &mut other).unwrap();
        assert_eq!(&other, b"other");
        let again = RunFolder::open(&place, &BTreeSet::new()).unwrap();
        let left = fs::read_dir(&again.path).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["note"], "no run, and all that is not ours");
        fs::remove_dir_all(&place).unwrap();
    }
}
