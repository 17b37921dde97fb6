//! RabbitMQ's seven tutorials, as lapin's users write them.

use futures_lite::StreamExt as _;
use lapin::options::*;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation, ExchangeKind};

use crate::peer::{Peer, bodies, body, exclusive, name, next};

#[tokio::test]
async fn one_hello_world() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    peer.publish("", queue.as_str(), b"Hello World!").await;
    let mut consumer = peer.consume(&queue).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(body(&delivery), "Hello World!");
    assert_eq!(delivery.routing_key, queue);
    assert!(!delivery.redelivered);
    delivery.ack(BasicAckOptions::default()).await.unwrap();
}

#[tokio::test]
async fn two_work_queues() {
    let (producer, first, second) = (
        Peer::connect().await,
        Peer::connect().await,
        Peer::connect().await,
    );
    let queue = name("task");
    let durable = QueueDeclareOptions::durable();
    producer
        .channel
        .queue_declare(queue.clone(), durable, FieldTable::default())
        .await
        .unwrap();
    let persistent = BasicProperties::default().with_delivery_mode(2);
    for number in 0..6 {
        let task = format!("task {number}");
        producer
            .publish_with("", queue.as_str(), task.as_bytes(), persistent.clone())
            .await;
    }
    let mut done = Vec::new();
    for worker in [&first, &second] {
        worker.qos(1, false).await;
    }
    let (mut one, mut two) = (first.consume(&queue).await, second.consume(&queue).await);
    for _ in 0..3 {
        // Neither acknowledges before both have work: acknowledgements of two connections race.
        for delivery in [next(&mut one).await, next(&mut two).await] {
            assert_eq!(delivery.properties.delivery_mode(), &Some(2));
            done.push(body(&delivery));
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        }
    }
    done.sort();
    assert_eq!(
        done,
        (0..6)
            .map(|number| format!("task {number}"))
            .collect::<Vec<_>>()
    );
    producer
        .channel
        .queue_delete(queue, QueueDeleteOptions::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn three_publish_subscribe() {
    let peer = Peer::connect().await;
    let exchange = peer.exchange(ExchangeKind::Fanout).await;
    let mut consumers = Vec::new();
    for _ in 0..2 {
        let declared = peer
            .channel
            .queue_declare("".into(), exclusive(), FieldTable::default())
            .await;
        let queue = declared.unwrap().name().clone();
        assert!(queue.as_str().starts_with("amq.gen-"));
        peer.bind(&queue, &exchange, "").await;
        consumers.push(peer.consume(&queue).await);
    }
    peer.publish(exchange.as_str(), "", b"info: Hello World!")
        .await;
    for consumer in &mut consumers {
        assert_eq!(bodies(consumer, 1).await, ["info: Hello World!"]);
    }
}

#[tokio::test]
async fn four_routing() {
    let peer = Peer::connect().await;
    let exchange = peer.exchange(ExchangeKind::Direct).await;
    let (errors, all) = (peer.queue().await, peer.queue().await);
    peer.bind(&errors, &exchange, "error").await;
    for severity in ["info", "warning", "error"] {
        peer.bind(&all, &exchange, severity).await;
    }
    for severity in ["info", "error", "debug", "warning"] {
        peer.publish(exchange.as_str(), severity, severity.as_bytes())
            .await;
    }
    assert_eq!(peer.drain(&errors).await, [("error".to_owned(), false)]);
    let found = peer.drain(&all).await.into_iter().map(|(body, _)| body);
    assert_eq!(found.collect::<Vec<_>>(), ["info", "error", "warning"]);
}

#[tokio::test]
async fn five_topics() {
    let peer = Peer::connect().await;
    let exchange = peer.exchange(ExchangeKind::Topic).await;
    let expected: [(&str, &[&str]); 5] = [
        ("#", &["kern.critical", "kern", "app.critical", "kern.a.b"]),
        ("kern.*", &["kern.critical"]),
        ("*.critical", &["kern.critical", "app.critical"]),
        ("kern.#", &["kern.critical", "kern", "kern.a.b"]),
        ("nothing", &[]),
    ];
    let mut queues = Vec::new();
    for (pattern, keys) in expected {
        let queue = peer.queue().await;
        peer.bind(&queue, &exchange, pattern).await;
        queues.push((pattern, queue, keys));
    }
    for key in ["kern.critical", "kern", "app.critical", "kern.a.b"] {
        peer.publish(exchange.as_str(), key, key.as_bytes()).await;
    }
    for (pattern, queue, keys) in queues {
        let found = peer.drain(&queue).await.into_iter().map(|(body, _)| body);
        assert_eq!(found.collect::<Vec<_>>(), keys, "{pattern}");
    }
}

#[tokio::test]
async fn six_rpc() {
    let (server, client) = (Peer::connect().await, Peer::connect().await);
    let (requests, replies) = (server.queue().await, client.queue().await);
    let mut served = server.consume(&requests).await;
    // The server's queue is of its connection only; the default exchange reaches it all the same.
    let properties = BasicProperties::default()
        .with_reply_to(replies.clone())
        .with_correlation_id("question 7".into());
    client
        .publish_with("", requests.as_str(), b"7", properties)
        .await;
    let request = next(&mut served).await;
    let number: u64 = body(&request).parse().unwrap();
    let reply_to = request.properties.reply_to().clone().unwrap();
    let correlation = request.properties.correlation_id().clone().unwrap();
    let properties = BasicProperties::default().with_correlation_id(correlation);
    let answer = (number * number).to_string();
    server
        .publish_with("", reply_to.as_str(), answer.as_bytes(), properties)
        .await;
    request.ack(BasicAckOptions::default()).await.unwrap();
    let mut answers = client.consume(&replies).await;
    let reply = answers.next().await.unwrap().unwrap();
    assert_eq!(body(&reply), "49");
    assert_eq!(
        reply.properties.correlation_id(),
        &Some("question 7".into())
    );
}

#[tokio::test]
async fn seven_publisher_confirms() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    peer.confirm().await;
    let mut pending = Vec::new();
    for number in 0..500 {
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default();
        let payload = format!("{number}");
        let sent = peer.channel.basic_publish(
            "".into(),
            queue.clone(),
            options,
            payload.as_bytes(),
            properties,
        );
        pending.push(sent.await.unwrap());
    }
    for confirm in pending {
        assert_eq!(confirm.await.unwrap(), Confirmation::Ack(None));
    }
    assert_eq!(peer.ready(&queue).await, 500);
}
