//! One queue in one step: what it shows, what was told of it, and what of that is explained.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{LifeId, Place, Shown};
use crate::command::{Message, Spec};
use crate::deaths::Deaths;
use crate::ledger::{Arrival, Counts, Delivery};
use crate::model::QueueKey;

/// Who was told of a delivery: the place of a connection among those that were, or whoever asked
/// for it.
pub(super) type Ear = Option<usize>;

/// A delivery that was told of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) ear: Ear,
    pub(super) delivery: Delivery,
    pub(super) message: Message,
    pub(super) deaths: Deaths,
    /// It is settled at once.
    pub(super) no_ack: bool,
}

/// A copy that came or came back and has to be found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loose {
    pub(super) id: LifeId,
    /// If it was published.
    pub(super) arrival: Option<Arrival>,
    /// The queue may refuse it.
    pub(super) refusable: bool,
    /// It may not have come at all.
    pub(super) optional: bool,
}

/// What was handed out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) ear: Ear,
    pub(super) level: u8,
    pub(super) place: Option<Place>,
}

/// One queue in one step.
pub(super) struct Scene<'a> {
    pub(super) key: QueueKey,
    pub(super) name: String,
    pub(super) spec: Spec,
    /// `None`: the queue is gone.
    pub(super) shown: Option<(&'a Shown, Counts)>,
    /// Deliveries not yet explained, in order for each ear.
    pub(super) told: Vec<Told>,
    /// Ready messages not yet explained.
    pub(super) strange: BTreeSet<Place>,
    /// Ready from the beginning, unless taken.
    pub(super) before: BTreeSet<Place>,
    /// The lowest sequence numbers of levels that nobody had.
    pub(super) next: BTreeMap<u8, u64>,
    pub(super) taken: Vec<Taken>,
    /// Where those stood that a length limit has dropped; unknown of those that came just now.
    pub(super) dropped: Vec<(u8, Option<Place>)>,
    pub(super) expired: usize,
    /// `basic.get` told how many are left, or that there is nothing.
    pub(super) left: Option<Option<u32>>,
    pub(super) loose: VecDeque<Loose>,
}

impl Scene<'_> {
    pub(super) fn shown_ready(&self) -> usize {
        self.shown.map_or(0, |(shown, _)| shown.ready.len())
    }

    pub(super) fn shown_dead(&self) -> usize {
        self.shown.map_or(0, |(shown, _)| shown.dead)
    }

    /// Whether a delivery or a ready message that is not yet explained may be of this copy.
    pub(super) fn shows(&self, message: Message, deaths: &Deaths) -> bool {
        let told = |told: &Told| told.message == message && told.deaths == *deaths;
        let ready = |place: &Place| {
            let entry = self.shown.and_then(|(shown, _)| shown.ready.get(place));
            entry.is_some_and(|entry| entry.message == message && entry.deaths == *deaths)
        };
        self.told.iter().any(told) || self.strange.iter().any(ready)
    }

    /// Takes the first delivery that may be of this copy.
    pub(super) fn take_told(&mut self, message: Message, deaths: &Deaths) -> Option<Told> {
        let is_it = |told: &Told| told.message == message && told.deaths == *deaths;
        let at = self.told.iter().position(is_it)?;
        Some(self.told.remove(at))
    }

    /// Takes the first ready message that may be this copy.
    pub(super) fn take_strange(
        &mut self,
        (message, deaths): (Message, &Deaths),
        level: u8,
    ) -> Option<Place> {
        let (shown, _) = self.shown?;
        let is_it = |place: &&Place| {
            let entry = shown.ready.get(place);
            place.0.0 == level
                && entry.is_some_and(|entry| entry.message == message && entry.deaths == *deaths)
        };
        let place = *self.strange.iter().find(is_it)?;
        self.strange.remove(&place);
        Some(place)
    }

    /// Whether the length limit drops ready messages.
    pub(super) const fn drops(&self) -> bool {
        self.spec.length_max.is_some() && !self.spec.refuses
    }

    pub(super) fn length_max(&self) -> usize {
        self.spec.length_max.map_or(usize::MAX, usize::from)
    }

    /// What must hold of order and limits when everything is explained.
    ///
    /// # Errors
    /// What does not.
    pub(super) fn check(&self) -> Result<(), String> {
        let Some((shown, _)) = self.shown else {
            return Ok(());
        };
        if let Some(told) = self.told.first() {
            return Err(format!(
                "{told:?}, but the oldest ready message is {:?}",
                shown.ready.first_key_value()
            ));
        }
        if let Some(place) = self.strange.first() {
            return Err(format!("nobody put {:?} there", shown.ready.get(place)));
        }
        self.check_order(shown)?;
        let max = self.length_max();
        if self.drops() && shown.ready.len() > max {
            return Err(format!("{} ready, {max} allowed", shown.ready.len()));
        }
        let most = shown.ready.len() + self.taken.len() + self.expired;
        if !self.dropped.is_empty() && most < max {
            return Err(format!("{:?} dropped below the limit", self.dropped));
        }
        Ok(())
    }

    /// What was ready all the time and is served or dropped before something else is not left over.
    fn check_order(&self, shown: &Shown) -> Result<(), String> {
        let waited = self
            .before
            .iter()
            .find(|place| shown.ready.contains_key(place));
        if let Some(waited) = waited {
            let overtakes = |taken: &&Taken| match taken.place {
                Some(place) => place > *waited,
                None => taken.level <= waited.0.0,
            };
            if let Some(taken) = self.taken.iter().find(overtakes) {
                return Err(format!(
                    "{taken:?}, but the oldest ready message is {:?}",
                    shown.ready.get(waited)
                ));
            }
        }
        let turn = |level: u8| match self.spec.mortality.drops_lowest {
            true => level,
            false => u8::MAX - level,
        };
        let is_before = |waited: &Place, (level, place): &(u8, Option<Place>)| {
            let (waited_turn, dropped_turn) = (turn(waited.0.0), turn(*level));
            waited_turn < dropped_turn
                || waited_turn == dropped_turn && place.is_none_or(|place| waited.1 < place.1)
        };
        for waited in self.before.iter().filter(|it| shown.ready.contains_key(it)) {
            if let Some(dropped) = self.dropped.iter().find(|it| is_before(waited, it)) {
                return Err(format!("{dropped:?} is dropped before {waited:?}"));
            }
        }
        let of_one = |a: &Taken, b: &Taken| a.ear == b.ear;
        for run in self.taken.chunk_by(of_one) {
            let known = run.iter().filter_map(|taken| taken.place);
            let known: Vec<_> = known.filter(|place| self.before.contains(place)).collect();
            if !known.is_sorted() {
                return Err(format!("{known:?} handed out in this order"));
            }
        }
        Ok(())
    }
}
