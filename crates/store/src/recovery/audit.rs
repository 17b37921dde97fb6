//! What recovery need not look at: frames whose messages are dead, padding, and whether what is
//! known of lanes agrees with itself.

use std::collections::BTreeMap;

use crate::frame::{BLOCK, HEADER, Header};
use crate::lanes::{JournalLane, JournalLanes, Serial};
use crate::record::{self, RawRecord};
use crate::recovery::inspect::Finding;
use crate::recovery::replay::ReplayState;
use crate::recovery::scan::Contents;
use crate::segment::{self, Extent, Pool};

/// What came of looking at all frames.
#[derive(Default)]
pub(super) struct Audited {
    pub(super) findings: Vec<Finding>,
    pub(super) frames: u64,
    pub(super) records: u64,
}

/// Checks every frame of the segments that a start needs: those with live messages, and those from
/// the checkpoint's one on.
pub(super) fn frames(
    (pool, store): (&Pool, u64),
    state: &ReplayState,
    from_serial: Serial,
) -> Audited {
    let mut audit = FrameAudit {
        store,
        chains: BTreeMap::new(),
        contents: Contents::default(),
        found: Audited::default(),
    };
    for (serial, (slot, extent)) in &state.extents {
        let needed = *serial >= from_serial || state.lanes.held_by(*serial) > 0;
        if needed && pool.segments.contains_key(slot) {
            audit.contents.load(pool, *slot);
            audit.segment(extent);
        }
    }
    audit.found
}

struct FrameAudit {
    store: u64,
    /// The chain value of the last frame of each segment, by the number of the frame after it.
    chains: BTreeMap<u64, u32>,
    contents: Contents,
    found: Audited,
}

impl FrameAudit {
    fn segment(&mut self, extent: &Extent) {
        let (mut offset, mut seq) = (0, extent.first_seq);
        let mut chain = self.chains.get(&seq).copied();
        while offset < extent.end {
            let header = self.contents.header_at(offset, self.store);
            let Some((header, own)) = header.filter(|(header, _)| is_of(header, extent)) else {
                self.tell(offset, "a frame's header is unreadable");
                let next = self.next_after(offset, extent);
                let Some(next) = next else {
                    return;
                };
                (offset, seq, chain) = (next.offset, next.seq, None);
                continue;
            };
            self.frame(&header, seq, chain);
            (offset, seq, chain) = (offset + header.frame_len(), header.seq + 1, Some(own));
        }
        if extent.end > 0 && (seq != extent.last_seq + 1 || chain != Some(extent.last_chain)) {
            self.tell(
                offset,
                "the last frame is not the one that was written last",
            );
        }
        self.chains.extend(chain.map(|chain| (seq, chain)));
    }

    fn next_after(&self, offset: u64, extent: &Extent) -> Option<Header> {
        let headers = self.contents.headers(offset + BLOCK, self.store);
        let mut headers = headers.map(|(header, _)| header);
        headers.find(|header| is_of(header, extent) && header.offset < extent.end)
    }

    fn frame(&mut self, header: &Header, seq: u64, chain: Option<u32>) {
        self.found.frames += 1;
        self.found.records += u64::from(header.records);
        let at = header.offset;
        if header.seq != seq {
            self.tell(at, format!("frame {} where {seq} should be", header.seq));
        }
        if chain.is_some_and(|chain| chain != header.prev) {
            self.tell(at, "this frame does not follow the one before it");
        }
        if self.contents.is_unreadable(at, at + header.frame_len()) {
            self.tell(at, "the disk fails to read this frame");
        }
        let wrong = match self.contents.whole(header) {
            None => Some("this frame is not as it was written"),
            Some(body) => what_is_wrong(body),
        };
        let from = usize::try_from(at + HEADER as u64 + header.body_len).unwrap_or(usize::MAX);
        let to = usize::try_from(at + header.frame_len()).unwrap_or(usize::MAX);
        let padding = self.contents.bytes.get(from..to).unwrap_or(&[]);
        let dirty = padding.iter().any(|byte| *byte != 0);
        let dirty =
            dirty.then_some("there is something behind this frame, where nothing was written");
        for wrong in [wrong, dirty].into_iter().flatten() {
            self.tell(at, format!("{wrong} (frame {})", header.seq));
        }
    }

    fn tell(&mut self, offset: u64, what: impl Into<String>) {
        let file = segment::name_of(self.contents.slot);
        self.found.findings.push(Finding::new(&file, offset, what));
    }
}

fn is_of(header: &Header, extent: &Extent) -> bool {
    header.serial == extent.serial && header.epoch == extent.epoch
}

/// What is wrong with records whose checksums are right.
fn what_is_wrong(body: &[u8]) -> Option<&'static str> {
    let mut at = 0;
    while let Some(record) = RawRecord::at(body, at) {
        let readable = match record.kind {
            record::MESSAGE => record.message().is_some(),
            record::TOPOLOGY => record.topology().is_some(),
            record::MOVED => record.moved().is_some(),
            kind => record::is_known(kind),
        };
        if !readable {
            return Some("a record is of a kind that this version does not know");
        }
        let end = at + record.bytes().len();
        at += record.padded_len();
        let padding = body.get(end..at).unwrap_or(&[]);
        if padding.iter().any(|byte| *byte != 0) {
            return Some("there is something behind a record, where nothing was written");
        }
    }
    None
}

/// Checks that what is known of lanes agrees with itself.
pub(super) fn lanes(lanes: &JournalLanes) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut tell = |what: String| findings.push(Finding::new("", 0, what));
    let mut held: BTreeMap<Serial, u64> = BTreeMap::new();
    let mut all: Vec<_> = lanes.lanes.iter().collect();
    all.sort_unstable_by_key(|(id, _)| **id);
    for (id, lane) in all {
        for (from, to, serial) in lane.live.iter() {
            *held.entry(serial).or_default() += to - from;
        }
        if id.0 >= lanes.next_lane {
            tell(format!("lane {} was never given", id.0));
        }
        if lanes.gone.get(u64::from(id.0)).is_some() {
            tell(format!("lane {} is deleted, and there all the same", id.0));
        }
        if let Some(wrong) = wrong_in(lane) {
            tell(format!("lane {}: {wrong}", id.0));
        }
    }
    if held != *lanes.held.live() {
        tell("segments do not hold as many messages as lanes have in them".to_owned());
    }
    findings
}

fn wrong_in(lane: &JournalLane) -> Option<&'static str> {
    let (first, last) = (lane.live.iter().next(), lane.live.iter().last());
    if first.is_some_and(|(from, ..)| from < lane.floor) {
        return Some("a message lives below the number from which on messages may live");
    }
    if last.is_some_and(|(_, to, _)| to > lane.next) {
        return Some("a message has a number that was never given");
    }
    let tried = lane.returned.iter();
    let mut dead = tried.filter(|(from, to, _)| !lane.live.missing(*from, *to).is_empty());
    dead.next()
        .map(|_| "a message was tried that does not live")
}
