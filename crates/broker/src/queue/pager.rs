//! Queues that have chunks to be written to the disk or read back, and where these are.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use leveret_queue::LostPage;
use leveret_runs::Runs;
use parking_lot::Mutex;

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

    /// Has the thread look at what there is.
    pub(crate) fn wake(&self) {
        if let Some(wake) = self.waker.get() {
            wake();
        }
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
}

/// What pages queues out and in; one for a broker.
#[derive(Default)]
pub(crate) struct Pager {
    pub(crate) runs: OnceLock<Runs>,
    pub(crate) writes: PageLine,
    pub(crate) reads: PageLine,
    pub(crate) lost: Mutex<Vec<LostMessages>>,
}

impl Pager {
    /// Calls these whenever a line is empty no more.
    pub(crate) fn wake_with(&self, writer: Waker, reader: Waker) {
        // There is one thread for each.
        let _ = self.writes.waker.set(writer);
        let _ = self.reads.waker.set(reader);
    }

    /// Whether what is over a queue's share of memory leaves it.
    pub(crate) fn makes_room(&self) -> bool {
        self.runs.get().is_some_and(|runs| !runs.is_stopped())
    }
}

impl QueueCell {
    /// Has chunks written and read that should be.
    #[inline(never)]
    pub(crate) fn page(self: &Arc<Self>, state: &mut QueueState) {
        if self.pager.runs.get().is_none() {
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
    }
}
