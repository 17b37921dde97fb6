//! The one node.

use serde_json::{Map, Value, json};

use crate::app::App;
use crate::call::Call;
use crate::list::Columns;
use crate::overview::{NO_ERLANG, RABBITMQ_VERSION, VERSION};
use crate::problem::Problem;
use crate::reply::{Answer, Reply};

/// The names under which tools look for what Leveret has built in.
const PLUGINS: [&str; 2] = ["rabbitmq_management", "rabbitmq_prometheus"];

fn node(app: &App) -> Map<String, Value> {
    let vitals = app.host.vitals();
    let sockets = app.broker.peer_count();
    let alarms = app.alarms();
    let node = json!({
        "name": app.node(),
        "type": "disc",
        "running": true,
        "being_drained": app.is_draining(),
        "uptime": app.now_ms().saturating_sub(app.started_ms),
        "os_pid": std::process::id().to_string(),
        "processors": vitals.processors,
        "run_queue": 0,
        "proc_used": vitals.tasks,
        "proc_total": PROCESSES_MAX,
        "fd_used": vitals.descriptors_used,
        "fd_total": vitals.descriptors_max,
        "sockets_used": sockets,
        "sockets_total": app.broker.limits().connections_max,
        "mem_used": vitals.memory_used,
        "mem_limit": app.broker.memory_alarm_bytes(),
        "mem_alarm": alarms.memory,
        "mem_calculation_strategy": "rss",
        "disk_free": vitals.disk_free,
        "disk_free_limit": vitals.disk_alarm_at,
        "disk_free_alarm": alarms.disk,
        "rates_mode": "basic",
        "net_ticktime": 60,
        "enabled_plugins": PLUGINS,
        "rabbitmq_version": RABBITMQ_VERSION,
        "erlang_version": NO_ERLANG,
        "erlang_full_version": NO_ERLANG,
        "crypto_lib_version": NO_ERLANG,
        "product_name": "Leveret",
        "product_version": VERSION,
        "exchange_types": [],
        "auth_mechanisms": mechanisms(app),
        "applications": [
            {"name": "rabbit", "description": "RabbitMQ's behaviour, by Leveret",
             "version": RABBITMQ_VERSION},
        ],
        "contexts": [],
        "log_files": ["standard error"],
        "db_dir": "",
        "config_files": [],
        "partitions": [],
        "cluster_links": [],
        "metrics_gc_queue_length": {},
    });
    match node {
        Value::Object(node) => node,
        _ => Map::new(),
    }
}

/// `GET /api/nodes`.
pub(crate) fn index(call: &Call) -> Answer {
    let node = Columns::of(call).apply(node(&call.app));
    Ok(Reply::Json(json!([node])))
}

fn named(call: &Call) -> Result<(), Problem> {
    if call.segment("node") == call.app.node() {
        Ok(())
    } else {
        Err(Problem::NotFound)
    }
}

/// `GET /api/nodes/{node}`.
pub(crate) fn show(call: &Call) -> Answer {
    named(call)?;
    let mut node = node(&call.app);
    if call.flag("memory") {
        node.insert("memory".to_owned(), memory_of(&call.app));
    }
    Ok(Columns::reply(call, node))
}

/// `GET /api/nodes/{node}/memory`.
pub(crate) fn memory(call: &Call) -> Answer {
    named(call)?;
    Ok(Reply::Json(json!({"memory": memory_of(&call.app)})))
}

/// `GET /api/nodes/{node}/memory/relative`: the same in hundredths of the whole, rounded up.
pub(crate) fn memory_relative(call: &Call) -> Answer {
    named(call)?;
    let mut memory = memory_of(&call.app);
    let total = memory["total"]["rss"].as_u64().unwrap_or(0).max(1);
    if let Value::Object(memory) = &mut memory {
        memory.remove("strategy");
        for share in memory.values_mut() {
            let bytes = share.as_u64().unwrap_or(total);
            *share = bytes.saturating_mul(100).div_ceil(total).into();
        }
    }
    Ok(Reply::Json(json!({"memory": memory})))
}

/// RabbitMQ's breakdown. Leveret accounts for messages; the rest is told as a whole.
fn memory_of(app: &App) -> Value {
    const ABSENT: [&str; 23] = [
        "connection_readers",
        "connection_writers",
        "connection_channels",
        "connection_other",
        "queue_slave_procs",
        "quorum_queue_procs",
        "quorum_queue_dlx_procs",
        "stream_queue_procs",
        "stream_queue_replica_reader_procs",
        "stream_queue_coordinator_procs",
        "plugins",
        "metadata_store",
        "metadata_store_ets",
        "mnesia",
        "quorum_ets",
        "metrics",
        "mgmt_db",
        "msg_index",
        "code",
        "atom",
        "binary",
        "other_ets",
        "reserved_unallocated",
    ];
    let used = app.host.vitals().memory_used;
    let queues = app.broker.memory.resident_bytes();
    let mut memory: Map<String, Value> = ABSENT
        .iter()
        .map(|name| ((*name).to_owned(), 0.into()))
        .collect();
    memory.insert("queue_procs".to_owned(), queues.into());
    memory.insert("other_proc".to_owned(), used.saturating_sub(queues).into());
    memory.insert("allocated_unused".to_owned(), 0.into());
    memory.insert("other_system".to_owned(), 0.into());
    memory.insert("strategy".to_owned(), "rss".into());
    let total = json!({"rss": used, "allocated": used, "erlang": used});
    memory.insert("total".to_owned(), total);
    memory.into()
}

/// How clients may log in.
fn mechanisms(app: &App) -> Vec<Value> {
    let described = |name: &'static str| {
        let description = match name {
            "PLAIN" => "SASL PLAIN authentication",
            "AMQPLAIN" => "QPid AMQPLAIN mechanism",
            _ => "SASL ANONYMOUS authentication",
        };
        json!({"name": name, "description": description, "enabled": true})
    };
    app.broker.mechanisms().into_iter().map(described).collect()
}

/// Leveret's connections are tasks, whose number has no bound of its own; tools want a number.
const PROCESSES_MAX: u64 = 1 << 20;
