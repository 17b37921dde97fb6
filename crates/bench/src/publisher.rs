//! One publishing connection: streams, keeps a confirm window full, or sends on a timetable.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::connection::{Connection, text};
use crate::message::PublishBatch;
use crate::progress::Progress;
use crate::wire::{
    BASIC_ACK, BASIC_NACK, CHANNEL_CLOSE, CONNECTION_CLOSE, Fields, Frame, close_text,
};

/// A read gives up after this long, to look at the stop flags.
pub const READ_PAUSE: Duration = Duration::from_millis(50);
/// A confirm must arrive within this time.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// What decides when the next message is sent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// TCP back-pressure, and at most so many copies published but not delivered.
    Stream {
        /// Copies.
        outstanding: u64,
    },
    /// At most so many unconfirmed messages, and of undelivered copies as in `Stream`.
    Confirms {
        /// Messages.
        window: u64,
        /// Copies.
        outstanding: u64,
    },
    /// At most so many undelivered messages: the consumer's thread publishes the next.
    Deliveries {
        /// Messages.
        window: u64,
    },
    /// Open loop: message `i` is due at start + i / rate.
    Timetable(Timetable),
}

/// Intended send times.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Timetable {
    /// When message 0 is due.
    pub start: Instant,
    /// Messages per second.
    pub rate: u32,
}

impl Timetable {
    /// When message `seq` is due.
    pub fn due(&self, seq: u64) -> Instant {
        self.start + Duration::from_nanos(seq * 1_000_000_000 / u64::from(self.rate))
    }

    /// How many messages are due by `now`.
    fn due_by(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_nanos();
        (elapsed * u128::from(self.rate) / 1_000_000_000) as u64 + 1
    }
}

/// A connection that publishes.
pub struct Publisher {
    stream: TcpStream,
    batch: PublishBatch,
    sent: u64,
    speaks_amqp: bool,
}

impl Publisher {
    /// Takes over an open AMQP connection or, for the pipe floor, a plain socket.
    pub fn new(stream: TcpStream, batch: PublishBatch, speaks_amqp: bool) -> Self {
        Self {
            stream,
            batch,
            sent: 0,
            speaks_amqp,
        }
    }

    /// Publishes until told to stop; `copies` is the number of queues each message reaches.
    pub fn run(&mut self, pace: Pace, copies: u64, progress: &Progress) -> Result<(), String> {
        match pace {
            Pace::Stream { outstanding } => self.stream(outstanding, copies, progress),
            Pace::Confirms {
                window,
                outstanding,
            } => self.confirms(window, outstanding, progress),
            Pace::Timetable(timetable) => self.timetable(timetable, progress),
            Pace::Deliveries { .. } => Ok(()), // its consumer publishes
        }
    }

    /// Publishes the next `count` messages.
    pub fn publish(&mut self, count: u64, progress: &Progress) -> Result<(), String> {
        let end = self.sent + count;
        while self.sent < end {
            let some = (end - self.sent).min(self.batch.capacity());
            progress.add_published(some);
            let frames = self.batch.stamp(self.sent, some);
            self.stream
                .write_all(frames)
                .map_err(|e| format!("publish: {e}"))?;
            self.sent += some;
        }
        Ok(())
    }

    fn stream(&mut self, limit: u64, copies: u64, progress: &Progress) -> Result<(), String> {
        while !progress.publishing_ends() {
            progress.wait_below(limit, copies);
            self.publish(self.batch.capacity(), progress)?;
        }
        Ok(())
    }

    fn timetable(&mut self, timetable: Timetable, progress: &Progress) -> Result<(), String> {
        precise_sleep();
        while !progress.publishing_ends() {
            let now = Instant::now();
            let due = timetable.due_by(now).saturating_sub(self.sent);
            if now < timetable.start || due == 0 {
                std::thread::sleep(timetable.due(self.sent).saturating_duration_since(now));
                continue;
            }
            self.publish(due, progress)?;
        }
        Ok(())
    }

    fn confirms(&mut self, window: u64, limit: u64, progress: &Progress) -> Result<(), String> {
        self.stream
            .set_read_timeout(Some(CONFIRM_TIMEOUT))
            .map_err(text)?;
        let mut confirms = Confirms::new(self.sent);
        loop {
            let room = window.saturating_sub(self.sent - confirms.done);
            if !progress.publishing_ends() {
                progress.wait_below(limit, 1);
                self.publish(room, progress)?;
            } else if confirms.done == self.sent {
                return Ok(());
            } else if progress.failure().is_some() {
                return Ok(()); // told elsewhere
            }
            let before = confirms.done;
            confirms.read(&mut self.stream)?;
            progress.add_confirmed(confirms.done - before);
        }
    }

    /// Closes in good order; reports an error the server had sent.
    pub fn close(self) -> Result<(), String> {
        if !self.speaks_amqp {
            return Ok(());
        }
        Connection::from_parts(self.stream, Vec::new())?.close()
    }
}

/// Lets short sleeps end on time instead of up to 50 µs late.
fn precise_sleep() {
    let slack = std::num::NonZeroU64::new(1);
    // Without it latencies read a little longer, the same for every broker.
    let _ = rustix::thread::set_current_timer_slack(slack);
}

/// Counts confirms, also ones that come singly and out of order.
pub struct Confirms {
    /// Messages confirmed without a gap, from the first.
    pub done: u64,
    beyond: std::collections::BTreeSet<u64>,
    input: Vec<u8>,
    buffer: Vec<u8>,
}

impl Confirms {
    /// With `done` messages confirmed so far.
    pub fn new(done: u64) -> Self {
        let (input, buffer) = (Vec::new(), vec![0; 16 * 1024]);
        Self {
            done,
            beyond: std::collections::BTreeSet::new(),
            input,
            buffer,
        }
    }

    /// Reads once and applies what has come.
    pub fn read(&mut self, stream: &mut TcpStream) -> Result<(), String> {
        let count = stream
            .read(&mut self.buffer)
            .map_err(|e| format!("waiting to confirm: {e}"))?;
        if count == 0 {
            return Err("the broker closed a publisher's socket".into());
        }
        self.input.extend_from_slice(&self.buffer[..count]);
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        while let Some(frame) = Frame::read(&input[at..])? {
            at += frame.size();
            self.apply(frame)?;
        }
        self.input.extend_from_slice(&input[at..]);
        Ok(())
    }

    fn apply(&mut self, frame: Frame<'_>) -> Result<(), String> {
        match frame.method() {
            Some((BASIC_ACK, fields)) => self.ack(fields),
            Some((BASIC_NACK, _)) => return Err("the broker refused a message (nack)".into()),
            Some((CHANNEL_CLOSE | CONNECTION_CLOSE, fields)) => {
                return Err(format!("closed by the server: {}", close_text(fields)));
            }
            _ => {}
        }
        Ok(())
    }

    fn ack(&mut self, mut fields: Fields<'_>) {
        let (tag, multiple) = (fields.u64(), fields.u8() & 1 == 1);
        if multiple {
            self.done = self.done.max(tag);
            self.beyond.retain(|one| *one > tag);
        } else if tag > self.done {
            self.beyond.insert(tag);
        }
        while self.beyond.first() == Some(&(self.done + 1)) {
            self.beyond.pop_first();
            self.done += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Method;

    fn ack(confirms: &mut Confirms, tag: u64, multiple: u8) {
        let bytes = Method::new(1, BASIC_ACK).u64(tag).u8(multiple).finish();
        confirms
            .apply(Frame::read(&bytes).unwrap().unwrap())
            .unwrap();
    }

    #[test]
    fn single_confirms_out_of_order_count_once_the_gap_closes() {
        let mut confirms = Confirms::new(0);
        ack(&mut confirms, 2, 0);
        ack(&mut confirms, 3, 0);
        assert_eq!(confirms.done, 0);
        ack(&mut confirms, 1, 0);
        assert_eq!(confirms.done, 3);
        ack(&mut confirms, 10, 1);
        assert_eq!(confirms.done, 10);
    }

    #[test]
    fn a_refused_message_fails_the_run() {
        let bytes = Method::new(1, BASIC_NACK).u64(1).u8(0).finish();
        assert!(
            Confirms::new(0)
                .apply(Frame::read(&bytes).unwrap().unwrap())
                .is_err()
        );
    }

    #[test]
    fn the_timetable_charges_lateness_to_every_message_due() {
        let start = Instant::now();
        let timetable = Timetable { start, rate: 1000 };
        assert_eq!(timetable.due(5), start + Duration::from_millis(5));
        assert_eq!(timetable.due_by(start), 1);
        assert_eq!(timetable.due_by(start + Duration::from_micros(4500)), 5);
    }
}
