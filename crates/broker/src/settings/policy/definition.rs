//! What a policy may set, how it is checked, and how an operator's policy is merged in.

use leveret_access::{AdminError, pair, term};
use serde_json::{Map, Value};

use super::PolicyKind;

/// What a value must be.
#[derive(Clone, Copy)]
enum Rule {
    Text,
    Integer,
    Flag,
    AtLeast(i64),
    Within(i64, i64),
    OneOf(&'static [&'static str]),
    /// A number with a unit of time: `7D`.
    Age,
}

/// A key: its rule, what a refusal calls it, and whether an operator may set it too.
type Key = (&'static str, Rule, &'static str, bool);

const OVERFLOW: &[&str] = &["drop-head", "reject-publish", "reject-publish-dlx"];
const RETRIES: &[&str] = &["all", "failed", "returned", "disabled"];
const LOCATORS: &[&str] = &["client-local", "balanced", "random", "least-leaders"];

/// Everything RabbitMQ accepts, so that its definitions can be imported; docs/concepts/policy.md
/// says what has an effect.
const KEYS: [Key; 32] = [
    (
        "alternate-exchange",
        Rule::Text,
        "alternate exchange name",
        false,
    ),
    (
        "consumer-timeout",
        Rule::AtLeast(0),
        "consumer timeout",
        true,
    ),
    (
        "consumer-timeout-counts",
        Rule::Flag,
        "consumer timeout flag",
        true,
    ),
    (
        "consumer-timeout-action",
        Rule::OneOf(&["requeue", "close"]),
        "consumer timeout action",
        true,
    ),
    (
        "dead-letter-exchange",
        Rule::Text,
        "dead letter exchange name",
        false,
    ),
    (
        "dead-letter-routing-key",
        Rule::Text,
        "dead letter routing key",
        false,
    ),
    (
        "dead-letter-strategy",
        Rule::OneOf(&["at-most-once", "at-least-once"]),
        "dead letter strategy",
        false,
    ),
    ("message-ttl", Rule::AtLeast(0), "message TTL", true),
    ("expires", Rule::AtLeast(1), "queue expiry", true),
    ("max-length", Rule::AtLeast(0), "maximum length", true),
    (
        "max-length-bytes",
        Rule::AtLeast(0),
        "maximum length in bytes",
        true,
    ),
    (
        "max-in-memory-length",
        Rule::AtLeast(0),
        "maximum memory in bytes",
        true,
    ),
    (
        "max-in-memory-bytes",
        Rule::AtLeast(0),
        "maximum memory in bytes",
        true,
    ),
    (
        "queue-mode",
        Rule::OneOf(&["default", "lazy"]),
        "queue-mode value",
        false,
    ),
    (
        "queue-version",
        Rule::Within(1, 2),
        "queue-version value",
        true,
    ),
    ("overflow", Rule::OneOf(OVERFLOW), "overflow value", true),
    (
        "overflow-drop",
        Rule::OneOf(&["head", "lowest"]),
        "overflow drop value",
        true,
    ),
    ("delivery-limit", Rule::Integer, "delivery limit", true),
    ("max-age", Rule::Age, "max age", false),
    ("max-segment-size", Rule::AtLeast(0), "segment size", false),
    (
        "stream-max-segment-size-bytes",
        Rule::AtLeast(0),
        "segment size",
        false,
    ),
    (
        "stream-filter-size-bytes",
        Rule::Within(16, 255),
        "filter size. Valid range is 16-255",
        false,
    ),
    (
        "queue-leader-locator",
        Rule::OneOf(LOCATORS),
        "queue leader locator value",
        false,
    ),
    (
        "initial-cluster-size",
        Rule::AtLeast(0),
        "cluster size",
        false,
    ),
    (
        "target-group-size",
        Rule::AtLeast(1),
        "qq target count value",
        true,
    ),
    (
        "federation-upstream",
        Rule::Text,
        "federation upstream name",
        false,
    ),
    (
        "federation-upstream-set",
        Rule::Text,
        "federation upstream set name",
        false,
    ),
    (
        "federation-upstream-pattern",
        Rule::Text,
        "federation upstream pattern",
        false,
    ),
    (
        "consumer-disconnected-timeout",
        Rule::AtLeast(0),
        "consumer disconnected timeout",
        false,
    ),
    (
        "delayed-retry-type",
        Rule::OneOf(RETRIES),
        "delayed retry type. Must be one of: all, failed, returned, disabled",
        true,
    ),
    (
        "delayed-retry-min",
        Rule::AtLeast(1),
        "delayed retry minimum delay. Must be a positive integer",
        true,
    ),
    (
        "delayed-retry-max",
        Rule::AtLeast(1),
        "delayed retry maximum delay. Must be a positive integer",
        true,
    ),
];
/// Of these a policy has one at most.
const UPSTREAMS: [&str; 3] = [
    "federation-upstream",
    "federation-upstream-set",
    "federation-upstream-pattern",
];

/// Keys that change what queues and exchanges do, and those that change nothing on one node, or
/// nowhere any more.
const EFFECTIVE: [&str; 22] = [
    "message-ttl",
    "expires",
    "dead-letter-exchange",
    "dead-letter-routing-key",
    "dead-letter-strategy",
    "delivery-limit",
    "overflow-drop",
    "max-length",
    "max-length-bytes",
    "overflow",
    "consumer-timeout",
    "consumer-timeout-counts",
    "consumer-timeout-action",
    "alternate-exchange",
    "queue-mode",
    "queue-version",
    "queue-master-locator",
    "queue-leader-locator",
    "initial-cluster-size",
    "target-group-size",
    "max-in-memory-length",
    "max-in-memory-bytes",
];

/// Whether Leveret does with a policy's key what RabbitMQ does.
#[must_use]
pub fn policy_key_has_effect(key: &str) -> bool {
    EFFECTIVE.contains(&key)
}

/// Checks a definition; gives what is wrong with it.
pub(super) fn validate(kind: PolicyKind, definition: &Map<String, Value>) -> Result<(), String> {
    if definition.is_empty() {
        return Err("no policy provided".to_owned());
    }
    let mut unknown = Vec::new();
    for (name, value) in definition {
        match find(name).filter(|(.., operator)| *operator || kind == PolicyKind::User) {
            None => unknown.push(pair(name, value)),
            Some((_, rule, what, _)) if !holds(*rule, value) => {
                return Err(format!("{} is not a valid {what}", term(value)));
            }
            Some(_) => {}
        }
    }
    if unknown.is_empty() {
        return together(definition);
    }
    Err(format!(
        "[{}] are not recognised policy settings",
        unknown.join(",")
    ))
}

/// What keys may not say together.
fn together(definition: &Map<String, Value>) -> Result<(), String> {
    let given = |key: &&&str| definition.contains_key(**key);
    if UPSTREAMS.iter().filter(given).count() > 1 {
        let text = "cannot specify federation-upstream, federation-upstream-set or \
                    federation-upstream-pattern together";
        return Err(text.to_owned());
    }
    let number = |key: &str| definition.get(key).and_then(Value::as_i64);
    let (min, max) = (number("delayed-retry-min"), number("delayed-retry-max"));
    if let Some(kind) = definition.get("delayed-retry-type").and_then(Value::as_str)
        && kind != "disabled"
        && min.is_none()
    {
        let text = format!("delayed-retry-min is required when delayed-retry-type is {kind}");
        return Err(text);
    }
    match min.zip(max) {
        Some((min, max)) if max < min => Err(format!(
            "delayed-retry-max ({max}) must not be smaller than delayed-retry-min ({min})"
        )),
        _ => Ok(()),
    }
}

fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|(key, ..)| *key == name)
}

fn holds(rule: Rule, value: &Value) -> bool {
    match rule {
        Rule::Text => value.is_string(),
        Rule::Integer => value.is_i64(),
        Rule::Flag => value.is_boolean(),
        Rule::Within(min, max) => value.as_i64().is_some_and(|n| (min..=max).contains(&n)),
        Rule::AtLeast(min) => value.as_i64().is_some_and(|number| number >= min),
        Rule::OneOf(allowed) => value.as_str().is_some_and(|text| allowed.contains(&text)),
        Rule::Age => value.as_str().is_some_and(is_age),
    }
}

fn is_age(text: &str) -> bool {
    let digits = text.trim_end_matches(['Y', 'M', 'D', 'h', 'm', 's']);
    digits.len() + 1 == text.len() && digits.parse::<u64>().is_ok()
}

/// Merges an operator's definition into a user's: of two limits the lower one holds, of anything
/// else the operator's.
pub(super) fn merge(
    mut user: Map<String, Value>,
    operator: Map<String, Value>,
) -> Map<String, Value> {
    for (key, theirs) in operator {
        let lower = match (user.get(&key).and_then(Value::as_i64), theirs.as_i64()) {
            (Some(own), Some(limit)) => Value::from(own.min(limit)),
            _ => theirs,
        };
        user.insert(key, lower);
    }
    user
}

/// RabbitMQ's wrapping of a failed validation.
pub(super) fn failed(text: &str) -> AdminError {
    AdminError::Invalid(format!("Validation failed\n\n{text}\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(kind: PolicyKind, definition: &Value) -> String {
        match validate(kind, definition.as_object().unwrap()) {
            Err(text) => text,
            Ok(()) => panic!("{definition} is taken"),
        }
    }

    #[test]
    fn definitions_are_refused_in_rabbitmqs_words() {
        let text = |definition| refused(PolicyKind::User, &definition);
        assert_eq!(text(json!({})), "no policy provided");
        assert_eq!(
            text(json!({"max-lengthh": 5})),
            "[{<<\"max-lengthh\">>,5}] are not recognised policy settings"
        );
        assert_eq!(
            text(json!({"max-length": "5"})),
            "<<\"5\">> is not a valid maximum length"
        );
        assert_eq!(text(json!({"expires": 0})), "0 is not a valid queue expiry");
        assert_eq!(
            text(json!({"overflow": "explode"})),
            "<<\"explode\">> is not a valid overflow value"
        );
        let only_users = json!({"dead-letter-exchange": "dlx"});
        assert!(refused(PolicyKind::Operator, &only_users).contains("not recognised"));
        assert!(validate(PolicyKind::User, only_users.as_object().unwrap()).is_ok());
        let stream = json!({"max-age": "7D", "max-length": 0});
        assert!(validate(PolicyKind::User, stream.as_object().unwrap()).is_ok());
        assert!(text(json!({"max-age": "D"})).contains("is not a valid max age"));
    }
}
