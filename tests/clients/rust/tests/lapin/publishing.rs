//! Confirms, returns, overflow and transactions.

use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation};

use crate::peer::{Peer, table, text};

async fn publish(peer: &Peer, key: &ShortString, mandatory: bool) -> Confirmation {
    let options = BasicPublishOptions {
        mandatory,
        ..Default::default()
    };
    let properties = BasicProperties::default();
    let sent = peer
        .channel
        .basic_publish("".into(), key.clone(), options, b"x", properties);
    sent.await.unwrap().await.unwrap()
}

fn bounded(length: i64, overflow: &str) -> FieldTable {
    let length = AMQPValue::LongLongInt(length);
    table([("x-max-length", length), ("x-overflow", text(overflow))])
}

#[tokio::test]
async fn a_mandatory_message_is_returned_and_acknowledged() {
    let peer = Peer::connect().await;
    peer.confirm().await;
    // Lapin attaches the return only if it came before the ack.
    let confirmation = publish(&peer, &"nobody-is-here".into(), true).await;
    let Confirmation::Ack(Some(returned)) = confirmation else {
        panic!("{confirmation:?}");
    };
    assert_eq!(
        (returned.reply_code, returned.reply_text.as_str()),
        (312, "NO_ROUTE")
    );
    assert_eq!(returned.delivery.data, b"x");
}

#[tokio::test]
async fn an_unroutable_message_is_acknowledged() {
    let peer = Peer::connect().await;
    peer.confirm().await;
    assert_eq!(
        publish(&peer, &"nobody-is-here".into(), false).await,
        Confirmation::Ack(None)
    );
}

#[tokio::test]
async fn a_full_queue_refuses_with_nack() {
    let peer = Peer::connect().await;
    let queue = peer.queue_with(bounded(2, "reject-publish")).await;
    peer.confirm().await;
    for _ in 0..2 {
        assert_eq!(publish(&peer, &queue, false).await, Confirmation::Ack(None));
    }
    for _ in 0..3 {
        assert_eq!(
            publish(&peer, &queue, false).await,
            Confirmation::Nack(None)
        );
    }
    assert!(peer.take(&queue).await.is_some());
    assert_eq!(publish(&peer, &queue, false).await, Confirmation::Ack(None));
}

#[tokio::test]
async fn drop_head_keeps_the_newest() {
    let peer = Peer::connect().await;
    let queue = peer.queue_with(bounded(3, "drop-head")).await;
    peer.fill(&queue, 10).await;
    let found = peer.drain(&queue).await.into_iter().map(|(body, _)| body);
    assert_eq!(found.collect::<Vec<_>>(), ["7", "8", "9"]);
}

#[tokio::test]
async fn commit_publishes_and_rollback_forgets() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    peer.channel.tx_select().await.unwrap();
    peer.publish("", queue.as_str(), b"forgotten").await;
    peer.channel.tx_rollback().await.unwrap();
    peer.publish("", queue.as_str(), b"kept").await;
    assert_eq!(peer.ready(&queue).await, 0);
    peer.channel.tx_commit().await.unwrap();
    assert_eq!(peer.drain(&queue).await, [("kept".to_owned(), false)]);
}

#[tokio::test]
async fn purge_and_delete_tell_their_counts() {
    let peer = Peer::connect().await;
    let queue = peer.queue().await;
    peer.fill(&queue, 5).await;
    let purged = peer
        .channel
        .queue_purge(queue.clone(), QueuePurgeOptions::default());
    assert_eq!(purged.await.unwrap(), 5);
    peer.fill(&queue, 2).await;
    let deleted = peer
        .channel
        .queue_delete(queue, QueueDeleteOptions::default());
    assert_eq!(deleted.await.unwrap(), 2);
}
