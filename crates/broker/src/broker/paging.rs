//! Chunks of queues, on their way to the disk and back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_queue::{LoadedPage, PageRead, PageWrite};
use leveret_record::RunPlace;
use leveret_runs::{RunError, Runs, RunsStats};

use crate::broker::Broker;
use crate::context::refusal::Refusal;
use crate::queue::cell::{QueueCell, QueueState};
use crate::queue::effects::Effects;
use crate::queue::pager::LostMessages;
use crate::queue::pump::Pump;

/// So much is written at once, about.
const WRITE_BYTES: usize = 1 << 20;
/// What cannot be read is read again so often before it is given up.
const READS_MAX: u32 = 3;

/// Chunks on their way to the disk; kept between writes for its memory.
#[derive(Default)]
pub struct PageOut {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    chunks: Vec<(Arc<QueueCell>, PageWrite)>,
}

/// What became of a chunk that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageLoad {
    /// Nobody does any more.
    Unneeded,
    /// It is there, or lost.
    Done,
    /// It cannot be read just now.
    NotNow,
}

/// Who waits for a chunk asks so often for it; each time whoever has the files has tried for a
/// while.
pub(crate) const LOADS_MAX: u32 = 3;

/// Why somebody gets no message although there is one.
pub(crate) fn unreadable(queue: &str) -> Refusal {
    Refusal::Limit(format!(
        "messages of queue '{queue}' cannot be read back from the disk at the moment"
    ))
}

/// A chunk on its way back.
pub struct PageIn {
    pub(crate) cell: Arc<QueueCell>,
    pub(crate) read: PageRead,
}

impl Broker {
    /// Has chunks that are too much for memory written to these files, from now on; where all is
    /// kept there, they are only read at the start.
    pub fn page_to(&self, runs: Runs) {
        let only_reads = self.config.queue_resident_bytes == 0;
        self.pager.only_reads.store(only_reads, Ordering::Relaxed);
        let set = self.pager.runs.set(runs);
        debug_assert!(set.is_ok(), "it has files");
    }

    /// From now on these files leave so many bytes of the disk free.
    pub fn leave_free(&self, bytes: u64) {
        if let Some(runs) = self.pager.runs.get() {
            runs.leave_free(bytes);
        }
    }

    /// Calls `writer` whenever there is something to write again, `reader` to read, and `mover` to
    /// rewrite.
    pub fn wake_pager_with(
        &self,
        writer: impl Fn() + Send + Sync + 'static,
        reader: impl Fn() + Send + Sync + 'static,
        mover: impl Fn() + Send + Sync + 'static,
    ) {
        let (writer, reader) = (Box::new(writer), Box::new(reader));
        self.pager.wake_with(writer, reader, Box::new(mover));
    }

    /// What there is on the disk beside the journal, and what was done there.
    #[must_use]
    pub fn runs_stats(&self) -> RunsStats {
        self.pager.runs.get().map(Runs::stats).unwrap_or_default()
    }

    /// Messages that could not be read back since the last call.
    #[must_use]
    pub fn take_lost(&self) -> Vec<LostMessages> {
        std::mem::take(&mut *self.pager.lost.lock())
    }

    /// Takes chunks that are to leave memory, about a mebibyte; `false` when there are none.
    pub fn begin_page_out(&self, out: &mut PageOut) -> bool {
        out.bytes.clear();
        out.ends.clear();
        while out.bytes.len() < WRITE_BYTES
            && let Some(cell) = self.pager.writes.pop()
        {
            let mut state = cell.lock();
            state.page_lines.writes = false;
            if cell.is_deleted() {
                continue;
            }
            let now_ms = self.timer.now_ms();
            if let Some(write) = state.queue.begin_write(now_ms, &mut out.bytes) {
                out.ends.push(out.bytes.len());
                out.chunks.push((Arc::clone(&cell), write));
            }
            cell.page(&mut state);
        }
        !out.chunks.is_empty()
    }

    /// Writes them, with nothing locked meanwhile.
    ///
    /// # Errors
    /// The disk has no space, or failed: they stay in memory, and are tried again after a while.
    pub fn finish_page_out(&self, out: &mut PageOut) -> Result<(), RunError> {
        let Some(runs) = self.pager.runs.get() else {
            return Ok(());
        };
        let written = runs.write(&out.bytes, &out.ends);
        let (mut spots, failure) = match written {
            Ok(spots) => (spots.into_iter(), Ok(())),
            Err(error) => (Vec::new().into_iter(), Err(error)),
        };
        for (cell, write) in out.chunks.drain(..) {
            let mut state = cell.lock();
            if !cell.is_deleted() {
                state.queue.written(&write, spots.next());
                cell.page(&mut state);
            }
        }
        if out.bytes.capacity() > 4 * WRITE_BYTES {
            out.bytes = Vec::new();
        }
        // Whoever hands over what was written waits while there are no files.
        if runs.stats().files <= 1 {
            self.pager.rewrites.wake();
        }
        failure
    }

    /// Gives back to the disk what is not needed any more; `false` when there was nothing.
    pub fn give_runs_back(&self) -> bool {
        self.pager.runs.get().is_some_and(Runs::give_back)
    }

    /// Takes a chunk that is to be read; `None` when there is none.
    pub fn begin_page_in(&self) -> Option<PageIn> {
        while let Some(cell) = self.pager.reads.pop() {
            let mut state = cell.lock();
            state.page_lines.reads = false;
            if cell.is_deleted() {
                continue;
            }
            let read = state.queue.begin_read(self.timer.now_ms(), false);
            cell.page(&mut state);
            drop(state);
            if let Some(read) = read {
                return Some(PageIn { cell, read });
            }
        }
        None
    }

    /// Reads a chunk, with nothing locked.
    pub(crate) fn read_page(&self, place: RunPlace) -> Result<LoadedPage, RunError> {
        let Some(runs) = self.pager.runs.get() else {
            return Err(RunError::Failed("there are no files".into()));
        };
        let mut buf = Vec::new();
        runs.read(place, &mut buf)?;
        let page = LoadedPage::decode(place, &buf, &self.memory);
        let page = match self.pager.moved.filter(place) {
            Some(filter) => page.and_then(|page| page.filtered(&filter)),
            None => page,
        };
        page.ok_or(RunError::Corrupt)
    }

    /// Puts a chunk back that was read, or what came of that; the caller runs the queue afterwards.
    pub(crate) fn put_page(
        &self,
        (cell, state): (&Arc<QueueCell>, &mut QueueState),
        read: &PageRead,
        page: Result<LoadedPage, RunError>,
        effects: &mut Effects,
    ) {
        let runs = self.pager.runs.get();
        match page {
            Ok(page) => {
                let mut pump = Pump::new(cell, effects);
                let now_ms = self.timer.now_ms();
                state.queue.page_read(read, page, now_ms, &mut pump);
            }
            Err(RunError::Busy(_) | RunError::NoSpace) => state.queue.page_not_read(read),
            Err(error) => {
                if let Some(page) = state.queue.page_lost(read) {
                    runs.into_iter().for_each(Runs::note_read_error);
                    self.pager.lost.lock().push(LostMessages {
                        vhost: Arc::clone(&cell.vhost),
                        queue: Arc::clone(&cell.name),
                        page,
                        reason: error.to_string(),
                        moved: self.pager.moved.has(read.place),
                    });
                    // It tells the log, whoever has read.
                    self.pager.reads.wake();
                }
            }
        }
    }

    /// The same, tried more than once.
    pub(crate) fn read_page_surely(&self, place: RunPlace) -> Result<LoadedPage, RunError> {
        let mut tries = 1;
        loop {
            match self.read_page(place) {
                Err(RunError::Failed(_) | RunError::Corrupt) if tries < READS_MAX => tries += 1,
                result => return result,
            }
        }
    }

    /// Reads what somebody waits for, aside. The caller runs the queue afterwards. Nothing is
    /// locked.
    pub(crate) fn load_now(&self, cell: &Arc<QueueCell>, effects: &mut Effects) -> PageLoad {
        let begin = || {
            let mut state = cell.lock();
            let begun = state.queue.begin_read(self.timer.now_ms(), true);
            begun.filter(|_| !cell.is_deleted())
        };
        let Some(read) = begin() else {
            return PageLoad::Unneeded;
        };
        let mut page = Err(RunError::Busy(String::new()));
        (self.config.aside)(&mut || page = self.read_page_surely(read.place));
        let loaded = match &page {
            Err(RunError::Busy(_) | RunError::NoSpace) => PageLoad::NotNow,
            _ => PageLoad::Done,
        };
        let mut state = cell.lock();
        if !cell.is_deleted() {
            self.put_page((cell, &mut state), &read, page, effects);
        }
        loaded
    }
}
