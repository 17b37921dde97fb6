//! A publisher whose queue nobody consumes: what it costs to take a message and keep it.

use std::thread;
use std::time::{Duration, Instant};

use crate::connection::{Connection, QueueKind};
use crate::message::{Address, Content, PublishBatch};
use crate::process::{self, Cost, Meter};
use crate::scenario::{Sample, megabytes};
use crate::traffic::Target;

/// Messages left in the queue at most: below usual queue limits.
const CYCLE_MESSAGES: u64 = 2_000_000;
/// The broker must have taken all that was sent within this time.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
const WRITE_BYTES: usize = 128 * 1024;
const QUEUE: &str = "bench-publish-only";

/// Publishes in cycles, each counted and purged at its end, until `window` has been measured.
pub fn run(target: Target, window: Duration) -> Result<Sample, String> {
    let mut connection = Connection::open(target.address, 0)?;
    connection.declare_queue(QUEUE, QueueKind::Temporary)?;
    process::reset_peak(target.pid);
    let empty = process::resident(target.pid)?;
    let (mut cost, mut messages) = (Cost::default(), 0);
    let mut bytes_per_message = None;
    while cost.seconds < window.as_secs_f64() {
        let left = window.saturating_sub(Duration::from_secs_f64(cost.seconds));
        let meter = Meter::start(target.pid)?;
        let sent = publish(&mut connection, left)?;
        cost += meter.cost()?;
        messages += sent;
        let full = process::resident(target.pid)?;
        let grown = full.saturating_sub(empty) as f64;
        bytes_per_message.get_or_insert_with(|| grown / sent as f64);
        let purged = u64::from(connection.purge(QUEUE)?);
        if purged != sent {
            return Err(format!("lost: {sent} published, {purged} purged"));
        }
    }
    connection.close()?;
    let rss_mb = Some(megabytes(process::peak_resident(target.pid)?));
    let also = vec![("bytes_per_message", bytes_per_message.unwrap_or(0.0))];
    let sample = Sample::of(messages, cost);
    Ok(Sample {
        rss_mb,
        also,
        ..sample
    })
}

/// Publishes for at most `time` and until all of it is in the queue; returns how many.
fn publish(connection: &mut Connection, time: Duration) -> Result<u64, String> {
    let address = Address {
        exchange: String::new(),
        key: QUEUE.into(),
    };
    let mut batch = PublishBatch::new(&address, 0, Content::transient(16), WRITE_BYTES);
    let start = Instant::now();
    let mut sent = 0;
    while sent == 0 || (sent < CYCLE_MESSAGES && start.elapsed() < time) {
        connection.send(batch.stamp(sent, batch.capacity()))?;
        sent += batch.capacity();
    }
    let all_sent = Instant::now();
    loop {
        // Some brokers count a message only some time after a barrier on its channel.
        let ready = u64::from(connection.messages_ready(QUEUE)?);
        if ready == sent {
            return Ok(sent);
        }
        if ready > sent || all_sent.elapsed() > TAKEN_WITHIN {
            return Err(format!("lost: {sent} published, {ready} ready"));
        }
        thread::sleep(Duration::from_millis(1));
    }
}
