//! Opens a store: newest checkpoint, frames after it, messages of older segments, a new epoch.
//!
//! Nothing that was there is overwritten before the new epoch's first frame and checkpoint are
//! durable, so a crash in here changes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::checkpoint::{self, Files, Head, Image};
use crate::core::{Core, WriteError};
use crate::format::{self, Format};
use crate::frame::{self, BLOCK, EPOCH, HEADER, Header};
use crate::journal::Journal;
use crate::lanes::Serial;
use crate::record::Record;
use crate::segment::{self, Pool, Use};
use crate::vfs::{DiskError, Vfs, read_readable};
use crate::{Config, LaneId, OnCorruption};

mod damage;
mod messages;
mod older;
mod replay;
mod scan;
mod walk;

pub use damage::{Damage, OpenError, Unreadable};
pub use messages::{Messages, RecoveredMessage};

use replay::{Body, State};
use scan::Start;
use walk::{Unproven, Walk};

/// A store that was opened.
pub struct Recovered {
    /// The journal, ready to be written once [`Self::messages`] have been taken.
    pub journal: Journal,
    /// What was live.
    pub messages: Messages,
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
}

/// A lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecoveredLane {
    /// Its number.
    pub lane: LaneId,
    /// The sequence number its next message must have, or a higher one.
    pub next_seq: u64,
    /// Its live messages.
    pub messages: u64,
}

impl Journal {
    /// Opens the store in a directory, or makes one.
    ///
    /// # Errors
    /// [`OpenError`]: nothing has been changed that a later attempt would miss.
    pub fn open(vfs: Arc<dyn Vfs>, config: Config) -> Result<Recovered, OpenError> {
        let found = Found::read(&*vfs, &config)?;
        let Found {
            format,
            mut pool,
            starts,
            image,
            bytes,
            created,
        } = found;
        let store = format.store();
        let generation = image.generation;
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
        older::scan(&pool, store, &mut state);
        judge(&config, &state.damage)?;
        judge_topology(&config, &state, &unproven)?;
        older::settle_lost(&mut state);
        hold(&mut pool, &state, generation);

        let files = Files::open(&*vfs).map_err(|error| disk("checkpoint", error))?;
        rewrite_checkpoint(&files, generation, bytes.as_deref())?;
        let epoch = highest_epoch(&starts, &head) + 1;
        let mut core = Core {
            store,
            head,
            next_serial,
            pool,
            generation,
            ..Core::default()
        };
        begin_epoch(&*vfs, &config, (&mut core, &mut state), (epoch, unproven))?;
        finish((vfs, config, files), core, state, created)
    }
}

/// What is on the disk.
struct Found {
    format: Format,
    pool: Pool,
    starts: Vec<Start>,
    /// The newest checkpoint; the beginning of time if there is none.
    image: Image,
    /// The bytes of that checkpoint.
    bytes: Option<Vec<u8>>,
    created: bool,
}

impl Found {
    fn read(vfs: &dyn Vfs, config: &Config) -> Result<Self, OpenError> {
        let names = vfs.list().map_err(|error| disk("directory", error))?;
        let format = Format::read(vfs)?;
        let used = names
            .iter()
            .any(|name| segment::slot_of(name).is_some() || name.starts_with("checkpoint."));
        if format.is_none() && used {
            return Err(OpenError::NoFormat);
        }
        let format = format.unwrap_or(Format {
            id: config.new_store_id,
        });
        let store = format.store();
        let (pool, starts) = scan::open_pool(vfs, &names, store)?;
        let newest = newest_checkpoint(vfs, store)?;
        let created = newest.is_none() && starts.is_empty();
        if newest.is_none() {
            // Also after a crash while it was being made: what is there may not be on the disk.
            format
                .write(vfs)
                .map_err(|error| disk(format::NAME, error))?;
        }
        let (image, bytes) = match newest {
            Some((image, bytes)) => (image, Some(bytes)),
            None => (
                Image {
                    head: Head {
                        seq: 1,
                        ..Head::default()
                    },
                    ..Image::default()
                },
                None,
            ),
        };
        Ok(Self {
            format,
            pool,
            starts,
            image,
            bytes,
            created,
        })
    }
}

fn disk(what: &str, error: DiskError) -> OpenError {
    OpenError::Disk {
        what: what.to_owned(),
        error,
    }
}

/// The newer of the two checkpoints, of those that are whole.
fn newest_checkpoint(vfs: &dyn Vfs, store: u64) -> Result<Option<(Image, Vec<u8>)>, OpenError> {
    let mut newest: Option<(Image, Vec<u8>)> = None;
    for name in checkpoint::NAMES {
        let file = match vfs.open(name) {
            Ok(file) => file,
            Err(DiskError::Missing) => continue,
            Err(error) => return Err(disk(name, error)),
        };
        let len = file.size().map_err(|error| disk(name, error))?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        read_readable(&*file, &mut bytes);
        let Some(bytes) = checkpoint::intact(&bytes, store) else {
            continue;
        };
        if let Some(image) = checkpoint::decode(bytes)
            && newest
                .as_ref()
                .is_none_or(|(other, _)| other.generation < image.generation)
        {
            newest = Some((image, bytes.to_vec()));
        }
    }
    Ok(newest)
}

/// What the walk found.
struct Walked {
    state: State,
    head: Head,
    unproven: VecDeque<Unproven>,
    next_serial: Serial,
}

fn walk(
    config: &Config,
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
    let state = State {
        lanes: image.lanes,
        topology: image.topology,
        extents,
        known,
        ..State::default()
    };
    let highest = starts
        .iter()
        .map(|start| start.header.serial + 1)
        .max()
        .unwrap_or(1);
    let walk = Walk::new((config, pool, store), starts, image.head, state);
    let (state, head, unproven) = walk.run()?;
    Ok(Walked {
        state,
        head,
        unproven,
        next_serial: highest.max(image.next_serial),
    })
}

fn highest_epoch(starts: &[Start], head: &Head) -> u32 {
    starts
        .iter()
        .map(|start| start.header.epoch)
        .max()
        .unwrap_or(0)
        .max(head.epoch)
}

/// Refuses what the configuration, or common sense, forbids to go on without.
fn judge(config: &Config, damage: &[Damage]) -> Result<(), OpenError> {
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
    config: &Config,
    state: &State,
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
fn hold(pool: &mut Pool, state: &State, generation: u64) {
    for segment in pool.segments.values_mut() {
        segment.used = Use::Stale(generation);
    }
    for (slot, extent) in state.extents.values() {
        pool.set(*slot, Use::Held(*extent));
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
/// memory only, and nobody can ever tell again.
fn begin_epoch(
    vfs: &dyn Vfs,
    config: &Config,
    (core, state): (&mut Core, &mut State),
    (epoch, unproven): (u32, VecDeque<Unproven>),
) -> Result<(), OpenError> {
    if let Some(first) = unproven.front() {
        core.head.seq = first.header.seq;
        core.head.prev = first.header.prev;
    }
    core.head.durable = core.head.seq.saturating_sub(1);
    let mut bytes = vec![0; HEADER];
    let mut seal = frame::RecordsSeal::default();
    for frame in &unproven {
        let mut at = 0;
        while let Some(record) = Record::at(&frame.body, at) {
            seal.add(record.crc);
            at += record.padded_len();
        }
        bytes.extend_from_slice(&frame.body);
    }
    let (records, records_crc) = seal.finish();
    let body_len = (bytes.len() - HEADER) as u64;
    let slot = epoch_segment(vfs, config, core, frame::frame_len(body_len) + BLOCK)?;
    core.start_segment(slot, epoch);
    let header = Header {
        flags: EPOCH,
        records,
        records_crc,
        ..Header::default()
    };
    let (seq, serial) = (core.head.seq, core.head.serial);
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
    let body = Body {
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

/// A new segment for the epoch; on a full disk one of the reserve that was never written.
fn epoch_segment(
    vfs: &dyn Vfs,
    config: &Config,
    core: &mut Core,
    bytes: u64,
) -> Result<u32, OpenError> {
    let slot = core.unused_slot();
    let size = config.first_segment_bytes.max(bytes);
    // Zeros and first frame need only one sync: until then nothing refers to the segment.
    match segment::make(vfs, slot, size) {
        Ok(segment) => {
            core.pool.segments.insert(slot, segment);
            Ok(slot)
        }
        Err(DiskError::NoSpace) => {
            core.starved = true;
            let unwritten = core.pool.segments.iter().find(|(_, segment)| {
                matches!(segment.used, Use::Stale(_)) && segment.bytes >= bytes && is_zero(segment)
            });
            let slot = unwritten.map(|(slot, _)| *slot);
            slot.ok_or_else(|| disk("first segment", DiskError::NoSpace))
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
    (vfs, config, files): (Arc<dyn Vfs>, Config, Files),
    mut core: Core,
    mut state: State,
    created: bool,
) -> Result<Recovered, OpenError> {
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
    let (next_lane, topology) = (lanes.next_lane, state.topology.clone());
    core.lanes = state.lanes;
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
        lanes: recovered,
        topology,
        next_lane,
        damage,
        created,
    })
}

fn recovered_lanes(state: &State) -> Vec<RecoveredLane> {
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
