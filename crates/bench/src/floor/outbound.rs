//! Bytes on their way to one connection: appended under a short lock, written inline.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;
use tokio::sync::Notify;

/// More unwritten bytes than this make a publisher wait.
const CAP: usize = 128 * 1024;

/// The outbound side of a connection.
pub struct Outbound {
    stream: Arc<TcpStream>,
    inner: Mutex<Pending>,
    blocked: Notify,
    space: Notify,
}

/// What is not yet written.
#[derive(Default)]
pub struct Pending {
    /// Appended to by whoever has something to send.
    pub next: Vec<u8>,
    /// Last delivery tag given.
    pub delivery_tag: u64,
    current: Vec<u8>,
    written: usize,
    writing: bool,
}

impl Outbound {
    /// For `stream`; [`Self::write_when_blocked`] must run beside it.
    pub fn new(stream: Arc<TcpStream>) -> Self {
        let inner = Mutex::default();
        Self {
            stream,
            inner,
            blocked: Notify::new(),
            space: Notify::new(),
        }
    }

    /// Locks the unwritten bytes.
    pub fn lock(&self) -> MutexGuard<'_, Pending> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what the socket takes now; leaves the rest to [`Self::write_when_blocked`].
    pub fn flush(&self) {
        if self.write() {
            self.blocked.notify_one();
        }
    }

    /// Waits until less than the cap is unwritten.
    pub async fn wait_for_space(&self) {
        loop {
            let space = self.space.notified();
            if self.lock().next.len() <= CAP {
                return;
            }
            space.await;
        }
    }

    /// Writes on whenever the socket was full; ends when the socket does.
    pub async fn write_when_blocked(&self) {
        loop {
            self.blocked.notified().await;
            while self.write() {
                if self.stream.writable().await.is_err() {
                    return;
                }
            }
        }
    }

    /// Writes until all is written or the socket is full (true).
    fn write(&self) -> bool {
        while let Some((current, mut at)) = self.take() {
            let mut full = false;
            while at < current.len() && !full {
                match self.stream.try_write(&current[at..]) {
                    Ok(count) => at += count,
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => full = true,
                    Err(_) => at = current.len(), // the peer has gone; its reader ends the task
                }
            }
            let mut pending = self.lock();
            (pending.current, pending.written, pending.writing) = (current, at, false);
            if full {
                return true;
            }
        }
        false
    }

    fn take(&self) -> Option<(Vec<u8>, usize)> {
        let mut pending = self.lock();
        let pending = &mut *pending;
        if pending.writing {
            return None;
        }
        if pending.written == pending.current.len() {
            pending.current.clear();
            pending.written = 0;
            std::mem::swap(&mut pending.current, &mut pending.next);
            self.space.notify_waiters();
        }
        if pending.current.is_empty() {
            return None;
        }
        pending.writing = true;
        Some((std::mem::take(&mut pending.current), pending.written))
    }
}
