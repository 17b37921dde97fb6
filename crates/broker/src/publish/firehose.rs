//! The firehose: copies of what is published and delivered in a virtual host, while it is traced.
//!
//! Copies are noted where a message passes, with queues and outlets locked, and published to
//! `amq.rabbitmq.trace` when the work is done and nothing is.

use std::sync::Arc;

use leveret_access::AdminError;
use leveret_codec::{Properties, RawTable, Table, Value, headers, push_route, split_route};
use leveret_queue::Delivery;
use leveret_record::{Blob, Body, Record};
use leveret_router::Routes;
use leveret_session::{Publish, Publishes};

use crate::broker::{Broker, Peer};
use crate::connection::Core;
use crate::publish::direct::Copied;
use crate::publish::enqueue;
use crate::publish::room::Room;
use crate::publish::routes::{Route, sender_selected};
use crate::queue::cell::{Handle, QueueCell};
use crate::queue::pump::Work;
use crate::vhost::Vhost;

const EXCHANGE: &[u8] = b"amq.rabbitmq.trace";
/// A copy's headers go without the message's own above this size.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// Names of queues, and routing keys, that a copy lists.
const NAMES_BYTES_MAX: usize = 16 * 1024;
/// Longest routing key.
const KEY_BYTES_MAX: usize = 255;
/// What RabbitMQ's tools have as their channel.
const TOOLS_CHANNEL: u16 = 1;
/// Stands for a connection where there is none.
const TOOLS_CONNECTION: &str = "HTTP API";

/// Who published a message, or got it.
#[derive(Clone)]
pub(crate) struct Party {
    vhost: Arc<str>,
    connection: Arc<str>,
    user: Arc<str>,
    channel: u16,
}

impl Party {
    /// A channel of a client.
    pub(crate) fn client(peer: &Peer, channel: u16) -> Self {
        Self {
            vhost: peer.vhost.lock().as_str().into(),
            connection: peer.name.as_str().into(),
            user: peer.user.lock().as_str().into(),
            channel,
        }
    }

    /// A user of the HTTP API.
    pub(crate) fn tool(vhost: &str, user: &str) -> Self {
        Self {
            vhost: vhost.into(),
            connection: TOOLS_CONNECTION.into(),
            user: user.into(),
            channel: TOOLS_CHANNEL,
        }
    }
}

/// What became of a message.
enum Passage {
    /// It was published, and led to these queues.
    Published(Vec<Arc<str>>),
    /// It was delivered from this queue.
    Delivered { queue: Arc<str>, redelivered: bool },
}

enum Content {
    Own(Vec<u8>),
    Shared(Arc<Blob>),
}

/// A message that passed.
pub(crate) struct Traced {
    party: Party,
    passage: Passage,
    /// Exchange and routing key as two raw short strings.
    route: Vec<u8>,
    header: Vec<u8>,
    /// The same as it was published, if it differs: `BCC` is a way, too.
    original: Option<Vec<u8>>,
    body: Content,
}

/// What is only known of a message that was looked at closely: its header as it was published, and
/// its body if that is shared.
pub(crate) type Close<'a> = (&'a [u8], Option<&'a Arc<Blob>>);

impl Traced {
    fn published(
        party: &Party,
        route: &Route,
        (raw, publish): (&[u8], Publish<'_>),
        close: Option<Close<'_>>,
    ) -> Self {
        let original = close.map(|(original, _)| original);
        let original = original.filter(|original| *original != publish.header);
        let blob = close.and_then(|(_, blob)| blob);
        let queues = route.cells.iter().map(|cell| Arc::clone(&cell.name));
        Self {
            party: party.clone(),
            passage: Passage::Published(queues.collect()),
            route: raw.to_vec(),
            header: publish.header.to_vec(),
            original: original.map(<[u8]>::to_vec),
            body: match blob {
                Some(blob) => Content::Shared(Arc::clone(blob)),
                None => Content::Own(publish.body.to_vec()),
            },
        }
    }

    /// A delivery; none of a copy, which would be copied without end.
    pub(crate) fn delivered(
        party: impl FnOnce() -> Party,
        cell: &QueueCell,
        delivery: &Delivery<'_>,
    ) -> Option<Self> {
        let record: &Record<'_> = delivery.record;
        if is_copy(record.route) {
            return None;
        }
        Some(Self {
            party: party(),
            passage: Passage::Delivered {
                queue: Arc::clone(&cell.name),
                redelivered: delivery.unacked.attempts.acquired > 0,
            },
            route: record.route.to_vec(),
            header: record.header.to_vec(),
            original: None,
            body: match (record.body, delivery.blob) {
                (Body::Inline(body), _) => Content::Own(body.to_vec()),
                (Body::Blob { .. }, Some(blob)) => Content::Shared(Arc::clone(blob)),
                (Body::Blob { .. }, None) => Content::Own(Vec::new()),
            },
        })
    }

    /// `publish.` and the exchange, or `deliver.` and the queue.
    fn key(&self) -> Vec<u8> {
        let (exchange, _) = split_route(&self.route).unwrap_or_default();
        let (prefix, name) = match &self.passage {
            Passage::Published(_) => ("publish.", exchange),
            Passage::Delivered { queue, .. } => ("deliver.", queue.as_bytes()),
        };
        let mut key = [prefix.as_bytes(), name].concat();
        key.truncate(KEY_BYTES_MAX);
        key
    }

    /// What RabbitMQ says of it, in the same order and types.
    fn headers(&self, node: &str, with_own: bool) -> Table {
        let (exchange, key) = split_route(&self.route).unwrap_or_default();
        let mut properties = Properties::decode(&self.header).unwrap_or_default();
        properties.headers = properties.headers.filter(|_| with_own);
        let original = self.original.as_deref().unwrap_or(&self.header);
        let more = headers(original).and_then(|headers| sender_selected(headers).ok());
        let keys = std::iter::once(key).chain(more.unwrap_or_default());
        let party = &self.party;
        let mut table = Table::new();
        table.insert("channel", Value::I32(party.channel.into()));
        table.insert("connection", text(party.connection.as_bytes()));
        table.insert("exchange_name", text(exchange));
        table.insert("node", text(node));
        table.insert("properties", Value::Table(described(&properties)));
        match &self.passage {
            Passage::Published(queues) => {
                let queues = queues.iter().map(|name| name.as_bytes());
                table.insert("routed_queues", listed(queues));
            }
            Passage::Delivered { redelivered, .. } => {
                table.insert("redelivered", Value::I32((*redelivered).into()));
            }
        }
        table.insert("routing_keys", listed(keys));
        table.insert("user", text(party.user.as_bytes()));
        table.insert("vhost", text(party.vhost.as_bytes()));
        table
    }

    fn body(&self) -> (&[u8], Option<&Arc<Blob>>) {
        match &self.body {
            Content::Own(body) => (body, None),
            Content::Shared(blob) => (blob, Some(blob)),
        }
    }
}

/// Whether a message with this route is a copy itself.
fn is_copy(route: &[u8]) -> bool {
    split_route(route).is_some_and(|(exchange, _)| exchange == EXCHANGE)
}

/// Names, as many as there is room for.
fn listed<'a>(names: impl Iterator<Item = &'a [u8]>) -> Value {
    let mut bytes = 0;
    let fits = |name: &&[u8]| {
        bytes += name.len() + 5;
        bytes <= NAMES_BYTES_MAX
    };
    Value::Array(names.take_while(fits).map(text).collect())
}

fn text(bytes: impl AsRef<[u8]>) -> Value {
    Value::LongString(bytes.as_ref().to_vec())
}

/// A message's properties as a table, in the order of RabbitMQ: the last one first.
fn described(properties: &Properties<'_>) -> Table {
    let mut table = Table::new();
    let number = |number: u64| {
        // RabbitMQ keeps so many bits of a timestamp, too.
        let [.., a, b, c, d] = number.to_be_bytes();
        Value::I32(i32::from_be_bytes([a, b, c, d]))
    };
    let table_of = |headers: RawTable<'_>| Value::Table(headers.to_table());
    for (name, value) in [
        ("cluster_id", properties.cluster_id.map(text)),
        ("app_id", properties.app_id.map(text)),
        ("user_id", properties.user_id.map(text)),
        ("type", properties.kind.map(text)),
        ("timestamp", properties.timestamp.map(number)),
        ("message_id", properties.message_id.map(text)),
        ("expiration", properties.expiration.map(text)),
        ("reply_to", properties.reply_to.map(text)),
        ("correlation_id", properties.correlation_id.map(text)),
        (
            "priority",
            properties.priority.map(|octet| number(octet.into())),
        ),
        (
            "delivery_mode",
            properties.delivery_mode.map(|octet| number(octet.into())),
        ),
        ("headers", properties.headers.map(table_of)),
        ("content_encoding", properties.content_encoding.map(text)),
        ("content_type", properties.content_type.map(text)),
    ] {
        if let Some(value) = value {
            table.insert(name, value);
        }
    }
    table
}

impl Core {
    #[inline]
    pub(crate) fn is_traced(&self) -> bool {
        let vhost = self.vhost.as_ref();
        vhost.is_some_and(|vhost| vhost.holdings.is_traced())
    }

    /// Notes what is published with this route.
    #[cold]
    pub(crate) fn trace(&mut self, route: &Route, batch: &Publishes<'_>, close: Option<Close<'_>>) {
        let party = Party::client(&self.peer, batch.channel);
        self.work.trace(&party, route, batch, close);
    }
}

impl Work {
    #[cold]
    pub(crate) fn trace(
        &mut self,
        party: &Party,
        route: &Route,
        batch: &Publishes<'_>,
        close: Option<Close<'_>>,
    ) {
        for publish in batch.iter() {
            let message = (batch.route, publish);
            let traced = Traced::published(party, route, message, close);
            self.traced.push(traced);
        }
    }

    /// Notes what a consumer got.
    #[cold]
    pub(crate) fn trace_delivery(&mut self, handle: &Handle, delivery: &Delivery<'_>) {
        let party = || Party::client(&handle.peer, handle.channel);
        self.traced
            .extend(Traced::delivered(party, &handle.cell, delivery));
    }
}

impl Broker {
    /// Has what passes through a virtual host traced from now on, or no more. As with RabbitMQ,
    /// nothing is after a restart.
    ///
    /// # Errors
    /// When there is none of the name.
    pub fn set_tracing(&self, vhost: &str, on: bool) -> Result<(), AdminError> {
        let known = self.vhost(vhost);
        let known = known.ok_or_else(|| AdminError::NoVhost(vhost.into()))?;
        known.holdings.set_traced(on);
        Ok(())
    }

    /// Notes what a user fetched over HTTP, if that is traced.
    pub fn trace_fetched(
        &self,
        (vhost, user): (&Vhost, &str),
        cell: &QueueCell,
        fetched: &[(Copied, u64)],
        work: &mut Work,
    ) {
        if !vhost.holdings.is_traced() {
            return;
        }
        for (message, _) in fetched
            .iter()
            .filter(|(message, _)| !is_copy(&message.route))
        {
            work.traced.push(Traced {
                party: Party::tool(&vhost.name, user),
                passage: Passage::Delivered {
                    queue: Arc::clone(&cell.name),
                    redelivered: message.attempts.acquired > 0,
                },
                route: message.route.clone(),
                header: message.header.clone(),
                original: None,
                body: Content::Own(message.body().to_vec()),
            });
        }
    }

    /// Publishes copies of what was traced. Nothing is locked.
    #[cold]
    pub(crate) fn emit_traced(&self, work: &mut Work) {
        let mut routes = Routes::default();
        // What consumers of the copies' queues get on the way may be traced in turn.
        while !work.traced.is_empty() {
            for traced in std::mem::take(&mut work.traced) {
                self.emit(&traced, &mut routes, work);
            }
        }
    }

    fn emit(&self, traced: &Traced, routes: &mut Routes, work: &mut Work) {
        let Some(vhost) = self.vhost(&traced.party.vhost) else {
            return;
        };
        let (key, headers) = (traced.key(), self.headers_of(traced));
        let headers = RawTable::parse(&headers).ok();
        let directory = vhost.directory.read();
        let keys = [key.as_slice()];
        let found = directory.router.route(EXCHANGE, &keys, headers, routes);
        let queues = found.map_or(&[][..], |_| routes.queues());
        let cells = queues.iter().filter_map(|id| directory.cell(*id).cloned());
        let cells: Vec<_> = cells.collect();
        drop(directory);
        if cells.is_empty() {
            return;
        }
        let (body, blob) = traced.body();
        let properties = Properties {
            headers,
            ..Properties::default()
        };
        let (mut header, mut route) = (Vec::new(), Vec::new());
        properties.encode(body.len() as u64, &mut header);
        push_route(&mut route, EXCHANGE, &key);
        let publish = Publish {
            header: &header,
            body,
            mandatory: false,
        };
        let copy = Publishes::one(0, &route, publish);
        work.steps += cells.len();
        let room = Room::of(self).claimed(&*self.store, &cells, &copy, work);
        if enqueue(&cells, &copy, blob.cloned(), room, work) != 0 {
            self.note_refused(&vhost, &route, &mut work.refused);
        }
    }

    /// The copy's headers, with the message's own among them if that still is a lawful table of a
    /// size that every client takes.
    fn headers_of(&self, traced: &Traced) -> Vec<u8> {
        let all = traced.headers(&self.config.node, true).encoded();
        if all.len() <= HEADERS_BYTES_MAX && RawTable::parse(&all).is_ok() {
            return all;
        }
        traced.headers(&self.config.node, false).encoded()
    }
}
