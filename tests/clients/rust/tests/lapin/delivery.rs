//! Bodies, prefetch, order of what comes back, get, cancel.

use futures_lite::StreamExt as _;
use lapin::BasicProperties;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};

use crate::peer::{Peer, bodies, body, name, next, nothing, table, text};

/// A body of this size that is unlike itself shifted.
fn body_of(size: usize) -> Vec<u8> {
    let mut state = size as u32 | 1;
    let byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(byte).take(size).collect()
}

#[tokio::test]
async fn bodies_of_every_size_arrive_whole() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    let frame = 131_072 - 8;
    for size in [
        0,
        1,
        255,
        frame - 1,
        frame,
        frame + 1,
        2 * frame,
        1_000_003,
        20_000_000,
    ] {
        let sent = body_of(size);
        peer.publish("", queue.as_str(), &sent).await;
        let received = peer.get(&queue).await.unwrap();
        assert!(received.delivery.data == sent, "{size} bytes");
    }
}

#[tokio::test]
async fn properties_arrive_as_sent() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    let headers = table([
        ("text", text("grüße")),
        ("int", AMQPValue::LongInt(-5)),
        ("long", AMQPValue::LongLongInt(1 << 40)),
        ("double", AMQPValue::Double(2.5)),
        ("float", AMQPValue::Float(0.5)),
        ("short", AMQPValue::ShortInt(-3)),
        ("byte", AMQPValue::ShortShortInt(-1)),
        ("void", AMQPValue::Void),
        (
            "nested",
            AMQPValue::FieldTable(table([("a", AMQPValue::Boolean(true))])),
        ),
    ]);
    let sent = BasicProperties::default()
        .with_content_type("text/plain".into())
        .with_headers(headers)
        .with_delivery_mode(1)
        .with_priority(3)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_message_id("m".into())
        .with_timestamp(1_700_000_000)
        .with_type("t".into())
        .with_app_id("a".into());
    peer.publish_with("", queue.as_str(), b"x", sent.clone())
        .await;
    assert_eq!(peer.get(&queue).await.unwrap().delivery.properties, sent);
}

#[tokio::test]
async fn two_consumers_alternate_exactly() {
    let (peer, name) = (Peer::connect().await, name("fair"));
    let other = peer.connection.create_channel().await.unwrap();
    peer.channel
        .queue_declare(
            name.clone(),
            crate::peer::exclusive(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let mut first = peer.consume(&name).await;
    let options = BasicConsumeOptions::default();
    let second = other.basic_consume(name.clone(), "".into(), options, FieldTable::default());
    let mut second = second.await.unwrap();
    peer.fill(&name, 10).await;
    let mut taken = [bodies(&mut first, 5).await, bodies(&mut second, 5).await];
    taken.sort();
    assert_eq!(
        taken,
        [["0", "2", "4", "6", "8"], ["1", "3", "5", "7", "9"]]
    );
}

#[tokio::test]
async fn prefetch_bounds_the_unacknowledged() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    peer.qos(3, false).await;
    let mut consumer = peer.consume(&queue).await;
    peer.fill(&queue, 10).await;
    assert_eq!(bodies(&mut consumer, 2).await, ["0", "1"]);
    let third = next(&mut consumer).await;
    nothing(&mut consumer).await;
    third.ack(BasicAckOptions { multiple: true }).await.unwrap();
    assert_eq!(bodies(&mut consumer, 3).await, ["3", "4", "5"]);
    nothing(&mut consumer).await;
}

#[tokio::test]
async fn channel_wide_prefetch_counts_both_queues() {
    let peer = Peer::connect().await;
    let (one, two) = (peer.queue().await, peer.queue().await);
    peer.qos(4, true).await;
    let mut first = peer.consume(&one).await;
    let mut second = peer.consume(&two).await;
    peer.fill(&one, 3).await;
    peer.fill(&two, 3).await;
    assert_eq!(bodies(&mut first, 2).await, ["0", "1"]);
    let third = next(&mut first).await;
    assert_eq!(bodies(&mut second, 1).await, ["0"]);
    nothing(&mut second).await;
    third.ack(BasicAckOptions::default()).await.unwrap();
    assert_eq!(bodies(&mut second, 1).await, ["1"]);
    nothing(&mut second).await;
}

fn came_back() -> Vec<(String, bool)> {
    (0..5)
        .map(|number: u32| (number.to_string(), number < 3))
        .collect()
}

#[tokio::test]
async fn nack_multiple_requeues_in_order() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    peer.fill(&queue, 5).await;
    let mut last = None;
    for _ in 0..3 {
        last = peer.get(&queue).await;
    }
    let options = BasicNackOptions {
        multiple: true,
        requeue: true,
    };
    last.unwrap().delivery.nack(options).await.unwrap();
    assert_eq!(peer.drain(&queue).await, came_back());
}

#[tokio::test]
async fn rejected_messages_go_back_to_their_places() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    peer.fill(&queue, 5).await;
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(peer.get(&queue).await.unwrap());
    }
    for index in [1, 0, 2] {
        let options = BasicRejectOptions { requeue: true };
        taken[index].delivery.reject(options).await.unwrap();
    }
    assert_eq!(peer.drain(&queue).await, came_back());
}

#[tokio::test]
async fn closing_a_channel_requeues_in_order() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    peer.fill(&queue, 5).await;
    let other = peer.connection.create_channel().await.unwrap();
    for _ in 0..3 {
        other
            .basic_get(queue.clone(), BasicGetOptions::default())
            .await
            .unwrap()
            .unwrap();
    }
    other.close(200, "done".into()).await.unwrap();
    assert_eq!(peer.drain(&queue).await, came_back());
}

#[tokio::test]
async fn closing_a_connection_requeues_in_order() {
    let (peer, other) = (Peer::connect().await, Peer::connect().await);
    let queue = name("shared");
    let options = QueueDeclareOptions::default();
    peer.channel
        .queue_declare(queue.clone(), options, FieldTable::default())
        .await
        .unwrap();
    peer.fill(&queue, 5).await;
    for _ in 0..3 {
        other.get(&queue).await.unwrap();
    }
    other.connection.close(200, "done".into()).await.unwrap();
    while peer.ready(&queue).await < 5 {}
    assert_eq!(peer.drain(&queue).await, came_back());
    peer.channel
        .queue_delete(queue, QueueDeleteOptions::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn recover_requeues_everything() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    peer.fill(&queue, 5).await;
    for _ in 0..3 {
        peer.get(&queue).await.unwrap();
    }
    peer.channel
        .basic_recover(BasicRecoverOptions { requeue: true })
        .await
        .unwrap();
    assert_eq!(peer.drain(&queue).await, came_back());
}

#[tokio::test]
async fn get_counts_what_is_left() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    peer.fill(&queue, 3).await;
    for left in [2, 1, 0] {
        assert_eq!(peer.get(&queue).await.unwrap().message_count, left);
    }
    assert!(peer.get(&queue).await.is_none());
}

#[tokio::test]
async fn nothing_arrives_after_cancel() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    let mut consumer = peer.consume(&queue).await;
    peer.fill(&queue, 2).await;
    assert_eq!(bodies(&mut consumer, 2).await, ["0", "1"]);
    let options = BasicCancelOptions::default();
    peer.channel
        .basic_cancel(consumer.tag(), options)
        .await
        .unwrap();
    peer.fill(&queue, 3).await;
    assert_eq!(peer.ready(&queue).await, 3);
    assert!(consumer.next().await.is_none());
}

#[tokio::test]
async fn a_consumer_ends_when_its_queue_is_deleted() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    let mut consumer = peer.consume(&queue).await;
    peer.channel
        .queue_delete(queue, QueueDeleteOptions::default())
        .await
        .unwrap();
    assert!(consumer.next().await.is_none());
    // The channel goes on.
    assert_eq!(peer.take(&peer.queue().await).await, None);
}

#[tokio::test]
async fn ten_thousand_messages_keep_their_order() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    let mut consumer = peer.consume(&queue).await;
    for number in 0..10_000 {
        peer.publish("", queue.as_str(), number.to_string().as_bytes())
            .await;
    }
    for number in 0..10_000 {
        let delivery = next(&mut consumer).await;
        assert_eq!(body(&delivery), number.to_string());
        assert_eq!(delivery.delivery_tag, number + 1);
    }
}
