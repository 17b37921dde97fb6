//! `leveretctl vhost`.

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use crate::client::Request;
use crate::failure::Result;
use crate::session::Session;

const COLUMNS: &[&str] = &[
    "name",
    "description",
    "tags",
    "default_queue_type",
    "messages",
];

/// Commands on virtual hosts.
#[derive(Debug, Subcommand)]
pub(crate) enum VhostCommand {
    /// Virtual hosts
    List,
    /// Everything about one virtual host
    Show { name: String },
    /// Create a virtual host, or change what is given of it
    Add(Add),
    /// Delete virtual hosts with all their queues and messages
    Delete {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Keep a virtual host from being deleted
    Protect { name: String },
    /// Let a virtual host be deleted again
    Unprotect { name: String },
}

/// What a virtual host is like.
#[derive(Args, Debug)]
pub(crate) struct Add {
    name: String,
    #[arg(long)]
    description: Option<String>,
    /// Words to group virtual hosts by
    #[arg(long, value_delimiter = ',')]
    tags: Option<Vec<String>>,
    /// Type of queues that name none
    #[arg(long, value_name = "TYPE")]
    default_queue_type: Option<String>,
}

impl VhostCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::List => session.list(&["vhosts"], false, COLUMNS),
            Self::Show { name } => {
                let what = format!("virtual host `{name}`");
                session
                    .output
                    .object(&session.get(&["vhosts", &name], &what)?)
            }
            Self::Add(add) => add.run(session),
            Self::Delete { names } => {
                session.confirm(|| match names.as_slice() {
                    [name] => format!("Delete virtual host `{name}` with all that is in it?"),
                    names => format!("Delete {} virtual hosts with all in them?", names.len()),
                })?;
                session.each(&names, |name| {
                    let request = Request::delete(&["vhosts", name]);
                    session.apply(&request, &format!("virtual host `{name}`"), "deleted")
                })
            }
            Self::Protect { name } => {
                let path = ["vhosts", &name, "deletion", "protection"];
                let request = Request::post(&path, Value::Object(Map::new()));
                session.apply(&request, &format!("virtual host `{name}`"), "protected")
            }
            Self::Unprotect { name } => {
                let request = Request::delete(&["vhosts", &name, "deletion", "protection"]);
                session.apply(
                    &request,
                    &format!("virtual host `{name}`"),
                    "no longer protected",
                )
            }
        }
    }
}

impl Add {
    fn run(self, session: &Session) -> Result<()> {
        let mut body = Map::new();
        let fields = [
            ("description", self.description),
            // RabbitMQ takes tags as one text.
            ("tags", self.tags.map(|tags| tags.join(","))),
            ("default_queue_type", self.default_queue_type),
        ];
        for (name, value) in fields {
            body.extend(value.map(|value| (name.to_owned(), Value::String(value))));
        }
        let request = Request::put(&["vhosts", &self.name], Value::Object(body));
        session.apply(&request, &format!("virtual host `{}`", self.name), "added")
    }
}
