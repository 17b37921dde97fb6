//! `leveretctl connection`, `channel` and `consumer`.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::binding::array;
use crate::client::Request;
use crate::failure::Result;
use crate::session::Session;

const COLUMNS: &[&str] = &[
    "name",
    "user",
    "vhost",
    "state",
    "channels",
    "recv_oct_details.rate",
    "send_oct_details.rate",
    "client_properties.connection_name",
];
const CHANNEL_COLUMNS: &[&str] = &[
    "name",
    "user",
    "vhost",
    "state",
    "consumer_count",
    "prefetch_count",
    "messages_unacknowledged",
    "messages_unconfirmed",
];
pub(crate) const CONSUMER_COLUMNS: &[&str] = &[
    "queue.vhost",
    "queue.name",
    "consumer_tag",
    "ack_required",
    "prefetch_count",
    "exclusive",
    "channel_details.connection_name",
];

/// Commands on connections.
#[derive(Debug, Subcommand)]
pub(crate) enum ConnectionCommand {
    /// Connections
    List {
        /// Only those of this user
        #[arg(long)]
        user: Option<String>,
    },
    /// Everything about one connection
    Show { name: String },
    /// Close connections; clients are told 320 CONNECTION_FORCED with the reason
    Close(Close),
}

/// Which connections to close, and why.
#[derive(Args, Debug)]
pub(crate) struct Close {
    #[arg(required_unless_present_any = ["user", "all"], value_name = "NAME")]
    names: Vec<String>,
    /// All connections of this user
    #[arg(long, conflicts_with_all = ["names", "all"])]
    user: Option<String>,
    /// All connections, of the virtual host if one was named
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// What clients and the log are told
    #[arg(long, default_value = "Closed via leveretctl")]
    reason: String,
}

impl ConnectionCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::List { user } => {
                let rows = connections(session, user.as_deref())?;
                session.output.rows(rows, COLUMNS)
            }
            Self::Show { name } => {
                let what = format!("connection `{name}`");
                session
                    .output
                    .object(&session.get(&["connections", &name], &what)?)
            }
            Self::Close(close) => close.run(session),
        }
    }
}

impl Close {
    fn run(self, session: &Session) -> Result<()> {
        let names = if self.names.is_empty() {
            let rows = connections(session, self.user.as_deref())?;
            let names = rows.iter().filter_map(|row| row["name"].as_str());
            names.map(str::to_owned).collect()
        } else {
            self.names
        };
        session.confirm(|| match names.as_slice() {
            [name] => format!("Close connection `{name}`?"),
            names => format!("Close {} connections?", names.len()),
        })?;
        session.each(&names, |name| {
            let request = Request::delete(&["connections", name]);
            let request = request.header("x-reason", self.reason.as_str());
            session.apply(&request, &format!("connection `{name}`"), "closed")
        })
    }
}

/// Connections of a virtual host if one was named, and of one user if asked for.
fn connections(session: &Session, user: Option<&str>) -> Result<Vec<Value>> {
    let mut rows = array(match &session.settings.vhost {
        Some(vhost) => session.get(&["vhosts", vhost, "connections"], "connections")?,
        None => session.get(&["connections"], "connections")?,
    });
    rows.retain(|row| user.is_none_or(|user| row["user"] == user));
    Ok(rows)
}

/// Commands on channels.
#[derive(Debug, Subcommand)]
pub(crate) enum ChannelCommand {
    /// Channels
    List,
    /// Everything about one channel
    Show { name: String },
}

impl ChannelCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::List => match &session.settings.vhost {
                Some(vhost) => session.list(&["vhosts", vhost, "channels"], false, CHANNEL_COLUMNS),
                None => session.list(&["channels"], false, CHANNEL_COLUMNS),
            },
            Self::Show { name } => {
                let what = format!("channel `{name}`");
                session
                    .output
                    .object(&session.get(&["channels", &name], &what)?)
            }
        }
    }
}

/// Commands on consumers.
#[derive(Debug, Subcommand)]
pub(crate) enum ConsumerCommand {
    /// Consumers
    List,
}

impl ConsumerCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::List => session.list(&["consumers"], true, CONSUMER_COLUMNS),
        }
    }
}
