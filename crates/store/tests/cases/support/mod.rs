//! Crash-point enumeration: random histories, a model of what must survive, crashes everywhere.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

pub(crate) mod copies;
pub(crate) mod explore;
pub(crate) mod history;
pub(crate) mod model;
pub(crate) mod runs;

use leveret_store::{JournalConfig, StoreSabotage};

/// Sizes so small that a history of a few dozen commits recycles every segment.
pub(crate) fn tiny(sabotage: StoreSabotage) -> JournalConfig {
    JournalConfig {
        segment_bytes: 16 << 10,
        first_segment_bytes: 12 << 10,
        start_segment_bytes: 8 << 10,
        frame_bytes_max: u64::MAX,
        window_bytes: 64 << 10,
        checkpoint_bytes: 24 << 10,
        reserve_segments: 1,
        disk_free_min: 0,
        new_store_id: *b"0123456789abcdef",
        sabotage,
        ..JournalConfig::default()
    }
}

/// The same; in two histories of seven what is committed at once is written in several frames.
pub(crate) fn tiny_for(sabotage: StoreSabotage, seed: u64) -> JournalConfig {
    let whole = tiny(sabotage);
    match seed % 7 {
        0 | 1 => JournalConfig {
            frame_bytes_max: 1500,
            ..whole
        },
        _ => whole,
    }
}
