//! Answers that wait for the disk, and what may overtake them.

use std::sync::Arc;

use leveret_codec::{
    BasicCancel, BasicConsume, BasicGet, ConfirmSelect, ExchangeDeclare, QueueBind, QueueDeclare,
    QueueDelete, QueuePurge, QueueUnbind,
};
use leveret_store::Store as _;

use crate::support::store::DelayedStore;
use crate::support::{Client, broker, consume, declaration, message};

fn start() -> (Arc<DelayedStore>, Client, Client) {
    let store = Arc::new(DelayedStore::default());
    let broker = broker(store.clone());
    (store, Client::new(&broker), Client::new(&broker))
}

#[test]
fn durable_changes_are_answered_when_the_disk_has_them() {
    let (store, mut client, _) = start();
    client.declare(1, "q", true);
    client.declare(1, "transient", false);
    let exchange = ExchangeDeclare {
        exchange: b"x",
        kind: b"fanout",
        durable: true,
        ..Default::default()
    };
    client.say(1, exchange);
    let bind = QueueBind {
        queue: b"q",
        exchange: b"x",
        ..Default::default()
    };
    client.say(1, bind);
    assert_eq!(client.hear(), [""; 0]);
    // Another channel goes on.
    client.declare(2, "other", false);
    assert_eq!(client.hear(), ["2 queue.declare-ok"]);

    store.release();
    client.turn();
    let answers = [
        "1 queue.declare-ok",
        "1 queue.declare-ok",
        "1 exchange.declare-ok",
        "1 queue.bind-ok",
    ];
    assert_eq!(client.hear(), answers);

    client.publish(1, "q", "one", true);
    let purge = QueuePurge {
        queue: b"q",
        nowait: false,
    };
    client.say(1, purge);
    assert_eq!(client.hear(), [""; 0]);
    store.release();
    client.turn();
    assert_eq!(client.hear(), ["1 queue.purge-ok"]);

    let delete = QueueDelete {
        queue: b"q",
        ..Default::default()
    };
    client.say(1, delete);
    assert_eq!(client.hear(), [""; 0]);
    store.release();
    client.turn();
    assert_eq!(client.hear(), ["1 queue.delete-ok"]);
}

#[test]
fn who_finds_a_queue_that_is_not_on_disk_yet_waits_for_it_too() {
    let (store, mut first, mut second) = start();
    first.declare(1, "q", true);
    second.declare(1, "q", true);
    assert_eq!(second.hear(), [""; 0]);
    store.release();
    second.turn();
    assert_eq!(second.hear(), ["1 queue.declare-ok"]);
    // The next one has nothing to wait for.
    second.declare(1, "q", true);
    assert_eq!(second.hear(), ["1 queue.declare-ok"]);
}

#[test]
fn who_finds_a_queue_gone_that_is_still_on_disk_waits_for_it_too() {
    let (store, mut first, mut second) = start();
    first.declare(1, "q", true);
    store.release();
    first.turn();
    first.hear();
    let delete = || QueueDelete {
        queue: b"q",
        ..Default::default()
    };
    first.say(1, delete());
    second.say(1, delete());
    let unbind = QueueUnbind {
        queue: b"q",
        exchange: b"amq.direct",
        ..Default::default()
    };
    second.say(2, unbind);
    assert_eq!(second.hear(), [""; 0]);
    store.release();
    second.turn();
    assert_eq!(second.hear(), ["1 queue.delete-ok", "2 queue.unbind-ok"]);
    // The next one has nothing to wait for.
    second.say(1, delete());
    assert_eq!(second.hear(), ["1 queue.delete-ok"]);
}

#[test]
fn without_an_answer_nothing_waits() {
    let (_, mut client, _) = start();
    let mut declare = declaration("q", true);
    declare.nowait = true;
    client.say(1, declare);
    client.declare(1, "transient", false);
    assert_eq!(client.hear(), ["1 queue.declare-ok"]);
}

#[test]
fn deliveries_do_not_overtake_what_was_asked_before_them() {
    let (store, mut client, mut publisher) = start();
    publisher.declare(1, "full", false);
    publisher.publish(1, "full", "one", false);
    client.declare(1, "q", true);
    client.say(1, consume("full"));
    let get = BasicGet {
        queue: b"full",
        no_ack: true,
    };
    client.say(1, get);
    assert_eq!(client.hear(), [""; 0]);
    store.release();
    client.turn();
    let heard = [
        "1 queue.declare-ok",
        "1 basic.consume-ok",
        "1 deliver 1",
        "body one",
        "1 basic.get-empty",
    ];
    assert_eq!(client.hear(), heard);
}

/// The last consumer of an auto-delete queue leaves when the next one is there already.
#[test]
fn a_consumer_that_was_asked_for_before_another_is_cancelled_is_there_before() {
    let (store, mut client, mut publisher) = start();
    let declare = QueueDeclare {
        auto_delete: true,
        ..declaration("q", false)
    };
    publisher.say(1, declare);
    let consume = |consumer_tag| BasicConsume {
        consumer_tag,
        ..consume("q")
    };
    client.say(1, consume(b"a"));
    client.hear();
    client.declare(1, "durable", true);
    client.say(1, consume(b"b"));
    let cancel = BasicCancel {
        consumer_tag: b"a",
        nowait: false,
    };
    client.say(1, cancel);
    assert_eq!(client.hear(), [""; 0]);
    store.release();
    client.turn();
    let heard = [
        "1 queue.declare-ok",
        "1 basic.consume-ok",
        "1 basic.cancel-ok",
    ];
    assert_eq!(client.hear(), heard);
    publisher.publish(1, "q", "one", false);
    assert_eq!(client.hear(), ["1 deliver 1", "body one"]);
}

#[test]
fn a_message_that_was_asked_for_before_the_queue_ends_is_given() {
    let (store, mut client, mut publisher) = start();
    publisher.declare(1, "q", false);
    publisher.publish(1, "q", "one", false);
    publisher.publish(1, "q", "two", false);
    client.declare(1, "durable", true);
    let get = || BasicGet {
        queue: b"q",
        no_ack: true,
    };
    client.say(1, get());
    let purge = QueuePurge {
        queue: b"q",
        nowait: false,
    };
    client.say(1, purge);
    client.say(1, get());
    let delete = QueueDelete {
        queue: b"q",
        ..Default::default()
    };
    client.say(1, delete);
    // What is published after that comes after it, too.
    client.publish(1, "q", "late", false);
    assert_eq!(client.hear(), [""; 0]);
    store.release();
    client.turn();
    let heard = [
        "1 queue.declare-ok",
        "1 basic.get-ok",
        "body one",
        "1 queue.purge-ok",
        "1 basic.get-empty",
        "1 queue.delete-ok",
        "1 basic.return",
        "body late",
    ];
    assert_eq!(client.hear(), heard);
}

/// Whoever asks for another thing is not shut out by what waits, and everything is read at last.
#[test]
fn a_connection_is_read_on_when_what_it_waits_for_has_come() {
    let (store, mut client, mut other) = start();
    client.declare(1, "q", true);
    client.say(1, consume("q"));
    assert!(client.is_paused());
    client.declare(2, "second", false);
    assert_eq!(client.hear(), [""; 0]);
    other.declare(1, "third", false);
    assert_eq!(other.hear(), ["1 queue.declare-ok"]);
    store.release();
    // Not only the reader takes turns: one without input says that there is a rest.
    assert!(client.connection.receive(&[], 1).unfinished);
    assert!(!client.is_paused());
    client.turn();
    let heard = [
        "1 queue.declare-ok",
        "1 basic.consume-ok",
        "2 queue.declare-ok",
    ];
    assert_eq!(client.hear(), heard);
    assert!(!client.connection.receive(&[], 1).unfinished);
}

#[test]
fn confirms_come_after_the_answers_in_front_of_them() {
    let (store, mut client, _) = start();
    client.declare(1, "q", true);
    client.say(1, ConfirmSelect { nowait: false });
    client.declare(1, "transient", false);
    client.publish(1, "transient", "one", false);
    client.publish(1, "q", "two", true);
    assert_eq!(client.hear(), [""; 0]);
    store.release();
    client.turn();
    let heard = [
        "1 queue.declare-ok",
        "1 confirm.select-ok",
        "1 queue.declare-ok",
        "1 ack 2",
    ];
    assert_eq!(client.hear(), heard);
}

#[test]
fn the_messages_of_one_read_are_submitted_once_and_wait_for_one_sync() {
    let store = Arc::new(DelayedStore::default());
    let broker = broker(store.clone());
    let mut client = Client::new(&broker);
    client.declare(1, "q", true);
    store.release();
    client.turn();
    let before = store.durable();
    let one = message(1, ("", "q"), "sixteen bytes it", (false, true));
    client.send(&one.repeat(64 * 1024 / one.len()));
    store.release();
    assert_eq!(store.durable().0 - before.0, 1);
}
