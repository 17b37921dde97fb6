//! `leveretctl backup`.

use clap::Subcommand;
use serde_json::{Value, json};

use super::exchange::only_leveret;
use crate::client::Request;
use crate::failure::Result;
use crate::output::Format;
use crate::session::Session;

const COLUMNS: &[&str] = &["name", "created", "messages", "bytes", "copied_bytes"];

/// Copies of the data, made while the broker serves; needs Leveret.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Make a copy of all that is durable, on the broker's machine
    Create {
        /// Letters, digits, `.`, `-` and `_` [default: the time]
        name: Option<String>,
    },
    /// Copies that there are, the oldest first
    List,
}

impl BackupCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let done = match self {
            Self::Create { name } => create(session, name.as_deref()),
            Self::List => session.list(&["x", "backups"], false, COLUMNS),
        };
        done.map_err(|failure| only_leveret(session, failure))
    }
}

fn create(session: &Session, name: Option<&str>) -> Result<()> {
    let body = match name {
        Some(name) => json!({"name": name}),
        None => json!({}),
    };
    let request = Request::post(&["x", "backups"], body);
    let what = name.map_or_else(|| "backup".to_owned(), |name| format!("backup `{name}`"));
    let Some(answer) = session.change(&request, &what)? else {
        return Ok(());
    };
    let made = answer.body;
    if session.output.format != Format::Table {
        return session.output.object(&made);
    }
    session.output.say(&format!(
        "backup `{}` made: {} messages, {} bytes in {}",
        text(&made["name"]),
        made["messages"],
        made["bytes"],
        text(&made["path"]),
    ));
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
