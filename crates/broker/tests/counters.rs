//! Everything that passes is counted once, where it passed.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_broker::{Event, HoldingCounts, MessageCounts};
use leveret_codec::{
    BasicAck, BasicCancel, BasicConsume, BasicGet, BasicNack, BasicReject, ChannelClose,
    ConfirmSelect, QueueDelete, RawTable,
};
use leveret_session::DeliveryCounts;
use leveret_store::InstantStore;
use support::{Client, broker};

fn get(client: &mut Client, no_ack: bool) -> String {
    client.say(
        1,
        BasicGet {
            queue: b"q",
            no_ack,
        },
    );
    client.hear().remove(0)
}

/// Publishes 7 messages in confirm mode and settles what comes of them in every way.
fn traffic(client: &mut Client) {
    client.declare(1, "q", false);
    client.say(1, ConfirmSelect { nowait: true });
    let long = "2".repeat(200);
    for body in ["1", &long, "3", "4", "5"] {
        client.publish(1, "q", body, false);
    }
    client.publish(1, "nowhere", "back", false);
    client.publish_optional(1, "nowhere", "gone");
    client.hear();
    assert_eq!(get(client, true), "1 basic.get-ok");
    assert_eq!(get(client, false), "1 basic.get-ok");
    let nack = BasicNack {
        delivery_tag: 2,
        multiple: false,
        requeue: true,
    };
    client.say(1, nack);
    client.say(
        1,
        BasicConsume {
            queue: b"q",
            consumer_tag: b"c",
            no_local: false,
            no_ack: false,
            exclusive: false,
            nowait: false,
            arguments: RawTable::EMPTY,
        },
    );
    let delivered = client.hear();
    let delivered = delivered
        .iter()
        .filter(|heard| heard.starts_with("1 deliver"));
    assert_eq!(delivered.count(), 4);
    let ack = BasicAck {
        delivery_tag: 4,
        multiple: true,
    };
    client.say(1, ack);
    let reject = BasicReject {
        delivery_tag: 5,
        requeue: false,
    };
    client.say(1, reject);
    assert_eq!(get(client, true), "1 basic.get-empty");
}

const COUNTS: MessageCounts = MessageCounts {
    published: 7,
    published_confirming: 7,
    confirmed: 7,
    returned: 1,
    dropped: 1,
    deliveries: DeliveryCounts {
        delivered: 4,
        delivered_no_ack: 0,
        got: 1,
        got_no_ack: 1,
        redelivered: 1,
    },
    got_empty: 1,
    acked: 2,
    rejected: 1,
    requeued: 1,
};

#[test]
fn a_channel_a_connection_a_queue_and_an_exchange_count_what_passed_them() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    traffic(&mut client);
    let peer = client.connection.peer().clone();
    assert_eq!(peer.message_counts(), COUNTS);
    let channels = peer.channels();
    let deliveries = peer.outlet.lock().delivery_counts(1);
    assert_eq!(channels[0].counts(deliveries), COUNTS);
    assert_eq!((channels[0].consumers.get(), channels.len()), (1, 2));
    let sizes = peer.size_counts();
    assert_eq!(
        (sizes.classes[0], sizes.classes[1], sizes.bytes),
        (6, 1, 212)
    );

    let vhost = broker.vhost("/").unwrap();
    let queue = *vhost.queue("q").unwrap().lock().queue.counters();
    assert_eq!((queue.published, queue.delivered, queue.got), (5, 4, 1));
    assert_eq!((queue.acked, queue.rejected, queue.requeued), (2, 1, 1));
    assert_eq!(
        (queue.got_no_ack, queue.got_empty, queue.redelivered),
        (1, 1, 1)
    );
    let directory = vhost.directory.read();
    let exchange = directory.router.exchange("").unwrap().counts();
    assert_eq!(exchange.published_in.load(Ordering::Relaxed), 7);
    assert_eq!(exchange.published_out.load(Ordering::Relaxed), 5);
}

#[test]
fn what_queues_hold_is_known_without_asking_them() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    traffic(&mut client);
    let vhost = broker.vhost("/").unwrap();
    let held = |ready, unacked, consumers| HoldingCounts {
        ready,
        unacked,
        consumers,
    };
    assert_eq!(vhost.holdings.get(), held(0, 1, 1));
    let cancel = BasicCancel {
        consumer_tag: b"c",
        nowait: true,
    };
    client.say(1, cancel);
    client.publish(1, "q", "ready", false);
    assert_eq!(vhost.holdings.get(), held(1, 1, 0));
    client.say(
        1,
        QueueDelete {
            queue: b"q",
            if_unused: false,
            if_empty: false,
            nowait: true,
        },
    );
    assert_eq!(vhost.holdings.get(), held(0, 0, 0));
}

#[test]
fn totals_survive_their_channels_and_connections() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    traffic(&mut client);
    let before = broker.totals();
    let close = ChannelClose {
        reply_code: 200,
        reply_text: b"",
        class_id: 0,
        method_id: 0,
    };
    client.say(1, close);
    let peer = client.connection.peer().clone();
    assert_eq!(peer.message_counts(), COUNTS);
    client.connection.disconnect();
    let after = broker.totals();
    assert_eq!((after.messages, after.sizes), (COUNTS, before.sizes));
    assert!(after.traffic.received_bytes > before.traffic.received_bytes);
    assert!(after.traffic.sent_bytes > 0 && after.traffic.writes > 0);
    for (event, times) in [
        (Event::ConnectionOpened, 1),
        (Event::ConnectionClosed, 1),
        (Event::ChannelOpened, 2),
        (Event::ChannelClosed, 2),
        (Event::QueueDeclared, 1),
        (Event::QueueCreated, 1),
        (Event::QueueDeleted, 0),
        (Event::LoginAccepted, 1),
        (Event::LoginRefused, 0),
    ] {
        assert_eq!(broker.events.get(event), times, "{event:?}");
    }
}
