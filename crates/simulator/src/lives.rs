//! Worlds where messages die: each copy of each message, from its coming into a queue to its end.
//!
//! After each step the model sees what the queues hold, and explains every difference: by the
//! step's commands, by what clients were told, or by a death for which there is a reason. What
//! dies in a queue with a dead-letter exchange must be found where that leads, once.

mod crash;
mod judge;
mod scene;
mod way;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use leveret_broker::{Broker, Death, QueueCell, Rank};

use crate::command::{Message, Spec};
use crate::deaths::Deaths;
use crate::ledger::Arrival;
use crate::model::{Model, QueueKey, Step, StepKind};
use crate::sight::read_header;

use scene::Scene;

pub(crate) use crash::Found;

/// A copy's number among all there ever were.
pub(crate) type LifeId = usize;
/// Where a message stands in its queue: what is served first comes first.
pub(crate) type Place = (Reverse<u8>, u64);
/// A delivery that waits for its settlement.
type Ticket = u64;

/// How much longer than it may live a message may be counted, milliseconds.
const LATE_MS: u64 = 1000;

/// A ready message, as the broker has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) message: Message,
    pub(crate) deaths: Deaths,
    pub(crate) redelivered: bool,
    pub(crate) failed: u32,
}

/// A queue, as the broker has it.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) ready: BTreeMap<Place, Entry>,
    /// Messages that died and were not moved on.
    pub(crate) dead: usize,
    /// Its lanes in the store, with their levels.
    pub(crate) lanes: Vec<(u8, u32)>,
}

/// One copy of a message in one queue.
#[derive(Clone, Debug)]
struct Life {
    message: Message,
    /// What it was published with last.
    key: String,
    deaths: Deaths,
    queue: QueueKey,
    /// Unknown if it was delivered in the step in which it came.
    place: Option<Place>,
    entered_ms: u64,
    redelivered: bool,
    failed: u32,
    /// The disk is to have it.
    stored: bool,
    ended: bool,
    /// What the disk has surely: that it came, that it ended, how often it had failed.
    born_surely: bool,
    ended_surely: bool,
    failed_surely: u32,
    parent: Option<LifeId>,
    children: Vec<LifeId>,
}

/// The living of one queue.
#[derive(Debug, Default)]
struct Places {
    ready: BTreeMap<Place, LifeId>,
    out: BTreeMap<Ticket, LifeId>,
    /// In the order they died.
    dying: VecDeque<(LifeId, Death)>,
    /// The lowest sequence number of a level that nobody had.
    next: BTreeMap<u8, u64>,
}

/// All copies of all messages.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    lives: Vec<Life>,
    queues: BTreeMap<QueueKey, Places>,
    now_ms: u64,
    /// What deliveries were of.
    tickets: BTreeMap<Ticket, (Message, Deaths)>,
    /// Routing keys of publishes, and their messages by number.
    keys: BTreeMap<Message, String>,
    arrived: BTreeMap<Arrival, Message>,
    /// Lanes of the store: queue and level.
    lanes: BTreeMap<u32, (QueueKey, u8)>,
}

impl Shown {
    /// Looks at a queue.
    ///
    /// # Errors
    /// It holds what nobody published.
    pub(crate) fn of(broker: &Broker, cell: &QueueCell) -> Result<Self, String> {
        let (mut ready, mut wrong) = (BTreeMap::new(), None);
        let from = Rank {
            level: u8::MAX,
            seq: 0,
        };
        for seen in broker.peek(cell, from, (usize::MAX, usize::MAX)) {
            match read_header(&seen.header) {
                Ok((message, deaths)) => {
                    let entry = Entry {
                        message,
                        deaths,
                        redelivered: seen.attempts.acquired > 0,
                        failed: seen.attempts.failed,
                    };
                    ready.insert((Reverse(seen.rank.level), seen.rank.seq), entry);
                }
                Err(reason) => wrong = Some(reason),
            }
        }
        let state = cell.lock();
        let lanes = cell.lanes().map(|(level, lane)| (level, lane.0));
        match wrong {
            Some(reason) => Err(format!("{} holds {reason}", cell.name)),
            None => Ok(Self {
                ready,
                dead: state.queue.dead(),
                lanes: lanes.collect(),
            }),
        }
    }
}

impl Spec {
    /// The level of a message.
    fn level(self, message: Message) -> u8 {
        let priority = message.priority.unwrap_or(0);
        priority.min(self.mortality.priority_max)
    }
}

impl Life {
    fn deadline_ms(&self, spec: Spec) -> u64 {
        let own = self.message.expiration_ms;
        let own = own.filter(|_| self.deaths.is_empty());
        let waits = [own, spec.mortality.ttl_ms].into_iter().flatten().min();
        waits.map_or(u64::MAX, |waits| self.entered_ms + u64::from(waits))
    }

    fn is_of(&self, message: Message, deaths: &Deaths) -> bool {
        self.message == message && self.deaths == *deaths
    }
}

impl Lives {
    /// Notes what a delivery is of, and gives it a number.
    pub(crate) fn delivery_of(&mut self, message: Message, deaths: Deaths) -> Ticket {
        let ticket = self.tickets.len() as Ticket;
        self.tickets.insert(ticket, (message, deaths));
        ticket
    }

    /// A message is published, or a transaction has it.
    pub(crate) fn published(&mut self, message: Message, key: &str) {
        self.keys.insert(message, key.into());
    }

    pub(crate) fn arrives(&mut self, arrival: Arrival, message: Message) {
        self.arrived.insert(arrival, message);
    }

    /// How many messages of a queue are ready, and how many of them are not past their deadline.
    pub(crate) fn ready(&self, key: QueueKey, spec: Spec) -> (usize, usize) {
        let Some(places) = self.queues.get(&key) else {
            return (0, 0);
        };
        let lives = places.ready.values().map(|id| &self.lives[*id]);
        let lives = lives.filter(|life| life.deadline_ms(spec) > self.now_ms);
        (places.ready.len(), lives.count())
    }

    fn begin(&mut self, life: Life) -> LifeId {
        self.lives.push(life);
        self.lives.len() - 1
    }

    fn end(&mut self, id: LifeId) {
        self.lives[id].ended = true;
    }

    /// Everything in a queue ends, with those that came just now. What has died goes on before, and
    /// what may have in the same step may.
    fn end_all(&mut self, scene: &Scene<'_>, came: &[LifeId]) {
        let places = self.queues.remove(&scene.key).unwrap_or_default();
        places.out.values().for_each(|id| self.end(*id));
        let mut dying = places.dying;
        for id in places.ready.values().chain(came) {
            self.end(*id);
            if self.lives[*id].deadline_ms(scene.spec) <= self.now_ms {
                dying.push_back((*id, Death::Expired));
            }
            if scene.spec.length_max.is_some() {
                dying.push_back((*id, Death::MaxLength));
            }
        }
        if scene.spec.mortality.letters.is_some() {
            self.places(scene.key).dying = dying;
        } else {
            dying.iter().for_each(|(id, _)| self.end(*id));
        }
    }

    fn places(&mut self, key: QueueKey) -> &mut Places {
        self.queues.entry(key).or_default()
    }
}

impl Model {
    /// Queues that nobody has used for long are gone, and no others.
    pub(crate) fn expire_queues(&mut self, step: &Step) -> Result<(), String> {
        self.now_ms = step.now_ms;
        let live: Vec<_> = self.names.values().copied().collect();
        for key in live {
            let queue = &self.queues[key];
            let name = crate::command::queue_name(queue.number);
            let Some(expires_ms) = queue.spec.mortality.expires_ms else {
                continue;
            };
            let ends_ms = queue.used_ms + u64::from(expires_ms);
            let is_due = queue.consumers.is_empty() && ends_ms <= step.now_ms;
            let ticked = step.kind == StepKind::Tick;
            match step.queues.contains_key(&name) {
                false if is_due && ticked => self.delete_queue(key, None),
                true if is_due && ticked => {
                    return Err(format!("{name} lives on, it was used at {}", queue.used_ms));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Somebody uses a queue.
    pub(crate) fn used(&mut self, key: QueueKey) {
        self.queues[key].used_ms = self.now_ms;
    }
}
