//! Exchange types, bindings between exchanges, alternate exchanges.

use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation, ExchangeKind};

use crate::peer::{Peer, table, text};

#[tokio::test]
async fn headers_match_all_or_any() {
    let peer = Peer::connect().await;
    let exchange = peer.exchange(ExchangeKind::Headers).await;
    let number = |value| AMQPValue::LongInt(value);
    let (all, any) = (peer.queue().await, peer.queue().await);
    for (queue, matching) in [(&all, "all"), (&any, "any")] {
        let arguments = table([
            ("x-match", text(matching)),
            ("a", number(1)),
            ("b", text("two")),
        ]);
        peer.bind_with(queue, &exchange, "", arguments).await;
    }
    let both = table([("a", number(1)), ("b", text("two")), ("c", number(3))]);
    let one = table([("a", number(1)), ("b", text("three"))]);
    let none = table([("a", text("1"))]);
    for headers in [both, one, none] {
        let properties = BasicProperties::default().with_headers(headers);
        peer.publish_with(exchange.as_str(), "", b"x", properties)
            .await;
    }
    assert_eq!(peer.drain(&all).await.len(), 1);
    assert_eq!(peer.drain(&any).await.len(), 2);
}

#[tokio::test]
async fn exchanges_bound_in_a_circle_deliver_once() {
    let peer = Peer::connect().await;
    let (first, second) = (
        peer.exchange(ExchangeKind::Fanout).await,
        peer.exchange(ExchangeKind::Fanout).await,
    );
    for (destination, source) in [(&first, &second), (&second, &first)] {
        let options = ExchangeBindOptions::default();
        let (destination, source) = (destination.clone(), source.clone());
        let arguments = FieldTable::default();
        let bound = peer
            .channel
            .exchange_bind(destination, source, "".into(), options, arguments);
        bound.await.unwrap();
    }
    let queue = peer.queue().await;
    peer.bind(&queue, &first, "").await;
    peer.bind(&queue, &second, "").await;
    peer.publish(first.as_str(), "", b"x").await;
    assert_eq!(peer.drain(&queue).await.len(), 1);
    let options = ExchangeUnbindOptions::default();
    let unbound =
        peer.channel
            .exchange_unbind(second, first, "".into(), options, FieldTable::default());
    unbound.await.unwrap();
}

#[tokio::test]
async fn an_alternate_exchange_takes_the_unroutable() {
    let peer = Peer::connect().await;
    let last = peer.exchange(ExchangeKind::Fanout).await;
    let arguments = table([("alternate-exchange", text(last.as_str()))]);
    let first = peer.exchange_with(ExchangeKind::Direct, arguments).await;
    let (taken, lost) = (peer.queue().await, peer.queue().await);
    peer.bind(&taken, &first, "k").await;
    peer.bind(&lost, &last, "").await;
    peer.confirm().await;
    for key in ["k", "other"] {
        let options = BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        let properties = BasicProperties::default();
        let sent = peer
            .channel
            .basic_publish(first.clone(), key.into(), options, b"x", properties);
        assert_eq!(sent.await.unwrap().await.unwrap(), Confirmation::Ack(None));
    }
    assert_eq!(peer.drain(&taken).await.len(), 1);
    assert_eq!(peer.drain(&lost).await.len(), 1);
}

#[tokio::test]
async fn unbind_ends_routing() {
    let peer = Peer::connect().await;
    let exchange = peer.exchange(ExchangeKind::Topic).await;
    let queue = peer.queue().await;
    peer.bind(&queue, &exchange, "a.#").await;
    peer.bind(&queue, &exchange, "b").await;
    let (from, key) = (exchange.clone(), "a.#".into());
    peer.channel
        .queue_unbind(queue.clone(), from, key, FieldTable::default())
        .await
        .unwrap();
    peer.publish(exchange.as_str(), "a.b", b"no").await;
    peer.publish(exchange.as_str(), "b", b"yes").await;
    assert_eq!(peer.drain(&queue).await, [("yes".to_owned(), false)]);
}

#[tokio::test]
async fn an_auto_delete_queue_goes_with_its_last_consumer() {
    let peer = Peer::connect().await;
    let queue = crate::peer::name("auto");
    let options = QueueDeclareOptions {
        auto_delete: true,
        ..Default::default()
    };
    peer.channel
        .queue_declare(queue.clone(), options, FieldTable::default())
        .await
        .unwrap();
    let consumer = peer.consume(&queue).await;
    let cancel = BasicCancelOptions::default();
    peer.channel
        .basic_cancel(consumer.tag(), cancel)
        .await
        .unwrap();
    let options = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let asked = peer
        .channel
        .queue_declare(queue, options, FieldTable::default())
        .await;
    assert_eq!(crate::peer::refusal(asked).0, 404);
}
