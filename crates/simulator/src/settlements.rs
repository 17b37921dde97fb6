//! Settlements and transactions in the model: what comes back, and what waits for a commit.

use crate::command::{Command, Verdict};
use crate::commands::{Outcome, PRECONDITION_FAILED};
use crate::ledger::Event;
use crate::model::{Held, Model, Transaction};
use crate::sight::Reply;

/// What a client settles at once.
pub(crate) struct Settling {
    pub(crate) tag: u64,
    pub(crate) multiple: bool,
    pub(crate) verdict: Verdict,
    /// A transaction keeps it for its commit; what is recovered does not wait.
    pub(crate) staged: bool,
}

impl Model {
    pub(crate) fn settle(
        &mut self,
        connection: usize,
        channel: u16,
        settling: &Settling,
    ) -> Outcome {
        let Settling {
            tag,
            multiple,
            verdict,
            staged: waits,
        } = *settling;
        let now = self.step;
        let Some(state) = self.channel(connection, channel) else {
            return Outcome::Silent;
        };
        let tags: Vec<u64> = if multiple && tag == 0 {
            let before = state.unacked.iter().filter(|(_, held)| held.step < now);
            before.map(|(tag, _)| *tag).collect()
        } else if !state.unacked.contains_key(&tag) && !state.leases.is_late(tag) {
            return Outcome::Soft(PRECONDITION_FAILED);
        } else if multiple {
            state.unacked.range(..=tag).map(|(tag, _)| *tag).collect()
        } else {
            vec![tag]
        };
        let taken = tags
            .iter()
            .filter_map(|tag| Some((*tag, state.unacked.remove(tag)?)));
        let taken: Vec<_> = taken.map(|(tag, held)| (tag, held, verdict)).collect();
        // That may be rolled back.
        if waits && state.transaction.is_none() {
            state.leases.settle(tag, multiple);
        }
        match &mut state.transaction {
            Some(staged) if waits => staged.settlements.extend(taken),
            _ => self.settle_now(&taken),
        }
        Outcome::Silent
    }

    fn settle_now(&mut self, settlements: &[(u64, Held, Verdict)]) {
        // What is next to each other of one consumer comes back in one step.
        let together = |(_, a, for_a): &(u64, Held, Verdict),
                        (_, b, for_b): &(u64, Held, Verdict)| {
            (a.consumer, a.queue, for_a) == (b.consumer, b.queue, for_b)
        };
        for run in settlements.chunk_by(together) {
            let Some((_, first, verdict)) = run.first() else {
                continue;
            };
            let Some(queue) = self.queue_of(first) else {
                continue;
            };
            let held = run.iter().map(|(_, held, _)| (held.arrival, held.consumer));
            let failed = *verdict == Verdict::Retry;
            match verdict {
                Verdict::Requeue | Verdict::Retry => {
                    self.event(queue, Event::Requeue(held.collect(), failed));
                }
                Verdict::Ack => held.for_each(|(arrival, consumer)| {
                    self.event(queue, Event::Settle(arrival, consumer));
                }),
                Verdict::Discard => held.for_each(|(arrival, consumer)| {
                    self.event(queue, Event::Reject(arrival, consumer));
                }),
            }
        }
    }

    pub(crate) fn transacts(&self, connection: usize, channel: u16) -> bool {
        let state = self.sessions[connection].channels.get(&channel);
        state.is_some_and(|state| state.transaction.is_some())
    }

    pub(crate) fn transaction(
        &mut self,
        place: (usize, u16),
        command: &Command,
        told: Option<&Reply>,
    ) -> Outcome {
        let Some(state) = self.channel(place.0, place.1) else {
            return Outcome::Silent;
        };
        if *command == Command::TxSelect {
            if state.confirming.is_some() {
                return Outcome::Soft(PRECONDITION_FAILED);
            }
            state.transaction.get_or_insert_default();
            return Outcome::Answer(Reply::Plain(90, 11));
        }
        let Some(transaction) = &mut state.transaction else {
            return Outcome::Soft(PRECONDITION_FAILED);
        };
        let staged = std::mem::take(transaction);
        if *command == Command::TxRollback {
            let back = staged.settlements.into_iter();
            state.unacked.extend(back.map(|(tag, held, _)| (tag, held)));
            return Outcome::Answer(Reply::Plain(90, 31));
        }
        if told == Some(&Reply::Close(PRECONDITION_FAILED)) && self.may_be_full(&staged) {
            if let Some(state) = self.channel(place.0, place.1) {
                state.transaction = Some(staged);
            }
            return Outcome::Soft(PRECONDITION_FAILED);
        }
        self.commit(place, staged);
        Outcome::Answer(Reply::Plain(90, 21))
    }

    /// Whether a queue of a transaction may have too little room for it.
    fn may_be_full(&self, staged: &Transaction) -> bool {
        let mut queues = staged.publishes.iter().flat_map(|(_, queues, _)| queues);
        queues.any(|queue| self.queues[*queue].spec.length_max.is_some())
    }

    fn commit(&mut self, place: (usize, u16), staged: Transaction) {
        for (message, queues, mandatory) in staged.publishes {
            let arrival = self.arrival(message).unwrap_or_default();
            // Also when all it was routed to has gone since.
            if mandatory && queues.iter().all(|queue| self.queues[*queue].gone) {
                self.returns.push_back((place.0, place.1, message));
            }
            for queue in queues {
                if !self.queues[queue].gone {
                    self.event(queue, Event::Commit(arrival));
                }
            }
        }
        self.settle_now(&staged.settlements);
    }
}
