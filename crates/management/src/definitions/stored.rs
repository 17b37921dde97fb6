//! What a data folder holds, as JSON for people and scripts: no secrets.

use std::sync::Arc;

use leveret_broker::Broker;
use leveret_codec::split_route;
use leveret_store::RecoveredMessage;
use serde_json::{Value, json};

use super::export::of_cluster;
use crate::amqp::{payload_to_json, properties_to_json, text};

/// What stands where a secret was.
const HIDDEN: &str = "hidden";

/// Everything declared, each with the section of a definitions file it belongs to; without hashes
/// of passwords, and without passwords in parameters.
pub fn declared(broker: &Arc<Broker>) -> impl Iterator<Item = (&'static str, Value)> + use<> {
    let mut vhosts = broker.vhosts();
    vhosts.sort_by(|a, b| a.name.cmp(&b.name));
    let sections = of_cluster(broker, &vhosts, broker.global_parameters());
    sections.into_iter().flat_map(|(section, values)| {
        values.map(move |mut value| {
            hide_secrets(&mut value);
            (section, value)
        })
    })
}

/// A message with its body: text where it is text, or always in base64.
#[must_use]
pub fn message_to_json(message: &RecoveredMessage<'_>, priority: u8, always_base64: bool) -> Value {
    let (exchange, key) = split_route(message.route).unwrap_or_default();
    let (payload, encoding) = payload_to_json(message.body, always_base64);
    json!({
        "seq": message.seq,
        "priority": priority,
        "exchange": text(exchange),
        "routing_key": text(key),
        "entered_ms": message.entered_ms,
        "expiration_ms": message.expiration_ms,
        "acquired_count": message.attempts.acquired,
        "delivery_count": message.attempts.failed,
        "properties": properties_to_json(message.header),
        "payload_bytes": message.body.len(),
        "payload": payload,
        "payload_encoding": encoding,
    })
}

fn hide_secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("password_hash");
            for (name, value) in fields {
                if is_secret(name) {
                    *value = HIDDEN.into();
                } else {
                    hide_secrets(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(hide_secrets),
        Value::String(text) => {
            if let Some(hidden) = without_password(text) {
                *text = hidden;
            }
        }
        _ => {}
    }
}

fn is_secret(field: &str) -> bool {
    let field = field.to_ascii_lowercase();
    ["password", "secret", "token"]
        .iter()
        .any(|word| field.contains(word))
}

/// An address with the password of its user hidden; none: there is none in it.
fn without_password(address: &str) -> Option<String> {
    let (scheme, rest) = address.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (user, _) = rest.get(..end)?.rsplit_once('@')?;
    let (name, _) = user.split_once(':')?;
    let host = rest.get(user.len()..)?;
    Some(format!("{scheme}://{name}:{HIDDEN}{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_are() {
        let mut value = json!({
            "name": "ana",
            "password_hash": "abc",
            "value": {
                "src-uri": ["amqp://ana:pa@ss@host/vhost", "amqp://host"],
                "api-token": 7,
                "Password": "x",
                "note": "mail ana@host",
            },
        });
        hide_secrets(&mut value);
        assert_eq!(
            value,
            json!({
                "name": "ana",
                "value": {
                    "src-uri": ["amqp://ana:hidden@host/vhost", "amqp://host"],
                    "api-token": "hidden",
                    "Password": "hidden",
                    "note": "mail ana@host",
                },
            })
        );
    }
}
