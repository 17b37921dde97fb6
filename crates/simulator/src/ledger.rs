//! One queue as a list, and the search for an order of events that explains what was seen of it.
//!
//! Within one turn of the broker the commands' order is known, and so is the order of deliveries
//! on each connection; how the two interleave is not. Each delivery must be of the oldest ready
//! message at its moment, to a consumer with credit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A message's number in the order of processing; its place in every queue.
pub(crate) type Arrival = u64;

/// A consumer of the queue.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) tag: u64,
    pub(crate) connection: usize,
    pub(crate) channel: u16,
    pub(crate) no_ack: bool,
    /// 0: no limit.
    pub(crate) prefetch: u32,
    pub(crate) held: u32,
}

impl Seat {
    pub(crate) const fn has_credit(&self) -> bool {
        self.no_ack || self.prefetch == 0 || self.held < self.prefetch
    }
}

/// Something that happens to a queue, as told by its clients' commands.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Push(Arrival),
    /// A publish for which a commit has reserved room.
    Commit(Arrival),
    /// A delivery is done with; whose it was.
    Settle(Arrival, Option<u64>),
    /// A delivery is rejected for good.
    Reject(Arrival, Option<u64>),
    /// Deliveries come back, all before the next one goes out; as failed attempts or not.
    Requeue(Vec<(Arrival, Option<u64>)>, bool),
    /// `basic.get`, what it gave and whether that was redelivered, and how many it said are left.
    Get {
        got: Option<(Arrival, bool)>,
        left: u32,
        no_ack: bool,
    },
    /// How many messages were purged, if that was told.
    Purge(Option<u32>),
    Join(Seat),
    Leave(u64),
    /// A declaration told so many ready messages.
    Report(u32),
    /// A conditional deletion found the queue empty, or not.
    Empty(bool),
    /// The queue ends; how many messages were ready, if that was told.
    Delete(Option<u32>),
}

/// A delivery that was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub(crate) arrival: Arrival,
    pub(crate) consumer: u64,
    pub(crate) redelivered: bool,
}

/// What the broker says of the queue after the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) ready: u64,
    pub(crate) unacked: u64,
    pub(crate) consumers: usize,
}

/// The queue as a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// Ready messages, and whether each was delivered before; nobody knows of those that were out
    /// when the broker ended.
    pub(crate) ready: BTreeMap<Arrival, Option<bool>>,
    pub(crate) out: BTreeSet<Arrival>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) length_max: Option<u64>,
    pub(crate) refuses: bool,
    pub(crate) single_active: bool,
    /// Messages the queue had no room for in this turn.
    pub(crate) refused: Vec<Arrival>,
    pub(crate) deleted: bool,
}

/// What one search goes through.
struct Search<'a> {
    events: &'a [Event],
    /// `None`: the queue is gone.
    counts: Option<Counts>,
    /// Positions that may still be visited.
    budget: u32,
    /// The furthest position reached, and why there was no going on.
    stuck: (usize, String),
}

/// Deliveries in waiting of each connection.
type Pending = Vec<VecDeque<Delivery>>;

const BUDGET: u32 = 1_000_000;

impl Ledger {
    /// Finds an order of events and deliveries that ends in `counts`; the ledger is then as after
    /// them.
    ///
    /// # Errors
    /// There is none: the reason where the longest attempt got stuck.
    pub(crate) fn explain(
        &mut self,
        events: &[Event],
        pending: Pending,
        counts: Option<Counts>,
    ) -> Result<(), String> {
        self.refused.clear();
        let mut search = Search {
            events,
            counts,
            budget: BUDGET,
            stuck: (0, String::new()),
        };
        // Nearly always everything is delivered as soon as it can be.
        let found = search.go(self.clone(), 0, pending.clone(), false);
        let ended = search.budget == 0;
        *self = found.ok_or_else(|| {
            let limit = if ended { " (search given up)" } else { "" };
            format!(
                "{}{limit}\nevents {events:?}\ndeliveries {pending:?}\nbefore: {self:?}",
                search.stuck.1
            )
        })?;
        Ok(())
    }

    /// Whose turn it may be: with a single active consumer only the first one's.
    pub(crate) fn serves(&self, tag: u64) -> bool {
        !self.single_active || self.seats.first().is_some_and(|seat| seat.tag == tag)
    }

    /// The broker has ended and begun again from its disk, which has these messages.
    pub(crate) fn restart(&mut self, durable: impl Fn(&Arrival) -> bool) {
        let out = std::mem::take(&mut self.out).into_iter();
        self.ready.extend(out.map(|arrival| (arrival, None)));
        self.ready.retain(|arrival, _| durable(arrival));
        self.seats.clear();
        // As RabbitMQ does.
        self.trim();
    }

    pub(crate) fn seat(&mut self, tag: Option<u64>) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| Some(seat.tag) == tag)
    }

    /// Why a delivery cannot happen now.
    fn refusal(&self, delivery: Delivery) -> Option<String> {
        let Delivery {
            arrival,
            consumer,
            redelivered,
        } = delivery;
        let head = self
            .ready
            .first_key_value()
            .map(|(head, again)| (*head, *again));
        if !is_head(head, arrival, redelivered) {
            return Some(format!(
                "{delivery:?}, but the oldest ready message is {head:?}"
            ));
        }
        let Some(seat) = self.seats.iter().find(|seat| seat.tag == consumer) else {
            return Some(format!("{delivery:?} to nobody"));
        };
        let served = self.serves(consumer) && seat.has_credit();
        (!served).then(|| format!("{delivery:?} without credit: {seat:?}"))
    }

    fn deliver(&mut self, delivery: Delivery) {
        self.ready.pop_first();
        if let Some(seat) = self.seat(Some(delivery.consumer))
            && !seat.no_ack
        {
            seat.held += 1;
            self.out.insert(delivery.arrival);
        }
    }

    fn returned(&mut self, arrival: Arrival, consumer: Option<u64>) -> Result<(), String> {
        if !self.out.remove(&arrival) {
            return Err(format!("{arrival} comes back but is not out"));
        }
        if let Some(seat) = self.seat(consumer) {
            seat.held -= 1;
        }
        Ok(())
    }

    /// An event happens now, or why it cannot.
    fn apply(&mut self, event: &Event) -> Result<(), String> {
        let ready = self.ready.len() as u64;
        let agrees = |said: u64, what: &str| {
            if said == ready {
                Ok(())
            } else {
                Err(format!(
                    "{what} tells {said} ready messages, there are {ready}"
                ))
            }
        };
        match event {
            Event::Push(arrival) => self.push(*arrival),
            Event::Commit(arrival) => drop(self.ready.insert(*arrival, Some(false))),
            Event::Settle(arrival, consumer) | Event::Reject(arrival, consumer) => {
                self.returned(*arrival, *consumer)?;
            }
            Event::Requeue(back, _) => {
                for (arrival, consumer) in back {
                    self.returned(*arrival, *consumer)?;
                    self.ready.insert(*arrival, Some(true));
                }
            }
            Event::Get { got, left, no_ack } => return self.get(*got, *left, *no_ack),
            Event::Purge(told) => {
                agrees(told.map_or(ready, u64::from), "purge-ok")?;
                self.ready.clear();
            }
            Event::Join(seat) => self.seats.push(seat.clone()),
            Event::Leave(tag) => self.seats.retain(|seat| seat.tag != *tag),
            Event::Report(told) => agrees(u64::from(*told), "declare-ok")?,
            Event::Empty(told) if *told == self.ready.is_empty() => {}
            Event::Empty(told) => return Err(format!("empty: {told}, ready: {ready}")),
            Event::Delete(told) => {
                agrees(told.map_or(ready, u64::from), "delete-ok")?;
                self.deleted = true;
            }
        }
        Ok(())
    }

    fn push(&mut self, arrival: Arrival) {
        let max = self.length_max.unwrap_or(u64::MAX);
        if self.refuses && self.ready.len() as u64 >= max {
            self.refused.push(arrival);
        } else {
            self.ready.insert(arrival, Some(false));
        }
    }

    /// Whether the next message is taken, or refused, before anybody gets one.
    fn pushes_first(&self) -> bool {
        match self.length_max {
            None => true,
            // A refusal shows that nobody could take anything, nor can they until something else
            // happens.
            Some(max) => {
                self.refuses && (!self.refused.is_empty() || (self.ready.len() as u64) < max)
            }
        }
    }

    fn get(&mut self, got: Option<(Arrival, bool)>, left: u32, no_ack: bool) -> Result<(), String> {
        let head = self
            .ready
            .first_key_value()
            .map(|(head, again)| (*head, *again));
        let right = match got {
            Some((arrival, redelivered)) => is_head(head, arrival, redelivered),
            None => head.is_none(),
        };
        if !right {
            return Err(format!(
                "get gave {got:?}, the oldest ready message is {head:?}"
            ));
        }
        let Some((arrival, _)) = got else {
            return Ok(());
        };
        self.ready.pop_first();
        if !no_ack {
            self.out.insert(arrival);
        }
        if self.ready.len() == left as usize {
            Ok(())
        } else {
            Err(format!(
                "get-ok tells {left} left, there are {}",
                self.ready.len()
            ))
        }
    }

    /// Drops the oldest messages above the limit, as happens after the consumers had their turn.
    fn trim(&mut self) -> bool {
        let max = self.length_max.unwrap_or(u64::MAX);
        let before = self.ready.len();
        while !self.refuses && self.ready.len() as u64 > max {
            self.ready.pop_first();
        }
        self.ready.len() < before
    }

    fn counts(&self) -> Counts {
        Counts {
            ready: self.ready.len() as u64,
            unacked: self.out.len() as u64,
            consumers: self.seats.len(),
        }
    }
}

impl Search<'_> {
    /// Goes on from the event at `at`; gives the ledger at the end.
    fn go(
        &mut self,
        mut ledger: Ledger,
        mut at: usize,
        mut pending: Pending,
        mut trims: bool,
    ) -> Option<Ledger> {
        loop {
            self.budget = self.budget.checked_sub(1)?;
            let next = self.events.get(at);
            let waits = match next {
                Some(Event::Push(_)) => ledger.pushes_first(),
                Some(Event::Commit(_)) => ledger.length_max.is_none(),
                _ => false,
            };
            let places = match waits {
                true => Vec::new(),
                false => deliverable(&ledger, &pending),
            };
            if next.is_none()
                && let [place] = places[..]
            {
                deliver(&mut ledger, &mut pending, place);
                continue;
            }
            for place in places {
                let (mut ledger, mut pending) = (ledger.clone(), pending.clone());
                deliver(&mut ledger, &mut pending, place);
                if let Some(found) = self.go(ledger, at, pending, trims) {
                    return Some(found);
                }
            }
            if std::mem::take(&mut trims) {
                let before = ledger.clone();
                if ledger.trim() {
                    if let Some(found) = self.go_together(before, at, &pending) {
                        return Some(found);
                    }
                    // Another one is the oldest now.
                    continue;
                }
            }
            let Some(event) = next else {
                return self.end(ledger, &pending);
            };
            if let Err(reason) = ledger.apply(event) {
                self.stuck(at, &reason, &ledger, &pending);
                return None;
            }
            trims = matches!(
                event,
                Event::Push(_) | Event::Commit(_) | Event::Requeue(..)
            );
            at += 1;
        }
    }

    /// Goes on as if the next event belonged to the one before: deliveries of one consumer may come
    /// back in one step, before anything is dropped.
    fn go_together(&mut self, mut ledger: Ledger, at: usize, pending: &Pending) -> Option<Ledger> {
        let (last, event) = (self.events.get(at.checked_sub(1)?)?, self.events.get(at)?);
        let (Event::Requeue(before, _), Event::Requeue(back, _)) = (last, event) else {
            return None;
        };
        let consumer = |back: &[(Arrival, Option<u64>)]| back.first().and_then(|(_, of)| *of);
        if consumer(before) != consumer(back) || ledger.apply(event).is_err() {
            return None;
        }
        self.go(ledger, at + 1, pending.clone(), true)
    }

    fn end(&mut self, ledger: Ledger, pending: &Pending) -> Option<Ledger> {
        let end = self.events.len();
        if pending.iter().any(|waiting| !waiting.is_empty()) {
            self.stuck(end, "a delivery is left over", &ledger, pending);
            return None;
        }
        if let Some(counts) = self.counts
            && counts != ledger.counts()
        {
            let reason = format!("the broker has {counts:?}, should be {:?}", ledger.counts());
            self.stuck(end, &reason, &ledger, pending);
            return None;
        }
        Some(ledger)
    }

    fn stuck(&mut self, at: usize, reason: &str, ledger: &Ledger, pending: &Pending) {
        if self.stuck.1.is_empty() || at > self.stuck.0 {
            let next = pending.iter().filter_map(VecDeque::front);
            let refusals: Vec<_> = next.filter_map(|next| ledger.refusal(*next)).collect();
            self.stuck = (
                at,
                format!("event {at}: {reason}; not delivered: {refusals:?}"),
            );
        }
    }
}

/// Whether this is the oldest ready message, and marked as it should be.
fn is_head(head: Option<(Arrival, Option<bool>)>, arrival: Arrival, redelivered: bool) -> bool {
    head.is_some_and(|(head, again)| {
        head == arrival && again.is_none_or(|again| again == redelivered)
    })
}

/// Connections whose next delivery can happen now.
fn deliverable(ledger: &Ledger, pending: &Pending) -> Vec<usize> {
    let Some((head, _)) = ledger.ready.first_key_value() else {
        return Vec::new();
    };
    let can = |waiting: &VecDeque<Delivery>| {
        let next = waiting.front();
        next.is_some_and(|next| next.arrival == *head && ledger.refusal(*next).is_none())
    };
    let places = pending.iter().enumerate();
    places
        .filter(|(_, waiting)| can(waiting))
        .map(|(place, _)| place)
        .collect()
}

fn deliver(ledger: &mut Ledger, pending: &mut Pending, place: usize) {
    if let Some(delivery) = pending.get_mut(place).and_then(VecDeque::pop_front) {
        ledger.deliver(delivery);
    }
}
