//! The definitions of policies: their checks, and how an operator's is merged in.

use serde_json::{Map, Value};

use crate::table::{Effect, InPolicy, Merge, SETTINGS, Setting};

/// Of these a policy has one at most.
const UPSTREAMS: [&str; 3] = [
    "federation-upstream",
    "federation-upstream-set",
    "federation-upstream-pattern",
];

/// What is wrong with a definition.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyError<'a> {
    /// It sets nothing.
    Empty,
    /// A value that cannot be, and what it should have been.
    Value(&'a Value, &'static str),
    /// Keys that nobody knows, or that this kind of policy may not set.
    Unknown(Vec<(&'a str, &'a Value)>),
    /// Values that contradict each other: RabbitMQ's words.
    Together(String),
}

/// Checks a definition, one of an operator if so.
///
/// # Errors
/// What is wrong with it: a wrong value before unknown keys.
pub fn check_policy(
    definition: &Map<String, Value>,
    operator: bool,
) -> Result<(), PolicyError<'_>> {
    if definition.is_empty() {
        return Err(PolicyError::Empty);
    }
    let mut unknown = Vec::new();
    for (key, value) in definition {
        match find(key).filter(|(_, policy)| policy.by_operators || !operator) {
            None => unknown.push((key.as_str(), value)),
            Some((_, policy)) if !policy.rule.holds(value) => {
                return Err(PolicyError::Value(value, policy.what));
            }
            Some(_) => {}
        }
    }
    if unknown.is_empty() {
        together(definition).map_err(PolicyError::Together)
    } else {
        Err(PolicyError::Unknown(unknown))
    }
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

fn find(key: &str) -> Option<(&'static Setting, InPolicy)> {
    let mut known = SETTINGS.iter().filter_map(|one| Some((one, one.policy?)));
    known.find(|(_, policy)| policy.key == key)
}

/// Whether Leveret does with a policy's key what RabbitMQ does.
#[must_use]
pub fn policy_key_has_effect(key: &str) -> bool {
    find(key).is_some_and(|(setting, _)| setting.effect != Effect::None)
}

/// Merges an operator's definition into a user's: of two numbers the lower one holds, of anything
/// else the operator's.
#[must_use]
pub fn merge(mut user: Map<String, Value>, operator: Map<String, Value>) -> Map<String, Value> {
    for (key, theirs) in operator {
        let lower = match (user.get(&key).and_then(Value::as_i64), theirs.as_i64()) {
            (Some(own), Some(limit)) => Value::from(lower(&key, own, limit)),
            _ => theirs,
        };
        user.insert(key, lower);
    }
    user
}

/// The lower one of two numbers. Where a negative one is no limit, the other one holds.
fn lower(key: &str, own: i64, limit: i64) -> i64 {
    let may_be_none = find(key).is_some_and(|(setting, _)| setting.merge == Merge::LowerLimit);
    if may_be_none && (own < 0) != (limit < 0) {
        own.max(limit)
    } else {
        own.min(limit)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(operator: bool, definition: &Value) -> Result<(), String> {
        let checked = check_policy(definition.as_object().unwrap(), operator);
        checked.map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn definitions_are_checked_key_by_key() {
        let refused = |definition| check(false, &definition).unwrap_err();
        assert_eq!(refused(json!({})), "Empty");
        assert!(refused(json!({"max-lengthh": 5})).contains("Unknown([(\"max-lengthh\""));
        for (wrong, what) in [
            (json!({"max-length": "5"}), "maximum length"),
            (json!({"expires": 0}), "queue expiry"),
            (json!({"overflow": "explode"}), "overflow value"),
            (json!({"max-age": "D"}), "max age"),
            (json!({"consumer-timeout": -1}), "consumer timeout"),
            (
                json!({"consumer-timeout-counts": "yes"}),
                "consumer timeout flag",
            ),
            (
                json!({"consumer-timeout-action": "ignore"}),
                "consumer timeout action",
            ),
            (
                json!({"dead-letter-exchange": 1}),
                "dead letter exchange name",
            ),
        ] {
            assert!(refused(wrong).ends_with(&format!("\"{what}\")")), "{what}");
        }
        assert_eq!(
            check(false, &json!({"max-age": "7D", "max-length": 0})),
            Ok(())
        );
        assert!(refused(json!({"delayed-retry-type": "all"})).contains("is required"));
    }

    #[test]
    fn an_operator_only_limits() {
        let dead_letters = json!({"dead-letter-exchange": "dlx"});
        assert_eq!(check(false, &dead_letters), Ok(()));
        assert!(check(true, &dead_letters).unwrap_err().contains("Unknown"));
        let object = |value: Value| value.as_object().unwrap().clone();
        let user = object(json!({"max-length": 9, "expires": 5, "overflow": "drop-head"}));
        let operator = object(json!({"max-length": 7, "overflow": "reject-publish"}));
        let merged = json!({"max-length": 7, "expires": 5, "overflow": "reject-publish"});
        assert_eq!(merge(user, operator), object(merged));
        for (own, limit, holds) in [(-1, 5, 5), (5, -1, 5), (-1, -1, -1), (7, 5, 5), (3, 5, 3)] {
            let [user, operator, merged] =
                [own, limit, holds].map(|limit| object(json!({"delivery-limit": limit})));
            assert_eq!(merge(user, operator), merged, "{own} and {limit}");
        }
    }
}
