//! A disk for a queue that keeps little in memory: what it wants written and read is done at once,
//! late, in another order, or not at all.

use std::ops::ControlFlow;
use std::sync::Arc;

use leveret_queue::{LoadedPage, PageRead, PageWrite, PeekedMessage, Queue, Rank, Sink};
use leveret_record::{Memory, MemoryLimits};
use leveret_runs::sim::SimFiles;
use leveret_runs::{Runs, RunsConfig};

/// Above this the bound of a queue says how little stays in memory.
const PAGED_FROM: u8 = 128;

enum Begun {
    Write(PageWrite, Vec<u8>),
    Read(PageRead),
}

/// What is written and read for one queue.
pub(crate) struct Pages {
    pub(crate) memory: Memory,
    files: Arc<SimFiles>,
    runs: Runs,
    begun: Vec<Begun>,
}

impl Pages {
    pub(crate) fn new(bound: u8) -> Self {
        let limits = match bound.checked_sub(PAGED_FROM) {
            None => MemoryLimits::default(),
            Some(size) => MemoryLimits {
                chunk_bytes: 200 + usize::from(size % 8) * 150,
                lane_bytes: u64::from(size / 8) * 200,
                all_bytes: u64::MAX,
            },
        };
        let files = Arc::new(SimFiles::default());
        let config = RunsConfig {
            run_bytes: 4_000,
            free_min: 0,
        };
        Self {
            memory: Memory::new(limits),
            runs: Runs::new(Arc::clone(&files) as Arc<_>, config),
            files,
            begun: Vec::new(),
        }
    }

    /// Whether shared bodies may have been to the disk.
    pub(crate) fn have_written(&self) -> bool {
        self.runs.written_bytes() > 0
    }

    /// Begins with something, or ends something.
    pub(crate) fn step<C>(
        &mut self,
        queue: &mut Queue<C>,
        pick: usize,
        now_ms: u64,
        sink: &mut impl Sink<C>,
    ) {
        match pick % 8 {
            0..=2 => self.write(queue, now_ms),
            3 => self.read(queue, now_ms, true),
            4 => self.read(queue, now_ms, false),
            5 => self.files.fail_writes(pick & 8 != 0),
            _ if self.begun.is_empty() => queue.review_pages(),
            _ => {
                let begun = self.begun.remove((pick / 8) % self.begun.len());
                self.end(queue, begun, now_ms, sink);
            }
        }
        queue.end_paging();
        self.runs.give_back();
    }

    /// Has the head in memory.
    pub(crate) fn fetch_head<C>(
        &mut self,
        queue: &mut Queue<C>,
        now_ms: u64,
        sink: &mut impl Sink<C>,
    ) {
        while queue.waits_for_page() {
            self.read(queue, now_ms, true);
            if let Some(begun) = self.begun.pop() {
                self.end(queue, begun, now_ms, sink);
            }
        }
    }

    /// Looks at all that is ready, wherever it is.
    pub(crate) fn peek<C>(
        &self,
        queue: &Queue<C>,
        mut from: Rank,
        mut show: impl FnMut(&PeekedMessage<'_>),
    ) {
        let mut copy = None;
        while let Some(place) = queue.peek(from, copy.as_ref(), |one| {
            from = Rank {
                seq: one.rank.seq + 1,
                ..one.rank
            };
            show(one);
            ControlFlow::Continue(())
        }) {
            let mut bytes = Vec::new();
            let read = self.runs.read(place, &mut bytes);
            assert_eq!(read, Ok(()));
            copy = LoadedPage::decode(place, &bytes, &self.memory);
        }
    }

    fn write<C>(&mut self, queue: &mut Queue<C>, now_ms: u64) {
        let mut bytes = Vec::new();
        if let Some(write) = queue.begin_write(now_ms, &mut bytes) {
            self.begun.push(Begun::Write(write, bytes));
        }
    }

    fn read<C>(&mut self, queue: &mut Queue<C>, now_ms: u64, urgent: bool) {
        match queue.begin_read(now_ms, urgent) {
            Some(read) => self.begun.push(Begun::Read(read)),
            None => assert!(!urgent || !queue.waits_for_page(), "nobody reads the head"),
        }
    }

    fn end<C>(&mut self, queue: &mut Queue<C>, begun: Begun, now_ms: u64, sink: &mut impl Sink<C>) {
        match begun {
            Begun::Write(write, bytes) => {
                let spots = self.runs.write(&bytes, &[bytes.len()]).ok();
                queue.written(&write, spots.and_then(|mut spots| spots.pop()));
            }
            Begun::Read(read) => {
                let mut bytes = Vec::new();
                // What is not needed any more may be gone.
                if self.runs.read(read.place, &mut bytes).is_ok() {
                    let page = LoadedPage::decode(read.place, &bytes, &self.memory);
                    let page = page.expect("what was written is read");
                    queue.page_read(&read, page, now_ms, sink);
                } else {
                    assert_eq!(queue.page_lost(&read), None, "it is needed");
                }
            }
        }
    }

    /// Ends all that was begun, and all that is asked for.
    pub(crate) fn rest<C>(&mut self, queue: &mut Queue<C>, now_ms: u64, sink: &mut impl Sink<C>) {
        self.files.fail_writes(false);
        for _ in 0..10_000 {
            self.write(queue, now_ms);
            self.read(queue, now_ms, false);
            if self.begun.is_empty() {
                return;
            }
            for begun in std::mem::take(&mut self.begun) {
                self.end(queue, begun, now_ms, sink);
            }
            queue.run(now_ms, sink);
            queue.end_paging();
        }
        panic!("the disk does not come to rest");
    }

    /// Nothing is left of a queue that is empty.
    pub(crate) fn end_of_queue<C>(&self, queue: &Queue<C>) {
        assert_eq!(queue.resident_bytes(), 0);
        assert_eq!(queue.paged_out().chunks, 0);
        assert_eq!(self.memory.resident_bytes(), 0);
        self.runs.give_back();
        assert_eq!(self.runs.stats().live_bytes, 0);
        assert!(self.files.count() <= 1, "one run may be written still");
    }
}
