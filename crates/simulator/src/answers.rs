//! The answers' part of the model: each command's answer comes once and in order; what waits for
//! the disk; and how channels and connections end.

use std::collections::{BTreeMap, BTreeSet};

use crate::command::Command;
use crate::commands::NOT_FOUND;
use crate::ledger::Event;
use crate::model::{Channel, Held, Model, QueueKey, Step, Waiting};
use crate::sight::Reply;

/// A channel of a connection.
type Place = (usize, u16);

impl Model {
    /// The next answer on a channel, if it was told by the end of this step.
    fn told(&self, (connection, channel): Place, step: &Step) -> Option<&Reply> {
        let answers = self.sessions[connection].answers.get(&channel)?;
        let (at, reply) = answers.front()?;
        (at <= step.told.get(connection)?).then_some(reply)
    }

    /// An answer must have been told by now, and be this one.
    pub(crate) fn answered(
        &mut self,
        place: Place,
        expected: &Reply,
        step: &Step,
    ) -> Result<(), String> {
        let told = self.told(place, step).cloned();
        if let Some(answers) = self.sessions[place.0].answers.get_mut(&place.1) {
            answers.pop_front();
        }
        match told {
            Some(told) if agrees(expected, &told) => Ok(()),
            other => Err(format!(
                "on {place:?} expected {expected:?}, told {other:?}"
            )),
        }
    }

    /// What the broker answers to the command that is being looked at, as far as it was told
    /// before the next quiet moment.
    pub(crate) fn foreseen(&self, (connection, channel): Place, step: &Step) -> Option<Reply> {
        let session = &self.sessions[connection];
        let waiting = &session.channels.get(&channel)?.waiting;
        let ahead = waiting
            .iter()
            .filter(|waiting| is_answered(waiting))
            .count();
        let answers = session.answers.get(&channel)?;
        if let Some((at, reply @ Reply::Close(_))) = answers.front()
            && at <= step.told.get(connection)?
        {
            // What waited is forgotten with the channel.
            return Some(reply.clone());
        }
        if answers.iter().take(ahead).any(|(_, reply)| ends(reply)) {
            return None;
        }
        let (at, reply) = answers.get(ahead)?;
        // A close that comes later is the answer to something else.
        let later = *at > *step.told.get(connection)?;
        (!later || !ends(reply)).then(|| reply.clone())
    }

    /// Answers a command, or has it wait behind those that wait already.
    pub(crate) fn answer(
        &mut self,
        place: Place,
        waiting: Waiting,
        step: &Step,
    ) -> Result<(), String> {
        // What waits when its channel ends is never answered.
        let told = self.told(place, step).is_some_and(|reply| !ends(reply));
        let Some(state) = self.channel(place.0, place.1) else {
            return self.perform(place, waiting, step);
        };
        let behind = !state.waiting.is_empty();
        if behind || (matches!(waiting, Waiting::Answer(_)) && !told) {
            state.waiting.push_back(waiting);
            if !behind {
                self.sessions[place.0].holding.push(place.1);
            }
            return Ok(());
        }
        match self.attempt(place, waiting, step)? {
            Some(code) => self.fail_channel(place, code, step),
            None => Ok(()),
        }
    }

    /// What waited on this connection and was told in this step.
    pub(crate) fn release(&mut self, connection: usize, step: &Step) -> Result<(), String> {
        let mut faults = Vec::new();
        for channel in std::mem::take(&mut self.sessions[connection].holding) {
            let place = (connection, channel);
            while let Some(state) = self.sessions[connection].channels.get(&channel)
                && let Some(front) = state.waiting.front()
                && (!is_answered(front) || self.is_released(place, front, step))
            {
                let front = front.clone();
                if let Some(state) = self.channel(connection, channel) {
                    state.waiting.pop_front();
                }
                if let Some(code) = self.attempt(place, front, step)? {
                    faults.push((place, code));
                    break;
                }
            }
            let state = self.channel(connection, channel);
            if state.is_some_and(|state| !state.waiting.is_empty()) {
                self.sessions[connection].holding.push(channel);
            }
        }
        for (place, code) in faults {
            self.fail_channel(place, code, step)?;
        }
        Ok(())
    }

    /// Whether the answer to what waits was told; instead of reading, the channel may be closed.
    fn is_released(&self, place: Place, waiting: &Waiting, step: &Step) -> bool {
        let told = self.told(place, step);
        told.is_some_and(|reply| !ends(reply) || !matches!(waiting, Waiting::Answer(_)))
    }

    fn perform(&mut self, place: Place, waiting: Waiting, step: &Step) -> Result<(), String> {
        match self.attempt(place, waiting, step)? {
            Some(code) => Err(format!("on {place:?}: {code} without a channel")),
            None => Ok(()),
        }
    }

    /// Does what had to wait, or gives the code with which the channel is closed instead.
    fn attempt(
        &mut self,
        place: Place,
        waiting: Waiting,
        step: &Step,
    ) -> Result<Option<u16>, String> {
        match waiting {
            Waiting::Nothing => {}
            Waiting::Answer(reply) => self.answered(place, &reply, step)?,
            Waiting::Consume {
                command,
                queue,
                prefetch,
            } => {
                if let Err(code) = self.start(place.0, place.1, (&command, queue, prefetch)) {
                    return Ok(Some(code));
                }
                if let Command::Consume {
                    tag, nowait: false, ..
                } = command
                {
                    self.answered(place, &Reply::Consuming(tag), step)?;
                }
            }
            Waiting::Get { queue, no_ack } => {
                if self.queues[queue].gone {
                    return Ok(Some(NOT_FOUND));
                }
                self.got(place, (queue, no_ack), step)?;
            }
        }
        Ok(None)
    }

    fn got(
        &mut self,
        place: Place,
        (queue, no_ack): (QueueKey, bool),
        step: &Step,
    ) -> Result<(), String> {
        let told = self.told(place, step).cloned();
        let (got, left) = match told {
            Some(Reply::GetEmpty) => (None, 0),
            Some(Reply::GetOk {
                tag,
                redelivered,
                message,
                left,
            }) => {
                let arrival = self.arrival(message);
                let arrival = arrival.ok_or_else(|| format!("{message:?} was never published"))?;
                let held = Held {
                    arrival,
                    consumer: None,
                    queue: Some(queue),
                    step: self.step,
                };
                if !no_ack && let Some(state) = self.channel(place.0, place.1) {
                    state.unacked.insert(tag, held);
                }
                (Some((arrival, redelivered)), left)
            }
            other => return Err(format!("on {place:?} expected a message, told {other:?}")),
        };
        if let Some(answers) = self.sessions[place.0].answers.get_mut(&place.1) {
            answers.pop_front();
        }
        self.event(queue, Event::Get { got, left, no_ack });
        Ok(())
    }

    /// The server closes a channel.
    pub(crate) fn fail_channel(
        &mut self,
        place: Place,
        code: u16,
        step: &Step,
    ) -> Result<(), String> {
        self.close_channel(place.0, place.1);
        let closing = Channel {
            closing: true,
            ..Channel::default()
        };
        self.sessions[place.0].channels.insert(place.1, closing);
        self.answered(place, &Reply::Close(code), step)
    }

    /// A channel ends: its consumers leave, then its deliveries go back.
    pub(crate) fn close_channel(&mut self, connection: usize, channel: u16) {
        self.close_channels(connection, &[channel]);
    }

    fn close_channels(&mut self, connection: usize, channels: &[u16]) {
        let session = &mut self.sessions[connection];
        session
            .holding
            .retain(|holding| !channels.contains(holding));
        let taken = channels.iter().filter_map(|it| session.channels.remove(it));
        let taken: Vec<Channel> = taken.collect();
        for confirming in taken.iter().filter_map(|channel| channel.confirming) {
            self.confirming[confirming].ended = Some(self.step);
        }
        let mut left = BTreeSet::new();
        for (tag, queue) in taken.iter().flat_map(|channel| &channel.consumers) {
            left.insert(*queue);
            self.leave_queue(*queue, *tag);
        }
        let mut back: BTreeMap<QueueKey, Vec<_>> = BTreeMap::new();
        let staged = taken
            .iter()
            .filter_map(|channel| channel.transaction.as_ref());
        let staged = staged.flat_map(|staged| staged.settlements.iter().map(|(_, held, _)| held));
        let unacked = taken.iter().flat_map(|channel| channel.unacked.values());
        for held in unacked.chain(staged) {
            if let Some(queue) = self.queue_of(held) {
                let of_queue = back.entry(queue).or_default();
                of_queue.push((held.arrival, held.consumer));
            }
        }
        for (queue, back) in back {
            self.event(queue, Event::Requeue(back));
        }
        for queue in left {
            self.end_if_abandoned(queue);
        }
    }

    /// A connection gives everything back.
    pub(crate) fn leave(&mut self, connection: usize) {
        let channels = self.sessions[connection].channels.keys();
        let channels: Vec<u16> = channels.copied().collect();
        self.close_channels(connection, &channels);
        for key in 0..self.queues.len() {
            if self.queues[key].owner == Some(connection) {
                self.delete_queue(key, None);
            }
        }
    }
}

/// Whether nothing follows on the channel until it is opened again.
const fn ends(reply: &Reply) -> bool {
    matches!(reply, Reply::Close(_) | Reply::Plain(20, 41))
}

/// Whether something that waits will be answered, if nothing closes the channel before.
const fn is_answered(waiting: &Waiting) -> bool {
    match waiting {
        Waiting::Answer(_) | Waiting::Get { .. } => true,
        Waiting::Consume { command, .. } => {
            !matches!(command, Command::Consume { nowait: true, .. })
        }
        Waiting::Nothing => false,
    }
}

/// Whether an answer is the one expected; counts are checked with the queue.
fn agrees(expected: &Reply, told: &Reply) -> bool {
    match (expected, told) {
        (Reply::Purged(_), Reply::Purged(_)) | (Reply::Deleted(_), Reply::Deleted(_)) => true,
        (
            Reply::Declared {
                queue, consumers, ..
            },
            Reply::Declared {
                queue: other,
                consumers: count,
                ..
            },
        ) => queue == other && consumers == count,
        (expected, told) => expected == told,
    }
}
