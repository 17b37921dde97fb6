//! One frame is one group commit: a header, records, zeros up to the next 4 KiB boundary.
//!
//! ```text
//!  0 magic u32 | header_crc u32 | version u16 | flags u16 | epoch u32
//! 16 store u64 | seq u64 | durable u64 | serial u64 | offset u64 | body_len u64
//! 64 records u32 | records_crc u32 | prev u32 | segment u32
//! ```
//! `header_crc` covers everything after itself and is what the next frame's `prev` repeats: the
//! chain. `records_crc` covers the checksums of all records in order, so each payload byte is
//! hashed once and yet a frame is whole or not. `store` is a secret number of this store, never
//! shown to a client: no body can hold a frame that would be taken for one.

use crate::record::{RawRecord, u32_at, u64_at};

/// Frames begin at multiples of this, so that a torn write cannot touch an earlier frame.
pub(crate) const BLOCK: u64 = 4096;

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 80;

/// The format of frames and records.
pub(crate) const VERSION: u16 = 1;

/// The next frame is in another segment, whose slot the header names.
pub(crate) const SEAL: u16 = 1;
/// The first frame of an epoch, that is, after an open.
pub(crate) const EPOCH: u16 = 2;

const MAGIC: u32 = u32::from_le_bytes(*b"LVJF");

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Header {
    pub(crate) flags: u16,
    /// Grows with each open of the store.
    pub(crate) epoch: u32,
    /// The store's secret number.
    pub(crate) store: u64,
    /// The frame's number, without gaps.
    pub(crate) seq: u64,
    /// The last frame known to be durable when this one was written.
    pub(crate) durable: u64,
    /// The segment this frame belongs to.
    pub(crate) serial: u64,
    /// Where in the segment it begins.
    pub(crate) offset: u64,
    pub(crate) body_len: u64,
    pub(crate) records: u32,
    pub(crate) records_crc: u32,
    /// The chain value of the frame before.
    pub(crate) prev: u32,
    /// With SEAL: the slot where the chain goes on. In a segment's first frame: how long the
    /// segment was made, in blocks; zero if the version that wrote it did not say.
    pub(crate) segment: u32,
}

impl Header {
    /// Writes the header into the first [`HEADER`] bytes of `frame`; returns its chain value.
    pub(crate) fn write(&self, frame: &mut [u8]) -> u32 {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.flags.to_le_bytes());
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        for field in [
            self.store,
            self.seq,
            self.durable,
            self.serial,
            self.offset,
            self.body_len,
        ] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        for field in [self.records, self.records_crc, self.prev, self.segment] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c::crc32c(bytes.get(8..).unwrap_or(&[]));
        if let Some(place) = frame.get_mut(..HEADER) {
            place.copy_from_slice(&bytes);
            if let Some(place) = place.get_mut(4..8) {
                place.copy_from_slice(&crc.to_le_bytes());
            }
        }
        crc
    }

    /// The header at the start of `block` and its chain value, if it is one of this store.
    pub(crate) fn read(block: &[u8], store: u64) -> Option<(Self, u32)> {
        let bytes = block.get(..HEADER)?;
        let crc = u32_at(bytes, 4)?;
        if u32_at(bytes, 0)? != MAGIC
            || u64_at(bytes, 16)? != store
            || crc32c::crc32c(bytes.get(8..)?) != crc
        {
            return None;
        }
        let version_and_flags = u32_at(bytes, 8)?;
        let header = Self {
            flags: u16::try_from(version_and_flags >> 16).ok()?,
            epoch: u32_at(bytes, 12)?,
            store,
            seq: u64_at(bytes, 24)?,
            durable: u64_at(bytes, 32)?,
            serial: u64_at(bytes, 40)?,
            offset: u64_at(bytes, 48)?,
            body_len: u64_at(bytes, 56)?,
            records: u32_at(bytes, 64)?,
            records_crc: u32_at(bytes, 68)?,
            prev: u32_at(bytes, 72)?,
            segment: u32_at(bytes, 76)?,
        };
        Some((header, crc))
    }

    /// The slot where the chain goes on, if this is a segment's last frame.
    pub(crate) const fn next_slot(&self) -> Option<u32> {
        if self.flags & SEAL != 0 {
            return Some(self.segment);
        }
        None
    }

    /// How long the segment was made that this is the first frame of, if it says so.
    pub(crate) fn made_bytes(&self) -> Option<u64> {
        let says = self.offset == 0 && self.flags & SEAL == 0 && self.segment != 0;
        says.then_some(u64::from(self.segment) * BLOCK)
    }

    /// Bytes the frame takes, header and padding included.
    pub(crate) fn frame_len(&self) -> u64 {
        frame_len(self.body_len)
    }
}

/// Bytes a frame with such a body takes.
pub(crate) fn frame_len(body_len: u64) -> u64 {
    body_len
        .saturating_add(HEADER as u64)
        .div_ceil(BLOCK)
        .saturating_mul(BLOCK)
}

/// The body of the frame with `header` at the start of `bytes`, as far as it is there.
pub(crate) fn body<'a>(bytes: &'a [u8], header: &Header) -> Option<&'a [u8]> {
    let end = usize::try_from(header.body_len).ok()?.checked_add(HEADER)?;
    bytes.get(HEADER..end)
}

/// Whether the body is exactly what the header says: every record intact, none other than written.
pub(crate) fn is_whole(header: &Header, body: &[u8]) -> bool {
    let mut seal = RecordsSeal::default();
    let mut at = 0;
    while at < body.len() {
        let Some(record) = RawRecord::at(body, at).filter(RawRecord::intact) else {
            return false;
        };
        seal.add(record.crc);
        at = at.saturating_add(record.padded_len());
    }
    at == body.len() && seal.finish() == (header.records, header.records_crc)
}

/// Builds `records` and `records_crc`.
#[derive(Default)]
pub(crate) struct RecordsSeal {
    count: u32,
    crc: u32,
    /// Checksums not yet hashed: one hash call for many is what makes it cheap.
    buffer: Vec<u8>,
}

impl RecordsSeal {
    /// The next record's checksum.
    pub(crate) fn add(&mut self, crc: u32) {
        self.count = self.count.wrapping_add(1);
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        if self.buffer.len() >= 1024 {
            self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
            self.buffer.clear();
        }
    }

    /// The number of records and the checksum of their checksums.
    pub(crate) fn finish(&self) -> (u32, u32) {
        (self.count, crc32c::crc32c_append(self.crc, &self.buffer))
    }
}

/// What a body that is not whole still gives.
pub(crate) struct Salvage<'a> {
    /// Intact records and where they begin in the body.
    pub(crate) intact: Vec<(usize, RawRecord<'a>)>,
    /// Damaged records whose extent is certain.
    pub(crate) damaged: Vec<RawRecord<'a>>,
    /// From here on nothing can be told, if not the whole body could be walked.
    pub(crate) unknown_from: Option<usize>,
}

/// Walks a damaged body. `records`: how many there must be, if the header is there to tell.
///
/// A damaged length must not lead the walk into a message's bytes, where a client could have put
/// what looks like a record: records after a damaged one count only if all extents fit exactly.
pub(crate) fn salvage(body: &[u8], records: Option<u32>) -> Salvage<'_> {
    let mut found = Salvage {
        intact: Vec::new(),
        damaged: Vec::new(),
        unknown_from: None,
    };
    let (mut at, mut count, mut first_bad) = (0, 0_u32, None);
    while let Some(record) = RawRecord::at(body, at) {
        count = count.saturating_add(1);
        if record.intact() {
            found.intact.push((at, record));
        } else {
            first_bad.get_or_insert((at, found.intact.len()));
            found.damaged.push(record);
        }
        at = at.saturating_add(record.padded_len());
    }
    let fits = records == Some(count) && at == body.len();
    if fits || (records.is_none() && first_bad.is_none() && is_padding(body, at)) {
        return found;
    }
    let (bad_at, kept) = first_bad.unwrap_or((at, found.intact.len()));
    found.intact.truncate(kept);
    found.damaged.clear();
    found.unknown_from = Some(bad_at);
    found
}

fn is_padding(body: &[u8], at: usize) -> bool {
    let rest = body.get(at..).unwrap_or(&[]);
    rest.len() < usize::try_from(BLOCK).unwrap_or(usize::MAX) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, LaneId, MessageParts};

    fn three_messages() -> (Header, Vec<u8>) {
        let mut batch = Batch::new();
        for seq in 0..3 {
            let parts = MessageParts {
                body: &[b"0123456789"],
                ..Default::default()
            };
            batch.message(&[(LaneId(1), seq)], &parts);
        }
        let mut seal = RecordsSeal::default();
        let mut at = 0;
        while let Some(record) = RawRecord::at(&batch.bytes, at) {
            seal.add(record.crc);
            at += record.padded_len();
        }
        let (records, records_crc) = seal.finish();
        let body_len = batch.bytes.len() as u64;
        (
            Header {
                body_len,
                records,
                records_crc,
                ..Default::default()
            },
            batch.bytes,
        )
    }

    #[test]
    fn a_header_reads_back_and_only_in_its_store() {
        let header = Header {
            seq: 7,
            store: 9,
            segment: 3,
            flags: SEAL,
            ..Default::default()
        };
        let mut bytes = vec![0; 4096];
        let chain = header.write(&mut bytes);
        assert_eq!(Header::read(&bytes, 9), Some((header, chain)));
        assert_eq!(Header::read(&bytes, 8), None);
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_seen() {
        let mut bytes = vec![0; HEADER];
        Header {
            seq: 7,
            store: 9,
            ..Default::default()
        }
        .write(&mut bytes);
        for bit in 0..HEADER * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::read(&bytes, 9), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_flipped_bit_costs_one_record_or_the_rest_of_the_frame() {
        let (header, mut body) = three_messages();
        assert!(is_whole(&header, &body));
        let record = body.len() / 3;
        for bit in 0..body.len() * 8 {
            body[bit / 8] ^= 1 << (bit % 8);
            let hit = bit / 8 / record;
            let found = salvage(&body, Some(header.records));
            if !is_whole(&header, &body) {
                let all_but_one = found.intact.len() == 2 && found.damaged.len() == 1;
                let rest = found.unknown_from == Some(hit * record) && found.intact.len() == hit;
                assert!(all_but_one || rest, "bit {bit}");
            }
            body[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_stale_record_in_the_place_of_another_is_seen() {
        let (header, mut body) = three_messages();
        let record = body.len() / 3;
        body.copy_within(..record, record);
        assert!(!is_whole(&header, &body));
    }
}
