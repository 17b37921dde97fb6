//! What parameters of shovels and of federation hold, checked and refused in RabbitMQ's words.
//!
//! Leveret keeps them without acting on them: a file that comes from RabbitMQ, or goes back to it,
//! must not have gone bad on the way.

use leveret_access::{pair, term};
use leveret_settings::QUEUE_TYPE;
use serde_json::{Map, Value};

use super::uri;
use crate::settings::arguments::QUEUE_TYPES;

/// What a field must be.
#[derive(Clone, Copy)]
enum FieldRule {
    /// An AMQP URI, or a list of them.
    Uris,
    Text,
    Number,
    Flag,
    OneOf(&'static [&'static str]),
    /// When a shovel ends; of AMQP 0-9-1 also once a queue is empty.
    DeleteAfter {
        queue_length: bool,
    },
    /// Properties of messages.
    Properties,
    /// An object of texts.
    Texts,
    /// What a queue can be declared with.
    QueueArguments,
    /// Anything.
    Any,
}

/// A field: its name, its rule, and whether it must be there.
type FieldSpec = (&'static str, FieldRule, bool);

const MUST: bool = true;
const MAY: bool = false;
const PROTOCOLS: &[&str] = &["local", "amqp091", "amqp10"];
const ACK_MODES: &[&str] = &["no-ack", "on-publish", "on-confirm"];

const SHOVEL: [FieldSpec; 4] = [
    ("src-protocol", FieldRule::OneOf(PROTOCOLS), MAY),
    ("dest-protocol", FieldRule::OneOf(PROTOCOLS), MAY),
    ("reconnect-delay", FieldRule::Number, MAY),
    ("ack-mode", FieldRule::OneOf(ACK_MODES), MAY),
];
const SOURCE_091: [FieldSpec; 11] = [
    ("src-uri", FieldRule::Uris, MUST),
    ("src-exchange", FieldRule::Text, MAY),
    ("src-exchange-key", FieldRule::Text, MAY),
    ("src-queue", FieldRule::Text, MAY),
    ("src-queue-args", FieldRule::QueueArguments, MAY),
    ("src-consumer-args", FieldRule::Any, MAY),
    ("prefetch-count", FieldRule::Number, MAY),
    ("src-prefetch-count", FieldRule::Number, MAY),
    ("delete-after", AFTER_QUEUE, MAY),
    ("src-delete-after", AFTER_QUEUE, MAY),
    ("src-predeclared", FieldRule::Flag, MAY),
];
const DESTINATION_091: [FieldSpec; 11] = [
    ("dest-uri", FieldRule::Uris, MUST),
    ("dest-exchange", FieldRule::Text, MAY),
    ("dest-exchange-key", FieldRule::Text, MAY),
    ("dest-queue", FieldRule::Text, MAY),
    ("dest-queue-args", FieldRule::QueueArguments, MAY),
    ("add-forward-headers", FieldRule::Flag, MAY),
    ("dest-add-forward-headers", FieldRule::Flag, MAY),
    ("dest-add-timestamp-header", FieldRule::Flag, MAY),
    ("publish-properties", FieldRule::Properties, MAY),
    ("dest-publish-properties", FieldRule::Properties, MAY),
    ("dest-predeclared", FieldRule::Flag, MAY),
];
const SOURCE_10: [FieldSpec; 5] = [
    ("src-uri", FieldRule::Uris, MUST),
    ("src-address", FieldRule::Text, MUST),
    ("src-prefetch-count", FieldRule::Number, MAY),
    (
        "src-delete-after",
        FieldRule::DeleteAfter {
            queue_length: false,
        },
        MAY,
    ),
    ("src-consumer-args", FieldRule::Any, MAY),
];
const DESTINATION_10: [FieldSpec; 7] = [
    ("dest-uri", FieldRule::Uris, MUST),
    ("dest-address", FieldRule::Text, MUST),
    ("dest-add-forward-headers", FieldRule::Flag, MAY),
    ("dest-add-timestamp-header", FieldRule::Flag, MAY),
    ("dest-application-properties", FieldRule::Texts, MAY),
    ("dest-message-annotations", FieldRule::Texts, MAY),
    ("dest-properties", FieldRule::Texts, MAY),
];
/// What a shovel inside the broker does not have.
const NOT_LOCAL: [&str; 6] = [
    "prefetch-count",
    "src-prefetch-count",
    "delete-after",
    "add-forward-headers",
    "publish-properties",
    "dest-publish-properties",
];
const AFTER_QUEUE: FieldRule = FieldRule::DeleteAfter { queue_length: true };

const UPSTREAM: [FieldSpec; 14] = [
    ("exchange", FieldRule::Text, MAY),
    ("queue", FieldRule::Text, MAY),
    ("consumer-tag", FieldRule::Text, MAY),
    ("prefetch-count", FieldRule::Number, MAY),
    ("reconnect-delay", FieldRule::Number, MAY),
    ("max-hops", FieldRule::Number, MAY),
    ("expires", FieldRule::Number, MAY),
    ("message-ttl", FieldRule::Number, MAY),
    ("trust-user-id", FieldRule::Flag, MAY),
    ("ack-mode", FieldRule::OneOf(ACK_MODES), MAY),
    (
        "resource-cleanup-mode",
        FieldRule::OneOf(&["default", "never"]),
        MAY,
    ),
    ("queue-type", FieldRule::OneOf(&QUEUE_TYPES), MAY),
    ("bind-nowait", FieldRule::Flag, MAY),
    (
        "channel-use-mode",
        FieldRule::OneOf(&["multiple", "single"]),
        MAY,
    ),
];
const PROPERTIES: [(&str, FieldRule); 13] = [
    ("content_type", FieldRule::Text),
    ("content_encoding", FieldRule::Text),
    ("delivery_mode", FieldRule::Number),
    ("priority", FieldRule::Number),
    ("correlation_id", FieldRule::Text),
    ("reply_to", FieldRule::Text),
    ("expiration", FieldRule::Text),
    ("message_id", FieldRule::Text),
    ("timestamp", FieldRule::Number),
    ("type", FieldRule::Text),
    ("user_id", FieldRule::Text),
    ("app_id", FieldRule::Text),
    ("cluster_id", FieldRule::Text),
];

/// Everything that is wrong with a shovel.
pub(super) fn shovel(name: &str, value: &Value) -> Vec<String> {
    let Some(shovel) = object(value) else {
        return vec![not_a_list(name, value)];
    };
    let protocol = |key: &str| shovel.get(key).and_then(Value::as_str).unwrap_or("amqp091");
    let (source, destination) = (protocol("src-protocol"), protocol("dest-protocol"));
    let mut wrong = exclusions(&shovel, source, destination);
    let of = |protocol: &str, older: &[FieldSpec], newer: &[FieldSpec]| {
        let fields = if protocol == "amqp10" { newer } else { older };
        let local = protocol == "local";
        let known = fields
            .iter()
            .filter(|field| !local || !NOT_LOCAL.contains(&field.0));
        known.copied().collect::<Vec<FieldSpec>>()
    };
    let mut fields = SHOVEL.to_vec();
    fields.extend(of(source, &SOURCE_091, &SOURCE_10));
    fields.extend(of(destination, &DESTINATION_091, &DESTINATION_10));
    wrong.extend(check(name, &fields, &shovel));
    wrong
}

/// What a shovel must not have at once.
fn exclusions(shovel: &Map<String, Value>, source: &str, destination: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let has = |key: &str| shovel.contains_key(key);
    if source != "amqp10" {
        match (has("src-exchange"), has("src-queue")) {
            (true, true) => wrong.push("Cannot specify 'src-exchange' and 'src-queue'".to_owned()),
            (false, false) => {
                wrong.push("Must specify 'src-exchange' or 'src-queue'".to_owned());
            }
            _ => {}
        }
    }
    if destination != "amqp10" && has("dest-exchange") && has("dest-queue") {
        wrong.push("Cannot specify 'dest-exchange' and 'dest-queue'".to_owned());
    }
    let counts = |key: &str| shovel.get(key).is_some_and(Value::is_number);
    let settles_itself = shovel.get("ack-mode").and_then(Value::as_str) == Some("no-ack");
    if settles_itself && (counts("delete-after") || counts("src-delete-after")) {
        wrong.push("Cannot specify 'no-ack' and numerical 'delete-after'".to_owned());
    }
    wrong
}

/// Everything that is wrong with an upstream.
pub(super) fn upstream(name: &str, value: &Value) -> Vec<String> {
    let mut fields = vec![("uri", FieldRule::Uris, MUST)];
    fields.extend(UPSTREAM);
    match object(value) {
        Some(upstream) => check(name, &fields, &upstream),
        None => vec![not_a_list(name, value)],
    }
}

/// Everything that is wrong with a set of upstreams.
pub(super) fn upstream_set(name: &str, value: &Value) -> Vec<String> {
    let mut fields = vec![("upstream", FieldRule::Text, MUST)];
    fields.extend(UPSTREAM);
    let members = match value {
        Value::Array(members) => members.as_slice(),
        Value::Object(empty) if empty.is_empty() => &[],
        other => return vec![not_a_list(name, other)],
    };
    let wrong = members.iter().flat_map(|member| match object(member) {
        Some(member) => check(name, &fields, &member),
        None => vec![not_a_list(name, member)],
    });
    wrong.collect()
}

/// An object; an empty list stands for an empty one.
fn object(value: &Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(object) => Some(object.clone()),
        Value::Array(list) if list.is_empty() => Some(Map::new()),
        _ => None,
    }
}

/// Checks fields: what is unknown first, then what is wrong, the last field first, as RabbitMQ
/// tells them.
fn check(name: &str, fields: &[FieldSpec], object: &Map<String, Value>) -> Vec<String> {
    let unknown = object
        .iter()
        .filter(|(key, _)| !fields.iter().any(|(known, ..)| known == key));
    let unknown: Vec<_> = unknown
        .map(|(key, value)| pair(key, &uri::hidden(key, value)))
        .collect();
    let mut wrong = Vec::new();
    if !unknown.is_empty() {
        wrong.push(format!(
            "Unrecognised terms [{}] in {name}",
            unknown.join(",")
        ));
    }
    for (key, rule, must) in fields.iter().rev() {
        match object.get(*key) {
            Some(value) => wrong.extend(holds(*rule, key, value)),
            None if *must => wrong.push(format!("Key \"{key}\" not found in {name}")),
            None => {}
        }
    }
    wrong
}

/// What is wrong with one field.
fn holds(rule: FieldRule, key: &str, value: &Value) -> Vec<String> {
    let text = value.as_str();
    let holds = match rule {
        FieldRule::Any => true,
        FieldRule::Text => text.is_some(),
        FieldRule::Number => value.is_number(),
        FieldRule::Flag => value.is_boolean(),
        FieldRule::OneOf(allowed) => text.is_some_and(|text| allowed.contains(&text)),
        FieldRule::DeleteAfter { queue_length } => {
            text == Some("never")
                || queue_length && text == Some("queue-length")
                || value.as_u64().is_some()
        }
        FieldRule::Uris => return uris(key, value),
        FieldRule::Properties => return properties(key, value),
        FieldRule::Texts => return texts(value),
        FieldRule::QueueArguments => return queue_arguments(key, value),
    };
    if holds {
        return Vec::new();
    }
    vec![format!(
        "{key} should be {}, actually was {}",
        expected(rule, value),
        shown(key, value)
    )]
}

/// How a refusal names what was expected.
fn expected(rule: FieldRule, value: &Value) -> String {
    match rule {
        FieldRule::Number => "a number".to_owned(),
        FieldRule::Flag => "boolean".to_owned(),
        FieldRule::OneOf(allowed) if value.is_string() => {
            let allowed: Vec<_> = allowed.iter().map(|text| term(&(*text).into())).collect();
            format!("one of [{}]", allowed.join(","))
        }
        FieldRule::DeleteAfter { queue_length: true } => {
            "a number greater than or equal to 0, \"never\" or \"queue-length\"".to_owned()
        }
        FieldRule::DeleteAfter { .. } => {
            "a number greater than or equal to 0 or \"never\"".to_owned()
        }
        _ => "binary".to_owned(),
    }
}

fn uris(key: &str, value: &Value) -> Vec<String> {
    let one = |value: &Value| match value {
        Value::String(text) => uri::check(text).err(),
        other => Some(format!(
            "{key} should be list, actually was {}",
            shown(key, other)
        )),
    };
    match value {
        Value::Array(list) => list.iter().find_map(one).into_iter().collect(),
        value => one(value).into_iter().collect(),
    }
}

fn properties(key: &str, value: &Value) -> Vec<String> {
    let fields = PROPERTIES.map(|(name, rule)| (name, rule, MAY));
    match object(value) {
        Some(properties) => check(key, &fields, &properties),
        None => vec![not_a_list(key, value)],
    }
}

fn texts(value: &Value) -> Vec<String> {
    let wrong = value.as_object().into_iter().flatten();
    wrong
        .flat_map(|(key, value)| holds(FieldRule::Text, key, value))
        .collect()
}

fn queue_arguments(key: &str, value: &Value) -> Vec<String> {
    let kind = value.get(QUEUE_TYPE).and_then(Value::as_str);
    let wrong = kind.filter(|kind| !QUEUE_TYPES.contains(kind) && *kind != "stream");
    let wrong = wrong.map(|kind| {
        format!("invalid arg '{QUEUE_TYPE}' in {key}: \"unsupported queue type '{kind}'\"")
    });
    wrong.into_iter().collect()
}

fn not_a_list(name: &str, value: &Value) -> String {
    format!("{name} not a list {}", shown(name, value))
}

fn shown(key: &str, value: &Value) -> String {
    term(&uri::hidden(key, value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Map<String, Value> {
        let shovel = json!({
            "src-protocol": "amqp091", "src-uri": "amqp://", "src-queue": "a",
            "dest-protocol": "amqp091", "dest-uri": ["amqp://b", "amqps://c/v"], "dest-queue": "b",
        });
        shovel.as_object().unwrap().clone()
    }

    fn changed(key: &str, value: Value) -> Vec<String> {
        let mut object = good();
        object.insert(key.to_owned(), value);
        shovel("s", &object.into())
    }

    #[test]
    fn shovels_are_refused_in_rabbitmqs_words() {
        assert_eq!(shovel("s", &good().into()), Vec::<String>::new());
        assert_eq!(
            shovel("s", &json!({"uri": "amqp://"})),
            [
                "Must specify 'src-exchange' or 'src-queue'",
                "Unrecognised terms [{<<\"uri\">>,<<\"amqp://\">>}] in s",
                "Key \"dest-uri\" not found in s",
                "Key \"src-uri\" not found in s",
            ]
        );
        for (key, value, text) in [
            (
                "src-uri",
                json!(5),
                "src-uri should be list, actually was 5",
            ),
            (
                "src-exchange",
                json!("x"),
                "Cannot specify 'src-exchange' and 'src-queue'",
            ),
            (
                "dest-exchange",
                json!("x"),
                "Cannot specify 'dest-exchange' and 'dest-queue'",
            ),
            (
                "reconnect-delay",
                json!("x"),
                "reconnect-delay should be a number, actually was <<\"x\">>",
            ),
            (
                "src-predeclared",
                json!(1),
                "src-predeclared should be boolean, actually was 1",
            ),
            (
                "ack-mode",
                json!(5),
                "ack-mode should be binary, actually was 5",
            ),
            (
                "ack-mode",
                json!("x"),
                "ack-mode should be one of [<<\"no-ack\">>,<<\"on-publish\">>,<<\"on-confirm\">>], \
                 actually was <<\"x\">>",
            ),
            (
                "src-delete-after",
                json!(-1),
                "src-delete-after should be a number greater than or equal to 0, \"never\" or \
                 \"queue-length\", actually was -1",
            ),
            (
                "dest-publish-properties",
                json!({"delivery_mode": "x"}),
                "delivery_mode should be a number, actually was <<\"x\">>",
            ),
            (
                "src-queue-args",
                json!({"x-queue-type": "nope"}),
                "invalid arg 'x-queue-type' in src-queue-args: \"unsupported queue type 'nope'\"",
            ),
        ] {
            assert_eq!(changed(key, value), [text], "{key}");
        }
    }

    #[test]
    fn a_shovel_ends_never_or_after_so_many_messages_or_with_its_queue() {
        for value in [json!("never"), json!("queue-length"), json!(5)] {
            assert_eq!(changed("src-delete-after", value), Vec::<String>::new());
        }
    }

    #[test]
    fn the_protocols_have_their_own_fields() {
        let amqp10 = json!({
            "src-protocol": "amqp10", "src-uri": "amqp://", "src-queue": "a",
            "dest-protocol": "amqp10", "dest-uri": "amqp://", "dest-address": 5,
        });
        assert_eq!(
            shovel("s", &amqp10),
            [
                "Unrecognised terms [{<<\"src-queue\">>,<<\"a\">>}] in s",
                "dest-address should be binary, actually was 5",
                "Key \"src-address\" not found in s",
            ]
        );
        let local = json!({
            "src-protocol": "local", "src-uri": "amqp://", "src-queue": "a",
            "dest-protocol": "local", "dest-uri": "amqp://", "dest-queue": "b",
            "prefetch-count": 5,
        });
        let unknown = "Unrecognised terms [{<<\"prefetch-count\">>,5}] in s";
        assert_eq!(shovel("s", &local), [unknown]);
    }

    #[test]
    fn upstreams_and_their_sets_are_refused_in_rabbitmqs_words() {
        assert_eq!(upstream("u", &json!({})), ["Key \"uri\" not found in u"]);
        assert_eq!(
            upstream("u", &json!({"max-hops": "x", "zz": 1})),
            [
                "Unrecognised terms [{<<\"zz\">>,1}] in u",
                "max-hops should be a number, actually was <<\"x\">>",
                "Key \"uri\" not found in u",
            ]
        );
        let of_set = json!([{"upstream": "u"}, {"nope": "u"}]);
        assert_eq!(
            upstream_set("u", &of_set),
            [
                "Unrecognised terms [{<<\"nope\">>,<<\"u\">>}] in u",
                "Key \"upstream\" not found in u"
            ]
        );
        assert_eq!(
            upstream_set("u", &json!([{"upstream": "u"}])),
            Vec::<String>::new()
        );
        assert_eq!(upstream_set("u", &json!("x")), ["u not a list <<\"x\">>"]);
    }

    #[test]
    fn no_refusal_quotes_a_password() {
        for value in [
            json!({"uri": "http://u:secret@h"}),
            json!({"uri": "amqp://u:secret@h:0"}),
            json!({"url": ["amqp://u:secret@h"]}),
            json!({"uri": {"of": "amqp://u:secret@h"}}),
            json!("amqp://u:secret@h"),
            json!({"password": "secret"}),
        ] {
            let said = [upstream("u", &value), shovel("u", &value)]
                .concat()
                .join(" ");
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
