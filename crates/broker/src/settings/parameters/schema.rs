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
enum Rule {
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
    /// Arguments of a queue.
    QueueArguments,
    /// Anything.
    Any,
}

/// A field: its name, its rule, and whether it must be there.
type Field = (&'static str, Rule, bool);

const MUST: bool = true;
const MAY: bool = false;
const PROTOCOLS: &[&str] = &["local", "amqp091", "amqp10"];
const ACK_MODES: &[&str] = &["no-ack", "on-publish", "on-confirm"];

const SHOVEL: [Field; 4] = [
    ("src-protocol", Rule::OneOf(PROTOCOLS), MAY),
    ("dest-protocol", Rule::OneOf(PROTOCOLS), MAY),
    ("reconnect-delay", Rule::Number, MAY),
    ("ack-mode", Rule::OneOf(ACK_MODES), MAY),
];
const SOURCE_091: [Field; 11] = [
    ("src-uri", Rule::Uris, MUST),
    ("src-exchange", Rule::Text, MAY),
    ("src-exchange-key", Rule::Text, MAY),
    ("src-queue", Rule::Text, MAY),
    ("src-queue-args", Rule::QueueArguments, MAY),
    ("src-consumer-args", Rule::Any, MAY),
    ("prefetch-count", Rule::Number, MAY),
    ("src-prefetch-count", Rule::Number, MAY),
    ("delete-after", AFTER_QUEUE, MAY),
    ("src-delete-after", AFTER_QUEUE, MAY),
    ("src-predeclared", Rule::Flag, MAY),
];
const DESTINATION_091: [Field; 11] = [
    ("dest-uri", Rule::Uris, MUST),
    ("dest-exchange", Rule::Text, MAY),
    ("dest-exchange-key", Rule::Text, MAY),
    ("dest-queue", Rule::Text, MAY),
    ("dest-queue-args", Rule::QueueArguments, MAY),
    ("add-forward-headers", Rule::Flag, MAY),
    ("dest-add-forward-headers", Rule::Flag, MAY),
    ("dest-add-timestamp-header", Rule::Flag, MAY),
    ("publish-properties", Rule::Properties, MAY),
    ("dest-publish-properties", Rule::Properties, MAY),
    ("dest-predeclared", Rule::Flag, MAY),
];
const SOURCE_10: [Field; 5] = [
    ("src-uri", Rule::Uris, MUST),
    ("src-address", Rule::Text, MUST),
    ("src-prefetch-count", Rule::Number, MAY),
    (
        "src-delete-after",
        Rule::DeleteAfter {
            queue_length: false,
        },
        MAY,
    ),
    ("src-consumer-args", Rule::Any, MAY),
];
const DESTINATION_10: [Field; 7] = [
    ("dest-uri", Rule::Uris, MUST),
    ("dest-address", Rule::Text, MUST),
    ("dest-add-forward-headers", Rule::Flag, MAY),
    ("dest-add-timestamp-header", Rule::Flag, MAY),
    ("dest-application-properties", Rule::Texts, MAY),
    ("dest-message-annotations", Rule::Texts, MAY),
    ("dest-properties", Rule::Texts, MAY),
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
const AFTER_QUEUE: Rule = Rule::DeleteAfter { queue_length: true };

const UPSTREAM: [Field; 14] = [
    ("exchange", Rule::Text, MAY),
    ("queue", Rule::Text, MAY),
    ("consumer-tag", Rule::Text, MAY),
    ("prefetch-count", Rule::Number, MAY),
    ("reconnect-delay", Rule::Number, MAY),
    ("max-hops", Rule::Number, MAY),
    ("expires", Rule::Number, MAY),
    ("message-ttl", Rule::Number, MAY),
    ("trust-user-id", Rule::Flag, MAY),
    ("ack-mode", Rule::OneOf(ACK_MODES), MAY),
    (
        "resource-cleanup-mode",
        Rule::OneOf(&["default", "never"]),
        MAY,
    ),
    ("queue-type", Rule::OneOf(&QUEUE_TYPES), MAY),
    ("bind-nowait", Rule::Flag, MAY),
    (
        "channel-use-mode",
        Rule::OneOf(&["multiple", "single"]),
        MAY,
    ),
];
const PROPERTIES: [(&str, Rule); 13] = [
    ("content_type", Rule::Text),
    ("content_encoding", Rule::Text),
    ("delivery_mode", Rule::Number),
    ("priority", Rule::Number),
    ("correlation_id", Rule::Text),
    ("reply_to", Rule::Text),
    ("expiration", Rule::Text),
    ("message_id", Rule::Text),
    ("timestamp", Rule::Number),
    ("type", Rule::Text),
    ("user_id", Rule::Text),
    ("app_id", Rule::Text),
    ("cluster_id", Rule::Text),
];

/// Everything that is wrong with a shovel.
pub(super) fn shovel(name: &str, value: &Value) -> Vec<String> {
    let Some(shovel) = object(value) else {
        return vec![not_a_list(name, value)];
    };
    let protocol = |key: &str| shovel.get(key).and_then(Value::as_str).unwrap_or("amqp091");
    let (source, destination) = (protocol("src-protocol"), protocol("dest-protocol"));
    let mut wrong = exclusions(&shovel, source, destination);
    let of = |protocol: &str, older: &[Field], newer: &[Field]| {
        let fields = if protocol == "amqp10" { newer } else { older };
        let local = protocol == "local";
        let known = fields
            .iter()
            .filter(|field| !local || !NOT_LOCAL.contains(&field.0));
        known.copied().collect::<Vec<Field>>()
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
    let mut fields = vec![("uri", Rule::Uris, MUST)];
    fields.extend(UPSTREAM);
    match object(value) {
        Some(upstream) => check(name, &fields, &upstream),
        None => vec![not_a_list(name, value)],
    }
}

/// Everything that is wrong with a set of upstreams.
pub(super) fn upstream_set(name: &str, value: &Value) -> Vec<String> {
    let mut fields = vec![("upstream", Rule::Text, MUST)];
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
fn check(name: &str, fields: &[Field], object: &Map<String, Value>) -> Vec<String> {
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
fn holds(rule: Rule, key: &str, value: &Value) -> Vec<String> {
    let text = value.as_str();
    let holds = match rule {
        Rule::Any => true,
        Rule::Text => text.is_some(),
        Rule::Number => value.is_number(),
        Rule::Flag => value.is_boolean(),
        Rule::OneOf(allowed) => text.is_some_and(|text| allowed.contains(&text)),
        Rule::DeleteAfter { queue_length } => {
            text == Some("never")
                || queue_length && text == Some("queue-length")
                || value.as_u64().is_some()
        }
        Rule::Uris => return uris(key, value),
        Rule::Properties => return properties(key, value),
        Rule::Texts => return texts(value),
        Rule::QueueArguments => return queue_arguments(key, value),
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
fn expected(rule: Rule, value: &Value) -> String {
    match rule {
        Rule::Number => "a number".to_owned(),
        Rule::Flag => "boolean".to_owned(),
        Rule::OneOf(allowed) if value.is_string() => {
            let allowed: Vec<_> = allowed.iter().map(|text| term(&(*text).into())).collect();
            format!("one of [{}]", allowed.join(","))
        }
        Rule::DeleteAfter { queue_length: true } => {
            "a number greater than or equal to 0, \"never\" or \"queue-length\"".to_owned()
        }
        Rule::DeleteAfter { .. } => "a number greater than or equal to 0 or \"never\"".to_owned(),
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
        .flat_map(|(key, value)| holds(Rule::Text, key, value))
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
