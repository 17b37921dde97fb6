//! What must hold for any bytes at all, one function per fuzz target.
//!
//! A function panics when its promise is broken. libFuzzer looks for such input; an ordinary test
//! replays what it found worth keeping.

mod paged;
mod queue_life;
mod queue_operations;
mod session;
mod topic_match;

pub use queue_life::queue_life;
pub use queue_operations::queue_operations;
pub use session::session;
pub use topic_match::topic_match;

use leveret_codec::{
    FRAME_MIN_SIZE, FRAME_OVERHEAD, FrameError, FrameKind, Method, Properties, RawTable, ValueRef,
    decode_ack, decode_header, decode_nack, decode_publish, decode_reject, delivery_mode, flag,
    frame_len, has_property, headers, method_id, priority, push_route, split_route,
};

/// A target: its name, which is also its corpus folder's, and what it does with one input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target of this crate.
pub const TARGETS: &[Target] = &[
    ("frame", frame),
    ("field_table", field_table),
    ("content_header", content_header),
    ("session", session),
    ("topic_match", topic_match),
    ("queue_operations", queue_operations),
];

/// Reads input as a stream of frames, as a connection does, and decodes each payload.
pub fn frame(input: &[u8]) {
    let mut rest = input;
    while let Ok(Some((frame, len))) = leveret_codec::frame(rest, FRAME_MIN_SIZE) {
        assert_eq!(frame_len(rest), Some(len));
        assert_eq!(frame.payload.len() + FRAME_OVERHEAD, len);
        match frame.kind {
            FrameKind::Method => method(frame.payload),
            FrameKind::Header => content_header(frame.payload),
            FrameKind::Body | FrameKind::Heartbeat => (),
        }
        rest = &rest[len..];
    }
}

/// What decodes must encode to something that decodes to the same, and to no more bytes.
fn method(payload: &[u8]) {
    let decoded = Method::decode(payload);
    by_hand(payload, decoded);
    let Ok(decoded) = decoded else { return };
    assert_eq!(method_id(payload), Ok(decoded.id()));
    assert!(!decoded.name().is_empty());
    let mut again = Vec::new();
    decoded.encode(7, &mut again);
    let frame = leveret_codec::frame(&again, u32::MAX).ok().flatten();
    let (frame, len) = frame.expect("an encoded method is a frame");
    assert_eq!(
        (frame.kind, frame.channel, len),
        (FrameKind::Method, 7, again.len())
    );
    assert_eq!(Method::decode(frame.payload), Ok(decoded));
}

/// The decoders written by hand must judge as the method table does.
fn by_hand(payload: &[u8], decoded: Result<Method<'_>, FrameError>) {
    let publish = decode_publish(payload);
    match decoded {
        Ok(Method::BasicPublish(by_table)) => {
            let publish = publish.expect("the method table has decoded it");
            let mut route = Vec::new();
            push_route(&mut route, by_table.exchange, by_table.routing_key);
            assert_eq!(publish.route, route);
            assert_eq!(
                split_route(&route),
                Some((by_table.exchange, by_table.routing_key))
            );
            let bits = (publish.mandatory, publish.immediate);
            assert_eq!(bits, (by_table.mandatory, by_table.immediate));
        }
        _ => assert!(publish.is_err()),
    }
    let settled = decode_ack(payload).map(|ack| (ack.delivery_tag, ack.multiple, false));
    let settled = settled.or_else(|_| {
        decode_nack(payload).map(|nack| (nack.delivery_tag, nack.multiple, nack.requeue))
    });
    let settled = settled.or_else(|_| {
        decode_reject(payload).map(|reject| (reject.delivery_tag, false, reject.requeue))
    });
    let by_table = match decoded {
        Ok(Method::BasicAck(ack)) => Some((ack.delivery_tag, ack.multiple, false)),
        Ok(Method::BasicNack(nack)) => Some((nack.delivery_tag, nack.multiple, nack.requeue)),
        Ok(Method::BasicReject(reject)) => Some((reject.delivery_tag, false, reject.requeue)),
        _ => None,
    };
    assert_eq!(settled.ok(), by_table);
}

/// Reads input as a field table without its length prefix.
pub fn field_table(input: &[u8]) {
    let Ok(table) = RawTable::parse(input) else {
        return;
    };
    // Walking in place must reach the very end, or validation and reading disagree.
    let walked: usize = table
        .iter()
        .map(|(key, value)| 2 + key.len() + value_len(value))
        .sum();
    assert_eq!(walked, input.len());
    let owned = table.to_table();
    for (key, value) in owned.iter() {
        let last = table.get(key).expect("an owned key was there before");
        assert_eq!(last.type_name(), value.type_name());
        assert_eq!(last.as_integer(), value.as_integer());
    }
    assert!(table.iter().all(|(key, _)| owned.get(key).is_some()));
    let again = owned.encoded();
    assert!(again.len() <= input.len());
    let reread = RawTable::parse(&again).expect("an encoded table is one");
    assert_eq!(reread.to_table().encoded(), again);
    assert_eq!(
        format!("{table:?}").is_empty(),
        format!("{owned:?}").is_empty()
    );
}

/// Bytes behind the letter of a value.
fn value_len(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Void => 0,
        ValueRef::Bool(_) | ValueRef::I8(_) | ValueRef::U8(_) => 1,
        ValueRef::I16(_) | ValueRef::U16(_) => 2,
        ValueRef::I32(_) | ValueRef::U32(_) | ValueRef::F32(_) => 4,
        ValueRef::Decimal { .. } => 5,
        ValueRef::I64(_) | ValueRef::F64(_) | ValueRef::Timestamp(_) => 8,
        ValueRef::LongString(bytes) | ValueRef::Bytes(bytes) => 4 + bytes.len(),
        ValueRef::Array(array) => {
            let walked: usize = array.iter().map(|value| 1 + value_len(value)).sum();
            assert_eq!(walked, array.as_bytes().len());
            4 + walked
        }
        ValueRef::Table(table) => {
            field_table(table.as_bytes());
            4 + table.as_bytes().len()
        }
    }
}

/// Reads input as the payload of a content header frame.
pub fn content_header(input: &[u8]) {
    // Peeking is for checked headers, yet must be harmless on any.
    let peeked = (delivery_mode(input), priority(input), headers(input));
    let header = decode_header(input);
    let properties = Properties::decode(input);
    assert_eq!(header.is_ok(), properties.is_ok());
    let (Ok(header), Ok(properties)) = (header, properties) else {
        return;
    };
    let read = (
        properties.delivery_mode.unwrap_or(0),
        properties.priority,
        properties.headers,
    );
    assert_eq!(peeked, read);
    assert_eq!(
        has_property(input, flag::EXPIRATION),
        properties.expiration.is_some()
    );
    let mut again = Vec::new();
    properties.encode(header.body_size, &mut again);
    assert!(again.len() <= input.len());
    assert_eq!(Properties::decode(&again), Ok(properties));
    assert_eq!(
        decode_header(&again).map(|again| again.body_size),
        Ok(header.body_size)
    );
}
