//! Everything that passes is counted once, where it passed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::support::{Client, broker, declaration, optional};
use leveret_broker::{Broker, Churn, HoldingCounts, MessageCounts, Reason};
use leveret_codec::{
    BasicAck, BasicCancel, BasicConsume, BasicGet, BasicNack, BasicReject, ChannelClose,
    ConfirmSelect, ExchangeDeclare, Method, QueueBind, QueueDeclare, QueueDelete, RawTable, Table,
    TxCommit, TxRollback, TxSelect, Value,
};
use leveret_session::DeliveryCounts;
use leveret_store::InstantStore;

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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Confirms,
    Transactions,
}

/// Publishes 7 messages and settles what comes of them in every way.
fn traffic(client: &mut Client, mode: Mode) {
    client.declare(1, "q", false);
    match mode {
        Mode::Confirms => client.say(1, ConfirmSelect { nowait: true }),
        Mode::Transactions => client.say(1, TxSelect {}),
    }
    let commit = |client: &mut Client| {
        if mode == Mode::Transactions {
            client.say(1, TxCommit {});
        }
    };
    let long = "2".repeat(200);
    for body in ["1", &long, "3", "4", "5"] {
        client.publish(1, "q", body, false);
    }
    client.publish(1, "nowhere", "back", false);
    client.publish_optional(1, "nowhere", "gone");
    commit(client);
    client.hear();
    assert_eq!(get(client, true), "1 basic.get-ok");
    assert_eq!(get(client, false), "1 basic.get-ok");
    let nack = BasicNack {
        delivery_tag: 2,
        multiple: false,
        requeue: true,
    };
    client.say(1, nack);
    commit(client);
    client.say(
        1,
        BasicConsume {
            queue: b"q",
            consumer_tag: b"c",
            ..Default::default()
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
    commit(client);
    client.hear();
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
        timed_out: 0,
        late: 0,
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
    traffic(&mut client, Mode::Confirms);
    assert_counted(&broker, &client, COUNTS);
}

#[test]
fn transactions_are_counted_as_everything_else_once_they_are_committed() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    traffic(&mut client, Mode::Transactions);
    let counts = MessageCounts {
        published_confirming: 0,
        confirmed: 0,
        ..COUNTS
    };
    assert_counted(&broker, &client, counts);

    // What is rolled back, and what its channel takes with it, never was.
    let nack = BasicNack {
        delivery_tag: 6,
        ..Default::default()
    };
    for end in [Method::from(TxRollback {}), ChannelClose::default().into()] {
        for queue in ["q", "nowhere"] {
            client.publish(1, queue, "never", false);
        }
        client.say(1, nack);
        client.say(1, end);
    }
    assert_eq!(client.connection.peer().message_counts(), counts);
    let counters = *broker
        .vhost("/")
        .unwrap()
        .queue("q")
        .unwrap()
        .lock()
        .queue
        .counters();
    assert_eq!((counters.published, counters.rejected), (5, 1));
}

#[test]
fn a_refused_commit_is_refused_by_its_queue() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    let mut arguments = Table::default();
    arguments.insert("x-max-length", Value::I32(2));
    arguments.insert(
        "x-overflow",
        Value::LongString(b"reject-publish-dlx".to_vec()),
    );
    let arguments = arguments.encoded();
    let declare = QueueDeclare {
        arguments: RawTable::parse(&arguments).unwrap(),
        ..declaration("q", false)
    };
    client.say(1, declare);
    client.say(1, TxSelect {});
    for _ in 0..3 {
        client.publish(1, "q", "too many", false);
    }
    client.say(1, TxCommit {});
    let heard = client.hear();
    assert!(heard[2].starts_with("1 close 406"), "{heard:?}");
    let queue = *broker
        .vhost("/")
        .unwrap()
        .queue("q")
        .unwrap()
        .lock()
        .queue
        .counters();
    assert_eq!((queue.published, queue.refused), (0, 3));
    assert_eq!(broker.totals().messages, MessageCounts::default());
}

/// By the exchange it was published to, which is not the one whose queue refused it.
#[test]
fn what_is_refused_behind_an_alternate_exchange_is_counted_too() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    let mut limits = Table::default();
    limits.insert("x-max-length", Value::I32(1));
    limits.insert("x-overflow", Value::LongString(b"reject-publish".to_vec()));
    let limits = limits.encoded();
    let declare = QueueDeclare {
        arguments: RawTable::parse(&limits).unwrap(),
        ..declaration("full", false)
    };
    assert_eq!(client.ask(1, declare), "1 queue.declare-ok");
    let bind = QueueBind {
        queue: b"full",
        exchange: b"amq.fanout",
        ..Default::default()
    };
    assert_eq!(client.ask(1, bind), "1 queue.bind-ok");
    let mut alternate = Table::default();
    alternate.insert(
        "alternate-exchange",
        Value::LongString(b"amq.fanout".to_vec()),
    );
    let alternate = alternate.encoded();
    let declare = ExchangeDeclare {
        exchange: b"e",
        kind: b"direct",
        arguments: RawTable::parse(&alternate).unwrap(),
        ..Default::default()
    };
    assert_eq!(client.ask(1, declare), "1 exchange.declare-ok");
    for _ in 0..3 {
        client.publish_to_exchange(1, "e", "nowhere");
    }
    assert_eq!(broker.refused.total(Reason::Length), 2);
    let noted = broker.refused.take_noted().places;
    let (place, messages) = noted.first_key_value().unwrap();
    assert_eq!(
        (&*place.exchange, &*place.queue, *messages),
        ("e", "full", 2)
    );
    let vhost = broker.vhost("/").unwrap();
    let directory = vhost.directory.read();
    let refused = |exchange| {
        let counts = directory.router.exchange(exchange).unwrap().counts();
        counts.refused.load(Ordering::Relaxed)
    };
    assert_eq!(["e", "amq.fanout"].map(refused), [2, 0]);
}

/// What [`traffic`] comes to, wherever it is counted.
fn assert_counted(broker: &Broker, client: &Client, counts: MessageCounts) {
    let peer = client.connection.peer();
    assert_eq!(peer.message_counts(), counts);
    let channels = peer.channels();
    let deliveries = peer.outlet.lock().delivery_counts(1);
    assert_eq!(channels[0].counts(deliveries), counts);
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
    let (returned, dropped) = (counts.returned, counts.dropped);
    assert_eq!(exchange.returned.load(Ordering::Relaxed), returned);
    assert_eq!(exchange.dropped.load(Ordering::Relaxed), dropped);
}

#[test]
fn confirms_that_come_just_before_the_end_of_their_channel_are_counted() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    client.say(1, ConfirmSelect { nowait: true });
    client.hear();
    let mut bytes = optional(1, "q");
    Method::from(ChannelClose::default()).encode(1, &mut bytes);
    client.send(&bytes);
    assert_eq!(client.hear(), ["1 ack 1", "1 channel.close-ok"]);
    assert_eq!(client.connection.peer().message_counts().confirmed, 1);
    assert_eq!(broker.totals().messages.confirmed, 1);
}

#[test]
fn what_queues_hold_is_known_without_asking_them() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    traffic(&mut client, Mode::Confirms);
    let vhost = broker.vhost("/").unwrap();
    let held = |ready, unacked, consumers, bytes| HoldingCounts {
        ready,
        unacked,
        consumers,
        bytes,
    };
    assert_eq!(vhost.holdings.get(), held(0, 1, 1, 1));
    let cancel = BasicCancel {
        consumer_tag: b"c",
        nowait: true,
    };
    client.say(1, cancel);
    client.publish(1, "q", "ready", false);
    assert_eq!(vhost.holdings.get(), held(1, 1, 0, 6));
    client.say(
        1,
        QueueDelete {
            queue: b"q",
            nowait: true,
            ..Default::default()
        },
    );
    assert_eq!(vhost.holdings.get(), held(0, 0, 0, 0));
}

#[test]
fn totals_survive_their_channels_and_connections() {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    traffic(&mut client, Mode::Confirms);
    let before = broker.totals();
    client.say(1, ChannelClose::default());
    let peer = client.connection.peer().clone();
    assert_eq!(peer.message_counts(), COUNTS);
    client.connection.disconnect();
    let after = broker.totals();
    assert_eq!((after.messages, after.sizes), (COUNTS, before.sizes));
    assert!(after.traffic.received_bytes > before.traffic.received_bytes);
    assert!(after.traffic.sent_bytes > 0 && after.traffic.writes > 0);
    for (event, times) in [
        (Churn::ConnectionOpened, 1),
        (Churn::ConnectionClosed, 1),
        (Churn::ChannelOpened, 2),
        (Churn::ChannelClosed, 2),
        (Churn::QueueDeclared, 1),
        (Churn::QueueCreated, 1),
        (Churn::QueueDeleted, 0),
        (Churn::LoginAccepted, 1),
        (Churn::LoginRefused, 0),
    ] {
        assert_eq!(broker.events.get(event), times, "{event:?}");
    }
}
