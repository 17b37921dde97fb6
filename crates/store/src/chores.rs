//! Housekeeping beside the commits: checkpoints, new segments, emptying old ones, free space.
//!
//! Each call of [`Journal::housekeep`] does one bounded piece of work; the core's lock is held only
//! to begin and to end a job, never over its reads and writes.

use std::sync::Arc;
use std::time::Duration;

use leveret_record::RunPlace;

use crate::checkpoint::ImageParts;
use crate::core::{Core, wanted};
use crate::frame::{self, Header};
use crate::growing::Growing;
use crate::idle::Idle;
use crate::journal::{Journal, StoreFailure};
use crate::lanes::Serial;
use crate::record::RawRecord;
use crate::segment::{self, Extent, Segment, Use};
use crate::vfs::{DiskError, VfsFile};
use crate::{Damage, Store, StoreSabotage, Ticket, Unreadable};

/// The job in hand.
#[derive(Default)]
pub(crate) struct Chores {
    job: Job,
    /// Jobs in a row that failed, not for want of space; the second stops the journal.
    failures: u32,
    idle: Idle,
}

#[derive(Default)]
enum Job {
    #[default]
    None,
    Write(Checkpoint),
    Sync(Checkpoint, Arc<dyn VfsFile>),
    Grow(Growing),
    Empty(Emptying),
    /// Frames up to this one, announced without a sync, are to be synced.
    Frames {
        file: Arc<dyn VfsFile>,
        serial: Serial,
        last: u64,
    },
}

struct Checkpoint {
    generation: u64,
    bytes: Vec<u8>,
    /// What was counted as written since the last one when this one began.
    since: u64,
}

struct Emptying {
    slot: u32,
    extent: Extent,
    file: Arc<dyn VfsFile>,
    offset: u64,
    /// Something in it cannot be read, and that was noted.
    noted: bool,
    /// The last part copied must be durable before the next.
    waits_for: Ticket,
}

impl Journal {
    /// Does one piece of housekeeping; false if there was none to do.
    ///
    /// # Errors
    /// [`StoreFailure`]: the process must end.
    pub fn housekeep(&self) -> Result<bool, StoreFailure> {
        let mut chores = self.chores.lock();
        self.check()?;
        if matches!(chores.job, Job::None) {
            self.choose(&mut chores)?;
        }
        let job = std::mem::take(&mut chores.job);
        if matches!(job, Job::None) {
            return Ok(false);
        }
        let makes_room = matches!(job, Job::Write(_) | Job::Sync(..));
        match self.work_on(job) {
            Ok((job, progress)) => {
                // A job whose first steps go well and whose last one fails has failed.
                if matches!(job, Job::None) {
                    chores.failures = 0;
                }
                chores.job = job;
                Ok(progress)
            }
            Err(DiskError::NoSpace | DiskError::Busy(_)) => {
                self.give_way(makes_room);
                Ok(false)
            }
            Err(error) => {
                chores.failures += 1;
                if chores.failures > 1 {
                    return Err(self.fail(format!("housekeeping failed twice: {error}")));
                }
                Ok(true)
            }
        }
    }

    /// What housekeeping found unreadable since the last call. It stays where it is: the next open
    /// says what is lost.
    #[must_use]
    pub fn take_damage(&self) -> Vec<Damage> {
        std::mem::take(&mut self.core.lock().damage)
    }

    /// Waits until housekeeping may have something to do, at most `limit`.
    pub fn wait_for_chores(&self, limit: Duration) {
        let mut rung = self.bell.lock();
        if !*rung {
            self.bell_rung.wait_for(&mut rung, limit);
        }
        *rung = false;
    }

    /// Writes a checkpoint, so that the next open has nothing to replay. For an orderly stop,
    /// after the journal's thread has ended.
    ///
    /// # Errors
    /// [`StoreFailure`], also if there is no space for it; nothing is lost then.
    pub fn checkpoint(&self) -> Result<(), StoreFailure> {
        self.check()?;
        self.checkpoint_now().map_err(|error| StoreFailure {
            reason: format!("checkpoint: {error}"),
        })
    }

    pub(crate) fn checkpoint_now(&self) -> Result<(), DiskError> {
        let mut chores = self.chores.lock();
        chores.job = Job::None;
        let begun = self.begin_checkpoint();
        let mut job = begun
            .map(Job::Write)
            .map_err(|error| DiskError::Failed(error.reason))?;
        while !matches!(job, Job::None) {
            (job, _) = self.work_on(job)?;
        }
        Ok(())
    }

    /// Looks at the free space and admits or refuses messages accordingly. For a timer, with what
    /// the disk says; `None`: only at the journal's own segments.
    pub fn judge_space(&self, free_bytes: Option<u64>) {
        let floor = self.config.disk_free_min;
        let mut core = self.core.lock();
        if let Some(free) = free_bytes {
            core.disk_free = Some(free);
            let enough = if core.tight { floor + floor / 2 } else { floor };
            core.tight = free < enough;
        }
        let free_segments = core.pool.free_of(self.config.segment_bytes);
        if free_segments >= wanted(&self.config) && core.pending.is_none() {
            core.starved = false;
        } else if free_bytes.is_some() && core.has_space_to_grow(&self.config) {
            // Worth another attempt; that it fails shows at once.
            core.may_grow = true;
        }
        self.admit(!core.starved && !core.tight);
        self.space.update(&core, &self.config);
        drop(core);
        self.ring();
    }

    /// Asks the disk for its free space and judges it.
    ///
    /// # Errors
    /// [`DiskError`], if the disk does not tell.
    pub fn check_space(&self) -> Result<(), DiskError> {
        let free = self.vfs.free_bytes()?;
        self.judge_space(Some(free));
        Ok(())
    }

    /// Takes up the most pressing job.
    fn choose(&self, chores: &mut Chores) -> Result<(), StoreFailure> {
        self.keep_images();
        self.part_with_linked();
        let mut core = self.core.lock();
        let config = &self.config;
        let free = core.pool.free_of(config.segment_bytes);
        // Starved, nothing may ever be written before there are more.
        let short = free < wanted(config) && (core.used || core.starved);
        let has_chunks = core.dead_chunk_bytes() > 0;
        let reclaimable = core.pool.has_stale() || core.has_dead() || has_chunks;
        let in_window = core.pool.bytes() + config.segment_bytes <= config.window_bytes;
        let rests = chores.idle.rests(&core);
        let is_long = rests && core.pool.bytes() > config.window_bytes;
        let shrinks = rests && chores.idle.shrinks(&core, config);
        let reclaims = core.tight || shrinks || (short && (!in_window || core.starved));
        // On a full disk places are waited for.
        let dead_max = match core.tight || core.starved {
            true => config.segment_bytes / 4,
            false => config.segment_bytes,
        };
        let frees = core.dead_chunk_bytes() >= dead_max;
        if core.checkpoint_due(config) || (reclaimable && reclaims) || frees {
            drop(core);
            chores.idle.began_checkpoint();
            chores.job = Job::Write(self.begin_checkpoint()?);
        } else if (short && !in_window || is_long)
            && core.may_copy(config)
            && let Some(emptying) = core.begin_emptying()
        {
            chores.job = Job::Empty(emptying);
        } else if (short || core.lacks_starts(config))
            && !core.tight
            && (core.may_grow || !core.starved)
        {
            core.may_grow = false;
            if !core.has_space_to_grow(config) {
                core.starved = true;
                drop(core);
                self.judge_space(None);
                return Ok(());
            }
            let bytes = match core.lacks_starts(config) {
                true => config.start_segment_bytes,
                false => config.segment_bytes,
            };
            core.disk_free = core.disk_free.map(|free| free.saturating_sub(bytes));
            let slot = core.unused_slot();
            core.growing = Some(slot);
            drop(core);
            chores.job = self.begin_growing(slot, bytes)?;
        } else if let Some(slot) = core.surplus(config) {
            drop(core);
            self.discard(slot);
        } else if core.head.durable + 1 < core.head.seq
            && let Ok(file) = core.pool.file(core.head.slot)
        {
            let (serial, last) = (core.head.serial, core.head.seq - 1);
            chores.job = Job::Frames { file, serial, last };
        }
        Ok(())
    }

    fn work_on(&self, job: Job) -> Result<(Job, bool), DiskError> {
        match job {
            Job::None => Ok((Job::None, false)),
            Job::Write(checkpoint) => {
                let file = Arc::clone(self.checkpoints.of(checkpoint.generation));
                self.write_image(&*file, &checkpoint.bytes)?;
                Ok((Job::Sync(checkpoint, file), true))
            }
            Job::Sync(checkpoint, file) => {
                if !self.config.breaks(StoreSabotage::SkipCheckpointSync) {
                    file.sync()?;
                }
                let mut core = self.core.lock();
                core.checkpointed(&checkpoint);
                if !self.config.breaks(StoreSabotage::KeepCounts) {
                    core.lanes.age_awaited();
                }
                drop(core);
                self.judge_space(None);
                Ok((Job::None, true))
            }
            Job::Grow(growing) => self.grow(growing),
            Job::Empty(emptying) => self.empty(emptying),
            Job::Frames { file, serial, last } => {
                if let Err(error) = file.sync() {
                    self.fail(format!("sync of frames: {error}"));
                    return Err(error);
                }
                let mut core = self.core.lock();
                if core.head.serial == serial {
                    core.head.durable = core.head.durable.max(last);
                }
                Ok((Job::None, false))
            }
        }
    }

    /// Takes the checkpoint's picture. What it no longer lists becomes stale.
    fn begin_checkpoint(&self) -> Result<Checkpoint, StoreFailure> {
        let mut core = self.core.lock();
        // A checkpoint must not know of frames that the disk does not have.
        core.sync()
            .map_err(|error| self.fail(format!("sync of frames: {error}")))?;
        let step = if self.config.breaks(StoreSabotage::OneCheckpointFile) {
            2
        } else {
            1
        };
        let generation = core.generation + step;
        core.retire(generation);
        if self.config.breaks(StoreSabotage::FreeAfterOne) {
            core.pool.checkpointed(u64::MAX);
        }
        let directory = core.pool.directory();
        let parts = ImageParts {
            generation,
            head: &core.head,
            next_serial: core.next_serial,
            directory: &directory,
            lanes: &core.lanes,
            topology: &core.topology,
            forget_returns: self.config.breaks(StoreSabotage::ForgetReturns),
            forget_moved: self.config.breaks(StoreSabotage::ForgetMoved),
        };
        let bytes = parts.encode(core.store);
        Ok(Checkpoint {
            generation,
            bytes,
            since: core.since_checkpoint,
        })
    }

    fn begin_growing(&self, slot: u32, bytes: u64) -> Result<Job, StoreFailure> {
        match self.vfs.create(&segment::name_of(slot)) {
            Ok(file) => Ok(Job::Grow(Growing {
                slot,
                file,
                bytes,
                zeroed: 0,
                next_frame: 0,
            })),
            Err(DiskError::NoSpace | DiskError::Busy(_)) => {
                self.core.lock().growing = None;
                self.give_way(false);
                Ok(Job::None)
            }
            Err(error) => Err(self.fail(format!("making a segment: {error}"))),
        }
    }

    /// Zeros a piece of a new segment; the last piece makes it free.
    fn grow(&self, mut growing: Growing) -> Result<(Job, bool), DiskError> {
        let made = if growing.zeroed < growing.bytes {
            self.zero(&mut growing)
        } else {
            let file = &growing.file;
            file.sync()
                .and_then(|()| self.vfs.sync_dir())
                .map(|()| u64::MAX)
        };
        match made {
            Ok(u64::MAX) => {
                let segment = Segment::free(growing.file, growing.bytes);
                let mut core = self.core.lock();
                core.growing = None;
                // Where there was space for this one there may be for the next.
                core.may_grow = true;
                core.pool.segments.insert(growing.slot, segment);
                drop(core);
                self.judge_space(None);
                Ok((Job::None, true))
            }
            Ok(zeroed) => {
                growing.zeroed = zeroed;
                Ok((Job::Grow(growing), true))
            }
            Err(error) => {
                drop(self.vfs.remove(&segment::name_of(growing.slot)));
                self.core.lock().growing = None;
                Err(error)
            }
        }
    }

    /// Copies the live messages of one frame of the segment being emptied to the journal's head.
    fn empty(&self, mut emptying: Emptying) -> Result<(Job, bool), DiskError> {
        if self.durable() < emptying.waits_for {
            // Without space the copies may wait for a checkpoint, which must not wait for them.
            let starved = self.core.lock().starved;
            return Ok((
                if starved {
                    Job::None
                } else {
                    Job::Empty(emptying)
                },
                false,
            ));
        }
        let serial = emptying.extent.serial;
        if !self.core.lock().may_copy(&self.config) {
            return Ok((Job::None, false));
        }
        let held = self.core.lock().lanes.held_by(serial);
        if held == 0 || emptying.offset >= emptying.extent.end {
            if let Some(extent) = self.core.lock().pool.extent_mut(emptying.slot) {
                extent.copied = true;
            }
            return Ok((Job::None, true));
        }
        let store = self.core.lock().store;
        let Some((header, frame)) = read_frame(&emptying, store) else {
            // Rot: what lives there stays where it is, and the segment with it.
            self.note_unreadable(&mut emptying);
            emptying.offset += frame::BLOCK;
            return Ok((Job::Empty(emptying), true));
        };
        let records = self.live_records(&frame, &header, serial);
        emptying.offset += header.frame_len();
        if !records.is_empty() {
            emptying.waits_for = self.stage_copies(serial, records);
        }
        Ok((Job::Empty(emptying), true))
    }

    /// Notes the first place of a segment that cannot be read.
    fn note_unreadable(&self, emptying: &mut Emptying) {
        if !std::mem::replace(&mut emptying.noted, true) {
            self.core.lock().damage.push(Damage {
                file: segment::name_of(emptying.slot),
                offset: emptying.offset,
                frame: None,
                what: Unreadable::Frame,
                lost: Vec::new(),
            });
        }
    }

    fn live_records(&self, frame: &[u8], header: &Header, serial: Serial) -> Vec<u8> {
        let body = frame::body(frame, header).unwrap_or(&[]);
        let core = self.core.lock();
        let mut records = Vec::new();
        for (at, record) in frame::salvage(body, Some(header.records)).intact {
            let lives =
                self.config.breaks(StoreSabotage::CopyDead) || is_live(&core, &record, serial);
            if record.message().is_some() && lives {
                records.extend_from_slice(body.get(at..at + record.padded_len()).unwrap_or(&[]));
            }
        }
        records
    }

    /// No space: refuses messages. If a checkpoint found none, gives a free segment back
    /// to make room, unless it is the last.
    fn give_way(&self, make_room: bool) {
        let mut core = self.core.lock();
        core.starved = true;
        let start = self.config.start_segment_bytes;
        let free = core.pool.free().filter(|(_, free)| free.bytes != start);
        let slots: Vec<u32> = free.map(|(slot, _)| slot).collect();
        let (spare, several) = (slots.iter().max().copied(), slots.len() > 1);
        drop(core);
        if let Some(slot) = spare.filter(|_| several && make_room) {
            self.discard(slot);
        }
        self.judge_space(None);
    }

    /// Removes a free segment's file. Failing to costs only space.
    fn discard(&self, slot: u32) {
        let mut core = self.core.lock();
        if core
            .pool
            .segments
            .get(&slot)
            .is_some_and(|segment| segment.used == Use::Free)
        {
            core.pool.segments.remove(&slot);
            drop(self.vfs.remove(&segment::name_of(slot)));
        }
    }
}

impl Core {
    /// Whether a sealed segment has no live messages left.
    fn has_dead(&self) -> bool {
        self.dead().next().is_some()
    }

    fn dead(&self) -> impl Iterator<Item = u32> + '_ {
        self.pool
            .held()
            .filter(|(slot, extent)| {
                *slot != self.head.slot && self.lanes.held_by(extent.serial) == 0
            })
            .map(|(slot, _)| slot)
    }

    /// Dead segments are not listed from this checkpoint on.
    fn retire(&mut self, generation: u64) {
        let dead: Vec<u32> = self.dead().collect();
        for slot in dead {
            self.pool.set(slot, Use::Stale(generation));
        }
        let dead = self.lanes.held.take_dead();
        let stale = dead.into_iter().map(|chunk| (generation, chunk.place));
        self.stale_places.extend(stale);
    }

    /// Bytes of moved chunks that wait for checkpoints to be free.
    pub(crate) fn dead_chunk_bytes(&self) -> u64 {
        let stale = self.stale_places.iter();
        let stale: u64 = stale.map(|(_, place)| u64::from(place.len)).sum();
        self.lanes.held.dead_bytes() + stale
    }

    /// A checkpoint is durable.
    fn checkpointed(&mut self, checkpoint: &Checkpoint) {
        self.generation = checkpoint.generation;
        self.checkpoint_len = checkpoint.bytes.len() as u64;
        self.since_checkpoint -= checkpoint.since.min(self.since_checkpoint);
        self.pool.checkpointed(checkpoint.generation);
        let is_free = |(since, _): &mut (u64, RunPlace)| *since < checkpoint.generation;
        let free = self.stale_places.extract_if(.., is_free);
        self.free_places.extend(free.map(|(_, place)| place));
    }

    /// The sealed segment with the fewest survivors, if at most half of it survives.
    fn begin_emptying(&self) -> Option<Emptying> {
        let (slot, extent) = self
            .pool
            .held()
            .filter(|(slot, extent)| *slot != self.head.slot && !extent.copied)
            .filter(|(_, extent)| self.lanes.held_by(extent.serial) * 2 <= extent.messages)
            .min_by_key(|(_, extent)| (self.lanes.held_by(extent.serial), extent.serial))?;
        let file = self.pool.file(slot).ok()?;
        Some(Emptying {
            slot,
            extent,
            file,
            offset: 0,
            noted: false,
            waits_for: Ticket(0),
        })
    }

    /// A free segment that is not worth keeping: of an odd size, or more than the window needs;
    /// on a disk that is short of space, all but the reserve.
    fn surplus(&self, config: &crate::JournalConfig) -> Option<u32> {
        let keep = if self.tight {
            config.reserve_segments
        } else {
            wanted(config)
        };
        if self.pool.free_of(config.segment_bytes) < keep {
            return None;
        }
        let kept = [config.segment_bytes, config.start_segment_bytes];
        let odd = self
            .pool
            .free()
            .find(|(_, segment)| !kept.contains(&segment.bytes));
        let many = self.pool.free_of(config.segment_bytes) > keep
            && (self.tight || self.pool.bytes() > config.window_bytes);
        odd.map(|(slot, _)| slot).or_else(|| {
            self.pool
                .free()
                .filter(|(_, segment)| segment.bytes == config.segment_bytes)
                .map(|(slot, _)| slot)
                .max()
                .filter(|_| many)
        })
    }
}

fn is_live(core: &Core, record: &RawRecord<'_>, serial: Serial) -> bool {
    record.message().is_some_and(|message| {
        message
            .targets
            .iter()
            .any(|(lane, seq)| core.lanes.holder(lane, seq) == Some(serial))
    })
}

/// The frame where the emptying stands, if there is one that the disk can read.
fn read_frame(emptying: &Emptying, store: u64) -> Option<(Header, Vec<u8>)> {
    let mut head = vec![0; frame::HEADER];
    let read = emptying.file.read_at(emptying.offset, &mut head).ok()?;
    head.truncate(read);
    let (header, _) = Header::read(&head, store)?;
    let rest = emptying.extent.end.saturating_sub(emptying.offset);
    let mut bytes = vec![0; usize::try_from(header.frame_len().min(rest)).ok()?];
    let read = emptying.file.read_at(emptying.offset, &mut bytes).ok()?;
    bytes.truncate(read);
    Some((header, bytes))
}
