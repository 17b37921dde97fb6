//! Consuming connections: count deliveries by their size, check them, acknowledge in batches.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use crate::connection::{Connection, text};
use crate::message::{AckTemplate, Checker};
use crate::progress::Progress;
use crate::publisher::{Publisher, READ_PAUSE, Timetable};
use crate::wire::{BASIC_DELIVER, CHANNEL_CLOSE, CONNECTION_CLOSE, Frame, close_text};

/// Bytes asked for in one read: a few writes of a fast broker.
pub const READ_BYTES: usize = 256 * 1024;

/// One consuming connection with one or more consumers of equal delivery size.
pub struct Consumer {
    stream: TcpStream,
    checker: Checker,
    ack: AckTemplate,
    /// Deliveries per cumulative ack; 0 for consumers without acknowledgement.
    ack_every: u64,
    acked: u64,
    /// Input that is not yet a whole delivery.
    rest: Vec<u8>,
    acks: Vec<u8>,
    /// Publishes one message for each delivered: a closed loop.
    echo: Option<Publisher>,
    latency: Option<Latency>,
}

/// Delivery times measured from the intended send time.
pub struct Latency {
    timetable: Timetable,
    /// The first message that counts; those before it are warm-up.
    first: u64,
    /// Microseconds of each message delivered.
    pub micros: Vec<u32>,
}

impl Latency {
    fn add(&mut self, seq: u64, now: Instant) {
        if seq >= self.first {
            let late = now.saturating_duration_since(self.timetable.due(seq));
            self.micros.push(late.as_micros() as u32);
        }
    }
}

impl Consumer {
    /// Takes over a connection with `rest` already read from it.
    pub fn new(stream: TcpStream, rest: Vec<u8>, checker: Checker, ack_every: u64) -> Self {
        let (ack, acks) = (AckTemplate::multiple(), Vec::new());
        let (echo, latency) = (None, None);
        Self {
            stream,
            checker,
            ack,
            ack_every,
            acked: 0,
            rest,
            acks,
            echo,
            latency,
        }
    }

    /// Publishes one message for each delivery, on `publisher`.
    pub fn set_echo(&mut self, publisher: Publisher) {
        self.echo = Some(publisher);
    }

    /// Measures latency against `timetable`, after `warm_up`.
    pub fn measure(&mut self, timetable: Timetable, warm_up: Duration) {
        let first = (warm_up.as_secs_f64() * f64::from(timetable.rate)) as u64;
        let micros = Vec::new();
        self.latency = Some(Latency {
            timetable,
            first,
            micros,
        });
    }

    /// The publisher of a closed loop.
    pub fn echo_mut(&mut self) -> Option<&mut Publisher> {
        self.echo.as_mut()
    }

    /// Latencies so far, in µs, in order of sending.
    pub fn latencies(&mut self) -> Vec<u32> {
        self.latency
            .take()
            .map_or_else(Vec::new, |latency| latency.micros)
    }

    /// Its socket, to be waited for.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads once and handles all whole deliveries.
    pub fn turn(&mut self, buffer: &mut [u8], progress: &Progress) -> Result<(), String> {
        let held = self.rest.len();
        buffer[..held].copy_from_slice(&self.rest);
        let count = match self.stream.read(&mut buffer[held..]) {
            Ok(0) => return Err("the broker closed a consumer's socket".into()),
            Ok(count) => count,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(e) => return Err(format!("consume: {e}")),
        };
        let input = &buffer[..held + count];
        let (used, messages) = self.deliveries(input)?;
        self.rest.clear();
        self.rest.extend_from_slice(&input[used..]);
        progress.add_delivered(messages);
        self.answer(messages, progress)
    }

    fn deliveries(&mut self, input: &[u8]) -> Result<(usize, u64), String> {
        let size = self.checker.shape().bytes;
        let now = self.latency.as_ref().map(|_| Instant::now());
        let (mut at, mut messages) = (0, 0);
        loop {
            let left = &input[at..];
            if self.checker.shape().matches(left) {
                let seq = self.checker.check(&left[..size])?;
                if let (Some(latency), Some(now)) = (&mut self.latency, now) {
                    latency.add(seq, now);
                }
                (at, messages) = (at + size, messages + 1);
            } else if left.is_empty() || self.checker.shape().may_match(left) {
                return Ok((at, messages));
            } else {
                match Frame::read(left)? {
                    Some(frame) => at += other_frame(frame)?,
                    None => return Ok((at, messages)),
                }
            }
        }
    }

    /// Acknowledges, and keeps a closed loop going.
    fn answer(&mut self, messages: u64, progress: &Progress) -> Result<(), String> {
        if self.ack_every > 0 {
            let done = self.delivered(messages);
            while done - self.acked >= self.ack_every {
                self.acked += self.ack_every;
                self.acks.extend_from_slice(self.ack.up_to(self.acked));
            }
            if !self.acks.is_empty() {
                self.stream
                    .write_all(&self.acks)
                    .map_err(|e| format!("ack: {e}"))?;
                self.acks.clear();
            }
        }
        match &mut self.echo {
            Some(publisher) if !progress.publishing_ends() => publisher.publish(messages, progress),
            _ => Ok(()),
        }
    }

    fn delivered(&self, messages: u64) -> u64 {
        match self.checker.delivery_tag() {
            0 => self.acked + messages, // the pipe floor has no tags and discards acks
            tag => tag,
        }
    }

    /// Acknowledges the rest and closes; anything delivered beyond what was published fails.
    pub fn close(mut self) -> Result<(), String> {
        if self.ack_every > 0 && self.checker.delivery_tag() > self.acked {
            let last = *self.ack.up_to(self.checker.delivery_tag());
            self.stream.write_all(&last).map_err(text)?;
        }
        if let Some(publisher) = self.echo.take() {
            publisher.close()?;
        }
        if !self.checker.shape().is_amqp() {
            return Ok(());
        }
        Connection::from_parts(self.stream, self.rest)?.close()
    }
}

/// Skips a frame that is not a delivery; returns its size.
fn other_frame(frame: Frame<'_>) -> Result<usize, String> {
    match frame.method() {
        Some((CHANNEL_CLOSE | CONNECTION_CLOSE, fields)) => {
            Err(format!("closed by the server: {}", close_text(fields)))
        }
        Some((BASIC_DELIVER, _)) => Err("corrupt: a delivery of another size".into()),
        None if frame.kind != 8 => Err(format!("a lone frame of type {}", frame.kind)),
        _ => Ok(frame.size()),
    }
}

/// Runs consumers on this thread until told to stop.
pub fn run(consumers: &mut [Consumer], progress: &Progress) -> Result<(), String> {
    let mut buffer = vec![0; READ_BYTES];
    for consumer in consumers.iter_mut() {
        consumer
            .stream
            .set_read_timeout(Some(READ_PAUSE))
            .map_err(text)?;
    }
    if let [consumer] = consumers {
        while !progress.consuming_ends() {
            consumer.turn(&mut buffer, progress)?;
        }
        return Ok(());
    }
    run_many(consumers, &mut buffer, progress)
}

fn run_many(
    consumers: &mut [Consumer],
    buffer: &mut [u8],
    progress: &Progress,
) -> Result<(), String> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(text)?;
    for (index, consumer) in (0..).zip(consumers.iter()) {
        let data = epoll::EventData::new_u64(index);
        epoll::add(&poll, &consumer.stream, data, epoll::EventFlags::IN).map_err(text)?;
    }
    let mut events = Vec::with_capacity(consumers.len());
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: READ_PAUSE.as_nanos() as _,
    };
    while !progress.consuming_ends() {
        events.clear();
        match epoll::wait(
            &poll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&pause),
        ) {
            Err(rustix::io::Errno::INTR) => continue,
            result => drop(result.map_err(text)?),
        }
        for event in &events {
            let index = event.data.u64() as usize;
            consumers[index].turn(buffer, progress)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::connection::CHANNEL;
    use crate::message::{Address, Content, DeliveryShape, PublishBatch, consumer_tag};
    use crate::wire::{Method, content_body};

    fn address() -> Address {
        Address {
            exchange: "exchange".into(),
            key: "a routing key of 20b".into(),
        }
    }

    /// Sends deliveries with these numbers, `tamper`ed, to a consumer and returns its verdict.
    fn verdict(seqs: &[u64], tamper: fn(&mut Vec<u8>)) -> Result<u64, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut relay = listener.accept().unwrap().0;
        let mut bytes = Vec::new();
        for (tag, seq) in (1_u64..).zip(seqs) {
            let deliver = Method::new(CHANNEL, BASIC_DELIVER)
                .short(consumer_tag(0))
                .u64(tag)
                .u8(0);
            bytes.extend(
                deliver
                    .short("exchange")
                    .short("a routing key of 20b")
                    .finish(),
            );
            let mut batch = PublishBatch::new(&address(), 0, Content::transient(16), 0);
            bytes.extend(&batch.stamp(*seq, 1)[45..]);
        }
        tamper(&mut bytes);
        let sender = thread::spawn(move || {
            for part in bytes.chunks(37) {
                // A consumer that has found what it looks for hangs up early.
                if relay.write_all(part).is_err() {
                    break;
                }
            }
            relay
        });
        let shape = DeliveryShape::deliver(&address(), Content::transient(16));
        let consumer = Consumer::new(stream, Vec::new(), Checker::new(shape, 1, 1), 2);
        let progress = Progress::default();
        progress.add_published(seqs.len() as u64);
        let result = thread::scope(|scope| {
            let running = scope.spawn(|| run(&mut [consumer], &progress));
            while progress.delivered() < seqs.len() as u64 && !running.is_finished() {
                thread::yield_now();
            }
            progress.end_consuming();
            running.join().unwrap()
        });
        drop(sender.join().unwrap());
        result.map(|()| progress.delivered())
    }

    #[test]
    fn deliveries_in_pieces_are_counted() {
        assert_eq!(verdict(&[0, 1, 2, 3, 4], |_| ()), Ok(5));
    }

    #[test]
    fn a_heartbeat_between_deliveries_is_skipped() {
        let beat = |bytes: &mut Vec<u8>| drop(bytes.splice(0..0, [8, 0, 0, 0, 0, 0, 0, 0xCE]));
        assert_eq!(verdict(&[0, 1], beat), Ok(2));
    }

    #[test]
    fn a_relay_that_drops_reorders_or_corrupts_is_found() {
        assert!(verdict(&[0, 1, 3], |_| ()).unwrap_err().contains("lost"));
        assert!(
            verdict(&[0, 1, 1], |_| ())
                .unwrap_err()
                .contains("repeated")
        );
        let flip = |bytes: &mut Vec<u8>| bytes[104 - 1 - 4] ^= 1;
        assert!(verdict(&[0, 1], flip).unwrap_err().contains("not its own"));
        let lone = |bytes: &mut Vec<u8>| drop(bytes.splice(0..0, content_body(CHANNEL, b"x")));
        assert!(verdict(&[0, 1], lone).unwrap_err().contains("lone frame"));
        let close = |bytes: &mut Vec<u8>| {
            let close = Method::new(CHANNEL, CHANNEL_CLOSE)
                .u16(404)
                .short("NOT_FOUND");
            bytes.splice(0..0, close.u32(0).finish());
        };
        assert!(verdict(&[0], close).unwrap_err().contains("404"));
    }

    #[test]
    fn messages_that_never_come_fail_the_drain() {
        let progress = Progress::default();
        progress.add_published(1);
        progress.add_delivered(2);
        assert!(progress.drain(1).unwrap_err().contains("2 deliveries of 1"));
        progress.fail("stop".into());
        assert_eq!(progress.drain(2), Err("stop".into()));
    }
}
