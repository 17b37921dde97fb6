//! Looks at a store without changing it: what recovery would find, and whatever else is wrong.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::checkpoint;
use crate::format::{self, Format};
use crate::lanes::{JournalLanes, Serial};
use crate::moved::RecoveredChunks;
use crate::record::u64_at;
use crate::recovery::found::FoundOnDisk;
use crate::recovery::replay::ReplayState;
use crate::recovery::walk::Unproven;
use crate::recovery::{
    Damage, Messages, OpenError, RecoveredLane, Walked, audit, disk, evidence, hold, older,
    recovered_chunks, recovered_lanes, walk,
};
use crate::segment::{self, Pool};
use crate::vfs::{DiskError, Vfs, read_readable};
use crate::{Journal, JournalConfig, LaneId};

/// A store as it is on the disk.
pub struct StoreContents {
    /// What can be read of the messages that live in the journal.
    pub messages: Messages,
    /// What lives of chunks that it has handed over to run files, which are not looked at.
    pub moved: RecoveredChunks,
    /// Every lane that was ever named and not deleted, by number.
    pub lanes: Vec<RecoveredLane>,
    /// The latest value of each topology key.
    pub topology: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A lane number never used before; so is every one after it.
    pub next_lane: u32,
    /// What is wrong, where.
    pub findings: Vec<Finding>,
    /// What is not as usual, and does no harm.
    pub notes: Vec<Finding>,
    /// All segments, by name.
    pub segments: Vec<SegmentUse>,
    /// Frames that were read and found whole.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The file; empty: the store as a whole.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// What it is.
    pub what: String,
    /// Messages lost: lane and sequence numbers `from..to`, as far as can be told.
    pub lost: Vec<(LaneId, u64, u64)>,
}

impl Finding {
    /// Without messages that it costs.
    pub(super) fn new(file: &str, offset: u64, what: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            offset,
            what: what.into(),
            lost: Vec::new(),
        }
    }
}

impl From<Damage> for Finding {
    fn from(damage: Damage) -> Self {
        let frame = damage.frame.map(|frame| format!(" (frame {frame})"));
        Self {
            what: format!("{}{}", damage.what, frame.unwrap_or_default()),
            file: damage.file,
            offset: damage.offset,
            lost: damage.lost,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{} at {}: ", self.file, self.offset)?;
        }
        f.write_str(&self.what)
    }
}

/// What is in a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentUse {
    /// Its name.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// How much of it is written; zero if nothing in it is needed.
    pub used_bytes: u64,
    /// Messages that were written to it, one for each target.
    pub messages: u64,
    /// Those that live.
    pub live: u64,
}

impl Journal {
    /// Looks at the store in a directory and writes nothing.
    ///
    /// # Errors
    /// [`OpenError`]: there is no telling what is in it.
    pub fn inspect(vfs: &dyn Vfs, config: &JournalConfig) -> Result<StoreContents, OpenError> {
        let found = FoundOnDisk::read(vfs, config.new_store_id)?;
        if found.created && Format::read(vfs)?.is_none() {
            return Err(OpenError::NoStore);
        }
        let (store, generation) = (found.format.store(), found.image.generation);
        let FoundOnDisk {
            mut pool,
            starts,
            image,
            ..
        } = found;
        let known = evidence::Known::of(&image);
        let (head, pool_of_walk) = (image.head.serial, pool.clone());
        let walked = walk(config, &pool_of_walk, store, starts.clone(), image)?;
        let Walked {
            mut state,
            unproven,
            ..
        } = walked;
        if generation == 0 && !state.damage.is_empty() {
            return Err(OpenError::NoCheckpoint);
        }
        evidence::judge(config, (&pool, &starts), &known, &mut state);
        older::scan(&pool, store, &mut state);
        older::settle_lost(&mut state);
        apply(&mut state, &unproven)?;
        hold(&mut pool, &state, generation);
        let mut findings = gather(config, &mut state);
        let audited = audit::frames((&pool, store), &state, head);
        findings.extend(audited.findings);
        let mut notes = torn_checkpoints(vfs, store)?;
        // Before the first checkpoint it may have been written just when the machine stopped.
        let of_format = if generation == 0 {
            &mut notes
        } else {
            &mut findings
        };
        of_format.extend(copies_of_format(vfs)?);
        state.lanes.forget_absent();
        findings.extend(audit::lanes(&state.lanes));
        let inspected = StoreContents {
            segments: segments(&pool, &state),
            lanes: recovered_lanes(&state),
            next_lane: state.lanes.next_lane,
            moved: recovered_chunks(&state.lanes),
            messages: messages(&pool, &mut state),
            topology: state.topology,
            findings,
            notes,
            frames: audited.frames,
            records: audited.records,
        };
        Ok(inspected.counted(&state.lanes))
    }
}

impl StoreContents {
    /// Whether each message that should live has a record.
    fn counted(mut self, lanes: &JournalLanes) -> Self {
        let moved = self.moved.messages();
        let live = lanes.held.all();
        let found = self.messages.len() as u64 + moved;
        if live != found {
            let what = format!("{live} messages should live, and {found} are there");
            self.findings.push(Finding::new("", 0, what));
        }
        self
    }
}

fn apply(state: &mut ReplayState, unproven: &VecDeque<Unproven>) -> Result<(), OpenError> {
    unproven
        .iter()
        .try_for_each(|frame| state.apply(&frame.as_body()))
}

/// What recovery has found wrong, and what it would refuse to open without.
fn gather(config: &JournalConfig, state: &mut ReplayState) -> Vec<Finding> {
    let damage = std::mem::take(&mut state.damage).into_iter();
    let mut findings: Vec<Finding> = damage.map(Finding::from).collect();
    let mut lanes: Vec<_> = state.lanes.lanes.keys().copied().collect();
    lanes.sort_unstable();
    let missing = config.missing.filter(|_| state.has_gaps);
    if let Some(missing) = missing.and_then(|missing| missing(&state.topology, &lanes)) {
        let what = format!("declarations are lost, and the broker does not start: {missing}");
        findings.push(Finding::new("", 0, what));
    }
    findings
}

fn messages(pool: &Pool, state: &mut ReplayState) -> Messages {
    let places = std::mem::take(&mut state.places);
    let lives = |lane, seq, serial| state.lanes.holder(lane, seq) == Some(serial);
    let live = places.into_iter();
    let live = live.filter(|place| lives(place.lane, place.seq, place.serial));
    let slots: BTreeMap<Serial, u32> = state
        .extents
        .iter()
        .map(|(serial, (slot, _))| (*serial, *slot))
        .collect();
    Messages::new(pool, slots, live.collect(), &state.lanes)
}

fn segments(pool: &Pool, state: &ReplayState) -> Vec<SegmentUse> {
    let extents: BTreeMap<u32, _> = state.extents.values().copied().collect();
    let of = |(slot, segment): (&u32, &segment::Segment)| {
        let extent = extents.get(slot).copied().unwrap_or_default();
        SegmentUse {
            file: segment::name_of(*slot),
            bytes: segment.bytes,
            used_bytes: extent.end,
            messages: extent.messages,
            live: state.lanes.held_by(extent.serial),
        }
    };
    pool.segments.iter().map(of).collect()
}

fn copies_of_format(vfs: &dyn Vfs) -> Result<Vec<Finding>, OpenError> {
    let rotten = Format::rotten_copies(vfs).map_err(|error| disk(format::NAME, error))?;
    let what = "one of the two copies of what the file says is unreadable";
    let finding = |at| Finding::new(format::NAME, at, what);
    Ok(rotten.into_iter().map(finding).collect())
}

/// Checkpoints that are not whole. One that was being written when the broker ended looks the same
/// as one that has rotted; the next one is written over it, and all was found without it.
fn torn_checkpoints(vfs: &dyn Vfs, store: u64) -> Result<Vec<Finding>, OpenError> {
    let mut torn = Vec::new();
    for name in checkpoint::NAMES {
        let file = match vfs.open(name) {
            Ok(file) => file,
            Err(DiskError::Missing) => continue,
            Err(error) => return Err(disk(name, error)),
        };
        let len = file.size().map_err(|error| disk(name, error))?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        read_readable(&*file, &mut bytes);
        // Space is kept for it before the first one is written.
        let unused = (0..4).all(|word| u64_at(&bytes, word * 8).unwrap_or(0) == 0);
        let whole = checkpoint::intact(&bytes, store).and_then(checkpoint::decode);
        if !unused && whole.is_none() {
            let what = "this checkpoint is not whole: it was being written when the broker ended, \
                        or it has rotted. The other one is enough, and the next start replaces it";
            torn.push(Finding::new(name, 0, what));
        }
    }
    Ok(torn)
}
