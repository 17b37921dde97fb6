//! Field tables the broker owns: kept arguments, and tables it makes itself.

use std::fmt;
use std::ops::Range;

use crate::read::PayloadReader;
use crate::table::{RawTable, ValueRef, read_value};
use crate::write::{cut, longstr, patch_len, shortstr};

/// A field table with unique keys, in the order they came.
///
/// It is kept as the bytes of its entries, so that what takes a peer few bytes to send takes few to
/// keep.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Table(Vec<u8>);

/// One owned field value. See [`ValueRef`] for the letters on the wire.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// `t`
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`
    I64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`: `value` divided by ten to the power of `scale`
    Decimal {
        /// Digits behind the point.
        scale: u8,
        /// All digits.
        value: i32,
    },
    /// `S`; text by convention, any bytes in fact
    LongString(Vec<u8>),
    /// `x`
    Bytes(Vec<u8>),
    /// `A`
    Array(Vec<Self>),
    /// `T`, seconds since 1970
    Timestamp(u64),
    /// `F`
    Table(Table),
    /// `V`
    Void,
}

impl Table {
    /// A table without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The caller vouches that no key comes twice.
    pub(crate) fn from_unique<'a>(
        entries: impl IntoIterator<Item = (&'a [u8], ValueRef<'a>)>,
    ) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in entries {
            shortstr(&mut bytes, key);
            value.encode(&mut bytes);
        }
        bytes.shrink_to_fit();
        Self(bytes)
    }

    /// The table as it is read in place.
    #[must_use]
    pub fn as_raw(&self) -> RawTable<'_> {
        RawTable::of_owned(&self.0)
    }

    /// The same entries in the order of their keys.
    #[must_use]
    pub fn sorted(&self) -> Self {
        let mut entries: Vec<_> = self.iter().collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        Self::from_unique(entries)
    }

    /// Sets `key`, in place if it is there and at the end if not.
    ///
    /// A key longer than 255 bytes is cut.
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: impl Into<Value>) {
        let key = cut(key.as_ref());
        let place = self.place(key).unwrap_or(self.0.len()..self.0.len());
        let mut entry = Vec::new();
        shortstr(&mut entry, key);
        value.into().encode(&mut entry);
        self.0.splice(place, entry);
    }

    /// Takes `key` out, keeping the order of the others; tells whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let place = self.place(key);
        let there = place.is_some();
        self.0.drain(place.unwrap_or_default());
        there
    }

    /// Where the entry of `key` is.
    fn place(&self, key: &[u8]) -> Option<Range<usize>> {
        let mut reader = PayloadReader::new(&self.0);
        let at = |reader: &PayloadReader<'_>| self.0.len().saturating_sub(reader.len());
        loop {
            let start = at(&reader);
            let name = reader.shortstr().ok()?;
            read_value(&mut reader).ok()?;
            if name == key {
                return Some(start..at(&reader));
            }
        }
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<ValueRef<'_>> {
        let mut entries = self.iter();
        entries
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], ValueRef<'_>)> {
        self.as_raw().iter()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the table with its four-byte length in front.
    pub fn encode(&self, out: &mut Vec<u8>) {
        longstr(out, &self.0);
    }

    /// The table without a length in front, as [`RawTable::parse`] reads it.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        self.0.clone()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_raw().fmt(f)
    }
}

impl Value {
    /// The value as a number, whatever integer type it has.
    #[must_use]
    pub fn as_integer(&self) -> Option<i64> {
        match *self {
            Self::I8(value) => Some(value.into()),
            Self::U8(value) => Some(value.into()),
            Self::I16(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::I32(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::I64(value) => Some(value),
            _ => None,
        }
    }

    /// The bytes of a long string.
    #[must_use]
    pub fn as_str_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::LongString(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A boolean's value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// RabbitMQ's name of the type, as its error texts have it.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I8(_) => "byte",
            Self::U8(_) => "unsignedbyte",
            Self::I16(_) => "short",
            Self::U16(_) => "unsignedshort",
            Self::I32(_) => "signedint",
            Self::U32(_) => "unsignedint",
            Self::I64(_) => "long",
            Self::F32(_) => "float",
            Self::F64(_) => "double",
            Self::Decimal { .. } => "decimal",
            Self::LongString(_) => "longstr",
            Self::Bytes(_) => "binary",
            Self::Array(_) => "array",
            Self::Timestamp(_) => "timestamp",
            Self::Table(_) => "table",
            Self::Void => "void",
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(value) => tagged(out, b't', [u8::from(*value)]),
            Self::I8(value) => tagged(out, b'b', value.to_be_bytes()),
            Self::U8(value) => tagged(out, b'B', [*value]),
            Self::I16(value) => tagged(out, b's', value.to_be_bytes()),
            Self::U16(value) => tagged(out, b'u', value.to_be_bytes()),
            Self::I32(value) => tagged(out, b'I', value.to_be_bytes()),
            Self::U32(value) => tagged(out, b'i', value.to_be_bytes()),
            Self::I64(value) => tagged(out, b'l', value.to_be_bytes()),
            Self::F32(value) => tagged(out, b'f', value.to_be_bytes()),
            Self::F64(value) => tagged(out, b'd', value.to_be_bytes()),
            Self::Timestamp(seconds) => tagged(out, b'T', seconds.to_be_bytes()),
            Self::Void => out.push(b'V'),
            Self::Decimal { scale, value } => {
                tagged(out, b'D', [*scale]);
                out.extend_from_slice(&value.to_be_bytes());
            }
            Self::LongString(bytes) => sized(out, b'S', |out| out.extend_from_slice(bytes)),
            Self::Bytes(bytes) => sized(out, b'x', |out| out.extend_from_slice(bytes)),
            Self::Table(table) => sized(out, b'F', |out| out.extend_from_slice(&table.0)),
            Self::Array(values) => sized(out, b'A', |out| {
                values.iter().for_each(|value| value.encode(out));
            }),
        }
    }
}

impl ValueRef<'_> {
    /// Appends the value in the letters that every client knows, of duplicate keys the last only.
    /// Recurses as deep as it nests.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::LongString(bytes) => sized(out, b'S', |out| out.extend_from_slice(bytes)),
            Self::Bytes(bytes) => sized(out, b'x', |out| out.extend_from_slice(bytes)),
            Self::Table(table) => sized(out, b'F', |out| {
                out.extend_from_slice(&table.to_table().0);
            }),
            Self::Array(array) => sized(out, b'A', |out| {
                array.iter().for_each(|value| value.encode(out));
            }),
            scalar => scalar.to_value().encode(out),
        }
    }
}

fn tagged<const N: usize>(out: &mut Vec<u8>, tag: u8, bytes: [u8; N]) {
    out.push(tag);
    out.extend_from_slice(&bytes);
}

/// Appends a value whose length is known once it is written.
fn sized(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    patch_len(out, at);
}

impl<K: AsRef<[u8]>> FromIterator<(K, Value)> for Table {
    /// Of duplicate keys only the last entry remains; keys longer than 255 bytes are cut.
    fn from_iter<I: IntoIterator<Item = (K, Value)>>(entries: I) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in entries {
            shortstr(&mut bytes, key.as_ref());
            value.encode(&mut bytes);
        }
        RawTable::of_owned(&bytes).to_table()
    }
}

impl From<RawTable<'_>> for Table {
    fn from(raw: RawTable<'_>) -> Self {
        raw.to_table()
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::I32(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::LongString(text.as_bytes().to_vec())
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::LongString(bytes.to_vec())
    }
}

impl From<Vec<Self>> for Value {
    fn from(values: Vec<Self>) -> Self {
        Self::Array(values)
    }
}

impl From<Table> for Value {
    fn from(table: Table) -> Self {
        Self::Table(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_unique_and_in_order() {
        let mut table = Table::new();
        table.insert("one", 1_i64);
        table.insert(b"two", "2");
        table.insert("one", true);
        let keys: Vec<_> = table.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [b"one", b"two"]);
        assert_eq!(table.get(b"one"), Some(ValueRef::Bool(true)));
        assert!(table.remove(b"one") && !table.remove(b"one"));
        assert_eq!((table.len(), table.is_empty()), (1, false));
        assert_eq!(table.encoded(), b"\x03twoS\0\0\0\x012");
    }

    #[test]
    fn a_table_is_written_with_its_length() {
        let mut inner = Table::new();
        inner.insert("k", vec![Value::I32(1), Value::Void]);
        let mut table = Table::new();
        table.insert("t", inner);
        let mut out = b"before".to_vec();
        table.encode(&mut out);
        assert_eq!(
            out,
            b"before\0\0\0\x14\x01tF\0\0\0\x0D\x01kA\0\0\0\x06I\0\0\0\x01V"
        );
        assert_eq!(table.encoded(), out[10..]);
        assert_eq!(Table::from(RawTable::parse(&out[10..]).unwrap()), table);
    }

    #[test]
    fn a_key_too_long_is_cut() {
        let mut table = Table::new();
        table.insert("k".repeat(300), Value::Void);
        table.insert("k".repeat(301), Value::Void);
        let (key, value) = table.iter().next().unwrap();
        assert_eq!((key.len(), value, table.len()), (255, ValueRef::Void, 1));
    }
    #[test]
    fn a_table_takes_the_bytes_that_it_was_sent_in() {
        let array = [&b"\x01aA\0\x01\0\0"[..], &[b'V'; 65_536]].concat();
        let table = RawTable::parse(&array).unwrap().to_table();
        assert_eq!(
            (table.0.len(), table.0.capacity()),
            (array.len(), array.len())
        );
    }

    #[test]
    fn sorting_changes_the_order_only() {
        let mut table = Table::new();
        table.insert("b", "2");
        table.insert("a", Value::Void);
        assert_eq!(table.sorted().encoded(), b"\x01aV\x01bS\0\0\0\x012");
    }
}
