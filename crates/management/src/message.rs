//! Messages over HTTP: RabbitMQ's publish and get, and our own ingress with back pressure.

use axum::http::StatusCode;
use leveret_broker::{Direct, Effects, Fetch, NackReason, Published, Vhost};
use leveret_codec::split_route;
use serde_json::{Map, Value, json};

use crate::amqp::{json_to_header, payload_from_json, payload_to_json, properties_to_json, text};
use crate::call::Call;
use crate::durable;
use crate::field::BodyFields;
use crate::problem::Problem;
use crate::queue;
use crate::reply::{Answer, Reply};
use crate::rights::{Resource, Right, require, require_read};

/// Messages that one request fetches or publishes.
const COUNT_MAX: i64 = 10_000;
/// Bytes of bodies that one request fetches; it gives fewer messages then.
const FETCH_BYTES_MAX: usize = 64 << 20;
/// Seconds after which a publisher tries again that an alarm has stopped.
const RETRY_AFTER_S: u32 = 1;

/// A message as a request describes it.
struct Described {
    key: String,
    header: Vec<u8>,
    body: Vec<u8>,
}

impl Described {
    /// Reads a message. RabbitMQ's endpoint insists on all fields, ours does not.
    fn of(fields: &BodyFields<'_>, strict: bool) -> Result<Self, Problem> {
        if strict {
            fields.require_all(&["routing_key", "properties", "payload", "payload_encoding"])?;
        }
        let encoding = fields.text("payload_encoding")?.unwrap_or("string");
        let body = match fields.get("payload") {
            Some(Value::String(payload)) => payload_from_json(payload, encoding)?,
            Some(other) if !strict => other.to_string().into_bytes(),
            Some(_) => return Err(Problem::bad("payload_not_string")),
            None => Vec::new(),
        };
        let empty = Map::new();
        let properties = fields.object("properties")?.unwrap_or(&empty);
        Ok(Self {
            key: fields.text("routing_key")?.unwrap_or_default().to_owned(),
            header: json_to_header(properties, body.len())?,
            body,
        })
    }
}

/// Publishes one message; what it leaves to do is in `work`.
fn publish_one(
    call: &Call,
    vhost: &Vhost,
    message: &Described,
    effects: &mut Effects,
) -> Result<Published, Problem> {
    let exchange = call.exchange_segment("exchange");
    if message.key.len() > 255 {
        return Err(Problem::bad("routing key is longer than 255 bytes"));
    }
    let direct = Direct {
        exchange,
        key: message.key.as_bytes(),
        header: &message.header,
        body: &message.body,
    };
    let published = call
        .app
        .broker
        .publish(vhost, &call.caller.name, &direct, effects);
    published.map_err(|refusal| Problem::refused_on_channel(refusal, &vhost.name))
}

fn limited(reason: NackReason) -> Problem {
    Problem::Limited {
        reason: reason.text,
        retry_after_ms: reason.retry_after_ms,
    }
}

/// The virtual host and a permission to publish to the path's exchange.
fn publisher(call: &Call) -> Result<std::sync::Arc<Vhost>, Problem> {
    let vhost = call.needed_vhost()?;
    let exchange = call.exchange_segment("exchange");
    if vhost.directory.read().router.exchange(exchange).is_none() {
        return Err(Problem::NoSuch("exchange_not_found".to_owned()));
    }
    require(call, &vhost, |acting| {
        acting.check(Right::Write, Resource::Exchange(exchange))
    })?;
    Ok(vhost)
}

/// `POST /api/exchanges/{vhost}/{exchange}/publish`.
pub(crate) fn publish(call: &Call) -> Answer {
    let vhost = publisher(call)?;
    let body = call.object()?;
    let message = Described::of(&BodyFields(&body), true)?;
    let mut effects = Effects::default();
    let published = publish_one(call, &vhost, &message, &mut effects)?;
    durable::finish(&call.app.broker, &mut effects)?;
    match published {
        Published::Unroutable => Ok(Reply::Json(json!({"routed": false}))),
        Published::Routed(_) => Ok(Reply::Json(json!({"routed": true}))),
        Published::Refused(_) => Err(Problem::bad("rejected")),
        Published::Limited(reason) => Err(limited(reason)),
    }
}

/// `POST /api/queues/{vhost}/{queue}/get`.
pub(crate) fn get(call: &Call) -> Answer {
    let vhost = call.needed_vhost()?;
    let cell = vhost.queue(call.segment("queue"));
    let cell = cell.ok_or_else(|| Problem::NoSuch("queue_not_found".to_owned()))?;
    require_read(call, &vhost, &cell.name)?;
    if let Some(refusal) = queue::locked(&cell) {
        return Err(Problem::refused_on_channel(refusal, &vhost.name));
    }
    let body = call.object()?;
    let fields = BodyFields(&body);
    if fields.get("requeue").is_some() {
        fields.require_all(&["count", "encoding"])?;
    } else {
        fields.require_all(&["ackmode", "count", "encoding"])?;
    }
    let count = fields.integer("count")?.unwrap_or(0);
    // A negative number asks for all, as in RabbitMQ: as many as one request may fetch.
    let count = if count < 0 {
        COUNT_MAX
    } else {
        count.min(COUNT_MAX)
    };
    let fetch = fetch_of(&fields)?;
    let base64 = match fields.required_text("encoding")? {
        "auto" => false,
        "base64" => true,
        _ => {
            let reason = "Unsupported encoding. Please use auto or base64.";
            return Err(Problem::bad(reason));
        }
    };
    let truncate = fields
        .integer("truncate")?
        .and_then(|bytes| usize::try_from(bytes).ok());
    let mut effects = Effects::default();
    let limits = (usize::try_from(count).unwrap_or(0), FETCH_BYTES_MAX);
    let taken = call.app.broker.fetch(&cell, limits, fetch, &mut effects);
    let taken = taken.map_err(|refusal| Problem::refused(refusal, &vhost.name))?;
    let reader = (&*vhost, &*call.caller.name);
    call.app
        .broker
        .trace_fetched(reader, &cell, &taken, &mut effects);
    durable::finish(&call.app.broker, &mut effects)?;
    let messages = taken.iter().map(|(message, left)| {
        let (exchange, key) = split_route(&message.route).unwrap_or_default();
        let payload = message.body();
        let shown = payload
            .get(..truncate.unwrap_or(usize::MAX))
            .unwrap_or(payload);
        let (shown, encoding) = payload_to_json(shown, base64);
        json!({
            "payload_bytes": payload.len(),
            "redelivered": message.attempts.acquired > 0,
            "exchange": text(exchange),
            "routing_key": text(key),
            "message_count": left,
            "properties": properties_shown(&message.header),
            "payload": shown,
            "payload_encoding": encoding,
        })
    });
    Ok(Reply::Json(messages.collect()))
}

/// Properties as RabbitMQ's API shows them: none at all are an empty list.
fn properties_shown(header: &[u8]) -> Value {
    match properties_to_json(header) {
        Value::Object(object) if object.is_empty() => json!([]),
        properties => properties,
    }
}

/// What becomes of the messages: in the words of today's RabbitMQ, or of older ones.
fn fetch_of(fields: &BodyFields<'_>) -> Result<Fetch, Problem> {
    if let Some(mode) = fields.text("ackmode")? {
        return match mode {
            "ack_requeue_true" | "reject_requeue_true" => Ok(Fetch::Requeue),
            "ack_requeue_false" | "reject_requeue_false" => Ok(Fetch::Settle),
            other => Err(Problem::bad(format!(
                "Invalid ackmode value: {other}. Valid values are: ack_requeue_true, \
                 ack_requeue_false, reject_requeue_true, reject_requeue_false"
            ))),
        };
    }
    match fields.get("requeue") {
        None => Err(Problem::bad("[{key_missing,ackmode}]")),
        Some(_) if fields.flag("requeue", true)? => Ok(Fetch::Requeue),
        Some(_) => Ok(Fetch::Settle),
    }
}

/// `POST /api/x/publish/{vhost}/{exchange}`: answers only when the messages are confirmed.
///
/// A body of JSON is one message, or a list of them; any other body is one message as it is, with
/// its routing key in the query.
pub(crate) fn ingress(call: &Call) -> Answer {
    let vhost = publisher(call)?;
    if let Some(reason) = call.app.blocked() {
        return Err(busy(reason, RETRY_AFTER_S));
    }
    if !is_json(call) {
        let header = raw_header(call)?;
        let key = call.parameter("routing_key").unwrap_or_default().to_owned();
        let message = Described {
            key,
            header,
            body: call.body.to_vec(),
        };
        return one(call, &vhost, &message);
    }
    match call.value()? {
        Value::Array(list) => batch(call, &vhost, &list),
        Value::Object(object) => {
            too_large(call, &object)?;
            one(call, &vhost, &Described::of(&BodyFields(&object), false)?)
        }
        _ => Err(Problem::not_json()),
    }
}

fn is_json(call: &Call) -> bool {
    call.header("content-type")
        .is_some_and(|kind| kind.starts_with("application/json"))
}

/// A message's size is bounded as on a channel; the request's own bound is another one.
fn too_large(call: &Call, object: &Map<String, Value>) -> Result<(), Problem> {
    let max = call.app.broker.config.max_message_bytes;
    let bytes = object
        .get("payload")
        .and_then(Value::as_str)
        .map_or(0, str::len) as u64;
    // Base64 writes three bytes as four.
    let base64 = object.get("payload_encoding").and_then(Value::as_str) == Some("base64");
    let bytes = if base64 { bytes / 4 * 3 } else { bytes };
    if bytes > max {
        return Err(Problem::TooLarge(
            usize::try_from(max).unwrap_or(usize::MAX),
        ));
    }
    Ok(())
}

/// Properties of a message that is sent as it is.
fn raw_header(call: &Call) -> Result<Vec<u8>, Problem> {
    let max = call.app.broker.config.max_message_bytes;
    if call.body.len() as u64 > max {
        return Err(Problem::TooLarge(
            usize::try_from(max).unwrap_or(usize::MAX),
        ));
    }
    let mut properties = Map::new();
    if let Some(kind) = call.header("content-type") {
        properties.insert("content_type".to_owned(), kind.into());
    }
    let transient = call.parameter("delivery_mode") == Some("1");
    properties.insert(
        "delivery_mode".to_owned(),
        if transient { 1 } else { 2 }.into(),
    );
    for name in [
        "message_id",
        "correlation_id",
        "type",
        "app_id",
        "priority",
        "expiration",
    ] {
        if let Some(value) = call.parameter(name) {
            properties.insert(name.to_owned(), value.into());
        }
    }
    json_to_header(&properties, call.body.len())
}

fn busy(reason: impl Into<String>, retry_after_s: u32) -> Problem {
    Problem::Busy {
        reason: reason.into(),
        retry_after_s,
    }
}

/// After how many whole seconds what was refused may be taken.
fn seconds(reason: &NackReason) -> u32 {
    u32::try_from(reason.retry_after_ms.div_ceil(1000)).unwrap_or(u32::MAX)
}

fn one(call: &Call, vhost: &Vhost, message: &Described) -> Answer {
    let mut effects = Effects::default();
    let published = publish_one(call, vhost, message, &mut effects)?;
    durable::finish(&call.app.broker, &mut effects)?;
    match published {
        Published::Routed(queues) => Ok(Reply::Status(
            StatusCode::ACCEPTED,
            json!({"routed": true, "queues": queues}),
        )),
        Published::Unroutable => Ok(Reply::Status(
            StatusCode::NOT_FOUND,
            json!({"error": "unroutable", "reason": "the message leads to no queue"}),
        )),
        Published::Refused(reason) => {
            let retry_after_s = seconds(&reason);
            Err(busy(reason.text, retry_after_s))
        }
        Published::Limited(reason) => Err(limited(reason)),
    }
}

/// What a list says of a message that was not published.
fn entry_of(problem: &Problem) -> Value {
    let mut body = problem.body();
    body["status"] = problem.status_code().into();
    body
}

/// Publishes a list in order; each message has its own result, and the request the worst of them.
fn batch(call: &Call, vhost: &Vhost, list: &[Value]) -> Answer {
    if list.len() > COUNT_MAX as usize {
        return Err(Problem::bad(format!("more than {COUNT_MAX} messages")));
    }
    let mut effects = Effects::default();
    let mut results = Vec::with_capacity(list.len());
    let (mut refused, mut failed, mut retry_after_s) = (0_usize, 0_usize, 0);
    let mut worst = StatusCode::TOO_MANY_REQUESTS;
    for entry in list {
        let outcome = entry
            .as_object()
            .ok_or_else(|| Problem::bad("a message must be an object"))
            .and_then(|object| {
                too_large(call, object)?;
                Described::of(&BodyFields(object), false)
            })
            .and_then(|message| publish_one(call, vhost, &message, &mut effects));
        results.push(match outcome {
            Ok(Published::Routed(queues)) => json!({"status": 202, "queues": queues}),
            Ok(Published::Unroutable) => {
                failed += 1;
                json!({"status": 404, "error": "unroutable"})
            }
            Ok(Published::Refused(reason)) => {
                worst = StatusCode::SERVICE_UNAVAILABLE;
                refused += 1;
                retry_after_s = retry_after_s.max(seconds(&reason));
                json!({
                    "status": 503,
                    "error": "busy",
                    "reason": reason.text,
                    "retry_after_ms": reason.retry_after_ms,
                })
            }
            Ok(Published::Limited(reason)) => {
                refused += 1;
                retry_after_s = retry_after_s.max(seconds(&reason));
                entry_of(&limited(reason))
            }
            Err(problem) => {
                failed += 1;
                entry_of(&problem)
            }
        });
    }
    durable::finish(&call.app.broker, &mut effects)?;
    let accepted = list.len() - refused - failed;
    let body = json!({"accepted": accepted, "results": results});
    if refused > 0 {
        return Ok(Reply::RetryAfter(worst, retry_after_s, body));
    }
    let status = if failed > 0 {
        StatusCode::MULTI_STATUS
    } else {
        StatusCode::ACCEPTED
    };
    Ok(Reply::Status(status, body))
}
