//! Consumer timeouts in the model: what is not settled in time goes back alone, or closes its
//! channel, and a late settlement comes to nothing.

use crate::answers::Place;
use crate::commands::PRECONDITION_FAILED;
use crate::ledger::Event;
use crate::model::{Channel, Held, Model, QueueKey, Stage, Step};

/// The broker tells times of deliveries apart in steps of so many milliseconds, and goes by the
/// next one: nothing is taken back too early.
const STEP_MS: u64 = 16;
/// How often it looks for what a rollback has brought back.
const UNCOMMITTED_MS: u64 = 1000;

/// How long the deliveries of a queue may wait for their settlement, and what becomes of them then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeout {
    /// `x-consumer-timeout`.
    pub(crate) ms: Option<u16>,
    /// `x-consumer-timeout-counts`.
    pub(crate) counts: bool,
    /// `x-consumer-timeout-action` is `close`.
    pub(crate) closes: bool,
}

/// What is known of a channel's deliveries that have to be settled in time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases {
    /// Nothing goes back before, milliseconds.
    look_ms: Option<u64>,
    /// Tags of what went back and was not settled since, lowest first.
    late: std::collections::BTreeSet<u64>,
}

impl Leases {
    pub(crate) fn is_late(&self, tag: u64) -> bool {
        self.late.contains(&tag)
    }

    /// What a settlement means of what is late is forgotten.
    pub(crate) fn settle(&mut self, tag: u64, multiple: bool) {
        match (tag, multiple) {
            (0, true) => self.late.clear(),
            (_, true) => self.late.retain(|late| *late > tag),
            (_, false) => drop(self.late.remove(&tag)),
        }
    }

    fn look_at(&mut self, end_ms: Option<u64>) {
        self.look_ms = self.look_ms.into_iter().chain(end_ms).min();
    }
}

/// What a look at a channel has come to.
struct Looked {
    /// In the order of their tags.
    back: Vec<Held>,
    closes: bool,
}

impl Model {
    /// The time of what went out in this step begins.
    pub(crate) fn begin_leases(&mut self) {
        let mut begun = Vec::new();
        for (connection, session) in self.sessions.iter().enumerate() {
            for (number, state) in &session.channels {
                let latest = state.unacked.values().rev();
                let new = latest.take_while(|held| held.step == self.step);
                let ends_ms = new.filter_map(|held| self.ends(held)).min();
                begun.extend(ends_ms.map(|end_ms| ((connection, *number), end_ms)));
            }
        }
        for ((connection, number), end_ms) in begun {
            if let Some(state) = self.channel(connection, number) {
                state.leases.look_at(Some(end_ms));
            }
        }
    }

    /// The queue a delivery came from, and its time if its consumer has one of its own.
    fn lease_of(&self, held: &Held) -> Option<(QueueKey, Option<u16>)> {
        let plan = held.consumer.and_then(|tag| self.plans.get(&tag));
        let queue = held.queue.or_else(|| plan?.queue)?;
        Some((queue, plan.and_then(|plan| plan.timeout_ms)))
    }

    fn timeout_of(&self, held: &Held) -> Timeout {
        let Some((queue, own_ms)) = self.lease_of(held) else {
            return Timeout::default();
        };
        let timeout = self.queues[queue].spec.mortality.timeout;
        Timeout {
            ms: own_ms.or(timeout.ms),
            ..timeout
        }
    }

    /// When a delivery goes back, unless it never does.
    fn ends(&self, held: &Held) -> Option<u64> {
        let timeout_ms = self.timeout_of(held).ms?;
        let handed_ms = (held.handed_ms / STEP_MS + 1) * STEP_MS;
        Some(handed_ms + u64::from(timeout_ms))
    }

    /// A connection's reader has its turn: it first looks for what was not settled in time.
    pub(crate) fn take_back(&mut self, connection: usize, step: &Step) -> Result<(), String> {
        if self.sessions[connection].stage != Stage::Running {
            return Ok(());
        }
        let channels = self.sessions[connection].channels.keys();
        for number in channels.copied().collect::<Vec<_>>() {
            let place = (connection, number);
            let Looked { back, closes } = self.look(place);
            self.give_back(&back);
            if closes {
                self.fail_channel(place, PRECONDITION_FAILED, step)?;
            }
        }
        Ok(())
    }

    fn look(&mut self, (connection, number): Place) -> Looked {
        let (now_ms, mut looked) = (self.now_ms, Looked::nothing());
        let Some(state) = self.sessions[connection].channels.get(&number) else {
            return looked;
        };
        if state.leases.look_ms.is_none_or(|look_ms| look_ms > now_ms) {
            return looked;
        }
        let (mut overdue, mut look_ms) = (Vec::new(), None);
        for (tag, held) in &state.unacked {
            let end_ms = self.ends(held);
            if end_ms.is_none_or(|end_ms| end_ms > now_ms) {
                look_ms = look_ms.into_iter().chain(end_ms).min();
            } else if self.timeout_of(held).closes {
                looked.closes = true;
                break;
            } else {
                overdue.push(*tag);
            }
        }
        if state.is_uncommitted() {
            look_ms = look_ms.into_iter().chain([now_ms + UNCOMMITTED_MS]).min();
        }
        if let Some(state) = self.channel(connection, number) {
            state.leases.look_ms = look_ms;
            state.leases.late.extend(&overdue);
            let back = overdue.iter().filter_map(|tag| state.unacked.remove(tag));
            looked.back.extend(back);
        }
        looked
    }

    fn give_back(&mut self, back: &[Held]) {
        let together = |a: &Held, b: &Held| (a.consumer, a.queue) == (b.consumer, b.queue);
        for run in back.chunk_by(together) {
            let Some(first) = run.first() else { continue };
            let counts = self.timeout_of(first).counts;
            if let Some(queue) = self.queue_of(first) {
                let run = run.iter().map(|held| (held.arrival, held.consumer));
                self.event(queue, Event::Requeue(run.collect(), counts));
            }
        }
    }

    /// Nobody holds what he should have settled long ago.
    ///
    /// # Errors
    /// Somebody does.
    pub(crate) fn check_leases(&self, channel: &Channel) -> Result<(), String> {
        for (tag, held) in &channel.unacked {
            let end_ms = self.ends(held);
            if end_ms.is_some_and(|end_ms| end_ms + UNCOMMITTED_MS <= self.now_ms) {
                return Err(format!("delivery {tag} was not taken back: {held:?}"));
            }
        }
        Ok(())
    }
}

impl Looked {
    const fn nothing() -> Self {
        Self {
            back: Vec::new(),
            closes: false,
        }
    }
}
