//! A broker in memory and clients that speak AMQP to it without a socket.

pub(crate) mod store;

use std::sync::Arc;

use bytes::BufMut as _;
use leveret_broker::{Access, Broker, BrokerConfig, Connection, Effects, Origin, resume, topology};
use leveret_codec::{
    BasicConsume, BasicPublish, ChannelCloseOk, ChannelOpen, ConnectionOpen, ConnectionStartOk,
    ConnectionTuneOk, FrameKind, Method, PROTOCOL_HEADER, Properties, QueueDeclare, RawTable,
    content, frame,
};
use leveret_session::Flush;
use leveret_store::sim::SimDisk;
use leveret_store::{Journal, JournalConfig, Store};

const FRAME_MAX: u32 = 131_072;

/// Nothing is flushed: the test takes the bytes itself.
struct NoSocket;

impl Flush for NoSocket {
    fn flush(&self) {}
    fn wake(&self) {}
    fn interrupt(&self) {}
}

pub(crate) fn broker(store: Arc<dyn Store>) -> Arc<Broker> {
    broker_with(BrokerConfig::default(), store)
}

pub(crate) fn broker_with(config: BrokerConfig, store: Arc<dyn Store>) -> Arc<Broker> {
    let access = Access::default();
    let broker = Arc::new(Broker::new(config, access, store));
    broker.first_start("guest", "guest", "/").unwrap();
    broker
}

/// A broker on what a disk holds.
pub(crate) fn on_disk(disk: &SimDisk) -> (Broker, Arc<Journal>) {
    let config = JournalConfig {
        segment_bytes: 64 << 10,
        first_segment_bytes: 32 << 10,
        start_segment_bytes: 8 << 10,
        disk_free_min: 0,
        ..JournalConfig::default()
    };
    let recovered = Journal::open(Arc::new(disk.clone()), config).expect("opens");
    let lanes: Vec<_> = recovered.lanes.iter().map(|lane| lane.lane).collect();
    assert_eq!(topology::missing(&recovered.topology, &lanes), None);
    let journal = Arc::new(recovered.journal);
    let store = Arc::clone(&journal) as Arc<dyn Store>;
    let broker = Broker::new(BrokerConfig::default(), Access::default(), store);
    broker
        .restore(&recovered.topology, recovered.next_lane)
        .expect("is understood");
    (broker, journal)
}

/// A connection that nothing has come from.
pub(crate) fn connect(broker: &Arc<Broker>) -> Connection {
    let origin = Origin {
        name: "memory".into(),
        loopback: true,
        connected_at_ms: 0,
    };
    Connection::new(Arc::clone(broker), origin, 0, Arc::new(NoSocket))
}

pub(crate) struct Client {
    pub(crate) broker: Arc<Broker>,
    pub(crate) connection: Connection,
    effects: Effects,
    rest: Vec<u8>,
}

impl Client {
    /// Logged in, with channels 1 and 2 open.
    pub(crate) fn new(broker: &Arc<Broker>) -> Self {
        Self::with_properties(broker, RawTable::EMPTY, 0)
    }

    /// The same, with these client properties and a heartbeat interval, seconds.
    pub(crate) fn with_properties(
        broker: &Arc<Broker>,
        client_properties: RawTable<'_>,
        heartbeat: u16,
    ) -> Self {
        let client = (client_properties, heartbeat);
        let mut client = Self::open_as(broker, ("guest", b"/"), client);
        client.say(1, ChannelOpen {});
        client.say(2, ChannelOpen {});
        client.hear();
        client
    }

    /// A client that has asked for a virtual host; its user's password is its name.
    pub(crate) fn open(broker: &Arc<Broker>, user: &str, vhost: impl AsRef<[u8]>) -> Self {
        Self::open_as(broker, (user, vhost.as_ref()), (RawTable::EMPTY, 0))
    }

    fn open_as(
        broker: &Arc<Broker>,
        (user, virtual_host): (&str, &[u8]),
        (client_properties, heartbeat): (RawTable<'_>, u16),
    ) -> Self {
        let mut client = Self {
            broker: Arc::clone(broker),
            connection: connect(broker),
            effects: Effects::default(),
            rest: Vec::new(),
        };
        client.send(&PROTOCOL_HEADER);
        let response = format!("\0{user}\0{user}");
        let start_ok = ConnectionStartOk {
            client_properties,
            mechanism: b"PLAIN",
            response: response.as_bytes(),
            locale: b"en_US",
        };
        client.say(0, start_ok);
        let tune_ok = ConnectionTuneOk {
            channel_max: 2047,
            frame_max: FRAME_MAX,
            heartbeat,
        };
        client.say(0, tune_ok);
        client.say(0, ConnectionOpen { virtual_host });
        client
    }

    /// What the broker does not take waits for the disk.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let turn = self.connection.receive(&self.rest, 1);
        self.rest.drain(..turn.consumed);
        assert!(self.rest.is_empty() || turn.unfinished && self.is_paused());
    }

    /// The same where something has to wait longer, or for the rest of a frame.
    pub(crate) fn send_unread(&mut self, bytes: &[u8]) {
        self.send_at(bytes, 1);
    }

    /// The same at some time, milliseconds.
    pub(crate) fn send_at(&mut self, bytes: &[u8], now_ms: u64) {
        self.rest.extend_from_slice(bytes);
        let turn = self.connection.receive(&self.rest, now_ms);
        self.rest.drain(..turn.consumed);
    }

    pub(crate) fn is_paused(&mut self) -> bool {
        self.connection.pause(false, 1).is_some()
    }

    pub(crate) fn say<'a>(&mut self, channel: u16, method: impl Into<Method<'a>>) {
        let mut bytes = Vec::new();
        method.into().encode(channel, &mut bytes);
        self.send(&bytes);
    }

    /// The answer to a method on a channel that is opened again when it was closed.
    pub(crate) fn ask<'a>(&mut self, channel: u16, method: impl Into<Method<'a>>) -> String {
        self.say(channel, method);
        let answer = self.hear().remove(0);
        if answer.contains(" close ") {
            self.say(channel, ChannelCloseOk {});
            self.say(channel, ChannelOpen {});
            self.hear();
        }
        answer
    }

    /// A turn without bytes: what an interruption brings.
    pub(crate) fn turn(&mut self) {
        self.connection.receive(&[], 1);
        while !self.rest.is_empty() && !self.is_paused() {
            self.send(&[]);
        }
    }

    /// The bytes that the broker has sent since.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut starved = Vec::new();
        let outlet = Arc::clone(&self.connection.peer().outlet);
        loop {
            let Some(mut pending) = outlet.lock().begin_flush() else {
                break;
            };
            bytes.put(&mut pending);
            outlet.lock().end_flush(pending, &mut starved);
            resume(&mut starved, &mut self.effects);
            self.broker.submit(&mut self.effects);
        }
        bytes
    }

    /// What the broker has sent since: `channel method`, `reply-to …` and `body …` for contents.
    pub(crate) fn hear(&mut self) -> Vec<String> {
        let bytes = self.take();
        let mut heard = Vec::new();
        let mut rest = &bytes[..];
        while let Some((frame, len)) = frame(rest, FRAME_MAX).expect("lawful frames") {
            match frame.kind {
                FrameKind::Method => heard.push(told(frame.channel, frame.payload)),
                FrameKind::Body => heard.push(format!("body {}", frame.payload.escape_ascii())),
                FrameKind::Header => {
                    let properties = Properties::decode(frame.payload).expect("lawful properties");
                    let name = properties.reply_to.map(String::from_utf8_lossy);
                    heard.extend(name.map(|name| format!("reply-to {name}")));
                }
                FrameKind::Heartbeat => {}
            }
            rest = &rest[len..];
        }
        heard
    }

    /// The socket fails, which its reader has not noticed yet.
    pub(crate) fn lose_socket(&mut self) {
        self.connection.peer().outlet.lock().disconnect();
    }

    pub(crate) fn disconnect(mut self) {
        self.connection.disconnect();
    }

    pub(crate) fn declare(&mut self, channel: u16, queue: &str, durable: bool) {
        self.say(channel, declaration(queue, durable));
    }

    pub(crate) fn publish(&mut self, channel: u16, queue: &str, body: &str, persistent: bool) {
        self.send(&message(channel, ("", queue), body, (true, persistent)));
    }

    /// Publishes to an exchange, without `mandatory`.
    pub(crate) fn publish_to_exchange(&mut self, channel: u16, exchange: &str, key: &str) {
        self.send(&message(channel, (exchange, key), "body", (false, false)));
    }

    /// Publishes without `mandatory`.
    pub(crate) fn publish_optional(&mut self, channel: u16, queue: &str, body: &str) {
        self.send(&message(channel, ("", queue), body, (false, false)));
    }
}

/// Messages that are ready in a queue of the first virtual host.
pub(crate) fn ready(broker: &Broker, queue: &str) -> u64 {
    let vhost = broker.vhost("/").expect("it exists");
    let cell = vhost.queue(queue).expect("it was declared");
    cell.lock().queue.ready()
}

/// A publish without `mandatory`.
pub(crate) fn optional(channel: u16, queue: &str) -> Vec<u8> {
    message(channel, ("", queue), "body", (false, false))
}

pub(crate) fn message(
    channel: u16,
    (exchange, key): (&str, &str),
    body: &str,
    (mandatory, persistent): (bool, bool),
) -> Vec<u8> {
    let publish = BasicPublish {
        exchange: exchange.as_bytes(),
        routing_key: key.as_bytes(),
        mandatory,
        immediate: false,
    };
    let mut bytes = Vec::new();
    Method::from(publish).encode(channel, &mut bytes);
    let mut header = Vec::new();
    let properties = Properties {
        delivery_mode: persistent.then_some(2),
        ..Properties::default()
    };
    properties.encode(body.len() as u64, &mut header);
    content(&mut bytes, channel, &header, body.as_bytes(), FRAME_MAX);
    bytes
}

fn told(channel: u16, payload: &[u8]) -> String {
    let method = Method::decode(payload).expect("the broker speaks AMQP");
    match method {
        Method::BasicAck(ack) => format!("{channel} ack {}", ack.delivery_tag),
        Method::BasicNack(nack) => format!("{channel} nack {}", nack.delivery_tag),
        Method::ChannelClose(close) => format!(
            "{channel} close {} {}",
            close.reply_code,
            String::from_utf8_lossy(close.reply_text)
        ),
        Method::ConnectionClose(close) => format!(
            "{channel} close {} {}",
            close.reply_code,
            String::from_utf8_lossy(close.reply_text)
        ),
        Method::BasicDeliver(deliver) => {
            let again = if deliver.redelivered { " again" } else { "" };
            format!("{channel} deliver {}{again}", deliver.delivery_tag)
        }
        other => format!("{channel} {}", other.name()),
    }
}

pub(crate) fn declaration(queue: &str, durable: bool) -> QueueDeclare<'_> {
    QueueDeclare {
        queue: queue.as_bytes(),
        durable,
        ..Default::default()
    }
}

pub(crate) fn consume(queue: &str) -> BasicConsume<'_> {
    BasicConsume {
        queue: queue.as_bytes(),
        consumer_tag: b"tag",
        ..Default::default()
    }
}
