//! Space on the disk: asked for before anything is done that has to be written.

use std::sync::Arc;

use leveret_codec::flag;
use leveret_session::Publishes;
use leveret_store::Store;

use crate::publish::room::Room;
use crate::queue::cell::QueueCell;
use crate::queue::effects::Effects;
use crate::topology::space::RECORD_BYTES;

/// What a record takes for each queue.
const TARGET_BYTES: usize = 12;
/// A turn's records are submitted before there are more of them than this, so that a large message
/// is alone in its frame. One read of small messages makes fewer: submitted in two parts it would
/// wait for two syncs.
const SUBMIT_BYTES: usize = 256 * 1024;

impl Room {
    /// Claims what a batch may take of the disk: its persistent messages are refused if there is no
    /// such space.
    #[inline]
    pub(crate) fn claimed(
        self,
        store: &dyn Store,
        cells: &[Arc<QueueCell>],
        batch: &Publishes<'_>,
        effects: &mut Effects,
    ) -> Self {
        let lasts = batch.properties & flag::DELIVERY_MODE != 0
            && cells.iter().any(|cell| cell.lane.is_some());
        if !lasts {
            return self;
        }
        let each = record_bytes(batch.route.len(), cells.len());
        let bytes = batch.content_bytes() + each * batch.len();
        if !effects.journal.is_empty() && effects.journal.bytes_len() + bytes > SUBMIT_BYTES {
            effects.submit(store);
        }
        match store.claim(&mut effects.journal, cells.len() * batch.len(), bytes) {
            Ok(()) => self,
            Err(_) => self.without_disk(),
        }
    }
}

/// What a record takes beside a message's header and body.
pub(crate) const fn record_bytes(route_len: usize, targets: usize) -> usize {
    RECORD_BYTES + route_len + targets * TARGET_BYTES
}
