//! That the player notices what is wrong, and that text and bytes mean the same.

use std::path::Path;
use std::rc::Rc;

use leveret_codec::{BasicConsume, Method, QueueDeclare, RawTable};

use crate::memory::Memory;
use crate::player::Player;
use crate::script;
use crate::value::{Reader, Value};
use crate::wire::Message;

/// What is wrong with the only transcript of a text, played in memory.
fn wrong(lines: &str) -> String {
    let text = format!("== one\n{lines}\n");
    let script = script::parse(Path::new("self.txt"), &text, "/");
    let mut player = Player::new(Rc::new(Memory::new()), false);
    let played = player.play(&script.transcripts[0]);
    played.err().unwrap_or_default()
}

const DECLARED: &str = "C: queue.declare queue=\"q\"\nS: queue.declare-ok queue=\"q\"\n";

#[test]
fn a_right_transcript_holds() {
    let lines = "C: basic.publish routing-key=\"q\" headers={b=1l a=\"x\"} body=\"m\"\n\
                 C: basic.get queue=\"q\"\n\
                 S: basic.get-ok delivery-tag=1 routing-key=\"q\"\n  \
                 headers={a=\"x\" b=*l} body=\"m\"\n\
                 C: basic.reject delivery-tag=1 requeue\n\
                 S: nothing for 100 ms\n\
                 C~: queue.declare queue=\"q\" passive\n\
                 S: queue.declare-ok queue=* message-count=1";
    assert_eq!(wrong(&format!("{DECLARED}{lines}")), "");
}

#[test]
fn each_wrong_answer_is_noticed() {
    let message = "C: basic.publish routing-key=\"q\" headers={a=1 t={x=1 y=2}} body=\"m\"\n\
                   C: basic.get queue=\"q\" no-ack\n";
    let wrong_answers = [
        "S: basic.get-empty",
        "S: nothing for 100 ms",
        "S: basic.get-ok delivery-tag=1 routing-key=\"q\" body=\"m\"",
        "S: basic.get-ok delivery-tag=1 routing-key=\"q\" headers={a=1} body=\"m\"",
        "S: basic.get-ok delivery-tag=1 routing-key=\"q\" headers={a=1l t={x=1 y=2}} body=\"m\"",
        "S: basic.get-ok delivery-tag=1 routing-key=\"q\" headers={a=*l t={x=1 y=2}} body=\"m\"",
        "S: basic.get-ok delivery-tag=1 routing-key=\"q\" headers={a=1 t={y=2 x=1}} body=\"m\"",
        "S: basic.get-ok delivery-tag=1 routing-key=\"q\" headers={a=1 t={x=1 y=2}} body=\"n\"",
        "S: basic.get-ok delivery-tag=1 routing-key=\"q\" priority=0 headers={a=1 t={x=1 y=2}} \
         body=\"m\"",
        "S: basic.get-ok delivery-tag=1 redelivered routing-key=\"q\" headers={a=1 t={x=1 y=2}} \
         body=\"m\"",
        "S: ?",
        "# nothing is expected",
    ];
    for answer in wrong_answers {
        let told = wrong(&format!("{DECLARED}{message}{answer}"));
        assert!(
            told.contains("basic.get-ok delivery-tag=1"),
            "{answer}: {told}"
        );
    }
}

#[test]
fn a_name_is_one_value() {
    let lines = |second: &str| {
        let publish = "C: basic.publish routing-key=\"q\" body=\"\" headers={at=";
        let get =
            "C: basic.get queue=\"q\" no-ack\nS: basic.get-ok routing-key=\"q\" delivery-tag=";
        format!(
            "{DECLARED}{publish}5T}}\n{get}1 headers={{at=*T:one}}\n\
             {publish}{second}T}}\n{get}2 headers={{at=*T:one}}"
        )
    };
    assert_eq!(wrong(&lines("5")), "");
    let told = wrong(&lines("6"));
    assert!(told.contains("one was 5T and is now 6T"), "{told}");
}

#[test]
fn what_never_comes_is_noticed() {
    let told = wrong(&format!("{DECLARED}S: basic.deliver delivery-tag=1"));
    assert!(told.contains("came nothing"), "{told}");
    let told = wrong("C: queue.declare queue=\"q\" passive\nS: queue.declare-ok queue=\"q\"");
    assert!(told.contains("reply-code=404"), "{told}");
}

#[test]
fn every_type_of_value_is_read_as_it_was_written() {
    let text = "basic.publish headers={a=true b=-1b c=255B d=-1s e=65535u f=-1 g=4000000000i h=-1l \
                i=1.5f j=0.25d k=\"te\\\"x\\n\\xFFt\" l=x\"\\x00\" m=[1 \"two\" {}] \
                n={\"with space\"=void} o=1700000000T} body=\"\"";
    let message = Message::parse(text).unwrap();
    assert_eq!(Message::parse(&message.to_string()).unwrap(), message);
    let Some(Value::Table(headers)) = message.field("headers") else {
        panic!("{message}")
    };
    let mut bytes = Vec::new();
    crate::value::table(headers, &mut bytes);
    assert!(RawTable::parse(&bytes[4..]).is_ok());
    assert_eq!(Reader(&bytes).table(), *headers);
}

#[test]
fn methods_are_the_bytes_that_the_codec_makes() {
    let bytes_of = |method: Method<'_>| {
        let mut bytes = Vec::new();
        method.encode(3, &mut bytes);
        bytes
    };
    let declare = QueueDeclare {
        queue: b"q",
        durable: true,
        auto_delete: true,
        arguments: RawTable::parse(b"\x01aI\0\0\0\x05").unwrap(),
        ..Default::default()
    };
    let text = "queue.declare queue=\"q\" durable auto-delete arguments={a=5}";
    let message = Message::parse(text).unwrap();
    assert_eq!(message.encode(3), bytes_of(declare.into()));
    let consume = BasicConsume {
        queue: b"q",
        consumer_tag: b"c",
        no_ack: true,
        ..Default::default()
    };
    let bytes = bytes_of(consume.into());
    let message = Message::decode(&bytes[7..bytes.len() - 1]);
    let text = "basic.consume queue=\"q\" consumer-tag=\"c\" no-ack=true";
    assert_eq!(message.to_string(), text);
}

#[test]
fn mistakes_in_a_line_are_told() {
    let mistakes = [
        ("queue.declare queue=q", "no value: \"q\""),
        ("queue.declare name=\"q\"", "queue.declare has no \"name\""),
        ("queue.declare queue=\"q", "a quote is missing"),
        ("queue.invent", "no method \"queue.invent\""),
        (
            "basic.ack delivery-tag=1 body=\"x\"",
            "basic.ack has no \"body\"",
        ),
    ];
    for (text, told) in mistakes {
        assert_eq!(Message::parse(text), Err(told.to_owned()), "{text}");
    }
}
