//! Queues that have chunks to be written to the disk or read back, and where these are.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use leveret_queue::{LostPage, PageFilter};
use leveret_record::{RunPlace, Spot};
use leveret_runs::Runs;
use leveret_store::Ticket;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::queue::cell::{QueueCell, QueueState};
use crate::queue::timer::Waker;

/// Messages that could not be read back, for the log.
#[derive(Clone, Debug)]
pub struct LostMessages {
    /// Where they were.
    pub vhost: Arc<str>,
    /// The queue they were in.
    pub queue: Arc<str>,
    /// Which ones.
    pub page: LostPage,
    /// What the disk says.
    pub reason: String,
    /// The journal has handed them over: no start brings them back.
    pub moved: bool,
}

/// Queues that wait for one thread.
#[derive(Default)]
pub(crate) struct PageLine {
    cells: Mutex<VecDeque<Arc<QueueCell>>>,
    waker: OnceLock<Waker>,
}

impl PageLine {
    /// At the end; each queue stands in it once at most ([`QueueState::page_lines`]).
    pub(crate) fn push(&self, cell: &Arc<QueueCell>) {
        let mut cells = self.cells.lock();
        cells.push_back(Arc::clone(cell));
        let is_first = cells.len() == 1;
        drop(cells);
        if is_first {
            self.wake();
        }
    }

    /// At the end as well, by the thread itself.
    pub(crate) fn put_back(&self, cell: &Arc<QueueCell>) {
        self.cells.lock().push_back(Arc::clone(cell));
    }

    /// Has the thread look at what there is.
    pub(crate) fn wake(&self) {
        if let Some(wake) = self.waker.get() {
            wake();
        }
    }

    /// How many queues stand in it.
    pub(crate) fn len(&self) -> usize {
        self.cells.lock().len()
    }

    pub(crate) fn pop(&self) -> Option<Arc<QueueCell>> {
        self.cells.lock().pop_front()
    }
}

/// Which lines a queue stands in.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageLines {
    pub(crate) writes: bool,
    pub(crate) reads: bool,
    pub(crate) rewrites: bool,
}

/// Places that the store relies on: they stay where they are.
#[derive(Default)]
pub(crate) struct MovedPlaces(Mutex<FxHashMap<(u64, u64), MovedPlace>>, AtomicU64);

struct MovedPlace {
    spot: Spot,
    /// Bytes that were written so that it can be given back.
    owed: u64,
    /// What of it was left at the start.
    filter: Option<Arc<PageFilter>>,
    /// The store does not need it any more.
    is_free: bool,
}

const fn key_of(place: RunPlace) -> (u64, u64) {
    (place.run, place.offset)
}

impl MovedPlaces {
    /// The store may rely on it from now on; `filter` is what of it was left at the start.
    pub(crate) fn keep(&self, spot: Spot, filter: Option<Arc<PageFilter>>) {
        let kept = MovedPlace {
            filter,
            is_free: false,
            owed: 0,
            spot,
        };
        self.0.lock().insert(key_of(kept.spot.place()), kept);
    }

    /// Whether the store may rely on it.
    pub(crate) fn has(&self, place: RunPlace) -> bool {
        self.0.lock().contains_key(&key_of(place))
    }

    /// What of it was left at the start; nothing of a place that came later.
    pub(crate) fn filter(&self, place: RunPlace) -> Option<Arc<PageFilter>> {
        self.0.lock().get(&key_of(place))?.filter.clone()
    }

    /// So many bytes were written so that it can be given back.
    pub(crate) fn owe(&self, place: RunPlace, bytes: u64) {
        if let Some(moved) = self.0.lock().get_mut(&key_of(place)) {
            moved.owed += bytes;
            self.1.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// How many bytes that are for places which were not given back.
    pub(crate) fn owed(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }

    /// The store does not need these any more. Whose queue still reads one needs its filter.
    pub(crate) fn free(&self, places: &[RunPlace]) {
        let mut all = self.0.lock();
        for place in places {
            if let Some(moved) = all.get_mut(&key_of(*place)) {
                moved.is_free = true;
                let owed = std::mem::take(&mut moved.owed);
                self.1.fetch_sub(owed, Ordering::Relaxed);
            }
        }
        all.retain(|_, moved| !moved.is_free || moved.filter.is_some() && moved.spot.is_shared());
    }
}

/// What was found, since the start, in chunks that nobody asks for. What is bad counts as any chunk
/// that cannot be read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStats {
    /// Passes through all of them that have ended.
    pub passes: u64,
    /// Chunks that were read.
    pub chunks: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// When the last pass ended, unix milliseconds.
    pub ended_ms: Option<u64>,
    /// How long that one took, milliseconds.
    pub took_ms: u64,
}

/// What pages queues out and in; one for a broker.
#[derive(Default)]
pub(crate) struct Pager {
    pub(crate) runs: OnceLock<Runs>,
    /// Queues keep all in memory: what there is is only read.
    pub(crate) only_reads: AtomicBool,
    pub(crate) moved: MovedPlaces,
    /// Bytes that had been written, and what was durable, when nothing was found to be handed over.
    pub(crate) searched: Mutex<Option<(u64, Ticket)>>,
    pub(crate) writes: PageLine,
    pub(crate) reads: PageLine,
    pub(crate) rewrites: PageLine,
    pub(crate) lost: Mutex<Vec<LostMessages>>,
    pub(crate) scrubbed: Mutex<ScrubStats>,
}

impl Pager {
    /// Calls these whenever a line is empty no more.
    pub(crate) fn wake_with(&self, writer: Waker, reader: Waker, mover: Waker) {
        // There is one thread for each.
        let _ = self.rewrites.waker.set(mover);
        let _ = self.writes.waker.set(writer);
        let _ = self.reads.waker.set(reader);
    }

    /// Whether what is over a queue's share of memory leaves it.
    pub(crate) fn makes_room(&self) -> bool {
        self.writes() && self.runs.get().is_some_and(|runs| !runs.is_stopped())
    }

    fn writes(&self) -> bool {
        self.runs.get().is_some() && !self.only_reads.load(Ordering::Relaxed)
    }
}

impl QueueCell {
    /// Has chunks written and read that should be.
    #[inline(never)]
    pub(crate) fn page(self: &Arc<Self>, state: &mut QueueState) {
        if !self.pager.writes() {
            return;
        }
        state.queue.end_paging();
        let now_ms = self.timer.now_ms();
        if !state.page_lines.writes && state.queue.wants_write(now_ms) {
            state.page_lines.writes = true;
            self.pager.writes.push(self);
        }
        if !state.page_lines.reads && state.queue.wants_read(now_ms) {
            state.page_lines.reads = true;
            self.pager.reads.push(self);
        }
        if !state.page_lines.rewrites && state.queue.wants_rewrite() {
            state.page_lines.rewrites = true;
            self.pager.rewrites.push(self);
        }
    }
}
