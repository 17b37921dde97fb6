//! Tenants whose messages have a long way: through very many patterns, headers or exchanges.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use leveret_codec::{
    BasicPublish, ConfirmSelect, ExchangeBind, ExchangeDeclare, Method, Properties, QueueBind,
    RawTable, Table,
};
use serde_json::json;

use crate::case::Case;
use crate::support::{Client, Server, encode, raw_frame};

/// How long tenants keep it up.
const LONG: Duration = Duration::from_secs(2);
/// How long they wait for a confirm: there are eight, who share half of a small machine.
const FLOOD_PATIENCE: Duration = Duration::from_secs(60);
/// So many of their publishes are routed through patterns in that time at least: one took 196 ms
/// once, and takes 5 now, 40 in a debug build.
const ROUTED_MIN: u64 = 30;
/// Publishes of one of them that are not confirmed.
const WINDOW: u64 = 4;

/// What a bystander keeps of its rounds a second while others' messages are routed, at least,
const KEPT: f64 = 2.0 / 3.0;
/// in one of so many tries: it is 70 to 110 % mostly, but the machine may be busy.
const TRIES: usize = 3;

/// Runs a case until the bystander keeps its rate.
fn keeps_its_rate(case: impl Fn() -> f64) {
    let kept = (0..TRIES).map(|_| case());
    let lost: Vec<_> = kept.take_while(|kept| *kept < KEPT).collect();
    assert!(lost.len() < TRIES, "{lost:.2?} of its rate");
}

/// Random numbers, the same in every run.
struct Random(u64);

impl Random {
    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        choices[(self.0 >> 33) as usize % choices.len()]
    }

    fn words(&mut self, count: usize, choices: &[&'static str]) -> String {
        let words: Vec<&str> = (0..count).map(|_| self.of(choices)).collect();
        words.join(".")
    }
}

/// A message without a body.
fn publish(exchange: &str, key: &str, headers: Option<&Table>) -> Vec<u8> {
    let publish = BasicPublish {
        exchange: exchange.as_bytes(),
        routing_key: key.as_bytes(),
        ..Default::default()
    };
    let properties = Properties {
        headers: headers.map(Table::as_raw),
        ..Default::default()
    };
    let mut header = Vec::new();
    properties.encode(0, &mut header);
    [encode(1, publish), raw_frame(2, 1, &header)].concat()
}

/// Binds the queue `q` of the default virtual host.
fn bind(client: &mut Client, exchange: &str, key: &str, arguments: &[u8]) {
    client.method(
        1,
        QueueBind {
            queue: b"q",
            exchange: exchange.as_bytes(),
            routing_key: key.as_bytes(),
            nowait: true,
            arguments: RawTable::parse(arguments).expect("a lawful table"),
        },
    );
}

fn fanout(client: &mut Client, name: &str) {
    client.method(
        1,
        ExchangeDeclare {
            exchange: name.as_bytes(),
            kind: b"fanout",
            nowait: true,
            ..Default::default()
        },
    );
}

/// Tenants who publish, each on a thread of its own, as fast as they get confirms.
struct Flood {
    stop: Arc<AtomicBool>,
    publishers: Vec<JoinHandle<u64>>,
}

impl Flood {
    fn begin<M>(server: &Server, publishers: u64, message_of: M) -> Self
    where
        M: Fn(&mut Random) -> Vec<u8> + Clone + Send + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let address = server.address;
        let start = |n| {
            let (stop, message_of) = (Arc::clone(&stop), message_of.clone());
            thread::spawn(move || {
                let mut client = Client::login(address, "/");
                client.method(1, ConfirmSelect { nowait: false });
                client.expect(1, "confirm.select-ok");
                // It is they who wait, and for each other.
                client.wait_for_answers(FLOOD_PATIENCE);
                let (mut random, mut confirmed) = (Random(n), 0);
                while !stop.load(Ordering::Relaxed) {
                    let messages = (0..WINDOW).map(|_| message_of(&mut random));
                    client.send(&messages.collect::<Vec<_>>().concat());
                    let last = confirmed + WINDOW;
                    while confirmed < last {
                        match client.next().method() {
                            Method::BasicAck(ack) => confirmed = ack.delivery_tag,
                            other => panic!("{} instead of an ack", other.name()),
                        }
                    }
                }
                confirmed
            })
        };
        let publishers = (0..publishers).map(start).collect();
        Self { stop, publishers }
    }

    /// Lets them go on for a while, then tells how many messages were confirmed.
    fn end(self) -> u64 {
        sleep(LONG);
        self.stop.store(true, Ordering::Relaxed);
        let confirmed = self
            .publishers
            .into_iter()
            .map(|one| one.join().expect("a publisher is served"));
        let all = confirmed.sum();
        println!("{all} messages were confirmed");
        assert!(all > 0);
        all
    }
}

/// Random keys of 127 words against as many patterns as `pattern` gives, for eight publishers.
fn patterns(count: usize, pattern: impl Fn(&mut Random) -> String) -> f64 {
    let case = Case::start();
    let mut tenant = case.server.login();
    tenant.declare(1, "q");
    let mut random = Random(1);
    for _ in 0..count {
        bind(&mut tenant, "amq.topic", &pattern(&mut random), &[]);
    }
    tenant.declare(1, "q");
    let flood = Flood::begin(&case.server, 8, |random| {
        publish("amq.topic", &random.words(127, &["a", "b", "c"]), None)
    });
    let routed = flood.end();
    assert!(routed >= ROUTED_MIN, "{routed} in {LONG:?}");
    case.end(96)
}

#[test]
fn patterns_of_sixty_hashes() {
    keeps_its_rate(|| {
        patterns(150, |random| {
            random.words(61, &["a.#", "b.#", "c.#"]) + ".z"
        })
    });
}

#[test]
fn three_thousand_patterns_of_hashes() {
    keeps_its_rate(|| {
        patterns(3000, |random| {
            random.words(45, &["a.#", "b.#", "c.#", "*.a.#"]) + ".z"
        })
    });
}

#[test]
fn patterns_that_stay_alive_word_by_word() {
    // Each of them is tried from every word on, as far as the stars match.
    keeps_its_rate(|| {
        patterns(600, |random| {
            format!("#.a.{}.z.#", random.words(100, &["*", "*", "*", "*", "a"]))
        })
    });
}

#[test]
fn bindings_that_all_ask_for_the_same_headers() {
    keeps_its_rate(same_headers);
}

fn same_headers() -> f64 {
    const HEADERS: usize = 30;
    let case = Case::start();
    let mut tenant = case.server.login();
    tenant.declare(1, "q");
    let mut headers = Table::new();
    for n in 0..HEADERS {
        headers.insert(format!("h{n:02}"), "x");
    }
    let mut arguments = headers.clone();
    // Only the last one differs.
    arguments.insert(format!("h{:02}", HEADERS - 1), "y");
    let encoded = arguments.encoded();
    for n in 0..20_000 {
        bind(&mut tenant, "amq.headers", &n.to_string(), &encoded);
    }
    tenant.declare(1, "q");
    let flood = Flood::begin(&case.server, 8, move |random| {
        publish("amq.headers", random.of(&["a", "b"]), Some(&headers))
    });
    flood.end();
    case.end(96)
}

/// Every one of so many exchanges is bound to every other one.
fn mesh(tenant: &mut Client, exchanges: usize) {
    for n in 0..exchanges {
        fanout(tenant, &format!("x{n}"));
    }
    for (from, to) in (0..exchanges).flat_map(|from| (0..exchanges).map(move |to| (from, to))) {
        let (from, to) = (format!("x{from}"), format!("x{to}"));
        let bind = ExchangeBind {
            destination: to.as_bytes(),
            source: from.as_bytes(),
            nowait: true,
            ..Default::default()
        };
        tenant.send(&encode(1, bind));
    }
    tenant.declare(1, "q");
}

#[test]
fn exchanges_that_are_all_bound_to_each_other() {
    keeps_its_rate(dense_graph);
}

fn dense_graph() -> f64 {
    let case = Case::start();
    let mut tenant = case.server.login();
    mesh(&mut tenant, 200);
    bind(&mut tenant, "x199", "", &[]);
    // Messages with a key of their own, so that no route is remembered.
    let flood = Flood::begin(&case.server, 8, |random| {
        publish("x0", &random.words(20, &["a", "b"]), None)
    });
    // Each binding is one more step for whatever leads there.
    for n in 0..200 {
        bind(&mut tenant, "x199", &n.to_string(), &[]);
    }
    tenant.declare(1, "q");
    flood.end();
    case.end(96)
}

#[test]
fn http_publishes_and_tests_of_routes_through_many_patterns() {
    keeps_its_rate(over_http);
}

fn over_http() -> f64 {
    let case = Case::start_http(&[]);
    let mut tenant = case.server.login();
    tenant.declare(1, "q");
    let mut random = Random(1);
    for _ in 0..600 {
        let stars = random.words(100, &["*", "*", "*", "*", "a"]);
        bind(&mut tenant, "amq.topic", &format!("#.a.{stars}.z.#"), &[]);
    }
    tenant.declare(1, "q");
    let key = random.words(127, &["a", "b"]);
    let message =
        json!({"properties": {}, "routing_key": key, "payload": "", "payload_encoding": "string"});
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let http = case.server.http_as("guest", "guest");
            let message = message.to_string();
            thread::spawn(move || {
                for _ in 0..4 {
                    let path = if n % 2 == 0 {
                        "/api/exchanges/%2F/amq.topic/publish"
                    } else {
                        "/api/x/routes/%2F/amq.topic"
                    };
                    assert_eq!(http.call("POST", path, &message).json()["routed"], false);
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|one| one.join().expect("requests are answered"));
    case.end(96)
}
