//! The clients of `docs/concepts/back-pressure.md`, as they stand there, against a queue that is
//! full most of the time.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::Server;

const PAGE: &str = include_str!("../docs/concepts/back-pressure.md");
const MESSAGES: usize = 12;
/// Go compiles its client first, beside whatever the machine compiles else.
const PATIENCE: Duration = Duration::from_secs(400);

/// The program of a language on the page.
fn program(language: &str) -> String {
    let (_, rest) = PAGE
        .split_once(&format!("```{language}\n"))
        .expect("is on the page");
    rest.split_once("```").expect("ends").0.to_owned()
}

/// Runs a program that publishes lines while a slow consumer takes them, one at a time.
fn publishes_all(language: &str, file: &str, command: &[&str]) {
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    let arguments = json!({"x-max-length": 3, "x-overflow": "reject-publish"});
    guest.done(
        "PUT",
        "/api/queues/%2F/orders",
        &json!({"arguments": arguments}),
    );
    let folder =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("recipe-{language}"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(file), program(language)).unwrap();
    let (tool, arguments) = command.split_first().unwrap();
    let mut child = Command::new(tool)
        .args(arguments)
        .arg(file)
        .current_dir(&folder)
        .env("INGRESS_API", format!("http://{}/api", server.api()))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{tool} is needed for this test: {error}"));
    let lines: Vec<String> = (0..MESSAGES)
        .map(|number| format!("order {number}"))
        .collect();
    child
        .stdin
        .take()
        .unwrap()
        .write_all((lines.join("\n") + "\n").as_bytes())
        .unwrap();
    let mut received = Vec::new();
    let mut was_full = false;
    let deadline = Instant::now() + PATIENCE;
    while received.len() < MESSAGES {
        assert!(Instant::now() < deadline, "{received:?}");
        thread::sleep(Duration::from_millis(100));
        let queue = guest.get("/api/queues/%2F/orders");
        // Only a full queue is emptied, so that every client meets one.
        let missing = MESSAGES - received.len();
        if queue["messages"].as_u64() < Some(missing.min(3) as u64) {
            continue;
        }
        was_full = true;
        thread::sleep(Duration::from_millis(200));
        let fetch = json!({"count": 3, "ackmode": "ack_requeue_false", "encoding": "auto"});
        let answer = guest.call("POST", "/api/queues/%2F/orders/get", &fetch.to_string());
        let messages = answer.json();
        let payloads = messages.as_array().unwrap().iter();
        received.extend(payloads.map(|message| message["payload"].as_str().unwrap().to_owned()));
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(received, lines);
    assert!(was_full);
}

#[test]
fn the_python_client_waits_and_loses_nothing() {
    publishes_all("python", "publish.py", &["python3"]);
}

#[test]
fn the_javascript_client_waits_and_loses_nothing() {
    publishes_all("javascript", "publish.js", &["node"]);
}

#[test]
fn the_go_client_waits_and_loses_nothing() {
    publishes_all("go", "publish.go", &["go", "run"]);
}

#[test]
fn a_broker_in_the_same_environment_starts() {
    for language in ["python", "javascript", "go"] {
        let program = program(language);
        assert!(program.contains("INGRESS_LOGIN"), "{language}");
        assert!(!program.contains("LEVERET_"), "{language}");
    }
}
