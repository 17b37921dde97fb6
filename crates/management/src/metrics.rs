//! The metrics endpoint: RabbitMQ's names in Prometheus' text format, and probes.
//!
//! What a scrape of the aggregated page costs does not depend on the number of queues.

mod deaths;
mod queues;
mod runs;

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use leveret_broker::{Churn, Existing, HoldingCounts, Reason, SIZE_BOUNDS};

use crate::app::App;
use crate::detailed::{self, DetailedQuery, Fragments};
use crate::exposition::{head, labels};
use crate::figures::{
    CHANNEL, CHANNEL_EXCHANGE, CHANNEL_QUEUE, CONNECTION, CONNECTION_COARSE, ChannelFigures,
    EXCHANGE, Metric, QUEUE_DELIVERY,
};
use crate::health::not_ready;
use crate::overview::{NO_ERLANG, RABBITMQ_VERSION, VERSION};
use crate::problem::Problem;
use crate::stream::Stream;
use crate::walk;

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Dashboards select by these texts.
const SIZE_LABELS: [&str; 9] = [
    "100.0", "1000.0", "10000.0", "100000.0", "1e+06", "1e+07", "5e+07", "1e+08", "+Inf",
];
const AMQP: &str = r#"protocol="amqp091""#;
const AMQP_CLASSIC: &str = r#"protocol="amqp091",queue_type="rabbit_classic_queue""#;

/// Counters of what comes and goes.
const EVENTS: [(&str, &str, Churn); 7] = [
    (
        "connections_opened_total",
        "connections opened",
        Churn::ConnectionOpened,
    ),
    (
        "connections_closed_total",
        "connections closed or terminated",
        Churn::ConnectionClosed,
    ),
    (
        "channels_opened_total",
        "channels opened",
        Churn::ChannelOpened,
    ),
    (
        "channels_closed_total",
        "channels closed",
        Churn::ChannelClosed,
    ),
    (
        "queues_declared_total",
        "queues declared",
        Churn::QueueDeclared,
    ),
    (
        "queues_created_total",
        "queues created",
        Churn::QueueCreated,
    ),
    (
        "queues_deleted_total",
        "queues deleted",
        Churn::QueueDeleted,
    ),
];
/// Counters of messages that came in: their names and what they count.
const OF_PROTOCOL: [(&str, &str); 6] = [
    ("received", "messages received from publishers"),
    (
        "received_confirm",
        "messages received from publishers expecting confirmations",
    ),
    ("routed", "messages routed to queues or streams"),
    (
        "unroutable_dropped",
        "messages published as non-mandatory into an exchange and dropped as unroutable",
    ),
    (
        "unroutable_returned",
        "messages published as mandatory into an exchange and returned to the publisher as \
         unroutable",
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
    ("acknowledged", "messages acknowledged by consumers"),
];

/// The metrics endpoint as a service; it asks for no password.
pub fn metrics_router(app: &Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(aggregated))
        .route("/metrics/per-object", get(per_object))
        .route("/metrics/detailed", get(of_families))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(Arc::clone(app))
}

async fn aggregated(State(app): State<Arc<App>>) -> Response {
    let text = tokio::task::spawn_blocking(move || MetricsPage::of(&app).text).await;
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn per_object(State(app): State<Arc<App>>) -> Response {
    streamed(app, detailed::per_object).await
}

async fn of_families(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Response {
    match DetailedQuery::of(&query.unwrap_or_default()) {
        Ok(asked) => streamed(app, |app| detailed::detailed(app, asked)).await,
        Err(why) => (StatusCode::BAD_REQUEST, why).into_response(),
    }
}

/// A page that is made while it is sent.
async fn streamed(
    app: Arc<App>,
    make: impl FnOnce(&Arc<App>) -> Fragments + Send + 'static,
) -> Response {
    let page = tokio::task::spawn_blocking(move || {
        let reserved = app.budget.answer(0)?;
        let stream = Stream::new(&app, TEXT_FORMAT, reserved, make(&app));
        Ok::<_, Problem>(stream.into_response())
    });
    match page.await {
        Ok(page) => page.into_response(),
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
pub(crate) struct MetricsPage {
    text: String,
    /// Between `rabbitmq_` and a metric's name.
    prefix: &'static str,
}

impl MetricsPage {
    pub(crate) fn new(prefix: &'static str) -> Self {
        Self {
            text: String::new(),
            prefix,
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.text.into_bytes()
    }

    fn of(app: &Arc<App>) -> Self {
        let mut page = Self::new("");
        page.identity(app, "aggregated");
        let clients = page.whole(app);
        page.sums(app, &clients);
        page
    }

    /// What is about no single object; gives what it found of clients.
    pub(crate) fn whole(&mut self, app: &Arc<App>) -> Clients {
        let clients = Clients::of(app);
        self.overview(app, &clients);
        self.churn(app);
        self.logins(app);
        self.node(app);
        self.node_limits(app);
        self.memory(app);
        self.messages(app);
        self.clients(app, &clients);
        self.deaths(app);
        self.timeouts(app);
        self.sizes(app);
        self.alarms(app);
        self.process(app);
        clients
    }

    /// The sums of metrics of single objects.
    fn each<T>(&mut self, metrics: &[Metric<T>], sums: impl IntoIterator<Item = f64>) {
        for (metric, sum) in metrics.iter().zip(sums) {
            self.family(metric.name, metric.kind, metric.help, &[("", sum)]);
        }
    }

    /// One metric with its samples, each a list of labels and a value.
    fn family(&mut self, name: &str, kind: &str, help: &str, samples: &[(&str, f64)]) {
        let name = format!("rabbitmq_{}{name}", self.prefix);
        head(&mut self.text, &name, kind, help);
        for (labels, value) in samples {
            let _ = if labels.is_empty() {
                writeln!(self.text, "{name} {value}")
            } else {
                writeln!(self.text, "{name}{{{labels}}} {value}")
            };
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help, &[("", value as f64)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help, &[("", value as f64)]);
    }

    pub(crate) fn identity(&mut self, app: &App, endpoint: &str) {
        let whose = labels(&[
            ("rabbitmq_node", app.node()),
            ("rabbitmq_cluster", &app.cluster_name()),
            ("rabbitmq_cluster_permanent_id", &app.cluster_id()),
            ("rabbitmq_endpoint", endpoint),
        ]);
        let help = "RabbitMQ node & cluster identity info";
        self.family("identity_info", "untyped", help, &[(&whose, 1.0)]);
        let versions = labels(&[
            ("rabbitmq_version", RABBITMQ_VERSION),
            ("prometheus_plugin_version", RABBITMQ_VERSION),
            ("prometheus_client_version", VERSION),
            ("erlang_version", NO_ERLANG),
            ("product_name", "Leveret"),
            ("product_version", VERSION),
        ]);
        let help = "RabbitMQ & Erlang/OTP version info";
        self.family("build_info", "untyped", help, &[(&versions, 1.0)]);
    }

    /// How many there are of everything.
    fn overview(&mut self, app: &App, clients: &Clients) {
        let broker = &app.broker;
        let connections = broker.peer_count() as u64;
        let queues = broker.events.existing(Existing::Queues) as u64;
        self.gauge("connections", "Connections currently open", connections);
        self.gauge("channels", "Channels currently open", clients.channels);
        self.gauge("queues", "Queues available", queues);
        let consumers = held(app).consumers;
        self.gauge("consumers", "Consumers currently connected", consumers);
    }

    /// Sums over queues, channels, connections and exchanges.
    fn sums(&mut self, app: &App, clients: &Clients) {
        self.sums_of_queues(app);
        let totals = app.broker.totals();
        let (counts, sent) = (totals.messages, totals.messages.deliveries);
        let numbers =
            |numbers: &[u64]| -> Vec<f64> { numbers.iter().map(|number| *number as f64).collect() };
        let published = [counts.published, counts.returned, counts.dropped];
        let refused = Reason::ALL.map(|reason| app.broker.refused.total(reason));
        let refused = refused.iter().sum::<u64>() as f64;
        let of_exchanges = numbers(&published).into_iter().chain([refused]);
        self.each(&EXCHANGE, of_exchanges);
        let [published, returned, dropped] = published;
        let published = [published, counts.confirmed, returned, dropped];
        self.each(&CHANNEL_EXCHANGE, numbers(&published));
        let taken = numbers(&[
            sent.got,
            sent.got_no_ack,
            sent.delivered,
            sent.delivered_no_ack,
            sent.redelivered,
            counts.acked,
            counts.got_empty,
        ]);
        self.each(&QUEUE_DELIVERY, taken.clone());
        self.each(&CHANNEL_QUEUE, taken);
        self.each(&CHANNEL, clients.of_channels);
        let traffic = totals.traffic;
        let bytes = [traffic.received_bytes, traffic.sent_bytes];
        self.each(&CONNECTION_COARSE, numbers(&bytes));
        let [pending, channels] = clients.of_connections;
        let (reads, writes) = (traffic.reads as f64, traffic.writes as f64);
        let flow_s = totals.flow_ms as f64 / 1000.0;
        self.each(&CONNECTION, [reads, writes, pending, channels, flow_s]);
    }

    /// What comes and goes.
    pub(crate) fn churn(&mut self, app: &App) {
        for (name, help, event) in EVENTS {
            let help = format!("Total number of {help}");
            self.counter(name, &help, app.broker.events.get(event));
        }
    }

    /// Consumers, and the channels that have published.
    fn clients(&mut self, app: &App, clients: &Clients) {
        let publishers = clients.publishers as f64;
        let help = "Current number of publishers";
        self.family("global_publishers", "gauge", help, &[(AMQP, publishers)]);
        let help = "Current number of consumers";
        let consumers = held(app).consumers as f64;
        self.family("global_consumers", "gauge", help, &[(AMQP, consumers)]);
    }

    /// Logins by protocol.
    pub(crate) fn logins(&mut self, app: &App) {
        let events = &app.broker.events;
        let amqp = [Churn::LoginAccepted, Churn::LoginRefused].map(|event| events.get(event));
        let http = app.logins();
        let logins = [[http.0, http.1], amqp];
        for (name, help, counted) in [
            ("", "", [true, true]),
            ("succeeded_", "successful ", [true, false]),
            ("failed_", "failed ", [false, true]),
        ] {
            let of = |[accepted, refused]: [u64; 2]| {
                let [is_accepted, is_refused] = counted.map(u64::from);
                (accepted * is_accepted + refused * is_refused) as f64
            };
            let [http, amqp] = logins.map(of);
            let samples = [("protocol=\"http\"", http), (AMQP, amqp)];
            let name = format!("auth_attempts_{name}total");
            let help = format!("Total number of {help}authentication attempts");
            self.family(&name, "counter", &help, &samples);
        }
    }

    /// What the process uses.
    pub(crate) fn node(&mut self, app: &App) {
        let vitals = app.host.vitals();
        self.gauge(
            "process_open_fds",
            "Open file descriptors",
            vitals.descriptors_used,
        );
        self.gauge(
            "process_resident_memory_bytes",
            "Memory used in bytes",
            vitals.memory_used,
        );
        self.gauge(
            "disk_space_available_bytes",
            "Disk space available in bytes",
            vitals.disk_free,
        );
    }

    /// What it may use, and since when it runs.
    pub(crate) fn node_limits(&mut self, app: &App) {
        let vitals = app.host.vitals();
        self.gauge(
            "process_max_fds",
            "Open file descriptors limit",
            vitals.descriptors_max,
        );
        self.gauge(
            "resident_memory_limit_bytes",
            "Memory high watermark in bytes",
            app.broker.memory_alarm_bytes(),
        );
        self.gauge(
            "disk_space_available_limit_bytes",
            "Free disk space low watermark in bytes",
            vitals.disk_alarm_at,
        );
        let uptime_ms = app.now_ms().saturating_sub(app.started_ms);
        let uptime_s = uptime_ms as f64 / 1000.0;
        let samples = [("", uptime_s)];
        self.family("erlang_uptime_seconds", "gauge", "Node uptime", &samples);
    }

    /// What a library of Prometheus tells of any process.
    fn process(&mut self, app: &App) {
        let name = "process_start_time_seconds";
        let help = "Start time of the process since unix epoch in seconds.";
        head(&mut self.text, name, "gauge", help);
        let started_s = app.started_ms as f64 / 1000.0;
        let _ = writeln!(self.text, "{name} {started_s}");
    }

    /// What messages take of the process's memory.
    fn memory(&mut self, app: &App) {
        self.gauge(
            "queue_memory_bytes",
            "Memory that messages of all queues take",
            app.broker.memory.resident_bytes(),
        );
        self.runs(app);
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
            let value = f64::from(u8::from(active));
            self.family(name, "untyped", help, &[("", value)]);
        }
    }
}

/// What one walk over all connections finds.
#[derive(Default)]
pub(crate) struct Clients {
    channels: u64,
    /// Channels that have published.
    publishers: u64,
    /// Sums of [`CHANNEL`].
    of_channels: [f64; CHANNEL.len()],
    /// Bytes that wait to be sent, and channels.
    of_connections: [f64; 2],
}

impl Clients {
    fn of(app: &App) -> Self {
        let mut found = Self::default();
        let [_, _, pending, channels, _] = &CONNECTION;
        for peer in walk::peers(&app.broker) {
            for (sum, metric) in found.of_connections.iter_mut().zip([pending, channels]) {
                *sum += (metric.value)(&peer);
            }
            for stats in peer.channels() {
                found.channels += 1;
                found.publishers += u64::from(stats.published.get() > 0);
                let channel = ChannelFigures {
                    peer: Arc::clone(&peer),
                    stats,
                };
                for (sum, metric) in found.of_channels.iter_mut().zip(&CHANNEL) {
                    *sum += (metric.value)(&channel);
                }
            }
        }
        found
    }
}

/// What the queues of all virtual hosts hold.
fn held(app: &App) -> HoldingCounts {
    let mut sum = HoldingCounts::default();
    for vhost in app.broker.vhosts() {
        let held = vhost.holdings.get();
        sum.ready += held.ready;
        sum.unacked += held.unacked;
        sum.consumers += held.consumers;
        sum.bytes += held.bytes;
    }
    sum
}
