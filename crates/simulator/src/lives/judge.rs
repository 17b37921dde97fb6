//! What happened to each copy in one step.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use leveret_broker::Death;

use super::scene::{Loose, Scene, Taken, Told};
use super::way::Way;
use super::{LATE_MS, Life, LifeId, Lives, Place};
use crate::command::queue_name;
use crate::deaths::Deaths;
use crate::ledger::{Arrival, Delivery, Event};
use crate::model::{Model, QueueKey, Step, StepKind};

/// Deliveries of each queue, by connection.
type Pending = BTreeMap<QueueKey, BTreeMap<usize, VecDeque<Delivery>>>;
type Scenes<'a> = BTreeMap<QueueKey, Scene<'a>>;

impl Lives {
    /// Explains one step.
    ///
    /// # Errors
    /// What cannot be explained.
    pub(crate) fn judge(
        &mut self,
        model: &mut Model,
        step: &Step,
        mut pending: Pending,
    ) -> Result<(), String> {
        self.now_ms = step.now_ms;
        let mut events = std::mem::take(&mut model.events);
        let mut scenes = Scenes::new();
        for key in 0..model.queues.len() {
            let events = events.remove(&key).unwrap_or_default();
            let told = pending.remove(&key).unwrap_or_default();
            if model.queues[key].gone && events.is_empty() && told.is_empty() {
                continue;
            }
            let mut scene = self.scene(model, key, step)?;
            for (ear, (_, told)) in told.into_iter().enumerate() {
                let told = told
                    .into_iter()
                    .map(|delivery| self.told(Some(ear), delivery));
                scene.told.extend(told);
            }
            for event in &events {
                let happened = self.happen(model, &mut scene, event);
                happened.map_err(|reason| format!("{}: {reason}", scene.name))?;
            }
            scenes.insert(key, scene);
        }
        if model.names.len() != step.queues.len() {
            let names = model.names.keys();
            return Err(format!("expected {names:?}, there are {:?}", step.queues));
        }
        for scene in scenes.values_mut() {
            let passed = self.pass(model, scene);
            passed.map_err(|reason| format!("{}: {reason}", scene.name))?;
        }
        self.follow(model, &mut scenes)?;
        for scene in scenes.values() {
            let left = self.leave(model, scene, step.kind);
            left.map_err(|reason| format!("{}: {reason}", scene.name))?;
        }
        if step.kind == StepKind::Durable {
            self.become_durable();
        }
        Ok(())
    }

    fn scene<'a>(
        &mut self,
        model: &Model,
        key: QueueKey,
        step: &'a Step,
    ) -> Result<Scene<'a>, String> {
        let queue = &model.queues[key];
        let name = queue_name(queue.number);
        let shown = step.shown.get(&name).zip(step.queues.get(&name).copied());
        let shown = shown.filter(|_| !queue.gone);
        if shown.is_none() != queue.gone {
            return Err(format!("{name}: expected to be gone: {}", queue.gone));
        }
        for (shown, _) in shown.iter() {
            let lanes = shown
                .lanes
                .iter()
                .map(|(level, lane)| (*lane, (key, *level)));
            self.lanes.extend(lanes);
        }
        Ok(Scene {
            key,
            name,
            spec: queue.spec,
            shown,
            told: Vec::new(),
            strange: shown
                .iter()
                .flat_map(|(it, _)| it.ready.keys().copied())
                .collect(),
            before: self.places(key).ready.keys().copied().collect(),
            next: self.places(key).next.clone(),
            taken: Vec::new(),
            dropped: Vec::new(),
            expired: 0,
            left: None,
            loose: VecDeque::new(),
        })
    }

    fn told(&self, ear: Option<usize>, delivery: Delivery) -> Told {
        let (message, deaths) = self.tickets[&delivery.arrival];
        Told {
            ear,
            delivery,
            message,
            deaths,
            no_ack: false,
        }
    }

    /// A command does something to a queue.
    fn happen(
        &mut self,
        model: &mut Model,
        scene: &mut Scene<'_>,
        event: &Event,
    ) -> Result<(), String> {
        let key = scene.key;
        let ready = self.places(key).ready.len();
        let agrees = |told: Option<u32>, what: &str| match told {
            Some(told) if told as usize != ready => Err(format!(
                "{what} tells {told} ready messages, there are {ready}"
            )),
            _ => Ok(()),
        };
        match event {
            Event::Push(arrival) => self.publish(model, scene, (*arrival, true)),
            Event::Commit(arrival) => self.publish(model, scene, (*arrival, false)),
            Event::Settle(ticket, consumer) => {
                let id = self.returned(model, key, (*ticket, *consumer))?;
                self.end(id);
            }
            Event::Reject(ticket, consumer) => {
                let id = self.returned(model, key, (*ticket, *consumer))?;
                // Should it come back, as it waits to be moved on when the broker ends.
                self.lives[id].redelivered = true;
                self.die(model, key, (id, Death::Rejected));
            }
            Event::Requeue(back, failed) => {
                for one in back {
                    let id = self.returned(model, key, *one)?;
                    self.come_back(model, scene, (id, *failed));
                }
            }
            Event::Get { got, left, no_ack } => {
                scene.left = Some(got.map(|_| *left));
                if let Some(got) = *got {
                    self.fetched(scene, got, *no_ack);
                }
            }
            Event::Purge(told) => {
                agrees(*told, "purge-ok")?;
                scene.before.clear();
                let ready = std::mem::take(&mut self.places(key).ready);
                ready.into_values().for_each(|id| self.end(id));
            }
            Event::Join(seat) => model.queues[key].ledger.seats.push(seat.clone()),
            Event::Leave(tag) => {
                let seats = &mut model.queues[key].ledger.seats;
                seats.retain(|seat| seat.tag != *tag);
            }
            Event::Report(told) => agrees(Some(*told), "declare-ok")?,
            Event::Empty(told) if *told == (ready == 0) => {}
            Event::Empty(told) => return Err(format!("empty: {told}, ready: {ready}")),
            Event::Delete(told) => {
                agrees(*told, "delete-ok")?;
                scene.before.clear();
                let loose: Vec<_> = scene.loose.drain(..).map(|loose| loose.id).collect();
                self.end_all(scene, &loose);
            }
        }
        Ok(())
    }

    fn fetched(
        &self,
        scene: &mut Scene<'_>,
        (arrival, redelivered): (Arrival, bool),
        no_ack: bool,
    ) {
        let delivery = Delivery {
            arrival,
            consumer: 0,
            redelivered,
        };
        let told = self.told(None, delivery);
        scene.told.push(Told { no_ack, ..told });
    }

    fn publish(
        &mut self,
        model: &Model,
        scene: &mut Scene<'_>,
        (arrival, refusable): (Arrival, bool),
    ) {
        let message = self.arrived[&arrival];
        let life = Life {
            message,
            key: self.keys[&message].clone(),
            deaths: Deaths::default(),
            queue: scene.key,
            place: None,
            entered_ms: self.now_ms,
            redelivered: false,
            failed: 0,
            stored: message.persistent && model.queues[scene.key].is_lasting(),
            ended: false,
            born_surely: false,
            ended_surely: false,
            failed_surely: 0,
            parent: None,
            children: Vec::new(),
        };
        let id = self.begin(life);
        scene.loose.push_back(Loose {
            id,
            arrival: Some(arrival),
            refusable,
            optional: false,
        });
    }

    /// A delivery is the queue's again; its consumer has its credit back.
    fn returned(
        &mut self,
        model: &mut Model,
        key: QueueKey,
        (ticket, consumer): (Arrival, Option<u64>),
    ) -> Result<LifeId, String> {
        if let Some(seat) = model.queues[key].ledger.seat(consumer) {
            seat.held -= 1;
        }
        let id = self.places(key).out.remove(&ticket);
        id.ok_or_else(|| format!("{:?} comes back but is not out", self.tickets[&ticket]))
    }

    fn come_back(&mut self, model: &Model, scene: &mut Scene<'_>, (id, failed): (LifeId, bool)) {
        let life = &mut self.lives[id];
        life.redelivered = true;
        life.failed += u32::from(failed);
        let failures_max = scene.spec.mortality.failures_max;
        if failures_max.is_some_and(|max| life.failed > u32::from(max)) {
            return self.die(model, scene.key, (id, Death::DeliveryLimit));
        }
        match life.place {
            Some(place) => drop(self.places(scene.key).ready.insert(place, id)),
            None => scene.loose.push_back(Loose {
                id,
                arrival: None,
                refusable: false,
                optional: false,
            }),
        }
    }

    fn die(&mut self, model: &Model, key: QueueKey, (id, death): (LifeId, Death)) {
        if model.queues[key].spec.mortality.letters.is_some() {
            self.places(key).dying.push_back((id, death));
        } else {
            self.end(id);
        }
    }

    /// Where those are that were ready: still there, handed out, or dead.
    fn pass(&mut self, model: &mut Model, scene: &mut Scene<'_>) -> Result<(), String> {
        let ready = self.places(scene.key).ready.clone();
        let (mut expired, mut dropped) = (Vec::new(), Vec::new());
        for (place, id) in ready {
            let life = &self.lives[id];
            let entry = scene.shown.and_then(|(shown, _)| shown.ready.get(&place));
            if let Some(entry) = entry {
                let same = life.is_of(entry.message, &entry.deaths)
                    && (life.redelivered, life.failed) == (entry.redelivered, entry.failed);
                if !same {
                    return Err(format!(
                        "the oldest ready message is {entry:?}, not {life:?}"
                    ));
                }
                scene.strange.remove(&place);
                continue;
            }
            let (message, deaths) = (life.message, life.deaths);
            let is_expired = life.deadline_ms(scene.spec) <= self.now_ms;
            self.places(scene.key).ready.remove(&place);
            if let Some(told) = scene.take_told(message, &deaths) {
                self.hand_out(model, scene, (id, told))?;
            } else if is_expired {
                expired.push(id);
            } else if scene.drops() {
                scene.dropped.push((place.0.0, Some(place)));
                dropped.push(id);
            } else {
                let life = &self.lives[id];
                return Err(format!("gone before its time: {life:?}"));
            }
        }
        scene.expired += expired.len();
        let expired = expired.into_iter().map(|id| (id, Death::Expired));
        let dropped = dropped.into_iter().map(|id| (id, Death::MaxLength));
        for (id, death) in expired.chain(dropped) {
            self.die(model, scene.key, (id, death));
        }
        Ok(())
    }

    fn hand_out(
        &mut self,
        model: &mut Model,
        scene: &mut Scene<'_>,
        (id, told): (LifeId, Told),
    ) -> Result<(), String> {
        let (key, now_ms) = (scene.key, self.now_ms);
        let life = &self.lives[id];
        let deadline_ms = life.deadline_ms(scene.spec);
        let is_fresh = deadline_ms == life.entered_ms
            && life.entered_ms == now_ms
            && !life.redelivered
            && life
                .place
                .is_none_or(|place| !scene.before.contains(&place));
        if deadline_ms <= now_ms && !is_fresh {
            return Err(format!("expired, and handed out: {told:?}"));
        }
        if told.delivery.redelivered != life.redelivered {
            return Err(format!(
                "{told:?}, but the oldest ready message is {life:?}"
            ));
        }
        let level = scene.spec.level(life.message);
        let oldest = life.redelivered.then_some((Reverse(level), 0));
        scene.taken.push(Taken {
            ear: told.ear,
            level,
            place: life.place.or(oldest),
        });
        let mut no_ack = told.no_ack;
        if told.ear.is_some() {
            let ledger = &mut model.queues[key].ledger;
            let serves = ledger.serves(told.delivery.consumer);
            let seat = ledger.seat(Some(told.delivery.consumer));
            let seat = seat.ok_or_else(|| format!("{told:?} to nobody"))?;
            if !serves || !seat.has_credit() {
                return Err(format!("{told:?} without credit: {seat:?}"));
            }
            no_ack = seat.no_ack;
            seat.held += u32::from(!no_ack);
        }
        if no_ack {
            self.end(id);
        } else {
            self.places(key).out.insert(told.delivery.arrival, id);
        }
        Ok(())
    }

    /// Finds those that came, and those that dead ones were moved on as.
    fn follow(&mut self, model: &mut Model, scenes: &mut Scenes<'_>) -> Result<(), String> {
        loop {
            for key in 0..model.queues.len() {
                while let Some(loose) = scenes.get_mut(&key).and_then(|it| it.loose.pop_front()) {
                    let optional = loose.optional && !self.has_gone_on(model, scenes, &loose);
                    let Some(scene) = scenes.get_mut(&key) else {
                        continue;
                    };
                    let found = self.find(model, scene, Loose { optional, ..loose });
                    found.map_err(|reason| format!("{}: {reason}", scene.name))?;
                }
            }
            let buries = |scene: &&Scene<'_>| {
                let places = self.queues.get(&scene.key);
                places.is_some_and(|places| places.dying.len() > scene.shown_dead())
            };
            let Some(key) = scenes.values().find(buries).map(|scene| scene.key) else {
                return Ok(());
            };
            self.bury(model, scenes, key)?;
        }
    }

    /// Whether a copy died where it came and is seen where it went from there.
    fn has_gone_on(&self, model: &Model, scenes: &Scenes<'_>, loose: &Loose) -> bool {
        let life = &self.lives[loose.id];
        let deaths = [Death::Expired, Death::MaxLength];
        deaths.into_iter().any(|death| {
            let way = self.way(model, life.queue, (loose.id, death));
            let mut scenes = way.targets.iter().filter_map(|target| scenes.get(target));
            scenes.any(|scene| scene.shows(life.message, &way.deaths))
        })
    }

    fn find(
        &mut self,
        model: &mut Model,
        scene: &mut Scene<'_>,
        loose: Loose,
    ) -> Result<(), String> {
        let Loose {
            id,
            arrival,
            refusable,
            optional,
        } = loose;
        let life = &self.lives[id];
        let (message, deaths) = (life.message, life.deaths);
        let level = scene.spec.level(message);
        let is_expired = life.deadline_ms(scene.spec) <= self.now_ms;
        if let Some(place) = scene.take_strange((message, &deaths), level) {
            return self.stand(scene, (id, place));
        }
        if let Some(told) = scene.take_told(message, &deaths) {
            return self.hand_out(model, scene, (id, told));
        }
        if optional {
            self.lives[id].stored = false;
            self.end(id);
            return Ok(());
        }
        // It was full if what was taken in this step was taken later: the order within a step is
        // the broker's.
        let dead = scene.shown_dead();
        let stuck = if scene.spec.keeps_letters() { dead } else { 0 };
        let most = scene.shown_ready() + stuck + scene.taken.len();
        let is_full = scene.spec.refuses && most >= scene.length_max();
        let has_died = is_expired && self.places(scene.key).dying.len() < dead;
        if refusable && is_full && !has_died {
            model.queues[scene.key].ledger.refused.extend(arrival);
            self.lives[id].stored = false;
            if scene.spec.mortality.refused_die {
                self.die(model, scene.key, (id, Death::MaxLength));
            } else {
                self.end(id);
            }
        } else if is_expired {
            scene.expired += 1;
            self.die(model, scene.key, (id, Death::Expired));
        } else if scene.drops() {
            // What has come back stands before all others, wherever that is.
            let back = self.lives[id].redelivered;
            let place = back.then_some((Reverse(level), 0));
            scene.dropped.push((level, place));
            self.die(model, scene.key, (id, Death::MaxLength));
        } else {
            return Err(format!("{:?} is lost", self.lives[id]));
        }
        Ok(())
    }

    /// A copy has found its place.
    fn stand(&mut self, scene: &Scene<'_>, (id, place): (LifeId, Place)) -> Result<(), String> {
        let life = &mut self.lives[id];
        let entry = scene.shown.and_then(|(shown, _)| shown.ready.get(&place));
        let tried = entry.map(|entry| (entry.redelivered, entry.failed));
        if tried != Some((life.redelivered, life.failed)) {
            return Err(format!(
                "the oldest ready message is {entry:?}, not {life:?}"
            ));
        }
        life.place = Some(place);
        let came_back = life.redelivered;
        // What comes in one step may come in any order.
        let first = scene.next.get(&place.0.0).copied().unwrap_or(0);
        if !came_back && place.1 < first {
            return Err(format!("{entry:?} stands before {first}"));
        }
        let places = self.places(scene.key);
        let next = places.next.entry(place.0.0).or_default();
        *next = (*next).max(place.1 + 1);
        places.ready.insert(place, id);
        Ok(())
    }

    /// The first of a queue's dead is moved on.
    fn bury(
        &mut self,
        model: &Model,
        scenes: &mut Scenes<'_>,
        key: QueueKey,
    ) -> Result<(), String> {
        let queue = &model.queues[key];
        let keeps = queue.spec.keeps_letters();
        let dying = self.places(key).dying.clone();
        let ways = dying.iter().map(|one| self.way(model, key, *one));
        // Of those that no copy may be lost of the ones that have no way stay.
        let goes = |way: &Way| !keeps || queue.gone || !way.targets.is_empty();
        let mut ways: Vec<_> = ways.enumerate().filter(|(_, way)| goes(way)).collect();
        // One that had no way waits for a while after it has one, and others go before it.
        let is_found = |(at, way): &(usize, Way)| {
            let message = self.lives[dying[*at].0].message;
            let mut scenes = way.targets.iter().filter_map(|target| scenes.get(target));
            scenes.any(|scene| scene.shows(message, &way.deaths))
        };
        let first = ways.iter().position(is_found).unwrap_or(0);
        if ways.is_empty() {
            return Err(format!("they have nowhere to go, and went: {dying:?}"));
        }
        let (at, way) = ways.swap_remove(first);
        let id = dying[at].0;
        self.places(key).dying.remove(at);
        let Way {
            letter,
            deaths,
            mut targets,
        } = way;
        // It was moved on before its queue ended, if it had died; and what has no room is lost.
        let optional = queue.gone;
        targets.retain(|target| !optional || !model.queues[*target].gone);
        let message = self.lives[id].message;
        for target in targets {
            let child = self.begin(Life {
                message,
                key: letter.clone(),
                deaths,
                queue: target,
                place: None,
                entered_ms: self.now_ms,
                redelivered: false,
                failed: 0,
                stored: message.persistent && model.queues[target].is_lasting(),
                ended: false,
                born_surely: false,
                ended_surely: false,
                failed_surely: 0,
                parent: Some(id),
                children: Vec::new(),
            });
            self.lives[id].children.push(child);
            let scene = scenes.get_mut(&target);
            let scene =
                scene.ok_or_else(|| format!("it goes to a queue that is gone: {target}"))?;
            scene.loose.push_back(Loose {
                id: child,
                arrival: None,
                refusable: !keeps,
                optional,
            });
        }
        self.end(id);
        Ok(())
    }

    /// What must hold of a queue when everything is explained.
    fn leave(&mut self, model: &Model, scene: &Scene<'_>, kind: StepKind) -> Result<(), String> {
        scene.check()?;
        let Some((shown, counts)) = scene.shown else {
            return Ok(());
        };
        let (now_ms, consumers) = (self.now_ms, model.queues[scene.key].ledger.seats.len());
        let places = self.queues.entry(scene.key).or_default();
        let found = (counts.ready, counts.unacked, counts.consumers, shown.dead);
        let (ready, out) = (places.ready.len() as u64, places.out.len() as u64);
        let expected = (ready, out, consumers, places.dying.len());
        if found != expected {
            return Err(format!("the broker has {found:?}, should be {expected:?}"));
        }
        let mut heads = BTreeMap::new();
        for (place, id) in &places.ready {
            let life = &self.lives[*id];
            let deadline_ms = life.deadline_ms(scene.spec);
            let is_head = heads.insert(place.0.0, ()).is_none();
            let late = kind == StepKind::Tick && deadline_ms.saturating_add(LATE_MS) <= now_ms;
            if late || deadline_ms <= now_ms && is_head {
                return Err(format!("past its deadline and still counted: {life:?}"));
            }
        }
        match scene.left {
            Some(None) if !places.ready.is_empty() => Err("basic.get told of none".into()),
            // More may have been delivered since.
            Some(Some(left)) if (left as usize) > places.ready.len() + scene.taken.len() => {
                Err(format!("get-ok tells {left} left, there are {ready}"))
            }
            _ => Ok(()),
        }
    }
}
