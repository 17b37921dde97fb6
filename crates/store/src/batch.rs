//! One turn's records, encoded by the connection's own thread and handed over whole.

use std::ops::Range;

use leveret_record::Attempts;

use crate::moved::{Move, image_bytes};
use crate::record::{self, HeadFields, MessageRecord, RawRecord};
use crate::space::Claim;
use crate::{LaneId, MovedChunk};

/// Records of one turn, in their journal form. Reused: no allocation in the steady state.
///
/// Everything in it commutes: a settlement or a delivery may come before the message it names,
/// and a delivery after the settlement, here or in another connection's batch. Only topology
/// operations are kept in the order they were added. [`Self::records`] reads it again, for stores
/// that are not the journal.
#[derive(Default, Debug)]
pub struct Batch {
    /// Encoded MESSAGE and TOPOLOGY records.
    pub(crate) bytes: Vec<u8>,
    /// Settled ranges; encoded when the frame is built, after elision.
    pub(crate) settled: Vec<Settled>,
    /// Requeued ranges with their delivery count.
    pub(crate) returned: Vec<Returned>,
    /// Lanes emptied up to a sequence number.
    pub(crate) resets: Vec<(LaneId, u64)>,
    /// Chunks that are in run files.
    pub(crate) moves: Vec<Move>,
    /// Whether somebody waits for these to be durable: messages, topology, resets, groups.
    pub(crate) urgent: bool,
    in_group: bool,
    oversize: bool,
    /// What was claimed for it.
    pub(crate) claim: Claim,
}

/// One record of a batch, borrowed from it.
#[derive(Clone, Copy, Debug)]
pub enum BatchRecord<'a> {
    /// A message for all its targets: they have it together or not at all.
    Message(MessageRecord<'a>),
    /// The latest value of a key of the topology; none: the key is gone.
    Topology {
        /// Of what, in the broker's own bytes.
        key: &'a [u8],
        /// What it is now.
        value: Option<&'a [u8]>,
    },
    /// What lives of these messages is in a run file from now on.
    Moved {
        /// Where, and whose they are.
        chunk: &'a MovedChunk,
        /// Their sequence numbers, `from..to`.
        ranges: &'a [(u64, u64)],
    },
    /// Everything in a lane below a sequence number is settled; `u64::MAX`: the lane is gone.
    Reset {
        /// Whose messages they are.
        lane: LaneId,
        /// The first sequence number that may live on.
        up_to_seq: u64,
    },
    /// Messages were tried.
    Returned(Returned),
    /// Messages are settled.
    Settled(Settled),
}

/// Sequence numbers `from..to` of a lane are settled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Settled {
    /// Whose messages they are.
    pub lane: LaneId,
    /// The first of them.
    pub from: u64,
    /// The first that is not.
    pub to: u64,
    /// Part of an atomic group: written even if its message is in the same frame.
    pub grouped: bool,
}

/// Sequence numbers `from..to` of a lane were tried so often.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Returned {
    /// Whose messages they are.
    pub lane: LaneId,
    /// The first of them.
    pub from: u64,
    /// The first that is not.
    pub to: u64,
    /// How often each of them was tried.
    pub attempts: Attempts,
}

/// What a message is, apart from where it goes; all of it raw bytes, kept as they are.
#[derive(Clone, Copy, Default, Debug)]
pub struct MessageParts<'a> {
    /// When the broker took it, unix milliseconds.
    pub entered_ms: Option<u64>,
    /// How long it may wait by its own property, milliseconds.
    pub expiration_ms: Option<u64>,
    /// Whether the broker wrote what its headers tell of deaths.
    pub deaths: bool,
    /// The exchange and routing key short strings.
    pub route: &'a [u8],
    /// The content header frame's payload.
    pub header: &'a [u8],
    /// The body, in as many pieces as it arrived in.
    pub body: &'a [&'a [u8]],
}

impl Batch {
    /// The largest record: one message with its targets, route and headers.
    pub const RECORD_BYTES_MAX: usize = record::RECORD_BYTES_MAX as usize;

    /// The batch of one large turn does not keep its memory for ever.
    const KEEP_BYTES_MAX: usize = 1 << 20;

    /// An empty batch; allocates when first used.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets everything, and any memory beyond what ordinary turns need.
    pub fn clear(&mut self) {
        empty(&mut self.bytes, Self::KEEP_BYTES_MAX);
        empty(&mut self.settled, Self::KEEP_BYTES_MAX);
        empty(&mut self.returned, Self::KEEP_BYTES_MAX);
        empty(&mut self.resets, Self::KEEP_BYTES_MAX);
        self.moves.clear();
        self.urgent = false;
        self.in_group = false;
        self.oversize = false;
    }

    /// Whether nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
            && self.settled.is_empty()
            && self.returned.is_empty()
            && self.resets.is_empty()
            && self.moves.is_empty()
            && !self.oversize
            && self.claim.is_empty()
    }

    /// Whether nothing is in it that needs what was claimed.
    pub(crate) fn is_void(&self) -> bool {
        self.oversize || (!self.claim.is_empty() && self.bytes.is_empty() && self.moves.is_empty())
    }

    /// Takes out settlements and delivery counts if there are more of them than this: they need not
    /// be in one frame with the rest, which would become longer than what a full disk has left.
    pub(crate) fn take_part(&mut self, ranges: usize) -> Option<Self> {
        let mut part = Self::new();
        // A group stays together.
        if self.settled.len() > ranges && !self.settled.iter().any(|range| range.grouped) {
            part.settled = self.settled.split_off(self.settled.len() - ranges);
        } else if self.returned.len() > ranges {
            part.returned = self.returned.split_off(self.returned.len() - ranges);
        }
        (!part.is_empty()).then_some(part)
    }

    /// The deliberate fault of tearing a group apart: takes its settlements out.
    pub(crate) fn tear_group(&mut self) -> Option<Self> {
        let is_group = self.settled.iter().any(|range| range.grouped) && !self.bytes.is_empty();
        is_group.then(|| Self {
            settled: std::mem::take(&mut self.settled),
            urgent: true,
            ..Self::new()
        })
    }

    /// What was recorded: messages and topology in the order they were added, then moved chunks,
    /// resets, attempts and settlements. All that is `grouped` survives a crash together or not at
    /// all.
    pub fn records(&self) -> impl Iterator<Item = BatchRecord<'_>> {
        let reset = |&(lane, up_to_seq)| BatchRecord::Reset { lane, up_to_seq };
        self.encoded()
            .chain(self.moves.iter().map(Move::as_record))
            .chain(self.resets.iter().map(reset))
            .chain(self.returned.iter().copied().map(BatchRecord::Returned))
            .chain(self.settled.iter().copied().map(BatchRecord::Settled))
    }

    /// Messages and topology.
    fn encoded(&self) -> impl Iterator<Item = BatchRecord<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let record = RawRecord::at(&self.bytes, at)?;
            at += record.padded_len();
            record.message().map(BatchRecord::Message).or_else(|| {
                let (key, value) = record.topology()?;
                Some(BatchRecord::Topology { key, value })
            })
        })
    }

    /// Bytes this batch will take in the journal's stage.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
            + size_of_val(self.settled.as_slice())
            + size_of_val(self.returned.as_slice())
            + size_of_val(self.resets.as_slice())
            + self.moves.iter().map(Move::len).sum::<usize>()
    }

    /// Whether a record was too long to be written; the store then refuses all of it.
    #[must_use]
    pub fn is_oversize(&self) -> bool {
        self.oversize
    }

    /// Records one message for all its durable targets, each a lane and the sequence number its
    /// queue gave; nothing if there is none.
    ///
    /// One record, so that a crash leaves it in all its targets or in none.
    pub fn message(&mut self, targets: &[(LaneId, u64)], message: &MessageParts<'_>) {
        if targets.is_empty() {
            return;
        }
        let MessageParts {
            entered_ms,
            expiration_ms,
            deaths,
            route,
            header,
            body,
        } = *message;
        let body_bytes: usize = body.iter().map(|piece| piece.len()).sum();
        self.bytes
            .reserve(body_bytes + route.len() + header.len() + targets.len() * record::TARGET + 64);
        let start = record::begin(&mut self.bytes);
        let mut flags = if self.in_group { record::GROUP } else { 0 };
        if targets.len() > 1 {
            flags |= record::MANY;
            let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
            self.bytes.extend_from_slice(&count.to_le_bytes());
        }
        for (lane, seq) in targets {
            record::push_target(&mut self.bytes, *lane, *seq);
        }
        if let Some(entered) = entered_ms {
            flags |= record::ENTERED;
            self.bytes.extend_from_slice(&entered.to_le_bytes());
        }
        if let Some(expiration) = expiration_ms {
            flags |= record::EXPIRATION;
            self.bytes.extend_from_slice(&expiration.to_le_bytes());
        }
        if deaths {
            flags |= record::DEATHS;
        }
        self.bytes.extend_from_slice(route);
        self.bytes.extend_from_slice(header);
        for piece in body {
            self.bytes.extend_from_slice(piece);
        }
        self.finish(start, record::MESSAGE, flags, (route.len(), header.len()));
    }

    /// Records that a message is settled: acked, expired, dropped or dead-lettered.
    ///
    /// Only for messages that were given to [`Self::message`], by whichever connection.
    pub fn settle(&mut self, lane: LaneId, seq: u64) {
        self.settle_all(lane, seq..seq.saturating_add(1));
    }

    /// The same for messages whose numbers follow each other, however many.
    #[inline]
    pub fn settle_all(&mut self, lane: LaneId, seqs: Range<u64>) {
        if seqs.is_empty() {
            return;
        }
        let grouped = self.in_group;
        if let Some(last) = self.settled.last_mut()
            && last.lane == lane
            && last.to == seqs.start
            && last.grouped == grouped
        {
            last.to = seqs.end;
            return;
        }
        self.settled.push(Settled {
            lane,
            from: seqs.start,
            to: seqs.end,
            grouped,
        });
    }

    /// Records that a message was delivered or requeued, and how often it has been tried, so that
    /// the counts (and with them the redelivered flag) survive a restart. The highest ones win.
    pub fn returned(&mut self, lane: LaneId, seq: u64, attempts: Attempts) {
        if let Some(last) = self.returned.last_mut()
            && last.lane == lane
            && last.to == seq
            && last.attempts == attempts
        {
            last.to += 1;
            return;
        }
        self.returned.push(Returned {
            lane,
            from: seq,
            to: seq.saturating_add(1),
            attempts,
        });
    }

    /// Records that every message of the lane below `up_to_seq` is settled (queue.purge), those
    /// included whose record is still on its way. `u64::MAX`: the lane is gone (queue.delete).
    pub fn reset(&mut self, lane: LaneId, up_to_seq: u64) {
        self.urgent = true;
        self.resets.push((lane, up_to_seq));
    }

    /// Records that these messages of a lane, `from..to` in order, are in a run file from now on:
    /// the journal need not keep them. What is there must be on the disk already, name, length and
    /// bytes, and stay until [`crate::Store::take_free_places`] names it. Only what has arrived and
    /// is not settled moves; so settlements may come before and after.
    pub fn moved(&mut self, chunk: MovedChunk, ranges: &[(u64, u64)]) {
        self.urgent = true;
        let ranges = ranges.to_vec();
        self.moves.push(Move { chunk, ranges });
    }

    /// What [`crate::Store::admit_change`] is to be asked for before so many ranges are moved.
    #[must_use]
    pub fn moved_bytes(ranges: usize) -> usize {
        usize::try_from(image_bytes(ranges)).unwrap_or(usize::MAX)
    }

    /// Records a topology operation: the latest value of a key, or that the key is gone.
    ///
    /// Bytes are the broker's own. The store keeps the map and gives it back whole at recovery, so
    /// operations on one key must be submitted in the order they took effect.
    pub fn topology(&mut self, key: &[u8], value: Option<&[u8]>) {
        let start = record::begin(&mut self.bytes);
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or(&[]));
        let flags = if value.is_some() { 0 } else { record::DELETE };
        self.finish(start, record::TOPOLOGY, flags, (0, key.len()));
    }

    /// Everything until [`Self::end_group`] survives a crash together or not at all (tx.commit).
    ///
    /// The journal writes a batch whole in one frame, so there a group only ends elision within it.
    pub fn begin_group(&mut self) {
        self.in_group = true;
        self.urgent = true;
    }

    /// Ends the atomic group.
    pub fn end_group(&mut self) {
        self.in_group = false;
    }

    fn finish(&mut self, start: usize, kind: u8, flags: u8, lens: (usize, usize)) {
        self.urgent = true;
        let head = match (u16::try_from(lens.0), u32::try_from(lens.1)) {
            (Ok(route_len), Ok(middle_len)) => HeadFields {
                kind,
                flags,
                route_len,
                middle_len,
            },
            _ => {
                self.bytes.truncate(start);
                self.oversize = true;
                return;
            }
        };
        if !record::finish(&mut self.bytes, start, head) {
            self.oversize = true;
        }
    }
}

/// Empties a buffer, and gives back what is beyond `keep_bytes`.
pub(crate) fn empty<T>(buffer: &mut Vec<T>, keep_bytes: usize) {
    buffer.clear();
    buffer.shrink_to(keep_bytes / size_of::<T>());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_settlements_of_a_lane_become_one_range() {
        let mut batch = Batch::new();
        for seq in 4..9 {
            batch.settle(LaneId(3), seq);
        }
        batch.settle(LaneId(4), 9);
        batch.begin_group();
        batch.settle(LaneId(4), 10);
        batch.end_group();
        let ranges: Vec<_> = batch
            .settled
            .iter()
            .map(|s| (s.lane.0, s.from, s.to))
            .collect();
        assert_eq!(ranges, [(3, 4, 9), (4, 9, 10), (4, 10, 11)]);
    }

    #[test]
    fn what_was_recorded_can_be_read_again() {
        let attempts = Attempts::NONE.and_one(true);
        let mut batch = Batch::new();
        batch.settle(LaneId(1), 5);
        batch.topology(b"queue", Some(b"durable"));
        batch.begin_group();
        let parts = MessageParts {
            entered_ms: Some(7),
            expiration_ms: Some(60),
            deaths: true,
            route: b"route",
            header: b"header",
            body: &[b"bo", b"dy"],
        };
        batch.message(&[(LaneId(1), 9), (LaneId(2), 3)], &parts);
        batch.settle(LaneId(2), 1);
        batch.end_group();
        batch.message(&[(LaneId(3), 0)], &MessageParts::default());
        batch.topology(b"queue", None);
        batch.returned(LaneId(1), 6, attempts);
        batch.returned(LaneId(1), 7, attempts);
        batch.reset(LaneId(4), 8);
        let place = leveret_record::RunPlace {
            run: 6,
            offset: 0,
            len: 5,
            checksum: 1,
        };
        let chunk = MovedChunk {
            lane: LaneId(1),
            place,
            messages: 2,
            bytes: 4,
            base_ms: 3,
            own_ms: 2,
        };
        batch.moved(chunk, &[(5, 6), (9, 10)]);
        let read: Vec<String> = batch.records().map(|record| tell(&record)).collect();
        let recorded = [
            "topology queue Some(durable)",
            "message [(1, 9), (2, 3)] Some(7) Some(60) true true route header body",
            "message [(3, 0)] None None false false   ",
            "topology queue None",
            "moved 1 6 [(5, 6), (9, 10)]",
            "reset 4 8",
            "returned 1 6..8 1 1",
            "settled 1 5..6 false",
            "settled 2 1..2 true",
        ];
        assert_eq!(read, recorded);
        batch.clear();
        assert_eq!(batch.records().count(), 0);
    }

    fn tell(record: &BatchRecord<'_>) -> String {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        match record {
            BatchRecord::Message(message) => {
                let targets = message.targets.iter().map(|(lane, seq)| (lane.0, seq));
                let targets: Vec<_> = targets.collect();
                format!(
                    "message {targets:?} {:?} {:?} {} {} {} {} {}",
                    message.entered_ms,
                    message.expiration_ms,
                    message.deaths,
                    message.grouped,
                    text(message.route),
                    text(message.header),
                    text(message.body)
                )
            }
            BatchRecord::Topology { key, value } => {
                let value =
                    value.map_or("None".to_owned(), |value| format!("Some({})", text(value)));
                format!("topology {} {value}", text(key))
            }
            BatchRecord::Moved { chunk, ranges } => {
                format!("moved {} {} {ranges:?}", chunk.lane.0, chunk.place.run)
            }
            BatchRecord::Reset { lane, up_to_seq } => format!("reset {} {up_to_seq}", lane.0),
            BatchRecord::Returned(range) => {
                let (acquired, failed) = (range.attempts.acquired, range.attempts.failed);
                format!(
                    "returned {} {}..{} {acquired} {failed}",
                    range.lane.0, range.from, range.to
                )
            }
            BatchRecord::Settled(range) => {
                format!(
                    "settled {} {}..{} {}",
                    range.lane.0, range.from, range.to, range.grouped
                )
            }
        }
    }

    #[test]
    fn the_memory_of_a_large_turn_is_given_back() {
        let mut batch = Batch::new();
        for seq in 0..100_000 {
            batch.settle(LaneId(1), seq * 2);
            batch.returned(LaneId(1), seq * 2, Attempts::NONE.and_one(true));
            batch.reset(LaneId(1), seq);
        }
        batch.clear();
        let kept = [
            batch.settled.capacity() * size_of::<Settled>(),
            batch.returned.capacity() * size_of::<Returned>(),
            batch.resets.capacity() * size_of::<(LaneId, u64)>(),
        ];
        assert!(kept.iter().all(|kept| *kept <= 1 << 20), "{kept:?}");
    }

    #[test]
    fn a_message_without_targets_leaves_no_trace() {
        let mut batch = Batch::new();
        batch.message(
            &[],
            &MessageParts {
                body: &[b"body"],
                ..Default::default()
            },
        );
        assert!(batch.is_empty());
    }

    #[test]
    fn a_route_longer_than_the_format_is_refused_whole() {
        let mut batch = Batch::new();
        let parts = MessageParts {
            route: &[0; 70_000],
            ..Default::default()
        };
        batch.message(&[(LaneId(1), 1)], &parts);
        assert!(batch.is_oversize());
        assert_eq!(batch.bytes_len(), 0);
    }
}
