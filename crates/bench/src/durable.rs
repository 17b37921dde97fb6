//! Many durable queues: in one commit, and after a crash.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::brokers::Broker;
use crate::connection::{CHANNEL, Connection, QueueKind, bind_queue, declare_queue, text};
use crate::message::{Address, Content, PublishBatch};
use crate::process;
use crate::publisher::Confirms;
use crate::resources::pipeline;
use crate::scenario::{Sample, megabytes};
use crate::syncs::Syncs;
use crate::wire::{Fields, Method, QUEUE_BIND_OK, QUEUE_DECLARE, QUEUE_DECLARE_OK};

/// Queues that share one commit.
const TOGETHER: usize = 512;
/// Commits whose time is measured.
const COMMITS: u64 = 50;
/// A journal has written by then what it writes when it is idle.
const SETTLE: Duration = Duration::from_millis(500);

/// What is there when the broker is killed.
const QUEUES: usize = 10_000;
const MESSAGES_EACH: usize = 100;
const BODY_BYTES: usize = 16;
const PASSIVE: u8 = 1;

fn queue(number: usize) -> String {
    format!("bench-durable-{number:05}")
}

fn declare(connection: &mut Connection, queues: usize) -> Result<(), String> {
    let declare = |n| declare_queue(&queue(n), QueueKind::Durable);
    pipeline(connection, queues, QUEUE_DECLARE_OK, declare)
}

/// One 1 KB message to 512 durable queues: time to its confirm, and how often the broker synced.
pub fn together(broker: &mut Broker) -> Result<Sample, String> {
    const EXCHANGE: &str = "bench-together";
    let target = broker.fresh()?;
    let mut connection = Connection::open(target.address, 0)?;
    connection.declare_exchange(EXCHANGE, "fanout")?;
    declare(&mut connection, TOGETHER)?;
    let bind = |n| bind_queue(&queue(n), EXCHANGE, "");
    pipeline(&mut connection, TOGETHER, QUEUE_BIND_OK, bind)?;
    let address = Address {
        exchange: EXCHANGE.into(),
        key: String::new(),
    };
    let mut publisher = Confirmed::open(target.address)?;
    let mut batch = PublishBatch::new(&address, 0, Content::persistent(1024), 0);
    let mut times = Vec::new();
    for number in 0..COMMITS {
        let start = Instant::now();
        publisher.publish(batch.stamp(number, 1), 1)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let syncs = Syncs::attach(target.pid)?;
    thread::sleep(SETTLE);
    let from = SystemTime::now();
    publisher.publish(batch.stamp(COMMITS, 1), 1)?;
    let syncs = syncs.between(from, SystemTime::now())?;
    count(&mut connection, TOGETHER, COMMITS + 1)?;
    let also = vec![
        ("queues", TOGETHER as f64),
        ("confirm_ms", times[times.len() / 2]),
        ("syncs", syncs as f64),
    ];
    Ok(Sample {
        also,
        ..Sample::default()
    })
}

/// Kills a broker that holds 1,000,000 persistent messages in 10,000 durable queues; how long
/// until it serves them again.
pub fn restart(broker: &mut Broker) -> Result<Sample, String> {
    if !broker.is_ours() {
        return Err("a server that already runs cannot be killed".into());
    }
    let queues = QUEUES.min(broker.queues_max());
    let target = broker.fresh()?;
    let mut connection = Connection::open(target.address, 0)?;
    declare(&mut connection, queues)?;
    let mut publisher = Confirmed::open(target.address)?;
    let round = everywhere(queues);
    for _ in 0..MESSAGES_EACH {
        publisher.publish(&round, queues as u64)?;
    }
    let (listening, begun) = broker.crash()?;
    let target = broker.target()?;
    let mut connection = Connection::open(target.address, 0)?;
    connection.messages_ready(&queue(queues - 1))?;
    let serving = begun.elapsed();
    let cpu = process::cpu_ns(target.pid)?;
    count(&mut connection, queues, MESSAGES_EACH as u64)?;
    let rss_mb = Some(megabytes(process::resident(target.pid)?));
    let also = vec![
        ("queues", queues as f64),
        ("messages", (queues * MESSAGES_EACH) as f64),
        ("listening_ms", listening.as_secs_f64() * 1e3),
        ("serving_ms", serving.as_secs_f64() * 1e3),
        ("cpu_ms", cpu as f64 / 1e6),
    ];
    Ok(Sample {
        rss_mb,
        also,
        ..Sample::default()
    })
}

/// One persistent message for each queue.
fn everywhere(queues: usize) -> Vec<u8> {
    let message = |n| {
        let address = Address {
            exchange: String::new(),
            key: queue(n),
        };
        let mut batch = PublishBatch::new(&address, 0, Content::persistent(BODY_BYTES), 0);
        batch.stamp(n as u64, 1).to_vec()
    };
    (0..queues).flat_map(message).collect()
}

/// Every queue holds `wanted` messages, no more and no less.
fn count(connection: &mut Connection, queues: usize, wanted: u64) -> Result<(), String> {
    let ask = |n| {
        let declare = Method::new(CHANNEL, QUEUE_DECLARE).u16(0).short(queue(n));
        declare.u8(PASSIVE).long("").finish()
    };
    for number in 0..queues {
        connection.send(&ask(number))?;
        let reply = connection.expect(QUEUE_DECLARE_OK)?;
        let mut fields = Fields(&reply);
        fields.short();
        let ready = u64::from(fields.u32());
        if ready != wanted {
            return Err(format!("queue {number} has {ready} of {wanted} messages"));
        }
    }
    Ok(())
}

/// A connection that waits for its confirms.
pub(crate) struct Confirmed {
    stream: TcpStream,
    confirms: Confirms,
    sent: u64,
}

impl Confirmed {
    pub(crate) fn open(address: std::net::SocketAddr) -> Result<Self, String> {
        let mut connection = Connection::open(address, 0)?;
        connection.confirm()?;
        Ok(Self {
            stream: connection.into_parts().0,
            confirms: Confirms::new(0),
            sent: 0,
        })
    }

    /// Sends the frames of `count` messages and waits until all are confirmed.
    pub(crate) fn publish(&mut self, frames: &[u8], count: u64) -> Result<(), String> {
        self.publish_ahead(frames, count, 0)
    }

    /// The same, but so many may still be on their way.
    pub(crate) fn publish_ahead(
        &mut self,
        frames: &[u8],
        count: u64,
        ahead: u64,
    ) -> Result<(), String> {
        self.stream.write_all(frames).map_err(text)?;
        self.sent += count;
        while self.confirms.done + ahead < self.sent {
            self.confirms.read(&mut self.stream)?;
        }
        Ok(())
    }
}
