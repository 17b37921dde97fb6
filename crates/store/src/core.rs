//! The journal's own state, behind one lock: where the next frame goes, what lives, the segments.

use leveret_record::RunPlace;

use crate::build::BuiltFrame;
use crate::checkpoint::{self, ChainHead, Topology};
use crate::frame::{self, BLOCK, HEADER, Header, SEAL};
use crate::lanes::{JournalLanes, Serial};
use crate::segment::{self, Extent, Pool, Segment, Use};
use crate::stage::Stage;
use crate::vfs::{DiskError, Vfs};
use crate::{Damage, JournalConfig, LaneId, StoreSabotage, SyncPolicy};

/// State of a journal that is open.
#[derive(Default)]
pub(crate) struct Core {
    /// The store's secret number.
    pub(crate) store: u64,
    pub(crate) head: ChainHead,
    pub(crate) next_serial: Serial,
    pub(crate) pool: Pool,
    pub(crate) lanes: JournalLanes,
    pub(crate) topology: Topology,
    /// Bytes of it in a checkpoint.
    pub(crate) topology_bytes: i64,
    /// The newest durable checkpoint.
    pub(crate) generation: u64,
    /// Bytes of that checkpoint: the next one is not due before a multiple of it is written.
    pub(crate) checkpoint_len: u64,
    /// Frame bytes written since then.
    pub(crate) since_checkpoint: u64,
    /// A frame that found no space.
    pub(crate) pending: Option<BuiltFrame>,
    /// An emptied stage with its memory.
    pub(crate) spare: Stage,
    /// Whether the last frame is followed by a later one.
    pub(crate) covered: bool,
    /// No segment could be made for want of space; ends when enough are free again.
    pub(crate) starved: bool,
    /// The segment that housekeeping is making.
    pub(crate) growing: Option<u32>,
    /// Something was written since the open; before that no segments are made in advance.
    pub(crate) used: bool,
    /// Space may have come back: another attempt is worth it.
    pub(crate) may_grow: bool,
    /// The disk's free space has fallen below the floor, and not risen well above it since.
    pub(crate) tight: bool,
    /// Places of chunks of which nothing lives: in no checkpoint from this one on.
    pub(crate) stale_places: Vec<(u64, RunPlace)>,
    /// Those that no checkpoint on the disk knows any more.
    pub(crate) free_places: Vec<RunPlace>,
    /// A backup is being made: files that it needs keep their names.
    pub(crate) backing_up: bool,
    /// What housekeeping could not read; to be told.
    pub(crate) damage: Vec<Damage>,
    /// The disk's free space when last asked, less what was taken for segments since.
    pub(crate) disk_free: Option<u64>,
}

/// Why a frame was not written.
pub(crate) enum WriteError {
    /// No space: nothing has happened, to be tried again with the same frame.
    NoSpace,
    /// The journal must stop.
    Fatal(String),
}

impl Core {
    /// Writes and syncs a frame and makes its changes; keeps it as pending if there is no space.
    pub(crate) fn commit(
        &mut self,
        vfs: &dyn Vfs,
        config: &JournalConfig,
        mut frame: BuiltFrame,
    ) -> Result<(), WriteError> {
        if !frame.is_empty() {
            let header = Header {
                records: frame.records,
                records_crc: frame.records_crc,
                ..Header::default()
            };
            let written = self
                .leave_start(vfs, config, &frame)
                .and_then(|()| self.write(vfs, config, header, &mut frame.stage.bytes));
            if let Err(error) = written {
                self.pending = Some(frame);
                return Err(error);
            }
            self.apply(&frame, config);
            self.covered = false;
            self.used = true;
        }
        self.spare = frame.stage;
        self.spare.clear();
        Ok(())
    }

    /// Follows the last frame with an empty one, if none does already.
    pub(crate) fn cover(
        &mut self,
        vfs: &dyn Vfs,
        config: &JournalConfig,
    ) -> Result<(), WriteError> {
        if self.covered || self.pending.is_some() {
            return Ok(());
        }
        self.write(vfs, config, Header::default(), &mut vec![0; HEADER])?;
        self.covered = true;
        Ok(())
    }

    /// Syncs frames that were announced without a sync.
    pub(crate) fn sync(&mut self) -> Result<(), DiskError> {
        let last = self.head.seq.saturating_sub(1);
        if self.head.durable < last {
            self.pool.file(self.head.slot)?.sync()?;
            self.head.durable = last;
        }
        Ok(())
    }

    /// The most bytes that a checkpoint takes, whatever is settled and deleted from now on.
    pub(crate) fn image_len_max(&self) -> u64 {
        let topology = u64::try_from(self.topology_bytes).unwrap_or(0);
        checkpoint::len_max(self.pool.segments.len(), &self.lanes, topology)
    }

    /// Whether the housekeeping thread has something to do.
    pub(crate) fn wants_chores(&self, config: &JournalConfig) -> bool {
        self.checkpoint_due(config)
            || self.pool.free_of(config.segment_bytes) < wanted(config)
            || self.lacks_starts(config)
    }

    /// Makes the segments that starts begin in, as far as there is space.
    pub(crate) fn make_starts(
        &mut self,
        vfs: &dyn Vfs,
        config: &JournalConfig,
    ) -> Result<(), DiskError> {
        let bytes = config.start_segment_bytes;
        let mut made = Vec::new();
        for _ in self.pool.count_of(bytes)..START_SEGMENTS {
            let slot = self.unused_slot();
            match segment::make(vfs, slot, bytes) {
                Ok(segment) => {
                    made.push((slot, segment.clone()));
                    self.pool.segments.insert(slot, segment);
                }
                Err(DiskError::NoSpace | DiskError::Busy(_)) => break,
                Err(error) => return Err(error),
            }
        }
        let synced = made.iter().try_for_each(|(_, segment)| segment.file.sync());
        let synced = synced.and_then(|()| {
            if made.is_empty() {
                return Ok(());
            }
            vfs.sync_dir()
        });
        if let Err(DiskError::NoSpace) = synced {
            for (slot, _) in made {
                self.pool.segments.remove(&slot);
                segment::give_up(vfs, slot);
            }
            return Ok(());
        }
        synced
    }

    /// Whether segments are missing that starts begin in.
    pub(crate) fn lacks_starts(&self, config: &JournalConfig) -> bool {
        self.pool.count_of(config.start_segment_bytes) < START_SEGMENTS
    }

    /// A number no segment has, nor one that is being made.
    pub(crate) fn unused_slot(&self) -> u32 {
        (0..u32::MAX)
            .find(|slot| !self.pool.segments.contains_key(slot) && self.growing != Some(*slot))
            .unwrap_or(u32::MAX)
    }

    /// Whether so much was written that a replay would take long.
    pub(crate) fn checkpoint_due(&self, config: &JournalConfig) -> bool {
        self.since_checkpoint >= config.checkpoint_bytes.max(self.checkpoint_len * 4)
    }

    /// Puts `bytes` (room for a header, then a body) at the head of the journal.
    pub(crate) fn write(
        &mut self,
        vfs: &dyn Vfs,
        config: &JournalConfig,
        header: Header,
        bytes: &mut Vec<u8>,
    ) -> Result<(), WriteError> {
        let body_len = (bytes.len() - HEADER) as u64;
        let len = frame::frame_len(body_len);
        self.make_room(vfs, config, len)?;
        let put = self.put(config, Header { body_len, ..header }, bytes);
        // Without its padding again: a frame that found no space is written another time.
        bytes.truncate(HEADER + usize::try_from(body_len).unwrap_or(0));
        put
    }

    /// Writes one frame where the head is, syncs it and moves the head behind it.
    fn put(
        &mut self,
        config: &JournalConfig,
        header: Header,
        bytes: &mut Vec<u8>,
    ) -> Result<(), WriteError> {
        let head = self.head;
        let segment = match (head.offset, self.pool.segments.get(&head.slot)) {
            // A seal may be the first frame, if another one found no space: it says where to go on.
            (0, Some(segment)) if header.flags & SEAL == 0 => {
                u32::try_from(segment.bytes / BLOCK).unwrap_or(0)
            }
            _ => header.segment,
        };
        let header = Header {
            segment,
            epoch: head.epoch,
            store: self.store,
            seq: head.seq,
            durable: head.durable,
            serial: head.serial,
            offset: head.offset,
            prev: head.prev,
            ..header
        };
        let len = header.frame_len();
        bytes.resize(usize::try_from(len).unwrap_or(0), 0);
        let chain = header.write(bytes);
        let file = self
            .pool
            .file(head.slot)
            .map_err(|error| fatal("segment", &error))?;
        file.write_at(head.offset, bytes)
            .map_err(|error| match error {
                DiskError::NoSpace => WriteError::NoSpace,
                other => fatal("write of a frame", &other),
            })?;
        let synced = config.sync == SyncPolicy::Group;
        let skipped = config.breaks(StoreSabotage::SkipFrameSync)
            || (header.flags & SEAL != 0 && config.breaks(StoreSabotage::SkipSeal));
        if (synced || header.flags & SEAL != 0) && !skipped {
            file.sync()
                .map_err(|error| fatal("sync of a frame", &error))?;
        }
        self.advance(chain, len, synced || header.flags & SEAL != 0);
        Ok(())
    }

    fn advance(&mut self, chain: u32, len: u64, synced: bool) {
        let head = &mut self.head;
        if let Some(extent) = self.pool.extent_mut(head.slot) {
            extent.last_seq = head.seq;
            extent.last_chain = chain;
            extent.end = head.offset + len;
        }
        if synced {
            head.durable = head.seq;
        }
        head.seq += 1;
        head.prev = chain;
        head.offset += len;
        self.since_checkpoint += len;
    }

    /// Goes on in another segment if a frame of `len` does not fit in this one.
    fn make_room(
        &mut self,
        vfs: &dyn Vfs,
        config: &JournalConfig,
        len: u64,
    ) -> Result<(), WriteError> {
        let size = self
            .pool
            .segments
            .get(&self.head.slot)
            .map_or(0, |segment| segment.bytes);
        // The last block of a segment is kept for the seal.
        if self.head.offset.saturating_add(len).saturating_add(BLOCK) <= size {
            return Ok(());
        }
        self.go_on(vfs, config, len)
    }

    /// Goes on elsewhere before a frame with messages is written to a segment that is kept for
    /// starts: it would not be free again before they are gone.
    fn leave_start(
        &mut self,
        vfs: &dyn Vfs,
        config: &JournalConfig,
        frame: &BuiltFrame,
    ) -> Result<(), WriteError> {
        let head = self.pool.segments.get(&self.head.slot);
        if frame.has_messages() && head.is_some_and(|head| head.bytes == config.start_segment_bytes)
        {
            let len = frame::frame_len((frame.stage.bytes.len() - HEADER) as u64);
            self.go_on(vfs, config, len)?;
        }
        Ok(())
    }

    /// Seals the segment and goes on in another one, where a frame of `len` fits.
    fn go_on(&mut self, vfs: &dyn Vfs, config: &JournalConfig, len: u64) -> Result<(), WriteError> {
        let next = self.next_segment(vfs, config, len.saturating_add(BLOCK))?;
        // The seal must be durable before the frame after it is: the chain leads through it.
        let seal = Header {
            flags: SEAL,
            segment: next,
            ..Header::default()
        };
        self.put(config, seal, &mut vec![0; HEADER])?;
        self.start_segment(next, self.head.epoch);
        Ok(())
    }

    /// Moves the head to the beginning of a free segment.
    pub(crate) fn start_segment(&mut self, slot: u32, epoch: u32) {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.head = ChainHead {
            slot,
            serial,
            epoch,
            offset: 0,
            ..self.head
        };
        let first_seq = self.head.seq;
        self.pool.set(
            slot,
            Use::Held(Extent {
                serial,
                epoch,
                first_seq,
                ..Extent::default()
            }),
        );
    }

    /// A free segment of at least `bytes`, made now if there is none.
    fn next_segment(
        &mut self,
        vfs: &dyn Vfs,
        config: &JournalConfig,
        bytes: u64,
    ) -> Result<u32, WriteError> {
        if let Some(slot) = self.pool.free_slot(bytes, config.start_segment_bytes) {
            return Ok(slot);
        }
        let slot = self.unused_slot();
        let bytes = config
            .first_segment_bytes
            .max(bytes.next_multiple_of(BLOCK));
        match segment::create(vfs, slot, bytes) {
            Ok(segment) => {
                self.pool.segments.insert(slot, segment);
                Ok(slot)
            }
            Err(DiskError::NoSpace | DiskError::Busy(_)) => Err(WriteError::NoSpace),
            Err(error) => Err(fatal("making a segment", &error)),
        }
    }

    fn apply(&mut self, frame: &BuiltFrame, config: &JournalConfig) {
        let serial = self.head.serial;
        let (brought, grown) = frame.apply(&mut self.lanes, &mut self.topology, serial);
        self.topology_bytes += grown;
        if let Some(extent) = self.pool.extent_mut(self.head.slot) {
            extent.messages += brought;
        }
        if config.breaks(StoreSabotage::ForgetEarly) {
            self.lanes
                .lanes
                .values_mut()
                .for_each(|lane| lane.early = Default::default());
        }
        if config.breaks(StoreSabotage::ReviveLanes) {
            self.lanes.gone = Default::default();
        }
        if config.breaks(StoreSabotage::FreeEarly) {
            self.free_dead_at_once();
        }
    }

    /// The deliberate fault of reusing a segment as soon as nothing in it lives.
    fn free_dead_at_once(&mut self) {
        let dead: Vec<u32> = self
            .pool
            .held()
            .filter(|(slot, extent)| {
                *slot != self.head.slot && self.lanes.held_by(extent.serial) == 0
            })
            .map(|(slot, _)| slot)
            .collect();
        dead.into_iter()
            .for_each(|slot| self.pool.set(slot, Use::Free));
    }
}

impl Core {
    /// Free segments in which any frame finds its place that is not larger than an ordinary one.
    pub(crate) fn free_segments(&self, config: &JournalConfig) -> usize {
        let large = |(_, segment): &(u32, &Segment)| segment.bytes >= config.segment_bytes;
        self.pool.free().filter(large).count()
    }

    /// Live messages of the oldest segments: so many of these as the journal is longer than three
    /// quarters of its window.
    pub(crate) fn pinned(&self, config: &JournalConfig) -> Vec<(LaneId, u64, u64)> {
        let held = self.pool.held().map(|(_, extent)| extent);
        let lives = |extent: &Extent| self.lanes.held_by(extent.serial) > 0;
        let mut held: Vec<Extent> = held.filter(lives).collect();
        let bytes: u64 = held.iter().map(|extent| extent.end).sum();
        let mut over = bytes.saturating_sub(config.window_bytes / 4 * 3);
        held.sort_unstable_by_key(|extent| extent.serial);
        let mut last = 0;
        for extent in held.iter().filter(|it| it.serial != self.head.serial) {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(extent.end);
            last = extent.serial;
        }
        if last == 0 {
            return Vec::new();
        }
        let lanes = self.lanes.lanes.iter();
        let live = lanes.flat_map(|(id, lane)| lane.live.iter().map(move |live| (*id, live)));
        let pinned = live.filter(|(_, (_, _, serial))| *serial <= last);
        let pinned = pinned.map(|(lane, (from, to, _))| (lane, from, to));
        pinned.take(PINNED_MAX).collect()
    }

    /// Whether messages may be copied: on a full disk not into the reserve, which would be held by
    /// them. Settlements go on in it as nothing holds the segments behind them.
    pub(crate) fn may_copy(&self, config: &JournalConfig) -> bool {
        !self.starved || self.free_segments(config) > config.reserve_segments
    }

    /// Whether another segment would leave the disk at or above its floor, as far as known.
    pub(crate) fn has_space_to_grow(&self, config: &JournalConfig) -> bool {
        let needed = config.disk_free_min.saturating_add(config.segment_bytes);
        self.disk_free.is_none_or(|free| free >= needed)
    }
}

/// So many ranges of messages are named at once.
const PINNED_MAX: usize = 4096;

/// Segments that starts begin in. Each takes one that neither checkpoint needs; the one before and
/// the one before that are the two that do.
const START_SEGMENTS: usize = 4;

/// Segments of the ordinary size that should be free: the reserve, one for copies out of segments
/// that are to be emptied, and one that messages may begin.
pub(crate) const fn wanted(config: &JournalConfig) -> usize {
    kept_from_messages(config) + 1
}

/// Free segments that messages leave alone.
pub(crate) const fn kept_from_messages(config: &JournalConfig) -> usize {
    config.reserve_segments + 1
}

fn fatal(what: &str, error: &DiskError) -> WriteError {
    WriteError::Fatal(format!("{what}: {error}"))
}
