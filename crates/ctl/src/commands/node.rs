//! `leveretctl overview`, `status`, `whoami`, `node`, `health`, `alarm`, `cluster-name`.

use std::thread;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde_json::{Value, json};

use super::binding::array;
use super::exchange::only_leveret;
use crate::arguments::duration;
use crate::client::Request;
use crate::failure::{Failure, Kind, Result};
use crate::output::Format;
use crate::session::Session;

const COLUMNS: &[&str] = &[
    "name",
    "running",
    "uptime",
    "mem_used",
    "mem_limit",
    "mem_alarm",
    "disk_free",
    "disk_free_limit",
    "disk_free_alarm",
    "fd_used",
    "sockets_used",
];

/// The check that says that clients are served; versions of RabbitMQ lack it.
const READY: &str = "ready-to-serve-clients";
/// Checks that `health all` asks for.
const CHECKS: &[&str] = &[
    READY,
    "alarms",
    "local-alarms",
    "virtual-hosts",
    "node-is-quorum-critical",
];

/// Time between two looks of `health wait`.
const WAIT_STEP: Duration = Duration::from_millis(200);

/// Commands on nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Nodes with their resources
    List,
    /// Everything about one node
    Show { name: String },
    /// What a node's memory is used for
    Memory { name: String },
}

impl NodeCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::List => session.list(&["nodes"], false, COLUMNS),
            Self::Show { name } => {
                let node = session.get(&["nodes", &name], &format!("node `{name}`"))?;
                session.output.object(&node)
            }
            Self::Memory { name } => {
                let what = format!("node `{name}`");
                session
                    .output
                    .object(&session.get(&["nodes", &name, "memory"], &what)?)
            }
        }
    }
}

/// Health checks; one that fails ends with exit code 11.
#[derive(Debug, Subcommand)]
pub(crate) enum HealthCommand {
    /// One check: ready-to-serve-clients, alarms, virtual-hosts, port-listener/5672
    Check { check: String },
    /// Every check that needs no argument
    All,
    /// Wait until the broker serves clients
    Wait {
        /// Give up after this long
        #[arg(long, default_value = "60s", value_parser = duration)]
        r#for: Duration,
    },
}

impl HealthCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::Check { check } => conclude(session, vec![Checked::of(session, &check)?]),
            Self::All => {
                let checked = CHECKS.iter().map(|check| Checked::if_known(session, check));
                conclude(session, checked.collect::<Result<_>>()?)
            }
            Self::Wait { r#for } => wait(session, r#for),
        }
    }
}

/// What came of a check.
struct Checked {
    failed: bool,
    row: Value,
}

impl Checked {
    fn of(session: &Session, check: &str) -> Result<Self> {
        let mut path = vec!["health", "checks"];
        path.extend(check.split('/'));
        let answer = session.client.send(&Request::get(&path))?;
        match answer.status {
            200 | 503 => {}
            status => return Err(Failure::from_answer(status, &answer.body, check)),
        }
        let (status, reason) = (&answer.body["status"], &answer.body["reason"]);
        Ok(Self {
            failed: answer.status == 503,
            row: json!({"check": check, "status": status, "reason": reason}),
        })
    }

    /// The same, where the broker may lack the check that says that it is ready.
    fn if_known(session: &Session, check: &str) -> Result<Self> {
        match Self::of(session, check) {
            Err(failure) if check == READY && failure.kind == Kind::NotFound => Ok(Self {
                failed: false,
                row: json!({"check": check, "status": "unknown", "reason": "no such check"}),
            }),
            checked => checked,
        }
    }
}

fn conclude(session: &Session, checked: Vec<Checked>) -> Result<()> {
    let failed: Vec<String> = checked
        .iter()
        .filter(|checked| checked.failed)
        .filter_map(|checked| checked.row["check"].as_str().map(str::to_owned))
        .collect();
    let rows = checked.into_iter().map(|checked| checked.row).collect();
    session.output.rows(rows, &["check", "status", "reason"])?;
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Unhealthy,
        format!("unhealthy: {}", failed.join(", ")),
    ))
}

fn wait(session: &Session, longest: Duration) -> Result<()> {
    let deadline = Instant::now() + longest;
    loop {
        let last = match ready(session) {
            Ok(()) => {
                session.output.say("broker is ready");
                return Ok(());
            }
            Err(failure) if failure.kind == Kind::Unauthorised => return Err(failure),
            Err(failure) => failure,
        };
        if Instant::now() + WAIT_STEP > deadline {
            return Err(Failure::new(Kind::Timeout, format!("not ready: {last}")));
        }
        thread::sleep(WAIT_STEP);
    }
}

/// Whether clients are served. A broker that has no check for it is asked for its virtual hosts.
fn ready(session: &Session) -> Result<()> {
    let ask = |check: &str| {
        session
            .get(&["health", "checks", check], "broker")
            .map(drop)
    };
    match ask(READY) {
        Err(failure) if failure.kind == Kind::NotFound => ask("virtual-hosts"),
        answered => answered,
    }
}

/// Alarms; setting them by hand needs Leveret.
#[derive(Debug, Subcommand)]
pub(crate) enum AlarmCommand {
    /// Alarms in effect
    List,
    /// Raise an alarm by hand, to see what clients do
    Set { name: String },
    /// Take an alarm raised by hand away
    Clear { name: String },
}

impl AlarmCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let named = |name: &str| format!("alarm `{name}`");
        let (request, what, done) = match self {
            Self::List => return alarms(session),
            Self::Set { name } => {
                let request = Request::put(&["x", "alarms", &name], json!({}));
                (request, named(&name), "set")
            }
            Self::Clear { name } => {
                let request = Request::delete(&["x", "alarms", &name]);
                (request, named(&name), "cleared")
            }
        };
        let applied = session.apply(&request, &what, done);
        applied.map_err(|failure| only_leveret(session, failure))
    }
}

/// Alarms of every node, as the nodes themselves tell.
fn alarms(session: &Session) -> Result<()> {
    let columns = ["name", "mem_alarm", "disk_free_alarm"];
    let nodes = session.get(&["nodes"], "nodes")?;
    let rows: Vec<Value> = array(nodes)
        .iter()
        .flat_map(|node| {
            let alarm = |field: &str, resource: &str| {
                let row = json!({"node": node["name"], "alarm": resource});
                (node[field] == true).then_some(row)
            };
            [alarm(columns[1], "memory"), alarm(columns[2], "disk")]
        })
        .flatten()
        .collect();
    session.output.rows(rows, &["node", "alarm"])
}

/// The state of the broker in a dozen lines.
pub(crate) fn status(session: &Session) -> Result<()> {
    let overview = session.get(&["overview"], "overview")?;
    let nodes = array(session.get(&["nodes"], "nodes")?);
    let node = nodes.iter().find(|node| node["name"] == overview["node"]);
    let node = node.cloned().unwrap_or_default();
    let rate = |field: &str| {
        let rate = crate::output::field(&overview, &format!("message_stats.{field}_details.rate"));
        rate.cloned().unwrap_or_else(|| json!(0.0))
    };
    let listeners: Vec<String> = array(overview["listeners"].clone())
        .iter()
        .map(|listener| {
            let protocol = listener["protocol"].as_str().unwrap_or_default();
            let address = listener["ip_address"].as_str().unwrap_or_default();
            format!("{protocol} {address}:{}", listener["port"])
        })
        .collect();
    let product = overview
        .get("product_name")
        .cloned()
        .unwrap_or_else(|| "RabbitMQ".into());
    let version = overview
        .get("product_version")
        .unwrap_or_else(|| &overview["rabbitmq_version"]);
    let totals = &overview["object_totals"];
    let mut status = json!({
        "product": product,
        "version": version,
        "node": overview["node"],
        "cluster_name": overview["cluster_name"],
        "uptime_ms": node["uptime"],
        "memory": {"used": node["mem_used"], "limit": node["mem_limit"]},
        "memory_alarm": node["mem_alarm"],
        "disk": {"free": node["disk_free"], "limit": node["disk_free_limit"]},
        "disk_alarm": node["disk_free_alarm"],
        "connections": totals["connections"],
        "channels": totals["channels"],
        "exchanges": totals["exchanges"],
        "queues": totals["queues"],
        "consumers": totals["consumers"],
        "messages_ready": overview["queue_totals"]["messages_ready"],
        "messages_unacknowledged": overview["queue_totals"]["messages_unacknowledged"],
        "publish_rate": rate("publish"),
        "deliver_rate": rate("deliver_get"),
        "listeners": listeners,
    });
    if let Some(fields) = status.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    if session.output.format == Format::Table {
        humanise(&mut status);
    }
    session.output.object(&status)
}

/// Writes bytes and milliseconds as people say them; other formats have the exact numbers.
fn humanise(status: &mut Value) {
    for [part, field] in [
        ["memory", "used"],
        ["memory", "limit"],
        ["disk", "free"],
        ["disk", "limit"],
    ] {
        if let Some(bytes) = status[part][field].as_u64() {
            status[part][field] = bytes_for_people(bytes).into();
        }
    }
    let uptime = status.as_object_mut().and_then(|fields| {
        let uptime_ms = fields.remove("uptime_ms")?.as_u64()?;
        Some((fields, time_for_people(uptime_ms / 1000)))
    });
    if let Some((fields, uptime)) = uptime {
        fields.insert("uptime".to_owned(), uptime.into());
    }
}

fn bytes_for_people(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let (mut number, mut unit) = (bytes as f64, 0);
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0);
    format!("{number:.digits$} {}", UNITS[unit])
}

fn time_for_people(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// One object of the API that has no commands of its own.
pub(crate) fn show(session: &Session, path: &str) -> Result<()> {
    session.output.object(&session.get(&[path], path)?)
}

/// Shows the cluster's name, or changes it.
pub(crate) fn cluster_name(session: &Session, name: Option<String>) -> Result<()> {
    match name {
        None => show(session, "cluster-name"),
        Some(name) => {
            let request = Request::put(&["cluster-name"], json!({"name": name}));
            session.apply(&request, &format!("cluster name `{name}`"), "set")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_as_people_say_them() {
        let sizes = [0, 1023, 1024, 1 << 20, 3 << 29].map(bytes_for_people);
        assert_eq!(
            sizes,
            ["0 bytes", "1023 bytes", "1.0 KiB", "1.0 MiB", "1.5 GiB"]
        );
        let times = [5, 65, 3_700, 200_000].map(time_for_people);
        assert_eq!(times, ["5 s", "1 min 5 s", "1 h 1 min", "2 d 7 h"]);
    }
}
