//! Virtual hosts as the API shows them.

use std::cmp::Ordering;
use std::sync::Arc;

use leveret_broker::{Permission, Vhost, VhostMetadata};
use serde_json::{Map, Value, json};

use crate::admin::administer;
use crate::app::App;
use crate::call::Call;
use crate::field::Fields;
use crate::history::Window;
use crate::list::{Columns, Row, list};
use crate::problem::Problem;
use crate::reply::{Answer, Reply};

/// A virtual host in a list.
pub(crate) struct VhostRow(pub(crate) Arc<Vhost>);

impl Row for VhostRow {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn order(&self, other: &Self) -> Ordering {
        self.0.name.cmp(&other.0.name)
    }

    fn json(&self, app: &App, _: &Window) -> Map<String, Value> {
        let held = self.0.holdings.get();
        let mut row = described(&self.0);
        row.insert("name".to_owned(), Value::from(&*self.0.name));
        row.insert("tracing".to_owned(), false.into());
        row.insert("cluster_state".to_owned(), json!({app.node(): "running"}));
        row.insert("messages".to_owned(), (held.ready + held.unacked).into());
        row.insert("messages_ready".to_owned(), held.ready.into());
        row.insert("messages_unacknowledged".to_owned(), held.unacked.into());
        row
    }
}

/// `GET /api/vhosts`.
pub(crate) fn index(call: &Call) -> Answer {
    list(call, call.vhosts()?.into_iter().map(VhostRow).collect())
}

/// `GET /api/vhosts/{vhost}`.
pub(crate) fn show(call: &Call) -> Answer {
    let window = Window::of(call)?;
    let row = VhostRow(call.vhost()?).json(&call.app, &window);
    Ok(Columns::reply(call, row))
}

/// `PUT /api/vhosts/{vhost}`. Whoever makes one may do everything in it.
pub(crate) fn put(call: &Call) -> Answer {
    let name = call.segment("vhost");
    let body = call.object()?;
    let known = call.app.broker.vhost(name);
    let before = known.map(|vhost| vhost.rules.read().metadata.clone());
    let metadata = metadata_from_json(&Fields(&body), before.clone().unwrap_or_default())?;
    let own = Permission {
        user: call.caller.name.clone(),
        vhost: name.to_owned(),
        configure: EVERYTHING.to_owned(),
        write: EVERYTHING.to_owned(),
        read: EVERYTHING.to_owned(),
    };
    administer(&call.app, |admin| {
        admin.put_vhost(name, metadata)?;
        if before.is_none() {
            admin.put_permission(own)?;
        }
        Ok(())
    })?;
    Ok(Reply::put(before.is_none()))
}

/// Reads what a request or a definitions file says of a virtual host; the rest stays as it is.
pub(crate) fn metadata_from_json(
    fields: &Fields<'_>,
    before: VhostMetadata,
) -> Result<VhostMetadata, Problem> {
    let kind = fields
        .text("default_queue_type")?
        .filter(|kind| !kind.is_empty());
    Ok(VhostMetadata {
        description: match fields.text("description")? {
            Some(text) => text.to_owned(),
            None => before.description,
        },
        tags: fields.words("tags")?.unwrap_or(before.tags),
        default_queue_type: kind.map(str::to_owned).or(before.default_queue_type),
        protected_from_deletion: fields
            .flag("protected_from_deletion", before.protected_from_deletion)?,
    })
}

/// `DELETE /api/vhosts/{vhost}`.
pub(crate) fn delete(call: &Call) -> Answer {
    let vhost = call.vhost()?;
    administer(&call.app, |admin| admin.delete_vhost(&vhost.name))?;
    Ok(Reply::NoContent)
}

fn protected(call: &Call, protected_from_deletion: bool) -> Answer {
    let vhost = call.vhost()?;
    let metadata = VhostMetadata {
        protected_from_deletion,
        ..vhost.rules.read().metadata.clone()
    };
    administer(&call.app, |admin| admin.put_vhost(&vhost.name, metadata))?;
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
    call.vhost()?;
    if call.segment("node") == call.app.node() {
        Ok(Reply::NoContent)
    } else {
        Err(Problem::NotFound)
    }
}

/// What administrators say of a virtual host, as lists show it.
pub(crate) fn described(vhost: &Vhost) -> Map<String, Value> {
    let metadata = vhost.rules.read().metadata.clone();
    let kind = metadata.default_queue_type.as_deref().unwrap_or("classic");
    let mut row = Map::new();
    let details = json!({
        "description": metadata.description,
        "tags": metadata.tags,
        "default_queue_type": kind,
    });
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

/// The pattern of a permission for every name.
const EVERYTHING: &str = ".*";
