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

/// How much of their messages queues keep in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Most bytes of one chunk, unless it has one message.
    pub chunk_bytes: usize,
    /// What one lane keeps while there is plenty; the rest is written to the disk.
    pub lane_bytes: u64,
    /// What all of them keep together: the nearer they are to it, the less each does.
    pub all_bytes: u64,
}

impl Default for MemoryLimits {
    /// Nothing is written to the disk.
    fn default() -> Self {
        Self {
            chunk_bytes: POOLED_BYTES,
            lane_bytes: u64::MAX,
            all_bytes: u64::MAX,
        }
    }
}

/// Counts the bytes that chunks and shared bodies of one broker hold, and lends what was given
/// back. Clones are the same account.
#[derive(Clone, Default)]
pub struct Memory(Arc<Account>);

#[derive(Default)]
struct Account {
    resident: AtomicU64,
    limits: MemoryLimits,
    pool: Mutex<Vec<Vec<u8>>>,
}

impl Memory {
    /// An account with limits.
    #[must_use]
    pub fn new(limits: MemoryLimits) -> Self {
        Self(Arc::new(Account {
            limits,
            ..Account::default()
        }))
    }

    /// How much there may be.
    #[must_use]
    pub fn limits(&self) -> &MemoryLimits {
        &self.0.limits
    }

    /// What a lane may keep in memory at present: less and less from half of what all may keep
    /// on, and nothing beyond three quarters.
    #[must_use]
    pub fn lane_share(&self) -> u64 {
        self.lane_share_beside(0)
    }

    /// The same when so many bytes more are held.
    #[must_use]
    pub fn lane_share_beside(&self, bytes: u64) -> u64 {
        let MemoryLimits {
            lane_bytes,
            all_bytes,
            ..
        } = self.0.limits;
        let (from, to) = (all_bytes / 2, all_bytes / 4 * 3);
        let free = to.saturating_sub(self.resident_bytes().saturating_add(bytes));
        let most = (to - from).max(1);
        if free >= most {
            return lane_bytes;
        }
        let part = u128::from(lane_bytes) * u128::from(free) / u128::from(most);
        u64::try_from(part).unwrap_or(lane_bytes)
    }

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
    fn the_share_of_a_lane_shrinks_to_nothing_before_all_is_taken() {
        let memory = Memory::new(MemoryLimits {
            lane_bytes: 1000,
            all_bytes: 4000,
            ..MemoryLimits::default()
        });
        let mut shares = Vec::new();
        let mut held = Vec::new();
        for _ in 0..7 {
            shares.push(memory.lane_share());
            held.push(memory.share(vec![0; 500]));
        }
        assert_eq!(shares, [1000, 1000, 1000, 1000, 1000, 500, 0]);
        assert_eq!(Memory::default().lane_share(), u64::MAX);
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
