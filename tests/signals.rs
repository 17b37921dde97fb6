//! Signals other than those that stop the broker, and what an operator sees of a start.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use leveret_codec::{Method, QueueDeclare};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use support::{Folder, PATIENCE, Server, eventually, leveret, message, run_to_end};

/// The lines of the log with this message, as many as there were before and one more.
fn next_line(server: &Server, message: &str, before: usize) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = server.log().into_iter();
        let lines = log.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        let mut lines = lines.filter(|line| line["message"].as_str() == Some(message));
        if let Some(line) = lines.nth(before) {
            return line;
        }
        assert!(
            Instant::now() < deadline,
            "no {message:?}: {:#?}",
            server.log()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

fn signal(server: &Server, signal: Signal) {
    kill_process(server.pid(), signal).expect("it runs");
}

/// A configuration file of its own, removed with its folder.
struct File {
    path: PathBuf,
    _folder: Folder,
}

impl File {
    fn new(text: &str) -> Self {
        let folder = Folder::new();
        std::fs::create_dir_all(folder.path()).unwrap();
        let path = folder.path().join("leveret.toml");
        std::fs::write(&path, text).unwrap();
        Self {
            path,
            _folder: folder,
        }
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn start(&self, folder: &Folder) -> Server {
        let mut command = leveret();
        command.args(["--config", self.path()]);
        Server::start_from(command, folder, &[])
    }
}

const CHANGED: &str = "SIGHUP: settings have changed";
const UNCHANGED: &str = "SIGHUP: no setting has changed that a running broker takes over";
const REFUSED: &str = "SIGHUP: the configuration is refused, nothing has changed";
const LATER: &str = "SIGHUP: these settings change with the next start only";

fn declare_is_refused(server: &Server, queue: &str) -> bool {
    let mut client = server.login();
    let queue = queue.as_bytes();
    client.method(
        1,
        QueueDeclare {
            queue,
            ..QueueDeclare::default()
        },
    );
    let answer = client.next();
    match answer.method() {
        Method::ChannelClose(close) => close.reply_code == 406,
        _ => false,
    }
}

#[test]
fn sighup_takes_over_what_it_can_and_says_what_and_why_not() {
    let file = File::new("[limits]\nqueues_max = 1\n");
    let folder = Folder::new();
    let server = file.start(&folder);
    assert!(!declare_is_refused(&server, "one"));
    assert!(declare_is_refused(&server, "two"));
    signal(&server, Signal::HUP);
    assert_eq!(next_line(&server, UNCHANGED, 0)["file"], file.path());

    file.write("[limits]\nqueues_max = 2\nresident_bytes = 1000000\n[log]\nlevel = 'debug'\n");
    signal(&server, Signal::HUP);
    let changed = json!([
        "limits.queues_max: 1 -> 2",
        "log.level: \"info\" -> \"debug\""
    ]);
    assert_eq!(next_line(&server, CHANGED, 0)["changed"], changed);
    let later = next_line(&server, LATER, 0);
    assert_eq!(later["level"], "WARN");
    assert_eq!(
        later["settings"],
        json!(["limits.resident_bytes: 0 -> 1000000"])
    );
    assert!(!declare_is_refused(&server, "two"));
    assert_eq!(
        next_line(&server, "connection accepted", 0)["level"],
        "DEBUG"
    );

    file.write("[limits]\nqueues_max = 0\nquues = 1\n");
    signal(&server, Signal::HUP);
    let refused = next_line(&server, REFUSED, 0);
    assert_eq!(refused["level"], "ERROR");
    let problems = refused["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2, "{refused}");
    assert!(
        problems[0]
            .as_str()
            .unwrap()
            .contains("leveret.toml:2: `limits.queues_max`")
    );
    assert!(
        declare_is_refused(&server, "three"),
        "what was in force still is"
    );
}

/// Lines about the end of connections, but for those that sum up.
fn endings(server: &Server) -> usize {
    let log = server.log().into_iter();
    let lines = log.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    let of_one = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        line["target"] == "leveret::endings" && !message.starts_with("more connections")
    };
    lines.filter(of_one).count()
}

/// Connections that say something else than AMQP.
fn strangers(server: &Server, count: usize) {
    for _ in 0..count {
        let mut client = server.connect();
        client.send_unwelcome(b"GET / HTTP/1.1\r\n\r\n");
        client.expect_end();
    }
}

/// A key of each kind that is taken over in a way of its own; those of the broker's limits are in
/// other tests.
#[test]
fn sighup_takes_effect_wherever_a_setting_is_kept() {
    let before = "[amqp]\nhandshake_timeout_ms = 60000\n\
                  [limits]\nlogin_failures_per_minute = 0\n[log]\nconnections_per_minute = 1\n";
    let file = File::new(before);
    let folder = Folder::new();
    let mut command = leveret();
    command.args(["--config", file.path()]);
    let api = [
        "management.listen=127.0.0.1:0",
        "management.metrics_listen=127.0.0.1:0",
    ];
    let server = Server::start_from(command, &folder, &api);
    let guest = server.http_as("guest", "guest");
    let guess = || {
        server
            .http_as("guest", "guess")
            .call("GET", "/api/whoami", "")
            .status
    };
    assert_eq!([(); 3].map(|()| guess()), [401; 3]);
    strangers(&server, 4);
    assert!(eventually(|| endings(&server) == 1));

    let after = "[amqp]\nhandshake_timeout_ms = 500\nloopback_users = ['guest', 'other']\n\
                 [default]\npassword_hashing = 'sha512'\n\
                 [limits]\nlogin_failures_per_minute = 1\nmemory_high_watermark_bytes = 1000000\n\
                 [log]\nconnections_per_minute = 0\n";
    file.write(after);
    signal(&server, Signal::HUP);
    assert_eq!(
        next_line(&server, CHANGED, 0)["changed"]
            .as_array()
            .unwrap()
            .len(),
        6
    );
    let alarm = next_line(&server, "alarm: publishers are blocked", 0);
    assert!(alarm["memory_mark"].as_u64() <= Some(1_000_000), "{alarm}");
    strangers(&server, 4);
    assert!(eventually(|| endings(&server) == 5));
    server.connect().expect_end();
    let listed = guest.get("/api/x/settings/loopback_users");
    assert_eq!(listed["value"], json!(["guest", "other"]));
    let shown = guest.get("/api/x/config/effective");
    assert_eq!(shown["amqp"]["handshake_timeout_ms"], 500);
    guest.done("PUT", "/api/users/u", &json!({"password": "p", "tags": ""}));
    let user = guest.get("/api/users/u");
    assert_eq!(user["hashing_algorithm"], "rabbit_password_hashing_sha512");
    // From here on logins take turns.
    assert!(eventually(|| guess() == 503));
}

#[test]
fn limits_of_queues_that_exist_change_too() {
    let file = File::new("[limits]\nqueue_length_max = 2\n");
    let folder = Folder::new();
    let server = file.start(&folder);
    let mut client = server.login();
    client.declare(1, "q");
    for _ in 0..5 {
        client.send(&message(1, "q", 2, &[b"hi"]).concat());
    }
    while client.count(2, "q") < 2 {}
    file.write("[limits]\nqueue_length_max = 4\n");
    signal(&server, Signal::HUP);
    next_line(&server, CHANGED, 0);
    for _ in 0..5 {
        client.send(&message(1, "q", 2, &[b"hi"]).concat());
    }
    client.declare(1, "behind the publishes");
    assert_eq!(client.count(1, "q"), 4);
}

#[test]
fn sighup_imports_definitions_again() {
    let definitions = File::new(r#"{"vhosts": [{"name": "one"}]}"#);
    let path = definitions.path();
    let file = File::new(&format!("[management]\nload_definitions = '{path}'\n"));
    let folder = Folder::new();
    let server = file.start(&folder);
    definitions.write(
        r#"{"users": [{"name": "two", "password": "two", "tags": ""}],
        "vhosts": [{"name": "/"}], "permissions": [{"user": "two", "vhost": "/",
        "configure": ".*", "write": ".*", "read": ".*"}]}"#,
    );
    signal(&server, Signal::HUP);
    next_line(&server, "definitions imported", 1);
    server.login_as("two");
    definitions.write("{");
    signal(&server, Signal::HUP);
    let line = next_line(&server, "SIGHUP: definitions are not imported", 0);
    let problem = line["problem"].as_str().unwrap();
    assert!(
        problem.starts_with(&format!("management.load_definitions: {path}: ")),
        "{line}"
    );
}

#[test]
fn no_other_signal_ends_the_broker() {
    let mut server = Server::start();
    let mut client = server.login();
    client.declare(1, "q");
    for number in [
        Signal::USR1,
        Signal::USR2,
        Signal::PIPE,
        Signal::HUP,
        Signal::QUIT,
    ] {
        signal(&server, number);
    }
    next_line(&server, "a signal that means nothing here", 1);
    assert_eq!(next_line(&server, UNCHANGED, 0)["file"], "none");
    client.declare(1, "q");
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn sigquit_tells_what_the_broker_is_at() {
    let server = Server::start();
    let mut client = server.login();
    client.declare(1, "q");
    client.send(&message(1, "q", 2, &[b"hi"]).concat());
    while client.count(2, "q") < 1 {}
    signal(&server, Signal::QUIT);
    let process = next_line(&server, "state: process", 0);
    assert!(process["memory_used"].is_u64(), "{process}");
    assert_eq!(process["alarms"], json!([]));
    let broker = next_line(&server, "state: broker", 0);
    assert_eq!(
        (&broker["connections"], &broker["queues"]),
        (&1.into(), &1.into())
    );
    let queue = next_line(&server, "state: queue", 0);
    assert_eq!((&queue["queue"], &queue["ready"]), (&"q".into(), &1.into()));
    let connection = next_line(&server, "state: connection", 0);
    assert_eq!(
        (&connection["user"], &connection["channels"]),
        (&"guest".into(), &2.into())
    );
}

/// Runs the binary until it ends by itself.
fn run(variables: &[(&str, &str)], settings: &[&str]) -> (Output, Vec<Value>) {
    let folder = Folder::new();
    let mut command = leveret();
    command
        .envs(variables.iter().copied())
        .args(["--log-format", "json", "--data-dir"]);
    command.arg(folder.path());
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    let output = run_to_end(&mut command);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    (output, lines.collect())
}

/// The only ERROR line of a start that fails.
fn error_of(variables: &[(&str, &str)], settings: &[&str]) -> String {
    let (output, lines) = run(variables, settings);
    assert_eq!(output.status.code(), Some(1));
    let errors: Vec<_> = lines
        .iter()
        .filter(|line| line["level"] == "ERROR")
        .collect();
    assert_eq!(errors.len(), 1, "{lines:#?}");
    errors[0]["error"].as_str().expect("an error").to_owned()
}

const NO_HTTP: [&str; 2] = ["management.listen=[]", "management.metrics_listen=[]"];

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let amqp = format!("amqp.listen=[\"{address}\"]");
    let error = error_of(&[], &[&NO_HTTP[..], &[&amqp]].concat());
    let start = format!("amqp.listen: cannot listen on {address}: Address already in use");
    assert!(error.starts_with(&start), "{error}");
    let metrics = format!("management.metrics_listen=[\"{address}\"]");
    let settings = ["amqp.listen=127.0.0.1:0", "management.listen=[]", &metrics];
    let error = error_of(&[], &settings);
    assert!(
        error.starts_with("management.metrics_listen: cannot listen on"),
        "{error}"
    );
}

#[test]
fn definitions_that_are_missing_name_their_key() {
    let missing = "management.load_definitions=/nowhere/at/all.json";
    let error = error_of(
        &[],
        &[&NO_HTTP[..], &["amqp.listen=127.0.0.1:0", missing]].concat(),
    );
    let start = "management.load_definitions: /nowhere/at/all.json: No such file";
    assert!(error.starts_with(start), "{error}");
}

#[test]
fn the_default_password_from_elsewhere_stops_the_start() {
    let everywhere = [&NO_HTTP[..], &["amqp.listen=0.0.0.0:0"]].concat();
    let open = [&everywhere[..], &["amqp.loopback_users=[]"]].concat();
    let error = error_of(&[], &open);
    let start = "user `guest` has the default password, which works from other machines";
    assert!(error.starts_with(start), "{error}");
    assert!(error.contains("auth.allow_default_password"), "{error}");
    let error = error_of(&[("RABBITMQ_DEFAULT_USER", "shop")], &everywhere);
    assert!(
        error.starts_with("user `shop` has the default password"),
        "{error}"
    );
    let over_http = ["amqp.listen=127.0.0.1:0", "amqp.loopback_users=[]"];
    let error = error_of(&[], &over_http);
    assert!(error.starts_with(start), "{error}");
}

/// The broker in a folder that the test has seen fill, with its AMQP port open to everybody.
fn start_open(folder: &Folder, settings: &[&str], variables: &[(&str, &str)]) -> Server {
    let mut command = leveret();
    command.envs(variables.iter().copied());
    let open = [&["amqp.listen=0.0.0.0:0"], settings].concat();
    Server::start_from(command, folder, &open)
}

#[test]
fn passwords_that_are_not_the_default_start_and_the_default_where_it_is_allowed() {
    let folder = Folder::new();
    let docker = [
        ("RABBITMQ_DEFAULT_USER", "shop"),
        ("RABBITMQ_DEFAULT_PASS", "shop"),
    ];
    start_open(&folder, &[], &docker).login_as("shop");
    start_open(&folder, &["amqp.loopback_users=[]"], &docker);
    let folder = Folder::new();
    start_open(&folder, &[], &[]).login();
    let allowed = ["amqp.loopback_users=[]", "auth.allow_default_password=true"];
    let server = start_open(&folder, &allowed, &[]);
    server.login();
    let line = next_line(&server, "the default password is allowed", 0);
    assert_eq!(line["level"], "WARN");
}

#[test]
fn a_password_that_is_the_default_in_the_data_folder_counts_too() {
    let folder = Folder::new();
    drop(start_open(&folder, &[], &[]));
    let mut command = leveret();
    command
        .args(["--log-format", "json", "--data-dir"])
        .arg(folder.path());
    let open = [
        "amqp.loopback_users=[]",
        "amqp.listen=0.0.0.0:0",
        "default.password=other",
    ];
    let settings = [&NO_HTTP[..], &open].concat();
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    let output = run_to_end(&mut command);
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        log.contains("user `guest` has the default password"),
        "{log}"
    );
}

#[test]
fn variables_of_rabbitmq_work_or_are_named() {
    let secret = File::new("s3cret\n");
    let mut command = leveret();
    command.envs([
        ("RABBITMQ_DEFAULT_USER", "shop"),
        ("RABBITMQ_DEFAULT_PASS_FILE", secret.path()),
        ("RABBITMQ_NODENAME", "hare"),
        ("RABBITMQ_VM_MEMORY_HIGH_WATERMARK", "40%"),
        ("RABBITMQ_ERLANG_COOKIE", "monster"),
        ("RABBITMQ_NODE_PORT", "5673"),
        ("RABBITMQ_SERVICE_HOST", "10.0.0.1"),
        ("RABBITMQ_PORT_5672_TCP", "tcp://10.0.0.1:5672"),
    ]);
    let folder = Folder::new();
    let http = [
        r#"management.listen=["127.0.0.1:0"]"#,
        r#"management.metrics_listen=["127.0.0.1:0"]"#,
    ];
    let server = Server::start_from(command, &folder, &http);
    let line = next_line(&server, "these variables of RabbitMQ's have no effect", 0);
    let named = json!(["RABBITMQ_ERLANG_COOKIE", "RABBITMQ_NODE_PORT"]);
    assert_eq!(
        (&line["level"], &line["variables"]),
        (&"WARN".into(), &named)
    );
    assert!(!server.log().join("").contains("monster"));
    let shop = server.http_as("shop", "s3cret");
    let node = &shop.get("/api/nodes")[0];
    assert!(
        node["name"].as_str().unwrap().starts_with("hare@"),
        "{}",
        node["name"]
    );
    let settings = shop.get("/api/x/config/effective");
    assert_eq!(settings["limits"]["memory_high_watermark"], 0.4);
}
