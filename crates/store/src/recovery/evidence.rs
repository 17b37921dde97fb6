//! What the files tell apart from their frames: a segment that is shorter than it was made, or a
//! copy of another one, has lost confirmed data even if it ends like a write that a crash
//! interrupted.

use std::collections::BTreeMap;

use crate::checkpoint::{ChainHead, Image};
use crate::frame::{BLOCK, Header};
use crate::lanes::Serial;
use crate::recovery::replay::ReplayState;
use crate::recovery::scan::Start;
use crate::recovery::{Damage, OpenError, Unreadable};
use crate::segment::{self, Pool};
use crate::{JournalConfig, LaneId};

/// What the newest checkpoint says about the files.
pub(super) struct Known {
    head: ChainHead,
    /// Sizes of segments with messages.
    held: BTreeMap<u32, u64>,
    /// Sizes of all others; they may have been made anew since.
    others: BTreeMap<u32, u64>,
}

impl Known {
    pub(super) fn of(image: &Image) -> Self {
        let held = image.directory.iter();
        Self {
            head: image.head,
            held: held.map(|(slot, bytes, _)| (*slot, *bytes)).collect(),
            others: image.others.iter().copied().collect(),
        }
    }

    /// Whether a file of this size is as long as it was made.
    fn is_whole(
        &self,
        config: &JournalConfig,
        (slot, bytes): (u32, u64),
        first: Option<&Header>,
    ) -> bool {
        let listed = self.held.get(&slot).or_else(|| self.others.get(&slot));
        let Some(first) = first else {
            // That its first frame is lost is told already.
            return listed.is_none_or(|listed| bytes >= *listed);
        };
        if let Some(made) = first.made_bytes() {
            return bytes >= made;
        }
        // Earlier versions did not say. They listed only what held messages, and made segments of
        // two sizes, and of the size that a large frame and a seal need.
        if let Some(listed) = self.held.get(&slot) {
            return bytes >= *listed;
        }
        let usual = [config.segment_bytes, config.first_segment_bytes];
        usual.contains(&bytes)
            || bytes == first.frame_len().saturating_add(BLOCK)
            || self.held.values().any(|listed| *listed == bytes)
    }
}

/// Syncs the files that may have been made since the checkpoint: the next one lists them, and what
/// is listed must be as long as it was, also after a power cut.
pub(super) fn sync_new(pool: &Pool, known: &Known) -> Result<(), OpenError> {
    for (slot, segment) in &pool.segments {
        if known.held.contains_key(slot) {
            continue;
        }
        segment.file.sync().map_err(|error| OpenError::Disk {
            what: segment::name_of(*slot),
            error,
        })?;
    }
    Ok(())
}

/// Adds to the damage what was cut off or overwritten with another file.
pub(super) fn judge(
    config: &JournalConfig,
    (pool, starts): (&Pool, &[Start]),
    known: &Known,
    state: &mut ReplayState,
) {
    let mut found = Vec::new();
    found.extend(lost_head(pool, starts, known));
    found.extend(copies(starts, state));
    found.extend(cut(config, (pool, starts), known, state));
    state.has_gaps |= !found.is_empty();
    state.damage.extend(found);
}

/// The segment that the checkpoint goes on in, if it is not what it was.
fn lost_head(pool: &Pool, starts: &[Start], known: &Known) -> Option<Damage> {
    let head = known.head;
    if head.offset == 0 {
        return None;
    }
    let Some(segment) = pool.segments.get(&head.slot) else {
        return Some(damage(head.slot, 0, Unreadable::File));
    };
    let start = starts.iter().find(|start| start.slot == head.slot);
    let other = start.is_none_or(|start| start.header.serial != head.serial);
    // Shorter ones are told below.
    (other && segment.bytes >= head.offset).then(|| damage(head.slot, 0, Unreadable::File))
}

/// Segments that begin as another one does: no two ever did.
fn copies(starts: &[Start], state: &ReplayState) -> Vec<Damage> {
    let mut first: BTreeMap<Serial, u32> = BTreeMap::new();
    for (serial, (slot, _)) in &state.extents {
        first.insert(*serial, *slot);
    }
    let mut copies = Vec::new();
    for start in starts {
        let slot = *first.entry(start.header.serial).or_insert(start.slot);
        if slot != start.slot {
            copies.push(damage(start.slot, 0, Unreadable::Copy));
        }
    }
    copies
}

/// Segments that are in use and shorter than they were made.
fn cut(
    config: &JournalConfig,
    (pool, starts): (&Pool, &[Start]),
    known: &Known,
    state: &ReplayState,
) -> Vec<Damage> {
    let used = state.extents.iter().filter(|(serial, (_, extent))| {
        // What is proven was synced, and with it the whole file.
        let synced = extent.first_seq <= state.proven || known.head.serial >= **serial;
        let needed = **serial >= known.head.serial || state.lanes.held_by(**serial) > 0;
        synced && needed
    });
    let mut slots: Vec<u32> = used.map(|(_, (slot, _))| *slot).collect();
    slots.extend((known.head.offset > 0).then_some(known.head.slot));
    // The whole segment was synced before it was sealed that the chain leads there.
    slots.extend(state.led_to);
    slots.sort_unstable();
    slots.dedup();
    let mut cut = Vec::new();
    for slot in slots {
        let Some(segment) = pool.segments.get(&slot) else {
            continue;
        };
        let start = starts.iter().find(|start| start.slot == slot);
        let first = start.map(|start| &start.header);
        // A segment without even a block has lost its first frame.
        let none = segment.bytes < BLOCK;
        if none || !known.is_whole(config, (slot, segment.bytes), first) {
            cut.push(damage(slot, segment.bytes, Unreadable::Cut));
        }
    }
    cut
}

fn damage(slot: u32, offset: u64, what: Unreadable) -> Damage {
    Damage {
        file: segment::name_of(slot),
        offset,
        frame: None,
        what,
        lost: Vec::<(LaneId, u64, u64)>::new(),
    }
}
