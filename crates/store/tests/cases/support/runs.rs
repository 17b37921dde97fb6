//! Run files beside the journal, as whoever moves chunks writes and removes them.

use std::collections::{BTreeMap, BTreeSet};

use leveret_record::RunPlace;
use leveret_store::sim::SimDisk;
use leveret_store::{DiskError, LaneId, MovedChunk, MovedPiece, RecoveredChunks, Vfs};

use super::model::Message;

/// Sequence numbers `from..to`.
pub(crate) type Ranges = Vec<(u64, u64)>;

/// Run files that hold moved chunks, and which messages of these.
#[derive(Default)]
pub(crate) struct Runs {
    chunks: BTreeMap<u64, Vec<(MovedChunk, Ranges)>>,
    next: u64,
    /// Where the run ends that may still be written.
    open: Option<(u64, u64)>,
}

pub(crate) fn name_of(run: u64) -> String {
    format!("run-{run:06}")
}

fn run_of(name: &str) -> Option<u64> {
    name.strip_prefix("run-")?.parse().ok()
}

/// Numbers as ranges.
pub(crate) fn ranges(numbers: impl Iterator<Item = u64>) -> Ranges {
    let mut ranges = Ranges::new();
    for number in numbers {
        match ranges.last_mut().filter(|last| last.1 == number) {
            Some(last) => last.1 += 1,
            None => ranges.push((number, number + 1)),
        }
    }
    ranges
}

/// Whether a number is among some.
pub(crate) fn has(ranges: &Ranges, seq: u64) -> bool {
    ranges.iter().any(|(from, to)| (*from..*to).contains(&seq))
}

impl Runs {
    /// What a store that was opened needs; everything else is removed.
    pub(crate) fn of(moved: &RecoveredChunks, disk: &SimDisk) -> Result<Self, DiskError> {
        let mut runs = Self {
            next: moved.next_run,
            ..Self::default()
        };
        for piece in &moved.pieces {
            let kept = (piece.chunk, piece.ranges.clone());
            let run = piece.chunk.place.run;
            runs.chunks.entry(run).or_default().push(kept);
        }
        for name in disk.list()? {
            if let Some(run) = run_of(&name) {
                runs.next = runs.next.max(run + 1);
                if !runs.chunks.contains_key(&run) {
                    disk.remove(&name)?;
                }
            }
        }
        Ok(runs)
    }

    /// Writes messages of a lane, behind what was written last or in a file of their own; synced
    /// when that is done ([`Self::sync`]).
    pub(crate) fn write(
        &mut self,
        disk: &SimDisk,
        (lane, messages): (u32, &BTreeMap<u64, Message>),
        follows: bool,
    ) -> Result<(MovedChunk, Ranges), DiskError> {
        let (run, offset) = match self.open.take().filter(|_| follows) {
            Some(open) => open,
            None => {
                self.next += 1;
                (self.next - 1, 0)
            }
        };
        let mut bytes = Vec::new();
        for (seq, message) in messages {
            let none = u64::MAX;
            let (expires, entered) = (message.expiration_ms, message.entered_ms);
            let size = message.size as u64;
            for number in [
                *seq,
                message.number,
                size,
                expires.unwrap_or(none),
                entered.unwrap_or(none),
                message.deaths.into(),
            ] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.extend_from_slice(&message.body());
        }
        disk.create(&name_of(run))?.write_at(offset, &bytes)?;
        self.open = Some((run, offset + bytes.len() as u64));
        let place = RunPlace {
            run,
            offset,
            len: bytes.len() as u32,
            checksum: crc32c::crc32c(&bytes),
        };
        let chunk = MovedChunk {
            lane: LaneId(lane),
            place,
            messages: messages.len() as u32,
            bytes: bytes.len() as u64,
            base_ms: 1,
            own_ms: u64::MAX,
        };
        let ranges = ranges(messages.keys().copied());
        let kept = (chunk, ranges.clone());
        self.chunks.entry(run).or_default().push(kept);
        Ok((chunk, ranges))
    }

    /// One of the chunks that are there.
    pub(crate) fn some(&self, pick: usize) -> Option<(MovedChunk, Ranges)> {
        let all: Vec<_> = self.chunks.values().flatten().collect();
        let at = pick.checked_rem(all.len())?;
        all.get(at).map(|one| (*one).clone())
    }

    /// Makes what was written last.
    pub(crate) fn sync(disk: &SimDisk, chunk: &MovedChunk) -> Result<(), DiskError> {
        disk.open(&name_of(chunk.place.run))?.sync()?;
        disk.sync_dir()
    }

    /// A chunk is not needed: its file goes with the last of them.
    pub(crate) fn free(&mut self, disk: &SimDisk, place: RunPlace) -> Result<(), DiskError> {
        let Some(chunks) = self.chunks.get_mut(&place.run) else {
            return Ok(());
        };
        chunks.retain(|(chunk, _)| chunk.place != place);
        if chunks.is_empty() {
            self.remove(disk, place.run)?;
        }
        Ok(())
    }

    fn remove(&mut self, disk: &SimDisk, run: u64) -> Result<(), DiskError> {
        self.chunks.remove(&run);
        self.open.take_if(|open| open.0 == run);
        match disk.remove(&name_of(run)) {
            Err(DiskError::Missing) => Ok(()),
            removed => removed,
        }
    }

    /// The deliberate fault of removing files as soon as nothing in them lives.
    pub(crate) fn remove_early(
        &mut self,
        disk: &SimDisk,
        lives: impl Fn(u32, u64) -> bool,
    ) -> Result<(), DiskError> {
        let is_dead = |(chunk, ranges): &(MovedChunk, Ranges)| {
            let mut numbers = ranges.iter().flat_map(|(from, to)| *from..*to);
            !numbers.any(|seq| lives(chunk.lane.0, seq))
        };
        let dead: BTreeSet<u64> = self
            .chunks
            .iter()
            .filter(|(_, chunks)| chunks.iter().all(is_dead))
            .map(|(run, _)| *run)
            .collect();
        dead.into_iter().try_for_each(|run| self.remove(disk, run))
    }
}

/// Reads what a store says was moved: sequence number and message.
pub(crate) fn read(disk: &SimDisk, piece: &MovedPiece) -> Result<Vec<(u64, Message)>, String> {
    let place = piece.chunk.place;
    let mut bytes = vec![0; place.len as usize];
    let file = disk.open(&name_of(place.run));
    let read = file.and_then(|file| file.read_at(place.offset, &mut bytes));
    if read != Ok(bytes.len()) || crc32c::crc32c(&bytes) != place.checksum {
        return Err(format!(
            "a moved chunk is not what it was: {place:?} {read:?}"
        ));
    }
    let (mut at, mut found) = (0, Vec::new());
    while at < bytes.len() {
        let number = |n: usize| {
            let from = at + n * 8;
            u64::from_le_bytes(bytes[from..from + 8].try_into().unwrap())
        };
        let some = |number: u64| (number != u64::MAX).then_some(number);
        let message = Message {
            number: number(1),
            size: number(2) as usize,
            expiration_ms: some(number(3)),
            entered_ms: some(number(4)),
            deaths: number(5) != 0,
        };
        let seq = number(0);
        at += 48 + message.body().len();
        found.push((seq, message));
    }
    found.retain(|(seq, _)| {
        piece
            .ranges
            .iter()
            .any(|(from, to)| (from..to).contains(&seq))
    });
    if found.len() as u64 != piece.messages() {
        return Err(format!("a moved chunk has not what lives: {piece:?}"));
    }
    Ok(found)
}
