//! What the messages of one broker hold in memory: one account for all its queues.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The one size of buffer that is kept when it is given back, bytes.
pub const POOLED_BYTES: usize = 256 * 1024;
/// So many free ones are kept: 16 MiB.
const POOL_BUFFERS_MAX: usize = 64;

/// Counts the bytes that chunks and shared bodies of one broker hold, and lends what was given
/// back. Clones are the same account.
#[derive(Clone, Default)]
pub struct Memory(Arc<Account>);

#[derive(Default)]
struct Account {
    resident: AtomicU64,
    pool: Mutex<Vec<Vec<u8>>>,
}

impl Memory {
    /// Bytes that are held.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.0.resident.load(Ordering::Relaxed)
    }

    /// An empty buffer for so many bytes, which is counted until it is given back.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Vec<u8> {
        let pooled = (bytes == POOLED_BYTES).then(|| self.0.pool.lock().pop());
        let buffer = pooled
            .flatten()
            .unwrap_or_else(|| Vec::with_capacity(bytes));
        self.count(buffer.capacity());
        buffer
    }

    /// Takes a buffer back that [`Self::take`] gave.
    pub fn give_back(&self, mut buffer: Vec<u8>) {
        self.uncount(buffer.capacity());
        if buffer.capacity() == POOLED_BYTES {
            buffer.clear();
            let mut pool = self.0.pool.lock();
            if pool.len() < POOL_BUFFERS_MAX {
                pool.push(buffer);
            }
        }
    }

    /// A body to be shared, counted until nobody has it any more.
    #[must_use]
    pub fn share(&self, bytes: Vec<u8>) -> Arc<Blob> {
        self.count(bytes.capacity());
        let memory = self.clone();
        Arc::new(Blob { bytes, memory })
    }

    fn count(&self, bytes: usize) {
        self.0.resident.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn uncount(&self, bytes: usize) {
        self.0.resident.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Memory({} bytes)", self.resident_bytes())
    }
}

/// A body kept outside the chunks, shared by reference count.
#[derive(Debug)]
pub struct Blob {
    bytes: Vec<u8>,
    memory: Memory,
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        self.memory.uncount(self.bytes.capacity());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_once_and_apart_from_others() {
        let (memory, other) = (Memory::default(), Memory::default());
        let (buffer, same) = (memory.take(100), memory.clone());
        let blob = same.share(vec![0; 50]);
        let again = Arc::clone(&blob);
        assert!(memory.resident_bytes() >= 150);
        drop(blob);
        assert!(memory.resident_bytes() >= 150);
        drop(again);
        memory.give_back(buffer);
        assert_eq!((memory.resident_bytes(), other.resident_bytes()), (0, 0));
    }

    #[test]
    fn a_large_buffer_is_lent_again_by_the_same_account() {
        let (memory, other) = (Memory::default(), Memory::default());
        let mut buffer = memory.take(POOLED_BYTES);
        buffer.push(1);
        let at = buffer.as_ptr();
        memory.give_back(buffer);
        let (others, lent) = (other.take(POOLED_BYTES), memory.take(POOLED_BYTES));
        assert_ne!(others.as_ptr(), at);
        assert_eq!((lent.as_ptr(), lent.len()), (at, 0));
    }
}
