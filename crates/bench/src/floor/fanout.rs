//! `floor-fanout`: a batch of publishes is shared by all connections; each encodes its copies.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::floor::relay::{Publish, Template};

/// Encoded bytes written at once.
const WRITE_BYTES: usize = 64 * 1024;
/// Batches a connection may have waiting before its publisher waits.
const BATCHES_MAX: usize = 2;

/// The contents of consecutive publishes with one key.
pub struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    /// How many messages it holds.
    pub fn messages(&self) -> u64 {
        self.ends.len() as u64
    }
}

/// Copies the run of publishes with `key` that begins `input`; also returns the bytes used.
pub fn batch(key: &[u8], input: &[u8]) -> (Arc<Batch>, usize) {
    let mut batch = Batch {
        bytes: Vec::with_capacity(input.len()),
        ends: Vec::new(),
    };
    let mut at = 0;
    while let Some(publish) = Publish::read(&input[at..]).filter(|publish| publish.key == key) {
        batch.bytes.extend_from_slice(publish.content);
        batch.ends.push(batch.bytes.len());
        at += publish.bytes;
    }
    (Arc::new(batch), at)
}

/// A batch and the consumers that get a copy of each of its messages.
type Copies = (Arc<Batch>, Arc<[Template]>);

/// The copies on their way to one connection.
#[derive(Clone)]
pub struct Fanout(Arc<Inner>);

struct Inner {
    stream: Arc<TcpStream>,
    waiting: Mutex<VecDeque<Copies>>,
    filled: Notify,
    space: Notify,
}

impl Fanout {
    /// For `stream`; [`Self::write_copies`] must run beside it.
    pub fn new(stream: &Arc<TcpStream>) -> Self {
        let (stream, waiting) = (Arc::clone(stream), Mutex::default());
        Self(Arc::new(Inner {
            stream,
            waiting,
            filled: Notify::new(),
            space: Notify::new(),
        }))
    }

    /// Adds one copy of each message for each of `templates`.
    pub fn push(&self, batch: &Arc<Batch>, templates: &Arc<[Template]>) {
        self.lock()
            .push_back((Arc::clone(batch), Arc::clone(templates)));
        self.0.filled.notify_one();
    }

    /// Waits until few batches are waiting.
    pub async fn wait_for_space(&self) {
        loop {
            let space = self.0.space.notified();
            if self.lock().len() < BATCHES_MAX {
                return;
            }
            space.await;
        }
    }

    /// Encodes and writes until the socket ends.
    pub async fn write_copies(&self) {
        let mut out = Vec::with_capacity(WRITE_BYTES + 4096);
        let mut delivery_tag = 0;
        loop {
            self.0.filled.notified().await;
            while let Some((batch, templates)) = self.pop() {
                let mut start = 0;
                for &end in &batch.ends {
                    for template in templates.iter() {
                        delivery_tag += 1;
                        template.append(delivery_tag, &batch.bytes[start..end], &mut out);
                    }
                    start = end;
                    if out.len() >= WRITE_BYTES && self.write(&mut out).await.is_err() {
                        return;
                    }
                }
                if self.write(&mut out).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
    }

    fn pop(&self) -> Option<Copies> {
        let batch = self.lock().pop_front();
        self.0.space.notify_waiters();
        batch
    }

    async fn write(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let mut at = 0;
        while at < out.len() {
            match self.0.stream.try_write(&out[at..]) {
                Ok(count) => at += count,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    self.0.stream.writable().await?;
                }
                Err(e) => return Err(e),
            }
        }
        out.clear();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Copies>> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
