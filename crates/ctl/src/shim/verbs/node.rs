//! The node: its cluster of one, feature flags, settings, waiting for it, and its end.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{broker, limits, parameters};
use crate::client::Request;
use crate::failure::{Failure, Kind};
use crate::shim::erlang::Term;
use crate::shim::lists::{self, fixed};
use crate::shim::{Outcome, Shim, Stop, exit, health};

/// RabbitMQ waits this long for a node if not told otherwise.
const WAIT_DEFAULT: Duration = Duration::from_secs(10);
/// A broker that was asked to stop has this long.
const STOP_DEFAULT: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(100);

pub(super) fn cluster_status(shim: &Shim) -> Outcome {
    let overview = shim.get(&["overview"])?;
    let nodes = shim.get(&["nodes"])?;
    let node = overview["node"].as_str().unwrap_or_default();
    let found = nodes.as_array().into_iter().flatten();
    let processors: u64 = found.filter_map(|node| node["processors"].as_u64()).sum();
    let flags = shim.get(&["feature-flags"])?;
    if shim.invocation.is_for_machines() {
        let versions = json!({"rabbitmq_version": overview["rabbitmq_version"]});
        let status = json!({
            "cluster_name": overview["cluster_name"], "cluster_tags": [],
            "cpu_cores": {node: processors},
            "disk_nodes": [node], "ram_nodes": [], "running_nodes": [node],
            "versions": {node: versions}, "partitions": {}, "alarms": health::active_alarms(shim)?,
            "feature_flags": flags,
        });
        println!("{status}");
        return Ok(());
    }
    shim.banner(&format!("Cluster status of node {node} ..."));
    let name = overview["cluster_name"].as_str().unwrap_or(node);
    println!("Basics\n\nCluster name: {name}");
    println!("Total CPU cores available cluster-wide: {processors}");
    println!("\nCluster Tags\n\n(none)\n\nDisk Nodes\n\n{node}\n\nRunning Nodes\n\n{node}");
    let version = overview["rabbitmq_version"].as_str().unwrap_or_default();
    let product = overview["product_name"].as_str().unwrap_or("RabbitMQ");
    println!("\nVersions\n\n{node}: {product} {version}");
    println!("\nCPU Cores\n\nNode: {node}, available CPU cores: {processors}");
    println!("\nMaintenance status\n\nNode: {node}, status: not under maintenance");
    println!("\nAlarms\n");
    health::print_alarms(shim, node)?;
    println!("\nNetwork Partitions\n\n(none)\n\nListeners\n");
    health::print_listeners(shim)?;
    println!("\nFeature flags\n");
    for flag in flags.as_array().into_iter().flatten() {
        let text = |name: &str| flag[name].as_str().unwrap_or_default().to_owned();
        println!("Flag: {}, state: {}", text("name"), text("state"));
    }
    Ok(())
}

const FLAG_COLUMNS: &[&str] = &[
    "name",
    "state",
    "stability",
    "provided_by",
    "desc",
    "doc_url",
];

pub(super) fn list_feature_flags(shim: &Shim) -> Outcome {
    let asked = &shim.invocation.arguments;
    if let Some(bad) = asked
        .iter()
        .find(|name| !FLAG_COLUMNS.contains(&name.as_str()))
    {
        let given = shim.invocation.given.join(" ");
        let text = format!(
            "Error (argument validation): Info key(s) {bad} are not supported\n\
             Arguments given:\n\t{given}"
        );
        return Err(Stop::new(exit::USAGE, text));
    }
    shim.banner("Listing feature flags ...");
    let wanted = |column: &&&str| {
        asked.iter().any(|name| name == **column)
            || (asked.is_empty() && ["name", "state"].contains(*column))
    };
    let columns: Vec<&'static str> = FLAG_COLUMNS.iter().filter(wanted).copied().collect();
    fixed(shim, &shim.get(&["feature-flags"])?, &columns)
}

pub(super) fn enable_feature_flag(shim: &Shim) -> Outcome {
    let flag = shim.argument(0);
    let flags = shim.get(&["feature-flags"])?;
    let named = |row: &&Value| flag == "all" || row["name"] == flag;
    let mut found = flags
        .as_array()
        .into_iter()
        .flatten()
        .filter(named)
        .peekable();
    if flag == "all" {
        shim.banner("Enabling all feature flags ...");
    } else {
        shim.banner(&format!("Enabling feature flag \"{flag}\" ..."));
    }
    if found.peek().is_none() {
        let node = shim.node()?;
        let text = format!("This feature flag is not supported by node {node}");
        return Err(Stop::error(exit::USAGE, &text));
    }
    for row in found.filter(|row| row["state"] != "enabled") {
        let name = row["name"].as_str().unwrap_or_default();
        shim.change(&Request::put(
            &["feature-flags", name, "enable"],
            json!({"name": name}),
        ))?;
    }
    Ok(())
}

/// Every setting, as the environment of one application.
pub(super) fn environment(shim: &Shim) -> Outcome {
    let node = shim.node()?;
    let settings = shim.get(&["x", "config", "effective"]);
    let settings = settings.map_err(|failure| match failure.kind {
        Kind::NotFound => Failure::new(
            Kind::Failed,
            "this broker does not show its settings over HTTP",
        ),
        _ => failure,
    })?;
    shim.banner(&format!("Application environment of node {node} ..."));
    let environment = json!({"rabbit": settings});
    if shim.invocation.is_for_machines() {
        println!("{environment}");
    } else {
        println!("{}", Term::table(&environment));
    }
    Ok(())
}

/// Everything a helper would ask for; passwords are in none of it.
pub(super) fn report(shim: &Shim) -> Outcome {
    let node = shim.node()?;
    shim.banner(&format!("Reporting server status of node {node} ...\n"));
    health::status(shim)?;
    println!();
    cluster_status(shim)?;
    println!();
    environment(shim)?;
    println!("\nConnections:");
    lists::CONNECTIONS.run(shim, "")?;
    println!("\nChannels:");
    lists::CHANNELS.run(shim, "")?;
    println!();
    limits::list_vhost(shim)?;
    parameters::list(shim)?;
    broker::list_policies(shim)?;
    broker::list_operator_policies(shim)?;
    let vhost = shim.vhost();
    lists::QUEUES.run(shim, &format!("\nQueues on {vhost}:"))?;
    lists::EXCHANGES.run(shim, &format!("\nExchanges on {vhost}:"))?;
    lists::BINDINGS.run(shim, &format!("\nBindings on {vhost}:"))?;
    lists::CONSUMERS.run(shim, &format!("\nConsumers on {vhost}:"))
}

pub(super) fn wait(shim: &Shim) -> Outcome {
    let limit = shim.invocation.timeout.map(Duration::from_secs_f64);
    let deadline = Instant::now() + limit.unwrap_or(WAIT_DEFAULT);
    let given = (
        shim.invocation.option("pid"),
        shim.invocation.arguments.first(),
    );
    let pid = match given {
        (Some(pid), None) => pid.to_owned(),
        (None, Some(file)) => {
            shim.banner(&format!("Waiting for pid file '{file}' to appear"));
            let pid = poll(deadline, || Ok(pid_in(file)))?;
            shim.banner(&format!("pid is {pid}"));
            pid
        }
        (None, None) => {
            let text = "Error (argument validation): No PID or PID file specified";
            return Err(Stop::new(exit::USAGE, text));
        }
        (Some(_), Some(_)) => {
            let text = "Error (argument validation): Cannot specify both pid and pidfile";
            return Err(Stop::new(exit::USAGE, text));
        }
    };
    shim.banner(&format!(
        "Waiting for the broker while OS process '{pid}' is running"
    ));
    poll(deadline, || {
        if !is_alive(&pid) {
            let text = "process_not_running";
            return Err(Stop::error(exit::UNAVAILABLE, text));
        }
        Ok(health::is_running(shim).unwrap_or(false).then_some(()))
    })?;
    shim.banner("Applications 'rabbit_and_plugins' are running");
    Ok(())
}

/// Asks again and again until there is something.
fn poll<T>(deadline: Instant, ask: impl Fn() -> Result<Option<T>, Stop>) -> Result<T, Stop> {
    loop {
        if let Some(found) = ask()? {
            return Ok(found);
        }
        if Instant::now() + STEP > deadline {
            let text = "Error: operation wait timed out";
            return Err(Stop::new(exit::TEMPORARY, text));
        }
        thread::sleep(STEP);
    }
}

fn pid_in(file: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let pid = text.trim();
    pid.parse::<u32>().is_ok().then(|| pid.to_owned())
}

fn is_alive(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

pub(super) fn stop(shim: &Shim) -> Outcome {
    let node = match shim.node() {
        Ok(node) => node,
        Err(failure) if shim.invocation.has("idempotent") && failure.kind == Kind::Unreachable => {
            println!("The broker is no longer running");
            return Ok(());
        }
        Err(failure) => return Err(failure.into()),
    };
    shim.banner(&format!("Stopping and halting node {node} ..."));
    end(shim)?;
    match shim.invocation.arguments.first() {
        Some(file) => await_end(shim, &pid_in(file).unwrap_or_default()),
        None => Ok(()),
    }
}

pub(super) fn shutdown(shim: &Shim) -> Outcome {
    let node = shim.node()?;
    let row = shim.get(&["nodes", &node])?;
    let pid = row["os_pid"].as_str().unwrap_or_default().to_owned();
    println!("Shutting down RabbitMQ node {node} running at PID {pid}");
    end(shim)?;
    if shim.invocation.has("no-wait") {
        return Ok(());
    }
    println!("Waiting for PID {pid} to terminate");
    await_end(shim, &pid)?;
    println!("RabbitMQ node {node} running at PID {pid} successfully shut down");
    Ok(())
}

/// Asks the process to end, as its signal TERM does.
fn end(shim: &Shim) -> Outcome {
    let ended = shim.change(&Request::delete(&["x", "app"]));
    ended.map(drop).map_err(|failure| match failure.kind {
        Kind::NotFound => {
            let text = "this broker cannot be stopped over HTTP";
            Stop::error(exit::UNAVAILABLE, text)
        }
        _ => failure.into(),
    })
}

/// Until the process is gone, or, where it is another machine's, the API.
fn await_end(shim: &Shim, pid: &str) -> Outcome {
    let deadline = Instant::now() + STOP_DEFAULT;
    poll(deadline, || {
        let answers = shim.get(&["overview"]).is_ok();
        Ok((!answers && !is_alive(pid)).then_some(()))
    })
}
