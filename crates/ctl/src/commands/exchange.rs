//! `leveretctl exchange`.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::binding;
use crate::arguments::{object, pair};
use crate::client::Request;
use crate::failure::{Failure, Kind, Result};
use crate::output::Format;
use crate::session::Session;

const COLUMNS: &[&str] = &[
    "vhost",
    "name",
    "type",
    "durable",
    "auto_delete",
    "internal",
    "arguments",
];

/// The default exchange has no name, and a path segment needs one.
pub(crate) const DEFAULT_EXCHANGE: &str = "amq.default";

/// Commands on exchanges.
#[derive(Debug, Subcommand)]
pub(crate) enum ExchangeCommand {
    /// Exchanges
    List {
        /// Only names that match this regular expression
        #[arg(long, value_name = "REGEX")]
        filter: Option<String>,
    },
    /// Everything about one exchange
    Show { name: String },
    /// Create an exchange, unless it is there already
    Declare(Declare),
    /// Delete exchanges with their bindings
    Delete {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Only if nothing is bound to it
        #[arg(long)]
        if_unused: bool,
    },
    /// Bindings from and to an exchange
    Bindings { name: String },
    /// Where a message would go, and why; needs Leveret
    Route(Route),
}

/// What a new exchange is like.
#[derive(Args, Debug)]
pub(crate) struct Declare {
    name: String,
    /// direct, fanout, topic, headers, or a type that a plugin adds
    #[arg(long = "type", value_name = "TYPE", default_value = "direct")]
    kind: String,
    /// Do not keep the exchange over a restart
    #[arg(long)]
    transient: bool,
    /// Delete the exchange when its last binding goes
    #[arg(long)]
    auto_delete: bool,
    /// Only other exchanges may publish to it
    #[arg(long)]
    internal: bool,
    /// An argument such as alternate-exchange=unrouted
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = pair)]
    arguments: Vec<(String, Value)>,
}

/// A message that is not published, only routed.
#[derive(Args, Debug)]
pub(crate) struct Route {
    name: String,
    /// The routing key
    #[arg(long, short, default_value = "")]
    key: String,
    /// A header of the message
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    header: Vec<(String, Value)>,
}

impl ExchangeCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let vhost = session.vhost();
        match self {
            Self::List { filter } => {
                let rows = session.rows(&["exchanges"], true, COLUMNS, filter.as_deref())?;
                session.output.rows(rows, COLUMNS)
            }
            Self::Show { name } => {
                let what = format!("exchange `{name}`");
                let exchange = session.get(&["exchanges", vhost, segment(&name)], &what)?;
                session.output.object(&exchange)
            }
            Self::Declare(declare) => declare.run(session),
            Self::Delete { names, if_unused } => {
                session.confirm(|| match names.as_slice() {
                    [name] => format!("Delete exchange `{name}` with its bindings?"),
                    names => format!("Delete {} exchanges with their bindings?", names.len()),
                })?;
                session.each(&names, |name| {
                    let request = Request::delete(&["exchanges", vhost, segment(name)]);
                    let request = request.flag("if-unused", if_unused);
                    session.apply(&request, &format!("exchange `{name}`"), "deleted")
                })
            }
            Self::Bindings { name } => {
                let what = format!("exchange `{name}`");
                let mut rows = Vec::new();
                for end in ["source", "destination"] {
                    let path = ["exchanges", vhost, segment(&name), "bindings", end];
                    rows.extend(binding::array(session.get(&path, &what)?));
                }
                session.output.rows(rows, binding::COLUMNS)
            }
            Self::Route(route) => route.run(session),
        }
    }
}

impl Declare {
    fn run(self, session: &Session) -> Result<()> {
        let body = json!({
            "type": self.kind,
            "durable": !self.transient,
            "auto_delete": self.auto_delete,
            "internal": self.internal,
            "arguments": object(&self.arguments)?,
        });
        let request = Request::put(&["exchanges", session.vhost(), &self.name], body);
        session.apply(&request, &format!("exchange `{}`", self.name), "declared")
    }
}

impl Route {
    fn run(self, session: &Session) -> Result<()> {
        let headers: Map<String, Value> = object(&self.header)?;
        let body = json!({"routing_key": self.key, "headers": headers});
        let path = ["x", "routes", session.vhost(), segment(&self.name)];
        // The request changes nothing, so that it is sent in a dry run, too.
        let what = format!("exchange `{}`", self.name);
        let answer = session.client.call(&Request::post(&path, body), &what);
        let answer = answer.map_err(|failure| only_leveret(session, failure))?;
        if !matches!(session.output.format, Format::Table | Format::Csv) {
            return session.output.object(&answer);
        }
        session
            .output
            .rows(binding::array(answer["bindings"].clone()), ROUTE_COLUMNS)?;
        let queues = crate::output::cell(answer.get("queues"));
        session.output.say(&match queues.as_str() {
            "" => "routed to no queue".to_owned(),
            queues => format!("routed to {queues}"),
        });
        Ok(())
    }
}

const ROUTE_COLUMNS: &[&str] = &[
    "matches",
    "destination",
    "destination_type",
    "routing_key",
    "arguments",
];

/// What `name` is in a path.
pub(crate) fn segment(name: &str) -> &str {
    if name.is_empty() {
        DEFAULT_EXCHANGE
    } else {
        name
    }
}

/// A missing endpoint of our own looks like a missing object; says so if the broker is another.
pub(crate) fn only_leveret(session: &Session, failure: Failure) -> Failure {
    if failure.kind != Kind::NotFound && failure.kind != Kind::Refused {
        return failure;
    }
    match session.product() {
        Ok(product) if !product.eq_ignore_ascii_case("leveret") => {
            let text = format!("{product} has no endpoint for this; only Leveret does");
            Failure::failed(text)
        }
        _ => failure,
    }
}
