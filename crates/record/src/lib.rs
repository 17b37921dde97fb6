//! The byte layout of one message, the same in a queue's chunk and later in a run file.
//!
//! A record is a fixed header followed by the raw bytes a client sent, so that delivering it is two
//! copies and no parsing. All integers are little-endian.
//!
//! ```text
//! len u32 | seq u64 | entered u32 | route length u16 | flags u16
//! [expiration u64] [acquired u32 | failed u32]
//! route: exchange + routing key, each a short string
//! content header payload  body, or u32 index of a shared blob
//! ```
//! A record that has route and content header of one before it names that instead:
//! ```text
//! len u32 | seq u64 | entered u32 | 0 u16 | flags u16 | offset of the other u32
//! body, or u32 index of a shared blob
//! ```
//! `entered` is in milliseconds after a time that the holder of the bytes knows.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod memory;
mod place;
mod sabotage;

pub use memory::{Blob, Memory, MemoryLimits, POOLED_BYTES};
pub use place::{Freed, FreedPart, RunFile, RunPlace, Spot};
#[cfg(feature = "sabotage")]
pub use sabotage::sabotage;
pub use sabotage::{Sabotage, breaks};

/// Bytes of the fixed record header.
pub const HEADER_BYTES: usize = 20;

const FLAG_EXPIRATION: u16 = 1;
const FLAG_BLOB: u16 = 2;
const FLAG_PERSISTENT: u16 = 4;
const FLAG_ATTEMPTS: u16 = 8;
const FLAG_DEATHS: u16 = 16;
const FLAG_LEFT: u16 = 32;
const FLAG_ALIKE: u16 = 64;
const FLAG_SETTLED: u16 = 128;
const FLAG_DROPPED: u16 = 256;
/// What a record keeps of its flags beside its fields.
const MARKS: u16 = FLAG_DEATHS | FLAG_LEFT | FLAG_SETTLED | FLAG_DROPPED;

/// Offset of the body size inside a content header payload: after class-id and weight.
const BODY_SIZE_AT: usize = 4;
const FLAGS_AT: usize = 18;
const EXPIRATION_BYTES: usize = 8;
const ATTEMPTS_BYTES: usize = 8;
const OFFSET_BYTES: usize = 4;

/// Where a record's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// The body's bytes follow the content header.
    Inline(&'a [u8]),
    /// The body is the blob at this index of the chunk's blob list.
    Blob {
        /// Index into the chunk's blob list.
        index: u32,
        /// Body size in bytes.
        len: u32,
    },
}

impl Body<'_> {
    /// Body size in bytes.
    #[must_use]
    pub const fn len(&self) -> u32 {
        match self {
            #[expect(clippy::cast_possible_truncation, reason = "a record is at most 4 GiB")]
            Body::Inline(bytes) => bytes.len() as u32,
            Body::Blob { len, .. } => *len,
        }
    }

    /// Whether the body has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How often a message was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempts {
    /// How often it was handed out and came back; above 0 it is `redelivered`.
    pub acquired: u32,
    /// How often of these it counts as failed: what a delivery limit bounds.
    pub failed: u32,
}

impl Attempts {
    /// None yet.
    pub const NONE: Self = Self {
        acquired: 0,
        failed: 0,
    };

    /// One more, failed or not.
    #[must_use]
    pub const fn and_one(self, failed: bool) -> Self {
        Self {
            acquired: self.acquired.saturating_add(1),
            failed: self.failed.saturating_add(failed as u32),
        }
    }

    /// The higher one of each count.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            acquired: self.acquired.max(other.acquired),
            failed: self.failed.max(other.failed),
        }
    }
}

/// What few records are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u16);

impl Marks {
    /// A record whose headers tell of deaths, and the broker wrote that; or an ordinary one.
    #[must_use]
    #[inline]
    pub const fn of_deaths(deaths: bool) -> Self {
        Self(if deaths { FLAG_DEATHS } else { 0 })
    }

    /// Whether its headers tell of deaths, and the broker wrote that.
    #[must_use]
    #[inline]
    pub const fn deaths(self) -> bool {
        self.0 & FLAG_DEATHS != 0
    }

    /// Whether it has left the queue although others before it have not: see [`mark_left`].
    #[must_use]
    #[inline]
    pub const fn left(self) -> bool {
        self.0 & FLAG_LEFT != 0
    }

    /// Whether it is settled, and only its chunk is still there: see [`mark_settled`].
    #[must_use]
    #[inline]
    pub const fn settled(self) -> bool {
        self.0 & FLAG_SETTLED != 0
    }

    /// Whether it is settled, and not on the disk where its chunk is: see [`mark_dropped`].
    #[must_use]
    pub const fn dropped(self) -> bool {
        self.0 & FLAG_DROPPED != 0
    }
}

/// One message, borrowed from where it is stored or from a read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The message's sequence number in its lane.
    pub seq: u64,
    /// When the queue took it, milliseconds after a time that its holder knows.
    pub entered: u32,
    /// How often it was tried before it came to where it is stored.
    pub attempts: Attempts,
    /// Whether it survives a restart when its queue is durable.
    pub persistent: bool,
    /// What few records are.
    pub marks: Marks,
    /// How long it may wait by its own `expiration` property, milliseconds.
    pub expiration_ms: Option<u64>,
    /// Exchange and routing key as two raw short strings, as in `basic.publish`.
    pub route: &'a [u8],
    /// Payload of the content header frame, forwarded byte for byte.
    pub header: &'a [u8],
    /// The body or where it is.
    pub body: Body<'a>,
}

impl Record<'_> {
    /// Bytes the record takes when appended.
    #[must_use]
    pub const fn stored_len(&self) -> usize {
        let expiration = if self.expiration_ms.is_some() {
            EXPIRATION_BYTES
        } else {
            0
        };
        let attempts = if self.attempts.acquired > 0 {
            ATTEMPTS_BYTES
        } else {
            0
        };
        let body = match self.body {
            Body::Inline(bytes) => bytes.len(),
            Body::Blob { .. } => 4,
        };
        HEADER_BYTES + expiration + attempts + self.route.len() + self.header.len() + body
    }

    /// Bytes the record takes when appended as one that is like another.
    #[must_use]
    pub const fn alike_len(&self) -> usize {
        self.stored_len() - self.route.len() - self.header.len() + OFFSET_BYTES
    }

    /// Whether the record may be appended as one that is like the other: route and content header
    /// are the same, and it has nothing that few records have.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let is_plain = self.expiration_ms.is_none() && self.attempts.acquired == 0;
        is_plain && self.route == other.route && self.header == other.header
    }

    /// Appends the record as one that is like the one that begins at `offset`.
    pub fn append_alike(&self, offset: u32, out: &mut Vec<u8>) {
        let head = RecordHead {
            len: u32::try_from(self.alike_len()).unwrap_or(u32::MAX),
            seq: self.seq,
            entered: self.entered,
            route_len: 0,
        };
        out.extend_from_slice(&head.with(self.flags() | FLAG_ALIKE));
        out.extend_from_slice(&offset.to_le_bytes());
        self.append_body(out);
    }

    #[inline]
    fn append_body(&self, out: &mut Vec<u8>) {
        match self.body {
            Body::Inline(bytes) => out.extend_from_slice(bytes),
            Body::Blob { index, .. } => out.extend_from_slice(&index.to_le_bytes()),
        }
    }

    #[cold]
    fn append_rare(&self, out: &mut Vec<u8>) {
        if let Some(expiration) = self.expiration_ms {
            out.extend_from_slice(&expiration.to_le_bytes());
        }
        if self.attempts.acquired > 0 {
            out.extend_from_slice(&self.attempts.acquired.to_le_bytes());
            out.extend_from_slice(&self.attempts.failed.to_le_bytes());
        }
    }

    #[inline]
    const fn flags(&self) -> u16 {
        let mut flags = if self.persistent { FLAG_PERSISTENT } else { 0 };
        if self.expiration_ms.is_some() {
            flags |= FLAG_EXPIRATION;
        }
        if self.attempts.acquired > 0 {
            flags |= FLAG_ATTEMPTS;
        }
        flags |= self.marks.0;
        if matches!(self.body, Body::Blob { .. }) {
            flags |= FLAG_BLOB;
        }
        flags
    }

    /// Appends the record to a chunk's bytes.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "routes are at most 512 bytes"
    )]
    #[inline]
    pub fn append(&self, out: &mut Vec<u8>) {
        let flags = self.flags();
        let head = RecordHead {
            len: self.stored_len() as u32,
            seq: self.seq,
            entered: self.entered,
            route_len: self.route.len() as u16,
        };
        out.extend_from_slice(&head.with(flags));
        if flags & (FLAG_EXPIRATION | FLAG_ATTEMPTS) != 0 {
            self.append_rare(out);
        }
        out.extend_from_slice(self.route);
        out.extend_from_slice(self.header);
        self.append_body(out);
    }
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug)]
pub struct RecordHead {
    /// Bytes of the record, head included.
    pub len: u32,
    /// Sequence number.
    pub seq: u64,
    /// As in [`Record`].
    pub entered: u32,
    /// Bytes of exchange and routing key.
    pub route_len: u16,
}

impl RecordHead {
    /// The bytes before the route, for a record that has neither an own expiration nor attempts,
    /// marks or a shared body.
    #[must_use]
    #[inline]
    pub const fn of_plain(&self, persistent: bool) -> [u8; HEADER_BYTES] {
        self.with(if persistent { FLAG_PERSISTENT } else { 0 })
    }

    #[inline]
    const fn with(&self, flags: u16) -> [u8; HEADER_BYTES] {
        let [l0, l1, l2, l3] = self.len.to_le_bytes();
        let [s0, s1, s2, s3, s4, s5, s6, s7] = self.seq.to_le_bytes();
        let [e0, e1, e2, e3] = self.entered.to_le_bytes();
        let [r0, r1] = self.route_len.to_le_bytes();
        let [f0, f1] = flags.to_le_bytes();
        [
            l0, l1, l2, l3, s0, s1, s2, s3, s4, s5, s6, s7, e0, e1, e2, e3, r0, r1, f0, f1,
        ]
    }
}

/// Where a record is in its queue: stable until the record is released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Identity of the chunk.
    pub chunk: u32,
    /// Offset of the record in it, in bytes.
    pub offset: u32,
}

/// What the receiver of a delivery keeps until it is settled, so that settling reads no record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unacked {
    /// Sequence number in the queue: its place in the order.
    pub seq: u64,
    /// Where the record is.
    pub position: Position,
    /// Body size in bytes.
    pub body_len: u32,
    /// How often it was tried before.
    pub attempts: Attempts,
    /// Its level in a queue with priorities; 0 in any other.
    pub level: u8,
    /// Whether its settlement must be recorded when the queue is durable.
    pub persistent: bool,
}

/// Reads the record that begins at `offset`, and the offset of the next one.
///
/// `None` when the bytes there are no whole record.
#[must_use]
#[inline]
pub fn read(data: &[u8], offset: u32) -> Option<(Record<'_>, u32)> {
    let rest = data.get(offset as usize..)?;
    let (head, _) = rest.split_first_chunk::<HEADER_BYTES>()?;
    let &[
        l0,
        l1,
        l2,
        l3,
        s0,
        s1,
        s2,
        s3,
        s4,
        s5,
        s6,
        s7,
        e0,
        e1,
        e2,
        e3,
        r0,
        r1,
        f0,
        f1,
    ] = head;
    let len = u32::from_le_bytes([l0, l1, l2, l3]);
    let flags = u16::from_le_bytes([f0, f1]);
    let mut rest = rest.get(HEADER_BYTES..len as usize)?;
    let (mut expiration_ms, mut attempts) = (None, Attempts::NONE);
    if flags & (FLAG_EXPIRATION | FLAG_ATTEMPTS | FLAG_ALIKE) != 0 {
        if flags & FLAG_ALIKE != 0 {
            let record = Record {
                seq: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
                entered: u32::from_le_bytes([e0, e1, e2, e3]),
                ..read_alike(data, offset, flags)?
            };
            return Some((record, offset.checked_add(len)?));
        }
        ((expiration_ms, attempts), rest) = read_rare(flags, rest)?;
    }
    let (route, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([r0, r1])))?;
    let size = rest.get(BODY_SIZE_AT..)?.first_chunk::<8>()?;
    let body_len = u32::try_from(u64::from_be_bytes(*size)).ok()?;
    let (header, body) = if flags & FLAG_BLOB == 0 {
        let (header, body) = rest.split_at_checked(rest.len().checked_sub(body_len as usize)?)?;
        (header, Body::Inline(body))
    } else {
        let (header, index) = rest.split_last_chunk::<4>()?;
        (
            header,
            Body::Blob {
                index: u32::from_le_bytes(*index),
                len: body_len,
            },
        )
    };
    let record = Record {
        seq: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        entered: u32::from_le_bytes([e0, e1, e2, e3]),
        attempts,
        persistent: flags & FLAG_PERSISTENT != 0,
        marks: Marks(flags & MARKS),
        expiration_ms,
        route,
        header,
        body,
    };
    Some((record, offset.checked_add(len)?))
}

/// Reads all but the head's numbers of a record that is like another one.
#[inline(never)]
fn read_alike(data: &[u8], offset: u32, flags: u16) -> Option<Record<'_>> {
    let rest = data.get(offset as usize..)?;
    let (len, _) = rest.split_first_chunk::<4>()?;
    let rest = rest.get(HEADER_BYTES..u32::from_le_bytes(*len) as usize)?;
    let (other, body) = rest.split_first_chunk::<OFFSET_BYTES>()?;
    let other = Some(u32::from_le_bytes(*other)).filter(|other| *other < offset)?;
    let (other, _) = read(data, other)?;
    let len = other.body.len();
    let body = if flags & FLAG_BLOB == 0 {
        Body::Inline(Some(body).filter(|body| body.len() == len as usize)?)
    } else {
        let index = u32::from_le_bytes(*body.first_chunk::<4>()?);
        Body::Blob { index, len }
    };
    Some(Record {
        attempts: Attempts::NONE,
        persistent: flags & FLAG_PERSISTENT != 0,
        marks: Marks(flags & MARKS),
        expiration_ms: None,
        body,
        ..other
    })
}

/// What few records have: the own expiration, and attempts.
type RareFields = (Option<u64>, Attempts);

#[cold]
fn read_rare(flags: u16, mut rest: &[u8]) -> Option<(RareFields, &[u8])> {
    let (mut expiration_ms, mut attempts) = (None, Attempts::NONE);
    if flags & FLAG_EXPIRATION != 0 {
        let (expiration, after) = rest.split_first_chunk::<EXPIRATION_BYTES>()?;
        expiration_ms = Some(u64::from_le_bytes(*expiration));
        rest = after;
    }
    if flags & FLAG_ATTEMPTS != 0 {
        let (acquired, after) = rest.split_first_chunk::<4>()?;
        let (failed, after) = after.split_first_chunk::<4>()?;
        attempts = Attempts {
            acquired: u32::from_le_bytes(*acquired),
            failed: u32::from_le_bytes(*failed),
        };
        rest = after;
    }
    Some(((expiration_ms, attempts), rest))
}

/// Marks the record at `offset` as one that has left its queue from the middle, in place.
pub fn mark_left(data: &mut [u8], offset: u32) {
    if let Some(byte) = data.get_mut(offset as usize + FLAGS_AT) {
        *byte |= FLAG_LEFT as u8;
    }
}

/// Marks the record at `offset` as settled, in place: nobody reads it again.
#[inline]
pub fn mark_settled(data: &mut [u8], offset: u32) {
    if let Some(byte) = data.get_mut(offset as usize + FLAGS_AT) {
        *byte |= FLAG_SETTLED as u8;
    }
}

/// Marks the record at `offset` as one that the disk has no more.
pub fn mark_dropped(data: &mut [u8], offset: u32) {
    if let Some(byte) = data.get_mut(offset as usize + FLAGS_AT + 1) {
        *byte |= (FLAG_DROPPED >> 8) as u8;
    }
}

/// Takes off what only whoever has the bytes in memory need know.
pub fn clear_settled(data: &mut [u8], offset: u32) {
    let flags = data.get_mut(offset as usize + FLAGS_AT..);
    if let Some(flags) = flags.and_then(|rest| rest.first_chunk_mut::<2>()) {
        let cleared = u16::from_le_bytes(*flags) & !(FLAG_SETTLED | FLAG_DROPPED);
        *flags = cleared.to_le_bytes();
    }
}

/// The least bytes that can stand for a record which is gone.
pub const FILLER_BYTES: u32 = 32;

/// Has zeros stand for a record that is gone: of its place only the length is kept. It has
/// [`FILLER_BYTES`] at least.
pub fn put_filler(data: &mut [u8], offset: u32, len: u32, seq: u64) {
    let head = RecordHead {
        len,
        seq,
        entered: 0,
        route_len: 0,
    };
    let head = head.with(FLAG_LEFT | FLAG_SETTLED | FLAG_DROPPED);
    let place = data.get_mut(offset as usize..);
    if let Some(place) = place.and_then(|rest| rest.first_chunk_mut()) {
        *place = head;
    }
}

/// The record that the one at `offset` has route and content header of, if that is another one.
#[must_use]
pub fn model_of(data: &[u8], offset: u32) -> Option<u32> {
    let rest = data.get(offset as usize..)?;
    let flags = rest.get(FLAGS_AT..)?.first_chunk::<2>()?;
    if u16::from_le_bytes(*flags) & FLAG_ALIKE == 0 {
        return None;
    }
    let model = rest.get(HEADER_BYTES..)?.first_chunk::<OFFSET_BYTES>()?;
    Some(u32::from_le_bytes(*model))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(body: u64) -> Vec<u8> {
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&body.to_be_bytes());
        header.extend_from_slice(&[0x10, 0, 2]);
        header
    }

    fn record<'a>(header: &'a [u8], body: Body<'a>, expiration_ms: Option<u64>) -> Record<'a> {
        let tried = u32::from(expiration_ms.is_some());
        Record {
            seq: u64::MAX - 7,
            entered: 12_345,
            attempts: Attempts {
                acquired: 70_000 * tried,
                failed: tried,
            },
            persistent: true,
            marks: Marks::of_deaths(expiration_ms.is_some()),
            expiration_ms,
            route: b"\x02ex\x03key",
            header,
            body,
        }
    }

    #[test]
    fn records_follow_each_other_and_read_back() {
        let (small, big) = (header(4), header(70_000));
        let first = record(&small, Body::Inline(b"body"), Some(99));
        let second = record(
            &big,
            Body::Blob {
                index: 3,
                len: 70_000,
            },
            None,
        );
        let mut data = Vec::new();
        first.append(&mut data);
        second.append(&mut data);
        let (read_first, next) = read(&data, 0).unwrap();
        let (read_second, end) = read(&data, next).unwrap();
        assert_eq!((read_first, read_second), (first, second));
        assert_eq!(
            (next as usize, end as usize),
            (first.stored_len(), data.len())
        );
        assert!(read(&data, end).is_none());
    }

    #[test]
    fn a_record_that_is_like_another_reads_back_without_its_headers() {
        let (small, big) = (header(4), header(70_000));
        let blob = |index| Body::Blob { index, len: 70_000 };
        let models = [
            record(&small, Body::Inline(b"body"), None),
            record(&big, blob(1), None),
        ];
        let others = [
            Record {
                seq: 5,
                entered: 9,
                persistent: false,
                body: Body::Inline(b"else"),
                ..models[0]
            },
            Record {
                body: blob(2),
                marks: Marks::of_deaths(true),
                ..models[1]
            },
        ];
        let (mut data, mut offsets) = (b"before".to_vec(), Vec::new());
        for (model, other) in models.iter().zip(&others) {
            let at = u32::try_from(data.len()).unwrap();
            model.append(&mut data);
            let next = u32::try_from(data.len()).unwrap();
            assert!(other.is_like(model));
            other.append_alike(at, &mut data);
            assert_eq!(data.len() - next as usize, other.alike_len());
            offsets.push(next);
        }
        for (other, at) in others.iter().zip(&offsets) {
            let (found, next) = read(&data, *at).unwrap();
            assert_eq!(found, *other);
            assert_eq!((next - at) as usize, other.alike_len());
        }
        for end in offsets[1] as usize..data.len() {
            assert!(read(&data[..end], offsets[1]).is_none(), "{end}");
        }
        let tried = record(&small, Body::Inline(b"body"), Some(1));
        assert!(!tried.is_like(&models[0]) && !models[0].is_like(&models[1]));
    }

    /// However bytes are torn, reading ends.
    #[test]
    fn a_record_is_like_one_before_it_only() {
        let header = header(4);
        let mut data = Vec::new();
        record(&header, Body::Inline(b"body"), None).append_alike(0, &mut data);
        assert!(read(&data, 0).is_none());
    }

    #[test]
    fn a_record_is_marked_in_place() {
        let header = header(0);
        let mut data = Vec::new();
        for expiration in [None, Some(5)] {
            record(&header, Body::Inline(b""), expiration).append(&mut data);
        }
        let (first, next) = read(&data, 0)
            .map(|(first, next)| (first.marks.left(), next))
            .unwrap();
        assert!(!first);
        mark_left(&mut data, next);
        assert!(!read(&data, 0).unwrap().0.marks.left());
        let marked = read(&data, next).unwrap().0;
        let expected = record(&header, Body::Inline(b""), Some(5));
        assert_eq!(
            marked,
            Record {
                marks: Marks(FLAG_DEATHS | FLAG_LEFT),
                ..expected
            }
        );
    }

    #[test]
    fn what_stands_for_a_record_that_is_gone_is_passed_like_one() {
        let header = header(4);
        let mut data = Vec::new();
        let first = record(&header, Body::Inline(b"body"), None);
        first.append(&mut data);
        let end = u32::try_from(data.len()).unwrap();
        first.append_alike(0, &mut data);
        assert_eq!((model_of(&data, 0), model_of(&data, end)), (None, Some(0)));
        mark_settled(&mut data, end);
        mark_dropped(&mut data, end);
        let marks = read(&data, end).unwrap().0.marks;
        assert!(marks.settled() && marks.dropped() && !marks.left());
        data[..end as usize].fill(0);
        put_filler(&mut data, 0, end, 17);
        let (filler, next) = read(&data, 0).unwrap();
        assert_eq!(
            (filler.seq, next, filler.body),
            (17, end, Body::Inline(b""))
        );
        assert!(filler.marks.settled() && filler.marks.left() && filler.marks.dropped());
        let mut least = vec![0; FILLER_BYTES as usize];
        put_filler(&mut least, 0, FILLER_BYTES, 1);
        assert!(read(&least, 0).is_some());
    }

    #[test]
    fn torn_bytes_are_no_record() {
        let header = header(4);
        let mut data = Vec::new();
        record(&header, Body::Inline(b"body"), Some(1)).append(&mut data);
        for end in 0..data.len() {
            assert!(read(&data[..end], 0).is_none(), "{end}");
        }
    }
}
