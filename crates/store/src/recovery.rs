//! Opens a store: newest checkpoint, frames after it, messages of older segments, a new epoch.
//!
//! Nothing that was there is overwritten before the new epoch's first frame and checkpoint are
//! durable, so a crash in here changes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::checkpoint::{self, ChainHead, Files, Image};
use crate::core::{Core, WriteError};
use crate::format::Format;
use crate::frame::{self, BLOCK, EPOCH, HEADER, Header};
use crate::journal::Journal;
use crate::lanes::{JournalLanes, Serial};
use crate::moved::{self, RecoveredChunks};
use crate::record::RawRecord;
use crate::segment::{self, OtherUse, Pool, Use};
use crate::vfs::{DiskError, Vfs};
use crate::{JournalConfig, OnCorruption};

mod audit;
mod damage;
mod evidence;
mod found;
mod inspect;
mod messages;
mod older;
mod replay;
mod salvage;
mod scan;
mod walk;

pub use damage::{Damage, OpenError, Unreadable};
pub use inspect::{Finding, SegmentUse, StoreContents};
pub use messages::{Messages, RecoveredLane, RecoveredMessage};
pub use salvage::SalvageError;

use found::FoundOnDisk;
use replay::{FrameBody, ReplayState};
use scan::Start;
use walk::{Beginning, RecoveryWalk, Unproven};

/// A store that was opened.
pub struct Recovered {
    /// The journal, ready to be written once [`Self::messages`] have been taken.
    pub journal: Journal,
    /// What was live.
    pub messages: Messages,
    /// What was live of chunks that were moved out of the journal: not among the messages.
    pub moved: RecoveredChunks,
    /// Every lane that was ever named and not deleted, by number.
    pub lanes: Vec<RecoveredLane>,
    /// The latest value of each topology key.
    pub topology: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A lane number never used before; so is every one after it.
    pub next_lane: u32,
    /// Confirmed data that could not be read; a human should look.
    pub damage: Vec<Damage>,
    /// Whether the store did not exist before.
    pub created: bool,
    /// Whether one of the two copies of FORMAT had rotten and was written anew.
    pub format_repaired: bool,
}

impl Journal {
    /// Opens the store in a directory, or makes one.
    ///
    /// # Errors
    /// [`OpenError`]: nothing has been changed that a later attempt would miss.
    pub fn open(vfs: Arc<dyn Vfs>, config: JournalConfig) -> Result<Recovered, OpenError> {
        let found = FoundOnDisk::read(&*vfs, config.new_store_id)?;
        found.mark(&*vfs)?;
        let FoundOnDisk {
            format,
            mut pool,
            starts,
            image,
            bytes,
            older,
            created,
        } = found;
        let store = format.store();
        let generation = image.generation;
        let known = evidence::Known::of(&image);
        let walked = walk(&config, &pool, store, starts.clone(), image)?;
        let Walked {
            mut state,
            head,
            unproven,
            next_serial,
        } = walked;
        if generation == 0 && !state.damage.is_empty() {
            return Err(OpenError::NoCheckpoint);
        }
        evidence::judge(&config, (&pool, &starts), &known, &mut state);
        older::scan(&pool, store, &mut state);
        judge(&config, &state.damage)?;
        judge_topology(&config, &state, &unproven)?;
        older::settle_lost(&mut state);
        evidence::sync_new(&pool, &known)?;
        hold(&mut pool, &state, generation);
        release((&mut pool, &starts), older.as_ref());

        let files = Files::open(&*vfs).map_err(|error| disk("checkpoint", error))?;
        rewrite_checkpoint(&files, generation, bytes.as_deref())?;
        // The other one is enough: a disk that fails here is tried again at the next open.
        let format_repaired = Format::repair(&*vfs).unwrap_or(false);
        let epoch = highest_epoch(&starts, &head) + 1;
        let mut core = Core {
            store,
            head,
            next_serial,
            pool,
            generation,
            ..Core::default()
        };
        let home = JournalHome { vfs, config, files };
        begin_epoch(&home, (&mut core, &mut state), epoch, unproven)?;
        let recovered = finish(home, core, state, created)?;
        Ok(Recovered {
            format_repaired,
            ..recovered
        })
    }
}

/// Where a journal lives.
struct JournalHome {
    vfs: Arc<dyn Vfs>,
    config: JournalConfig,
    files: Files,
}

fn disk(what: &str, error: DiskError) -> OpenError {
    OpenError::Disk {
        what: what.to_owned(),
        error,
    }
}

/// What the walk found.
struct Walked {
    state: ReplayState,
    head: ChainHead,
    unproven: VecDeque<Unproven>,
    next_serial: Serial,
}

fn walk(
    config: &JournalConfig,
    pool: &Pool,
    store: u64,
    starts: Vec<Start>,
    image: Image,
) -> Result<Walked, OpenError> {
    let mut extents = BTreeMap::new();
    for (slot, _, extent) in image.directory {
        extents.insert(extent.serial, (slot, extent));
    }
    let known = extents.values().copied().collect();
    let state = ReplayState {
        lanes: image.lanes,
        topology: image.topology,
        extents,
        known,
        ..ReplayState::default()
    };
    let highest = starts
        .iter()
        .map(|start| start.header.serial + 1)
        .max()
        .unwrap_or(1);
    let beginning = Beginning {
        starts,
        head: image.head,
        state,
    };
    let walk = RecoveryWalk::new(config, pool, store, beginning);
    let (state, head, unproven) = walk.run()?;
    Ok(Walked {
        state,
        head,
        unproven,
        next_serial: highest.max(image.next_serial),
    })
}

fn highest_epoch(starts: &[Start], head: &ChainHead) -> u32 {
    starts
        .iter()
        .map(|start| start.header.epoch)
        .max()
        .unwrap_or(0)
        .max(head.epoch)
}

/// Refuses what the configuration, or common sense, forbids to go on without.
fn judge(config: &JournalConfig, damage: &[Damage]) -> Result<(), OpenError> {
    let refuse = config.on_corruption == OnCorruption::Refuse;
    if damage
        .iter()
        .any(|damage| refuse || damage.what == Unreadable::Topology)
    {
        return Err(OpenError::Damaged(damage.to_vec()));
    }
    Ok(())
}

/// Refuses a topology of which parts are lost, as far as the rest shows it: a lane without its
/// queue would be dropped with all its messages.
fn judge_topology(
    config: &JournalConfig,
    state: &ReplayState,
    unproven: &VecDeque<Unproven>,
) -> Result<(), OpenError> {
    let Some(missing) = config.missing.filter(|_| state.has_gaps) else {
        return Ok(());
    };
    let mut whole = state.clone();
    for frame in unproven {
        whole.apply(&frame.as_body())?;
    }
    let mut lanes: Vec<_> = whole.lanes.lanes.keys().copied().collect();
    lanes.sort_unstable();
    match missing(&whole.topology, &lanes) {
        None => Ok(()),
        Some(missing) => Err(OpenError::Incomplete {
            missing,
            damage: whole.damage,
        }),
    }
}

/// Marks what segments hold; the rest is free once a checkpoint without it is durable.
fn hold(pool: &mut Pool, state: &ReplayState, generation: u64) {
    for segment in pool.segments.values_mut() {
        segment.used = Use::Stale(generation);
    }
    for (slot, extent) in state.extents.values() {
        pool.set(*slot, Use::Held(*extent));
    }
}

/// Frees at once what neither checkpoint needs: on a full disk there is nothing else to begin in.
fn release((pool, starts): (&mut Pool, &[Start]), older: Option<&Image>) {
    let serials: BTreeMap<u32, Serial> = starts
        .iter()
        .map(|start| (start.slot, start.header.serial))
        .collect();
    for (slot, segment) in &mut pool.segments {
        if !matches!(segment.used, Use::Stale(_)) || segment.kept != OtherUse::No {
            continue;
        }
        let needed = older.is_some_and(|older| {
            let listed = older.directory.iter().any(|(held, ..)| held == slot);
            listed || older.head.slot == *slot
        });
        let unused = match serials.get(slot) {
            // Used since, or not: whatever that checkpoint does not list and has seen is dead.
            Some(serial) => older.is_some_and(|older| *serial < older.head.serial),
            None => is_zero(segment),
        };
        if unused && !needed {
            segment.used = Use::Free;
        }
    }
}

/// Writes the bytes of the checkpoint in use again. They may be in memory only, after a process
/// that died before its sync; the other one must not be overwritten before they are on the disk.
fn rewrite_checkpoint(
    files: &Files,
    generation: u64,
    bytes: Option<&[u8]>,
) -> Result<(), OpenError> {
    let Some(bytes) = bytes else {
        return Ok(());
    };
    let file = files.of(generation);
    file.write_at(0, bytes)
        .and_then(|()| file.sync())
        .map_err(|error| disk("checkpoint", error))
}

/// Begins an epoch in a segment of its own, with the records of the unproven tail: those may be in
/// memory only, and nobody can ever tell again. On a full disk the tail is written again where it
/// is, byte for byte.
fn begin_epoch(
    home: &JournalHome,
    (core, state): (&mut Core, &mut ReplayState),
    epoch: u32,
    mut unproven: VecDeque<Unproven>,
) -> Result<(), OpenError> {
    let (vfs, config) = (&*home.vfs, &home.config);
    let copied = match unproven.front() {
        Some(first) => {
            let bytes = records_len(&unproven) + BLOCK;
            let copied = new_segment(vfs, config, core, bytes)?;
            if copied.is_some() {
                core.head.seq = first.header.seq;
                core.head.prev = first.header.prev;
            }
            copied
        }
        None => None,
    };
    if copied.is_none() {
        rewrite_tail(core, state, std::mem::take(&mut unproven))?;
    }
    core.head.durable = core.head.seq.saturating_sub(1);
    let slot = match copied.or_else(|| smallest_free(&core.pool)) {
        Some(slot) => slot,
        None => new_segment(vfs, config, core, 2 * BLOCK)?
            .ok_or_else(|| disk("first segment", DiskError::NoSpace))?,
    };
    core.start_segment(slot, epoch);
    write_first_frame(vfs, config, (core, state), &unproven)
}

/// Writes the epoch's first frame, with the records of these frames.
fn write_first_frame(
    vfs: &dyn Vfs,
    config: &JournalConfig,
    (core, state): (&mut Core, &mut ReplayState),
    unproven: &VecDeque<Unproven>,
) -> Result<(), OpenError> {
    let mut bytes = vec![0; HEADER];
    let mut seal = frame::RecordsSeal::default();
    for frame in unproven {
        let mut at = 0;
        while let Some(record) = RawRecord::at(&frame.body, at) {
            seal.add(record.crc);
            at += record.padded_len();
        }
        bytes.extend_from_slice(&frame.body);
    }
    let (records, records_crc) = seal.finish();
    let body_len = (bytes.len() - HEADER) as u64;
    let header = Header {
        flags: EPOCH,
        records,
        records_crc,
        ..Header::default()
    };
    let ChainHead {
        slot,
        seq,
        serial,
        epoch,
        ..
    } = core.head;
    core.write(vfs, config, header, &mut bytes)
        .map_err(|error| match error {
            WriteError::NoSpace => disk("first frame", DiskError::NoSpace),
            WriteError::Fatal(reason) => disk("first frame", DiskError::Failed(reason)),
        })?;
    core.sync().map_err(|error| disk("first frame", error))?;
    // The names of the segment, which the next checkpoint relies on, and of the checkpoints.
    vfs.sync_dir().map_err(|error| disk("directory", error))?;
    let header = Header {
        serial,
        epoch,
        seq,
        body_len,
        ..header
    };
    let at = HEADER as u64;
    let body = FrameBody {
        slot,
        header,
        chain: core.head.prev,
        at,
        bytes: bytes.get(HEADER..).unwrap_or(&[]),
    };
    state.apply(&body)?;
    if let Some((slot, extent)) = state.extents.get(&serial) {
        core.pool.set(*slot, Use::Held(*extent));
    }
    core.covered = true;
    Ok(())
}

/// The length of a frame with the records of all these.
fn records_len(frames: &VecDeque<Unproven>) -> u64 {
    frame::frame_len(frames.iter().map(|frame| frame.body.len() as u64).sum())
}

/// Writes frames again where they are, syncs them and applies them.
fn rewrite_tail(
    core: &mut Core,
    state: &mut ReplayState,
    unproven: VecDeque<Unproven>,
) -> Result<(), OpenError> {
    let mut files = BTreeMap::new();
    for frame in &unproven {
        let file = core.pool.file(frame.slot);
        let file = file.map_err(|error| disk(&segment::name_of(frame.slot), error))?;
        let mut bytes = vec![0; usize::try_from(frame.header.frame_len()).unwrap_or(0)];
        frame.header.write(&mut bytes);
        if let Some(body) = bytes.get_mut(HEADER..HEADER + frame.body.len()) {
            body.copy_from_slice(&frame.body);
        }
        file.write_at(frame.header.offset, &bytes)
            .map_err(|error| disk(&segment::name_of(frame.slot), error))?;
        files.insert(frame.slot, file);
        state.apply(&frame.as_body())?;
    }
    for (slot, file) in files {
        file.sync()
            .map_err(|error| disk(&segment::name_of(slot), error))?;
    }
    for (slot, extent) in state.extents.values() {
        core.pool.set(*slot, Use::Held(*extent));
    }
    Ok(())
}

/// The smallest free segment that takes a frame without records, and its seal.
fn smallest_free(pool: &Pool) -> Option<u32> {
    let free = pool
        .free()
        .filter(|(_, segment)| segment.bytes >= 2 * BLOCK);
    free.min_by_key(|(slot, segment)| (segment.bytes, *slot))
        .map(|(slot, _)| slot)
}

/// A new segment, if the disk has space for it. Its zeros and its first frame need only one sync:
/// until then nothing refers to it.
fn new_segment(
    vfs: &dyn Vfs,
    config: &JournalConfig,
    core: &mut Core,
    bytes: u64,
) -> Result<Option<u32>, OpenError> {
    let slot = core.unused_slot();
    match segment::make(vfs, slot, config.first_segment_bytes.max(bytes)) {
        Ok(segment) => {
            core.pool.segments.insert(slot, segment);
            Ok(Some(slot))
        }
        Err(DiskError::NoSpace | DiskError::Busy(_)) => {
            core.starved = true;
            Ok(None)
        }
        Err(error) => Err(disk(&segment::name_of(slot), error)),
    }
}

fn is_zero(segment: &segment::Segment) -> bool {
    let mut block = vec![1; usize::try_from(BLOCK).unwrap_or(0)];
    let read = segment.file.read_at(0, &mut block);
    read == Ok(block.len()) && block.iter().all(|byte| *byte == 0)
}

/// Hands the state over to a journal, whose first act is a checkpoint.
fn finish(
    home: JournalHome,
    mut core: Core,
    mut state: ReplayState,
    created: bool,
) -> Result<Recovered, OpenError> {
    let JournalHome { vfs, config, files } = home;
    core.make_starts(&*vfs, &config)
        .map_err(|error| disk("segments for a start", error))?;
    state.lanes.forget_absent();
    let lanes = &state.lanes;
    let places = std::mem::take(&mut state.places)
        .into_iter()
        .filter(|place| lanes.holder(place.lane, place.seq) == Some(place.serial))
        .collect();
    let slots = state
        .extents
        .iter()
        .map(|(serial, (slot, _))| (*serial, *slot))
        .collect();
    let messages = Messages::new(&core.pool, slots, places, lanes);
    let recovered = recovered_lanes(&state);
    let moved = recovered_chunks(lanes);
    let (next_lane, topology) = (lanes.next_lane, state.topology.clone());
    core.lanes = state.lanes;
    core.topology_bytes = topology
        .iter()
        .map(|(key, value)| checkpoint::operation_len(key, value))
        .sum();
    core.topology = state.topology;
    let starved = core.starved;
    let journal = Journal::new(vfs, config, files, core);
    match journal.checkpoint_now() {
        // Without space the old checkpoint does as well: the chain leads from it to the new epoch.
        Ok(()) | Err(DiskError::NoSpace) => {}
        Err(error) => return Err(disk("checkpoint", error)),
    }
    if starved {
        journal.judge_space(None);
    }
    let damage = state.damage;
    Ok(Recovered {
        journal,
        messages,
        moved,
        lanes: recovered,
        topology,
        next_lane,
        damage,
        created,
        format_repaired: false,
    })
}

fn recovered_chunks(lanes: &JournalLanes) -> RecoveredChunks {
    RecoveredChunks {
        pieces: moved::pieces(lanes),
        next_run: lanes.next_run,
    }
}

fn recovered_lanes(state: &ReplayState) -> Vec<RecoveredLane> {
    let mut lanes: Vec<_> = state
        .lanes
        .lanes
        .iter()
        .map(|(id, lane)| RecoveredLane {
            lane: *id,
            next_seq: lane.next,
            messages: lane.live.iter().map(|(from, to, _)| to - from).sum(),
        })
        .collect();
    lanes.sort_unstable_by_key(|lane| lane.lane);
    lanes
}
