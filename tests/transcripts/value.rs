//! AMQP values as text, with their types, and patterns of them.

use std::fmt::{self, Display, Formatter};

/// A value of a field table, of an argument or of a property; or a pattern for one.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    /// `*`: any value.
    Any,
    /// `*T`: any value of the type with this letter.
    AnyOf(char),
    /// `*T:first`: the same, and the same value wherever the name stands in a transcript.
    Named(char, String),
    Bool(bool),
    /// With the type's letter; numbers that are not in tables are `I`.
    Number(char, i128),
    Real(char, f64),
    Decimal(u8, i32),
    Text(Vec<u8>),
    Bytes(Vec<u8>),
    Array(Vec<Self>),
    Table(Vec<(String, Self)>),
    Void,
}

/// Bytes of each type of integer.
const INTEGERS: [(char, usize); 8] = [
    ('b', 1),
    ('B', 1),
    ('s', 2),
    ('u', 2),
    ('I', 4),
    ('i', 4),
    ('l', 8),
    ('T', 8),
];

impl Value {
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.as_bytes().to_vec())
    }

    /// Whether a field that has this value need not be written.
    pub(crate) fn is_default(&self) -> bool {
        match self {
            Self::Bool(value) => !value,
            Self::Number(_, value) => *value == 0,
            Self::Text(text) => text.is_empty(),
            Self::Table(entries) => entries.is_empty(),
            _ => false,
        }
    }

    /// The type's letter on the wire.
    fn letter(&self) -> char {
        match self {
            Self::Any => '*',
            Self::AnyOf(letter)
            | Self::Named(letter, _)
            | Self::Number(letter, _)
            | Self::Real(letter, _) => *letter,
            Self::Bool(_) => 't',
            Self::Decimal(..) => 'D',
            Self::Text(_) => 'S',
            Self::Bytes(_) => 'x',
            Self::Array(_) => 'A',
            Self::Table(_) => 'F',
            Self::Void => 'V',
        }
    }

    /// Whether `actual` is what this pattern asks for: the same, in the same order.
    pub(crate) fn matches(&self, actual: &Self) -> bool {
        match (self, actual) {
            (Self::Any, _) => true,
            (Self::AnyOf(letter) | Self::Named(letter, _), _) => *letter == actual.letter(),
            (Self::Array(these), Self::Array(those)) => {
                these.len() == those.len() && these.iter().zip(those).all(|(a, b)| a.matches(b))
            }
            (Self::Table(these), Self::Table(those)) => {
                let alike =
                    |((a, x), (b, y)): (&(String, Self), &(String, Self))| a == b && x.matches(y);
                these.len() == those.len() && these.iter().zip(those).all(alike)
            }
            _ => self == actual,
        }
    }

    /// The values that stand in `actual`, which matches, where this pattern has names.
    pub(crate) fn named<'a>(&'a self, actual: &'a Self, found: &mut Vec<(&'a str, &'a Self)>) {
        match (self, actual) {
            (Self::Named(_, name), _) => found.push((name, actual)),
            (Self::Array(these), Self::Array(those)) => {
                let pairs = these.iter().zip(those);
                pairs.for_each(|(these, those)| these.named(those, found));
            }
            (Self::Table(these), Self::Table(those)) => {
                for (key, value) in these {
                    let there = those.iter().find(|(name, _)| name == key);
                    there
                        .into_iter()
                        .for_each(|(_, there)| value.named(there, found));
                }
            }
            _ => {}
        }
    }

    /// With the entries in the order of their keys, if it is a table.
    pub(crate) fn sorted(&self) -> Self {
        let mut sorted = self.clone();
        if let Self::Table(entries) = &mut sorted {
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        sorted
    }

    /// Appends the value as it stands in a table, its type first.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::try_from(self.letter()).expect("a letter of ASCII"));
        match self {
            Self::Any | Self::AnyOf(_) | Self::Named(..) => panic!("a pattern cannot be sent"),
            Self::Bool(value) => out.push(u8::from(*value)),
            Self::Number(letter, value) => {
                let width = INTEGERS.iter().find(|(known, _)| known == letter);
                let (_, width) = width.unwrap_or_else(|| panic!("no integer type {letter}"));
                out.extend_from_slice(&value.to_be_bytes()[16 - width..]);
            }
            Self::Real('f', value) => out.extend((*value as f32).to_be_bytes()),
            Self::Real(_, value) => out.extend(value.to_be_bytes()),
            Self::Decimal(scale, value) => {
                out.push(*scale);
                out.extend(value.to_be_bytes());
            }
            Self::Text(bytes) | Self::Bytes(bytes) => long(bytes, out),
            Self::Array(values) => {
                let mut inner = Vec::new();
                values.iter().for_each(|value| value.encode(&mut inner));
                long(&inner, out);
            }
            Self::Table(entries) => table(entries, out),
            Self::Void => {}
        }
    }
}

/// Appends bytes behind their length.
pub(crate) fn long(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(bytes.len()).expect("short enough for a frame");
    out.extend(len.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a table behind its length.
pub(crate) fn table(entries: &[(String, Value)], out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    for (key, value) in entries {
        inner.push(u8::try_from(key.len()).expect("a short key"));
        inner.extend_from_slice(key.as_bytes());
        value.encode(&mut inner);
    }
    long(&inner, out);
}

/// Reads bytes from their beginning; panics where they end too early.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    pub(crate) fn unsigned(&mut self, width: usize) -> u64 {
        let bytes = self.take(width).iter();
        bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    pub(crate) fn long(&mut self) -> &'a [u8] {
        let len = self.unsigned(4);
        self.take(usize::try_from(len).expect("a length"))
    }

    pub(crate) fn short(&mut self) -> &'a [u8] {
        let len = self.unsigned(1);
        self.take(usize::try_from(len).expect("a length"))
    }

    pub(crate) fn table(&mut self) -> Vec<(String, Value)> {
        let mut inner = Reader(self.long());
        let mut entries = Vec::new();
        while !inner.0.is_empty() {
            let key = String::from_utf8_lossy(inner.short()).into_owned();
            entries.push((key, inner.value()));
        }
        entries
    }

    fn value(&mut self) -> Value {
        let letter = char::from(self.take(1)[0]);
        match letter {
            't' => Value::Bool(self.unsigned(1) != 0),
            'b' => Value::Number(letter, i128::from(self.unsigned(1) as i8)),
            's' => Value::Number(letter, i128::from(self.unsigned(2) as i16)),
            'I' => Value::Number(letter, i128::from(self.unsigned(4) as i32)),
            'l' => Value::Number(letter, i128::from(self.unsigned(8) as i64)),
            'B' | 'u' | 'i' | 'T' => {
                let width = INTEGERS.iter().find(|(known, _)| *known == letter);
                Value::Number(letter, i128::from(self.unsigned(width.expect("known").1)))
            }
            'f' => Value::Real(letter, f64::from(f32::from_bits(self.unsigned(4) as u32))),
            'd' => Value::Real(letter, f64::from_bits(self.unsigned(8))),
            'D' => Value::Decimal(self.unsigned(1) as u8, self.unsigned(4) as i32),
            'S' => Value::Text(self.long().to_vec()),
            'x' => Value::Bytes(self.long().to_vec()),
            'A' => {
                let mut inner = Reader(self.long());
                let mut values = Vec::new();
                while !inner.0.is_empty() {
                    values.push(inner.value());
                }
                Value::Array(values)
            }
            'F' => Value::Table(self.table()),
            'V' => Value::Void,
            other => panic!("no type {other:?}"),
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::AnyOf(letter) => write!(f, "*{letter}"),
            Self::Named(letter, name) => write!(f, "*{letter}:{name}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number('I', value) => write!(f, "{value}"),
            Self::Number(letter, value) => write!(f, "{value}{letter}"),
            Self::Real(letter, value) => write!(f, "{value:?}{letter}"),
            Self::Decimal(scale, value) => write!(f, "{value}/{scale}D"),
            Self::Text(text) => write!(f, "\"{}\"", escaped(text)),
            Self::Bytes(bytes) => write!(f, "x\"{}\"", escaped(bytes)),
            Self::Array(values) => {
                let values: Vec<_> = values.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", values.join(" "))
            }
            Self::Table(entries) => write!(f, "{{{}}}", fields(entries)),
            Self::Void => f.write_str("void"),
        }
    }
}

/// `key=value` for each entry.
pub(crate) fn fields(entries: &[(String, Value)]) -> String {
    let parts: Vec<_> = entries
        .iter()
        .map(|(key, value)| {
            let is_word = |c: char| c.is_alphanumeric() || "-_.".contains(c);
            let name = if !key.is_empty() && key.chars().all(is_word) {
                key.clone()
            } else {
                Value::text(key).to_string()
            };
            match value {
                // Of any second, as far as a transcript is concerned.
                Value::Number('T', _) if key == "time" => format!("{name}=*T"),
                _ => format!("{name}={value}"),
            }
        })
        .collect();
    parts.join(" ")
}

fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\'", "'")
}
