//! Where chunks are that were written out of memory: places in run files.
//!
//! A place is kept by [`Spot`]s; when the last is dropped, under whatever lock, the place is only
//! noted in [`Freed`], and whoever has the files gives it back to the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Bytes in a run file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunPlace {
    /// The run's number, never used again.
    pub run: u64,
    /// Where they begin.
    pub offset: u64,
    /// How many they are.
    pub len: u32,
    /// CRC32C of them.
    pub checksum: u32,
}

/// What of run files is free again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreedPart {
    /// These bytes of one that holds others.
    Bytes(RunPlace),
    /// All of it: nothing in it lives, and nothing more is written to it.
    Run(u64),
}

/// What of all run files is free again and has not been given back yet.
#[derive(Debug, Default)]
pub struct Freed {
    parts: Mutex<Vec<FreedPart>>,
    bytes: AtomicU64,
}

impl Freed {
    /// Takes out what came since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<FreedPart> {
        std::mem::take(&mut *self.parts.lock())
    }

    /// Bytes that nobody keeps are free as well: what a file has that is of no use any more.
    pub fn note(&self, place: RunPlace) {
        self.parts.lock().push(FreedPart::Bytes(place));
    }

    /// Whether anything waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.lock().is_empty()
    }

    /// Bytes of all places that were ever freed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A run file, while anything in it lives or is written to it.
#[derive(Debug)]
pub struct RunFile {
    number: u64,
    freed: Arc<Freed>,
}

impl RunFile {
    /// One with a number of its own.
    #[must_use]
    pub const fn new(number: u64, freed: Arc<Freed>) -> Self {
        Self { number, freed }
    }

    /// What places in it are known by; never used again.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        self.freed.parts.lock().push(FreedPart::Run(self.number));
    }
}

/// Keeps a place until it and all its clones are dropped.
#[derive(Clone, Debug)]
pub struct Spot(Arc<KeptPlace>);

#[derive(Debug)]
struct KeptPlace {
    place: RunPlace,
    run: Arc<RunFile>,
}

impl Spot {
    /// Keeps bytes of a run.
    #[must_use]
    pub fn new(run: Arc<RunFile>, place: RunPlace) -> Self {
        Self(Arc::new(KeptPlace { place, run }))
    }

    /// What is kept.
    #[must_use]
    pub fn place(&self) -> RunPlace {
        self.0.place
    }

    /// Whether somebody else keeps it as well.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Drop for KeptPlace {
    fn drop(&mut self) {
        let freed = &self.run.freed;
        let bytes = u64::from(self.place.len);
        freed.bytes.fetch_add(bytes, Ordering::Relaxed);
        // The last one of a run is followed by the run itself.
        if Arc::strong_count(&self.run) > 1 {
            freed.parts.lock().push(FreedPart::Bytes(self.place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_when_its_keeper_is_gone_and_a_run_with_its_last_place() {
        let freed = Arc::new(Freed::default());
        let run = Arc::new(RunFile::new(7, Arc::clone(&freed)));
        let place = |offset| RunPlace {
            run: run.number(),
            offset,
            len: 10,
            checksum: 1,
        };
        let (first, second) = (place(0), place(10));
        let spots = [first, second].map(|place| Spot::new(Arc::clone(&run), place));
        drop(run);
        assert!(freed.is_empty());
        let [one, other] = spots;
        let again = other.clone();
        assert!(again.is_shared() && !one.is_shared());
        drop(other);
        assert!(freed.is_empty());
        drop(again);
        assert_eq!(freed.take(), [FreedPart::Bytes(second)]);
        drop(one);
        assert_eq!(freed.take(), [FreedPart::Run(7)]);
        assert_eq!(freed.bytes(), 20);
    }
}
