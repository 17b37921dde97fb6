//! Writes definitions.

use std::collections::HashSet;

use leveret_broker::{PolicyKind, Vhost};
use serde_json::{Map, Value, json};

use super::import::is_reserved;

use crate::amqp::{table_to_json, text};
use crate::app::App;
use crate::overview::{RABBITMQ_VERSION, VERSION};
use crate::{binding, exchange, parameter, policy, queue, user};

/// All definitions.
pub(super) fn cluster(app: &App) -> Value {
    let mut vhosts = app.broker.vhosts();
    vhosts.sort_by(|a, b| a.name.cmp(&b.name));
    let (users, permissions, topic_permissions) = app.broker.with_access(|access| {
        let users: Vec<Value> = access.users().map(|of| user::shown(of).into()).collect();
        let permissions: Vec<Value> = access.permissions().map(value).collect();
        let topics: Vec<Value> = access.topic_permissions().map(value).collect();
        (users, permissions, topics)
    });
    let globals = parameter::globals(app).into_iter();
    let globals = globals.map(|(name, value)| json!({"name": name, "value": value}));
    let mut sections = Sections::default();
    for vhost in &vhosts {
        sections.add(vhost, true);
    }
    let mut definitions = head("cluster", "original_cluster_name", &app.cluster_name());
    definitions.insert("users".to_owned(), users.into());
    let vhosts: Vec<Value> = vhosts.iter().map(|vhost| vhost_of(vhost)).collect();
    definitions.insert("vhosts".to_owned(), vhosts.into());
    definitions.insert("permissions".to_owned(), permissions.into());
    definitions.insert("topic_permissions".to_owned(), topic_permissions.into());
    definitions.insert("global_parameters".to_owned(), globals.collect());
    sections.write(&mut definitions);
    definitions.into()
}

/// The definitions of one virtual host, without its name.
pub(super) fn vhost(vhost: &Vhost) -> Value {
    let mut sections = Sections::default();
    sections.add(vhost, false);
    let mut definitions = head("single_virtual_host", "original_vhost_name", &vhost.name);
    let Value::Object(described) = vhost_of(vhost) else {
        return definitions.into();
    };
    definitions.extend(described.into_iter().filter(|(key, _)| key != "name"));
    definitions.insert(
        "description".to_owned(),
        definitions["metadata"]["description"].clone(),
    );
    sections.write(&mut definitions);
    definitions.into()
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

/// What virtual hosts hold.
#[derive(Default)]
struct Sections {
    policies: Vec<Value>,
    parameters: Vec<Value>,
    exchanges: Vec<Value>,
    queues: Vec<Value>,
    bindings: Vec<Value>,
}

impl Sections {
    fn add(&mut self, vhost: &Vhost, named: bool) {
        let name = |mut item: Value| {
            if let Value::Object(item) = &mut item {
                if named {
                    item.insert("vhost".to_owned(), Value::from(&*vhost.name));
                } else {
                    item.remove("vhost");
                }
            }
            item
        };
        let rules = vhost.rules.read();
        let policies = rules.policies.list(PolicyKind::User);
        self.policies
            .extend(policies.map(|of| name(policy::shown(of).into())));
        let parameters = rules.parameters.list();
        self.parameters
            .extend(parameters.map(|of| name(parameter::shown(of).into())));
        for of in rules.policies.list(PolicyKind::Operator) {
            let mut value = policy::shown(of);
            value.remove("vhost");
            let policy = value.remove("name").unwrap_or_default();
            let item = json!({"component": OPERATOR_POLICY, "name": policy, "value": value});
            self.parameters.push(name(item));
        }
        if !rules.limits.is_empty() {
            let limits = value(&rules.limits);
            let item = json!({"component": VHOST_LIMITS, "name": "limits", "value": limits});
            self.parameters.push(name(item));
        }
        drop(rules);
        self.add_topology(vhost, name);
    }

    /// Everything is copied before any of it is written out: nobody waits for that.
    fn add_topology(&mut self, vhost: &Vhost, name: impl Fn(Value) -> Value) {
        let own = |name: &str| !name.is_empty() && !is_reserved(name);
        let exchanges = exchange::copied(vhost);
        let directory = vhost.directory.read();
        let mut cells: Vec<_> = directory.queues_at(0..usize::MAX).cloned().collect();
        drop(directory);
        cells.retain(|cell| own(&cell.name) && cell.spec.owner.is_none());
        for exchange in exchanges.iter().filter(|exchange| own(&exchange.name)) {
            let spec = &exchange.spec;
            self.exchanges.push(name(json!({
                "name": &*exchange.name,
                "type": spec.kind.name(),
                "durable": spec.durable,
                "auto_delete": spec.auto_delete,
                "internal": spec.internal,
                "arguments": table_to_json(spec.arguments.as_raw()),
            })));
        }
        for cell in &cells {
            self.queues.push(name(json!({
                "name": &*cell.name,
                "type": queue::kind(&cell.spec),
                "durable": cell.spec.durable,
                "auto_delete": cell.spec.auto_delete,
                "arguments": queue::arguments(&cell.spec),
            })));
        }
        let exchanges: HashSet<_> = exchanges.iter().map(|exchange| &*exchange.name).collect();
        let queues: HashSet<_> = cells.iter().map(|cell| &*cell.name).collect();
        for row in binding::copied(vhost) {
            // One that was made meanwhile may have ends that are not in the file.
            let ends = if row.is_queue { &queues } else { &exchanges };
            let (view, destination) = (row.view(), row.destination());
            if view.source.is_empty()
                || !exchanges.contains(view.source)
                || !ends.contains(destination)
            {
                continue;
            }
            self.bindings.push(name(json!({
                "source": view.source,
                "destination": destination,
                "destination_type": row.kind(),
                "routing_key": text(view.key),
                "arguments": table_to_json(view.arguments),
            })));
        }
    }

    fn write(self, into: &mut Map<String, Value>) {
        let mut section = |name: &str, items: Vec<Value>| {
            into.insert(name.to_owned(), items.into());
        };
        section("policies", self.policies);
        section("parameters", self.parameters);
        section("exchanges", self.exchanges);
        section("queues", self.queues);
        section("bindings", self.bindings);
    }
}

/// Operator policies travel as parameters of this component.
pub(super) const OPERATOR_POLICY: &str = "operator_policy";
/// So do the limits of virtual hosts.
pub(super) const VHOST_LIMITS: &str = "vhost-limits";
