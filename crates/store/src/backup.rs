//! Copies of a journal that is at work: what they consist of, and that nothing of it changes
//! meanwhile.

use std::collections::BTreeSet;

use crate::checkpoint::{self, ImageParts};
use crate::core::Core;
use crate::journal::{Journal, StoreFailure};
use crate::segment::{self, Extent, OtherUse};
use crate::{JournalConfig, StoreSabotage, format};

/// What a copy of the journal consists of, as of one moment; everything confirmed before is in it.
/// The files keep their names, and what is in them, for as long as this lives.
pub struct Backup<'a> {
    journal: &'a Journal,
    /// The journal's files that it needs.
    pub files: Vec<BackupFile>,
    /// The run files that it needs: the journal has handed messages over to them.
    pub runs: BTreeSet<u64>,
    /// Files that it needs besides, with their whole contents.
    pub made: Vec<(&'static str, Vec<u8>)>,
    /// Messages in it, one for each queue that has it.
    pub messages: u64,
}

/// A file of a journal, as a copy of it needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupFile {
    /// Its name, here and there.
    pub name: String,
    /// How long it is, and must be there.
    pub bytes: u64,
    /// How much of it counts; the rest is as good as zeros.
    pub used_bytes: u64,
    /// Whether it is never written again, so that the copy may be another name of the same file.
    pub may_be_linked: bool,
}

/// Why no copy can be begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoBackup {
    /// Another one is being made.
    Busy,
    /// The journal has stopped.
    Stopped(StoreFailure),
}

impl From<StoreFailure> for NoBackup {
    fn from(failure: StoreFailure) -> Self {
        Self::Stopped(failure)
    }
}

impl Journal {
    /// Begins a copy: takes a picture of what is known, as a checkpoint does, and has housekeeping
    /// spare the files that hold the messages.
    ///
    /// # Errors
    /// [`NoBackup`].
    pub fn begin_backup(&self) -> Result<Backup<'_>, NoBackup> {
        self.check()?;
        let mut core = self.core.lock();
        if core.backing_up {
            return Err(NoBackup::Busy);
        }
        // The picture must not know of frames that the disk does not have.
        core.sync()
            .map_err(|error| self.fail(format!("sync of frames: {error}")))?;
        core.backing_up = true;
        let head = core.head;
        let held = core
            .pool
            .directory()
            .into_iter()
            .filter(|(slot, _, extent)| {
                *slot == head.slot || core.lanes.held_by(extent.serial) > 0
            });
        let directory: Vec<_> = held.collect();
        let generation = core.generation + 1;
        let parts = ImageParts {
            generation,
            head: &head,
            next_serial: core.next_serial,
            directory: &directory,
            lanes: &core.lanes,
            topology: &core.topology,
            forget_returns: false,
            forget_moved: false,
        };
        let image = parts.encode(core.store);
        let files = self.spare(&mut core, &directory);
        let (messages, runs) = (core.lanes.held.all(), core.lanes.held.runs());
        drop(core);
        let next = checkpoint::renumbered(&image, generation + 1);
        Ok(Backup {
            journal: self,
            files,
            runs,
            made: vec![
                (checkpoint::name_of(generation), image),
                (checkpoint::name_of(generation + 1), next),
            ],
            messages,
        })
    }

    /// Has the journal leave these segments as they are; gives what a copy needs of each.
    fn spare(&self, core: &mut Core, directory: &[(u32, u64, Extent)]) -> Vec<BackupFile> {
        let head = core.head;
        let mut files = Vec::new();
        for (slot, bytes, extent) in directory {
            let may_be_linked = *slot != head.slot && is_worth_a_link(&self.config, *bytes);
            let used_bytes = if *slot == head.slot {
                head.offset
            } else {
                extent.end
            };
            files.push(BackupFile {
                name: segment::name_of(*slot),
                bytes: *bytes,
                used_bytes,
                may_be_linked,
            });
            if let Some(segment) = core.pool.segments.get_mut(slot)
                && !self.config.breaks(StoreSabotage::ReuseLinked)
            {
                segment.kept = if may_be_linked {
                    OtherUse::Linked
                } else {
                    OtherUse::Copied
                };
            }
        }
        files
    }

    /// Gives up the names of segments that only backups need any more; one whose backup is gone is
    /// used again. What was made meanwhile takes their place.
    pub(crate) fn part_with_linked(&self) {
        let mut core = self.core.lock();
        let generation = core.generation;
        while let Some(slot) = core
            .pool
            .expendable(generation)
            .filter(|_| !core.backing_up)
        {
            if core.pool.take_back(slot) {
                continue;
            }
            core.pool.segments.remove(&slot);
            drop(self.vfs.remove(&segment::name_of(slot)));
        }
    }
}

impl Backup<'_> {
    /// The name of the file that says whose files these are. It is copied: a later version may
    /// write it.
    pub const FORMAT: &'static str = format::NAME;
}

impl Drop for Backup<'_> {
    fn drop(&mut self) {
        let mut core = self.journal.core.lock();
        core.pool.let_go();
        core.backing_up = false;
        drop(core);
        self.journal.ring();
    }
}

/// Small segments are copied: those that starts begin in are to stay the journal's own, so that a
/// full disk keeps nobody from starting.
const fn is_worth_a_link(config: &JournalConfig, bytes: u64) -> bool {
    bytes > config.first_segment_bytes
}
