//! Chunks that come back from the disk, or do not.

use leveret_record::RunPlace;

use super::{DiskPage, LostChunk, PageJob, PageNeeds, PageState};
use crate::chunk::sparse::settle;
use crate::chunk::{Chunk, Chunks, LoadedPage};

impl Chunks {
    /// The next chunk that is to be read. With `urgent` one that somebody waits for, even if it is
    /// being read already.
    pub(crate) fn next_to_read(&self, needs: PageNeeds, urgent: bool) -> Option<u32> {
        let paging = self.paging.as_ref().filter(|it| it.out.chunks > 0)?;
        let is_wanted = |id: &u32| {
            self.chunk(*id).is_some_and(|chunk| {
                chunk.is_in(PageState::Away) || urgent && chunk.is_in(PageState::Loading)
            })
        };
        let head = match urgent {
            false => self.head_to_read(needs.head),
            true if needs.requeued.is_none() => 1,
            true => 0,
        };
        let first = self.head_chunk();
        let ahead = (0..head).map(|index| first.wrapping_add(index));
        let sweep = paging.sweep.filter(|_| !urgent);
        let needed = needs.dead.into_iter().chain(needs.requeued);
        needed.chain(ahead).chain(sweep).find(is_wanted)
    }

    /// How many chunks from the head's on are to be in memory: those of a quarter of the lane's
    /// share, so that what is read is not above what is kept when that shrinks a little. When
    /// memory is short only what is needed.
    fn head_to_read(&self, needs_head: bool) -> u32 {
        let (share, most) = (self.memory.lane_share(), self.memory.limits().lane_bytes);
        if share < most / 2 {
            self.head_chunks(0, u32::from(needs_head))
        } else {
            let ahead = self.head_chunks(share / 4, 1);
            // What is read makes the share smaller: no more than what then stays, or it would leave
            // at once, and be read again for ever.
            let first = self.head_chunk();
            let ids = (0..ahead).map(|index| first.wrapping_add(index));
            let away = ids.filter_map(|id| self.chunk(id).filter(|chunk| chunk.is_away()));
            let more = away.map(Chunk::extent).sum();
            ahead.min(self.head_chunks(self.memory.lane_share_beside(more) / 2, 1))
        }
    }

    /// Begins with a chunk that is to be read.
    pub(crate) fn begin_read(&mut self, id: u32) -> Option<(PageJob, RunPlace)> {
        let ticket = self.next_ticket();
        let chunk = self.chunk_mut(id).filter(|chunk| chunk.is_away())?;
        let place = chunk.place()?;
        let page = chunk.page.as_deref_mut()?;
        (page.state, page.ticket) = (PageState::Loading, ticket);
        Some((PageJob { chunk: id, ticket }, place))
    }

    /// A chunk was read; `None` if nobody wants it any more. Whoever read it first gives it: what
    /// is at a place never changes. Gives how many bytes were said to be ready in it and are not,
    /// and how many are and were not.
    pub(crate) fn loaded(&mut self, id: u32, mut loaded: LoadedPage) -> Option<(u64, u64)> {
        let page = self.page_at(id, loaded.place)?;
        page.state = PageState::Held;
        let mut settled = std::mem::take(&mut page.settled);
        settled.sort_unstable();
        settle(&mut loaded.data, &settled);
        let mut wrong = (0, 0);
        if std::mem::take(&mut page.estimated)
            && let Some(bytes) = loaded.filtered_bytes.filter(|_| page.unread > 0)
        {
            wrong = (page.unread_bytes, bytes);
            page.persistent_bytes = bytes;
        }
        self.is_back(id);
        self.forget_absent();
        let chunk = self.chunk_mut(id)?;
        chunk.data = std::mem::take(&mut loaded.data);
        chunk.blobs = std::mem::take(&mut loaded.blobs);
        chunk.bodies = loaded.bodies;
        self.resident += chunk.data.capacity();
        self.bodies += loaded.bodies;
        let paging = self.paging.get_or_insert_default();
        paging.squeezed = false;
        paging.held.push_back(id);
        Some(wrong)
    }

    /// What is known of a chunk that is at a place, and not in memory.
    fn page_at(&mut self, id: u32, place: RunPlace) -> Option<&mut DiskPage> {
        let chunk = self.chunk_mut(id).filter(|it| it.place() == Some(place))?;
        chunk.page.as_deref_mut()
    }

    /// A chunk could not be read, but may be later.
    pub(crate) fn not_read(&mut self, job: PageJob) {
        if let Some(page) = self.page_in(job, PageState::Loading) {
            page.state = PageState::Away;
        }
    }

    /// A chunk cannot be read: what is in it is not served any more. What was handed out of it may
    /// still be settled.
    pub(crate) fn lose(&mut self, id: u32, place: RunPlace) -> Option<LostChunk> {
        let page = self.page_at(id, place)?;
        let lost = LostChunk {
            unread: page.unread,
            unread_bytes: page.unread_bytes,
            seqs: page.seqs,
        };
        page.state = PageState::Lost;
        page.spot = None;
        self.is_back(id);
        if let Some(chunk) = self.chunk_mut(id) {
            chunk.live = chunk.live.saturating_sub(lost.unread);
            (chunk.read, chunk.left, chunk.own_ms) = (chunk.count, 0, u64::MAX);
        }
        Some(lost)
    }

    /// So many messages of a chunk that was lost are not in the queue any more, nor out.
    pub(crate) fn uncount(&mut self, id: u32, messages: u64) {
        let Some(chunk) = self.chunk_mut(id) else {
            return;
        };
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        chunk.live = chunk.live.saturating_sub(messages);
        if chunk.is_spent() {
            self.reclaim(id);
        }
    }

    /// Notes a chunk that is away and has to be looked through for what is past its own expiration.
    pub(in crate::chunk) fn note_sweep(&mut self, id: u32, now_ms: u64) {
        /// How often, milliseconds.
        const PAUSE_MS: u64 = 10_000;
        if let Some(paging) = self.paging.as_mut().filter(|it| it.sweep.is_none())
            && (now_ms >= paging.swept_ms.saturating_add(PAUSE_MS) || paging.swept_ms == 0)
        {
            (paging.sweep, paging.swept_ms) = (Some(id), now_ms);
        }
    }

    /// The same for what came back.
    pub(crate) fn note_sweep_of(&mut self, id: u32, now_ms: u64) {
        self.note_sweep(id, now_ms);
    }

    /// Whether a chunk that has come back was read to be looked through; another one may be now.
    pub(crate) fn end_sweep(&mut self, id: u32) -> bool {
        let Some(paging) = self.paging.as_mut().filter(|it| it.sweep == Some(id)) else {
            return false;
        };
        (paging.sweep, paging.swept_ms) = (None, 0);
        true
    }

    /// What was in the lane and past its own expiration was taken out of a chunk in memory: it need
    /// not be read for that again.
    pub(crate) fn was_looked_through(&mut self, id: u32, now_ms: u64) {
        if let Some(page) = self.chunk_mut(id).and_then(|it| it.page.as_deref_mut()) {
            page.looked_ms = now_ms;
        }
    }

    /// Something comes back to a chunk that may be past its own expiration.
    pub(crate) fn has_to_be_looked_through(&mut self, id: u32) {
        if let Some(page) = self.chunk_mut(id).and_then(|it| it.page.as_deref_mut()) {
            (page.looked_ms, page.own_ms) = (0, page.own_first_ms);
        }
    }
}
