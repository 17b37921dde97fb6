//! Consumers as the API shows them.

use std::cmp::Ordering;
use std::sync::Arc;

use leveret_broker::{Handle, Peer, QueueCell, Vhost};
use leveret_queue::Consuming;
use serde_json::{Map, Value, json};

use crate::amqp::{table_to_json, text};
use crate::app::App;
use crate::call::Call;
use crate::channel::details;
use crate::history::Window;
use crate::list::{Row, list};
use crate::reply::Answer;

/// A consumer in a list.
pub(crate) struct ConsumerRow {
    vhost: Arc<Vhost>,
    handle: Arc<Handle>,
    asked: Consuming,
    active: bool,
    tag: String,
}

/// The consumers of one queue.
pub(crate) fn of_queue(vhost: &Arc<Vhost>, cell: &Arc<QueueCell>) -> Vec<ConsumerRow> {
    let state = cell.lock();
    let rows = state
        .queue
        .consumers()
        .map(|(_, consumer, active)| ConsumerRow {
            vhost: Arc::clone(vhost),
            handle: Arc::clone(&consumer.handle),
            asked: consumer.asked,
            active,
            tag: String::from_utf8_lossy(&consumer.handle.tag).into_owned(),
        });
    rows.collect()
}

/// The consumers of one channel: queues know their consumers, so each queue is asked.
pub(crate) fn of_channel(app: &App, peer: &Arc<Peer>, channel: u16) -> Vec<ConsumerRow> {
    let Some(vhost) = app.broker.vhost(&peer.vhost.lock().clone()) else {
        return Vec::new();
    };
    let cells: Vec<_> = vhost.directory.read().queues().cloned().collect();
    let all = cells.iter().flat_map(|cell| of_queue(&vhost, cell));
    let own =
        |row: &ConsumerRow| Arc::ptr_eq(&row.handle.peer, peer) && row.handle.channel == channel;
    all.filter(own).collect()
}

impl Row for ConsumerRow {
    fn name(&self) -> &str {
        &self.tag
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |row: &Self| (row.vhost.name.clone(), row.handle.cell.name.clone());
        key(self)
            .cmp(&key(other))
            .then_with(|| self.tag.cmp(&other.tag))
    }

    fn json(&self, app: &App, _: &Window) -> Map<String, Value> {
        let mut row = Map::new();
        let status = if self.active { "up" } else { "waiting" };
        row.insert("consumer_tag".to_owned(), text(&self.handle.tag));
        row.insert("active".to_owned(), self.active.into());
        row.insert("activity_status".to_owned(), status.into());
        row.insert("ack_required".to_owned(), (!self.asked.no_ack).into());
        row.insert("prefetch_count".to_owned(), self.asked.prefetch.into());
        row.insert("exclusive".to_owned(), self.asked.exclusive.into());
        row.insert(
            "arguments".to_owned(),
            table_to_json(self.handle.arguments()),
        );
        row.insert("consumer_timeout".to_owned(), 0.into());
        let queue = json!({"name": &*self.handle.cell.name, "vhost": &*self.vhost.name});
        row.insert("queue".to_owned(), queue);
        let channel = details(app, &self.handle.peer, self.handle.channel);
        row.insert("channel_details".to_owned(), channel);
        row
    }
}

/// `GET /api/consumers` and `/api/consumers/{vhost}`: all for a monitor, else the caller's own.
pub(crate) fn index(call: &Call) -> Answer {
    let mut rows = Vec::new();
    for vhost in call.visible_vhosts()? {
        let cells: Vec<_> = vhost.directory.read().queues().cloned().collect();
        for cell in cells {
            rows.append(&mut of_queue(&vhost, &cell));
        }
    }
    if !call.caller.is_monitor() {
        rows.retain(|row| *row.handle.peer.user.lock() == call.caller.name);
    }
    list(call, rows)
}
