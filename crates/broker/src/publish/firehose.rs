//! The firehose: copies of what is published and delivered in a virtual host, while it is traced.
//!
//! Copies are noted where a message passes, with queues and outlets locked, and published to
//! `amq.rabbitmq.trace` when the work is done and nothing is.

use std::sync::Arc;

use leveret_access::AdminError;
use leveret_codec::{Properties, RawTable, Table, Value, headers, push_route, split_route};
use leveret_record::Blob;
use leveret_router::Routes;
use leveret_session::{BatchMessage, Publishes};

use crate::broker::Broker;
use crate::publish::enqueue;
use crate::publish::room::Room;
use crate::publish::routes::sender_selected;
use crate::queue::cell::QueueCell;
use crate::queue::copied::{Copied, CopiedBody};
use crate::queue::effects::Effects;
use crate::queue::traced::{Party, Passage, TRACE_EXCHANGE, Traced, is_copy};
use crate::vhost::Vhost;

/// A copy's headers go without the message's own above this size.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// Names of queues, and routing keys, that a copy lists.
const NAMES_BYTES_MAX: usize = 16 * 1024;
/// Longest routing key.
const KEY_BYTES_MAX: usize = 255;
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

impl Traced {
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
            CopiedBody::Own(body) => (body, None),
            CopiedBody::Shared(blob) => (blob, Some(blob)),
        }
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
        effects: &mut Effects,
    ) {
        if !vhost.holdings.is_traced() {
            return;
        }
        for (message, _) in fetched
            .iter()
            .filter(|(message, _)| !is_copy(&message.route))
        {
            effects.traced.push(Traced {
                party: Party::tool(&vhost.name, user),
                passage: Passage::Delivered {
                    queue: Arc::clone(&cell.name),
                    redelivered: message.attempts.acquired > 0,
                },
                route: message.route.clone(),
                header: message.header.clone(),
                original: None,
                body: CopiedBody::Own(message.body().to_vec()),
            });
        }
    }

    /// Publishes copies of what was traced. Nothing is locked.
    #[cold]
    pub(crate) fn emit_traced(&self, effects: &mut Effects) {
        let mut routes = Routes::default();
        // What consumers of the copies' queues get on the way may be traced in turn.
        while !effects.traced.is_empty() {
            for traced in std::mem::take(&mut effects.traced) {
                self.emit(&traced, &mut routes, effects);
            }
        }
    }

    fn emit(&self, traced: &Traced, routes: &mut Routes, effects: &mut Effects) {
        let Some(vhost) = self.vhost(&traced.party.vhost) else {
            return;
        };
        let (key, headers) = (traced.key(), self.headers_of(traced));
        let headers = RawTable::parse(&headers).ok();
        let directory = vhost.directory.read();
        let keys = [key.as_slice()];
        let found = directory
            .router
            .route(TRACE_EXCHANGE, &keys, headers, routes);
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
        push_route(&mut route, TRACE_EXCHANGE, &key);
        let publish = BatchMessage {
            header: &header,
            body,
            mandatory: false,
        };
        let copy = Publishes::one(0, &route, publish);
        effects.steps += cells.len();
        let room = Room::of_impatient(self).claimed(&*self.store, &cells, &copy, effects);
        if enqueue(&cells, &copy, blob.cloned(), room, effects) != 0 {
            self.refused.note_all(&vhost, &route, &mut effects.refused);
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
