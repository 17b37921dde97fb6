//! Gives recovered messages to the broker: each lane in order, each segment read about once.

use std::collections::BTreeMap;

use leveret_record::Attempts;

use crate::lanes::{JournalLanes, Serial};
use crate::record::{MessageRecord, RawRecord};
use crate::recovery::OpenError;
use crate::recovery::replay::RecordPlace;
use crate::recovery::scan::Contents;
use crate::segment::{self, Pool};
use crate::vfs::DiskError;
use crate::{Batch, LaneId, Returned};

/// What a store knows of a lane beside its messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecoveredLane {
    /// Its number.
    pub lane: LaneId,
    /// The sequence number its next message must have, or a higher one.
    pub next_seq: u64,
    /// Its live messages.
    pub messages: u64,
}

/// A message that survived, as it was given to [`crate::Batch::message`].
#[derive(Clone, Copy, Debug)]
pub struct RecoveredMessage<'a> {
    /// Which queue, or priority of a queue, has it.
    pub lane: LaneId,
    /// Its sequence number.
    pub seq: u64,
    /// How often it has been tried, as far as the store was told.
    pub attempts: Attempts,
    /// When the broker took it, unix milliseconds; the first version did not say.
    pub entered_ms: Option<u64>,
    /// How long it may wait by its own property, milliseconds.
    pub expiration_ms: Option<u64>,
    /// Whether the broker wrote what its headers tell of deaths.
    pub deaths: bool,
    /// The exchange and routing key short strings.
    pub route: &'a [u8],
    /// The content header frame's payload.
    pub header: &'a [u8],
    /// In one piece.
    pub body: &'a [u8],
    /// If it had several targets: the same number for each of them, so that the body can be shared.
    pub shared: Option<u64>,
}

/// The live messages of a store that was opened. Must be taken before the journal is written.
#[derive(Default)]
pub struct Messages {
    pool: Pool,
    slots: BTreeMap<Serial, u32>,
    /// When each is given out: with which segment.
    places: Vec<(Serial, RecordPlace)>,
    counts: Vec<(LaneId, u64, Attempts)>,
    contents: Contents,
    single: Vec<u8>,
}

impl Messages {
    /// Plans the order. `places` are those of live messages.
    pub(super) fn new(
        pool: &Pool,
        slots: BTreeMap<Serial, u32>,
        mut places: Vec<RecordPlace>,
        lanes: &JournalLanes,
    ) -> Self {
        places.sort_unstable();
        places.dedup_by_key(|place| (place.lane, place.seq));
        Self {
            pool: pool.clone(),
            slots,
            places: schedule(places),
            counts: all_attempts(lanes),
            contents: Contents::default(),
            single: Vec::new(),
        }
    }

    /// How many there are, one for each lane a message is in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// All of them; none are left here.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Forgets the messages of all other lanes.
    pub fn retain(&mut self, keep: impl Fn(LaneId) -> bool) {
        self.places.retain(|(_, place)| keep(place.lane));
    }

    /// Calls `sink` with every message: those of one lane in order of their sequence numbers.
    ///
    /// # Errors
    /// [`OpenError`]: the disk failed, or gave something else than a moment ago.
    pub fn replay(self, mut sink: impl FnMut(&RecoveredMessage<'_>)) -> Result<(), OpenError> {
        self.replay_while(|message| {
            sink(message);
            true
        })
    }

    /// The same for as long as `sink` says that it wants more.
    ///
    /// # Errors
    /// [`OpenError`], as for [`Self::replay`].
    pub fn replay_while(
        mut self,
        mut sink: impl FnMut(&RecoveredMessage<'_>) -> bool,
    ) -> Result<(), OpenError> {
        let mut loaded = None;
        for (turn, place) in std::mem::take(&mut self.places) {
            if place.serial == turn && loaded != Some(turn) {
                let slot = self.slot(place.serial)?;
                self.contents.load(&self.pool, slot);
                loaded = Some(turn);
            }
            let record = if place.serial == turn {
                usize::try_from(place.offset)
                    .ok()
                    .and_then(|offset| RawRecord::at(&self.contents.bytes, offset))
            } else {
                read_single(
                    &self.pool,
                    self.slot(place.serial)?,
                    place.offset,
                    &mut self.single,
                )
            };
            // Whole blocks may have become unreadable since.
            let at = (
                place.offset,
                place.offset.saturating_add(Batch::RECORD_BYTES_MAX as u64),
            );
            let read_whole = place.serial == turn && !self.contents.is_unreadable(at.0, at.1);
            let message = record.filter(|record| read_whole || record.intact());
            let Some(message) = message.and_then(|record| record.message()) else {
                return Err(changed(self.slot(place.serial)?));
            };
            let more = sink(&RecoveredMessage {
                lane: place.lane,
                seq: place.seq,
                attempts: attempts(&self.counts, place.lane, place.seq),
                entered_ms: message.entered_ms,
                expiration_ms: message.expiration_ms,
                deaths: message.deaths,
                route: message.route,
                header: message.header,
                body: message.body,
                shared: (message.targets.len() > 1)
                    .then_some(place.serial << 36 | place.offset >> 3),
            });
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// Calls `sink` with every record once, and with what lives of its targets: in the order in
    /// which they were written.
    pub(super) fn records<E: From<OpenError>>(
        mut self,
        mut sink: impl FnMut(&[(LaneId, u64)], &MessageRecord<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut places: Vec<_> = self.places.drain(..).map(|(_, place)| place).collect();
        places.sort_unstable_by_key(|place| (place.serial, place.offset));
        let mut loaded = None;
        for record in places.chunk_by(|a, b| (a.serial, a.offset) == (b.serial, b.offset)) {
            let Some(first) = record.first() else {
                continue;
            };
            let slot = self.slot(first.serial)?;
            if loaded.replace(first.serial) != Some(first.serial) {
                self.contents.load(&self.pool, slot);
            }
            let at = usize::try_from(first.offset).unwrap_or(usize::MAX);
            let raw = RawRecord::at(&self.contents.bytes, at).filter(RawRecord::intact);
            let message = raw
                .and_then(|raw| raw.message())
                .ok_or_else(|| changed(slot))?;
            let targets: Vec<_> = record.iter().map(|place| (place.lane, place.seq)).collect();
            sink(&targets, &message)?;
        }
        Ok(())
    }

    /// How often ranges of messages were tried.
    pub(super) fn tried(&self) -> impl Iterator<Item = Returned> + '_ {
        // A range, then a mark that it ends.
        self.counts.chunks_exact(2).filter_map(|range| match range {
            [(lane, from, attempts), (_, to, _)] => Some(Returned {
                lane: *lane,
                from: *from,
                to: *to,
                attempts: *attempts,
            }),
            _ => None,
        })
    }

    fn slot(&self, serial: Serial) -> Result<u32, OpenError> {
        self.slots.get(&serial).copied().ok_or_else(|| changed(0))
    }
}

fn changed(slot: u32) -> OpenError {
    let error = DiskError::Failed("not what was read a moment ago".to_owned());
    OpenError::Disk {
        what: segment::name_of(slot),
        error,
    }
}

/// Plans with which segment each message is given out: with its own, unless a later message of its
/// lane is in an earlier segment; then with that one, read singly. Such are few: connections that
/// submitted in another order than they enqueued, and copies of old messages.
fn schedule(places: Vec<RecordPlace>) -> Vec<(Serial, RecordPlace)> {
    let mut planned = Vec::with_capacity(places.len());
    let mut lane = None;
    let mut turn = Serial::MAX;
    for place in places.into_iter().rev() {
        if lane != Some(place.lane) {
            lane = Some(place.lane);
            turn = Serial::MAX;
        }
        turn = turn.min(place.serial);
        planned.push((turn, place));
    }
    planned.reverse();
    planned.sort_by_key(|(turn, _)| *turn);
    planned
}

/// Reads one record that is not in the segment at hand.
fn read_single<'a>(
    pool: &Pool,
    slot: u32,
    offset: u64,
    buffer: &'a mut Vec<u8>,
) -> Option<RawRecord<'a>> {
    let file = pool.file(slot).ok()?;
    buffer.resize(crate::record::HEAD, 0);
    file.read_at(offset, buffer).ok()?;
    let len = usize::try_from(crate::record::u32_at(buffer, 0)?).ok()?;
    let len = len.min(Batch::RECORD_BYTES_MAX);
    buffer.resize(len.max(crate::record::HEAD), 0);
    let read = file.read_at(offset, buffer).ok()?;
    buffer.truncate(read);
    RawRecord::at(buffer, 0)
}

/// The lanes' counts of attempts, flat and sorted.
fn all_attempts(lanes: &JournalLanes) -> Vec<(LaneId, u64, Attempts)> {
    let mut counts: Vec<_> = lanes
        .lanes
        .iter()
        .flat_map(|(id, lane)| {
            lane.returned.iter().flat_map(|(from, to, count)| {
                // A range, then a mark that it ends.
                [(*id, from, count), (*id, to, Attempts::NONE)]
            })
        })
        .collect();
    counts.sort_unstable_by_key(|(lane, seq, count)| (*lane, *seq, *count));
    counts
}

fn attempts(counts: &[(LaneId, u64, Attempts)], lane: LaneId, seq: u64) -> Attempts {
    let after = counts.partition_point(|(l, s, _)| (*l, *s) <= (lane, seq));
    after
        .checked_sub(1)
        .and_then(|at| counts.get(at))
        .filter(|(l, _, _)| *l == lane)
        .map_or(Attempts::NONE, |(_, _, count)| *count)
}
