//! Whatever bytes come in, the codec answers with a value: no panic, no deep stack, no long loop.

use std::time::{Duration, Instant};

use crate::fields::{sorted_table, value};
use leveret_codec::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// Runs every decoder over the same bytes, and everything that reads what they let through.
fn decode_all(bytes: &[u8]) {
    for frame_max in [0, 8, FRAME_MIN_SIZE, u32::MAX] {
        if let Ok(Some((frame, len))) = frame(bytes, frame_max) {
            assert_eq!(frame_len(bytes), Some(len));
            assert_eq!(frame.payload.len() + FRAME_OVERHEAD, len);
        }
    }
    if let Ok(method) = Method::decode(bytes) {
        assert_eq!(method_id(bytes), Ok(method.id()));
        let mut again = Vec::new();
        method.encode(1, &mut again);
        let (frame, _) = frame(&again, u32::MAX).unwrap().unwrap();
        assert_eq!(Method::decode(frame.payload), Ok(method));
    }
    let publish = decode_publish(bytes);
    assert!(publish.is_err() || split_route(publish.unwrap().route).is_some());
    let _ = (
        decode_ack(bytes),
        decode_nack(bytes),
        decode_reject(bytes),
        split_route(bytes),
    );
    decode_header_all(bytes);
    if let Ok(table) = RawTable::parse(bytes) {
        let owned = table.to_table();
        let again = owned.encoded();
        let reread = RawTable::parse(&again).unwrap();
        assert_eq!(reread.to_table().encoded(), again);
        assert_eq!(table.is_empty(), owned.is_empty());
        let _ = format!("{table:?} {owned:?}");
    }
}

fn decode_header_all(bytes: &[u8]) {
    let _ = (
        delivery_mode(bytes),
        priority(bytes),
        headers(bytes),
        has_property(bytes, !0),
    );
    // Both must judge alike, or a header accepted at publish could fail where it is used.
    let header = decode_header(bytes);
    let properties = Properties::decode(bytes);
    assert_eq!(header.is_ok(), properties.is_ok());
    let (Ok(header), Ok(properties)) = (header, properties) else {
        return;
    };
    assert_eq!(delivery_mode(bytes), properties.delivery_mode.unwrap_or(0));
    assert_eq!(priority(bytes), properties.priority);
    assert_eq!(headers(bytes), properties.headers);
    let mut again = Vec::new();
    properties.encode(header.body_size, &mut again);
    assert_eq!(Properties::decode(&again), Ok(properties));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        decode_all(&bytes);
    }

    #[test]
    fn bytes_that_look_like_methods_never_panic(
        class in prop::sample::select(vec![10_u8, 20, 30, 40, 50, 60, 85, 90]), id in 0_u8..130,
        tail in vec(prop_oneof![Just(0_u8), 0_u8..12, any::<u8>()], 0..120),
    ) {
        let mut bytes = vec![0, class, 0, id];
        bytes.extend_from_slice(&tail);
        decode_all(&bytes);
    }

    #[test]
    fn bytes_that_look_like_headers_never_panic(
        flags: u16, tail in vec(prop_oneof![Just(0_u8), 0_u8..12, any::<u8>()], 0..120),
    ) {
        let mut bytes = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&tail);
        decode_all(&bytes);
    }

    #[test]
    fn damaged_tables_never_panic(
        table in sorted_table(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
    ) {
        let mut bytes = table.encoded();
        bytes.push(0);
        *at.get_mut(&mut bytes) = byte;
        decode_all(&bytes);
        decode_all(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn values_survive_being_owned(value in value()) {
        let mut table = Table::new();
        table.insert("value", value.clone());
        let bytes = table.encoded();
        let raw = RawTable::parse(&bytes).unwrap();
        let borrowed = raw.get(b"value").unwrap();
        prop_assert_eq!(table.get(b"value"), Some(borrowed));
        prop_assert_eq!(borrowed.as_integer(), value.as_integer());
        prop_assert_eq!(borrowed.as_bool(), value.as_bool());
        prop_assert_eq!(borrowed.as_str_bytes(), value.as_str_bytes());
        prop_assert_eq!(borrowed.type_name(), value.type_name());
        prop_assert_eq!(borrowed.to_value(), value);
    }
}

/// `levels` containers around a void, the outermost being a table; without its length prefix.
fn nested(levels: usize, array: bool) -> Vec<u8> {
    let mut bytes = if array && levels > 1 {
        vec![b'V']
    } else {
        vec![1, b'k', b'V']
    };
    for level in (1..levels).rev() {
        let in_array = array && level > 1;
        let mut outer = if in_array { vec![] } else { vec![1, b'k'] };
        outer.push(if array { b'A' } else { b'F' });
        outer.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        outer.extend_from_slice(&bytes);
        bytes = outer;
    }
    bytes
}

#[test]
fn nesting_up_to_the_limit_is_read_and_beyond_it_refused() {
    for array in [false, true] {
        let deepest = nested(TABLE_DEPTH_MAX, array);
        let table = RawTable::parse(&deepest).unwrap();
        assert_eq!(table.to_table().encoded(), deepest);
        let too_deep = nested(TABLE_DEPTH_MAX + 1, array);
        assert_eq!(RawTable::parse(&too_deep), Err(FrameError::TableTooDeep));
    }
}

/// Twenty thousand open containers without building them inside out: lengths just shrink.
fn depth_bomb() -> Vec<u8> {
    const LEVELS: u32 = 20_000;
    let mut bytes = Vec::new();
    for level in 0..LEVELS {
        bytes.extend_from_slice(&[0, b'F']);
        bytes.extend_from_slice(&((LEVELS - level - 1) * 6).to_be_bytes());
    }
    bytes
}

/// A thread whose stack a recursion of a few hundred levels would overflow.
fn on_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new()
        .stack_size(64 * 1024)
        .spawn(work);
    thread.unwrap().join().unwrap();
}

#[test]
fn a_depth_bomb_is_refused_at_once_wherever_a_table_can_stand() {
    on_small_stack(|| {
        let bomb = depth_bomb();
        let len = (bomb.len() as u32).to_be_bytes();
        let header = [
            &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0][..],
            &len,
            &bomb,
        ]
        .concat();
        let start_ok = [&[0, 10, 0, 11][..], &len, &bomb].concat();
        let began = Instant::now();
        for _ in 0..1_000 {
            assert_eq!(RawTable::parse(&bomb), Err(FrameError::TableTooDeep));
            assert_eq!(decode_header(&header), Err(FrameError::TableTooDeep));
            assert_eq!(Properties::decode(&header), Err(FrameError::TableTooDeep));
            assert_eq!(Method::decode(&start_ok), Err(FrameError::TableTooDeep));
        }
        // Only the first 33 levels are looked at, which takes microseconds even in a slow build.
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
    });
}

#[test]
fn many_duplicate_keys_cost_no_quadratic_time() {
    let bytes = [0, b'V'].repeat(64 * 1024);
    let began = Instant::now();
    assert_eq!(RawTable::parse(&bytes).unwrap().to_table().len(), 1);
    let keys: Vec<u8> = (0..40_000_u32)
        .flat_map(|key| {
            let [_, high, middle, low] = key.to_be_bytes();
            [3, high, middle, low, b'V']
        })
        .collect();
    assert_eq!(RawTable::parse(&keys).unwrap().to_table().len(), 40_000);
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_value_may_not_cross_the_end_of_its_container() {
    // The inner table announces two bytes, its only entry takes three of the outer one.
    let crossing = [1, b'k', b'F', 0, 0, 0, 2, 0, b't', 1];
    assert!(matches!(
        RawTable::parse(&crossing),
        Err(FrameError::Malformed(_))
    ));
    // The key's length reaches past the inner table, into bytes that the outer one has.
    let crossing = [1, b'k', b'F', 0, 0, 0, 2, 3, b'a', b'b', b'c', b'V'];
    assert!(matches!(
        RawTable::parse(&crossing),
        Err(FrameError::Malformed(_))
    ));
    let huge = [1, b'k', b'S', 0xFF, 0xFF, 0xFF, 0xFF, 0];
    assert!(matches!(
        RawTable::parse(&huge),
        Err(FrameError::Malformed(_))
    ));
    let unknown = [1, b'k', b'?', 0];
    assert!(matches!(
        RawTable::parse(&unknown),
        Err(FrameError::Malformed(_))
    ));
}
