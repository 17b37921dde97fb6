//! Policies and operator policies.

use leveret_broker::{ApplyTo, Parameter, Policy, PolicyKind, pair, term};
use serde_json::{Map, Value};

use crate::admin::{administer, is_new, put as put_with, refused};
use crate::app::App;
use crate::call::Call;
use crate::field::{BodyFields, integer_of};
use crate::history::AskedSpans;
use crate::list::{Columns, Row, list};
use crate::parameter::failed;
use crate::problem::Problem;
use crate::reply::{Answer, Reply};

struct PolicyRow(Policy);

impl Row for PolicyRow {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn json(&self, _: &App, _: &AskedSpans) -> Map<String, Value> {
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
    let rows = call.vhosts()?.into_iter().flat_map(move |vhost| {
        // They are few.
        let rules = vhost.rules.read();
        let mut policies: Vec<_> = rules.policies.list(kind).cloned().collect();
        drop(rules);
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        policies
    });
    list(call, rows.map(PolicyRow))
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
    let vhost = call.needed_vhost()?;
    let body = call.object()?;
    let policy = from_json(&vhost.name, call.segment("policy"), &BodyFields(&body))?;
    let put = put_with(&call.app, |admin| admin.put_policy(kind, policy))?;
    Ok(Reply::put(is_new(put)))
}

/// Reads a policy from a request or a definitions file.
pub(crate) fn from_json(
    vhost: &str,
    name: &str,
    fields: &BodyFields<'_>,
) -> Result<Policy, Problem> {
    let apply_to = fields.text("apply-to")?.unwrap_or("all");
    fields.require_all(&["pattern", "definition"])?;
    let definition = fields.object("definition")?.cloned().unwrap_or_default();
    let invalid = |text: String| refused(&failed(&[text]));
    let pattern = fields.require("pattern")?;
    let pattern = pattern.as_str().ok_or_else(|| {
        invalid(format!(
            "pattern should be a binary but was {}",
            term(pattern)
        ))
    })?;
    let priority = fields.get("priority").map(|given| {
        let wrong = || {
            invalid(format!(
                "priority should be a number, actually was {}",
                term(given)
            ))
        };
        whole(given).ok_or_else(wrong)
    });
    Ok(Policy {
        vhost: vhost.to_owned(),
        name: name.to_owned(),
        pattern: pattern.to_owned(),
        apply_to: ApplyTo::parse(apply_to).map_err(|error| refused(&error))?,
        priority: priority.transpose()?.unwrap_or(0),
        definition,
    })
}

/// A number that is whole, as JavaScript writes it too.
fn whole(value: &Value) -> Option<i64> {
    value.is_number().then(|| integer_of(value)).flatten()
}

/// Reads an operator policy that is given as a parameter, whose fields must all be there.
///
/// # Errors
/// Everything that is wrong with its fields, in RabbitMQ's words and order.
pub(crate) fn from_parameter(parameter: &Parameter) -> Result<Policy, Vec<String>> {
    let name = &parameter.name;
    let Some(value) = parameter.value.as_object() else {
        return Err(vec![format!(
            "{name} not a list {}",
            term(&parameter.value)
        )]);
    };
    let fields = BodyFields(value);
    let known = ["priority", "pattern", "apply-to", "definition"];
    let unknown = value
        .iter()
        .filter(|(key, _)| !known.contains(&key.as_str()));
    let unknown: Vec<_> = unknown.map(|(key, value)| pair(key, value)).collect();
    let mut wrong = Vec::new();
    if !unknown.is_empty() {
        wrong.push(format!(
            "Unrecognised terms [{}] in {name}",
            unknown.join(",")
        ));
    }
    for key in ["definition", "pattern", "priority"] {
        if fields.get(key).is_none() {
            wrong.push(format!("Key \"{key}\" not found in {name}"));
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    from_json(&parameter.vhost, name, &fields).map_err(|problem| {
        let reason = problem.reason();
        let bare = reason
            .strip_prefix("Validation failed\n\n")
            .unwrap_or(&reason);
        vec![bare.trim_end().to_owned()]
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
