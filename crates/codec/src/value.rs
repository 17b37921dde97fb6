//! Field tables the broker owns: kept arguments, and tables it makes itself.

use crate::table::RawTable;
use crate::write::{longstr, patch_len, shortstr};

/// A field table with unique keys, in the order they came.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Table(Vec<(Box<[u8]>, Value)>);

/// One owned field value. See [`ValueRef`](crate::ValueRef) for the letters on the wire.
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
    pub(crate) fn from_unique(entries: impl Iterator<Item = (Box<[u8]>, Value)>) -> Self {
        Self(entries.collect())
    }

    /// Sets `key`, in place if it is there and at the end if not.
    ///
    /// A key longer than 255 bytes is cut when it is encoded.
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: impl Into<Value>) {
        let key = key.as_ref();
        match self.0.iter_mut().find(|(name, _)| **name == *key) {
            Some((_, old)) => *old = value.into(),
            None => self.0.push((key.into(), value.into())),
        }
    }

    /// Takes `key` out, keeping the order of the others.
    pub fn remove(&mut self, key: &[u8]) -> Option<Value> {
        let at = self.0.iter().position(|(name, _)| **name == *key)?;
        Some(self.0.remove(at).1)
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Value> {
        self.0
            .iter()
            .find(|(name, _)| **name == *key)
            .map(|(_, value)| value)
    }

    /// The entries in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &Value)> + ExactSizeIterator {
        self.0.iter().map(|(key, value)| (&**key, value))
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the table with its four-byte length in front.
    ///
    /// Recurses once per nested table, so only as deep as what was read or built by hand.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let at = begin_len(out);
        self.encode_entries(out);
        patch_len(out, at);
    }

    /// The table without a length in front, as [`RawTable::parse`] reads it.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_entries(&mut out);
        out
    }

    fn encode_entries(&self, out: &mut Vec<u8>) {
        for (key, value) in &self.0 {
            shortstr(out, key);
            value.encode(out);
        }
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
            Self::LongString(bytes) => {
                out.push(b'S');
                longstr(out, bytes);
            }
            Self::Bytes(bytes) => {
                out.push(b'x');
                longstr(out, bytes);
            }
            Self::Table(table) => {
                out.push(b'F');
                table.encode(out);
            }
            Self::Array(values) => {
                out.push(b'A');
                let at = begin_len(out);
                values.iter().for_each(|value| value.encode(out));
                patch_len(out, at);
            }
        }
    }
}

fn tagged<const N: usize>(out: &mut Vec<u8>, tag: u8, bytes: [u8; N]) {
    out.push(tag);
    out.extend_from_slice(&bytes);
}

/// Makes room for a length; `patch_len` fills it in.
fn begin_len(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    at
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
        assert_eq!(table.get(b"one").and_then(Value::as_bool), Some(true));
        assert_eq!(table.remove(b"one"), Some(Value::Bool(true)));
        assert_eq!(table.remove(b"one"), None);
        assert_eq!((table.len(), table.is_empty()), (1, false));
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
        let encoded = table.encoded();
        let (key, value) = RawTable::parse(&encoded).unwrap().iter().next().unwrap();
        assert_eq!((key.len(), value.to_value()), (255, Value::Void));
    }
}
