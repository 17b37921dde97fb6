//! A checkpoint: everything the journal knows but the messages themselves, as of one frame.
//!
//! Written in turn to two files in place: header (magic u32, crc u32, store u64, generation u64,
//! body_len u64), body. A torn one is no checkpoint, and the other is still there.

use std::collections::BTreeMap;
use std::sync::Arc;

use leveret_record::Attempts;

use crate::LaneId;
use crate::lanes::{JournalLane, JournalLanes, Serial};
use crate::moved::CHUNK_BYTES;
use crate::record::{self, u32_at, u64_at};
use crate::segment::Extent;
use crate::vfs::{DiskError, Vfs, VfsFile};

/// Where the next frame goes; where a replay begins.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct ChainHead {
    pub(crate) slot: u32,
    pub(crate) serial: Serial,
    pub(crate) epoch: u32,
    pub(crate) offset: u64,
    /// The next frame's number.
    pub(crate) seq: u64,
    /// The chain value of the frame before.
    pub(crate) prev: u32,
    /// The last frame known to be durable.
    pub(crate) durable: u64,
}

/// The topology: the latest value of each key.
pub(crate) type Topology = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a checkpoint says.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct Image {
    pub(crate) generation: u64,
    pub(crate) head: ChainHead,
    /// One more than the highest segment number ever given.
    pub(crate) next_serial: Serial,
    /// Segments with live messages: slot, size, content.
    pub(crate) directory: Vec<(u32, u64, Extent)>,
    /// All other segments: slot, size.
    pub(crate) others: Vec<(u32, u64)>,
    pub(crate) lanes: JournalLanes,
    pub(crate) topology: Topology,
}

const MAGIC: u32 = u32::from_le_bytes(*b"LVCK");
pub(crate) const HEADER: usize = 32;

/// The names of the two files.
pub(crate) const NAMES: [&str; 2] = ["checkpoint.A", "checkpoint.B"];

/// The two files, open as long as the journal is: a checkpoint must not wait for a descriptor.
pub(crate) struct Files([Arc<dyn VfsFile>; 2]);

impl Files {
    /// Opens both, and makes what is not there; the next sync of the directory makes it last.
    pub(crate) fn open(vfs: &dyn Vfs) -> Result<Self, DiskError> {
        let [a, b] = NAMES;
        Ok(Self([vfs.create(a)?, vfs.create(b)?]))
    }

    /// The file a generation is written to.
    pub(crate) fn of(&self, generation: u64) -> &Arc<dyn VfsFile> {
        let Self([a, b]) = self;
        if generation % 2 == 1 { a } else { b }
    }

    /// The length of the shorter one.
    pub(crate) fn shorter_len(&self) -> Result<u64, DiskError> {
        let Self([a, b]) = self;
        Ok(a.size()?.min(b.size()?))
    }

    /// Makes both at least this long; what is new keeps its space.
    pub(crate) fn lengthen(&self, bytes: u64) -> Result<(), DiskError> {
        for file in &self.0 {
            if file.size()? < bytes {
                file.allocate(bytes)?;
            }
        }
        Ok(())
    }
}

/// Borrowed parts of an image, so that encoding one copies nothing twice.
pub(crate) struct ImageParts<'a> {
    pub(crate) generation: u64,
    pub(crate) head: &'a ChainHead,
    pub(crate) next_serial: Serial,
    /// All segments; those that hold nothing have an extent of zeros, and so no serial.
    pub(crate) directory: &'a [(u32, u64, Extent)],
    pub(crate) lanes: &'a JournalLanes,
    pub(crate) topology: &'a Topology,
    /// Leave delivery counts out: a deliberate fault.
    pub(crate) forget_returns: bool,
    /// Leave moved chunks out: another one.
    pub(crate) forget_moved: bool,
}

impl ImageParts<'_> {
    /// The bytes of the checkpoint.
    pub(crate) fn encode(&self, store: u64) -> Vec<u8> {
        let mut out = Out(vec![0; HEADER]);
        let head = self.head;
        out.u32s(&[head.slot, head.epoch, head.prev]);
        out.u64s(&[
            head.serial,
            head.offset,
            head.seq,
            head.durable,
            self.next_serial,
        ]);
        out.u64s(&[self.directory.len() as u64]);
        for (slot, bytes, extent) in self.directory {
            out.u32s(&[*slot, extent.epoch, extent.last_chain]);
            out.u64s(&[*bytes, extent.serial, extent.first_seq, extent.last_seq]);
            out.u64s(&[extent.end, extent.messages, u64::from(extent.copied)]);
        }
        self.encode_lanes(&mut out);
        out.u64s(&[self.topology.len() as u64]);
        for (key, value) in self.topology {
            out.bytes(key);
            out.bytes(value);
        }
        self.encode_chunks(&mut out);
        out.finish(store, self.generation)
    }

    fn encode_chunks(&self, out: &mut Out) {
        let lanes = self.lanes;
        if self.forget_moved {
            return;
        }
        let chunks = lanes.held.chunks();
        out.u64s(&[lanes.next_chunk, lanes.next_run, chunks.len() as u64]);
        for (number, chunk) in chunks {
            out.u64s(&[*number]);
            record::push_moved(&mut out.0, chunk, &[]);
        }
    }

    fn encode_lanes(&self, out: &mut Out) {
        out.u32s(&[self.lanes.next_lane]);
        out.u64s(&[self.lanes.gone.len() as u64]);
        for (from, to, ()) in self.lanes.gone.iter() {
            out.u64s(&[from, to]);
        }
        out.u64s(&[self.lanes.lanes.len() as u64]);
        for (id, lane) in &self.lanes.lanes {
            out.u32s(&[id.0]);
            out.u64s(&[lane.floor, lane.next, lane.live.len() as u64]);
            lane.live
                .iter()
                .for_each(|(from, to, serial)| out.u64s(&[from, to, serial]));
            out.u64s(&[lane.early.len() as u64]);
            lane.early
                .iter()
                .for_each(|(from, to, ())| out.u64s(&[from, to]));
            if self.forget_returns {
                out.u64s(&[0]);
                continue;
            }
            out.u64s(&[lane.counts().count() as u64]);
            lane.counts()
                .for_each(|(from, to, tried)| out.u64s(&[from, to, packed(tried)]));
        }
    }
}

struct Out(Vec<u8>);

impl Out {
    fn u32s(&mut self, values: &[u32]) {
        for value in values {
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn u64s(&mut self, values: &[u64]) {
        for value in values {
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.u64s(&[bytes.len() as u64]);
        self.0.extend_from_slice(bytes);
    }

    fn finish(self, store: u64, generation: u64) -> Vec<u8> {
        let mut bytes = self.0;
        let body_len = (bytes.len() - HEADER) as u64;
        let mut header = Self(Vec::with_capacity(HEADER));
        header.u32s(&[MAGIC, 0]);
        header.u64s(&[store, generation, body_len]);
        if let Some(place) = bytes.get_mut(..HEADER) {
            place.copy_from_slice(&header.0);
        }
        seal(&mut bytes);
        bytes
    }
}

/// Bytes that a checkpoint takes besides what [`len_max`] is told of: its head, and what of lanes
/// comes and goes with turns that overtake each other.
const FIXED_MAX: u64 = 4 << 10;
const SEGMENT_BYTES: u64 = 68;
const LANE_BYTES: u64 = 44;
/// Bytes of a range of messages, or of their delivery counts.
pub(crate) const RANGE_BYTES: u64 = 24;
/// Bytes of an operation beside its key and value.
const OPERATION_BYTES: u64 = 16;

/// Bytes of a key and its value.
pub(crate) fn operation_len(key: &[u8], value: &[u8]) -> i64 {
    let len = (key.len() + value.len()) as u64 + OPERATION_BYTES;
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// The most bytes that checkpoints take from now on, whatever is settled, delivered and deleted, as
/// long as there are no more messages and declarations.
pub(crate) fn len_max(segments: usize, lanes: &JournalLanes, topology_bytes: u64) -> u64 {
    FIXED_MAX
        + segments as u64 * SEGMENT_BYTES
        + (lanes.lanes.len() + lanes.gone.len()) as u64 * LANE_BYTES
        + lanes.ranges_max() * RANGE_BYTES
        + lanes.held.chunks().len() as u64 * CHUNK_BYTES
        + topology_bytes
}

/// The same checkpoint under another number.
pub(crate) fn renumbered(bytes: &[u8], generation: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(place) = bytes.get_mut(16..24) {
        place.copy_from_slice(&generation.to_le_bytes());
    }
    seal(&mut bytes);
    bytes
}

/// Puts the checksum of a checkpoint into its header.
fn seal(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(bytes.get(8..).unwrap_or(&[]));
    if let Some(place) = bytes.get_mut(4..8) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

/// The name of the file that a generation is written to.
pub(crate) const fn name_of(generation: u64) -> &'static str {
    let [a, b] = NAMES;
    if generation % 2 == 1 { a } else { b }
}

/// How many bytes of a file the checkpoint takes that begins so, if it is one.
pub(crate) fn len_of(header: &[u8]) -> u64 {
    let body_len = u64_at(header, 24).unwrap_or(0);
    body_len.saturating_add(HEADER as u64)
}

/// The bytes of a checkpoint file that are the checkpoint, if they are one of this store.
pub(crate) fn intact(file: &[u8], store: u64) -> Option<&[u8]> {
    let body_len = usize::try_from(u64_at(file, 24)?).ok()?;
    let bytes = file.get(..body_len.checked_add(HEADER)?)?;
    let whole = u32_at(bytes, 0)? == MAGIC
        && u64_at(bytes, 8)? == store
        && u32_at(bytes, 4)? == crc32c::crc32c(bytes.get(8..)?);
    whole.then_some(bytes)
}

/// Reads what [`intact`] has found intact.
pub(crate) fn decode(bytes: &[u8]) -> Option<Image> {
    let mut image = Image {
        generation: u64_at(bytes, 16)?,
        ..Image::default()
    };
    let mut input = In(bytes.get(HEADER..)?);
    let [slot, epoch, prev] = input.u32s()?;
    let [serial, offset, seq, durable, next_serial] = input.u64s()?;
    image.head = ChainHead {
        slot,
        serial,
        epoch,
        offset,
        seq,
        prev,
        durable,
    };
    image.next_serial = next_serial;
    for _ in 0..input.count()? {
        let [slot, epoch, last_chain] = input.u32s()?;
        let [bytes, serial, first_seq, last_seq] = input.u64s()?;
        let [end, messages, copied] = input.u64s()?;
        let copied = copied != 0;
        let extent = Extent {
            serial,
            epoch,
            first_seq,
            last_seq,
            end,
            last_chain,
            messages,
            copied,
        };
        if serial == 0 {
            image.others.push((slot, bytes));
        } else {
            image.directory.push((slot, bytes, extent));
        }
    }
    image.lanes = decode_lanes(&mut input)?;
    for _ in 0..input.count()? {
        let (key, value) = (input.bytes()?, input.bytes()?);
        image.topology.insert(key.to_vec(), value.to_vec());
    }
    // Earlier versions moved nothing.
    if !input.0.is_empty() {
        decode_chunks(&mut input, &mut image.lanes)?;
    }
    input.0.is_empty().then_some(image)
}

fn decode_chunks(input: &mut In<'_>, lanes: &mut JournalLanes) -> Option<()> {
    [lanes.next_chunk, lanes.next_run] = input.u64s()?;
    for _ in 0..input.count()? {
        let [number] = input.u64s()?;
        let chunk = record::moved_at(input.take(record::CHUNK)?)?;
        lanes.held.add_chunk(number, chunk);
    }
    Some(())
}

fn decode_lanes(input: &mut In<'_>) -> Option<JournalLanes> {
    let mut lanes = JournalLanes::default();
    [lanes.next_lane] = input.u32s()?;
    for _ in 0..input.count()? {
        let [from, to] = input.u64s()?;
        lanes.gone.insert(from, to, (), |_, _, ()| {});
    }
    for _ in 0..input.count()? {
        let [id] = input.u32s()?;
        let [floor, next] = input.u64s()?;
        let mut lane = JournalLane {
            floor,
            next,
            ..JournalLane::default()
        };
        for _ in 0..input.count()? {
            let [from, to, serial] = input.u64s()?;
            lane.live.insert(from, to, serial, |_, _, _| {});
            lanes.held.hold(serial, to.checked_sub(from)?);
        }
        lanes.ranges += lane.live.len();
        for _ in 0..input.count()? {
            let [from, to] = input.u64s()?;
            lane.early.insert(from, to, (), |_, _, ()| {});
        }
        let mut counts = Vec::new();
        for _ in 0..input.count()? {
            let [from, to, tried] = input.u64s()?;
            counts.push((from, to, unpacked(tried)?));
        }
        lanes.lanes.insert(LaneId(id), lane);
        for (from, to, attempts) in counts {
            lanes.returned(LaneId(id), (from, to), attempts);
        }
    }
    Some(lanes)
}

/// Both counts as one number. The first version wrote how often a message was delivered, at most
/// 255: that is how often it was acquired.
fn packed(attempts: Attempts) -> u64 {
    u64::from(attempts.failed) << 32 | u64::from(attempts.acquired)
}

fn unpacked(number: u64) -> Option<Attempts> {
    Some(Attempts {
        acquired: u32::try_from(number & u64::from(u32::MAX)).ok()?,
        failed: u32::try_from(number >> 32).ok()?,
    })
}

struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32s<const N: usize>(&mut self) -> Option<[u32; N]> {
        let bytes = self.take(N * 4)?;
        let mut values = [0; N];
        for (n, value) in values.iter_mut().enumerate() {
            *value = u32_at(bytes, n * 4)?;
        }
        Some(values)
    }

    fn u64s<const N: usize>(&mut self) -> Option<[u64; N]> {
        let bytes = self.take(N * 8)?;
        let mut values = [0; N];
        for (n, value) in values.iter_mut().enumerate() {
            *value = u64_at(bytes, n * 8)?;
        }
        Some(values)
    }

    fn count(&mut self) -> Option<u64> {
        self.u64s::<1>().map(|[count]| count)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.count()?).ok()?;
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_and_any_flipped_bit_is_seen() {
        let mut lanes = JournalLanes::default();
        lanes.message(LaneId(3), (4, 9), 7);
        lanes.settled(LaneId(3), 5, 6);
        lanes.settled(LaneId(3), 20, 21);
        lanes.returned(LaneId(3), (4, 5), Attempts::NONE.and_one(true));
        lanes.reset(LaneId(2), u64::MAX);
        let place = leveret_record::RunPlace {
            run: 6,
            offset: 7,
            len: 8,
            checksum: 9,
        };
        let chunk = crate::MovedChunk {
            lane: LaneId(3),
            place,
            messages: 2,
            bytes: 10,
            base_ms: 11,
            own_ms: 12,
        };
        lanes.moved(chunk, &[(6, 8)]);
        let topology = Topology::from([(b"q".to_vec(), b"durable".to_vec())]);
        let extent = Extent {
            serial: 7,
            end: 8192,
            messages: 5,
            ..Extent::default()
        };
        let head = ChainHead {
            slot: 1,
            seq: 12,
            prev: 99,
            ..ChainHead::default()
        };
        let parts = ImageParts {
            generation: 3,
            head: &head,
            next_serial: 8,
            directory: &[(1, 65536, extent), (2, 4096, Extent::default())],
            lanes: &lanes,
            topology: &topology,
            forget_returns: false,
            forget_moved: false,
        };
        let mut bytes = parts.encode(11);
        let image = decode(intact(&bytes, 11).unwrap()).unwrap();
        assert_eq!((image.generation, image.head), (3, head));
        assert_eq!((image.lanes, image.topology), (lanes, topology));
        assert_eq!(image.directory, [(1, 65536, extent)]);
        assert_eq!(image.others, [(2, 4096)]);
        assert!(intact(&bytes, 12).is_none());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(intact(&bytes, 11).is_none(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
