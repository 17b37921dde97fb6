//! Chunks on the disk of which little lives, written anew without what is settled of them.
//!
//! What the store relies on is synced first, then recorded as moved; the place of before is kept
//! until the store says so. Everything else changes its place at once.

use std::sync::Arc;

use leveret_queue::{Compacted, PageRewrite};
use leveret_record::{RunPlace, Spot};
use leveret_runs::{RunError, Runs};
use leveret_store::{Batch, LaneId, MovedChunk};

use crate::broker::Broker;
use crate::queue::cell::QueueCell;

/// So much is read and written at once, about.
const REWRITE_BYTES: u64 = 1 << 20;

/// Chunks that are being written anew.
#[derive(Default)]
struct Rewrites {
    bytes: Vec<u8>,
    /// Those that are written, and where each ends.
    ends: Vec<usize>,
    chunks: Vec<(Arc<QueueCell>, PageRewrite)>,
    /// Bytes of the places of before, and how many they may be.
    before: u64,
    most: u64,
}

impl Rewrites {
    const fn has_room(&self) -> bool {
        self.before < self.most
    }
}

/// A chunk that was written anew, and how the store is to know it.
struct Rewritten {
    cell: Arc<QueueCell>,
    rewrite: PageRewrite,
    spot: Spot,
    lane: Option<LaneId>,
}

impl Broker {
    /// Writes some chunks anew of which little lives; `false` when there are none to be done now,
    /// or the store has no room to take note of them. Waits for the disk, with nothing locked.
    ///
    /// # Errors
    /// A run file could not be read, written or synced: they stay where they are.
    pub fn rewrite_chunks(&self) -> Result<bool, RunError> {
        let Some(runs) = self.pager.runs.get() else {
            return Ok(false);
        };
        self.leave_sparse_runs(runs);
        if self.pager.rewrites.len() == 0 {
            return Ok(false);
        }
        let most = runs.debt_max().saturating_sub(self.pager.moved.owed());
        let mut rewrites = Rewrites {
            most: most.min(REWRITE_BYTES),
            ..Rewrites::default()
        };
        self.begin_rewrites(&mut rewrites);
        if rewrites.before == 0 {
            return Ok(false);
        }
        self.finish_rewrites(runs, rewrites)
    }

    /// Bytes that are on the disk twice until the store needs the places of before no more.
    #[must_use]
    pub fn owed_bytes(&self) -> u64 {
        self.pager.moved.owed()
    }

    /// Has what is left in run files written anew of which less than half is kept: these go as a
    /// whole.
    fn leave_sparse_runs(&self, runs: &Runs) {
        let sparse = runs.take_sparse();
        if sparse.is_empty() {
            return;
        }
        for vhost in self.vhosts() {
            let cells: Vec<_> = vhost.directory.read().queues().cloned().collect();
            for cell in cells {
                let mut state = cell.lock();
                state.queue.leave_runs(&sparse);
                if state.queue.is_paged() && !cell.is_deleted() {
                    cell.page(&mut state);
                }
            }
        }
    }

    /// Takes chunks from each queue that stands in the line, once around.
    fn begin_rewrites(&self, rewrites: &mut Rewrites) {
        for _ in 0..self.pager.rewrites.len() {
            if !rewrites.has_room() {
                return;
            }
            let Some(cell) = self.pager.rewrites.pop() else {
                return;
            };
            while rewrites.has_room() && self.begin_rewrite(&cell, rewrites) {}
            let mut state = cell.lock();
            let wants_more = !cell.is_deleted() && state.queue.wants_rewrite();
            state.page_lines.rewrites = wants_more;
            if wants_more {
                self.pager.rewrites.put_back(&cell);
            }
        }
    }

    fn begin_rewrite(&self, cell: &Arc<QueueCell>, rewrites: &mut Rewrites) -> bool {
        let start = rewrites.bytes.len();
        let mut state = cell.lock();
        if cell.is_deleted() {
            return false;
        }
        let now_ms = self.timer.now_ms();
        let Some(mut rewrite) = state.queue.begin_rewrite(now_ms, &mut rewrites.bytes) else {
            return false;
        };
        drop(state);
        let place = rewrite.rewriting.place();
        rewrites.before += u64::from(place.len);
        // Who is served from what cannot be read hears of it; this does not.
        if rewrite.rewriting.is_to_be_read()
            && let Ok(page) = self.read_page(place)
        {
            rewrite.rewriting.compact(page, &mut rewrites.bytes);
        }
        if rewrites.bytes.len() > start {
            rewrites.ends.push(rewrites.bytes.len());
            rewrites.chunks.push((Arc::clone(cell), rewrite));
        } else {
            cell.lock().queue.rewritten(rewrite, None);
        }
        true
    }

    fn finish_rewrites(&self, runs: &Runs, rewrites: Rewrites) -> Result<bool, RunError> {
        if rewrites.chunks.is_empty() {
            return Ok(true);
        }
        let written = runs.rewrite(&rewrites.bytes, &rewrites.ends);
        let synced = written.and_then(|spots| {
            let run = spots.first().map(|spot| spot.place().run);
            let is_durable = |(cell, _): &(Arc<QueueCell>, _)| cell.lanes().next().is_some();
            match run.filter(|_| rewrites.chunks.iter().any(is_durable)) {
                Some(run) => runs.sync(run).map(|()| spots),
                None => Ok(spots),
            }
        });
        let spots = match synced {
            Ok(spots) => spots,
            Err(error) => {
                for (cell, rewrite) in rewrites.chunks {
                    cell.not_rewritten(&rewrite);
                }
                return Err(error);
            }
        };
        let chunks = rewrites.chunks.into_iter().zip(spots);
        let chunks = chunks.map(|((cell, rewrite), spot)| {
            let lane = cell.lane_of(rewrite.level);
            Rewritten {
                cell,
                rewrite,
                spot,
                lane,
            }
        });
        Ok(self.put_rewritten(chunks.collect()))
    }

    /// Tells the store first, then the queues; `false` when the store takes none.
    fn put_rewritten(&self, chunks: Vec<Rewritten>) -> bool {
        let is_recorded = self.record_rewrites(&chunks);
        for chunk in chunks {
            if chunk.lane.is_some() && !is_recorded {
                chunk.cell.not_rewritten(&chunk.rewrite);
                continue;
            }
            let mut state = chunk.cell.lock();
            if !chunk.cell.is_deleted() {
                state.queue.rewritten(chunk.rewrite, Some(chunk.spot));
                chunk.cell.page(&mut state);
            }
        }
        is_recorded
    }

    /// Records them as moved, with the messages that are left and no others: what is settled and
    /// not durably so stays with the place of before.
    fn record_rewrites(&self, chunks: &[Rewritten]) -> bool {
        let durable = |chunk: &&Rewritten| chunk.lane.is_some();
        let ranges = chunks
            .iter()
            .filter(durable)
            .filter_map(Rewritten::compacted);
        let bytes: usize = ranges.map(|it| Batch::moved_bytes(it.ranges.len())).sum();
        let mut batch = Batch::new();
        if bytes == 0 {
            return true;
        }
        if self.store.admit_change(&mut batch, bytes).is_err() {
            return false;
        }
        for chunk in chunks {
            let (Some(lane), Some(left)) = (chunk.lane, chunk.compacted()) else {
                continue;
            };
            if left.ranges.is_empty() {
                continue;
            }
            batch.moved(chunk.moved(lane, left), &left.ranges);
            let (before, place) = (chunk.before(), chunk.spot.place());
            self.pager.moved.owe(before, u64::from(place.len));
            self.pager.moved.keep(chunk.spot.clone(), None);
        }
        // A store that has stopped ends the broker.
        self.store.submit(&mut batch).is_ok()
    }
}

impl Rewritten {
    const fn compacted(&self) -> Option<&Compacted> {
        self.rewrite.rewriting.compacted()
    }

    fn before(&self) -> RunPlace {
        self.rewrite.rewriting.place()
    }

    fn moved(&self, lane: LaneId, left: &Compacted) -> MovedChunk {
        MovedChunk {
            lane,
            place: self.spot.place(),
            messages: left.messages,
            bytes: left.bytes,
            base_ms: self.rewrite.rewriting.base_ms,
            own_ms: self.rewrite.rewriting.own_ms,
        }
    }
}

impl QueueCell {
    fn not_rewritten(self: &Arc<Self>, rewrite: &PageRewrite) {
        let mut state = self.lock();
        if !self.is_deleted() {
            state.queue.not_rewritten(rewrite);
            self.page(&mut state);
        }
    }
}
