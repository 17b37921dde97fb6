//! What is known of a chunk that is on the disk only, and what is in a copy of it.

use leveret_record::RunPlace;

use super::{Chunk, Chunks, LoadedPage};
use crate::blobs::Blobs;

impl Chunks {
    /// Of a chunk that is away: no record in it was taken before the one time, or dies by its own
    /// expiration before the other, unix milliseconds.
    pub(crate) fn away_times(&self, id: u32) -> Option<(u64, u64)> {
        let chunk = self.chunk(id).filter(|chunk| chunk.is_away())?;
        let page = chunk.page.as_ref()?;
        Some((chunk.base_ms, page.own_ms))
    }

    /// Sequence numbers `from..to` of persistent messages in a chunk that is away; with `unread`
    /// only of those the cursor has not reached.
    pub(crate) fn away_persistent(&self, id: u32, unread: bool) -> Option<AwayRanges<'_>> {
        let chunk = self.chunk(id).filter(|chunk| chunk.is_away())?;
        let page = chunk.page.as_ref()?;
        let from = if unread { page.unread_from } else { 0 };
        let ranges = page.persistent.iter();
        Some(AwayRanges(ranges, from))
    }
}

/// Sequence numbers `from..to`, in order.
pub(crate) struct AwayRanges<'a>(std::slice::Iter<'a, (u64, u64)>, u64);

impl Iterator for AwayRanges<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let least = self.1;
        let mut ranges = self.0.by_ref().map(|(from, to)| ((*from).max(least), *to));
        ranges.find(|(from, to)| from < to)
    }
}

/// The bytes of a chunk: its own, or those of a copy that was read for somebody who looks at it.
pub(crate) struct PageOf<'a> {
    pub(super) data: &'a [u8],
    pub(super) blobs: &'a Blobs,
}

impl Chunk {
    /// Its bytes, or the copy's; the place they are at if they are not here.
    pub(super) fn bytes<'a>(
        &'a self,
        copy: Option<&'a LoadedPage>,
    ) -> Result<PageOf<'a>, RunPlace> {
        let Some(place) = self.place() else {
            let (data, blobs) = (&*self.data, &self.blobs);
            return Ok(PageOf { data, blobs });
        };
        let copy = copy.filter(|copy| copy.place == place).ok_or(place)?;
        let (data, blobs) = (&*copy.data, &copy.blobs);
        Ok(PageOf { data, blobs })
    }
}
