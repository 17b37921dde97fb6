//! Log lines as JSON: numbers are numbers, lists are lists.

use std::fmt;

use serde_json::{Map, Number, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// One object a line: `timestamp`, `level`, the event's own fields, `target`.
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let metadata = event.metadata();
        line.insert("timestamp".into(), timestamp.into());
        line.insert("level".into(), metadata.level().as_str().into());
        event.record(&mut JsonFields(&mut line));
        line.insert("target".into(), metadata.target().into());
        writeln!(writer, "{}", Value::Object(line))
    }
}

struct JsonFields<'a>(&'a mut Map<String, Value>);

impl JsonFields<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for JsonFields<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        let number = Number::from_i128(value).map(Value::Number);
        self.put(field, number.unwrap_or_else(|| value.to_string().into()));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        let number = Number::from_u128(value).map(Value::Number);
        self.put(field, number.unwrap_or_else(|| value.to_string().into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, value_of(format!("{value:?}")));
    }
}

/// Lists of texts and of numbers look the same in Rust and in JSON, and so do texts; anything else
/// is its text.
fn value_of(text: String) -> Value {
    if !text.starts_with(['[', '"']) {
        return text.into();
    }
    match serde_json::from_str(&text) {
        Ok(value @ (Value::Array(_) | Value::String(_))) => value,
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_and_texts_are_what_they_are() {
        assert_eq!(
            value_of(format!("{:?}", ["a", "b \"c\""])),
            json!(["a", "b \"c\""])
        );
        assert_eq!(value_of(format!("{:?}", [1, 2])), json!([1, 2]));
        assert_eq!(value_of(format!("{:?}", "text")), json!("text"));
        assert_eq!(value_of(format!("{:?}", Some(1))), json!("Some(1)"));
        assert_eq!(value_of("[::]:5672".into()), json!("[::]:5672"));
        assert_eq!(value_of("true".into()), json!("true"));
    }
}
