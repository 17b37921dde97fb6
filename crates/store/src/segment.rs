//! The pool of segment files: which are free, which hold what, which may be reused when.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::lanes::Serial;
use crate::vfs::{DiskError, Vfs, VfsFile};

/// What is in a segment; also how a checkpoint lists it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Extent {
    pub(crate) serial: Serial,
    pub(crate) epoch: u32,
    /// First and last frame.
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    /// Where the last frame ends, and its chain value.
    pub(crate) end: u64,
    pub(crate) last_chain: u32,
    /// How many messages were ever written to it, one for each target.
    pub(crate) messages: u64,
    /// Its survivors have been copied once; what is left could not be.
    pub(crate) copied: bool,
}

/// What a slot is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// Nothing: may be written.
    Free,
    /// Nothing that the checkpoint of this generation or later ones need; free once a later one
    /// is durable, so that both checkpoints on the disk can do without it.
    Stale(u64),
    /// Frames.
    Held(Extent),
}

/// Whether something else than the journal relies on a file: it is not written again before that
/// is over.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum OtherUse {
    /// Nothing does.
    #[default]
    No,
    /// A backup that is being made reads it.
    Copied,
    /// It has another name, in a backup: what is in it stays, and the journal does without it.
    Linked,
}

/// One segment file.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) bytes: u64,
    pub(crate) used: Use,
    pub(crate) kept: OtherUse,
}

impl Segment {
    /// A file that the journal has made and may use.
    pub(crate) const fn free(file: Arc<dyn VfsFile>, bytes: u64) -> Self {
        Self {
            file,
            bytes,
            used: Use::Free,
            kept: OtherUse::No,
        }
    }

    /// Whether another directory has it, too. What does not tell is taken to be nobody else's.
    pub(crate) fn is_linked(&self) -> bool {
        self.file.names().is_ok_and(|names| names > 1)
    }
}

/// All segment files, by slot: the number in the file's name.
#[derive(Clone, Default)]
pub(crate) struct Pool {
    pub(crate) segments: BTreeMap<u32, Segment>,
}

const PREFIX: &str = "journal-";

/// The file name of a slot.
pub(crate) fn name_of(slot: u32) -> String {
    format!("{PREFIX}{slot:06}")
}

/// The slot of a file name.
pub(crate) fn slot_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

impl Pool {
    /// A free segment of at least `bytes`: the smallest that will do. None of those kept for
    /// starts, which have a size of their own.
    pub(crate) fn free_slot(&self, bytes: u64, start_bytes: u64) -> Option<u32> {
        self.segments
            .iter()
            .filter(|(_, segment)| segment.used == Use::Free && segment.bytes >= bytes)
            .filter(|(_, segment)| segment.bytes != start_bytes)
            .min_by_key(|(slot, segment)| (segment.bytes, **slot))
            .map(|(slot, _)| *slot)
    }

    /// How many free segments have exactly this size.
    pub(crate) fn free_of(&self, bytes: u64) -> usize {
        self.segments
            .values()
            .filter(|s| s.used == Use::Free && s.bytes == bytes)
            .count()
    }

    /// How many segments have exactly this size.
    pub(crate) fn count_of(&self, bytes: u64) -> usize {
        let segments = self.segments.values();
        segments.filter(|segment| segment.bytes == bytes).count()
    }

    /// Free segments.
    pub(crate) fn free(&self) -> impl Iterator<Item = (u32, &Segment)> {
        self.segments
            .iter()
            .filter(|(_, s)| s.used == Use::Free)
            .map(|(slot, s)| (*slot, s))
    }

    /// Segments with frames in them.
    pub(crate) fn held(&self) -> impl Iterator<Item = (u32, Extent)> + '_ {
        self.segments
            .iter()
            .filter_map(|(slot, segment)| match segment.used {
                Use::Held(extent) => Some((*slot, extent)),
                Use::Free | Use::Stale(_) => None,
            })
    }

    /// All segments as a checkpoint lists them: those without frames with an extent of zeros.
    pub(crate) fn directory(&self) -> Vec<(u32, u64, Extent)> {
        let extent = |used| match used {
            Use::Held(extent) => extent,
            Use::Free | Use::Stale(_) => Extent::default(),
        };
        self.segments
            .iter()
            .map(|(slot, segment)| (*slot, segment.bytes, extent(segment.used)))
            .collect()
    }

    /// Whether some slots only wait for a checkpoint to be free.
    pub(crate) fn has_stale(&self) -> bool {
        self.segments
            .values()
            .any(|segment| segment.kept == OtherUse::No && matches!(segment.used, Use::Stale(_)))
    }

    /// Bytes of all segment files.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// The file of a slot.
    pub(crate) fn file(&self, slot: u32) -> Result<Arc<dyn VfsFile>, DiskError> {
        self.segments
            .get(&slot)
            .map(|segment| segment.file.clone())
            .ok_or(DiskError::Missing)
    }

    /// What a slot holds.
    pub(crate) fn extent_mut(&mut self, slot: u32) -> Option<&mut Extent> {
        match &mut self.segments.get_mut(&slot)?.used {
            Use::Held(extent) => Some(extent),
            Use::Free | Use::Stale(_) => None,
        }
    }

    /// Changes what a slot is used for.
    pub(crate) fn set(&mut self, slot: u32, used: Use) {
        if let Some(segment) = self.segments.get_mut(&slot) {
            segment.used = used;
        }
    }

    /// Frees what both checkpoints can do without, now that `generation` is durable; what others
    /// rely on only when they do so no more.
    pub(crate) fn checkpointed(&mut self, generation: u64) {
        for segment in self.segments.values_mut() {
            let unused = matches!(segment.used, Use::Stale(since) if since < generation);
            if unused && segment.kept == OtherUse::No {
                segment.used = Use::Free;
            }
        }
    }

    /// A segment that both checkpoints can do without, `generation` being durable, and that has
    /// another name.
    pub(crate) fn expendable(&self, generation: u64) -> Option<u32> {
        let expendable = |segment: &Segment| {
            segment.kept == OtherUse::Linked
                && matches!(segment.used, Use::Stale(since) if since < generation)
        };
        let mut segments = self.segments.iter();
        segments
            .find(|(_, segment)| expendable(segment))
            .map(|(slot, _)| *slot)
    }

    /// Frees a segment that nobody else has a name for any more.
    pub(crate) fn take_back(&mut self, slot: u32) -> bool {
        let segment = self.segments.get_mut(&slot);
        let Some(segment) = segment.filter(|segment| !segment.is_linked()) else {
            return false;
        };
        (segment.kept, segment.used) = (OtherUse::No, Use::Free);
        true
    }

    /// A backup was made, or given up: looks who still relies on what.
    pub(crate) fn let_go(&mut self) {
        let kept = self.segments.values_mut();
        for segment in kept.filter(|segment| segment.kept != OtherUse::No) {
            segment.kept = if segment.is_linked() {
                OtherUse::Linked
            } else {
                OtherUse::No
            };
        }
    }
}

/// How much is zeroed with one write,
pub(crate) const ZERO_PIECE: u64 = 256 << 10;
/// and beside others' work: memory for the page cache is dear, and the kernel takes the processor
/// from nobody who writes.
pub(crate) const ZERO_PIECE_BESIDE: u64 = 16 << 10;

/// Makes a segment of zeros that survives a crash, all at once.
pub(crate) fn create(vfs: &dyn Vfs, slot: u32, bytes: u64) -> Result<Segment, DiskError> {
    let segment = make(vfs, slot, bytes)?;
    if let Err(error) = segment.file.sync().and_then(|()| vfs.sync_dir()) {
        give_up(vfs, slot);
        return Err(error);
    }
    Ok(segment)
}

/// Makes a segment of zeros that survives a crash once file and directory have been synced.
pub(crate) fn make(vfs: &dyn Vfs, slot: u32, bytes: u64) -> Result<Segment, DiskError> {
    let file = vfs.create(&name_of(slot))?;
    let zeroed = (0..bytes.div_ceil(ZERO_PIECE))
        .try_for_each(|piece| zero(&*file, piece * ZERO_PIECE, bytes, ZERO_PIECE).map(|_| ()));
    if let Err(error) = zeroed {
        give_up(vfs, slot);
        return Err(error);
    }
    Ok(Segment::free(file, bytes))
}

/// Removes a file that is worth nothing; that it may stay behind costs only space.
pub(crate) fn give_up(vfs: &dyn Vfs, slot: u32) {
    drop(vfs.remove(&name_of(slot)));
}

/// Zeros one piece of a segment at `from`; returns where the next begins.
pub(crate) fn zero(
    file: &dyn VfsFile,
    from: u64,
    bytes: u64,
    piece: u64,
) -> Result<u64, DiskError> {
    let len = piece.min(bytes.saturating_sub(from));
    file.write_at(from, &vec![0; usize::try_from(len).unwrap_or(0)])?;
    Ok(from + len)
}
