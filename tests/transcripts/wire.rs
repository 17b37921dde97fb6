//! Methods with their contents, as text and as frames. Independent of the broker's own codec.

use std::fmt::{self, Display, Formatter};

use crate::parse::Cursor;
use crate::value::{self, Reader, Value, fields};

/// Class, method, name and arguments; `_` is reserved, and what is not named a type is a bit.
const METHODS: &[(u16, u16, &str, &str)] = &[
    (
        10,
        50,
        "connection.close",
        "reply-code:2 reply-text:s class-id:2 method-id:2",
    ),
    (10, 51, "connection.close-ok", ""),
    (10, 60, "connection.blocked", "reason:s"),
    (10, 61, "connection.unblocked", ""),
    (20, 10, "channel.open", "_:s"),
    (20, 11, "channel.open-ok", "_:S"),
    (
        20,
        40,
        "channel.close",
        "reply-code:2 reply-text:s class-id:2 method-id:2",
    ),
    (20, 41, "channel.close-ok", ""),
    (
        40,
        10,
        "exchange.declare",
        "_:2 exchange:s type:s passive durable auto-delete internal nowait arguments:t",
    ),
    (40, 11, "exchange.declare-ok", ""),
    (40, 20, "exchange.delete", "_:2 exchange:s if-unused nowait"),
    (40, 21, "exchange.delete-ok", ""),
    (
        40,
        30,
        "exchange.bind",
        "_:2 destination:s source:s routing-key:s nowait arguments:t",
    ),
    (40, 31, "exchange.bind-ok", ""),
    (
        50,
        10,
        "queue.declare",
        "_:2 queue:s passive durable exclusive auto-delete nowait arguments:t",
    ),
    (
        50,
        11,
        "queue.declare-ok",
        "queue:s message-count:4 consumer-count:4",
    ),
    (
        50,
        20,
        "queue.bind",
        "_:2 queue:s exchange:s routing-key:s nowait arguments:t",
    ),
    (50, 21, "queue.bind-ok", ""),
    (50, 30, "queue.purge", "_:2 queue:s nowait"),
    (50, 31, "queue.purge-ok", "message-count:4"),
    (
        50,
        40,
        "queue.delete",
        "_:2 queue:s if-unused if-empty nowait",
    ),
    (50, 41, "queue.delete-ok", "message-count:4"),
    (
        50,
        50,
        "queue.unbind",
        "_:2 queue:s exchange:s routing-key:s arguments:t",
    ),
    (50, 51, "queue.unbind-ok", ""),
    (
        60,
        10,
        "basic.qos",
        "prefetch-size:4 prefetch-count:2 global",
    ),
    (60, 11, "basic.qos-ok", ""),
    (
        60,
        20,
        "basic.consume",
        "_:2 queue:s consumer-tag:s no-local no-ack exclusive nowait arguments:t",
    ),
    (60, 21, "basic.consume-ok", "consumer-tag:s"),
    (60, 30, "basic.cancel", "consumer-tag:s nowait"),
    (60, 31, "basic.cancel-ok", "consumer-tag:s"),
    (
        60,
        40,
        "basic.publish",
        "_:2 exchange:s routing-key:s mandatory immediate",
    ),
    (
        60,
        50,
        "basic.return",
        "reply-code:2 reply-text:s exchange:s routing-key:s",
    ),
    (
        60,
        60,
        "basic.deliver",
        "consumer-tag:s delivery-tag:8 redelivered exchange:s routing-key:s",
    ),
    (60, 70, "basic.get", "_:2 queue:s no-ack"),
    (
        60,
        71,
        "basic.get-ok",
        "delivery-tag:8 redelivered exchange:s routing-key:s message-count:4",
    ),
    (60, 72, "basic.get-empty", "_:s"),
    (60, 80, "basic.ack", "delivery-tag:8 multiple"),
    (60, 90, "basic.reject", "delivery-tag:8 requeue"),
    (60, 110, "basic.recover", "requeue"),
    (60, 111, "basic.recover-ok", ""),
    (60, 120, "basic.nack", "delivery-tag:8 multiple requeue"),
    (85, 10, "confirm.select", "nowait"),
    (85, 11, "confirm.select-ok", ""),
    (90, 10, "tx.select", ""),
    (90, 11, "tx.select-ok", ""),
    (90, 20, "tx.commit", ""),
    (90, 21, "tx.commit-ok", ""),
    (90, 30, "tx.rollback", ""),
    (90, 31, "tx.rollback-ok", ""),
];

/// The properties of a content header, in the order of their flags from the highest bit.
const PROPERTIES: [(&str, &str); 14] = [
    ("content-type", "s"),
    ("content-encoding", "s"),
    ("headers", "t"),
    ("delivery-mode", "1"),
    ("priority", "1"),
    ("correlation-id", "s"),
    ("reply-to", "s"),
    ("expiration", "s"),
    ("message-id", "s"),
    ("timestamp", "8"),
    ("type", "s"),
    ("user-id", "s"),
    ("app-id", "s"),
    ("cluster-id", "s"),
];

const WITH_CONTENT: [&str; 4] = [
    "basic.publish",
    "basic.return",
    "basic.deliver",
    "basic.get-ok",
];

/// A method with those of its fields that are not zero, empty or false, and of a content the
/// properties and the body. As something expected, values may be patterns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) fields: Vec<(String, Value)>,
}

fn arguments(list: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let each = list.split_whitespace();
    each.map(|argument| argument.split_once(':').unwrap_or((argument, "bit")))
}

impl Message {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut cursor = Cursor(text);
        let name = cursor.word().to_owned();
        let mut fields = cursor.fields(None)?;
        let method = METHODS.iter().find(|method| method.2 == name);
        let (_, _, _, list) = *method.ok_or_else(|| format!("no method {name:?}"))?;
        let is_argument = |key: &str| key != "_" && arguments(list).any(|(name, _)| name == key);
        let has_content = WITH_CONTENT.contains(&name.as_str());
        let is_property =
            |key: &str| key == "body" || PROPERTIES.iter().any(|(name, _)| *name == key);
        for (key, _) in &fields {
            let is_known = is_argument(key) || has_content && is_property(key);
            if !is_known {
                return Err(format!("{name} has no {key:?}"));
            }
        }
        fields.retain(|(key, value)| !is_argument(key) || !value.is_default());
        if has_content && !fields.iter().any(|(key, _)| key == "body") {
            fields.push(("body".to_owned(), Value::text("")));
        }
        Ok(Self { name, fields })
    }

    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        let found = self.fields.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value)
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        match self.field(name) {
            Some(Value::Number(_, value)) => u64::try_from(*value).unwrap_or(0),
            _ => 0,
        }
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.field(name) == Some(&Value::Bool(true))
    }

    pub(crate) fn has_content(&self) -> bool {
        WITH_CONTENT.contains(&self.name.as_str())
    }

    /// Whether `actual` is what this one asks for.
    pub(crate) fn matches(&self, actual: &Self) -> bool {
        let holds = |(key, value): &(String, Value)| {
            let there = actual.field(key);
            // A zero, an empty text and so on are left out of what came.
            there.map_or(*value == Value::Any, |there| match key.as_str() {
                // RabbitMQ sorts them, and the order of a table means nothing.
                "headers" => value.sorted().matches(&there.sorted()),
                _ => value.matches(there),
            })
        };
        let asked = |(key, _): &(String, Value)| self.field(key).is_some();
        self.name == actual.name && self.fields.iter().all(holds) && actual.fields.iter().all(asked)
    }

    /// The values that stand in `actual`, which matches, where this one has names.
    pub(crate) fn named<'a>(&'a self, actual: &'a Self) -> Vec<(&'a str, &'a Value)> {
        let mut found = Vec::new();
        for (key, value) in &self.fields {
            let there = actual.field(key);
            there
                .into_iter()
                .for_each(|there| value.named(there, &mut found));
        }
        found
    }

    /// The frames of the method and its content.
    pub(crate) fn encode(&self, channel: u16) -> Vec<u8> {
        let method = METHODS.iter().find(|method| method.2 == self.name);
        let (class, id, _, list) = *method.expect("the name was looked up");
        let mut payload = [class.to_be_bytes(), id.to_be_bytes()].concat();
        let (mut bits, mut bit) = (0_u8, 0);
        for (name, kind) in arguments(list) {
            if kind == "bit" {
                bits |= u8::from(self.is_set(name)) << bit;
                bit += 1;
                continue;
            }
            if bit > 0 {
                payload.push(bits);
                (bits, bit) = (0, 0);
            }
            encode_as(kind, self.field(name), &mut payload);
        }
        if bit > 0 {
            payload.push(bits);
        }
        let mut frames = frame(1, channel, &payload);
        if self.has_content() {
            let Some(Value::Text(body)) = self.field("body") else {
                panic!("a body is text");
            };
            frames.extend(frame(2, channel, &self.header(body.len())));
            if !body.is_empty() {
                frames.extend(frame(3, channel, body));
            }
        }
        frames
    }

    fn header(&self, body_size: usize) -> Vec<u8> {
        let (mut flags, mut values) = (0_u16, Vec::new());
        for (index, (name, kind)) in PROPERTIES.iter().enumerate() {
            if let Some(value) = self.field(name) {
                flags |= 0x8000 >> index;
                encode_as(kind, Some(value), &mut values);
            }
        }
        let mut payload = vec![0, 60, 0, 0];
        payload.extend((body_size as u64).to_be_bytes());
        payload.extend(flags.to_be_bytes());
        payload.extend(values);
        payload
    }

    /// Reads a method frame's payload; methods that no transcript has are not known.
    pub(crate) fn decode(payload: &[u8]) -> Self {
        let mut reader = Reader(payload);
        let (class, id) = (reader.unsigned(2), reader.unsigned(2));
        let known = |method: &&(u16, u16, &str, &str)| {
            (u64::from(method.0), u64::from(method.1)) == (class, id)
        };
        let method = METHODS.iter().find(known);
        let (_, _, name, list) = *method.unwrap_or_else(|| panic!("method {class},{id}"));
        let mut message = Self {
            name: name.to_owned(),
            fields: Vec::new(),
        };
        let (mut bits, mut bit) = (0, 0);
        for (name, kind) in arguments(list) {
            let value = if kind == "bit" {
                if bit == 0 {
                    bits = reader.unsigned(1);
                }
                bit += 1;
                Value::Bool(bits >> (bit - 1) & 1 == 1)
            } else {
                bit = 0;
                decode_as(kind, &mut reader)
            };
            if name != "_" && !value.is_default() {
                message.fields.push((name.to_owned(), value));
            }
        }
        message
    }

    /// Adds what a content header says; gives the size of the body.
    pub(crate) fn decode_header(&mut self, payload: &[u8]) -> u64 {
        let mut reader = Reader(payload);
        reader.take(4);
        let size = reader.unsigned(8);
        let flags = reader.unsigned(2);
        for (index, (name, kind)) in PROPERTIES.iter().enumerate() {
            if flags << index & 0x8000 != 0 {
                let value = decode_as(kind, &mut reader);
                self.fields.push(((*name).to_owned(), value));
            }
        }
        size
    }
}

impl Display for Message {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.fields.is_empty() {
            write!(f, " {}", fields(&self.fields))?;
        }
        Ok(())
    }
}

pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    value::long(payload, &mut frame);
    frame.push(0xCE);
    frame
}

fn encode_as(kind: &str, value: Option<&Value>, out: &mut Vec<u8>) {
    match (kind, value) {
        ("t", Some(Value::Table(entries))) => value::table(entries, out),
        ("t", None) => value::table(&[], out),
        ("s", Some(Value::Text(text))) => {
            out.push(u8::try_from(text.len()).expect("a short string"));
            out.extend_from_slice(text);
        }
        ("s", None) => out.push(0),
        ("S", None) => value::long(&[], out),
        (width, Some(Value::Number(_, number))) => {
            let width: usize = width.parse().expect("a number");
            out.extend_from_slice(&number.to_be_bytes()[16 - width..]);
        }
        (width, None) => out.resize(out.len() + width.parse::<usize>().expect("a width"), 0),
        (kind, Some(value)) => panic!("{value} is not of the type {kind}"),
    }
}

fn decode_as(kind: &str, reader: &mut Reader<'_>) -> Value {
    match kind {
        "t" => Value::Table(reader.table()),
        "s" => Value::Text(reader.short().to_vec()),
        "S" => Value::Text(reader.long().to_vec()),
        width => Value::Number(
            'I',
            i128::from(reader.unsigned(width.parse().expect("a width"))),
        ),
    }
}
