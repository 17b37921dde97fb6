//! What clients have begun and not completed: messages that arrive in parts, and transactions that
//! are not committed. One budget holds for all connections together.
//!
//! Over the budget, connections are closed until an eighth of it is free again: first those with
//! the largest product of how much they hold, for how long, and how long nothing has come. So
//! whoever hoards pays with its own connections, and a large message that arrives in good time
//! does not.

use std::sync::atomic::Ordering;

use leveret_codec::HardCode;
use leveret_session::Fault;

use crate::broker::Broker;
use crate::connection::Connection;
use crate::connection::desk::Desk;
use crate::connection::phase::Running;
use crate::peer::Peer;

/// A part of a frame that waits in the read buffer counts from here on: nearly every read of small
/// messages ends with one.
const PARTIAL_FRAME_BYTES_MIN: usize = 4096;
/// What is closed for frees one part in so many of the budget, so that the next search is far.
const FREED_PART: u64 = 8;

/// Connections that were closed for what they did not complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnfinishedClosed {
    /// As all connections together held too much.
    pub over_budget: u64,
    /// As a message made no progress.
    pub stalled: u64,
}

impl Broker {
    /// Whether the unfinished messages of a connection have to be looked at.
    #[inline]
    pub(crate) fn is_due(&self, peer: &Peer, now_ms: u64) -> bool {
        let own = &peer.unfinished;
        let heard_ms = peer.received_ms.load(Ordering::Relaxed);
        let silent_ms = now_ms.saturating_sub(heard_ms);
        let partial = silent_ms >= self.config.body_timeout_ms;
        own.is_due(now_ms) || (partial && own.partial.load(Ordering::Relaxed))
    }

    /// Memory of messages that are begun and not complete, and of transactions that are not
    /// committed, bytes.
    #[must_use]
    pub fn unfinished_bytes(&self) -> u64 {
        self.unfinished.bytes.load(Ordering::Relaxed)
    }

    /// Connections that were closed for such things.
    #[must_use]
    pub fn unfinished_closed(&self) -> UnfinishedClosed {
        UnfinishedClosed {
            over_budget: self.unfinished.closed.load(Ordering::Relaxed),
            stalled: self.unfinished.stalled.load(Ordering::Relaxed),
        }
    }

    /// A connection has `bytes` unfinished from now on.
    fn set_unfinished(&self, peer: &Peer, bytes: u64, now_ms: u64) {
        let own = &peer.unfinished;
        let before = own.bytes.swap(bytes, Ordering::Relaxed);
        if before == 0 {
            own.since_ms.store(now_ms, Ordering::Relaxed);
        }
        if bytes == 0 {
            own.due_ms.store(0, Ordering::Relaxed);
        } else if own.due_ms.load(Ordering::Relaxed) == 0 {
            let due_ms = now_ms.saturating_add(self.config.body_timeout_ms);
            own.due_ms.store(due_ms, Ordering::Relaxed);
        }
        let change = bytes.wrapping_sub(before);
        let all = &self.unfinished.bytes;
        let total = all
            .fetch_add(change, Ordering::Relaxed)
            .wrapping_add(change);
        if bytes > before && total > self.config.unfinished_bytes_max {
            self.shed_unfinished(now_ms);
        }
    }

    /// Closes those who hold most for longest.
    #[cold]
    fn shed_unfinished(&self, now_ms: u64) {
        let Some(_searching) = self.unfinished.searching.try_lock() else {
            return;
        };
        let max = self.config.unfinished_bytes_max;
        let mut holders = self.peers();
        holders.retain(|peer| peer.unfinished.bytes.load(Ordering::Relaxed) > 0);
        holders.sort_by_cached_key(|peer| {
            let heard_ms = peer.received_ms.load(Ordering::Relaxed);
            std::cmp::Reverse(peer.unfinished.weight(heard_ms, now_ms))
        });
        for peer in holders {
            if self.unfinished_bytes() <= max - max / FREED_PART {
                return;
            }
            // It frees them when it is closed, and counts for nothing until then.
            let bytes = peer.unfinished.bytes.swap(0, Ordering::Relaxed);
            self.unfinished.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.unfinished.closed.fetch_add(1, Ordering::Relaxed);
            peer.close(resource_error(format!(
                "unfinished messages of all connections exceed limits.unfinished_bytes_max ({max} \
                 bytes); this one holds {bytes} bytes"
            )));
        }
    }
}

impl Connection {
    /// Counts what is begun and not complete, `rest` included, which is what the session cannot
    /// understand yet, if it had any to read; closes the connection when that makes no progress.
    pub(super) fn count_unfinished(&mut self, rest: Option<&[u8]>, now_ms: u64) {
        let Desk { broker, peer, .. } = &self.desk;
        if let Some(rest) = rest {
            self.session.note_partial_frame(rest);
            let partial = !rest.is_empty();
            peer.unfinished.partial.store(partial, Ordering::Relaxed);
            let counts = rest.len() >= PARTIAL_FRAME_BYTES_MIN;
            self.partial_frame_bytes = if counts { rest.len() } else { 0 };
        }
        let begun = self.phase.running().map_or(0, Running::unfinished_bytes);
        let bytes = self.session.unfinished_bytes() + self.partial_frame_bytes + begun;
        if bytes as u64 != peer.unfinished.bytes.load(Ordering::Relaxed) {
            broker.set_unfinished(peer, bytes as u64, now_ms);
        }
        if broker.is_due(peer, now_ms) {
            let oldest = self.session.oldest_part_ms();
            if let Some(fault) = broker.stalled(peer, oldest, now_ms) {
                self.fail(fault);
            }
        }
    }
}

impl Running {
    /// Bytes of transactions that are not committed, and of a message that has to wait.
    fn unfinished_bytes(&self) -> usize {
        let parked = self.parked.as_ref();
        let parked = parked.map_or(0, |(_, message)| message.body.capacity());
        self.shared.staged_bytes + parked
    }
}

impl Broker {
    /// Asked when a connection is due: why it has to be closed, if a message has made no progress
    /// for too long. `oldest_part_ms` is its session's.
    fn stalled(&self, peer: &Peer, oldest_part_ms: Option<u64>, now_ms: u64) -> Option<Fault> {
        let own = &peer.unfinished;
        if peer.is_blocked() || peer.paused.load(Ordering::Relaxed) {
            return None;
        }
        let heard = peer.received_ms.load(Ordering::Relaxed);
        let partial = own.partial.load(Ordering::Relaxed).then_some(heard);
        // Transactions may be as old as they like.
        let Some(oldest) = oldest_part_ms.into_iter().chain(partial).min() else {
            own.due_ms.store(0, Ordering::Relaxed);
            return None;
        };
        let since_ms = oldest.max(own.unread_ms.load(Ordering::Relaxed));
        let timeout_ms = self.config.body_timeout_ms;
        let due_ms = since_ms.saturating_add(timeout_ms);
        if oldest_part_ms.is_some() {
            own.due_ms.store(due_ms, Ordering::Relaxed);
        }
        if now_ms < due_ms {
            return None;
        }
        self.unfinished.stalled.fetch_add(1, Ordering::Relaxed);
        let seconds = timeout_ms / 1000;
        Some(resource_error(format!(
            "a message has made no progress for limits.body_timeout_s ({seconds} seconds)"
        )))
    }

    /// A connection ends.
    pub(super) fn forget_unfinished(&self, peer: &Peer) {
        self.set_unfinished(peer, 0, 0);
    }
}

fn resource_error(text: String) -> Fault {
    Fault::connection(HardCode::ResourceError, text, (0, 0))
}
