//! Deliveries that nobody settles in time, very many at once.

use std::thread::sleep;
use std::time::{Duration, Instant};

use leveret_codec::{BasicConsume, Method, QueueDeclare, RawTable, Table, Value};

use crate::case::Case;
use crate::support::{Client, message};

const MANY: u32 = 100_000;
const TIMEOUT_MS: i32 = 2_500;
/// So long it goes on at least: each time all come back, they are handed out again,
const DURING: Duration = Duration::from_secs(5);
/// so often at least.
const ROUNDS: u64 = 2;
/// What a delivery takes at least, bytes.
const DELIVERY: u64 = 59;
/// What 100,000 deliveries cost that are out, and on their way again, MiB.
const DELIVERIES_MIB: u64 = 64;

fn declare(client: &mut Client, passive: bool) -> u32 {
    let mut table = Table::new();
    table.insert("x-consumer-timeout", Value::I32(TIMEOUT_MS));
    let arguments = table.encoded();
    let declare = QueueDeclare {
        queue: b"q",
        passive,
        arguments: RawTable::parse(&arguments).expect("a lawful table"),
        ..Default::default()
    };
    client.method(1, declare);
    match client.expect(1, "queue.declare-ok").method() {
        Method::QueueDeclareOk(ok) => ok.message_count,
        other => panic!("{}", other.name()),
    }
}

#[test]
fn a_hundred_thousand_deliveries_are_overdue_at_once_again_and_again() {
    let case = Case::start();
    let mut witness = case.server.login();
    declare(&mut witness, false);
    let thousand = message(1, "q", 2, &[b"hi"]).concat().repeat(1000);
    for _ in 0..MANY / 1000 {
        witness.send(&thousand);
    }
    while declare(&mut witness, true) < MANY {
        sleep(Duration::from_millis(5));
    }
    let mut hog = case.server.login();
    let consume = BasicConsume {
        queue: b"q",
        consumer_tag: b"hog",
        ..Default::default()
    };
    hog.method(1, consume);
    let start = Instant::now();
    let rounds = |bytes| bytes / DELIVERY / u64::from(MANY);
    let bytes = hog.skip_deliveries(|bytes| start.elapsed() > DURING && rounds(bytes) >= ROUNDS);
    println!("{} rounds in {:.1?}", rounds(bytes), start.elapsed());
    drop(hog);
    while declare(&mut witness, true) < MANY {
        sleep(Duration::from_millis(5));
    }
    case.end(DELIVERIES_MIB);
}
