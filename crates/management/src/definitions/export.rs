//! Writes definitions.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use leveret_broker::{Broker, PolicyKind, QueueCell, Vhost};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::import::is_reserved;

use crate::amqp::{table_to_json, text};
use crate::app::App;
use crate::binding::{self, BindingRow};
use crate::exchange::{self, ExchangeRow};
use crate::overview::{RABBITMQ_VERSION, VERSION};
use crate::problem::Problem;
use crate::stream::{self, Items, LongArray, Stream, items};
use crate::{parameter, policy, queue, user, walk};

/// Bytes that remembering the name of a queue or an exchange takes.
const NAME_BYTES: usize = 24;

/// All definitions.
pub(super) fn cluster(app: &Arc<App>) -> Result<Stream, Problem> {
    let mut vhosts = app.broker.vhosts();
    vhosts.sort_by(|a, b| a.name.cmp(&b.name));
    let head = head("cluster", "original_cluster_name", &app.cluster_name());
    let sections = of_cluster(&app.broker, &vhosts, parameter::globals(app));
    written(app, &head, &vhosts, sections)
}

/// All sections of a file: what there is in the broker, and in these virtual hosts.
pub(super) fn of_cluster(
    broker: &Arc<Broker>,
    vhosts: &[Arc<Vhost>],
    globals: Vec<(String, Value)>,
) -> Vec<LongArray> {
    let globals = globals.into_iter();
    let globals = globals.map(|(name, value)| json!({"name": name, "value": value}));
    let shown: Vec<Value> = vhosts.iter().map(|vhost| vhost_of(vhost)).collect();
    let users = walk::users(broker).map(|of| user::shown(&of).into());
    let permissions = walk::permissions(broker).map(|of| value(&of));
    let topics = walk::topic_permissions(broker).map(|of| value(&of));
    let mut sections: Vec<LongArray> = vec![
        ("users", items(users)),
        ("vhosts", items(shown.into_iter())),
        ("permissions", items(permissions)),
        ("topic_permissions", items(topics)),
        ("global_parameters", items(globals)),
    ];
    sections.extend(of_vhosts(vhosts, true));
    sections
}

/// The definitions of one virtual host, without its name.
pub(super) fn vhost(app: &Arc<App>, vhost: &Arc<Vhost>) -> Result<Stream, Problem> {
    let mut head = head("single_virtual_host", "original_vhost_name", &vhost.name);
    if let Value::Object(described) = vhost_of(vhost) {
        head.extend(described.into_iter().filter(|(key, _)| key != "name"));
    }
    let description = head["metadata"]["description"].clone();
    head.insert("description".to_owned(), description);
    let vhosts = [Arc::clone(vhost)];
    written(app, &head, &vhosts, of_vhosts(&vhosts, false))
}

fn written(
    app: &Arc<App>,
    head: &Map<String, Value>,
    vhosts: &[Arc<Vhost>],
    sections: Vec<LongArray>,
) -> Result<Stream, Problem> {
    let mut reserved = app.budget.answer(0)?;
    for vhost in vhosts {
        let directory = vhost.directory.read();
        let names = directory.queues().len() + directory.router.exchange_count();
        drop(directory);
        reserved.grow(names * NAME_BYTES)?;
    }
    Ok(Stream::json(app, reserved, stream::object(head, sections)))
}

fn head(format: &str, original: &str, name: &str) -> Map<String, Value> {
    let head = json!({
        "rabbit_version": RABBITMQ_VERSION,
        "rabbitmq_version": RABBITMQ_VERSION,
        "product_name": "Leveret",
        "product_version": VERSION,
        "rabbitmq_definition_format": format,
        original: name,
        "explanation": "Definitions, exported by Leveret",
    });
    match head {
        Value::Object(head) => head,
        _ => Map::new(),
    }
}

fn value(item: &impl serde::Serialize) -> Value {
    serde_json::to_value(item).unwrap_or_default()
}

fn vhost_of(vhost: &Vhost) -> Value {
    let rules = vhost.rules.read();
    json!({
        "name": &*vhost.name,
        "limits": value(&rules.limits),
        "metadata": value(&rules.metadata),
    })
}

/// What virtual hosts hold. With their names, or without.
fn of_vhosts(vhosts: &[Arc<Vhost>], named: bool) -> Vec<LongArray> {
    let each = |of: fn(&Arc<Vhost>, &Arc<ExportedNames>) -> Items<Value>,
                names: &Arc<ExportedNames>|
     -> Items<Value> {
        let (vhosts, names) = (vhosts.to_vec(), Arc::clone(names));
        items(vhosts.into_iter().flat_map(move |vhost| {
            let values = of(&vhost, &names);
            values.map(move |value| with_vhost(value, &vhost, named))
        }))
    };
    let names = Arc::default();
    vec![
        ("policies", each(|vhost, _| policies(vhost), &names)),
        ("parameters", each(|vhost, _| parameters(vhost), &names)),
        ("exchanges", each(exchanges, &names)),
        ("queues", each(queues, &names)),
        ("bindings", each(bindings, &names)),
    ]
}

fn with_vhost(mut item: Value, vhost: &Vhost, named: bool) -> Value {
    if let Value::Object(item) = &mut item {
        if named {
            item.insert("vhost".to_owned(), Value::from(&*vhost.name));
        } else {
            item.remove("vhost");
        }
    }
    item
}

/// Queues and exchanges that the file has: a binding that was made meanwhile may have other ends.
/// Kept as hashes, as there may be many.
#[derive(Default)]
struct ExportedNames {
    hasher: RandomState,
    known: Mutex<HashSet<u64>>,
}

impl ExportedNames {
    fn hash(&self, vhost: &Vhost, kind: &str, name: &str) -> u64 {
        self.hasher.hash_one((&*vhost.name, kind, name))
    }

    fn note(&self, vhost: &Vhost, kind: &str, name: &str) {
        let hash = self.hash(vhost, kind, name);
        self.known.lock().insert(hash);
    }

    fn knows(&self, vhost: &Vhost, kind: &str, name: &str) -> bool {
        let hash = self.hash(vhost, kind, name);
        self.known.lock().contains(&hash)
    }
}

fn policies(vhost: &Arc<Vhost>) -> Items<Value> {
    let rules = vhost.rules.read();
    let policies = rules.policies.list(PolicyKind::User);
    let policies: Vec<Value> = policies.map(|of| policy::shown(of).into()).collect();
    items(policies.into_iter())
}

/// Parameters, and what travels as such: operator policies and limits.
fn parameters(vhost: &Arc<Vhost>) -> Items<Value> {
    let rules = vhost.rules.read();
    let mut more = Vec::new();
    for of in rules.policies.list(PolicyKind::Operator) {
        let mut value = policy::shown(of);
        value.remove("vhost");
        let policy = value.remove("name").unwrap_or_default();
        more.push(json!({"component": OPERATOR_POLICY, "name": policy, "value": value}));
    }
    if !rules.limits.is_empty() {
        let limits = value(&rules.limits);
        more.push(json!({"component": VHOST_LIMITS, "name": "limits", "value": limits}));
    }
    let own = walk::parameters(vhost).map(|of| parameter::shown(&of).into());
    items(own.chain(more))
}

/// Whether clients may have made it.
fn is_own(name: &str) -> bool {
    !name.is_empty() && !is_reserved(name)
}

fn exchanges(vhost: &Arc<Vhost>, names: &Arc<ExportedNames>) -> Items<Value> {
    let (names, of_vhost) = (Arc::clone(names), Arc::clone(vhost));
    let all = exchange::of_vhost(vhost).inspect(move |exchange| {
        names.note(&of_vhost, "exchange", &exchange.name);
    });
    let own = all.filter(|exchange| is_own(&exchange.name));
    items(own.map(|ExchangeRow { name, spec, .. }| {
        json!({
            "name": &*name,
            "type": spec.kind.name(),
            "durable": spec.durable,
            "auto_delete": spec.auto_delete,
            "internal": spec.internal,
            "arguments": table_to_json(spec.arguments.as_raw()),
        })
    }))
}

fn queues(vhost: &Arc<Vhost>, names: &Arc<ExportedNames>) -> Items<Value> {
    let (names, of_vhost) = (Arc::clone(names), Arc::clone(vhost));
    let is_kept = |cell: &Arc<QueueCell>| is_own(&cell.name) && cell.spec.owner.is_none();
    items(walk::queues(vhost).filter(is_kept).map(move |cell| {
        names.note(&of_vhost, "queue", &cell.name);
        json!({
            "name": &*cell.name,
            "type": queue::kind(&cell.spec),
            "durable": cell.spec.durable,
            "auto_delete": cell.spec.auto_delete,
            "arguments": queue::arguments(&cell.spec),
        })
    }))
}

fn bindings(vhost: &Arc<Vhost>, names: &Arc<ExportedNames>) -> Items<Value> {
    let (names, of_vhost) = (Arc::clone(names), Arc::clone(vhost));
    let has_ends = move |row: &BindingRow| {
        names.knows(&of_vhost, "exchange", row.view().source)
            && names.knows(&of_vhost, row.kind(), row.destination())
    };
    let rows = binding::explicit_of_vhost(vhost).filter(has_ends);
    items(rows.map(|row| {
        let view = row.view();
        json!({
            "source": view.source,
            "destination": row.destination(),
            "destination_type": row.kind(),
            "routing_key": text(view.key),
            "arguments": table_to_json(view.arguments),
        })
    }))
}

/// Operator policies travel as parameters of this component.
pub(super) const OPERATOR_POLICY: &str = "operator_policy";
/// So do the limits of virtual hosts.
pub(super) const VHOST_LIMITS: &str = "vhost-limits";
