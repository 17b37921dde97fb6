//! AMQP tables and properties as JSON, and back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use leveret_codec::{Properties, RawTable, Table, Value as Amqp, ValueRef};
use serde_json::{Map, Number, Value};

use crate::problem::Problem;

/// JSON nested deeper than this does not become a table: the codec stops there too.
const DEPTH_MAX: usize = 30;

/// A table as an object. Text that is no UTF-8 is shown with replacement characters.
pub(crate) fn table_to_json(table: RawTable<'_>) -> Value {
    let entries = table.iter().map(|(key, value)| {
        (
            String::from_utf8_lossy(key).into_owned(),
            value_to_json(value),
        )
    });
    Value::Object(entries.collect())
}

fn value_to_json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Bool(flag) => Value::Bool(flag),
        ValueRef::F32(number) => float(f64::from(number)),
        ValueRef::F64(number) => float(number),
        ValueRef::Decimal { scale, value } => {
            float(f64::from(value) / 10f64.powi(i32::from(scale)))
        }
        ValueRef::LongString(bytes) | ValueRef::Bytes(bytes) => text(bytes),
        ValueRef::Array(list) => Value::Array(list.iter().map(value_to_json).collect()),
        ValueRef::Timestamp(seconds) => Value::from(seconds),
        ValueRef::Table(table) => table_to_json(table),
        ValueRef::Void => Value::String("undefined".to_owned()),
        integer => integer.as_integer().map_or(Value::Null, Value::from),
    }
}

/// Bytes as text.
pub(crate) fn text(bytes: &[u8]) -> Value {
    Value::String(String::from_utf8_lossy(bytes).into_owned())
}

fn float(number: f64) -> Value {
    Number::from_f64(number).map_or_else(|| Value::String(number.to_string()), Value::Number)
}

/// An object as a table. Numbers become 64-bit integers or doubles, texts long strings.
pub(crate) fn json_to_table(object: &Map<String, Value>) -> Result<Table, Problem> {
    object_to_table(object, 0)
}

fn object_to_table(object: &Map<String, Value>, depth: usize) -> Result<Table, Problem> {
    if depth > DEPTH_MAX {
        return Err(Problem::bad("arguments are nested too deep"));
    }
    let entries = object.iter().map(|(key, value)| {
        if key.len() > KEY_BYTES_MAX {
            return Err(Problem::bad(format!("argument name is too long: {key}")));
        }
        Ok((key, json_to_value(value, depth)?))
    });
    entries.collect()
}

fn json_to_value(value: &Value, depth: usize) -> Result<Amqp, Problem> {
    if depth > DEPTH_MAX {
        return Err(Problem::bad("arguments are nested too deep"));
    }
    Ok(match value {
        Value::Null => return Err(Problem::bad("null_not_allowed")),
        Value::Bool(flag) => Amqp::Bool(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Amqp::I64(integer),
            (None, Some(float)) => Amqp::F64(float),
            (None, None) => return Err(Problem::bad(format!("cannot take the number {number}"))),
        },
        Value::String(text) => Amqp::LongString(text.clone().into_bytes()),
        Value::Array(list) => Amqp::Array(
            list.iter()
                .map(|item| json_to_value(item, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        Value::Object(object) => Amqp::Table(object_to_table(object, depth + 1)?),
    })
}

/// A content header's properties as an object.
pub(crate) fn properties_to_json(header: &[u8]) -> Value {
    let mut object = Map::new();
    let Ok(properties) = Properties::decode(header) else {
        return Value::Object(object);
    };
    let texts = [
        ("content_type", properties.content_type),
        ("content_encoding", properties.content_encoding),
        ("correlation_id", properties.correlation_id),
        ("reply_to", properties.reply_to),
        ("expiration", properties.expiration),
        ("message_id", properties.message_id),
        ("type", properties.kind),
        ("user_id", properties.user_id),
        ("app_id", properties.app_id),
        ("cluster_id", properties.cluster_id),
    ];
    for (name, bytes) in texts {
        if let Some(bytes) = bytes {
            object.insert(name.to_owned(), text(bytes));
        }
    }
    let numbers = [
        ("delivery_mode", properties.delivery_mode.map(u64::from)),
        ("priority", properties.priority.map(u64::from)),
        ("timestamp", properties.timestamp),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            object.insert(name.to_owned(), number.into());
        }
    }
    if let Some(headers) = properties.headers {
        object.insert("headers".to_owned(), table_to_json(headers));
    }
    Value::Object(object)
}

/// An object of properties as the payload of a content header frame.
pub(crate) fn json_to_header(
    object: &Map<String, Value>,
    body_bytes: usize,
) -> Result<Vec<u8>, Problem> {
    let mut short = Shorts::default();
    for (name, value) in object {
        short.take(name, value)?;
    }
    let text = |name: &str| {
        short
            .texts
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, t)| t.as_bytes())
    };
    let headers = short.headers.as_ref().map(Table::as_raw);
    let properties = Properties {
        content_type: text("content_type"),
        content_encoding: text("content_encoding"),
        headers,
        delivery_mode: short.number("delivery_mode")?,
        priority: short.number("priority")?,
        correlation_id: text("correlation_id"),
        reply_to: text("reply_to"),
        expiration: text("expiration"),
        message_id: text("message_id"),
        timestamp: short.timestamp,
        kind: text("type"),
        user_id: text("user_id"),
        app_id: text("app_id"),
        cluster_id: text("cluster_id"),
    };
    let mut header = Vec::new();
    properties.encode(body_bytes as u64, &mut header);
    Ok(header)
}

/// Properties on their way from JSON.
#[derive(Default)]
struct Shorts {
    texts: Vec<(String, String)>,
    octets: Vec<(&'static str, i64)>,
    timestamp: Option<u64>,
    headers: Option<Table>,
}

impl Shorts {
    fn take(&mut self, name: &str, value: &Value) -> Result<(), Problem> {
        let invalid = || Problem::bad(format!("invalid property {name}: {value}"));
        let wrong = |kind| Problem::wrong("properties", kind, name);
        match name {
            _ if value.is_null() => {}
            "headers" => match value {
                Value::Object(object) => self.headers = Some(json_to_table(object)?),
                Value::Array(list) if list.is_empty() => {}
                _ => return Err(invalid()),
            },
            "delivery_mode" | "priority" => {
                let name = if name == "priority" {
                    "priority"
                } else {
                    "delivery_mode"
                };
                let number = crate::field::integer_of(value).ok_or_else(|| wrong("not_int"))?;
                self.octets.push((name, number));
            }
            "timestamp" => {
                let number = crate::field::integer_of(value).ok_or_else(|| wrong("not_int"))?;
                self.timestamp = Some(u64::try_from(number).map_err(|_| invalid())?);
            }
            "content_type" | "content_encoding" | "correlation_id" | "reply_to" | "expiration"
            | "message_id" | "type" | "user_id" | "app_id" | "cluster_id" => {
                let text = value
                    .as_str()
                    .ok_or_else(|| wrong("not_string"))?
                    .to_owned();
                if text.len() > KEY_BYTES_MAX {
                    return Err(Problem::bad(format!(
                        "property {name} is over 255 bytes long"
                    )));
                }
                self.texts.push((name.to_owned(), text));
            }
            // RabbitMQ ignores what it does not know.
            _ => {}
        }
        Ok(())
    }

    fn number(&self, name: &str) -> Result<Option<u8>, Problem> {
        let Some((_, number)) = self.octets.iter().find(|(n, _)| *n == name) else {
            return Ok(None);
        };
        let octet = u8::try_from(*number);
        octet
            .map(Some)
            .map_err(|_| Problem::bad(format!("invalid property {name}: {number}")))
    }
}

/// A payload as JSON carries it: text where it is text and base64 otherwise, or always base64.
pub(crate) fn payload_to_json(payload: &[u8], always_base64: bool) -> (Value, &'static str) {
    match std::str::from_utf8(payload) {
        Ok(text) if !always_base64 => (Value::String(text.to_owned()), "string"),
        _ => (Value::String(STANDARD.encode(payload)), "base64"),
    }
}

/// The bytes that a text stands for, as they are or in base64.
pub(crate) fn payload_from_json(text: &str, encoding: &str) -> Result<Vec<u8>, Problem> {
    match encoding {
        "string" => Ok(text.as_bytes().to_vec()),
        "base64" => STANDARD
            .decode(text)
            .map_err(|_| Problem::wrong("payload", "not_base64", text)),
        other => Err(Problem::wrong(
            "payload_encoding",
            "unsupported_encoding",
            other,
        )),
    }
}

/// AMQP's short string holds this many bytes.
const KEY_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_come_back_as_they_went() {
        let object = json!({"n": 5, "f": 1.5, "t": "x", "b": true, "l": [1, "two"], "o": {"k": 1}});
        let table = json_to_table(object.as_object().unwrap()).unwrap();
        assert_eq!(table.get(b"n"), Some(ValueRef::I64(5)));
        assert_eq!(table_to_json(table.as_raw()), object);
    }

    #[test]
    fn nesting_has_a_limit() {
        let mut value = json!({});
        for _ in 0..40 {
            value = json!({ "k": value });
        }
        assert!(json_to_table(value.as_object().unwrap()).is_err());
    }

    #[test]
    fn properties_come_back_as_they_went() {
        let object = json!({"content_type": "text/plain", "delivery_mode": 2, "priority": 3,
            "timestamp": 1_700_000_000, "headers": {"a": "b"}, "type": "t"});
        let header = json_to_header(object.as_object().unwrap(), 7).unwrap();
        assert_eq!(properties_to_json(&header), object);
        for wrong in [
            json!({"priority": 256}),
            json!({"headers": 1}),
            json!({"type": []}),
        ] {
            assert!(
                json_to_header(wrong.as_object().unwrap(), 0).is_err(),
                "{wrong}"
            );
        }
    }
}
