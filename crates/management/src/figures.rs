//! What is told of single objects: names, kinds, help and values, as RabbitMQ has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_broker::{ChannelStats, MessageCounts, Peer, QueueCell, Vhost};
use leveret_router::{ExchangeCounts, ExchangeKind};

/// A value of each object of a kind.
pub(crate) struct Metric<T: ?Sized + 'static> {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) help: &'static str,
    pub(crate) value: fn(&T) -> f64,
}

const fn gauge<T: ?Sized>(
    name: &'static str,
    help: &'static str,
    value: fn(&T) -> f64,
) -> Metric<T> {
    Metric {
        name,
        kind: "gauge",
        help,
        value,
    }
}

const fn counter<T: ?Sized>(
    name: &'static str,
    help: &'static str,
    value: fn(&T) -> f64,
) -> Metric<T> {
    Metric {
        name,
        kind: "counter",
        help,
        value,
    }
}

pub(crate) type OfQueue = (Arc<Vhost>, Arc<QueueCell>);

pub(crate) const QUEUE_INFO: [Metric<OfQueue>; 1] = [gauge(
    "queue_info",
    "A metric with a constant '1' value and labels that provide some queue details",
    |_| 1.0,
)];

pub(crate) const PUBLISHED: [Metric<OfQueue>; 1] = [counter(
    "queue_messages_published_total",
    "Total number of messages published into a queue through an exchange on a channel",
    |(_, cell)| cell.lock().queue.counters().published as f64,
)];

pub(crate) const QUEUE_COARSE: [Metric<OfQueue>; 3] = [
    gauge(
        "queue_messages_ready",
        "Messages ready to be delivered to consumers",
        |(_, cell)| cell.lock().queue.ready() as f64,
    ),
    gauge(
        "queue_messages_unacked",
        "Messages delivered to consumers but not yet acknowledged",
        |(_, cell)| cell.lock().queue.unacked() as f64,
    ),
    gauge(
        "queue_messages",
        "Sum of ready and unacknowledged messages - total queue depth",
        |(_, cell)| held(cell) as f64,
    ),
];

/// What adds up.
pub(crate) const QUEUE_HELD: [Metric<OfQueue>; 12] = [
    gauge("queue_consumers", "Consumers on a queue", |(_, cell)| {
        cell.lock().queue.consumer_count() as f64
    }),
    gauge(
        "queue_process_memory_bytes",
        "Memory in bytes used by the Erlang queue process",
        |(_, cell)| (cell.lock().queue.resident_bytes() + size_of::<QueueCell>()) as f64,
    ),
    gauge(
        "queue_messages_ram",
        "Ready and unacknowledged messages stored in memory",
        |(_, cell)| in_memory(cell).0 as f64,
    ),
    gauge(
        "queue_messages_ram_bytes",
        "Size of ready and unacknowledged messages stored in memory",
        |(_, cell)| in_memory(cell).1 as f64,
    ),
    gauge(
        "queue_messages_ready_ram",
        "Ready messages stored in memory",
        |(_, cell)| in_memory(cell).2 as f64,
    ),
    gauge(
        "queue_messages_unacked_ram",
        "Unacknowledged messages stored in memory",
        |(_, cell)| cell.lock().queue.unacked() as f64,
    ),
    gauge(
        "queue_messages_paged_out",
        "Messages paged out to disk",
        |(_, cell)| cell.lock().queue.paged_out().messages as f64,
    ),
    gauge(
        "queue_messages_paged_out_bytes",
        "Size in bytes of messages paged out to disk",
        |(_, cell)| cell.lock().queue.paged_out().bytes as f64,
    ),
    gauge(
        "queue_messages_bytes",
        "Size in bytes of ready and unacknowledged messages",
        |(_, cell)| held_bytes(cell) as f64,
    ),
    gauge(
        "queue_messages_ready_bytes",
        "Size in bytes of ready messages",
        |(_, cell)| cell.lock().queue.ready_bytes() as f64,
    ),
    gauge(
        "queue_messages_unacked_bytes",
        "Size in bytes of all unacknowledged messages",
        |(_, cell)| cell.lock().queue.unacked_bytes() as f64,
    ),
    // Ours: RabbitMQ does not tell what a full queue cost.
    counter(
        "queue_messages_dropped_total",
        "Total number of messages dropped from the head of a full queue",
        |(_, cell)| cell.lock().queue.counters().dropped as f64,
    ),
];

pub(crate) const QUEUE_ALONE: [Metric<OfQueue>; 5] = [
    // Ours: RabbitMQ does not know when a message came.
    gauge(
        "queue_oldest_message_age_seconds",
        "How long the message has waited that came first",
        |(_, cell)| cell.oldest_age_ms().unwrap_or(0) as f64 / 1000.0,
    ),
    gauge(
        "queue_consumer_capacity",
        "Consumer capacity",
        |(_, cell)| capacity(cell),
    ),
    gauge(
        "queue_consumer_utilisation",
        "Same as consumer capacity",
        |(_, cell)| capacity(cell),
    ),
    counter(
        "queue_messages_refused_total",
        "Total number of publishes refused because the queue was full",
        |(_, cell)| cell.lock().queue.counters().refused as f64,
    ),
    counter(
        "queue_flow_seconds_total",
        "Total time that publishers had to wait until the queue was short, all together",
        |(_, cell)| cell.lock().flow_ms() as f64 / 1000.0,
    ),
];

pub(crate) const QUEUE_DELIVERY: [Metric<OfQueue>; 7] = [
    counter(
        "queue_get_ack_total",
        "Total number of messages fetched from a queue with basic.get in manual acknowledgement \
         mode",
        |(_, cell)| cell.lock().queue.counters().got as f64,
    ),
    counter(
        "queue_get_total",
        "Total number of messages fetched from a queue with basic.get in automatic \
         acknowledgement mode",
        |(_, cell)| cell.lock().queue.counters().got_no_ack as f64,
    ),
    counter(
        "queue_messages_delivered_ack_total",
        "Total number of messages delivered from a queue to consumers in manual acknowledgement \
         mode",
        |(_, cell)| cell.lock().queue.counters().delivered as f64,
    ),
    counter(
        "queue_messages_delivered_total",
        "Total number of messages delivered from a queue to consumers in automatic \
         acknowledgement mode",
        |(_, cell)| cell.lock().queue.counters().delivered_no_ack as f64,
    ),
    counter(
        "queue_messages_redelivered_total",
        "Total number of messages redelivered from a queue to consumers",
        |(_, cell)| cell.lock().queue.counters().redelivered as f64,
    ),
    counter(
        "queue_messages_acked_total",
        "Total number of messages acknowledged by consumers on a queue",
        |(_, cell)| cell.lock().queue.counters().acked as f64,
    ),
    counter(
        "queue_get_empty_total",
        "Total number of times basic.get operations fetched no message on a queue",
        |(_, cell)| cell.lock().queue.counters().got_empty as f64,
    ),
];

fn held(cell: &QueueCell) -> u64 {
    let state = cell.lock();
    state.queue.ready() + state.queue.unacked()
}

/// Messages in memory, the bytes of their bodies, and how many of them are ready.
fn in_memory(cell: &QueueCell) -> (u64, u64, u64) {
    let state = cell.lock();
    let (queue, away) = (&state.queue, state.queue.paged_out());
    let ready = queue.ready().saturating_sub(away.messages);
    let bytes = (queue.ready_bytes() + queue.unacked_bytes()).saturating_sub(away.bytes);
    (ready + queue.unacked(), bytes, ready)
}

fn held_bytes(cell: &QueueCell) -> u64 {
    let state = cell.lock();
    state.queue.ready_bytes() + state.queue.unacked_bytes()
}

fn capacity(cell: &QueueCell) -> f64 {
    let state = cell.lock();
    let can_take = state.queue.has_credit() || state.queue.ready() == 0;
    f64::from(u8::from(state.queue.consumer_count() > 0 && can_take))
}

/// An open channel.
pub(crate) struct ChannelFigures {
    pub(crate) peer: Arc<Peer>,
    pub(crate) stats: Arc<ChannelStats>,
}

impl ChannelFigures {
    fn counts(&self) -> MessageCounts {
        let outlet = self.peer.outlet.lock();
        let deliveries = outlet.delivery_counts(self.stats.number);
        drop(outlet);
        self.stats.counts(deliveries)
    }

    pub(crate) fn name(&self) -> String {
        format!("{} ({})", self.peer.client.name, self.stats.number)
    }
}

pub(crate) const CHANNEL: [Metric<ChannelFigures>; 7] = [
    gauge("channel_consumers", "Consumers on a channel", |of| {
        of.stats.consumers.get() as f64
    }),
    gauge(
        "channel_messages_unacked",
        "Delivered but not yet acknowledged messages",
        |of| of.peer.outlet.lock().unacked(of.stats.number) as f64,
    ),
    gauge(
        "channel_messages_unconfirmed",
        "Published but not yet confirmed messages",
        |of| of.stats.unconfirmed.get() as f64,
    ),
    gauge(
        "channel_messages_uncommitted",
        "Messages received in a transaction but not yet committed",
        |of| of.stats.uncommitted.get() as f64,
    ),
    gauge(
        "channel_acks_uncommitted",
        "Message acknowledgements in a transaction not yet committed",
        |of| of.stats.uncommitted_settlements.get() as f64,
    ),
    gauge(
        "consumer_prefetch",
        "Limit of unacknowledged messages for each consumer",
        |of| of.stats.prefetch.get() as f64,
    ),
    gauge(
        "channel_prefetch",
        "Total limit of unacknowledged messages for all consumers on a channel",
        |of| of.stats.channel_prefetch.get() as f64,
    ),
];

/// RabbitMQ tells exchanges apart too.
pub(crate) const CHANNEL_EXCHANGE: [Metric<ChannelFigures>; 4] = [
    counter(
        "channel_messages_published_total",
        "Total number of messages published into an exchange on a channel",
        |of| of.stats.published.get() as f64,
    ),
    counter(
        "channel_messages_confirmed_total",
        "Total number of messages published into an exchange and confirmed on the channel",
        |of| of.stats.confirmed.get() as f64,
    ),
    counter(
        "channel_messages_unroutable_returned_total",
        "Total number of messages published as mandatory into an exchange and returned to the \
         publisher as unroutable",
        |of| of.stats.returned.get() as f64,
    ),
    counter(
        "channel_messages_unroutable_dropped_total",
        "Total number of messages published as non-mandatory into an exchange and dropped as \
         unroutable",
        |of| of.stats.dropped.get() as f64,
    ),
];

/// RabbitMQ tells queues apart too.
pub(crate) const CHANNEL_QUEUE: [Metric<ChannelFigures>; 7] = [
    counter(
        "channel_get_ack_total",
        "Total number of messages fetched with basic.get in manual acknowledgement mode",
        |of| of.counts().deliveries.got as f64,
    ),
    counter(
        "channel_get_total",
        "Total number of messages fetched with basic.get in automatic acknowledgement mode",
        |of| of.counts().deliveries.got_no_ack as f64,
    ),
    counter(
        "channel_messages_delivered_ack_total",
        "Total number of messages delivered to consumers in manual acknowledgement mode",
        |of| of.counts().deliveries.delivered as f64,
    ),
    counter(
        "channel_messages_delivered_total",
        "Total number of messages delivered to consumers in automatic acknowledgement mode",
        |of| of.counts().deliveries.delivered_no_ack as f64,
    ),
    counter(
        "channel_messages_redelivered_total",
        "Total number of messages redelivered to consumers",
        |of| of.counts().deliveries.redelivered as f64,
    ),
    counter(
        "channel_messages_acked_total",
        "Total number of messages acknowledged by consumers",
        |of| of.stats.acked.get() as f64,
    ),
    counter(
        "channel_get_empty_total",
        "Total number of times basic.get operations fetched no message",
        |of| of.stats.got_empty.get() as f64,
    ),
];

pub(crate) const CONNECTION_COARSE: [Metric<Arc<Peer>>; 2] = [
    counter(
        "connection_incoming_bytes_total",
        "Total number of bytes received on a connection",
        |peer| peer.traffic().received_bytes as f64,
    ),
    counter(
        "connection_outgoing_bytes_total",
        "Total number of bytes sent on a connection",
        |peer| peer.traffic().sent_bytes as f64,
    ),
];

pub(crate) const CONNECTION: [Metric<Arc<Peer>>; 5] = [
    counter(
        "connection_incoming_packets_total",
        "Total number of packets received on a connection",
        |peer| peer.traffic().reads as f64,
    ),
    counter(
        "connection_outgoing_packets_total",
        "Total number of packets sent on a connection",
        |peer| peer.traffic().writes as f64,
    ),
    // Bytes, here and there.
    gauge(
        "connection_pending_packets",
        "Number of packets waiting to be sent on a connection",
        |peer| peer.outlet.lock().queued() as f64,
    ),
    gauge("connection_channels", "Channels on a connection", |peer| {
        peer.channel_count() as f64
    }),
    // Ours.
    counter(
        "connection_flow_seconds_total",
        "Total time that a connection's publishing was slowed down",
        |peer| peer.flow_ms() as f64 / 1000.0,
    ),
];

/// An exchange, by its name and counters.
pub(crate) type OfExchange = (Arc<Vhost>, (Box<str>, Arc<ExchangeCounts>));

pub(crate) const EXCHANGE: [Metric<OfExchange>; 4] = [
    counter(
        "exchange_messages_published_total",
        "Total number of messages published into an exchange",
        |(_, (_, counts))| read(&counts.published_in),
    ),
    counter(
        "exchange_messages_unroutable_returned_total",
        "Total number of messages published as mandatory into an exchange and returned to the \
         publisher as unroutable",
        |(_, (_, counts))| read(&counts.returned),
    ),
    counter(
        "exchange_messages_unroutable_dropped_total",
        "Total number of messages published as non-mandatory into an exchange and dropped as \
         unroutable",
        |(_, (_, counts))| read(&counts.dropped),
    ),
    // Ours, as for queues.
    counter(
        "exchange_messages_refused_total",
        "Total number of messages published into an exchange and refused by a queue",
        |(_, (_, counts))| read(&counts.refused),
    ),
];

fn read(count: &AtomicU64) -> f64 {
    count.load(Ordering::Relaxed) as f64
}

/// An exchange with its type.
pub(crate) struct OfType {
    pub(crate) vhost: Arc<Vhost>,
    pub(crate) name: Box<str>,
    pub(crate) kind: ExchangeKind,
    pub(crate) bindings: u64,
}

pub(crate) const EXCHANGE_NAME: Metric<OfType> = gauge(
    "cluster_exchange_name",
    "Enumerates exchanges without any additional info. This value is cluster-wide. A cheaper \
     alternative to `exchange_bindings`",
    |_| 1.0,
);

pub(crate) const EXCHANGE_BINDINGS: Metric<OfType> = gauge(
    "cluster_exchange_bindings",
    "Number of bindings for an exchange. This value is cluster-wide.",
    |exchange| exchange.bindings as f64,
);

pub(crate) const VHOST_STATUS: Metric<Arc<Vhost>> = gauge(
    "cluster_vhost_status",
    "Whether a given vhost is running",
    |_| 1.0,
);
