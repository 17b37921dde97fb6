//! A queue that is very long: what it costs to fill it, to keep it over a crash, and to drain it,
//! beside the same messages in a queue that stays short.

use std::time::Duration;

use rustix::fs::statvfs;

use crate::brokers::Broker;
use crate::connection::{Connection, QueueKind, text};
use crate::consumer::Consumer;
use crate::durable::Confirmed;
use crate::message::{Address, Checker, Content, DeliveryShape, PublishBatch, consumer_tag};
use crate::process::{self, Cost, Meter};
use crate::progress::Progress;
use crate::scenario::{Sample, megabytes};
use crate::traffic::Target;

/// What is published and drained.
#[derive(Clone, Copy, Debug)]
pub struct Deep {
    /// Messages in the long queue.
    pub messages: u64,
    /// Whether they survive a crash; else that is left out.
    pub persistent: bool,
}

const QUEUE: &str = "bench-deep";
const BODY_BYTES: usize = 100;
const WRITE_BYTES: usize = 64 * 1024;
/// Messages on their way to a confirm, and to an acknowledgement.
const WINDOW: u64 = 1000;
const PREFETCH: u16 = 1000;
const ACK_EVERY: u64 = 100;
/// Messages that stay in memory, filled and drained so often.
const SHORT: u64 = 50_000;
const CYCLES: u64 = 20;
/// What a message of the long queue takes on the disk at most: in the journal until its segment is
/// used again, and in a run file.
const DISK_BYTES_EACH: u64 = 400;
/// What is to be free besides.
const DISK_BYTES_LEFT: u64 = 4 << 30;
/// A broker settles within this time, before its memory is read.
const SETTLE: Duration = Duration::from_secs(1);

/// One round.
pub fn run(broker: &mut Broker, deep: Deep) -> Result<Sample, String> {
    let target = broker.fresh()?;
    let messages = fitting(deep.messages)?;
    let content = if deep.persistent {
        Content::persistent(BODY_BYTES)
    } else {
        Content::transient(BODY_BYTES)
    };
    Connection::open(target.address, 0)?.declare_queue(QUEUE, QueueKind::Durable)?;
    let short = short(target, content)?;
    std::thread::sleep(SETTLE);
    let idle = process::resident(target.pid)?;
    process::reset_peak(target.pid);
    let publish = fill(target, content, messages)?;
    let held = process::resident(target.pid)?.saturating_sub(idle);
    let grown = |pid| Ok::<u64, String>(process::peak_resident(pid)?.saturating_sub(idle));
    let filling = grown(target.pid)?;
    let (mut target, mut also) = (target, Vec::new());
    if deep.persistent && broker.is_ours() {
        let (_, begun) = broker.crash()?;
        target = broker.target()?;
        let ready = Connection::open(target.address, 0)?.messages_ready(QUEUE)?;
        also.push(("serving_ms", begun.elapsed().as_secs_f64() * 1e3));
        if u64::from(ready) != messages {
            return Err(format!("{ready} of {messages} messages came back"));
        }
        also.push(("grown_starting_mb", megabytes(grown(target.pid)?)));
    }
    process::reset_peak(target.pid);
    let drain = drain(target, content, messages)?;
    let draining = grown(target.pid)?;
    let slower = |deep: Cost, short: Cost| {
        let short_s = short.seconds / (SHORT * CYCLES) as f64;
        deep.seconds / messages as f64 / short_s
    };
    let dearer = |deep: Cost, short: Cost| us(deep, messages) / us(short, SHORT * CYCLES);
    also.extend([
        ("messages", messages as f64),
        ("grown_filling_mb", megabytes(filling)),
        ("grown_draining_mb", megabytes(draining)),
        ("bytes_per_message", held as f64 / messages as f64),
        ("publish_slower", slower(publish, short.publish)),
        ("publish_dearer", dearer(publish, short.publish)),
        ("drain_us", us(drain, messages)),
        ("drain_slower", slower(drain, short.drain)),
        ("drain_dearer", dearer(drain, short.drain)),
    ]);
    Ok(Sample {
        also,
        ..Sample::of(messages, publish)
    })
}

fn us(cost: Cost, messages: u64) -> f64 {
    cost.cpu_ns as f64 / 1e3 / messages as f64
}

/// As many of so many messages as the disk has room for.
fn fitting(messages: u64) -> Result<u64, String> {
    let disk = statvfs(std::env::temp_dir()).map_err(text)?;
    let free = disk.f_bavail * disk.f_frsize;
    let most = free.saturating_sub(DISK_BYTES_LEFT) / DISK_BYTES_EACH;
    if messages > most {
        let gb = free as f64 / 1e9;
        eprintln!("deep: {gb:.1} GB are free, enough for {most} messages");
    }
    match messages.min(most) {
        0 => Err("the disk has no room".into()),
        messages => Ok(messages),
    }
}

/// What the messages of a queue cost that stays short.
#[derive(Default)]
struct Costs {
    publish: Cost,
    drain: Cost,
}

fn short(target: Target, content: Content) -> Result<Costs, String> {
    let mut costs = Costs::default();
    for _ in 0..CYCLES {
        costs.publish += fill(target, content, SHORT)?;
        costs.drain += drain(target, content, SHORT)?;
    }
    Ok(costs)
}

fn address() -> Address {
    Address {
        exchange: String::new(),
        key: QUEUE.into(),
    }
}

/// Publishes so many messages and waits until they are confirmed.
fn fill(target: Target, content: Content, messages: u64) -> Result<Cost, String> {
    let mut batch = PublishBatch::new(&address(), 0, content, WRITE_BYTES);
    let mut publisher = Confirmed::open(target.address)?;
    let meter = Meter::start(target.pid)?;
    let mut sent = 0;
    while sent < messages {
        let count = batch.capacity().min(messages - sent);
        let ahead = WINDOW.min(messages - sent - count);
        publisher.publish_ahead(batch.stamp(sent, count), count, ahead)?;
        sent += count;
    }
    meter.cost()
}

/// Takes so many messages, all there are, and checks that they are those that were published, in
/// their order.
fn drain(target: Target, content: Content, messages: u64) -> Result<Cost, String> {
    let mut connection = Connection::open(target.address, 0)?;
    connection.prefetch(PREFETCH)?;
    let meter = Meter::start(target.pid)?;
    connection.consume(QUEUE, &consumer_tag(0), false)?;
    let checker = Checker::new(DeliveryShape::deliver(&address(), content), 1, 1);
    let (stream, rest) = connection.into_parts();
    let mut consumer = Consumer::new(stream, rest, checker, ACK_EVERY);
    let (progress, mut buffer) = (Progress::default(), vec![0; 256 * 1024]);
    while progress.delivered() < messages {
        consumer.turn(&mut buffer, &progress)?;
    }
    consumer.close()?;
    let cost = meter.cost()?;
    let left = Connection::open(target.address, 0)?.messages_ready(QUEUE)?;
    if left > 0 {
        return Err(format!("{left} messages are left or came twice"));
    }
    Ok(cost)
}
