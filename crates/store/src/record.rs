//! The bytes of one record in the journal: a 16-byte head, a payload, zeros to 8 bytes.
//!
//! ```text
//! head     len u32 | crc u32 | kind u8 | flags u8 | route_len u16 | middle_len u32
//! MESSAGE  [targets u32 if MANY] targets x (lane u32, seq u64) [entered u64 if ENTERED]
//!          [expiration u64 if EXPIRATION] route middle body
//! TOPOLOGY key (middle) value; flag DELETE: the key is gone
//! SETTLED  ranges x (lane u32, from u64, to u64)              `to` is exclusive, as everywhere
//! RETURNED ranges x (lane u32, from u64, to u64, acquired u32, failed u32); without the flag
//!          ATTEMPTS, as the first version wrote it: deliveries u8
//! RESET    lanes x (lane u32, up_to u64)                      u64::MAX: the lane is gone
//! MOVED    lane u32, len u32, checksum u32, messages u32, run u64, offset u64, bytes u64,
//!          base_ms u64, own_ms u64, ranges x (from u64, to u64)   in a run file from now on
//! ```
//! `len` counts head and payload without the padding; `crc` is CRC-32C over both, less itself.

use leveret_record::{Attempts, RunPlace};

use crate::{LaneId, MovedChunk};

/// Bytes of a record's head.
pub(crate) const HEAD: usize = 16;

// Kinds differ in four bits each, so that a flipped bit does not turn one into another.

/// A message and the lanes it is in.
pub(crate) const MESSAGE: u8 = 0x0f;
/// One key of the topology, set or deleted.
pub(crate) const TOPOLOGY: u8 = 0x33;
/// Ranges of sequence numbers that are settled.
pub(crate) const SETTLED: u8 = 0x55;
/// Ranges of sequence numbers that were requeued, with their delivery count.
pub(crate) const RETURNED: u8 = 0x5a;
/// Lanes of which everything below a sequence number is settled.
pub(crate) const RESET: u8 = 0x66;
/// Messages that are in a run file from now on.
pub(crate) const MOVED: u8 = 0x3c;

/// Whether this version knows the kind.
pub(crate) fn is_known(kind: u8) -> bool {
    matches!(
        kind,
        MESSAGE | TOPOLOGY | SETTLED | RETURNED | RESET | MOVED
    )
}

/// MESSAGE: an expiration follows the targets and the entering time.
pub(crate) const EXPIRATION: u8 = 1;
/// MESSAGE: the number of targets is written out; without it there is exactly one.
pub(crate) const MANY: u8 = 2;
/// Part of an atomic group: never elided.
pub(crate) const GROUP: u8 = 4;
/// TOPOLOGY: the key is deleted.
pub(crate) const DELETE: u8 = 8;
/// MESSAGE: when it was taken follows the targets.
pub(crate) const ENTERED: u8 = 16;
/// MESSAGE: the broker wrote what its headers tell of deaths.
pub(crate) const DEATHS: u8 = 32;
/// RETURNED: both counts of attempts are there.
pub(crate) const ATTEMPTS: u8 = 64;

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
pub(crate) struct HeadFields {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) route_len: u16,
    pub(crate) middle_len: u32,
}

impl HeadFields {
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
pub(crate) fn finish(out: &mut Vec<u8>, start: usize, head: HeadFields) -> bool {
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

/// Bytes of one range in SETTLED, and in RETURNED without its count.
pub(crate) const RANGE: usize = 20;

/// Appends a range of a lane.
pub(crate) fn push_range(out: &mut Vec<u8>, lane: LaneId, from: u64, to: u64) {
    push_target(out, lane, from);
    out.extend_from_slice(&to.to_le_bytes());
}

/// Appends a chunk and the ranges of its messages.
pub(crate) fn push_moved(out: &mut Vec<u8>, chunk: &MovedChunk, ranges: &[(u64, u64)]) {
    let place = &chunk.place;
    for number in [chunk.lane.0, place.len, place.checksum, chunk.messages] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let numbers = [
        place.run,
        place.offset,
        chunk.bytes,
        chunk.base_ms,
        chunk.own_ms,
    ];
    let ranges = ranges.iter().flat_map(|(from, to)| [*from, *to]);
    for number in numbers.into_iter().chain(ranges) {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// Bytes of a MOVED payload before its ranges.
pub(crate) const CHUNK: usize = 56;

/// One record in a frame's body: its head, and its bytes without padding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawRecord<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) crc: u32,
    route_len: u16,
    middle_len: u32,
    bytes: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// The record at `at`, if its length is possible; its checksum is not looked at.
    pub(crate) fn at(body: &'a [u8], at: usize) -> Option<Self> {
        let head = body.get(at..at.checked_add(HEAD)?)?;
        let len = usize::try_from(u32_at(head, 0)?).ok()?;
        if len < HEAD {
            return None;
        }
        Some(Self {
            crc: u32_at(head, 4)?,
            kind: *head.get(8)?,
            flags: *head.get(9)?,
            route_len: u16::from_le_bytes(*head.get(10..)?.first_chunk()?),
            middle_len: u32_at(head, 12)?,
            bytes: body.get(at..at.checked_add(len)?)?,
        })
    }

    /// Whether the checksum holds.
    pub(crate) fn intact(&self) -> bool {
        checksum(self.bytes) == self.crc
    }

    /// Bytes up to the next record.
    pub(crate) fn padded_len(&self) -> usize {
        padded(self.bytes.len())
    }

    /// Head and payload.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What is behind the head.
    pub(crate) fn payload(&self) -> &'a [u8] {
        self.bytes.get(HEAD..).unwrap_or(&[])
    }

    /// The lane and sequence number of a message with one target that may be elided.
    pub(crate) fn elidable(&self) -> Option<(LaneId, u64)> {
        if self.kind != MESSAGE || self.flags & (MANY | GROUP) != 0 {
            return None;
        }
        target_at(self.payload(), 0)
    }

    /// The parts of a MESSAGE; `None` for any other kind.
    pub(crate) fn message(&self) -> Option<MessageRecord<'a>> {
        if self.kind != MESSAGE {
            return None;
        }
        let mut rest = self.payload();
        let mut count = 1;
        if self.flags & MANY != 0 {
            count = usize::try_from(u32_at(rest, 0)?).ok()?;
            rest = rest.get(4..)?;
        }
        let targets = MessageTargets(rest.get(..count.checked_mul(TARGET)?)?);
        rest = rest.get(targets.0.len()..)?;
        let (mut entered_ms, mut expiration_ms) = (None, None);
        if self.flags & ENTERED != 0 {
            entered_ms = Some(u64_at(rest, 0)?);
            rest = rest.get(8..)?;
        }
        if self.flags & EXPIRATION != 0 {
            expiration_ms = Some(u64_at(rest, 0)?);
            rest = rest.get(8..)?;
        }
        let (route, rest) = rest.split_at_checked(usize::from(self.route_len))?;
        let (header, body) = rest.split_at_checked(usize::try_from(self.middle_len).ok()?)?;
        Some(MessageRecord {
            targets,
            entered_ms,
            expiration_ms,
            deaths: self.flags & DEATHS != 0,
            grouped: self.flags & GROUP != 0,
            route,
            header,
            body,
        })
    }

    /// Key and value of a TOPOLOGY operation; no value: deleted.
    pub(crate) fn topology(&self) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        let key_len = usize::try_from(self.middle_len).ok()?;
        let (key, value) = self.payload().split_at_checked(key_len)?;
        Some((key, (self.flags & DELETE == 0).then_some(value)))
    }

    /// The chunk of a MOVED record, and the ranges of its messages.
    pub(crate) fn moved(&self) -> Option<(MovedChunk, Vec<(u64, u64)>)> {
        let (head, ranges) = self.payload().split_at_checked(CHUNK)?;
        let chunk = moved_at(head)?;
        let ranges = ranges.chunks_exact(16);
        let ranges = ranges.filter_map(|range| Some((u64_at(range, 0)?, u64_at(range, 8)?)));
        Some((chunk, ranges.collect()))
    }

    /// The same message with other targets, appended to `out`; false if it is no message.
    pub(crate) fn retarget(&self, targets: &[(LaneId, u64)], out: &mut Vec<u8>) -> bool {
        let Some(message) = self.message() else {
            return false;
        };
        let start = begin(out);
        // A copy must outlive a settlement in its own frame: the original is elsewhere.
        let mut flags = self.flags & (ENTERED | EXPIRATION | DEATHS) | GROUP;
        if targets.len() != 1 {
            flags |= MANY;
            out.extend_from_slice(&u32::try_from(targets.len()).unwrap_or(0).to_le_bytes());
        }
        for (lane, seq) in targets {
            push_target(out, *lane, *seq);
        }
        for time in [message.entered_ms, message.expiration_ms]
            .into_iter()
            .flatten()
        {
            out.extend_from_slice(&time.to_le_bytes());
        }
        for part in [message.route, message.header, message.body] {
            out.extend_from_slice(part);
        }
        let (route_len, middle_len) = (self.route_len, self.middle_len);
        finish(
            out,
            start,
            HeadFields {
                kind: MESSAGE,
                flags,
                route_len,
                middle_len,
            },
        )
    }
}

/// A message, as its record has it: the bytes are those that were given to the store.
#[derive(Clone, Copy, Debug)]
pub struct MessageRecord<'a> {
    /// Where it goes.
    pub targets: MessageTargets<'a>,
    /// When the broker took it, unix milliseconds.
    pub entered_ms: Option<u64>,
    /// How long it may wait by its own property, milliseconds.
    pub expiration_ms: Option<u64>,
    /// Whether the broker wrote what its headers tell of deaths.
    pub deaths: bool,
    /// Part of an atomic group.
    pub grouped: bool,
    /// The exchange and routing key short strings.
    pub route: &'a [u8],
    /// The content header frame's payload.
    pub header: &'a [u8],
    /// In one piece.
    pub body: &'a [u8],
}

/// The targets of a message record.
#[derive(Clone, Copy, Debug)]
pub struct MessageTargets<'a>(&'a [u8]);

impl<'a> MessageTargets<'a> {
    /// How many there are.
    pub(crate) fn len(self) -> usize {
        self.0.len() / TARGET
    }

    /// Each lane and sequence number.
    pub fn iter(self) -> impl Iterator<Item = (LaneId, u64)> + 'a {
        self.0
            .chunks_exact(TARGET)
            .filter_map(|target| target_at(target, 0))
    }
}

/// The ranges of a SETTLED payload.
pub(crate) fn ranges(payload: &[u8]) -> impl Iterator<Item = (LaneId, u64, u64)> + '_ {
    payload.chunks_exact(RANGE).filter_map(|range| {
        let (lane, from) = target_at(range, 0)?;
        Some((lane, from, u64_at(range, TARGET)?))
    })
}

/// The ranges of a RETURNED record, with how often their messages were tried.
pub(crate) fn counted_ranges(
    record: RawRecord<'_>,
) -> impl Iterator<Item = (LaneId, u64, u64, Attempts)> + '_ {
    let both = record.flags & ATTEMPTS != 0;
    let width = RANGE + if both { 8 } else { 1 };
    record
        .payload()
        .chunks_exact(width)
        .filter_map(move |range| {
            let (lane, from) = target_at(range, 0)?;
            let attempts = if both {
                Attempts {
                    acquired: u32_at(range, RANGE)?,
                    failed: u32_at(range, RANGE + 4)?,
                }
            } else {
                Attempts {
                    acquired: u32::from(*range.get(RANGE)?),
                    failed: 0,
                }
            };
            Some((lane, from, u64_at(range, TARGET)?, attempts))
        })
}

/// The lanes of a RESET payload.
pub(crate) fn resets(payload: &[u8]) -> impl Iterator<Item = (LaneId, u64)> + '_ {
    payload
        .chunks_exact(TARGET)
        .filter_map(|reset| target_at(reset, 0))
}

/// What [`push_moved`] writes of a chunk.
pub(crate) fn moved_at(bytes: &[u8]) -> Option<MovedChunk> {
    Some(MovedChunk {
        lane: LaneId(u32_at(bytes, 0)?),
        place: RunPlace {
            run: u64_at(bytes, 16)?,
            offset: u64_at(bytes, 24)?,
            len: u32_at(bytes, 4)?,
            checksum: u32_at(bytes, 8)?,
        },
        messages: u32_at(bytes, 12)?,
        bytes: u64_at(bytes, 32)?,
        base_ms: u64_at(bytes, 40)?,
        own_ms: u64_at(bytes, 48)?,
    })
}

fn target_at(bytes: &[u8], at: usize) -> Option<(LaneId, u64)> {
    Some((LaneId(u32_at(bytes, at)?), u64_at(bytes, at + 4)?))
}

/// A little-endian number at `at`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A little-endian number at `at`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
