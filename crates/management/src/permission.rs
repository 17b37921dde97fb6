//! Permissions and topic permissions.

use leveret_broker::{Permission, TopicPermission};
use serde_json::{Map, Value};

use crate::admin::{administer, is_new, put as put_with};
use crate::app::App;
use crate::call::Call;
use crate::field::BodyFields;
use crate::history::AskedSpans;
use crate::list::{Columns, Row, list};
use crate::problem::Problem;
use crate::reply::{Answer, Reply};
use crate::{user, walk};

/// A permission of either kind, in a list.
struct PermissionRow<P>(P);

impl Row for PermissionRow<Permission> {
    fn name(&self) -> &str {
        &self.0.user
    }

    fn json(&self, _: &App, _: &AskedSpans) -> Map<String, Value> {
        object(&self.0)
    }
}

impl Row for PermissionRow<TopicPermission> {
    fn name(&self) -> &str {
        &self.0.user
    }

    fn json(&self, _: &App, _: &AskedSpans) -> Map<String, Value> {
        object(&self.0)
    }
}

fn object(value: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// Lists those permissions that concern the path's user and virtual host, where it names them.
fn listed(call: &Call, topics: bool) -> Answer {
    let (vhost, name) = (call.segment("vhost"), call.segment("user"));
    if !vhost.is_empty() {
        call.vhost()?;
    }
    if !name.is_empty() {
        user::find(call)?;
    }
    let (vhost, name) = (vhost.to_owned(), name.to_owned());
    let wanted = move |of_user: &str, of_vhost: &str| {
        (name.is_empty() || name == of_user) && (vhost.is_empty() || vhost == of_vhost)
    };
    let broker = &call.app.broker;
    if topics {
        let rows = walk::topic_permissions(broker);
        let rows = rows.filter(move |of| wanted(&of.user, &of.vhost));
        list(call, rows.map(PermissionRow))
    } else {
        let rows = walk::permissions(broker);
        let rows = rows.filter(move |of| wanted(&of.user, &of.vhost));
        list(call, rows.map(PermissionRow))
    }
}

/// `GET /api/permissions`, `/api/users/{user}/permissions` and `/api/vhosts/{vhost}/permissions`.
pub(crate) fn index(call: &Call) -> Answer {
    listed(call, false)
}

/// The same for topic permissions.
pub(crate) fn index_topics(call: &Call) -> Answer {
    listed(call, true)
}

/// `GET /api/permissions/{vhost}/{user}`.
pub(crate) fn show(call: &Call) -> Answer {
    let vhost = call.vhost()?;
    let user = user::find(call)?;
    let found = call
        .app
        .broker
        .with_access(|access| access.permission(&vhost.name, &user.name).map(object));
    Ok(Columns::reply(call, found.ok_or(Problem::NotFound)?))
}

/// The user and virtual host of a change; both must exist.
fn ends(call: &Call) -> Result<(String, String), Problem> {
    let vhost = call.vhost().ok();
    let found = call.app.broker.user(call.segment("user")).zip(vhost);
    let (user, vhost) = found.ok_or_else(|| Problem::bad("vhost_or_user_not_found"))?;
    Ok((user.name, vhost.name.to_string()))
}

/// `PUT /api/permissions/{vhost}/{user}`.
pub(crate) fn put(call: &Call) -> Answer {
    let (user, vhost) = ends(call)?;
    let body = call.object()?;
    let permission = from_json(user, vhost, &BodyFields(&body))?;
    let put = put_with(&call.app, |admin| admin.put_permission(permission))?;
    Ok(Reply::put(is_new(put)))
}

/// Reads a permission from a request or a definitions file.
pub(crate) fn from_json(
    user: String,
    vhost: String,
    fields: &BodyFields<'_>,
) -> Result<Permission, Problem> {
    fields.require_all(&["configure", "write", "read"])?;
    Ok(Permission {
        user,
        vhost,
        configure: fields.required_text("configure")?.to_owned(),
        write: fields.required_text("write")?.to_owned(),
        read: fields.required_text("read")?.to_owned(),
    })
}

/// `DELETE /api/permissions/{vhost}/{user}`.
pub(crate) fn delete(call: &Call) -> Answer {
    let (vhost, user) = (call.vhost()?, user::find(call)?);
    administer(&call.app, |admin| {
        admin.delete_permission(&vhost.name, &user.name)
    })?;
    Ok(Reply::NoContent)
}

/// `GET /api/topic-permissions/{vhost}/{user}`: a user without any is not found, as in RabbitMQ.
pub(crate) fn index_topics_of_user(call: &Call) -> Answer {
    let (vhost, user) = (call.vhost()?, user::find(call)?);
    let has = call.app.broker.with_access(|access| {
        let mut all = access.topic_permissions();
        all.any(|of| of.user == user.name && of.vhost == *vhost.name)
    });
    if has {
        listed(call, true)
    } else {
        Err(Problem::NotFound)
    }
}

/// `GET /api/topic-permissions/{vhost}/{user}/{exchange}`.
pub(crate) fn show_topic(call: &Call) -> Answer {
    let (vhost, user) = (call.vhost()?, user::find(call)?);
    let exchange = call.segment("exchange");
    let found = call.app.broker.with_access(|access| {
        let mut all = access.topic_permissions();
        let found = all
            .find(|of| of.user == user.name && of.vhost == *vhost.name && of.exchange == exchange);
        found.map(object)
    });
    Ok(Columns::reply(call, found.ok_or(Problem::NotFound)?))
}

/// `PUT /api/topic-permissions/{vhost}/{user}`.
pub(crate) fn put_topic(call: &Call) -> Answer {
    let (user, vhost) = ends(call)?;
    let body = call.object()?;
    let permission = topic_from_json(user, vhost, &BodyFields(&body))?;
    has_exchange(call, &permission.exchange)?;
    let put = put_with(&call.app, |admin| admin.put_topic_permission(permission))?;
    Ok(Reply::put(is_new(put)))
}

/// A topic permission is for an exchange that exists.
fn has_exchange(call: &Call, name: &str) -> Result<(), Problem> {
    let vhost = call.vhost()?;
    if vhost.directory.read().router.exchange(name).is_some() {
        return Ok(());
    }
    Err(Problem::wrong("exchange", "no_such_exchange", name))
}

/// Reads a topic permission from a request or a definitions file.
pub(crate) fn topic_from_json(
    user: String,
    vhost: String,
    fields: &BodyFields<'_>,
) -> Result<TopicPermission, Problem> {
    fields.require_all(&["exchange", "write", "read"])?;
    Ok(TopicPermission {
        user,
        vhost,
        exchange: fields.required_text("exchange")?.to_owned(),
        write: fields.required_text("write")?.to_owned(),
        read: fields.required_text("read")?.to_owned(),
    })
}

/// `DELETE /api/topic-permissions/{vhost}/{user}` and `…/{exchange}`.
pub(crate) fn delete_topic(call: &Call) -> Answer {
    let (vhost, user) = (call.vhost()?, user::find(call)?);
    let exchange = Some(call.segment("exchange")).filter(|name| !name.is_empty());
    administer(&call.app, |admin| {
        admin.delete_topic_permissions(&vhost.name, &user.name, exchange)
    })?;
    Ok(Reply::NoContent)
}
