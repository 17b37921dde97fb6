//! One measured run of publishers and consumers against one server.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::connection::{Connection, QueueKind, text};
use crate::consumer::{self, Consumer};
use crate::floor::pipe;
use crate::message::{Address, Checker, Content, DeliveryShape, PublishBatch, consumer_tag};
use crate::process::{self, Cost, Meter};
use crate::progress::Progress;
use crate::publisher::{Pace, Publisher, Timetable};
use crate::wire::Argument;

/// Bytes of one write of a streaming publisher.
const WRITE_BYTES: usize = 128 * 1024;
/// Traffic before the measured window.
const WARM_UP: Duration = Duration::from_millis(500);
/// An open loop begins this long after the threads are started.
const TIMETABLE_DELAY: Duration = Duration::from_millis(50);

/// Who publishes what to whom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Bytes of a body, at least 16.
    pub body_bytes: usize,
    /// Independent groups, each with its own queues, publishers and consumers.
    pub groups: usize,
    /// Publishing connections of a group.
    pub publishers: usize,
    /// Queues of a group; each message goes to all of them.
    pub queues: usize,
    /// Consuming connections of a group, among which its queues are divided.
    pub connections: usize,
    /// Durable queue and delivery-mode 2.
    pub persistent: bool,
    /// Priorities that the messages have in turns; 0 for none.
    pub levels: u8,
    /// What the queues are declared with.
    pub arguments: &'static [Argument],
    /// Consumer prefetch; 0 is without acknowledgement.
    pub prefetch: u16,
    /// Deliveries per cumulative ack.
    pub ack_every: u64,
    /// Bytes of one publisher's write at most.
    pub write_bytes: usize,
    /// When messages are sent.
    pub pace: LoadPace,
}

/// [`Pace`] before the run has a start time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LoadPace {
    /// As fast as the server takes them.
    Stream,
    /// So many unconfirmed messages per publisher.
    Confirms(u64),
    /// So many undelivered messages per publisher.
    Deliveries(u64),
    /// Open loop, so many messages a second in all.
    Rate(u32),
}

impl Load {
    /// 16-byte streaming from one publisher through one queue to one consumer.
    pub const ONE_TO_ONE: Self = Self {
        body_bytes: 16,
        groups: 1,
        publishers: 1,
        queues: 1,
        connections: 1,
        persistent: false,
        levels: 0,
        arguments: &[],
        prefetch: 1000,
        ack_every: 100,
        write_bytes: WRITE_BYTES,
        pace: LoadPace::Stream,
    };

    /// The same with bodies of `bytes`.
    pub const fn body(mut self, bytes: usize) -> Self {
        self.body_bytes = bytes;
        self
    }

    /// The same with at most `window` unconfirmed messages.
    pub const fn confirmed(mut self, window: u64) -> Self {
        self.pace = LoadPace::Confirms(window);
        self
    }

    fn content(&self) -> Content {
        let content = if self.persistent {
            Content::persistent(self.body_bytes)
        } else {
            Content::transient(self.body_bytes)
        };
        content.levels(self.levels)
    }

    /// Whether the pipe floor, which knows neither routes nor confirms, can serve this.
    pub fn suits_pipe(&self) -> bool {
        let flows = self.groups * self.publishers * self.queues;
        flows == 1 && !self.persistent && !matches!(self.pace, LoadPace::Confirms(_))
    }

    fn copies(&self) -> u64 {
        self.queues as u64
    }

    /// Copies published but not delivered at most: bounds every broker's memory.
    fn outstanding(&self) -> u64 {
        let (copies_max, bytes_max) = if self.queues > 1 {
            (1_000_000, 256 << 20)
        } else {
            (200_000, 64 << 20)
        };
        copies_max.min(bytes_max / self.body_bytes as u64)
    }

    fn pace(&self, start: Instant) -> Pace {
        let outstanding = self.outstanding();
        match self.pace {
            LoadPace::Stream => Pace::Stream { outstanding },
            LoadPace::Confirms(window) => Pace::Confirms {
                window,
                outstanding,
            },
            LoadPace::Deliveries(window) => Pace::Deliveries { window },
            LoadPace::Rate(rate) => Pace::Timetable(Timetable { start, rate }),
        }
    }
}

/// What speaks at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// AMQP 0-9-1, handshake included.
    Amqp,
    /// Publish frames without a handshake, as the pipe floor and the sync floor take them.
    Pipe,
}

/// The server under load.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whose CPU and memory is measured.
    pub pid: u32,
    /// What it speaks.
    pub dialect: Dialect,
}

/// What a run measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Messages (copies) delivered in the window.
    pub messages: u64,
    /// Length of the window, and CPU in it.
    pub cost: Cost,
    /// Peak resident bytes of the server.
    pub peak_bytes: u64,
    /// Delivery latencies in µs, sorted; only of an open loop.
    pub latencies: Vec<u32>,
}

/// Runs `load` for `window` after a warm-up, checks every message, cleans up.
pub fn run(target: Target, load: &Load, window: Duration) -> Result<Measured, String> {
    run_with(target, load, || thread::sleep(WARM_UP), window)
}

/// As [`run`], with something else to do as the warm-up.
pub fn run_with(
    target: Target,
    load: &Load,
    warm_up: impl FnOnce(),
    window: Duration,
) -> Result<Measured, String> {
    process::reset_peak(target.pid);
    let name = unique_name();
    let outcome = run_named(target, load, &name, (warm_up, window));
    let deleted = delete_durable(target, load, &name);
    let mut measured = outcome?;
    deleted?;
    measured.peak_bytes = process::peak_resident(target.pid)?;
    if measured.messages == 0 {
        return Err("nothing was delivered in the measured window".into());
    }
    Ok(measured)
}

fn run_named(
    target: Target,
    load: &Load,
    name: &str,
    (warm_up, window): (impl FnOnce(), Duration),
) -> Result<Measured, String> {
    let setup = Setup::open(target, load, name)?;
    let start = Instant::now() + TIMETABLE_DELAY;
    let progress = Progress::default();
    let mut measured = Measured::default();
    let mut latencies = setup.run(load, load.pace(start), &progress, || {
        warm_up();
        let (meter, before) = (Meter::start(target.pid)?, progress.delivered());
        wait(window, &progress);
        measured.messages = progress.delivered() - before;
        measured.cost = meter.cost()?;
        Ok(())
    })?;
    latencies.sort_unstable();
    measured.latencies = latencies;
    Ok(measured)
}

fn wait(window: Duration, progress: &Progress) {
    let end = Instant::now() + window;
    while progress.failure().is_none() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// All connections of a run, ready to go.
struct Setup {
    consumers: Vec<Consumer>,
    publishers: Vec<Publisher>,
}

impl Setup {
    fn open(target: Target, load: &Load, name: &str) -> Result<Self, String> {
        let mut setup = Self {
            consumers: Vec::new(),
            publishers: Vec::new(),
        };
        for group in 0..load.groups {
            let address = address(name, group);
            for part in 0..load.connections {
                setup
                    .consumers
                    .push(open_consumer(target, load, &address, part)?);
            }
            for publisher in 0..load.publishers {
                let opened = open_publisher(target, load, &address, publisher)?;
                match load.pace {
                    LoadPace::Deliveries(_) => setup.consumers[group].set_echo(opened),
                    _ => setup.publishers.push(opened),
                }
            }
        }
        Ok(setup)
    }

    /// Runs all threads, `measure` beside them; drains, closes, returns the latencies.
    fn run(
        self,
        load: &Load,
        pace: Pace,
        progress: &Progress,
        measure: impl FnOnce() -> Result<(), String>,
    ) -> Result<Vec<u32>, String> {
        let Self {
            mut consumers,
            mut publishers,
        } = self;
        if let Pace::Timetable(timetable) = pace {
            let measure = |consumer: &mut Consumer| consumer.measure(timetable, WARM_UP);
            consumers.iter_mut().for_each(measure);
        }
        let copies = load.copies();
        let fail = |result: Result<(), String>| result.unwrap_or_else(|e| progress.fail(e));
        thread::scope(|scope| {
            let (consumers, fail) = (&mut consumers, &fail);
            scope.spawn(move || {
                let started = start_closed_loops(consumers, pace, progress);
                fail(started.and_then(|()| consumer::run(consumers, progress)));
            });
            let running: Vec<_> = publishers
                .iter_mut()
                .map(|one| scope.spawn(move || fail(one.run(pace, copies, progress))))
                .collect();
            fail(measure());
            progress.end_publishing();
            running.into_iter().for_each(|thread| drop(thread.join()));
            fail(progress.drain(copies));
            progress.end_consuming();
        });
        match progress.failure() {
            Some(failure) => Err(failure),
            None => close(consumers, publishers),
        }
    }
}

fn start_closed_loops(
    consumers: &mut [Consumer],
    pace: Pace,
    progress: &Progress,
) -> Result<(), String> {
    let Pace::Deliveries { window } = pace else {
        return Ok(());
    };
    let mut publishers = consumers.iter_mut().filter_map(Consumer::echo_mut);
    publishers.try_for_each(|publisher| publisher.publish(window, progress))
}

fn close(mut consumers: Vec<Consumer>, publishers: Vec<Publisher>) -> Result<Vec<u32>, String> {
    let latencies = consumers.iter_mut().flat_map(Consumer::latencies).collect();
    for publisher in publishers {
        publisher.close()?;
    }
    for consumer in consumers {
        consumer.close()?;
    }
    Ok(latencies)
}

fn open_consumer(
    target: Target,
    load: &Load,
    address: &Address,
    part: usize,
) -> Result<Consumer, String> {
    if target.dialect == Dialect::Pipe {
        let stream = pipe_socket(target.address, pipe::CONSUMER)?;
        let checker = Checker::new(DeliveryShape::echo(address, load.body_bytes), 1, 1);
        return Ok(Consumer::new(stream, Vec::new(), checker, load.ack_every));
    }
    let mut connection = Connection::open(target.address, 0)?;
    let kind = if load.persistent {
        QueueKind::Durable
    } else {
        QueueKind::Temporary
    };
    let exchange_kind = if load.queues > 1 { "fanout" } else { "direct" };
    connection.declare_exchange(&address.exchange, exchange_kind)?;
    connection.prefetch(load.prefetch)?;
    let share = load.queues / load.connections;
    for number in 0..share {
        let queue = queue_name(address, part * share + number);
        connection.declare_queue_with(&queue, kind, load.arguments)?;
        connection.bind(&queue, &address.exchange, &address.key)?;
        connection.consume(&queue, &consumer_tag(number), load.prefetch == 0)?;
    }
    let shape = DeliveryShape::deliver(address, load.content());
    let sequences = load.publishers * usize::from(load.levels.max(1));
    let checker = Checker::new(shape, share, sequences);
    let (stream, rest) = connection.into_parts();
    let ack_every = if load.prefetch == 0 {
        0
    } else {
        load.ack_every
    };
    Ok(Consumer::new(stream, rest, checker, ack_every))
}

fn open_publisher(
    target: Target,
    load: &Load,
    address: &Address,
    publisher: usize,
) -> Result<Publisher, String> {
    let batch = PublishBatch::new(address, publisher as u32, load.content(), load.write_bytes);
    if target.dialect == Dialect::Pipe {
        return Ok(Publisher::new(
            pipe_socket(target.address, pipe::PUBLISHER)?,
            batch,
            false,
        ));
    }
    let mut connection = Connection::open(target.address, 0)?;
    if matches!(load.pace, LoadPace::Confirms(_)) {
        connection.confirm()?;
    }
    Ok(Publisher::new(connection.into_parts().0, batch, true))
}

fn pipe_socket(address: SocketAddr, role: u8) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(address).map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    stream.write_all(&[role, 0]).map_err(text)?;
    Ok(stream)
}

/// Durable queues outlive their connections: delete them whatever happened before.
fn delete_durable(target: Target, load: &Load, name: &str) -> Result<(), String> {
    if !load.persistent {
        return Ok(());
    }
    let mut connection = Connection::open(target.address, 0)?;
    for group in 0..load.groups {
        for queue in 0..load.queues {
            connection.delete_queue(&queue_name(&address(name, group), queue))?;
        }
    }
    connection.close()
}

/// Exchange of a group: 8 bytes, as in the study the goals come from.
fn address(name: &str, group: usize) -> Address {
    let exchange = format!("{name}{group:02}");
    let key = format!("{exchange}-routing-key");
    Address { exchange, key }
}

fn queue_name(address: &Address, queue: usize) -> String {
    format!("{}-q{queue}", address.exchange)
}

/// Six characters no other run uses while it lasts.
fn unique_name() -> String {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    format!(
        "b{:05x}",
        (u64::from(std::process::id()) << 8 | run & 0xFF) & 0xF_FFFF
    )
}
