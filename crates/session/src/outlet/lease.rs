//! Deliveries that have to be settled in time, and those that were not.

use std::ops::ControlFlow;

use super::{Outlet, Slot, UnknownTag};
use crate::channel::OutletChannel;
use crate::late::Late;

/// Deliveries that are taken back in one step.
const TAKEN_MAX: usize = 1024;
/// Deliveries that are looked at in one step.
const LOOKS_MAX: usize = 16 * 1024;

/// How often it is looked for what a transaction has settled that may be rolled back.
const UNCOMMITTED_MS: u64 = 1000;

/// How long deliveries of a source may wait for their settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Milliseconds.
    pub ms: u64,
    /// Then their channel ends; else they are taken back alone.
    pub closes: bool,
}

/// What a look at the deliveries of a channel has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// All were looked at.
    Done,
    /// There are more: look again.
    More,
    /// The channel is to be closed, as one was not settled within so many milliseconds.
    Closes(u64),
}

/// What is known of the deliveries of a channel that have to be settled in time.
#[derive(Debug)]
pub(crate) struct Leases {
    /// Nothing is to be taken back before, milliseconds.
    due_ms: u64,
    /// The tag that a look in several steps goes on from, and the first end it has seen so far.
    from: u64,
    next_ms: u64,
    late: Late,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            due_ms: u64::MAX,
            from: 0,
            next_ms: u64::MAX,
            late: Late::default(),
        }
    }
}

impl Leases {
    fn look_again(&mut self) {
        (self.due_ms, self.from, self.next_ms) = (0, 0, u64::MAX);
    }
}

impl<W> Outlet<W> {
    /// The latest delivery of a channel has to be settled within so many milliseconds. Gives when
    /// to look after that, if it is sooner than was said before.
    pub fn lease(&mut self, channel: u16, now_ms: u64, term_ms: u64) -> Option<u64> {
        let state = self.channel(channel)?;
        let handed = &mut state.unacked.last_mut()?.handed;
        handed.stamp(now_ms);
        let end_ms = handed.since(now_ms).saturating_add(term_ms);
        if end_ms >= state.leases.due_ms {
            return None;
        }
        state.leases.due_ms = end_ms;
        Some(end_ms)
    }

    /// How long deliveries may wait has changed: all have to be looked at. Tells whether there are
    /// any.
    pub fn look_again(&mut self) -> bool {
        let mut any = false;
        for channel in self.channels.iter_mut().flatten() {
            if !channel.unacked.is_empty() {
                channel.leases.look_again();
                any = true;
            }
        }
        any
    }

    /// A channel whose deliveries have to be looked at.
    #[must_use]
    pub fn due_channel(&self, now_ms: u64) -> Option<u16> {
        let due = |channel: &Option<Box<OutletChannel<W>>>| {
            let channel = channel.as_ref();
            channel.is_some_and(|channel| channel.leases.due_ms <= now_ms)
        };
        let index = self.channels.iter().position(due)?;
        u16::try_from(index).ok()
    }

    /// When deliveries have to be looked at next, milliseconds.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        let channels = self.channels.iter().flatten();
        let due = channels.map(|channel| channel.leases.due_ms);
        due.min().filter(|due_ms| *due_ms < u64::MAX)
    }

    /// Takes back what was not settled in time, a part at a time; `term_of` gives the time for a
    /// source. The time of what went out before there was one begins now.
    pub fn take_overdue(
        &mut self,
        channel: u16,
        now_ms: u64,
        term_of: impl Fn(u32) -> Option<Term>,
        mut taken: impl FnMut(Slot),
    ) -> Looked {
        let limits = self.limits;
        let Some(state) = self.channel(channel) else {
            return Looked::Done;
        };
        let (leases, counts, fetched) = (&mut state.leases, &mut state.counts, &mut state.fetched);
        let (mut room, mut closes) = (TAKEN_MAX, None);
        let next = state.unacked.sift(leases.from, LOOKS_MAX, |tag, slot| {
            let Some(term) = term_of(slot.source) else {
                return ControlFlow::Continue(false);
            };
            if !slot.handed.is_stamped() {
                slot.handed.stamp(now_ms);
            }
            let end_ms = slot.handed.since(now_ms).saturating_add(term.ms);
            if end_ms > now_ms {
                leases.next_ms = leases.next_ms.min(end_ms);
                return ControlFlow::Continue(false);
            }
            closes = term.closes.then_some(term.ms);
            if term.closes || room == 0 {
                return ControlFlow::Break(());
            }
            room -= 1;
            *fetched -= usize::from(slot.handed.is_fetched());
            counts.timed_out += 1;
            leases.late.insert(tag);
            taken(*slot);
            ControlFlow::Continue(true)
        });
        leases.from = next.unwrap_or(0);
        if next.is_none() {
            leases.due_ms = std::mem::replace(&mut leases.next_ms, u64::MAX);
            if state.uncommitted > 0 {
                // They come back if that is rolled back, and their time goes on meanwhile.
                leases.due_ms = leases.due_ms.min(now_ms + UNCOMMITTED_MS);
            }
        }
        state.judge_room(&limits);
        match (closes, next) {
            (Some(term_ms), _) => Looked::Closes(term_ms),
            (None, Some(_)) => Looked::More,
            (None, None) => Looked::Done,
        }
    }
}

impl<W> OutletChannel<W> {
    /// Whether a settlement may mean deliveries that were taken back.
    #[inline]
    pub(super) fn may_be_late(&self, multiple: bool, known: Result<(), UnknownTag>) -> bool {
        (multiple || known.is_err()) && !self.leases.late.is_empty()
    }

    /// Whether the delivery of a settlement was taken back, or a settlement of several may mean
    /// such ones.
    fn means_late(&self, tag: u64, known: Result<(), UnknownTag>) -> bool {
        known.is_ok() || self.leases.late.contains(tag)
    }
}

impl<W> Outlet<W> {
    /// Settles what was taken back, in vain, and what the settlement means besides; `known` is
    /// what became of it without that.
    #[cold]
    pub(super) fn settle_late(
        &mut self,
        channel: u16,
        (tag, multiple): (u64, bool),
        known: Result<(), UnknownTag>,
        mut settled: impl FnMut(u64, Slot),
    ) -> Result<(), UnknownTag> {
        let limits = self.limits;
        let state = self.channel(channel).ok_or(UnknownTag)?;
        if !state.means_late(tag, known) {
            return known;
        }
        let late = &mut state.leases.late;
        if !multiple {
            state.counts.late += u64::from(late.settle(tag));
            return Ok(());
        }
        state.counts.late += late.settle_up_to(all_or(tag));
        let fetched = &mut state.fetched;
        // Nothing is left of them if the tag was known.
        state.unacked.settle_through(tag, |tag, slot| {
            *fetched -= usize::from(slot.handed.is_fetched());
            settled(tag, slot);
        });
        state.judge_room(&limits);
        Ok(())
    }

    /// The same in a transaction. What is late stays known, as that may be rolled back.
    #[cold]
    pub(super) fn stage_late(
        &mut self,
        channel: u16,
        (tag, multiple): (u64, bool),
        known: Result<(), UnknownTag>,
        mut settled: impl FnMut(u64, Slot),
    ) -> Result<(), UnknownTag> {
        let limits = self.limits;
        let state = self.channel(channel).ok_or(UnknownTag)?;
        if !state.means_late(tag, known) {
            return known;
        }
        if !multiple {
            state.counts.late += 1;
            return Ok(());
        }
        state.counts.late += state.leases.late.up_to(all_or(tag));
        let (staged, fetched) = (&mut state.uncommitted, &mut state.uncommitted_fetched);
        state.unacked.settle_through(tag, |tag, slot| {
            *staged += 1;
            *fetched += usize::from(slot.handed.is_fetched());
            settled(tag, slot);
        });
        state.judge_room(&limits);
        Ok(())
    }
}

/// Tag 0 of a settlement of several means all.
const fn all_or(tag: u64) -> u64 {
    if tag == 0 { u64::MAX } else { tag }
}
