//! A chunk as it was read back from the disk.

use leveret_record::{Memory, POOLED_BYTES, RunPlace};

use crate::blobs::Blobs;

/// A chunk as it was read back.
#[derive(Debug)]
pub struct LoadedPage {
    pub(super) place: RunPlace,
    pub(super) data: Vec<u8>,
    pub(super) blobs: Blobs,
    pub(super) bodies: u64,
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
        let (stored, mut rest) = rest.split_at_checked(data_len as usize)?;
        let pooled = stored.len() <= POOLED_BYTES && stored.len() > POOLED_BYTES / 2;
        let mut page = Self {
            place,
            data: memory.take(if pooled { POOLED_BYTES } else { stored.len() }),
            blobs: Blobs::None,
            bodies: 0,
            memory: memory.clone(),
        };
        page.data.extend_from_slice(stored);
        for (index, len) in bodies {
            let (body, after) = rest.split_at_checked(len)?;
            page.blobs.put(index, memory.share(body.to_vec()));
            page.bodies += len as u64;
            rest = after;
        }
        rest.is_empty().then_some(page)
    }
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*number), rest))
}
