//! Rounds that are not plain traffic: churn, idleness, width, starting.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::brokers::Broker;
use crate::connection::{Connection, QueueKind, bind_queue, declare_queue, delete_queue};
use crate::message::{Address, Content, PublishBatch};
use crate::process::{self, Meter};
use crate::scenario::{Sample, megabytes};
use crate::traffic::{self, Load, Target};
use crate::wire::{BASIC_ACK, Method, MethodId, QUEUE_BIND_OK, QUEUE_DECLARE_OK, QUEUE_DELETE_OK};

/// Queues of the width and idleness scenarios.
pub(crate) const MANY_QUEUES: usize = 100_000;
/// Requests on their way before their replies are read.
const PIPELINED: usize = 200;
/// A server gets this long to settle before its memory is read.
const SETTLE: Duration = Duration::from_secs(1);
/// Idle connections whose CPU is measured, and for how long.
const IDLE_FEW: usize = 1000;
const IDLE_WINDOW: Duration = Duration::from_secs(10);
/// Idle connections whose memory is measured.
const IDLE_MANY: usize = 10_000;
/// What idle clients ask for; nothing is due within the measurement's length.
const IDLE_HEARTBEAT_S: u16 = 60;
/// Temporary queues a second, and how many are declared and deleted at once.
const TEMPORARY_PER_S: u32 = 1000;
const TEMPORARY_BATCH: u32 = 10;
/// Connections opened at the same time by the connection churn.
const CHURN_THREADS: usize = 4;

/// Sends `count` requests and reads their replies, many at a time.
pub fn pipeline(
    connection: &mut Connection,
    count: usize,
    reply: MethodId,
    request: impl Fn(usize) -> Method,
) -> Result<(), String> {
    for first in (0..count).step_by(PIPELINED) {
        let numbers = first..count.min(first + PIPELINED);
        let frames: Vec<u8> = numbers.clone().flat_map(|n| request(n).finish()).collect();
        connection.send(&frames)?;
        for _ in numbers {
            connection.expect(reply)?;
        }
    }
    Ok(())
}

fn queue(number: usize) -> String {
    format!("bench-many-{number:06}")
}

/// `transient-16` alone, then beside queues that are declared and deleted elsewhere.
pub fn temporary_queues(target: Target, load: &Load, window: Duration) -> Result<Sample, String> {
    let alone: Sample = (&traffic::run(target, load, window)?).into();
    let churn_us = churn_cpu_us(target)?;
    let stop = AtomicBool::new(false);
    let (beside, churned) = thread::scope(|scope| {
        let churn = scope.spawn(|| churn_queues(target.address, &stop));
        let beside = traffic::run(target, load, window);
        stop.store(true, Ordering::Relaxed);
        (
            beside,
            churn
                .join()
                .unwrap_or_else(|_| Err("the churning thread panicked".into())),
        )
    });
    let (beside, churned) = (beside?, churned?);
    let mut sample = Sample::from(&beside);
    let alone_us = alone.cpu_us.unwrap_or(f64::NAN);
    let total_us = sample.cpu_us.unwrap_or(f64::NAN);
    let own_us = total_us - churn_us * churned * beside.cost.seconds / beside.messages as f64;
    sample.also = vec![
        ("cpu_us_without", alone_us),
        ("ratio_to_without", total_us / alone_us),
        ("ratio_less_churn", own_us / alone_us),
        ("churn_cpu_us_per_queue", churn_us),
        ("queues_per_s", churned),
    ];
    Ok(sample)
}

/// Server CPU for one temporary queue without any traffic.
fn churn_cpu_us(target: Target) -> Result<f64, String> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let before = process::cpu_ns(target.pid)?;
        let start = Instant::now();
        let churn = scope.spawn(|| churn_queues(target.address, &stop));
        thread::sleep(SETTLE);
        stop.store(true, Ordering::Relaxed);
        let rate = churn
            .join()
            .unwrap_or_else(|_| Err("the churning thread panicked".into()))?;
        let cpu = process::cpu_ns(target.pid)? - before;
        Ok(cpu as f64 / 1e3 / (rate * start.elapsed().as_secs_f64()))
    })
}

/// Declares and deletes queues on a timetable until told to stop; returns queues per second.
fn churn_queues(address: SocketAddr, stop: &AtomicBool) -> Result<f64, String> {
    let mut connection = Connection::open(address, 0)?;
    let start = Instant::now();
    let pause = Duration::from_secs(1) * TEMPORARY_BATCH / TEMPORARY_PER_S;
    let mut batches = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = |n: u32| format!("bench-temporary-{batches}-{n}");
        let pair = |n| {
            let declare = declare_queue(&name(n), QueueKind::Temporary).finish();
            [declare, delete_queue(&name(n)).finish()].concat()
        };
        connection.send(&(0..TEMPORARY_BATCH).flat_map(pair).collect::<Vec<u8>>())?;
        for _ in 0..TEMPORARY_BATCH {
            connection.expect(QUEUE_DECLARE_OK)?;
            connection.expect(QUEUE_DELETE_OK)?;
        }
        batches += 1;
        thread::sleep((start + pause * batches).saturating_duration_since(Instant::now()));
    }
    let rate = f64::from(batches * TEMPORARY_BATCH) / start.elapsed().as_secs_f64();
    connection.close()?;
    Ok(rate)
}

/// Opens and closes connections with one channel each; a "message" is one connection.
pub fn connection_churn(target: Target, window: Duration) -> Result<Sample, String> {
    process::reset_peak(target.pid);
    let meter = Meter::start(target.pid)?;
    let start = Instant::now();
    let churn = || {
        let mut count = 0_u64;
        while start.elapsed() < window {
            Connection::open(target.address, 0)?.close()?;
            count += 1;
        }
        Ok::<u64, String>(count)
    };
    let connections = thread::scope(|scope| {
        let threads: Vec<_> = (0..CHURN_THREADS).map(|_| scope.spawn(churn)).collect();
        let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        let counts = joined.map(|count| count.unwrap_or_else(|_| Err("panicked".into())));
        counts.sum::<Result<u64, _>>()
    })?;
    let rss_mb = Some(megabytes(process::peak_resident(target.pid)?));
    let sample = Sample::of(connections, meter.cost()?);
    Ok(Sample { rss_mb, ..sample })
}

/// CPU of 1,000 connections with one channel each in 10 s, then memory of 10,000.
pub fn idle_connections(target: Target) -> Result<Sample, String> {
    thread::sleep(SETTLE);
    let empty = process::resident(target.pid)?;
    let mut connections = Vec::with_capacity(IDLE_MANY);
    let mut open = |count: usize| {
        while connections.len() < count {
            connections.push(Connection::open(target.address, IDLE_HEARTBEAT_S)?);
        }
        thread::sleep(SETTLE);
        Ok::<(), String>(())
    };
    open(IDLE_FEW)?;
    let before = process::cpu_ns(target.pid)?;
    thread::sleep(IDLE_WINDOW);
    let cpu_ms = (process::cpu_ns(target.pid)? - before) as f64 / 1e6;
    open(IDLE_MANY)?;
    let resident = process::resident(target.pid)?;
    let each = resident.saturating_sub(empty) as f64 / 1e3 / IDLE_MANY as f64;
    Ok(Sample {
        rss_mb: Some(megabytes(resident)),
        also: vec![
            ("cpu_ms_in_10s_of_1000", cpu_ms),
            ("kb_per_connection", each),
        ],
        ..Sample::default()
    })
}

/// Memory of 100,000 queues nobody uses.
pub fn idle_queues(broker: &mut Broker) -> Result<Sample, String> {
    let (target, queues) = (broker.fresh()?, MANY_QUEUES.min(broker.queues_max()));
    let mut connection = Connection::open(target.address, 0)?;
    thread::sleep(SETTLE);
    let empty = process::resident(target.pid)?;
    let start = Instant::now();
    declare_many(&mut connection, queues)?;
    let rate = queues as f64 / start.elapsed().as_secs_f64();
    thread::sleep(SETTLE);
    let resident = process::resident(target.pid)?;
    let each = resident.saturating_sub(empty) as f64 / queues as f64;
    Ok(Sample {
        rss_mb: Some(megabytes(resident)),
        also: vec![
            ("queues", queues as f64),
            ("bytes_per_queue", each),
            ("declared_per_s", rate),
        ],
        ..Sample::default()
    })
}

pub(crate) fn declare_many(connection: &mut Connection, queues: usize) -> Result<(), String> {
    let declare = |n| declare_queue(&queue(n), QueueKind::Temporary);
    pipeline(connection, queues, QUEUE_DECLARE_OK, declare)
}

/// One 1 KB message to 100,000 bound queues, then another: time to the confirm, memory a copy.
pub fn wide_fanout(broker: &mut Broker) -> Result<Sample, String> {
    let (target, queues) = (broker.fresh()?, MANY_QUEUES.min(broker.queues_max()));
    const EXCHANGE: &str = "bench-wide";
    let mut connection = Connection::open(target.address, 0)?;
    connection.declare_exchange(EXCHANGE, "fanout")?;
    declare_many(&mut connection, queues)?;
    let bind = |n| bind_queue(&queue(n), EXCHANGE, "");
    pipeline(&mut connection, queues, QUEUE_BIND_OK, bind)?;
    let mut publisher = Connection::open(target.address, 0)?;
    publisher.confirm()?;
    thread::sleep(SETTLE);
    process::reset_peak(target.pid);
    let address = Address {
        exchange: EXCHANGE.into(),
        key: String::new(),
    };
    let mut batch = PublishBatch::new(&address, 0, Content::transient(1024), 0);
    let first = publish_wide(target, &mut publisher, batch.stamp(0, 1))?;
    let second = publish_wide(target, &mut publisher, batch.stamp(1, 1))?;
    for number in (0..queues).step_by(queues / 100) {
        let ready = connection.messages_ready(&queue(number))?;
        if ready != 2 {
            return Err(format!("lost: queue {number} has {ready} of 2 messages"));
        }
    }
    let copies = 2.0 * queues as f64;
    Ok(Sample {
        msgs_per_s: Some(copies * 1e3 / (first.ms + second.ms)),
        cpu_us: Some((first.cpu_us + second.cpu_us) / copies),
        rss_mb: Some(megabytes(process::peak_resident(target.pid)?)),
        also: vec![
            ("queues", queues as f64),
            ("first_ms", first.ms),
            ("second_ms", second.ms),
            ("first_bytes_per_copy", first.grown_bytes / queues as f64),
            ("second_bytes_per_copy", second.grown_bytes / queues as f64),
        ],
        ..Sample::default()
    })
}

struct Wide {
    ms: f64,
    cpu_us: f64,
    grown_bytes: f64,
}

fn publish_wide(target: Target, publisher: &mut Connection, frames: &[u8]) -> Result<Wide, String> {
    let (resident, cpu) = (process::resident(target.pid)?, process::cpu_ns(target.pid)?);
    let start = Instant::now();
    publisher.send(frames)?;
    publisher.expect(BASIC_ACK)?;
    let ms = start.elapsed().as_secs_f64() * 1e3;
    thread::sleep(SETTLE);
    let grown = process::resident(target.pid)?.saturating_sub(resident);
    let cpu_us = (process::cpu_ns(target.pid)? - cpu) as f64 / 1e3;
    Ok(Wide {
        ms,
        cpu_us,
        grown_bytes: grown as f64,
    })
}

/// Time from the start of the process to its first accepted connection, and memory when idle.
pub fn start(broker: &mut Broker) -> Result<Sample, String> {
    if !broker.is_ours() {
        return Err("a server that already runs cannot be started".into());
    }
    let target = broker.fresh()?;
    let started = broker.start_time().unwrap_or_default();
    drop(Connection::open(target.address, 0)?);
    thread::sleep(SETTLE);
    let rss_mb = Some(megabytes(process::resident(target.pid)?));
    let also = vec![("start_ms", started.as_secs_f64() * 1e3)];
    Ok(Sample {
        rss_mb,
        also,
        ..Sample::default()
    })
}
