//! Messages that are on the disk only: what a queue wants written and read, and what came of it.
//!
//! Whoever has the files asks [`Queue::wants_write`] and [`Queue::wants_read`] after each run of a
//! queue that [`Queue::is_paged`], takes the work with [`Queue::begin_write`] and
//! [`Queue::begin_read`], does it with nothing locked, and tells of it. Meanwhile everything may
//! happen to the queue.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use leveret_record::{RunPlace, Spot, Unacked};

use super::{Queue, Sink};
use crate::chunk::{AwayChunk, LoadedPage, MovableChunk, PageJob, PageNeeds, PagedOut, Rewriting};
use crate::limits::Death;
use crate::requeued::RequeuedRun;

/// A chunk that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageWrite {
    level: u8,
    job: PageJob,
}

/// A chunk that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRead {
    pub(super) level: u8,
    pub(super) job: PageJob,
    /// Where it is.
    pub place: RunPlace,
}

/// A chunk that is being written anew without what is settled of it.
#[derive(Debug)]
pub struct PageRewrite {
    /// Its level of priority.
    pub level: u8,
    /// How far that is.
    pub rewriting: Rewriting,
}

/// Messages that could not be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostPage {
    /// Their level of priority.
    pub level: u8,
    /// The first of their sequence numbers.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// How many were ready, or dead and not moved on.
    pub messages: u64,
}

impl<C> Queue<C> {
    /// Whether some of its messages are not in memory, or should not be: most queues need not look
    /// further.
    #[must_use]
    #[inline]
    pub const fn is_paged(&self) -> bool {
        self.lanes.is_paged()
    }

    /// What of it is on the disk only.
    #[must_use]
    pub fn paged_out(&self) -> PagedOut {
        let mut all = PagedOut::default();
        for (_, lane) in self.lanes.iter() {
            let one = lane.chunks.paged_out();
            all.chunks += one.chunks;
            all.messages += one.messages;
            all.bytes += one.bytes;
        }
        all
    }

    /// Has it look at what it may keep in memory although it does not grow.
    pub fn review_pages(&mut self) {
        for lane in self.lanes.iter_mut() {
            lane.chunks.review();
        }
        self.lanes.look_at_higher();
    }

    /// Whether a chunk is to leave memory.
    #[must_use]
    pub fn wants_write(&self, now_ms: u64) -> bool {
        self.next_to_write(now_ms).is_some()
    }

    fn next_to_write(&self, now_ms: u64) -> Option<(u8, u32)> {
        let mut lanes = self.lanes.iter().filter(|(_, it)| it.chunks.is_paged());
        lanes.find_map(|(level, lane)| {
            let needs = self.needs(level, now_ms);
            Some((level, lane.chunks.next_to_write(needs)?))
        })
    }

    /// Begins with a chunk that is to leave memory, and appends what is to be written to `out`;
    /// `None` when there is none. Those that were written before leave at once.
    pub fn begin_write(&mut self, now_ms: u64, out: &mut Vec<u8>) -> Option<PageWrite> {
        while let Some((level, chunk)) = self.next_to_write(now_ms) {
            if let Some(job) = self.lanes.at_mut(level).chunks.begin_write(chunk, out) {
                return Some(PageWrite { level, job });
            }
        }
        None
    }

    /// A chunk was written there, or could not be.
    pub fn written(&mut self, write: &PageWrite, spot: Option<Spot>) {
        let lane = self.lanes.at_mut(write.level);
        lane.chunks.written(write.job, spot);
    }

    /// Whether a chunk on the disk is to be written anew without what is settled of it.
    #[must_use]
    pub fn wants_rewrite(&self) -> bool {
        self.lanes
            .iter()
            .any(|(_, lane)| lane.chunks.wants_rewrite())
    }

    /// Has chunks rewritten that are in some run files, however much of them lives.
    pub fn leave_runs(&mut self, runs: &BTreeSet<u64>) {
        for lane in self.lanes.iter_mut() {
            lane.chunks.leave_runs(runs);
        }
        self.lanes.look_at_higher();
    }

    /// Begins with a chunk of which little lives; what is in memory of one is appended to `out`.
    pub fn begin_rewrite(&mut self, now_ms: u64, out: &mut Vec<u8>) -> Option<PageRewrite> {
        let lanes = self
            .lanes
            .iter()
            .filter(|(_, it)| it.chunks.wants_rewrite());
        let levels: Vec<u8> = lanes.map(|(level, _)| level).collect();
        levels.into_iter().find_map(|level| {
            let chunks = &mut self.lanes.at_mut(level).chunks;
            let rewriting = chunks.begin_rewrite(now_ms, out)?;
            Some(PageRewrite { level, rewriting })
        })
    }

    /// A chunk could not be rewritten now; it is tried again.
    pub fn not_rewritten(&mut self, rewrite: &PageRewrite) {
        let chunks = &mut self.lanes.at_mut(rewrite.level).chunks;
        chunks.look_at_sparse(rewrite.rewriting.chunk);
    }

    /// A chunk was rewritten there, or was not worth it: gives the place that it does not need any
    /// more.
    pub fn rewritten(&mut self, rewrite: PageRewrite, spot: Option<Spot>) -> Option<Spot> {
        let lane = self.lanes.at_mut(rewrite.level);
        lane.chunks.rewritten(rewrite.rewriting, spot)
    }

    /// Shows chunks of a level that are on the disk and have one of the messages `from..to`, as
    /// long as it is asked to go on.
    pub fn movable(
        &self,
        level: u8,
        range: (u64, u64),
        mut show: impl FnMut(MovableChunk) -> ControlFlow<()>,
    ) {
        self.lanes.at(level).chunks.movable(range, &mut show);
    }

    /// Appends a chunk that a restart has found on the disk; the caller runs the queue afterwards.
    pub fn restore_away(&mut self, level: u8, away: AwayChunk) {
        let level = self.lanes.level_of(level);
        let (messages, bytes) = (away.messages(), away.bytes);
        let lane = self.lanes.at_mut(level);
        lane.next_seq = lane.next_seq.max(away.end());
        lane.own_ms = lane.own_ms.min(away.own_ms);
        self.mortal |= away.own_ms != u64::MAX;
        self.stale = true;
        lane.chunks.append_away(away);
        self.lanes.look_at_higher();
        self.lanes.came(level, messages);
        self.ready += messages;
        self.ready_bytes += bytes;
    }

    /// Messages that a restart should have found on the disk are not there.
    pub const fn lose_restored(&mut self, messages: u64) {
        self.counters.lost += messages;
    }

    /// Whether a chunk is to be read.
    #[must_use]
    pub fn wants_read(&self, now_ms: u64) -> bool {
        self.next_to_read(now_ms, false).is_some()
    }

    fn next_to_read(&self, now_ms: u64, urgent: bool) -> Option<(u8, u32)> {
        let top = self.lanes.top();
        let mut lanes = self.lanes.iter().filter(|(_, it)| it.chunks.is_paged());
        lanes.find_map(|(level, lane)| {
            let mut needs = self.needs(level, now_ms);
            if urgent && level != top && needs.dead.is_none() {
                return None;
            }
            needs.head |= urgent;
            Some((level, lane.chunks.next_to_read(needs, urgent)?))
        })
    }

    /// Begins with a chunk that is to be read; with `urgent` with one that somebody waits for now,
    /// whoever else reads it already.
    pub fn begin_read(&mut self, now_ms: u64, urgent: bool) -> Option<PageRead> {
        let (level, chunk) = self.next_to_read(now_ms, urgent)?;
        let (job, place) = self.lanes.at_mut(level).chunks.begin_read(chunk)?;
        Some(PageRead { level, job, place })
    }

    /// A chunk was read; the caller runs the queue afterwards. `false` if it was not wanted any
    /// more.
    pub fn page_read(
        &mut self,
        read: &PageRead,
        page: LoadedPage,
        now_ms: u64,
        sink: &mut impl Sink<C>,
    ) -> bool {
        let lane = self.lanes.at_mut(read.level);
        let Some((less, more)) = lane.chunks.loaded(read.job.chunk, page) else {
            return false;
        };
        self.ready_bytes = self.ready_bytes - less + more;
        self.stale = true;
        if lane.chunks.end_sweep(read.job.chunk) {
            self.sweep_page(read, now_ms, sink);
        }
        true
    }

    /// A chunk could not be read now; it is tried again when it is asked for the next time.
    pub fn page_not_read(&mut self, read: &PageRead) {
        self.lanes.at_mut(read.level).chunks.not_read(read.job);
    }

    /// A chunk came back to have looked through for what is past its own expiration; that leads to
    /// the next one.
    fn sweep_page(&mut self, read: &PageRead, now_ms: u64, sink: &mut impl Sink<C>) {
        let PageRead { level, job, .. } = *read;
        let most = if self.settings.keeps_dead {
            self.expirable()
        } else {
            usize::MAX
        };
        if most == 0 {
            // When some of the dead are moved on the lane is looked through again.
            return;
        }
        let lane = self.lanes.at_mut(level);
        let expired = lane.sweep(now_ms, most);
        if expired.len() < most {
            lane.chunks.was_looked_through(job.chunk, now_ms);
        }
        for mut one in expired {
            one.level = level;
            self.uncount_ready(level, 1, u64::from(one.body_len));
            self.die(&one, Death::Expired, sink);
        }
    }

    /// A chunk cannot be read. What was in it is not in the queue any more, and nobody is told that
    /// it is settled: what a store remembers comes back at the next start. `None` if it is tried
    /// again, or not wanted any more.
    pub fn page_lost(&mut self, read: &PageRead) -> Option<LostPage> {
        let PageRead { level, job, place } = *read;
        if self.is_being_buried() {
            self.page_not_read(read);
            return None;
        }
        let lane = self.lanes.at_mut(level);
        let lost = lane.chunks.lose(job.chunk, place)?;
        let (mut messages, mut bytes) = (u64::from(lost.unread), lost.unread_bytes);
        let mut returned = 0;
        for run in lane.requeued.take_chunk(job.chunk) {
            returned += run.last - run.first + 1;
            bytes += run.bytes;
        }
        messages += returned;
        let dead = self.forget_dead(level, job.chunk);
        let chunks = &mut self.lanes.at_mut(level).chunks;
        chunks.uncount(job.chunk, returned + dead);
        self.uncount_ready(level, messages, bytes);
        self.counters.lost += messages + dead;
        self.stale = true;
        Some(LostPage {
            level,
            first: lost.seqs.0,
            last: lost.seqs.1,
            messages: messages + dead,
        })
    }

    /// Whether a delivery is of a chunk that could not be read back.
    pub(super) fn is_lost(&self, unacked: &Unacked) -> bool {
        let chunks = &self.lanes.at(unacked.level).chunks;
        chunks.is_paged() && chunks.is_lost(unacked.position.chunk)
    }

    /// Deliveries come back whose messages cannot be read any more.
    pub(super) fn lose_returned(&mut self, run: &RequeuedRun, level: u8) {
        let messages = run.last - run.first + 1;
        self.counters.lost += messages;
        let chunks = &mut self.lanes.at_mut(level).chunks;
        chunks.uncount(run.position.chunk, messages);
    }

    /// Whether there is a ready message to be served next, and it is not in memory.
    #[must_use]
    pub fn waits_for_page(&self) -> bool {
        let lane = self.lanes.at(self.lanes.top());
        lane.ready > 0 && lane.chunks.is_away(lane.head_chunk())
    }

    /// Which chunks of a level somebody waits for.
    fn needs(&self, level: u8, now_ms: u64) -> PageNeeds {
        let lane = self.lanes.at(level);
        let dead = self.first_dead(now_ms);
        let dead = dead.filter(|dead| dead.level == level);
        let due = |(wake_ms, _)| wake_ms <= now_ms;
        PageNeeds {
            requeued: lane.requeued.first().map(|run| run.position.chunk),
            dead: dead.map(|dead| dead.position.chunk),
            head: self.consumers.any_ready()
                || self.is_above_limit()
                || self.mortal && self.away_head_ms(level).is_some_and(due),
        }
    }

    /// When the head of a level that is not in memory may die, and when by its own expiration.
    pub(super) fn away_head_ms(&self, level: u8) -> Option<(u64, u64)> {
        let lane = self.lanes.at(level);
        let (base_ms, own_ms) = lane.chunks.away_times(lane.head_chunk())?;
        let ttl_ms = base_ms.saturating_add(self.settings.ttl_ms);
        Some((ttl_ms.min(own_ms), own_ms))
    }

    /// What is in memory again, and no more of it than it may be, needs no looking after.
    pub fn end_paging(&mut self) {
        for lane in self.lanes.iter_mut() {
            lane.chunks.end_paging();
        }
        self.lanes.look_at_higher();
    }
}
