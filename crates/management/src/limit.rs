//! Limits of virtual hosts and of users.

use serde_json::{Value, json};

use crate::admin::administer;
use crate::call::Call;
use crate::field::{Fields, integer_of};
use crate::problem::Problem;
use crate::reply::{Answer, Reply};
use crate::user;

/// A limit in a body: a number, or a text that holds one.
fn value(call: &Call) -> Result<Value, Problem> {
    let body = call.object()?;
    let given = Fields(&body).require("value")?;
    let number = integer_of(given)
        .ok_or_else(|| Problem::bad(format!("value must be an integer, not {given}")))?;
    Ok(number.into())
}

/// `GET /api/vhost-limits` and `/api/vhost-limits/{vhost}`.
pub(crate) fn index_vhosts(call: &Call) -> Answer {
    let mut rows = Vec::new();
    for vhost in call.vhosts()? {
        let limits = vhost.rules.read().limits;
        if !limits.is_empty() {
            rows.push(json!({"vhost": &*vhost.name, "value": limits}));
        }
    }
    Ok(Reply::Json(rows.into()))
}

/// `PUT /api/vhost-limits/{vhost}/{limit}`.
pub(crate) fn put_vhost(call: &Call) -> Answer {
    let vhost = call.vhost()?;
    let value = value(call)?;
    let limit = call.segment("limit");
    administer(&call.app, |admin| {
        admin.set_vhost_limit(&vhost.name, limit, &value)
    })?;
    Ok(Reply::NoContent)
}

/// `DELETE /api/vhost-limits/{vhost}/{limit}`.
pub(crate) fn delete_vhost(call: &Call) -> Answer {
    let vhost = call.vhost()?;
    let limit = call.segment("limit");
    administer(&call.app, |admin| {
        admin.clear_vhost_limit(&vhost.name, limit)
    })?;
    Ok(Reply::NoContent)
}

/// `GET /api/user-limits` and `/api/user-limits/{user}`.
pub(crate) fn index_users(call: &Call) -> Answer {
    let name = call.segment("user");
    if !name.is_empty() {
        user::find(call)?;
    }
    let rows: Vec<Value> = call.app.broker.with_access(|access| {
        let limited = access.users().filter(|user| !user.limits.is_empty());
        let wanted = limited.filter(|user| name.is_empty() || user.name == name);
        wanted
            .map(|user| json!({"user": user.name, "value": user.limits}))
            .collect()
    });
    Ok(Reply::Json(rows.into()))
}

/// `PUT /api/user-limits/{user}/{limit}`.
pub(crate) fn put_user(call: &Call) -> Answer {
    let user = user::find(call)?;
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
    administer(&call.app, |admin| admin.clear_user_limit(&user.name, limit))?;
    Ok(Reply::NoContent)
}
