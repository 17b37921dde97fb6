//! Finds the live messages of segments from before the checkpoint.
//!
//! The checkpoint says exactly which messages each segment holds, so what is missing can be named.

use crate::LaneId;
use crate::frame::{self, HEADER, Header};
use crate::recovery::replay::{FrameBody, ReplayState};
use crate::recovery::scan::Contents;
use crate::recovery::{Damage, Unreadable};
use crate::segment::{self, Extent, Pool};

/// Scans all segments the checkpoint lists that still hold something.
pub(super) fn scan(pool: &Pool, store: u64, state: &mut ReplayState) {
    let mut contents = Contents::default();
    for (slot, extent) in std::mem::take(&mut state.known) {
        let held = state.lanes.held_by(extent.serial);
        if held == 0 {
            continue;
        }
        contents.load(pool, slot);
        let (seen, damaged) = (state.places.len(), state.damage.len());
        let replayed = replayed(state, &extent);
        scan_segment(&contents, store, &extent, state);
        if replayed + ((state.places.len() - seen) as u64) < held {
            name_lost(state, (slot, extent.serial), damaged);
        }
    }
}

/// Live messages of the segment that the walk after the checkpoint has found.
fn replayed(state: &ReplayState, extent: &Extent) -> u64 {
    let serial = extent.serial;
    if state
        .extents
        .get(&serial)
        .is_none_or(|(_, now)| now.end == extent.end)
    {
        return 0;
    }
    let lives = |lane, seq| state.lanes.holder(lane, seq) == Some(serial);
    let places = state.places.iter();
    places
        .filter(|place| place.serial == serial && lives(place.lane, place.seq))
        .count() as u64
}

fn scan_segment(contents: &Contents, store: u64, extent: &Extent, state: &mut ReplayState) {
    let (mut offset, mut seq) = (0, extent.first_seq);
    while offset < extent.end {
        let here = contents
            .header_at(offset, store)
            .filter(|(header, _)| header.serial == extent.serial && header.seq == seq);
        if let Some((header, chain)) = here {
            scan_frame(contents, (header, chain), state);
            offset += header.frame_len();
            seq += 1;
            continue;
        }
        let next = contents
            .headers(offset, store)
            .map(|(header, _)| header)
            .find(|header| header.serial == extent.serial && header.seq > seq);
        let end = next.map_or(extent.end, |header| header.offset);
        let lost = Header {
            serial: extent.serial,
            seq,
            offset,
            ..Header::default()
        };
        scan_headless(contents, lost, end, state);
        seq = next.map_or(extent.last_seq + 1, |header| header.seq);
        offset = end;
    }
}

fn scan_frame(contents: &Contents, (header, chain): (Header, u32), state: &mut ReplayState) {
    let at = header.offset + HEADER as u64;
    let bytes = contents.body(&header).unwrap_or(&[]);
    let body = FrameBody {
        slot: contents.slot,
        header,
        chain,
        at,
        bytes,
    };
    let found = frame::salvage(bytes, Some(header.records));
    for (place, record) in &found.intact {
        state.see(record, header.serial, at + *place as u64);
    }
    for record in &found.damaged {
        state.lose(&body, record, true);
    }
    if found.unknown_from.is_some() || (bytes.is_empty() && header.body_len > 0) {
        let damage = state.damaged(&body, Unreadable::Frame);
        state.damage.push(damage);
    }
}

/// Reads a frame up to `end` whose header is lost, but for what is known of it.
fn scan_headless(contents: &Contents, header: Header, end: u64, state: &mut ReplayState) {
    let at = header.offset + HEADER as u64;
    let range = usize::try_from(at).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
    let bytes = contents.bytes.get(range).unwrap_or(&[]);
    let body = FrameBody {
        slot: contents.slot,
        header,
        chain: 0,
        at,
        bytes,
    };
    let found = frame::salvage(bytes, None);
    for (place, record) in &found.intact {
        state.see(record, header.serial, at + *place as u64);
    }
    let complete = found.unknown_from.is_none() && !bytes.is_empty();
    let what = if complete {
        Unreadable::Header
    } else {
        Unreadable::Frame
    };
    let damage = state.damaged(&body, what);
    state.damage.push(damage);
}

/// Finds out which live messages of a segment were not found, and says so.
fn name_lost(state: &mut ReplayState, (slot, serial): (u32, u64), damaged: usize) {
    let mut found: Vec<(LaneId, u64)> = state
        .places
        .iter()
        .filter(|place| place.serial == serial)
        .map(|place| (place.lane, place.seq))
        .collect();
    found.sort_unstable();
    let mut lost = Vec::new();
    let mut lanes: Vec<_> = state.lanes.lanes.iter().collect();
    lanes.sort_unstable_by_key(|(id, _)| **id);
    for (id, lane) in lanes {
        for (from, to, _) in lane.live.iter().filter(|(_, _, holder)| *holder == serial) {
            missing(&found, *id, (from, to), &mut lost);
        }
    }
    if lost.is_empty() {
        return;
    }
    if state.damage.len() == damaged {
        let file = segment::name_of(slot);
        let what = Unreadable::File;
        state.damage.push(Damage {
            file,
            offset: 0,
            frame: None,
            what,
            lost: Vec::new(),
        });
    }
    state.lost.extend_from_slice(&lost);
    if let Some(last) = state.damage.last_mut() {
        last.lost = lost;
    }
}

/// Appends the parts of `from..to` that were not found.
fn missing(
    found: &[(LaneId, u64)],
    lane: LaneId,
    (from, to): (u64, u64),
    lost: &mut Vec<(LaneId, u64, u64)>,
) {
    let mut at = from;
    let first = found.partition_point(|place| *place < (lane, from));
    let within = found.get(first..).unwrap_or(&[]).iter();
    for (_, seq) in within.take_while(|(l, seq)| *l == lane && *seq < to) {
        if at < *seq {
            lost.push((lane, at, *seq));
        }
        at = at.max(seq + 1);
    }
    if at < to {
        lost.push((lane, at, to));
    }
}

/// What is lost is settled: it must not keep its segment alive.
pub(super) fn settle_lost(state: &mut ReplayState) {
    for (lane, from, to) in std::mem::take(&mut state.lost) {
        state.lanes.settled(lane, from, to);
    }
}
