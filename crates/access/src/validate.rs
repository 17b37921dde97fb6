//! Values that administrators give, checked and refused in RabbitMQ's words.

use serde_json::Value;

use crate::AdminError;

/// Longest name of a user, virtual host, policy or parameter, bytes: AMQP's short string.
const NAME_BYTES_MAX: usize = 255;

/// Checks the name of a user, virtual host, policy or parameter.
///
/// # Errors
/// When it is empty or too long.
pub fn check_name(what: &str, name: &str) -> Result<(), AdminError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let text = format!("{what} name must have 1 to {NAME_BYTES_MAX} bytes");
        return Err(AdminError::Invalid(text));
    }
    Ok(())
}

pub(crate) fn integer(name: &str, value: &Value) -> Result<i64, AdminError> {
    value.as_i64().ok_or_else(|| {
        let text = format!("{name} should be a number, actually was {}", term(value));
        AdminError::Invalid(text)
    })
}

pub(crate) fn unrecognised(name: &str, value: &Value, whose: &str) -> AdminError {
    AdminError::Invalid(format!(
        "Unrecognised terms [{}] in {whose}",
        pair(name, value)
    ))
}

/// `{<<"key">>,value}`.
#[must_use]
pub fn pair(key: &str, value: &Value) -> String {
    format!("{{{},{}}}", binary(key), term(value))
}

/// A JSON value as Erlang prints it.
#[must_use]
pub fn term(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => binary(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(term).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(key, value)| format!("{} => {}", binary(key), term(value)))
                .collect();
            format!("#{{{}}}", fields.join(","))
        }
    }
}

fn binary(text: &str) -> String {
    if text.is_empty() {
        return "<<>>".into();
    }
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("<<\"{escaped}\">>")
}
