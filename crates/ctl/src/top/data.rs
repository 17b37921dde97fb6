//! What `top` asks for: one page of a list, sorted by the broker, and the totals.

use serde_json::Value;

use crate::client::Request;
use crate::failure::Result;
use crate::session::Session;

/// Rows that are asked for; more than fit on any terminal.
const ROWS: &str = "200";

/// Which list is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tab {
    #[default]
    Queues,
    Connections,
}

/// A column of a list.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// The API's field.
    pub(crate) field: &'static str,
    pub(crate) kind: Kind,
}

/// How a value is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Name,
    Text,
    Count,
    Rate,
    ByteRate,
}

const fn column(title: &'static str, field: &'static str, kind: Kind) -> Column {
    Column { title, field, kind }
}

const QUEUES: &[Column] = &[
    column("QUEUE", "name", Kind::Name),
    column("VHOST", "vhost", Kind::Text),
    column("READY", "messages_ready", Kind::Count),
    column("UNACKED", "messages_unacknowledged", Kind::Count),
    column("CONSUMERS", "consumers", Kind::Count),
    column("IN/s", "message_stats.publish_details.rate", Kind::Rate),
    column(
        "OUT/s",
        "message_stats.deliver_get_details.rate",
        Kind::Rate,
    ),
    column("ACK/s", "message_stats.ack_details.rate", Kind::Rate),
];

const CONNECTIONS: &[Column] = &[
    column("CONNECTION", "name", Kind::Name),
    column("USER", "user", Kind::Text),
    column("VHOST", "vhost", Kind::Text),
    column("STATE", "state", Kind::Text),
    column("CHANNELS", "channels", Kind::Count),
    column("IN/s", "recv_oct_details.rate", Kind::ByteRate),
    column("OUT/s", "send_oct_details.rate", Kind::ByteRate),
];

impl Tab {
    pub(crate) fn columns(self) -> &'static [Column] {
        match self {
            Self::Queues => QUEUES,
            Self::Connections => CONNECTIONS,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Queues => "queues",
            Self::Connections => "connections",
        }
    }
}

/// What to ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) tab: Tab,
    /// Index of the column that sorts.
    pub(crate) sort: usize,
    pub(crate) descending: bool,
    pub(crate) filter: String,
}

/// The broker at one moment.
pub(crate) struct Snapshot {
    pub(crate) query: Query,
    pub(crate) overview: Value,
    /// Null for users who may not see nodes.
    pub(crate) node: Value,
    pub(crate) rows: Vec<Value>,
    /// Rows there are, shown or not.
    pub(crate) total: u64,
}

impl Snapshot {
    pub(crate) fn fetch(session: &Session, query: &Query) -> Result<Self> {
        let overview = session.get(&["overview"], "overview")?;
        let node = overview["node"].as_str().unwrap_or_default();
        let node = session.get(&["nodes", node], "node").unwrap_or_default();
        let columns = query.tab.columns();
        let fields: Vec<&str> = columns.iter().map(|column| column.field).collect();
        let mut path = vec![query.tab.path()];
        if query.tab == Tab::Queues {
            path.extend(session.settings.vhost.as_deref());
        }
        let request = Request::get(&path)
            .query("page", "1")
            .query("page_size", ROWS)
            .query("sort", columns[query.sort].field)
            .flag("sort_reverse", query.descending)
            .query("name", query.filter.as_str())
            .query("columns", fields.join(","));
        let mut page = session.client.call(&request, query.tab.path())?;
        let total = page["filtered_count"].as_u64().unwrap_or_default();
        let rows = match page["items"].take() {
            Value::Array(rows) => rows,
            _ => Vec::new(),
        };
        Ok(Self {
            query: query.clone(),
            overview,
            node,
            rows,
            total,
        })
    }
}
