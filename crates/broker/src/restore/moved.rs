//! Chunks that the journal has handed over to run files, back into their queues without being read.

use std::collections::VecDeque;
use std::sync::Arc;

use leveret_queue::{AwayChunk, LoadedPage, LostPage, Message, MessageBody, PageFilter, Rank};
use leveret_record::{Body, Memory, RunPlace, Spot};
use leveret_runs::{RunError, RunFiles, Runs, RunsConfig};
use leveret_store::{LaneId, MovedChunk, MovedPiece, RecoveredChunks, RecoveredMessage};
use rustc_hash::FxHashMap;

use crate::broker::Broker;
use crate::queue::cell::QueueCell;
use crate::queue::pager::LostMessages;

/// Reads the chunks of a store that is only looked at, one at a time.
pub struct MovedReader {
    runs: Runs,
    memory: Memory,
    bytes: Vec<u8>,
}

impl MovedReader {
    /// They are in these files.
    #[must_use]
    pub fn new(files: Arc<dyn RunFiles>) -> Self {
        Self {
            runs: Runs::new(files, RunsConfig::default()),
            memory: Memory::default(),
            bytes: Vec::new(),
        }
    }

    /// Shows what lives of a piece, in order; nothing of it if not all of that is there.
    ///
    /// # Errors
    /// The disk failed, or what is there is not what was written.
    pub fn read(
        &mut self,
        piece: &MovedPiece,
        mut show: impl FnMut(&RecoveredMessage<'_>),
    ) -> Result<(), RunError> {
        let chunk = &piece.chunk;
        self.runs.read(chunk.place, &mut self.bytes)?;
        let filter = PageFilter {
            ranges: piece.ranges.clone(),
            attempts: piece.attempts.clone(),
        };
        let page = LoadedPage::decode(chunk.place, &self.bytes, &self.memory);
        let page = page.and_then(|page| page.filtered(&filter));
        page.ok_or(RunError::Corrupt)?.each(|record, blob| {
            let body = match (blob, record.body) {
                (Some(blob), _) => blob,
                (None, Body::Inline(body)) => body,
                (None, Body::Blob { .. }) => return,
            };
            show(&RecoveredMessage {
                lane: chunk.lane,
                seq: record.seq,
                attempts: record.attempts,
                entered_ms: Some(chunk.base_ms + u64::from(record.entered)),
                expiration_ms: record.expiration_ms,
                deaths: record.marks.deaths(),
                route: record.route,
                header: record.header,
                body,
                shared: None,
            });
        });
        Ok(())
    }

    /// The bytes of the chunk that was read last, as the disk has them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// What comes back of moved chunks: by lane, in order.
#[derive(Default)]
pub(super) struct MovedBack(FxHashMap<LaneId, VecDeque<(MovedPiece, Spot)>>);

impl MovedBack {
    /// The next piece of a lane that stands before a number.
    #[inline]
    pub(super) fn before(&mut self, lane: LaneId, seq: u64) -> Option<(MovedPiece, Spot)> {
        if self.0.is_empty() {
            return None;
        }
        let pieces = self.0.get_mut(&lane)?;
        let first = pieces.front()?.0.ranges.first()?;
        if first.0 < seq {
            pieces.pop_front()
        } else {
            None
        }
    }

    /// All the others.
    pub(super) fn rest(self) -> impl Iterator<Item = (MovedPiece, Spot)> {
        self.0.into_values().flatten()
    }
}

impl Broker {
    /// Keeps the places of what was moved.
    pub(super) fn reopen(&self, moved: RecoveredChunks) -> MovedBack {
        let mut back = MovedBack::default();
        let Some(runs) = self.pager.runs.get() else {
            return back;
        };
        let mut places: FxHashMap<(u64, u64), RunPlace> = FxHashMap::default();
        for piece in &moved.pieces {
            let place = piece.chunk.place;
            places.insert((place.run, place.offset), place);
        }
        let places: Vec<RunPlace> = places.into_values().collect();
        let spots = runs.reopen(&places, moved.next_run);
        let key = |place: RunPlace| (place.run, place.offset);
        let spots: FxHashMap<_, _> = spots.into_iter().map(|it| (key(it.place()), it)).collect();
        for piece in moved.pieces {
            if let Some(spot) = spots.get(&key(piece.chunk.place)) {
                let lane = back.0.entry(piece.chunk.lane).or_default();
                lane.push_back((piece, spot.clone()));
            }
        }
        back
    }

    /// Puts a piece at the end of its queue: on the disk as it is, or read if others stand between
    /// its messages. Gives how many it has.
    pub(super) fn restore_piece(
        &self,
        (cell, level): (&QueueCell, u8),
        piece: MovedPiece,
        spot: Spot,
    ) -> u64 {
        let messages = piece.messages();
        let filter = PageFilter {
            ranges: piece.ranges,
            attempts: piece.attempts,
        };
        if piece.is_whole && self.config.queue_resident_bytes > 0 {
            let away = away_of(&piece.chunk, &filter, spot.clone());
            self.pager.moved.keep(spot, Some(Arc::new(filter)));
            cell.lock().queue.restore_away(level, away);
            return messages;
        }
        self.pager.moved.keep(spot, None);
        match self.read_piece(piece.chunk.place, &filter) {
            Ok(page) => restore_read((cell, level), piece.chunk.base_ms, &page),
            Err(error) => {
                self.lose_piece((cell, level), &filter, &error);
                return 0;
            }
        }
        messages
    }

    fn read_piece(&self, place: RunPlace, filter: &PageFilter) -> Result<LoadedPage, RunError> {
        let page = self.read_page_surely(place)?;
        page.filtered(filter).ok_or(RunError::Corrupt)
    }

    fn lose_piece(&self, (cell, level): (&QueueCell, u8), filter: &PageFilter, error: &RunError) {
        let messages = filter.messages();
        cell.lock().queue.lose_restored(messages);
        let runs = self.pager.runs.get();
        runs.into_iter().for_each(Runs::note_read_error);
        let (first, last) = (filter.ranges.first(), filter.ranges.last());
        self.pager.lost.lock().push(LostMessages {
            vhost: Arc::clone(&cell.vhost),
            queue: Arc::clone(&cell.name),
            page: LostPage {
                level,
                first: first.map_or(0, |range| range.0),
                last: last.map_or(0, |range| range.1.saturating_sub(1)),
                messages,
            },
            reason: error.to_string(),
            moved: true,
        });
    }
}

/// A chunk on the disk; of the bytes of its bodies only a part is there if some are settled.
fn away_of(chunk: &MovedChunk, filter: &PageFilter, spot: Spot) -> AwayChunk {
    let (left, all) = (filter.messages(), u64::from(chunk.messages.max(1)));
    let bytes = u128::from(chunk.bytes) * u128::from(left) / u128::from(all.max(left));
    AwayChunk {
        spot,
        ranges: filter.ranges.clone(),
        all: chunk.messages,
        bytes: u64::try_from(bytes).unwrap_or(chunk.bytes),
        base_ms: chunk.base_ms,
        own_ms: chunk.own_ms,
    }
}

fn restore_read((cell, level): (&QueueCell, u8), base_ms: u64, page: &LoadedPage) {
    let mut state = cell.lock();
    page.each(|record, blob| {
        let body = match (blob, record.body) {
            (Some(blob), _) => MessageBody::Shared(blob),
            (None, Body::Inline(body)) => MessageBody::Inline(body),
            (None, Body::Blob { .. }) => return,
        };
        let message = Message {
            route: record.route,
            header: record.header,
            body,
            entered_ms: base_ms + u64::from(record.entered),
            expiration_ms: record.expiration_ms,
            priority: level,
            persistent: true,
            deaths: record.marks.deaths(),
            attempts: record.attempts,
        };
        let seq = record.seq;
        state.queue.restore(&message, Rank { level, seq });
    });
}
