//! Generated field values in both forms: ours as bytes, amq-protocol's as its own types.

use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame};
use amq_protocol::types::{AMQPValue, DecimalValue, FieldTable, LongString, ShortString};
use leveret_codec::{RawTable, Table, Value};
use proptest::collection::{btree_map, vec};
use proptest::num::{f32, f64};
use proptest::prelude::*;

/// A table with sorted keys, as amq-protocol keeps it, so that both encode to the same bytes.
#[derive(Clone, Debug)]
pub(crate) struct Both {
    pub(crate) ours: Table,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn bit() -> impl Strategy<Value = bool> {
    any::<bool>()
}

pub(crate) fn octet() -> impl Strategy<Value = u8> {
    any::<u8>()
}

pub(crate) fn short() -> impl Strategy<Value = u16> {
    any::<u16>()
}

pub(crate) fn long() -> impl Strategy<Value = u32> {
    any::<u32>()
}

pub(crate) fn longlong() -> impl Strategy<Value = u64> {
    any::<u64>()
}

/// Text up to the limit; amq-protocol panics beyond it and takes nothing but UTF-8.
pub(crate) fn shortstr() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "\\PC{0,20}",
        1 => "[a-z.*#]{0,255}",
        1 => Just("é".repeat(127)),
        1 => Just("x".repeat(255)),
    ]
}

pub(crate) fn longstr() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

pub(crate) fn table() -> impl Strategy<Value = Both> {
    sorted_table().prop_map(|ours| Both {
        bytes: ours.encoded(),
        ours,
    })
}

pub(crate) fn sorted_table() -> impl Strategy<Value = Table> {
    btree_map("\\PC{0,12}", value(), 0..6).prop_map(into_table)
}

fn into_table(entries: impl IntoIterator<Item = (String, Value)>) -> Table {
    let mut table = Table::new();
    entries
        .into_iter()
        .for_each(|(key, value)| table.insert(key, value));
    table
}

/// Any value whose comparison means something, so no NaN.
pub(crate) fn value() -> impl Strategy<Value = Value> {
    let float = f32::NORMAL | f32::ZERO | f32::INFINITE | f32::SUBNORMAL;
    let double = f64::NORMAL | f64::ZERO | f64::INFINITE | f64::SUBNORMAL;
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        float.prop_map(Value::F32),
        double.prop_map(Value::F64),
        any::<(u8, i32)>().prop_map(|(scale, value)| Value::Decimal { scale, value }),
        vec(any::<u8>(), 0..40).prop_map(Value::LongString),
        vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        any::<u64>().prop_map(Value::Timestamp),
        Just(Value::Void),
    ];
    leaf.prop_recursive(5, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::Array),
            btree_map("\\PC{0,12}", inner, 0..5).prop_map(|map| Value::Table(into_table(map))),
        ]
    })
}

/// The same field as our method structs borrow it and as amq-protocol's own it.
pub(crate) trait Field {
    type Ours<'a>
    where
        Self: 'a;
    type Theirs;
    fn ours(&self) -> Self::Ours<'_>;
    fn theirs(&self) -> Self::Theirs;
}

macro_rules! plain_field {
    ($($type:ty)*) => { $(
        impl Field for $type {
            type Ours<'a> = $type;
            type Theirs = $type;
            fn ours(&self) -> $type {
                *self
            }
            fn theirs(&self) -> $type {
                *self
            }
        }
    )* };
}

plain_field! { bool u8 u16 u32 u64 }

impl Field for String {
    type Ours<'a> = &'a [u8];
    type Theirs = ShortString;
    fn ours(&self) -> &[u8] {
        self.as_bytes()
    }
    fn theirs(&self) -> ShortString {
        ShortString::from(self.as_str())
    }
}

impl Field for Vec<u8> {
    type Ours<'a> = &'a [u8];
    type Theirs = LongString;
    fn ours(&self) -> &[u8] {
        self
    }
    fn theirs(&self) -> LongString {
        LongString::from(self.as_slice())
    }
}

impl Field for Both {
    type Ours<'a> = RawTable<'a>;
    type Theirs = FieldTable;
    fn ours(&self) -> RawTable<'_> {
        RawTable::parse(&self.bytes).unwrap()
    }
    fn theirs(&self) -> FieldTable {
        their_table(&self.ours)
    }
}

pub(crate) fn their_table(table: &Table) -> FieldTable {
    let mut theirs = FieldTable::default();
    for (key, value) in table.iter() {
        theirs.insert(
            std::str::from_utf8(key).unwrap().into(),
            their_value(&value.to_value()),
        );
    }
    theirs
}

fn their_value(value: &Value) -> AMQPValue {
    match value {
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::I8(value) => AMQPValue::ShortShortInt(*value),
        Value::U8(value) => AMQPValue::ShortShortUInt(*value),
        Value::I16(value) => AMQPValue::ShortInt(*value),
        Value::U16(value) => AMQPValue::ShortUInt(*value),
        Value::I32(value) => AMQPValue::LongInt(*value),
        Value::U32(value) => AMQPValue::LongUInt(*value),
        Value::I64(value) => AMQPValue::LongLongInt(*value),
        Value::F32(value) => AMQPValue::Float(*value),
        Value::F64(value) => AMQPValue::Double(*value),
        // amq-protocol reads the digits as unsigned.
        Value::Decimal { scale, value } => AMQPValue::DecimalValue(DecimalValue {
            scale: *scale,
            value: value.cast_unsigned(),
        }),
        Value::LongString(bytes) => AMQPValue::LongString(bytes.as_slice().into()),
        Value::Bytes(bytes) => AMQPValue::ByteArray(bytes.as_slice().into()),
        Value::Array(values) => {
            AMQPValue::FieldArray(values.iter().map(their_value).collect::<Vec<_>>().into())
        }
        Value::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
        Value::Table(table) => AMQPValue::FieldTable(their_table(table)),
        Value::Void => AMQPValue::Void,
    }
}

/// What amq-protocol writes for a frame.
pub(crate) fn their_bytes(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(WriteContext::from(Vec::new()))
        .unwrap()
        .into_inner()
        .0
}
