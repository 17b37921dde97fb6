//! Limits of virtual hosts and of users.

use leveret_broker::AdminError;
use serde_json::{Value, json};

use crate::admin::administer;
use crate::call::Call;
use crate::field::BodyFields;
use crate::parameter::failed;
use crate::problem::Problem;
use crate::reply::{Answer, Reply};
use crate::stream::{Stream, array, items};
use crate::{user, walk};

/// A limit in a body.
fn value(call: &Call) -> Result<Value, Problem> {
    let body = call.object()?;
    Ok(BodyFields(&body).require("value")?.clone())
}

/// A limit that there is not is taken away already.
fn unless_missing(cleared: Result<(), AdminError>) -> Result<(), AdminError> {
    match cleared {
        Err(AdminError::Missing) => Ok(()),
        cleared => cleared,
    }
}

/// `GET /api/vhost-limits` and `/api/vhost-limits/{vhost}`.
pub(crate) fn index_vhosts(call: &Call) -> Answer {
    let mut rows = Vec::new();
    for vhost in call.visible_vhosts()? {
        let limits = vhost.rules.read().limits;
        if !limits.is_empty() {
            rows.push(json!({"vhost": &*vhost.name, "value": limits}));
        }
    }
    Ok(Reply::Json(rows.into()))
}

/// `PUT /api/vhost-limits/{vhost}/{limit}`.
pub(crate) fn put_vhost(call: &Call) -> Answer {
    let vhost = call.needed_vhost()?;
    let value = value(call)?;
    let limit = call.segment("limit");
    administer(&call.app, |admin| {
        let set = admin.set_vhost_limit(&vhost.name, limit, &value);
        set.map_err(|error| failed(&[error.to_string()]))
    })?;
    Ok(Reply::NoContent)
}

/// `DELETE /api/vhost-limits/{vhost}/{limit}`.
pub(crate) fn delete_vhost(call: &Call) -> Answer {
    let vhost = call.needed_vhost()?;
    let limit = call.segment("limit");
    administer(&call.app, |admin| {
        unless_missing(admin.clear_vhost_limit(&vhost.name, limit))
    })?;
    Ok(Reply::NoContent)
}

/// `GET /api/user-limits` and `/api/user-limits/{user}`.
pub(crate) fn index_users(call: &Call) -> Answer {
    let name = call.segment("user");
    if !name.is_empty() {
        user::find(call)?;
    }
    let name = name.to_owned();
    let limited = walk::users(&call.app.broker).filter(|user| !user.limits.is_empty());
    let wanted = limited.filter(move |user| name.is_empty() || user.name == name);
    let rows = wanted.map(|user| json!({"user": user.name, "value": user.limits}));
    let reserved = call.app.budget.answer(0)?;
    Ok(Stream::json(&call.app, reserved, array(items(rows))).into())
}

/// `PUT /api/user-limits/{user}/{limit}`.
pub(crate) fn put_user(call: &Call) -> Answer {
    let name = call.segment("user");
    let user = user::find(call).map_err(|_| Problem::wrong("user", "no_such_user", name))?;
    let value = value(call)?;
    let limit = call.segment("limit");
    administer(&call.app, |admin| {
        admin.set_user_limit(&user.name, limit, &value)
    })?;
    Ok(Reply::NoContent)
}

/// `DELETE /api/user-limits/{user}/{limit}`.
pub(crate) fn delete_user(call: &Call) -> Answer {
    let user = user::find(call)?;
    let limit = call.segment("limit");
    administer(&call.app, |admin| {
        unless_missing(admin.clear_user_limit(&user.name, limit))
    })?;
    Ok(Reply::NoContent)
}
