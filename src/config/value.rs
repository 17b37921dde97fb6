//! The kinds of value a key accepts: how each is read, checked, and explained when it is wrong.

use std::str::FromStr;

use toml::Value;
use tracing_subscriber::EnvFilter;

/// What a key accepts.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ValueKind {
    /// A whole number in a range, both ends included.
    Integer {
        /// The least number.
        min: u64,
        /// The greatest number.
        max: u64,
    },
    /// A number of bytes in a range, or a text such as `64 MiB`.
    Bytes {
        /// The least number of bytes.
        min: u64,
        /// The greatest number of bytes.
        max: u64,
    },
    /// A number over 0 and up to 1.
    Fraction,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text that is not empty.
    Text,
    /// Any text.
    TextOrNone,
    /// A text of 1 to 255 bytes, so that it fits AMQP's short string.
    ShortText,
    /// The same, or an empty one.
    ShortTextOrNone,
    /// `true` or `false`.
    Flag,
    /// Any text; its value is never shown.
    Secret,
    /// `host:port`, at least once.
    Addresses,
    /// `host:port`, maybe none.
    AddressesOrNone,
    /// Names, maybe none.
    Names,
    /// Directives of a log filter; empty for none.
    LogFilter,
}

impl ValueKind {
    /// Reads a value given as bare text, in the environment or after `--set`.
    ///
    /// TOML's syntax is understood; where a text or a list of texts is expected, quotes and
    /// brackets may be left out, and commas separate the entries of a list.
    pub(super) fn read(&self, raw: &str) -> Value {
        let parsed = Value::from_str(raw.trim()).ok();
        match (self, parsed) {
            (Self::Secret, Some(Value::String(text))) if raw.starts_with(['"', '\'']) => {
                Value::String(text)
            }
            (
                Self::Text
                | Self::TextOrNone
                | Self::ShortText
                | Self::ShortTextOrNone
                | Self::Secret
                | Self::Choice(_),
                Some(value),
            ) => {
                if value.is_str() {
                    value
                } else {
                    Value::String(raw.to_owned())
                }
            }
            (
                Self::Addresses | Self::AddressesOrNone | Self::Names,
                Some(value @ Value::Array(_)),
            ) => value,
            (Self::Addresses | Self::AddressesOrNone | Self::Names, Some(Value::String(text))) => {
                split(&text)
            }
            (Self::Addresses | Self::AddressesOrNone | Self::Names, _) => split(raw),
            (_, Some(value)) => value,
            (_, None) => Value::String(raw.to_owned()),
        }
    }

    /// Checks a value and brings it to the one form the settings are built from.
    ///
    /// # Errors
    ///
    /// What the key accepts instead, for a person.
    pub(super) fn accept(&self, value: Value) -> Result<Value, String> {
        match self {
            Self::Integer { min, max } => in_range(value.as_integer(), *min, *max)
                .ok_or_else(|| format!("must be a whole number {}", range(*min, *max))),
            Self::Bytes { min, max } => bytes_of(&value)
                .and_then(|bytes| in_range(Some(bytes), *min, *max))
                .ok_or_else(|| {
                    let range = range(*min, *max);
                    format!("must be a number of bytes {range}, or a text such as \"64 MiB\"")
                }),
            Self::Fraction => fraction_of(&value)
                .map(Value::Float)
                .ok_or_else(|| "must be a number over 0 and up to 1".to_owned()),
            Self::Choice(words) => match value.as_str() {
                Some(word) if words.contains(&word) => Ok(value),
                _ => Err(format!("must be one of {}", quoted(words))),
            },
            Self::Text => text_of_at_most(value, usize::MAX),
            Self::TextOrNone if value.is_str() => Ok(value),
            Self::TextOrNone => Err("must be a text in quotes".to_owned()),
            Self::ShortText => text_of_at_most(value, SHORT_STRING_BYTES_MAX),
            Self::ShortTextOrNone if value.as_str() == Some("") => Ok(value),
            Self::ShortTextOrNone => text_of_at_most(value, SHORT_STRING_BYTES_MAX),
            Self::Flag if value.is_bool() => Ok(value),
            Self::Flag => Err("must be true or false".to_owned()),
            Self::Secret if value.is_str() => Ok(value),
            Self::Secret => Err("must be a text in quotes".to_owned()),
            Self::Addresses => addresses_of(value),
            Self::AddressesOrNone => match value.as_array() {
                Some(none) if none.is_empty() => Ok(value),
                _ => addresses_of(value),
            },
            Self::Names => {
                texts_of(value).ok_or_else(|| "must be a list of texts in quotes".to_owned())
            }
            Self::LogFilter => log_filter_of(value),
        }
    }
}

/// Returns a range in words; an end that no machine reaches is left out.
fn range(min: u64, max: u64) -> String {
    match (min, max) {
        (0, MAX) => "from 0 up".to_owned(),
        (min, MAX) => format!("of at least {min}"),
        (min, max) => format!("from {min} to {max}"),
    }
}

fn quoted(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    quoted.join(", ")
}

fn in_range(number: Option<i64>, min: u64, max: u64) -> Option<Value> {
    let number = number?;
    let unsigned = u64::try_from(number).ok()?;
    (min..=max)
        .contains(&unsigned)
        .then_some(Value::Integer(number))
}

fn bytes_of(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(bytes) => Some(*bytes),
        Value::String(text) => bytes_of_text(text),
        _ => None,
    }
}

/// Reads `64 MiB`, `64MiB`, `64 MB` or `64`; a fraction is not understood.
fn bytes_of_text(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let number: i64 = number.replace('_', "").parse().ok()?;
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn fraction_of(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Float(number) => *number,
        Value::Integer(1) => 1.0,
        _ => return None,
    };
    (number > 0.0 && number <= 1.0).then_some(number)
}

fn text_of_at_most(value: Value, bytes_max: usize) -> Result<Value, String> {
    let length = value.as_str().map(str::len);
    match length {
        None => Err("must be a text in quotes".to_owned()),
        Some(0) => Err("must not be empty".to_owned()),
        Some(bytes) if bytes > bytes_max => Err(format!("must be at most {bytes_max} bytes long")),
        Some(_) => Ok(value),
    }
}

/// Takes a list of texts, or one text for a list of one.
fn texts_of(value: Value) -> Option<Value> {
    match value {
        Value::String(_) => Some(Value::Array(vec![value])),
        Value::Array(ref texts) if texts.iter().all(Value::is_str) => Some(value),
        _ => None,
    }
}

fn addresses_of(value: Value) -> Result<Value, String> {
    let explain = || {
        "must be a list of \"address:port\", such as [\"0.0.0.0:5672\", \"[::]:5672\"]".to_owned()
    };
    let value = texts_of(value).ok_or_else(explain)?;
    let Some(addresses) = value.as_array() else {
        return Err(explain());
    };
    if addresses.is_empty() {
        return Err(explain());
    }
    let wrong = addresses
        .iter()
        .filter_map(Value::as_str)
        .find(|text| !is_address(text));
    match wrong {
        Some(text) => Err(format!("{}; \"{text}\" is not one", explain())),
        None => Ok(value),
    }
}

/// Tells `host:port` from anything else; the host may be a name, looked up at start.
fn is_address(text: &str) -> bool {
    if text.parse::<std::net::SocketAddr>().is_ok() {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let looks_numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    port.parse::<u16>().is_ok() && !looks_numeric && host.chars().all(is_name)
}

fn split(raw: &str) -> Value {
    let entries = raw
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty());
    Value::Array(
        entries
            .map(|entry| Value::String(entry.to_owned()))
            .collect(),
    )
}

fn log_filter_of(value: Value) -> Result<Value, String> {
    let Some(text) = value.as_str() else {
        return Err("must be a text in quotes".to_owned());
    };
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(value),
        Err(error) => Err(format!("is not a log filter: {error}")),
    }
}

/// AMQP's short string, which carries names, holds this many bytes.
const SHORT_STRING_BYTES_MAX: usize = 255;

const MAX: u64 = i64::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_and_decimal_units() {
        let cases = [
            ("0", 0),
            ("4096", 4_096),
            ("1_000", 1_000),
            ("64 MiB", 64 << 20),
            ("64MiB", 64 << 20),
            ("8gib", 8 << 30),
            ("2 TiB", 2 << 40),
            ("5 MB", 5_000_000),
            (" 7 b ", 7),
        ];
        for (text, bytes) in cases {
            assert_eq!(bytes_of_text(text), Some(bytes), "{text}");
        }
        for wrong in [
            "",
            "MiB",
            "-1",
            "1.5 GiB",
            "64 M",
            "64 furlongs",
            "9999999999 TiB",
            "1 é",
        ] {
            assert_eq!(bytes_of_text(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn addresses_are_told_from_other_text() {
        for right in [
            "0.0.0.0:5672",
            "[::1]:0",
            "localhost:5672",
            "my-host.example:1",
            "h_1:65535",
        ] {
            assert!(is_address(right), "{right}");
        }
        for wrong in [
            "",
            "5672",
            ":5672",
            "localhost",
            "::1:5672",
            "1.2.3:5672",
            "host:65536",
            "a b:1",
        ] {
            assert!(!is_address(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_bare_text_is_taken_where_a_text_is_expected() {
        let text = |raw: &str| ValueKind::Secret.read(raw).as_str().map(str::to_owned);
        assert_eq!(text("12345").as_deref(), Some("12345"));
        assert_eq!(text("true").as_deref(), Some("true"));
        assert_eq!(text("\"a b\"").as_deref(), Some("a b"));
        assert_eq!(text(" a ").as_deref(), Some(" a "));
    }

    #[test]
    fn lists_are_taken_with_and_without_brackets() {
        let expected = Value::Array(vec!["127.0.0.1:1".into(), "[::1]:2".into()]);
        for raw in [
            "127.0.0.1:1,[::1]:2",
            "127.0.0.1:1, [::1]:2",
            "['127.0.0.1:1', '[::1]:2']",
        ] {
            assert_eq!(ValueKind::Addresses.read(raw), expected, "{raw}");
        }
        assert_eq!(ValueKind::Names.read(""), Value::Array(vec![]));
        assert_eq!(ValueKind::Names.read("[]"), Value::Array(vec![]));
    }
}
