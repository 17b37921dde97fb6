//! Chunks on the disk without what is settled of them. What is left keeps its offsets: whoever
//! holds a position in the chunk need not know. Where something is gone, the chunk in memory has
//! records that nobody reads.

use std::collections::BTreeSet;

use leveret_record::{
    Body, FILLER_BYTES, Memory, RunPlace, Spot, mark_dropped, mark_settled, model_of, put_filler,
    read,
};

use super::page::put_u32;
use super::{Chunk, Chunks, LoadedPage};
use crate::blobs::Blobs;

/// In the number of bytes of a chunk's records: some are not there, and a table says which.
const SPARSE: u32 = 1 << 31;
/// A chunk is rewritten when it has been less than half live for so long: what is being consumed is
/// soon gone as a whole.
const PAUSE_MS: u64 = 1_000;
/// In a lane with so many chunks on the disk the one that is being consumed is not.
const LONG_CHUNKS: u64 = 8;

/// Records that are gone, one behind the other, with numbers that follow each other.
#[derive(Clone, Copy, Debug)]
struct Gap {
    offset: u32,
    len: u32,
    records: u32,
    /// Of the first one.
    seq: u64,
}

/// What is left of a chunk.
#[derive(Debug, Default)]
pub struct Compacted {
    /// Sequence numbers `from..to` of its persistent messages, in order: none that is gone.
    pub ranges: Vec<(u64, u64)>,
    /// How many messages are left.
    pub messages: u32,
    /// Bytes of the bodies of those that are persistent.
    pub bytes: u64,
    /// Bytes of records and shared bodies.
    live_bytes: u64,
    gaps: Vec<Gap>,
    /// Shared bodies that are needed.
    bodies: BTreeSet<u32>,
    /// Offsets of records that are gone.
    dropped: Vec<u32>,
}

/// A chunk that is being rewritten.
#[derive(Debug)]
pub struct Rewriting {
    pub(crate) chunk: u32,
    /// Where it is; kept meanwhile.
    pub spot: Spot,
    /// None of its messages was taken before this, unix milliseconds.
    pub base_ms: u64,
    /// None of them dies by its own expiration before this, unix milliseconds.
    pub own_ms: u64,
    /// It was in memory, and need not be read.
    is_held: bool,
    /// Offsets of what was settled while it was away, in order.
    settled: Vec<u32>,
    /// It goes elsewhere, be it smaller or not.
    leaves: bool,
    /// Where the cursor stands in it.
    cursor: Option<u32>,
    compacted: Option<Compacted>,
}

impl Rewriting {
    /// Whether it has to be read, and given to [`Self::compact`].
    #[must_use]
    pub const fn is_to_be_read(&self) -> bool {
        !self.is_held
    }

    /// Appends what is left of it to `out`, if that is much less.
    pub fn compact(&mut self, mut page: LoadedPage, out: &mut Vec<u8>) {
        settle(&mut page.data, &self.settled);
        let (split, end) = (self.cursor.unwrap_or(u32::MAX), u32::MAX);
        let compacted = survey(&page.data, (split, end));
        self.put((&page.data, &page.blobs), compacted, out);
    }

    fn put(&mut self, bytes: (&[u8], &Blobs), compacted: Compacted, out: &mut Vec<u8>) {
        let before = out.len();
        encode(bytes, &compacted, out);
        let len = (out.len() - before) as u64;
        let is_worth =
            !compacted.gaps.is_empty() && len * 4 <= u64::from(self.spot.place().len) * 3;
        if !is_worth && !self.leaves {
            out.truncate(before);
        }
        self.compacted = Some(compacted);
    }

    /// What is left of it.
    #[must_use]
    pub const fn compacted(&self) -> Option<&Compacted> {
        self.compacted.as_ref()
    }
}

/// Marks records as settled that are at these offsets, in order; what is no record stays.
pub(super) fn settle(data: &mut [u8], offsets: &[u32]) {
    let (mut at, mut offsets) = (0, offsets.iter().copied().peekable());
    while offsets.peek().is_some()
        && let Some((_, next)) = read(data, at)
    {
        while offsets
            .next_if(|offset| *offset <= at)
            .is_some_and(|offset| {
                if offset == at {
                    mark_settled(data, at);
                }
                true
            })
        {}
        at = next;
    }
}

/// Finds what is gone before `end`; nothing gone goes over the offset `split`.
fn survey(data: &[u8], (split, end): (u32, u32)) -> Compacted {
    let mut left = Compacted::default();
    let (mut at, mut models) = (0, BTreeSet::new());
    while let Some((record, next)) = read(data, at) {
        if !record.marks.settled() {
            models.extend(model_of(data, at));
        }
        at = next;
    }
    let mut gap: Option<Gap> = None;
    at = 0;
    while let Some((record, next)) = read(data, at) {
        if record.marks.settled() && at < end && !models.contains(&at) {
            let follows = |gap: &&mut Gap| {
                at != split && gap.seq.wrapping_add(u64::from(gap.records)) == record.seq
            };
            if let Some(gap) = gap.as_mut().filter(follows) {
                gap.len += next - at;
                gap.records += 1;
            } else {
                left.close(gap.take(), data);
                gap = Some(Gap {
                    offset: at,
                    len: next - at,
                    records: 1,
                    seq: record.seq,
                });
            }
        } else {
            left.close(gap.take(), data);
        }
        if !record.marks.settled() {
            left.messages += 1;
            left.live_bytes += u64::from(next - at);
            if let Body::Blob { index, len } = record.body {
                left.bodies.insert(index);
                left.live_bytes += u64::from(len);
            }
            if record.persistent {
                left.bytes += u64::from(record.body.len());
                match left.ranges.last_mut().filter(|last| last.1 == record.seq) {
                    Some(last) => last.1 += 1,
                    None => left.ranges.push((record.seq, record.seq + 1)),
                }
            }
        }
        at = next;
    }
    left.close(gap, data);
    left
}

impl Compacted {
    /// Notes records that are gone; where too few bytes are, they stay.
    fn close(&mut self, gap: Option<Gap>, data: &[u8]) {
        let Some(gap) = gap.filter(|gap| gap.len / FILLER_BYTES >= gap.records) else {
            return;
        };
        let mut at = gap.offset;
        for _ in 0..gap.records {
            self.dropped.push(at);
            at = read(data, at).map_or(at, |(_, next)| next);
        }
        self.gaps.push(gap);
    }
}

/// Writes what a run file holds of it.
fn encode((data, blobs): (&[u8], &Blobs), left: &Compacted, out: &mut Vec<u8>) {
    let bodies = || {
        blobs
            .iter()
            .filter(|(index, _)| left.bodies.contains(index))
    };
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&(len | SPARSE).to_le_bytes());
    put_u32(out, bodies().count());
    for (index, blob) in bodies() {
        out.extend_from_slice(&index.to_le_bytes());
        put_u32(out, blob.len());
    }
    put_u32(out, left.gaps.len());
    for gap in &left.gaps {
        for number in [gap.offset, gap.len, gap.records] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&gap.seq.to_le_bytes());
    }
    let mut at = 0;
    for gap in &left.gaps {
        let piece = data.get(at..gap.offset as usize);
        out.extend_from_slice(piece.unwrap_or_default());
        at = (gap.offset + gap.len) as usize;
    }
    out.extend_from_slice(data.get(at..).unwrap_or_default());
    bodies().for_each(|(_, blob)| out.extend_from_slice(blob));
}

/// The bytes of a chunk's records, as far as they are there.
pub(super) struct StoredRecords {
    len: u32,
    gaps: Vec<Gap>,
}

impl StoredRecords {
    /// From the first number of what was written.
    pub(super) const fn new(len: u32) -> Self {
        Self {
            len,
            gaps: Vec::new(),
        }
    }

    /// Takes the table off, if there is one.
    pub(super) fn take_gaps<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        if self.len & SPARSE == 0 {
            return Some(bytes);
        }
        self.len &= !SPARSE;
        let (count, mut rest) = bytes.split_first_chunk::<4>()?;
        for _ in 0..u32::from_le_bytes(*count) {
            let (gap, after) = take_gap(rest)?;
            let end = self.gaps.last().map_or(0, |last| last.offset + last.len);
            let is_one = gap.records > 0 && gap.len / FILLER_BYTES >= gap.records;
            let fits = gap
                .offset
                .checked_add(gap.len)
                .is_some_and(|it| it <= self.len);
            if !is_one || !fits || gap.offset < end {
                return None;
            }
            self.gaps.push(gap);
            rest = after;
        }
        Some(rest)
    }

    /// How many bytes are there.
    pub(super) fn stored_len(&self) -> usize {
        let gone: u32 = self.gaps.iter().map(|gap| gap.len).sum();
        self.len.saturating_sub(gone) as usize
    }

    /// The records as they are in memory: what is gone is replaced.
    pub(super) fn restore(&self, stored: &[u8], memory: &Memory) -> Vec<u8> {
        if self.gaps.is_empty() {
            return super::loaded::copy(stored, memory);
        }
        let mut data = super::loaded::room(self.len as usize, memory);
        let mut rest = stored;
        for gap in &self.gaps {
            let piece = (gap.offset as usize).saturating_sub(data.len());
            let (piece, after) = rest.split_at_checked(piece).unwrap_or((rest, &[]));
            data.extend_from_slice(piece);
            data.resize((gap.offset + gap.len) as usize, 0);
            gap.fill(&mut data);
            rest = after;
        }
        data.extend_from_slice(rest);
        data
    }
}

impl Gap {
    /// As many records as there were.
    fn fill(&self, data: &mut [u8]) {
        let (mut at, mut len) = (self.offset, self.len);
        for index in 1..=self.records {
            let part = if index < self.records {
                FILLER_BYTES
            } else {
                len
            };
            put_filler(data, at, part, self.seq + u64::from(index) - 1);
            at += part;
            len -= part;
        }
    }
}

fn take_gap(bytes: &[u8]) -> Option<(Gap, &[u8])> {
    let (numbers, rest) = bytes.split_first_chunk::<12>()?;
    let (seq, rest) = rest.split_first_chunk::<8>()?;
    let number = |at: usize| {
        let bytes = numbers.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let gap = Gap {
        offset: number(0)?,
        len: number(4)?,
        records: number(8)?,
        seq: u64::from_le_bytes(*seq),
    };
    Some((gap, rest))
}

impl Chunk {
    /// Whether it is on the disk, and less than half of what is there lives.
    fn is_sparse(&self) -> bool {
        let Some((page, place)) = self
            .page
            .as_ref()
            .and_then(|it| Some((it, it.spot_place()?)))
        else {
            return false;
        };
        let few = u64::from(self.live) * 2 < u64::from(page.kept);
        self.live > 0 && (page.leaves || few || page.live_bytes * 2 < u64::from(place.len))
    }
}

impl Chunks {
    /// Notes that records of a chunk are settled, which are at these offsets and have bodies of
    /// these lengths; some are left.
    #[inline]
    pub(super) fn note_settled(&mut self, id: u32, records: impl Iterator<Item = (u32, u32)>) {
        if self.paging.is_some() || !self.older.is_empty() {
            self.note_settled_of_long(id, records);
        }
    }

    fn note_settled_of_long(&mut self, id: u32, records: impl Iterator<Item = (u32, u32)>) {
        let Some(chunk) = self.chunk_mut(id) else {
            return;
        };
        let Some(page) = &mut chunk.page else {
            records.for_each(|(at, _)| mark_settled(&mut chunk.data, at));
            return;
        };
        let is_away = page.is_away();
        for (at, body_len) in records {
            if is_away {
                page.settled.push(at);
            } else {
                mark_settled(&mut chunk.data, at);
            }
            let len = u64::from(body_len) + leveret_record::HEADER_BYTES as u64;
            page.live_bytes = page.live_bytes.saturating_sub(len);
        }
        self.look_at_sparse(id);
    }

    /// Has a chunk rewritten if little of it lives.
    pub(crate) fn look_at_sparse(&mut self, id: u32) {
        let is_sparse = self.chunk(id).is_some_and(Chunk::is_sparse);
        let page = self
            .chunk_mut(id)
            .and_then(|chunk| chunk.page.as_deref_mut());
        let Some(page) = page.filter(|page| is_sparse && !page.in_line) else {
            return;
        };
        page.in_line = true;
        if self.paging.is_none() {
            self.begin_paging();
        }
        let paging = self.paging.get_or_insert_default();
        paging.sparse.push_back((id, None));
    }

    /// Has chunks rewritten that are in some runs.
    pub(crate) fn leave_runs(&mut self, runs: &BTreeSet<u64>) {
        let first = self.first;
        let is_there = |chunk: &Chunk| {
            let place = chunk.page.as_ref().and_then(|page| page.spot_place());
            place.is_some_and(|place| runs.contains(&place.run))
        };
        let ids = (0u32..)
            .zip(&self.older)
            .filter(|(_, chunk)| is_there(chunk));
        let ids: Vec<u32> = ids.map(|(index, _)| first.wrapping_add(index)).collect();
        for id in ids {
            if let Some(page) = self.chunk_mut(id).and_then(|it| it.page.as_deref_mut()) {
                page.leaves = true;
            }
            self.look_at_sparse(id);
        }
    }

    /// Whether a chunk is to be rewritten, now or soon.
    pub(crate) fn wants_rewrite(&self) -> bool {
        let paging = self.paging.as_ref();
        paging.is_some_and(|paging| !paging.sparse.is_empty())
    }

    /// The next chunk that has been less than half live for a while.
    fn next_sparse(&mut self, now_ms: u64) -> Option<u32> {
        let paging = self.paging.as_mut()?;
        let fresh = paging.sparse.iter_mut().rev();
        let fresh = fresh.map_while(|(_, noted_ms)| noted_ms.is_none().then_some(noted_ms));
        fresh.for_each(|noted_ms| *noted_ms = Some(now_ms));
        let (_, noted_ms) = paging.sparse.front()?;
        let due_ms = noted_ms.unwrap_or(0).saturating_add(PAUSE_MS);
        if due_ms > now_ms {
            return None;
        }
        paging.sparse.pop_front().map(|(id, _)| id)
    }

    /// What the head's chunk alone takes too much of the disk is little beside the others.
    fn is_long(&self) -> bool {
        self.paged_out().chunks >= LONG_CHUNKS
    }

    /// Has a chunk looked at later.
    fn put_back(&mut self, id: u32) {
        if let Some(page) = self.chunk_mut(id).and_then(|it| it.page.as_deref_mut()) {
            page.in_line = true;
        }
        if let Some(paging) = &mut self.paging {
            paging.sparse.push_back((id, None));
        }
    }

    /// Begins with a chunk of which little lives; what is in memory of one is appended to `out`.
    pub(crate) fn begin_rewrite(&mut self, now_ms: u64, out: &mut Vec<u8>) -> Option<Rewriting> {
        while let Some(id) = self.next_sparse(now_ms) {
            let cursor = self.cursor;
            let Some(page) = self.chunk_mut(id).and_then(|it| it.page.as_deref_mut()) else {
                continue;
            };
            page.in_line = false;
            if page.is_busy() {
                self.look_at_sparse(id);
                return None;
            }
            if id == cursor.chunk && self.is_long() {
                self.put_back(id);
                continue;
            }
            let is_after = id.wrapping_sub(self.first) > cursor.chunk.wrapping_sub(self.first);
            let cursor = (id == cursor.chunk).then_some(cursor.offset);
            let sparse = self.chunk_mut(id).filter(|chunk| chunk.is_sparse());
            let begun = sparse.and_then(|it| it.begin_rewrite(id, cursor));
            let rewriting = begun.map(|mut rewriting| {
                // The cursor may come to stand anywhere behind where it is.
                let end = if is_after {
                    0
                } else {
                    cursor.unwrap_or(u32::MAX)
                };
                if rewriting.is_held
                    && let Some(chunk) = self.chunk(id)
                {
                    let compacted = survey(&chunk.data, (u32::MAX, end));
                    rewriting.put((&chunk.data, &chunk.blobs), compacted, out);
                }
                rewriting
            });
            if rewriting.is_some() {
                return rewriting;
            }
        }
        None
    }

    /// A chunk was rewritten there, or was not worth it; gives the place that it does not need any
    /// more. Nothing if it is not where it was.
    pub(crate) fn rewritten(&mut self, rewriting: Rewriting, spot: Option<Spot>) -> Option<Spot> {
        let id = rewriting.chunk;
        let cursor = (id == self.cursor.chunk).then_some(self.cursor.offset);
        let chunk = self.chunk_mut(id)?;
        let live = chunk.live;
        let page = chunk.page.as_deref_mut()?;
        if page.spot_place() != Some(rewriting.spot.place()) {
            return None;
        }
        let is_new = spot.is_some();
        let stands = rewriting.is_held || page.is_idle_away() && cursor == rewriting.cursor;
        if page.is_busy() || is_new && !stands {
            self.look_at_sparse(id);
            return None;
        }
        // What is found to be not worth it is looked at again when much more is settled.
        page.leaves = false;
        page.kept = live;
        page.live_bytes = rewriting
            .compacted
            .as_ref()
            .map_or(u64::MAX / 4, |it| it.live_bytes);
        let spot = spot?;
        let compacted = rewriting.compacted.unwrap_or_default();
        page.kept = compacted.messages;
        page.settled.retain(|at| {
            rewriting.settled.binary_search(at).is_err()
                && compacted.dropped.binary_search(at).is_err()
        });
        page.settled.shrink_to_fit();
        page.rewritten = true;
        let before = page.spot.replace(spot);
        for at in compacted.dropped {
            mark_dropped(&mut chunk.data, at);
        }
        self.look_at_sparse(id);
        before
    }
}

impl Chunk {
    fn begin_rewrite(&mut self, id: u32, cursor: Option<u32>) -> Option<Rewriting> {
        let (base_ms, page) = (self.base_ms, self.page.as_deref_mut()?);
        page.settled.sort_unstable();
        Some(Rewriting {
            chunk: id,
            spot: page.spot()?,
            base_ms,
            own_ms: page.own_first_ms(),
            is_held: !page.is_away(),
            settled: page.settled.clone(),
            leaves: page.leaves,
            cursor,
            compacted: None,
        })
    }
}

/// Where it is.
impl Rewriting {
    /// The place it is read from.
    #[must_use]
    pub fn place(&self) -> RunPlace {
        self.spot.place()
    }
}
