//! The answers' part of the model: each command's answer comes once and in order; what waits for
//! the disk; and how channels and connections end.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::Event;
use crate::model::{Channel, Held, Model, QueueKey, Step};
use crate::sight::Reply;

/// A channel of a connection.
pub(crate) type Place = (usize, u16);

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
        if let Reply::Deleted(_) = expected
            && let Some(state) = self.channel(place.0, place.1)
            && let Some(ending) = state.ending.pop_front()
        {
            self.cancels.extend(ending);
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
        let ahead = waiting.len();
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

    /// Answers a command, or has the answer wait behind those that wait already.
    pub(crate) fn answer(&mut self, place: Place, reply: Reply, step: &Step) -> Result<(), String> {
        // What waits when its channel ends is never answered.
        let told = self.told(place, step).is_some_and(|reply| !ends(reply));
        match self.channel(place.0, place.1) {
            Some(state) if !told || !state.waiting.is_empty() => {
                state.waiting.push_back(reply);
                if state.waiting.len() == 1 {
                    self.sessions[place.0].holding.push(place.1);
                }
                Ok(())
            }
            _ => self.answered(place, &reply, step),
        }
    }

    /// What may bring deliveries is taken when no answer waits on its channel.
    pub(crate) fn check_none_waits(&self, place: Place) -> Result<(), String> {
        let channel = self.sessions[place.0].channels.get(&place.1);
        match channel {
            Some(state) if !state.waiting.is_empty() => {
                Err(format!("on {place:?} it overtakes {:?}", state.waiting))
            }
            _ => Ok(()),
        }
    }

    /// What waited on this connection and was told in this step.
    pub(crate) fn release(&mut self, connection: usize, step: &Step) -> Result<(), String> {
        for channel in std::mem::take(&mut self.sessions[connection].holding) {
            let place = (connection, channel);
            while self.told(place, step).is_some_and(|reply| !ends(reply))
                && let Some(state) = self.channel(connection, channel)
                && let Some(reply) = state.waiting.pop_front()
            {
                self.answered(place, &reply, step)?;
            }
            let state = self.channel(connection, channel);
            if state.is_some_and(|state| !state.waiting.is_empty()) {
                self.sessions[connection].holding.push(channel);
            }
        }
        Ok(())
    }

    pub(crate) fn got(
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
                deaths,
                left,
            }) => {
                let arrival = self.delivery_of(message, deaths);
                let arrival = arrival.ok_or_else(|| format!("{message:?} was never published"))?;
                let held = Held {
                    arrival,
                    consumer: None,
                    queue: Some(queue),
                    step: self.step,
                    handed_ms: self.now_ms,
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
            self.event(queue, Event::Requeue(back, true));
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
