//! Messages that a store remembers, back into their queues.

pub(crate) mod administration;
pub(crate) mod moved;
pub(crate) mod topology;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use leveret_queue::{Message, MessageBody, Rank};
use leveret_record::{Blob, Spot};
use leveret_runs::RunError;
use leveret_store::{
    LaneId, Messages, MovedPiece, OpenError, RecoveredChunks, RecoveredLane, RecoveredMessage,
};
use rustc_hash::FxHashMap;

use crate::broker::Broker;
use crate::broker::paging::PageOut;
use crate::queue::cell::QueueCell;
use crate::queue::copied::is_shared;
use crate::queue::effects::Effects;
use crate::queue::pump::Pump;

/// What came back from a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Durable queues.
    pub queues: usize,
    /// Messages, one for each queue that holds it.
    pub messages: u64,
    /// Messages whose queue is gone; they are dropped.
    pub orphans: u64,
    /// Bytes that are in memory beyond what messages may take there, as the disk takes none.
    pub beyond_bytes: u64,
}

/// Whose messages are in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneOwner {
    /// The virtual host.
    pub vhost: Arc<str>,
    /// Its name there.
    pub queue: Arc<str>,
    /// The level of its priorities.
    pub level: u8,
}

/// Why messages cannot come back. Nothing was changed on the disk.
#[derive(Debug)]
pub enum NotRestored {
    /// The store's disk failed.
    Store(OpenError),
    /// They are more than there is memory, and the disk takes none of them: why not.
    NoRoom(RunError),
}

impl From<OpenError> for NotRestored {
    fn from(error: OpenError) -> Self {
        Self::Store(error)
    }
}

impl fmt::Display for NotRestored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::NoRoom(error) => write!(
                f,
                "the messages in the journal are more than there is memory, and cannot be written \
                 to run files ({error}): make room on the disk, or start with more memory"
            ),
        }
    }
}

/// Bodies that several queues share, by their number in the store.
type Bodies = FxHashMap<u64, Arc<Blob>>;

/// A disk that takes nothing is asked again when so much more has come back.
const REST_BYTES: u64 = 16 << 20;

/// Messages on their way back, and where those find room that are too many for memory.
#[derive(Default)]
struct ComingBack {
    bodies: Bodies,
    /// The disk takes nothing; it is asked again when so many bytes are in memory.
    again: u64,
    /// There is none in memory either: what the disk says.
    lacks: Option<RunError>,
}

impl Broker {
    /// Fills the queues that [`Broker::restore`] has made. Before any connection, and before the
    /// store is written.
    ///
    /// # Errors
    /// [`NotRestored`]: the broker cannot be used.
    pub fn restore_messages(
        &self,
        lanes: &[RecoveredLane],
        messages: Messages,
        moved: RecoveredChunks,
    ) -> Result<Restored, NotRestored> {
        let queues = self.lanes_of_queues();
        let mut restored = Restored {
            queues: queues
                .values()
                .filter(|(_, cell, level)| *level == cell.level)
                .count(),
            ..Restored::default()
        };
        let mut back = ComingBack::default();
        let mut moved = self.reopen(moved);
        messages.replay(|message| match queues.get(&message.lane) {
            Some(_) if back.lacks.is_some() => {}
            Some((_, cell, level)) => {
                while let Some(piece) = moved.before(message.lane, message.seq) {
                    restored.messages += self.restore_moved(cell, *level, piece, &mut back);
                }
                if restore((cell, *level), message, &mut back.bodies) {
                    self.page_restored(cell, &mut back);
                }
                restored.messages += 1;
            }
            None => restored.orphans += 1,
        })?;
        for piece in moved.rest() {
            match queues.get(&piece.0.chunk.lane) {
                Some((_, cell, level)) => {
                    restored.messages += self.restore_moved(cell, *level, piece, &mut back);
                }
                None => restored.orphans += piece.0.messages(),
            }
        }
        if let Some(error) = back.lacks {
            return Err(NotRestored::NoRoom(error));
        }
        let mut effects = Effects::default();
        for lane in lanes {
            let Some((_, cell, level)) = queues.get(&lane.lane) else {
                effects.journal.reset(lane.lane, u64::MAX);
                continue;
            };
            cell.lock().queue.begin_at(Rank {
                level: *level,
                seq: lane.next_seq,
            });
        }
        for (_, cell, _) in queues.values() {
            self.resume_queue(cell, &mut effects);
        }
        self.submit(&mut effects);
        if back.again > 0 {
            let resident = self.memory.resident_bytes();
            restored.beyond_bytes = resident.saturating_sub(self.config.resident_bytes_max);
        }
        Ok(restored)
    }

    /// A queue is longer than its share of memory: the rest goes to the disk, so that what comes
    /// back may be more than there is memory. If the disk takes none it stays in memory: the
    /// journal's window bounds how much that is.
    #[inline]
    fn page_restored(&self, cell: &Arc<QueueCell>, back: &mut ComingBack) {
        if self.memory.resident_bytes() >= back.again {
            self.page_all(cell, back);
        }
    }

    #[inline(never)]
    fn page_all(&self, cell: &Arc<QueueCell>, back: &mut ComingBack) {
        cell.page(&mut cell.lock());
        let mut out = PageOut::default();
        back.again = 0;
        while self.begin_page_out(&mut out) {
            if let Err(error) = self.finish_page_out(&mut out) {
                // Beyond that the system ends the process, and says nothing.
                let most = self.config.memory_limit_bytes / 4 * 3;
                let resident = self.memory.resident_bytes();
                back.lacks = (resident > most).then_some(error);
                back.again = resident
                    .saturating_add(REST_BYTES)
                    .min(most.max(resident) + 1);
                // The line is worked off later.
                return;
            }
            back.bodies.retain(|_, body| Arc::strong_count(body) > 1);
        }
    }

    /// A piece of a moved chunk that was read is too much for memory as any other is.
    fn restore_moved(
        &self,
        cell: &Arc<QueueCell>,
        level: u8,
        (piece, spot): (MovedPiece, Spot),
        back: &mut ComingBack,
    ) -> u64 {
        let messages = self.restore_piece((cell, level), piece, spot);
        self.page_restored(cell, back);
        messages
    }

    /// What was out comes back above a limit, as with any other way back, and what has waited too
    /// long meanwhile goes.
    fn resume_queue(&self, cell: &Arc<QueueCell>, effects: &mut Effects) {
        let mut state = cell.lock();
        cell.used(&mut state);
        cell.run(&mut state, &mut Pump::new(cell, effects));
        let grown = state.queue.is_grown();
        if grown && !std::mem::replace(&mut state.warm, true) {
            effects.warm.push(Arc::clone(cell));
        }
    }

    /// The virtual host and the name of the queue a lane belongs to.
    #[must_use]
    pub fn queue_of_lane(&self, lane: LaneId) -> Option<(Arc<str>, Arc<str>)> {
        let (vhost, cell, _) = self.lanes_of_queues().remove(&lane)?;
        Some((vhost, Arc::clone(&cell.name)))
    }

    /// Whose the lanes of all durable queues are.
    #[must_use]
    pub fn lane_owners(&self) -> HashMap<LaneId, LaneOwner> {
        let owner = |(lane, (vhost, cell, level)): (LaneId, (_, Arc<QueueCell>, u8))| {
            let queue = Arc::clone(&cell.name);
            (
                lane,
                LaneOwner {
                    vhost,
                    queue,
                    level,
                },
            )
        };
        self.lanes_of_queues().into_iter().map(owner).collect()
    }

    /// The lanes of all durable queues: virtual host, queue, level of priority.
    pub(crate) fn lanes_of_queues(&self) -> HashMap<LaneId, (Arc<str>, Arc<QueueCell>, u8)> {
        let mut queues = HashMap::new();
        for vhost in self.vhosts() {
            let directory = vhost.directory.read();
            for cell in directory.queues() {
                for (level, lane) in cell.lanes() {
                    let owner = (Arc::clone(&vhost.name), Arc::clone(cell), level);
                    queues.insert(lane, owner);
                }
            }
        }
        queues
    }
}

/// Whether the queue is longer than its share of memory then.
fn restore(
    (cell, level): (&QueueCell, u8),
    message: &RecoveredMessage<'_>,
    bodies: &mut Bodies,
) -> bool {
    let blob = is_shared(message.body.len(), message.shared.is_some()).then(|| {
        let new = || cell.memory.share(message.body.to_vec());
        match message.shared {
            Some(number) => Arc::clone(bodies.entry(number).or_insert_with(new)),
            None => new(),
        }
    });
    let message_body = match &blob {
        Some(blob) => MessageBody::Shared(blob),
        None => MessageBody::Inline(message.body),
    };
    let restored = Message {
        route: message.route,
        header: message.header,
        body: message_body,
        entered_ms: message.entered_ms.unwrap_or_else(|| cell.timer.now_ms()),
        expiration_ms: message.expiration_ms,
        priority: level,
        persistent: true,
        deaths: message.deaths,
        attempts: message.attempts,
    };
    let place = Rank {
        level,
        seq: message.seq,
    };
    let mut state = cell.lock();
    state.queue.restore(&restored, place);
    state.queue.is_paged()
}
