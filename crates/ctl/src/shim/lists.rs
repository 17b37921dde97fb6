//! The `list_…` verbs: columns by RabbitMQ's names, rows from the API.

use serde_json::Value;

use super::table::{Cell, print};
use super::{Outcome, Shim, Stop, exit};
use crate::failure::{Failure, Kind};
use crate::output::field;

/// A list that may be asked for by columns.
pub(crate) struct List {
    /// Columns that there are.
    columns: &'static [&'static str],
    /// Columns shown if none are asked for.
    shown: &'static [&'static str],
    /// Where the API has it.
    path: &'static str,
    scoped: bool,
    cell: fn(&Value, &str) -> Cell,
}

pub(crate) const QUEUES: List = List {
    columns: &[
        "name",
        "durable",
        "auto_delete",
        "arguments",
        "policy",
        "operator_policy",
        "effective_policy_definition",
        "pid",
        "owner_pid",
        "exclusive",
        "exclusive_consumer_pid",
        "exclusive_consumer_tag",
        "single_active_consumer_pid",
        "single_active_consumer_tag",
        "messages_ready",
        "messages_unacknowledged",
        "messages",
        "messages_ready_ram",
        "messages_unacknowledged_ram",
        "messages_ram",
        "messages_persistent",
        "message_bytes",
        "message_bytes_ready",
        "message_bytes_unacknowledged",
        "message_bytes_ram",
        "message_bytes_persistent",
        "head_message_timestamp",
        "disk_reads",
        "disk_writes",
        "consumers",
        "consumer_utilisation",
        "consumer_capacity",
        "memory",
        "state",
        "type",
        "leader",
        "members",
        "online",
    ],
    shown: &["name", "messages"],
    path: "queues",
    scoped: true,
    cell: queue_cell,
};

pub(crate) const EXCHANGES: List = List {
    columns: &[
        "name",
        "type",
        "durable",
        "auto_delete",
        "internal",
        "arguments",
        "policy",
    ],
    shown: &["name", "type"],
    path: "exchanges",
    scoped: true,
    cell: plain_cell,
};

pub(crate) const BINDINGS: List = List {
    columns: BINDING_COLUMNS,
    shown: BINDING_COLUMNS,
    path: "bindings",
    scoped: true,
    cell: binding_cell,
};

const BINDING_COLUMNS: &[&str] = &[
    "source_name",
    "source_kind",
    "destination_name",
    "destination_kind",
    "routing_key",
    "arguments",
];

pub(crate) const CONNECTIONS: List = List {
    columns: &[
        "pid",
        "name",
        "port",
        "host",
        "peer_port",
        "peer_host",
        "ssl",
        "state",
        "channels",
        "protocol",
        "auth_mechanism",
        "user",
        "vhost",
        "timeout",
        "frame_max",
        "channel_max",
        "client_properties",
        "recv_oct",
        "recv_cnt",
        "send_oct",
        "send_cnt",
        "send_pend",
        "connected_at",
        "node",
    ],
    shown: &["user", "peer_host", "peer_port", "state"],
    path: "connections",
    scoped: false,
    cell: connection_cell,
};

pub(crate) const CHANNELS: List = List {
    columns: &[
        "pid",
        "connection",
        "name",
        "number",
        "user",
        "vhost",
        "transactional",
        "confirm",
        "consumer_count",
        "messages_unacknowledged",
        "messages_uncommitted",
        "acks_uncommitted",
        "messages_unconfirmed",
        "prefetch_count",
        "global_prefetch_count",
        "state",
    ],
    shown: &["pid", "user", "consumer_count", "messages_unacknowledged"],
    path: "channels",
    scoped: false,
    cell: channel_cell,
};

pub(crate) const CONSUMERS: List = List {
    columns: CONSUMER_COLUMNS,
    shown: &[
        "queue_name",
        "channel_pid",
        "consumer_tag",
        "ack_required",
        "prefetch_count",
        "active",
        "arguments",
    ],
    path: "consumers",
    scoped: true,
    cell: consumer_cell,
};

const CONSUMER_COLUMNS: &[&str] = &[
    "queue_name",
    "channel_pid",
    "consumer_tag",
    "ack_required",
    "prefetch_count",
    "active",
    "activity_status",
    "exclusive",
    "arguments",
];

pub(crate) const USERS: List = List {
    columns: &["user", "tags"],
    shown: &["user", "tags"],
    path: "users",
    scoped: false,
    cell: user_cell,
};

pub(crate) const VHOSTS: List = List {
    columns: &[
        "name",
        "tracing",
        "description",
        "tags",
        "default_queue_type",
        "cluster_state",
    ],
    shown: &["name"],
    path: "vhosts",
    scoped: false,
    cell: vhost_cell,
};

impl List {
    /// Prints the columns that the arguments name, or the usual ones, after `banner`.
    pub(crate) fn run(&self, shim: &Shim, banner: &str) -> Outcome {
        let asked: Vec<&str> = shim
            .invocation
            .arguments
            .iter()
            .flat_map(|argument| argument.split([' ', ',']))
            .filter(|column| !column.is_empty())
            .collect();
        let unknown: Vec<&str> = asked
            .iter()
            .copied()
            .filter(|column| !self.columns.contains(column))
            .collect();
        if !unknown.is_empty() {
            let text = format!(
                "Error (argument validation): Info key(s) {} are not supported\n\
                 Arguments given:\n\t{}",
                unknown.join(","),
                shim.invocation.given.join(" "),
            );
            return Err(Stop::new(exit::USAGE, text));
        }
        let columns = if asked.is_empty() {
            self.shown.to_vec()
        } else {
            asked
        };
        shim.banner(banner);
        let rows = self.fetch(shim)?;
        let cells = |row: &Value| {
            columns
                .iter()
                .map(|column| (self.cell)(row, column))
                .collect()
        };
        let rows: Vec<Vec<Cell>> = rows.iter().map(cells).collect();
        print(shim, &columns, &rows)
    }

    fn fetch(&self, shim: &Shim) -> Result<Vec<Value>, Failure> {
        let mut path = vec![self.path];
        if self.scoped {
            path.push(shim.vhost());
        }
        match shim.get(&path) {
            Ok(Value::Array(rows)) => Ok(rows),
            Ok(_) => Ok(Vec::new()),
            // RabbitMQ lists nothing for a virtual host that is not there.
            Err(failure) if self.scoped && failure.kind == Kind::NotFound => Ok(Vec::new()),
            Err(failure) => Err(failure),
        }
    }
}

fn plain_cell(row: &Value, column: &str) -> Cell {
    match column {
        "policy" | "operator_policy" => {
            Cell::Text(row[column].as_str().unwrap_or_default().to_owned())
        }
        "arguments" => Cell::Table(row[column].clone()),
        _ => Cell::from_json(row.get(column)),
    }
}

fn queue_cell(row: &Value, column: &str) -> Cell {
    match column {
        "pid" => Cell::Pid(pid(row, &format!("{}/{}", row["vhost"], row["name"]))),
        "owner_pid" => match field(row, "owner_pid_details.name").and_then(Value::as_str) {
            Some(name) => Cell::Pid(pid(row, name)),
            None => Cell::None,
        },
        "messages" | "messages_ready" | "messages_unacknowledged" | "consumers" => {
            // RabbitMQ's statistics lag behind a new queue.
            Cell::Number(row[column].as_u64().unwrap_or_default().into())
        }
        _ => plain_cell(row, column),
    }
}

fn binding_cell(row: &Value, column: &str) -> Cell {
    match column {
        "source_name" => Cell::from_json(row.get("source")),
        "source_kind" => Cell::Text("exchange".to_owned()),
        "destination_name" => Cell::from_json(row.get("destination")),
        "destination_kind" => Cell::from_json(row.get("destination_type")),
        _ => plain_cell(row, column),
    }
}

fn connection_cell(row: &Value, column: &str) -> Cell {
    match column {
        "pid" => Cell::Pid(connection_pid(row)),
        "client_properties" => Cell::Table(row[column].clone()),
        _ => plain_cell(row, column),
    }
}

fn channel_cell(row: &Value, column: &str) -> Cell {
    let name = row["name"].as_str().unwrap_or_default();
    match column {
        "pid" => Cell::Pid(pid(row, name)),
        "connection" => {
            let connection = field(row, "connection_details.name").and_then(Value::as_str);
            Cell::Pid(pid(row, connection.unwrap_or_default()))
        }
        _ => plain_cell(row, column),
    }
}

fn consumer_cell(row: &Value, column: &str) -> Cell {
    match column {
        "queue_name" => Cell::from_json(field(row, "queue.name")),
        "channel_pid" => {
            let details = &row["channel_details"];
            Cell::Pid(pid(details, details["name"].as_str().unwrap_or_default()))
        }
        _ => plain_cell(row, column),
    }
}

fn user_cell(row: &Value, column: &str) -> Cell {
    match column {
        "user" => Cell::from_json(row.get("name")),
        _ => words(&row["tags"]),
    }
}

fn vhost_cell(row: &Value, column: &str) -> Cell {
    match column {
        "tags" => words(&row["tags"]),
        "tracing" => Cell::Flag(row[column] == true),
        _ => plain_cell(row, column),
    }
}

/// Tags, which before RabbitMQ 3.9 are one text.
fn words(value: &Value) -> Cell {
    let words: Vec<String> = match value {
        Value::Array(items) => items
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        Value::String(text) => text.split(',').map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    Cell::Words(words.into_iter().filter(|word| !word.is_empty()).collect())
}

/// What stands for a connection's process, and finds it again in `close_connection`.
pub(crate) fn connection_pid(connection: &Value) -> String {
    pid(connection, connection["name"].as_str().unwrap_or_default())
}

/// The API knows no processes. Scripts only pass what they read in one call to another, so that
/// a text of the right form will do that is always the same for a name.
fn pid(row: &Value, name: &str) -> String {
    let node = row["node"].as_str().unwrap_or("rabbit@localhost");
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("<{node}.{}.{}.0>", hash >> 40, hash & 0xff_ffff)
}

/// Rows of a fixed shape, such as permissions.
pub(crate) fn fixed(shim: &Shim, rows: &Value, columns: &[&str]) -> Outcome {
    let cells = |row: &Value| {
        let cell = |column: &&str| match row.get(*column) {
            // Definitions are shown as the JSON they were set by.
            Some(value @ (Value::Object(_) | Value::Array(_))) => Cell::Text(value.to_string()),
            other => Cell::from_json(other),
        };
        columns.iter().map(cell).collect()
    };
    let rows: Vec<Vec<Cell>> = rows.as_array().into_iter().flatten().map(cells).collect();
    print(shim, columns, &rows)
}
