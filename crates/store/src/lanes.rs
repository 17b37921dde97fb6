//! What the journal knows of each lane: which messages live and in which segment, and no bodies.
//!
//! A state machine without I/O, stepped by records in journal order: the running journal and
//! recovery step the same one, so what is in memory is what a replay would give.

use leveret_record::Attempts;
use rustc_hash::FxHashMap;

use crate::moved::{Held, MOVED};
use crate::ranges::RangeMap;
use crate::{LaneId, MovedChunk};

/// A segment's number in the life of the store, never reused.
pub(crate) type Serial = u64;

/// All lanes, and what is left of those deleted.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct JournalLanes {
    pub(crate) lanes: FxHashMap<LaneId, JournalLane>,
    /// Deleted lanes: a message still on its way to one is dead on arrival.
    pub(crate) gone: RangeMap<()>,
    /// One more than the highest lane ever named.
    pub(crate) next_lane: u32,
    /// How many messages live in each segment and each moved chunk.
    pub(crate) held: Held,
    /// The number of the next one, less its bit.
    pub(crate) next_chunk: Serial,
    /// One more than the highest run file ever named.
    pub(crate) next_run: u64,
    /// Ranges of live messages, of all lanes.
    pub(crate) ranges: usize,
}

/// One lane.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct JournalLane {
    /// Everything below is settled, also what has not arrived yet.
    pub(crate) floor: u64,
    /// One more than the highest sequence number ever named.
    pub(crate) next: u64,
    /// Live messages and the segment, or moved chunk, that holds each.
    pub(crate) live: RangeMap<Serial>,
    /// Settled before the message arrived.
    pub(crate) early: RangeMap<()>,
    /// How often live messages were tried.
    pub(crate) returned: RangeMap<Attempts>,
    /// The same of messages that have not arrived, or no longer live: there is no telling.
    pub(crate) awaited: RangeMap<Attempts>,
    /// The same, from before the last checkpoint.
    pub(crate) awaited_long: RangeMap<Attempts>,
}

impl JournalLanes {
    /// The segment that holds a live message.
    pub(crate) fn holder(&self, lane: LaneId, seq: u64) -> Option<Serial> {
        self.lanes.get(&lane)?.live.get(seq)
    }

    /// Live messages in a segment.
    pub(crate) fn held_by(&self, serial: Serial) -> u64 {
        self.held.of(serial)
    }

    /// The most ranges of live messages and their delivery counts together that space is kept for,
    /// whatever is settled and delivered before there are more messages.
    pub(crate) const fn ranges_max(&self) -> u64 {
        self.held.ranges_kept() + self.ranges as u64
    }

    /// Messages `from..to` are in the segment `serial`: new ones, or copies of live ones.
    pub(crate) fn message(&mut self, lane: LaneId, (from, to): (u64, u64), serial: Serial) {
        let Some(state) = name(&mut self.lanes, &mut self.next_lane, &self.gone, lane, to) else {
            return;
        };
        let from = from.max(state.floor);
        let pieces = if state.early.is_empty() {
            vec![(from, to)]
        } else {
            let pieces = state.early.missing(from, to);
            state.early.remove(from, to, |_, _, ()| {});
            pieces
        };
        let (live, held) = (&mut state.live, &mut self.held);
        self.ranges -= live.len();
        for (from, to) in pieces {
            if from < to {
                held.hold(serial, to - from);
                live.insert(from, to, serial, |from, to, old| {
                    held.release(old, to - from)
                });
            }
        }
        self.ranges += live.len();
        for awaited in [&mut state.awaited_long, &mut state.awaited] {
            if !awaited.is_empty() {
                awaited.remove(from, to, |from, to, attempts| {
                    raise(&mut state.returned, (from, to), attempts);
                });
            }
        }
    }

    /// What lives of these messages is in this chunk from now on. What has not arrived yet will be
    /// in the journal.
    pub(crate) fn moved(&mut self, chunk: MovedChunk, ranges: &[(u64, u64)]) {
        let number = MOVED | self.next_chunk;
        self.next_chunk += 1;
        self.next_run = self.next_run.max(chunk.place.run.saturating_add(1));
        self.held.add_chunk(number, chunk);
        let Some(state) = self.lanes.get_mut(&chunk.lane) else {
            return;
        };
        let (live, held) = (&mut state.live, &mut self.held);
        self.ranges -= live.len();
        for (from, to) in ranges {
            for (from, to, _) in live.within(*from, *to) {
                held.hold(number, to - from);
                live.insert(from, to, number, |from, to, old| {
                    held.release(old, to - from)
                });
            }
        }
        self.ranges += live.len();
    }

    /// These messages were never in this journal: they are in a chunk that another one had.
    pub(crate) fn adopt(&mut self, chunk: MovedChunk, ranges: &[(u64, u64)]) {
        let number = MOVED | self.next_chunk;
        for range in ranges {
            self.message(chunk.lane, *range, number);
        }
        self.moved(chunk, ranges);
    }

    /// Messages `from..to` are settled, whether they have arrived or not.
    pub(crate) fn settled(&mut self, lane: LaneId, from: u64, to: u64) {
        let Some(state) = name(&mut self.lanes, &mut self.next_lane, &self.gone, lane, to) else {
            return;
        };
        let from = from.max(state.floor);
        let held = &mut self.held;
        for (from, to) in state.live.missing(from, to) {
            state.early.insert(from, to, (), |_, _, ()| {});
        }
        self.ranges -= state.live.len();
        state
            .live
            .remove(from, to, |from, to, serial| held.release(serial, to - from));
        self.ranges += state.live.len();
        state.forget_counts(from, to);
    }

    /// Messages `from..to` have been tried so often; the highest counts stay.
    ///
    /// It may come before the message, and also after the message was settled: a turn that
    /// delivers is submitted at its end, and the consumer's own turn may be quicker. So a count
    /// waits for its message, but not for ever: [`Self::age_awaited`].
    pub(crate) fn returned(&mut self, lane: LaneId, (from, to): (u64, u64), attempts: Attempts) {
        let Some(state) = name(&mut self.lanes, &mut self.next_lane, &self.gone, lane, to) else {
            return;
        };
        let from = from.max(state.floor);
        for (from, to, _) in state.live.within(from, to) {
            raise(&mut state.returned, (from, to), attempts);
        }
        for (from, to) in state.live.missing(from, to) {
            for piece in state.early.missing(from, to) {
                raise(&mut state.awaited, piece, attempts);
            }
        }
    }

    /// Forgets the counts that have waited for their messages since the last call but one: for
    /// each checkpoint. No turn takes as long as what is written between two of them.
    pub(crate) fn age_awaited(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.awaited_long = std::mem::take(&mut lane.awaited);
        }
    }

    /// Everything below `up_to` is settled; `u64::MAX`: the lane is gone.
    pub(crate) fn reset(&mut self, lane: LaneId, up_to: u64) {
        let Some(state) = name(
            &mut self.lanes,
            &mut self.next_lane,
            &self.gone,
            lane,
            up_to,
        ) else {
            return;
        };
        let held = &mut self.held;
        state.floor = state.floor.max(up_to);
        self.ranges -= state.live.len();
        state
            .live
            .remove(0, up_to, |from, to, serial| held.release(serial, to - from));
        self.ranges += state.live.len();
        state.early.remove(0, up_to, |_, _, ()| {});
        state.forget_counts(0, up_to);
        if up_to == u64::MAX {
            self.lanes.remove(&lane);
            let id = u64::from(lane.0);
            self.gone.insert(id, id + 1, (), |_, _, ()| {});
        }
    }

    /// Forgets what was said of messages that never arrived. Only at open: nothing is on its way.
    pub(crate) fn forget_absent(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.early = RangeMap::default();
            lane.awaited = RangeMap::default();
            lane.awaited_long = RangeMap::default();
        }
    }
}

impl JournalLane {
    /// All counts of attempts, those that wait included.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (u64, u64, Attempts)> + '_ {
        let awaited = self.awaited_long.iter().chain(self.awaited.iter());
        self.returned.iter().chain(awaited)
    }

    fn forget_counts(&mut self, from: u64, to: u64) {
        for counts in [
            &mut self.returned,
            &mut self.awaited,
            &mut self.awaited_long,
        ] {
            if !counts.is_empty() {
                counts.remove(from, to, |_, _, _| {});
            }
        }
    }
}

/// Gives `from..to` these counts, where it has no higher ones.
fn raise(counts: &mut RangeMap<Attempts>, (from, to): (u64, u64), attempts: Attempts) {
    let mut higher = Vec::new();
    counts.insert(from, to, attempts, |from, to, old| {
        if old.max(attempts) != attempts {
            higher.push((from, to, old.max(attempts)));
        }
    });
    for (from, to, old) in higher {
        counts.insert(from, to, old, |_, _, _| {});
    }
}

/// The state of a lane that a record names up to `next`, made if new; `None` if the lane is gone.
fn name<'a>(
    lanes: &'a mut FxHashMap<LaneId, JournalLane>,
    next_lane: &mut u32,
    gone: &RangeMap<()>,
    lane: LaneId,
    next: u64,
) -> Option<&'a mut JournalLane> {
    if !gone.is_empty() && gone.get(u64::from(lane.0)).is_some() {
        return None;
    }
    *next_lane = (*next_lane).max(lane.0.saturating_add(1));
    let state = lanes.entry(lane).or_default();
    state.next = state.next.max(next);
    Some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneId = LaneId(4);

    const fn tried(acquired: u32) -> Attempts {
        Attempts {
            acquired,
            failed: acquired / 2,
        }
    }

    fn attempts(lanes: &JournalLanes, seq: u64) -> Attempts {
        lanes.lanes[&LANE].returned.get(seq).unwrap_or_default()
    }

    fn live(lanes: &JournalLanes) -> Vec<(u64, u64, Serial)> {
        lanes
            .lanes
            .get(&LANE)
            .map(|lane| lane.live.iter().collect())
            .unwrap_or_default()
    }

    #[test]
    fn a_settlement_before_its_message_settles_it() {
        let mut lanes = JournalLanes::default();
        lanes.settled(LANE, 2, 4);
        lanes.message(LANE, (0, 5), 9);
        assert_eq!(live(&lanes), [(0, 2, 9), (4, 5, 9)]);
        assert_eq!(lanes.held_by(9), 3);
        assert!(lanes.lanes[&LANE].early.is_empty());
        assert_eq!(lanes.lanes[&LANE].next, 5);
    }

    #[test]
    fn a_copy_moves_the_message_to_its_segment() {
        let mut lanes = JournalLanes::default();
        lanes.message(LANE, (0, 4), 1);
        lanes.message(LANE, (1, 2), 2);
        assert_eq!(live(&lanes), [(0, 1, 1), (1, 2, 2), (2, 4, 1)]);
        assert_eq!((lanes.held_by(1), lanes.held_by(2)), (3, 1));
    }

    #[test]
    fn a_reset_covers_messages_on_their_way_and_a_deleted_lane_takes_no_more() {
        let mut lanes = JournalLanes::default();
        lanes.message(LANE, (0, 4), 1);
        lanes.reset(LANE, 6);
        lanes.message(LANE, (4, 8), 1);
        assert_eq!(live(&lanes), [(6, 8, 1)]);
        lanes.reset(LANE, u64::MAX);
        lanes.message(LANE, (8, 9), 1);
        assert_eq!((live(&lanes), lanes.held_by(1)), (vec![], 0));
        assert_eq!(lanes.next_lane, 5);
    }

    #[test]
    fn the_highest_delivery_count_stays_until_the_message_is_settled() {
        let mut lanes = JournalLanes::default();
        lanes.message(LANE, (0, 4), 1);
        lanes.returned(LANE, (1, 3), tried(2));
        lanes.returned(LANE, (0, 4), tried(1));
        let counts: Vec<_> = (0..4).map(|seq| attempts(&lanes, seq)).collect();
        assert_eq!(counts, [1, 2, 2, 1].map(tried));
        lanes.settled(LANE, 1, 2);
        assert_eq!(attempts(&lanes, 1), tried(0));
    }

    #[test]
    fn a_count_waits_for_its_message_over_one_checkpoint_and_for_a_dead_one_not_longer() {
        let mut lanes = JournalLanes::default();
        // A publisher's turn delivers message 0, and the consumer's acknowledgement is quicker.
        lanes.settled(LANE, 0, 1);
        lanes.message(LANE, (0, 1), 1);
        lanes.returned(LANE, (0, 1), tried(1));
        assert!(lanes.lanes[&LANE].returned.is_empty());
        lanes.age_awaited();
        // Message 1 is delivered by another turn than the one that brings it.
        lanes.returned(LANE, (1, 2), tried(2));
        lanes.age_awaited();
        lanes.returned(LANE, (1, 2), tried(1));
        lanes.message(LANE, (1, 2), 1);
        assert_eq!(attempts(&lanes, 1), tried(2));
        assert_eq!(lanes.lanes[&LANE].counts().count(), 1);
    }

    #[test]
    fn what_never_arrived_is_forgotten_at_open() {
        let mut lanes = JournalLanes::default();
        lanes.message(LANE, (0, 2), 1);
        lanes.settled(LANE, 7, 8);
        lanes.returned(LANE, (1, 5), tried(3));
        lanes.forget_absent();
        let lane = &lanes.lanes[&LANE];
        assert!(lane.early.is_empty());
        assert_eq!(lane.returned.iter().collect::<Vec<_>>(), [(1, 2, tried(3))]);
        assert_eq!(lane.next, 8);
    }
}
