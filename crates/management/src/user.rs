//! Users: their passwords, tags and limits.

use std::collections::HashSet;

use leveret_broker::{Access, Admin, AdminError, Broker, Hashing, PasswordHash, Put, User};
use serde_json::{Map, Value, json};

use crate::admin::{administer, is_new, put as put_with, refused};
use crate::app::App;
use crate::call::Call;
use crate::field::BodyFields;
use crate::history::AskedSpans;
use crate::list::{Columns, Row, list};
use crate::problem::Problem;
use crate::reply::{Answer, Reply};
use crate::walk;

/// A password is not for storing files in.
const PASSWORD_BYTES_MAX: usize = 64 * 1024;
const BULK_MAX: usize = 10_000;

struct UserRow(User);

impl Row for UserRow {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn json(&self, _: &App, _: &AskedSpans) -> Map<String, Value> {
        shown(&self.0)
    }
}

/// A user as lists and definitions have it.
pub(crate) fn shown(user: &User) -> Map<String, Value> {
    match serde_json::to_value(user) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// `GET /api/users`.
pub(crate) fn index(call: &Call) -> Answer {
    list(call, walk::users(&call.app.broker).map(UserRow))
}

/// `GET /api/users/without-permissions`.
pub(crate) fn without_permissions(call: &Call) -> Answer {
    let has = |access: &Access| -> HashSet<String> {
        access.permissions().map(|of| of.user.clone()).collect()
    };
    let permitted = call.app.broker.with_access(has);
    let users = walk::users(&call.app.broker);
    let lacks = users.filter(move |user| !permitted.contains(&user.name));
    list(call, lacks.map(UserRow))
}

/// The user that the path names.
pub(crate) fn find(call: &Call) -> Result<User, Problem> {
    call.app
        .broker
        .user(call.segment("user"))
        .ok_or(Problem::NotFound)
}

/// `GET /api/users/{user}`.
pub(crate) fn show(call: &Call) -> Answer {
    Ok(Columns::reply(call, shown(&find(call)?)))
}

/// `PUT /api/users/{user}`.
pub(crate) fn put(call: &Call) -> Answer {
    let body = call.object()?;
    let user = from_json(&call.app.broker, call.segment("user"), &BodyFields(&body))?;
    let put = put_with(&call.app, |admin| put_onto(admin, user))?;
    Ok(Reply::put(is_new(put)))
}

/// Puts a user that was read over one that exists, which keeps the limits that were not given.
pub(crate) fn put_onto(admin: &mut Admin<'_>, user: User) -> Result<Put, AdminError> {
    let known = admin.broker().user(&user.name);
    let limits = user
        .limits
        .or(known.map(|user| user.limits).unwrap_or_default());
    admin.put_user(User { limits, ..user })
}

/// Reads a user from a request or a definitions file. Hashes its password, which may be slow.
pub(crate) fn from_json(
    broker: &Broker,
    name: &str,
    fields: &BodyFields<'_>,
) -> Result<User, Problem> {
    let tags = fields.words("tags")?;
    let tags = match (tags, fields.flag("administrator", false)?) {
        (Some(tags), _) => tags,
        (None, true) => vec![leveret_broker::ADMINISTRATOR.to_owned()],
        // Older tools say whether a user is an administrator, and nothing else.
        (None, false) if fields.get("administrator").is_some() => Vec::new(),
        (None, false) => return Err(Problem::bad("tags_not_present")),
    };
    Ok(User {
        name: name.to_owned(),
        password: password(broker, fields)?,
        tags,
        limits: <_>::default(),
    })
}

/// Without a password, or with an empty one, nobody can log in with a password.
fn password(broker: &Broker, fields: &BodyFields<'_>) -> Result<Option<PasswordHash>, Problem> {
    let (plain, hash) = (fields.text("password")?, fields.text("password_hash")?);
    match (plain, hash) {
        (Some(_), Some(_)) => Err(Problem::bad("both_password_and_password_hash_are_provided")),
        (Some(plain), None) if plain.len() > PASSWORD_BYTES_MAX => Err(Problem::bad(format!(
            "password is longer than {PASSWORD_BYTES_MAX} bytes"
        ))),
        (Some(""), None) | (None, Some("") | None) => Ok(None),
        (Some(plain), None) => Ok(Some(broker.hash_password(plain))),
        (None, Some(hash)) => {
            let hashing = match fields.text("hashing_algorithm")? {
                None => Hashing::Sha256,
                Some(name) => Hashing::from_name(name)
                    .ok_or_else(|| Problem::bad(format!("unknown hashing algorithm: {name}")))?,
            };
            // Which hash it was is nobody's business, in an answer or in a log.
            let hash = PasswordHash::from_base64(hashing, hash);
            hash.map(Some).map_err(|error| refused(&error))
        }
    }
}

/// `DELETE /api/users/{user}`.
pub(crate) fn delete(call: &Call) -> Answer {
    let user = find(call)?;
    administer(&call.app, |admin| admin.delete_user(&user.name))?;
    Ok(Reply::NoContent)
}

/// `POST /api/users/bulk-delete`.
pub(crate) fn bulk_delete(call: &Call) -> Answer {
    let body = call.object()?;
    BodyFields(&body).require_all(&["users"])?;
    let names = BodyFields(&body).words("users")?.unwrap_or_default();
    if names.len() > BULK_MAX {
        return Err(Problem::bad(format!("more than {BULK_MAX} users")));
    }
    for name in names {
        if call.app.broker.user(&name).is_some() {
            administer(&call.app, |admin| admin.delete_user(&name))?;
        }
    }
    Ok(Reply::NoContent)
}

/// `GET /api/auth/hash_password/{password}`.
pub(crate) fn hash_password(call: &Call) -> Answer {
    let hash = call.app.broker.hash_password(call.segment("password"));
    Ok(Reply::Json(json!({"ok": hash.to_base64()})))
}

/// `GET /api/auth/attempts/{node}`.
pub(crate) fn attempts(call: &Call) -> Answer {
    if call.segment("node") != call.app.node() {
        return Err(Problem::NotFound);
    }
    let events = &call.app.broker.events;
    let accepted = events.get(leveret_broker::Churn::LoginAccepted);
    let failed = events.get(leveret_broker::Churn::LoginRefused);
    let (http_accepted, http_failed) = call.app.logins();
    let row = |protocol: &str, accepted: u64, failed: u64| {
        json!({
            "protocol": protocol,
            "auth_attempts": accepted + failed,
            "auth_attempts_succeeded": accepted,
            "auth_attempts_failed": failed,
        })
    };
    let rows = [
        row("amqp091", accepted, failed),
        row("http", http_accepted, http_failed),
    ];
    Ok(Reply::Json(json!(rows)))
}
