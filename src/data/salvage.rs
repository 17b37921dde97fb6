//! `leveret data salvage`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_broker::topology::queue_for_lost;
use leveret_broker::{RunError, Runs, RunsConfig};
use leveret_store::{
    Finding, Journal, JournalConfig, LaneId, MovedPiece, StoreContents, SyncPolicy, Vfs,
};

use super::moved::{reader_of, unread};
use super::{DataOutcome, OfflineFolder, Trouble, line, told};
use crate::disk::Disk;
use crate::journal::{random, sized_for};
use crate::run_files::RunFolder;

/// Writes what can be read of a folder into a new one.
pub(super) fn run(dir: &Path, into: &Path, out: &mut impl Write) -> Result<DataOutcome, Trouble> {
    if into.symlink_metadata().is_ok() {
        let reason = format!("{} exists: give the name of a new folder", into.display());
        return Err(Trouble::New(reason));
    }
    let mut folder = OfflineFolder::read(dir)?;
    let mut findings = std::mem::take(&mut folder.inspected.findings);
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
    let OfflineFolder {
        inspected,
        owners,
        _disk: lock,
        ..
    } = folder;
    let part = part_of(into);
    let written = write(dir, inspected, &part);
    drop(lock);
    let written = written.and_then(|saved| rename(&part, into).map(|()| saved));
    let saved = written.inspect_err(|_| {
        // What is not whole must not be taken for it.
        drop(std::fs::remove_dir_all(&part));
    })?;
    for finding in &saved.wrong {
        line(out, format_args!("bad: {}", told(&owners, finding)))?;
    }
    findings.extend(saved.wrong);
    let (messages, into) = (saved.messages, into.display());
    line(out, format_args!("{messages} messages are in {into}"))?;
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

/// What is in the new folder.
struct Saved {
    messages: u64,
    /// What of run files is not.
    wrong: Vec<Finding>,
}

fn write(dir: &Path, inspected: StoreContents, part: &Path) -> Result<Saved, Trouble> {
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
    let runs = RunFolder::open(part, &BTreeSet::new()).map_err(|error| new(&error))?;
    let runs = Runs::new(Arc::new(runs), RunsConfig::default());
    let (chunks, wrong) = copy_chunks(dir, &inspected, &runs).map_err(|error| new(&error))?;
    let moved: u64 = chunks.iter().map(MovedPiece::messages).sum();
    let messages = inspected.messages.len() as u64 + moved;
    let written = inspected.salvage_to(&opened.journal, &chunks);
    written.map_err(|error| new(&error))?;
    Ok(Saved { messages, wrong })
}

/// Copies all chunks that are as they were written, and has the new ones last; gives where they are
/// now, and what is wrong with the others.
fn copy_chunks(
    dir: &Path,
    inspected: &StoreContents,
    new: &Runs,
) -> Result<(Vec<MovedPiece>, Vec<Finding>), RunError> {
    let mut reader = reader_of(dir);
    let (mut copied, mut wrong) = (Vec::new(), Vec::new());
    let mut spots = Vec::new();
    for mut piece in inspected.moved.chunks() {
        if let Err(error) = reader.read(&piece, |_| ()) {
            wrong.push(unread(&piece, &error));
            continue;
        }
        let bytes = reader.bytes();
        for spot in new.write(bytes, &[bytes.len()])? {
            piece.chunk.place = spot.place();
            spots.push(spot);
        }
        copied.push(piece);
    }
    let made: BTreeSet<u64> = spots.iter().map(|spot| spot.place().run).collect();
    made.into_iter().try_for_each(|run| new.sync(run))?;
    Ok((copied, wrong))
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
