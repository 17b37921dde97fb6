//! Messages that a store remembers, back into their queues.

use std::collections::HashMap;
use std::sync::Arc;

use leveret_queue::{Message, MessageBody};
use leveret_record::Blob;
use leveret_store::{LaneId, Messages, OpenError, RecoveredLane, RecoveredMessage};
use rustc_hash::FxHashMap;

use crate::broker::Broker;
use crate::cell::QueueCell;
use crate::publish::is_shared;
use crate::pump::{Pump, Work};

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

/// Bodies that several queues share, by their number in the store.
type Bodies = FxHashMap<u64, Arc<Blob>>;

impl Broker {
    /// Fills the queues that [`Broker::restore`] has made. Before any connection, and before the
    /// store is written.
    ///
    /// # Errors
    /// [`OpenError`]: the disk failed.
    pub fn restore_messages(
        &self,
        lanes: &[RecoveredLane],
        messages: Messages,
    ) -> Result<Restored, OpenError> {
        let queues = self.lanes_of_queues();
        let mut restored = Restored {
            queues: queues.len(),
            ..Restored::default()
        };
        let mut bodies = Bodies::default();
        messages.replay(|message| match queues.get(&message.lane) {
            Some((_, cell)) => {
                restore(cell, message, &mut bodies);
                restored.messages += 1;
            }
            None => restored.orphans += 1,
        })?;
        let mut work = Work::default();
        for lane in lanes {
            let Some((_, cell)) = queues.get(&lane.lane) else {
                work.journal.reset(lane.lane, u64::MAX);
                continue;
            };
            let mut state = cell.lock();
            state.queue.begin_at(lane.next_seq);
            // What was out comes back above a limit, as with any other way back.
            state.queue.trim(&mut Pump::new(cell, &mut work));
            state.warm = state.queue.is_grown();
            if state.warm {
                work.warm.push(Arc::clone(cell));
            }
        }
        self.submit(&mut work);
        Ok(restored)
    }

    /// The virtual host and the name of the queue a lane belongs to.
    #[must_use]
    pub fn queue_of_lane(&self, lane: LaneId) -> Option<(Arc<str>, Arc<str>)> {
        let (vhost, cell) = self.lanes_of_queues().remove(&lane)?;
        Some((vhost, Arc::clone(&cell.name)))
    }

    fn lanes_of_queues(&self) -> HashMap<LaneId, (Arc<str>, Arc<QueueCell>)> {
        let mut queues = HashMap::new();
        for vhost in self.vhosts() {
            let directory = vhost.directory.read();
            for cell in directory.queues() {
                if let Some(lane) = cell.lane {
                    queues.insert(lane, (Arc::clone(&vhost.name), Arc::clone(cell)));
                }
            }
        }
        queues
    }
}

fn restore(cell: &QueueCell, message: &RecoveredMessage<'_>, bodies: &mut Bodies) {
    let blob = is_shared(message.body.len(), message.shared.is_some()).then(|| {
        let new = || Arc::new(Blob::new(message.body.to_vec()));
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
        expiry_ms: message.expiry_ms,
        persistent: true,
        deliveries: message.deliveries,
    };
    cell.lock().queue.restore(&restored, message.seq);
}
