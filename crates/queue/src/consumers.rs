//! The consumers of one queue and whose turn it is.

use std::collections::VecDeque;

use leveret_record::{Sabotage, breaks};

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
    /// Stands in a ring.
    seated: bool,
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
}

/// Consumers of one priority that have credit, in the order of their turns.
#[derive(Debug)]
struct Ring {
    priority: i32,
    turns: VecDeque<u32>,
}

/// Invariant: a consumer stands in exactly one ring while it may be served and has credit, else in
/// none.
#[derive(Debug)]
pub(crate) struct Consumers<C> {
    slots: Vec<Option<Consumer<C>>>,
    free: Vec<u32>,
    rings: Vec<Ring>,
    registered: u32,
    pumps: u64,
    /// With `x-single-active-consumer`, the only one that is served.
    active: Option<u32>,
    single_active: bool,
}

/// Where a pump stands: the ring it serves and how many there refused in this pump.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pump: u64,
    ring: usize,
    refusals: usize,
}

impl<C> Consumers<C> {
    pub(crate) const fn new(single_active: bool) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            rings: Vec::new(),
            registered: 0,
            pumps: 0,
            active: None,
            single_active,
        }
    }

    pub(crate) const fn is_single_active(&self) -> bool {
        self.single_active
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConsumerKey, &Consumer<C>)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
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
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(slot) = self.slots.get_mut(index as usize) {
            let refused_in = self.pumps;
            *slot = Some(Consumer {
                handle,
                asked,
                unacked: 0,
                generation,
                seated: false,
                refused_in,
            });
        }
        if self.single_active && self.active.is_none() {
            self.active = Some(index);
        }
        self.seat(index);
        ConsumerKey { index, generation }
    }

    pub(crate) fn remove(&mut self, key: ConsumerKey) -> Option<C> {
        self.get(key)?;
        let consumer = self.slots.get_mut(key.index as usize)?.take()?;
        self.unseat(key.index);
        self.free.push(key.index);
        if self.free.len() == self.slots.len() {
            (self.slots, self.free) = (Vec::new(), Vec::new());
        }
        if self.active == Some(key.index) {
            self.active = self.first_registered();
            if let Some(index) = self.active {
                self.seat(index);
            }
        }
        Some(consumer.handle)
    }

    fn first_registered(&self) -> Option<u32> {
        let oldest = |(key, consumer): &(ConsumerKey, &Consumer<C>)| {
            (-i64::from(consumer.asked.priority), key.generation)
        };
        Some(self.iter().min_by_key(oldest)?.0.index)
    }

    pub(crate) fn get(&self, key: ConsumerKey) -> Option<&Consumer<C>> {
        self.slots
            .get(key.index as usize)?
            .as_ref()
            .filter(|consumer| consumer.generation == key.generation)
    }

    fn at(&mut self, index: u32) -> Option<&mut Consumer<C>> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// Puts a consumer with credit at the end of its ring.
    fn seat(&mut self, index: u32) {
        if self.single_active && self.active != Some(index) {
            return;
        }
        let Some(consumer) = self.at(index) else {
            return;
        };
        if consumer.seated || !consumer.has_credit() {
            return;
        }
        consumer.seated = true;
        let priority = consumer.asked.priority;
        let place = self.rings.partition_point(|ring| ring.priority > priority);
        if self
            .rings
            .get(place)
            .is_none_or(|ring| ring.priority != priority)
        {
            self.rings.insert(
                place,
                Ring {
                    priority,
                    turns: VecDeque::with_capacity(1),
                },
            );
        }
        if let Some(ring) = self.rings.get_mut(place) {
            ring.turns.push_back(index);
        }
    }

    fn unseat(&mut self, index: u32) {
        for ring in &mut self.rings {
            ring.turns.retain(|&turn| turn != index);
        }
        self.rings.retain(|ring| !ring.turns.is_empty());
        if let Some(consumer) = self.at(index) {
            consumer.seated = false;
        }
    }

    /// Whether any consumer has credit.
    pub(crate) fn any_ready(&self) -> bool {
        self.rings.iter().any(|ring| !ring.turns.is_empty())
    }

    /// Begins a pump: everyone may be asked once more.
    pub(crate) const fn turn(&mut self) -> Turn {
        self.pumps += 1;
        Turn {
            pump: self.pumps,
            ring: 0,
            refusals: 0,
        }
    }

    /// The consumer whose turn it is, skipping those who refused in this pump.
    #[inline]
    pub(crate) fn next(&mut self, turn: &mut Turn) -> Option<(ConsumerKey, &Consumer<C>)> {
        let index = loop {
            let ring = self.rings.get_mut(turn.ring)?;
            if turn.refusals < ring.turns.len()
                && let Some(&index) = ring.turns.front()
            {
                if turn.refusals == 0 || !self.refused_in(index, turn.pump) {
                    break index;
                }
                self.rotate(turn.ring);
            } else {
                *turn = Turn {
                    pump: turn.pump,
                    ring: turn.ring + 1,
                    refusals: 0,
                };
            }
        };
        let consumer = self.slots.get(index as usize)?.as_ref()?;
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
    pub(crate) fn alone(&self, turn: Turn) -> Option<(ConsumerKey, &Consumer<C>)> {
        let ring = self.rings.get(turn.ring)?;
        let &index = ring.turns.front()?;
        if turn.refusals > 0 || ring.turns.len() > 1 {
            return None;
        }
        let consumer = self.slots.get(index as usize)?.as_ref()?;
        let generation = consumer.generation;
        Some((ConsumerKey { index, generation }, consumer))
    }

    /// The one consumer with credit, if there is no other.
    #[inline]
    pub(crate) fn only(&self) -> Option<&Consumer<C>> {
        let [ring] = self.rings.as_slice() else {
            return None;
        };
        let &index = ring.turns.front().filter(|_| ring.turns.len() == 1)?;
        self.slots.get(index as usize)?.as_ref()
    }

    fn refused_in(&self, index: u32, pump: u64) -> bool {
        let consumer = self.slots.get(index as usize).and_then(Option::as_ref);
        consumer.is_some_and(|consumer| consumer.refused_in == pump)
    }

    fn rotate(&mut self, ring: usize) {
        if let Some(ring) = self.rings.get_mut(ring)
            && ring.turns.len() > 1
        {
            ring.turns.rotate_left(1);
        }
    }

    /// The consumer in turn took messages; it goes to the end, or leaves when out of credit.
    #[inline]
    pub(crate) fn took(&mut self, turn: Turn, key: ConsumerKey, messages: u32) {
        let Some(consumer) = self.at(key.index) else {
            return;
        };
        if !consumer.asked.no_ack {
            consumer.unacked += messages;
        }
        if consumer.has_credit() {
            self.rotate(turn.ring);
        } else {
            consumer.seated = false;
            if let Some(ring) = self.rings.get_mut(turn.ring) {
                ring.turns.pop_front();
            }
        }
    }

    /// The consumer in turn cannot take a message now.
    pub(crate) fn refused(&mut self, turn: &mut Turn, key: ConsumerKey) {
        if let Some(consumer) = self.at(key.index) {
            consumer.refused_in = turn.pump;
        }
        turn.refusals += 1;
        self.rotate(turn.ring);
    }

    /// Deliveries came back or were settled.
    #[inline]
    pub(crate) fn returned(&mut self, key: ConsumerKey, messages: u32) {
        let Some(consumer) = self.at(key.index) else {
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
        if let Some(consumer) = self.at(key.index) {
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
