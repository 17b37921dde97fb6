//! Space that the disk keeps for the journal, claimed for messages before they are enqueued.
//!
//! What is admitted is written without new space. A frame that does not fit in the rest of a
//! segment leaves that rest unused, so a claim is for more than its bytes. A record larger than a
//! segment gets one of its own, made when it is claimed.
//!
//! Segments are free again only after checkpoints, so these must find space, too, whatever is
//! settled in whichever order: both files are kept as long as that may take.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::checkpoint::RANGE_BYTES;
use crate::core::{Core, kept_from_messages};
use crate::frame::{self, BLOCK};
use crate::journal::Journal;
use crate::segment::{self, Segment};
use crate::vfs::{DiskError, Vfs, VfsFile};
use crate::{Batch, JournalConfig, Store, StoreRefusal};

/// Numbers of segments made for claims begin here; housekeeping gives the lowest that are unused.
const FIRST_SLOT: u32 = 1 << 20;

/// With so many segments' worth of free disk there is no need to count.
const AMPLE_SEGMENTS: u64 = 16;

/// What was claimed for records on their way.
#[derive(Clone, Default, Debug)]
pub(crate) struct Claim {
    /// Bytes of segments.
    pub(crate) bytes: i64,
    /// Bytes by which checkpoints may grow.
    pub(crate) image: i64,
    /// Segments made for records that are larger than ordinary ones.
    pub(crate) large: Vec<u32>,
}

impl Claim {
    pub(crate) fn add(&mut self, mut other: Self) {
        self.bytes += other.bytes;
        self.image += other.image;
        self.large.append(&mut other.large);
    }

    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0 && self.image == 0 && self.large.is_empty()
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
    /// No segment could be made for want of space.
    starved: AtomicBool,
    /// The most bytes a checkpoint takes from now on, but for what is claimed.
    image: AtomicI64,
    image_claimed: AtomicI64,
    /// Bytes of the shorter one of the checkpoint files.
    image_len: AtomicI64,
    /// Held while one of the files is written, or made longer.
    images: Mutex<()>,
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
    signed(charge + BLOCK)
}

/// By how much the checkpoint files are made longer than they need to be.
fn margin(config: &JournalConfig) -> u64 {
    (config.segment_bytes / 16).max(config.start_segment_bytes)
}

/// Records that a turn may add to those that were claimed: settlements, delivery counts.
const fn slack(config: &JournalConfig) -> u64 {
    config.segment_bytes / 8
}

/// Whether so many bytes and what comes with them fit in an ordinary segment.
fn is_ordinary(bytes: usize, config: &JournalConfig) -> bool {
    let len = frame::frame_len(bytes as u64).saturating_add(slack(config));
    len.saturating_add(BLOCK) <= config.segment_bytes
}

impl Space {
    pub(crate) fn new(core: &Core, config: &JournalConfig, image_len: u64) -> Self {
        let highest = core.pool.segments.keys().max().copied().unwrap_or(0);
        let space = Self {
            next_slot: AtomicU32::new(FIRST_SLOT.max(highest.saturating_add(1))),
            image_len: AtomicI64::new(signed(image_len)),
            ..Self::default()
        };
        space.update(core, config);
        space
    }

    /// Takes note of what can be written now.
    pub(crate) fn update(&self, core: &Core, config: &JournalConfig) {
        let made = self.made.lock();
        let whole = |bytes: u64| bytes.saturating_sub(BLOCK);
        let free = core.free_segments(config) + made.ordinary.len();
        let free = free as u64 * whole(config.segment_bytes);
        let head = core.pool.segments.get(&core.head.slot);
        let head = head.filter(|head| head.bytes != config.start_segment_bytes);
        let head = head.map_or(0, |head| whole(head.bytes).saturating_sub(core.head.offset));
        let reserve = kept_from_messages(config) as u64 * whole(config.segment_bytes);
        let there = signed(free + head).saturating_sub(signed(reserve));
        self.there.store(there, Ordering::Release);
        let disk_free = core.disk_free.unwrap_or(u64::MAX);
        self.disk_free.store(signed(disk_free), Ordering::Release);
        self.starved.store(core.starved, Ordering::Release);
        self.image
            .store(signed(core.image_len_max()), Ordering::Release);
    }

    /// Whether the checkpoint files have become short of what they may have to take.
    pub(crate) fn lacks_image(&self, config: &JournalConfig) -> bool {
        self.image_missing(signed(margin(config)) / 2) > 0
    }

    /// By how much the files are too short for what is there, is claimed, and so much more.
    fn image_missing(&self, more: i64) -> i64 {
        let needed = self.image.load(Ordering::Acquire)
            + self
                .image_claimed
                .load(Ordering::Acquire)
                .saturating_add(more);
        needed - self.image_len.load(Ordering::Acquire)
    }

    /// Claims so much of the checkpoint files, if they are long enough.
    fn has_image(&self, bytes: i64) -> bool {
        self.image_claimed.fetch_add(bytes, Ordering::AcqRel);
        if self.image_missing(0) <= 0 {
            return true;
        }
        self.image_claimed.fetch_sub(bytes, Ordering::AcqRel);
        false
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
        if claim.image != 0 {
            self.image_claimed.fetch_sub(claim.image, Ordering::AcqRel);
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
        batch: &mut Batch,
        (messages, bytes): (usize, usize),
    ) -> Result<(), StoreRefusal> {
        self.admission()?;
        // They may follow what is there, or begin a range of their own.
        let image = signed((messages as u64 + 1) * RANGE_BYTES);
        while !self.space.has_image(image) {
            self.lengthen_images(image)
                .map_err(|_| StoreRefusal::DiskFull)?;
        }
        let claimed = self.claim_segments(batch, bytes);
        match claimed {
            Ok(()) => batch.claim.image += image,
            Err(_) => {
                self.space.image_claimed.fetch_sub(image, Ordering::AcqRel);
            }
        }
        claimed
    }

    fn claim_segments(&self, batch: &mut Batch, bytes: usize) -> Result<(), StoreRefusal> {
        let config = &self.config;
        if !is_ordinary(bytes, config) {
            let len = frame::frame_len(bytes as u64);
            let len = (len + slack(config) + 2 * BLOCK).next_multiple_of(BLOCK);
            let slot = self.make_for_claim(len, |made| &mut made.large)?;
            batch.claim.large.push(slot);
            return Ok(());
        }
        let charge = charge(bytes, config.segment_bytes);
        while !self.space.has(charge) {
            // With space for many a segment counts as there; the next frame's end counts again. So
            // the disk is asked once for many batches.
            if !self.is_ample() {
                self.make_for_claim(config.segment_bytes, |made| &mut made.ordinary)?;
            }
            let more = signed(config.segment_bytes.saturating_sub(BLOCK));
            self.space.there.fetch_add(more, Ordering::AcqRel);
        }
        batch.claim.bytes += charge;
        Ok(())
    }

    /// Writes a checkpoint to its file.
    pub(crate) fn write_image(&self, file: &dyn VfsFile, bytes: &[u8]) -> Result<(), DiskError> {
        let _one = self.space.images.lock();
        file.write_at(0, bytes)?;
        let len = self.checkpoints.shorter_len()?;
        self.space.image_len.store(signed(len), Ordering::Release);
        Ok(())
    }

    /// Has both checkpoint files keep space for so much more than is there and claimed, if the disk
    /// has it above its floor.
    fn lengthen_images(&self, more: i64) -> Result<(), DiskError> {
        let _one = self.space.images.lock();
        let missing = self.space.image_missing(more);
        if missing <= 0 {
            return Ok(());
        }
        let missing = u64::try_from(missing).unwrap_or(0) + margin(&self.config);
        let len = self.checkpoints.shorter_len()? + missing;
        let needed = (2 * missing).saturating_add(self.config.disk_free_min);
        if self.vfs.free_bytes()? < needed {
            return Err(DiskError::NoSpace);
        }
        self.checkpoints.lengthen(len)?;
        self.space.image_len.store(signed(len), Ordering::Release);
        Ok(())
    }

    /// Keeps the checkpoint files long enough, as far as there is space: before anybody waits for
    /// it, and for what claims nothing.
    pub(crate) fn keep_images(&self) {
        if self.space.lacks_image(&self.config) {
            // Without space claims are refused instead.
            drop(self.lengthen_images(0));
        }
    }

    /// Whether there is so much free space that the journal's thread finds some in any case.
    fn is_ample(&self) -> bool {
        self.seems_ample()
            && self
                .vfs
                .free_bytes()
                .is_ok_and(|free| free >= self.ample_bytes())
    }

    /// The same, as far as the disk said when it was last asked.
    fn seems_ample(&self) -> bool {
        self.space.disk_free.load(Ordering::Acquire) >= signed(self.ample_bytes())
    }

    fn ample_bytes(&self) -> u64 {
        AMPLE_SEGMENTS
            .saturating_mul(self.config.segment_bytes)
            .saturating_add(self.config.disk_free_min)
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
        let segment = Segment::free(file, bytes);
        of(&mut self.space.made.lock()).push((slot, segment));
        Ok(slot)
    }

    /// Admits declarations, as [`Store::admit_change`] says. No system call: whoever asks has the
    /// directory locked.
    pub(crate) fn admit_change_now(
        &self,
        batch: &mut Batch,
        bytes: usize,
    ) -> Result<(), StoreRefusal> {
        if let Err(StoreRefusal::Stopped) = self.admission() {
            return Err(StoreRefusal::Stopped);
        }
        let config = &self.config;
        let image = signed(bytes as u64);
        if !self.space.has_image(image) {
            self.ring();
            if !self.seems_ample() {
                return Err(StoreRefusal::DiskFull);
            }
            self.space.image_claimed.fetch_add(image, Ordering::AcqRel);
        }
        let charge = charge(bytes, config.segment_bytes);
        let claimed = self.space.claimed.fetch_add(charge, Ordering::AcqRel) + charge;
        let claim = Claim {
            bytes: charge,
            image,
            ..Claim::default()
        };
        let reserve = signed(config.segment_bytes * config.reserve_segments as u64 / 2);
        let there = self.space.there.load(Ordering::Acquire);
        if self.space.starved.load(Ordering::Acquire) && claimed > there.saturating_add(reserve) {
            self.space.give_back(&claim);
            return Err(StoreRefusal::DiskFull);
        }
        batch.claim.add(claim);
        Ok(())
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
