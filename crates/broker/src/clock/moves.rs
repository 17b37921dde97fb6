//! Chunks that the store's journal hands over to run files, so that it stays short.
//!
//! First they are synced, then recorded; until the store says so their places are kept, whatever
//! becomes of the queue.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use leveret_queue::MovableChunk;
use leveret_runs::{RunError, Runs};
use leveret_store::{Batch, LaneId, MovedChunk};
use rustc_hash::FxHashSet;

use crate::broker::Broker;

/// So many chunks are recorded at once.
const MOVES_MAX: usize = 256;

impl Broker {
    /// Hands over what makes the journal longer than it should be, as far as it is in run files;
    /// gives how many chunks that are. Waits for the disk, with nothing locked.
    ///
    /// # Errors
    /// A run file could not be synced: what is in it stays in the journal.
    pub fn move_chunks(&self) -> Result<usize, RunError> {
        let Some(runs) = self.pager.runs.get() else {
            return Ok(0);
        };
        self.pager.moved.free(&self.store.take_free_places());
        let mut chunks = self.movable_chunks();
        let synced = sync(runs, &mut chunks);
        let moved = self.record_moves(chunks);
        synced.map(|()| moved)
    }

    /// Chunks that hold what keeps the journal long and were not moved yet, oldest first.
    fn movable_chunks(&self) -> Vec<(LaneId, MovableChunk)> {
        let mut pinned: BTreeMap<LaneId, (u64, u64)> = BTreeMap::new();
        for (lane, from, to) in self.store.pinned() {
            let all = pinned.entry(lane).or_insert((from, to));
            *all = (all.0.min(from), all.1.max(to));
        }
        let (mut chunks, mut seen) = (Vec::new(), FxHashSet::default());
        let now = (self.runs_stats().written_bytes, self.store.durable());
        if pinned.is_empty() || *self.pager.searched.lock() == Some(now) {
            return chunks;
        }
        let queues = self.lanes_of_queues();
        for (lane, range) in pinned {
            let Some((_, cell, level)) = queues.get(&lane) else {
                continue;
            };
            cell.lock().queue.movable(*level, range, |chunk| {
                let place = chunk.spot.place();
                if !self.pager.moved.has(place) && seen.insert((place.run, place.offset)) {
                    chunks.push((lane, chunk));
                }
                match chunks.len() < MOVES_MAX {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            });
        }
        // What is not there now is not before something is written.
        *self.pager.searched.lock() = Some(now).filter(|_| chunks.is_empty());
        chunks
    }

    /// Records chunks that are on the disk. Their places are kept before anybody can rely on them.
    fn record_moves(&self, chunks: Vec<(LaneId, MovableChunk)>) -> usize {
        let count = chunks.len();
        let bytes = chunks
            .iter()
            .map(|(_, it)| Batch::moved_bytes(it.ranges.len()));
        let mut batch = Batch::new();
        if count == 0 || self.store.admit_change(&mut batch, bytes.sum()).is_err() {
            return 0;
        }
        for (lane, chunk) in chunks {
            let messages = chunk.ranges.iter().map(|(from, to)| to - from).sum::<u64>();
            let moved = MovedChunk {
                lane,
                place: chunk.spot.place(),
                messages: u32::try_from(messages).unwrap_or(u32::MAX),
                bytes: chunk.bytes,
                base_ms: chunk.base_ms,
                own_ms: chunk.own_ms,
            };
            batch.moved(moved, &chunk.ranges);
            self.pager.moved.keep(chunk.spot, None);
        }
        // A store that has stopped ends the broker.
        let submitted = self.store.submit(&mut batch);
        submitted.map_or(0, |_| count)
    }
}

/// Syncs the runs of these chunks; those of which that fails are left out.
fn sync(runs: &Runs, chunks: &mut Vec<(LaneId, MovableChunk)>) -> Result<(), RunError> {
    let mut synced: BTreeMap<u64, bool> = BTreeMap::new();
    let mut failure = Ok(());
    chunks.retain(|(_, chunk)| {
        let run = chunk.spot.place().run;
        *synced.entry(run).or_insert_with(|| {
            let result = runs.sync(run);
            let is_synced = result.is_ok();
            failure = failure.clone().and(result);
            is_synced
        })
    });
    failure
}
