//! Whether `exchange.declare` of an existing exchange says the same: type, flags, and of the
//! arguments only `alternate-exchange`, compared in RabbitMQ's order and shown in its words.

use leveret_codec::ValueRef;

use crate::erlang;
use crate::exchange::ExchangeSpec;
use crate::refused::Refused;

/// Refuses a declaration that differs from what is there.
pub(crate) fn check(current: &ExchangeSpec, received: &ExchangeSpec) -> Result<(), Refused> {
    same("type", current.kind.name(), received.kind.name())?;
    flag("durable", current.durable, received.durable)?;
    flag("auto_delete", current.auto_delete, received.auto_delete)?;
    flag("internal", current.internal, received.internal)?;
    argument("alternate-exchange", current, received)
}

fn flag(name: &'static str, current: bool, received: bool) -> Result<(), Refused> {
    let text = |flag: bool| if flag { "true" } else { "false" };
    same(name, text(current), text(received))
}

fn same(argument: &'static str, current: &str, received: &str) -> Result<(), Refused> {
    if current == received {
        return Ok(());
    }
    let (received, current) = (format!("'{received}'"), format!("'{current}'"));
    Err(Refused::Inequivalent {
        argument,
        received,
        current,
    })
}

fn argument(
    name: &'static str,
    current: &ExchangeSpec,
    received: &ExchangeSpec,
) -> Result<(), Refused> {
    let received = received.arguments.get(name.as_bytes());
    let current = current.arguments.get(name.as_bytes());
    let (received, current) = match (received, current) {
        (None, None) => return Ok(()),
        (Some(received), Some(current)) if received == current => return Ok(()),
        (Some(received), Some(current)) => (quoted(received), quoted(current)),
        (received, current) => (with_type(received), with_type(current)),
    };
    Err(Refused::Inequivalent {
        argument: name,
        received,
        current,
    })
}

fn with_type(value: Option<ValueRef<'_>>) -> String {
    value.map_or_else(
        || "none".into(),
        |value| {
            format!(
                "the value {} of type '{}'",
                quoted(value),
                value.type_name()
            )
        },
    )
}

fn quoted(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::LongString(bytes) | ValueRef::Bytes(bytes) => {
            format!("'{}'", String::from_utf8_lossy(bytes))
        }
        other => format!("'{}'", erlang::term(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::ExchangeKind;

    fn spec(change: impl Fn(&mut ExchangeSpec)) -> ExchangeSpec {
        let mut spec = ExchangeSpec::durable(ExchangeKind::Direct);
        change(&mut spec);
        spec
    }

    fn difference(
        current: &ExchangeSpec,
        received: &ExchangeSpec,
    ) -> Option<(&'static str, String, String)> {
        match check(current, received) {
            Ok(()) => None,
            Err(Refused::Inequivalent {
                argument,
                received,
                current,
            }) => Some((argument, received, current)),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_and_type_must_be_the_same() {
        let plain = spec(|_| {});
        assert_eq!(difference(&plain, &plain), None);
        for (other, argument, received, current) in [
            (
                spec(|s| s.kind = ExchangeKind::Topic),
                "type",
                "'topic'",
                "'direct'",
            ),
            (spec(|s| s.durable = false), "durable", "'false'", "'true'"),
            (
                spec(|s| s.auto_delete = true),
                "auto_delete",
                "'true'",
                "'false'",
            ),
            (spec(|s| s.internal = true), "internal", "'true'", "'false'"),
        ] {
            let expected = Some((argument, received.to_owned(), current.to_owned()));
            assert_eq!(difference(&plain, &other), expected);
        }
    }

    #[test]
    fn of_the_arguments_only_the_alternate_exchange_counts() {
        let plain = spec(|_| {});
        let other = spec(|s| s.arguments.insert("x-other", 1i32));
        let ae = |name: &str| spec(|s| s.arguments.insert("alternate-exchange", name));
        assert_eq!(difference(&plain, &other), None);
        assert_eq!(difference(&ae("a"), &ae("a")), None);
        assert_eq!(
            difference(&ae("a"), &ae("b")),
            Some(("alternate-exchange", "'b'".into(), "'a'".into()))
        );
        assert_eq!(
            difference(&ae("a"), &plain),
            Some((
                "alternate-exchange",
                "none".into(),
                "the value 'a' of type 'longstr'".into()
            ))
        );
        let number = spec(|s| s.arguments.insert("alternate-exchange", 5i32));
        assert_eq!(
            difference(&plain, &number),
            Some((
                "alternate-exchange",
                "the value '5' of type 'signedint'".into(),
                "none".into()
            ))
        );
    }
}
