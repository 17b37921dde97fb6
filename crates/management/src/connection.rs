//! Connections as the API shows them, and closing them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use leveret_broker::Peer;
use leveret_codec::HardCode;
use leveret_session::Fault;
use serde_json::{Map, Value, json};

use crate::amqp::{table_to_json, text};
use crate::app::App;
use crate::call::Call;
use crate::history::AskedSpans;
use crate::list::{Columns, Key, Row, list};
use crate::problem::Problem;
use crate::reply::{Answer, Reply};
use crate::walk;

/// A connection in a list.
struct ConnectionRow(Arc<Peer>);

impl Row for ConnectionRow {
    fn name(&self) -> &str {
        &self.0.client.name
    }

    fn key(&self, _: &App, field: &str) -> Option<Key> {
        let text = |text: &str| Some(Key::text(text));
        match field {
            "name" => text(&self.0.client.name),
            "user" => text(&self.0.client.user.lock()),
            "vhost" => text(&self.0.client.vhost.lock()),
            "channels" => Some(Key::Number(self.0.channel_count() as f64)),
            "connected_at" => Some(Key::Number(self.0.client.connected_at_ms as f64)),
            _ => None,
        }
    }

    fn json(&self, app: &App, window: &AskedSpans) -> Map<String, Value> {
        let peer = &self.0;
        let properties = peer.client.properties.lock();
        let provided = properties
            .get(b"connection_name")
            .and_then(|name| name.as_str_bytes());
        let mut row = described(app, peer);
        row.insert(
            "client_properties".to_owned(),
            table_to_json(properties.as_raw()),
        );
        if let Some(provided) = provided {
            row.insert("user_provided_name".to_owned(), text(provided));
        }
        drop(properties);
        let traffic = peer.traffic();
        let details = app
            .sampler
            .traffic_details(peer, window.data_rates, app.now_ms());
        let names = ["recv_oct", "recv_cnt", "send_oct", "send_cnt"];
        let counts = [
            traffic.received_bytes,
            traffic.reads,
            traffic.sent_bytes,
            traffic.writes,
        ];
        for ((name, count), details) in names.into_iter().zip(counts).zip(details) {
            row.insert(name.to_owned(), count.into());
            row.insert(format!("{name}_details"), details);
        }
        row
    }
}

/// What is known of a connection without looking at its traffic.
fn described(app: &App, peer: &Peer) -> Map<String, Value> {
    let (peer_host, peer_port) = client_address(&peer.client.name);
    let (host, port) = server_address(&peer.client.name);
    let outlet = peer.outlet.lock();
    let (frame_max, pending) = (outlet.frame_max(), outlet.queued());
    drop(outlet);
    let row = json!({
        "name": peer.client.name,
        "node": app.node(),
        "type": "network",
        "protocol": "AMQP 0-9-1",
        "state": state(app, peer),
        "user": *peer.client.user.lock(),
        "user_who_performed_action": *peer.client.user.lock(),
        "vhost": *peer.client.vhost.lock(),
        "host": host,
        "port": port,
        "peer_host": peer_host,
        "peer_port": peer_port,
        "ssl": false,
        "auth_mechanism": peer.client.mechanism.get(),
        "channels": peer.channel_count(),
        "channel_max": peer.channel_max.load(Relaxed),
        "frame_max": frame_max,
        "connected_at": peer.client.connected_at_ms,
        "send_pend": pending,
        "x_flow_ms": peer.flow_ms(),
        "timeout": peer.heartbeat_s.load(Relaxed),
    });
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

fn state(app: &App, peer: &Peer) -> &'static str {
    if peer.is_blocked() {
        "blocked"
    } else if peer.is_in_flow(app.now_ms()) {
        "flow"
    } else {
        "running"
    }
}

/// The client's host and port in a connection's name.
pub(crate) fn client_address(name: &str) -> (String, u16) {
    address(name.split(" -> ").next().unwrap_or_default())
}

fn server_address(name: &str) -> (String, u16) {
    address(name.split(" -> ").nth(1).unwrap_or_default())
}

fn address(text: &str) -> (String, u16) {
    match text.parse::<std::net::SocketAddr>() {
        Ok(address) => (address.ip().to_canonical().to_string(), address.port()),
        Err(_) => (text.to_owned(), 0),
    }
}

/// The connections a caller sees: all for a monitor, otherwise the caller's own.
pub(crate) fn visible(call: &Call) -> impl Iterator<Item = Arc<Peer>> + Send + use<> {
    let is_monitor = call.caller.is_monitor();
    let name = call.caller.name.clone();
    // One that has not opened its virtual host yet is not there yet.
    walk::peers(&call.app.broker).filter(move |peer| {
        !peer.client.vhost.lock().is_empty() && (is_monitor || *peer.client.user.lock() == name)
    })
}

/// Those a list is about: of the path's virtual host, or the header's, or all.
pub(crate) fn listed(
    call: &Call,
) -> Result<impl Iterator<Item = Arc<Peer>> + Send + use<>, Problem> {
    if !call.segment("vhost").is_empty() {
        call.vhost()?;
    }
    let wanted = call.wanted_vhost().map(str::to_owned);
    let is_wanted = move |peer: &Arc<Peer>| {
        let vhost = peer.client.vhost.lock();
        wanted.as_ref().is_none_or(|wanted| *wanted == *vhost)
    };
    Ok(visible(call).filter(is_wanted))
}

/// The connection that the path names.
pub(crate) fn find(call: &Call) -> Result<Arc<Peer>, Problem> {
    let name = call.segment("connection");
    let found = walk::peers(&call.app.broker).find(|peer| peer.client.name == name);
    let peer = found.ok_or(Problem::NotFound)?;
    if call.caller.is_monitor() || *peer.client.user.lock() == call.caller.name {
        Ok(peer)
    } else {
        Err(Problem::NotAuthorised("Not administrator user".to_owned()))
    }
}

/// `GET /api/connections` and `/api/vhosts/{vhost}/connections`.
pub(crate) fn index(call: &Call) -> Answer {
    list(call, listed(call)?.map(ConnectionRow))
}

/// `GET /api/connections/{connection}`.
pub(crate) fn show(call: &Call) -> Answer {
    let peer = find(call)?;
    let window = AskedSpans::of(call)?;
    Ok(Columns::reply(
        call,
        ConnectionRow(peer).json(&call.app, &window),
    ))
}

/// `DELETE /api/connections/{connection}`.
pub(crate) fn close(call: &Call) -> Answer {
    let peer = find(call)?;
    if !call.caller.is_administrator() && *peer.client.user.lock() != call.caller.name {
        return Err(Problem::NotAuthorised("Not administrator user".to_owned()));
    }
    close_one(call, &peer);
    Ok(Reply::NoContent)
}

fn close_one(call: &Call, peer: &Peer) {
    let reason = call.header("x-reason").filter(|reason| !reason.is_empty());
    let reason = reason.unwrap_or("Closed via management plugin");
    peer.close(Fault::connection(
        HardCode::ConnectionForced,
        reason.to_owned(),
        (0, 0),
    ));
}

fn of_user(call: &Call) -> Result<impl Iterator<Item = Arc<Peer>> + Send + use<>, Problem> {
    let name = call.segment("user").to_owned();
    if !call.caller.is_monitor() && name != call.caller.name {
        return Err(Problem::NotAuthorised("Not administrator user".to_owned()));
    }
    Ok(visible(call).filter(move |peer| *peer.client.user.lock() == name))
}

/// `GET /api/connections/username/{user}`.
pub(crate) fn index_of_user(call: &Call) -> Answer {
    list(call, of_user(call)?.map(ConnectionRow))
}

/// `DELETE /api/connections/username/{user}`.
pub(crate) fn close_of_user(call: &Call) -> Answer {
    if !call.caller.is_administrator() && call.segment("user") != call.caller.name {
        return Err(Problem::NotAuthorised("Not administrator user".to_owned()));
    }
    for peer in of_user(call)? {
        close_one(call, &peer);
    }
    Ok(Reply::NoContent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_out_of_names() {
        let name = "127.0.0.1:46928 -> [::1]:5672";
        assert_eq!(client_address(name), ("127.0.0.1".to_owned(), 46928));
        assert_eq!(server_address(name), ("::1".to_owned(), 5672));
        assert_eq!(server_address("odd"), (String::new(), 0));
    }
}
