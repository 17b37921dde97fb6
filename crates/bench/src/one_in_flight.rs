//! One publisher with one unconfirmed message at a time, and how long each confirm takes.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::connection::{Connection, QueueKind, text};
use crate::message::{Address, Content, PublishBatch};
use crate::process::{self, Meter};
use crate::publisher::Confirms;
use crate::scenario::{Sample, megabytes, percentiles};
use crate::traffic::{Dialect, Target};

const QUEUE: &str = "bench-one-in-flight";
const BODY_BYTES: usize = 1024;
/// Messages before the measured window.
const WARM_UP: u64 = 200;

/// Publishes persistent messages to a durable queue nobody consumes, for `window`.
pub fn run(target: Target, window: Duration) -> Result<Sample, String> {
    process::reset_peak(target.pid);
    let mut publisher = Publisher::open(target)?;
    (0..WARM_UP).try_for_each(|_| publisher.publish())?;
    let meter = Meter::start(target.pid)?;
    let start = Instant::now();
    let mut latencies = Vec::new();
    while start.elapsed() < window {
        let sent = Instant::now();
        publisher.publish()?;
        latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    let sample = Sample::of(latencies.len() as u64, meter.cost()?);
    let rss_mb = Some(megabytes(process::peak_resident(target.pid)?));
    publisher.close()?;
    latencies.sort_unstable();
    Ok(Sample {
        rss_mb,
        latency_ms: percentiles(&latencies),
        ..sample
    })
}

struct Publisher {
    target: Target,
    stream: TcpStream,
    batch: PublishBatch,
    confirms: Confirms,
    sent: u64,
}

impl Publisher {
    fn open(target: Target) -> Result<Self, String> {
        let stream = if target.dialect == Dialect::Pipe {
            let stream = TcpStream::connect(target.address).map_err(text)?;
            stream.set_nodelay(true).map_err(text)?;
            stream
        } else {
            let mut connection = Connection::open(target.address, 0)?;
            connection.declare_queue(QUEUE, QueueKind::Durable)?;
            connection.confirm()?;
            connection.into_parts().0
        };
        let address = Address {
            exchange: String::new(),
            key: QUEUE.into(),
        };
        Ok(Self {
            target,
            stream,
            batch: PublishBatch::new(&address, 0, Content::persistent(BODY_BYTES), 0),
            confirms: Confirms::new(0),
            sent: 0,
        })
    }

    /// Publishes one and waits for its confirm.
    fn publish(&mut self) -> Result<(), String> {
        let frames = self.batch.stamp(self.sent, 1);
        std::io::Write::write_all(&mut self.stream, frames).map_err(text)?;
        self.sent += 1;
        while self.confirms.done < self.sent {
            self.confirms.read(&mut self.stream)?;
        }
        Ok(())
    }

    /// Deletes the queue, which must hold all that was confirmed.
    fn close(self) -> Result<(), String> {
        if self.target.dialect == Dialect::Pipe {
            return Ok(());
        }
        let mut connection = Connection::from_parts(self.stream, Vec::new())?;
        let ready = u64::from(connection.messages_ready(QUEUE)?);
        connection.delete_queue(QUEUE)?;
        connection.close()?;
        if ready != self.sent {
            return Err(format!("lost: {} confirmed, {ready} ready", self.sent));
        }
        Ok(())
    }
}
