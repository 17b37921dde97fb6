//! The commands' part of the model: what each does to topology and channels, and its answer.

use std::collections::BTreeSet;

use crate::answers::Place;
use crate::command::{Command, EXCHANGES, Verdict, queue_name};
use crate::ledger::{Event, Ledger, Seat};
use crate::model::{Channel, Confirming, Held, Model, Queue, QueueKey, Stage, Step, Undecided};
use crate::settlements::Settling;
use crate::sight::Reply;

/// What a command comes to.
pub(crate) enum Outcome {
    /// It is answered, once what it tells of is durable.
    Answer(Reply),
    /// There is no answer.
    Silent,
    /// A consumer starts.
    Starts(QueueKey),
    /// A message is fetched, if there is one.
    Gets { queue: QueueKey, no_ack: bool },
    /// The channel is closed with this code.
    Soft(u16),
    /// The connection is closed with this code.
    Hard(u16),
}

pub(crate) const NOT_FOUND: u16 = 404;
const ACCESS_REFUSED: u16 = 403;
const RESOURCE_LOCKED: u16 = 405;
pub(crate) const PRECONDITION_FAILED: u16 = 406;
const CHANNEL_ERROR: u16 = 504;

const DEFAULT: u8 = 0;
const DIRECT: u8 = 1;
const FANOUT: u8 = 2;
const TOPIC: u8 = 3;
const NOWHERE: u8 = 4;

impl Model {
    /// Takes a command as the broker does.
    pub(crate) fn command(
        &mut self,
        connection: usize,
        channel: u16,
        command: &Command,
        step: &Step,
    ) -> Result<(), String> {
        let place = (connection, channel);
        match self.outcome(connection, channel, command, step)? {
            Outcome::Silent => Ok(()),
            Outcome::Answer(reply) => match command {
                Command::CloseConnection => {
                    self.sessions[connection].stage = Stage::Ended;
                    self.answered((connection, 0), &reply, step)
                }
                Command::CloseChannel => self.answered(place, &reply, step),
                _ => self.answer(place, reply, step),
            },
            Outcome::Starts(queue) => {
                self.check_none_waits(place)?;
                self.start(place, command, queue);
                match *command {
                    Command::Consume {
                        tag, nowait: false, ..
                    } => self.answered(place, &Reply::Consuming(tag), step),
                    _ => Ok(()),
                }
            }
            Outcome::Gets { queue, no_ack } => {
                self.check_none_waits(place)?;
                self.got(place, (queue, no_ack), step)
            }
            Outcome::Soft(code) => self.fail_channel(place, code, step),
            Outcome::Hard(code) => {
                self.leave(connection);
                self.sessions[connection].stage = Stage::Closing;
                self.answered((connection, 0), &Reply::Close(code), step)
            }
        }
    }

    fn outcome(
        &mut self,
        connection: usize,
        channel: u16,
        command: &Command,
        step: &Step,
    ) -> Result<Outcome, String> {
        let session = &mut self.sessions[connection];
        match (session.stage, command) {
            (Stage::Ended, _) => return Ok(Outcome::Silent),
            (_, Command::CloseConnection) => {
                self.leave(connection);
                return Ok(Outcome::Answer(Reply::Plain(10, 51)));
            }
            (Stage::Closing, Command::ConnectionCloseOk) => {
                session.stage = Stage::Ended;
                return Ok(Outcome::Silent);
            }
            (Stage::Closing, _) => return Ok(Outcome::Silent),
            (Stage::Running, _) => {}
        }
        match (session.channels.get(&channel), command) {
            (None, Command::OpenChannel) => {
                session.channels.insert(channel, Channel::default());
                Ok(Outcome::Answer(Reply::Plain(20, 11)))
            }
            (None, Command::ChannelCloseOk) => Ok(Outcome::Silent),
            (None, _) | (Some(_), Command::OpenChannel) => Ok(Outcome::Hard(CHANNEL_ERROR)),
            (Some(state), Command::CloseChannel) if state.closing => {
                Ok(Outcome::Answer(Reply::Plain(20, 41)))
            }
            (Some(state), Command::ChannelCloseOk) if state.closing => {
                session.channels.remove(&channel);
                Ok(Outcome::Silent)
            }
            (Some(state), _) if state.closing => Ok(Outcome::Silent),
            (Some(_), Command::CloseChannel) => {
                self.close_channel(connection, channel);
                Ok(Outcome::Answer(Reply::Plain(20, 41)))
            }
            (Some(_), _) => self.on_channel(connection, channel, command, step),
        }
    }

    fn on_channel(
        &mut self,
        connection: usize,
        channel: u16,
        command: &Command,
        step: &Step,
    ) -> Result<Outcome, String> {
        let plain = |class, method| Outcome::Answer(Reply::Plain(class, method));
        let silent_if = |nowait: bool, outcome| if nowait { Outcome::Silent } else { outcome };
        Ok(match *command {
            Command::Declare { .. } | Command::Delete { .. } | Command::Purge { .. } => {
                let told = self.foreseen((connection, channel), step);
                self.on_queue((connection, channel), command, told.as_ref())
            }
            Command::Bind {
                queue,
                exchange,
                key,
                nowait,
            } => match self.named(connection, queue) {
                _ if exchange == DEFAULT => Outcome::Soft(ACCESS_REFUSED),
                _ if exchange == NOWHERE => Outcome::Soft(NOT_FOUND),
                Err(code) => Outcome::Soft(code),
                Ok(queue) => {
                    self.bindings.insert((exchange, queue, key));
                    self.topology_changed();
                    silent_if(nowait, plain(50, 21))
                }
            },
            Command::Unbind {
                queue,
                exchange,
                key,
            } => self.unbind(connection, exchange, queue, key),
            Command::Publish { .. } => self.publish(connection, channel, command),
            Command::TxSelect | Command::TxCommit | Command::TxRollback => {
                let told = self.foreseen((connection, channel), step);
                self.transaction((connection, channel), command, told.as_ref())
            }
            Command::Settle {
                tag,
                multiple,
                verdict,
            } => {
                let settling = Settling {
                    tag,
                    multiple,
                    verdict,
                    staged: true,
                };
                self.settle(connection, channel, &settling)
            }
            Command::Recover => {
                let everything = Settling {
                    tag: 0,
                    multiple: true,
                    verdict: Verdict::Requeue,
                    staged: false,
                };
                let _ = self.settle(connection, channel, &everything);
                plain(60, 111)
            }
            _ => self.on_consumers(connection, channel, command),
        })
    }

    fn unbind(&mut self, connection: usize, exchange: u8, queue: u8, key: &'static str) -> Outcome {
        let unbound = Outcome::Answer(Reply::Plain(50, 51));
        // What is not bound is not missed, whosever it is.
        let Some(&found) = self.names.get(&queue) else {
            return unbound;
        };
        let binding = (exchange, found, key);
        if !self.bindings.contains(&binding) {
            return unbound;
        }
        match self.named(connection, queue) {
            Err(code) => Outcome::Soft(code),
            Ok(_) => {
                self.bindings.remove(&binding);
                self.topology_changed();
                unbound
            }
        }
    }

    fn on_consumers(&mut self, connection: usize, channel: u16, command: &Command) -> Outcome {
        let plain = |class, method| Outcome::Answer(Reply::Plain(class, method));
        match *command {
            Command::ConfirmSelect if self.transacts(connection, channel) => {
                Outcome::Soft(PRECONDITION_FAILED)
            }
            Command::ConfirmSelect => {
                let next = self.confirming.len();
                if let Some(state) = self.channel(connection, channel)
                    && *state.confirming.get_or_insert(next) == next
                {
                    self.confirming.push(Confirming {
                        place: (connection, channel),
                        ..Confirming::default()
                    });
                }
                plain(85, 11)
            }
            Command::Qos { prefetch, global } => {
                if let Some(state) = self.channel(connection, channel) {
                    if global {
                        state.prefetch_global = prefetch;
                    } else {
                        state.prefetch = prefetch;
                    }
                }
                plain(60, 11)
            }
            Command::Cancel { tag, nowait } => {
                self.cancel(connection, channel, tag);
                match nowait {
                    true => Outcome::Silent,
                    false => Outcome::Answer(Reply::Cancelled(tag)),
                }
            }
            Command::Get { queue, no_ack } => match self.named(connection, queue) {
                Err(code) => Outcome::Soft(code),
                Ok(queue) => {
                    self.used(queue);
                    Outcome::Gets { queue, no_ack }
                }
            },
            Command::Consume {
                queue,
                tag,
                exclusive,
                ..
            } => {
                let queue = match self.named(connection, queue) {
                    Ok(queue) => queue,
                    Err(code) => return Outcome::Soft(code),
                };
                if !self.is_consumable(queue, exclusive) {
                    return Outcome::Soft(ACCESS_REFUSED);
                }
                if let Some(plan) = self.plans.get_mut(&tag) {
                    plan.queue = Some(queue);
                }
                Outcome::Starts(queue)
            }
            _ => Outcome::Silent,
        }
    }

    pub(crate) fn channel(&mut self, connection: usize, channel: u16) -> Option<&mut Channel> {
        self.sessions[connection].channels.get_mut(&channel)
    }

    /// The queue of that name, if this connection may use it.
    fn named(&self, connection: usize, number: u8) -> Result<QueueKey, u16> {
        let key = *self.names.get(&number).ok_or(NOT_FOUND)?;
        match self.queues[key].owner {
            Some(owner) if owner != connection => Err(RESOURCE_LOCKED),
            _ => Ok(key),
        }
    }

    fn is_consumable(&self, queue: QueueKey, exclusive: bool) -> bool {
        let Queue {
            consumers, spec, ..
        } = &self.queues[queue];
        let taken = consumers.iter().any(|(_, exclusive)| *exclusive);
        !taken && (!exclusive || consumers.is_empty() && !spec.single_active)
    }

    pub(crate) fn event(&mut self, queue: QueueKey, event: Event) {
        self.events.entry(queue).or_default().push(event);
    }

    fn on_queue(&mut self, place: Place, command: &Command, told: Option<&Reply>) -> Outcome {
        let connection = place.0;
        match *command {
            Command::Declare {
                queue: number,
                spec,
                passive,
                nowait,
            } => {
                if !self.names.contains_key(&number) && !passive {
                    self.create(connection, number, spec);
                }
                let key = match self.named(connection, number) {
                    Ok(key) => key,
                    Err(code) => return Outcome::Soft(code),
                };
                let current = self.queues[key].spec;
                if !passive && spec.exclusive != current.exclusive {
                    return Outcome::Soft(RESOURCE_LOCKED);
                }
                let mut same = spec;
                if current.exclusive {
                    // It ends with its connection, durable or not.
                    same.durable = current.durable;
                }
                if !passive && same != current {
                    return Outcome::Soft(PRECONDITION_FAILED);
                }
                self.used(key);
                if nowait {
                    return Outcome::Silent;
                }
                let name = queue_name(number);
                let mut reply = Reply::Declared {
                    queue: name.clone(),
                    ready: 0,
                    consumers: self.queues[key].consumers.len() as u32,
                };
                if let (
                    Some(Reply::Declared { queue, ready, .. }),
                    Reply::Declared { ready: to, .. },
                ) = (told, &mut reply)
                    && *queue == name
                {
                    *to = *ready;
                    self.event(key, Event::Report(*ready));
                }
                Outcome::Answer(reply)
            }
            Command::Purge { queue } => match self.named(connection, queue) {
                Err(code) => Outcome::Soft(code),
                Ok(key) => {
                    let count = match told {
                        Some(Reply::Purged(count)) => Some(*count),
                        _ => None,
                    };
                    self.event(key, Event::Purge(count));
                    Outcome::Answer(Reply::Purged(count.unwrap_or(u32::MAX)))
                }
            },
            _ => {
                let before = self.cancels.clone();
                let outcome = self.delete(connection, command, told);
                if let Outcome::Answer(_) = outcome {
                    self.end_own(place, &before);
                }
                outcome
            }
        }
    }

    fn create(&mut self, connection: usize, number: u8, spec: crate::command::Spec) {
        let key = self.queues.len();
        self.queues.push(Queue {
            number,
            spec,
            owner: spec.exclusive.then_some(connection),
            gone: false,
            ledger: Ledger {
                length_max: spec.length_max.map(u64::from),
                refuses: spec.refuses,
                single_active: spec.single_active,
                ..Ledger::default()
            },
            consumers: Vec::new(),
            used_ms: 0,
        });
        self.names.insert(number, key);
        self.topology_changed();
        self.used(key);
    }

    fn delete(&mut self, connection: usize, command: &Command, told: Option<&Reply>) -> Outcome {
        let Command::Delete {
            queue,
            if_unused,
            if_empty,
        } = *command
        else {
            return Outcome::Silent;
        };
        let key = match self.named(connection, queue) {
            Ok(key) => key,
            Err(NOT_FOUND) => return Outcome::Answer(Reply::Deleted(0)),
            Err(code) => return Outcome::Soft(code),
        };
        if if_unused && !self.queues[key].consumers.is_empty() {
            return Outcome::Soft(PRECONDITION_FAILED);
        }
        if if_empty {
            let empty = told != Some(&Reply::Close(PRECONDITION_FAILED));
            self.event(key, Event::Empty(empty));
            if !empty {
                return Outcome::Soft(PRECONDITION_FAILED);
            }
        }
        let count = match told {
            Some(Reply::Deleted(count)) => Some(*count),
            _ => None,
        };
        self.delete_queue(key, count);
        Outcome::Answer(Reply::Deleted(count.unwrap_or(u32::MAX)))
    }

    /// Of its own consumers a channel hears behind the answer to its deletion.
    fn end_own(&mut self, place: Place, before: &BTreeSet<u64>) {
        let is_own = |tag: &u64| {
            let plan = self.plans.get(tag);
            plan.is_some_and(|plan| (plan.connection, plan.channel) == place)
                && !before.contains(tag)
        };
        let own: Vec<_> = self.cancels.iter().copied().filter(is_own).collect();
        self.cancels.retain(|tag| !own.contains(tag));
        if let Some(state) = self.channel(place.0, place.1) {
            state.ending.push_back(own);
        }
    }

    /// A queue ends; its consumers are told.
    pub(crate) fn delete_queue(&mut self, key: QueueKey, told: Option<u32>) {
        let queue = &mut self.queues[key];
        if std::mem::replace(&mut queue.gone, true) {
            return;
        }
        let consumers = std::mem::take(&mut queue.consumers);
        self.cancels.extend(consumers.iter().map(|(tag, _)| *tag));
        self.names.remove(&queue.number);
        self.bindings.retain(|(_, bound, _)| *bound != key);
        self.topology_changed();
        self.event(key, Event::Delete(told));
    }

    fn publish(&mut self, connection: usize, channel: u16, command: &Command) -> Outcome {
        let Command::Publish {
            message,
            exchange,
            key,
            mandatory,
        } = command
        else {
            return Outcome::Silent;
        };
        if *exchange == NOWHERE {
            return Outcome::Soft(NOT_FOUND);
        }
        let queues = self.route(*exchange, key);
        if let Some(lives) = &mut self.lives {
            lives.published(*message, key);
        }
        let state = self.channel(connection, channel);
        if let Some(staged) = state.and_then(|state| state.transaction.as_mut()) {
            staged.publishes.push((*message, queues, *mandatory));
            return Outcome::Silent;
        }
        let arrival = self.arrival(*message).unwrap_or_default();
        for queue in &queues {
            self.event(*queue, Event::Push(arrival));
        }
        if queues.is_empty() && *mandatory {
            self.returns.push_back((connection, channel, *message));
        }
        let step = self.step;
        let state = self.channel(connection, channel);
        if let Some(confirming) = state.and_then(|state| state.confirming) {
            let publishes = &mut self.confirming[confirming].publishes;
            let index = publishes.len();
            publishes.push((step, false));
            self.undecided.push(Undecided {
                confirming,
                index,
                arrival,
                queues,
            });
        }
        Outcome::Silent
    }

    pub(crate) fn route(&self, exchange: u8, key: &str) -> Vec<QueueKey> {
        if exchange == DEFAULT {
            let named = self.names.iter();
            let named = named.filter(|(number, _)| queue_name(**number) == key);
            return named.map(|(_, queue)| *queue).collect();
        }
        let bindings = self.bindings.iter().filter(|(of, ..)| *of == exchange);
        let bindings = bindings.filter(|(_, _, pattern)| match exchange {
            DIRECT => *pattern == key,
            FANOUT => true,
            TOPIC => topic_matches(pattern, key),
            other => unreachable!("exchange {}", EXCHANGES[usize::from(other)]),
        });
        let mut queues: Vec<_> = bindings.map(|(_, queue, _)| *queue).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// The queue a delivery came from, unless it is gone.
    pub(crate) fn queue_of(&self, held: &Held) -> Option<QueueKey> {
        let consumer = held.consumer.and_then(|tag| self.plans.get(&tag));
        let queue = held.queue.or_else(|| consumer?.queue)?;
        (!self.queues[queue].gone).then_some(queue)
    }

    fn cancel(&mut self, connection: usize, channel: u16, tag: u64) {
        let Some(state) = self.channel(connection, channel) else {
            return;
        };
        if let Some(queue) = state.consumers.remove(&tag) {
            self.leave_queue(queue, tag);
            self.end_if_abandoned(queue);
        }
    }

    pub(crate) fn leave_queue(&mut self, queue: QueueKey, tag: u64) {
        if !self.queues[queue].gone {
            self.queues[queue]
                .consumers
                .retain(|(other, _)| *other != tag);
            self.event(queue, Event::Leave(tag));
            self.used(queue);
        }
    }

    pub(crate) fn end_if_abandoned(&mut self, queue: QueueKey) {
        let state = &self.queues[queue];
        if !state.gone && state.spec.auto_delete && state.consumers.is_empty() {
            self.delete_queue(queue, None);
        }
    }

    /// A consumer is registered.
    fn start(&mut self, (connection, channel): Place, command: &Command, queue: QueueKey) {
        let Command::Consume {
            tag,
            no_ack,
            exclusive,
            ..
        } = *command
        else {
            return;
        };
        let Some(state) = self.channel(connection, channel) else {
            return;
        };
        state.consumers.insert(tag, queue);
        let seat = Seat {
            tag,
            connection,
            channel,
            no_ack,
            prefetch: state.prefetch.into(),
            held: 0,
        };
        self.queues[queue].consumers.push((tag, exclusive));
        self.event(queue, Event::Join(seat));
    }
}

/// What the specification says, word by word.
fn topic_matches(pattern: &str, key: &str) -> bool {
    fn matches(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            (["#", rest @ ..], _) => {
                matches(rest, key) || !key.is_empty() && matches(pattern, &key[1..])
            }
            ([word, rest @ ..], [first, others @ ..]) => {
                (*word == "*" || word == first) && matches(rest, others)
            }
            _ => false,
        }
    }
    let pattern: Vec<&str> = pattern.split('.').collect();
    let key: Vec<&str> = key.split('.').collect();
    matches(&pattern, &key)
}
