//! Field tables and arrays as received: validated once, then read in place without allocation.

use std::collections::BTreeSet;
use std::fmt;

use crate::frame::FrameError;
use crate::read::PayloadReader;
use crate::value::{Table, Value};

/// How deeply tables and arrays may nest, the outermost one counted.
///
/// No client goes beyond a handful; a limit keeps every later walk of a table off a deep stack.
pub const TABLE_DEPTH_MAX: usize = 32;

/// The bytes of a well-formed field table, without its length prefix.
///
/// Invariant: [`RawTable::parse`] has seen these bytes, or they lie inside bytes it has seen, or a
/// [`Table`] wrote them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct RawTable<'a>(&'a [u8]);

/// Where an entry of a table begins.
#[derive(Clone, Copy, Debug)]
pub struct EntryPlace(u32);

/// The bytes of a well-formed field array, without its length prefix.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct RawArray<'a>(&'a [u8]);

/// One field value, borrowed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ValueRef<'a> {
    /// `t`
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`, or `U` as the specification has it
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l` or `L`; both are signed, as in every client
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
    LongString(&'a [u8]),
    /// `x`
    Bytes(&'a [u8]),
    /// `A`
    Array(RawArray<'a>),
    /// `T`, seconds since 1970
    Timestamp(u64),
    /// `F`
    Table(RawTable<'a>),
    /// `V`
    Void,
}

impl<'a> RawTable<'a> {
    /// A table without entries.
    pub const EMPTY: RawTable<'static> = RawTable(&[]);

    /// Checks that `bytes`, a table without its length prefix, is well-formed and not too deep.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        validate(bytes).map(|()| Self(bytes))
    }

    /// What a [`Table`] wrote.
    pub(crate) const fn of_owned(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes, without the length prefix.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Where the entries begin, in their order on the wire.
    pub fn places(&self) -> impl Iterator<Item = EntryPlace> + use<'a> {
        let (mut reader, len) = (PayloadReader::new(self.0), self.0.len());
        std::iter::from_fn(move || {
            let place = len.saturating_sub(reader.len());
            read_entry(&mut reader)?;
            Some(EntryPlace(u32::try_from(place).ok()?))
        })
    }

    /// The entry at a place of this table.
    #[must_use]
    pub fn entry_at(&self, place: EntryPlace) -> Option<(&'a [u8], ValueRef<'a>)> {
        read_entry(&mut PayloadReader::new(self.0.get(place.0 as usize..)?))
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entries in their order on the wire, duplicate keys included.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], ValueRef<'a>)> + use<'a> {
        let mut reader = PayloadReader::new(self.0);
        std::iter::from_fn(move || read_entry(&mut reader))
    }

    /// The value of `key`; of duplicates the last one counts.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<ValueRef<'a>> {
        self.iter()
            .filter(|(name, _)| *name == key)
            .last()
            .map(|(_, value)| value)
    }

    /// An owned copy; of duplicate keys only the last entry remains.
    #[must_use]
    pub fn to_table(&self) -> Table {
        let entries: Vec<_> = self.iter().collect();
        let mut seen = BTreeSet::new();
        let mut kept: Vec<_> = entries
            .into_iter()
            .rev()
            .filter(|(key, _)| seen.insert(*key))
            .collect();
        kept.reverse();
        Table::from_unique(kept)
    }
}

impl<'a> RawArray<'a> {
    /// The bytes, without the length prefix.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = ValueRef<'a>> + use<'a> {
        let mut reader = PayloadReader::new(self.0);
        std::iter::from_fn(move || read_value(&mut reader).ok())
    }
}

impl fmt::Debug for RawTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(key, value)| (key.escape_ascii(), value)))
            .finish()
    }
}

impl fmt::Debug for RawArray<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> ValueRef<'a> {
    /// The value as a number, whatever integer type it was sent as.
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
    pub fn as_str_bytes(&self) -> Option<&'a [u8]> {
        match *self {
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

    /// An owned copy. Recurses at most [`TABLE_DEPTH_MAX`] deep, which `parse` has made sure of.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match *self {
            Self::Bool(value) => Value::Bool(value),
            Self::I8(value) => Value::I8(value),
            Self::U8(value) => Value::U8(value),
            Self::I16(value) => Value::I16(value),
            Self::U16(value) => Value::U16(value),
            Self::I32(value) => Value::I32(value),
            Self::U32(value) => Value::U32(value),
            Self::I64(value) => Value::I64(value),
            Self::F32(value) => Value::F32(value),
            Self::F64(value) => Value::F64(value),
            Self::Decimal { scale, value } => Value::Decimal { scale, value },
            Self::LongString(bytes) => Value::LongString(bytes.to_vec()),
            Self::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
            Self::Array(array) => {
                Value::Array(array.iter().map(|value| value.to_value()).collect())
            }
            Self::Timestamp(seconds) => Value::Timestamp(seconds),
            Self::Table(table) => Value::Table(table.to_table()),
            Self::Void => Value::Void,
        }
    }
}

const UNKNOWN_TYPE: FrameError = FrameError::Malformed("unknown field value type");
const OVERLAP: FrameError = FrameError::Malformed("field value crosses the end of its table");

fn read_entry<'a>(reader: &mut PayloadReader<'a>) -> Option<(&'a [u8], ValueRef<'a>)> {
    Some((reader.shortstr().ok()?, read_value(reader).ok()?))
}

/// Reads one value; of a nested table or array only the length is looked at.
pub(crate) fn read_value<'a>(reader: &mut PayloadReader<'a>) -> Result<ValueRef<'a>, FrameError> {
    Ok(match reader.octet()? {
        b't' => ValueRef::Bool(reader.octet()? != 0),
        b'b' => ValueRef::I8(reader.octet()?.cast_signed()),
        b'B' => ValueRef::U8(reader.octet()?),
        b's' | b'U' => ValueRef::I16(reader.short()?.cast_signed()),
        b'u' => ValueRef::U16(reader.short()?),
        b'I' => ValueRef::I32(reader.long()?.cast_signed()),
        b'i' => ValueRef::U32(reader.long()?),
        b'l' | b'L' => ValueRef::I64(reader.longlong()?.cast_signed()),
        b'f' => ValueRef::F32(f32::from_bits(reader.long()?)),
        b'd' => ValueRef::F64(f64::from_bits(reader.longlong()?)),
        b'D' => ValueRef::Decimal {
            scale: reader.octet()?,
            value: reader.long()?.cast_signed(),
        },
        b'S' => ValueRef::LongString(reader.longstr()?),
        b'x' => ValueRef::Bytes(reader.longstr()?),
        b'A' => ValueRef::Array(RawArray(reader.longstr()?)),
        b'T' => ValueRef::Timestamp(reader.longlong()?),
        b'F' => ValueRef::Table(RawTable(reader.longstr()?)),
        b'V' => ValueRef::Void,
        _ => return Err(UNKNOWN_TYPE),
    })
}

/// The open containers around a position, outermost first. An end is told by how many bytes of
/// the whole input lie behind it.
struct Nesting {
    outer_ends: [usize; TABLE_DEPTH_MAX],
    /// Bit `n` is set if the container at depth `n` is an array.
    arrays: u32,
    depth: usize,
    end: usize,
}

impl Nesting {
    fn in_array(&self) -> bool {
        self.arrays.wrapping_shr(self.depth as u32) & 1 == 1
    }

    fn enter(&mut self, end: usize, array: bool) -> Result<(), FrameError> {
        let depth = self.depth.saturating_add(1);
        *self
            .outer_ends
            .get_mut(depth)
            .ok_or(FrameError::TableTooDeep)? = self.end;
        let bit = 1_u32.wrapping_shl(depth as u32);
        self.arrays = if array {
            self.arrays | bit
        } else {
            self.arrays & !bit
        };
        self.depth = depth;
        self.end = end;
        Ok(())
    }

    /// False if the container left was the outermost.
    fn leave(&mut self) -> bool {
        let Some(outer) = self.depth.checked_sub(1) else {
            return false;
        };
        self.end = self.outer_ends.get(self.depth).copied().unwrap_or_default();
        self.depth = outer;
        true
    }
}

/// Checks a table. Most have nothing nested in them and need no memory of where they are.
fn validate(bytes: &[u8]) -> Result<(), FrameError> {
    let mut reader = PayloadReader::new(bytes);
    while reader.len() > 0 {
        reader.shortstr()?;
        let (tag, len) = value_head(&mut reader)?;
        if is_container(tag) {
            return validate_nested(bytes);
        }
        reader.take(len)?;
    }
    Ok(())
}

/// Walks a table without recursion, so that depth costs a peer nothing but its connection.
#[cold]
fn validate_nested(bytes: &[u8]) -> Result<(), FrameError> {
    let mut reader = PayloadReader::new(bytes);
    let mut nesting = Nesting {
        outer_ends: [0; TABLE_DEPTH_MAX],
        arrays: 0,
        depth: 0,
        end: 0,
    };
    loop {
        while reader.len() == nesting.end {
            if !nesting.leave() {
                return Ok(());
            }
        }
        if !nesting.in_array() {
            reader.shortstr()?;
        }
        let (tag, len) = value_head(&mut reader)?;
        // The container's end is never behind the reader unless a key or a length crossed it.
        let left = reader
            .len()
            .checked_sub(len)
            .filter(|&left| left >= nesting.end);
        let left = left.ok_or(OVERLAP)?;
        if is_container(tag) {
            nesting.enter(left, tag == b'A')?;
        } else {
            reader.take(len)?;
        }
    }
}

/// The letter of a value and how many bytes it has behind the letter and, if any, the length.
#[inline]
fn value_head(reader: &mut PayloadReader<'_>) -> Result<(u8, usize), FrameError> {
    let tag = reader.octet()?;
    let len = match tag {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'U' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'l' | b'L' | b'd' | b'T' => 8,
        b'S' | b'x' | b'A' | b'F' => reader.long()? as usize,
        _ => return Err(UNKNOWN_TYPE),
    };
    Ok((tag, len))
}

#[inline]
fn is_container(tag: u8) -> bool {
    matches!(tag, b'A' | b'F')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One entry of every letter, in the order of the match above.
    const ALL: &[u8] = b"\x01at\x01\x01bb\xFF\x01BB\xFF\x01ss\xFF\xFE\x01UU\xFF\xFE\x01uu\xFF\xFE\
        \x01II\xFF\xFF\xFF\xFE\x01ii\xFF\xFF\xFF\xFE\x01ll\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFE\
        \x01LL\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFE\x01ff\x3F\x80\0\0\x01dd\x3F\xF0\0\0\0\0\0\0\
        \x01DD\x02\xFF\xFF\xFF\xFE\x01SS\0\0\0\x01s\x01xx\0\0\0\x01x\x01AA\0\0\0\x01V\
        \x01TT\0\0\0\0\0\0\0\x01\x01FF\0\0\0\x02\0V\x01VV";

    #[test]
    fn every_type_is_read_named_and_owned() {
        let table = RawTable::parse(ALL).unwrap();
        let names: Vec<_> = table.iter().map(|(_, value)| value.type_name()).collect();
        let expected = "bool byte unsignedbyte short short unsignedshort signedint unsignedint \
            long long float double decimal longstr binary array timestamp table void";
        assert_eq!(names.join(" "), expected);
        let value = |key: &[u8]| table.get(key).unwrap();
        assert_eq!(value(b"a").as_bool(), Some(true));
        let integers = [b"b", b"B", b"s", b"U", b"u", b"I", b"i", b"l", b"L"];
        let integers = integers.map(|key| value(key).as_integer().unwrap());
        assert_eq!(
            integers,
            [-1, 255, -2, -2, 65_534, -2, 4_294_967_294, -2, -2]
        );
        assert_eq!(value(b"f"), ValueRef::F32(1.0));
        assert_eq!(value(b"d"), ValueRef::F64(1.0));
        assert_eq!(
            value(b"D"),
            ValueRef::Decimal {
                scale: 2,
                value: -2
            }
        );
        assert_eq!(value(b"S").as_str_bytes(), Some(&b"s"[..]));
        assert_eq!(
            (value(b"x").as_str_bytes(), value(b"S").as_integer()),
            (None, None)
        );
        let ValueRef::Array(array) = value(b"A") else {
            panic!()
        };
        assert_eq!(array.iter().collect::<Vec<_>>(), [ValueRef::Void]);
        let owned = table.to_table();
        assert_eq!(owned.len(), 19);
        let again = owned.encoded();
        // `U` and `L` come back in the letters every client knows; nothing else changes.
        let spelled: Vec<u8> = ALL.windows(2).map(|pair| spell(pair[0], pair[1])).collect();
        assert_eq!(again[1..], spelled);
    }

    fn spell(key: u8, letter: u8) -> u8 {
        match (key, letter) {
            (b'U', b'U') => b's',
            (b'L', b'L') => b'l',
            _ => letter,
        }
    }

    #[test]
    fn letters_clients_must_not_use_are_refused() {
        for letter in (0..=u8::MAX).filter(|letter| !b"tbBsUuIilLfdDSxATFV".contains(letter)) {
            let bytes = [&[1, b'k', letter][..], &[0; 12]].concat();
            assert_eq!(RawTable::parse(&bytes), Err(UNKNOWN_TYPE), "{letter}");
        }
    }

    #[test]
    fn of_duplicate_keys_the_last_counts() {
        let table = RawTable::parse(b"\x01kB\x01\x01oV\x01kB\x02").unwrap();
        assert_eq!(table.get(b"k"), Some(ValueRef::U8(2)));
        let owned = table.to_table();
        assert_eq!(owned.encoded(), b"\x01oV\x01kB\x02");
    }

    #[test]
    fn entries_are_found_again_by_their_places() {
        let table = RawTable::parse(ALL).unwrap();
        let found = table.places().map(|place| table.entry_at(place).unwrap());
        assert_eq!(found.collect::<Vec<_>>(), table.iter().collect::<Vec<_>>());
    }

    #[test]
    fn any_octet_but_zero_is_true() {
        let table = RawTable::parse(b"\x01at\x02\x01bt\0").unwrap();
        let read = |key| table.get(key).and_then(|value| value.as_bool());
        assert_eq!((read(b"a"), read(b"b")), (Some(true), Some(false)));
    }

    #[test]
    fn an_empty_table_has_nothing() {
        let table = RawTable::parse(b"").unwrap();
        assert_eq!(table, RawTable::EMPTY);
        assert!(table.is_empty() && table.iter().next().is_none() && table.get(b"").is_none());
        assert_eq!(format!("{table:?}"), "{}");
    }
}
