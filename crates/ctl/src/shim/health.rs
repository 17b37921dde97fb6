//! Whether the broker runs, listens and has room: `ping`, `status`, and the checks.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Outcome, Shim, Stop, exit};
use crate::client::Request;
use crate::failure::{Failure, Kind};

const AWAIT_DEFAULT: Duration = Duration::from_secs(300);
const AWAIT_STEP: Duration = Duration::from_millis(100);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Says that a check is in order; `-q` leaves this in, `-s` does not.
fn report(shim: &Shim, text: &str) {
    if !shim.invocation.silent {
        println!("{text}");
    }
}

/// Whether clients are served. Versions of RabbitMQ that have no check for it are taken to serve
/// them if they listen for AMQP.
pub(crate) fn is_running(shim: &Shim) -> Result<bool, Failure> {
    let check = Request::get(&["health", "checks", "ready-to-serve-clients"]);
    let answer = shim.client.send(&check)?;
    match answer.status {
        200 => Ok(true),
        503 => Ok(false),
        404 => {
            let listeners = all_listeners(shim)?;
            Ok(listeners
                .iter()
                .any(|listener| listener.protocol.starts_with("amqp")))
        }
        status => Err(Failure::from_answer(status, &answer.body, "health")),
    }
}

pub(super) fn ping(shim: &Shim) -> Outcome {
    // A broker that refuses who asks is there all the same.
    let answer = shim.client.send(&Request::get(&["overview"]))?;
    let node = answer.body["node"].as_str().unwrap_or("the broker");
    let milliseconds = shim.settings.timeout.as_millis();
    shim.banner(&format!(
        "Will ping {node}. This only checks if the OS process is running. \
         Timeout: {milliseconds} ms."
    ));
    report(shim, "Ping succeeded");
    Ok(())
}

pub(super) fn await_startup(shim: &Shim) -> Outcome {
    let longest = shim
        .invocation
        .timeout
        .map_or(AWAIT_DEFAULT, Duration::from_secs_f64);
    let deadline = Instant::now() + longest;
    loop {
        match is_running(shim) {
            Ok(true) => return Ok(()),
            Err(failure) if failure.kind == Kind::Unauthorised => return Err(failure.into()),
            _ if Instant::now() + AWAIT_STEP > deadline => {
                return Err(Stop::error(exit::UNAVAILABLE, "rabbit_is_not_running"));
            }
            _ => thread::sleep(AWAIT_STEP),
        }
    }
}

pub(super) fn version(_: &Shim) -> Outcome {
    println!("{}", env!("CARGO_PKG_VERSION"));
    Ok(())
}

pub(super) fn server_version(shim: &Shim) -> Outcome {
    let overview = shim.get(&["overview"])?;
    let node = overview["node"].as_str().unwrap_or_default();
    shim.banner(&format!("Asking node {node} for its RabbitMQ version..."));
    println!(
        "{}",
        overview["rabbitmq_version"].as_str().unwrap_or_default()
    );
    Ok(())
}

pub(super) fn check_running(shim: &Shim) -> Outcome {
    let node = shim.node()?;
    shim.banner(&format!(
        "Checking if RabbitMQ is running on node {node} ..."
    ));
    if is_running(shim)? {
        report(
            shim,
            &format!("RabbitMQ on node {node} is fully booted and running"),
        );
        return Ok(());
    }
    let text = format!(
        "RabbitMQ on node {node} is not running or has not fully booted yet \
         (check with is_booting)"
    );
    Err(Stop::error(exit::UNAVAILABLE, &text))
}

pub(super) fn running(shim: &Shim) -> Outcome {
    let node = shim.node()?;
    shim.banner(&format!("Asking node {node} for its status ..."));
    let state = if is_running(shim)? {
        "is fully booted and running"
    } else {
        "is not running or has not fully booted yet (check with is_booting)"
    };
    println!("RabbitMQ on node {node} {state}");
    Ok(())
}

pub(super) fn check_local_alarms(shim: &Shim) -> Outcome {
    check_alarms_of(shim, "local-alarms", "no local alarms")
}

pub(super) fn check_alarms(shim: &Shim) -> Outcome {
    check_alarms_of(shim, "alarms", "no alarms, local or clusterwide")
}

fn check_alarms_of(shim: &Shim, check: &str, none: &str) -> Outcome {
    let node = shim.node()?;
    shim.banner(&format!(
        "Asking node {node} to report any local resource alarms ..."
    ));
    let answer = shim
        .client
        .send(&Request::get(&["health", "checks", check]))?;
    if answer.status == 200 {
        report(shim, &format!("Node {node} reported {none}"));
        return Ok(());
    }
    if answer.status != 503 {
        return Err(Failure::from_answer(answer.status, &answer.body, check).into());
    }
    let alarms = answer.body["alarms"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let names: Vec<&str> = alarms
        .iter()
        .filter_map(|alarm| alarm["resource"].as_str())
        .collect();
    let text = format!("{node} reported alarms: {}", names.join(", "));
    Err(Stop::error(exit::UNAVAILABLE, &text))
}

pub(super) fn alarms(shim: &Shim) -> Outcome {
    let node = shim.node()?;
    shim.banner(&format!(
        "Asking node {node} to report any known resource alarms ..."
    ));
    let names = active_alarms(shim)?;
    if names.is_empty() {
        report(
            shim,
            &format!("Node {node} reported no alarms, local or clusterwide"),
        );
    }
    for name in names {
        println!("{} alarm on node {node}", title(name));
    }
    Ok(())
}

fn title(resource: &str) -> &'static str {
    if resource == "memory" {
        "Memory"
    } else {
        "Free disk space"
    }
}

pub(super) fn active_alarms(shim: &Shim) -> Result<Vec<&'static str>, Failure> {
    let nodes = shim.get(&["nodes"])?;
    let has = |field: &str| {
        nodes
            .as_array()
            .into_iter()
            .flatten()
            .any(|node| node[field] == true)
    };
    let known = [("mem_alarm", "memory"), ("disk_free_alarm", "disk")];
    Ok(known
        .into_iter()
        .filter(|(field, _)| has(field))
        .map(|(_, name)| name)
        .collect())
}

/// A port that is listened on.
pub(super) struct Listener {
    pub(super) protocol: String,
    pub(super) address: String,
    pub(super) port: u64,
}

pub(super) fn all_listeners(shim: &Shim) -> Result<Vec<Listener>, Failure> {
    let overview = shim.get(&["overview"])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let listener = |value: &Value| Listener {
        protocol: text(&value["protocol"]),
        address: text(&value["ip_address"]),
        port: value["port"].as_u64().unwrap_or_default(),
    };
    Ok(overview["listeners"]
        .as_array()
        .into_iter()
        .flatten()
        .map(listener)
        .collect())
}

fn purpose(protocol: &str) -> &'static str {
    match protocol {
        "amqp" => "AMQP 0-9-1",
        "amqp/ssl" => "AMQP 0-9-1 over TLS",
        "http" => "HTTP API",
        "https" => "HTTP API over TLS (HTTPS)",
        "http/prometheus" => "Prometheus exporter API over HTTP",
        "clustering" => "inter-node and CLI tool communication",
        _ => "other",
    }
}

impl Listener {
    fn describe(&self) -> String {
        let Self {
            protocol,
            address,
            port,
        } = self;
        let address = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.clone()
        };
        let purpose = purpose(protocol);
        format!("Interface: {address}, port: {port}, protocol: {protocol}, purpose: {purpose}")
    }
}

pub(super) fn listeners(shim: &Shim) -> Outcome {
    let node = shim.node()?;
    shim.banner(&format!(
        "Asking node {node} to report its protocol listeners ..."
    ));
    for listener in all_listeners(shim)? {
        println!("{}", listener.describe());
    }
    Ok(())
}

pub(super) fn check_port_listener(shim: &Shim) -> Outcome {
    let (node, port) = (shim.node()?, shim.argument(0));
    shim.banner(&format!(
        "Asking node {node} if there's an active listener on port {port} ..."
    ));
    let ports: Vec<String> = all_listeners(shim)?
        .iter()
        .map(|listener| listener.port.to_string())
        .collect();
    if ports.iter().any(|known| known == port) {
        report(
            shim,
            &format!("A listener for port {port} is running on node {node}."),
        );
        return Ok(());
    }
    let text = format!(
        "No listener for port {port} is active on node {node}. \
         Found listeners that use the following ports: {}",
        ports.join(", ")
    );
    Err(Stop::new(exit::UNAVAILABLE, text))
}

pub(super) fn check_protocol_listener(shim: &Shim) -> Outcome {
    let (node, asked) = (shim.node()?, shim.argument(0));
    shim.banner(&format!(
        "Asking node {node} if there's an active listener for protocol {asked} ..."
    ));
    let wanted = match asked.to_ascii_lowercase().as_str() {
        "amqp091" | "amqp-0-9-1" | "amqp0-9-1" | "amqp-091" => "amqp".to_owned(),
        "amqps" | "amqp+tls" | "amqp/tls" => "amqp/ssl".to_owned(),
        other => other.to_owned(),
    };
    let protocols: Vec<String> = all_listeners(shim)?
        .into_iter()
        .map(|listener| listener.protocol)
        .collect();
    if protocols.contains(&wanted) {
        report(
            shim,
            &format!("A listener for protocol {asked} is running on node {node}."),
        );
        return Ok(());
    }
    let text = format!(
        "No listener for protocol {asked} is active on node {node}. \
         Found listeners for the following protocols: {}",
        protocols.join(", ")
    );
    Err(Stop::error(exit::UNAVAILABLE, &text))
}

pub(super) fn check_port_connectivity(shim: &Shim) -> Outcome {
    let node = shim.node()?;
    shim.banner(&format!(
        "Testing TCP connections to all active listeners on node {node} ..."
    ));
    let host = shim.settings.url.split("://").nth(1).unwrap_or_default();
    let host = host.split('/').next().unwrap_or_default();
    let host = host
        .rsplit_once(':')
        .map_or(host, |(host, _)| host)
        .trim_matches(['[', ']']);
    let mut ports = Vec::new();
    for listener in all_listeners(shim)? {
        let port = u16::try_from(listener.port).unwrap_or_default();
        let addresses = (host, port).to_socket_addrs().map_err(Failure::from)?;
        let mut addresses = addresses.into_iter();
        if !addresses.any(|address| TcpStream::connect_timeout(&address, CONNECT_TIME_MAX).is_ok())
        {
            let text = format!("Connection failed to port {port} of node {node}");
            return Err(Stop::error(exit::UNAVAILABLE, &text));
        }
        ports.push(port.to_string());
    }
    let ports = ports.join(", ");
    report(
        shim,
        &format!("Successfully connected to ports {ports} on node {node}."),
    );
    Ok(())
}

pub(super) fn check_virtual_hosts(shim: &Shim) -> Outcome {
    let node = shim.node()?;
    shim.banner(&format!(
        "Checking if all vhosts are running on node {node} ..."
    ));
    shim.get(&["health", "checks", "virtual-hosts"])?;
    report(shim, &format!("Node {node} reported all vhosts as running"));
    Ok(())
}

/// RabbitMQ's sections, with what there is to tell.
pub(super) fn status(shim: &Shim) -> Outcome {
    let overview = shim.get(&["overview"])?;
    let nodes = shim.get(&["nodes"])?;
    let nodes = nodes.as_array().cloned().unwrap_or_default();
    let node = nodes.iter().find(|node| node["name"] == overview["node"]);
    let node = node.cloned().unwrap_or_default();
    if shim.invocation.is_for_machines() {
        println!("{}", status_json(&overview, &node));
        return Ok(());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let gigabytes = |value: &Value| {
        let rounded = (number(value) as f64 / 100_000.0).round() / 10_000.0;
        format!("{rounded:?} gb")
    };
    shim.banner(&format!("Status of node {} ...", text(&overview["node"])));
    println!("Runtime\n");
    println!("OS PID: {}", text(&node["os_pid"]));
    println!("OS: Linux");
    println!("Uptime (seconds): {}", number(&node["uptime"]) / 1000);
    println!("Is under maintenance?: {}", node["being_drained"] == true);
    if let Some(product) = overview["product_name"].as_str() {
        println!("Product name: {product}");
        println!("Product version: {}", text(&overview["product_version"]));
    }
    println!("RabbitMQ version: {}", text(&overview["rabbitmq_version"]));
    println!("Node name: {}", text(&overview["node"]));
    println!("\nAlarms\n");
    print_alarms(shim, &text(&overview["node"]))?;
    println!("\nMemory\n");
    println!("Total memory used: {}", gigabytes(&node["mem_used"]));
    println!(
        "Memory high watermark setting: {}",
        gigabytes(&node["mem_limit"])
    );
    println!("\nFile Descriptors\n");
    println!(
        "Total: {}, limit: {}",
        number(&node["fd_used"]),
        number(&node["fd_total"])
    );
    println!("\nFree Disk Space\n");
    println!(
        "Low free disk space watermark: {}",
        gigabytes(&node["disk_free_limit"])
    );
    println!("Free disk space: {}", gigabytes(&node["disk_free"]));
    println!("\nTotals\n");
    let totals = &overview["object_totals"];
    println!("Connection count: {}", number(&totals["connections"]));
    println!("Queue count: {}", number(&totals["queues"]));
    println!("\nListeners\n");
    print_listeners(shim)
}

/// The alarms in effect, a line each, or that there is none.
pub(super) fn print_alarms(shim: &Shim, node: &str) -> Outcome {
    let alarms = active_alarms(shim)?;
    if alarms.is_empty() {
        println!("(none)");
    }
    for alarm in alarms {
        println!("{} alarm on node {node}", title(alarm));
    }
    Ok(())
}

/// The listeners, a line each.
pub(super) fn print_listeners(shim: &Shim) -> Outcome {
    for listener in all_listeners(shim)? {
        println!("{}", listener.describe());
    }
    Ok(())
}

fn status_json(overview: &Value, node: &Value) -> Value {
    json!({
        "rabbitmq_version": overview["rabbitmq_version"],
        "product_name": overview["product_name"],
        "product_version": overview["product_version"],
        "uptime": node["uptime"].as_u64().unwrap_or_default() / 1000,
        "memory": {"total": {"rss": node["mem_used"]}},
        "disk_free": node["disk_free"],
        "disk_free_limit": node["disk_free_limit"],
        "totals": {
            "connection_count": overview["object_totals"]["connections"],
            "queue_count": overview["object_totals"]["queues"],
        },
        "listeners": overview["listeners"],
    })
}
