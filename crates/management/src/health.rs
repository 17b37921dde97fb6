//! Health checks: 200 when all is well, 503 with a reason when not.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::app::App;
use crate::call::Call;
use crate::problem::Problem;
use crate::reply::{Answer, Reply};

fn healthy() -> Answer {
    Ok(Reply::Json(json!({"status": "ok"})))
}

fn failed(mut details: Value) -> Answer {
    details["status"] = "failed".into();
    Ok(Reply::Status(StatusCode::SERVICE_UNAVAILABLE, details))
}

/// `GET /api/health/checks/alarms` and `…/local-alarms`: there is one node.
pub(crate) fn alarms(call: &Call) -> Answer {
    let alarms = call.app.alarms();
    let node = call.app.node();
    let mut active = Vec::new();
    for (is_active, resource) in [(alarms.memory, "memory"), (alarms.disk, "disk")] {
        if is_active {
            active.push(json!({"node": node, "resource": resource}));
        }
    }
    if active.is_empty() {
        return healthy();
    }
    failed(json!({"reason": "There are alarms in effect in the cluster", "alarms": active}))
}

/// `GET /api/health/checks/virtual-hosts`: they are all there as long as the broker is.
pub(crate) fn always(_: &Call) -> Answer {
    healthy()
}

/// `GET /api/health/checks/node-is-quorum-critical`.
pub(crate) fn quorum_critical(_: &Call) -> Answer {
    Ok(Reply::Json(
        json!({"status": "ok", "reason": "single node cluster"}),
    ))
}

/// `GET /api/health/checks/port-listener/{port}`.
pub(crate) fn port(call: &Call) -> Answer {
    let text = call.segment("port");
    let port: i64 = text.parse().map_err(|_| Problem::bad("Invalid port"))?;
    let mut ports: Vec<i64> = call
        .app
        .host
        .listeners()
        .iter()
        .map(|listener| listener.address.port().into())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    if ports.contains(&port) {
        return Ok(Reply::Json(json!({"status": "ok", "port": port})));
    }
    failed(json!({"reason": "No active listener", "missing": port, "ports": ports}))
}

/// `GET /api/health/checks/protocol-listener/{protocols}`: one, or several with commas.
pub(crate) fn protocol(call: &Call) -> Answer {
    let wanted = call.segment("protocols").split(',').map(str::trim);
    let listeners = call.app.host.listeners();
    let mut protocols: Vec<&str> = listeners.iter().map(|listener| listener.protocol).collect();
    protocols.sort_unstable();
    protocols.dedup();
    let missing: Vec<&str> = wanted
        .filter(|name| !protocols.contains(&canonical(name).as_str()))
        .collect();
    if missing.is_empty() {
        return Ok(Reply::Json(json!({"status": "ok", "protocols": protocols})));
    }
    failed(json!({"reason": "No active listener", "missing": missing, "protocols": protocols}))
}

/// A protocol's name as listeners bear it, from the many that tools use.
fn canonical(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "amqp091" | "amqp0.9.1" | "amqp-0-9-1" | "amqp0-9-1" => "amqp".to_owned(),
        "amqp/ssl" | "amqps" => "amqp/ssl".to_owned(),
        "prometheus" => "http/prometheus".to_owned(),
        _ => name,
    }
}

/// `GET /api/health/checks/below-node-connection-limit`.
pub(crate) fn below_connection_limit(call: &Call) -> Answer {
    let (current, limit) = (
        call.app.broker.peer_count(),
        call.app.broker.limits().connections_max,
    );
    if current < limit {
        return healthy();
    }
    let reason = "The node has reached its connection limit";
    failed(json!({"reason": reason, "limit": limit, "connections": current}))
}

/// `GET /api/health/checks/is-in-service` and `…/ready-to-serve-clients`.
pub(crate) fn in_service(call: &Call) -> Answer {
    match not_ready(&call.app) {
        None => healthy(),
        Some(reason) => failed(json!({"reason": reason})),
    }
}

/// Why clients are not served now, if they are not.
pub(crate) fn not_ready(app: &App) -> Option<&'static str> {
    if app.is_draining() {
        return Some("the broker is stopping, or stopped for clients");
    }
    let amqp = app
        .host
        .listeners()
        .iter()
        .any(|listener| listener.protocol == "amqp");
    (!amqp).then_some("no AMQP listener is open")
}

/// `GET /api/health/checks/certificate-expiration/{within}/{unit}`: nothing is served with TLS.
pub(crate) fn certificates(call: &Call) -> Answer {
    let (within, unit) = (call.segment("within"), call.segment("unit"));
    let number = within.parse::<i32>().is_ok();
    let known = ["days", "weeks", "months", "years"].contains(&unit);
    if !number {
        return Err(Problem::bad("Invalid expiration value."));
    }
    if !known {
        let reason = "Time unit not recognised. Supported units: days, weeks, months, years.";
        return Err(Problem::bad(reason));
    }
    healthy()
}

/// `GET /api/healthchecks/node/{node}`, which older tools ask.
pub(crate) fn node(call: &Call) -> Answer {
    if call.segment("node") == call.app.node() {
        healthy()
    } else {
        Err(Problem::NotFound)
    }
}

/// `GET /api/aliveness-test/{vhost}`.
pub(crate) fn aliveness(call: &Call) -> Answer {
    call.vhost()?;
    healthy()
}
