//! The tx class: what a commit does at once, what a rollback undoes, and what refuses it.

use std::sync::Arc;

use leveret_broker::{Broker, BrokerConfig};
use leveret_codec::{
    BasicAck, BasicGet, BasicNack, BasicQos, ChannelClose, ConfirmSelect, RawTable, Table,
    TxCommit, TxRollback, TxSelect, Value,
};
use leveret_store::{InstantStore, StoreRefusal};

use crate::support::store::DelayedStore;
use crate::support::{self, Client, broker, broker_with, declaration};

const NOTHING: [&str; 0] = [];

fn start() -> (Arc<Broker>, Client) {
    let broker = broker(Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", true);
    client.say(1, TxSelect {});
    assert_eq!(client.hear(), ["1 queue.declare-ok", "1 tx.select-ok"]);
    (broker, client)
}

fn get(queue: &str) -> BasicGet<'_> {
    BasicGet {
        queue: queue.as_bytes(),
        no_ack: false,
    }
}

fn ack(delivery_tag: u64, multiple: bool) -> BasicAck {
    BasicAck {
        delivery_tag,
        multiple,
    }
}

/// The state of a queue, seen by somebody else: messages that are ready.
fn ready(broker: &Broker, queue: &str) -> (u64, u64) {
    let cell = broker.vhost("/").and_then(|vhost| vhost.queue(queue));
    let cell = cell.expect("it exists");
    let state = cell.lock();
    (state.queue.ready(), state.queue.unacked())
}

#[test]
fn a_commit_publishes_and_settles_and_a_rollback_forgets_both() {
    let (broker, mut client) = start();
    client.publish(1, "q", "one", true);
    client.publish(1, "q", "two", false);
    assert_eq!(ready(&broker, "q"), (0, 0));
    client.say(1, TxCommit {});
    assert_eq!(client.hear(), ["1 tx.commit-ok"]);
    assert_eq!(ready(&broker, "q"), (2, 0));

    client.say(1, get("q"));
    client.say(1, ack(1, false));
    client.publish(1, "q", "three", true);
    assert_eq!(ready(&broker, "q"), (1, 1));
    client.say(1, TxRollback {});
    let heard = ["1 basic.get-ok", "body one", "1 tx.rollback-ok"];
    assert_eq!(client.hear(), heard);
    // The delivery is out as before, under its tag.
    assert_eq!(ready(&broker, "q"), (1, 1));
    client.say(1, ack(1, false));
    client.say(1, TxCommit {});
    assert_eq!(client.hear(), ["1 tx.commit-ok"]);
    assert_eq!(ready(&broker, "q"), (1, 0));
}

#[test]
fn rejections_wait_for_the_commit_too() {
    let (broker, mut client) = start();
    for body in ["one", "two", "three"] {
        client.publish(1, "q", body, true);
    }
    client.say(1, TxCommit {});
    for _ in 0..3 {
        client.say(1, get("q"));
    }
    let nack = BasicNack {
        delivery_tag: 2,
        multiple: true,
        requeue: true,
    };
    client.say(1, nack);
    assert_eq!(ready(&broker, "q"), (0, 3));
    client.say(1, TxRollback {});
    client.say(1, nack);
    client.say(1, ack(3, false));
    client.hear();
    client.say(1, TxCommit {});
    assert_eq!(client.hear(), ["1 tx.commit-ok"]);
    assert_eq!(ready(&broker, "q"), (2, 0));
}

#[test]
fn a_tag_can_be_settled_once_in_a_transaction() {
    let (broker, mut client) = start();
    client.publish(1, "q", "one", true);
    client.say(1, TxCommit {});
    client.say(1, get("q"));
    client.say(1, ack(1, false));
    client.hear();
    client.say(1, ack(1, false));
    let refused = "1 close 406 PRECONDITION_FAILED - unknown delivery tag 1";
    assert_eq!(client.hear(), [refused]);
    // With its channel the transaction is gone: the message is back.
    assert_eq!(ready(&broker, "q"), (1, 0));
}

#[test]
fn closing_the_channel_gives_back_what_was_not_committed() {
    let (broker, mut client) = start();
    client.publish(1, "q", "one", true);
    client.say(1, TxCommit {});
    client.say(1, get("q"));
    client.say(1, ack(1, false));
    client.publish(1, "q", "two", true);
    client.say(1, ChannelClose::default());
    assert_eq!(ready(&broker, "q"), (1, 0));
}

#[test]
fn confirms_and_transactions_exclude_each_other() {
    let (_, mut client) = start();
    client.say(1, ConfirmSelect { nowait: false });
    let refused = "1 close 406 PRECONDITION_FAILED - cannot switch from tx to confirm mode";
    assert_eq!(client.hear(), [refused]);
    client.say(2, ConfirmSelect { nowait: false });
    client.say(2, TxSelect {});
    let refused = "2 close 406 PRECONDITION_FAILED - cannot switch from confirm to tx mode";
    assert_eq!(client.hear(), ["2 confirm.select-ok", refused]);
}

#[test]
fn without_a_selection_there_is_nothing_to_commit() {
    let broker = broker(Arc::new(InstantStore));
    for rollback in [false, true] {
        let mut client = Client::new(&broker);
        if rollback {
            client.say(1, TxRollback {});
        } else {
            client.say(1, TxCommit {});
        }
        let refused = "1 close 406 PRECONDITION_FAILED - channel is not transactional";
        assert_eq!(client.hear(), [refused]);
    }
}

#[test]
fn one_full_queue_refuses_all_and_no_room_stays_taken() {
    let (broker, mut client) = start();
    let mut arguments = Table::new();
    arguments.insert("x-max-length", Value::I32(1));
    arguments.insert("x-overflow", Value::LongString(b"reject-publish".to_vec()));
    let arguments = arguments.encoded();
    let mut declare = declaration("short", true);
    declare.arguments = RawTable::parse(&arguments).expect("a table");
    client.say(1, declare);
    for queue in ["q", "short", "short"] {
        client.publish(1, queue, "one", true);
    }
    client.hear();
    client.say(1, TxCommit {});
    let refused = "1 close 406 PRECONDITION_FAILED - partial tx completion: nothing was \
                   published, queue 'short' in vhost '/' is full";
    assert_eq!(client.hear(), [refused]);
    assert_eq!(ready(&broker, "q"), (0, 0));
    assert_eq!(ready(&broker, "short"), (0, 0));
    let mut other = Client::new(&broker);
    other.say(1, TxSelect {});
    other.publish(1, "short", "one", true);
    other.say(1, TxCommit {});
    assert_eq!(other.hear(), ["1 tx.select-ok", "1 tx.commit-ok"]);
    assert_eq!(ready(&broker, "short"), (1, 0));
}

#[test]
fn a_commit_is_answered_when_the_disk_has_it_and_refused_when_it_is_full() {
    let store = Arc::new(DelayedStore::default());
    let broker = broker(store.clone());
    let mut client = Client::new(&broker);
    client.declare(1, "q", true);
    client.declare(1, "transient", false);
    client.say(1, TxSelect {});
    store.release();
    client.turn();
    client.hear();
    client.publish(1, "q", "one", true);
    client.say(1, TxCommit {});
    assert_eq!(client.hear(), NOTHING);
    store.release();
    client.turn();
    assert_eq!(client.hear(), ["1 tx.commit-ok"]);

    store.refuse(Some(StoreRefusal::DiskFull));
    client.publish(1, "transient", "two", true);
    client.publish(1, "q", "two", false);
    client.say(1, TxCommit {});
    assert_eq!(client.hear(), ["1 tx.commit-ok"]);
    client.publish(1, "transient", "three", true);
    client.publish(1, "q", "three", true);
    client.say(1, TxCommit {});
    let refused = "1 close 406 PRECONDITION_FAILED - partial tx completion: nothing was \
                   published, the disk is full";
    assert_eq!(client.hear(), [refused]);
    assert_eq!(ready(&broker, "transient"), (1, 0));
}

#[test]
fn what_goes_nowhere_is_returned_by_the_commit() {
    let (_, mut client) = start();
    client.publish(1, "nowhere", "one", true);
    assert_eq!(client.hear(), NOTHING);
    client.say(1, TxCommit {});
    let heard = ["1 basic.return", "body one", "1 tx.commit-ok"];
    assert_eq!(client.hear(), heard);
}

#[test]
fn a_transaction_is_bounded() {
    let config = BrokerConfig {
        transaction_bytes_max: 1000,
        ..BrokerConfig::default()
    };
    let broker = broker_with(config, Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", true);
    client.say(1, TxSelect {});
    client.hear();
    client.publish(1, "q", &"x".repeat(500), true);
    assert_eq!(client.hear(), NOTHING);
    client.publish(1, "q", &"x".repeat(500), true);
    let refused = "1 close 406 PRECONDITION_FAILED - transaction is larger than the limit (1000 \
                   bytes)";
    assert_eq!(client.hear(), [refused]);
}

#[test]
fn what_is_not_committed_counts_against_the_prefetch() {
    let (_, mut client) = start();
    for body in ["one", "two"] {
        client.publish(1, "q", body, true);
    }
    client.say(1, TxCommit {});
    client.say(1, qos(1));
    client.say(1, support::consume("q"));
    let heard = [
        "1 tx.commit-ok",
        "1 basic.qos-ok",
        "1 basic.consume-ok",
        "1 deliver 1",
        "body one",
    ];
    assert_eq!(client.hear(), heard);
    client.say(1, ack(1, false));
    assert_eq!(client.hear(), NOTHING);
    client.say(1, TxCommit {});
    let heard = ["1 deliver 2", "body two", "1 tx.commit-ok"];
    assert_eq!(client.hear(), heard);
}

fn qos(prefetch_count: u16) -> BasicQos {
    BasicQos {
        prefetch_size: 0,
        prefetch_count,
        global: true,
    }
}

#[test]
fn a_prefetch_lowered_in_a_transaction_holds_after_it() {
    let (_, mut client) = start();
    for body in ["1", "2", "3", "4", "5", "6"] {
        client.publish(1, "q", body, true);
    }
    client.say(1, TxCommit {});
    client.say(1, qos(4));
    client.say(1, support::consume("q"));
    client.hear();
    client.say(1, ack(3, true));
    client.say(1, qos(1));
    assert_eq!(client.hear(), ["1 basic.qos-ok"]);
    client.say(1, TxCommit {});
    assert_eq!(client.hear(), ["1 tx.commit-ok"], "the fourth is out still");
    client.say(1, ack(4, false));
    client.say(1, TxCommit {});
    let heard = ["1 deliver 5", "body 5", "1 tx.commit-ok"];
    assert_eq!(client.hear(), heard);
}
