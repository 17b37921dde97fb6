//! Bodies that several queues share, and the account of all bytes messages hold in memory.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

static RESIDENT: AtomicU64 = AtomicU64::new(0);

/// Bytes that chunks and blobs of all queues hold in memory.
#[must_use]
pub fn resident_bytes() -> u64 {
    RESIDENT.load(Ordering::Relaxed)
}

/// Adds to the account of resident bytes; called when a chunk is taken, never per message.
pub fn account_taken(bytes: usize) {
    RESIDENT.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// Subtracts from the account of resident bytes.
pub fn account_released(bytes: usize) {
    RESIDENT.fetch_sub(bytes as u64, Ordering::Relaxed);
}

/// A body kept outside the chunks, shared by reference count.
#[derive(Debug)]
pub struct Blob(Vec<u8>);

impl Blob {
    /// Takes over the body's bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        account_taken(bytes.capacity());
        Self(bytes)
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        account_released(self.0.capacity());
    }
}
