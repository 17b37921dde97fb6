//! `leveretctl consume`: messages as they come, over AMQP.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use futures_lite::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use serde_json::{Map, Value, json};

use super::binding::array;
use crate::arguments::duration;
use crate::client::encode;
use crate::failure::{Failure, Kind, Result};
use crate::output::{Format, print};
use crate::session::Session;

/// How many messages may be on their way to us.
const PREFETCH: u16 = 100;
/// Longer than anybody waits.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Consumes a queue; payloads are printed line by line, whole messages with -o json or ndjson.
#[derive(Args, Debug)]
pub(crate) struct Consume {
    queue: String,
    /// Stop after this many messages
    #[arg(long)]
    count: Option<u64>,
    /// Stop when none has come for this long
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle: Option<Duration>,
    /// Do not acknowledge: the messages go back to the queue at the end
    #[arg(long)]
    requeue: bool,
    /// Let nobody else consume the queue
    #[arg(long)]
    exclusive: bool,
}

impl Consume {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        if matches!(session.output.format, Format::Yaml | Format::Csv) {
            return Err(Failure::usage(
                "consume prints payloads, or JSON with -o json or ndjson",
            ));
        }
        let url = amqp_url(session)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.consume(session, &url))
    }

    async fn consume(&self, session: &Session, url: &str) -> Result<()> {
        let name = ConnectionProperties::default().with_connection_name("leveretctl".into());
        let connecting =
            tokio::time::timeout(session.settings.timeout, Connection::connect(url, name));
        let connected = connecting
            .await
            .map_err(|_| Failure::new(Kind::Timeout, format!("{}: no answer", host(url))))?;
        let connection = connected.map_err(|error| refused(&error, host(url)))?;
        let channel = connection.create_channel().await;
        let channel = channel.map_err(|error| refused(&error, host(url)))?;
        let consumed = self.deliveries(session, &channel).await;
        let _ = connection.close(200, "leveretctl is done".into()).await;
        consumed
    }

    async fn deliveries(&self, session: &Session, channel: &Channel) -> Result<()> {
        let what = format!("queue `{}`", self.queue);
        let failed = |error: lapin::Error| refused(&error, &what);
        // What is never acknowledged would use the prefetch up.
        let limit = self.count.and_then(|count| u16::try_from(count).ok());
        let prefetch = if self.requeue {
            0
        } else {
            limit.unwrap_or(PREFETCH).min(PREFETCH)
        };
        channel
            .basic_qos(prefetch, BasicQosOptions::default())
            .await
            .map_err(failed)?;
        let options = BasicConsumeOptions {
            exclusive: self.exclusive,
            ..BasicConsumeOptions::default()
        };
        let queue = self.queue.as_str().into();
        let consumer = channel.basic_consume(queue, "".into(), options, FieldTable::default());
        let mut consumer = consumer.await.map_err(failed)?;
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        let mut consumed = 0;
        let mut held = None;
        while self.count.is_none_or(|count| consumed < count) {
            let idle = tokio::time::sleep(self.idle.unwrap_or(FOREVER));
            let next = tokio::select! {
                next = consumer.next() => next,
                () = idle => break,
                _ = &mut interrupted => break,
            };
            let Some(delivery) = next else {
                return Err(Failure::failed(format!(
                    "{what}: the broker cancelled the consumer"
                )));
            };
            let delivery = delivery.map_err(failed)?;
            show(session, &delivery)?;
            consumed += 1;
            // Each acknowledgement makes room for another delivery. The last ones are held back,
            // lest messages come that are not wanted and go back marked as redelivered.
            let last = self
                .count
                .is_some_and(|count| consumed + u64::from(prefetch) > count);
            if self.requeue || last {
                held = Some(delivery.acker);
            } else {
                delivery
                    .ack(BasicAckOptions::default())
                    .await
                    .map_err(failed)?;
            }
        }
        let tag = consumer.tag();
        channel
            .basic_cancel(tag, BasicCancelOptions::default())
            .await
            .map_err(failed)?;
        if let Some(acker) = held.filter(|_| !self.requeue) {
            acker
                .ack(BasicAckOptions { multiple: true })
                .await
                .map_err(failed)?;
        }
        session.output.say(&format!("consumed {consumed}"));
        Ok(())
    }
}

/// Where AMQP is spoken: as configured, or the listener that the broker tells of.
fn amqp_url(session: &Session) -> Result<String> {
    let settings = &session.settings;
    if let Some(url) = &settings.amqp_url {
        return Ok(url.clone());
    }
    let overview = session.get(&["overview"], "overview")?;
    let listeners = array(overview["listeners"].clone());
    let amqp = listeners
        .iter()
        .find(|listener| listener["protocol"] == "amqp");
    let port = amqp.and_then(|listener| listener["port"].as_u64());
    let port = port.ok_or_else(|| {
        Failure::failed("the broker tells of no AMQP listener; say it with LEVERETCTL_AMQP_URL")
    })?;
    let authority = settings.url.split("://").nth(1).unwrap_or_default();
    let authority = authority.split('/').next().unwrap_or_default();
    let bare = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    let (user, password) = (encode(&settings.username), encode(&settings.password));
    Ok(format!(
        "amqp://{user}:{password}@{bare}:{port}/{}",
        encode(session.vhost())
    ))
}

/// An AMQP URL without its credentials.
fn host(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, host)| host)
}

fn refused(error: &lapin::Error, what: &str) -> Failure {
    let (kind, reason) = match error.kind() {
        ErrorKind::ProtocolError(protocol) => {
            let kind = match protocol.get_id() {
                403 => Kind::Unauthorised,
                404 => Kind::NotFound,
                _ => Kind::Refused,
            };
            (kind, protocol.get_message().to_string())
        }
        ErrorKind::IOError(error) => (Kind::Unreachable, error.to_string()),
        _ => (Kind::Failed, error.to_string()),
    };
    Failure::new(kind, format!("{what}: {reason}"))
}

fn show(session: &Session, delivery: &Delivery) -> Result<()> {
    let text = std::str::from_utf8(&delivery.data).ok();
    if session.output.format == Format::Table {
        let encoded = || STANDARD.encode(&delivery.data);
        return print(&format!("{}\n", text.map_or_else(encoded, str::to_owned)));
    }
    let (payload, encoding) = match text {
        Some(text) => (text.to_owned(), "string"),
        None => (STANDARD.encode(&delivery.data), "base64"),
    };
    let message = json!({
        "exchange": delivery.exchange.as_str(),
        "routing_key": delivery.routing_key.as_str(),
        "redelivered": delivery.redelivered,
        "properties": properties(delivery),
        "payload_bytes": delivery.data.len(),
        "payload": payload,
        "payload_encoding": encoding,
    });
    print(&(serde_json::to_string(&message)? + "\n"))
}

fn properties(delivery: &Delivery) -> Value {
    let from = &delivery.properties;
    let mut properties = Map::new();
    let texts = [
        ("content_type", from.content_type()),
        ("content_encoding", from.content_encoding()),
        ("correlation_id", from.correlation_id()),
        ("reply_to", from.reply_to()),
        ("expiration", from.expiration()),
        ("message_id", from.message_id()),
        ("type", from.kind()),
        ("user_id", from.user_id()),
        ("app_id", from.app_id()),
    ];
    for (name, value) in texts {
        properties.extend(
            value
                .as_ref()
                .map(|text| (name.to_owned(), text.as_str().into())),
        );
    }
    let numbers = [
        ("delivery_mode", from.delivery_mode().map(u64::from)),
        ("priority", from.priority().map(u64::from)),
        ("timestamp", *from.timestamp()),
    ];
    for (name, value) in numbers {
        properties.extend(value.map(|number| (name.to_owned(), number.into())));
    }
    if let Some(headers) = from.headers() {
        properties.insert("headers".to_owned(), table(headers));
    }
    properties.into()
}

fn table(fields: &FieldTable) -> Value {
    let fields = fields.inner().iter();
    fields
        .map(|(name, value)| (name.as_str().to_owned(), plain(value)))
        .collect()
}

/// A field as JSON, which knows fewer types.
fn plain(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => (*value).into(),
        AMQPValue::ShortShortInt(value) => (*value).into(),
        AMQPValue::ShortShortUInt(value) => (*value).into(),
        AMQPValue::ShortInt(value) => (*value).into(),
        AMQPValue::ShortUInt(value) => (*value).into(),
        AMQPValue::LongInt(value) => (*value).into(),
        AMQPValue::LongUInt(value) => (*value).into(),
        AMQPValue::LongLongInt(value) => (*value).into(),
        AMQPValue::Timestamp(value) => (*value).into(),
        AMQPValue::Float(value) => (*value).into(),
        AMQPValue::Double(value) => (*value).into(),
        AMQPValue::DecimalValue(value) => {
            let scale = 10_f64.powi(i32::from(value.scale));
            (f64::from(value.value) / scale).into()
        }
        AMQPValue::ShortString(text) => text.as_str().into(),
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into(),
        AMQPValue::FieldArray(items) => items.as_slice().iter().map(plain).collect(),
        AMQPValue::FieldTable(fields) => table(fields),
        AMQPValue::ByteArray(bytes) => STANDARD.encode(bytes.as_slice()).into(),
        AMQPValue::Void => Value::Null,
    }
}
