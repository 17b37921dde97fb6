//! One channel as its connection's reader sees it.

pub(crate) mod consume;
pub(crate) mod exchanges;
pub(crate) mod held;
pub(crate) mod nacks;
pub(crate) mod open;
pub(crate) mod overdue;
pub(crate) mod publish;
pub(crate) mod queues;
pub(crate) mod replies;
pub(crate) mod room;
pub(crate) mod settle;
pub(crate) mod transactions;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use leveret_session::{Confirms, Outlet};
use leveret_store::Ticket;

use crate::channel::held::HeldFrames;
use crate::channel::publish::encode_confirm;
use crate::channel::transactions::Transaction;
use crate::context::stats::ChannelStats;
use crate::queue::cell::QueueCell;
use crate::queue::consumer::{DeliverySource, Handle};

/// Sources before the numbers of unused ones are given out again.
const SOURCES_MIN: usize = 16;
/// To find unused sources, every delivery in waiting is looked at: so many for each new source.
const DELIVERIES_OF_SOURCE: usize = 64;

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
    pub(crate) sources: Vec<DeliverySource>,
    /// Numbers of sources to be given out again.
    unused: Vec<u32>,
    /// So many sources there are before unused ones are looked for.
    sources_max: usize,
    /// What an empty queue name means.
    pub(crate) last_queue: Option<Arc<str>>,
    /// Where replies come in, once it has asked for them; deleted when it consumes them no more.
    pub(crate) replies: Option<Arc<QueueCell>>,
    /// Prefetch of consumers started from now on; 0 means no limit.
    pub(crate) prefetch: u16,
    /// Present after `tx.select`.
    pub(crate) transaction: Option<Box<Transaction>>,
    /// Answers that wait for the disk, and those behind them.
    pub(crate) held: VecDeque<HeldFrames>,
}

impl Channel {
    pub(crate) fn new(stats: Arc<ChannelStats>) -> Self {
        Self {
            stats,
            ..Self::default()
        }
    }

    /// Gives a number to a new source. `in_use` gives the sources that deliveries in waiting name,
    /// one for each delivery: it is asked so seldom that no single source costs more than a few.
    pub(crate) fn add_source<I: Iterator<Item = u32>>(
        &mut self,
        source: DeliverySource,
        in_use: impl FnOnce() -> I,
    ) -> u32 {
        if self.unused.is_empty() && self.sources.len() >= self.sources_max.max(SOURCES_MIN) {
            self.find_unused(in_use());
        }
        let unused = self.unused.pop();
        if let Some(slot) = unused.and_then(|number| self.sources.get_mut(number as usize)) {
            *slot = source;
        } else {
            self.sources.push(source);
        }
        unused.unwrap_or_else(|| u32::try_from(self.sources.len() - 1).unwrap_or(u32::MAX))
    }

    fn find_unused(&mut self, in_use: impl Iterator<Item = u32>) {
        let mut is_used = vec![false; self.sources.len()];
        let mut deliveries = 0;
        let staged = self
            .transaction
            .iter()
            .flat_map(|transaction| transaction.slots());
        for number in in_use.chain(staged.map(|slot| slot.source)) {
            deliveries += 1;
            if let Some(is_used) = is_used.get_mut(number as usize) {
                *is_used = true;
            }
        }
        for ((number, source), is_used) in (0..).zip(&mut self.sources).zip(is_used) {
            source.unused = source.cancelled && !is_used;
            if source.unused {
                self.unused.push(number);
            }
        }
        let used = self.sources.len() - self.unused.len();
        let more = used.max(deliveries / DELIVERIES_OF_SOURCE).max(SOURCES_MIN);
        self.sources_max = used + more;
    }

    pub(crate) fn source(&self, index: u32) -> Option<&DeliverySource> {
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
                    source.cancelled |= source.has_ended();
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use leveret_record::Memory;
    use leveret_router::QueueId;

    use super::*;
    use crate::queue::cell::{Home, QueueIdentity, StoreLanes};
    use crate::settings::arguments::InForce;
    use crate::settings::spec::QueueSpec;

    /// A source as `basic.get` has it.
    fn source(cell: &Arc<QueueCell>) -> DeliverySource {
        DeliverySource {
            cell: Arc::clone(cell),
            consumer: None,
            cancelled: true,
            own_timeout_ms: None,
            unused: false,
        }
    }

    fn cell() -> Arc<QueueCell> {
        let spec = QueueSpec::default();
        let defaults = crate::context::config::BrokerConfig::default().queue;
        let in_force = InForce::of(&spec, None, defaults);
        let home = Home {
            vhost: "/".into(),
            timer: Arc::default(),
            memory: Memory::default(),
            pager: Arc::default(),
        };
        let identity = QueueIdentity {
            name: "q".into(),
            id: QueueId(0),
            home,
        };
        Arc::new(QueueCell::new(
            identity,
            spec,
            StoreLanes::default(),
            in_force,
        ))
    }

    #[test]
    fn a_new_source_costs_little_however_many_deliveries_wait() {
        const WAITING: u32 = 100_000;
        const SOURCES: u64 = 5_000;
        let (mut channel, cell) = (Channel::default(), cell());
        let (looks, mut most) = (AtomicU64::new(0), 0);
        // All of the first, or one of each.
        for of_each in [false, true] {
            for _ in 0..SOURCES {
                let looked = || {
                    (0..WAITING).map(|at| {
                        looks.fetch_add(1, Ordering::Relaxed);
                        if of_each { at } else { 0 }
                    })
                };
                channel.add_source(source(&cell), looked);
                most = most.max(channel.sources.len());
            }
            let looks = looks.load(Ordering::Relaxed);
            assert!(looks < 200 * SOURCES, "{looks} looks for {SOURCES} sources");
        }
        assert!(most < 2 * SOURCES as usize, "{most} are kept");
    }

    #[test]
    fn numbers_are_given_out_again_but_those_that_deliveries_name() {
        let (mut channel, cell) = (Channel::default(), cell());
        for _ in 0..SOURCES_MIN {
            channel.add_source(source(&cell), std::iter::empty);
        }
        let mut again: Vec<_> = (0..SOURCES_MIN)
            .map(|_| channel.add_source(source(&cell), || [3, 5, 3].into_iter()))
            .collect();
        again.sort_unstable();
        let end = SOURCES_MIN as u32;
        let free = (0..end).filter(|number| ![3, 5].contains(number));
        assert_eq!(again, free.chain([end, end + 1]).collect::<Vec<_>>());
    }
}
