//! What no transcript can hold: pipes that are closed, figures of this machine, and a broker's end.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use serde_json::Value;

use crate::leveret::Broker;

fn tool(name: &str, url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveretctl"));
    command.arg0(name).args(arguments).env_clear();
    command.env("LEVERETCTL_URL", url);
    command.env("HOME", std::env::temp_dir());
    command
}

fn run(name: &str, url: &str, arguments: &[&str]) -> Output {
    let output = tool(name, url, arguments).output();
    output.expect("leveretctl runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_closed_pipe_ends_every_tool_quietly() {
    let broker = Broker::start();
    let long: [(&str, &[&str]); 5] = [
        ("rabbitmqctl", &["help"]),
        ("rabbitmqctl", &["report"]),
        ("rabbitmqctl", &["list_feature_flags"]),
        ("rabbitmqadmin", &["help", "subcommands"]),
        ("leveretctl", &["completion", "bash"]),
    ];
    for (name, arguments) in long {
        // Nobody reads even the first line.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut child = tool(name, &broker.url, arguments);
        let output = child.stdout(writer).output().expect("leveretctl runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(errors, "", "{name} {arguments:?}");
    }
}

#[test]
fn a_node_is_described_without_passwords() {
    let broker = Broker::start();
    let status = run("rabbitmqctl", &broker.url, &["cluster_status"]);
    let text = stdout(&status);
    for part in [
        "Running Nodes\n\nrabbit@",
        "Network Partitions\n\n(none)\n",
        "protocol: amqp, purpose: AMQP 0-9-1",
        "Flag: rabbitmq_4.0.0, state: enabled",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let environment = run("rabbitmqctl", &broker.url, &["environment"]);
    let text = stdout(&environment);
    assert!(text.contains("{\"heartbeat_s\",60}"), "{text}");
    let report = run("rabbitmqctl", &broker.url, &["report"]);
    assert!(report.status.success());
    let text = stdout(&report);
    for part in [
        "Reporting server status of node rabbit@",
        "OS PID: ",
        "Listing policies for vhost \"/\" ...",
        "Exchanges on /:",
        "amq.topic",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains("password\",\"guest"), "{text}");
}

/// Long lists come packed, in pieces.
#[test]
fn a_list_of_several_packed_pieces_comes_whole() {
    const QUEUES: usize = 300;
    let broker = Broker::start();
    let queue = |number| serde_json::json!({"vhost": "/", "name": format!("q-{number}")});
    let queues: Vec<_> = (0..QUEUES).map(queue).collect();
    let file = std::env::temp_dir().join(format!("leveret-{}.json", broker.pid()));
    let text = serde_json::json!({ "queues": queues }).to_string();
    std::fs::write(&file, text).expect("a file");
    let name = file.display().to_string();
    let imported = run("leveretctl", &broker.url, &["definitions", "import", &name]);
    let _ = std::fs::remove_file(file);
    assert!(imported.status.success(), "{imported:?}");
    for arguments in [
        ["queue", "list", "-o", "json"],
        ["queue", "list", "-o", "ndjson"],
    ] {
        let listed = run("leveretctl", &broker.url, &arguments);
        assert!(listed.status.success(), "{listed:?}");
        let text = stdout(&listed);
        assert_eq!(text.matches("\"q-").count(), QUEUES, "{arguments:?}");
    }
    let listed = run("rabbitmqctl", &broker.url, &["-q", "list_queues", "name"]);
    let names = stdout(&listed)
        .lines()
        .filter(|line| line.starts_with("q-"))
        .count();
    assert_eq!(names, QUEUES);
}

#[test]
fn a_broker_is_stopped() {
    let mut broker = Broker::start();
    let pid = broker.pid().to_string();
    let file = std::env::temp_dir().join(format!("leveret-stop-{pid}.pid"));
    std::fs::write(&file, &pid).expect("a file");
    let name = file.display().to_string();
    let url = broker.url.clone();
    let stopped = std::thread::spawn(move || run("rabbitmqctl", &url, &["stop", &name]));
    assert!(broker.ended_well(), "it stops in order");
    let stopped = stopped.join().expect("the tool ends");
    let _ = std::fs::remove_file(file);
    assert!(stopped.status.success(), "{stopped:?}");
    let text = stdout(&stopped);
    assert!(
        text.starts_with("Stopping and halting node rabbit@") && text.ends_with(" ...\n"),
        "{text}"
    );
    assert_eq!(stopped.stderr, b"", "{stopped:?}");
}

#[test]
fn a_status_is_exact_for_programs_and_readable_for_people() {
    let broker = Broker::start();
    let status = run("leveretctl", &broker.url, &["status", "-o", "json"]);
    assert!(status.status.success(), "{status:?}");
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    let exact = [
        "/memory/used",
        "/memory/limit",
        "/disk/free",
        "/disk/limit",
        "/uptime_ms",
        "/queues",
        "/messages_ready",
    ];
    for field in exact {
        let number = status.pointer(field).and_then(Value::as_u64);
        assert!(number.is_some(), "{field} in {status}");
    }
    for field in ["/publish_rate", "/deliver_rate"] {
        let number = status.pointer(field).and_then(Value::as_f64);
        assert!(number.is_some(), "{field} in {status}");
    }
    // The same number as the API's own.
    let nodes = run("leveretctl", &broker.url, &["node", "list", "-o", "json"]);
    let nodes: Value = serde_json::from_slice(&nodes.stdout).expect("JSON");
    assert_eq!(status["memory"]["limit"], nodes[0]["mem_limit"]);
    assert_eq!(status["disk"]["limit"], nodes[0]["disk_free_limit"]);

    let people = stdout(&run("leveretctl", &broker.url, &["status"]));
    let shown = |field: &str| {
        let line = people.lines().find(|line| line.starts_with(field));
        let text = line.map(|line| line[field.len()..].trim());
        text.unwrap_or_else(|| panic!("{field} in {people}"))
            .to_owned()
    };
    for field in ["memory.used", "memory.limit", "disk.free", "disk.limit"] {
        let text = shown(field);
        let (number, unit) = text.split_once(' ').expect("a number and its unit");
        assert!(number.parse::<f64>().is_ok(), "{text}");
        assert!(
            ["bytes", "KiB", "MiB", "GiB", "TiB"].contains(&unit),
            "{text}"
        );
    }
    assert_eq!(shown("publish_rate"), "0.0");
    assert!(!people.contains("uptime_ms"), "{people}");
}

#[test]
fn a_broker_is_waited_for_and_shut_down() {
    let mut broker = Broker::start();
    let pid = broker.pid().to_string();
    let waited = run("rabbitmqctl", &broker.url, &["wait", "--pid", &pid]);
    assert!(waited.status.success(), "{waited:?}");
    let file = std::env::temp_dir().join(format!("leveret-{pid}.pid"));
    std::fs::write(&file, &pid).expect("a file");
    let name = file.display().to_string();
    let waited = run("rabbitmqctl", &broker.url, &["wait", &name]);
    assert!(waited.status.success(), "{waited:?}");
    let url = broker.url.clone();
    let ended = std::thread::spawn(move || run("rabbitmqctl", &url, &["shutdown"]));
    assert!(broker.ended_well(), "it stops in order");
    let ended = ended.join().expect("the tool ends");
    let text = stdout(&ended);
    assert!(ended.status.success(), "{ended:?}");
    assert!(
        text.contains(&format!("running at PID {pid} successfully shut down")),
        "{text}"
    );
    let _ = std::fs::remove_file(file);
    let gone = run("rabbitmqctl", &broker.url, &["stop", "--idempotent"]);
    assert!(gone.status.success(), "{gone:?}");
    let gone = run("rabbitmqctl", &broker.url, &["stop"]);
    assert_eq!(gone.status.code(), Some(69), "{gone:?}");
}
