//! The metrics endpoint: RabbitMQ's aggregated names in Prometheus' text format, and probes.
//!
//! What a scrape costs does not depend on the number of queues.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use leveret_broker::{Event, Reason, SIZE_BOUNDS};

use crate::app::App;
use crate::health::not_ready;
use crate::overview::{NO_ERLANG, RABBITMQ_VERSION, VERSION};
use crate::walk;

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Dashboards select by these texts.
const SIZE_LABELS: [&str; 9] = [
    "100.0", "1000.0", "10000.0", "100000.0", "1e+06", "1e+07", "5e+07", "1e+08", "+Inf",
];
const AMQP: &str = r#"protocol="amqp091""#;
const AMQP_CLASSIC: &str = r#"protocol="amqp091",queue_type="rabbit_classic_queue""#;

/// Counters of what comes and goes.
const EVENTS: [(&str, &str, Event); 7] = [
    (
        "connections_opened_total",
        "connections opened",
        Event::ConnectionOpened,
    ),
    (
        "connections_closed_total",
        "connections closed or terminated",
        Event::ConnectionClosed,
    ),
    (
        "channels_opened_total",
        "channels opened",
        Event::ChannelOpened,
    ),
    (
        "channels_closed_total",
        "channels closed",
        Event::ChannelClosed,
    ),
    (
        "queues_declared_total",
        "queues declared",
        Event::QueueDeclared,
    ),
    (
        "queues_created_total",
        "queues created",
        Event::QueueCreated,
    ),
    (
        "queues_deleted_total",
        "queues deleted",
        Event::QueueDeleted,
    ),
];
/// Counters of messages that came in: their names and what they count.
const OF_PROTOCOL: [(&str, &str); 6] = [
    ("received", "messages received from publishers"),
    (
        "received_confirm",
        "messages received from publishers expecting confirmations",
    ),
    ("routed", "messages routed to queues"),
    (
        "unroutable_dropped",
        "messages published as non-mandatory and dropped as unroutable",
    ),
    (
        "unroutable_returned",
        "messages published as mandatory and returned as unroutable",
    ),
    ("confirmed", "messages confirmed to publishers"),
];
/// The same for messages that went out.
const OF_QUEUES: [(&str, &str); 8] = [
    ("delivered", "messages delivered to consumers"),
    (
        "delivered_consume_manual_ack",
        "messages delivered to consumers using basic.consume with manual acknowledgment",
    ),
    (
        "delivered_consume_auto_ack",
        "messages delivered to consumers using basic.consume with automatic acknowledgment",
    ),
    (
        "delivered_get_manual_ack",
        "messages delivered to consumers using basic.get with manual acknowledgment",
    ),
    (
        "delivered_get_auto_ack",
        "messages delivered to consumers using basic.get with automatic acknowledgment",
    ),
    ("get_empty", "times basic.get operations fetched no message"),
    ("redelivered", "messages redelivered to consumers"),
    (
        "acknowledged",
        "message acknowledgements received from consumers",
    ),
];

/// The metrics endpoint as a service; it asks for no password.
pub fn metrics_router(app: &Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(Arc::clone(app))
}

async fn scrape(State(app): State<Arc<App>>) -> Response {
    let text = tokio::task::spawn_blocking(move || Page::of(&app).text).await;
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn live() -> &'static str {
    "ok\n"
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    match not_ready(&app) {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// A page of metrics being written.
struct Page {
    text: String,
}

impl Page {
    fn of(app: &App) -> Self {
        let mut page = Self {
            text: String::with_capacity(16 * 1024),
        };
        page.identity(app);
        page.overview(app);
        page.process(app);
        page.messages(app);
        page.sizes(app);
        page.alarms(app);
        page
    }

    /// One metric with its samples, each a list of labels and a value.
    fn family(&mut self, name: &str, kind: &str, help: &str, samples: &[(&str, f64)]) {
        let _ = writeln!(
            self.text,
            "# TYPE rabbitmq_{name} {kind}\n# HELP rabbitmq_{name} {help}"
        );
        for (labels, value) in samples {
            let _ = if labels.is_empty() {
                writeln!(self.text, "rabbitmq_{name} {value}")
            } else {
                writeln!(self.text, "rabbitmq_{name}{{{labels}}} {value}")
            };
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help, &[("", value as f64)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help, &[("", value as f64)]);
    }

    fn identity(&mut self, app: &App) {
        let labels = labels(&[
            ("rabbitmq_node", app.node()),
            ("rabbitmq_cluster", &app.cluster_name()),
            ("rabbitmq_cluster_permanent_id", &app.cluster_id()),
            ("rabbitmq_endpoint", "aggregated"),
        ]);
        let help = "RabbitMQ node & cluster identity info";
        self.family("identity_info", "untyped", help, &[(&labels, 1.0)]);
        let labels = self::labels(&[
            ("rabbitmq_version", RABBITMQ_VERSION),
            ("prometheus_plugin_version", RABBITMQ_VERSION),
            ("prometheus_client_version", VERSION),
            ("erlang_version", NO_ERLANG),
            ("product_name", "Leveret"),
            ("product_version", VERSION),
        ]);
        let help = "RabbitMQ & Erlang/OTP version info";
        self.family("build_info", "untyped", help, &[(&labels, 1.0)]);
    }

    fn overview(&mut self, app: &App) {
        let broker = &app.broker;
        let channels: usize = walk::peers(broker).map(|peer| peer.channel_count()).sum();
        let (mut ready, mut unacked, mut consumers, mut queues) = (0, 0, 0, 0);
        for vhost in broker.vhosts() {
            let held = vhost.holdings.get();
            ready += held.ready;
            unacked += held.unacked;
            consumers += held.consumers;
            queues += vhost.directory.read().queues().len();
        }
        self.gauge(
            "connections",
            "Connections currently open",
            broker.peer_count() as u64,
        );
        self.gauge("channels", "Channels currently open", channels as u64);
        self.gauge("queues", "Queues available", queues as u64);
        self.gauge("consumers", "Consumers currently connected", consumers);
        self.gauge(
            "queue_messages_ready",
            "Messages ready to be delivered to consumers",
            ready,
        );
        self.gauge(
            "queue_messages_unacked",
            "Messages delivered to consumers but not yet acknowledged",
            unacked,
        );
        self.gauge(
            "queue_messages",
            "Sum of ready and unacknowledged messages",
            ready + unacked,
        );
        for (name, help, event) in EVENTS {
            self.counter(
                name,
                &format!("Total number of {help}"),
                broker.events.get(event),
            );
        }
    }

    fn process(&mut self, app: &App) {
        let vitals = app.host.vitals();
        self.gauge(
            "process_open_fds",
            "Open file descriptors",
            vitals.descriptors_used,
        );
        self.gauge(
            "process_max_fds",
            "Open file descriptors limit",
            vitals.descriptors_max,
        );
        self.gauge(
            "process_resident_memory_bytes",
            "Memory used in bytes",
            vitals.memory_used,
        );
        self.gauge(
            "resident_memory_limit_bytes",
            "Memory high watermark in bytes",
            app.broker.memory_alarm_bytes(),
        );
        self.gauge(
            "disk_space_available_bytes",
            "Disk space available in bytes",
            vitals.disk_free,
        );
        self.gauge(
            "disk_space_available_limit_bytes",
            "Free disk space low watermark in bytes",
            vitals.disk_alarm_at,
        );
        let uptime_ms = app.now_ms().saturating_sub(app.started_ms);
        let uptime_s = uptime_ms as f64 / 1000.0;
        self.family(
            "erlang_uptime_seconds",
            "gauge",
            "Node uptime",
            &[("", uptime_s)],
        );
        self.gauge(
            "queue_memory_bytes",
            "Memory that messages of all queues take",
            leveret_record::resident_bytes(),
        );
        self.gauge(
            "unfinished_bytes",
            "Memory of unfinished messages and uncommitted transactions",
            app.broker.unfinished_bytes(),
        );
        let closed = app.broker.unfinished_closed();
        self.counter(
            "connections_closed_unfinished_total",
            "Total number of connections closed for messages they did not complete",
            closed.over_budget + closed.stalled,
        );
        let refused = Reason::ALL.map(|reason| {
            let label = format!("reason=\"{}\"", reason.name());
            (label, app.broker.refused_messages(reason) as f64)
        });
        let refused = refused.each_ref().map(|(label, count)| (&**label, *count));
        let help = "Total number of messages refused by a queue";
        self.family("queue_messages_refused_total", "counter", help, &refused);
    }

    fn messages(&mut self, app: &App) {
        let counts = app.broker.totals().messages;
        let sent = counts.deliveries;
        let delivered = sent.delivered + sent.delivered_no_ack + sent.got + sent.got_no_ack;
        let of_protocol = [
            counts.published,
            counts.published_confirming,
            counts.routed(),
            counts.dropped,
            counts.returned,
            counts.confirmed,
        ];
        let of_queues = [
            delivered,
            sent.delivered,
            sent.delivered_no_ack,
            sent.got,
            sent.got_no_ack,
            counts.got_empty,
            sent.redelivered,
            counts.acked,
        ];
        let families = OF_PROTOCOL
            .iter()
            .zip(of_protocol)
            .map(|(of, value)| (of, value, AMQP));
        let more = OF_QUEUES
            .iter()
            .zip(of_queues)
            .map(|(of, value)| (of, value, AMQP_CLASSIC));
        for ((name, help), value, labels) in families.chain(more) {
            let name = format!("global_messages_{name}_total");
            let help = format!("Total number of {help}");
            self.family(&name, "counter", &help, &[(labels, value as f64)]);
        }
        for (kind, value) in [("dropped", counts.dropped), ("returned", counts.returned)] {
            let name = format!("channel_messages_unroutable_{kind}_total");
            let help = format!("Total number of messages {kind} as unroutable");
            self.counter(&name, &help, value);
        }
    }

    fn sizes(&mut self, app: &App) {
        let sizes = app.broker.totals().sizes;
        let name = "message_size_bytes";
        let _ = writeln!(
            self.text,
            "# TYPE rabbitmq_{name} histogram\n# HELP rabbitmq_{name} Size of messages received \
             from publishers"
        );
        let mut count = 0;
        debug_assert_eq!(SIZE_LABELS.len(), SIZE_BOUNDS.len() + 1);
        for (label, of_class) in SIZE_LABELS.iter().zip(sizes.classes) {
            count += of_class;
            let _ = writeln!(
                self.text,
                "rabbitmq_{name}_bucket{{{AMQP},le=\"{label}\"}} {count}"
            );
        }
        let _ = writeln!(self.text, "rabbitmq_{name}_count{{{AMQP}}} {count}");
        let _ = writeln!(self.text, "rabbitmq_{name}_sum{{{AMQP}}} {}", sizes.bytes);
    }

    fn alarms(&mut self, app: &App) {
        let alarms = app.alarms();
        let vitals = app.host.vitals();
        let full = vitals.descriptors_max > 0 && vitals.descriptors_used >= vitals.descriptors_max;
        let gauges = [
            (
                "alarms_memory_used_watermark",
                "is 1 if VM memory watermark alarm is in effect",
                alarms.memory,
            ),
            (
                "alarms_free_disk_space_watermark",
                "is 1 if free disk space watermark alarm is in effect",
                alarms.disk,
            ),
            (
                "alarms_file_descriptor_limit",
                "is 1 if file descriptor limit alarm is in effect",
                full,
            ),
        ];
        for (name, help, active) in gauges {
            self.gauge(name, help, u64::from(active));
        }
    }
}

/// Labels in the text format.
fn labels(labels: &[(&str, &str)]) -> String {
    let one = |(name, value): &(&str, &str)| {
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        format!("{name}=\"{value}\"")
    };
    labels.iter().map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let text = labels(&[("a", "x\"y\\z"), ("b", "1\n2")]);
        assert_eq!(text, "a=\"x\\\"y\\\\z\",b=\"1\\n2\"");
    }
}
