//! What a crash leaves: for each copy what the disk must have, and what it may.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Life, LifeId, Lives, Place};
use crate::command::Message;
use crate::deaths::Deaths;
use crate::model::{Model, QueueKey};

/// A message that the store remembers.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) lane: u32,
    pub(crate) seq: u64,
    pub(crate) message: Message,
    pub(crate) deaths: Deaths,
    pub(crate) entered_ms: Option<u64>,
    pub(crate) redelivered: bool,
    pub(crate) failed: u32,
}

/// What was found, by place; what is explained is taken out.
struct Remains {
    found: BTreeMap<(QueueKey, Place), Found>,
    back: Vec<(LifeId, Place)>,
}

impl Remains {
    fn take(&mut self, life: &Life, level: u8) -> Option<(Place, Found)> {
        let place = match life.place {
            Some(place) => place,
            None => {
                let is_it = |((key, place), found): &(&(QueueKey, Place), &Found)| {
                    *key == life.queue && place.0.0 == level && is_same(life, found)
                };
                self.found.iter().find(is_it)?.0.1
            }
        };
        let found = self.found.get(&(life.queue, place))?;
        // The place of one that came and went in one commit may be another's after a crash.
        if life.ended && !is_same(life, found) {
            return None;
        }
        Some((place, self.found.remove(&(life.queue, place))?))
    }
}

fn is_same(life: &Life, found: &Found) -> bool {
    life.is_of(found.message, &found.deaths)
}

impl Lives {
    /// All that happened so far is on the disk.
    pub(super) fn become_durable(&mut self) {
        for life in &mut self.lives {
            life.born_surely = true;
            life.ended_surely |= life.ended;
            life.failed_surely = life.failed;
        }
    }

    /// The broker ends, and this is what its disk has: each message in the one queue or, after its
    /// death, in the others.
    ///
    /// # Errors
    /// What is lost, or there twice, or changed.
    pub(crate) fn restart(&mut self, model: &Model, found: Vec<Found>) -> Result<(), String> {
        let mut remains = Remains {
            found: BTreeMap::new(),
            back: Vec::new(),
        };
        for one in found {
            let lane = self.lanes.get(&one.lane);
            let (key, level) = lane.ok_or_else(|| format!("of no queue: {one:?}"))?;
            let place = (Reverse(*level), one.seq);
            remains.found.insert((*key, place), one);
        }
        for id in 0..self.lives.len() {
            if self.lives[id].parent.is_none() {
                self.find_remains(model, (id, self.lives[id].born_surely), &mut remains)?;
            }
        }
        if let Some(strange) = remains.found.values().next() {
            return Err(format!(
                "nobody knows of it, or it is there twice: {strange:?}"
            ));
        }
        self.queues.clear();
        for life in &mut self.lives {
            (life.ended, life.ended_surely) = (true, true);
        }
        for (id, place) in remains.back {
            let life = &mut self.lives[id];
            (life.ended, life.ended_surely, life.born_surely) = (false, false, true);
            life.children.clear();
            life.place = Some(place);
            let key = life.queue;
            self.places(key).ready.insert(place, id);
        }
        Ok(())
    }

    /// `must`: this copy has surely been there.
    fn find_remains(
        &mut self,
        model: &Model,
        (id, must): (LifeId, bool),
        remains: &mut Remains,
    ) -> Result<(), String> {
        let life = self.lives[id].clone();
        let level = model.queues[life.queue].spec.level(life.message);
        let found = life.stored.then(|| remains.take(&life, level)).flatten();
        if let Some((place, found)) = found {
            remains.back.push((id, place));
            return self.check_remains(&life, &found, id);
        }
        if must && life.stored && !life.ended {
            return Err(match life.parent {
                Some(parent) => format!(
                    "a death without its copy: {life:?} of {:?}",
                    self.lives[parent]
                ),
                None => format!("lost in the crash: {life:?}"),
            });
        }
        for child in life.children {
            // What only memory had may have gone with it.
            let must = must && life.stored;
            self.find_remains(model, (child, must), remains)?;
        }
        Ok(())
    }

    fn check_remains(&mut self, life: &Life, found: &Found, id: LifeId) -> Result<(), String> {
        if life.ended_surely {
            return Err(format!("it was gone for good: {life:?}"));
        }
        if !is_same(life, found) {
            return Err(format!("{found:?} instead of {life:?}"));
        }
        if found.entered_ms.is_some_and(|ms| ms != life.entered_ms) {
            return Err(format!("{found:?} forgets since when it waits: {life:?}"));
        }
        let failures = life.failed_surely..=life.failed;
        let surely_new = found.redelivered && life.born_surely && !self.was_out(id);
        if !failures.contains(&found.failed) || surely_new && !life.redelivered {
            return Err(format!("{found:?} was not tried so often: {life:?}"));
        }
        let life = &mut self.lives[id];
        (life.redelivered, life.failed) = (found.redelivered, found.failed);
        Ok(())
    }

    fn was_out(&self, id: LifeId) -> bool {
        let places = self.queues.get(&self.lives[id].queue);
        places.is_some_and(|places| places.out.values().any(|out| *out == id))
            || self.lives[id].ended
    }
}
