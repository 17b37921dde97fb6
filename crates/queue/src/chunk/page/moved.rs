//! Chunks that a store has handed over to where they are on the disk: what it has to know of them
//! for that, and how they come back after a restart.

use std::ops::ControlFlow;

use leveret_record::Spot;

use super::{DiskPage, PageState};
use crate::chunk::{Chunk, Chunks};

/// A chunk that is on the disk, and may be as all there is of its persistent messages.
#[derive(Clone, Debug)]
pub struct MovableChunk {
    /// Where it is; what is kept stays there.
    pub spot: Spot,
    /// Sequence numbers `from..to` of its persistent messages, in order; some may be settled.
    pub ranges: Vec<(u64, u64)>,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// None of them was taken before this, unix milliseconds.
    pub base_ms: u64,
    /// None of them dies by its own expiration before this, unix milliseconds.
    pub own_ms: u64,
}

/// A chunk that is on the disk only after a restart.
#[derive(Clone, Debug)]
pub struct AwayChunk {
    /// Where it is.
    pub spot: Spot,
    /// Sequence numbers `from..to` of what lives of it, in order: all of it persistent.
    pub ranges: Vec<(u64, u64)>,
    /// How many messages the place has.
    pub all: u32,
    /// Bytes of these bodies, about.
    pub bytes: u64,
    /// As in [`MovableChunk`].
    pub base_ms: u64,
    /// As in [`MovableChunk`].
    pub own_ms: u64,
}

impl AwayChunk {
    /// How many messages live.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.ranges.iter().map(|(from, to)| to - from).sum()
    }

    /// One more than the number of the last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |(_, to)| *to)
    }
}

impl Chunks {
    /// Shows chunks on the disk that have one of the messages `from..to`, as long as it is asked to
    /// go on.
    pub(crate) fn movable(
        &self,
        (from, to): (u64, u64),
        show: &mut impl FnMut(MovableChunk) -> ControlFlow<()>,
    ) {
        for chunk in &self.older {
            let Some(page) = chunk.page.as_ref().filter(|page| !page.rewritten) else {
                continue;
            };
            let Some(spot) = &page.spot else { continue };
            let has_one = page.persistent.iter().any(|it| it.0 < to && from < it.1);
            if !has_one {
                continue;
            }
            let movable = MovableChunk {
                spot: spot.clone(),
                ranges: page.persistent.to_vec(),
                bytes: page.persistent_bytes,
                base_ms: chunk.base_ms,
                own_ms: page.own_first_ms,
            };
            if show(movable).is_break() {
                return;
            }
        }
    }

    /// Appends a chunk that is on the disk only, and that nobody has read yet.
    pub(crate) fn append_away(&mut self, away: AwayChunk) {
        if self.tail.count > 0 {
            self.grow(0, 0);
        }
        let messages = u32::try_from(away.messages()).unwrap_or(u32::MAX);
        let first = away.ranges.first().map_or(0, |(from, _)| *from);
        let mut page = DiskPage::new();
        page.state = PageState::Away;
        page.seqs = (first, away.end().saturating_sub(1));
        (page.unread_from, page.unread) = (first, messages);
        (page.unread_bytes, page.persistent_bytes) = (away.bytes, away.bytes);
        page.estimated = true;
        (page.own_ms, page.own_first_ms) = (away.own_ms, away.own_ms);
        let len = u64::from(away.spot.place().len);
        page.extent = len;
        page.kept = away.all.max(messages);
        page.live_bytes = len * u64::from(messages) / u64::from(page.kept.max(1));
        page.persistent = away.ranges.into();
        page.spot = Some(away.spot);
        self.older.push_back(Chunk {
            page: Some(Box::new(page)),
            count: messages,
            live: messages,
            base_ms: away.base_ms,
            own_ms: away.own_ms,
            ..Chunk::default()
        });
        if self.paging.is_none() {
            self.begin_paging();
        }
        let paging = self.paging.get_or_insert_default();
        paging.out.chunks += 1;
        paging.out.messages += u64::from(messages);
        paging.out.bytes += away.bytes;
        self.look_at_sparse(self.tail_id().wrapping_sub(1));
    }
}
