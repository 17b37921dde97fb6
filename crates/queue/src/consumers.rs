//! The consumers of one queue and whose turn it is.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use leveret_record::{Sabotage, breaks};

use crate::ring::{ConsumerRing, Seat, Seats};

/// Identifies a consumer within its queue; never valid again after the consumer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerKey {
    index: u32,
    generation: u32,
}

/// What a consumer asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Consuming {
    /// Most unacknowledged deliveries; 0 means no limit.
    pub prefetch: u32,
    /// Deliveries are settled when sent.
    pub no_ack: bool,
    /// Nobody else may consume.
    pub exclusive: bool,
    /// Higher ones are served first (`x-priority`).
    pub priority: i32,
}

/// One registered consumer.
#[derive(Debug)]
pub struct Consumer<C> {
    /// The owner's handle.
    pub handle: C,
    /// What it asked for.
    pub asked: Consuming,
    /// Deliveries it has not settled.
    pub unacked: u32,
    generation: u32,
    /// Whether it stands in a ring, and where.
    seated: bool,
    /// It takes nothing any more and is about to be removed.
    leaving: bool,
    seat: Seat,
    /// Number of the last pump in which it could not take a message.
    refused_in: u64,
}

impl<C> Consumer<C> {
    const fn has_credit(&self) -> bool {
        self.credit() > 0
    }

    /// How many messages it may be given.
    #[inline]
    pub(crate) const fn credit(&self) -> u32 {
        if self.asked.no_ack || self.asked.prefetch == 0 {
            u32::MAX
        } else {
            self.asked.prefetch.saturating_sub(self.unacked)
        }
    }

    /// Its age among those of one priority that wait to be the active one.
    const fn rank(&self) -> (Reverse<i32>, u32) {
        (Reverse(self.asked.priority), self.generation)
    }
}

/// Consumers by number.
#[derive(Debug)]
struct Slots<C>(Vec<Option<Consumer<C>>>);

impl<C> Slots<C> {
    #[inline]
    fn get(&self, number: u32) -> Option<&Consumer<C>> {
        self.0.get(number as usize)?.as_ref()
    }

    #[inline]
    fn get_mut(&mut self, number: u32) -> Option<&mut Consumer<C>> {
        self.0.get_mut(number as usize)?.as_mut()
    }
}

impl<C> Seats for Slots<C> {
    #[inline]
    fn seat_mut(&mut self, number: u32) -> Option<&mut Seat> {
        Some(&mut self.get_mut(number)?.seat)
    }
}

/// Adding a consumer, removing one and giving one its turn costs O(log n) at most, and nothing that
/// grows while all have one priority.
///
/// Invariant: a consumer stands in exactly one ring while it may be served and has credit, else in
/// none. `top` is of the highest priority of all who stand in one; the rings of `lower` are not
/// empty.
#[derive(Debug)]
pub(crate) struct Consumers<C> {
    slots: Slots<C>,
    free: Vec<u32>,
    top: ConsumerRing,
    lower: BTreeMap<Reverse<i32>, ConsumerRing>,
    registered: u32,
    /// Those that want the queue for themselves.
    exclusive: u32,
    pumps: u64,
    /// With `x-single-active-consumer`, the only one that is served,
    active: Option<u32>,
    /// and all of them, the next active one first.
    ranks: BTreeMap<(Reverse<i32>, u32), u32>,
    single_active: bool,
}

/// A ring.
#[derive(Clone, Copy, Debug)]
enum Standing {
    Top,
    /// Of this priority.
    Lower(Reverse<i32>),
}

/// Where a pump stands: the ring it serves and how many there refused in this pump.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PumpTurn {
    pump: u64,
    ring: Standing,
    refusals: u32,
}

impl<C> Consumers<C> {
    pub(crate) const fn new(single_active: bool) -> Self {
        Self {
            slots: Slots(Vec::new()),
            free: Vec::new(),
            top: ConsumerRing::new(0),
            lower: BTreeMap::new(),
            registered: 0,
            exclusive: 0,
            pumps: 0,
            active: None,
            ranks: BTreeMap::new(),
            single_active,
        }
    }

    pub(crate) const fn is_single_active(&self) -> bool {
        self.single_active
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.0.len() - self.free.len()
    }

    pub(crate) const fn any_exclusive(&self) -> bool {
        self.exclusive > 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConsumerKey, &Consumer<C>)> {
        self.iter_after(None)
    }

    /// Those in the places behind this one's.
    pub(crate) fn iter_after(
        &self,
        after: Option<ConsumerKey>,
    ) -> impl Iterator<Item = (ConsumerKey, &Consumer<C>)> {
        let passed = after.map_or(0, |key| key.index as usize + 1);
        let slots = self.slots.0.iter().enumerate().skip(passed);
        slots.filter_map(|(index, slot)| {
            let consumer = slot.as_ref()?;
            let index = u32::try_from(index).ok()?;
            Some((
                ConsumerKey {
                    index,
                    generation: consumer.generation,
                },
                consumer,
            ))
        })
    }

    pub(crate) fn add(&mut self, handle: C, asked: Consuming) -> ConsumerKey {
        self.registered = self.registered.wrapping_add(1);
        let generation = self.registered;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.0.push(None);
            u32::try_from(self.slots.0.len() - 1).unwrap_or(u32::MAX)
        });
        let consumer = Consumer {
            handle,
            asked,
            unacked: 0,
            generation,
            seated: false,
            leaving: false,
            seat: Seat::default(),
            refused_in: self.pumps,
        };
        self.exclusive += u32::from(asked.exclusive);
        if self.single_active {
            self.ranks.insert(consumer.rank(), index);
            self.active.get_or_insert(index);
        }
        if let Some(slot) = self.slots.0.get_mut(index as usize) {
            *slot = Some(consumer);
        }
        self.seat(index);
        ConsumerKey { index, generation }
    }

    pub(crate) fn remove(&mut self, key: ConsumerKey) -> Option<C> {
        self.get(key)?;
        self.unseat(key.index);
        let consumer = self.slots.0.get_mut(key.index as usize)?.take()?;
        self.exclusive -= u32::from(consumer.asked.exclusive);
        self.free.push(key.index);
        if self.free.len() == self.slots.0.len() {
            (self.slots.0, self.free) = (Vec::new(), Vec::new());
        }
        if self.single_active {
            self.ranks.remove(&consumer.rank());
        }
        if self.active == Some(key.index) {
            self.active = self.ranks.first_key_value().map(|(_, index)| *index);
            if let Some(index) = self.active {
                self.seat(index);
            }
        }
        Some(consumer.handle)
    }

    pub(crate) fn get(&self, key: ConsumerKey) -> Option<&Consumer<C>> {
        let consumer = self.slots.get(key.index)?;
        (consumer.generation == key.generation).then_some(consumer)
    }

    /// Puts a consumer with credit at the end of its ring.
    fn seat(&mut self, index: u32) {
        if self.single_active && self.active != Some(index) {
            return;
        }
        let Some(consumer) = self.slots.get_mut(index) else {
            return;
        };
        if consumer.seated || consumer.leaving || !consumer.has_credit() {
            return;
        }
        consumer.seated = true;
        let priority = consumer.asked.priority;
        if self.top.len == 0 {
            self.top.priority = priority;
        } else if self.top.priority < priority {
            let lower = std::mem::replace(&mut self.top, ConsumerRing::new(priority));
            self.lower.insert(Reverse(lower.priority), lower);
        }
        let ring = if self.top.priority == priority {
            &mut self.top
        } else {
            let ring = self.lower.entry(Reverse(priority));
            ring.or_insert_with(|| ConsumerRing::new(priority))
        };
        ring.push(index, &mut self.slots);
    }

    #[inline]
    fn unseat(&mut self, index: u32) {
        let Some(consumer) = self.slots.get_mut(index) else {
            return;
        };
        if !std::mem::replace(&mut consumer.seated, false) {
            return;
        }
        let priority = consumer.asked.priority;
        if self.top.priority == priority {
            self.top.remove(index, &mut self.slots);
            if self.top.len == 0
                && let Some((_, next)) = self.lower.pop_first()
            {
                self.top = next;
            }
        } else if let Entry::Occupied(mut ring) = self.lower.entry(Reverse(priority)) {
            ring.get_mut().remove(index, &mut self.slots);
            if ring.get().len == 0 {
                ring.remove();
            }
        }
    }

    /// Whether any consumer has credit.
    pub(crate) const fn any_ready(&self) -> bool {
        self.top.len > 0
    }

    /// Begins a pump: everyone may be asked once more.
    pub(crate) const fn turn(&mut self) -> PumpTurn {
        self.pumps += 1;
        PumpTurn {
            pump: self.pumps,
            ring: Standing::Top,
            refusals: 0,
        }
    }

    #[inline]
    fn ring(&self, place: Standing) -> Option<&ConsumerRing> {
        match place {
            Standing::Top => Some(&self.top),
            Standing::Lower(priority) => self.lower.get(&priority),
        }
    }

    /// The ring after this one, which may be gone.
    fn after(&self, place: Standing) -> Option<Standing> {
        let next = match place {
            Standing::Top => self.lower.first_key_value(),
            Standing::Lower(priority) => {
                let lower = (Bound::Excluded(priority), Bound::Unbounded);
                self.lower.range(lower).next()
            }
        };
        next.map(|(priority, _)| Standing::Lower(*priority))
    }

    /// The consumer whose turn it is, skipping those who refused in this pump.
    #[inline]
    pub(crate) fn next(&mut self, turn: &mut PumpTurn) -> Option<(ConsumerKey, &Consumer<C>)> {
        let index = loop {
            let ring = self.ring(turn.ring);
            if let Some(ring) = ring
                && turn.refusals < ring.len
                && let Some(index) = ring.first()
            {
                if turn.refusals == 0 || !self.refused_in(index, turn.pump) {
                    break index;
                }
                let seat = self.slots.get(index)?.seat;
                self.rotate(turn.ring, seat);
            } else {
                turn.ring = self.after(turn.ring)?;
                turn.refusals = 0;
            }
        };
        let consumer = self.slots.get(index)?;
        Some((
            ConsumerKey {
                index,
                generation: consumer.generation,
            },
            consumer,
        ))
    }

    /// The consumer whose turn it is, if all turns of this ring are its own.
    #[inline]
    pub(crate) fn alone(&self, turn: PumpTurn) -> Option<(ConsumerKey, &Consumer<C>)> {
        let ring = self.ring(turn.ring)?;
        if turn.refusals > 0 || ring.len != 1 {
            return None;
        }
        let index = ring.first()?;
        let consumer = self.slots.get(index)?;
        let generation = consumer.generation;
        Some((ConsumerKey { index, generation }, consumer))
    }

    /// The one consumer with credit, if there is no other.
    #[inline]
    pub(crate) fn only(&self) -> Option<&Consumer<C>> {
        if self.top.len != 1 || !self.lower.is_empty() {
            return None;
        }
        self.slots.get(self.top.first()?)
    }

    fn refused_in(&self, index: u32, pump: u64) -> bool {
        let consumer = self.slots.get(index);
        consumer.is_some_and(|consumer| consumer.refused_in == pump)
    }

    /// Whoever has this seat, and the turn, goes to the end of its ring.
    #[inline]
    fn rotate(&mut self, place: Standing, seat: Seat) {
        match place {
            Standing::Top => self.top.rotate(seat),
            Standing::Lower(priority) => {
                if let Some(ring) = self.lower.get_mut(&priority) {
                    ring.rotate(seat);
                }
            }
        }
    }

    /// The consumer in turn took messages; it goes to the end, or leaves when out of credit.
    #[inline]
    pub(crate) fn took(&mut self, turn: PumpTurn, key: ConsumerKey, messages: u32) {
        let Some(consumer) = self.slots.get_mut(key.index) else {
            return;
        };
        if !consumer.asked.no_ack {
            consumer.unacked += messages;
        }
        if consumer.has_credit() {
            let seat = consumer.seat;
            self.rotate(turn.ring, seat);
        } else {
            self.unseat(key.index);
        }
    }

    /// The consumer in turn cannot take a message now.
    pub(crate) fn refused(&mut self, turn: &mut PumpTurn, key: ConsumerKey) {
        turn.refusals += 1;
        if let Some(consumer) = self.slots.get_mut(key.index) {
            consumer.refused_in = turn.pump;
            let seat = consumer.seat;
            self.rotate(turn.ring, seat);
        }
    }

    /// The consumer in turn takes nothing any more: it is not asked again.
    pub(crate) fn retire(&mut self, key: ConsumerKey) {
        if let Some(consumer) = self.slots.get_mut(key.index) {
            consumer.leaving = true;
        }
        self.unseat(key.index);
    }

    /// Deliveries came back or were settled.
    #[inline]
    pub(crate) fn returned(&mut self, key: ConsumerKey, messages: u32) {
        let Some(consumer) = self.slots.get_mut(key.index) else {
            return;
        };
        if consumer.generation != key.generation || breaks(Sabotage::KeepCredit) {
            return;
        }
        consumer.unacked = consumer.unacked.saturating_sub(messages);
        if !consumer.seated {
            self.seat(key.index);
        }
    }

    pub(crate) fn set_prefetch(&mut self, key: ConsumerKey, prefetch: u32) {
        if self.get(key).is_none() {
            return;
        }
        if let Some(consumer) = self.slots.get_mut(key.index) {
            consumer.asked.prefetch = prefetch;
            if !consumer.has_credit() {
                self.unseat(key.index);
            }
        }
        self.seat(key.index);
    }

    pub(crate) fn is_active(&self, key: ConsumerKey) -> bool {
        !self.single_active || self.active == Some(key.index)
    }
}
