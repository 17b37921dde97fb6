//! A chunk as it was read back from the disk.

use std::sync::Arc;

use leveret_record::{Attempts, Blob, Body, Marks, Memory, POOLED_BYTES, Record, RunPlace, read};

use super::sparse::StoredRecords;
use crate::blobs::Blobs;

/// What of a chunk is left after a restart: the store knows, and its bytes do not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageFilter {
    /// Sequence numbers `from..to` of its messages, in order.
    pub ranges: Vec<(u64, u64)>,
    /// How often they have been tried, in order.
    pub attempts: Vec<(u64, u64, Attempts)>,
}

impl PageFilter {
    /// How many messages are left.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.ranges.iter().map(|(from, to)| to - from).sum()
    }

    fn attempts_of(&self, seq: u64) -> Attempts {
        let at = self.attempts.partition_point(|(_, to, _)| *to <= seq);
        let found = self.attempts.get(at).filter(|(from, ..)| *from <= seq);
        found.map_or(Attempts::NONE, |found| found.2)
    }

    /// The record as it is after a restart, if it is left.
    fn apply<'a>(&self, record: &Record<'a>) -> Option<Record<'a>> {
        let at = self.ranges.partition_point(|(_, to)| *to <= record.seq);
        let is_left = self
            .ranges
            .get(at)
            .is_some_and(|range| range.0 <= record.seq);
        is_left.then(|| Record {
            attempts: self.attempts_of(record.seq).max(record.attempts),
            marks: Marks::of_deaths(record.marks.deaths()),
            ..*record
        })
    }
}

/// A chunk as it was read back.
#[derive(Debug)]
pub struct LoadedPage {
    pub(super) place: RunPlace,
    pub(super) data: Vec<u8>,
    pub(super) blobs: Blobs,
    pub(super) bodies: u64,
    /// Bytes of all bodies, of what is left after a restart.
    pub(super) filtered_bytes: Option<u64>,
    memory: Memory,
}

impl Drop for LoadedPage {
    fn drop(&mut self) {
        if self.data.capacity() > 0 {
            self.memory.give_back(std::mem::take(&mut self.data));
        }
    }
}

impl LoadedPage {
    /// Reads what [`crate::Queue::begin_write`] wrote; `None` when it is not that.
    #[must_use]
    pub fn decode(place: RunPlace, bytes: &[u8], memory: &Memory) -> Option<Self> {
        let (data_len, rest) = take_u32(bytes)?;
        let (count, mut rest) = take_u32(rest)?;
        let mut bodies = Vec::new();
        for _ in 0..count {
            let (index, after) = take_u32(rest)?;
            let (len, after) = take_u32(after)?;
            bodies.push((index, len as usize));
            rest = after;
        }
        let mut records = StoredRecords::new(data_len);
        let rest = records.take_gaps(rest)?;
        let (stored, mut rest) = rest.split_at_checked(records.stored_len())?;
        let mut page = Self {
            place,
            data: records.restore(stored, memory),
            blobs: Blobs::None,
            bodies: 0,
            filtered_bytes: None,
            memory: memory.clone(),
        };
        for (index, len) in bodies {
            let (body, after) = rest.split_at_checked(len)?;
            page.blobs.put(index, memory.share(body.to_vec()));
            page.bodies += len as u64;
            rest = after;
        }
        rest.is_empty().then_some(page)
    }

    /// Leaves only what is left after a restart; `None` when that is not there.
    #[must_use]
    pub fn filtered(mut self, filter: &PageFilter) -> Option<Self> {
        let (mut kept, mut model) = (Vec::with_capacity(self.data.len()), None);
        let (mut count, mut bytes, mut used) = (0, 0, Vec::new());
        let mut at = 0;
        while let Some((stored, next)) = read(&self.data, at) {
            at = next;
            let Some(record) = filter.apply(&stored) else {
                continue;
            };
            count += 1;
            bytes += u64::from(record.body.len());
            if let Body::Blob { index, .. } = record.body {
                used.push(index);
            }
            append(&record, &mut model, &mut kept);
        }
        let blobs = std::mem::take(&mut self.blobs);
        self.bodies = 0;
        for (index, blob) in blobs.iter().filter(|(index, _)| used.contains(index)) {
            self.bodies += blob.len() as u64;
            self.blobs.put(index, Arc::clone(blob));
        }
        self.memory.give_back(std::mem::take(&mut self.data));
        self.data = copy(&kept, &self.memory);
        self.filtered_bytes = Some(bytes);
        (count == filter.messages()).then_some(self)
    }

    /// Shows all its records but those that are settled.
    pub fn each(&self, mut show: impl FnMut(&Record<'_>, Option<&Arc<Blob>>)) {
        let mut at = 0;
        while let Some((record, next)) = read(&self.data, at) {
            at = next;
            if record.marks.settled() {
                continue;
            }
            let blob = match record.body {
                Body::Inline(_) => None,
                Body::Blob { index, .. } => self.blobs.get(index),
            };
            show(&record, blob);
        }
    }
}

/// Bytes in memory that is counted.
pub(super) fn copy(bytes: &[u8], memory: &Memory) -> Vec<u8> {
    let mut data = room(bytes.len(), memory);
    data.extend_from_slice(bytes);
    data
}

/// Room for so many bytes.
pub(super) fn room(len: usize, memory: &Memory) -> Vec<u8> {
    let pooled = len <= POOLED_BYTES && len > POOLED_BYTES / 2;
    memory.take(if pooled { POOLED_BYTES } else { len })
}

/// Appends a record as a chunk does; `model` is where one is that dead letters may be like.
fn append(record: &Record<'_>, model: &mut Option<u32>, out: &mut Vec<u8>) {
    let like = model.filter(|_| record.marks.deaths());
    let like = like.filter(|at| read(out, *at).is_some_and(|(other, _)| record.is_like(&other)));
    if let Some(like) = like {
        record.append_alike(like, out);
        return;
    }
    if record.marks.deaths() {
        *model = u32::try_from(out.len()).ok();
    }
    record.append(out);
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*number), rest))
}
