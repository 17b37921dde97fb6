//! What no transcript can hold: pipes that are closed, figures of this machine, and a broker's end.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};

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
        let mut child = tool(name, &broker.url, arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("leveretctl starts");
        // Nobody reads even the first line.
        drop(child.stdout.take());
        let mut errors = String::new();
        let mut pipe = child.stderr.take().expect("its errors are a pipe");
        pipe.read_to_string(&mut errors).expect("text");
        child.wait().expect("it ends");
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
