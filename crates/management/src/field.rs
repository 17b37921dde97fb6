//! Reads the fields of a request's body as leniently as RabbitMQ does: `"true"` is a boolean and
//! `"1"` a number.

use serde_json::{Map, Value};

use crate::problem::Problem;

/// A body's fields.
pub(crate) struct BodyFields<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> BodyFields<'a> {
    /// A field that is there and not null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A field that must be there.
    pub(crate) fn require(&self, name: &str) -> Result<&'a Value, Problem> {
        self.get(name).ok_or_else(|| missing(name))
    }

    /// Fields that must all be there: a refusal names each that is not.
    pub(crate) fn require_all(&self, names: &[&str]) -> Result<(), Problem> {
        let absent = names.iter().filter(|name| self.get(name).is_none());
        let absent: Vec<_> = absent
            .map(|name| format!("{{key_missing,{name}}}"))
            .collect();
        if absent.is_empty() {
            return Ok(());
        }
        let line = format!("[{}]", absent.join(","));
        // As Erlang prints it.
        if line.len() <= ERLANG_LINE {
            return Err(Problem::bad(line));
        }
        Err(Problem::bad(format!("[{}]", absent.join(",\n "))))
    }

    /// A boolean.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, Problem> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) if text == "true" => Ok(true),
            Some(Value::String(text)) if text == "false" => Ok(false),
            Some(Value::String(text)) if text.is_empty() => Ok(default),
            Some(other) => Err(Problem::wrong(name, "not_boolean", other.clone())),
        }
    }

    /// A whole number.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Problem> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        integer_of(value)
            .map(Some)
            .ok_or_else(|| Problem::wrong(name, "not_integer", value.clone()))
    }

    /// A field that must be a text, if it is there.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, "a string", other)),
        }
    }

    /// A text that must be there.
    pub(crate) fn required_text(&self, name: &str) -> Result<&'a str, Problem> {
        self.text(name)?.ok_or_else(|| missing(name))
    }

    /// An object; an empty list stands for an empty one, as PHP and Lua write it.
    pub(crate) fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(Value::Array(list)) if list.is_empty() => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(other) => Err(wrong(name, "an object", other)),
        }
    }

    /// Words: a list of texts, or one text with commas.
    pub(crate) fn words(&self, name: &str) -> Result<Option<Vec<String>>, Problem> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value {
            Value::String(text) => {
                let words = text
                    .split(',')
                    .map(str::trim)
                    .filter(|word| !word.is_empty());
                Ok(Some(words.map(str::to_owned).collect()))
            }
            Value::Array(list) => {
                let texts = list.iter().map(Value::as_str);
                let words: Option<Vec<String>> =
                    texts.map(|text| text.map(str::to_owned)).collect();
                words
                    .map(Some)
                    .ok_or_else(|| wrong(name, "a list of strings", value))
            }
            other => Err(wrong(name, "a list of strings", other)),
        }
    }
}

/// A whole number, or a text that holds one.
pub(crate) fn integer_of(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64()?;
            // JavaScript writes 1.0 for 1.
            (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64)
        }),
        _ => None,
    }
}

/// What Erlang prints in one line.
const ERLANG_LINE: usize = 80;

fn missing(name: &str) -> Problem {
    Problem::BadRequest(format!("[{{key_missing,{name}}}]"))
}

/// Tells what kind of value was found, not the value: it may be a password, and reasons are logged.
fn wrong(name: &str, expected: &str, found: &Value) -> Problem {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Problem::BadRequest(format!("{name} must be {expected}, not {found}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: &Value) -> BodyFields<'_> {
        BodyFields(value.as_object().unwrap())
    }

    #[test]
    fn booleans_numbers_and_words_are_taken_as_text_too() {
        let body = json!({"a": "true", "b": false, "n": "12", "f": 3.0, "w": "x, y", "v": ["z"]});
        let fields = fields(&body);
        assert!(fields.flag("a", false).unwrap());
        assert!(!fields.flag("b", true).unwrap());
        assert!(fields.flag("absent", true).unwrap());
        assert_eq!(fields.integer("n").unwrap(), Some(12));
        assert_eq!(fields.integer("f").unwrap(), Some(3));
        assert_eq!(fields.words("w").unwrap().unwrap(), ["x", "y"]);
        assert_eq!(fields.words("v").unwrap().unwrap(), ["z"]);
    }

    #[test]
    fn wrong_types_and_missing_fields_are_named() {
        let body = json!({"a": 1, "n": "many", "o": "x", "t": 12_345_678, "nothing": null});
        let fields = fields(&body);
        let text = |problem: Problem| problem.reason();
        let wrong = fields.flag("a", false).unwrap_err();
        assert_eq!(wrong.body()["reason"], json!(["not_boolean", 1]));
        assert_eq!(text(wrong), "a: not_boolean");
        assert_eq!(
            text(fields.text("t").unwrap_err()),
            "t must be a string, not a number"
        );
        let wrong = fields.integer("n").unwrap_err();
        assert_eq!(wrong.body()["reason"], json!(["not_integer", "many"]));
        assert!(text(fields.object("o").unwrap_err()).contains("o must be an object"));
        assert_eq!(
            text(fields.required_text("nothing").unwrap_err()),
            "[{key_missing,nothing}]"
        );
    }
}
