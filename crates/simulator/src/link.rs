//! A simulated socket: what the broker writes, when, and what of it the client has read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bytes::{Buf as _, BufMut as _};
use leveret_broker::{Broker, Effects, Handle, SharedOutlet, resume};
use leveret_session::{Flush, Pending};
use parking_lot::Mutex;

/// One connection's socket, towards the client.
pub(crate) struct Link {
    broker: Weak<Broker>,
    outlet: OnceLock<SharedOutlet>,
    /// The connection's own writer is to flush.
    woken: AtomicBool,
    /// The connection's reader is to take a turn without bytes.
    interrupted: AtomicBool,
    socket: Mutex<Socket>,
    room: Mutex<(Effects, Vec<Arc<Handle>>)>,
}

#[derive(Default)]
struct Socket {
    /// Written and not yet read by the client.
    unread: Vec<u8>,
    capacity: usize,
    /// Everything written since somebody last asked: what the model hears.
    tapped: Vec<u8>,
    tapped_bytes: u64,
    /// The client has gone without a word: writes fail.
    broken: bool,
    /// The client has closed: what is written goes nowhere.
    void: bool,
}

impl Link {
    pub(crate) fn new(broker: &Arc<Broker>, capacity: usize) -> Self {
        let socket = Socket {
            capacity,
            ..Socket::default()
        };
        Self {
            broker: Arc::downgrade(broker),
            outlet: OnceLock::new(),
            woken: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
            socket: Mutex::new(socket),
            room: Mutex::default(),
        }
    }

    pub(crate) fn attach(&self, outlet: SharedOutlet) {
        let _ = self.outlet.set(outlet);
    }

    /// Bytes not yet in the socket.
    pub(crate) fn queued(&self) -> usize {
        self.outlet.get().map_or(0, |outlet| outlet.lock().queued())
    }

    /// Everything the connection was told or is about to be.
    pub(crate) fn told(&self) -> u64 {
        self.socket.lock().tapped_bytes + self.queued() as u64
    }

    /// What was written since the last call.
    pub(crate) fn tap(&self) -> Vec<u8> {
        std::mem::take(&mut self.socket.lock().tapped)
    }

    /// The client reads up to `bytes`.
    pub(crate) fn read(&self, bytes: usize) -> Vec<u8> {
        let mut socket = self.socket.lock();
        let end = bytes.min(socket.unread.len());
        socket.unread.drain(..end).collect()
    }

    pub(crate) fn has_unread(&self) -> bool {
        !self.socket.lock().unread.is_empty()
    }

    /// Whether the writer could do something now.
    pub(crate) fn wants_writer(&self) -> bool {
        let socket = self.socket.lock();
        let room = socket.unread.len() < socket.capacity;
        self.woken.load(Ordering::Relaxed) && (room || socket.broken || socket.void)
    }

    /// Whether nobody has promised to flush.
    pub(crate) fn is_idle(&self) -> bool {
        !self.woken.load(Ordering::Relaxed)
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    pub(crate) fn take_interrupt(&self) -> bool {
        self.interrupted.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.socket.lock().broken
    }

    /// The client is gone; with `reset` writes fail from now on, else they go nowhere.
    pub(crate) fn cut(&self, reset: bool) {
        let mut socket = self.socket.lock();
        socket.unread.clear();
        socket.broken |= reset;
        socket.void |= !reset;
    }

    /// The turn of the connection's own writer.
    pub(crate) fn write(&self) {
        self.woken.store(false, Ordering::Relaxed);
        self.flush();
    }

    /// Has the model hear what nobody will read any more.
    pub(crate) fn drain(&self) {
        let Some(outlet) = self.outlet.get() else {
            return;
        };
        let mut starved = Vec::new();
        loop {
            let Some(mut pending) = outlet.lock().begin_flush() else {
                return;
            };
            self.tap_all(&mut pending);
            outlet.lock().end_flush(pending, &mut starved);
        }
    }

    fn tap_all(&self, pending: &mut Pending) {
        let mut socket = self.socket.lock();
        socket.tapped_bytes += pending.remaining() as u64;
        socket.tapped.put(pending);
    }

    /// Writes until nothing is left (`false`) or the socket is full (`true`).
    fn flush_now(&self) -> bool {
        let Some(outlet) = self.outlet.get() else {
            return false;
        };
        loop {
            if self.is_broken() {
                self.drain();
                outlet.lock().disconnect();
                return false;
            }
            let Some(mut pending) = outlet.lock().begin_flush() else {
                return false;
            };
            let full = self.write_some(&mut pending);
            let (effects, starved) = &mut *self.room.lock();
            outlet.lock().end_flush(pending, starved);
            if !starved.is_empty() {
                resume(starved, effects);
                if let Some(broker) = self.broker.upgrade() {
                    broker.submit(effects);
                }
                effects.wake();
            }
            if full {
                return true;
            }
        }
    }

    fn write_some(&self, pending: &mut Pending) -> bool {
        let mut socket = self.socket.lock();
        while !pending.is_done() {
            let room = if socket.void {
                usize::MAX
            } else {
                socket.capacity.saturating_sub(socket.unread.len())
            };
            let bytes = pending.copy_to_bytes(pending.remaining().min(room));
            if bytes.is_empty() {
                return true;
            }
            socket.tapped_bytes += bytes.len() as u64;
            socket.tapped.extend_from_slice(&bytes);
            if !socket.void {
                socket.unread.extend_from_slice(&bytes);
            }
        }
        false
    }
}

impl Flush for Link {
    fn flush(&self) {
        if self.flush_now() {
            self.woken.store(true, Ordering::Relaxed);
        }
    }

    fn wake(&self) {
        self.woken.store(true, Ordering::Relaxed);
    }

    fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }
}
