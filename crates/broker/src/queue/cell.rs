//! A queue where everybody can reach it, and a consumer as its queue sees it.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use leveret_queue::{Death, Message, Queue, Reason};
use leveret_record::Memory;
use leveret_router::QueueId;
use leveret_settings::DeadLetters;
use leveret_store::LaneId;
use parking_lot::{Mutex, MutexGuard};

use crate::context::stats::{HoldingCounts, Holdings};
use crate::queue::consumer::Handle;
use crate::queue::drain::Drain;
use crate::queue::lease::Lease;
use crate::queue::pace::Pace;
use crate::queue::pager::{PageLines, Pager};
use crate::queue::pump::Pump;
use crate::queue::timer::Timer;
use crate::settings::arguments::InForce;
use crate::settings::policy::{Effective, Object};
use crate::settings::spec::QueueSpec;

/// Where a queue lives.
#[derive(Clone)]
pub(crate) struct Home {
    /// Its virtual host's name.
    pub(crate) vhost: Arc<str>,
    pub(crate) timer: Arc<Timer>,
    pub(crate) memory: Memory,
    pub(crate) pager: Arc<Pager>,
}

/// What a queue is known by.
pub(crate) struct QueueIdentity {
    pub(crate) name: Arc<str>,
    pub(crate) id: QueueId,
    pub(crate) home: Home,
}

/// The lanes of a queue in the store, one for each level of priority.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StoreLanes {
    /// Of the level of messages without a priority.
    pub(crate) first: Option<LaneId>,
    /// Of the lowest one of the other levels; the lanes of these follow each other.
    pub(crate) others: Option<LaneId>,
}

/// The level of messages without a priority in a quorum queue.
const QUORUM_LEVEL: u8 = 4;

/// One queue: its fixed properties, and its messages and consumers behind a short mutex.
pub struct QueueCell {
    /// Unique in its virtual host.
    pub name: Arc<str>,
    /// Its identity in the router.
    pub id: QueueId,
    /// What it was declared with.
    pub spec: QueueSpec,
    /// Its lane in the store, if it is durable: the one of messages without a priority.
    pub lane: Option<LaneId>,
    other_lanes: OnceLock<LaneId>,
    /// Its virtual host.
    pub vhost: Arc<str>,
    levels: u16,
    /// Messages without a priority have this one.
    pub(crate) level: u8,
    pub(crate) timer: Arc<Timer>,
    pub(crate) lease: Lease,
    /// What its messages are counted in.
    pub(crate) memory: Memory,
    pub(crate) pager: Arc<Pager>,
    deleted: AtomicBool,
    /// Where its virtual host counts what queues hold; set once it is in the directory.
    holdings: OnceLock<Arc<Holdings>>,
    state: Mutex<QueueState>,
}

/// The changing part of a queue.
pub struct QueueState {
    /// Messages and consumers.
    pub queue: Queue<Arc<Handle>>,
    /// The timer looks after its memory.
    pub warm: bool,
    /// The policies that apply to it.
    pub policy: Option<Arc<Effective>>,
    /// Where its dead messages go.
    pub dead_letters: Option<Arc<DeadLetters>>,
    /// It is deleted when nobody has used it for so long, milliseconds.
    pub expires_ms: Option<u64>,
    /// When it was used last, unix milliseconds.
    pub(crate) used_ms: u64,
    /// When the timer runs it, unix milliseconds; `u64::MAX`: it does not.
    pub(crate) armed_ms: u64,
    /// Deliveries that were not settled in time.
    pub timed_out: u64,
    /// Whom it refuses is told why, unasked.
    pub(crate) tells_reason: bool,
    pub(crate) drain: Drain,
    /// There once it was long.
    pub(crate) pace: Option<Box<Pace>>,
    /// Whether it waits to have chunks written or read.
    pub page_lines: PageLines,
    /// What its virtual host counts for it.
    counted: HoldingCounts,
}

impl QueueState {
    /// A message was refused: it may be one for where dead ones go.
    #[cold]
    pub(crate) fn refused(&mut self, message: &Message<'_>, reason: Reason) {
        self.see_drain(message.entered_ms);
        let letters = self.dead_letters.as_ref();
        if reason == Reason::Length && letters.is_some_and(|letters| letters.refused_too) {
            self.queue.push_dead(message, Death::MaxLength);
        }
    }

    /// When somebody has to run the queue, unix milliseconds.
    fn due_ms(&self) -> u64 {
        self.queue.wakes_at().min(self.queue.buries_at())
    }

    /// When the queue is deleted if nobody uses it until then, unix milliseconds.
    pub(crate) fn unused_until(&self) -> Option<u64> {
        let expires_ms = self.expires_ms?;
        (self.queue.consumer_count() == 0).then(|| self.used_ms.saturating_add(expires_ms))
    }

    /// Whether nobody has used the queue for as long as it lives then; what has waited too long
    /// dies first.
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        let until_ms = self.unused_until();
        until_ms.is_some_and(|until_ms| until_ms <= now_ms) && !self.queue.is_behind()
    }
}

/// A locked queue. What it holds is counted when it is unlocked.
pub struct QueueGuard<'a> {
    cell: &'a QueueCell,
    state: MutexGuard<'a, QueueState>,
}

impl Deref for QueueGuard<'_> {
    type Target = QueueState;

    #[inline]
    fn deref(&self) -> &QueueState {
        &self.state
    }
}

impl DerefMut for QueueGuard<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut QueueState {
        &mut self.state
    }
}

impl Drop for QueueGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        let Some(holdings) = self.cell.holdings.get() else {
            return;
        };
        let queue = &self.state.queue;
        // Deliveries of a deleted queue are nobody's any more.
        let after = if self.cell.is_deleted() {
            HoldingCounts::default()
        } else {
            HoldingCounts {
                ready: queue.ready(),
                unacked: queue.unacked(),
                consumers: queue.consumer_count() as u64,
                bytes: queue.ready_bytes() + queue.unacked_bytes(),
            }
        };
        let before = std::mem::replace(&mut self.state.counted, after);
        if before != after {
            holdings.change(self.cell.id.0, before, after);
        }
    }
}

impl QueueCell {
    pub(crate) fn new(
        identity: QueueIdentity,
        spec: QueueSpec,
        lanes: StoreLanes,
        in_force: InForce,
    ) -> Self {
        let QueueIdentity { name, id, home } = identity;
        let state = Mutex::new(QueueState {
            queue: Queue::new(in_force.settings, in_force.shape, home.memory.clone()),
            warm: false,
            policy: in_force.policy,
            dead_letters: in_force.dead_letters,
            expires_ms: in_force.expires_ms,
            used_ms: home.timer.now_ms(),
            armed_ms: u64::MAX,
            timed_out: 0,
            tells_reason: in_force.tells_reason,
            drain: Drain::default(),
            pace: None,
            page_lines: PageLines::default(),
            counted: HoldingCounts::default(),
        });
        Self {
            name,
            id,
            levels: in_force.shape.levels,
            level: if spec.is_quorum() { QUORUM_LEVEL } else { 0 },
            spec,
            lane: lanes.first,
            other_lanes: lanes.others.map_or_else(OnceLock::new, OnceLock::from),
            vhost: home.vhost,
            timer: home.timer,
            lease: Lease::new(in_force.timeout),
            memory: home.memory,
            pager: home.pager,
            deleted: AtomicBool::new(false),
            holdings: OnceLock::new(),
            state,
        }
    }

    /// Whether the queue is gone; messages and consumers of one that is are ignored.
    #[must_use]
    #[inline]
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
    }

    /// Locks the queue. Taken after the directory and before any outlet; never two at once.
    #[inline]
    pub fn lock(&self) -> QueueGuard<'_> {
        QueueGuard {
            cell: self,
            state: self.state.lock(),
        }
    }

    /// Locks the queue if nobody else has: allowed with an outlet held.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<QueueGuard<'_>> {
        Some(QueueGuard {
            cell: self,
            state: self.state.try_lock()?,
        })
    }

    /// The lane of a level, if the queue is durable.
    #[inline]
    pub(crate) fn lane_of(&self, level: u8) -> Option<LaneId> {
        if level == self.level {
            return self.lane;
        }
        let LaneId(lowest) = *self.other_lanes.get()?;
        Some(LaneId(
            lowest + u32::from(level - u8::from(level > self.level)),
        ))
    }

    /// The lanes of all other levels, if the queue is durable and has any.
    pub(crate) fn other_lanes(&self) -> Option<LaneId> {
        self.other_lanes.get().copied()
    }

    /// Whether its consumers are told how often a message was tried: those of quorum queues are.
    #[inline]
    pub(crate) const fn tells_attempts(&self) -> bool {
        self.level == QUORUM_LEVEL
    }

    /// How many levels of priority it has.
    pub(crate) fn levels(&self) -> u16 {
        self.levels
    }

    /// All its lanes, if it is durable, each with its level.
    pub fn lanes(&self) -> impl Iterator<Item = (u8, LaneId)> {
        let levels = (0..self.levels).filter_map(|level| u8::try_from(level).ok());
        levels.filter_map(|level| Some((level, self.lane_of(level)?)))
    }

    /// How long the message has waited that came first, milliseconds; `None` when none is ready.
    #[must_use]
    pub fn oldest_age_ms(&self) -> Option<u64> {
        let oldest_ms = self.lock().queue.oldest_ms()?;
        Some(self.timer.now_ms().saturating_sub(oldest_ms))
    }

    /// Gives it lanes for its other levels: the first version gave none.
    pub(crate) fn set_other_lanes(&self, lowest: LaneId) {
        let set = self.other_lanes.set(lowest);
        debug_assert!(set.is_ok(), "it has lanes");
    }

    /// The priority of a message, given its content header and what that says of one.
    #[inline]
    pub(crate) fn priority_of(&self, header: &[u8], said: u8) -> u8 {
        if self.level == 0 || leveret_codec::has_property(header, leveret_codec::flag::PRIORITY) {
            said
        } else {
            self.level
        }
    }

    /// Has everything happen that happens in the queue on its own. Called after every change.
    #[inline]
    pub(crate) fn run(self: &Arc<Self>, state: &mut QueueState, pump: &mut Pump<'_>) {
        let now_ms = self.timer.now_ms();
        state.queue.run(now_ms, pump);
        if state.queue.wakes_at() < state.armed_ms || state.expires_ms.is_some() {
            self.arm(state);
        }
        if state.queue.may_hold_dead() {
            self.look_for_dead(state, now_ms, pump);
        }
        if state.queue.is_paged() {
            self.page(state);
        }
    }

    /// Has dead messages moved on that can be, now or when the timer runs the queue.
    #[inline(never)]
    fn look_for_dead(self: &Arc<Self>, state: &mut QueueState, now_ms: u64, pump: &mut Pump<'_>) {
        if state.queue.buries_at() < state.armed_ms {
            self.arm(state);
        }
        if state.queue.has_unburied(now_ms) {
            pump.effects.died_in(self);
        }
    }

    /// Has the timer run the queue when something is due in it, or its own end.
    #[inline(never)]
    pub(crate) fn arm(self: &Arc<Self>, state: &mut QueueState) {
        let end_ms = state.unused_until().unwrap_or(u64::MAX);
        let at_ms = state.due_ms().min(end_ms);
        self.timer.arm(self, state, at_ms);
    }

    /// Somebody uses the queue, or has ceased to: its life begins anew if it has an end.
    pub(crate) fn used(self: &Arc<Self>, state: &mut QueueState) {
        if state.expires_ms.is_some() {
            state.used_ms = self.timer.now_ms();
            self.arm(state);
        }
    }

    /// Whether it is known by its name; one of replies is not.
    pub(crate) fn is_listed(&self) -> bool {
        self.holdings.get().is_some()
    }

    /// Whether its deliveries are traced.
    #[inline]
    pub(crate) fn is_traced(&self) -> bool {
        self.holdings.get().is_some_and(|held| held.is_traced())
    }

    /// What policies see of it.
    #[must_use]
    pub fn object(&self) -> Object<'_> {
        self.spec.object(&self.name)
    }

    /// Has what the queue holds counted there from now on.
    pub(crate) fn count_in(&self, holdings: &Arc<Holdings>) {
        if self.holdings.set(Arc::clone(holdings)).is_ok() {
            drop(self.lock());
            self.show_lease();
        }
    }

    /// Tells those who deliver for many queues at once of its deliveries' timeout.
    pub(crate) fn show_lease(&self) {
        if let Some(holdings) = self.holdings.get().filter(|_| self.lease.is_any()) {
            holdings.set_leased();
        }
    }

    /// Whether it or another queue of its virtual host has deliveries that must be settled in time.
    pub(crate) fn are_any_leased(&self) -> bool {
        self.holdings.get().is_some_and(|held| held.is_leased())
    }
}
