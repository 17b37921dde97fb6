//! Segments that are being made: how fast, beside others' work.

use std::sync::Arc;

use crate::core::wanted;
use crate::journal::Journal;
use crate::segment;
use crate::vfs::{DiskError, VfsFile};

/// A segment that is being made.
pub(crate) struct Growing {
    pub(crate) slot: u32,
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) bytes: u64,
    /// How much of it is zeros already.
    pub(crate) zeroed: u64,
    /// The next frame when that was written.
    pub(crate) next_frame: u64,
}

impl Journal {
    /// Zeros some of a new segment, and gives where the rest begins: little while frames are
    /// written and only one is wanted; all of it where those have none left to go to.
    pub(crate) fn zero(&self, growing: &mut Growing) -> Result<u64, DiskError> {
        let core = self.core.lock();
        let free = core.pool.free_of(self.config.segment_bytes);
        let before = std::mem::replace(&mut growing.next_frame, core.head.seq);
        let piece = if core.head.seq == before || free + 1 < wanted(&self.config) {
            segment::ZERO_PIECE
        } else {
            segment::ZERO_PIECE_BESIDE
        };
        drop(core);
        loop {
            let zeroed = segment::zero(&*growing.file, growing.zeroed, growing.bytes, piece)?;
            if free > 0 || zeroed >= growing.bytes {
                return Ok(zeroed);
            }
            growing.zeroed = zeroed;
        }
    }
}
