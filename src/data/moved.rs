//! Chunks that the journal has handed over to run files, as `leveret data` reads them.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use leveret_broker::{MovedReader, RunError};
use leveret_store::{Finding, LaneId, MovedPiece, RecoveredMessage};

use super::{OfflineFolder, Trouble};
use crate::run_files::{FOLDER, RunFolder, is_run, name_of, run_of};

/// Reads the run files of a data folder and writes none.
pub(super) fn reader_of(data_dir: &Path) -> MovedReader {
    MovedReader::new(Arc::new(RunFolder::look(data_dir)))
}

/// The name of a run file in its data folder.
fn name_in_folder(run: u64) -> String {
    format!("{FOLDER}/{}", name_of(run))
}

/// A piece cannot be read.
pub(super) fn unread(piece: &MovedPiece, error: &RunError) -> Finding {
    let place = piece.chunk.place;
    let (bytes, messages) = (place.len, piece.messages());
    let lane = piece.chunk.lane;
    let lost = piece.ranges.iter().map(|(from, to)| (lane, *from, *to));
    Finding {
        file: name_in_folder(place.run),
        offset: place.offset,
        what: format!("a chunk of {bytes} bytes with {messages} messages: {error}"),
        lost: lost.collect(),
    }
}

impl OfflineFolder {
    /// Reads all chunks in which something lives as they follow each other on the disk; gives what
    /// is wrong with them.
    pub(super) fn read_moved(&self, mut show: impl FnMut(&RecoveredMessage<'_>)) -> Vec<Finding> {
        let mut reader = reader_of(&self.dir);
        let mut wrong = Vec::new();
        for chunk in self.inspected.moved.chunks() {
            if let Err(error) = reader.read(&chunk, &mut show) {
                wrong.push(unread(&chunk, &error));
            }
        }
        wrong
    }
}

/// Pieces by lane, in their order.
pub(super) struct PiecesByLane(BTreeMap<LaneId, VecDeque<MovedPiece>>);

impl PiecesByLane {
    /// Of the lanes that are wanted.
    pub(super) fn of(pieces: &[MovedPiece], is_wanted: impl Fn(LaneId) -> bool) -> Self {
        let mut lanes: BTreeMap<LaneId, VecDeque<MovedPiece>> = BTreeMap::new();
        for piece in pieces.iter().filter(|piece| is_wanted(piece.chunk.lane)) {
            let lane = lanes.entry(piece.chunk.lane).or_default();
            lane.push_back(piece.clone());
        }
        Self(lanes)
    }

    /// The next piece of a lane that stands before a number.
    pub(super) fn before(&mut self, lane: LaneId, seq: u64) -> Option<MovedPiece> {
        let pieces = self.0.get_mut(&lane)?;
        let first = pieces.front()?.ranges.first()?;
        if first.0 < seq {
            pieces.pop_front()
        } else {
            None
        }
    }

    /// All the others.
    pub(super) fn rest(self) -> impl Iterator<Item = MovedPiece> {
        self.0.into_values().flatten()
    }
}

/// What is in a run file.
#[derive(Clone, Debug, Default)]
pub(super) struct RunUse {
    pub(super) file: String,
    /// Its size; nothing if it is missing.
    pub(super) bytes: u64,
    /// Chunks in which something lives,
    pub(super) chunks: u64,
    /// and the bytes of these.
    pub(super) live_bytes: u64,
    /// Messages that they had when they were handed over.
    pub(super) messages: u64,
    /// Those that live.
    pub(super) live: u64,
}

impl RunUse {
    /// Bytes that nothing lives in; they are free when the broker goes on with them.
    pub(super) const fn dead_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.live_bytes)
    }
}

impl OfflineFolder {
    /// The run files that are there or should be, by number.
    pub(super) fn run_uses(&self) -> Result<Vec<RunUse>, Trouble> {
        let mut uses: BTreeMap<u64, RunUse> = BTreeMap::new();
        for chunk in self.inspected.moved.chunks() {
            let of = uses.entry(chunk.chunk.place.run).or_default();
            of.chunks += 1;
            of.live_bytes += u64::from(chunk.chunk.place.len);
            of.messages += u64::from(chunk.chunk.messages);
            of.live += chunk.messages();
        }
        for (run, bytes) in sizes(&self.dir.join(FOLDER))? {
            uses.entry(run).or_default().bytes = bytes;
        }
        for (run, of) in &mut uses {
            of.file = name_in_folder(*run);
        }
        Ok(uses.into_values().collect())
    }
}

/// The run files that are there, and their sizes.
fn sizes(folder: &Path) -> io::Result<Vec<(u64, u64)>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut sizes = Vec::new();
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if let Some(run) = run_of(&path).filter(|_| is_run(&path)) {
            sizes.push((run, entry.metadata()?.len()));
        }
    }
    Ok(sizes)
}
