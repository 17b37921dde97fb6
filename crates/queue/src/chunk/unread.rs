//! Records the cursor has not reached.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use leveret_record::{Blob, Body, Position, Record, RunPlace, read};

use super::{Chunk, Chunks, LoadedPage};

impl Chunks {
    /// Shows the numbers of all persistent messages the cursor has not reached, in order.
    pub(crate) fn persistent_unread(&self, mut show: impl FnMut(Range<u64>)) {
        let mut at = self.cursor;
        while let Some(chunk) = self.chunk(at.chunk) {
            if let Some(ranges) = self.away_persistent(at.chunk, true) {
                ranges.for_each(|(from, to)| show(from..to));
            } else {
                for _ in chunk.read..chunk.count {
                    let Some((record, next)) = read(&chunk.data, at.offset) else {
                        break;
                    };
                    if record.persistent && !record.marks.left() {
                        show(record.seq..record.seq + 1);
                    }
                    at.offset = next;
                }
            }
            if at.chunk == self.tail_id() {
                return;
            }
            at = Position {
                chunk: at.chunk.wrapping_add(1),
                offset: 0,
            };
        }
    }

    /// Shows the records the cursor has not reached from a number on, in order, until `show`
    /// breaks. What is on the disk only is looked for in `copy`; where that has not got it either,
    /// it breaks with the place it is at.
    pub(crate) fn unread_from(
        &self,
        from: u64,
        copy: Option<&LoadedPage>,
        mut show: impl FnMut(&Record<'_>, Option<&Arc<Blob>>) -> ControlFlow<()>,
    ) -> ControlFlow<Option<RunPlace>> {
        let mut at = self.cursor;
        while let Some(chunk) = self.chunk(at.chunk) {
            let is_last = at.chunk == self.tail_id();
            let next = at.chunk.wrapping_add(1);
            let next_first = self.chunk(next).and_then(Chunk::first_seq);
            // When the next chunk begins before, all of this one is before.
            let is_before = !is_last && next_first.is_some_and(|seq| seq <= from);
            let skip = is_before || chunk.ends_before(from);
            let unread = if skip { 0 } else { chunk.count - chunk.read };
            if unread > 0 {
                let bytes = match chunk.bytes(copy) {
                    Ok(bytes) => bytes,
                    Err(place) => return ControlFlow::Break(Some(place)),
                };
                for _ in 0..unread {
                    let Some((record, after)) = read(bytes.data, at.offset) else {
                        break;
                    };
                    let blob = match record.body {
                        Body::Inline(_) => None,
                        Body::Blob { index, .. } => bytes.blobs.get(index),
                    };
                    if !record.marks.left() && record.seq >= from && show(&record, blob).is_break()
                    {
                        return ControlFlow::Break(None);
                    }
                    at.offset = after;
                }
            }
            if is_last {
                return ControlFlow::Continue(());
            }
            at = Position {
                chunk: next,
                offset: 0,
            };
        }
        ControlFlow::Continue(())
    }

    /// Settles every record the cursor has not reached.
    pub(crate) fn release_unread(&mut self) {
        // Only the cursor's chunk can stay for the sake of records that were read: the bodies of
        // the others go one by one.
        let partly_read = self.chunk(self.cursor.chunk);
        let unread = partly_read.map_or(0, |chunk| chunk.count - chunk.read);
        self.hand_out(unread, true, |_, _, _| true);
        let tail = self.tail_id();
        let mut id = self.cursor.chunk;
        loop {
            if let Some(chunk) = self.chunk_mut(id) {
                let unread = chunk.count - chunk.read - chunk.left;
                chunk.live = chunk.live.saturating_sub(unread);
                (chunk.read, chunk.left, chunk.own_ms) = (chunk.count, 0, u64::MAX);
            }
            self.is_all_read(id);
            if id == tail {
                break;
            }
            id = id.wrapping_add(1);
        }
        let end = u32::try_from(self.tail.data.len()).unwrap_or(u32::MAX);
        self.cursor = Position {
            chunk: tail,
            offset: end,
        };
        let mut id = self.first;
        while id != tail {
            if self.chunk(id).is_some_and(Chunk::is_spent) {
                self.free(id);
            }
            id = id.wrapping_add(1);
        }
        self.drop_spent_front();
        if self.tail.is_spent() {
            self.reclaim(tail);
        }
    }
}
