//! The delivery state of one open channel: what its consumers may be given.

use crate::counts::DeliveryCounts;
use crate::line::Line;
use crate::outlet::{Leases, OutletLimits};
use crate::ring::UnackedRing;

/// The delivery state of one open channel.
#[derive(Debug)]
pub(crate) struct OutletChannel<W> {
    pub(crate) next_tag: u64,
    /// All but `delivered`, which the tags tell.
    pub(crate) counts: DeliveryCounts,
    pub(crate) unacked: UnackedRing,
    /// Those of `unacked` and `uncommitted` that were fetched with `basic.get`.
    pub(crate) fetched: usize,
    /// Deliveries whose settlement is in a transaction that is not committed: these count as
    /// unacknowledged still.
    pub(crate) uncommitted: usize,
    pub(crate) uncommitted_fetched: usize,
    /// The channel-wide prefetch: unacknowledged deliveries to consumers above which deliveries
    /// pause.
    pub(crate) prefetch: usize,
    /// Queues that wait until there is room.
    pub(crate) line: Line<W>,
    /// The queue whose turn it is, while others wait.
    pub(crate) granted: Option<usize>,
    /// The length of `unacked` at which deliveries pause, as follows from the limits,
    room: usize,
    /// and as long as nobody waits: those who do have their turn first.
    unacked_max: usize,
    /// Of deliveries that may not wait for their settlement as long as they like.
    pub(crate) leases: Leases,
}

impl<W> OutletChannel<W> {
    /// A channel that was just opened.
    pub(crate) fn new(limits: &OutletLimits) -> Self {
        Self {
            next_tag: 1,
            counts: DeliveryCounts::default(),
            unacked: UnackedRing::default(),
            fetched: 0,
            uncommitted: 0,
            uncommitted_fetched: 0,
            prefetch: usize::MAX,
            line: Line::default(),
            granted: None,
            room: limits.channel_unacked_max,
            unacked_max: limits.channel_unacked_max,
            leases: Leases::default(),
        }
    }

    /// Takes into account that fetched or uncommitted deliveries, the prefetch or the line have
    /// changed.
    pub(crate) fn judge_room(&mut self, limits: &OutletLimits) {
        let consumed = self.prefetch.saturating_add(self.fetched);
        let most = consumed.min(limits.channel_unacked_max);
        self.room = most.saturating_sub(self.uncommitted);
        self.unacked_max = if self.line.is_empty() { self.room } else { 0 };
    }

    /// Whether the limits allow one more.
    pub(crate) fn is_below_limits(&self) -> bool {
        self.unacked.len() < self.room
    }

    /// Lets those who wait be overtaken, until room is judged again.
    pub(crate) const fn open(&mut self) {
        self.unacked_max = self.room;
    }

    /// Whether any consumer may be given one more.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.unacked.len() < self.unacked_max
    }

    pub(crate) const fn counts(&self) -> DeliveryCounts {
        let DeliveryCounts {
            delivered_no_ack,
            got,
            got_no_ack,
            ..
        } = self.counts;
        DeliveryCounts {
            delivered: self.next_tag - 1 - delivered_no_ack - got - got_no_ack,
            ..self.counts
        }
    }
}
