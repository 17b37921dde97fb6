//! What a headers binding asks of a message's headers, and equality of field values.

use leveret_codec::{EntryPlace, RawTable, Table, ValueRef};

use crate::erlang;
use crate::hash::Seed;
use crate::refused::Refused;
use crate::steps::Steps;

/// A binding's arguments, and which of them count in its mode.
#[derive(Debug, Default)]
pub(crate) struct HeadersPattern {
    mode: Mode,
    /// Sorted by name.
    arguments: Table,
    /// Those that count.
    fields: Box<[EntryPlace]>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Mode {
    #[default]
    All,
    Any,
}

/// A message's headers, parsed once for all bindings.
pub(crate) struct HeaderFields<'a> {
    few: [HeaderField<'a>; INLINE_MAX],
    count: usize,
    /// All of them, sorted by name and each name once, if there are more than fit inline.
    many: Vec<HeaderField<'a>>,
}

type HeaderField<'a> = (&'a [u8], ValueRef<'a>);

impl HeadersPattern {
    /// Reads `x-match` and the fields that count under it.
    pub(crate) fn parse(arguments: &Table) -> Result<Self, Refused> {
        let (mode, with_x) = match arguments.get(X_MATCH) {
            None => (Mode::All, false),
            Some(ValueRef::LongString(text)) => match text {
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
        let arguments = arguments.sorted();
        let raw = arguments.as_raw();
        let entries = raw.iter().zip(raw.places());
        let fields = entries.filter_map(|((key, _), place)| counts(key).then_some(place));
        let fields = fields.collect();
        Ok(Self {
            mode,
            arguments,
            fields,
        })
    }

    fn fields(&self) -> impl Iterator<Item = HeaderField<'_>> {
        let raw = self.arguments.as_raw();
        self.fields
            .iter()
            .filter_map(move |place| raw.entry_at(*place))
    }

    /// Whether the message has all fields: what `all` asks for.
    pub(crate) fn matches_whole(&self, message: &HeaderFields<'_>, steps: &mut Steps) -> bool {
        // Each field needs a header of its own.
        self.fields.len() <= message.len() && self.fields().all(|field| has(message, field, steps))
    }

    /// Whether the message has the field of this name: enough for `any`.
    pub(crate) fn shares(&self, key: &[u8], message: &HeaderFields<'_>, steps: &mut Steps) -> bool {
        let raw = self.arguments.as_raw();
        let name = |place: &EntryPlace| raw.entry_at(*place).map(|(name, _)| name);
        let at = self
            .fields
            .binary_search_by(|place| name(place).cmp(&Some(key)));
        let field = at.ok().and_then(|at| raw.entry_at(*self.fields.get(at)?));
        field.is_some_and(|field| has(message, field, steps))
    }

    /// A hash for each field: a message has one of them if it matches under `any`, all of them if
    /// it matches under `all`.
    pub(crate) fn hashes(&self, seed: Seed) -> impl Iterator<Item = u64> {
        self.fields().map(move |(key, wanted)| match wanted {
            ValueRef::Void => presence_hash(seed, key),
            value => value_hash(seed, key, value),
        })
    }

    pub(crate) fn is_any(&self) -> bool {
        self.mode == Mode::Any
    }

    /// Whether it asks for nothing and gets everything.
    pub(crate) fn matches_all(&self) -> bool {
        self.mode == Mode::All && self.fields.is_empty()
    }
}

impl<'a> HeaderFields<'a> {
    pub(crate) fn read(headers: RawTable<'a>) -> Self {
        let mut few = [(&[][..], ValueRef::Void); INLINE_MAX];
        let mut count = 0;
        for field in headers.iter() {
            let Some(slot) = few.get_mut(count) else {
                return Self {
                    few,
                    count: 0,
                    many: sorted(headers),
                };
            };
            *slot = field;
            count += 1;
        }
        Self {
            few,
            count,
            many: Vec::new(),
        }
    }

    /// How many headers there are; a name may come twice.
    pub(crate) fn len(&self) -> usize {
        self.count + self.many.len()
    }

    /// The header at this place.
    pub(crate) fn at(&self, place: usize) -> Option<HeaderField<'a>> {
        let fields = if self.many.is_empty() {
            self.few.get(..self.count)?
        } else {
            &self.many
        };
        fields.get(place).copied()
    }

    /// The last header of that name, as in RabbitMQ.
    fn get(&self, key: &[u8]) -> Option<ValueRef<'a>> {
        if self.many.is_empty() {
            let mut few = self.few.iter().take(self.count).rev();
            return few.find(|(name, _)| *name == key).map(|(_, value)| *value);
        }
        let at = self
            .many
            .binary_search_by_key(&key, |(name, _)| name)
            .ok()?;
        self.many.get(at).map(|(_, value)| *value)
    }
}

/// Whether the message has a field that a binding asks for: one step.
fn has(message: &HeaderFields<'_>, (key, wanted): HeaderField<'_>, steps: &mut Steps) -> bool {
    steps.took(1);
    let value = message.get(key);
    value.is_some_and(|value| wanted == ValueRef::Void || same(wanted, value))
}

/// All headers by name; of one name the last.
fn sorted(headers: RawTable<'_>) -> Vec<HeaderField<'_>> {
    let mut fields: Vec<_> = headers.iter().collect();
    fields.reverse();
    fields.sort_by_key(|(name, _)| *name);
    fields.dedup_by_key(|(name, _)| *name);
    fields
}

/// The hash of a field that a binding only asks to be there.
pub(crate) fn presence_hash(seed: Seed, key: &[u8]) -> u64 {
    seed.then(seed.bytes(key), 0)
}

/// The hash of a field with its value. Values that are the same have the same hash.
pub(crate) fn value_hash(seed: Seed, key: &[u8], value: ValueRef<'_>) -> u64 {
    let (kind, value) = match value {
        ValueRef::Bool(flag) => (1, u64::from(flag)),
        ValueRef::LongString(bytes) | ValueRef::Bytes(bytes) => (2, seed.bytes(bytes)),
        // Adding zero makes minus zero, which equals zero, zero.
        ValueRef::F32(number) => (3, (f64::from(number) + 0.0).to_bits()),
        ValueRef::F64(number) => (3, (number + 0.0).to_bits()),
        ValueRef::Timestamp(seconds) => (4, seconds),
        ValueRef::Decimal { scale, value } => {
            (5, u64::from(scale) << 32 | u64::from(value.cast_unsigned()))
        }
        ValueRef::Array(_) => (6, 0),
        ValueRef::Table(_) => (7, 0),
        ValueRef::Void => (8, 0),
        integer => (9, integer.as_integer().unwrap_or_default().cast_unsigned()),
    };
    seed.then(seed.then(seed.bytes(key), kind), value)
}

/// Equality of type and value, where integers of all widths are one type, both floats one and
/// text and bytes one, as Erlang's terms have it.
fn same(wanted: ValueRef<'_>, value: ValueRef<'_>) -> bool {
    use ValueRef::{Array, Bytes, F32, F64, LongString, Table};
    if let (Some(a), Some(b)) = (wanted.as_integer(), value.as_integer()) {
        return a == b;
    }
    match (wanted, value) {
        (LongString(a) | Bytes(a), LongString(b) | Bytes(b)) => a == b,
        (F32(a), F64(b)) => f64::from(a) == b,
        (F64(a), F32(b)) => a == f64::from(b),
        (Array(a), Array(b)) => {
            let mut values = b.iter();
            a.iter().all(|a| values.next().is_some_and(|b| same(a, b))) && values.next().is_none()
        }
        (Table(a), Table(b)) => {
            let mut fields = b.iter();
            a.iter()
                .all(|(key, a)| fields.next().is_some_and(|(k, b)| k == key && same(a, b)))
                && fields.next().is_none()
        }
        (a, b) => a == b,
    }
}

const X_MATCH: &[u8] = b"x-match";

/// Headers a message may carry before matching it allocates.
const INLINE_MAX: usize = 24;

#[cfg(test)]
mod tests {
    use leveret_codec::Value;

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
        let pattern = HeadersPattern::parse(&table(arguments)).unwrap();
        let bytes = table(headers).encoded();
        let message = HeaderFields::read(RawTable::parse(&bytes).unwrap());
        if !pattern.is_any() {
            return pattern.matches_whole(&message, &mut Steps::unlimited());
        }
        let mut places = 0..message.len();
        let mut steps = Steps::unlimited();
        places.any(|at| pattern.shares(message.at(at).unwrap().0, &message, &mut steps))
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
        let refused =
            |value: Value| HeadersPattern::parse(&table(&[("x-match", value)])).unwrap_err();
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
