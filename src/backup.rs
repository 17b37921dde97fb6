//! Copies of the data folder, made while the broker serves: hard links where they do, and bytes
//! where they do not. A copy is a data folder of its own; a broker starts from it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use leveret_management::BackupRefusal;
use leveret_store::{Backup, BackupFile, DiskError, Journal, NoBackup, VfsFile as _};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::clock::wall_ms;
use crate::config::Config;
use crate::disk::DiskFile;
use crate::process::disk_free_bytes;
use crate::run_files;

/// Tells of a copy that is complete; it is not in the data folder of a broker.
const MANIFEST: &str = "BACKUP";
/// The folder in the data folder, unless another one is configured.
const FOLDER: &str = "backups";
/// A copy that is being made has this at its end, and a dot at its beginning.
const PART: &str = ".part";
const NAME_BYTES_MAX: usize = 64;
/// Copied at once,
const SLICE_BYTES: u64 = 1 << 20;
/// and synced: a sync of much would hold up the journal's.
const SYNC_BYTES: u64 = 8 << 20;
/// The longest pause after what was synced.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// What a copy needs besides the bytes that are counted: names, blocks that are not full.
const ROOM_BYTES: u64 = 1 << 20;

/// The copies of one broker.
pub(crate) struct Backups {
    data_dir: PathBuf,
    folder: PathBuf,
    /// What copies leave free of the disk that the journal is on.
    disk_free_min: u64,
    journal: Arc<Journal>,
}

/// Has a data folder that was a copy be one no more: from now on a broker changes it.
///
/// # Errors
/// The operating system's.
pub(crate) fn take_into_use(data_dir: &Path) -> io::Result<()> {
    match fs::remove_file(data_dir.join(MANIFEST)) {
        Ok(()) => info!("the data folder was a backup; from now on it is one no more"),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn failed(what: &Path, error: impl std::fmt::Display) -> BackupRefusal {
    BackupRefusal::Failed(format!("{}: {error}", what.display()))
}

impl Backups {
    /// The copies that a configuration names; what an end of the process has left of one goes.
    pub(crate) fn new(config: &Config, journal: Arc<Journal>) -> Self {
        let configured = &config.storage.backup_dir;
        let backups = Self {
            data_dir: config.data_dir.clone(),
            folder: if configured.is_empty() {
                config.data_dir.join(FOLDER)
            } else {
                PathBuf::from(configured)
            },
            disk_free_min: config.limits.disk_free_min,
            journal,
        };
        match backups.sweep() {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                let folder = backups.folder.display();
                warn!(%folder, %error, "what is left of backups cannot be removed");
            }
            _ => {}
        }
        backups
    }

    /// Makes a copy and tells of it.
    ///
    /// # Errors
    /// [`BackupRefusal`]: there is none, and nothing of it.
    pub(crate) fn create(&self, name: Option<&str>) -> Result<Value, BackupRefusal> {
        let begun = Instant::now();
        let created_ms = wall_ms();
        let name = match name {
            Some(name) => checked(name)?.to_owned(),
            None => name_for(created_ms),
        };
        let begun_backup = self.journal.begin_backup();
        let mut backup = begun_backup.map_err(|refusal| match refusal {
            NoBackup::Busy => BackupRefusal::Busy,
            NoBackup::Stopped(failure) => BackupRefusal::Failed(failure.to_string()),
        })?;
        let runs = self.run_files(&backup.runs)?;
        backup.files.extend(runs);
        let path = self.folder.join(&name);
        if path.symlink_metadata().is_ok() {
            let reason = format!("there is a backup \"{name}\" already");
            return Err(BackupRefusal::Exists(reason));
        }
        let links = self.has_room(&backup)?;
        let (part, lock) = self.begin(&name)?;
        let written = BackupWriter {
            data_dir: &self.data_dir,
            part: &part,
            links,
            copied_bytes: 0,
            unsynced: 0,
            since: Instant::now(),
        };
        let made = written.write(&backup, (&name, created_ms));
        let made = made.and_then(|manifest| {
            fs::rename(&part, &path).map_err(|error| failed(&path, error))?;
            sync_folder(&self.folder)?;
            Ok(manifest)
        });
        drop((backup, lock));
        match made {
            Ok(mut manifest) => {
                info!(
                    name,
                    ms = begun.elapsed().as_millis(),
                    bytes = %manifest["bytes"],
                    copied_bytes = %manifest["copied_bytes"],
                    messages = %manifest["messages"],
                    "a backup was made"
                );
                manifest["path"] = path.display().to_string().into();
                Ok(manifest)
            }
            Err(refusal) => {
                drop(fs::remove_dir_all(&part));
                warn!(name, ?refusal, "a backup could not be made");
                Err(refusal)
            }
        }
    }

    /// What there is, the oldest first.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn list(&self) -> io::Result<Vec<Value>> {
        let mut found = Vec::new();
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            // Others may put what they like here.
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if let Some(manifest) = manifest_in(&entry.path()) {
                found.push(manifest);
            }
        }
        found.sort_by_key(|manifest| manifest["created_ms"].as_u64());
        Ok(found)
    }

    /// Run files as a copy needs them: what was written so far.
    fn run_files(&self, runs: &BTreeSet<u64>) -> Result<Vec<BackupFile>, BackupRefusal> {
        let mut files = Vec::new();
        for run in runs {
            let name = format!("{}/{}", run_files::FOLDER, run_files::name_of(*run));
            let path = self.data_dir.join(&name);
            match fs::metadata(&path) {
                Ok(file) => files.push(BackupFile {
                    name,
                    bytes: file.len(),
                    used_bytes: file.len(),
                    may_be_linked: true,
                }),
                // What is lost already keeps nobody from saving the rest.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    warn!(file = %path.display(), "a backup is made without a file that is gone");
                }
                Err(error) => return Err(failed(&path, error)),
            }
        }
        Ok(files)
    }

    /// Whether the disk has room; gives whether files can be linked there.
    fn has_room(&self, backup: &Backup<'_>) -> Result<bool, BackupRefusal> {
        let there = existing(&self.folder);
        let device = |path: &Path| {
            let metadata = fs::metadata(path).map_err(|error| failed(path, error));
            metadata.map(|metadata| metadata.dev())
        };
        let links = device(there)? == device(&self.data_dir)?;
        let copied = backup
            .files
            .iter()
            .filter(|file| !(links && file.may_be_linked));
        let copied: u64 = copied.map(|file| file.bytes).sum();
        let made: u64 = backup
            .made
            .iter()
            .map(|(_, bytes)| bytes.len() as u64)
            .sum();
        let left = if links { self.disk_free_min } else { 0 };
        let needed = copied.saturating_add(made).saturating_add(ROOM_BYTES);
        let free = disk_free_bytes(there).map_err(|error| failed(there, error))?;
        if free < needed.saturating_add(left) {
            return Err(BackupRefusal::NoRoom(format!(
                "the backup needs {needed} bytes, and {free} are free in {}, of which {left} are \
                 to stay free (limits.disk_free_min)",
                self.folder.display()
            )));
        }
        Ok(links)
    }

    /// Makes an empty folder for a copy, and removes what an end of the process has left of others.
    fn begin(&self, name: &str) -> Result<(PathBuf, File), BackupRefusal> {
        let folder = &self.folder;
        fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
        self.sweep().map_err(|error| failed(folder, error))?;
        let part = folder.join(format!(".{name}{PART}"));
        let runs = part.join(run_files::FOLDER);
        let made = fs::create_dir(&part).and_then(|()| fs::create_dir(&runs));
        made.map_err(|error| failed(&part, error))?;
        let lock = File::open(&part).map_err(|error| failed(&part, error))?;
        // A file system without locks has no other broker on it either.
        let _ = flock(&lock, FlockOperation::NonBlockingLockExclusive);
        Ok((part, lock))
    }

    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let ours = name
                .strip_prefix('.')
                .and_then(|name| name.strip_suffix(PART));
            if ours.is_some_and(|name| checked(name).is_ok()) && !is_being_made(&entry.path()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whether another broker is at it, whose copies go to the same place.
fn is_being_made(part: &Path) -> bool {
    let lock = File::open(part);
    lock.is_ok_and(|lock| {
        flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
    })
}

/// A name that leads nowhere else, and that no shell minds.
fn checked(name: &str) -> Result<&str, BackupRefusal> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let begins = name
        .bytes()
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric());
    if begins && name.len() <= NAME_BYTES_MAX && name.bytes().all(plain) {
        return Ok(name);
    }
    Err(BackupRefusal::Name(format!(
        "a backup's name has 1 to {NAME_BYTES_MAX} letters, digits, '.', '-' and '_', and begins \
         with a letter or digit"
    )))
}

/// The folder itself, or the next one above that is there.
fn existing(folder: &Path) -> &Path {
    let mut above = folder
        .ancestors()
        .filter(|path| !path.as_os_str().is_empty());
    above
        .find(|path| path.exists())
        .unwrap_or_else(|| Path::new("."))
}

fn manifest_in(backup: &Path) -> Option<Value> {
    let text = fs::read(backup.join(MANIFEST)).ok()?;
    let mut manifest: Value = serde_json::from_slice(&text).ok()?;
    // Somebody may have given the folder another name.
    manifest["name"] = backup.file_name()?.to_string_lossy().into_owned().into();
    manifest["path"] = backup.display().to_string().into();
    manifest.is_object().then_some(manifest)
}

fn sync_folder(folder: &Path) -> Result<(), BackupRefusal> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| failed(folder, error))
}

/// A copy that is being made.
struct BackupWriter<'a> {
    data_dir: &'a Path,
    part: &'a Path,
    links: bool,
    copied_bytes: u64,
    /// Bytes written since the last sync, and when that was.
    unsynced: u64,
    since: Instant,
}

impl BackupWriter<'_> {
    /// Writes all of it so that it survives; what was made is told last.
    fn write(
        mut self,
        backup: &Backup<'_>,
        (name, created_ms): (&str, u64),
    ) -> Result<Value, BackupRefusal> {
        let mut bytes = 0;
        for file in &backup.files {
            bytes += file.bytes;
            self.add(file)?;
        }
        for (name, content) in &backup.made {
            bytes += content.len() as u64;
            self.make(name, content)?;
        }
        let format = self.data_dir.join(Backup::FORMAT);
        let content = fs::read(&format).map_err(|error| failed(&format, error))?;
        bytes += content.len() as u64;
        self.make(Backup::FORMAT, &content)?;
        let manifest = json!({
            "name": name,
            "created": text_of(created_ms),
            "created_ms": created_ms,
            "messages": backup.messages,
            "bytes": bytes,
            "copied_bytes": self.copied_bytes,
            "version": env!("CARGO_PKG_VERSION"),
        });
        sync_folder(&self.part.join(run_files::FOLDER))?;
        sync_folder(self.part)?;
        self.make(MANIFEST, manifest.to_string().as_bytes())?;
        sync_folder(self.part)?;
        Ok(manifest)
    }

    fn add(&mut self, file: &BackupFile) -> Result<(), BackupRefusal> {
        if self.links && file.may_be_linked {
            let (from, to) = (self.data_dir.join(&file.name), self.part.join(&file.name));
            match fs::hard_link(&from, &to) {
                Ok(()) => return Ok(()),
                // Not on this file system, not to this one, or not so often.
                Err(error) if is_no_link(&error) => {}
                Err(error) => return Err(failed(&from, error)),
            }
        }
        self.copy(file)
    }

    /// Copies what counts of a file; the rest is zeros that the disk keeps space for.
    fn copy(&mut self, file: &BackupFile) -> Result<(), BackupRefusal> {
        let path = self.data_dir.join(&file.name);
        let from = File::open(&path).map_err(|error| failed(&path, error))?;
        let to = self.new_file(&file.name)?;
        to.allocate(file.bytes)
            .map_err(|error| self.no_room(error))?;
        let mut slice = vec![0; usize::try_from(SLICE_BYTES).unwrap_or(0)];
        let mut at = 0;
        while at < file.used_bytes {
            let len = SLICE_BYTES.min(file.used_bytes - at);
            let part = usize::try_from(len)
                .ok()
                .and_then(|len| slice.get_mut(..len));
            let Some(part) = part else { break };
            from.read_exact_at(part, at)
                .map_err(|error| failed(&path, error))?;
            to.write_at(at, part).map_err(|error| self.no_room(error))?;
            at += len;
            self.written(&to, len)?;
        }
        self.copied_bytes += file.bytes;
        to.sync().map_err(|error| failed(self.part, error))
    }

    /// Syncs now and then, and leaves the disk to others for as long as that took.
    fn written(&mut self, file: &DiskFile, bytes: u64) -> Result<(), BackupRefusal> {
        self.unsynced += bytes;
        if self.unsynced < SYNC_BYTES {
            return Ok(());
        }
        file.sync().map_err(|error| failed(self.part, error))?;
        self.unsynced = 0;
        std::thread::sleep(self.since.elapsed().min(PAUSE_MAX));
        self.since = Instant::now();
        Ok(())
    }

    fn make(&mut self, name: &str, content: &[u8]) -> Result<(), BackupRefusal> {
        let DiskFile(mut file) = self.new_file(name)?;
        let written = file.write_all(content).and_then(|()| file.sync_all());
        self.copied_bytes += content.len() as u64;
        written.map_err(|error| match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => self.no_room(DiskError::NoSpace),
            _ => failed(&self.part.join(name), error),
        })
    }

    fn new_file(&self, name: &str) -> Result<DiskFile, BackupRefusal> {
        let path = self.part.join(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        file.map(DiskFile).map_err(|error| failed(&path, error))
    }

    fn no_room(&self, error: DiskError) -> BackupRefusal {
        match error {
            DiskError::NoSpace => BackupRefusal::NoRoom(format!(
                "the disk became full while the backup was made in {}",
                self.part.display()
            )),
            error => failed(self.part, error),
        }
    }
}

fn is_no_link(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| {
        [
            Errno::XDEV,
            Errno::PERM,
            Errno::MLINK,
            Errno::OPNOTSUPP,
            Errno::NOSYS,
        ]
        .contains(&errno)
    })
}

/// The name of a copy without one: when it was made.
fn name_for(created_ms: u64) -> String {
    let plain = |c: &char| !matches!(c, '-' | ':');
    text_of(created_ms).chars().filter(plain).collect()
}

/// A time as people write it, in UTC.
fn text_of(unix_ms: u64) -> String {
    let (days, second) = (unix_ms / 86_400_000, unix_ms / 1000 % 86_400);
    let (year, month, day) = date_of(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a day since 1 January 1970.
const fn date_of(days: u64) -> (u64, u64, u64) {
    // Years that begin in March have their leap day at the end; 146,097 days are 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (year + era * 400 + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere() {
        for name in ["a", "nightly-2026.11_30", "0"] {
            assert_eq!(checked(name), Ok(name));
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for name in [
            "", ".", "..", "../a", "a/b", "/a", ".a", "-a", "a b", "a\0", "\u{e4}", &long,
        ] {
            assert!(
                matches!(checked(name), Err(BackupRefusal::Name(_))),
                "{name:?}"
            );
        }
    }

    #[test]
    fn times_are_as_calendars_have_them() {
        let days = [0, 1_709_164_800, 1_709_251_200, 1_796_083_199, 951_827_696];
        let texts = days.map(|second| text_of(second * 1000));
        assert_eq!(
            texts,
            [
                "1970-01-01T00:00:00Z",
                "2024-02-29T00:00:00Z",
                "2024-03-01T00:00:00Z",
                "2026-11-30T23:59:59Z",
                "2000-02-29T12:34:56Z",
            ]
        );
        assert_eq!(name_for(951_827_696_000), "20000229T123456Z");
        assert!(checked(&name_for(951_827_696_000)).is_ok());
    }

    #[test]
    fn the_next_folder_above_is_found() {
        let there = std::env::temp_dir();
        assert_eq!(existing(&there.join("no-such/leveret")), there);
        assert_eq!(existing(Path::new("no-such-leveret")), Path::new("."));
    }
}
