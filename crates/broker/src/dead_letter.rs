//! Dead letters: messages that died in a queue go on to where that queue sends them.
//!
//! A queue keeps its dead until they are moved on ([`leveret_queue::Queue::begin_burial`]). They
//! are copied out under its lock, routed with the broker's own rights with nothing locked, put into
//! their targets under each target's lock, and only then settled: copies and settlements are one
//! atomic group of the journal. A durable copy is served only after its group was submitted, so
//! that whatever settles it comes later in the journal. So a crash leaves each message in the one
//! queue or in the others, never in both or none.

mod copies;
mod corpses;
mod headers;
mod kind;
mod submit;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_codec::Properties;
use leveret_queue::{BurialWait, Buried, Death, MessageBody, Rank};
use leveret_record::{Sabotage, breaks};
use leveret_settings::DeadLetters;
use leveret_store::MessageParts;
use rustc_hash::FxHashMap;

use crate::access::acting::Acting;
use crate::broker::Broker;
use crate::broker::paging::PageLoad;
use crate::publish::direct::{find, raw_route};
use crate::publish::room::Room;
use crate::publish::routes::{Route, RouteCache, RouteQuery};
use crate::queue::cell::QueueCell;
use crate::queue::effects::{Effects, STEPS_OF_TURN};
use crate::queue::pump::Pump;
use crate::vhost::Vhost;
use crate::vhost::refused::counts_of;
use copies::Copies;
use corpses::{Corpse, CorpseRun, Corpses};
use headers::{Dying, Letter};
use kind::{DeathKind, Onward};

/// What one group of the journal moves at most.
const GROUP_MESSAGES: usize = 1024;
const GROUP_BYTES: usize = 4 << 20;
/// The same for the timer, which is to have the processor for no longer than others notice.
const BRIEF_MESSAGES: usize = 128;
/// Copies that are made for one look at the room there is, unless one message has more.
const RUN_COPIES: usize = 1024;
/// Groups after which others get their turn: the timer goes on.
const GROUPS_OF_TURN: usize = 4;
/// How often others who move dead messages on are given way before their queue ends without them:
/// they need milliseconds, unless they have failed.
const OTHERS_PATIENCE: u32 = 100_000;
/// When what cannot be moved on is tried again.
const RETRY_MS: u64 = 1000;
/// When it is asked again whether the store has caught up, as its memory is bounded.
const STORE_PAUSE_MS: u64 = 2;

/// The exchange and the routing key that a dead letter goes on with, as two raw short strings; none
/// where a policy names what is longer than a short string.
fn route_of(letters: &DeadLetters, corpse: &Corpse<'_>) -> Option<Vec<u8>> {
    let (_, own) = leveret_codec::split_route(corpse.route)?;
    let key = letters.key.as_deref().map_or(own, str::as_bytes);
    raw_route(letters.exchange.as_bytes(), key).ok()
}

/// Whether the messages behind those that were moved on can follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Followers {
    Follows,
    /// There is no room for it now.
    Waits,
    /// A queue is full of copies of this group, which are served only when that is submitted.
    InTheNextGroup,
}

/// What the groups of a turn use, one after the other.
#[derive(Default)]
struct GroupBuffers {
    corpses: Corpses,
    copies: Copies,
}

/// One group: what is moved from one queue.
struct Burial<'a> {
    broker: &'a Broker,
    vhost: &'a Vhost,
    cell: &'a Arc<QueueCell>,
    letters: Option<&'a DeadLetters>,
    routes: RouteCache,
    /// Of the messages before: most of a group are alike.
    kind: Option<DeathKind>,
    copies: &'a mut Copies,
    /// Places of those that have no way and must not be lost.
    stay: Vec<usize>,
    /// Queues that got copies, to be run when the group is submitted, each with what may not be
    /// served until then: of each level the first durable copy.
    touched: Vec<CopyTarget>,
    /// Where each queue stands in there, by where it lives.
    places: FxHashMap<usize, usize>,
}

/// A queue that got copies.
struct CopyTarget {
    cell: Arc<QueueCell>,
    held: Vec<Rank>,
}

impl Broker {
    /// Moves on what died in queues that the work names; what is more than a turn or the store
    /// bears is left to the timer.
    pub(crate) fn bury(&self, effects: &mut Effects) {
        let (most, pause_ms) = match (self.is_store_behind(), effects.briefly) {
            (true, _) => (0, STORE_PAUSE_MS),
            (false, true) => (1, 0),
            (false, false) => (GROUPS_OF_TURN, 0),
        };
        let (mut kept, mut groups) = (GroupBuffers::default(), 0);
        while groups < most
            && let Some(cell) = effects.dying.pop()
        {
            groups += usize::from(self.bury_some(&cell, &mut kept, effects));
        }
        let now_ms = self.timer.now_ms();
        for cell in effects.dying.drain(..) {
            let mut state = cell.lock();
            if state.queue.has_unburied(now_ms) {
                self.timer.arm(&cell, &mut state, now_ms + pause_ms);
            }
        }
    }

    /// Moves a group on; `false` when there is none, or somebody else does.
    fn bury_some(
        &self,
        cell: &Arc<QueueCell>,
        kept: &mut GroupBuffers,
        effects: &mut Effects,
    ) -> bool {
        let most = if effects.briefly {
            BRIEF_MESSAGES
        } else {
            GROUP_MESSAGES
        };
        let Some(letters) = self.exhume(cell, most, &mut kept.corpses) else {
            return false;
        };
        // What the turn recorded before is no part of the group.
        effects.submit(&*self.store);
        let (mut moved, mut next) = (0, Followers::Waits);
        let (mut stay, mut touched) = (Vec::new(), Vec::new());
        let corpses = self.claim_for(kept.corpses.all(), effects);
        if let Some(vhost) = self.vhost(&cell.vhost)
            && corpses.len() > 0
        {
            let mut burial = Burial {
                broker: self,
                vhost: &vhost,
                cell,
                letters: letters.as_deref(),
                routes: RouteCache::of_broker(self.next_seed()),
                kind: None,
                copies: &mut kept.copies,
                stay,
                touched,
                places: FxHashMap::default(),
            };
            effects.journal.begin_group();
            (moved, next) = burial.bury(corpses, effects);
            effects.journal.end_group();
            effects.submit(&*self.store);
            (stay, touched) = (burial.stay, burial.touched);
        }
        let at_least_once = letters.is_some_and(|letters| letters.at_least_once);
        let gone = corpses.take(moved).iter().enumerate();
        let stays = |index: &usize| !stay.is_empty() && stay.binary_search(index).is_ok();
        let gone = gone.filter(|(index, _)| !stays(index));
        self.count_deaths(cell, gone.map(|(_, corpse)| corpse), at_least_once);
        let wait = BurialWait {
            all: next == Followers::Waits,
            until_ms: self.timer.now_ms().saturating_add(RETRY_MS),
        };
        let buried = Buried {
            count: moved,
            stay: &stay,
            wait,
        };
        self.end_burial(cell, buried, effects);
        for CopyTarget { cell, held } in touched {
            let mut state = cell.lock();
            if !cell.is_deleted() {
                held.iter().for_each(|rank| state.queue.release_hold(*rank));
                cell.run(&mut state, &mut Pump::new(&cell, effects));
            }
        }
        true
    }

    /// Has the disk keep space for copies of all of them, or where it is short of that of the first
    /// one; gives for which it does.
    fn claim_for<'a>(&self, corpses: CorpseRun<'a>, effects: &mut Effects) -> CorpseRun<'a> {
        let mut claims = |run: CorpseRun<'_>| {
            let bytes = run.claimed_bytes();
            bytes == 0
                || self
                    .store
                    .claim(&mut effects.journal, run.len(), bytes)
                    .is_ok()
        };
        let runs = [corpses, corpses.take(1)];
        let claimed = runs.into_iter().find(|run| claims(*run));
        claimed.unwrap_or_else(|| corpses.take(0))
    }

    fn count_deaths<'a>(
        &self,
        cell: &QueueCell,
        corpses: impl Iterator<Item = Corpse<'a>>,
        at_least_once: bool,
    ) {
        let mut counts = [0; Death::ALL.len()];
        for corpse in corpses {
            if let Some(count) = counts.get_mut(corpse.death as usize) {
                *count += 1;
            }
        }
        for (death, count) in Death::ALL.into_iter().zip(counts) {
            let quorum = cell.tells_attempts();
            if let Some(counter) = self.deaths.counter(death, quorum, at_least_once) {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    /// Frees the places of what was moved. What has to wait is tried again in a while, the rest
    /// when others had their turn.
    fn end_burial(&self, cell: &Arc<QueueCell>, buried: Buried<'_>, effects: &mut Effects) {
        let mut state = cell.lock();
        if !cell.is_deleted() {
            state.queue.buried(buried);
            cell.run(&mut state, &mut Pump::new(cell, effects));
        }
    }

    /// Moves on what died in a queue that is about to end, but for what cannot be.
    pub(crate) fn bury_all(&self, cell: &Arc<QueueCell>, effects: &mut Effects) {
        let (mut kept, mut patience) = (GroupBuffers::default(), OTHERS_PATIENCE);
        loop {
            let state = cell.lock();
            let (now_ms, queue) = (self.timer.now_ms(), &state.queue);
            let (is_left, is_others) = (queue.has_unburied(now_ms), queue.is_being_buried());
            let waits = queue.burial_waits_for_page(now_ms);
            drop(state);
            if waits && patience > 0 && self.load_now(cell, effects) == PageLoad::Done {
                patience -= 1;
                continue;
            }
            if is_left {
                self.bury_some(cell, &mut kept, effects);
            } else if is_others && patience > 0 {
                // They have nothing locked for long, and do not wait for anybody.
                patience -= 1;
                std::thread::yield_now();
            } else {
                return;
            }
        }
    }

    /// Copies dead messages out of their queue, which keeps them, so many at most.
    fn exhume(
        &self,
        cell: &Arc<QueueCell>,
        most: usize,
        corpses: &mut Corpses,
    ) -> Option<Option<Arc<DeadLetters>>> {
        corpses.clear();
        let mut state = cell.lock();
        if cell.is_deleted() {
            return None;
        }
        corpses.reserve(state.queue.dead().min(most));
        let begun = state.queue.begin_burial(self.timer.now_ms(), |dead| {
            corpses.push(dead);
            corpses.len() < most && corpses.recorded_bytes() < GROUP_BYTES
        });
        begun.then(|| state.dead_letters.clone())
    }
}

impl Burial<'_> {
    /// Moves messages on, until one has to wait; gives how many, and what becomes of the next one.
    fn bury(&mut self, corpses: CorpseRun<'_>, effects: &mut Effects) -> (usize, Followers) {
        let (mut moved, mut copies) = (0, 0);
        while let Some(first) = corpses.skip(moved).first()
            && copies < STEPS_OF_TURN
        {
            let rest = corpses.skip(moved);
            let kind = match self.kind.take() {
                Some(kind) if kind.goes_for(&first) => Some(kind),
                _ => self.kind_of(&first),
            };
            let (sent, next) = match &kind {
                Some(kind) if self.is_stuck(kind) => {
                    self.stay.push(moved);
                    moved += 1;
                    continue;
                }
                Some(kind) => self.send(rest, kind, effects),
                None => (1, Followers::Follows),
            };
            self.settle(rest.take(sent), effects);
            moved += sent;
            if next != Followers::Follows {
                return (moved, next);
            }
            let targets = kind.as_ref().map_or(0, |kind| kind.onward.targets.len());
            copies += sent * targets;
            self.kind = kind;
        }
        (moved, Followers::Follows)
    }

    /// Whether a message that must not be lost has no way. Others are not held up by it.
    fn is_stuck(&self, kind: &DeathKind) -> bool {
        kind.onward.targets.is_empty() && self.is_at_least_once()
    }

    /// Records that messages have left their queue.
    fn settle(&self, run: CorpseRun<'_>, effects: &mut Effects) {
        if breaks(Sabotage::KeepDead) {
            return;
        }
        for corpse in run.iter().filter(|corpse| corpse.stored) {
            if let Some(lane) = self.cell.lane_of(corpse.rank.level) {
                effects.journal.settle(lane, corpse.rank.seq);
            }
        }
    }

    /// What a message has in common with others, and where they go; `None` when that is nowhere:
    /// since a policy was taken away that sent it on, or as its policy names what is longer than a
    /// short string.
    fn kind_of(&mut self, corpse: &Corpse<'_>) -> Option<DeathKind> {
        let properties = Properties::decode(corpse.header).ok()?;
        let onward = self.onward(corpse, &properties)?;
        Some(DeathKind::of(corpse, &properties, onward))
    }

    fn onward(&mut self, corpse: &Corpse<'_>, properties: &Properties<'_>) -> Option<Onward> {
        let letters = self.letters?;
        let route = route_of(letters, corpse)?;
        let letter = Letter::of(&Dying {
            queue: &self.cell.name,
            death: corpse.death,
            time: self.broker.timer.now_ms() / 1000,
            route: corpse.route,
            properties,
            deaths: corpse.deaths,
        })?;
        let mut header = Vec::new();
        letter.write_header(properties, corpse.body_bytes(), &mut header);
        let found = self.route(letters, &letter, (&route, &header));
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

    /// The way of a letter with this header; as with RabbitMQ none where there is no such exchange.
    fn route(
        &mut self,
        letters: &DeadLetters,
        letter: &Letter,
        (route, header): (&[u8], &[u8]),
    ) -> Option<Route> {
        let more: Vec<&[u8]> = match letters.key {
            Some(_) => Vec::new(),
            None => letter.more_keys.iter().map(Vec::as_slice).collect(),
        };
        let acting = Acting {
            broker: self.broker,
            vhost: self.vhost,
            user: "",
        };
        let properties = Properties::decode(header).ok()?;
        let asked: RouteQuery<'_> = (route, &more, Some((header, &properties)));
        find(&mut self.routes, acting, asked).ok()
    }

    /// Sends those at the beginning of a run on that are of this kind; gives how many it was, and
    /// what becomes of the next one.
    fn send(
        &mut self,
        run: CorpseRun<'_>,
        kind: &DeathKind,
        effects: &mut Effects,
    ) -> (usize, Followers) {
        let targets = kind.onward.targets.as_slice();
        let room = Room::of_impatient(self.broker);
        let most = match room {
            Room::Plenty if !kind.onward.is_for_one() => RUN_COPIES / targets.len().max(1),
            _ => 1,
        };
        let run = run.take(most.max(1));
        let run = run.take(self.copies.make(run, kind, &self.broker.memory));
        let (fit, next) = self.find_room(run, targets, room);
        self.enqueue(run.take(fit), &kind.onward, effects);
        (fit, next)
    }

    fn is_at_least_once(&self) -> bool {
        self.letters.is_some_and(|letters| letters.at_least_once)
    }

    /// How many of a run find room for a copy in all of these queues, and what becomes of the next
    /// one; the room is reserved if no copy may be lost.
    fn find_room(
        &self,
        run: CorpseRun<'_>,
        targets: &[Arc<QueueCell>],
        room: Room,
    ) -> (usize, Followers) {
        let mut found = (run.len(), Followers::Follows);
        for (done, cell) in targets.iter().enumerate() {
            let (fit, next) = self.find_room_in(cell, run.take(found.0), room);
            if fit < found.0 {
                // A message that has to wait leaves no copy behind, or it would leave another one
                // each time it is tried.
                let given_up = run.take(found.0).skip(fit);
                let before = targets.iter().take(done);
                before.for_each(|cell| self.give_up_room(cell, given_up));
                found = (fit, next);
            }
        }
        found
    }

    /// The same for one queue.
    fn find_room_in(
        &self,
        cell: &Arc<QueueCell>,
        run: CorpseRun<'_>,
        room: Room,
    ) -> (usize, Followers) {
        let mut state = cell.lock();
        let queue = &mut state.queue;
        if cell.is_deleted() {
            return (run.len(), Followers::Follows);
        }
        if room.is_above_share(queue) {
            return (0, Followers::Waits);
        }
        let reserves = self.is_at_least_once();
        if !reserves && queue.has_room_for(run.len() as u64, run.body_bytes()) {
            return (run.len(), Followers::Follows);
        }
        // What a consumer takes at once never counts against a limit: where copies are held back
        // it has to be seen first what becomes of those.
        let place = self.places.get(&Arc::as_ptr(cell).addr());
        let touched = place.and_then(|place| self.touched.get(*place));
        let mut holds = touched.is_some_and(|touched| !touched.held.is_empty());
        let (mut messages, mut bytes) = (0, 0);
        for (index, corpse) in run.iter().enumerate() {
            let size = corpse.body_bytes();
            let fits = queue.has_room_for(messages + 1, bytes + size);
            if holds && !fits {
                return (index, Followers::InTheNextGroup);
            }
            if reserves {
                if !queue.reserve(1, size) {
                    return (index, Followers::Waits);
                }
            } else if fits {
                messages += 1;
                bytes += size;
            }
            holds |= fits && cell.lane.is_some() && corpse.is_persistent();
        }
        (run.len(), Followers::Follows)
    }

    /// Gives up room that was found.
    fn give_up_room(&self, cell: &QueueCell, run: CorpseRun<'_>) {
        let mut state = cell.lock();
        if self.is_at_least_once() && !cell.is_deleted() {
            let queue = &mut state.queue;
            queue.release_reserved(run.len() as u64, run.body_bytes());
        }
    }

    /// Puts copies into all their targets.
    fn enqueue(&mut self, run: CorpseRun<'_>, onward: &Onward, effects: &mut Effects) {
        let way = (onward.route.as_slice(), self.broker.timer.now_ms());
        if onward.targets.is_empty()
            && let Some(counts) = counts_of(self.vhost, &onward.route)
        {
            let messages = run.len() as u64;
            counts.dropped.fetch_add(messages, Ordering::Relaxed);
        }
        for cell in &onward.targets {
            self.push(cell, run, way, effects);
        }
        if !effects.refused.is_empty() {
            let account = &self.broker.refused;
            account.note_all(self.vhost, &onward.route, &mut effects.refused);
        }
        if breaks(Sabotage::LoseCopy) {
            effects.targets.clear();
        }
        if effects.targets.is_empty() {
            return;
        }
        effects.record(self.copies.messages(run, way), |journal, lanes, copy| {
            let body: &[u8] = match copy.body {
                MessageBody::Inline(body) => body,
                MessageBody::Shared(blob) => blob,
            };
            let parts = MessageParts {
                entered_ms: Some(copy.entered_ms),
                expiration_ms: None,
                deaths: true,
                route: copy.route,
                header: copy.header,
                body: &[body],
            };
            journal.message(lanes, &parts);
        });
    }

    /// Where a queue that gets copies stands among others.
    fn place_of(&mut self, cell: &Arc<QueueCell>) -> usize {
        let touched = &mut self.touched;
        *self
            .places
            .entry(Arc::as_ptr(cell).addr())
            .or_insert_with(|| {
                let cell = Arc::clone(cell);
                let held = Vec::new();
                touched.push(CopyTarget { cell, held });
                touched.len() - 1
            })
    }

    /// Puts copies into a queue, and notes the places of those that the store has to know of.
    fn push(
        &mut self,
        cell: &Arc<QueueCell>,
        run: CorpseRun<'_>,
        way: (&[u8], u64),
        effects: &mut Effects,
    ) {
        let room = match self.is_at_least_once() {
            true => Room::Reserved,
            false => Room::Plenty,
        };
        let mut guard = cell.lock();
        if cell.is_deleted() {
            return;
        }
        let place = self.place_of(cell);
        let Some(touched) = self.touched.get_mut(place) else {
            return;
        };
        let (state, mut pump) = (&mut *guard, Pump::new(cell, effects));
        for (index, mut copy) in (0u32..).zip(self.copies.messages(run, way)) {
            copy.persistent &= cell.lane.is_some();
            copy.priority = cell.priority_of(copy.header, copy.priority);
            let rank = match room.push(&mut state.queue, &copy, &mut pump) {
                Ok(rank) => rank,
                Err(reason) => {
                    state.refused(&copy, reason);
                    pump.effects.refuse(cell, reason);
                    continue;
                }
            };
            if copy.persistent
                && let Some(lane) = cell.lane_of(rank.level)
            {
                pump.effects.targets.push((index, lane, rank.seq));
                if touched.held.iter().all(|held| held.level != rank.level) {
                    state.queue.hold_from(rank);
                    touched.held.push(rank);
                }
            }
        }
    }
}
