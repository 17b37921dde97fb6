//! Messages that a store remembers, back into their queues.

pub(crate) mod administration;
pub(crate) mod moved;
pub(crate) mod topology;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use leveret_queue::{Message, MessageBody, Rank};
use leveret_record::Blob;
use leveret_runs::RunError;
use leveret_store::{
    LaneId, Messages, OpenError, RecoveredChunks, RecoveredLane, RecoveredMessage,
};
use rustc_hash::FxHashMap;

use crate::broker::Broker;
use crate::broker::paging::PageOut;
use crate::queue::cell::QueueCell;
use crate::queue::copied::is_shared;
use crate::queue::pump::Pump;
use crate::queue::work::Work;

/// What came back from a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Durable queues.
    pub queues: usize,
    /// Messages, one for each queue that holds it.
    pub messages: u64,
    /// Messages whose queue is gone; they are dropped.
    pub orphans: u64,
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
    /// They are much more than may be in memory, and the disk takes none of them: why not.
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
                "the messages that wait are more than twice limits.resident_bytes, and those that \
                 do not fit in memory cannot be written to the disk ({error}): make room on it, or \
                 raise limits.resident_bytes"
            ),
        }
    }
}

/// Bodies that several queues share, by their number in the store.
type Bodies = FxHashMap<u64, Arc<Blob>>;

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
        let (mut bodies, mut room) = (Bodies::default(), Ok(0));
        let mut moved = self.reopen(moved);
        messages.replay(|message| match (queues.get(&message.lane), room.clone()) {
            (Some((_, cell, level)), Ok(again)) => {
                while let Some((piece, spot)) = moved.before(message.lane, message.seq) {
                    restored.messages += self.restore_piece((cell, *level), piece, spot);
                }
                let is_long = restore((cell, *level), message, &mut bodies);
                if is_long && self.memory.resident_bytes() >= again {
                    room = self.page_restored(cell, &mut bodies);
                }
                restored.messages += 1;
            }
            (Some(_), Err(_)) => {}
            (None, _) => restored.orphans += 1,
        })?;
        room.map_err(NotRestored::NoRoom)?;
        for (piece, spot) in moved.rest() {
            match queues.get(&piece.chunk.lane) {
                Some((_, cell, level)) => {
                    restored.messages += self.restore_piece((cell, *level), piece, spot);
                }
                None => restored.orphans += piece.messages(),
            }
        }
        let mut work = Work::default();
        for lane in lanes {
            let Some((_, cell, level)) = queues.get(&lane.lane) else {
                work.journal.reset(lane.lane, u64::MAX);
                continue;
            };
            cell.lock().queue.begin_at(Rank {
                level: *level,
                seq: lane.next_seq,
            });
        }
        for (_, cell, _) in queues.values() {
            self.resume_queue(cell, &mut work);
        }
        self.submit(&mut work);
        Ok(restored)
    }

    /// A queue is longer than its share of memory: the rest goes to the disk, so that what comes
    /// back may be more than there is memory. Gives when it is worth while again, in bytes that
    /// are in memory then; what the disk says, if there is much more than may be in memory.
    #[inline(never)]
    fn page_restored(&self, cell: &Arc<QueueCell>, bodies: &mut Bodies) -> Result<u64, RunError> {
        /// A disk that takes nothing is not asked for each message.
        const REST_BYTES: u64 = 16 << 20;
        /// So many times as much as messages may take of the memory is more than there is.
        const BEYOND: u64 = 2;
        cell.page(&mut cell.lock());
        let mut out = PageOut::default();
        while self.begin_page_out(&mut out) {
            if let Err(error) = self.finish_page_out(&mut out) {
                let resident = self.memory.resident_bytes();
                if resident > self.config.resident_bytes_max.saturating_mul(BEYOND) {
                    return Err(error);
                }
                // It stays in memory. The line is worked off later.
                return Ok(resident + REST_BYTES);
            }
            bodies.retain(|_, body| Arc::strong_count(body) > 1);
        }
        Ok(0)
    }

    /// What was out comes back above a limit, as with any other way back, and what has waited too
    /// long meanwhile goes.
    fn resume_queue(&self, cell: &Arc<QueueCell>, work: &mut Work) {
        let mut state = cell.lock();
        cell.used(&mut state);
        cell.run(&mut state, &mut Pump::new(cell, work));
        let grown = state.queue.is_grown();
        if grown && !std::mem::replace(&mut state.warm, true) {
            work.warm.push(Arc::clone(cell));
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
