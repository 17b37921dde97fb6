//! What routing costs: nanoseconds a route, bytes a binding. Ignored, because a figure proves
//! nothing on a busy machine; run with
//! `cargo test --release -p leveret-router --test figures -- --ignored --nocapture`

use std::hint::black_box;
use std::time::Instant;

use leveret_codec::{RawTable, Table};
use leveret_router::{BindingSpec, Destination, QueueId, Router, Routes};

const ROUTES: usize = 1_000_000;

/// A small generator, so that every run measures the same keys.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn words(&mut self, vocabulary: u64) -> Vec<String> {
        (0..4)
            .map(|_| format!("word{}", self.below(vocabulary)))
            .collect()
    }

    /// A quarter of the patterns has a star, one in twenty ends in a hash.
    fn pattern(&mut self, vocabulary: u64) -> String {
        let mut words = self.words(vocabulary);
        match self.below(100) {
            0..25 => words[self.below(4) as usize] = "*".into(),
            25..30 => words[3] = "#".into(),
            _ => {}
        }
        words.join(".")
    }
}

fn bind(router: &mut Router, source: &str, queue: u32, key: &str) {
    let destination = Destination::Queue(QueueId(queue));
    let spec = BindingSpec {
        source: source.into(),
        destination,
        key: key.into(),
        arguments: Table::new(),
    };
    router.bind(&spec).unwrap();
}

fn with_queues(count: u32) -> Router {
    let mut router = Router::with_seed(42);
    for id in 0..count {
        router.add_queue(&format!("queue-{id}"), QueueId(id));
    }
    router
}

fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok());
    pages.unwrap_or_default() * 4096.0
}

/// Nanoseconds a route and queues a route, over keys in turn.
fn measure(router: &Router, exchange: &str, keys: &[String], count: usize) -> (f64, f64) {
    let mut routes = Routes::new();
    let mut queues = 0;
    let mut run = |count: usize| {
        queues = 0;
        for key in keys.iter().cycle().take(count) {
            let _ =
                black_box(router.route(exchange.as_bytes(), &[key.as_bytes()], None, &mut routes));
            queues += routes.queues().len();
        }
    };
    run(count / 10);
    let start = Instant::now();
    run(count);
    (
        start.elapsed().as_nanos() as f64 / count as f64,
        queues as f64 / count as f64,
    )
}

#[test]
#[ignore = "prints figures"]
fn topic() {
    for vocabulary in [100, 1000, 10_000] {
        for bindings in [100u32, 10_000, 100_000] {
            let mut random = Random(0x9e37_79b9);
            let mut router = with_queues(1000);
            let before = resident();
            for id in 0..bindings {
                let pattern = random.pattern(vocabulary);
                bind(&mut router, "amq.topic", id % 1000, &pattern);
            }
            let bytes = (resident() - before) / f64::from(bindings);
            let keys: Vec<String> = (0..8192)
                .map(|_| random.words(vocabulary).join("."))
                .collect();
            let (ns, queues) = measure(&router, "amq.topic", &keys, ROUTES);
            println!(
                "topic, {vocabulary} words, {bindings} bindings: {ns:.0} ns, {queues:.2} queues, \
                 {bytes:.0} B a binding"
            );
        }
    }
}

#[test]
#[ignore = "prints figures"]
fn direct() {
    for bindings in [100u32, 10_000, 100_000] {
        let mut router = with_queues(1000);
        let keys: Vec<String> = (0..bindings)
            .map(|n| format!("orders.created.{n}"))
            .collect();
        let before = resident();
        for (id, key) in (0..).zip(&keys) {
            bind(&mut router, "amq.direct", id % 1000, key);
        }
        let bytes = (resident() - before) / f64::from(bindings);
        let mut random = Random(7);
        let some: Vec<String> = (0..8192)
            .map(|_| keys[random.below(keys.len() as u64) as usize].clone())
            .collect();
        let (ns, _) = measure(&router, "amq.direct", &some, ROUTES);
        println!("direct, {bindings} bindings: {ns:.1} ns, {bytes:.0} B a binding");
    }
}

#[test]
#[ignore = "prints figures"]
fn default_exchange() {
    let before = resident();
    let mut router = with_queues(100_000);
    let bytes = (resident() - before) / 100_000.0;
    let keys: Vec<String> = (0..8192).map(|n| format!("queue-{}", n * 12)).collect();
    let (ns, _) = measure(&router, "", &keys, ROUTES);
    println!("default exchange, 100000 queues: {ns:.1} ns, {bytes:.0} B a queue");
    let start = Instant::now();
    for _ in 0..100_000 {
        router.add_queue("temporary", QueueId(100_000));
        router.remove_queue(QueueId(100_000));
    }
    println!(
        "queue added and removed: {:.0} ns",
        start.elapsed().as_nanos() as f64 / 1e5
    );
}

#[test]
#[ignore = "prints figures"]
fn fanout() {
    let mut router = with_queues(100_000);
    let before = resident();
    let start = Instant::now();
    for id in 0..100_000 {
        bind(&mut router, "amq.fanout", id * 7919 % 100_000, "");
    }
    println!(
        "fanout, bind in random order: {:.0} ns",
        start.elapsed().as_nanos() as f64 / 1e5
    );
    println!("fanout: {:.0} B a binding", (resident() - before) / 1e5);
    let (ns, queues) = measure(&router, "amq.fanout", &["k".into()], 200);
    println!("fanout to {queues} queues: {:.1} us", ns / 1000.0);
    let start = Instant::now();
    for id in 0..100_000 {
        router.remove_queue(QueueId(id));
    }
    println!(
        "fanout, remove each queue: {:.0} ns",
        start.elapsed().as_nanos() as f64 / 1e5
    );
}

#[test]
#[ignore = "prints figures"]
fn headers() {
    let mut router = with_queues(1000);
    for id in 0..1000u32 {
        let mut arguments = Table::new();
        arguments.insert("kind", "order");
        arguments.insert("customer", i64::from(id));
        let destination = Destination::Queue(QueueId(id));
        let source = "amq.headers".to_owned();
        let spec = BindingSpec {
            source,
            destination,
            key: Vec::new(),
            arguments,
        };
        router.bind(&spec).unwrap();
    }
    let mut table = Table::new();
    table.insert("kind", "order");
    table.insert("customer", 500i64);
    table.insert("region", "eu");
    let bytes = table.encoded();
    let raw = RawTable::parse(&bytes).unwrap();
    let mut routes = Routes::new();
    let start = Instant::now();
    for _ in 0..10_000 {
        let _ = black_box(router.route(b"amq.headers", &[b"k"], Some(raw), &mut routes));
        assert_eq!(routes.queues(), [QueueId(500)]);
    }
    println!(
        "headers, 1000 bindings: {:.1} us",
        start.elapsed().as_nanos() as f64 / 1e7
    );
}

/// Patterns made to take long, against keys of 127 words.
#[test]
#[ignore = "prints figures"]
fn hostile_topic() {
    type Make = fn(&mut Random) -> String;
    fn letters(random: &mut Random, count: usize, letters: &[&str]) -> String {
        let words: Vec<&str> = (0..count)
            .map(|_| letters[random.below(letters.len() as u64) as usize])
            .collect();
        words.join(".")
    }
    let hashes: Make = |random| letters(random, 61, &["a.#", "b.#", "c.#"]) + ".z";
    let stars: Make = |random| {
        let stars = letters(random, 100, &["*", "*", "*", "*", "a"]);
        format!("#.a.{stars}.z.#")
    };
    for (name, pattern, count) in [
        ("hashes", hashes, 150),
        ("hashes", hashes, 3000),
        ("stars", stars, 600),
    ] {
        let mut random = Random(0x9e37_79b9);
        let mut router = with_queues(1);
        let (before, start) = (resident(), Instant::now());
        for _ in 0..count {
            let pattern = pattern(&mut random);
            bind(&mut router, "amq.topic", 0, &pattern);
        }
        let ns = start.elapsed().as_nanos() as f64 / f64::from(count);
        let bytes = (resident() - before) / f64::from(count);
        println!("{count} patterns of {name}: {ns:.0} ns and {bytes:.0} B a binding");
        let keys: Vec<String> = (0..16)
            .map(|_| letters(&mut random, 127, &["a", "b", "c"]))
            .collect();
        let (ns, _) = measure(&router, "amq.topic", &keys, 64);
        println!("{count} patterns of {name}: {:.2} ms a route", ns / 1e6);
    }
}
