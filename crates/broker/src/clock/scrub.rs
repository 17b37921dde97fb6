//! Chunks on the disk that nobody asks for: whether they are still what was written.
//!
//! What rots where nobody reads is found while there may be a backup that has it. A chunk is read
//! with nothing locked and nothing kept: if its place is given back meanwhile, what was found there
//! counts for nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use leveret_queue::{ColdCursor, PageRead};
use leveret_runs::RunError;

use crate::broker::Broker;
use crate::queue::cell::QueueCell;
use crate::queue::effects::Effects;
use crate::queue::pager::ScrubStats;
use crate::queue::pump::Pump;

/// So many queues without such chunks are passed at once.
const QUEUES_MAX: usize = 256;
/// What cannot be read is read again so often before it is given up.
const READS_MAX: u32 = 3;

/// One pass through all queues, and how far it is.
#[derive(Default)]
pub struct Scrub {
    /// The queues that were there when it began, the next one first.
    cells: VecDeque<Weak<QueueCell>>,
    cursor: ColdCursor,
    /// When it began, unix milliseconds.
    begun_ms: Option<u64>,
    bytes: Vec<u8>,
    effects: Effects,
}

/// What came of going on with a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubStep {
    /// So many bytes were read; there is more to do.
    Read(u64),
    /// It has ended; the next step begins another one.
    Ended,
}

impl Broker {
    /// Looks at the next chunk that is on the disk only. Waits for the disk, with nothing locked.
    pub fn scrub(&self, scrub: &mut Scrub) -> ScrubStep {
        if scrub.begun_ms.is_none() {
            scrub.begun_ms = Some(self.timer.now_ms());
            scrub.cells = self.cells_to_scrub();
        }
        for _ in 0..QUEUES_MAX {
            let Some(cell) = scrub.cells.front() else {
                self.end_scrub(scrub);
                return ScrubStep::Ended;
            };
            if let Some(cell) = cell.upgrade()
                && let Some(read) = next_cold(&cell, &mut scrub.cursor)
            {
                self.scrub_chunk((&cell, &read), scrub);
                return ScrubStep::Read(u64::from(read.place.len));
            }
            scrub.cells.pop_front();
            scrub.cursor = ColdCursor::default();
        }
        ScrubStep::Read(0)
    }

    /// What was found since the start.
    #[must_use]
    pub fn scrub_stats(&self) -> ScrubStats {
        *self.pager.scrubbed.lock()
    }

    fn cells_to_scrub(&self) -> VecDeque<Weak<QueueCell>> {
        let mut cells = VecDeque::new();
        if self.runs_stats().files > 0 {
            for vhost in self.vhosts() {
                let directory = vhost.directory.read();
                cells.extend(directory.queues().map(Arc::downgrade));
            }
        }
        cells
    }

    fn end_scrub(&self, scrub: &mut Scrub) {
        let now_ms = self.timer.now_ms();
        let mut scrubbed = self.pager.scrubbed.lock();
        scrubbed.passes += 1;
        scrubbed.ended_ms = Some(now_ms);
        scrubbed.took_ms = now_ms.saturating_sub(scrub.begun_ms.take().unwrap_or(now_ms));
    }

    fn scrub_chunk(&self, (cell, read): (&Arc<QueueCell>, &PageRead), scrub: &mut Scrub) {
        let Some(runs) = self.pager.runs.get() else {
            return;
        };
        let mut tries = 1;
        let checked = loop {
            match runs.check(read.place, &mut scrub.bytes) {
                Err(RunError::Failed(_) | RunError::Corrupt) if tries < READS_MAX => tries += 1,
                checked => break checked,
            }
        };
        let mut scrubbed = self.pager.scrubbed.lock();
        scrubbed.chunks += 1;
        scrubbed.bytes += u64::from(read.place.len);
        drop(scrubbed);
        if let Err(error) = checked {
            self.quarantine((cell, read), error, &mut scrub.effects);
        }
    }

    /// A chunk is bad: it is not served any more, as if somebody had asked for it.
    fn quarantine(
        &self,
        (cell, read): (&Arc<QueueCell>, &PageRead),
        error: RunError,
        effects: &mut Effects,
    ) {
        let mut state = cell.lock();
        if !cell.is_deleted() {
            self.put_page((cell, &mut state), read, Err(error), effects);
            cell.run(&mut state, &mut Pump::new(cell, effects));
        }
        drop(state);
        self.submit(effects);
        effects.wake();
    }
}

fn next_cold(cell: &QueueCell, cursor: &mut ColdCursor) -> Option<PageRead> {
    let state = cell.lock();
    let next = state.queue.next_cold(cursor);
    next.filter(|_| !cell.is_deleted())
}
