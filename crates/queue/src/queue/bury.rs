//! Messages that died, until they are moved on.

use std::collections::VecDeque;
use std::sync::Arc;

use leveret_record::{Blob, Record, Sabotage, Unacked, breaks};

use super::{Queue, Rank, Sink, rank};
use crate::limits::Death;
use crate::message::Message;
use crate::reserve::Amount;

/// Refused messages are not kept when so many dead ones wait.
const REFUSED_MAX: usize = 4096;

/// What few queues have.
#[derive(Debug, Default)]
pub(super) struct Mortuary {
    /// In the order they died.
    dying: VecDeque<(Unacked, Death)>,
    /// Those that could not be moved on, though others could; in that order.
    waiting: VecDeque<(Unacked, Death)>,
    waiting_bytes: u64,
    /// None of the dying can be moved on, either.
    all_wait: bool,
    /// When it is tried again, unix milliseconds.
    again_ms: u64,
    /// Somebody is moving the first ones on.
    is_being_buried: bool,
    /// From where nothing is served yet.
    holds: Vec<Rank>,
}

/// A message that died, where it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Dead<'a> {
    /// Why.
    pub death: Death,
    /// The record; its body is in `blob` when it is a shared one.
    pub record: &'a Record<'a>,
    /// The shared body, if the record names one.
    pub blob: Option<&'a Arc<Blob>>,
    /// What it was to its queue.
    pub unacked: Unacked,
}

/// What became of messages that died.
#[derive(Clone, Copy, Debug)]
pub struct Buried<'a> {
    /// The first so many were looked at.
    pub count: usize,
    /// Those of them that stay, by their places, in order: they could not be moved on.
    pub stay: &'a [usize],
    /// When these are tried again.
    pub wait: BurialWait,
}

/// What cannot be moved on, and until when.
#[derive(Clone, Copy, Debug)]
pub struct BurialWait {
    /// None of those behind can.
    pub all: bool,
    /// Unix milliseconds.
    pub until_ms: u64,
}

impl<C> Queue<C> {
    /// A message that is neither ready nor out dies: it is gone, or kept for whoever moves it on.
    pub(super) fn die(&mut self, dead: &Unacked, death: Death, sink: &mut impl Sink<C>) {
        let counter = match death {
            Death::Rejected => &mut self.counters.rejected,
            Death::Expired => &mut self.counters.expired,
            Death::MaxLength => &mut self.counters.dropped,
            Death::DeliveryLimit => &mut self.counters.delivery_limited,
        };
        *counter += 1;
        if self.settings.keeps_dead {
            if self.is_lost(dead) {
                self.lose_dead(dead);
            } else {
                self.keep_dead(*dead, death);
            }
            return;
        }
        let lane = self.lanes.at_mut(dead.level);
        lane.chunks.release(dead.position, dead.body_len);
        if dead.persistent {
            sink.settled(rank(dead));
        }
    }

    /// Keeps a message that was refused as one that died, if dead ones are kept, and not too many
    /// wait for being moved on: its publisher is told that it was refused in any case.
    pub fn push_dead(&mut self, message: &Message<'_>, death: Death) {
        if !self.settings.keeps_dead || self.dead() >= REFUSED_MAX {
            return;
        }
        let level = self.lanes.level_of(message.priority);
        let lane = self.lanes.at_mut(level);
        let seq = lane.next_seq;
        lane.next_seq += 1;
        if let Some(mut dead) = lane.chunks.append_left(message, seq) {
            // The store has never heard of it.
            (dead.level, dead.persistent) = (level, false);
            self.keep_dead(dead, death);
        }
    }

    fn keep_dead(&mut self, dead: Unacked, death: Death) {
        let mortuary = self.mortuary.get_or_insert_default();
        mortuary.dying.push_back((dead, death));
        if mortuary.all_wait {
            let Amount { messages, bytes } = self.stuck_room();
            self.set_stuck(Amount {
                messages: messages + 1,
                bytes: bytes + u64::from(dead.body_len),
            });
        }
    }

    /// A message died that cannot be read any more.
    fn lose_dead(&mut self, dead: &Unacked) {
        self.counters.lost += 1;
        let chunks = &mut self.lanes.at_mut(dead.level).chunks;
        chunks.uncount(dead.position.chunk, 1);
    }

    /// The dead of a chunk that was lost cannot be moved on; gives how many there were.
    pub(super) fn forget_dead(&mut self, level: u8, chunk: u32) -> u64 {
        let Some(mut mortuary) = self.mortuary.take() else {
            return 0;
        };
        let stays =
            |(dead, _): &(Unacked, Death)| dead.level != level || dead.position.chunk != chunk;
        let before = mortuary.dying.len() + mortuary.waiting.len();
        mortuary.dying.retain(stays);
        mortuary.waiting.retain(stays);
        let bytes = |dead: &VecDeque<(Unacked, Death)>| -> u64 {
            dead.iter().map(|(dead, _)| u64::from(dead.body_len)).sum()
        };
        mortuary.waiting_bytes = bytes(&mortuary.waiting);
        let mut stuck = Amount {
            messages: mortuary.waiting.len() as u64,
            bytes: mortuary.waiting_bytes,
        };
        if mortuary.all_wait {
            stuck.messages += mortuary.dying.len() as u64;
            stuck.bytes += bytes(&mortuary.dying);
        }
        let after = mortuary.dying.len() + mortuary.waiting.len();
        self.mortuary = Some(mortuary);
        self.set_stuck(stuck);
        (before - after) as u64
    }

    /// The dead message that is moved on next, if it is time.
    pub(super) fn first_dead(&self, now_ms: u64) -> Option<Unacked> {
        let mortuary = self.mortuary.as_ref()?;
        let is_time = now_ms >= mortuary.again_ms;
        let waiting = mortuary.waiting.front().filter(|_| is_time);
        let dying = mortuary
            .dying
            .front()
            .filter(|_| is_time || !mortuary.all_wait);
        Some(waiting.or(dying)?.0)
    }

    /// Whether a dead message is to be moved on that is not in memory.
    #[must_use]
    pub fn burial_waits_for_page(&self, now_ms: u64) -> bool {
        self.is_paged()
            && self.first_dead(now_ms).is_some_and(|dead| {
                let chunks = &self.lanes.at(dead.level).chunks;
                chunks.is_away(dead.position.chunk)
            })
    }

    /// How many messages died and have not been moved on.
    #[must_use]
    pub fn dead(&self) -> usize {
        let mortuary = self.mortuary.as_ref();
        mortuary.map_or(0, |mortuary| mortuary.dying.len() + mortuary.waiting.len())
    }

    /// How many of them are about to be moved on.
    pub(super) fn leaving(&self) -> usize {
        let mortuary = self.mortuary.as_ref().filter(|mortuary| !mortuary.all_wait);
        mortuary.map_or(0, |mortuary| mortuary.dying.len())
    }

    /// Messages that died and cannot be moved on for now. They count towards the limits.
    #[must_use]
    pub fn stuck(&self) -> u64 {
        self.stuck_room().messages
    }

    /// Body bytes of messages that died and cannot be moved on for now.
    #[must_use]
    pub fn stuck_bytes(&self) -> u64 {
        self.stuck_room().bytes
    }

    /// Whether dead messages may be kept here: most queues need not look further.
    #[must_use]
    #[inline]
    pub const fn may_hold_dead(&self) -> bool {
        self.mortuary.is_some()
    }

    /// Whether somebody has to move dead messages on at this time, and nobody does.
    #[must_use]
    pub fn has_unburied(&self, now_ms: u64) -> bool {
        let mortuary = self.mortuary.as_ref();
        mortuary.is_some_and(|mortuary| {
            let is_time = now_ms >= mortuary.again_ms;
            let dying = !mortuary.dying.is_empty() && (is_time || !mortuary.all_wait);
            !mortuary.is_being_buried
                && (dying || (is_time && !mortuary.waiting.is_empty()))
                && !self.burial_waits_for_page(now_ms)
        })
    }

    /// Whether somebody is moving dead messages on.
    #[must_use]
    pub fn is_being_buried(&self) -> bool {
        self.mortuary
            .as_ref()
            .is_some_and(|mortuary| mortuary.is_being_buried)
    }

    /// When those that could not be moved on are to be tried again, unix milliseconds; `u64::MAX`:
    /// there are none.
    #[must_use]
    pub fn buries_at(&self) -> u64 {
        let mortuary = self.mortuary.as_ref().filter(|_| self.stuck() > 0);
        mortuary.map_or(u64::MAX, |mortuary| mortuary.again_ms)
    }

    /// Shows messages that died, oldest death first, until `show` says that it has enough. They are
    /// the caller's until [`Queue::buried`]; `false` when there are none or they are somebody
    /// else's.
    pub fn begin_burial(&mut self, now_ms: u64, mut show: impl FnMut(&Dead<'_>) -> bool) -> bool {
        if !self.has_unburied(now_ms) {
            return false;
        }
        let Some(mortuary) = &mut self.mortuary else {
            return false;
        };
        if now_ms >= mortuary.again_ms {
            mortuary.waiting.append(&mut mortuary.dying);
            std::mem::swap(&mut mortuary.waiting, &mut mortuary.dying);
            mortuary.waiting_bytes = 0;
        }
        mortuary.is_being_buried = true;
        for (unacked, death) in &mortuary.dying {
            let lane = self.lanes.at(unacked.level);
            let Some(found) = lane.chunks.record(unacked.position) else {
                // It is not in memory, and comes first the next time.
                break;
            };
            let dead = Dead {
                death: *death,
                record: &found.record,
                blob: found.blob,
                unacked: *unacked,
            };
            if !show(&dead) {
                break;
            }
        }
        true
    }

    /// The first messages that died were moved on, or dropped: their ranks are free. A settlement
    /// of those that the store knows is the caller's business.
    pub fn buried(&mut self, Buried { count, stay, wait }: Buried<'_>) {
        let Some(mut mortuary) = self.mortuary.take() else {
            return;
        };
        mortuary.is_being_buried = false;
        let mut gone: Vec<_> = mortuary
            .dying
            .drain(..count.min(mortuary.dying.len()))
            .collect();
        let place = mortuary.waiting.len();
        for index in stay.iter().rev().filter(|index| **index < count) {
            let one = gone.remove(*index);
            mortuary.waiting_bytes += u64::from(one.0.body_len);
            mortuary.waiting.insert(place, one);
        }
        self.release_all(&gone, |(dead, _)| *dead);
        for (_, death) in &gone {
            if let Some(moved_on) = self.counters.moved_on.get_mut(*death as usize) {
                *moved_on += 1;
            }
        }
        mortuary.all_wait = wait.all;
        if wait.all || !stay.is_empty() {
            mortuary.again_ms = wait.until_ms;
        }
        let mut stuck = Amount {
            messages: mortuary.waiting.len() as u64,
            bytes: mortuary.waiting_bytes,
        };
        if wait.all {
            // Seldom, and not for each group of very many.
            let bytes = mortuary
                .dying
                .iter()
                .map(|(dead, _)| u64::from(dead.body_len));
            stuck.bytes += bytes.sum::<u64>();
            stuck.messages += mortuary.dying.len() as u64;
        }
        self.set_stuck(stuck);
        if mortuary.dying.is_empty() {
            mortuary.dying = VecDeque::new();
        }
        self.mortuary = Some(mortuary);
        self.stale |= self.behind;
    }

    /// Serves nothing of a level from this rank on, until [`Queue::release_hold`].
    pub fn hold_from(&mut self, from: Rank) {
        self.mortuary.get_or_insert_default().holds.push(from);
        self.set_held_from(from.level);
    }

    /// Undoes one [`Queue::hold_from`]; the caller runs the queue afterwards.
    pub fn release_hold(&mut self, from: Rank) {
        if let Some(mortuary) = &mut self.mortuary
            && let Some(at) = mortuary.holds.iter().position(|held| *held == from)
        {
            mortuary.holds.swap_remove(at);
        }
        // While it was held back nobody looked for its deadline.
        self.stale = true;
        self.set_held_from(from.level);
    }

    fn set_held_from(&mut self, level: u8) {
        let holds = self.mortuary.iter().flat_map(|mortuary| &mortuary.holds);
        let of_level = holds.filter(|held| held.level == level);
        let mut from = of_level.map(|held| held.seq).min().unwrap_or(u64::MAX);
        if breaks(Sabotage::ServeEarly) {
            from = u64::MAX;
        }
        self.lanes.at_mut(level).held_from = from;
    }
}
