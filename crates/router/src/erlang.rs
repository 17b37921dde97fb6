//! Values as Erlang's `~p` prints them, because RabbitMQ's refusals show them that way.

use leveret_codec::ValueRef;

/// A value in Erlang's syntax; for a string its bytes.
pub(crate) fn term(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Bool(flag) => flag.to_string(),
        ValueRef::F32(number) => format!("{number:?}"),
        ValueRef::F64(number) => format!("{number:?}"),
        ValueRef::Decimal { scale, value } => format!("{{{scale},{value}}}"),
        ValueRef::LongString(bytes) | ValueRef::Bytes(bytes) => binary(bytes),
        ValueRef::Array(values) => {
            let typed = values
                .iter()
                .map(|v| format!("{{{},{}}}", v.type_name(), term(v)));
            format!("[{}]", typed.collect::<Vec<_>>().join(","))
        }
        ValueRef::Timestamp(seconds) => seconds.to_string(),
        ValueRef::Table(table) => {
            let fields = table
                .iter()
                .map(|(key, v)| format!("{{{},{},{}}}", binary(key), v.type_name(), term(v)));
            format!("[{}]", fields.collect::<Vec<_>>().join(","))
        }
        ValueRef::Void => "undefined".into(),
        integer => integer.as_integer().unwrap_or_default().to_string(),
    }
}

/// A byte string: `<<"text">>`, or its numbers if it is not printable.
pub(crate) fn binary(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok("") => "<<>>".into(),
        Ok(text) if !text.chars().any(char::is_control) => {
            format!(
                "<<\"{}\">>",
                text.replace('\\', "\\\\").replace('"', "\\\"")
            )
        }
        _ => {
            let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
            format!("<<{}>>", numbers.join(","))
        }
    }
}

#[cfg(test)]
mod tests {
    use leveret_codec::{Table, Value};

    use super::*;

    #[test]
    fn terms_look_like_erlang() {
        let mut table = Table::new();
        table.insert("k", 1i32);
        for (value, text) in [
            (Value::from("bogus"), "<<\"bogus\">>"),
            (Value::from("a\"b"), "<<\"a\\\"b\">>"),
            (Value::from(""), "<<>>"),
            (Value::LongString(vec![255, 0]), "<<255,0>>"),
            (Value::U16(7), "7"),
            (Value::F64(1.0), "1.0"),
            (Value::Bool(true), "true"),
            (Value::Decimal { scale: 2, value: 5 }, "{2,5}"),
            (Value::Array(vec![Value::I64(-1)]), "[{long,-1}]"),
            (Value::Table(table), "[{<<\"k\">>,signedint,1}]"),
            (Value::Timestamp(9), "9"),
            (Value::Void, "undefined"),
        ] {
            let mut one = Table::new();
            one.insert("value", value);
            assert_eq!(term(one.get(b"value").unwrap()), text);
        }
    }
}
