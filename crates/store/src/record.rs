//! The bytes of one record in the journal: a 16-byte head, a payload, zeros to 8 bytes.
//!
//! ```text
//! head     len u32 | crc u32 | kind u8 | flags u8 | route_len u16 | middle_len u32
//! MESSAGE  [targets u32 if MANY] targets x (lane u32, seq u64) [expiry u64 if EXPIRY] route middle
//! body
//! TOPOLOGY key (middle) value; flag DELETE: the key is gone
//! SETTLED  ranges x (lane u32, from u64, to u64)              to is exclusive, as everywhere
//! RETURNED ranges x (lane u32, from u64, to u64, deliveries u8)
//! RESET    lanes x (lane u32, up_to u64)                      u64::MAX: the lane is gone
//! ```
//! `len` counts head and payload without the padding; `crc` is CRC-32C over both, less itself.
#![expect(
    dead_code,
    reason = "the journal uses the kinds that a scratch does not write"
)]

use crate::LaneId;

/// Bytes of a record's head.
pub(crate) const HEAD: usize = 16;

/// A message and the lanes it is in.
pub(crate) const MESSAGE: u8 = 1;
/// One key of the topology, set or deleted.
pub(crate) const TOPOLOGY: u8 = 2;
/// Ranges of sequence numbers that are settled.
pub(crate) const SETTLED: u8 = 3;
/// Ranges of sequence numbers that were requeued, with their delivery count.
pub(crate) const RETURNED: u8 = 4;
/// Lanes of which everything below a sequence number is settled.
pub(crate) const RESET: u8 = 5;
/// Reserved: a range of messages now lives in a run.
pub(crate) const MOVED: u8 = 6;

/// MESSAGE: an expiry follows the targets.
pub(crate) const EXPIRY: u8 = 1;
/// MESSAGE: the number of targets is written out; without it there is exactly one.
pub(crate) const MANY: u8 = 2;
/// Part of an atomic group: never elided.
pub(crate) const GROUP: u8 = 4;
/// TOPOLOGY: the key is deleted.
pub(crate) const DELETE: u8 = 8;

/// Bytes of one (lane, seq) target.
pub(crate) const TARGET: usize = 12;

/// Bytes a record of `len` takes with its padding.
pub(crate) fn padded(len: usize) -> usize {
    len.next_multiple_of(8)
}

/// Starts a record: leaves room for its head and returns where it begins.
pub(crate) fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    start
}

/// The head's fields that are not computed.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) route_len: u16,
    pub(crate) middle_len: u32,
}

impl Head {
    /// A head without variable parts.
    pub(crate) fn plain(kind: u8) -> Self {
        Self {
            kind,
            flags: 0,
            route_len: 0,
            middle_len: 0,
        }
    }
}

/// Ends the record begun at `start`: head, checksum, padding. False, and the record is taken back,
/// if it is longer than the format can say.
#[must_use]
pub(crate) fn finish(out: &mut Vec<u8>, start: usize, head: Head) -> bool {
    let len = out.len() - start;
    let Some(len32) = u32::try_from(len)
        .ok()
        .filter(|len| *len <= RECORD_BYTES_MAX)
    else {
        out.truncate(start);
        return false;
    };
    if let Some(record) = out.get_mut(start..) {
        put(record, 0, &len32.to_le_bytes());
        put(record, 8, &[head.kind, head.flags]);
        put(record, 10, &head.route_len.to_le_bytes());
        put(record, 12, &head.middle_len.to_le_bytes());
        let crc = checksum(record);
        put(record, 4, &crc.to_le_bytes());
    }
    out.resize(start + padded(len), 0);
    true
}

/// The largest record, head included.
pub(crate) const RECORD_BYTES_MAX: u32 = 1 << 30;

fn put(record: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = record.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// The checksum of a record without padding: everything but the checksum's own four bytes.
pub(crate) fn checksum(record: &[u8]) -> u32 {
    let (before, after) = (record.get(..4), record.get(8..));
    crc32c::crc32c_append(crc32c::crc32c(before.unwrap_or(&[])), after.unwrap_or(&[]))
}

/// Appends a (lane, seq) target.
pub(crate) fn push_target(out: &mut Vec<u8>, lane: LaneId, seq: u64) {
    let mut target = [0; TARGET];
    put(&mut target, 0, &lane.0.to_le_bytes());
    put(&mut target, 4, &seq.to_le_bytes());
    out.extend_from_slice(&target);
}
