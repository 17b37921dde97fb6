//! Dead letters: messages that died in a queue go on to where that queue sends them.
//!
//! A queue keeps its dead until they are moved on ([`leveret_queue::Queue::begin_burial`]). They
//! are copied out under its lock, routed with the broker's own rights with nothing locked, put into
//! their targets under each target's lock, and only then settled: copies and settlements are one
//! atomic group of the journal. A durable copy is served only after its group was submitted, so
//! that whatever settles it comes later in the journal. So a crash leaves each message in the one
//! queue or in the others, never in both or none.

mod headers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_queue::{Attempts, Dead, Death, Message, MessageBody, Rank, Reason};
use leveret_record::{Blob, Body};
use leveret_router::Steps;
use leveret_store::{LaneId, MessageParts};

use crate::acting::Acting;
use crate::broker::Broker;
use crate::cell::QueueCell;
use crate::publish::is_shared;
use crate::pump::{Pump, STEPS_OF_TURN, Work};
use crate::routes::RouteCache;
use crate::space::record_bytes;
use crate::vhost::Vhost;
use headers::{Dying, Letter};

/// What one group of the journal moves at most.
const GROUP_MESSAGES: usize = 1024;
const GROUP_BYTES: usize = 4 << 20;
/// Groups after which others get their turn: the timer goes on.
const GROUPS_OF_TURN: usize = 4;
/// When what cannot be moved on is tried again.
const RETRY_MS: u64 = 1000;
/// Parts in which a route is looked for.
const PARTS_MAX: usize = 4096;

/// Where a queue's dead messages go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetters {
    /// The exchange; empty for the default one.
    pub exchange: String,
    /// The routing key, unless each keeps its own.
    pub key: Option<String>,
    /// What the full queue refuses goes there, too.
    pub refused_too: bool,
    /// What finds no queue waits until it does.
    pub at_least_once: bool,
}

impl DeadLetters {
    /// The exchange and the routing key it goes on with, as two raw short strings.
    fn route_of(&self, corpse: &Corpse) -> Vec<u8> {
        let (_, own) = leveret_codec::split_route(&corpse.route).unwrap_or_default();
        let key = self.key.as_deref().map_or(own, str::as_bytes);
        let mut route = Vec::with_capacity(2 + self.exchange.len() + key.len());
        for part in [self.exchange.as_bytes(), key] {
            let part = part.get(..255).unwrap_or(part);
            route.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
            route.extend_from_slice(part);
        }
        route
    }
}

/// What became of dead messages since the broker was started.
#[derive(Debug, Default)]
pub struct DeathCounts {
    /// By kind of queue, strategy and [`Death`].
    moved_on: [[[AtomicU64; 4]; 2]; 2],
}

impl DeathCounts {
    /// How many died so, in quorum queues or others, with the strategy at-least-once or the other
    /// one, and were moved on, or dropped as nobody wanted them.
    #[must_use]
    pub fn moved_on(&self, death: Death, quorum: bool, at_least_once: bool) -> u64 {
        let count = self.counter(death, quorum, at_least_once);
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn counter(&self, death: Death, quorum: bool, at_least_once: bool) -> Option<&AtomicU64> {
        let of_kind = self.moved_on.get(usize::from(quorum))?;
        let of_strategy = of_kind.get(usize::from(at_least_once))?;
        of_strategy.get(death as usize)
    }
}

/// A dead message, copied out of its queue.
struct Corpse {
    death: Death,
    rank: Rank,
    persistent: bool,
    priority: u8,
    route: Vec<u8>,
    header: Vec<u8>,
    deaths: bool,
    body: CorpseBody,
}

enum CorpseBody {
    Own(Vec<u8>),
    Shared(Arc<Blob>),
}

impl Corpse {
    fn of(dead: &Dead<'_>) -> Self {
        let record = dead.record;
        let body = match (record.body, dead.blob) {
            (Body::Inline(bytes), _) => CorpseBody::Own(bytes.to_vec()),
            (Body::Blob { .. }, Some(blob)) => CorpseBody::Shared(Arc::clone(blob)),
            (Body::Blob { .. }, None) => CorpseBody::Own(Vec::new()),
        };
        Self {
            death: dead.death,
            rank: Rank {
                level: dead.unacked.level,
                seq: dead.unacked.seq,
            },
            persistent: dead.unacked.persistent,
            priority: leveret_codec::priority(record.header).unwrap_or(0),
            route: record.route.to_vec(),
            header: record.header.to_vec(),
            deaths: record.marks.deaths(),
            body,
        }
    }

    /// What its copies may take of the disk, about: there are seldom more than a few.
    fn claimed_bytes(&self) -> usize {
        const HEADERS: usize = 1024;
        const TARGETS: usize = 16;
        if !self.persistent {
            return 0;
        }
        record_bytes(self.route.len(), TARGETS) + HEADERS + self.header.len() + self.body().len()
    }

    fn bytes(&self) -> usize {
        let own = match &self.body {
            CorpseBody::Own(bytes) => bytes.len(),
            CorpseBody::Shared(_) => 0,
        };
        own + self.header.len() + self.route.len()
    }

    fn body(&self) -> &[u8] {
        match &self.body {
            CorpseBody::Own(bytes) => bytes,
            CorpseBody::Shared(blob) => blob,
        }
    }
}

/// One group: what is moved from one queue.
struct Burial<'a> {
    broker: &'a Broker,
    vhost: &'a Vhost,
    cell: &'a Arc<QueueCell>,
    letters: Option<&'a DeadLetters>,
    routes: RouteCache,
    /// Durable copies that may not be served yet: of each queue and level the first one.
    held: Vec<(Arc<QueueCell>, Rank)>,
    /// Queues that have to be run when the group is submitted.
    touched: Vec<Arc<QueueCell>>,
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
            self.timer.arm(&cell, self.timer.now_ms());
        }
    }

    fn bury_some(&self, cell: &Arc<QueueCell>, work: &mut Work) {
        let now_ms = self.timer.now_ms();
        let Some((letters, corpses)) = self.exhume(cell) else {
            return;
        };
        let bytes = corpses.iter().map(Corpse::claimed_bytes).sum();
        let claim = |journal| self.store.claim(journal, corpses.len(), bytes);
        let full = bytes > 0 && claim(&mut work.journal).is_err();
        let vhost = self.vhost(&cell.vhost);
        let mut moved = 0;
        let mut burial = None;
        if let (Some(vhost), false) = (&vhost, full) {
            let mut one = Burial {
                broker: self,
                vhost,
                cell,
                letters: letters.as_deref(),
                routes: RouteCache::of_broker(self.next_seed()),
                held: Vec::new(),
                touched: Vec::new(),
            };
            work.journal.begin_group();
            for corpse in &corpses {
                if !one.bury(corpse, work) {
                    break;
                }
                moved += 1;
            }
            work.journal.end_group();
            work.submit(&*self.store);
            burial = Some((one.held, one.touched));
        }
        let at_least_once = letters
            .as_ref()
            .is_some_and(|letters| letters.at_least_once);
        for corpse in corpses.iter().take(moved) {
            let quorum = cell.tells_attempts();
            if let Some(count) = self.deaths.counter(corpse.death, quorum, at_least_once) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        let mut state = cell.lock();
        if !cell.is_deleted() {
            state.queue.buried(moved);
            cell.run(&mut state, &mut Pump::new(cell, work));
            if moved < corpses.len() {
                // Tried later, not at once.
                work.dying.retain(|other| !Arc::ptr_eq(other, cell));
                self.timer.arm(cell, now_ms.saturating_add(RETRY_MS));
            }
        }
        drop(state);
        let (held, touched) = burial.unwrap_or_default();
        for (cell, rank) in held {
            cell.lock().queue.release_hold(rank);
        }
        for cell in touched {
            cell.pump(work);
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
            bytes += corpse.bytes();
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
    /// Moves one message on; `false` when it has to wait.
    fn bury(&mut self, corpse: &Corpse, work: &mut Work) -> bool {
        let dying = Dying {
            queue: &self.cell.name,
            death: corpse.death,
            time: self.broker.timer.now_ms() / 1000,
            route: &corpse.route,
            header: &corpse.header,
            deaths: corpse.deaths,
        };
        // Since a policy was taken away that sent them on, they go nowhere.
        if let (Some(letters), Some(letter)) = (self.letters, Letter::of(&dying)) {
            let route = letters.route_of(corpse);
            let targets = self.targets(letters, (&letter, &route));
            let nobody = targets.is_empty();
            let taken = self.enqueue(corpse, (&letter, &route), &targets, work);
            if letters.at_least_once && (nobody || !taken) {
                return false;
            }
        }
        if let (Some(lane), true) = (self.cell.lane_of(corpse.rank.level), corpse.persistent) {
            work.journal.settle(lane, corpse.rank.seq);
        }
        true
    }

    /// The queues it goes to: none where it has been already without anybody having rejected it.
    fn targets(
        &mut self,
        letters: &DeadLetters,
        (letter, route): (&Letter, &[u8]),
    ) -> Vec<Arc<QueueCell>> {
        let more: Vec<&[u8]> = match letters.key {
            Some(_) => Vec::new(),
            None => letter.more_keys.iter().map(Vec::as_slice).collect(),
        };
        let acting = Acting {
            broker: self.broker,
            vhost: self.vhost,
            user: "",
        };
        let Ok(properties) = leveret_codec::Properties::decode(&letter.header) else {
            return Vec::new();
        };
        let asked = (
            route,
            more.as_slice(),
            Some((letter.header.as_slice(), &properties)),
        );
        for part in 0.. {
            let mut steps = if part < PARTS_MAX {
                Steps::new(STEPS_OF_TURN)
            } else {
                Steps::unlimited()
            };
            match self.routes.resolve(acting, asked, &mut steps) {
                Ok(None) => {}
                // As RabbitMQ: where there is no such exchange, it goes nowhere.
                Err(_) => break,
                Ok(Some(found)) => {
                    let cells = found.cells.iter();
                    let fresh = cells.filter(|cell| !letter.goes_in_circles(&cell.name));
                    return fresh.cloned().collect();
                }
            }
        }
        Vec::new()
    }

    /// Puts copies into all targets; `false` when one of them refuses.
    fn enqueue(
        &mut self,
        corpse: &Corpse,
        (letter, route): (&Letter, &[u8]),
        targets: &[Arc<QueueCell>],
        work: &mut Work,
    ) -> bool {
        let blob = match &corpse.body {
            CorpseBody::Shared(blob) => Some(Arc::clone(blob)),
            CorpseBody::Own(bytes) if is_shared(bytes.len(), targets.len() > 1) => {
                Some(Arc::new(Blob::new(bytes.clone())))
            }
            CorpseBody::Own(_) => None,
        };
        let body = match &blob {
            Some(blob) => MessageBody::Shared(blob),
            None => MessageBody::Inline(corpse.body()),
        };
        let mut message = Message {
            route,
            header: &letter.header,
            body,
            entered_ms: self.broker.timer.now_ms(),
            expiration_ms: None,
            priority: 0,
            persistent: false,
            deaths: true,
            attempts: Attempts::NONE,
        };
        let is_persistent =
            leveret_codec::delivery_mode(&corpse.header) == crate::publish::PERSISTENT;
        let (mut lanes, mut taken) = (Vec::new(), true);
        for cell in targets {
            message.persistent = cell.lane.is_some() && is_persistent;
            message.priority = cell.priority_of(&corpse.header, corpse.priority);
            taken &= self.push(cell, &message, &mut lanes, work);
        }
        let parts = MessageParts {
            entered_ms: Some(message.entered_ms),
            expiration_ms: None,
            deaths: true,
            route,
            header: &letter.header,
            body: &[corpse.body()],
        };
        work.journal.message(&lanes, &parts);
        taken
    }

    fn push(
        &mut self,
        cell: &Arc<QueueCell>,
        message: &Message<'_>,
        lanes: &mut Vec<(LaneId, u64)>,
        work: &mut Work,
    ) -> bool {
        let mut state = cell.lock();
        if cell.is_deleted() {
            return true;
        }
        let mut pump = Pump::new(cell, work);
        let pushed = state.queue.push(message, &mut pump);
        if let Ok(rank) = pushed
            && message.persistent
            && let Some(lane) = cell.lane_of(rank.level)
        {
            lanes.push((lane, rank.seq));
            let known = |(other, held): &(Arc<QueueCell>, Rank)| {
                Arc::ptr_eq(other, cell) && held.level == rank.level
            };
            if !self.held.iter().any(known) {
                state.queue.hold_from(rank);
                self.held.push((Arc::clone(cell), rank));
            }
        }
        if !self.touched.iter().any(|other| Arc::ptr_eq(other, cell)) {
            self.touched.push(Arc::clone(cell));
        }
        if pushed.is_err() {
            state.refused(message, Reason::Length);
        }
        pushed.is_ok()
    }
}
