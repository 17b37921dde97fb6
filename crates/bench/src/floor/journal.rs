//! Group commit at its barest: swap what is staged, one write, one sync, confirm to whoever waits.
//!
//! No records, no checksums, no recovery; the same cadence as a journal that has them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::floor::outbound::Outbound;
use crate::wire::{BASIC_ACK, Method};

/// Bytes of the file, zeroed before anybody waits for it, and written over and over.
const FILE_BYTES: u64 = 64 << 20;
/// Writes begin and end at multiples of this.
const BLOCK: usize = 4096;

/// A file in which nothing is ever looked for.
pub struct Disk {
    file: File,
    at: u64,
}

impl Disk {
    /// Creates the file, full of zeros that are on the disk.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let zeros = vec![0; 1 << 20];
        for at in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    /// Writes `bytes`, filled up to whole blocks, and waits for the disk.
    pub fn write_and_sync(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        let len = bytes.len() as u64;
        if self.at + len > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.file.sync_data()?;
        self.at += len;
        Ok(())
    }
}

/// What connections stage, and the thread that writes it.
#[derive(Default)]
pub struct Journal {
    stage: Mutex<Stage>,
    work: Condvar,
}

#[derive(Default)]
struct Stage {
    bytes: Vec<u8>,
    waiting: Vec<(Arc<Outbound>, u64)>,
}

impl Journal {
    /// Writes to a new file at `path` from now on.
    pub fn start(path: &Path) -> io::Result<Arc<Self>> {
        let disk = Disk::create(path)?;
        let journal = Arc::new(Self::default());
        let writing = Arc::clone(&journal);
        thread::spawn(move || writing.run(disk));
        Ok(journal)
    }

    /// Stages `bytes` for the next write.
    pub fn append(&self, bytes: &[u8]) {
        self.lock().bytes.extend_from_slice(bytes);
    }

    /// Confirms all up to `tag` once what is staged now is on the disk.
    pub fn confirm(&self, outbound: &Arc<Outbound>, tag: u64) {
        self.lock().waiting.push((Arc::clone(outbound), tag));
        self.work.notify_one();
    }

    /// Ends with the first error: without confirms the run fails as well.
    fn run(&self, mut disk: Disk) {
        let mut taken = Stage::default();
        loop {
            let mut stage = self.lock();
            while stage.waiting.is_empty() {
                stage = self
                    .work
                    .wait(stage)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut *stage, &mut taken);
            drop(stage);
            if let Err(error) = disk.write_and_sync(&mut taken.bytes) {
                return eprintln!("journal-floor: {error}");
            }
            taken.bytes.clear();
            for (outbound, tag) in taken.waiting.drain(..) {
                let ack = Method::new(1, BASIC_ACK).u64(tag).u8(1).finish();
                outbound.lock().next.extend(ack);
                outbound.flush();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
