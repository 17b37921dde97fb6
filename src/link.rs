//! One socket: what is written to it, by whom, and when.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Buf as _;
use leveret_broker::{Broker, Connection, Effects, Handle, SharedOutlet, resume};
use leveret_session::{Flush, Pending};
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::clock::now_ms;

/// Parts of one vectored write; more gain nothing.
const PARTS_MAX: usize = 64;
/// What waits for room comes in between two rounds of a flush; a queue that holds more than a few
/// rounds must not keep the thread that happened to begin.
const ROUNDS_MAX: usize = 8;
/// For a client that has closed its connection to hang up.
const HANG_UP_PATIENCE: Duration = Duration::from_secs(5);
/// For what a client still sends when its connection has ended.
const LINGER: Duration = Duration::from_secs(1);

thread_local! {
    /// What a flush needs to pump those who waited for room; a flush never nests.
    static ROOM: RefCell<(Effects, Vec<Arc<Handle>>)> = RefCell::default();
}

/// A connection's socket, written to by its own writer and by whoever made the connection dirty.
pub(crate) struct Link {
    pub(crate) stream: TcpStream,
    pub(crate) broker: Arc<Broker>,
    outlet: OnceLock<SharedOutlet>,
    connection: OnceLock<Weak<Mutex<Connection>>>,
    wake: Notify,
    interrupt: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flushed {
    Everything,
    SocketFull,
    /// Somebody else's turn.
    EnoughForNow,
}

/// What one read has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// Bytes, and maybe there are more.
    Some,
    /// All bytes there were.
    All,
    /// The end of the stream.
    End,
}

/// Reads `stream` once into the spare room of `buffer`. A read that leaves room has drained the
/// socket, and the runtime is told so: the next wait then does not begin with a read in vain.
pub(crate) fn read(stream: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<Arrived> {
    let room = buffer.capacity() - buffer.len();
    let mut drained = false;
    let read = stream.try_io(Interest::READABLE, || {
        let bytes = rustix::io::read(stream, spare_capacity(buffer))?;
        drained = (1..room).contains(&bytes);
        if drained {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(bytes)
    });
    match read {
        _ if drained => Ok(Arrived::All),
        Ok(0) => Ok(Arrived::End),
        Ok(_) => Ok(Arrived::Some),
        Err(error) => Err(error),
    }
}

impl Link {
    pub(crate) fn new(broker: Arc<Broker>, stream: TcpStream) -> Self {
        Self {
            stream,
            broker,
            outlet: OnceLock::new(),
            connection: OnceLock::new(),
            wake: Notify::new(),
            interrupt: Notify::new(),
        }
    }

    /// Joins the socket with its connection and its outlet; before that nothing can be written.
    pub(crate) fn attach(&self, outlet: SharedOutlet, connection: Weak<Mutex<Connection>>) {
        let _ = self.outlet.set(outlet);
        let _ = self.connection.set(connection);
    }

    /// Waits until somebody wants the reader to take a turn.
    pub(crate) async fn interrupted(&self) {
        self.interrupt.notified().await;
    }

    /// Whether the client will send nothing more; bytes it sent before may wait to be read.
    pub(crate) async fn is_hung_up_on(&self) -> bool {
        let ready = timeout(Duration::ZERO, self.stream.ready(Interest::READABLE)).await;
        matches!(ready, Ok(Ok(ready)) if ready.is_read_closed())
    }

    /// Waits until a client that closed its connection hangs up, which is its to do: one that meets
    /// the end of the stream first may take that for a failure, and RabbitMQ never lets it.
    pub(crate) async fn await_hang_up(&self) {
        if timeout(HANG_UP_PATIENCE, self.drop_input()).await.is_err() {
            self.linger().await;
        }
    }

    /// Ends the stream to the client and drops what it still sends, for a bounded time: closing a
    /// socket with bytes unread resets it, and then the client may never see the last frames.
    pub(crate) async fn linger(&self) {
        if rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write).is_ok() {
            // A client that does not hang up either is not waited for.
            let _ = timeout(LINGER, self.drop_input()).await;
        }
    }

    /// Drops what the client sends until it hangs up.
    async fn drop_input(&self) {
        while self.stream.readable().await.is_ok() {
            match self.stream.try_read(&mut [0; 4096]) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            tokio::task::yield_now().await;
        }
    }

    /// Bytes not yet with the kernel.
    pub(crate) fn queued(&self) -> usize {
        self.outlet.get().map_or(0, |outlet| outlet.lock().queued())
    }

    /// The connection's writer: sleeps unless the socket was full or somebody woke it. It ends with
    /// its socket, or when it is aborted.
    pub(crate) async fn write(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            loop {
                match self.flush_now() {
                    Flushed::Everything => break,
                    Flushed::EnoughForNow => tokio::task::yield_now().await,
                    Flushed::SocketFull => {
                        if self.stream.writable().await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Writes until nothing is left or the socket is full, for a few rounds at most. An error shows
    /// itself to the reader.
    fn flush_now(&self) -> Flushed {
        let Some(outlet) = self.outlet.get() else {
            return Flushed::Everything;
        };
        for _ in 0..ROUNDS_MAX {
            let Some(mut pending) = outlet.lock().begin_flush() else {
                return Flushed::Everything;
            };
            let Ok(full) = self.write_some(&mut pending) else {
                outlet.lock().disconnect();
                return Flushed::Everything;
            };
            ROOM.with_borrow_mut(|(effects, starved)| {
                // What came in meanwhile is taken by the next round.
                outlet.lock().end_flush(pending, starved);
                if !starved.is_empty() {
                    self.broker.set_now(now_ms());
                    resume(starved, effects);
                    self.broker.submit(effects);
                    effects.wake();
                }
            });
            if full {
                return Flushed::SocketFull;
            }
        }
        Flushed::EnoughForNow
    }

    /// Writes what the socket takes; `true` when it is full.
    fn write_some(&self, pending: &mut Pending) -> io::Result<bool> {
        while !pending.is_done() {
            let mut parts = [IoSlice::new(&[]); PARTS_MAX];
            let count = pending.chunks_vectored(&mut parts);
            let written = if count == 1 {
                self.stream.try_write(&parts[0])
            } else {
                self.stream.try_write_vectored(&parts[..count])
            };
            match written {
                Ok(bytes) => pending.advance(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

impl Flush for Link {
    fn flush(&self) {
        if self.flush_now() != Flushed::Everything {
            self.wake.notify_one();
        }
    }

    fn wake(&self) {
        self.wake.notify_one();
    }

    fn interrupt(&self) {
        self.interrupt.notify_one();
    }

    fn proceed(&self) {
        let connection = self.connection.get().and_then(Weak::upgrade);
        if let Some(connection) = connection
            && let Some(mut connection) = connection.try_lock()
        {
            let turn = connection.receive(&[], now_ms());
            if !turn.ended && !turn.unfinished {
                return;
            }
        }
        // The reader is in a turn and may have passed by what calls for another, or has to act.
        self.interrupt();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net;

    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (net::TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    async fn read_soon(stream: &TcpStream, buffer: &mut Vec<u8>) -> Arrived {
        loop {
            stream.readable().await.unwrap();
            match read(stream, buffer) {
                // A new stream is taken for readable before anything has come.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                arrived => return arrived.unwrap(),
            }
        }
    }

    #[tokio::test]
    async fn after_all_was_read_the_next_wait_is_for_more() {
        let (mut client, server) = pair().await;
        let mut buffer = Vec::with_capacity(8);
        client.write_all(b"some").unwrap();
        assert_eq!(read_soon(&server, &mut buffer).await, Arrived::All);
        let waited = timeout(Duration::ZERO, server.readable()).await;
        assert!(waited.is_err(), "there is nothing to read");
        client.write_all(b" more").unwrap();
        assert_eq!(read_soon(&server, &mut buffer).await, Arrived::Some);
        assert_eq!(buffer, b"some mor");
        buffer.clear();
        assert_eq!(read_soon(&server, &mut buffer).await, Arrived::All);
        assert_eq!(buffer, b"e");
    }

    #[tokio::test]
    async fn the_end_that_came_with_the_last_bytes_is_found() {
        let (mut client, server) = pair().await;
        let mut buffer = Vec::with_capacity(8);
        client.write_all(b"last").unwrap();
        drop(client);
        assert_eq!(read_soon(&server, &mut buffer).await, Arrived::All);
        assert_eq!(read_soon(&server, &mut buffer).await, Arrived::End);
    }
}
