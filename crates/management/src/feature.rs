//! Feature flags and deprecated features: what tools gate on, as far as Leveret has it.

use serde_json::{Value, json};

use crate::app::App;
use crate::call::Call;
use crate::problem::Problem;
use crate::reply::{Answer, Reply};

/// Flags of RabbitMQ whose behaviour Leveret has, and what they stand for.
const FLAGS: [(&str, &str); 9] = [
    (
        "detailed_queues_endpoint",
        "Add a detailed queues HTTP API endpoint",
    ),
    (
        "drop_unroutable_metric",
        "Count unroutable publishes to be dropped in stats",
    ),
    (
        "empty_basic_get_metric",
        "Count AMQP `basic.get` on empty queues in stats",
    ),
    (
        "implicit_default_bindings",
        "Default bindings are implicit, not stored",
    ),
    ("rabbitmq_4.0.0", "Allows rolling upgrades to 4.0.x"),
    ("rabbitmq_4.1.0", "Allows rolling upgrades to 4.1.x"),
    ("rabbitmq_4.2.0", "Allows rolling upgrades to 4.2.x"),
    (
        "user_limits",
        "Configure connection and channel limits for a user",
    ),
    (
        "virtual_host_metadata",
        "Virtual host metadata (description, tags, etc)",
    ),
];
/// Features RabbitMQ will take away and Leveret has.
const DEPRECATED: [(&str, &str); 2] = [
    ("global_qos", "Channel-wide prefetch counts"),
    (
        "transient_nonexcl_queues",
        "Queues that are neither durable nor exclusive",
    ),
];

/// `GET /api/feature-flags`.
pub(crate) fn flags(_: &Call) -> Answer {
    let flags = FLAGS.map(|(name, desc)| {
        json!({
            "name": name,
            "desc": desc,
            "doc_url": "",
            "state": "enabled",
            "stability": "required",
            "require_level": "hard",
            "provided_by": "rabbit",
        })
    });
    Ok(Reply::Json(json!(flags)))
}

/// `PUT /api/feature-flags/{name}/enable`: all of them are.
pub(crate) fn enable(call: &Call) -> Answer {
    let name = call.segment("name");
    if name == "all" || FLAGS.iter().any(|(known, _)| *known == name) {
        Ok(Reply::NoContent)
    } else {
        Err(Problem::BadRequest("unsupported".to_owned()))
    }
}

fn shown((name, desc): &(&str, &str)) -> Value {
    json!({
        "name": name,
        "desc": desc,
        "deprecation_phase": "permitted_by_default",
        "state": "permitted",
        "doc_url": "",
        "provided_by": "rabbit",
    })
}

/// `GET /api/deprecated-features`.
pub(crate) fn deprecated(_: &Call) -> Answer {
    Ok(Reply::Json(DEPRECATED.iter().map(shown).collect()))
}

/// `GET /api/deprecated-features/used`.
pub(crate) fn deprecated_used(call: &Call) -> Answer {
    let used = DEPRECATED.iter().filter(|(name, _)| match *name {
        "global_qos" => uses_channel_prefetch(&call.app),
        _ => has_transient_queues(&call.app),
    });
    Ok(Reply::Json(used.map(shown).collect()))
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
