//! The broker as a whole.

use std::sync::Arc;

use leveret_broker::Vhost;
use leveret_router::ExchangeKind;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::call::Call;
use crate::history::AskedSpans;
use crate::list::Columns;
use crate::reply::{Answer, Reply};
use crate::sampler::{MESSAGES, READY, UNACKED, Values, queue_values};
use crate::walk;

/// The RabbitMQ version whose behaviour Leveret follows; tools gate features on it.
pub(crate) const RABBITMQ_VERSION: &str = "4.2.0";
/// RabbitMQ's tools insist on a version of the runtime RabbitMQ has and Leveret has not.
pub(crate) const NO_ERLANG: &str = "none";
/// Leveret's own version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET /api/overview`.
pub(crate) fn show(call: &Call) -> Answer {
    let app = &call.app;
    let window = AskedSpans::of(call)?;
    let now_ms = app.now_ms();
    let vhosts = call.visible_vhosts()?;
    let (mut ready, mut unacked, mut consumers) = (0, 0, 0);
    let (mut queues, mut exchanges) = (0, 0);
    for vhost in &vhosts {
        let held = vhost.holdings.get();
        ready += held.ready;
        unacked += held.unacked;
        consumers += held.consumers;
        let directory = vhost.directory.read();
        queues += directory.queues().len();
        exchanges += directory.router.exchange_count();
    }
    let (mut connections, mut channels) = (0, 0);
    for peer in crate::connection::listed(call)? {
        connections += 1;
        channels += peer.channel_count();
    }
    let mut overview = product(app);
    let sampler = &app.sampler;
    let (stats, totals) = if call.caller.is_monitor() {
        (
            sampler.message_stats(&app.broker, window.message_rates, now_ms),
            sampler.queue_totals((ready, unacked), window.lengths, now_ms),
        )
    } else {
        of_queues(app, &vhosts)
    };
    let churn = sampler.churn(&app.broker, window.data_rates, now_ms);
    overview.insert("message_stats".to_owned(), stats.into());
    overview.insert("churn_rates".to_owned(), churn);
    overview.insert("queue_totals".to_owned(), totals.into());
    let objects = json!({
        "connections": connections,
        "channels": channels,
        "exchanges": exchanges,
        "queues": queues,
        "consumers": consumers,
    });
    overview.insert("object_totals".to_owned(), objects);
    if call.caller.is_monitor() {
        overview.insert("listeners".to_owned(), listeners(app));
        overview.insert("contexts".to_owned(), contexts(app));
    } else {
        overview.insert("listeners".to_owned(), json!([]));
        overview.insert("contexts".to_owned(), json!([]));
    }
    Ok(Columns::reply(call, overview))
}

/// The message counters and lengths of some virtual hosts' queues, with their rates: the broker's
/// own count what is in others too, and samples are kept of those alone.
fn of_queues(app: &App, vhosts: &[Arc<Vhost>]) -> (Map<String, Value>, Map<String, Value>) {
    let mut values = Values::default();
    let mut rates = values.map(|_| 0.0);
    for vhost in vhosts {
        for cell in walk::queues(vhost) {
            for (sum, value) in values.iter_mut().zip(queue_values(&cell)) {
                *sum += value;
            }
            app.sampler.with_queue(&cell, |ring| {
                let Some(ring) = ring else { return };
                for (field, sum) in rates.iter_mut().enumerate() {
                    *sum += ring.rate(field);
                }
            });
        }
    }
    let named = |names: &[(usize, &str)]| {
        let mut stats = Map::new();
        for (field, name) in names {
            stats.insert((*name).to_owned(), values[*field].into());
            stats.insert(format!("{name}_details"), json!({"rate": rates[*field]}));
        }
        stats
    };
    let counters: Vec<_> = MESSAGES.into_iter().enumerate().collect();
    let mut totals = named(&[
        (READY, "messages_ready"),
        (UNACKED, "messages_unacknowledged"),
    ]);
    let held = values[READY] + values[UNACKED];
    let rate = rates[READY] + rates[UNACKED];
    totals.insert("messages".to_owned(), held.into());
    totals.insert("messages_details".to_owned(), json!({"rate": rate}));
    (named(&counters), totals)
}

/// In RabbitMQ's words.
fn described(kind: ExchangeKind) -> String {
    match kind {
        ExchangeKind::ConsistentHash => "Consistent Hashing Exchange".to_owned(),
        ExchangeKind::ModulusHash => "Modulus Hashing Exchange".to_owned(),
        ExchangeKind::LocalRandom => {
            "Picks one random local binding (queue) to route via (to).".to_owned()
        }
        ExchangeKind::Random => "Randomly picks a binding (queue) to route via (to).".to_owned(),
        kind => format!(
            "AMQP {} exchange, as per the AMQP specification",
            kind.name()
        ),
    }
}

/// What Leveret is, and whom it stands in for.
fn product(app: &App) -> Map<String, Value> {
    let kinds = ExchangeKind::ALL
        .map(|kind| json!({"name": kind.name(), "description": described(kind), "enabled": true}));
    let product = json!({
        "management_version": RABBITMQ_VERSION,
        "rabbitmq_version": RABBITMQ_VERSION,
        "erlang_version": NO_ERLANG,
        "erlang_full_version": NO_ERLANG,
        "crypto_lib_version": NO_ERLANG,
        "product_name": "Leveret",
        "product_version": VERSION,
        "cluster_name": app.cluster_name(),
        "cluster_tags": app.cluster_tags(),
        "node": app.node(),
        "node_tags": {},
        "rates_mode": "basic",
        "sample_retention_policies": {"global": [600, 3600], "basic": [600], "detailed": [600]},
        "exchange_types": kinds,
        "statistics_db_event_queue": 0,
        "disable_stats": false,
        "enable_queue_totals": false,
        "is_op_policy_updating_enabled": true,
        "default_queue_type": "classic",
        "release_series_support_status": "supported",
    });
    match product {
        Value::Object(product) => product,
        _ => Map::new(),
    }
}

fn listeners(app: &App) -> Value {
    let listeners = app.host.listeners().into_iter().map(|listener| {
        json!({
            "node": app.node(),
            "protocol": listener.protocol,
            "ip_address": listener.address.ip().to_string(),
            "port": listener.address.port(),
            "socket_opts": {},
        })
    });
    listeners.collect()
}

fn contexts(app: &App) -> Value {
    let http = app
        .host
        .listeners()
        .into_iter()
        .filter(|l| l.protocol.starts_with("http"));
    let contexts = http.map(|listener| {
        let description = if listener.protocol == "http" {
            "RabbitMQ Management"
        } else {
            "Prometheus exporter"
        };
        json!({
            "node": app.node(),
            "description": description,
            "path": "/",
            "ip": listener.address.ip().to_string(),
            "port": listener.address.port().to_string(),
            "ssl_opts": [],
        })
    });
    contexts.collect()
}

/// `GET /api/whoami`.
pub(crate) fn whoami(call: &Call) -> Answer {
    Ok(Reply::Json(json!({
        "name": call.caller.name,
        "tags": call.caller.tags,
        "is_internal_user": true,
    })))
}

/// `GET /api/auth`: how one may log in.
pub(crate) fn auth(_: &Call) -> Answer {
    Ok(Reply::Json(json!({"oauth_enabled": false})))
}

/// `GET /api/version`.
pub(crate) fn version(_: &Call) -> Answer {
    Ok(Reply::Json(RABBITMQ_VERSION.into()))
}

/// `GET /api/extensions`: pages that plug-ins add to the user interface.
pub(crate) fn extensions(_: &Call) -> Answer {
    Ok(Reply::Json(json!([])))
}
