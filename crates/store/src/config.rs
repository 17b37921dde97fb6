//! The journal's parameters; all sizes are small in tests, so that those can be exhaustive.

use std::collections::BTreeMap;

use crate::LaneId;

/// How the journal behaves. Sizes are bytes.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// Size of a journal segment.
    pub segment_bytes: u64,
    /// Size of segments made while somebody waits: at open, and when no other is ready.
    pub first_segment_bytes: u64,
    /// Size of segments kept back for the first frame after an open, which holds no message: there
    /// are always some, so that a full disk keeps nobody from starting.
    pub start_segment_bytes: u64,
    /// What is submitted while others are written goes into one frame up to this size, so that
    /// little of a segment is left over.
    pub frame_bytes_max: u64,
    /// How large the journal may grow before messages that keep old segments alive are copied.
    pub window_bytes: u64,
    /// Segments kept back so that a full disk can be drained.
    pub reserve_segments: usize,
    /// How much journal is written between two checkpoints, and so replayed at open.
    pub checkpoint_bytes: u64,
    /// Below this much free space persistent messages are refused; half as much again ends it.
    pub disk_free_min: u64,
    /// When a message counts as durable.
    pub sync: SyncPolicy,
    /// What to do about confirmed data that can no longer be read.
    pub on_corruption: OnCorruption,
    /// Says what a topology misses that these lanes or other parts of it need. Asked when records
    /// are lost that nothing names: then the store is not opened, whatever `on_corruption` says.
    pub missing: Option<Missing>,
    /// Random bytes that become a new store's identity; unused if the store exists.
    pub new_store_id: [u8; 16],
    /// A deliberate fault, for the tests that prove the other tests.
    #[cfg(feature = "sabotage")]
    pub sabotage: crate::StoreSabotage,
}

/// Tells what a topology misses, of what the lanes given and the rest of it belong to.
pub type Missing = fn(&BTreeMap<Vec<u8>, Vec<u8>>, &[LaneId]) -> Option<String>;

/// When a message counts as durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SyncPolicy {
    /// After the disk said so: survives a power cut.
    #[default]
    Group,
    /// After the operating system took it: survives this process, not a power cut.
    Os,
}

/// What to do about confirmed data that can no longer be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnCorruption {
    /// Open without it and say what is missing; damaged topology is refused all the same.
    #[default]
    Salvage,
    /// Do not open.
    Refuse,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            first_segment_bytes: 1 << 20,
            start_segment_bytes: 64 << 10,
            frame_bytes_max: 16 << 20,
            window_bytes: 1 << 30,
            reserve_segments: 2,
            checkpoint_bytes: 256 << 20,
            disk_free_min: 50 << 20,
            sync: SyncPolicy::Group,
            on_corruption: OnCorruption::Salvage,
            missing: None,
            new_store_id: [0; 16],
            #[cfg(feature = "sabotage")]
            sabotage: crate::StoreSabotage::None,
        }
    }
}
