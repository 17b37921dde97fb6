//! Space that the disk keeps for the journal, claimed for messages before they are enqueued.
//!
//! What is admitted is written without new space. A frame that does not fit in the rest of a
//! segment leaves that rest unused, so a claim is for more than its bytes. A record larger than a
//! segment gets one of its own, made when it is claimed.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::core::Core;
use crate::frame::{self, BLOCK};
use crate::journal::Journal;
use crate::segment::{self, Segment, Use};
use crate::vfs::{DiskError, Vfs};
use crate::{Config, Scratch, Store, StoreRefusal};

/// Numbers of segments made for claims begin here; housekeeping gives the lowest that are unused.
const FIRST_SLOT: u32 = 1 << 20;

/// With so many segments' worth of free disk there is no need to count.
const AMPLE_SEGMENTS: u64 = 16;

/// What was claimed for records on their way.
#[derive(Clone, Default, Debug)]
pub(crate) struct Claim {
    /// Bytes that can be written.
    pub(crate) bytes: i64,
    /// Segments made for records that are larger than ordinary ones.
    pub(crate) large: Vec<u32>,
}

impl Claim {
    pub(crate) fn add(&mut self, mut other: Self) {
        self.bytes += other.bytes;
        self.large.append(&mut other.large);
    }

    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0 && self.large.is_empty()
    }
}

/// The space there is, and what of it is claimed.
#[derive(Default)]
pub(crate) struct Space {
    /// Bytes that can be written without new space, less the reserve.
    there: AtomicI64,
    claimed: AtomicI64,
    /// The disk's free bytes when last asked.
    disk_free: AtomicI64,
    /// Bytes by which declarations may make the checkpoint grow on a full disk.
    changes: AtomicI64,
    /// No segment could be made for want of space.
    starved: AtomicBool,
    made: Mutex<Made>,
    next_slot: AtomicU32,
}

/// Segments made for claims that the journal does not know of yet.
#[derive(Default)]
struct Made {
    ordinary: Vec<(u32, Segment)>,
    large: Vec<(u32, Segment)>,
}

/// What a frame with so many bytes of records may take of segments of this size.
fn charge(bytes: usize, segment_bytes: u64) -> i64 {
    let len = frame::frame_len(bytes as u64);
    let charge = if len > segment_bytes / 4 {
        len * 2
    } else {
        len + len / 2
    };
    i64::try_from(charge + BLOCK).unwrap_or(i64::MAX)
}

/// Records that a turn may add to those that were claimed: settlements, delivery counts.
const fn slack(config: &Config) -> u64 {
    config.segment_bytes / 8
}

/// Whether so many bytes and what comes with them fit in an ordinary segment.
fn is_ordinary(bytes: usize, config: &Config) -> bool {
    let len = frame::frame_len(bytes as u64).saturating_add(slack(config));
    len.saturating_add(BLOCK) <= config.segment_bytes
}

impl Space {
    pub(crate) fn new(core: &Core, config: &Config) -> Self {
        let highest = core.pool.segments.keys().max().copied().unwrap_or(0);
        let space = Self {
            next_slot: AtomicU32::new(FIRST_SLOT.max(highest.saturating_add(1))),
            ..Self::default()
        };
        space.update(core, config);
        space
    }

    /// Takes note of what can be written now.
    pub(crate) fn update(&self, core: &Core, config: &Config) {
        let made = self.made.lock();
        let whole = |bytes: u64| bytes.saturating_sub(BLOCK);
        let free = core.pool.free().map(|(_, free)| free.bytes);
        let free = free.filter(|bytes| *bytes != config.start_segment_bytes);
        let free: u64 = free.map(whole).sum();
        let own: u64 = made.ordinary.iter().map(|(_, own)| whole(own.bytes)).sum();
        let head = core.pool.segments.get(&core.head.slot);
        let head = head.map_or(0, |head| {
            if head.bytes == config.start_segment_bytes {
                return 0;
            }
            whole(head.bytes).saturating_sub(core.head.offset)
        });
        let reserve = config.reserve_segments as u64 * whole(config.segment_bytes);
        let there = i64::try_from(free + own + head).unwrap_or(i64::MAX);
        let there = there.saturating_sub(i64::try_from(reserve).unwrap_or(i64::MAX));
        self.there.store(there, Ordering::Release);
        let disk_free = core.disk_free.unwrap_or(u64::MAX);
        let disk_free = i64::try_from(disk_free).unwrap_or(i64::MAX);
        self.disk_free.store(disk_free, Ordering::Release);
        self.starved.store(core.starved, Ordering::Release);
    }

    /// Declarations may make a checkpoint of `len` bytes grow within its file.
    pub(crate) fn allow_changes(&self, len: u64, file_bytes: u64) {
        let rest = file_bytes.saturating_sub(len) / 2;
        let rest = i64::try_from(rest).unwrap_or(i64::MAX);
        self.changes.store(rest, Ordering::Release);
    }

    fn has(&self, charge: i64) -> bool {
        let claimed = self.claimed.fetch_add(charge, Ordering::AcqRel) + charge;
        if claimed <= self.there.load(Ordering::Acquire) {
            return true;
        }
        self.claimed.fetch_sub(charge, Ordering::AcqRel);
        false
    }

    /// Gives back what was claimed for records that are written or were never submitted.
    pub(crate) fn give_back(&self, claim: &Claim) {
        if claim.bytes != 0 {
            self.claimed.fetch_sub(claim.bytes, Ordering::AcqRel);
        }
    }

    /// Removes segments that were made for records that are not submitted.
    pub(crate) fn unmake(&self, vfs: &dyn Vfs, claim: &Claim) {
        if claim.large.is_empty() {
            return;
        }
        let mut made = self.made.lock();
        made.large.retain(|(slot, _)| !claim.large.contains(slot));
        for slot in &claim.large {
            segment::give_up(vfs, *slot);
        }
    }

    /// Gives the journal the segments that a frame needs, durable by name and length.
    pub(crate) fn hand_over(
        &self,
        vfs: &dyn Vfs,
        core: &mut Core,
        claim: &Claim,
    ) -> Result<(), DiskError> {
        let mut made = self.made.lock();
        let mut handed = std::mem::take(&mut made.ordinary);
        if !claim.large.is_empty() {
            let named = |one: &mut (u32, Segment)| claim.large.contains(&one.0);
            handed.extend(made.large.extract_if(.., named));
        }
        drop(made);
        if handed.is_empty() {
            return Ok(());
        }
        for (_, segment) in &handed {
            segment.file.sync()?;
        }
        vfs.sync_dir()?;
        core.pool.segments.extend(handed);
        Ok(())
    }
}

impl Journal {
    /// Claims space for messages, as [`Store::claim`] says.
    pub(crate) fn claim_space(
        &self,
        scratch: &mut Scratch,
        bytes: usize,
    ) -> Result<(), StoreRefusal> {
        self.admission()?;
        let config = &self.config;
        if !is_ordinary(bytes, config) {
            let len = frame::frame_len(bytes as u64);
            let len = (len + slack(config) + 2 * BLOCK).next_multiple_of(BLOCK);
            let slot = self.make_for_claim(len, |made| &mut made.large)?;
            scratch.claim.large.push(slot);
            return Ok(());
        }
        let charge = charge(bytes, config.segment_bytes);
        while !self.space.has(charge) {
            // With space for many a segment counts as there; the next frame's end counts again. So
            // the disk is asked once for many batches.
            if !self.is_ample() {
                self.make_for_claim(config.segment_bytes, |made| &mut made.ordinary)?;
            }
            let more = config.segment_bytes.saturating_sub(BLOCK);
            let more = i64::try_from(more).unwrap_or(i64::MAX);
            self.space.there.fetch_add(more, Ordering::AcqRel);
        }
        scratch.claim.bytes += charge;
        Ok(())
    }

    /// Whether there is so much free space that the journal's thread finds some in any case.
    fn is_ample(&self) -> bool {
        let ample = AMPLE_SEGMENTS
            .saturating_mul(self.config.segment_bytes)
            .saturating_add(self.config.disk_free_min);
        let ample = i64::try_from(ample).unwrap_or(i64::MAX);
        self.space.disk_free.load(Ordering::Acquire) >= ample
            && self.free_bytes().is_some_and(|free| free >= ample)
    }

    fn free_bytes(&self) -> Option<i64> {
        let free = self.vfs.free_bytes().ok()?;
        Some(i64::try_from(free).unwrap_or(i64::MAX))
    }

    /// Makes a segment at once, if the disk has space for it above its floor.
    fn make_for_claim(
        &self,
        bytes: u64,
        of: impl FnOnce(&mut Made) -> &mut Vec<(u32, Segment)>,
    ) -> Result<u32, StoreRefusal> {
        let needed = bytes.saturating_add(self.config.disk_free_min);
        let free = self.vfs.free_bytes().unwrap_or(0);
        if free < needed {
            return Err(StoreRefusal::DiskFull);
        }
        let slot = self.space.next_slot.fetch_add(1, Ordering::Relaxed);
        let file = self.vfs.create(&segment::name_of(slot));
        let file = file.map_err(|_| StoreRefusal::DiskFull)?;
        if file.allocate(bytes).is_err() {
            segment::give_up(&*self.vfs, slot);
            return Err(StoreRefusal::DiskFull);
        }
        let used = Use::Free;
        let segment = Segment { file, bytes, used };
        of(&mut self.space.made.lock()).push((slot, segment));
        Ok(slot)
    }

    /// Whether declarations may be submitted, as [`Store::admit_change`] says.
    pub(crate) fn admit_change_now(&self, bytes: usize) -> Result<(), StoreRefusal> {
        if let Err(StoreRefusal::Stopped) = self.admission() {
            return Err(StoreRefusal::Stopped);
        }
        if !self.space.starved.load(Ordering::Acquire) {
            return Ok(());
        }
        let config = &self.config;
        let reserve = config.segment_bytes * config.reserve_segments as u64 / 2;
        let there = self.space.there.load(Ordering::Acquire);
        let there = there.saturating_add(i64::try_from(reserve).unwrap_or(i64::MAX));
        let charge = charge(bytes, config.segment_bytes);
        let claimed = self.space.claimed.load(Ordering::Acquire) + charge;
        let grown = i64::try_from(bytes).unwrap_or(i64::MAX);
        if claimed > there || self.space.changes.fetch_sub(grown, Ordering::AcqRel) < grown {
            return Err(StoreRefusal::DiskFull);
        }
        Ok(())
    }
}
