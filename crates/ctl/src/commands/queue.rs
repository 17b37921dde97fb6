//! `leveretctl queue`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::binding;
use super::message::{GetMessages, PeekMessages};
use crate::arguments::{object, pair};
use crate::client::Request;
use crate::failure::{Failure, Result};
use crate::session::Session;

const COLUMNS: &[&str] = &[
    "vhost",
    "name",
    "type",
    "state",
    "messages_ready",
    "messages_unacknowledged",
    "consumers",
    "message_stats.publish_details.rate",
    "message_stats.deliver_get_details.rate",
];

/// Commands on queues.
#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// Queues with their depths and rates
    List {
        /// Only names that match this regular expression
        #[arg(long, value_name = "REGEX")]
        filter: Option<String>,
    },
    /// Everything about one queue
    Show { name: String },
    /// Create a queue, unless it is there already
    Declare(Declare),
    /// Delete queues with their messages
    Delete(Delete),
    /// Drop all ready messages of queues
    Purge(Names),
    /// Look at messages without taking them
    Peek(PeekMessages),
    /// Take messages, or take and give them back
    Get(GetMessages),
    /// Bindings that lead to a queue
    Bindings { name: String },
    /// Consumers of a queue
    Consumers { name: String },
}

/// What a new queue is like.
#[derive(Args, Debug)]
pub(crate) struct Declare {
    name: String,
    /// classic, quorum or stream; the virtual host's default if not given
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Do not keep the queue over a restart
    #[arg(long)]
    transient: bool,
    /// Delete the queue when its last consumer leaves
    #[arg(long)]
    auto_delete: bool,
    /// An argument such as x-max-length=1000 or x-single-active-consumer=true
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = pair)]
    arguments: Vec<(String, Value)>,
    /// Bind it to this exchange as well; EXCHANGE:KEY to bind with a key
    #[arg(long, value_name = "EXCHANGE[:KEY]")]
    bind: Vec<String>,
}

/// Which queues to delete, and when.
#[derive(Args, Debug)]
pub(crate) struct Delete {
    #[command(flatten)]
    names: Names,
    /// Only if it has no consumers
    #[arg(long)]
    if_unused: bool,
    /// Only if it has no messages
    #[arg(long)]
    if_empty: bool,
}

/// Queues by name, or by pattern.
#[derive(Args, Debug)]
pub(crate) struct Names {
    #[arg(required_unless_present = "matching", value_name = "NAME")]
    names: Vec<String>,
    /// All queues of the virtual host whose name matches this regular expression
    #[arg(long, value_name = "REGEX", conflicts_with = "names")]
    matching: Option<String>,
}

impl QueueCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let vhost = session.vhost();
        match self {
            Self::List { filter } => {
                let rows = session.rows(&["queues"], true, COLUMNS, filter.as_deref())?;
                session.output.rows(rows, COLUMNS)
            }
            Self::Show { name } => {
                let queue = session.get(&["queues", vhost, &name], &format!("queue `{name}`"))?;
                session.output.object(&queue)
            }
            Self::Declare(declare) => declare.run(session),
            Self::Delete(delete) => delete.run(session),
            Self::Purge(names) => purge(&names, session),
            Self::Peek(peek) => peek.run(session),
            Self::Get(get) => get.run(session),
            Self::Bindings { name } => {
                let what = format!("queue `{name}`");
                let rows = session.get(&["queues", vhost, &name, "bindings"], &what)?;
                session.output.rows(binding::array(rows), binding::COLUMNS)
            }
            Self::Consumers { name } => {
                let what = format!("queue `{name}`");
                let mut queue = session.get(&["queues", vhost, &name], &what)?;
                let rows = binding::array(queue["consumer_details"].take());
                session
                    .output
                    .rows(rows, super::connection::CONSUMER_COLUMNS)
            }
        }
    }
}

impl Declare {
    fn run(self, session: &Session) -> Result<()> {
        let mut arguments = object(&self.arguments)?;
        if let Some(kind) = self.kind {
            let given = arguments.insert("x-queue-type".to_owned(), kind.into());
            if given.is_some() {
                return Err(Failure::usage(
                    "give --type or --arg x-queue-type, not both",
                ));
            }
        }
        let body = json!({
            "durable": !self.transient,
            "auto_delete": self.auto_delete,
            "arguments": arguments,
        });
        let vhost = session.vhost();
        let what = format!("queue `{}`", self.name);
        let request = Request::put(&["queues", vhost, &self.name], body);
        session.apply(&request, &what, "declared")?;
        for bind in &self.bind {
            let (exchange, key) = bind.split_once(':').unwrap_or((bind, ""));
            let body = json!({"routing_key": key, "arguments": {}});
            let path = ["bindings", vhost, "e", exchange, "q", &self.name];
            let what = format!("binding from `{exchange}` to `{}`", self.name);
            session.apply(&Request::post(&path, body), &what, "added")?;
        }
        Ok(())
    }
}

impl Names {
    fn resolve(&self, session: &Session) -> Result<Vec<String>> {
        let Some(pattern) = &self.matching else {
            return Ok(self.names.clone());
        };
        let request = ["queues", session.vhost()];
        let rows = session.rows(&request, false, &["name"], Some(pattern))?;
        let names = rows.iter().filter_map(|row| row["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// What a question says is about to be lost: `queue q with 5 messages`.
    fn describe(&self, names: &[String], session: &Session) -> String {
        let vhost = session.vhost();
        let [name] = names else {
            return format!("{} queues in virtual host `{vhost}`", names.len());
        };
        let queue = session
            .get(&["queues", vhost, name], "queue")
            .unwrap_or_default();
        let messages = queue["messages"].as_u64().unwrap_or_default();
        let consumers = queue["consumers"].as_u64().unwrap_or_default();
        format!("queue `{name}` with {messages} messages and {consumers} consumers")
    }
}

impl Delete {
    fn run(self, session: &Session) -> Result<()> {
        let names = self.names.resolve(session)?;
        session.confirm(|| format!("Delete {}?", self.names.describe(&names, session)))?;
        session.each(&names, |name| {
            let request = Request::delete(&["queues", session.vhost(), name])
                .flag("if-unused", self.if_unused)
                .flag("if-empty", self.if_empty);
            session.apply(&request, &format!("queue `{name}`"), "deleted")
        })
    }
}

fn purge(names: &Names, session: &Session) -> Result<()> {
    let resolved = names.resolve(session)?;
    session.confirm(|| format!("Purge {}?", names.describe(&resolved, session)))?;
    session.each(&resolved, |name| {
        let request = Request::delete(&["queues", session.vhost(), name, "contents"]);
        session.apply(&request, &format!("queue `{name}`"), "purged")
    })
}
