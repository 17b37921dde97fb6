//! The headers exchange: arguments of a binding against the headers of a message.
//!
//! Only this exchange looks at a message's headers, so a route through it is never cached.

use std::collections::BTreeMap;

use leveret_codec::{RawTable, Table, Value, ValueRef};

use crate::bindings::BindingId;
use crate::erlang;
use crate::refused::Refused;
use crate::route::Found;
use crate::targets::{Target, Targets};

/// The bindings of one headers exchange in order of id.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    patterns: BTreeMap<BindingId, (Pattern, Target)>,
}

/// A binding's arguments, without those its mode ignores.
#[derive(Debug, Default)]
pub(crate) struct Pattern {
    mode: Mode,
    fields: Box<[(Box<[u8]>, Value)]>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Mode {
    #[default]
    All,
    Any,
}

/// A message's headers, parsed once for all bindings.
struct Fields<'a> {
    first: [(&'a [u8], ValueRef<'a>); INLINE_MAX],
    count: usize,
    /// Messages with more headers than fit inline pay for an allocation.
    more: Vec<(&'a [u8], ValueRef<'a>)>,
}

impl Headers {
    pub(crate) fn add(&mut self, binding: BindingId, pattern: Pattern, target: Target) {
        self.patterns.insert(binding, (pattern, target));
    }

    pub(crate) fn remove(&mut self, binding: BindingId) {
        self.patterns.remove(&binding);
    }

    pub(crate) fn route(&self, headers: RawTable<'_>, found: &mut Found) {
        if self.patterns.is_empty() {
            return;
        }
        let message = Fields::read(headers);
        for (pattern, target) in self.patterns.values() {
            if pattern.matches(&message) {
                Targets::One(*target).emit(found);
            }
        }
    }
}

impl Pattern {
    /// Reads `x-match` and the fields that count under it.
    pub(crate) fn parse(arguments: &Table) -> Result<Self, Refused> {
        let (mode, with_x) = match arguments.get(X_MATCH) {
            None => (Mode::All, false),
            Some(Value::LongString(text)) => match text.as_slice() {
                b"all" => (Mode::All, false),
                b"any" => (Mode::Any, false),
                b"all-with-x" => (Mode::All, true),
                b"any-with-x" => (Mode::Any, true),
                other => return Err(Refused::InvalidXMatch(erlang::binary(other))),
            },
            Some(other) => {
                let (kind, value) = (other.type_name(), erlang::term(other));
                return Err(Refused::InvalidXMatchType { kind, value });
            }
        };
        let counts = |key: &[u8]| key != X_MATCH && (with_x || !key.starts_with(b"x-"));
        let fields = arguments.iter().filter(|(key, _)| counts(key));
        let fields = fields
            .map(|(key, value)| (key.into(), value.clone()))
            .collect();
        Ok(Self { mode, fields })
    }

    fn matches(&self, message: &Fields<'_>) -> bool {
        let mut fields = self.fields.iter();
        let field_matches = |(key, wanted): &(Box<[u8]>, Value)| {
            message
                .get(key)
                .is_some_and(|value| *wanted == Value::Void || same(wanted, value))
        };
        match self.mode {
            Mode::All => fields.all(field_matches),
            Mode::Any => fields.any(field_matches),
        }
    }
}

impl<'a> Fields<'a> {
    fn read(headers: RawTable<'a>) -> Self {
        let mut message = Self {
            first: [(&[], ValueRef::Void); INLINE_MAX],
            count: 0,
            more: Vec::new(),
        };
        for field in headers.iter() {
            match message.first.get_mut(message.count) {
                Some(slot) => {
                    *slot = field;
                    message.count += 1;
                }
                None => message.more.push(field),
            }
        }
        message
    }

    /// The last header of that name, as in RabbitMQ.
    fn get(&self, key: &[u8]) -> Option<ValueRef<'a>> {
        let first = self.first.iter().take(self.count);
        let mut fields = first.chain(&self.more).rev();
        fields
            .find(|(name, _)| *name == key)
            .map(|(_, value)| *value)
    }
}

/// Equality of type and value, where integers of all widths are one type, both floats one and
/// text and bytes one, as Erlang's terms have it.
fn same(wanted: &Value, value: ValueRef<'_>) -> bool {
    match (wanted, value) {
        (Value::Bool(a), ValueRef::Bool(b)) => *a == b,
        (Value::LongString(a) | Value::Bytes(a), ValueRef::LongString(b) | ValueRef::Bytes(b)) => {
            a == b
        }
        (Value::Timestamp(a), ValueRef::Timestamp(b)) => *a == b,
        (Value::Decimal { scale, value }, ValueRef::Decimal { scale: s, value: v }) => {
            *scale == s && *value == v
        }
        (Value::Array(a), ValueRef::Array(b)) => {
            let mut values = b.iter();
            a.iter().all(|a| values.next().is_some_and(|b| same(a, b))) && values.next().is_none()
        }
        (Value::Table(a), ValueRef::Table(b)) => {
            let mut fields = b.iter();
            a.iter()
                .all(|(key, a)| fields.next().is_some_and(|(k, b)| k == key && same(a, b)))
                && fields.next().is_none()
        }
        (Value::Void, ValueRef::Void) => true,
        _ => same_number(wanted, value),
    }
}

fn same_number(wanted: &Value, value: ValueRef<'_>) -> bool {
    if let (Some(a), Some(b)) = (wanted.as_integer(), value.as_integer()) {
        return a == b;
    }
    let wanted = match wanted {
        Value::F32(a) => f64::from(*a),
        Value::F64(a) => *a,
        _ => return false,
    };
    match value {
        ValueRef::F32(b) => wanted == f64::from(b),
        ValueRef::F64(b) => wanted == b,
        _ => false,
    }
}

const X_MATCH: &[u8] = b"x-match";

/// Headers a message may carry before matching it allocates.
const INLINE_MAX: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    fn table(fields: &[(&str, Value)]) -> Table {
        let mut table = Table::new();
        for (key, value) in fields {
            table.insert(key, value.clone());
        }
        table
    }

    fn text(value: &str) -> Value {
        Value::LongString(value.into())
    }

    /// Whether a binding with these arguments takes a message with these headers.
    fn takes(arguments: &[(&str, Value)], headers: &[(&str, Value)]) -> bool {
        let pattern = Pattern::parse(&table(arguments)).unwrap();
        let bytes = table(headers).encoded();
        pattern.matches(&Fields::read(RawTable::parse(&bytes).unwrap()))
    }

    #[test]
    fn all_is_the_default_and_needs_every_field() {
        let args = [("a", text("1")), ("b", text("2"))];
        assert!(takes(
            &args,
            &[("b", text("2")), ("c", text("3")), ("a", text("1"))]
        ));
        assert!(!takes(&args, &[("a", text("1"))]));
        assert!(!takes(&args, &[("a", text("1")), ("b", text("3"))]));
        assert!(takes(&[], &[]));
        assert!(takes(&[("x-match", text("all"))], &[("a", text("1"))]));
    }

    #[test]
    fn any_needs_one_field_and_nothing_matches_no_field() {
        let any = ("x-match", text("any"));
        let args = [any.clone(), ("a", text("1")), ("b", text("2"))];
        assert!(takes(&args, &[("b", text("2"))]));
        assert!(!takes(&args, &[("b", text("1"))]));
        assert!(!takes(&args, &[]));
        assert!(!takes(std::slice::from_ref(&any), &[("a", text("1"))]));
        assert!(!takes(&[any, ("x-a", text("1"))], &[("x-a", text("1"))]));
    }

    #[test]
    fn x_fields_count_only_with_x() {
        let args = |mode: &str| {
            [
                ("x-match", text(mode)),
                ("x-a", text("1")),
                ("b", text("2")),
            ]
        };
        assert!(takes(&args("all"), &[("b", text("2"))]));
        assert!(!takes(&args("all-with-x"), &[("b", text("2"))]));
        assert!(takes(
            &args("all-with-x"),
            &[("b", text("2")), ("x-a", text("1"))]
        ));
        assert!(!takes(&args("any"), &[("x-a", text("1"))]));
        assert!(takes(&args("any-with-x"), &[("x-a", text("1"))]));
        assert!(!takes(
            &[("x-match", text("any-with-x"))],
            &[("x-match", text("any-with-x"))]
        ));
    }

    #[test]
    fn void_in_a_binding_asks_for_presence() {
        let args = [("a", Value::Void)];
        assert!(takes(&args, &[("a", text("whatever"))]));
        assert!(takes(&args, &[("a", Value::Array(vec![]))]));
        assert!(takes(&args, &[("a", Value::Void)]));
        assert!(!takes(&args, &[("b", text("whatever"))]));
        assert!(!takes(&[("a", text(""))], &[("a", Value::Void)]));
    }

    #[test]
    fn equality_is_of_type_and_value() {
        let same = |a: Value, b: Value| takes(&[("k", a)], &[("k", b)]);
        assert!(same(Value::I32(1), Value::U8(1)));
        assert!(same(Value::I64(-1), Value::I8(-1)));
        assert!(!same(Value::I32(1), text("1")));
        assert!(!same(Value::I32(1), Value::Bool(true)));
        assert!(!same(Value::I32(1), Value::F64(1.0)));
        assert!(!same(Value::I64(1), Value::Timestamp(1)));
        assert!(same(Value::F32(0.5), Value::F64(0.5)));
        assert!(!same(Value::F64(f64::NAN), Value::F64(f64::NAN)));
        assert!(same(text("a"), Value::Bytes(b"a".to_vec())));
        assert!(same(
            Value::Decimal {
                scale: 1,
                value: 10
            },
            Value::Decimal {
                scale: 1,
                value: 10
            }
        ));
        assert!(!same(
            Value::Decimal { scale: 0, value: 1 },
            Value::Decimal {
                scale: 1,
                value: 10
            }
        ));
        let list = |n: i32| Value::Array(vec![Value::I32(n), text("x")]);
        assert!(same(list(1), list(1)));
        assert!(!same(list(1), list(2)));
        assert!(!same(list(1), Value::Array(vec![Value::I32(1)])));
        assert!(!same(Value::Array(vec![Value::I32(1)]), list(1)));
        let nested = |n: i32| Value::Table(table(&[("n", list(n))]));
        assert!(same(nested(1), nested(1)));
        assert!(!same(nested(1), nested(2)));
        assert!(!same(Value::Table(Table::new()), nested(1)));
    }

    #[test]
    fn a_message_may_have_any_number_of_headers() {
        let names: Vec<String> = (0..100).map(|n| format!("h{n}")).collect();
        let headers: Vec<(&str, Value)> = (0..)
            .zip(&names)
            .map(|(n, name)| (name.as_str(), Value::I32(n)))
            .collect();
        assert!(takes(
            &[("h0", Value::I32(0)), ("h99", Value::I32(99))],
            &headers
        ));
        assert!(!takes(
            &[("h0", Value::I32(0)), ("h100", Value::I32(100))],
            &headers
        ));
    }

    #[test]
    fn another_x_match_is_refused_as_rabbitmq_prints_it() {
        let refused = |value: Value| Pattern::parse(&table(&[("x-match", value)])).unwrap_err();
        assert_eq!(
            refused(text("bogus")),
            Refused::InvalidXMatch("<<\"bogus\">>".into())
        );
        assert_eq!(
            refused(text("\u{1}")),
            Refused::InvalidXMatch("<<1>>".into())
        );
        assert_eq!(
            refused(Value::LongString(vec![255, 0])),
            Refused::InvalidXMatch("<<255,0>>".into())
        );
        assert_eq!(
            refused(Value::I32(1)),
            Refused::InvalidXMatchType {
                kind: "signedint",
                value: "1".into()
            }
        );
    }
}
