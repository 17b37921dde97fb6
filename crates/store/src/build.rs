//! Turns a stage into a frame's body: elides what settles itself, adds copies and settlements.
//!
//! Order in a frame: messages, topology and copies; then MOVED, RESET, RETURNED, SETTLED. So
//! whatever a frame both brings and moves or settles is so after it, in memory and in a replay
//! alike.

use crate::batch::Settled;
use crate::checkpoint::{self, Topology};
use crate::frame::{HEADER, RecordsSeal};
use crate::lanes::{JournalLanes, Serial};
use crate::record::{self, HeadFields, RawRecord};
use crate::stage::Stage;
use crate::{JournalConfig, LaneId, StoreSabotage};

/// A frame that waits to be written, and what it will change.
pub(crate) struct BuiltFrame {
    /// The stage it was built from; its bytes are the frame without a header.
    pub(crate) stage: Stage,
    pub(crate) records: u32,
    pub(crate) records_crc: u32,
    /// Messages it brings, runs of one lane together.
    messages: Vec<(LaneId, u64, u64)>,
    /// Where in the bytes topology operations begin.
    topology: Vec<usize>,
    /// Messages and their settlements that were left out.
    elided: Vec<(LaneId, u64)>,
}

impl BuiltFrame {
    /// Builds the frame of a stage. `lanes` are as the frames before left them.
    pub(crate) fn build(stage: Stage, lanes: &JournalLanes, config: &JournalConfig) -> Self {
        let mut frame = Self {
            stage,
            records: 0,
            records_crc: 0,
            messages: Vec::new(),
            topology: Vec::new(),
            elided: Vec::new(),
        };
        frame.merge_settled();
        frame.drop_settled_counts();
        if frame.stage.bytes.is_empty() {
            frame.stage.bytes.resize(HEADER, 0);
        }
        frame.add_copies(lanes, config);
        let mut seal = RecordsSeal::default();
        frame.walk(&mut seal, config);
        frame.subtract_elided();
        frame.add_ranges(&mut seal);
        (frame.records, frame.records_crc) = seal.finish();
        frame
    }

    /// Whether there is nothing to write: everything in it has settled itself.
    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Whether it brings messages.
    pub(crate) fn has_messages(&self) -> bool {
        !self.messages.is_empty()
    }

    /// Changes `lanes` and `topology` as a replay of the frame from segment `serial` would.
    /// Returns how many messages it brings, and by how much the topology grows in a checkpoint.
    pub(crate) fn apply(
        &self,
        lanes: &mut JournalLanes,
        topology: &mut Topology,
        serial: Serial,
    ) -> (u64, i64) {
        let (mut brought, mut grown) = (0, 0);
        for (lane, from, to) in &self.messages {
            lanes.message(*lane, (*from, *to), serial);
            brought += to - from;
        }
        for at in &self.topology {
            if let Some(record) = RawRecord::at(&self.stage.bytes, *at) {
                grown += apply_topology(topology, &record);
            }
        }
        for one in &self.stage.moves {
            lanes.moved(one.chunk, &one.ranges);
        }
        for (lane, up_to) in &self.stage.resets {
            lanes.reset(*lane, *up_to);
        }
        for returned in &self.stage.returned {
            lanes.returned(
                returned.lane,
                (returned.from, returned.to),
                returned.attempts,
            );
        }
        for settled in &self.stage.settled {
            lanes.settled(settled.lane, settled.from, settled.to);
        }
        (brought, grown)
    }

    /// Sorts settlements and joins what touches; those of atomic groups stay apart.
    fn merge_settled(&mut self) {
        let settled = &mut self.stage.settled;
        settled.sort_unstable_by_key(|range| (range.grouped, range.lane, range.from));
        settled.dedup_by(|next, last| {
            let touches =
                next.grouped == last.grouped && next.lane == last.lane && next.from <= last.to;
            if touches {
                last.to = last.to.max(next.to);
            }
            touches
        });
    }

    /// Leaves out delivery counts of messages that this very frame settles: most deliveries are
    /// acknowledged before the next frame.
    fn drop_settled_counts(&mut self) {
        let Stage {
            settled, returned, ..
        } = &mut self.stage;
        let open = settled.partition_point(|range| !range.grouped);
        let settled = settled.get(..open).unwrap_or(&[]);
        if settled.is_empty() {
            return;
        }
        returned.retain_mut(|range| {
            let after = settled.partition_point(|s| (s.lane, s.from) <= (range.lane, range.from));
            let covering = after.checked_sub(1).and_then(|at| settled.get(at));
            if let Some(settled) = covering.filter(|settled| settled.lane == range.lane) {
                range.from = range.from.max(settled.to);
            }
            range.from < range.to
        });
    }

    /// Goes through the records once: leaves out messages settled in this very frame, closes the
    /// gaps, notes what is there.
    fn walk(&mut self, seal: &mut RecordsSeal, config: &JournalConfig) {
        let open = self.stage.settled.partition_point(|range| !range.grouped);
        let settled = self.stage.settled.get(..open).unwrap_or(&[]);
        let bytes = &mut self.stage.bytes;
        let (mut from, mut to) = (HEADER, HEADER);
        while let Some(record) = RawRecord::at(bytes, from) {
            let len = record.padded_len();
            if let Some(target) = elided(&record, settled, config) {
                self.elided.push(target);
                from += len;
                continue;
            }
            seal.add(record.crc);
            match record.kind {
                record::MESSAGE => note_targets(&record, &mut self.messages),
                _ => self.topology.push(to),
            }
            if from != to {
                bytes.copy_within(from..from + len, to);
            }
            from += len;
            to += len;
        }
        bytes.truncate(to);
    }

    /// Takes what was elided out of the settlements and delivery counts.
    fn subtract_elided(&mut self) {
        if self.elided.is_empty() {
            return;
        }
        self.elided.sort_unstable();
        let elided = &self.elided;
        let pieces = |lane, from, to| Unelided {
            elided,
            lane,
            from,
            to,
        };
        self.stage.settled = std::mem::take(&mut self.stage.settled)
            .into_iter()
            .flat_map(|range| {
                let whole = range.grouped.then_some((range.from, range.to));
                let cut = (!range.grouped).then(|| pieces(range.lane, range.from, range.to));
                let parts = cut.into_iter().flatten().chain(whole);
                parts.map(move |(from, to)| Settled { from, to, ..range })
            })
            .collect();
        self.stage.returned = std::mem::take(&mut self.stage.returned)
            .into_iter()
            .flat_map(|range| {
                let parts = pieces(range.lane, range.from, range.to);
                parts.map(move |(from, to)| crate::batch::Returned { from, to, ..range })
            })
            .collect();
    }

    /// Appends moved chunks; then resets, delivery counts and settlements as one record each.
    fn add_ranges(&mut self, seal: &mut RecordsSeal) {
        let Stage {
            bytes,
            settled,
            returned,
            resets,
            moves,
            ..
        } = &mut self.stage;
        let plain = HeadFields::plain;
        for one in moves.iter() {
            let one = std::slice::from_ref(one);
            add_record(bytes, seal, plain(record::MOVED), one, |out, one| {
                record::push_moved(out, &one.chunk, &one.ranges);
            });
        }
        add_record(
            bytes,
            seal,
            plain(record::RESET),
            resets,
            |out, (lane, up_to)| {
                record::push_target(out, *lane, *up_to);
            },
        );
        let both = HeadFields {
            flags: record::ATTEMPTS,
            ..plain(record::RETURNED)
        };
        add_record(bytes, seal, both, returned, |out, range| {
            record::push_range(out, range.lane, range.from, range.to);
            out.extend_from_slice(&range.attempts.acquired.to_le_bytes());
            out.extend_from_slice(&range.attempts.failed.to_le_bytes());
        });
        add_record(
            bytes,
            seal,
            plain(record::SETTLED),
            settled,
            |out, range| {
                record::push_range(out, range.lane, range.from, range.to);
            },
        );
    }

    /// Appends the records of a segment to be emptied, for the targets that live in it still.
    fn add_copies(&mut self, lanes: &JournalLanes, config: &JournalConfig) {
        for (victim, records) in std::mem::take(&mut self.stage.copies) {
            let mut at = 0;
            while let Some(record) = RawRecord::at(&records, at) {
                at += record.padded_len();
                let Some(message) = record.message() else {
                    continue;
                };
                let targets: Vec<_> = message
                    .targets
                    .iter()
                    .filter(|(lane, seq)| {
                        lanes.holder(*lane, *seq) == Some(victim)
                            || config.breaks(StoreSabotage::CopyDead)
                    })
                    .collect();
                if !targets.is_empty() {
                    // Never longer than the record it is made from, so it always fits.
                    let _fits = record.retarget(&targets, &mut self.stage.bytes);
                }
            }
        }
    }
}

/// The target of a message that this frame settles, if it may be left out.
fn elided(
    record: &RawRecord<'_>,
    settled: &[Settled],
    config: &JournalConfig,
) -> Option<(LaneId, u64)> {
    if settled.is_empty() {
        return None;
    }
    let broken = config.breaks(StoreSabotage::ElideMany) && record.kind == record::MESSAGE;
    let first = || {
        record
            .message()
            .and_then(|message| message.targets.iter().next())
    };
    let (lane, seq) = if broken { first()? } else { record.elidable()? };
    let after = settled.partition_point(|range| (range.lane, range.from) <= (lane, seq));
    let range = settled.get(after.checked_sub(1)?)?;
    (range.lane == lane && seq < range.to).then_some((lane, seq))
}

fn note_targets(record: &RawRecord<'_>, messages: &mut Vec<(LaneId, u64, u64)>) {
    let Some(message) = record.message() else {
        return;
    };
    for (lane, seq) in message.targets.iter() {
        match messages.last_mut() {
            Some((last, _, to)) if *last == lane && *to == seq => *to += 1,
            _ => messages.push((lane, seq, seq.saturating_add(1))),
        }
    }
}

fn add_record<T>(
    out: &mut Vec<u8>,
    seal: &mut RecordsSeal,
    head: HeadFields,
    items: &[T],
    push: impl Fn(&mut Vec<u8>, &T),
) {
    // A record holds so many that its length stays far below the format's limit.
    for items in items.chunks(1 << 20) {
        let start = record::begin(out);
        for item in items {
            push(out, item);
        }
        if record::finish(out, start, head)
            && let Some(record) = RawRecord::at(out, start)
        {
            seal.add(record.crc);
        }
    }
}

/// Applies one TOPOLOGY record; returns by how much the topology grows in a checkpoint.
pub(crate) fn apply_topology(topology: &mut Topology, record: &RawRecord<'_>) -> i64 {
    let Some((key, value)) = record.topology() else {
        return 0;
    };
    let len = |value: &[u8]| checkpoint::operation_len(key, value);
    let (new, old) = match value {
        Some(value) => {
            let old = topology.insert(key.to_vec(), value.to_vec());
            (len(value), old)
        }
        None => (0, topology.remove(key)),
    };
    new - old.map_or(0, |old| len(&old))
}

/// The parts of `from..to` that were not elided.
struct Unelided<'a> {
    elided: &'a [(LaneId, u64)],
    lane: LaneId,
    from: u64,
    to: u64,
}

impl Iterator for Unelided<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        while self.from < self.to {
            let at = self
                .elided
                .partition_point(|gone| *gone < (self.lane, self.from));
            let gap = self
                .elided
                .get(at)
                .filter(|(lane, seq)| *lane == self.lane && *seq < self.to)
                .map_or(self.to, |(_, seq)| *seq);
            let piece = (self.from, gap);
            self.from = if gap == self.to { gap } else { gap + 1 };
            if piece.0 < piece.1 {
                return Some(piece);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, MessageParts};

    const LANE: LaneId = LaneId(1);

    fn build(fill: impl FnOnce(&mut Batch)) -> (BuiltFrame, JournalLanes) {
        let mut batch = Batch::new();
        fill(&mut batch);
        let mut stage = Stage::default();
        stage.add(&mut batch).unwrap();
        let mut lanes = JournalLanes::default();
        let frame = BuiltFrame::build(stage, &lanes, &JournalConfig::default());
        frame.apply(&mut lanes, &mut Topology::new(), 5);
        (frame, lanes)
    }

    fn message(batch: &mut Batch, targets: &[(LaneId, u64)]) {
        batch.message(
            targets,
            &MessageParts {
                body: &[b"body"],
                ..Default::default()
            },
        );
    }

    fn kinds(frame: &BuiltFrame) -> Vec<u8> {
        let (mut at, mut kinds) = (HEADER, Vec::new());
        while let Some(record) = RawRecord::at(&frame.stage.bytes, at) {
            assert!(record.intact());
            kinds.push(record.kind);
            at += record.padded_len();
        }
        assert_eq!(kinds.len() as u32, frame.records);
        kinds
    }

    #[test]
    fn a_message_settled_in_its_own_frame_is_not_written() {
        let (frame, lanes) = build(|batch| {
            batch.settle(LANE, 1);
            for seq in 0..3 {
                message(batch, &[(LANE, seq)]);
            }
            batch.returned(LANE, 1, leveret_record::Attempts::NONE.and_one(false));
            batch.settle(LANE, 7);
        });
        assert_eq!(
            kinds(&frame),
            [record::MESSAGE, record::MESSAGE, record::SETTLED]
        );
        let live: Vec<_> = lanes.lanes[&LANE].live.iter().collect();
        assert_eq!(live, [(0, 1, 5), (2, 3, 5)]);
        assert_eq!(
            lanes.lanes[&LANE].early.iter().collect::<Vec<_>>(),
            [(7, 8, ())]
        );
    }

    #[test]
    fn everything_elided_needs_no_frame() {
        let (frame, _) = build(|batch| {
            message(batch, &[(LANE, 4)]);
            batch.settle(LANE, 4);
        });
        assert!(frame.is_empty());
    }

    #[test]
    fn groups_and_messages_with_several_targets_are_never_elided() {
        let (frame, lanes) = build(|batch| {
            message(batch, &[(LANE, 0), (LaneId(2), 0)]);
            batch.begin_group();
            message(batch, &[(LANE, 1)]);
            batch.end_group();
            message(batch, &[(LANE, 2)]);
            batch.settle(LANE, 0);
            batch.settle(LANE, 1);
            batch.begin_group();
            batch.settle(LANE, 2);
            batch.end_group();
        });
        let expected = [
            record::MESSAGE,
            record::MESSAGE,
            record::MESSAGE,
            record::SETTLED,
        ];
        assert_eq!(kinds(&frame), expected);
        assert!(lanes.lanes[&LANE].live.is_empty());
        assert_eq!(lanes.lanes[&LaneId(2)].live.len(), 1);
    }

    #[test]
    fn only_live_targets_are_copied() {
        let mut lanes = JournalLanes::default();
        lanes.message(LANE, (0, 2), 3);
        lanes.message(LaneId(2), (0, 1), 3);
        lanes.settled(LANE, 0, 1);
        let mut batch = Batch::new();
        message(&mut batch, &[(LANE, 0), (LaneId(2), 0)]);
        message(&mut batch, &[(LANE, 0)]);
        let copies = vec![(3, batch.bytes)];
        let stage = Stage {
            copies,
            ..Stage::default()
        };
        let frame = BuiltFrame::build(stage, &lanes, &JournalConfig::default());
        assert_eq!(frame.messages, [(LaneId(2), 0, 1)]);
        frame.apply(&mut lanes, &mut Topology::new(), 4);
        assert_eq!((lanes.held_by(3), lanes.held_by(4)), (1, 1));
    }
}
