//! The clients of `docs/concepts/back-pressure.md`, as they stand there, against a queue that is
//! full most of the time.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::Server;
use support::http::Http;

const PAGE: &str = include_str!("../docs/concepts/back-pressure.md");
const QUEUE: &str = "/api/queues/%2F/orders";
const MESSAGES: usize = 12;
/// Of those that meet a full queue now and then; 6,000 take a minute.
const MANY: usize = 400;
const LENGTH: usize = 100;
/// So many are taken from it.
const A_SECOND: usize = 100;
/// Go compiles its client first, beside whatever the machine compiles else.
const PATIENCE: Duration = Duration::from_secs(400);

/// A language, a file, and what runs it.
type Recipe = (&'static str, &'static str, &'static [&'static str]);
const PYTHON: Recipe = ("python", "publish.py", &["python3"]);
const JAVASCRIPT: Recipe = ("javascript", "publish.js", &["node"]);
const GO: Recipe = ("go", "publish.go", &["go", "run"]);

/// The program of a language on the page.
fn program(language: &str) -> String {
    let (_, rest) = PAGE
        .split_once(&format!("```{language}\n"))
        .expect("is on the page");
    rest.split_once("```").expect("ends").0.to_owned()
}

/// A client and the full queue it publishes to.
struct Publisher {
    server: Server,
    client: Child,
    lines: Vec<String>,
}

impl Publisher {
    /// Has the program of a language publish so many lines to a queue of this length.
    fn start((language, file, command): Recipe, messages: usize, length: usize) -> Self {
        let server = Server::start_http(&[]);
        let guest = server.http_as("guest", "guest");
        let arguments = json!({"x-max-length": length, "x-overflow": "reject-publish"});
        guest.done("PUT", QUEUE, &json!({"arguments": arguments}));
        let folder = format!("recipe-{language}-{messages}");
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(file), program(language)).unwrap();
        let (tool, arguments) = command.split_first().unwrap();
        let mut client = Command::new(tool)
            .args(arguments)
            .arg(file)
            .current_dir(&folder)
            .env("INGRESS_API", format!("http://{}/api", server.api()))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{tool} is needed for this test: {error}"));
        let lines: Vec<String> = (0..messages)
            .map(|number| format!("order {number}"))
            .collect();
        let mut input = client.stdin.take().unwrap();
        input
            .write_all((lines.join("\n") + "\n").as_bytes())
            .unwrap();
        Self {
            server,
            client,
            lines,
        }
    }
}

/// Takes so many messages from the queue.
fn take(guest: &Http, count: usize) -> Vec<String> {
    let fetch = json!({"count": count, "ackmode": "ack_requeue_false", "encoding": "auto"});
    let path = format!("{QUEUE}/get");
    let answer = guest.call("POST", &path, &fetch.to_string());
    let messages = answer.json();
    let payloads = messages.as_array().unwrap().iter();
    payloads
        .map(|message| message["payload"].as_str().unwrap().to_owned())
        .collect()
}

/// Runs a program that publishes lines while a slow consumer takes them, one at a time.
fn publishes_all(recipe: Recipe) {
    let mut publisher = Publisher::start(recipe, MESSAGES, 3);
    let guest = publisher.server.http_as("guest", "guest");
    let mut received = Vec::new();
    let mut was_full = false;
    let deadline = Instant::now() + PATIENCE;
    while received.len() < MESSAGES {
        assert!(Instant::now() < deadline, "{received:?}");
        thread::sleep(Duration::from_millis(100));
        let queue = guest.get(QUEUE);
        // Only a full queue is emptied, so that every client meets one.
        let missing = MESSAGES - received.len();
        if queue["messages"].as_u64() < Some(missing.min(3) as u64) {
            continue;
        }
        was_full = true;
        thread::sleep(Duration::from_millis(200));
        received.extend(take(&guest, 3));
    }
    assert!(publisher.client.wait().unwrap().success());
    assert_eq!(received, publisher.lines);
    assert!(was_full);
}

/// Runs a program whose queue is drained at a steady rate: it waits as long as it is told, and is
/// hardly ever refused.
fn is_rarely_refused(recipe: Recipe) {
    let lines = std::env::var("RECIPE_LINES").ok();
    let lines = lines.map_or(MANY, |lines| lines.parse().expect("a number"));
    let mut publisher = Publisher::start(recipe, lines, LENGTH);
    let guest = publisher.server.http_as("guest", "guest");
    let refused = || guest.get(QUEUE)["x_messages_refused"].as_u64().unwrap();
    // Go compiles it first.
    let begun = Instant::now();
    while refused() == 0 {
        assert!(begun.elapsed() < PATIENCE, "it is never full");
        thread::sleep(Duration::from_millis(20));
    }
    let (begun, mut received) = (Instant::now(), Vec::new());
    let mut over = false;
    while !over || received.len() < lines {
        assert!(begun.elapsed() < PATIENCE, "{}", received.len());
        over |= publisher.client.try_wait().unwrap().is_some();
        let due = begun.elapsed().as_millis() as usize * A_SECOND / 1000;
        let due = if over { lines } else { due };
        match due.saturating_sub(received.len()) {
            0 => thread::sleep(Duration::from_millis(20)),
            more => received.extend(take(&guest, more)),
        }
    }
    assert!(publisher.client.wait().unwrap().success());
    assert_eq!(received, publisher.lines);
    let refused = refused();
    assert!(refused < lines as u64 / 20, "{refused}");
}

#[test]
fn the_python_client_waits_and_loses_nothing() {
    publishes_all(PYTHON);
}

#[test]
fn the_javascript_client_waits_and_loses_nothing() {
    publishes_all(JAVASCRIPT);
}

#[test]
fn the_go_client_waits_and_loses_nothing() {
    publishes_all(GO);
}

#[test]
fn the_python_client_is_hardly_ever_refused() {
    is_rarely_refused(PYTHON);
}

#[test]
fn the_javascript_client_is_hardly_ever_refused() {
    is_rarely_refused(JAVASCRIPT);
}

#[test]
fn the_go_client_is_hardly_ever_refused() {
    is_rarely_refused(GO);
}

#[test]
fn a_broker_in_the_same_environment_starts() {
    for language in ["python", "javascript", "go"] {
        let program = program(language);
        assert!(program.contains("INGRESS_LOGIN"), "{language}");
        assert!(!program.contains("LEVERET_"), "{language}");
    }
}
