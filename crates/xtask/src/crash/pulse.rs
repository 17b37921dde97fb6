//! Whether the machine went on: a broker that was not let run, or whose disk was not let write,
//! owes nothing for that time.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::kill::now_ms;

/// Between two beats; each of them takes one sync more.
const PAUSE: Duration = Duration::from_millis(20);

/// Beats on a thread of its own: sleeps, writes a byte, syncs, and notes when it was done.
pub(super) struct Pulse {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u64>>,
}

impl Pulse {
    /// With a file in this folder, so on the disk of the broker.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(super) fn begin(folder: &Path) -> Result<Self> {
        let file = File::create(folder.join("pulse"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut beats = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(PAUSE);
                if file
                    .write_all_at(b".", 0)
                    .and_then(|()| file.sync_all())
                    .is_ok()
                {
                    beats.push(now_ms());
                }
            }
            beats
        });
        Ok(Self { stop, thread })
    }

    /// When each beat was done, in milliseconds of Unix time, in order.
    ///
    /// # Errors
    /// Its thread has panicked.
    pub(super) fn end(self) -> Result<Vec<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the pulse has stopped")
    }
}
