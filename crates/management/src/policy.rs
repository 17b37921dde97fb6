//! Policies and operator policies.

use std::cmp::Ordering;

use leveret_broker::{ApplyTo, Policy, PolicyKind};
use serde_json::{Map, Value};

use crate::admin::{administer, is_new, put as put_with, refused};
use crate::app::App;
use crate::call::Call;
use crate::caller::Access;
use crate::field::Fields;
use crate::history::Window;
use crate::list::{Columns, Row, list};
use crate::problem::Problem;
use crate::reply::{Answer, Reply};

struct PolicyRow(Policy);

impl Row for PolicyRow {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn order(&self, other: &Self) -> Ordering {
        (&self.0.vhost, &self.0.name).cmp(&(&other.0.vhost, &other.0.name))
    }

    fn json(&self, _: &App, _: &Window) -> Map<String, Value> {
        shown(&self.0)
    }
}

/// A policy as lists and definitions have it.
pub(crate) fn shown(policy: &Policy) -> Map<String, Value> {
    match serde_json::to_value(policy) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

fn index_of(call: &Call, kind: PolicyKind) -> Answer {
    let mut rows = Vec::new();
    let mut vhosts = call.vhosts()?;
    // As in RabbitMQ, a monitor that may not enter a virtual host does not see its rules.
    vhosts.retain(|vhost| {
        let checked = call
            .caller
            .check(&call.app, Access::Vhost, Some(&vhost.name));
        checked.is_ok()
    });
    for vhost in vhosts {
        let rules = vhost.rules.read();
        rows.extend(rules.policies.list(kind).cloned().map(PolicyRow));
    }
    list(call, rows)
}

fn show_of(call: &Call, kind: PolicyKind) -> Answer {
    let vhost = call.vhost()?;
    let rules = vhost.rules.read();
    let policy = rules
        .policies
        .get(kind, call.segment("policy"))
        .ok_or(Problem::NotFound)?;
    Ok(Columns::reply(call, shown(policy)))
}

fn put_of(call: &Call, kind: PolicyKind) -> Answer {
    let vhost = call.vhost()?;
    let body = call.object()?;
    let policy = from_json(&vhost.name, call.segment("policy"), &Fields(&body))?;
    let put = put_with(&call.app, |admin| admin.put_policy(kind, policy))?;
    Ok(Reply::put(is_new(put)))
}

/// Reads a policy from a request or a definitions file.
pub(crate) fn from_json(vhost: &str, name: &str, fields: &Fields<'_>) -> Result<Policy, Problem> {
    let apply_to = fields.text("apply-to")?.unwrap_or("all");
    fields.require("definition")?;
    let definition = fields.object("definition")?.cloned().unwrap_or_default();
    Ok(Policy {
        vhost: vhost.to_owned(),
        name: name.to_owned(),
        pattern: fields.required_text("pattern")?.to_owned(),
        apply_to: ApplyTo::parse(apply_to).map_err(|error| refused(&error))?,
        priority: fields.integer("priority")?.unwrap_or(0),
        definition,
    })
}

fn delete_of(call: &Call, kind: PolicyKind) -> Answer {
    let vhost = call.vhost()?;
    let name = call.segment("policy");
    administer(&call.app, |admin| {
        admin.delete_policy(kind, &vhost.name, name)
    })?;
    Ok(Reply::NoContent)
}

/// `GET /api/policies` and `/api/policies/{vhost}`.
pub(crate) fn index(call: &Call) -> Answer {
    index_of(call, PolicyKind::User)
}

/// `GET /api/policies/{vhost}/{policy}`.
pub(crate) fn show(call: &Call) -> Answer {
    show_of(call, PolicyKind::User)
}

/// `PUT /api/policies/{vhost}/{policy}`.
pub(crate) fn put(call: &Call) -> Answer {
    put_of(call, PolicyKind::User)
}

/// `DELETE /api/policies/{vhost}/{policy}`.
pub(crate) fn delete(call: &Call) -> Answer {
    delete_of(call, PolicyKind::User)
}

/// `GET /api/operator-policies` and `/api/operator-policies/{vhost}`.
pub(crate) fn index_operator(call: &Call) -> Answer {
    index_of(call, PolicyKind::Operator)
}

/// `GET /api/operator-policies/{vhost}/{policy}`.
pub(crate) fn show_operator(call: &Call) -> Answer {
    show_of(call, PolicyKind::Operator)
}

/// `PUT /api/operator-policies/{vhost}/{policy}`.
pub(crate) fn put_operator(call: &Call) -> Answer {
    put_of(call, PolicyKind::Operator)
}

/// `DELETE /api/operator-policies/{vhost}/{policy}`.
pub(crate) fn delete_operator(call: &Call) -> Answer {
    delete_of(call, PolicyKind::Operator)
}
