//! `leveretctl binding`.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::exchange::segment;
use crate::arguments::{object, pair};
use crate::client::{Request, encode};
use crate::failure::{Failure, Kind, Result};
use crate::session::Session;

pub(crate) const COLUMNS: &[&str] = &[
    "vhost",
    "source",
    "destination",
    "destination_type",
    "routing_key",
    "arguments",
];

/// Commands on bindings.
#[derive(Debug, Subcommand)]
pub(crate) enum BindingCommand {
    /// Bindings
    List {
        /// Only those from this exchange
        #[arg(long)]
        source: Option<String>,
        /// Only those to this queue or exchange
        #[arg(long)]
        destination: Option<String>,
    },
    /// Let an exchange send messages to a queue or to another exchange
    Add(Ends),
    /// Take a binding away
    Remove {
        #[command(flatten)]
        ends: Ends,
        /// Every binding between the two, whatever its key and arguments
        #[arg(long, conflicts_with_all = ["key", "arguments"])]
        all: bool,
    },
}

/// A binding by what it joins.
#[derive(Args, Debug)]
pub(crate) struct Ends {
    /// The exchange that messages come from
    source: String,
    /// The queue or exchange they go to
    destination: String,
    /// What the destination is
    #[arg(long, value_enum, default_value_t)]
    to: Destination,
    /// The binding key
    #[arg(long, short, default_value = "")]
    key: String,
    /// An argument such as x-match=all, or a header to match
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = pair)]
    arguments: Vec<(String, Value)>,
}

/// What a binding may lead to.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Destination {
    #[default]
    Queue,
    Exchange,
}

impl BindingCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::List {
                source,
                destination,
            } => {
                let mut path = vec!["bindings"];
                path.extend(session.settings.vhost.as_deref());
                let mut rows = array(session.get(&path, "bindings")?);
                let is = |row: &Value, field: &str, wanted: &Option<String>| {
                    wanted.as_deref().is_none_or(|wanted| row[field] == wanted)
                };
                rows.retain(|row| {
                    is(row, "source", &source) && is(row, "destination", &destination)
                });
                session.output.rows(rows, COLUMNS)
            }
            Self::Add(ends) => {
                let body = json!({
                    "routing_key": ends.key,
                    "arguments": object(&ends.arguments)?,
                });
                let request = Request::post(&ends.path(session), body);
                session.apply(&request, &ends.describe(), "added")
            }
            Self::Remove { ends, all } => ends.remove(session, all),
        }
    }
}

impl Ends {
    fn path<'a>(&'a self, session: &'a Session) -> [&'a str; 6] {
        let to = match self.to {
            Destination::Queue => "q",
            Destination::Exchange => "e",
        };
        let destination = match self.to {
            Destination::Queue => self.destination.as_str(),
            Destination::Exchange => segment(&self.destination),
        };
        [
            "bindings",
            session.vhost(),
            "e",
            segment(&self.source),
            to,
            destination,
        ]
    }

    fn describe(&self) -> String {
        format!("binding from `{}` to `{}`", self.source, self.destination)
    }

    /// Finds the binding's properties key among those between the two, and deletes by it.
    fn remove(self, session: &Session, all: bool) -> Result<()> {
        let path = self.path(session);
        let arguments = Value::Object(object(&self.arguments)?);
        let what = self.describe();
        let mut found = array(session.get(&path, &what)?);
        found.retain(|row| {
            all || row["routing_key"] == self.key.as_str() && same(&row["arguments"], &arguments)
        });
        if found.is_empty() {
            let text = format!("{what} with this key and these arguments: not found");
            return Err(Failure::new(Kind::NotFound, text));
        }
        session.confirm(|| format!("Remove {} {what}?", found.len()))?;
        session.each(&found, |row| {
            let properties = row["properties_key"].as_str().unwrap_or("~");
            let mut request = Request::delete(&path);
            // The key is an encoded text, and is encoded once more to be one segment.
            request.path.push('/');
            request.path.push_str(&encode(properties));
            session.apply(&request, &what, "removed")
        })
    }
}

fn same(a: &Value, b: &Value) -> bool {
    a == b || (a.as_object().is_none_or(serde_json::Map::is_empty) && b == &json!({}))
}

/// The rows of an answer that is a list.
pub(crate) fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    }
}
