//! The arguments of a queue: their checks, their comparison, and which have no effect.

use leveret_codec::{RawTable, Table, ValueRef};

use crate::rule::Rule;
use crate::table::{
    CLASSIC, CONSUMER_TIMEOUT, DEAD_LETTER_EXCHANGE, DEAD_LETTER_ROUTING_KEY, Effect, On,
    QUEUE_TYPE, SETTINGS, Setting, TIMEOUT,
};

/// An argument that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentError {
    /// Its name.
    pub argument: &'static str,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// What is wrong with an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The reason, as RabbitMQ prints it.
    Value(String),
    /// It is no name of an exchange, but of this type.
    Type(&'static str),
}

/// Where a declaration differs from the queue that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub argument: &'static str,
    /// `received … but current is …`.
    pub text: String,
}

/// Checks the arguments of a new queue.
///
/// # Errors
/// The first one that is wrong, in the order of the table.
pub fn check_arguments(arguments: &Table) -> Result<(), ArgumentError> {
    for setting in &SETTINGS {
        check_argument(setting, arguments.as_raw())?;
    }
    let given = |setting: &Setting| {
        let name = setting.argument_name().unwrap_or_default();
        arguments.get(name.as_bytes()).is_some()
    };
    if given(&DEAD_LETTER_ROUTING_KEY) && !given(&DEAD_LETTER_EXCHANGE) {
        return Err(ArgumentError {
            argument: "x-dead-letter-routing-key",
            wrong: Wrong::Value("routing_key_but_no_dlx_defined".into()),
        });
    }
    Ok(())
}

/// Checks one argument, of a queue or a consumer.
///
/// # Errors
/// What is wrong with it.
pub fn check_argument(setting: &Setting, arguments: RawTable<'_>) -> Result<(), ArgumentError> {
    let Some((argument, rule)) = setting.argument else {
        return Ok(());
    };
    let Some(value) = arguments.get(argument.as_bytes()) else {
        return Ok(());
    };
    rule.check(value).map_err(|reason| ArgumentError {
        argument,
        wrong: match rule {
            Rule::Name => Wrong::Type(value.type_name()),
            _ => Wrong::Value(reason),
        },
    })
}

/// How long a delivery to a consumer may stay unsettled, milliseconds, if its arguments say so.
///
/// # Errors
/// When that is no time.
pub fn own_timeout(arguments: RawTable<'_>) -> Result<Option<u64>, ArgumentError> {
    check_argument(&TIMEOUT, arguments)?;
    let value = arguments.get(CONSUMER_TIMEOUT.as_bytes());
    let number = value.and_then(|value| value.as_integer());
    Ok(number.and_then(|number| u64::try_from(number).ok()))
}

/// An argument that quorum queues refuse.
#[must_use]
pub fn foreign(arguments: &Table) -> Option<&'static str> {
    let classic = SETTINGS.iter().filter(|setting| setting.on == On::Classic);
    let mut names = classic.filter_map(Setting::argument_name);
    names.find(|name| arguments.get(name.as_bytes()).is_some())
}

/// Arguments of a queue that RabbitMQ acts on and Leveret does not. What does not begin with `x-`
/// is the client's own.
pub fn without_effect(arguments: &Table) -> impl Iterator<Item = &str> {
    let keys = arguments
        .iter()
        .filter_map(|(key, _)| std::str::from_utf8(key).ok());
    keys.filter(|key| key.starts_with("x-") && !has_effect(key))
}

fn has_effect(argument: &str) -> bool {
    let mut known = SETTINGS.iter().filter(|one| one.effect != Effect::None);
    known.any(|setting| setting.argument_name() == Some(argument))
}

/// Where the arguments of a repeated declaration differ from those of the queue that exists.
#[must_use]
pub fn difference(received: &Table, current: &Table) -> Option<Difference> {
    SETTINGS.iter().find_map(|setting| {
        let (argument, rule) = setting.argument?;
        let (new, old) = (typed(received, argument), typed(current, argument));
        (rule != Rule::Ignored && !same(new, old)).then(|| Difference {
            argument,
            text: told(new, old),
        })
    })
}

/// A queue without a type is a classic one.
fn typed<'a>(arguments: &'a Table, argument: &str) -> Option<ValueRef<'a>> {
    match arguments.get(argument.as_bytes()) {
        None if argument == QUEUE_TYPE => Some(ValueRef::LongString(CLASSIC.as_bytes())),
        value => value,
    }
}

/// Integers are compared by value, whatever their width.
fn same(a: Option<ValueRef<'_>>, b: Option<ValueRef<'_>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => match (a.as_integer(), b.as_integer()) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        },
        (None, None) => true,
        _ => false,
    }
}

fn told(received: Option<ValueRef<'_>>, current: Option<ValueRef<'_>>) -> String {
    match (received, current) {
        (Some(new), Some(old)) => {
            format!("received '{}' but current is '{}'", shown(new), shown(old))
        }
        (new, old) => format!(
            "received {} but current is {}",
            with_type(new),
            with_type(old)
        ),
    }
}

fn with_type(value: Option<ValueRef<'_>>) -> String {
    value.map_or_else(
        || "none".into(),
        |value| {
            format!(
                "the value '{}' of type '{}'",
                shown(value),
                value.type_name()
            )
        },
    )
}

fn shown(value: ValueRef<'_>) -> String {
    if let Some(number) = value.as_integer() {
        return number.to_string();
    }
    if let Some(flag) = value.as_bool() {
        return flag.to_string();
    }
    match value {
        ValueRef::LongString(bytes) | ValueRef::Bytes(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        ValueRef::F32(number) => format!("{number:?}"),
        ValueRef::F64(number) => format!("{number:?}"),
        ValueRef::Timestamp(seconds) => seconds.to_string(),
        other => other.type_name().into(),
    }
}

#[cfg(test)]
mod tests {
    use leveret_codec::Value;

    use super::*;

    fn table(arguments: &[(&str, Value)]) -> Table {
        let mut table = Table::new();
        for (key, value) in arguments {
            table.insert(key, value.clone());
        }
        table
    }

    fn text(value: &str) -> Value {
        Value::LongString(value.as_bytes().to_vec())
    }

    #[test]
    fn wrong_values_are_refused_in_rabbitmqs_words() {
        let reason = |argument, value| {
            let wrong = check_arguments(&table(&[(argument, value)]));
            match wrong.map_err(|error| error.wrong) {
                Err(Wrong::Value(reason)) => reason,
                other => panic!("{other:?}"),
            }
        };
        for (argument, value, expected) in [
            ("x-message-ttl", Value::I32(-1), "{value_negative,-1}"),
            ("x-expires", Value::I32(0), "{value_zero,0}"),
            (
                "x-expires",
                Value::I64(315_360_000_001),
                "{value_too_large,315360000001}",
            ),
            (
                "x-max-length",
                text("many"),
                "\"expected integer, got longstr\"",
            ),
            (
                "x-max-priority",
                Value::I32(256),
                "{max_value_exceeded,256}",
            ),
            ("x-overflow", text("explode"), "invalid_overflow"),
            (
                "x-consumer-timeout-counts",
                text("yes"),
                "{unacceptable_type,longstr}",
            ),
            (
                "x-dead-letter-routing-key",
                text("k"),
                "routing_key_but_no_dlx_defined",
            ),
        ] {
            assert_eq!(reason(argument, value), expected);
        }
        let name = check_arguments(&table(&[("x-dead-letter-exchange", Value::I32(1))]));
        assert_eq!(name.unwrap_err().wrong, Wrong::Type("signedint"));
        assert_eq!(
            check_arguments(&table(&[("x-anything", Value::Void)])),
            Ok(())
        );
        assert_eq!(
            check_arguments(&table(&[("x-delivery-limit", text("5"))])),
            Ok(())
        );
    }

    #[test]
    fn integers_are_equal_by_value_and_absent_is_not_a_value() {
        let (narrow, wide) = (Value::I8(5), Value::I64(5));
        let of = |value| table(&[("x-message-ttl", value)]);
        assert_eq!(difference(&of(wide.clone()), &of(narrow)), None);
        let found = difference(&of(wide), &table(&[])).unwrap();
        let told = "received the value '5' of type 'long' but current is none";
        assert_eq!((found.argument, &*found.text), ("x-message-ttl", told));
        let classic = table(&[("x-queue-type", text("classic"))]);
        assert_eq!(difference(&table(&[]), &classic), None);
        let kept = table(&[("x-queue-version", Value::I32(1))]);
        assert_eq!(difference(&kept, &table(&[])), None, "never compared");
    }

    #[test]
    fn what_nobody_acts_on_is_told() {
        let all = table(&[
            ("x-max-length", Value::I32(1)),
            ("x-queue-version", Value::I32(2)),
            ("x-max-age", text("7D")),
            ("mine", Value::Void),
        ]);
        assert_eq!(without_effect(&all).collect::<Vec<_>>(), ["x-max-age"]);
        assert_eq!(foreign(&all), None);
        let levels = table(&[("x-max-priority", Value::I32(1))]);
        assert_eq!(foreign(&levels), Some("x-max-priority"));
    }
}
