//! Channels as the API shows them.

use std::sync::Arc;

use leveret_broker::{ChannelStats, Client, Peer};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::call::Call;
use crate::connection::{self, client_address};
use crate::consumer;
use crate::history::AskedSpans;
use crate::list::{Columns, Row, list};
use crate::problem::Problem;
use crate::reply::Answer;

/// A channel in a list.
pub(crate) struct ChannelRow {
    peer: Arc<Peer>,
    stats: Arc<ChannelStats>,
    name: String,
}

/// The channels of a connection.
pub(crate) fn of_connection(peer: &Arc<Peer>) -> Vec<ChannelRow> {
    let channels = peer.channels().into_iter();
    let rows = channels.map(|stats| ChannelRow {
        peer: Arc::clone(peer),
        name: name(&peer.client, stats.number),
        stats,
    });
    rows.collect()
}

fn name(client: &Client, number: u16) -> String {
    format!("{} ({number})", client.name)
}

/// What other objects show of a channel.
pub(crate) fn details(app: &App, client: &Client, number: u16) -> Value {
    let (host, port) = client_address(&client.name);
    json!({
        "name": name(client, number),
        "number": number,
        "connection_name": client.name,
        "node": app.node(),
        "peer_host": host,
        "peer_port": port,
        "user": *client.user.lock(),
    })
}

impl ChannelRow {
    /// What is slowed down is the connection, with those of its channels that publish.
    fn state(&self, now_ms: u64) -> &'static str {
        let in_flow = self.stats.published.get() > 0 && self.peer.is_in_flow(now_ms);
        if in_flow { "flow" } else { "running" }
    }
}

impl Row for ChannelRow {
    fn name(&self) -> &str {
        &self.name
    }

    fn json(&self, app: &App, window: &AskedSpans) -> Map<String, Value> {
        let (unacked, deliveries) = {
            let (outlet, number) = (self.peer.outlet.lock(), self.stats.number);
            (outlet.unacked(number), outlet.delivery_counts(number))
        };
        let (host, port) = client_address(&self.peer.client.name);
        let (span, now_ms) = (window.message_rates, app.now_ms());
        let channel = (&*self.peer, &self.stats);
        let stats = app.sampler.channel_stats(channel, span, now_ms);
        let row = json!({
            "name": self.name,
            "number": self.stats.number,
            "vhost": *self.peer.client.vhost.lock(),
            "user": *self.peer.client.user.lock(),
            "user_who_performed_action": *self.peer.client.user.lock(),
            "node": app.node(),
            "state": self.state(now_ms),
            "consumer_count": self.stats.consumers.get(),
            "confirm": self.stats.confirming.get() > 0,
            "transactional": self.stats.transactional.get() > 0,
            "prefetch_count": self.stats.prefetch.get(),
            "global_prefetch_count": self.stats.channel_prefetch.get(),
            "messages_unacknowledged": unacked,
            "messages_unconfirmed": self.stats.unconfirmed.get(),
            "messages_uncommitted": self.stats.uncommitted.get(),
            "acks_uncommitted": self.stats.uncommitted_settlements.get(),
            "x_messages_timed_out": deliveries.timed_out,
            "x_messages_acknowledged_late": deliveries.late,
            "message_stats": stats,
            "connection_details": {
                "name": self.peer.client.name, "peer_host": host, "peer_port": port,
            },
        });
        match row {
            Value::Object(row) => row,
            _ => Map::new(),
        }
    }
}

/// `GET /api/channels`.
pub(crate) fn index(call: &Call) -> Answer {
    let peers = connection::listed(call)?;
    list(call, peers.flat_map(|peer| of_connection(&peer)))
}

/// `GET /api/connections/{connection}/channels`.
pub(crate) fn of_one(call: &Call) -> Answer {
    let peer = connection::find(call)?;
    list(call, of_connection(&peer).into_iter())
}

/// `GET /api/channels/{channel}`.
pub(crate) fn show(call: &Call) -> Answer {
    let name = call.segment("channel");
    let mut peers = connection::visible(call);
    // It begins with its connection's name.
    let row = peers.find_map(|peer| {
        name.strip_prefix(&*peer.client.name)?;
        of_connection(&peer)
            .into_iter()
            .find(|row| row.name == name)
    });
    let row = row.ok_or(Problem::NotFound)?;
    let window = AskedSpans::of(call)?;
    let object = row.json(&call.app, &window);
    let app = Arc::clone(&call.app);
    let consumers = consumer::of_channel(&app, &row.peer, row.stats.number);
    let consumers = consumers.map(move |consumer| consumer.json(&app, &window));
    Columns::reply_with(call, object, "consumer_details", consumers)
}
