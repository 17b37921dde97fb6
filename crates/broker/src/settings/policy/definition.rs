//! What is wrong with a policy's definition, in RabbitMQ's words.

use leveret_access::{AdminError, pair, term};
use leveret_settings::{PolicyError, check_policy};
use serde_json::{Map, Value};

use super::PolicyKind;

/// Checks a definition; gives what is wrong with it.
pub(super) fn validate(kind: PolicyKind, definition: &Map<String, Value>) -> Result<(), String> {
    let checked = check_policy(definition, kind == PolicyKind::Operator);
    checked.map_err(|wrong| match wrong {
        PolicyError::Empty => "no policy provided".to_owned(),
        PolicyError::Value(value, what) => format!("{} is not a valid {what}", term(value)),
        PolicyError::Unknown(keys) => {
            let keys: Vec<_> = keys.iter().map(|(key, value)| pair(key, value)).collect();
            format!("[{}] are not recognised policy settings", keys.join(","))
        }
        PolicyError::Together(text) => text,
    })
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
