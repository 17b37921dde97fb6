//! A consumer as its queue sees it, and the outlet it is served through.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leveret_codec::{BasicCancel, DeliverTemplate, Method, RawTable, Table};
use leveret_queue::ConsumerKey;
use leveret_session::Outlet;
use parking_lot::Mutex;

use crate::context::client::Client;
use crate::context::stats::ChannelStats;
use crate::queue::cell::QueueCell;
use crate::queue::effects::Effects;
use crate::queue::lease::DeliveryWatch;

/// A connection's outlet, shared by everyone who writes to it.
pub type SharedOutlet = Arc<Mutex<Outlet<Arc<Handle>>>>;

/// A consumer as its queue holds it.
pub struct Handle {
    /// Whose it is.
    pub client: Arc<Client>,
    /// Its connection's outlet.
    pub outlet: SharedOutlet,
    /// The number of the channel that its deliveries are on.
    pub channel: u16,
    /// Its number among the channel's sources of deliveries.
    pub source: u32,
    /// Its queue.
    pub cell: Arc<QueueCell>,
    /// Consumer tag.
    pub tag: Box<[u8]>,
    /// `basic.consume` arguments.
    pub(crate) arguments: KeptArguments,
    /// How long a delivery may wait for its settlement, if it does not leave that to the queue.
    pub(crate) own_timeout_ms: Option<u64>,
    /// When its connection has to look at its deliveries.
    pub(crate) leases: Arc<DeliveryWatch>,
    /// Where its channel counts it.
    pub(crate) stats: Arc<ChannelStats>,
    pub(crate) template: DeliverTemplate,
    /// Stands in its outlet's list of those that wait for fewer outbound bytes.
    pub(crate) waiting: AtomicBool,
    /// Its queue is one of direct reply-to.
    pub(crate) replies: bool,
    /// Its queue has had it.
    pub(crate) ended: AtomicBool,
}

/// What a consumer was started with; its connection counts the bytes while they are kept.
pub(crate) struct KeptArguments {
    client: Arc<Client>,
    table: Table,
}

impl KeptArguments {
    pub(crate) fn new(client: &Arc<Client>, arguments: RawTable<'_>) -> Self {
        let (client, table) = (Arc::clone(client), arguments.to_table());
        let bytes = table.as_raw().as_bytes().len();
        client.arguments_bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { client, table }
    }
}

impl Drop for KeptArguments {
    fn drop(&mut self) {
        let bytes = self.table.as_raw().as_bytes().len();
        self.client
            .arguments_bytes
            .fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Handle {
    /// `basic.consume` arguments.
    #[must_use]
    pub fn arguments(&self) -> RawTable<'_> {
        self.arguments.table.as_raw()
    }

    /// Its queue has it. As in no list, a consumer of replies is in no count.
    pub(crate) fn joined(&self) {
        let _outlet = self.outlet.lock();
        self.stats.consumers.add(u64::from(!self.replies));
    }

    /// What tells its client that its queue is gone, if that wants to know.
    pub(crate) fn cancel(&self) -> Option<BasicCancel<'_>> {
        let cancel = BasicCancel {
            consumer_tag: &self.tag,
            nowait: true,
        };
        self.client
            .cancel_notify
            .load(Ordering::Relaxed)
            .then_some(cancel)
    }

    /// What its queue is known by where that waits for room on a channel.
    pub(crate) fn queue(&self) -> usize {
        Arc::as_ptr(&self.cell).addr()
    }

    /// Its queue has it no more, and is pumped if it has others: these may still wait for room.
    pub(crate) fn end(&self) {
        let mut outlet = self.outlet.lock();
        outlet.leave_line(self.channel, self.queue());
        self.stats.consumers.subtract(u64::from(!self.replies));
        self.ended.store(true, Ordering::Release);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Where deliveries of a channel come from: a consumer, or `basic.get` on a queue.
pub(crate) struct DeliverySource {
    pub(crate) cell: Arc<QueueCell>,
    /// `None` for `basic.get` and for a cancelled consumer.
    pub(crate) consumer: Option<ConsumerKey>,
    pub(crate) cancelled: bool,
    /// How long a delivery may wait for its settlement, if that is not left to the queue.
    pub(crate) own_timeout_ms: Option<u64>,
    /// Its number is to be given out again.
    pub(crate) unused: bool,
}

impl DeliverySource {
    /// Whether its consumer has ended with its queue.
    pub(crate) fn has_ended(&self) -> bool {
        // Under the queue's lock: whoever deletes it has told the client by then.
        self.cell.is_deleted()
            && self
                .consumer
                .is_some_and(|key| self.cell.lock().queue.consumer(key).is_none())
    }
}

/// Tells a consumer's client that its queue is gone, if it wants to know.
pub(crate) fn tell_end(handle: &Handle, effects: &mut Effects) {
    let Some(cancel) = handle.cancel() else {
        return;
    };
    let mut outlet = handle.outlet.lock();
    if outlet.is_open(handle.channel) {
        effects.reply(&mut outlet, |out| {
            Method::from(cancel).encode(handle.channel, out);
        });
    }
}
