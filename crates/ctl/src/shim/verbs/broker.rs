//! Policies, queues, connections, definitions and the broker itself.

use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Request;
use crate::commands::definitions::{read, write_private};
use crate::failure::Kind;
use crate::shim::lists::{connection_pid, fixed};
use crate::shim::{Outcome, Shim, Stop, exit};

const POLICY_COLUMNS: &[&str] = &[
    "vhost",
    "name",
    "pattern",
    "apply-to",
    "definition",
    "priority",
];

pub(super) fn set_policy(shim: &Shim) -> Outcome {
    put_policy(shim, "policies", "policy")
}

pub(super) fn set_operator_policy(shim: &Shim) -> Outcome {
    put_policy(shim, "operator-policies", "operator policy override")
}

fn put_policy(shim: &Shim, path: &str, noun: &str) -> Outcome {
    let (name, pattern, text) = (shim.argument(0), shim.argument(1), shim.argument(2));
    let vhost = shim.vhost();
    let priority = shim.invocation.option("priority").unwrap_or("0");
    shim.banner(&format!(
        "Setting {noun} \"{name}\" for pattern \"{pattern}\" to \"{text}\" with priority \
         \"{priority}\" for vhost \"{vhost}\" ..."
    ));
    let definition: Value = serde_json::from_str(text).map_err(|error| {
        Stop::error(
            exit::UNAVAILABLE,
            &format!("JSON decoding error. Reason: {error}"),
        )
    })?;
    let priority: i64 = priority.parse().map_err(|_| {
        Stop::error(
            exit::UNAVAILABLE,
            &format!("\"{priority}\" is not a priority"),
        )
    })?;
    let body = json!({
        "pattern": pattern,
        "definition": definition,
        "priority": priority,
        "apply-to": shim.invocation.option("apply-to").unwrap_or("all"),
    });
    shim.change(&Request::put(&[path, vhost, name], body))?;
    Ok(())
}

pub(super) fn clear_policy(shim: &Shim) -> Outcome {
    delete_policy(shim, "policies", "policy")
}

pub(super) fn clear_operator_policy(shim: &Shim) -> Outcome {
    delete_policy(shim, "operator-policies", "operator policy")
}

fn delete_policy(shim: &Shim, path: &str, noun: &str) -> Outcome {
    let (name, vhost) = (shim.argument(0), shim.vhost());
    shim.banner(&format!(
        "Clearing {noun} \"{name}\" on vhost \"{vhost}\" ..."
    ));
    let deleted = shim.change(&Request::delete(&[path, vhost, name]));
    deleted.map(drop).map_err(|failure| match failure.kind {
        Kind::NotFound => Stop::error(exit::UNAVAILABLE, "Parameter does not exist"),
        _ => failure.into(),
    })
}

pub(super) fn list_policies(shim: &Shim) -> Outcome {
    let vhost = shim.vhost();
    shim.banner(&format!("Listing policies for vhost \"{vhost}\" ..."));
    fixed(shim, &shim.get(&["policies", vhost])?, POLICY_COLUMNS)
}

pub(super) fn list_operator_policies(shim: &Shim) -> Outcome {
    let vhost = shim.vhost();
    shim.banner(&format!(
        "Listing operator policy overrides for vhost \"{vhost}\" ..."
    ));
    fixed(
        shim,
        &shim.get(&["operator-policies", vhost])?,
        POLICY_COLUMNS,
    )
}

pub(super) fn delete_queue(shim: &Shim) -> Outcome {
    let (name, vhost) = (shim.argument(0), shim.vhost());
    let (empty, unused) = (
        shim.invocation.has("if-empty"),
        shim.invocation.has("if-unused"),
    );
    let when = match (empty, unused) {
        (false, false) => "",
        (true, false) => " if queue is empty",
        (false, true) => " if queue is unused",
        (true, true) => " if queue is empty and if queue is unused",
    };
    shim.banner(&format!(
        "Deleting queue '{name}' on vhost '{vhost}'{when} ..."
    ));
    let path = ["queues", vhost, name];
    let queue = shim.get(&path).map_err(|failure| match failure.kind {
        Kind::NotFound => Stop::error(exit::USAGE, "Queue not found"),
        _ => failure.into(),
    })?;
    let request = Request::delete(&path)
        .flag("if-empty", empty)
        .flag("if-unused", unused);
    shim.change(&request)
        .map_err(|failure| match failure.kind {
            Kind::Refused if failure.text.contains("in use") => {
                Stop::error(exit::USAGE, "Queue is in use")
            }
            Kind::Refused if failure.text.contains("not empty") => {
                Stop::error(exit::USAGE, "Queue is not empty")
            }
            _ => failure.into(),
        })?;
    let ready = queue["messages_ready"].as_u64().unwrap_or_default();
    shim.banner(&format!(
        "Queue was successfully deleted with {ready} ready messages"
    ));
    Ok(())
}

pub(super) fn purge_queue(shim: &Shim) -> Outcome {
    let (name, vhost) = (shim.argument(0), shim.vhost());
    shim.banner(&format!("Purging queue '{name}' in vhost '{vhost}' ..."));
    let purged = shim.change(&Request::delete(&["queues", vhost, name, "contents"]));
    purged.map(drop).map_err(|failure| match failure.kind {
        Kind::NotFound => Stop::error(exit::UNAVAILABLE, "not_found"),
        _ => failure.into(),
    })
}

pub(super) fn close_connection(shim: &Shim) -> Outcome {
    let (pid, reason) = (shim.argument(0), shim.argument(1));
    shim.banner(&format!("Closing connection {pid}, reason: {reason}..."));
    // As in RabbitMQ, a connection that is not there any more is closed.
    close(shim, reason, |row| {
        connection_pid(row) == pid || row["name"] == pid
    })?;
    Ok(())
}

pub(super) fn close_all_connections(shim: &Shim) -> Outcome {
    let reason = shim.argument(0);
    let vhost = shim.vhost();
    let everywhere = shim.invocation.has("global");
    if everywhere {
        shim.banner(&format!(
            "Closing all connections to the broker, reason: {reason}..."
        ));
    } else {
        shim.banner(&format!(
            "Closing all connections in vhost {vhost}, reason: {reason}..."
        ));
    }
    let closed = close(shim, reason, |row| everywhere || row["vhost"] == vhost)?;
    shim.banner(&format!("Closed {closed} connections"));
    Ok(())
}

pub(super) fn close_all_user_connections(shim: &Shim) -> Outcome {
    let (user, reason) = (shim.argument(0), shim.argument(1));
    shim.banner(&format!(
        "Closing connections of user {user}, reason: {reason}..."
    ));
    close(shim, reason, |row| row["user"] == user)?;
    Ok(())
}

/// Closes connections, and counts them.
fn close(shim: &Shim, reason: &str, wanted: impl Fn(&Value) -> bool) -> Result<usize, Stop> {
    let number = |name: &str| {
        let text = shim.invocation.option(name).unwrap_or("0");
        let wrong = || Stop::error(exit::USAGE, &format!("--{name} {text} is not a number"));
        text.parse::<u64>().map_err(|_| wrong())
    };
    let (limit, delay_ms) = (number("limit")?, number("per-connection-delay")?);
    let rows = shim.get(&["connections"])?;
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    let most = if limit == 0 {
        usize::MAX
    } else {
        usize::try_from(limit).unwrap_or(usize::MAX)
    };
    let mut closed = 0;
    for row in rows.iter().filter(|row| wanted(row)).take(most) {
        let name = row["name"].as_str().unwrap_or_default();
        let request = Request::delete(&["connections", name]).header("x-reason", reason);
        match shim.change(&request) {
            Err(failure) if failure.kind != Kind::NotFound => return Err(failure.into()),
            _ => closed += 1,
        }
        thread::sleep(Duration::from_millis(delay_ms));
    }
    Ok(closed)
}

pub(super) fn stop_app(shim: &Shim) -> Outcome {
    let node = shim.node()?;
    shim.banner(&format!("Stopping rabbit application on node {node} ..."));
    shim.change(&Request::put(&["x", "app"], json!({"running": false})))?;
    Ok(())
}

pub(super) fn start_app(shim: &Shim) -> Outcome {
    let node = shim.node()?;
    shim.banner(&format!("Starting node {node} ..."));
    shim.change(&Request::put(&["x", "app"], json!({"running": true})))?;
    Ok(())
}

pub(super) fn set_vm_memory_high_watermark(shim: &Shim) -> Outcome {
    let arguments: Vec<&str> = shim
        .invocation
        .arguments
        .iter()
        .map(String::as_str)
        .collect();
    let (value, shown): (Value, String) = match arguments.as_slice() {
        ["absolute", size] => (fraction_of(shim, size)?.into(), format!("{size} bytes")),
        [fraction] => {
            let parsed = fraction.parse::<f64>().ok();
            let parsed = parsed.filter(|fraction| (0.0..=1.0).contains(fraction));
            let parsed = parsed.ok_or_else(|| wrong_watermark(shim))?;
            (parsed.into(), (*fraction).to_owned())
        }
        _ => return Err(wrong_watermark(shim)),
    };
    shim.banner(&format!(
        "Setting memory threshold on {} to {shown} ...",
        shim.node()?
    ));
    let request = Request::put(
        &["x", "settings", "vm_memory_high_watermark"],
        json!({"value": value}),
    );
    shim.change(&request)?;
    Ok(())
}

/// A size as a fraction of the memory there is, which is how the setting is kept.
fn fraction_of(shim: &Shim, size: &str) -> Result<f64, Stop> {
    const UNITS: &[(&str, f64)] = &[
        ("GiB", 1_073_741_824.0),
        ("MiB", 1_048_576.0),
        ("kiB", 1024.0),
        ("GB", 1e9),
        ("MB", 1e6),
        ("kB", 1e3),
        ("", 1.0),
    ];
    let unit = UNITS.iter().find(|(unit, _)| size.ends_with(unit));
    let (unit, factor) = unit.copied().unwrap_or(("", 1.0));
    let number = size[..size.len() - unit.len()].parse::<f64>();
    let bytes = number.map_err(|_| wrong_watermark(shim))? * factor;
    let current = shim.get(&["x", "settings", "vm_memory_high_watermark"])?;
    let node = shim.get(&["nodes", &shim.node()?])?;
    let total = node["mem_limit"].as_f64().unwrap_or_default()
        / current["value"].as_f64().unwrap_or_default();
    let fraction = bytes / total;
    if (0.0..=1.0).contains(&fraction) {
        return Ok(fraction);
    }
    Err(wrong_watermark(shim))
}

fn wrong_watermark(shim: &Shim) -> Stop {
    let text = format!(
        "Error (argument validation): Bad argument: The threshold should be a fraction between \
         0.0 and 1.0\nArguments given:\n\t{}",
        shim.invocation.given.join(" ")
    );
    Stop::new(exit::DATA, text)
}

pub(super) fn export_definitions(shim: &Shim) -> Outcome {
    let path = shim.argument(0);
    let definitions = shim.get(&["definitions"])?.to_string();
    if path == "-" {
        println!("{definitions}");
        return Ok(());
    }
    shim.banner(&format!(
        "Exporting definitions in JSON to a file at \"{path}\" ..."
    ));
    Ok(write_private(path, definitions.as_bytes())?)
}

pub(super) fn import_definitions(shim: &Shim) -> Outcome {
    let path = shim
        .invocation
        .arguments
        .first()
        .map_or("-", String::as_str);
    if path != "-" && !Path::new(path).exists() {
        let text = format!(
            "Error (argument validation): Bad argument: File {path} does not exist\n\
             Arguments given:\n\t{}",
            shim.invocation.given.join(" ")
        );
        return Err(Stop::new(exit::DATA, text));
    }
    if path == "-" {
        shim.banner("Importing definitions in JSON from standard input ...");
    } else {
        shim.banner(&format!(
            "Importing definitions in JSON from a file at \"{path}\" ..."
        ));
    }
    let text = read(path)?;
    let definitions: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|error| Stop::error(exit::DATA, &format!("{path} is not JSON: {error}")))?;
    shim.change(&Request::post(&["definitions"], definitions))?;
    shim.banner("Successfully imported definitions.");
    Ok(())
}

pub(super) fn set_cluster_name(shim: &Shim) -> Outcome {
    let name = shim.argument(0);
    shim.banner(&format!("Setting cluster name to {name} ..."));
    shim.change(&Request::put(&["cluster-name"], json!({"name": name})))?;
    Ok(())
}
