//! One channel as its connection's reader sees it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use leveret_session::{Confirms, Outlet};
use leveret_store::Ticket;

use crate::cell::{Handle, Source};
use crate::held::Held;
use crate::publish::encode_confirm;
use crate::stats::ChannelStats;
use crate::transactions::Transaction;

/// Cancelled sources kept before the numbers of unused ones are given out again.
const CANCELLED_MIN: usize = 8;

/// Marks publishes whose records have not been handed to the store yet.
pub(crate) const UNSUBMITTED: u64 = u64::MAX;

#[derive(Default)]
pub(crate) struct Channel {
    pub(crate) stats: Arc<ChannelStats>,
    /// Present after `confirm.select`.
    pub(crate) confirms: Option<Confirms>,
    /// Stands in the connection's list of channels with something to confirm.
    pub(crate) confirming: bool,
    /// Consumer tag to source.
    pub(crate) consumers: HashMap<Box<[u8]>, u32>,
    pub(crate) sources: Vec<Source>,
    /// What an empty queue name means.
    pub(crate) last_queue: Option<Arc<str>>,
    /// Prefetch of consumers started from now on; 0 means no limit.
    pub(crate) prefetch: u16,
    /// Present after `tx.select`.
    pub(crate) transaction: Option<Box<Transaction>>,
    /// Answers that wait for the disk, and what waits behind them.
    pub(crate) held: VecDeque<(Ticket, Held)>,
}

impl Channel {
    pub(crate) fn new(stats: Arc<ChannelStats>) -> Self {
        Self {
            stats,
            ..Self::default()
        }
    }

    /// Gives a number to a new source; `in_use` lists the sources that deliveries in waiting name.
    pub(crate) fn add_source(&mut self, source: Source, in_use: impl FnOnce() -> Vec<u32>) -> u32 {
        let cancelled = self
            .sources
            .iter()
            .filter(|source| source.cancelled)
            .count();
        if cancelled >= CANCELLED_MIN && cancelled * 2 > self.sources.len() {
            let mut in_use = in_use();
            if let Some(transaction) = &self.transaction {
                in_use.extend(transaction.slots().map(|slot| slot.source));
            }
            let free = self.sources.iter().enumerate().position(|(index, source)| {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                source.cancelled && !in_use.contains(&index)
            });
            if let Some(free) = free
                && let Some(slot) = self.sources.get_mut(free)
            {
                *slot = source;
                return u32::try_from(free).unwrap_or(u32::MAX);
            }
        }
        self.sources.push(source);
        u32::try_from(self.sources.len() - 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn source(&self, index: u32) -> Option<&Source> {
        self.sources.get(index as usize)
    }

    /// Shows what waits for the commit.
    pub(crate) fn count_uncommitted(&self) {
        let transaction = self.transaction.as_deref();
        let (publishes, settlements) = transaction.map_or((0, 0), Transaction::len);
        self.stats.uncommitted.set(publishes as u64);
        self.stats.uncommitted_settlements.set(settlements as u64);
    }

    /// Sends the confirms that the store's watermark allows; tells whether the outlet is to be
    /// flushed.
    pub(crate) fn confirm(
        &mut self,
        number: u16,
        durable: Ticket,
        outlet: &mut Outlet<Arc<Handle>>,
    ) -> bool {
        let Some(confirms) = &mut self.confirms else {
            return false;
        };
        let mut first = false;
        confirms.emit(durable.0, |confirm| {
            first |= outlet.reply(|out| encode_confirm(out, number, confirm));
        });
        self.stats.confirmed.set(confirms.acked());
        self.stats.unconfirmed.set(confirms.outstanding());
        first
    }

    /// How many consumers there are, if that may be as many as `max`. Those that have ended with
    /// their queues are forgotten then, and whenever the table would have to grow.
    pub(crate) fn count_consumers(&mut self, max: usize) -> usize {
        let consumers = &mut self.consumers;
        if consumers.len() == consumers.capacity() || consumers.len() >= max {
            consumers.retain(|_, &mut index| {
                let source = self.sources.get_mut(index as usize);
                source.is_some_and(|source| {
                    source.cancelled |= source.is_over();
                    !source.cancelled
                })
            });
            consumers.reserve(consumers.len() + 1);
        }
        consumers.len()
    }

    /// Ends a consumer: its tag is free again, its deliveries in waiting stay.
    pub(crate) fn forget_consumer(&mut self, tag: &[u8]) -> Option<u32> {
        let index = self.consumers.remove(tag)?;
        if let Some(source) = self.sources.get_mut(index as usize) {
            source.cancelled = true;
        }
        Some(index)
    }
}
