//! One connection of the world: client, socket, and the broker's end of it.

use std::sync::{Arc, Weak};

use leveret_broker::{Broker, Connection, Origin, Peer};
use leveret_session::Flush;
use leveret_store::sim::Rng;

use crate::client::Client;
use crate::command::Command;
use crate::link::Link;
use crate::sight::Observer;

/// For writing the last frames of a connection, milliseconds.
const FAREWELL_MS: u64 = 3000;

/// A connection, from its first byte to its last.
pub(crate) struct Node {
    pub(crate) connection: Option<Connection>,
    pub(crate) link: Arc<Link>,
    pub(crate) client: Client,
    pub(crate) observer: Observer,
    pub(crate) peer: Weak<Peer>,
    /// Read and not yet understood.
    unread: Vec<u8>,
    /// Bytes read in all, bytes understood in all, commands understood in all.
    read: u64,
    understood: u64,
    commands: usize,
    unfinished: bool,
    paused_until_ms: u64,
    pace: Pace,
    /// The broker wants to hang up; by then it does.
    hangs_up_by_ms: Option<u64>,
    /// The client has closed its end.
    pub(crate) eof: bool,
    pub(crate) last_beat_ms: u64,
}

/// How many commands a reader may take at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Whatever has come.
    Free,
    /// One, or a batch of publishes.
    Batches,
    One,
}

/// What a reader did.
pub(crate) enum Read {
    /// There was nothing to do.
    Nothing,
    /// A turn, and the commands that were understood.
    Turn(Vec<(u16, Command)>),
    /// The connection is over.
    Over,
}

impl Node {
    pub(crate) fn new(broker: &Arc<Broker>, rng: &mut Rng, pace: Pace, now_ms: u64) -> Self {
        let capacity = [300, 4_096, 65_536][rng.below(3) as usize];
        let link = Arc::new(Link::new(broker, capacity));
        let origin = Origin {
            name: "simulated".into(),
            loopback: true,
            connected_at_ms: 0,
        };
        let flusher = Arc::clone(&link) as Arc<dyn Flush>;
        let connection = Connection::new(Arc::clone(broker), origin, now_ms, flusher);
        link.attach(Arc::clone(&connection.peer().outlet));
        Self {
            peer: Arc::downgrade(connection.peer()),
            connection: Some(connection),
            link,
            client: Client::new(rng),
            observer: Observer::default(),
            unread: Vec::new(),
            read: 0,
            understood: 0,
            commands: 0,
            unfinished: false,
            paused_until_ms: 0,
            pace,
            hangs_up_by_ms: None,
            eof: false,
            last_beat_ms: now_ms,
        }
    }

    pub(crate) const fn is_live(&self) -> bool {
        self.connection.is_some()
    }

    pub(crate) const fn is_paused(&self, now_ms: u64) -> bool {
        self.is_live() && now_ms < self.paused_until_ms
    }

    pub(crate) const fn hangs_up(&self) -> bool {
        self.is_live() && self.hangs_up_by_ms.is_some()
    }

    /// The reader's turn, with at most `most` new bytes.
    pub(crate) fn read(&mut self, most: usize, now_ms: u64) -> Read {
        let Some(connection) = &mut self.connection else {
            return Read::Nothing;
        };
        if self.link.is_broken() {
            return Read::Over;
        }
        if let Some(deadline) = self.hangs_up_by_ms {
            let over = self.link.queued() == 0 || now_ms >= deadline;
            return if over { Read::Over } else { Read::Nothing };
        }
        if now_ms < self.paused_until_ms {
            return Read::Nothing;
        }
        if connection.pause(false, now_ms).is_some() {
            if connection.peer().is_dead() {
                return Read::Over;
            }
            if !self.link.is_interrupted() {
                return Read::Nothing;
            }
            self.link.take_interrupt();
            return self.turn(true, now_ms);
        }
        if self.unfinished {
            return self.turn(false, now_ms);
        }
        if self.link.take_interrupt() {
            return self.turn(true, now_ms);
        }
        let len = self.readable().min(most as u64) as usize;
        if len > 0 {
            let bytes = self.client.outgoing.drain(..len);
            self.unread.extend(bytes);
            self.read += len as u64;
            return self.turn(false, now_ms);
        }
        if self.eof && self.client.outgoing.is_empty() {
            return Read::Over;
        }
        Read::Nothing
    }

    /// Bytes that may be read at once: a command that stands alone is read alone. Where it
    /// matters in which order commands and deliveries came, every command does.
    fn readable(&self) -> u64 {
        let left = self.client.outgoing.len() as u64;
        let mut sent = self.client.sent.iter().skip(self.commands);
        let stop = if self.pace != Pace::Free {
            let Some(first) = sent.next() else {
                return left;
            };
            let batches = self.pace == Pace::Batches;
            let batch = sent.take_while(|next| batches && next.continues(first));
            batch.last().unwrap_or(first).to
        } else {
            let Some(next) = sent.find(|sent| sent.command.stands_alone()) else {
                return left;
            };
            if self.read < next.from {
                next.from
            } else {
                next.to
            }
        };
        left.min(stop.saturating_sub(self.read))
    }

    fn turn(&mut self, without_input: bool, now_ms: u64) -> Read {
        let Some(connection) = &mut self.connection else {
            return Read::Nothing;
        };
        let input: &[u8] = if without_input { &[] } else { &self.unread };
        let turn = connection.receive(input, now_ms);
        self.unread.drain(..turn.consumed);
        self.understood += turn.consumed as u64;
        if !without_input {
            self.unfinished = turn.unfinished;
        }
        if turn.pause_ms > 0 {
            self.paused_until_ms = now_ms + turn.pause_ms;
        }
        if turn.ended {
            self.link.flush();
            self.hangs_up_by_ms = Some(now_ms + FAREWELL_MS);
        }
        let sent = self.client.sent.iter().skip(self.commands);
        let taken = sent.take_while(|sent| sent.to <= self.understood);
        let taken: Vec<_> = taken
            .map(|sent| (sent.channel, sent.command.clone()))
            .collect();
        self.commands += taken.len();
        Read::Turn(taken)
    }

    /// Takes the connection down, as its reader does at its end.
    pub(crate) fn take_down(&mut self) {
        self.link.drain();
        if let Some(mut connection) = self.connection.take() {
            connection.disconnect();
        }
        self.link.cut(true);
    }

    /// The broker ends without a word, and the connection with it.
    pub(crate) fn abandon(&mut self) {
        self.take_down();
        self.client.done = true;
        self.eof = true;
        self.link.tap();
    }

    /// The client goes away: part of what it had written still arrives, or with `reset` nothing.
    pub(crate) fn cut(&mut self, rng: &mut Rng, reset: bool) {
        let kept = if reset {
            0
        } else {
            rng.below(self.client.outgoing.len() as u64 + 1) as usize
        };
        self.client.outgoing.truncate(kept);
        self.client.done = true;
        self.eof = true;
        self.link.cut(reset);
    }
}
