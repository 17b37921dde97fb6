//! Feature flags and deprecated features: what tools gate on, as far as Leveret has it.

use serde_json::{Value, json};

use crate::app::App;
use crate::call::Call;
use crate::list::Columns;
use crate::problem::Problem;
use crate::reply::{Answer, Reply};

/// A feature flag.
struct Flag {
    name: &'static str,
    desc: &'static str,
    /// Whether the version that Leveret stands in for can be without it.
    stable: bool,
}

impl Flag {
    const fn required(name: &'static str, desc: &'static str) -> Self {
        let stable = false;
        Self { name, desc, stable }
    }

    const fn stable(name: &'static str, desc: &'static str) -> Self {
        let stable = true;
        Self { name, desc, stable }
    }

    fn provided_by(&self) -> &'static str {
        match self.name {
            "detailed_queues_endpoint" => "rabbitmq_management",
            "drop_unroutable_metric" | "empty_basic_get_metric" => "rabbitmq_management_agent",
            _ => "rabbit",
        }
    }
}

/// RabbitMQ's flags, all of them enabled, as tools look for them before they go on; but for those
/// of streams, which Leveret does not have.
const FLAGS: [Flag; 22] = [
    Flag::required(
        "classic_mirrored_queue_version",
        "Support setting version for classic mirrored queues",
    ),
    Flag::required(
        "classic_queue_type_delivery_support",
        "Bug fix for classic queue deliveries using mixed versions",
    ),
    Flag::required(
        "detailed_queues_endpoint",
        "Add a detailed queues HTTP API endpoint. \
         Reduce number of metrics in the default endpoint.",
    ),
    Flag::required(
        "direct_exchange_routing_v2",
        "v2 direct exchange routing implementation",
    ),
    Flag::required(
        "drop_unroutable_metric",
        "Count unroutable publishes to be dropped in stats",
    ),
    Flag::required(
        "empty_basic_get_metric",
        "Count AMQP `basic.get` on empty queues in stats",
    ),
    Flag::required("feature_flags_v2", "Feature flags subsystem V2"),
    Flag::required(
        "implicit_default_bindings",
        "Default bindings are now implicit, instead of being stored in the database",
    ),
    Flag::stable("khepri_db", "New Raft-based metadata store."),
    Flag::required(
        "listener_records_in_ets",
        "Store listener records in ETS instead of Mnesia",
    ),
    Flag::required("maintenance_mode_status", "Maintenance mode status"),
    Flag::required("message_containers", "Message containers."),
    Flag::required(
        "message_containers_deaths_v2",
        "Bug fix for dead letter cycle detection",
    ),
    Flag::required("quorum_queue", "Support queues of type `quorum`"),
    Flag::required(
        "quorum_queue_non_voters",
        "Allows new quorum queue members to be added as non voters initially.",
    ),
    Flag::required("rabbit_exchange_type_local_random", "Local random exchange"),
    Flag::stable(
        "rabbitmq_4.0.0",
        "Allows rolling upgrades from 3.13.x to 4.0.x",
    ),
    Flag::stable("rabbitmq_4.1.0", "Allows rolling upgrades to 4.1.x"),
    Flag::stable("rabbitmq_4.2.0", "Allows rolling upgrades to 4.2.x"),
    Flag::required(
        "tracking_records_in_ets",
        "Store tracking records in ETS instead of Mnesia",
    ),
    Flag::required(
        "user_limits",
        "Configure connection and channel limits for a user",
    ),
    Flag::required(
        "virtual_host_metadata",
        "Virtual host metadata (description, tags, etc)",
    ),
];
/// A feature that RabbitMQ takes away.
struct Deprecated {
    name: &'static str,
    phase: &'static str,
    state: &'static str,
}

impl Deprecated {
    /// Still there unless somebody forbids it.
    const fn permitted(name: &'static str) -> Self {
        Self {
            name,
            phase: "permitted_by_default",
            state: "permitted",
        }
    }

    /// No longer there.
    const fn denied(name: &'static str, phase: &'static str) -> Self {
        Self {
            name,
            phase,
            state: "denied",
        }
    }
}

const DEPRECATED: [Deprecated; 7] = [
    Deprecated::permitted("amqp_address_v1"),
    Deprecated::denied("classic_queue_mirroring", "removed"),
    Deprecated::permitted("global_qos"),
    Deprecated::permitted("management_metrics_collection"),
    Deprecated::denied("queue_master_locator", "denied_by_default"),
    Deprecated::denied("ram_node_type", "removed"),
    Deprecated::permitted("transient_nonexcl_queues"),
];

/// `GET /api/feature-flags`.
pub(crate) fn flags(call: &Call) -> Answer {
    let rows = FLAGS.iter().map(|flag| {
        let (stability, level) = if flag.stable {
            ("stable", "none")
        } else {
            ("required", "hard")
        };
        json!({
            "name": flag.name,
            "desc": flag.desc,
            "doc_url": "",
            "callbacks": [],
            "experiment_level": "supported",
            "state": "enabled",
            "stability": stability,
            "require_level": level,
            "provided_by": flag.provided_by(),
        })
    });
    Ok(with_columns(call, rows))
}

/// The rows with the columns that are asked for.
fn with_columns(call: &Call, rows: impl Iterator<Item = Value>) -> Reply {
    let columns = Columns::of(call);
    let rows = rows.map(|row| match row {
        Value::Object(row) => Value::Object(columns.apply(row)),
        row => row,
    });
    Reply::Json(rows.collect())
}

/// `PUT /api/feature-flags/{name}/enable`: all of them are.
pub(crate) fn enable(call: &Call) -> Answer {
    let name = call.segment("name");
    if name == "all" || FLAGS.iter().any(|flag| flag.name == name) {
        Ok(Reply::NoContent)
    } else {
        Err(Problem::BadRequest("unsupported".to_owned()))
    }
}

fn shown(feature: &Deprecated) -> Value {
    let provided_by = match feature.name {
        "management_metrics_collection" => "rabbitmq_management_agent",
        _ => "rabbit",
    };
    json!({
        "name": feature.name,
        "desc": "",
        "deprecation_phase": feature.phase,
        "state": feature.state,
        "doc_url": "",
        "provided_by": provided_by,
    })
}

/// `GET /api/deprecated-features`.
pub(crate) fn deprecated(call: &Call) -> Answer {
    Ok(with_columns(call, DEPRECATED.iter().map(shown)))
}

/// `GET /api/deprecated-features/used`.
pub(crate) fn deprecated_used(call: &Call) -> Answer {
    let used = DEPRECATED.iter().filter(|feature| match feature.name {
        "global_qos" => uses_channel_prefetch(&call.app),
        "transient_nonexcl_queues" => has_transient_queues(&call.app),
        _ => false,
    });
    Ok(with_columns(call, used.map(shown)))
}

/// `GET /api/federation-links/state/{state}` and the same of a virtual host: there are no links.
pub(crate) fn links_in_state(call: &Call) -> Answer {
    match call.segment("state") {
        "down" | "running" => Ok(Reply::Json(json!([]))),
        _ => Err(Problem::NotFound),
    }
}

fn uses_channel_prefetch(app: &App) -> bool {
    let mut channels = app
        .broker
        .peers()
        .into_iter()
        .flat_map(|peer| peer.channels());
    channels.any(|channel| channel.channel_prefetch.get() > 0)
}

fn has_transient_queues(app: &App) -> bool {
    app.broker.vhosts().iter().any(|vhost| {
        let directory = vhost.directory.read();
        directory
            .queues()
            .any(|cell| !cell.spec.durable && cell.spec.owner.is_none())
    })
}
