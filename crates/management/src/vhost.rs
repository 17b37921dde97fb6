//! Virtual hosts as the API shows them.

use std::sync::Arc;

use leveret_broker::{Admin, AdminError, Broker, Permission, Put, Vhost, VhostMetadata, term};
use serde_json::{Map, Value, json};

use crate::admin::{administer, is_new, put as put_with};
use crate::app::App;
use crate::call::Call;
use crate::field::BodyFields;
use crate::history::AskedSpans;
use crate::list::{Columns, Row, list};
use crate::problem::Problem;
use crate::reply::{Answer, Reply};

/// A virtual host in a list.
pub(crate) struct VhostRow(pub(crate) Arc<Vhost>);

impl Row for VhostRow {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn json(&self, app: &App, window: &AskedSpans) -> Map<String, Value> {
        let held = self.0.holdings.get();
        let mut row = described(&self.0);
        row.insert("name".to_owned(), Value::from(&*self.0.name));
        row.insert("tracing".to_owned(), self.0.holdings.is_traced().into());
        row.insert("cluster_state".to_owned(), json!({app.node(): "running"}));
        row.insert("messages".to_owned(), (held.ready + held.unacked).into());
        row.insert("messages_ready".to_owned(), held.ready.into());
        row.insert("messages_unacknowledged".to_owned(), held.unacked.into());
        row.insert("x_message_bytes".to_owned(), held.bytes.into());
        row.insert("x_times_limited".to_owned(), self.0.times_limited().into());
        row.extend(app.sampler.vhost_stats(&self.0, window, app.now_ms()));
        row
    }
}

/// `GET /api/vhosts`.
pub(crate) fn index(call: &Call) -> Answer {
    list(call, call.visible_vhosts()?.into_iter().map(VhostRow))
}

/// `GET /api/vhosts/{vhost}`.
pub(crate) fn show(call: &Call) -> Answer {
    let window = AskedSpans::of(call)?;
    let row = VhostRow(call.vhost()?).json(&call.app, &window);
    Ok(Columns::reply(call, row))
}

/// `PUT /api/vhosts/{vhost}`: all that is said of it, so that what is left out is reset. Whoever
/// makes one may do everything in it.
pub(crate) fn put(call: &Call) -> Answer {
    let name = call.segment("vhost");
    let body = call.object()?;
    let fields = BodyFields(&body);
    if let Some(kind) = fields.get(QUEUE_TYPE) {
        let kind = kind.as_str().ok_or_else(|| {
            Problem::bad(format!("{} is not a valid {QUEUE_TYPE} value", term(kind)))
        })?;
        if kind.is_empty() {
            return Err(Problem::bad(format!(
                "{QUEUE_TYPE} must not be an empty string"
            )));
        }
    }
    let change = VhostChange::from_json(&fields)?;
    let put = put_with(&call.app, |admin| {
        // What is not said is not so any more, but for the protection, which has a path of its own.
        let protected_from_deletion =
            metadata(admin.broker(), name).is_some_and(|before| before.protected_from_deletion);
        let before = VhostMetadata {
            protected_from_deletion,
            ..VhostMetadata::default()
        };
        let tracing = change.tracing;
        let put = admin.put_vhost(name, change.onto(before))?;
        trace(admin, name, tracing)?;
        if is_new(put) {
            admin.put_permission(Permission::full(&call.caller.name, name))?;
        }
        Ok(put)
    })?;
    Ok(Reply::put(is_new(put)))
}

/// What a request or a definitions file says of a virtual host; the rest stays as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct VhostChange {
    description: Option<String>,
    tags: Option<Vec<String>>,
    default_queue_type: Option<String>,
    protected_from_deletion: Option<bool>,
    tracing: Option<bool>,
}

/// Whether to trace, if that is said; `null` says nothing elsewhere, but is refused here.
fn tracing(fields: &BodyFields<'_>) -> Result<Option<bool>, Problem> {
    match fields.0.get("tracing") {
        None => Ok(None),
        Some(null @ Value::Null) => Err(Problem::wrong("tracing", "not_boolean", null.clone())),
        Some(_) => fields.flag("tracing", false).map(Some),
    }
}

impl VhostChange {
    pub(crate) fn from_json(fields: &BodyFields<'_>) -> Result<Self, Problem> {
        // RabbitMQ writes Erlang's name for no value.
        let named = |kind: &&str| !kind.is_empty() && *kind != "undefined";
        let kind = fields.text(QUEUE_TYPE)?.filter(named);
        // What is not said follows the default.
        let [no, yes] = [false, true].map(|default| fields.flag(PROTECTED, default));
        let (no, yes) = (no?, yes?);
        Ok(Self {
            description: fields.text("description")?.map(str::to_owned),
            tags: fields.words("tags")?,
            default_queue_type: kind.map(str::to_owned),
            protected_from_deletion: (no == yes).then_some(no),
            tracing: tracing(fields)?,
        })
    }

    /// What is said of the virtual host after the change.
    pub(crate) fn onto(self, before: VhostMetadata) -> VhostMetadata {
        let Self {
            description,
            tags,
            default_queue_type,
            protected_from_deletion,
            tracing: _,
        } = self;
        VhostMetadata {
            description: description.unwrap_or(before.description),
            tags: tags.unwrap_or(before.tags),
            default_queue_type: default_queue_type.or(before.default_queue_type),
            protected_from_deletion: protected_from_deletion
                .unwrap_or(before.protected_from_deletion),
        }
    }

    /// Adds the virtual host, or changes what is said of it.
    pub(crate) fn put(self, admin: &mut Admin<'_>, name: &str) -> Result<Put, AdminError> {
        let before = metadata(admin.broker(), name).unwrap_or_default();
        let tracing = self.tracing;
        let put = admin.put_vhost(name, self.onto(before))?;
        trace(admin, name, tracing)?;
        Ok(put)
    }
}

/// Turns the firehose on or off, if that is said.
fn trace(admin: &Admin<'_>, name: &str, tracing: Option<bool>) -> Result<(), AdminError> {
    tracing.map_or(Ok(()), |on| admin.broker().set_tracing(name, on))
}

/// What is said of a virtual host, if there is one of this name.
pub(crate) fn metadata(broker: &Broker, name: &str) -> Option<VhostMetadata> {
    let vhost = broker.vhost(name)?;
    let rules = vhost.rules.read();
    Some(rules.metadata.clone())
}

/// `DELETE /api/vhosts/{vhost}`.
pub(crate) fn delete(call: &Call) -> Answer {
    let vhost = call.vhost()?;
    administer(&call.app, |admin| admin.delete_vhost(&vhost.name))?;
    Ok(Reply::NoContent)
}

fn protected(call: &Call, protected_from_deletion: bool) -> Answer {
    let name = call.segment("vhost");
    if protected_from_deletion && call.vhost().is_err() {
        return Err(Problem::NoSuch(format!(
            "Cannot enable deletion protection of virtual host '{name}' because it does not exist"
        )));
    }
    administer(&call.app, |admin| {
        let before = metadata(admin.broker(), name);
        let before = before.ok_or_else(|| AdminError::NoVhost(name.to_owned()))?;
        let after = VhostMetadata {
            protected_from_deletion,
            ..before
        };
        admin.put_vhost(name, after)
    })?;
    Ok(Reply::NoContent)
}

/// `POST /api/vhosts/{vhost}/deletion/protection`.
pub(crate) fn protect(call: &Call) -> Answer {
    protected(call, true)
}

/// `DELETE /api/vhosts/{vhost}/deletion/protection`.
pub(crate) fn unprotect(call: &Call) -> Answer {
    protected(call, false)
}

/// `POST /api/vhosts/{vhost}/start/{node}`: they always run.
pub(crate) fn start(call: &Call) -> Answer {
    let node = call.segment("node");
    if node != call.app.node() {
        return Err(Problem::bad(format!("Unknown node: {node}")));
    }
    let name = call.segment("vhost");
    call.vhost()
        .map_err(|_| Problem::bad(format!("no such vhost: {name}")))?;
    Ok(Reply::NoContent)
}

/// What administrators say of a virtual host, as lists show it.
pub(crate) fn described(vhost: &Vhost) -> Map<String, Value> {
    let metadata = vhost.rules.read().metadata.clone();
    let kind = metadata.default_queue_type.as_deref().unwrap_or("classic");
    let mut row = Map::new();
    let mut details = json!({
        "description": metadata.description,
        "tags": metadata.tags,
        "default_queue_type": kind,
    });
    if metadata.protected_from_deletion {
        details[PROTECTED] = true.into();
    }
    row.insert("description".to_owned(), metadata.description.into());
    row.insert("tags".to_owned(), metadata.tags.into());
    row.insert("default_queue_type".to_owned(), kind.into());
    row.insert(
        "protected_from_deletion".to_owned(),
        metadata.protected_from_deletion.into(),
    );
    row.insert("metadata".to_owned(), details);
    row
}

const QUEUE_TYPE: &str = "default_queue_type";
const PROTECTED: &str = "protected_from_deletion";
