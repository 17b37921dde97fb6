//! What the broker owes: topology, channels and messages as plain lists, advanced by the same
//! commands the broker was given, in the order it took them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::command::{Command, Message, Spec, Verdict, queue_name};
use crate::deaths::Deaths;
use crate::leases::Leases;
use crate::ledger::{Arrival, Counts, Delivery, Event, Ledger};
use crate::lives::{Lives, Shown};
use crate::sight::{Reply, Seen, Sight};

/// A queue that is or was.
pub(crate) type QueueKey = usize;

/// What happened in one step of the world.
#[derive(Debug)]
pub(crate) struct Step {
    /// Whose commands were taken, and which.
    pub(crate) turn: Option<(usize, Vec<(u16, Command)>)>,
    /// A connection that was taken down after that.
    pub(crate) left: Option<usize>,
    /// Bytes each connection had been told at the end.
    pub(crate) told: Vec<u64>,
    /// The broker's queues at the end.
    pub(crate) queues: BTreeMap<String, Counts>,
    /// Connections whose socket was gone: they are told nothing more.
    pub(crate) deaf: BTreeSet<usize>,
    /// What is in the queues, in worlds where messages die.
    pub(crate) shown: BTreeMap<String, Shown>,
    pub(crate) now_ms: u64,
    pub(crate) kind: StepKind,
}

/// What a step is, besides the commands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepKind {
    Other,
    /// Time has passed, and what was due was done.
    Tick,
    /// All that was submitted is durable.
    Durable,
}

/// A delivery that waits for its settlement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) arrival: Arrival,
    /// `None`: fetched with `basic.get` from `queue`.
    pub(crate) consumer: Option<u64>,
    pub(crate) queue: Option<QueueKey>,
    pub(crate) step: usize,
    pub(crate) handed_ms: u64,
}

/// What is known of a consumer from its command alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) connection: usize,
    pub(crate) channel: u16,
    pub(crate) no_ack: bool,
    /// Once its command was taken.
    pub(crate) queue: Option<QueueKey>,
    /// How long its deliveries may wait, if not as long as others of the queue.
    pub(crate) timeout_ms: Option<u16>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Confirming {
    /// Its connection and channel.
    pub(crate) place: (usize, u16),
    /// In which step its channel ended: until then it may be told of.
    pub(crate) ended: Option<usize>,
    /// For each publish: the step, and whether a queue refused it.
    pub(crate) publishes: Vec<(usize, bool)>,
    pub(crate) confirmed: usize,
}

/// What a channel has done since its last commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transaction {
    /// Messages, where they go, and whether they are returned if that is nowhere.
    pub(crate) publishes: Vec<(Message, Vec<QueueKey>, bool)>,
    pub(crate) settlements: Vec<(u64, Held, Verdict)>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Channel {
    /// The server has closed it and waits for the answer.
    pub(crate) closing: bool,
    /// Its place among the model's.
    pub(crate) confirming: Option<usize>,
    pub(crate) transaction: Option<Transaction>,
    pub(crate) prefetch: u16,
    pub(crate) prefetch_global: u16,
    pub(crate) consumers: BTreeMap<u64, QueueKey>,
    pub(crate) unacked: BTreeMap<u64, Held>,
    pub(crate) leases: Leases,
    /// Answers that wait for the disk.
    pub(crate) waiting: VecDeque<Reply>,
    /// For each deletion that was not answered yet the channel's own consumers that end with it.
    pub(crate) ending: VecDeque<Vec<u64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Stage {
    #[default]
    Running,
    /// The server has closed the connection and waits for the answer.
    Closing,
    Ended,
}

/// A connection and what was seen of it.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) stage: Stage,
    pub(crate) channels: BTreeMap<u16, Channel>,
    /// Channels whose answers wait, in the order they began to.
    pub(crate) holding: Vec<u16>,
    /// Answers not yet matched with a command, by channel.
    pub(crate) answers: BTreeMap<u16, VecDeque<(u64, Reply)>>,
    /// Everything else not yet judged.
    pub(crate) seen: VecDeque<Seen>,
    /// The last delivery tag of each channel.
    pub(crate) tags: BTreeMap<u16, u64>,
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) number: u8,
    pub(crate) spec: Spec,
    pub(crate) owner: Option<usize>,
    pub(crate) gone: bool,
    pub(crate) ledger: Ledger,
    /// Consumers, as the commands have it; the ledger has them once the step is judged.
    pub(crate) consumers: Vec<(u64, bool)>,
    /// When somebody used it last.
    pub(crate) used_ms: u64,
}

impl Queue {
    /// Whether it is there after a restart.
    pub(crate) const fn is_lasting(&self) -> bool {
        self.spec.durable && self.owner.is_none()
    }
}

/// A publish whose outcome the queues decide.
#[derive(Debug)]
pub(crate) struct Undecided {
    pub(crate) confirming: usize,
    pub(crate) index: usize,
    pub(crate) arrival: Arrival,
    pub(crate) queues: Vec<QueueKey>,
}

/// What the broker owes, told by what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) sessions: Vec<Session>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) names: BTreeMap<u8, QueueKey>,
    /// Exchange, queue, binding key.
    pub(crate) bindings: BTreeSet<(u8, QueueKey, &'static str)>,
    pub(crate) arrivals: BTreeMap<Message, Arrival>,
    pub(crate) next_arrival: Arrival,
    pub(crate) step: usize,
    /// When the step was.
    pub(crate) now_ms: u64,
    /// Bounds of the broker's configuration.
    pub(crate) channel_unacked_max: usize,
    pub(crate) events: BTreeMap<QueueKey, Vec<Event>>,
    pub(crate) undecided: Vec<Undecided>,
    pub(crate) confirming: Vec<Confirming>,
    /// Told in this step: consumers that end with their queue, and returned messages.
    pub(crate) cancels: BTreeSet<u64>,
    pub(crate) returns: VecDeque<(usize, u16, Message)>,
    pub(crate) plans: BTreeMap<u64, Plan>,
    /// Each copy of each message, in worlds where messages die.
    pub(crate) lives: Option<Box<Lives>>,
    /// Something about queues or bindings is not durable yet.
    pub(crate) unsettled_topology: bool,
}

impl Channel {
    /// Deliveries to consumers, which count against prefetch: also those whose settlement is not
    /// committed.
    pub(crate) fn consumed(&self) -> usize {
        let staged = self.transaction.iter().flat_map(|one| &one.settlements);
        let held = self.unacked.values().chain(staged.map(|(_, held, _)| held));
        held.filter(|held| held.consumer.is_some()).count()
    }

    /// Whether a transaction has settled something.
    pub(crate) fn is_uncommitted(&self) -> bool {
        let staged = self.transaction.as_ref();
        staged.is_some_and(|staged| !staged.settlements.is_empty())
    }

    /// All that counts against the broker's own bound.
    pub(crate) fn out(&self) -> usize {
        let staged = self.transaction.as_ref();
        self.unacked.len() + staged.map_or(0, |staged| staged.settlements.len())
    }

    /// Whether a consumer of this channel may be given one more.
    pub(crate) fn has_room(&self, unacked_max: usize) -> bool {
        let prefetch = usize::from(self.prefetch_global);
        self.out() < unacked_max && (prefetch == 0 || self.consumed() < prefetch)
    }
}

impl Model {
    /// Takes what a connection was told.
    pub(crate) fn hear(&mut self, connection: usize, seen: Vec<Seen>) {
        let session = &mut self.sessions[connection];
        for seen in seen {
            if let Sight::Reply(reply) = &seen.sight {
                let answers = session.answers.entry(seen.channel).or_default();
                answers.push_back((seen.at, reply.clone()));
            }
            session.seen.push_back(seen);
        }
    }

    /// How many messages are ready in a queue, and how many of them may still be delivered.
    pub(crate) fn ready_in(&self, key: QueueKey) -> (usize, usize) {
        let queue = &self.queues[key];
        match &self.lives {
            Some(lives) => lives.ready(key, queue.spec),
            None => (queue.ledger.ready.len(), queue.ledger.ready.len()),
        }
    }

    /// Judges one step.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn judge(&mut self, step: &Step) -> Result<(), String> {
        self.step += 1;
        self.expire_queues(step)?;
        self.note_plans(step);
        let heard = self.heard(step);
        let deliveries = self.note_deliveries(&heard)?;
        if let Some((connection, commands)) = &step.turn {
            self.take_back(*connection, step)?;
            for (channel, command) in commands {
                self.command(*connection, *channel, command, step)?;
            }
            self.release(*connection, step)?;
        }
        if let Some(connection) = step.left {
            self.leave(connection);
            self.sessions[connection].stage = Stage::Ended;
        }
        self.begin_leases();
        self.explain(deliveries, step)?;
        self.decide();
        self.check_told(&heard, step)?;
        self.check_channels()
    }

    fn note_plans(&mut self, step: &Step) {
        let Some((connection, commands)) = &step.turn else {
            return;
        };
        for (channel, command) in commands {
            let state = self.sessions[*connection].channels.get(channel);
            let transaction = state.and_then(|state| state.transaction.as_ref());
            // What is published in a transaction has its place from the commit.
            let published: Vec<Message> = match (command, transaction) {
                (Command::Publish { message, .. }, None) => vec![*message],
                (Command::TxCommit, Some(staged)) => staged
                    .publishes
                    .iter()
                    .map(|(message, ..)| *message)
                    .collect(),
                _ => Vec::new(),
            };
            for message in published {
                if let Some(lives) = &mut self.lives {
                    lives.arrives(self.next_arrival, message);
                }
                self.arrivals.insert(message, self.next_arrival);
                self.next_arrival += 1;
            }
            if let Command::Consume {
                tag,
                no_ack,
                timeout_ms,
                ..
            } = command
            {
                let plan = Plan {
                    connection: *connection,
                    channel: *channel,
                    no_ack: *no_ack,
                    queue: None,
                    timeout_ms: *timeout_ms,
                };
                self.plans.insert(*tag, plan);
            }
        }
    }

    /// The broker has ended and begun again, in a quiet moment: what is durable is still there.
    pub(crate) fn restart(&mut self, now_ms: u64) {
        for session in &mut self.sessions {
            *session = Session {
                stage: Stage::Ended,
                ..Session::default()
            };
        }
        let persistent = self
            .arrivals
            .iter()
            .filter(|(message, _)| message.persistent);
        let persistent: BTreeSet<Arrival> = persistent.map(|(_, arrival)| *arrival).collect();
        let queues = self.queues.iter_mut().enumerate();
        for (key, queue) in queues.filter(|(_, it)| !it.gone) {
            if queue.is_lasting() {
                queue.used_ms = now_ms;
                queue.consumers.clear();
                queue.ledger.restart(|arrival| persistent.contains(arrival));
            } else {
                queue.gone = true;
                self.names.remove(&queue.number);
                self.bindings.retain(|(_, bound, _)| *bound != key);
            }
        }
    }

    /// What was told in this step, connection by connection.
    fn heard(&mut self, step: &Step) -> Vec<(usize, Seen)> {
        let mut heard = Vec::new();
        for (connection, session) in self.sessions.iter_mut().enumerate() {
            let told = step.told.get(connection).copied().unwrap_or(0);
            while session.seen.front().is_some_and(|seen| seen.at <= told)
                && let Some(seen) = session.seen.pop_front()
            {
                heard.push((connection, seen));
            }
        }
        heard
    }

    /// Checks delivery tags, keeps what must be settled, and gives all deliveries.
    fn note_deliveries(
        &mut self,
        heard: &[(usize, Seen)],
    ) -> Result<Vec<(usize, Delivery)>, String> {
        let mut deliveries = Vec::new();
        for (connection, seen) in heard {
            let session = &mut self.sessions[*connection];
            let last = session.tags.entry(seen.channel).or_default();
            match seen.sight {
                Sight::Reply(Reply::Plain(20, 11)) => *last = 0,
                Sight::Reply(Reply::GetOk { tag, .. }) | Sight::Deliver { tag, .. } => {
                    if tag != *last + 1 {
                        return Err(format!("delivery tag {tag} comes after {last}: {seen:?}"));
                    }
                    *last = tag;
                }
                _ => {}
            }
            let Sight::Deliver {
                consumer,
                tag,
                redelivered,
                message,
                deaths,
            } = seen.sight
            else {
                continue;
            };
            let arrival = self.delivery_of(message, deaths);
            let arrival = arrival.ok_or_else(|| format!("of what nobody published: {seen:?}"))?;
            let delivery = Delivery {
                arrival,
                consumer,
                redelivered,
            };
            self.note_delivery(*connection, seen, tag, &delivery)?;
            deliveries.push((*connection, delivery));
        }
        Ok(deliveries)
    }

    fn note_delivery(
        &mut self,
        connection: usize,
        seen: &Seen,
        tag: u64,
        delivery: &Delivery,
    ) -> Result<(), String> {
        let consumer = delivery.consumer;
        let plan = self.plans.get(&consumer);
        let plan = plan.ok_or_else(|| format!("for a consumer nobody started: {seen:?}"))?;
        if (plan.connection, plan.channel) != (connection, seen.channel) {
            return Err(format!("on the wrong channel: {seen:?}"));
        }
        let held = Held {
            arrival: delivery.arrival,
            consumer: Some(consumer),
            queue: None,
            step: self.step,
            handed_ms: self.now_ms,
        };
        if !plan.no_ack {
            let channel = self.channel(connection, seen.channel);
            let channel = channel.ok_or_else(|| format!("on a closed channel: {seen:?}"))?;
            channel.unacked.insert(tag, held);
        }
        Ok(())
    }

    /// The number by which a delivery is settled: in worlds where messages die there may be
    /// several of one message.
    pub(crate) fn delivery_of(&mut self, message: Message, deaths: Deaths) -> Option<Arrival> {
        let arrival = self.arrival(message)?;
        Some(match &mut self.lives {
            Some(lives) => lives.delivery_of(message, deaths),
            None => arrival,
        })
    }

    /// The number of a message: its place in the order in which publishes were taken.
    pub(crate) fn arrival(&self, message: Message) -> Option<Arrival> {
        self.arrivals.get(&message).copied()
    }

    /// Something about queues or bindings has changed.
    pub(crate) fn topology_changed(&mut self) {
        self.unsettled_topology = true;
    }

    fn explain(&mut self, deliveries: Vec<(usize, Delivery)>, step: &Step) -> Result<(), String> {
        let mut pending: BTreeMap<QueueKey, BTreeMap<usize, VecDeque<Delivery>>> = BTreeMap::new();
        for (connection, delivery) in deliveries {
            let plan = self.plans.get(&delivery.consumer);
            let queue = plan.and_then(|plan| plan.queue);
            let queue = queue.ok_or_else(|| format!("{delivery:?} before its consumer"))?;
            let of_queue = pending.entry(queue).or_default();
            of_queue.entry(connection).or_default().push_back(delivery);
        }
        if let Some(mut lives) = self.lives.take() {
            let judged = lives.judge(self, step, pending);
            self.lives = Some(lives);
            return judged;
        }
        let mut events = std::mem::take(&mut self.events);
        for (key, queue) in self.queues.iter_mut().enumerate() {
            let events = events.remove(&key).unwrap_or_default();
            let pending = pending.remove(&key).unwrap_or_default();
            let name = queue_name(queue.number);
            let counts = step.queues.get(&name).copied().filter(|_| !queue.gone);
            if queue.gone && events.is_empty() && pending.is_empty() {
                continue;
            }
            if counts.is_none() != queue.gone {
                return Err(format!(
                    "{name}: in the broker {counts:?}, gone: {}",
                    queue.gone
                ));
            }
            let pending = pending.into_values().collect();
            let explained = queue.ledger.explain(&events, pending, counts);
            explained.map_err(|reason| format!("{name}: {reason}"))?;
        }
        let live = self.names.len();
        if live != step.queues.len() {
            return Err(format!(
                "{live} queues expected, the broker has {:?}",
                step.queues
            ));
        }
        Ok(())
    }

    /// Notes which publishes a queue refused.
    fn decide(&mut self) {
        for publish in std::mem::take(&mut self.undecided) {
            let refused = publish.queues.iter().any(|queue| {
                let ledger = &self.queues[*queue].ledger;
                ledger.refused.contains(&publish.arrival)
            });
            self.confirming[publish.confirming].publishes[publish.index].1 = refused;
        }
    }
}
