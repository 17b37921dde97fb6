//! The delivery state of one open channel: what its consumers may be given.

use crate::counts::DeliveryCounts;
use crate::outlet::OutletLimits;
use crate::ring::Ring;

/// The delivery state of one open channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) next_tag: u64,
    /// All but `delivered`, which the tags tell.
    pub(crate) counts: DeliveryCounts,
    pub(crate) unacked: Ring,
    /// Those of `unacked` and `uncommitted` that were fetched with `basic.get`.
    pub(crate) fetched: usize,
    /// Deliveries whose settlement is in a transaction that is not committed: these count as
    /// unacknowledged still.
    pub(crate) uncommitted: usize,
    pub(crate) uncommitted_fetched: usize,
    /// The channel-wide prefetch: unacknowledged deliveries to consumers above which deliveries
    /// pause.
    pub(crate) prefetch: usize,
    /// The length of `unacked` at which they pause, as follows from all these.
    unacked_max: usize,
}

impl Channel {
    /// A channel that was just opened.
    pub(crate) fn new(limits: &OutletLimits) -> Self {
        Self {
            next_tag: 1,
            counts: DeliveryCounts::default(),
            unacked: Ring::default(),
            fetched: 0,
            uncommitted: 0,
            uncommitted_fetched: 0,
            prefetch: usize::MAX,
            unacked_max: limits.channel_unacked_max,
        }
    }

    /// Takes into account that fetched or uncommitted deliveries or the prefetch have changed.
    pub(crate) fn judge_room(&mut self, limits: &OutletLimits) {
        let consumed = self.prefetch.saturating_add(self.fetched);
        let most = consumed.min(limits.channel_unacked_max);
        self.unacked_max = most.saturating_sub(self.uncommitted);
    }

    /// Whether a consumer may be given one more.
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
