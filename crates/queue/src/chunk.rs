//! Append-only chunks of records.

mod away;
mod left;
mod loaded;
mod page;
mod sparse;
mod unread;

use std::collections::VecDeque;
use std::sync::Arc;

use leveret_record::{
    Blob, Body, Memory, Position, Record, RecordHead, RunPlace, Unacked, mark_settled, read,
};

use crate::blobs::Blobs;
use crate::message::Message;

use away::PageOf;
pub use loaded::{LoadedPage, PageFilter};
pub use page::{AwayChunk, MovableChunk, PagedOut};
use page::{DiskPage, Paging};
pub(crate) use page::{PageJob, PageNeeds};
pub use sparse::{Compacted, Rewriting};

/// A queue that holds one message pays for 192 bytes, a long one for 256 KiB at a time.
const CHUNK_BYTES_MIN: usize = 192;
const CHUNK_GROWTH: usize = 4;
/// A chunk's shared bodies are about so many times as much as its records at most, as they leave
/// memory together.
const BODIES_PART: usize = 4;

const NO_MODEL: u32 = u32::MAX;

/// A record where it is stored.
#[derive(Debug)]
pub(crate) struct FoundRecord<'a> {
    pub(crate) record: Record<'a>,
    pub(crate) blob: Option<&'a Arc<Blob>>,
    /// Where the record behind it begins.
    pub(crate) next: u32,
    /// When it was taken, unix milliseconds.
    pub(crate) entered_ms: u64,
}

impl FoundRecord<'_> {
    /// When it dies, unix milliseconds, where a message may wait for `ttl_ms`.
    #[inline]
    pub(crate) fn deadline_ms(&self, ttl_ms: u64) -> u64 {
        let own_ms = self.record.expiration_ms.unwrap_or(u64::MAX);
        self.entered_ms.saturating_add(own_ms.min(ttl_ms))
    }
}

#[inline]
fn found<'a>(
    data: &'a [u8],
    blobs: &'a Blobs,
    base_ms: u64,
    offset: u32,
) -> Option<FoundRecord<'a>> {
    let (record, next) = read(data, offset)?;
    let blob = match record.body {
        Body::Inline(_) => None,
        Body::Blob { index, .. } => blobs.get(index),
    };
    let entered_ms = base_ms + u64::from(record.entered);
    Some(FoundRecord {
        record,
        blob,
        next,
        entered_ms,
    })
}

/// A run of records, in memory or not.
///
/// Invariant: `read <= count`, and records before the queue's cursor are the `read` ones. `data`
/// and `blobs` are empty while it is not in memory.
#[derive(Debug)]
pub(crate) struct Chunk {
    data: Vec<u8>,
    blobs: Blobs,
    /// Bytes of the shared bodies.
    bodies: u64,
    /// What there is to know of a chunk that was written to the disk, or is about to be.
    page: Option<Box<DiskPage>>,
    count: u32,
    /// Records not yet settled.
    live: u32,
    /// Records the cursor has passed.
    read: u32,
    /// Records it has not passed, and that have left nevertheless.
    left: u32,
    /// What the records' entering times count from, unix milliseconds.
    base_ms: u64,
    /// No unread record dies by its own expiration before this, unix milliseconds.
    own_ms: u64,
    /// Where the last record is that others may be like; `u32::MAX`: there is none.
    model: u32,
}

impl Default for Chunk {
    fn default() -> Self {
        Self {
            data: Vec::new(),
            blobs: Blobs::None,
            bodies: 0,
            page: None,
            count: 0,
            live: 0,
            read: 0,
            left: 0,
            base_ms: 0,
            own_ms: u64::MAX,
            model: NO_MODEL,
        }
    }
}

impl Chunk {
    fn with_room(memory: &Memory, previous: usize, record: usize) -> Self {
        let most = memory.limits().chunk_bytes.max(CHUNK_BYTES_MIN);
        let size = (previous * CHUNK_GROWTH)
            .clamp(CHUNK_BYTES_MIN, most)
            .max(record);
        Self {
            data: memory.take(size),
            ..Self::default()
        }
    }

    fn has_room(&self, record: usize) -> bool {
        self.data.capacity() - self.data.len() >= record
    }

    /// Milliseconds from the chunk's time to that one; `None` if a record cannot say so many.
    #[inline]
    fn since_base(&self, entered_ms: u64) -> Option<u32> {
        u32::try_from(entered_ms.saturating_sub(self.base_ms)).ok()
    }

    #[inline]
    fn found(&self, offset: u32) -> Option<FoundRecord<'_>> {
        found(&self.data, &self.blobs, self.base_ms, offset)
    }

    /// The record that this one is like. Only dead letters are compared: their headers are long,
    /// and those of one cause follow each other.
    fn model_of(&self, record: &Record<'_>) -> Option<u32> {
        if !record.marks.deaths() || self.model == NO_MODEL {
            return None;
        }
        let (model, _) = read(&self.data, self.model)?;
        record.is_like(&model).then_some(self.model)
    }

    /// Appends a record that there is room for.
    fn append(&mut self, record: &Record<'_>, model: Option<u32>) {
        if let Some(model) = model {
            record.append_alike(model, &mut self.data);
        } else {
            if record.marks.deaths() {
                self.model = u32::try_from(self.data.len()).unwrap_or(NO_MODEL);
            }
            record.append(&mut self.data);
        }
        self.count += 1;
        self.live += 1;
    }

    fn is_spent(&self) -> bool {
        self.live == 0 && self.read == self.count
    }

    /// Forgets a shared body; gives how many bytes it had.
    fn forget_body(&mut self, index: u32) -> u64 {
        let blob = self.blobs.slot(index).and_then(Option::take);
        let bytes = blob.map_or(0, |blob| blob.len() as u64);
        self.bodies -= bytes;
        bytes
    }
}

/// What was handed out at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HandedOut {
    pub(crate) messages: u32,
    /// Bytes of their bodies.
    pub(crate) bytes: u64,
    pub(crate) redelivered: u32,
}

/// All chunks of a queue, oldest first; the newest is kept apart so that a short queue needs no
/// second allocation.
#[derive(Debug)]
pub(crate) struct Chunks {
    memory: Memory,
    tail: Chunk,
    /// Identity of the oldest chunk; identities count up by one.
    first: u32,
    /// Before the first record never read.
    cursor: Position,
    older: VecDeque<Chunk>,
    /// Memory of all chunks, bytes.
    resident: usize,
    /// Bytes of all their shared bodies.
    bodies: u64,
    /// Some are not in memory, or should not be.
    paging: Option<Box<Paging>>,
    /// Of what was begun with chunks that leave memory or come back.
    tickets: u32,
}

impl Drop for Chunks {
    fn drop(&mut self) {
        for chunk in self.older.iter_mut().chain([&mut self.tail]) {
            self.memory.give_back(std::mem::take(&mut chunk.data));
        }
    }
}

impl Chunks {
    /// None yet; their memory is of that account.
    pub(crate) fn new(memory: Memory) -> Self {
        Self {
            memory,
            tail: Chunk::default(),
            first: 0,
            cursor: Position::default(),
            older: VecDeque::new(),
            resident: 0,
            bodies: 0,
            paging: None,
            tickets: 0,
        }
    }

    fn chunk(&self, id: u32) -> Option<&Chunk> {
        let index = id.wrapping_sub(self.first) as usize;
        if index == self.older.len() {
            Some(&self.tail)
        } else {
            self.older.get(index)
        }
    }

    fn chunk_mut(&mut self, id: u32) -> Option<&mut Chunk> {
        let index = id.wrapping_sub(self.first) as usize;
        if index == self.older.len() {
            Some(&mut self.tail)
        } else {
            self.older.get_mut(index)
        }
    }

    fn tail_id(&self) -> u32 {
        self.first
            .wrapping_add(u32::try_from(self.older.len()).unwrap_or(u32::MAX))
    }

    /// Appends a record at the end.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a record is at most 4 GiB, a route at most 512 bytes"
    )]
    pub(crate) fn append(&mut self, message: &Message<'_>, seq: u64) {
        if let Some((body, len)) = message.plain_body()
            && self.tail.count > 0
            && self.tail.has_room(len)
            && let Some(entered) = self.tail.since_base(message.entered_ms)
        {
            let tail = &mut self.tail;
            let head = RecordHead {
                len: len as u32,
                seq,
                entered,
                route_len: message.route.len() as u16,
            };
            let head = head.of_plain(message.persistent);
            tail.data.extend_from_slice(&head);
            tail.data.extend_from_slice(message.route);
            tail.data.extend_from_slice(message.header);
            tail.data.extend_from_slice(body);
            tail.count += 1;
            tail.live += 1;
            return;
        }
        self.append_any(message, seq);
    }

    /// The same for a message that is not plain, or begins a chunk.
    #[inline(never)]
    fn append_any(&mut self, message: &Message<'_>, seq: u64) {
        let (mut record, blob) = message.as_record();
        record.seq = seq;
        let mut model = self.tail.model_of(&record);
        let len = match model {
            Some(_) => record.alike_len(),
            None => record.stored_len(),
        };
        if self.tail.count == 0 {
            self.tail.base_ms = message.entered_ms;
        }
        let mut entered = self.tail.since_base(message.entered_ms);
        if entered.is_none() || !self.tail.has_room(len) {
            self.grow(self.tail.data.capacity(), record.stored_len());
            self.tail.base_ms = message.entered_ms;
            (entered, model) = (Some(0), None);
        } else if blob.is_some() && self.has_many_bodies() {
            self.grow(self.tail.data.len() / CHUNK_GROWTH, record.stored_len());
            self.tail.base_ms = message.entered_ms;
            (entered, model) = (Some(0), None);
        }
        record.entered = entered.unwrap_or(0);
        if let Some(deadline_ms) = message.own_deadline_ms() {
            self.tail.own_ms = self.tail.own_ms.min(deadline_ms);
        }
        if let (Body::Blob { index, .. }, Some(blob)) = (&mut record.body, blob) {
            *index = self.tail.blobs.push(Arc::clone(blob));
            self.tail.bodies += blob.len() as u64;
            self.bodies += blob.len() as u64;
        }
        self.tail.append(&record, model);
    }

    fn has_many_bodies(&self) -> bool {
        let most = self.memory.limits().chunk_bytes.saturating_mul(BODIES_PART);
        self.tail.bodies >= most as u64
    }

    /// Begins a new tail, as large as one of those bytes is followed by.
    fn grow(&mut self, previous: usize, record: usize) {
        let fresh = Chunk::with_room(&self.memory, previous, record);
        self.resident += fresh.data.capacity();
        let mut full = std::mem::replace(&mut self.tail, fresh);
        if full.count > 0 {
            self.older.push_back(full);
            self.look_at_share();
        } else {
            self.resident -= full.data.capacity();
            self.memory.give_back(std::mem::take(&mut full.data));
        }
    }

    /// Gives a chunk's memory and its place on the disk back.
    fn free(&mut self, id: u32) {
        let Some(chunk) = self.chunk_mut(id) else {
            return;
        };
        let data = std::mem::take(&mut chunk.data);
        let bodies = std::mem::take(&mut chunk.bodies);
        chunk.blobs = Blobs::None;
        (chunk.own_ms, chunk.model) = (u64::MAX, NO_MODEL);
        let page = chunk.page.take();
        self.resident -= data.capacity();
        self.bodies -= bodies;
        self.memory.give_back(data);
        if let Some(page) = page {
            self.forget_page(&page);
        }
    }

    /// The record at the cursor, if any was never read.
    #[inline]
    pub(crate) fn head(&mut self) -> Option<Position> {
        loop {
            let chunk = self.chunk(self.cursor.chunk)?;
            if chunk.read < chunk.count {
                if chunk.left == 0 || !self.pass_left() {
                    return Some(self.cursor);
                }
                continue;
            }
            if self.cursor.chunk == self.tail_id() {
                return None;
            }
            self.cursor = Position {
                chunk: self.cursor.chunk.wrapping_add(1),
                offset: 0,
            };
        }
    }

    /// The record at a position, or in a copy of its chunk; the place it is at if it is in neither.
    pub(crate) fn record_in<'a>(
        &'a self,
        at: Position,
        copy: Option<&'a LoadedPage>,
    ) -> Result<Option<FoundRecord<'a>>, RunPlace> {
        let Some(chunk) = self.chunk(at.chunk) else {
            return Ok(None);
        };
        let PageOf { data, blobs } = chunk.bytes(copy)?;
        Ok(found(data, blobs, chunk.base_ms, at.offset))
    }

    /// The record at a position, if it is in memory.
    #[inline]
    pub(crate) fn record(&self, at: Position) -> Option<FoundRecord<'_>> {
        self.chunk(at.chunk)?.found(at.offset)
    }

    /// Moves the cursor past the record it stands before; `next` is where the following one is.
    #[inline]
    pub(crate) fn advance(&mut self, next: u32) {
        let id = self.cursor.chunk;
        self.cursor.offset = next;
        if let Some(chunk) = self.chunk_mut(id) {
            chunk.read += 1;
        }
    }

    /// Hands out up to `most` unread records, as long as `hand` takes them, and moves the cursor
    /// past those. With `settle` they are settled, too.
    #[inline]
    pub(crate) fn hand_out(
        &mut self,
        most: u32,
        settle: bool,
        mut hand: impl FnMut(Position, &Record<'_>, Option<&Arc<Blob>>) -> bool,
    ) -> HandedOut {
        let mut out = HandedOut::default();
        let mut taken = true;
        let marks = settle && (self.paging.is_some() || !self.older.is_empty());
        while taken && out.messages < most {
            let Some(Position { chunk: id, offset }) = self.head() else {
                break;
            };
            let Some(chunk) = self.chunk_mut(id) else {
                break;
            };
            let end = chunk.read + (chunk.count - chunk.read).min(most - out.messages);
            let (before, mut left, mut at) = (chunk.read, 0, offset);
            let mut forgotten = 0;
            while chunk.read < end {
                let Some((record, next)) = read(&chunk.data, at) else {
                    taken = false;
                    break;
                };
                if record.marks.left() {
                    chunk.pass_left();
                    left += 1;
                    at = next;
                    continue;
                }
                let blob = match record.body {
                    Body::Inline(_) => None,
                    Body::Blob { index, .. } => chunk.blobs.get(index),
                };
                let position = Position {
                    chunk: id,
                    offset: at,
                };
                taken = hand(position, &record, blob);
                if !taken {
                    break;
                }
                out.bytes += u64::from(record.body.len());
                out.redelivered += u32::from(record.attempts.acquired > 0);
                if let (true, Body::Blob { index, .. }) = (settle, record.body) {
                    forgotten += chunk.forget_body(index);
                }
                if marks {
                    mark_settled(&mut chunk.data, at);
                }
                chunk.read += 1;
                at = next;
            }
            let handed = chunk.read - before - left;
            out.messages += handed;
            chunk.live -= if settle { handed } else { 0 };
            let is_spent = chunk.is_spent();
            self.cursor.offset = at;
            self.bodies -= forgotten;
            if is_spent {
                self.reclaim(id);
            } else if marks {
                self.look_at_sparse(id);
            }
        }
        out
    }

    /// Settles a record: its memory is given back with the rest of its chunk.
    #[inline]
    pub(crate) fn release(&mut self, at: Position, body_len: u32) {
        self.release_all(at.chunk, std::iter::once((at.offset, body_len)));
    }

    /// Settles records of one chunk, which are at these offsets and have bodies of these lengths.
    #[inline]
    pub(crate) fn release_all(
        &mut self,
        id: u32,
        records: impl ExactSizeIterator<Item = (u32, u32)> + Clone,
    ) {
        let Some(chunk) = self.chunk_mut(id) else {
            return;
        };
        let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
        chunk.live = chunk.live.saturating_sub(count);
        let mut forgotten = 0;
        if !matches!(chunk.blobs, Blobs::None) {
            for (offset, _) in records.clone() {
                if let Some((record, _)) = read(&chunk.data, offset)
                    && let Body::Blob { index, .. } = record.body
                {
                    forgotten += chunk.forget_body(index);
                }
            }
        }
        let is_spent = chunk.is_spent();
        self.bodies -= forgotten;
        if is_spent {
            self.reclaim(id);
        } else {
            self.note_settled(id, records);
        }
    }

    fn reclaim(&mut self, id: u32) {
        let index = id.wrapping_sub(self.first) as usize;
        if index == self.older.len() {
            let tail = &mut self.tail;
            tail.data.clear();
            tail.blobs = Blobs::None;
            self.bodies -= std::mem::take(&mut tail.bodies);
            (tail.count, tail.read, tail.own_ms) = (0, 0, u64::MAX);
            tail.model = NO_MODEL;
            // All of it may have expired behind what the cursor has not reached.
            if self.cursor.chunk == id {
                self.cursor.offset = 0;
            }
        } else if index == 0 {
            self.drop_spent_front();
        } else {
            self.free(id);
        }
    }

    fn drop_spent_front(&mut self) {
        while self.older.front().is_some_and(Chunk::is_spent) {
            self.free(self.first);
            self.older.pop_front();
            if self.cursor.chunk == self.first {
                self.cursor = Position {
                    chunk: self.first.wrapping_add(1),
                    offset: 0,
                };
            }
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Gives the memory of an empty queue back; `false` when records are still held.
    pub(crate) fn shrink(&mut self) -> bool {
        if !self.older.is_empty() || self.tail.count > 0 {
            return false;
        }
        self.free(self.tail_id());
        true
    }

    pub(crate) fn is_grown(&self) -> bool {
        self.tail.data.capacity() > CHUNK_BYTES_MIN
    }

    /// The account of their memory.
    pub(crate) const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Bytes of chunk memory held.
    pub(crate) const fn resident_bytes(&self) -> usize {
        self.resident
    }
}

/// What the receiver of a delivery keeps.
#[inline]
pub(crate) const fn unacked(
    level: u8,
    seq: u64,
    position: Position,
    record: &Record<'_>,
) -> Unacked {
    Unacked {
        seq,
        position,
        body_len: record.body.len(),
        attempts: record.attempts,
        level,
        persistent: record.persistent,
    }
}
