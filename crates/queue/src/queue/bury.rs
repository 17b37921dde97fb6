//! Messages that died, until they are moved on.

use std::collections::VecDeque;
use std::sync::Arc;

use leveret_record::{Blob, Record, Sabotage, Unacked, breaks};

use super::{Queue, Rank, Sink, rank};
use crate::limits::Death;
use crate::message::Message;

/// Refused messages are not kept when so many dead ones wait.
const REFUSED_MAX: usize = 4096;

/// What few queues have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// In the order they died.
    dying: VecDeque<(Unacked, Death)>,
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
            let dying = &mut self.rare.get_or_insert_default().dying;
            dying.push_back((*dead, death));
            return;
        }
        let lane = self.lanes.at_mut(dead.level);
        lane.chunks.release(dead.position);
        if dead.persistent {
            sink.gone(rank(dead));
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
            let dying = &mut self.rare.get_or_insert_default().dying;
            dying.push_back((dead, death));
        }
    }

    /// How many messages died and have not been moved on.
    #[must_use]
    pub fn dead(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.dying.len())
    }

    /// Whether somebody has to move dead messages on, and nobody does.
    #[must_use]
    pub fn has_unburied(&self) -> bool {
        let rare = self.rare.as_ref();
        rare.is_some_and(|rare| !rare.dying.is_empty() && !rare.is_being_buried)
    }

    /// Shows messages that died, oldest death first, until `show` says that it has enough. They are
    /// the caller's until [`Queue::buried`]; `false` when there are none or they are somebody
    /// else's.
    pub fn begin_burial(&mut self, mut show: impl FnMut(&Dead<'_>) -> bool) -> bool {
        if !self.has_unburied() {
            return false;
        }
        let Some(rare) = &mut self.rare else {
            return false;
        };
        rare.is_being_buried = true;
        for (unacked, death) in &rare.dying {
            let lane = self.lanes.at(unacked.level);
            let Some(found) = lane.chunks.record(unacked.position) else {
                continue;
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

    /// The first `count` messages that died were moved on, or dropped: their ranks are free. A
    /// settlement of those that the store knows is the caller's business.
    pub fn buried(&mut self, count: usize) {
        let Some(mut rare) = self.rare.take() else {
            return;
        };
        rare.is_being_buried = false;
        let (first, others) = rare.dying.as_slices();
        let first = first.get(..count).unwrap_or(first);
        let others = others.get(..count - first.len()).unwrap_or(others);
        for buried in [first, others] {
            self.release_all(buried, |(dead, _)| *dead);
            for (_, death) in buried {
                if let Some(moved_on) = self.counters.moved_on.get_mut(*death as usize) {
                    *moved_on += 1;
                }
            }
        }
        rare.dying.drain(..count.min(rare.dying.len()));
        if rare.dying.is_empty() {
            rare.dying = VecDeque::new();
        }
        self.rare = Some(rare);
        self.stale |= self.behind;
    }

    /// Serves nothing of a level from this rank on, until [`Queue::release_hold`].
    pub fn hold_from(&mut self, from: Rank) {
        self.rare.get_or_insert_default().holds.push(from);
        self.set_held_from(from.level);
    }

    /// Undoes one [`Queue::hold_from`]; the caller runs the queue afterwards.
    pub fn release_hold(&mut self, from: Rank) {
        if let Some(rare) = &mut self.rare
            && let Some(at) = rare.holds.iter().position(|held| *held == from)
        {
            rare.holds.swap_remove(at);
        }
        // While it was held back nobody looked for its deadline.
        self.stale = true;
        self.set_held_from(from.level);
    }

    fn set_held_from(&mut self, level: u8) {
        let holds = self.rare.iter().flat_map(|rare| &rare.holds);
        let of_level = holds.filter(|held| held.level == level);
        let mut from = of_level.map(|held| held.seq).min().unwrap_or(u64::MAX);
        if breaks(Sabotage::ServeEarly) {
            from = u64::MAX;
        }
        self.lanes.at_mut(level).held_from = from;
    }
}
