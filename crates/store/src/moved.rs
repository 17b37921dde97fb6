//! Chunks of lanes that are on the disk beside the journal, and need it no more.
//!
//! Whoever has the files writes and syncs a chunk first, then records it ([`crate::Batch::moved`]).
//! From then on its messages are held by the chunk instead of a segment; settlements name them as
//! before. A chunk is free when nothing in it lives and two checkpoints know that.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use leveret_record::{Attempts, RunPlace};

use crate::checkpoint::RANGE_BYTES;
use crate::lanes::{JournalLane, JournalLanes, Serial};
use crate::{BatchRecord, LaneId};

/// What a moved chunk is numbered by among segments: with this bit, in the order they came.
pub(crate) const MOVED: Serial = 1 << 63;

/// Bytes of a chunk in a checkpoint.
pub(crate) const CHUNK_BYTES: u64 = 64;
/// What is left of a moved chunk may become so many ranges without space being found for them.
const CHUNK_RANGES: u64 = 64;

/// A chunk that was moved, as whoever wrote it wants to know it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MovedChunk {
    /// Whose messages they are.
    pub lane: LaneId,
    /// Where they are.
    pub place: RunPlace,
    /// How many messages it had when it was moved.
    pub messages: u32,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// None of them was taken before this, unix milliseconds.
    pub base_ms: u64,
    /// None of them dies by its own expiration before this, unix milliseconds.
    pub own_ms: u64,
}

/// How many messages live in each segment and each moved chunk.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    live: BTreeMap<Serial, u64>,
    all: u64,
    /// Ranges that all of these may come to be, as far as space is kept for them.
    ranges: u64,
    /// By number; those of which nothing lives are there until a checkpoint is written without
    /// them.
    chunks: BTreeMap<Serial, MovedChunk>,
    /// Bytes of these.
    dead_bytes: u64,
}

impl Held {
    /// Live messages in a segment or chunk.
    pub(crate) fn of(&self, serial: Serial) -> u64 {
        self.live.get(&serial).copied().unwrap_or(0)
    }

    /// The same for each of them.
    pub(crate) const fn live(&self) -> &BTreeMap<Serial, u64> {
        &self.live
    }

    /// Live messages in all of them.
    pub(crate) const fn all(&self) -> u64 {
        self.all
    }

    /// How many ranges live messages may become, whatever is settled: each message of a segment one
    /// of its own, those of a moved chunk a few. When these become more, space is found for them.
    pub(crate) const fn ranges_kept(&self) -> u64 {
        self.ranges
    }

    /// All moved chunks.
    pub(crate) const fn chunks(&self) -> &BTreeMap<Serial, MovedChunk> {
        &self.chunks
    }

    /// The run files in which something lives.
    pub(crate) fn runs(&self) -> BTreeSet<u64> {
        let lives = |(number, _): &(&Serial, &MovedChunk)| self.of(**number) > 0;
        let chunks = self.chunks.iter().filter(lives);
        chunks.map(|(_, chunk)| chunk.place.run).collect()
    }

    /// Bytes of chunks of which nothing lives.
    pub(crate) const fn dead_bytes(&self) -> u64 {
        self.dead_bytes
    }

    pub(crate) fn add_chunk(&mut self, number: Serial, chunk: MovedChunk) {
        self.chunks.insert(number, chunk);
        if self.of(number) == 0 {
            self.dead_bytes += u64::from(chunk.place.len);
        }
    }

    /// Takes out the chunks of which nothing lives.
    pub(crate) fn take_dead(&mut self) -> Vec<MovedChunk> {
        if self.dead_bytes == 0 {
            return Vec::new();
        }
        self.dead_bytes = 0;
        let (live, mut dead) = (&self.live, Vec::new());
        self.chunks.retain(|number, chunk| {
            let lives = live.contains_key(number);
            if !lives {
                dead.push(*chunk);
            }
            lives
        });
        dead
    }

    /// So many messages more live there.
    pub(crate) fn hold(&mut self, serial: Serial, count: u64) {
        let live = self.live.entry(serial).or_default();
        if *live == 0
            && serial & MOVED != 0
            && let Some(chunk) = self.chunks.get(&serial)
        {
            self.dead_bytes -= u64::from(chunk.place.len);
        }
        let before = ranges_of(serial, *live);
        *live += count;
        self.all += count;
        self.ranges += ranges_of(serial, *live) - before;
    }

    /// So many do no more.
    pub(crate) fn release(&mut self, serial: Serial, count: u64) {
        let Some(live) = self.live.get_mut(&serial) else {
            return;
        };
        self.all -= count.min(*live);
        let before = ranges_of(serial, *live);
        *live = live.saturating_sub(count);
        self.ranges -= before - ranges_of(serial, *live);
        if *live > 0 {
            return;
        }
        self.live.remove(&serial);
        if serial & MOVED != 0
            && let Some(chunk) = self.chunks.get(&serial)
        {
            self.dead_bytes += u64::from(chunk.place.len);
        }
    }
}

/// Ranges that space is kept for where so many messages live.
fn ranges_of(serial: Serial, live: u64) -> u64 {
    match serial & MOVED {
        0 => live,
        _ => live.min(CHUNK_RANGES),
    }
}

/// A chunk to be recorded as moved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Move {
    pub(crate) chunk: MovedChunk,
    /// Sequence numbers `from..to`, in order.
    pub(crate) ranges: Vec<(u64, u64)>,
}

impl Move {
    pub(crate) fn as_record(&self) -> BatchRecord<'_> {
        BatchRecord::Moved {
            chunk: &self.chunk,
            ranges: &self.ranges,
        }
    }

    /// Bytes of its record, about.
    pub(crate) fn len(&self) -> usize {
        size_of::<Self>() + size_of_val(self.ranges.as_slice())
    }
}

/// What recording a chunk with so many ranges of messages may add to a checkpoint.
pub(crate) const fn image_bytes(ranges: usize) -> u64 {
    CHUNK_BYTES + 2 * RANGE_BYTES * ranges as u64
}

/// Live messages of a moved chunk that follow each other in their lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MovedPiece {
    /// The chunk they are in.
    pub chunk: MovedChunk,
    /// Their sequence numbers, `from..to`, in order.
    pub ranges: Vec<(u64, u64)>,
    /// How often they have been tried, as far as the store was told.
    pub attempts: Vec<(u64, u64, Attempts)>,
    /// Nothing else of the chunk lives: no message of the lane stands between these.
    pub is_whole: bool,
}

impl MovedPiece {
    /// How many messages they are.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.ranges.iter().map(|(from, to)| to - from).sum()
    }
}

/// What a store that was opened knows of chunks that were moved out of its journal.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct RecoveredChunks {
    /// What lives of them, by lane in the order of the messages.
    pub pieces: Vec<MovedPiece>,
    /// A run file's number never used before; so is every one after it.
    pub next_run: u64,
}

impl RecoveredChunks {
    /// How many messages live in them.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.pieces.iter().map(MovedPiece::messages).sum()
    }

    /// Each chunk once, with all that lives of it: in the order in which they are on the disk.
    #[must_use]
    pub fn chunks(&self) -> Vec<MovedPiece> {
        let mut chunks: BTreeMap<(u64, u64), MovedPiece> = BTreeMap::new();
        for piece in &self.pieces {
            let place = piece.chunk.place;
            match chunks.entry((place.run, place.offset)) {
                Entry::Vacant(free) => {
                    let is_whole = true;
                    free.insert(MovedPiece {
                        is_whole,
                        ..piece.clone()
                    });
                }
                Entry::Occupied(mut chunk) => {
                    let chunk = chunk.get_mut();
                    chunk.ranges.extend(&piece.ranges);
                    chunk.attempts.extend(&piece.attempts);
                }
            }
        }
        chunks.into_values().collect()
    }

    /// The run files that are needed.
    #[must_use]
    pub fn runs(&self) -> BTreeSet<u64> {
        self.pieces.iter().map(|it| it.chunk.place.run).collect()
    }
}

/// What lives of all moved chunks: by lane, in the order of the messages.
pub(crate) fn pieces(lanes: &JournalLanes) -> Vec<MovedPiece> {
    let mut pieces = Vec::new();
    if lanes.held.chunks().is_empty() {
        return pieces;
    }
    let mut sorted: Vec<_> = lanes.lanes.iter().collect();
    sorted.sort_unstable_by_key(|(id, _)| **id);
    for (_, lane) in sorted {
        pieces_of(lanes, lane, &mut pieces);
    }
    pieces
}

fn pieces_of(lanes: &JournalLanes, lane: &JournalLane, pieces: &mut Vec<MovedPiece>) {
    let (begun, mut last) = (pieces.len(), None);
    let mut numbers: Vec<Serial> = Vec::new();
    for (from, to, holder) in lane.live.iter() {
        let chunk = lanes.held.chunks().get(&holder).copied();
        let Some(chunk) = chunk else {
            last = None;
            continue;
        };
        if last == Some(holder)
            && let Some(piece) = pieces.last_mut()
        {
            piece.ranges.push((from, to));
        } else {
            numbers.push(holder);
            pieces.push(MovedPiece {
                chunk,
                ranges: vec![(from, to)],
                attempts: Vec::new(),
                is_whole: true,
            });
        }
        last = Some(holder);
    }
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    let times = |number| {
        let first = sorted.partition_point(|other| *other < number);
        sorted.partition_point(|other| *other <= number) - first
    };
    for (piece, number) in pieces.iter_mut().skip(begun).zip(&numbers) {
        piece.is_whole = times(*number) == 1;
        for (from, to) in &piece.ranges {
            piece.attempts.extend(lane.returned.within(*from, *to));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneId = LaneId(4);

    fn chunk(run: u64) -> MovedChunk {
        MovedChunk {
            lane: LANE,
            place: RunPlace {
                run,
                offset: 0,
                len: 100,
                checksum: 1,
            },
            messages: 3,
            bytes: 10,
            base_ms: 5,
            own_ms: u64::MAX,
        }
    }

    #[test]
    fn only_what_lives_moves_and_settlements_follow_it() {
        let mut lanes = JournalLanes::default();
        lanes.message(LANE, (0, 6), 1);
        lanes.settled(LANE, 1, 2);
        lanes.settled(LANE, 9, 10);
        lanes.moved(chunk(7), &[(0, 3), (8, 12)]);
        assert_eq!((lanes.held_by(1), lanes.held_by(MOVED)), (3, 2));
        // What arrives after it was moved is in the journal all the same.
        lanes.message(LANE, (8, 12), 2);
        assert_eq!((lanes.held_by(2), lanes.held_by(MOVED)), (3, 2));
        assert_eq!(lanes.next_run, 8);
        lanes.settled(LANE, 0, 3);
        assert_eq!(lanes.held_by(MOVED), 0);
        assert!(pieces(&lanes).is_empty());
        lanes.moved(chunk(8), &[(3, 6)]);
        assert_eq!((lanes.held_by(1), lanes.held_by(MOVED | 1)), (0, 3));
        lanes.moved(chunk(9), &[(3, 6)]);
        assert_eq!((lanes.held_by(MOVED | 1), lanes.held_by(MOVED | 2)), (0, 3));
        lanes.reset(LANE, u64::MAX);
        lanes.moved(chunk(10), &[(3, 6)]);
        assert_eq!(lanes.held.all(), 0);
        assert_eq!(lanes.held.dead_bytes(), 400);
        assert_eq!(lanes.held.take_dead().len(), 4);
        assert_eq!(lanes.held, Held::default());
    }

    #[test]
    fn a_chunk_of_another_store_holds_messages_that_this_one_never_had() {
        let mut lanes = JournalLanes::default();
        lanes.message(LANE, (3, 5), 1);
        lanes.adopt(chunk(7), &[(0, 2), (5, 6)]);
        assert_eq!((lanes.held_by(1), lanes.held_by(MOVED)), (2, 3));
        assert_eq!((lanes.held.all(), lanes.held.dead_bytes()), (5, 0));
        assert_eq!((lanes.next_run, lanes.lanes[&LANE].next), (8, 6));
        lanes.settled(LANE, 0, 6);
        assert_eq!((lanes.held.all(), lanes.held.dead_bytes()), (0, 100));
    }

    #[test]
    fn a_checkpoint_keeps_space_for_few_ranges_of_a_moved_chunk() {
        let mut lanes = JournalLanes::default();
        lanes.message(LANE, (0, 1_000), 1);
        assert_eq!(lanes.ranges_max(), 1_001);
        lanes.moved(chunk(7), &[(0, 900)]);
        assert_eq!(lanes.ranges_max(), 100 + CHUNK_RANGES + 2);
        for seq in (0..800).step_by(2) {
            lanes.settled(LANE, seq, seq + 1);
        }
        // What there is already is counted as it is.
        assert_eq!(lanes.ranges_max(), 100 + CHUNK_RANGES + 401);
        lanes.reset(LANE, u64::MAX);
        assert_eq!(lanes.ranges_max(), 0);
    }

    #[test]
    fn a_chunk_with_others_between_comes_back_in_pieces() {
        let tried = Attempts::NONE.and_one(true);
        let mut lanes = JournalLanes::default();
        lanes.message(LANE, (0, 10), 1);
        lanes.returned(LANE, (4, 7), tried);
        lanes.moved(chunk(1), &[(0, 3), (5, 8)]);
        lanes.settled(LANE, 6, 7);
        lanes.moved(chunk(2), &[(8, 10)]);
        let told: Vec<_> = pieces(&lanes)
            .into_iter()
            .map(|it| (it.chunk.place.run, it.ranges, it.attempts, it.is_whole))
            .collect();
        let expected = [
            (1, vec![(0, 3)], vec![], false),
            (1, vec![(5, 6), (7, 8)], vec![(5, 6, tried)], false),
            (2, vec![(8, 10)], vec![], true),
        ];
        assert_eq!(told, expected);
        let chunks = RecoveredChunks {
            pieces: pieces(&lanes),
            next_run: 3,
        };
        let chunks: Vec<_> = chunks.chunks().into_iter().map(|it| it.ranges).collect();
        assert_eq!(chunks, [vec![(0, 3), (5, 6), (7, 8)], vec![(8, 10)]]);
        lanes.settled(LANE, 3, 5);
        let whole: Vec<bool> = pieces(&lanes).iter().map(|it| it.is_whole).collect();
        assert_eq!(whole, [true, true]);
    }
}
