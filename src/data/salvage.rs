//! `leveret data salvage`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_broker::topology::queue_for_lost;
use leveret_store::{Journal, JournalConfig, LaneId, SyncPolicy, Vfs};

use super::{DataOutcome, OfflineFolder, Trouble, line};
use crate::disk::Disk;
use crate::journal::{random, sized_for};

/// Writes what can be read of a folder into a new one.
pub(super) fn run(dir: &Path, into: &Path, out: &mut impl Write) -> Result<DataOutcome, Trouble> {
    if into.symlink_metadata().is_ok() {
        let reason = format!("{} exists: give the name of a new folder", into.display());
        return Err(Trouble::New(reason));
    }
    let mut folder = OfflineFolder::read(dir)?;
    let moved = folder.moved();
    let mut findings = std::mem::take(&mut folder.inspected.findings);
    // They are missing in the new folder.
    findings.extend(moved);
    for finding in &findings {
        line(out, format_args!("bad: {}", folder.told(finding)))?;
    }
    for lane in orphans(&folder) {
        let vhost = vhost_for_lost(&folder);
        let name = format!("leveret.salvaged.{}", lane.0);
        line(
            out,
            format_args!(
                "the queue of lane {} is lost: its messages go to '{name}' in vhost '{vhost}'",
                lane.0
            ),
        )?;
        let (key, value) = queue_for_lost(&vhost, &name, lane);
        folder.inspected.topology.insert(key, value);
    }
    let saved = folder.inspected.messages.len();
    let OfflineFolder {
        inspected,
        _disk: lock,
        ..
    } = folder;
    let part = part_of(into);
    let written = write(inspected, &part);
    drop(lock);
    if let Err(trouble) = written.and_then(|()| rename(&part, into)) {
        // What is not whole must not be taken for it.
        drop(std::fs::remove_dir_all(&part));
        return Err(trouble);
    }
    line(
        out,
        format_args!("{saved} messages are in {}", into.display()),
    )?;
    Ok(DataOutcome::of(&findings))
}

/// Lanes with messages whose queue is not declared.
fn orphans(folder: &OfflineFolder) -> Vec<LaneId> {
    let lanes = folder.inspected.lanes.iter();
    let lanes = lanes.filter(|lane| lane.messages > 0 && !folder.owners.contains_key(&lane.lane));
    lanes.map(|lane| lane.lane).collect()
}

fn vhost_for_lost(folder: &OfflineFolder) -> String {
    let mut names: Vec<_> = folder
        .broker
        .vhosts()
        .iter()
        .map(|of| of.name.to_string())
        .collect();
    names.sort();
    names.into_iter().next().unwrap_or_else(|| "/".to_owned())
}

/// Where the new folder is until it is whole.
fn part_of(into: &Path) -> PathBuf {
    let mut name = into.file_name().map(OsString::from).unwrap_or_default();
    name.push(".part");
    into.with_file_name(name)
}

fn write(inspected: leveret_store::StoreContents, part: &Path) -> Result<(), Trouble> {
    let new = |error: &dyn std::fmt::Display| Trouble::New(format!("{}: {error}", part.display()));
    // Of an attempt before.
    match std::fs::remove_dir_all(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(new(&error)),
        _ => {}
    }
    let disk = Arc::new(Disk::open(part).map_err(|refusal| new(&refusal))?);
    let total = disk.total_bytes().map_err(|error| new(&error))?;
    let config = JournalConfig {
        disk_free_min: 0,
        // All of it is synced at the end.
        sync: SyncPolicy::Os,
        new_store_id: random().map_err(|error| new(&error))?,
        ..sized_for(total, JournalConfig::default().window_bytes)
    };
    let opened = Journal::open(Arc::clone(&disk) as Arc<dyn Vfs>, config);
    let opened = opened.map_err(|error| new(&error))?;
    let written = inspected.salvage_to(&opened.journal);
    written.map_err(|error| new(&error))
}

/// Gives the new folder its name, for good.
fn rename(part: &Path, into: &Path) -> Result<(), Trouble> {
    std::fs::rename(part, into)?;
    let parent = into
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
    Ok(())
}
