//! SIGQUIT: what the broker is at, in the log, for when nothing else answers any more.

use std::sync::Arc;

use leveret_broker::{Broker, Existing, Peer, QueueCell};
use leveret_management::Host;
use tracing::info;

use crate::clock::uptime_s;

/// Lines about virtual hosts, queues and connections, so many of each: those that hold most.
const LINES_MAX: usize = 50;

/// Writes all of it to the log, some lines for each part.
pub(crate) fn log(broker: &Broker, host: &dyn Host) {
    log_process(broker, host);
    log_vhosts(broker);
    log_queues(broker);
    log_connections(broker);
}

fn log_process(broker: &Broker, host: &dyn Host) {
    let vitals = host.vitals();
    let on = broker.alarms().into_iter().filter(|state| state.active);
    let alarms: Vec<_> = on.map(|state| state.alarm.name()).collect();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        node = host.node_name(),
        uptime_s = uptime_s(),
        memory_occupied = vitals.memory_used,
        memory_used = broker.memory_used(),
        memory_mark = broker.memory_alarm_bytes(),
        disk_free = vitals.disk_free,
        descriptors = vitals.descriptors_used,
        tasks = vitals.tasks,
        ?alarms,
        journal_is_behind = broker.is_store_behind(),
        "state: process"
    );
    info!(
        connections = broker.peer_count(),
        vhosts = broker.vhosts().len(),
        exchanges = broker.events.existing(Existing::Exchanges),
        queues = broker.events.existing(Existing::Queues),
        bindings = broker.events.existing(Existing::Bindings),
        stopping = broker.is_stopping(),
        "state: broker"
    );
}

fn log_vhosts(broker: &Broker) {
    let vhosts = broker.vhosts().into_iter();
    let mut vhosts: Vec<_> = vhosts.map(|vhost| (vhost.holdings.get(), vhost)).collect();
    vhosts.sort_by_key(|(held, _)| std::cmp::Reverse(held.ready + held.unacked));
    let left_out = vhosts.len().saturating_sub(LINES_MAX);
    for (held, vhost) in vhosts.iter().take(LINES_MAX) {
        let (name, ready, unacked) = (&*vhost.name, held.ready, held.unacked);
        let consumers = held.consumers;
        info!(
            vhost = name,
            ready, unacked, consumers, "state: virtual host"
        );
    }
    log_left_out("virtual hosts", left_out);
}

/// Only queues that hold something are told of.
fn log_queues(broker: &Broker) {
    let mut queues = Vec::new();
    for vhost in broker.vhosts() {
        let cells: Vec<_> = vhost.directory.read().queues().cloned().collect();
        let held = cells.into_iter().map(held);
        let held = held.filter(|held| held.ready + held.unacked > 0);
        queues.extend(held.map(|held| (Arc::clone(&vhost.name), held)));
    }
    queues.sort_by_key(|(_, held)| std::cmp::Reverse(held.ready + held.unacked));
    let left_out = queues.len().saturating_sub(LINES_MAX);
    for (vhost, held) in queues.iter().take(LINES_MAX) {
        let (vhost, queue) = (&**vhost, &*held.cell.name);
        let (ready, unacked, consumers) = (held.ready, held.unacked, held.consumers);
        info!(
            vhost,
            queue,
            ready,
            unacked,
            consumers,
            bytes = held.bytes,
            "state: queue"
        );
    }
    log_left_out("queues that hold messages", left_out);
}

struct QueueLine {
    cell: Arc<QueueCell>,
    ready: u64,
    unacked: u64,
    consumers: usize,
    bytes: usize,
}

fn held(cell: Arc<QueueCell>) -> QueueLine {
    let state = cell.lock();
    let (ready, unacked) = (state.queue.ready(), state.queue.unacked());
    let (consumers, bytes) = (state.queue.consumer_count(), state.queue.resident_bytes());
    drop(state);
    QueueLine {
        cell,
        ready,
        unacked,
        consumers,
        bytes,
    }
}

fn log_connections(broker: &Broker) {
    let queued = |peer: Arc<Peer>| {
        let queued = peer.outlet.lock().queued();
        (queued, peer)
    };
    let mut peers: Vec<_> = broker.peers().into_iter().map(queued).collect();
    peers.sort_by_key(|(queued, _)| std::cmp::Reverse(*queued));
    let left_out = peers.len().saturating_sub(LINES_MAX);
    for (queued, peer) in peers.iter().take(LINES_MAX) {
        log_connection(peer, *queued);
    }
    log_left_out("connections", left_out);
}

fn log_connection(peer: &Peer, unsent_bytes: usize) {
    let (client, user) = (
        peer.client.connection_name(),
        peer.client.user.lock().clone(),
    );
    let vhost = peer.client.vhost.lock().clone();
    let traffic = peer.traffic();
    info!(
        connection = peer.client.name,
        client,
        user,
        vhost,
        channels = peer.channel_count(),
        unsent_bytes,
        received_bytes = traffic.received_bytes,
        sent_bytes = traffic.sent_bytes,
        blocked = peer.is_blocked(),
        "state: connection"
    );
}

fn log_left_out(what: &str, count: usize) {
    if count > 0 {
        info!(what, count, "state: left out");
    }
}
