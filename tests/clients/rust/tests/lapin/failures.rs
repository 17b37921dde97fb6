//! Refusals by code and text, and what is left to work with afterwards.

use lapin::options::*;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties, ErrorKind, ExchangeKind};

use crate::peer::{Peer, exclusive, name, refusal, url};

#[tokio::test]
async fn a_missing_queue_closes_the_channel_only() {
    let peer = Peer::connect().await;
    let queue = name("none");
    let got = peer
        .channel
        .basic_get(queue.clone(), BasicGetOptions::default())
        .await;
    let text = format!("NOT_FOUND - no queue '{queue}' in vhost '/'");
    assert_eq!(refusal(got), (404, text));
    let again = peer.connection.create_channel().await.unwrap();
    again
        .queue_declare("".into(), exclusive(), FieldTable::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_missing_exchange_closes_the_channel() {
    let peer = Peer::connect().await;
    let exchange = name("none");
    peer.confirm().await;
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent = peer
        .channel
        .basic_publish(exchange.clone(), "k".into(), options, b"x", properties);
    // The outstanding confirm fails with the broker's code, however soon the close arrives; a
    // command sent next may find the channel closed on this side already.
    let (code, text) = refusal(sent.await.unwrap().await);
    assert_eq!(
        (code, text),
        (
            404,
            format!("NOT_FOUND - no exchange '{exchange}' in vhost '/'")
        )
    );
}

#[tokio::test]
async fn another_connections_exclusive_queue_is_locked() {
    let (owner, other) = (Peer::connect().await, Peer::connect().await);
    let queue = owner.queue().await;
    let purged = other
        .channel
        .queue_purge(queue.clone(), QueuePurgeOptions::default())
        .await;
    let (code, text) = refusal(purged);
    assert_eq!(code, 405);
    let start = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue";
    assert!(
        text.starts_with(&format!("{start} '{queue}' in vhost '/'. ")),
        "{text}"
    );
}

#[tokio::test]
async fn a_different_redeclaration_is_refused() {
    let peer = Peer::connect().await;
    let exchange = peer.exchange(ExchangeKind::Direct).await;
    let options = ExchangeDeclareOptions {
        auto_delete: true,
        ..Default::default()
    };
    let kind = ExchangeKind::Topic;
    let declared =
        peer.channel
            .exchange_declare(exchange.clone(), kind, options, FieldTable::default());
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{exchange}' in vhost '/': \
         received 'topic' but current is 'direct'"
    );
    assert_eq!(refusal(declared.await), (406, text));
}

#[tokio::test]
async fn reserved_names_are_refused() {
    let peer = Peer::connect().await;
    let options = QueueDeclareOptions::default();
    let declared = peer
        .channel
        .queue_declare("amq.mine".into(), options, FieldTable::default());
    let text = "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'";
    assert_eq!(refusal(declared.await), (403, text.to_owned()));
}

/// What the broker said of an ack, as the next command hears it; `None` if the close came before
/// that was sent, and lapin tells nothing but that the channel closes.
async fn refusal_of_ack(tag: u64) -> Option<(u16, String)> {
    let peer = Peer::connect().await;
    let ack = peer.channel.basic_ack(tag, BasicAckOptions::default());
    let declare = peer
        .channel
        .queue_declare("".into(), exclusive(), FieldTable::default());
    let (acked, declared) = tokio::join!(biased; ack, declare);
    acked.unwrap();
    let late = |error: &lapin::Error| matches!(error.kind(), ErrorKind::InvalidChannelState(..));
    match declared {
        Err(error) if late(&error) => None,
        declared => Some(refusal(declared)),
    }
}

#[tokio::test]
async fn an_unknown_delivery_tag_is_refused() {
    let mut told = None;
    for _ in 0..20 {
        told = refusal_of_ack(99).await;
        if told.is_some() {
            break;
        }
    }
    let text = "PRECONDITION_FAILED - unknown delivery tag 99";
    assert_eq!(told, Some((406, text.to_owned())));
}

#[tokio::test]
async fn a_new_connection_works_after_the_broker_closed_one() {
    let peer = Peer::connect().await;
    let recover = peer
        .channel
        .basic_recover(BasicRecoverOptions { requeue: false })
        .await;
    assert_eq!(
        refusal(recover),
        (540, "NOT_IMPLEMENTED - requeue=false".to_owned())
    );
    let again = Peer::connect().await;
    let queue = again.queue().await;
    again.fill(&queue, 1).await;
    assert_eq!(again.take(&queue).await.as_deref(), Some("0"));
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let url = url().replace("guest:guest@", "guest:wrong@");
    let refused = Connection::connect(&url, ConnectionProperties::default()).await;
    let (code, text) = refusal(refused.map(|_| ()));
    assert_eq!(code, 403);
    let start = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN";
    assert!(text.starts_with(start), "{text}");
}

#[tokio::test]
async fn a_missing_vhost_is_refused() {
    let url = url().replace("/%2f", "/nope");
    let refused = Connection::connect(&url, ConnectionProperties::default()).await;
    assert_eq!(
        refusal(refused.map(|_| ())),
        (530, "NOT_ALLOWED - vhost nope not found".into())
    );
}

#[tokio::test]
async fn small_frames_and_heartbeats_are_negotiated() {
    let url = format!("{}?frame_max=4096&heartbeat=1", url());
    let connection = Connection::connect(&url, ConnectionProperties::default())
        .await
        .unwrap();
    assert_eq!(connection.configuration().frame_max(), 4096);
    let channel = connection.create_channel().await.unwrap();
    let peer = Peer {
        connection,
        channel,
    };
    let queue = peer.queue().await;
    peer.publish("", queue.as_str(), &[7; 100_000]).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(peer.get(&queue).await.unwrap().delivery.data, [7; 100_000]);
}
