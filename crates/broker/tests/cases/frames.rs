//! Frames out of turn: what RabbitMQ 4.3 said to the same bytes.

use std::sync::Arc;

use crate::support::{Client, broker};
use leveret_codec::{BasicPublish, FRAME_END, FrameKind, Method, frame};
use leveret_store::InstantStore;

const EXPECTED_METHOD: &str =
    "505 UNEXPECTED_FRAME - expected method frame, got non method frame instead (0, 0)";
const EXPECTED_HEADER: &str = "505 UNEXPECTED_FRAME - expected content header for class 60, \
                               got non content header frame instead (60, 40)";
const EXPECTED_BODY: &str = "505 UNEXPECTED_FRAME - expected content body, \
                             got non content body frame instead (60, 40)";
const OTHER_CLASS: &str = "505 UNEXPECTED_FRAME - expected content header for class 60, \
                           got one for class 10 instead (60, 40)";
const TOO_LARGE: &str = "501 FRAME_ERROR - content body size 4611686018427387904 \
                         exceeds maximum allowed size 536870912 (60, 40)";
const LONG_BODY: &str =
    "501 FRAME_ERROR - content body frame exceeds remaining content size (60, 40)";
const MALFORMED: &str = "501 FRAME_ERROR - payload ends early (0, 0)";
const HUGE: u64 = 1 << 62;

fn raw(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&channel.to_be_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes.push(FRAME_END);
    bytes
}

fn publish() -> Vec<u8> {
    let mut bytes = Vec::new();
    Method::from(BasicPublish::default()).encode(1, &mut bytes);
    bytes
}

fn header_on(channel: u16, (class, weight, size): (u16, u16, u64), properties: &[u8]) -> Vec<u8> {
    let mut payload = class.to_be_bytes().to_vec();
    payload.extend_from_slice(&weight.to_be_bytes());
    payload.extend_from_slice(&size.to_be_bytes());
    payload.extend_from_slice(properties);
    raw(2, channel, &payload)
}

fn header(fixed: (u16, u16, u64)) -> Vec<u8> {
    header_on(1, fixed, &[0, 0])
}

/// A content type is announced and missing.
fn cut(fixed: (u16, u16, u64)) -> Vec<u8> {
    header_on(1, fixed, &[0x80, 0])
}

fn body(bytes: &[u8]) -> Vec<u8> {
    raw(3, 1, bytes)
}

/// A method whose arguments are missing.
fn method(class: u16, id: u16) -> Vec<u8> {
    raw(1, 1, &[class.to_be_bytes(), id.to_be_bytes()].concat())
}

/// How the connection is closed after these bytes, all in one read and then byte by byte.
fn closed_by(bytes: &[u8]) -> String {
    let broker = broker(Arc::new(InstantStore));
    let mut closes = [bytes.len(), 1].map(|step| {
        let (mut client, mut rest) = (Client::new(&broker), Vec::new());
        for piece in bytes.chunks(step) {
            rest.extend_from_slice(piece);
            let turn = client.connection.receive(&rest, 1);
            rest.drain(..turn.consumed);
        }
        close_of(&client.take())
    });
    assert_eq!(closes[0], closes[1], "in one read, and byte by byte");
    std::mem::take(&mut closes[0])
}

fn close_of(heard: &[u8]) -> String {
    let Some((frame, len)) = frame(heard, u32::MAX).expect("lawful frames") else {
        return "nothing".into();
    };
    assert_eq!((frame.kind, heard.len()), (FrameKind::Method, len));
    let Ok(Method::ConnectionClose(close)) = Method::decode(frame.payload) else {
        return "no close of the connection".into();
    };
    format!(
        "{} {} {:?}",
        close.reply_code,
        String::from_utf8_lossy(close.reply_text),
        (close.class_id, close.method_id)
    )
}

fn assert_closes<const N: usize>(told: &str, cases: [(&str, Vec<u8>); N]) {
    for (case, bytes) in cases {
        assert_eq!(closed_by(&bytes), told, "{case}");
    }
}

#[test]
fn a_content_frame_where_none_is_expected_is_505_whatever_its_bytes() {
    let cases = [
        ("a header", header((60, 0, 0))),
        ("of another class", header((10, 0, 0))),
        ("with a weight", header((60, 1, 0))),
        ("of 200 MB", header((60, 0, 200 << 20))),
        ("of 600 MB", header((60, 0, 600 << 20))),
        ("of 2^62 bytes", header((60, 0, HUGE))),
        ("with cut properties", cut((60, 0, 0))),
        ("without flags", header_on(1, (60, 0, 0), &[])),
        (
            "that holds a publish",
            raw(2, 1, &[publish(), publish()].concat()),
        ),
        ("a body", body(b"x")),
        ("an empty body", body(b"")),
        (
            "a header on a closed channel",
            header_on(9, (60, 0, HUGE), &[]),
        ),
        ("a body on a closed channel", raw(3, 9, b"x")),
        ("a header on channel 0", header_on(0, (60, 0, 0), &[0, 0])),
        ("a body on channel 0", raw(3, 0, b"")),
    ];
    assert_closes(EXPECTED_METHOD, cases);
}

#[test]
fn after_a_publish_only_a_header_may_follow() {
    let cases = [
        ("a body", body(b"x")),
        ("an empty body", body(b"")),
        ("a publish", publish()),
        ("a cut ack", method(60, 80)),
        ("an unknown method", method(60, 41)),
        ("a method of an unknown class", method(61, 40)),
        ("a header with a weight", header((60, 1, HUGE))),
        ("that and another class", header((10, 1, 0))),
    ];
    assert_closes(
        EXPECTED_HEADER,
        cases.map(|(case, bytes)| (case, [publish(), bytes].concat())),
    );
    let cases = [
        ("fine but for it", header((10, 0, 0))),
        ("with cut properties", cut((10, 0, 0))),
        ("of 2^62 bytes", header((10, 0, HUGE))),
    ];
    assert_closes(
        OTHER_CLASS,
        cases.map(|(case, bytes)| (case, [publish(), bytes].concat())),
    );
}

#[test]
fn after_a_header_only_its_body_may_follow() {
    let cases = [
        ("a header", header((60, 0, 3))),
        ("a header with cut properties", cut((60, 0, 3))),
        ("a header of 2^62 bytes", header((60, 0, HUGE))),
        ("a publish", publish()),
        ("a cut ack", method(60, 80)),
        ("an unknown method", method(60, 41)),
    ];
    assert_closes(
        EXPECTED_BODY,
        cases.map(|(case, bytes)| (case, [publish(), header((60, 0, 3)), bytes].concat())),
    );
    let long = [publish(), header((60, 0, 3)), body(b"abcd")].concat();
    assert_closes(LONG_BODY, [("a long body", long)]);
}

#[test]
fn what_is_wrong_with_a_header_in_its_place_is_told_at_once() {
    let huge = [publish(), header((60, 0, HUGE))].concat();
    let huge_and_cut = [publish(), cut((60, 0, HUGE))].concat();
    assert_closes(TOO_LARGE, [("huge", huge), ("and cut", huge_and_cut)]);
    // RabbitMQ lets these crash a process: 541.
    let empty = [publish(), cut((60, 0, 0))].concat();
    let waits_for_a_body = [publish(), cut((60, 0, 3))].concat();
    assert_closes(
        MALFORMED,
        [("cut", empty), ("cut, size 3", waits_for_a_body)],
    );
}

#[test]
fn a_header_shorter_than_its_fixed_part_is_no_header() {
    let short = || raw(2, 1, &[0; 11]);
    let cases = [
        ("out of turn", short()),
        ("in turn", [publish(), short()].concat()),
        (
            "for a body",
            [publish(), header((60, 0, 3)), short()].concat(),
        ),
        ("on a closed channel", raw(2, 9, b"")),
        ("on channel 0", raw(2, 0, b"")),
    ];
    assert_closes(MALFORMED, cases);
}

#[test]
fn a_body_above_the_limit_closes_its_channel_before_it_arrives() {
    let mut client = Client::new(&broker(Arc::new(InstantStore)));
    client.send(&[publish(), header((60, 0, 200 << 20))].concat());
    let told = "1 close 406 PRECONDITION_FAILED - message size 209715200 is larger than \
                configured max size 134217728";
    assert_eq!(client.hear(), [told]);
}
