//! What an idle journal has too much of the disk: nobody may write again for long, and it is as
//! short then as if somebody did.

use crate::JournalConfig;
use crate::core::Core;

/// So many checkpoints make free what can be; more change nothing.
const CHECKPOINTS_MAX: u32 = 3;

/// Whether the journal has nothing to do but to become shorter.
#[derive(Default)]
pub(crate) struct Idle {
    /// The frame that was next when it was looked at last.
    seq: u64,
    /// Checkpoints since a frame was written.
    checkpoints: u32,
}

impl Idle {
    /// Whether nothing was written since the last call.
    pub(crate) const fn rests(&mut self, core: &Core) -> bool {
        let rests = self.seq == core.head.seq;
        self.seq = core.head.seq;
        if !rests {
            self.checkpoints = 0;
        }
        rests
    }

    /// Whether a checkpoint may make the journal shorter than its window, or give moved chunks'
    /// places back that are worth it.
    pub(crate) fn shrinks(&self, core: &Core, config: &JournalConfig) -> bool {
        let is_long = core.pool.bytes() > config.window_bytes;
        let has_places = core.dead_chunk_bytes() >= config.segment_bytes / 16;
        self.checkpoints < CHECKPOINTS_MAX && (is_long || has_places)
    }

    pub(crate) const fn began_checkpoint(&mut self) {
        self.checkpoints += 1;
    }
}
