//! One connection's reader: bytes from the socket into the broker, a turn at a time.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use leveret_broker::{Broker, Connection, Origin, Pause, Turn};
use leveret_session::Flush;
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;

use crate::clock::{now_ms, wall_ms};
use crate::deference;
use crate::endings::{End, Endings};
use crate::link::{self, Arrived, Link};
use crate::throttle::{Attempt, CHECKS_CHECK, LoginWait, Throttle};

/// One read; large enough that the cost of a system call is spread over hundreds of messages.
const READ_BYTES: usize = 64 * 1024;
/// Read buffers kept by each thread for its next connection with something to read.
const SPARE_BUFFERS_MAX: usize = 16;
/// How often a connection that waits for the disk looks whether that has caught up.
const DISK_CHECK: Duration = Duration::from_millis(1);
/// How often a connection whose own replies pile up looks whether they are gone.
const CONGESTION_CHECK: Duration = Duration::from_millis(10);
/// How often a connection that waits for its turn to log in looks whether others left it theirs.
const TURN_CHECK: Duration = Duration::from_millis(100);
/// How often a connection that is not read looks whether the client has hung up.
const BLOCKED_CHECK: Duration = Duration::from_secs(1);
/// How often one that waits for room in a queue looks for that.
const ROOM_CHECK: Duration = Duration::from_millis(100);
/// Turns with small reads in a row before others are let run: a publish to very many queues is one,
/// and takes milliseconds.
const TURNS_MAX: u32 = 8;
/// A client that is not told why its login failed waits for so long before it sees the end, as with
/// RabbitMQ; so does one at most that is told and does not answer.
const SILENCE: Duration = Duration::from_secs(3);
/// For writing the last frames of a connection.
const FAREWELL: Duration = Duration::from_secs(3);
const GONE: &str = "its client has hung up";
const TOO_MANY_REFUSED: &str = "too many refused logins from its address";

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Times that bound a connection's beginning and end.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) handshake: Duration,
    pub(crate) close: Duration,
    pub(crate) login_failure_delay: Duration,
}

/// What all connections of the listeners share.
pub(crate) struct Gate {
    pub(crate) broker: Arc<Broker>,
    pub(crate) patience: RwLock<Patience>,
    pub(crate) throttle: Throttle,
    pub(crate) endings: Endings,
    /// Threads that may be busy with finding where messages go: half of them, so that however many
    /// connections ask for that, others are served.
    pub(crate) labour: Semaphore,
}

/// How many that are.
pub(crate) fn labour() -> Semaphore {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Semaphore::new((threads / 2).max(1))
}

/// When what a connection is at has to be over.
struct Deadlines {
    handshake: Instant,
    /// Of the client's answer, once the broker has sent `connection.close`.
    close: Option<Instant>,
    patience: Patience,
}

impl Deadlines {
    fn from_now(patience: Patience) -> Self {
        Self {
            handshake: Instant::now() + patience.handshake,
            close: None,
            patience,
        }
    }

    /// Waits until the connection has been too long at it; for ever while it does its work.
    fn passed(&mut self, connection: &Connection) -> impl Future<Output = End> + use<> {
        let closing = connection.is_closing();
        let deadline = if closing {
            let patience = match connection.login_refusal() {
                Some(_) => self.patience.close.min(SILENCE),
                None => self.patience.close,
            };
            let first = || Instant::now() + patience;
            Some(*self.close.get_or_insert_with(first))
        } else {
            (!connection.is_running()).then_some(self.handshake)
        };
        async move {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
            if closing {
                End::Cut("connection.close not answered")
            } else {
                End::HandshakeTimeout
            }
        }
    }
}

/// A connection that has just been accepted.
struct Accepted {
    link: Arc<Link>,
    connection: Arc<Mutex<Connection>>,
    address: IpAddr,
}

/// Joins a socket with a connection of the broker. Not a part of [`serve`], whose future would keep
/// room for all that is moved about here.
fn accept(gate: &Gate, stream: TcpStream) -> Option<Accepted> {
    let (client, server) = (stream.peer_addr().ok()?, stream.local_addr().ok()?);
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%client, %error, "cannot set TCP_NODELAY");
    }
    let origin = Origin {
        name: format!("{client} -> {server}"),
        loopback: client.ip().to_canonical().is_loopback(),
        connected_at_ms: wall_ms(),
    };
    debug!(connection = origin.name, "connection accepted");
    let broker = Arc::clone(&gate.broker);
    let link = Arc::new(Link::new(Arc::clone(&broker), stream));
    let flusher: Arc<dyn Flush> = Arc::clone(&link) as Arc<dyn Flush>;
    let connection = Connection::new(broker, origin, now_ms(), flusher);
    let outlet = Arc::clone(&connection.peer().outlet);
    let connection = Arc::new(Mutex::new(connection));
    link.attach(outlet, Arc::downgrade(&connection));
    Some(Accepted {
        link,
        connection,
        address: client.ip(),
    })
}

/// Serves one connection until it ends.
pub(crate) async fn serve(gate: Arc<Gate>, stream: TcpStream) {
    let Some(Accepted {
        link,
        connection,
        address,
    }) = accept(&gate, stream)
    else {
        return;
    };
    let writer = tokio::spawn(Arc::clone(&link).write());
    let turns = AtomicU32::new(0);
    // In a block, so that what comes after reading takes no room of its own in this future.
    let ended = {
        let reader = ConnectionReader {
            link: &link,
            connection: &connection,
            gate: &gate,
            address,
            in_turn: false,
            deadlines: Deadlines::from_now(*gate.patience.read()),
            buffer: Vec::new(),
            drained: false,
            turns: &turns,
        };
        let mut reading = pin!(reader.read());
        poll_fn(|context| {
            turns.store(0, Ordering::Relaxed);
            poll_caught(reading.as_mut(), context)
        })
        .await
    };
    if ended.is_ok() {
        farewell(&link).await;
    }
    gate.endings.ended(address, &connection.lock(), &ended);
    while connection.lock().disconnect_partly() {
        yield_now().await;
    }
    // It may be waiting for room in a socket that never has any.
    writer.abort();
    let _ = writer.await;
    match ended {
        Ok(End::Closed) => link.await_hang_up().await,
        Ok(End::HandshakeTimeout | End::Cut(_)) => link.linger().await,
        Err(_) => {}
    }
}

/// Polls a connection's reader. A panic in it, which the log tells of, is a fault of the broker:
/// it costs this one connection, which ends as if it was lost, and does not stay half alive.
fn poll_caught<T>(
    reading: Pin<&mut impl Future<Output = io::Result<T>>>,
    context: &mut Context<'_>,
) -> Poll<io::Result<T>> {
    catch_unwind(AssertUnwindSafe(|| reading.poll(context)))
        .unwrap_or_else(|_| Poll::Ready(Err(io::Error::other("internal error"))))
}

/// What a connection goes on with.
enum Input<'a> {
    /// Nothing of the client's.
    Nothing,
    /// What was read, which may be a login that is tried.
    Read(Option<Attempt<'a>>),
    /// There was nothing to read after all.
    Again,
    Ended(End),
}

/// Reads a connection.
struct ConnectionReader<'a> {
    link: &'a Link,
    connection: &'a Mutex<Connection>,
    gate: &'a Gate,
    /// The client's.
    address: IpAddr,
    /// Taking a turn to log in, of those that the address has.
    in_turn: bool,
    deadlines: Deadlines,
    /// What was read and not yet understood.
    buffer: Vec<u8>,
    /// Whether the last read found all there was.
    drained: bool,
    /// Turns since others could run.
    turns: &'a AtomicU32,
}

impl<'a> ConnectionReader<'a> {
    /// Reads until the connection ends; gives how.
    async fn read(mut self) -> io::Result<End> {
        let (mut unfinished, mut laborious) = (false, false);
        loop {
            if let Some(end) = self.wait_while_blocked().await {
                return Ok(end);
            }
            let next = if unfinished {
                Input::Read(None)
            } else {
                self.next().await?
            };
            let (input, attempt) = match next {
                Input::Again => continue,
                Input::Nothing => (&[][..], None),
                Input::Read(attempt) => (&*self.buffer, attempt),
                Input::Ended(end) => return Ok(end),
            };
            let leave = if laborious {
                self.gate.labour.acquire().await.ok()
            } else {
                None
            };
            let now = now_ms();
            let turn = self.connection.lock().receive(input, now);
            drop(leave);
            deference::has_read(turn.consumed, turn.messages, now);
            put_back(&mut self.buffer, turn.consumed);
            (unfinished, laborious) = (turn.unfinished, turn.laborious);
            self.settle_login(&turn, attempt).await;
            if turn.ended {
                return Ok(End::of(&turn));
            }
            if turn.pause_ms > 0 {
                sleep(Duration::from_millis(turn.pause_ms)).await;
            }
            if let Some(end) = self.wait_for_room(turn.persistent).await {
                return Ok(end);
            }
            self.let_others_run(unfinished).await;
        }
    }

    /// Reads take no part in the runtime's budget: a reader that always finds bytes would starve
    /// the others. One that has drained its socket is about to wait anyway, and a yield before that
    /// costs a thread with nothing else to do a system call; but more may come at once.
    async fn let_others_run(&self, unfinished: bool) {
        let turns = self.turns.fetch_add(1, Ordering::Relaxed) + 1;
        if unfinished || !self.drained || turns >= TURNS_MAX {
            yield_now().await;
        }
    }

    /// Waits until there is something to do, and reads it.
    async fn next(&mut self) -> io::Result<Input<'a>> {
        let passed = self.deadlines.passed(&self.connection.lock());
        tokio::select! {
            biased;
            () = self.link.interrupted() => return Ok(Input::Nothing),
            // Before the socket, which a client can keep readable.
            end = passed => return Ok(Input::Ended(end)),
            ready = self.link.stream.readable() => ready?,
        }
        let mut attempt = None;
        // Before anything is read, so that whoever waits holds no buffer, and after the wait for
        // the client: any number of connections may have been let in before one guess was wrong.
        if !self.in_turn && self.connection.lock().awaits_login() {
            let admitted = match self.wait_for_turn().await {
                Ok(admitted) => admitted,
                Err(instead) => return Ok(instead),
            };
            self.in_turn = admitted.is_in_turn();
            attempt = Some(admitted);
        }
        prepare(&mut self.buffer, self.connection.lock().frame_max());
        match link::read(&self.link.stream, &mut self.buffer) {
            Ok(Arrived::End) => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(arrived) => {
                self.drained = arrived == Arrived::All;
                Ok(Input::Read(attempt))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                put_back(&mut self.buffer, 0);
                Ok(Input::Again)
            }
            Err(error) => Err(self.lost(error)),
        }
    }

    /// Gives back the turn of a client that is gone before it has guessed anything.
    fn lost(&self, error: io::Error) -> io::Error {
        if self.in_turn {
            self.gate.throttle.accepted(self.address);
        }
        error
    }

    /// Waits while the client is blocked; gives how the connection ends meanwhile, if it does.
    async fn wait_while_blocked(&mut self) -> Option<End> {
        while self.connection.lock().is_blocked() {
            // There may be many, and what is there now waits for long.
            self.buffer.shrink_to_fit();
            let check = if self.connection.lock().waits_for_room() {
                ROOM_CHECK
            } else {
                BLOCKED_CHECK
            };
            tokio::select! {
                () = self.link.interrupted() => {
                    let turn = self.connection.lock().receive(&[], now_ms());
                    if turn.ended {
                        return Some(End::of(&turn));
                    }
                }
                () = sleep(check) => if self.link.is_hung_up_on().await {
                    // It is no more than the kernel holds.
                    self.connection.lock().hang_up();
                }
            }
            self.connection.lock().look_for_room(now_ms());
        }
        None
    }

    /// Waits until a login may be tried, for which addresses with too many refused ones take turns;
    /// gives what to go on with when that would be too late, or something else comes first.
    async fn wait_for_turn(&self) -> Result<Attempt<'a>, Input<'a>> {
        let (gate, deadline) = (self.gate, self.deadlines.handshake);
        let mut pause = CHECKS_CHECK;
        loop {
            let now = Instant::now();
            let next = match gate.throttle.admit(self.address, now) {
                Ok(attempt) => return Ok(attempt),
                Err(LoginWait::Turn(next)) => next.min(now + TURN_CHECK),
                Err(LoginWait::Checks) => {
                    pause = (pause * 2).min(TURN_CHECK);
                    now + pause
                }
            };
            if now >= deadline {
                return Err(Input::Ended(End::Cut(TOO_MANY_REFUSED)));
            }
            // Turns are for those who are still there.
            if self.link.is_hung_up_on().await {
                return Err(Input::Ended(End::Cut(GONE)));
            }
            tokio::select! {
                () = self.link.interrupted() => return Err(Input::Nothing),
                () = sleep_until(next.min(deadline)) => {}
            }
        }
    }

    /// Waits while the connection's own replies pile up, while the disk is behind with what it has
    /// published, or while a queue holds it; gives how the connection ends meanwhile, if it does.
    async fn wait_for_room(&self, persistent: bool) -> Option<End> {
        loop {
            let pause = self.connection.lock().pause(persistent, now_ms());
            match pause? {
                Pause::Replies => sleep(CONGESTION_CHECK).await,
                Pause::Disk => sleep(DISK_CHECK).await,
                Pause::Flow(ms) => tokio::select! {
                    () = self.link.interrupted() => {}
                    () = sleep(Duration::from_millis(ms)) => continue,
                },
            }
            // Answers may have waited for the disk only.
            let turn = self.connection.lock().receive(&[], now_ms());
            if turn.ended {
                return Some(End::of(&turn));
            }
        }
    }

    /// Lets a client wait for an answer that does not come, until it has waited for long enough or
    /// is gone.
    async fn keep_silent(&self) {
        let until = Instant::now() + SILENCE;
        while Instant::now() < until && !self.link.is_hung_up_on().await {
            tokio::select! {
                () = self.link.interrupted() => return,
                () = sleep_until(until.min(Instant::now() + BLOCKED_CHECK)) => {}
            }
        }
    }

    /// Counts what became of a login. Why one was refused is logged; the client is told only that
    /// it was, or not even that.
    async fn settle_login(&mut self, turn: &Turn, attempt: Option<Attempt<'_>>) {
        let (throttle, address) = (&self.gate.throttle, self.address);
        if turn.login_refused {
            throttle.refused(address, Instant::now());
            // Its turn is spent, even if it hangs up before it has answered the close.
            self.in_turn = false;
        }
        drop(attempt);
        if turn.login_refused {
            self.gate.endings.refused(address, &self.connection.lock());
            let delay = self.gate.patience.read().login_failure_delay;
            sleep(delay).await;
            self.link.flush();
        }
        if turn.silent {
            self.keep_silent().await;
        }
        if self.in_turn && self.connection.lock().is_running() {
            throttle.accepted(address);
            self.in_turn = false;
        }
    }
}

/// Makes room for the next read: behind what is left of the last one, for a whole frame at least.
fn prepare(buffer: &mut Vec<u8>, frame_max: u32) {
    if buffer.capacity() == 0 {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        *buffer = spare.unwrap_or_else(|| Vec::with_capacity(READ_BYTES));
    }
    if buffer.len() * 2 > buffer.capacity() {
        let largest = READ_BYTES + frame_max as usize;
        buffer.reserve(largest.saturating_sub(buffer.len()).max(1));
    }
}

/// Drops what was understood. A connection with nothing left over holds no buffer.
fn put_back(buffer: &mut Vec<u8>, consumed: usize) {
    buffer.drain(..consumed);
    if buffer.is_empty() {
        let spare = std::mem::take(buffer);
        if spare.capacity() == READ_BYTES {
            SPARE.with_borrow_mut(|spares| {
                if spares.len() < SPARE_BUFFERS_MAX {
                    spares.push(spare);
                }
            });
        }
    }
}

/// Writes the last frames, for a bounded time.
async fn farewell(link: &Link) {
    link.flush();
    let written = async {
        while link.queued() > 0 {
            sleep(CONGESTION_CHECK).await;
        }
    };
    if timeout(FAREWELL, written).await.is_err() {
        debug!("the last frames could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_a_connection_as_a_lost_one() {
        let mut reading = pin!(async {
            yield_now().await;
            assert!(std::hint::black_box(false), "a fault");
            io::Result::Ok(())
        });
        let ended = poll_fn(|context| poll_caught(reading.as_mut(), context)).await;
        assert_eq!(ended.unwrap_err().to_string(), "internal error");
    }
}
