//! Records that leave their queue although others before them do not: they stay where they are,
//! marked, and the cursor passes them.

use leveret_record::{Position, Unacked, mark_left, read};

use super::{Chunk, Chunks, unacked};
use crate::message::Message;

impl Chunk {
    /// Passes a record that has left.
    pub(super) const fn pass_left(&mut self) {
        self.read += 1;
        self.left -= 1;
    }

    /// Whether all unread records have left, if there are any.
    pub(super) const fn is_all_left(&self) -> bool {
        self.read + self.left == self.count
    }

    /// Takes out the unread records from a position on that are past their own expiration, at most
    /// `most`.
    fn sweep(&mut self, from: Position, now_ms: u64, out: &mut Vec<Unacked>, most: usize) {
        let (mut at, mut own_ms) = (from.offset, u64::MAX);
        for _ in self.read..self.count {
            let Some(found) = self.found(at) else { break };
            let next = found.next;
            let deadline_ms = found.deadline_ms(u64::MAX);
            if !found.record.marks.left() && found.record.expiration_ms.is_some() {
                if deadline_ms <= now_ms && out.len() < most {
                    let position = Position {
                        chunk: from.chunk,
                        offset: at,
                    };
                    let record = &found.record;
                    out.push(unacked(0, record.seq, position, record));
                    self.left += 1;
                    mark_left(&mut self.data, at);
                } else {
                    own_ms = own_ms.min(deadline_ms);
                }
            }
            at = next;
        }
        self.own_ms = own_ms;
    }
}

impl Chunks {
    /// Passes the record at the cursor if it has left.
    #[cold]
    pub(super) fn pass_left(&mut self) -> bool {
        let Position { chunk: id, offset } = self.cursor;
        let Some(chunk) = self.chunk_mut(id) else {
            return false;
        };
        if chunk.is_all_left() {
            // Where they are need not be in memory.
            let end = u32::try_from(chunk.data.len()).unwrap_or(u32::MAX);
            (chunk.read, chunk.left) = (chunk.count, 0);
            let is_spent = chunk.is_spent();
            self.cursor.offset = end;
            if is_spent {
                self.reclaim(id);
            }
            return true;
        }
        match read(&chunk.data, offset) {
            Some((record, next)) if record.marks.left() => {
                chunk.pass_left();
                let is_spent = chunk.is_spent();
                self.cursor.offset = next;
                if is_spent {
                    self.reclaim(id);
                }
                true
            }
            _ => false,
        }
    }

    /// Appends a record that has left already: others go on before it, and it is never read.
    pub(crate) fn append_left(&mut self, message: &Message<'_>, seq: u64) -> Option<Unacked> {
        let (before, end) = (self.tail_id(), self.tail.data.len());
        self.append(message, seq);
        let chunk = self.tail_id();
        let offset = if chunk == before {
            u32::try_from(end).ok()?
        } else {
            0
        };
        let position = Position { chunk, offset };
        self.tail.left += 1;
        mark_left(&mut self.tail.data, offset);
        let (record, _) = read(&self.tail.data, offset)?;
        Some(unacked(0, seq, position, &record))
    }

    /// Takes out unread records that are past their own expiration, at most `most`, from any place.
    pub(crate) fn sweep(&mut self, now_ms: u64, out: &mut Vec<Unacked>, most: usize) {
        let (cursor, tail) = (self.cursor, self.tail_id());
        let mut id = cursor.chunk;
        while out.len() < most {
            let offset = if id == cursor.chunk { cursor.offset } else { 0 };
            let Some(chunk) = self.chunk_mut(id) else {
                return;
            };
            if chunk.own_ms <= now_ms && chunk.is_away() {
                self.note_sweep(id, now_ms);
            } else if chunk.own_ms <= now_ms {
                let before = out.len();
                chunk.sweep(Position { chunk: id, offset }, now_ms, out, most);
                let is_changed = out.len() > before;
                // Where more may be appended the cursor has to come by itself.
                let is_passable = id != tail || id == cursor.chunk;
                if is_passable && chunk.left == chunk.count - chunk.read {
                    (chunk.read, chunk.left) = (chunk.count, 0);
                    if id == cursor.chunk {
                        let end = u32::try_from(chunk.data.len()).unwrap_or(u32::MAX);
                        self.cursor.offset = end;
                    }
                }
                if is_changed {
                    self.is_changed(id);
                }
                let is_spent = self.chunk(id).is_some_and(Chunk::is_spent);
                if is_spent {
                    self.reclaim(id);
                }
            }
            if id == tail {
                return;
            }
            id = id.wrapping_add(1);
        }
    }

    /// No unread record dies by its own expiration before this, unix milliseconds.
    pub(crate) fn own_ms(&self) -> u64 {
        let read = self.cursor.chunk.wrapping_sub(self.first) as usize;
        let unread = self.older.iter().chain([&self.tail]).skip(read);
        unread.map(|chunk| chunk.own_ms).min().unwrap_or(u64::MAX)
    }
}
