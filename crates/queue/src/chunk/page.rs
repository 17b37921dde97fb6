//! Chunks that leave memory for the disk and come back. No files are here: a chunk is written and
//! read by whoever asks for that, and what became of it is told later.
//!
//! A lane keeps its head, its tail and what somebody waits for in memory; the chunks between are
//! written, oldest first, and dropped. A chunk that came back keeps its place until its bytes
//! change, so that it can leave again without being written.

mod back;
mod cold;
mod moved;

pub use moved::{AwayChunk, MovableChunk};

use std::collections::VecDeque;

use leveret_record::{Body, Record, RunPlace, Spot, clear_settled, read};

use super::{Chunk, Chunks};
use crate::blobs::Blobs;

/// Under pressure tails leave memory as well, when they have so many bytes.
const TAIL_BYTES_MIN: usize = 4096;

/// Where a chunk is that was written, or is about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageState {
    /// In memory; on the disk as well, if it has a spot.
    Held,
    /// In memory, and being written.
    Writing,
    /// On the disk only.
    Away,
    /// On the disk, and being read.
    Loading,
    /// It could not be read back.
    Lost,
}

/// What is known of a chunk that was written, or is about to be.
#[derive(Debug)]
pub(crate) struct DiskPage {
    state: PageState,
    /// Of what is being done with it.
    ticket: u32,
    pub(super) spot: Option<Spot>,
    /// Of its first record, and of the last one that has not left.
    seqs: (u64, u64),
    /// Of the first record that was unread when it left memory.
    pub(super) unread_from: u64,
    /// Messages that were unread then,
    unread: u32,
    /// and the bytes of their bodies.
    unread_bytes: u64,
    /// Sequence numbers `from..to` of persistent messages, unread or not.
    pub(super) persistent: Box<[(u64, u64)]>,
    /// Bytes of their bodies.
    persistent_bytes: u64,
    /// It is of before a restart, and was not read since: how many bytes are unread is not sure.
    estimated: bool,
    /// No record dies by its own expiration before this, unix milliseconds, but for those that
    /// were looked through:
    pub(super) own_ms: u64,
    /// no record at all,
    own_first_ms: u64,
    /// and what was in the lane and past its own expiration then was taken out.
    looked_ms: u64,
    /// Bytes of records and shared bodies when it left memory.
    extent: u64,
    /// Messages that the place has: some may be settled.
    pub(super) kept: u32,
    /// Bytes of those that are not settled, about.
    pub(super) live_bytes: u64,
    /// Offsets of what was settled while it was away, and is at the place nevertheless.
    pub(super) settled: Vec<u32>,
    /// It is where it is as it was rewritten: the place has not all that it had.
    pub(super) rewritten: bool,
    /// It is to be rewritten however much of it lives: little does of what is beside it.
    pub(super) leaves: bool,
    /// It is in the line of those to be rewritten.
    pub(super) in_line: bool,
}

impl DiskPage {
    fn new() -> Self {
        Self {
            state: PageState::Held,
            ticket: 0,
            spot: None,
            seqs: (0, 0),
            unread_from: 0,
            unread: 0,
            unread_bytes: 0,
            persistent: Box::new([]),
            persistent_bytes: 0,
            estimated: false,
            own_ms: u64::MAX,
            own_first_ms: u64::MAX,
            looked_ms: 0,
            extent: 0,
            kept: 0,
            live_bytes: 0,
            settled: Vec::new(),
            rewritten: false,
            leaves: false,
            in_line: false,
        }
    }

    fn note_deadline(&mut self, deadline_ms: u64) {
        self.own_first_ms = self.own_first_ms.min(deadline_ms);
        if deadline_ms > self.looked_ms {
            self.own_ms = self.own_ms.min(deadline_ms);
        }
    }

    pub(super) const fn is_away(&self) -> bool {
        matches!(self.state, PageState::Away | PageState::Loading)
    }

    /// Whether it is on the disk only, and nobody reads it.
    pub(super) const fn is_idle_away(&self) -> bool {
        matches!(self.state, PageState::Away)
    }

    /// Whether it is being read or written.
    pub(super) const fn is_busy(&self) -> bool {
        matches!(self.state, PageState::Writing | PageState::Loading)
    }

    /// Where it is.
    pub(super) fn spot(&self) -> Option<Spot> {
        self.spot.clone()
    }

    /// The same.
    pub(super) fn spot_place(&self) -> Option<RunPlace> {
        Some(self.spot.as_ref()?.place())
    }

    /// No record dies by its own expiration before this, unix milliseconds.
    pub(super) const fn own_first_ms(&self) -> u64 {
        self.own_first_ms
    }

    /// Notes a settled record that is at an offset.
    fn note_settled(&mut self, record: &Record<'_>, at: u32, noted: &mut LookedThrough) {
        noted.records += u32::from(!record.marks.dropped());
        if !record.marks.dropped() {
            self.settled.push(at);
        }
        if noted.reach == record.seq {
            noted.reach += 1;
        }
    }
}

/// What is counted while a chunk is looked through.
#[derive(Default)]
struct LookedThrough {
    /// Records that its place has.
    records: u32,
    /// Up to here all that is behind the last persistent message is settled.
    reach: u64,
}

/// What of a lane or a queue is on the disk only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagedOut {
    /// How many chunks that is.
    pub chunks: u64,
    /// Ready messages in them; not those that came back to them.
    pub messages: u64,
    /// Bytes of these messages' bodies.
    pub bytes: u64,
}

/// What a lane has only if it is longer than its share of memory.
#[derive(Debug, Default)]
pub(in crate::chunk) struct Paging {
    /// Closed chunks that are in memory, about oldest first; some may be gone.
    held: VecDeque<u32>,
    out: PagedOut,
    /// The lane was looked at while there was no memory left: its head may leave as well.
    squeezed: bool,
    /// Chunks of which little lives, and since when that is known, unix milliseconds.
    pub(super) sparse: VecDeque<(u32, Option<u64>)>,
    /// Has to be read as messages in it are past their own expiration.
    sweep: Option<u32>,
    /// When one was looked for last, unix milliseconds.
    swept_ms: u64,
}

/// Chunks somebody waits for, by their ids.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PageNeeds {
    /// Of the first message that came back.
    pub(crate) requeued: Option<u32>,
    /// Of the first message that died and is to be moved on.
    pub(crate) dead: Option<u32>,
    /// The head is about to be looked at, by whomever.
    pub(crate) head: bool,
}

/// A chunk of a lane, and what is being done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageJob {
    pub(crate) chunk: u32,
    pub(crate) ticket: u32,
}

/// What was in a chunk that could not be read back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LostChunk {
    pub(crate) unread: u32,
    pub(crate) unread_bytes: u64,
    pub(crate) seqs: (u64, u64),
}

pub(super) fn put_u32(out: &mut Vec<u8>, number: usize) {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    out.extend_from_slice(&number.to_le_bytes());
}

/// All records are there: which ones are settled is noted beside.
fn unmark(data: &mut [u8]) {
    let mut at = 0;
    while let Some((record, next)) = read(data, at) {
        if record.marks.settled() {
            clear_settled(data, at);
        }
        at = next;
    }
}

impl Chunk {
    pub(super) fn is_away(&self) -> bool {
        self.page.as_ref().is_some_and(|page| page.is_away())
    }

    fn is_in(&self, state: PageState) -> bool {
        self.page.as_ref().is_some_and(|page| page.state == state)
    }

    /// Bytes of its records and shared bodies, the same whether it is in memory or not: else what
    /// is read ahead would depend on what was.
    fn extent(&self) -> u64 {
        let page = self.page.as_ref().filter(|page| page.is_away());
        page.map_or(self.data.len() as u64 + self.bodies, |page| page.extent)
    }

    /// What it takes of memory, bytes.
    const fn weight(&self) -> u64 {
        self.data.capacity() as u64 + self.bodies
    }

    /// Writes what a run file holds of it: records, then shared bodies that are still needed.
    fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.data.len());
        put_u32(out, self.blobs.iter().count());
        for (index, blob) in self.blobs.iter() {
            out.extend_from_slice(&index.to_le_bytes());
            put_u32(out, blob.len());
        }
        let start = out.len();
        out.extend_from_slice(&self.data);
        if self.live < self.count {
            unmark(out.get_mut(start..).unwrap_or_default());
        }
        for (_, blob) in self.blobs.iter() {
            out.extend_from_slice(blob);
        }
    }

    /// The number of its first record.
    pub(super) fn first_seq(&self) -> Option<u64> {
        match &self.page {
            Some(page) if page.is_away() => Some(page.seqs.0),
            _ => Some(read(&self.data, 0)?.0.seq),
        }
    }

    /// Whether it is not in memory and has nothing unread from a number on.
    pub(super) fn ends_before(&self, from: u64) -> bool {
        let page = self.page.as_ref().filter(|page| page.is_away());
        page.is_some_and(|page| page.unread == 0 || page.seqs.1 < from)
    }

    /// The place it has to be read from, if it is not in memory.
    pub(super) fn place(&self) -> Option<RunPlace> {
        let page = self.page.as_ref().filter(|page| page.is_away())?;
        Some(page.spot.as_ref()?.place())
    }

    /// Notes what has to be known of its records while they are away; `unread_at` is where the
    /// first unread one is.
    fn take_note(&mut self, unread_at: Option<u32>) {
        let Some(mut page) = self.page.take() else {
            return;
        };
        let mut persistent: Vec<(u64, u64)> = Vec::new();
        let (mut at, mut first, mut noted) = (0, None, LookedThrough::default());
        page.extent = self.extent();
        (page.unread, page.unread_bytes) = (0, 0);
        (page.persistent_bytes, page.live_bytes) = (0, 0);
        (page.own_ms, page.own_first_ms) = (u64::MAX, u64::MAX);
        page.unread_from = u64::MAX;
        page.settled.clear();
        while let Some(found) = self.found(at) {
            let record = &found.record;
            let seq = record.seq;
            let first = *first.get_or_insert(seq);
            page.seqs.0 = first;
            let here = std::mem::replace(&mut at, found.next);
            if record.marks.settled() {
                page.note_settled(record, here, &mut noted);
                continue;
            }
            noted.records += 1;
            page.live_bytes += u64::from(found.next - here);
            if let Body::Blob { len, .. } = record.body {
                page.live_bytes += u64::from(len);
            }
            if record.expiration_ms.is_some() {
                page.note_deadline(found.deadline_ms(u64::MAX));
            }
            if !record.marks.left() {
                page.seqs.1 = seq;
                if unread_at.is_some_and(|unread_at| here >= unread_at) {
                    page.unread_from = page.unread_from.min(seq);
                    page.unread += 1;
                    page.unread_bytes += u64::from(record.body.len());
                }
                if record.persistent {
                    page.persistent_bytes += u64::from(record.body.len());
                    match persistent.last_mut().filter(|_| noted.reach == seq) {
                        Some(last) => last.1 = seq + 1,
                        None => persistent.push((seq, seq + 1)),
                    }
                    noted.reach = seq + 1;
                }
            }
        }
        // Of a chunk from before a restart only a part was read.
        if page.kept == 0 {
            page.kept = noted.records;
        }
        page.settled.shrink_to_fit();
        page.persistent = persistent.into();
        self.page = Some(page);
    }
}

impl Chunks {
    /// Whether some chunks are not in memory, or should not be.
    #[inline]
    pub(crate) const fn is_paged(&self) -> bool {
        self.paging.is_some()
    }

    /// What it holds in memory, bytes.
    pub(crate) const fn weight(&self) -> u64 {
        self.resident as u64 + self.bodies
    }

    /// What of it is on the disk only.
    pub(crate) fn paged_out(&self) -> PagedOut {
        let paging = self.paging.as_ref();
        paging.map_or_else(PagedOut::default, |paging| paging.out)
    }

    /// A chunk was closed: there may be more in memory than this lane's share.
    pub(super) fn look_at_share(&mut self) {
        let closed = self.tail_id().wrapping_sub(1);
        if let Some(paging) = &mut self.paging {
            paging.held.push_back(closed);
        } else if self.weight() > self.memory.lane_share() {
            self.begin_paging();
        }
    }

    pub(super) fn begin_paging(&mut self) {
        let (first, tail) = (self.first, self.tail_id());
        let ids = (0..tail.wrapping_sub(first)).map(|index| first.wrapping_add(index));
        let held = ids.filter(|id| self.chunk(*id).is_some_and(|chunk| !chunk.is_away()));
        let held = held.collect();
        self.paging = Some(Box::new(Paging {
            held,
            ..Paging::default()
        }));
    }

    /// Has the lane look at its share although it does not grow; under pressure its tail is closed.
    pub(crate) fn review(&mut self) {
        let share = self.memory.lane_share();
        let least = TAIL_BYTES_MIN.min(self.memory.limits().chunk_bytes);
        if share == 0 && self.tail.data.len() >= least && self.tail.live > 0 {
            self.grow(0, 0);
        }
        if self.paging.is_none() && self.weight() > share && !self.older.is_empty() {
            self.begin_paging();
        }
        if let Some(paging) = &mut self.paging {
            paging.squeezed = share == 0;
        }
        self.end_paging();
    }

    /// A short lane that has all in memory needs nothing of this.
    pub(crate) fn end_paging(&mut self) {
        let is_over = |paging: &Paging| paging.out.chunks == 0;
        if self.paging.as_deref().is_some_and(is_over)
            && !self.wants_rewrite()
            && self.weight() <= self.memory.lane_share() / 2
        {
            self.paging = None;
        }
    }

    /// How many chunks from the head's on have so many bytes.
    fn head_chunks(&self, most: u64, least: u32) -> u32 {
        let (mut chunks, mut bytes) = (0, 0);
        let head = self.head_chunk();
        let all = self.tail_id().wrapping_sub(head);
        while chunks < all && (chunks < least || bytes < most) {
            let id = head.wrapping_add(chunks);
            bytes += self.chunk(id).map_or(0, Chunk::extent);
            chunks += 1;
        }
        chunks
    }

    /// The next chunk that is to leave memory: not of the first half of the lane's share.
    pub(crate) fn next_to_write(&self, needs: PageNeeds) -> Option<u32> {
        let paging = self.paging.as_ref()?;
        let share = self.memory.lane_share();
        let mut over = self.weight().checked_sub(share).filter(|over| *over > 0)?;
        let least = u32::from(needs.head || !paging.squeezed);
        let (first, head) = (self.head_chunk(), self.head_chunks(share / 2, least));
        let is_needed = |id: u32| {
            id.wrapping_sub(first) < head || Some(id) == needs.requeued || Some(id) == needs.dead
        };
        let mut next = None;
        for id in paging.held.iter().copied() {
            let Some(chunk) = self.chunk(id).filter(|_| id != self.tail_id()) else {
                continue;
            };
            if chunk.is_in(PageState::Writing) {
                over = over.saturating_sub(chunk.weight());
            } else if next.is_none() && chunk.is_writable() && !is_needed(id) {
                next = Some(id);
            }
        }
        next.filter(|_| over > 0)
    }

    /// Begins with a chunk that is to leave memory; what is to be written is appended to `out`.
    /// `None` if it has left already.
    pub(crate) fn begin_write(&mut self, id: u32, out: &mut Vec<u8>) -> Option<PageJob> {
        self.forget_absent();
        let ticket = self.next_ticket();
        let chunk = self.chunk_mut(id)?;
        let page = chunk.page.get_or_insert_with(|| Box::new(DiskPage::new()));
        if page.spot.is_some() {
            self.leave_memory(id);
            return None;
        }
        (page.state, page.ticket) = (PageState::Writing, ticket);
        chunk.encode(out);
        Some(PageJob { chunk: id, ticket })
    }

    fn next_ticket(&mut self) -> u32 {
        self.tickets = self.tickets.wrapping_add(1);
        self.tickets
    }

    fn forget_absent(&mut self) {
        let Some(mut paging) = self.paging.take() else {
            return;
        };
        paging.held.retain(|id| {
            let chunk = self.chunk(*id);
            chunk.is_some_and(|chunk| chunk.is_writable() || chunk.is_in(PageState::Writing))
        });
        self.paging = Some(paging);
    }

    fn page_in(&mut self, job: PageJob, state: PageState) -> Option<&mut DiskPage> {
        let page = self.chunk_mut(job.chunk)?.page.as_deref_mut()?;
        (page.ticket == job.ticket && page.state == state).then_some(page)
    }

    /// A chunk was written there, or not at all; nothing if it was changed meanwhile.
    pub(crate) fn written(&mut self, job: PageJob, spot: Option<Spot>) {
        let Some(page) = self.page_in(job, PageState::Writing) else {
            return;
        };
        page.state = PageState::Held;
        page.spot = spot;
        if page.spot.is_some() {
            self.leave_memory(job.chunk);
        } else if let Some(chunk) = self.chunk_mut(job.chunk) {
            chunk.page = None;
        }
    }

    fn leave_memory(&mut self, id: u32) {
        let cursor = self.cursor;
        let Some(chunk) = self.chunk_mut(id) else {
            return;
        };
        let unread_at = if id == cursor.chunk { cursor.offset } else { 0 };
        chunk.take_note((chunk.read < chunk.count).then_some(unread_at));
        let data = std::mem::take(&mut chunk.data);
        let bodies = std::mem::take(&mut chunk.bodies);
        chunk.blobs = Blobs::None;
        let (mut unread, mut unread_bytes) = (0, 0);
        if let Some(page) = &mut chunk.page {
            page.state = PageState::Away;
            (unread, unread_bytes) = (page.unread, page.unread_bytes);
        }
        self.resident -= data.capacity();
        self.bodies -= bodies;
        self.memory.give_back(data);
        let paging = self.paging.get_or_insert_default();
        paging.held.retain(|held| *held != id);
        paging.out.chunks += 1;
        paging.out.messages += u64::from(unread);
        paging.out.bytes += unread_bytes;
        self.look_at_sparse(id);
    }

    /// A chunk is counted among those on the disk only no more, or what is unread in it.
    fn is_back(&mut self, id: u32) {
        self.is_all_read(id);
        if let Some(paging) = &mut self.paging {
            paging.out.chunks -= 1;
        }
    }

    /// Nothing in a chunk is unread any more, or it is back.
    pub(super) fn is_all_read(&mut self, id: u32) {
        let Some(page) = self.chunk_mut(id).and_then(|it| it.page.as_deref_mut()) else {
            return;
        };
        let unread = std::mem::take(&mut page.unread);
        let bytes = std::mem::take(&mut page.unread_bytes);
        if let Some(paging) = &mut self.paging {
            paging.out.messages -= u64::from(unread);
            paging.out.bytes -= bytes;
        }
    }

    /// What is known of a chunk is forgotten, as that is gone.
    pub(super) fn forget_page(&mut self, page: &DiskPage) {
        if let Some(paging) = self.paging.as_mut().filter(|_| page.is_away()) {
            paging.out.chunks -= 1;
            paging.out.messages -= u64::from(page.unread);
            paging.out.bytes -= page.unread_bytes;
        }
    }

    /// A chunk in memory was changed: what the disk has of it is worth nothing.
    pub(super) fn is_changed(&mut self, id: u32) {
        if let Some(chunk) = self.chunk_mut(id).filter(|chunk| !chunk.is_away()) {
            chunk.page = None;
        }
    }

    /// Whether a chunk is on the disk only.
    #[inline]
    pub(crate) fn is_away(&self, id: u32) -> bool {
        self.paging.is_some() && self.chunk(id).is_some_and(Chunk::is_away)
    }

    /// Whether a chunk could not be read back.
    pub(crate) fn is_lost(&self, id: u32) -> bool {
        self.chunk(id)
            .is_some_and(|chunk| chunk.is_in(PageState::Lost))
    }

    /// The chunk of the first record never read, or the tail.
    pub(crate) fn head_chunk(&self) -> u32 {
        let (mut id, tail) = (self.cursor.chunk, self.tail_id());
        while id != tail && self.chunk(id).is_some_and(Chunk::is_all_left) {
            id = id.wrapping_add(1);
        }
        id
    }
}

impl Chunk {
    /// Whether it may leave memory.
    fn is_writable(&self) -> bool {
        let is_held = |page: &DiskPage| page.state == PageState::Held;
        let fits = self.data.len() as u64 + self.bodies < u64::from(u32::MAX / 2);
        self.page.as_deref().is_none_or(is_held) && self.live > 0 && fits
    }
}
