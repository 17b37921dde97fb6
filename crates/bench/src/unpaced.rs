//! A generator that publishes whenever it can, in the thread that also consumes: nothing holds it
//! back but the broker.
//!
//! What its consumers get is compared with what they get from the same generator when it publishes
//! only what they can take: a broker that takes everything in and hands little out piles it up.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use crate::connection::{Connection, QueueKind, text};
use crate::consumer::{Consumer, READ_BYTES};
use crate::message::{Address, Checker, Content, DeliveryShape, PublishBatch, consumer_tag};
use crate::process::{self, Cost, Meter};
use crate::progress::Progress;
use crate::publisher::READ_PAUSE;
use crate::scenario::{Sample, megabytes};
use crate::traffic::Target;

const PREFETCH: u16 = 1000;
/// What a client library writes at once.
const WRITE_BYTES: usize = 16 * 1024;
/// Writes of a publisher before others get their turn, unless its socket is full before: a fiber
/// goes on until it has to wait.
const WRITES_OF_TURN: usize = 64;
/// Traffic before the measured window.
const WARM_UP: Duration = Duration::from_millis(300);
/// Messages that are not delivered yet, at most, of a generator that follows its consumers.
const FOLLOWS: u64 = 10_000;

/// Who publishes to, and who consumes from one queue.
#[derive(Clone, Copy, Debug)]
pub struct Unpaced {
    /// Publishing connections.
    pub publishers: usize,
    /// Consuming connections.
    pub consumers: usize,
    /// At least 16.
    pub body_bytes: usize,
    /// Deliveries for each cumulative ack.
    pub ack_every: u64,
}

/// What was measured in one window.
struct Window {
    published: u64,
    delivered: u64,
    cost: Cost,
}

impl Window {
    fn delivered_per_s(&self) -> f64 {
        self.delivered as f64 / self.cost.seconds
    }
}

/// One window each with a generator that follows its consumers, and with one that does not. A
/// "message" is a delivery in the latter.
pub fn run(target: Target, load: &Unpaced, window: Duration) -> Result<Sample, String> {
    // What the first one's sockets still hold must not come to the other's queue.
    let paced = measure(target, load, ("bench-paced", FOLLOWS), window)?;
    process::reset_peak(target.pid);
    let unpaced = measure(target, load, ("bench-unpaced", u64::MAX), window)?;
    let mut sample = Sample::of(unpaced.delivered.max(1), unpaced.cost);
    sample.rss_mb = Some(megabytes(process::peak_resident(target.pid)?));
    sample.also = vec![
        (
            "published_per_s",
            unpaced.published as f64 / unpaced.cost.seconds,
        ),
        ("paced_per_s", paced.delivered_per_s()),
        (
            "paced_to_unpaced",
            paced.delivered_per_s() / unpaced.delivered_per_s(),
        ),
    ];
    Ok(sample)
}

fn measure(
    target: Target,
    load: &Unpaced,
    (queue, undelivered_max): (&str, u64),
    window: Duration,
) -> Result<Window, String> {
    let mut control = Connection::open(target.address, 0)?;
    control.declare_queue(queue, QueueKind::Durable)?;
    let mut generator = Generator::open(target, load, queue)?;
    generator.undelivered_max = undelivered_max;
    generator.work_for(WARM_UP)?;
    let (meter, published, delivered) = generator.begin(target.pid)?;
    generator.work_for(window)?;
    let measured = Window {
        cost: meter.cost()?,
        published: generator.progress.published() - published,
        delivered: generator.progress.delivered() - delivered,
    };
    drop(generator);
    control.delete_queue(queue)?;
    control.close()?;
    Ok(measured)
}

/// All connections, worked on in turns.
struct Generator {
    publishers: Vec<Source>,
    consumers: Vec<Consumer>,
    /// Tells who can go on; the publishers stand behind the consumers.
    all: OwnedFd,
    only_consumers: OwnedFd,
    undelivered_max: u64,
    progress: Progress,
    buffer: Vec<u8>,
}

impl Generator {
    fn open(target: Target, load: &Unpaced, queue: &str) -> Result<Self, String> {
        let address = Address {
            exchange: String::new(),
            key: queue.into(),
        };
        let content = Content::transient(load.body_bytes);
        let consumers = (0..load.consumers).map(|_| open_consumer(target, load, &address));
        let consumers = consumers.collect::<Result<Vec<_>, _>>()?;
        let publishers = (0..load.publishers).map(|number| {
            let stream = Connection::open(target.address, 0)?.into_parts().0;
            stream.set_nonblocking(true).map_err(text)?;
            let batch = PublishBatch::new(&address, number as u32, content, WRITE_BYTES);
            Ok::<_, String>(Source::new(stream, batch))
        });
        let publishers = publishers.collect::<Result<Vec<_>, _>>()?;
        let reading = consumers.iter().map(|one| (one.stream(), false));
        let writing = publishers.iter().map(|one| (&one.stream, true));
        Ok(Self {
            only_consumers: poll_of(reading.clone())?,
            all: poll_of(reading.chain(writing))?,
            publishers,
            consumers,
            undelivered_max: u64::MAX,
            progress: Progress::default(),
            buffer: vec![0; READ_BYTES],
        })
    }

    fn begin(&self, pid: u32) -> Result<(Meter, u64, u64), String> {
        let meter = Meter::start(pid)?;
        Ok((meter, self.progress.published(), self.progress.delivered()))
    }

    fn work_for(&mut self, time: Duration) -> Result<(), String> {
        let start = Instant::now();
        while start.elapsed() < time {
            self.turn()?;
        }
        Ok(())
    }

    /// One read or write of each connection that is ready for it.
    fn turn(&mut self) -> Result<(), String> {
        let (published, delivered) = (self.progress.published(), self.progress.delivered());
        let follows = published.saturating_sub(delivered) < self.undelivered_max;
        let poll = if follows {
            &self.all
        } else {
            &self.only_consumers
        };
        for index in ready(poll, self.consumers.len() + self.publishers.len())? {
            if let Some(consumer) = self.consumers.get_mut(index) {
                consumer.turn(&mut self.buffer, &self.progress)?;
            } else if let Some(source) = self.publishers.get_mut(index - self.consumers.len()) {
                let most = if self.undelivered_max == u64::MAX {
                    WRITES_OF_TURN
                } else {
                    1
                };
                source.turn(most, &self.progress)?;
            }
        }
        Ok(())
    }
}

fn open_consumer(target: Target, load: &Unpaced, address: &Address) -> Result<Consumer, String> {
    let mut connection = Connection::open(target.address, 0)?;
    connection.prefetch(PREFETCH)?;
    connection.consume(&address.key, &consumer_tag(0), false)?;
    let shape = DeliveryShape::deliver(address, Content::transient(load.body_bytes));
    let mut checker = Checker::new(shape, 1, load.publishers);
    checker.share(load.consumers > 1);
    let (stream, rest) = connection.into_parts();
    Ok(Consumer::new(stream, rest, checker, load.ack_every))
}

fn poll_of<'a>(sockets: impl Iterator<Item = (&'a TcpStream, bool)>) -> Result<OwnedFd, String> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(text)?;
    for (index, (socket, writes)) in (0..).zip(sockets) {
        let flags = if writes {
            epoll::EventFlags::OUT
        } else {
            epoll::EventFlags::IN
        };
        epoll::add(&poll, socket, epoll::EventData::new_u64(index), flags).map_err(text)?;
    }
    Ok(poll)
}

/// Who is ready, at most `count`; nobody after [`READ_PAUSE`].
fn ready(poll: &OwnedFd, count: usize) -> Result<Vec<usize>, String> {
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: READ_PAUSE.as_nanos() as _,
    };
    let mut events = Vec::with_capacity(count);
    let spare = rustix::buffer::spare_capacity(&mut events);
    match epoll::wait(poll, spare, Some(&pause)) {
        Err(rustix::io::Errno::INTR) => {}
        result => drop(result.map_err(text)?),
    }
    let ready = events.iter().map(|event| event.data.u64() as usize);
    Ok(ready.collect())
}

/// A publisher that writes what its socket takes.
struct Source {
    stream: TcpStream,
    batch: PublishBatch,
    sent: u64,
    /// Frames that were begun, and how many bytes of them are written.
    frames: Vec<u8>,
    written: usize,
}

impl Source {
    fn new(stream: TcpStream, batch: PublishBatch) -> Self {
        Self {
            stream,
            batch,
            sent: 0,
            frames: Vec::new(),
            written: 0,
        }
    }

    /// Writes at most so many times, or until its socket is full.
    fn turn(&mut self, writes: usize, progress: &Progress) -> Result<(), String> {
        for _ in 0..writes {
            if self.written == self.frames.len() {
                self.begin_frames(progress);
            }
            match self.stream.write(&self.frames[self.written..]) {
                Ok(count) => self.written += count,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return Ok(());
                }
                Err(e) => return Err(format!("publish: {e}")),
            }
        }
        Ok(())
    }

    fn begin_frames(&mut self, progress: &Progress) {
        let some = self.batch.capacity();
        self.frames.clear();
        let frames = self.batch.stamp(self.sent, some);
        self.frames.extend_from_slice(frames);
        (self.sent, self.written) = (self.sent + some, 0);
        // Before they can be delivered.
        progress.add_published(some);
    }
}
