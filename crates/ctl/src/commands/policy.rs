//! `leveretctl policy` and `leveretctl operator-policy`.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::arguments::{object, pair, typed};
use crate::client::Request;
use crate::failure::{Failure, Result};
use crate::session::Session;

const COLUMNS: &[&str] = &[
    "vhost",
    "name",
    "pattern",
    "apply-to",
    "priority",
    "definition",
];

/// Commands on policies.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Policies
    List,
    /// One policy
    Show { name: String },
    /// Create or replace a policy: policy set ttl '^tmp' message-ttl=60000
    Set(Set),
    /// Delete policies
    Delete {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// A policy.
#[derive(Args, Debug)]
pub(crate) struct Set {
    name: String,
    /// Regular expression on names
    pattern: String,
    /// What it sets: NAME=VALUE pairs, or one JSON object
    #[arg(required = true, value_name = "NAME=VALUE | JSON")]
    definition: Vec<String>,
    /// queues, classic_queues, quorum_queues, streams, exchanges or all
    #[arg(long, default_value = "all")]
    apply_to: String,
    /// Of the policies that match, the one with the highest priority holds
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
}

impl PolicyCommand {
    /// `kind` is `policies` or `operator-policies`.
    pub(crate) fn run(self, kind: &str, session: &Session) -> Result<()> {
        let vhost = session.vhost();
        let noun = if kind == "policies" {
            "policy"
        } else {
            "operator policy"
        };
        let what = |name: &str| format!("{noun} `{name}`");
        match self {
            Self::List => session.list(&[kind], true, COLUMNS),
            Self::Show { name } => {
                let policy = session.get(&[kind, vhost, &name], &what(&name))?;
                session.output.object(&policy)
            }
            Self::Set(set) => {
                let body = json!({
                    "pattern": set.pattern,
                    "definition": set.definition()?,
                    "apply-to": set.apply_to,
                    "priority": set.priority,
                });
                let request = Request::put(&[kind, vhost, &set.name], body);
                session.apply(&request, &what(&set.name), "set")
            }
            Self::Delete { names } => {
                session.confirm(|| match names.as_slice() {
                    [name] => format!("Delete {}?", what(name)),
                    names => format!("Delete {} policies?", names.len()),
                })?;
                session.each(&names, |name| {
                    let request = Request::delete(&[kind, vhost, name]);
                    session.apply(&request, &what(name), "deleted")
                })
            }
        }
    }
}

impl Set {
    fn definition(&self) -> Result<Map<String, Value>> {
        if let [json] = self.definition.as_slice()
            && json.trim_start().starts_with('{')
        {
            let value = typed(json.trim_start()).map_err(Failure::usage)?;
            return Ok(value.as_object().cloned().unwrap_or_default());
        }
        let pairs = self.definition.iter().map(|text| pair(text));
        let pairs: std::result::Result<Vec<_>, String> = pairs.collect();
        object(&pairs.map_err(|error| Failure::usage(format!("definition: {error}")))?)
    }
}
