//! What must hold after each step and whenever nothing is left to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::command::queue_name;
use crate::model::{Confirming, Model, Stage, Step};
use crate::sight::{Seen, Sight};

const NO_ROUTE: u16 = 312;

impl Confirming {
    /// Notes what a confirm tells, if it may tell that.
    fn take(&mut self, tag: u64, multiple: bool, nack: bool) -> Result<(), String> {
        let (from, to) = (self.confirmed, usize::try_from(tag).unwrap_or(usize::MAX));
        let covered = self.publishes.get(from..to).unwrap_or_default();
        if covered.is_empty() || (!multiple && covered.len() > 1) {
            return Err(format!("it comes after {from}"));
        }
        if covered.iter().any(|(_, refused)| *refused != nack) {
            return Err(format!("{covered:?}"));
        }
        self.confirmed = to;
        Ok(())
    }
}

impl Model {
    /// Returns, confirms and cancelled consumers of one step.
    pub(crate) fn check_told(
        &mut self,
        heard: &[(usize, Seen)],
        step: &Step,
    ) -> Result<(), String> {
        let mut returns: BTreeMap<(usize, u16), VecDeque<_>> = BTreeMap::new();
        for (connection, channel, message) in std::mem::take(&mut self.returns) {
            let of_channel = returns.entry((connection, channel)).or_default();
            of_channel.push_back(message);
        }
        let mut cancels = std::mem::take(&mut self.cancels);
        for (connection, seen) in heard {
            let place = (*connection, seen.channel);
            match seen.sight {
                Sight::Return { code, message } => {
                    let expected = returns.get_mut(&place).and_then(VecDeque::pop_front);
                    if (expected, code) != (Some(message), NO_ROUTE) {
                        return Err(format!("returned: {seen:?}, expected {expected:?}"));
                    }
                }
                Sight::Cancelled(tag) if cancels.remove(&tag) => {}
                Sight::Cancelled(_) => return Err(format!("cancelled without reason: {seen:?}")),
                Sight::Confirm {
                    tag,
                    multiple,
                    nack,
                } => self.confirmed(place, tag, multiple, nack)?,
                _ => {}
            }
        }
        if let Some((place, left)) = returns.iter().find(|(_, left)| !left.is_empty()) {
            return Err(format!("not returned on {place:?}: {left:?}"));
        }
        let deaf = |tag: &u64| {
            let plan = self.plans.get(tag);
            plan.is_none_or(|plan| step.deaf.contains(&plan.connection))
        };
        let untold: BTreeSet<_> = cancels.iter().filter(|tag| !deaf(tag)).collect();
        if untold.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "consumers not told that their queue is gone: {untold:?}"
            ))
        }
    }

    fn confirmed(
        &mut self,
        place: (usize, u16),
        tag: u64,
        multiple: bool,
        nack: bool,
    ) -> Result<(), String> {
        let step = self.step;
        let told = format!("confirm {tag} on {place:?}, nack {nack}");
        let mut refused = format!("{told}: it has none");
        // Of a channel that has ended in this step and begun again the old publishes come first.
        let of_place = self.confirming.iter_mut().filter(|it| it.place == place);
        for confirming in of_place.filter(|it| it.ended.is_none_or(|ended| ended == step)) {
            match confirming.take(tag, multiple, nack) {
                Ok(()) => return Ok(()),
                Err(reason) => refused = format!("{told}: {reason}"),
            }
        }
        Err(refused)
    }

    /// Bounds of channels.
    pub(crate) fn check_channels(&self) -> Result<(), String> {
        for (connection, session) in self.sessions.iter().enumerate() {
            for (number, channel) in &session.channels {
                let is_new = |consumed| {
                    let mut held = channel.unacked.values();
                    held.any(|held| held.step == self.step && held.consumer.is_some() == consumed)
                };
                if !is_new(true) {
                    continue;
                }
                let prefetch = match channel.prefetch_global {
                    0 => usize::MAX,
                    prefetch => usize::from(prefetch),
                };
                let (consumed, out) = (channel.consumed(), channel.out());
                // What basic.get fetches is bounded by neither: it is no part of `consumed`, and
                // may bring `out` beyond its bound after the last delivery to a consumer.
                let too_many_out = out > self.channel_unacked_max && !is_new(false);
                if consumed > prefetch || too_many_out {
                    return Err(format!(
                        "{out} deliveries out on channel {number} of {connection}, {consumed} of \
                         them to consumers: prefetch is {prefetch}, {} at most",
                        self.channel_unacked_max
                    ));
                }
            }
        }
        Ok(())
    }

    /// Nothing is on its way any more: everything owed must have been paid.
    ///
    /// # Errors
    /// What is still owed.
    pub(crate) fn check_quiet(&self) -> Result<(), String> {
        for (connection, session) in self.sessions.iter().enumerate() {
            if let Some((channel, left)) = session.answers.iter().find(|(_, left)| !left.is_empty())
            {
                return Err(format!(
                    "answers nobody asked for on channel {channel} of {connection}: {left:?}"
                ));
            }
            if session.stage == Stage::Ended {
                continue;
            }
            for (number, channel) in &session.channels {
                self.check_leases(channel)?;
                if !channel.waiting.is_empty() {
                    let waiting = &channel.waiting;
                    return Err(format!(
                        "commands never answered on channel {number} of {connection}: {waiting:?}"
                    ));
                }
                if let Some(confirming) = channel.confirming.map(|it| &self.confirming[it])
                    && confirming.confirmed < confirming.publishes.len()
                {
                    return Err(format!(
                        "publishes never confirmed on channel {number} of {connection}: \
                         {confirming:?}"
                    ));
                }
            }
        }
        self.check_wakeups()
    }

    /// A ready message and a consumer that could take it: somebody forgot to look.
    fn check_wakeups(&self) -> Result<(), String> {
        let queues = self.queues.iter().enumerate();
        for (key, queue) in queues.filter(|(_, queue)| !queue.gone) {
            let ledger = &queue.ledger;
            let (_, ready) = self.ready_in(key);
            if ready == 0 {
                continue;
            }
            let waits = ledger.seats.iter().find(|seat| {
                let channel = self.sessions[seat.connection].channels.get(&seat.channel);
                let room =
                    channel.is_some_and(|channel| channel.has_room(self.channel_unacked_max));
                seat.has_credit() && ledger.serves(seat.tag) && room
            });
            if let Some(seat) = waits {
                return Err(format!(
                    "lost wakeup: {ready} messages are ready in {} and {seat:?} could take one",
                    queue_name(queue.number)
                ));
            }
        }
        Ok(())
    }
}
