//! Consumers as the API shows them.

use std::sync::Arc;

use leveret_broker::{Peer, QueueCell, Vhost};
use serde_json::{Map, Value, json};

use crate::amqp::{table_to_json, text};
use crate::app::App;
use crate::call::Call;
use crate::channel::details;
use crate::history::AskedSpans;
use crate::list::{Row, list};
use crate::reply::Answer;
use crate::walk::{self, Consumes};

/// A consumer in a list.
pub(crate) struct ConsumerRow {
    vhost: Arc<Vhost>,
    consumes: Consumes,
    tag: Box<str>,
}

/// The consumers of one queue.
pub(crate) fn of_queue(
    vhost: &Arc<Vhost>,
    cell: &Arc<QueueCell>,
) -> impl Iterator<Item = ConsumerRow> + Send + use<> {
    let vhost = Arc::clone(vhost);
    walk::consumers(cell).map(move |consumes| ConsumerRow {
        vhost: Arc::clone(&vhost),
        tag: String::from_utf8_lossy(&consumes.handle.tag).into(),
        consumes,
    })
}

fn of_vhost(vhost: Arc<Vhost>) -> impl Iterator<Item = ConsumerRow> + Send {
    walk::queues(&vhost).flat_map(move |cell| of_queue(&vhost, &cell))
}

/// The consumers of one channel: queues know their consumers, so each queue is asked.
pub(crate) fn of_channel(
    app: &App,
    peer: &Arc<Peer>,
    channel: u16,
) -> impl Iterator<Item = ConsumerRow> + Send + use<> {
    let vhost = app.broker.vhost(&peer.client.vhost.lock().clone());
    let peer = Arc::clone(peer);
    let own = move |row: &ConsumerRow| {
        let handle = &row.consumes.handle;
        Arc::ptr_eq(&handle.client, &peer.client) && handle.channel == channel
    };
    vhost.into_iter().flat_map(of_vhost).filter(own)
}

impl Row for ConsumerRow {
    fn name(&self) -> &str {
        &self.tag
    }

    fn json(&self, app: &App, _: &AskedSpans) -> Map<String, Value> {
        let mut row = Map::new();
        let Consumes {
            handle,
            asked,
            is_active,
        } = &self.consumes;
        let status = if *is_active { "up" } else { "waiting" };
        row.insert("consumer_tag".to_owned(), text(&handle.tag));
        row.insert("active".to_owned(), (*is_active).into());
        row.insert("activity_status".to_owned(), status.into());
        row.insert("ack_required".to_owned(), (!asked.no_ack).into());
        row.insert("prefetch_count".to_owned(), asked.prefetch.into());
        row.insert("exclusive".to_owned(), asked.exclusive.into());
        row.insert("arguments".to_owned(), table_to_json(handle.arguments()));
        let timeout_ms = handle.timeout_ms().filter(|_| !asked.no_ack);
        row.insert(
            "consumer_timeout".to_owned(),
            timeout_ms.unwrap_or(0).into(),
        );
        let queue = json!({"name": &*handle.cell.name, "vhost": &*self.vhost.name});
        row.insert("queue".to_owned(), queue);
        let channel = details(app, &handle.client, handle.channel);
        row.insert("channel_details".to_owned(), channel);
        row
    }
}

/// `GET /api/consumers` and `/api/consumers/{vhost}`: all for a monitor, else the caller's own.
pub(crate) fn index(call: &Call) -> Answer {
    let is_monitor = call.caller.is_monitor();
    let name = call.caller.name.clone();
    let seen =
        move |row: &ConsumerRow| is_monitor || *row.consumes.handle.client.user.lock() == name;
    let vhosts = call.visible_vhosts()?.into_iter();
    list(call, vhosts.flat_map(of_vhost).filter(seen))
}
