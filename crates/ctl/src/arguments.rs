//! Values on the command line: `name=value` with a type, JSON, durations.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::failure::{Failure, Result};

/// Reads `name=value`; see [`typed`] for the value.
pub(crate) fn pair(text: &str) -> std::result::Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    if name.is_empty() {
        return Err("write NAME=VALUE".to_owned());
    }
    Ok((name.to_owned(), typed(value)?))
}

/// A value whose type is told by how it is written: numbers, `true`, `false`, `null` and what
/// begins as a JSON object, list or string are JSON; all else is a string.
pub(crate) fn typed(text: &str) -> std::result::Result<Value, String> {
    if text.starts_with(['{', '[', '"']) {
        return serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}"));
    }
    let scalar = serde_json::from_str::<Value>(text).ok();
    Ok(scalar.unwrap_or_else(|| Value::String(text.to_owned())))
}

/// The pairs as one object; a name given twice is a mistake.
pub(crate) fn object(pairs: &[(String, Value)]) -> Result<Map<String, Value>> {
    let mut object = Map::new();
    for (name, value) in pairs {
        if object.insert(name.clone(), value.clone()).is_some() {
            return Err(Failure::usage(format!("`{name}` is given twice")));
        }
    }
    Ok(object)
}

/// JSON that the user wrote.
pub(crate) fn json(text: &str) -> std::result::Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}"))
}

/// `30`, `30s`, `500ms`, `5m` or `1h`.
pub(crate) fn duration(text: &str) -> std::result::Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits
        .parse()
        .map_err(|_| "write a time such as 30s".to_owned())?;
    let seconds = match &text[digits.len()..] {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        unit => return Err(format!("`{unit}` is no unit; use ms, s, m or h")),
    };
    let duration = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    if duration.is_zero() {
        return Err("must be more than nothing".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_has_the_type_it_is_written_as() {
        let cases = [
            ("5", json!(5)),
            ("-1.5", json!(-1.5)),
            ("true", json!(true)),
            ("null", json!(null)),
            ("text", json!("text")),
            ("007", json!("007")),
            ("\"5\"", json!("5")),
            ("{\"a\":[1]}", json!({"a": [1]})),
            ("", json!("")),
        ];
        for (text, value) in cases {
            assert_eq!(typed(text), Ok(value), "{text}");
        }
        assert!(typed("{nope").is_err());
        assert_eq!(
            pair("x-max-length=5"),
            Ok(("x-max-length".into(), json!(5)))
        );
        assert_eq!(pair("a=b=c"), Ok(("a".into(), json!("b=c"))));
        assert!(pair("nothing").is_err());
        assert!(pair("=x").is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for text in ["", "x", "5d", "-1s", "0s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
