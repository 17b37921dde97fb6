//! Chunks on the disk that nobody asks for, one after the other.

use super::{PageRead, Queue};

/// How far somebody is who looks at all of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct ColdCursor(Option<(u8, u32)>);

impl<C> Queue<C> {
    /// The next chunk on the disk; `None` at the end. It is not being read: what is told of it
    /// ([`Queue::page_lost`]) counts if it still is where it was.
    pub fn next_cold(&self, cursor: &mut ColdCursor) -> Option<PageRead> {
        for (level, lane) in self.lanes.iter() {
            let from = match cursor.0 {
                // The highest level comes first.
                Some((at, _)) if level > at => continue,
                Some((at, chunk)) if level == at => Some(chunk),
                _ => None,
            };
            if let Some((job, place)) = lane.chunks.next_cold(from) {
                cursor.0 = Some((level, job.chunk.wrapping_add(1)));
                return Some(PageRead { level, job, place });
            }
        }
        None
    }
}
