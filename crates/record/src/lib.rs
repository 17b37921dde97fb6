//! The byte layout of one message, the same in a queue's chunk and later in a run file.
//!
//! A record is a fixed header followed by the raw bytes a client sent, so that delivering it is two
//! copies and no parsing. All integers are little-endian.
//!
//! ```text
//! len u32 | seq u64 | route length u16 | flags u8 | deliveries u8
//! [expiry u64]  route: exchange + routing key, each a short string
//! content header payload  body, or u32 index of a shared blob
//! ```

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod blob;
mod sabotage;

pub use blob::{Blob, account_released, account_taken, resident_bytes};
#[cfg(feature = "sabotage")]
pub use sabotage::sabotage;
pub use sabotage::{Sabotage, breaks};

/// Bytes of the fixed record header.
pub const HEADER_BYTES: usize = 16;

const FLAG_EXPIRY: u8 = 1;
const FLAG_BLOB: u8 = 2;
const FLAG_PERSISTENT: u8 = 4;

/// Offset of the body size inside a content header payload: after class-id and weight.
const BODY_SIZE_AT: usize = 4;
const DELIVERIES_AT: usize = 15;

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

/// One message, borrowed from where it is stored or from a read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The message's sequence number in its lane.
    pub seq: u64,
    /// How often it was handed to a consumer and came back; above 0 it is `redelivered`.
    pub deliveries: u8,
    /// Whether it survives a restart when its queue is durable.
    pub persistent: bool,
    /// Absolute expiry, unix milliseconds.
    pub expiry_ms: Option<u64>,
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
        let expiry = if self.expiry_ms.is_some() { 8 } else { 0 };
        let body = match self.body {
            Body::Inline(bytes) => bytes.len(),
            Body::Blob { .. } => 4,
        };
        HEADER_BYTES + expiry + self.route.len() + self.header.len() + body
    }

    /// Appends the record to a chunk's bytes.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "routes are at most 512 bytes"
    )]
    #[inline]
    pub fn append(&self, out: &mut Vec<u8>) {
        let mut flags = if self.persistent { FLAG_PERSISTENT } else { 0 };
        if self.expiry_ms.is_some() {
            flags |= FLAG_EXPIRY;
        }
        if matches!(self.body, Body::Blob { .. }) {
            flags |= FLAG_BLOB;
        }
        let route_len = (self.route.len() as u16).to_le_bytes();
        let mut head = [0; HEADER_BYTES];
        let (len, rest) = head.split_at_mut(4);
        len.copy_from_slice(&(self.stored_len() as u32).to_le_bytes());
        let (seq, rest) = rest.split_at_mut(8);
        seq.copy_from_slice(&self.seq.to_le_bytes());
        rest.copy_from_slice(&[route_len[0], route_len[1], flags, self.deliveries]);
        out.extend_from_slice(&head);
        if let Some(at) = self.expiry_ms {
            out.extend_from_slice(&at.to_le_bytes());
        }
        out.extend_from_slice(self.route);
        out.extend_from_slice(self.header);
        match self.body {
            Body::Inline(bytes) => out.extend_from_slice(bytes),
            Body::Blob { index, .. } => out.extend_from_slice(&index.to_le_bytes()),
        }
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
    /// How often it was delivered before.
    pub deliveries: u8,
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
        r0,
        r1,
        flags,
        deliveries,
    ] = head;
    let len = u32::from_le_bytes([l0, l1, l2, l3]);
    let mut rest = rest.get(HEADER_BYTES..len as usize)?;
    let expiry_ms = if flags & FLAG_EXPIRY == 0 {
        None
    } else {
        let (at, after) = rest.split_first_chunk::<8>()?;
        rest = after;
        Some(u64::from_le_bytes(*at))
    };
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
        deliveries,
        persistent: flags & FLAG_PERSISTENT != 0,
        expiry_ms,
        route,
        header,
        body,
    };
    Some((record, offset.checked_add(len)?))
}

/// Changes the delivery count of the record at `offset`, in place.
pub fn set_deliveries(data: &mut [u8], offset: u32, deliveries: u8) {
    if let Some(byte) = data.get_mut(offset as usize + DELIVERIES_AT) {
        *byte = deliveries;
    }
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

    fn record<'a>(header: &'a [u8], body: Body<'a>, expiry_ms: Option<u64>) -> Record<'a> {
        Record {
            seq: u64::MAX - 7,
            deliveries: 1,
            persistent: true,
            expiry_ms,
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
    fn the_delivery_count_changes_in_place() {
        let header = header(0);
        let mut data = Vec::new();
        record(&header, Body::Inline(b""), None).append(&mut data);
        set_deliveries(&mut data, 0, 9);
        assert_eq!(read(&data, 0).unwrap().0.deliveries, 9);
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
