//! Chunks on the disk that nobody asks for.

use leveret_record::RunPlace;

use super::{PageJob, PageState};
use crate::chunk::Chunks;

impl Chunks {
    /// The first one that is on the disk only, of all or from an id on.
    pub(crate) fn next_cold(&self, from: Option<u32>) -> Option<(PageJob, RunPlace)> {
        self.paging.as_ref().filter(|it| it.out.chunks > 0)?;
        // Behind the oldest one it has gone.
        let ahead = from.map_or(0, |from| from.wrapping_sub(self.first).cast_signed());
        let start = u32::try_from(ahead).unwrap_or(0);
        let ids = (start..).map(|ahead| self.first.wrapping_add(ahead));
        let chunks = self.older.iter().skip(start as usize);
        chunks.zip(ids).find_map(|(chunk, id)| {
            let page = chunk.page.as_deref();
            let page = page.filter(|page| page.state == PageState::Away)?;
            let ticket = page.ticket;
            Some((PageJob { chunk: id, ticket }, page.spot.as_ref()?.place()))
        })
    }
}
