//! Looks at a queue's messages without taking any, and at where a message would go.

use std::sync::atomic::Ordering;

use leveret_broker::{Copied, Directory, Rank, Vhost};
use leveret_codec::{Properties, RawTable, Table, split_route};
use leveret_router::{BindingView, DestinationView, ExchangeKind, QueueId, Routes, Steps};
use parking_lot::RwLockReadGuard;
use serde_json::{Value, json};

use crate::amqp::{json_to_table, payload_to_json, properties_to_json, table_to_json, text};
use crate::call::Call;
use crate::field::BodyFields;
use crate::problem::Problem;
use crate::queue;
use crate::reply::{Answer, Reply};
use crate::rights::require_read;

const COUNT_DEFAULT: usize = 10;
const COUNT_MAX: usize = 1_000;
/// Messages that one request looks at, matching or not.
const SCAN_MAX: usize = 20_000;
/// Messages, and bytes, copied while the queue is locked.
const STEP: (usize, usize) = (256, 256 * 1024);
/// Bytes of a payload that are shown, unless the request wants more.
const TRUNCATE_DEFAULT: usize = 50_000;

/// Which messages are wanted.
struct Wanted {
    key: Option<String>,
    headers: Vec<(String, String)>,
    /// Seconds since 1970 of the `timestamp` property, at most: older ones.
    before_s: Option<u64>,
    after_s: Option<u64>,
}

impl Wanted {
    fn of(call: &Call) -> Result<Self, Problem> {
        let headers = call.query.iter().filter_map(|(name, value)| {
            let header = name.strip_prefix("header.")?;
            Some((header.to_owned(), value.clone()))
        });
        let now_s = call.app.host.wall_ms() / 1000;
        let age = |name: &str| match call.parameter(name) {
            None => Ok(None),
            Some(text) => text
                .parse::<u64>()
                .map(|age| Some(now_s.saturating_sub(age)))
                .map_err(|_| Problem::bad(format!("{name} must be a number of seconds"))),
        };
        Ok(Self {
            key: call.parameter("routing_key").map(str::to_owned),
            headers: headers.collect(),
            before_s: age("min_age")?,
            after_s: age("max_age")?,
        })
    }

    fn matches(&self, message: &Copied) -> bool {
        let (_, key) = split_route(&message.route).unwrap_or_default();
        if self
            .key
            .as_ref()
            .is_some_and(|wanted| wanted.as_bytes() != key)
        {
            return false;
        }
        let plain = self.headers.is_empty() && self.before_s.is_none() && self.after_s.is_none();
        if plain {
            return true;
        }
        let Ok(properties) = Properties::decode(&message.header) else {
            return false;
        };
        let in_time = match properties.timestamp {
            Some(at) => {
                self.before_s.is_none_or(|before| at <= before)
                    && self.after_s.is_none_or(|after| at >= after)
            }
            None => self.before_s.is_none() && self.after_s.is_none(),
        };
        let table = properties.headers.unwrap_or_default();
        in_time
            && self
                .headers
                .iter()
                .all(|(name, value)| has(table, name, value))
    }
}

/// Whether a header has a value, compared as text.
fn has(table: RawTable<'_>, name: &str, wanted: &str) -> bool {
    let shown = table_to_json(table);
    match shown.get(name) {
        Some(Value::String(text)) => text == wanted,
        Some(other) => {
            let text = other.to_string();
            text == wanted
        }
        None => false,
    }
}

/// Before all messages: the highest level is served first.
const FIRST: Rank = Rank {
    level: u8::MAX,
    seq: 0,
};

fn cursor_of(text: &str) -> Option<Rank> {
    let (level, seq) = text.split_once('.')?;
    Some(Rank {
        level: level.parse().ok()?,
        seq: seq.parse().ok()?,
    })
}

fn number(call: &Call, name: &str, default: usize, max: usize) -> Result<usize, Problem> {
    match call.parameter(name) {
        None | Some("") => Ok(default),
        Some(text) => text
            .parse::<usize>()
            .map(|number| number.min(max))
            .map_err(|_| Problem::bad(format!("{name} must be a number, not {text}"))),
    }
}

/// `GET /api/x/queues/{vhost}/{queue}/peek`: ready messages, which stay as they are.
///
/// The queue is locked for a short step at a time; messages are compared and written outside.
pub(crate) fn peek(call: &Call) -> Answer {
    let (vhost, cell) = queue::find(call)?;
    require_read(call, &vhost, &cell.name)?;
    queue::not_exclusive(&vhost, &cell)?;
    let wanted = Wanted::of(call)?;
    let count = number(call, "count", COUNT_DEFAULT, COUNT_MAX)?;
    let truncate = number(call, "truncate", TRUNCATE_DEFAULT, usize::MAX)?;
    let base64 = call.parameter("encoding") == Some("base64");
    let mut cursor = match call.parameter("cursor") {
        None | Some("") => FIRST,
        Some(text) => cursor_of(text).ok_or_else(|| Problem::bad("cursor is not valid"))?,
    };
    let (mut found, mut scanned, mut more) = (Vec::new(), 0, true);
    while found.len() < count && scanned < SCAN_MAX && more {
        let step = call.app.broker.peek(&cell, cursor, STEP);
        more = !step.is_empty();
        for message in step {
            if found.len() >= count {
                break;
            }
            cursor = Rank {
                seq: message.rank.seq + 1,
                ..message.rank
            };
            scanned += 1;
            if wanted.matches(&message) {
                found.push(shown(&message, truncate, base64));
            }
        }
    }
    let ready = cell.lock().queue.ready();
    let mut page = json!({"items": found, "scanned": scanned, "messages_ready": ready});
    if more && count > 0 {
        page["cursor"] = format!("{}.{}", cursor.level, cursor.seq).into();
    }
    Ok(Reply::Json(page))
}

fn shown(message: &Copied, truncate: usize, base64: bool) -> Value {
    let (exchange, key) = split_route(&message.route).unwrap_or_default();
    let payload = message.body();
    let part = payload.get(..truncate).unwrap_or(payload);
    let (part, encoding) = payload_to_json(part, base64);
    json!({
        "seq": message.rank.seq,
        "priority": message.rank.level,
        "exchange": text(exchange),
        "routing_key": text(key),
        "redelivered": message.attempts.acquired > 0,
        "acquired_count": message.attempts.acquired,
        "delivery_count": message.attempts.failed,
        "properties": properties_to_json(&message.header),
        "payload_bytes": payload.len(),
        "payload": part,
        "payload_encoding": encoding,
    })
}

/// `POST /api/x/routes/{vhost}/{exchange}`: the queues that a message with this key and these
/// headers would reach, and for each binding of the exchange whether it matches.
///
/// The virtual host is locked no longer than a publish locks it: bindings are copied, and tested
/// outside.
pub(crate) fn routes(call: &Call) -> Answer {
    if call.body.len() > ROUTES_BYTES_MAX {
        return Err(Problem::TooLarge(ROUTES_BYTES_MAX));
    }
    let vhost = call.vhost()?;
    let exchange = call.exchange_segment("exchange");
    let body = call.object()?;
    let fields = BodyFields(&body);
    let key = fields.text("routing_key")?.unwrap_or_default();
    let headers = match fields.object("headers")? {
        Some(object) => json_to_table(object)?,
        None => Table::new(),
    };
    let encoded = headers.encoded();
    let headers = RawTable::parse(&encoded).map_err(|error| Problem::bad(error.to_string()))?;
    let mut found = Routes::new();
    let properties = Properties {
        headers: Some(headers),
        ..Properties::default()
    };
    let directory = find(&vhost, exchange, key.as_bytes(), &properties, &mut found)?;
    let source = directory.router.exchange(exchange);
    let source = source.ok_or(Problem::NotFound)?;
    let kind = source.spec().kind;
    let alternate = source.alternate().map(str::to_owned);
    let names = found.queues().iter().filter_map(|id| directory.cell(*id));
    let mut queues: Vec<String> = names.map(|cell| cell.name.to_string()).collect();
    queues.sort();
    let bindings: Vec<Bound> = if exchange.is_empty() {
        Vec::new()
    } else {
        let bindings = directory.router.bindings_of_source(exchange);
        bindings.take(BINDINGS_MAX).map(Bound::of).collect()
    };
    drop(directory);
    let bindings: Vec<Value> = bindings
        .iter()
        .map(|bound| tested(&bound.view(exchange), kind, key.as_bytes(), headers))
        .collect();
    let mut answer = json!({
        "vhost": &*vhost.name,
        "exchange": exchange,
        "type": kind.name(),
        "routing_key": key,
        "routed": !queues.is_empty(),
        "queues": queues,
        "bindings": bindings,
    });
    if let Some(alternate) = alternate {
        answer["alternate_exchange"] = alternate.into();
    }
    Ok(Reply::Json(answer))
}

/// Finds the queues of a message part by part: the virtual host is let go of in between, and begun
/// with again when its bindings change meanwhile.
fn find<'a>(
    vhost: &'a Vhost,
    exchange: &str,
    key: &[u8],
    properties: &Properties<'_>,
    found: &mut Routes,
) -> Result<RwLockReadGuard<'a, Directory>, Problem> {
    let mut seen = None;
    for part in 0..=PARTS_MAX {
        let directory = vhost.directory.read();
        let router = &directory.router;
        let now = router.exchange(exchange).ok_or(Problem::NotFound)?;
        let now = now.generation().load(Ordering::Acquire);
        if seen.replace(now) != Some(now) {
            let begun = router.begin_route(exchange.as_bytes(), found);
            begun.map_err(|_| Problem::NotFound)?;
        }
        let mut steps = Steps::new(if part < PARTS_MAX {
            STEPS_OF_PART
        } else {
            usize::MAX
        });
        if router.go_on(&[key], properties, found, &mut steps) {
            return Ok(directory);
        }
    }
    Err(Problem::Internal("the route has no end".to_owned()))
}

/// A copy of a binding.
struct Bound {
    destination: String,
    queue: Option<QueueId>,
    key: Vec<u8>,
    arguments: Vec<u8>,
}

impl Bound {
    fn of(view: BindingView<'_>) -> Self {
        let (destination, queue) = match view.destination {
            DestinationView::Queue(id, name) => (name, Some(id)),
            DestinationView::Exchange(name) => (name, None),
        };
        Self {
            destination: destination.to_owned(),
            queue,
            key: view.key.to_vec(),
            arguments: view.arguments.as_bytes().to_vec(),
        }
    }

    fn view<'a>(&'a self, source: &'a str) -> BindingView<'a> {
        BindingView {
            source,
            destination: match self.queue {
                Some(id) => DestinationView::Queue(id, &self.destination),
                None => DestinationView::Exchange(&self.destination),
            },
            key: &self.key,
            // They were parsed when the binding was made.
            arguments: RawTable::parse(&self.arguments).unwrap_or_default(),
            number: None,
        }
    }
}

/// A binding, and whether a message matches it.
fn tested(view: &BindingView<'_>, kind: ExchangeKind, key: &[u8], headers: RawTable<'_>) -> Value {
    let (destination, destination_type) = match view.destination {
        DestinationView::Queue(_, name) => (name, "queue"),
        DestinationView::Exchange(name) => (name, "exchange"),
    };
    json!({
        "destination": destination,
        "destination_type": destination_type,
        "routing_key": text(view.key),
        "arguments": table_to_json(view.arguments),
        "properties_key": view.properties_key(),
        "matches": matches(view, kind, key, headers),
    })
}

/// Asks a router that has this binding alone.
fn matches(view: &BindingView<'_>, kind: ExchangeKind, key: &[u8], headers: RawTable<'_>) -> bool {
    use leveret_router::{BindingSpec, Destination, ExchangeSpec, Router};
    let mut router = Router::new();
    let probe = BindingSpec {
        source: PROBE.to_owned(),
        destination: Destination::Queue(QueueId(0)),
        key: view.key.to_vec(),
        arguments: view.arguments.to_table(),
    };
    let mut found = Routes::new();
    router.add_queue(PROBE, QueueId(0));
    router.declare(PROBE, ExchangeSpec::durable(kind)).is_ok()
        && router.bind(&probe).is_ok()
        && router
            .route(PROBE.as_bytes(), &[key], Some(headers), &mut found)
            .is_ok()
        && !found.queues().is_empty()
}

const PROBE: &str = "probe";
/// A message's headers are no larger on a channel: they come in one frame.
const ROUTES_BYTES_MAX: usize = 128 * 1024;
/// Steps of finding a route while a virtual host is locked.
const STEPS_OF_PART: usize = 16 * 1024;
/// Such parts, before the last one that is as long as it takes.
const PARTS_MAX: usize = 4096;
/// Bindings of an exchange that are told one by one.
const BINDINGS_MAX: usize = 1_000;
