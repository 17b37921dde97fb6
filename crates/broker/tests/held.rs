//! Answers that wait for the disk, and what may overtake them.

use std::sync::Arc;

use leveret_codec::{
    BasicCancel, BasicGet, ConfirmSelect, ExchangeDeclare, QueueBind, QueueDelete, QueuePurge,
    QueueUnbind,
};
use leveret_store::DelayedStore;

use support::{Client, broker, consume, declaration};

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

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

#[test]
fn a_consumer_cancelled_before_its_turn_never_starts() {
    let (store, mut client, mut publisher) = start();
    publisher.declare(1, "full", false);
    publisher.publish(1, "full", "one", false);
    client.declare(1, "q", true);
    client.say(1, consume("full"));
    let cancel = BasicCancel {
        consumer_tag: b"tag",
        nowait: false,
    };
    client.say(1, cancel);
    store.release();
    client.turn();
    let heard = [
        "1 queue.declare-ok",
        "1 basic.consume-ok",
        "1 basic.cancel-ok",
    ];
    assert_eq!(client.hear(), heard);
    let get = BasicGet {
        queue: b"full",
        no_ack: true,
    };
    client.say(1, get);
    assert_eq!(client.hear(), ["1 basic.get-ok", "body one"]);
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
