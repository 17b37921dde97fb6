//! A connection with one channel and short ways to do what most tests do.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_lite::StreamExt as _;
use lapin::message::{BasicGetMessage, Delivery};
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, Error, ExchangeKind,
};

/// More than any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for what must not arrive.
const SILENCE: Duration = Duration::from_millis(300);

static NAMES: AtomicU32 = AtomicU32::new(0);

/// A name that no other test uses.
pub(crate) fn name(stem: &str) -> ShortString {
    let number = NAMES.fetch_add(1, Ordering::Relaxed);
    format!("lapin-{stem}-{}-{number}", std::process::id()).into()
}

/// The broker's URL.
pub(crate) fn url() -> String {
    std::env::var("AMQP_URL").expect("AMQP_URL names the broker")
}

/// A table with these values.
pub(crate) fn table<const N: usize>(values: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in values {
        table.insert(key.into(), value);
    }
    table
}

/// A text value.
pub(crate) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// A connection and a channel on it.
pub(crate) struct Peer {
    pub(crate) connection: Connection,
    pub(crate) channel: Channel,
}

impl Peer {
    pub(crate) async fn connect() -> Self {
        let options = ConnectionProperties::default();
        let connection = Connection::connect(&url(), options).await.expect("connect");
        let channel = connection.create_channel().await.expect("open a channel");
        Self {
            connection,
            channel,
        }
    }

    /// An exclusive queue with a name of its own.
    pub(crate) async fn queue(&self) -> ShortString {
        self.queue_with(FieldTable::default()).await
    }

    pub(crate) async fn queue_with(&self, arguments: FieldTable) -> ShortString {
        let (queue, options) = (name("q"), exclusive());
        self.channel
            .queue_declare(queue.clone(), options, arguments)
            .await
            .expect("declare");
        queue
    }

    /// An exchange that goes with its last binding.
    pub(crate) async fn exchange(&self, kind: ExchangeKind) -> ShortString {
        self.exchange_with(kind, FieldTable::default()).await
    }

    pub(crate) async fn exchange_with(
        &self,
        kind: ExchangeKind,
        arguments: FieldTable,
    ) -> ShortString {
        let exchange = name("x");
        let options = ExchangeDeclareOptions {
            auto_delete: true,
            ..Default::default()
        };
        let declared = self
            .channel
            .exchange_declare(exchange.clone(), kind, options, arguments);
        declared.await.expect("declare an exchange");
        exchange
    }

    pub(crate) async fn bind(&self, queue: &ShortString, exchange: &ShortString, key: &str) {
        self.bind_with(queue, exchange, key, FieldTable::default())
            .await;
    }

    pub(crate) async fn bind_with(
        &self,
        queue: &ShortString,
        exchange: &ShortString,
        key: &str,
        arguments: FieldTable,
    ) {
        let (queue, exchange) = (queue.clone(), exchange.clone());
        let options = QueueBindOptions::default();
        let bound = self
            .channel
            .queue_bind(queue, exchange, key.into(), options, arguments);
        bound.await.expect("bind");
    }

    pub(crate) async fn publish(&self, exchange: &str, key: &str, body: &[u8]) {
        self.publish_with(exchange, key, body, BasicProperties::default())
            .await;
    }

    pub(crate) async fn publish_with(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) {
        let options = BasicPublishOptions::default();
        let sent =
            self.channel
                .basic_publish(exchange.into(), key.into(), options, body, properties);
        sent.await.expect("publish");
    }

    /// Publishes the numbers below `count` to a queue and waits until they are there.
    pub(crate) async fn fill(&self, queue: &ShortString, count: u32) {
        for number in 0..count {
            self.publish("", queue.as_str(), number.to_string().as_bytes())
                .await;
        }
        self.ready(queue).await;
    }

    /// Ready messages of a queue, asked on this channel.
    pub(crate) async fn ready(&self, queue: &ShortString) -> u32 {
        let options = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let reply = self
            .channel
            .queue_declare(queue.clone(), options, FieldTable::default());
        reply.await.expect("declare passively").message_count()
    }

    pub(crate) async fn get(&self, queue: &ShortString) -> Option<BasicGetMessage> {
        let reply = self
            .channel
            .basic_get(queue.clone(), BasicGetOptions::default());
        reply.await.expect("get")
    }

    /// The body of the next message, which is acknowledged.
    pub(crate) async fn take(&self, queue: &ShortString) -> Option<String> {
        let message = self.get(queue).await?;
        message
            .delivery
            .ack(BasicAckOptions::default())
            .await
            .expect("ack");
        Some(body(&message.delivery))
    }

    /// Everything ready as (body, redelivered).
    pub(crate) async fn drain(&self, queue: &ShortString) -> Vec<(String, bool)> {
        let mut found = Vec::new();
        while let Some(message) = self.get(queue).await {
            found.push((body(&message.delivery), message.delivery.redelivered));
        }
        found
    }

    pub(crate) async fn consume(&self, queue: &ShortString) -> Consumer {
        let options = BasicConsumeOptions::default();
        let begun =
            self.channel
                .basic_consume(queue.clone(), "".into(), options, FieldTable::default());
        begun.await.expect("consume")
    }

    pub(crate) async fn qos(&self, prefetch: u16, global: bool) {
        let set = self.channel.basic_qos(prefetch, BasicQosOptions { global });
        set.await.expect("qos");
    }

    pub(crate) async fn confirm(&self) {
        let begun = self.channel.confirm_select(ConfirmSelectOptions::default());
        begun.await.expect("select confirms");
    }
}

pub(crate) fn exclusive() -> QueueDeclareOptions {
    QueueDeclareOptions {
        exclusive: true,
        ..Default::default()
    }
}

pub(crate) fn body(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.data).into_owned()
}

/// The next delivery, which must come.
pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await;
    delivery
        .expect("a delivery in time")
        .expect("a consumer that goes on")
        .expect("a delivery")
}

/// The bodies of the next deliveries, none of them acknowledged.
pub(crate) async fn bodies(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(body(&next(consumer).await));
    }
    found
}

/// Asserts that nothing arrives for a while.
pub(crate) async fn nothing(consumer: &mut Consumer) {
    let delivery = tokio::time::timeout(SILENCE, consumer.next()).await;
    assert!(delivery.is_err(), "{delivery:?} arrived");
}

/// The code and text with which the broker refused.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> (u16, String) {
    match result.expect_err("a refusal").kind() {
        lapin::ErrorKind::ProtocolError(error) => (error.get_id(), error.get_message().to_string()),
        other => panic!("refused without a code: {other:?}"),
    }
}
