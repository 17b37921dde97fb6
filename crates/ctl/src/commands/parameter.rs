//! `leveretctl parameter`, `global-parameter` and `limit`.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::arguments::json;
use crate::client::Request;
use crate::failure::Result;
use crate::session::Session;

const COLUMNS: &[&str] = &["vhost", "component", "name", "value"];
const GLOBAL_COLUMNS: &[&str] = &["name", "value"];

/// Commands on parameters of virtual hosts.
#[derive(Debug, Subcommand)]
pub(crate) enum ParameterCommand {
    /// Parameters
    List {
        /// Only those of this component
        component: Option<String>,
    },
    /// One parameter
    Show { component: String, name: String },
    /// Create or replace a parameter
    Set {
        component: String,
        name: String,
        #[arg(value_name = "JSON", value_parser = json)]
        value: Value,
    },
    /// Delete a parameter
    Delete { component: String, name: String },
}

impl ParameterCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let vhost = session.vhost();
        match self {
            Self::List { component } => {
                let mut path = vec!["parameters"];
                path.extend(component.as_deref());
                // Without a component there is no list of one virtual host alone.
                let mut rows = session.rows(&path, path.len() > 1, COLUMNS, None)?;
                if let Some(vhost) = &session.settings.vhost {
                    rows.retain(|row| row["vhost"] == vhost.as_str());
                }
                session.output.rows(rows, COLUMNS)
            }
            Self::Show { component, name } => {
                let path = ["parameters", &component, vhost, &name];
                session
                    .output
                    .object(&session.get(&path, &format!("parameter `{name}`"))?)
            }
            Self::Set {
                component,
                name,
                value,
            } => {
                let body = json!({
                    "vhost": vhost,
                    "component": component,
                    "name": name,
                    "value": value,
                });
                let request = Request::put(&["parameters", &component, vhost, &name], body);
                session.apply(&request, &format!("parameter `{name}`"), "set")
            }
            Self::Delete { component, name } => {
                session.confirm(|| format!("Delete parameter `{name}` of {component}?"))?;
                let request = Request::delete(&["parameters", &component, vhost, &name]);
                session.apply(&request, &format!("parameter `{name}`"), "deleted")
            }
        }
    }
}

/// Commands on parameters of the whole broker.
#[derive(Debug, Subcommand)]
pub(crate) enum GlobalParameterCommand {
    /// Global parameters
    List,
    /// One global parameter
    Show { name: String },
    /// Create or replace a global parameter
    Set {
        name: String,
        #[arg(value_name = "JSON", value_parser = json)]
        value: Value,
    },
    /// Delete a global parameter
    Delete { name: String },
}

impl GlobalParameterCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let what = |name: &str| format!("global parameter `{name}`");
        match self {
            Self::List => session.list(&["global-parameters"], false, GLOBAL_COLUMNS),
            Self::Show { name } => {
                let value = session.get(&["global-parameters", &name], &what(&name))?;
                session.output.object(&value)
            }
            Self::Set { name, value } => {
                let body = json!({"name": name, "value": value});
                let request = Request::put(&["global-parameters", &name], body);
                session.apply(&request, &what(&name), "set")
            }
            Self::Delete { name } => {
                session.confirm(|| format!("Delete {}?", what(&name)))?;
                let request = Request::delete(&["global-parameters", &name]);
                session.apply(&request, &what(&name), "deleted")
            }
        }
    }
}

/// What a limit is on.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Limited {
    Vhost,
    User,
}

impl Limited {
    fn path(self) -> &'static str {
        match self {
            Self::Vhost => "vhost-limits",
            Self::User => "user-limits",
        }
    }

    fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Vhost => &["vhost", "value"],
            Self::User => &["user", "value"],
        }
    }

    fn rows(self, session: &Session) -> Result<Vec<Value>> {
        // Users are not of a virtual host.
        let scoped = matches!(self, Self::Vhost);
        session.rows(&[self.path()], scoped, self.columns(), None)
    }
}

/// Commands on limits of virtual hosts and users.
#[derive(Debug, Subcommand)]
pub(crate) enum LimitCommand {
    /// Limits of all virtual hosts, of all users, or, if neither is named, of both
    List { of: Option<Limited> },
    /// Set a limit: limit set vhost NAME max-queues 1000; -1 lifts it
    Set {
        of: Limited,
        name: String,
        /// max-connections, of users max-channels, of virtual hosts max-queues, max-bytes,
        /// max-publish-rate or max-publish-byte-rate
        limit: String,
        #[arg(allow_negative_numbers = true)]
        value: i64,
    },
    /// Lift a limit
    Clear {
        of: Limited,
        name: String,
        limit: String,
    },
}

impl LimitCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::List { of: Some(of) } => session.output.rows(of.rows(session)?, of.columns()),
            Self::List { of: None } => {
                let mut rows = Limited::Vhost.rows(session)?;
                rows.append(&mut Limited::User.rows(session)?);
                session.output.rows(rows, &["vhost", "user", "value"])
            }
            Self::Set {
                of,
                name,
                limit,
                value,
            } => {
                let request = Request::put(&[of.path(), &name, &limit], json!({"value": value}));
                session.apply(&request, &format!("{limit} of `{name}`"), "set")
            }
            Self::Clear { of, name, limit } => {
                let request = Request::delete(&[of.path(), &name, &limit]);
                session.apply(&request, &format!("{limit} of `{name}`"), "cleared")
            }
        }
    }
}
