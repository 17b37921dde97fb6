//! Steps the journal's state by the records of frames, as the running journal did.

use std::collections::BTreeMap;

use crate::LaneId;
use crate::build::apply_topology;
use crate::checkpoint::Topology;
use crate::frame::Header;
use crate::lanes::{JournalLanes, Serial};
use crate::record::{self, RawRecord};
use crate::recovery::{Damage, OpenError, Unreadable};
use crate::segment::{self, Extent};

/// Where a message is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct RecordPlace {
    pub(super) lane: LaneId,
    pub(super) seq: u64,
    pub(super) serial: Serial,
    /// Where in the segment the record begins.
    pub(super) offset: u64,
}

/// The state so far.
#[derive(Clone, Default)]
pub(super) struct ReplayState {
    pub(super) lanes: JournalLanes,
    pub(super) topology: Topology,
    /// Messages seen, live or not.
    pub(super) places: Vec<RecordPlace>,
    /// Segments seen, by serial: their slot and what of them counts.
    pub(super) extents: BTreeMap<Serial, (u32, Extent)>,
    /// The segments the checkpoint lists, as it lists them.
    pub(super) known: Vec<(u32, Extent)>,
    /// Messages the checkpoint knows that can no longer be read.
    pub(super) lost: Vec<(LaneId, u64, u64)>,
    pub(super) damage: Vec<Damage>,
    /// Records from after the checkpoint are lost, and nothing tells what they were.
    pub(super) has_gaps: bool,
    /// The highest frame that a later one says was durable.
    pub(super) proven: u64,
    /// Where a seal at the very end leads, if the first frame there is not whole, or cut off.
    pub(super) led_to: Option<u32>,
}

/// A frame's records and where they are.
pub(super) struct FrameBody<'a> {
    pub(super) slot: u32,
    pub(super) header: Header,
    pub(super) chain: u32,
    /// Where in the segment the bytes begin.
    pub(super) at: u64,
    pub(super) bytes: &'a [u8],
}

impl ReplayState {
    /// Applies a whole frame.
    pub(super) fn apply(&mut self, body: &FrameBody<'_>) -> Result<(), OpenError> {
        let mut at = 0;
        let records = std::iter::from_fn(|| {
            let record = RawRecord::at(body.bytes, at)?;
            let found = (at, record);
            at += record.padded_len();
            Some(found)
        });
        self.apply_records(body, records)
    }

    /// Applies those records of a frame that are intact.
    pub(super) fn apply_records<'a>(
        &mut self,
        body: &FrameBody<'_>,
        records: impl Iterator<Item = (usize, RawRecord<'a>)>,
    ) -> Result<(), OpenError> {
        let serial = body.header.serial;
        let mut spans = Vec::new();
        let mut brought = 0;
        for (at, record) in records {
            match record.kind {
                record::MESSAGE => {
                    brought += self.see_message(&record, (serial, body.at + at as u64), &mut spans);
                    continue;
                }
                record::TOPOLOGY => {
                    let _grown = apply_topology(&mut self.topology, &record);
                    continue;
                }
                kind if !record::is_known(kind) => {
                    return Err(OpenError::UnknownRecord {
                        kind,
                        frame: body.header.seq,
                    });
                }
                _ => {}
            }
            self.apply_messages(&mut spans, serial);
            self.apply_ranges(&record);
        }
        self.apply_messages(&mut spans, serial);
        self.extend(body, brought);
        Ok(())
    }

    /// Notes a message of a segment that the checkpoint knows already.
    pub(super) fn see(&mut self, record: &RawRecord<'_>, serial: Serial, offset: u64) {
        if let Some(message) = record.message() {
            for (lane, seq) in message.targets.iter() {
                if self.lanes.holder(lane, seq) == Some(serial) {
                    self.places.push(RecordPlace {
                        lane,
                        seq,
                        serial,
                        offset,
                    });
                }
            }
        }
    }

    /// Notes what a damaged record would have brought.
    pub(super) fn lose(&mut self, body: &FrameBody<'_>, record: &RawRecord<'_>, known: bool) {
        // What kind it was is unreadable as well.
        self.has_gaps |= !known;
        let mut damage = self.damaged(body, Unreadable::Record);
        if record.kind == record::TOPOLOGY {
            damage.what = Unreadable::Topology;
        }
        if !known && let Some(message) = record.message() {
            damage.lost = message
                .targets
                .iter()
                .map(|(lane, seq)| (lane, seq, seq + 1))
                .collect();
        }
        self.damage.push(damage);
    }

    /// Notes a frame, or what of it could be told, that is lost.
    pub(super) fn lose_frame(&mut self, body: &FrameBody<'_>, what: Unreadable) {
        self.has_gaps |= what == Unreadable::Frame;
        let damage = self.damaged(body, what);
        self.damage.push(damage);
    }

    /// Damage at the beginning of a frame.
    pub(super) fn damaged(&self, body: &FrameBody<'_>, what: Unreadable) -> Damage {
        Damage {
            file: segment::name_of(body.slot),
            offset: body.at,
            frame: Some(body.header.seq),
            what,
            lost: Vec::new(),
        }
    }

    fn see_message(
        &mut self,
        record: &RawRecord<'_>,
        (serial, offset): (Serial, u64),
        spans: &mut Vec<(LaneId, u64, u64)>,
    ) -> u64 {
        let Some(message) = record.message() else {
            return 0;
        };
        for (lane, seq) in message.targets.iter() {
            self.places.push(RecordPlace {
                lane,
                seq,
                serial,
                offset,
            });
            match spans.last_mut() {
                Some((last, _, to)) if *last == lane && *to == seq => *to += 1,
                _ => spans.push((lane, seq, seq.saturating_add(1))),
            }
        }
        message.targets.len() as u64
    }

    fn apply_messages(&mut self, spans: &mut Vec<(LaneId, u64, u64)>, serial: Serial) {
        for (lane, from, to) in spans.drain(..) {
            self.lanes.message(lane, (from, to), serial);
        }
    }

    fn apply_ranges(&mut self, record: &RawRecord<'_>) {
        let payload = record.payload();
        match record.kind {
            record::RESET => {
                record::resets(payload).for_each(|(lane, up_to)| self.lanes.reset(lane, up_to));
            }
            record::MOVED => {
                if let Some((chunk, ranges)) = record.moved() {
                    self.lanes.moved(chunk, &ranges);
                }
            }
            record::RETURNED => {
                for (lane, from, to, attempts) in record::counted_ranges(*record) {
                    self.lanes.returned(lane, (from, to), attempts);
                }
            }
            _ => {
                for (lane, from, to) in record::ranges(payload) {
                    self.lanes.settled(lane, from, to);
                }
            }
        }
    }

    fn extend(&mut self, body: &FrameBody<'_>, brought: u64) {
        let Header {
            serial,
            epoch,
            seq,
            offset,
            ..
        } = body.header;
        let first = Extent {
            serial,
            epoch,
            first_seq: seq,
            ..Extent::default()
        };
        let (_, extent) = self.extents.entry(serial).or_insert((body.slot, first));
        extent.last_seq = seq;
        extent.last_chain = body.chain;
        extent.end = offset + body.header.frame_len();
        extent.messages += brought;
    }
}
