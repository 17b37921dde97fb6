//! What `rabbitmqadmin` can list, declare and delete, and what it asks of each.

use serde_json::{Map, Value};

/// Arguments of a verb.
pub(super) struct Shape {
    pub(super) mandatory: &'static [&'static str],
    /// With the value that is sent if none is given.
    pub(super) optional: &'static [(&'static str, Option<&'static str>)],
    /// Arguments whose value is JSON.
    pub(super) json: &'static [&'static str],
}

/// Something that is declared or deleted.
pub(super) struct Object {
    pub(super) noun: &'static str,
    pub(super) shape: Shape,
    /// Segments of its path; `{name}` is the argument of that name.
    path: &'static [&'static str],
}

pub(super) const LISTABLE: &[&str] = &[
    "connections",
    "channels",
    "consumers",
    "exchanges",
    "queues",
    "bindings",
    "users",
    "vhosts",
    "permissions",
    "nodes",
    "parameters",
    "policies",
    "operator_policies",
    "vhost_limits",
];

/// Lists that may be asked for in one virtual host.
pub(super) const VHOST_SCOPED: &[&str] = &["consumers", "exchanges", "queues", "bindings"];

/// Columns shown when none are asked for; none means all.
pub(super) fn usual_columns(noun: &str) -> &'static [&'static str] {
    match noun {
        "connections" => &["name", "user", "channels"],
        "channels" => &["name", "user"],
        "exchanges" => &["name", "type"],
        "queues" | "vhosts" => &["name", "messages"],
        "bindings" => &["source", "destination", "routing_key"],
        "nodes" => &["name", "type", "mem_used"],
        "overview" => &[
            "rabbitmq_version",
            "cluster_name",
            "queue_totals.messages",
            "object_totals.queues",
        ],
        _ => &[],
    }
}

const fn object(
    noun: &'static str,
    path: &'static [&'static str],
    mandatory: &'static [&'static str],
    optional: &'static [(&'static str, Option<&'static str>)],
    json: &'static [&'static str],
) -> Object {
    Object {
        noun,
        shape: Shape {
            mandatory,
            optional,
            json,
        },
        path,
    }
}

const EXCHANGE: &[&str] = &["exchanges", "{vhost}", "{name}"];
const QUEUE: &[&str] = &["queues", "{vhost}", "{name}"];
const BINDING: &[&str] = &[
    "bindings",
    "{vhost}",
    "e",
    "{source}",
    "{destination_type}",
    "{destination}",
];
const BINDING_DELETE: &[&str] = &[
    "bindings",
    "{vhost}",
    "e",
    "{source}",
    "{destination_type}",
    "{destination}",
    "{properties_key}",
];
const PERMISSION: &[&str] = &["permissions", "{vhost}", "{user}"];
const PARAMETER: &[&str] = &["parameters", "{component}", "{vhost}", "{name}"];
const POLICY: &[&str] = &["policies", "{vhost}", "{name}"];
const OPERATOR_POLICY: &[&str] = &["operator-policies", "{vhost}", "{name}"];
const VHOST_LIMIT: &[&str] = &["vhost-limits", "{vhost}", "{name}"];
const POLICY_OPTIONS: &[(&str, Option<&str>)] = &[("priority", Some("0")), ("apply-to", None)];
const POLICY_ARGUMENTS: &[&str] = &["name", "pattern", "definition"];

pub(super) const DECLARABLE: &[Object] = &[
    object(
        "exchange",
        EXCHANGE,
        &["name", "type"],
        &[
            ("auto_delete", Some("false")),
            ("durable", Some("true")),
            ("internal", Some("false")),
            ("arguments", Some("{}")),
        ],
        &["arguments"],
    ),
    object(
        "queue",
        QUEUE,
        &["name"],
        &[
            ("auto_delete", Some("false")),
            ("durable", Some("true")),
            ("arguments", Some("{}")),
            ("node", None),
            ("queue_type", None),
        ],
        &["arguments"],
    ),
    object(
        "binding",
        BINDING,
        &["source", "destination"],
        &[
            ("destination_type", Some("queue")),
            ("routing_key", Some("")),
            ("arguments", Some("{}")),
        ],
        &["arguments"],
    ),
    object(
        "vhost",
        &["vhosts", "{name}"],
        &["name"],
        &[
            ("tracing", None),
            ("description", None),
            ("tags", None),
            ("default_queue_type", None),
        ],
        &[],
    ),
    object(
        "user",
        &["users", "{name}"],
        &["name", "tags"],
        &[
            ("password", None),
            ("password_hash", None),
            ("hashing_algorithm", None),
        ],
        &[],
    ),
    object(
        "permission",
        PERMISSION,
        &["vhost", "user", "configure", "write", "read"],
        &[],
        &[],
    ),
    object(
        "parameter",
        PARAMETER,
        &["component", "name", "value"],
        &[],
        &["value"],
    ),
    object(
        "policy",
        POLICY,
        POLICY_ARGUMENTS,
        POLICY_OPTIONS,
        &["definition", "priority"],
    ),
    object(
        "operator_policy",
        OPERATOR_POLICY,
        POLICY_ARGUMENTS,
        POLICY_OPTIONS,
        &["definition", "priority"],
    ),
    object(
        "vhost_limit",
        VHOST_LIMIT,
        &["vhost", "name", "value"],
        &[],
        &["value"],
    ),
];

pub(super) const DELETABLE: &[Object] = &[
    object("exchange", EXCHANGE, &["name"], &[], &[]),
    object("queue", QUEUE, &["name"], &[], &[]),
    object(
        "binding",
        BINDING_DELETE,
        &["source", "destination_type", "destination"],
        &[("properties_key", Some("~"))],
        &[],
    ),
    object("vhost", &["vhosts", "{name}"], &["name"], &[], &[]),
    object("user", &["users", "{name}"], &["name"], &[], &[]),
    object("permission", PERMISSION, &["vhost", "user"], &[], &[]),
    object("parameter", PARAMETER, &["component", "name"], &[], &[]),
    object("policy", POLICY, &["name"], &[], &[]),
    object("operator_policy", OPERATOR_POLICY, &["name"], &[], &[]),
    object("vhost_limit", VHOST_LIMIT, &["vhost", "name"], &[], &[]),
];

pub(super) const CLOSABLE: &[Object] = &[object(
    "connection",
    &["connections", "{name}"],
    &["name"],
    &[],
    &[],
)];

pub(super) const PURGABLE: &[Object] = &[object(
    "queue",
    &["queues", "{vhost}", "{name}", "contents"],
    &["name"],
    &[],
    &[],
)];

pub(super) const PUBLISH: Shape = Shape {
    mandatory: &["routing_key"],
    optional: &[
        ("payload", None),
        ("properties", Some("{}")),
        ("exchange", Some("amq.default")),
        ("payload_encoding", Some("string")),
    ],
    json: &["properties"],
};

pub(super) const GET: Shape = Shape {
    mandatory: &["queue"],
    optional: &[
        ("count", Some("\"1\"")),
        ("ackmode", Some("ack_requeue_true")),
        ("payload_file", None),
        ("encoding", Some("auto")),
    ],
    json: &[],
};

impl Shape {
    pub(super) fn knows(&self, name: &str) -> bool {
        self.mandatory.contains(&name) || self.optional.iter().any(|(known, _)| *known == name)
    }

    /// A mandatory argument that is not there.
    pub(super) fn missing(&self, values: &Map<String, Value>) -> Option<&'static str> {
        self.mandatory
            .iter()
            .copied()
            .find(|name| !values.contains_key(*name))
    }
}

impl Object {
    /// The path of the object that `values` name.
    pub(super) fn path(&self, values: &Map<String, Value>) -> Vec<String> {
        let segment = |segment: &&str| {
            let Some(name) = segment
                .strip_prefix('{')
                .and_then(|name| name.strip_suffix('}'))
            else {
                return (*segment).to_owned();
            };
            let value = values.get(name).and_then(Value::as_str).unwrap_or_default();
            match (name, value) {
                ("destination_type", kind) => kind.chars().take(1).collect(),
                ("source", "") => crate::commands::exchange::DEFAULT_EXCHANGE.to_owned(),
                (_, value) => value.to_owned(),
            }
        };
        self.path.iter().map(segment).collect()
    }
}

/// What is sent: the values, with a queue's type as the argument that it is.
pub(super) fn body(values: &Map<String, Value>) -> Value {
    let mut body = Value::Object(values.clone());
    if let Some(kind) = values.get("queue_type") {
        body["arguments"]["x-queue-type"] = kind.clone();
    }
    body
}

/// The verbs and their arguments.
pub(super) fn help() -> String {
    let mut text = "Usage\n=====\n\nrabbitmqadmin [options] subcommand\n\n\
        Options: -H host -P port -V vhost -u user -p password -f format -d depth -S sort -R\n\
        -c config -N node -s -k -q -U base-uri -t timeout\n\n"
        .to_owned();
    for noun in LISTABLE {
        text.push_str(&format!("  list {noun} [<column>...]\n"));
    }
    text.push_str("  show overview [<column>...]\n");
    let verbs = [
        ("declare", DECLARABLE),
        ("delete", DELETABLE),
        ("close", CLOSABLE),
        ("purge", PURGABLE),
    ];
    for (verb, objects) in verbs {
        for object in objects {
            text.push_str(&format!(
                "  {verb} {} {}\n",
                object.noun,
                arguments(&object.shape)
            ));
        }
    }
    text.push_str(&format!(
        "  publish {}\n  get {}\n",
        arguments(&PUBLISH),
        arguments(&GET)
    ));
    text.push_str("  export <file>\n  import <file>\n");
    text
}

fn arguments(shape: &Shape) -> String {
    let given = |name: &str| format!("{name}=...");
    let mut text = shape
        .mandatory
        .iter()
        .map(|name| given(name))
        .collect::<Vec<_>>()
        .join(" ");
    let optional: Vec<String> = shape.optional.iter().map(|(name, _)| given(name)).collect();
    if !optional.is_empty() {
        text.push_str(&format!(" [{}]", optional.join(" ")));
    }
    text
}
