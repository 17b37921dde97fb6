//! What time and death cost: a time to live, priorities, dead letters, and a great many messages
//! that expire at once.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::brokers::Broker;
use crate::connection::{CHANNEL, Connection, QueueKind};
use crate::durable::Confirmed;
use crate::message::{Address, Content, PublishBatch};
use crate::process::{self, Cost, Meter};
use crate::scenario::{Sample, megabytes};
use crate::traffic::{self, Load, Target};
use crate::wire::{Argument, BASIC_DELIVER, BASIC_REJECT, Frame, Method, Value};

/// Windows with what is measured, and as many without, in turns: a noisy minute hits both.
const TURNS: u32 = 4;
const SOURCE: &str = "bench-source";
const DEAD: &str = "bench-dead";
const WRITE_BYTES: usize = 128 * 1024;
const BODY_BYTES: usize = 16;
/// How often a queue's count is asked for that has to become something.
const COUNT_PAUSE: Duration = Duration::from_millis(2);
/// What does not happen within this time is lost.
const PATIENCE: Duration = Duration::from_secs(60);
const TO_DEAD: &[Argument] = &[
    ("x-dead-letter-exchange", Value::Text("")),
    ("x-dead-letter-routing-key", Value::Text(DEAD)),
];

/// Messages that are dead-lettered by a reject each.
const REJECTED: u64 = 200_000;

/// Messages that expire at once,
const EXPIRING: u64 = 1_000_000;
/// so long after the first one was sent, ms. The last one has to be sent while that is at least
/// ten seconds ahead, as an expiration has five digits.
const LIFE_MS: u64 = 20_000;
const LIFE_MS_MIN: u64 = 10_000;
/// How others are served so long before that is what they are used to.
const UNDISTURBED: Duration = Duration::from_millis(1500);
/// Between two messages of somebody else's.
const OTHERS_PAUSE: Duration = Duration::from_micros(300);

/// `load` with its arguments against the same without any.
pub fn with_and_without(target: Target, load: &Load, window: Duration) -> Result<Sample, String> {
    let plain = Load {
        arguments: &[],
        ..*load
    };
    let (mut with, mut without) = ((0, Cost::default()), (0, Cost::default()));
    for turn in 0..2 * TURNS {
        // The order in which they take turns changes, too.
        let is_with = (turn + turn / 2) % 2 == 0;
        let (load, sum) = if is_with {
            (load, &mut with)
        } else {
            (&plain, &mut without)
        };
        let measured = traffic::run(target, load, window / 2)?;
        sum.0 += measured.messages;
        sum.1 += measured.cost;
    }
    let (mut with, without) = (Sample::of(with.0, with.1), Sample::of(without.0, without.1));
    let (cpu_us, without_us) = (with.cpu_us, without.cpu_us.unwrap_or(f64::NAN));
    with.also = vec![
        ("cpu_us_without", without_us),
        ("ratio_to_without", cpu_us.unwrap_or(f64::NAN) / without_us),
    ];
    Ok(with)
}

/// CPU of a reject that dead-letters, against that of the publish before; then the same with all of
/// it durable. A "message" is a dead letter of the first kind.
pub fn dead_letter(broker: &mut Broker) -> Result<Sample, String> {
    let target = broker.fresh()?;
    let transient = rejects(target, QueueKind::Temporary)?;
    let durable = rejects(target, QueueKind::Durable)?;
    let us = |cost: Cost| cost.cpu_ns as f64 / 1e3 / REJECTED as f64;
    let ratio = |costs: &Rejects| us(costs.reject) / us(costs.publish);
    let mut sample = Sample::of(REJECTED, transient.reject);
    sample.also = vec![
        ("publish_us", us(transient.publish)),
        ("to_publish", ratio(&transient)),
        ("durable_us", us(durable.reject)),
        ("durable_publish_us", us(durable.publish)),
        ("durable_to_publish", ratio(&durable)),
    ];
    Ok(sample)
}

/// What all messages cost in both places.
struct Rejects {
    publish: Cost,
    reject: Cost,
}

fn rejects(target: Target, kind: QueueKind) -> Result<Rejects, String> {
    let mut connection = Connection::open(target.address, 0)?;
    connection.declare_queue(DEAD, kind)?;
    connection.declare_queue_with(SOURCE, kind, TO_DEAD)?;
    let meter = Meter::start(target.pid)?;
    match kind {
        QueueKind::Temporary => {
            let mut batch = batch(Content::transient(BODY_BYTES), SOURCE);
            send(&mut batch, REJECTED, |frames, _| connection.send(frames))?;
        }
        QueueKind::Durable => {
            let mut batch = batch(Content::persistent(BODY_BYTES), SOURCE);
            let mut publisher = Confirmed::open(target.address)?;
            send(&mut batch, REJECTED, |f, count| publisher.publish(f, count))?;
        }
    }
    becomes(&mut connection, SOURCE, REJECTED)?;
    let publish = meter.cost()?;
    connection.consume(SOURCE, "c", false)?;
    let (stream, rest) = connection.into_parts();
    let (stream, rest) = swallow(stream, rest, REJECTED)?;
    let mut connection = Connection::from_parts(stream, rest)?;
    let meter = Meter::start(target.pid)?;
    let mut frames = Vec::with_capacity(2 * WRITE_BYTES);
    for tag in 1..=REJECTED {
        let reject = Method::new(CHANNEL, BASIC_REJECT).u64(tag).u8(0);
        frames.extend(reject.finish());
        if frames.len() >= WRITE_BYTES || tag == REJECTED {
            connection.send(&frames)?;
            frames.clear();
        }
    }
    becomes(&mut connection, DEAD, REJECTED)?;
    let reject = meter.cost()?;
    connection.delete_queue(SOURCE)?;
    connection.delete_queue(DEAD)?;
    connection.close()?;
    Ok(Rejects { publish, reject })
}

/// Reads `count` deliveries; gives what came behind them.
fn swallow(
    mut stream: TcpStream,
    mut input: Vec<u8>,
    count: u64,
) -> Result<(TcpStream, Vec<u8>), String> {
    use std::io::Read as _;
    const BODY: u8 = 3;
    let mut buffer = vec![0; 256 * 1024];
    let mut left = count;
    loop {
        let mut at = 0;
        while left > 0
            && let Some(frame) = Frame::read(&input[at..])?
        {
            at += frame.size();
            left -= u64::from(frame.kind == BODY);
        }
        input.drain(..at);
        if left == 0 {
            return Ok((stream, input));
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err("the server closed the socket".into()),
            Ok(read) => input.extend_from_slice(&buffer[..read]),
            Err(e) => return Err(format!("{left} deliveries are missing: {e}")),
        }
    }
}

/// 1,000,000 messages that expire at once: how long until they are gone, or where they have to go,
/// and how others are served meanwhile.
pub fn expiry(broker: &mut Broker, kind: QueueKind) -> Result<Sample, String> {
    let target = broker.fresh()?;
    let mut connection = Connection::open(target.address, 0)?;
    let is_durable = kind == QueueKind::Durable;
    connection.declare_queue(DEAD, kind)?;
    let arguments = if is_durable { TO_DEAD } else { &[] };
    connection.declare_queue_with(SOURCE, kind, arguments)?;
    let others = Others::start(target.address)?;
    let due = fill_expiring(target, &mut connection, is_durable)?;
    thread::sleep(due.saturating_duration_since(Instant::now()));
    process::reset_peak(target.pid);
    let resident = process::resident(target.pid)?;
    let meter = Meter::start(target.pid)?;
    becomes(&mut connection, SOURCE, 0)?;
    if is_durable {
        becomes(&mut connection, DEAD, EXPIRING)?;
    }
    let gone = Instant::now();
    let cost = meter.cost()?;
    let peak = process::peak_resident(target.pid)?;
    let served = others.end()?;
    let undisturbed = p99_ms(&served, due - UNDISTURBED, due);
    let meanwhile = p99_ms(&served, due, gone);
    connection.delete_queue(SOURCE)?;
    connection.delete_queue(DEAD)?;
    connection.close()?;
    let mut sample = Sample::of(EXPIRING, cost);
    sample.rss_mb = Some(megabytes(peak));
    sample.also = vec![
        ("gone_ms", (gone - due).as_secs_f64() * 1e3),
        ("grown_mb", megabytes(peak.saturating_sub(resident))),
        ("others_p99_ms_before", undisturbed),
        ("others_p99_ms", meanwhile),
        ("others_p99_ratio", meanwhile / undisturbed),
    ];
    Ok(sample)
}

/// Publishes what expires at one time, which it gives.
fn fill_expiring(
    target: Target,
    connection: &mut Connection,
    is_durable: bool,
) -> Result<Instant, String> {
    let start = Instant::now();
    let mut publisher = Confirmed::open(target.address)?;
    let mut publish = |batch: &mut PublishBatch| {
        send_with(batch, EXPIRING, |batch, first, count| {
            let gone_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            let left_ms = LIFE_MS.saturating_sub(gone_ms);
            if left_ms < LIFE_MS_MIN {
                let so_far = format!("{first} messages took {gone_ms} ms");
                return Err(format!(
                    "{so_far}, too long for all of them to expire at once"
                ));
            }
            batch.expire_in(u16::try_from(left_ms).unwrap_or(u16::MAX));
            let frames = batch.stamp(first, count);
            if is_durable {
                publisher.publish(frames, count)
            } else {
                connection.send(frames)
            }
        })
    };
    if is_durable {
        publish(&mut batch(
            Content::persistent(BODY_BYTES).expiring(),
            SOURCE,
        ))?;
    } else {
        publish(&mut batch(
            Content::transient(BODY_BYTES).expiring(),
            SOURCE,
        ))?;
    }
    becomes(connection, SOURCE, EXPIRING)?;
    Ok(start + Duration::from_millis(LIFE_MS))
}

fn batch(content: Content, queue: &str) -> PublishBatch {
    let address = Address {
        exchange: String::new(),
        key: queue.into(),
    };
    PublishBatch::new(&address, 0, content, WRITE_BYTES)
}

/// Hands the frames of `count` messages to `write`, as many at a time as a batch has.
fn send(
    batch: &mut PublishBatch,
    count: u64,
    mut write: impl FnMut(&[u8], u64) -> Result<(), String>,
) -> Result<(), String> {
    send_with(batch, count, |batch, first, some| {
        write(batch.stamp(first, some), some)
    })
}

fn send_with(
    batch: &mut PublishBatch,
    count: u64,
    mut write: impl FnMut(&mut PublishBatch, u64, u64) -> Result<(), String>,
) -> Result<(), String> {
    let mut sent = 0;
    while sent < count {
        let some = batch.capacity().min(count - sent);
        write(batch, sent, some)?;
        sent += some;
    }
    Ok(())
}

/// Waits until a queue holds so many messages, no more and no less.
fn becomes(connection: &mut Connection, queue: &str, count: u64) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let ready = u64::from(connection.messages_ready(queue)?);
        if ready == count {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("{queue} has {ready} messages, not {count}"));
        }
        thread::sleep(COUNT_PAUSE);
    }
}

/// When somebody's message was sent, and how long it took.
type Round = (Instant, Duration);

/// Somebody who publishes to a queue of their own and waits for the delivery, again and again.
struct Others {
    stop: std::sync::Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<Vec<Round>, String>>,
}

impl Others {
    fn start(address: SocketAddr) -> Result<Self, String> {
        const QUEUE: &str = "bench-others";
        let mut connection = Connection::open(address, 0)?;
        connection.declare_queue(QUEUE, QueueKind::Temporary)?;
        connection.consume(QUEUE, "c", true)?;
        let mut batch = batch(Content::transient(BODY_BYTES), QUEUE);
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut rounds = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                connection.send(batch.stamp(0, 1))?;
                connection.expect(BASIC_DELIVER)?;
                rounds.push((begun, begun.elapsed()));
                thread::sleep(OTHERS_PAUSE);
            }
            Ok(rounds)
        });
        Ok(Self { stop, thread })
    }

    fn end(self) -> Result<Vec<Round>, String> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.join();
        joined.unwrap_or_else(|_| Err("the thread of others panicked".into()))
    }
}

/// What 99 of 100 rounds took at most that ran at some time from `from` to `to`; not a number
/// without any.
fn p99_ms(rounds: &[Round], from: Instant, to: Instant) -> f64 {
    let within = rounds
        .iter()
        .filter(|(begun, took)| *begun <= to && *begun + *took >= from);
    let mut took: Vec<f64> = within.map(|(_, took)| took.as_secs_f64() * 1e3).collect();
    took.sort_by(f64::total_cmp);
    let last = took.len().saturating_sub(1);
    took.get(last * 99 / 100).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_counts_while_it_runs() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let round = |begun, took| (at(begun), Duration::from_millis(took));
        let rounds = [round(0, 1), round(10, 30), round(50, 2), round(90, 5)];
        assert_eq!(p99_ms(&rounds, at(20), at(60)), 2.0);
        assert_eq!(p99_ms(&rounds[..2], at(20), at(60)), 30.0);
        assert!(p99_ms(&rounds, at(5), at(6)).is_nan());
    }

    #[test]
    fn all_messages_are_sent_once() {
        let mut one = batch(Content::transient(16), "q");
        let count = one.capacity() * 2 + 3;
        let mut seen = Vec::new();
        let write = |_: &mut PublishBatch, first, some| {
            seen.push((first, some));
            Ok(())
        };
        send_with(&mut one, count, write).unwrap();
        assert_eq!(seen.iter().map(|(_, some)| some).sum::<u64>(), count);
        assert_eq!(seen.last(), Some(&(count - 3, 3)));
    }
}
