//! Dead letters: messages that died in a queue go on to where that queue sends them.
//!
//! A queue keeps its dead until they are moved on ([`leveret_queue::Queue::begin_burial`]). They
//! are copied out under its lock, routed with the broker's own rights with nothing locked, put into
//! their targets under each target's lock, and only then settled: copies and settlements are one
//! atomic group of the journal. A durable copy is served only after its group was submitted, so
//! that whatever settles it comes later in the journal. So a crash leaves each message in the one
//! queue or in the others, never in both or none.

mod headers;
mod kind;
mod submit;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_codec::Properties;
use leveret_queue::{Attempts, Dead, Death, Message, MessageBody, Rank};
use leveret_record::{Sabotage, breaks};
use leveret_settings::DeadLetters;
use leveret_store::{LaneId, MessageParts};
use rustc_hash::FxHashMap;

use crate::access::acting::Acting;
use crate::broker::Broker;
use crate::publish::PERSISTENT;
use crate::publish::direct::{find, raw_route};
use crate::publish::room::Room;
use crate::publish::routes::{Asked, Route, RouteCache};
use crate::publish::space::record_bytes;
use crate::queue::cell::QueueCell;
use crate::queue::copied::Copied;
use crate::queue::pump::Pump;
use crate::queue::work::{STEPS_OF_TURN, Work};
use crate::vhost::Vhost;
use headers::{Dying, Letter};
use kind::{Kind, Onward};

/// What one group of the journal moves at most.
const GROUP_MESSAGES: usize = 1024;
const GROUP_BYTES: usize = 4 << 20;
/// Groups after which others get their turn: the timer goes on.
const GROUPS_OF_TURN: usize = 4;
/// When what cannot be moved on is tried again.
const RETRY_MS: u64 = 1000;

/// The exchange and the routing key that a dead letter goes on with, as two raw short strings; none
/// where a policy names what is longer than a short string.
fn route_of(letters: &DeadLetters, copied: &Copied) -> Option<Vec<u8>> {
    let (_, own) = leveret_codec::split_route(&copied.route)?;
    let key = letters.key.as_deref().map_or(own, str::as_bytes);
    raw_route(letters.exchange.as_bytes(), key).ok()
}

/// What became of a dead message.
enum Moved {
    /// So many copies were made, and it is settled.
    On(usize),
    /// There is no room for it now.
    Waits,
    /// A queue is full of copies of this group, which are served only when that is submitted.
    InTheNextGroup,
}

/// A dead message, copied out of its queue.
struct Corpse {
    death: Death,
    /// The store knows it.
    stored: bool,
    /// The broker wrote what its headers tell of deaths.
    deaths: bool,
    copied: Copied,
}

impl Corpse {
    fn of(dead: &Dead<'_>) -> Self {
        let rank = Rank {
            level: dead.unacked.level,
            seq: dead.unacked.seq,
        };
        Self {
            death: dead.death,
            stored: dead.unacked.persistent,
            deaths: dead.record.marks.deaths(),
            copied: Copied::of((rank, dead.unacked.attempts), dead.record, dead.blob),
        }
    }

    fn is_persistent(&self) -> bool {
        leveret_codec::delivery_mode(&self.copied.header) == PERSISTENT
    }

    fn body_bytes(&self) -> u64 {
        self.copied.body().len() as u64
    }

    /// What its copies may take of the disk, about: there are seldom more than a few.
    fn claimed_bytes(&self) -> usize {
        const HEADERS: usize = 1024;
        const TARGETS: usize = 16;
        if !self.is_persistent() {
            return 0;
        }
        let copied = &self.copied;
        let bytes = copied.header.len() + copied.body().len() + HEADERS;
        record_bytes(copied.route.len(), TARGETS) + bytes
    }
}

/// One group: what is moved from one queue.
struct Burial<'a> {
    broker: &'a Broker,
    vhost: &'a Vhost,
    cell: &'a Arc<QueueCell>,
    letters: Option<&'a DeadLetters>,
    routes: RouteCache,
    /// Of the message before: most of a group are alike.
    kind: Option<Kind>,
    /// The header of the message that is moved on; kept for its memory.
    header: Vec<u8>,
    /// Queues that got copies, to be run when the group is submitted, each with what may not be
    /// served until then: of each level the first durable copy.
    touched: Vec<Touched>,
    /// Where each queue stands in there, by where it lives.
    places: FxHashMap<usize, usize>,
}

/// A queue that got copies.
struct Touched {
    cell: Arc<QueueCell>,
    held: Vec<Rank>,
}

impl Broker {
    /// Moves on what died in queues that the work names; what is more than a turn bears is left to
    /// the timer.
    pub(crate) fn bury(&self, work: &mut Work) {
        for _ in 0..GROUPS_OF_TURN {
            let Some(cell) = work.dying.pop() else {
                return;
            };
            self.bury_some(&cell, work);
        }
        for cell in work.dying.drain(..) {
            let now_ms = self.timer.now_ms();
            self.timer.arm(&cell, &mut cell.lock(), now_ms);
        }
    }

    fn bury_some(&self, cell: &Arc<QueueCell>, work: &mut Work) {
        let Some((letters, corpses)) = self.exhume(cell) else {
            return;
        };
        // What the turn recorded before is no part of the group.
        work.submit(&*self.store);
        let bytes = corpses.iter().map(Corpse::claimed_bytes).sum();
        let claim = |journal| self.store.claim(journal, corpses.len(), bytes);
        let full = bytes > 0 && claim(&mut work.journal).is_err();
        let vhost = self.vhost(&cell.vhost);
        let (mut moved, mut waits) = (0, full);
        let mut touched = Vec::new();
        if let (Some(vhost), false) = (&vhost, full) {
            let mut burial = Burial {
                broker: self,
                vhost,
                cell,
                letters: letters.as_deref(),
                routes: RouteCache::of_broker(self.next_seed()),
                kind: None,
                header: Vec::new(),
                touched,
                places: FxHashMap::default(),
            };
            let mut copies = 0;
            work.journal.begin_group();
            for corpse in &corpses {
                match burial.bury(corpse, work) {
                    Moved::On(more) => copies += more,
                    Moved::Waits => {
                        waits = true;
                        break;
                    }
                    Moved::InTheNextGroup => break,
                }
                moved += 1;
                if copies >= STEPS_OF_TURN {
                    break;
                }
            }
            work.journal.end_group();
            work.submit(&*self.store);
            touched = burial.touched;
        }
        let at_least_once = letters.is_some_and(|letters| letters.at_least_once);
        for corpse in corpses.iter().take(moved) {
            let quorum = cell.tells_attempts();
            if let Some(count) = self.deaths.counter(corpse.death, quorum, at_least_once) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.end_burial(cell, (moved, waits), work);
        for Touched { cell, held } in touched {
            let mut state = cell.lock();
            if !cell.is_deleted() {
                held.iter().for_each(|rank| state.queue.release_hold(*rank));
                cell.run(&mut state, &mut Pump::new(&cell, work));
            }
        }
    }

    /// Frees the places of what was moved. What has to wait is tried again in a while, the rest
    /// when others had their turn.
    fn end_burial(&self, cell: &Arc<QueueCell>, (moved, waits): (usize, bool), work: &mut Work) {
        let mut state = cell.lock();
        if cell.is_deleted() {
            return;
        }
        state.queue.buried(moved);
        cell.run(&mut state, &mut Pump::new(cell, work));
        if waits {
            work.dying.retain(|other| !Arc::ptr_eq(other, cell));
            let again_ms = self.timer.now_ms().saturating_add(RETRY_MS);
            self.timer.arm(cell, &mut state, again_ms);
        }
    }

    /// Copies dead messages out of their queue, which keeps them.
    fn exhume(&self, cell: &Arc<QueueCell>) -> Option<(Option<Arc<DeadLetters>>, Vec<Corpse>)> {
        let mut state = cell.lock();
        if cell.is_deleted() {
            return None;
        }
        let (mut corpses, mut bytes) = (Vec::new(), 0);
        let begun = state.queue.begin_burial(|dead| {
            let corpse = Corpse::of(dead);
            bytes += corpse.copied.copied_bytes();
            corpses.push(corpse);
            corpses.len() < GROUP_MESSAGES && bytes < GROUP_BYTES
        });
        if !begun {
            return None;
        }
        Some((state.dead_letters.clone(), corpses))
    }
}

impl Burial<'_> {
    /// Moves one message on.
    fn bury(&mut self, corpse: &Corpse, work: &mut Work) -> Moved {
        let mut copies = 0;
        if let Ok(properties) = Properties::decode(&corpse.copied.header) {
            let kind = match self.kind.take() {
                Some(kind) if kind.covers(corpse, &properties) => kind,
                _ => Kind::of(corpse, &properties, self.onward(corpse, &properties)),
            };
            if let Some(onward) = &kind.onward {
                match self.send((corpse, &properties), onward, work) {
                    Moved::On(made) => copies = made,
                    waits => return waits,
                }
            }
            self.kind = Some(kind);
        }
        if corpse.stored
            && !breaks(Sabotage::KeepDead)
            && let Some(lane) = self.cell.lane_of(corpse.copied.rank.level)
        {
            work.journal.settle(lane, corpse.copied.rank.seq);
        }
        Moved::On(copies)
    }

    /// Where a message goes, and as what; `None` when that is nowhere: since a policy was taken
    /// away that sent it on, or as its policy names what is longer than a short string.
    fn onward(&mut self, corpse: &Corpse, properties: &Properties<'_>) -> Option<Onward> {
        let letters = self.letters?;
        let route = route_of(letters, &corpse.copied)?;
        let letter = Letter::of(&Dying {
            queue: &self.cell.name,
            death: corpse.death,
            time: self.broker.timer.now_ms() / 1000,
            route: &corpse.copied.route,
            properties,
            deaths: corpse.deaths,
        })?;
        letter.write_header(properties, corpse.body_bytes(), &mut self.header);
        let found = self.route(letters, (&letter, &route));
        // Nowhere where it has been already without anybody having rejected it.
        let cells = found.iter().flat_map(|route| route.cells.iter());
        let targets = cells.filter(|cell| !letter.goes_in_circles(&cell.name));
        let targets = targets.cloned().collect();
        Some(Onward {
            route,
            letter,
            found,
            targets,
        })
    }

    /// Sends a message on.
    fn send(
        &mut self,
        (corpse, properties): (&Corpse, &Properties<'_>),
        onward: &Onward,
        work: &mut Work,
    ) -> Moved {
        let targets = onward.targets.as_slice();
        if !self.has_memory(targets) {
            return Moved::Waits;
        }
        let at_least_once = self.letters.is_some_and(|letters| letters.at_least_once);
        if self.is_full_of_held(targets, corpse.body_bytes()) {
            return Moved::InTheNextGroup;
        }
        let room = match at_least_once {
            true if !reserve(targets, corpse) => return Moved::Waits,
            true => Room::Reserved,
            false => Room::Plenty,
        };
        let mut header = std::mem::take(&mut self.header);
        let body_bytes = corpse.body_bytes();
        onward
            .letter
            .write_header(properties, body_bytes, &mut header);
        self.enqueue((corpse, room), (&header, &onward.route), targets, work);
        self.header = header;
        Moved::On(targets.len())
    }

    /// Whether one of these queues has no room, but may have when this group's copies are served:
    /// what a consumer takes at once never counts against a limit.
    fn is_full_of_held(&self, targets: &[Arc<QueueCell>], bytes: u64) -> bool {
        targets.iter().any(|cell| {
            let place = self.places.get(&Arc::as_ptr(cell).addr());
            let touched = place.and_then(|place| self.touched.get(*place));
            let holds = touched.is_some_and(|touched| !touched.held.is_empty());
            holds && !cell.lock().queue.has_room(bytes)
        })
    }

    /// Whether there is memory for copies in all these queues: one message may become very many.
    fn has_memory(&self, targets: &[Arc<QueueCell>]) -> bool {
        let room = Room::of(self.broker);
        let lacks = |cell: &Arc<QueueCell>| room.is_above_share(&cell.lock().queue);
        room == Room::Plenty || !targets.iter().any(lacks)
    }

    /// The way of a letter, whose header is written; as with RabbitMQ none where there is no such
    /// exchange.
    fn route(&mut self, letters: &DeadLetters, (letter, route): (&Letter, &[u8])) -> Option<Route> {
        let more: Vec<&[u8]> = match letters.key {
            Some(_) => Vec::new(),
            None => letter.more_keys.iter().map(Vec::as_slice).collect(),
        };
        let acting = Acting {
            broker: self.broker,
            vhost: self.vhost,
            user: "",
        };
        let header = self.header.as_slice();
        let properties = Properties::decode(header).ok()?;
        let asked: Asked<'_> = (route, &more, Some((header, &properties)));
        find(&mut self.routes, acting, asked).ok()
    }

    /// Puts copies into all targets.
    fn enqueue(
        &mut self,
        (corpse, room): (&Corpse, Room),
        (header, route): (&[u8], &[u8]),
        targets: &[Arc<QueueCell>],
        work: &mut Work,
    ) {
        let copied = &corpse.copied;
        let blob = copied.shared(targets.len() > 1, &self.broker.memory);
        let body = match &blob {
            Some(blob) => MessageBody::Shared(blob),
            None => MessageBody::Inline(copied.body()),
        };
        let mut message = Message {
            route,
            header,
            body,
            entered_ms: self.broker.timer.now_ms(),
            expiration_ms: None,
            priority: 0,
            persistent: false,
            deaths: true,
            attempts: Attempts::NONE,
        };
        let priority = leveret_codec::priority(&copied.header).unwrap_or(0);
        let persistent = corpse.is_persistent();
        let mut lanes = Vec::new();
        for cell in targets {
            message.persistent = cell.lane.is_some() && persistent;
            message.priority = cell.priority_of(&copied.header, priority);
            lanes.extend(self.push((cell, room), &message, work));
        }
        let parts = MessageParts {
            entered_ms: Some(message.entered_ms),
            expiration_ms: None,
            deaths: true,
            route,
            header,
            body: &[copied.body()],
        };
        if !breaks(Sabotage::LoseCopy) {
            work.journal.message(&lanes, &parts);
        }
    }

    /// Gives the place of a copy that the store has to know of.
    fn push(
        &mut self,
        (cell, room): (&Arc<QueueCell>, Room),
        message: &Message<'_>,
        work: &mut Work,
    ) -> Option<(LaneId, u64)> {
        let mut state = cell.lock();
        if cell.is_deleted() {
            return None;
        }
        let place = *self
            .places
            .entry(Arc::as_ptr(cell).addr())
            .or_insert_with(|| {
                let cell = Arc::clone(cell);
                self.touched.push(Touched {
                    cell,
                    held: Vec::new(),
                });
                self.touched.len() - 1
            });
        let pushed = room.push(&mut state.queue, message, &mut Pump::new(cell, work));
        let rank = match pushed {
            Ok(rank) => rank,
            Err(reason) => {
                state.refused(message, reason);
                return None;
            }
        };
        let lane = cell.lane_of(rank.level).filter(|_| message.persistent)?;
        let touched = self.touched.get_mut(place)?;
        if touched.held.iter().all(|held| held.level != rank.level) {
            state.queue.hold_from(rank);
            touched.held.push(rank);
        }
        Some((lane, rank.seq))
    }
}

/// Finds room for a copy in each queue, or in none: a message that has to wait leaves no copy
/// behind, or it would leave another one each time it is tried.
fn reserve(targets: &[Arc<QueueCell>], corpse: &Corpse) -> bool {
    let bytes = corpse.copied.body().len() as u64;
    for (done, cell) in targets.iter().enumerate() {
        let mut state = cell.lock();
        if cell.is_deleted() || state.queue.reserve(1, bytes) {
            continue;
        }
        drop(state);
        for cell in targets.iter().take(done) {
            cell.lock().queue.release_reserved(1, bytes);
        }
        return false;
    }
    !targets.is_empty()
}
