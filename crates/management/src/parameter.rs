//! Runtime parameters, global parameters, and the name of the cluster, which is one of them.

use std::sync::Arc;

use leveret_broker::{Admin, AdminError, Parameter, PolicyKind, Put, Rules, Vhost, VhostLimits};
use serde_json::{Map, Value, json};

use crate::admin::{administer, is_new, put as put_with};
use crate::app::App;
use crate::call::Call;
use crate::field::BodyFields;
use crate::history::AskedSpans;
use crate::list::{Columns, Row, list};
use crate::policy;
use crate::problem::Problem;
use crate::reply::{Answer, Reply};
use crate::walk;

/// The global parameter that names the cluster.
pub(crate) const CLUSTER_NAME: &str = "cluster_name";
/// The one that tells clusters of the same name apart.
pub(crate) const CLUSTER_ID: &str = "internal_cluster_id";
/// The cluster's tags, a parameter of RabbitMQ's.
pub(crate) const CLUSTER_TAGS: &str = "cluster_tags";

/// Components whose parameters Leveret keeps as what they are.
pub(crate) const VHOST_LIMITS: &str = "vhost-limits";
pub(crate) const OPERATOR_POLICY: &str = "operator_policy";
const POLICY: &str = "policy";
/// The one parameter of [`VHOST_LIMITS`].
const LIMITS: &str = "limits";

struct ParameterRow {
    vhost: Arc<Vhost>,
    parameter: Parameter,
    /// Among the parameters, and not something else that is shown as one.
    is_own: bool,
}

impl Row for ParameterRow {
    fn name(&self) -> &str {
        &self.parameter.name
    }

    fn json(&self, _: &App, _: &AskedSpans) -> Map<String, Value> {
        shown(&self.parameter)
    }

    fn shed(&mut self) {
        if self.is_own {
            self.parameter.value = Value::Null;
        }
    }

    fn regain(&mut self) -> bool {
        if !self.is_own {
            return true;
        }
        let rules = self.vhost.rules.read();
        let Parameter {
            component, name, ..
        } = &self.parameter;
        let found = rules.parameters.get(component, name).cloned();
        drop(rules);
        let is_there = found.is_some();
        self.parameter = found.unwrap_or_else(|| self.parameter.clone());
        is_there
    }
}

/// A parameter as lists and definitions have it.
pub(crate) fn shown(parameter: &Parameter) -> Map<String, Value> {
    match serde_json::to_value(parameter) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// `GET /api/parameters`, `…/{component}` and `…/{component}/{vhost}`.
pub(crate) fn index(call: &Call) -> Answer {
    let component = call.segment("component").to_owned();
    let asked = component.clone();
    let wanted = move |of: &Parameter| component.is_empty() || component == of.component;
    let vhosts = call.vhosts()?.into_iter();
    let rows = vhosts.flat_map(move |vhost| {
        let own = walk::parameters(&vhost).filter(wanted.clone());
        let own = own.map(|parameter| (parameter, true));
        let others = asked_others(&vhost, &asked).into_iter();
        let all = own.chain(others.map(|parameter| (parameter, false)));
        all.map(move |(parameter, is_own)| ParameterRow {
            vhost: Arc::clone(&vhost),
            parameter,
            is_own,
        })
    });
    list(call, rows)
}

/// What is a parameter in RabbitMQ, and something of its own here.
fn others(vhost: &str, rules: &Rules, component: &str) -> Vec<Parameter> {
    let parameter = |name: &str, value: Map<String, Value>| Parameter {
        vhost: vhost.to_owned(),
        component: component.to_owned(),
        name: name.to_owned(),
        value: value.into(),
    };
    let kind = match component {
        VHOST_LIMITS if rules.limits.is_empty() => return Vec::new(),
        VHOST_LIMITS => return vec![parameter(LIMITS, limits_of(rules))],
        OPERATOR_POLICY => PolicyKind::Operator,
        POLICY => PolicyKind::User,
        _ => return Vec::new(),
    };
    let policies = rules.policies.list(kind).map(|policy| {
        let mut value = policy::shown(policy);
        value.remove("vhost");
        value.remove("name");
        parameter(&policy.name, value)
    });
    policies.collect()
}

fn limits_of(rules: &Rules) -> Map<String, Value> {
    match serde_json::to_value(rules.limits) {
        Ok(Value::Object(limits)) => limits,
        _ => Map::new(),
    }
}

/// What else is a parameter in RabbitMQ; policies are listed where they are asked for only.
fn asked_others(vhost: &Vhost, component: &str) -> Vec<Parameter> {
    let rules = vhost.rules.read();
    let kinds = [VHOST_LIMITS, OPERATOR_POLICY, POLICY].into_iter();
    let asked =
        kinds.filter(|other| component == *other || component.is_empty() && *other != POLICY);
    asked
        .flat_map(|other| others(&vhost.name, &rules, other))
        .collect()
}

/// `GET /api/parameters/{component}/{vhost}/{name}`.
pub(crate) fn show(call: &Call) -> Answer {
    let vhost = call.vhost()?;
    let rules = vhost.rules.read();
    let (component, name) = (call.segment("component"), call.segment("name"));
    let kept = rules.parameters.get(component, name).cloned();
    let found = kept.or_else(|| {
        let mut others = others(&vhost.name, &rules, component).into_iter();
        others.find(|other| other.name == name)
    });
    Ok(Columns::reply(
        call,
        shown(&found.ok_or(Problem::NotFound)?),
    ))
}

/// `PUT /api/parameters/{component}/{vhost}/{name}`.
pub(crate) fn put(call: &Call) -> Answer {
    let vhost = call.needed_vhost()?;
    let body = call.object()?;
    let parameter = Parameter {
        vhost: vhost.name.to_string(),
        component: call.segment("component").to_owned(),
        name: call.segment("name").to_owned(),
        value: BodyFields(&body).require("value")?.clone(),
    };
    let put = put_with(&call.app, |admin| put_onto(admin, parameter))?;
    Ok(Reply::put(is_new(put)))
}

/// Puts a parameter where it belongs: limits and operator policies are kept on their own.
fn put_onto(admin: &mut Admin<'_>, parameter: Parameter) -> Result<Put, AdminError> {
    match parameter.component.as_str() {
        VHOST_LIMITS => {
            let limits = limits_from(&parameter).map_err(|text| failed(&[text]))?;
            admin.put_vhost_limits(&parameter.vhost, limits)
        }
        OPERATOR_POLICY => {
            let policy = policy::from_parameter(&parameter).map_err(|wrong| failed(&wrong))?;
            admin.put_policy(PolicyKind::Operator, policy)
        }
        _ => admin.put_parameter(parameter),
    }
}

fn limits_from(parameter: &Parameter) -> Result<VhostLimits, String> {
    if parameter.name != LIMITS {
        return Err(format!("name not recognised: <<\"{}\">>", parameter.name));
    }
    match &parameter.value {
        Value::Object(limits) => VhostLimits::parse(limits).map_err(|error| error.to_string()),
        Value::Array(list) if list.is_empty() => Ok(VhostLimits::default()),
        other => Err(format!("{LIMITS} not a list {other}")),
    }
}

/// A refusal in the form in which RabbitMQ gives those of parameters.
pub(crate) fn failed(wrong: &[String]) -> AdminError {
    AdminError::Invalid(format!("Validation failed\n\n{}\n", wrong.join("\n")))
}

/// `DELETE /api/parameters/{component}/{vhost}/{name}`.
pub(crate) fn delete(call: &Call) -> Answer {
    let vhost = call.vhost()?;
    let (component, name) = (call.segment("component"), call.segment("name"));
    administer(&call.app, |admin| match component {
        VHOST_LIMITS if name != LIMITS || vhost.rules.read().limits.is_empty() => {
            Err(AdminError::Missing)
        }
        VHOST_LIMITS => {
            let none = VhostLimits::default();
            admin.put_vhost_limits(&vhost.name, none).map(drop)
        }
        OPERATOR_POLICY => admin.delete_policy(PolicyKind::Operator, &vhost.name, name),
        _ => admin.delete_parameter(&vhost.name, component, name),
    })?;
    Ok(Reply::NoContent)
}

/// Global parameters, with those that every broker has.
pub(crate) fn globals(app: &App) -> Vec<(String, Value)> {
    let mut globals = app.broker.global_parameters();
    let standing = [
        (CLUSTER_NAME, app.cluster_name()),
        (CLUSTER_ID, app.cluster_id()),
    ];
    for (name, value) in standing {
        if !globals.iter().any(|(known, _)| known == name) {
            globals.push((name.to_owned(), value.into()));
        }
    }
    globals.sort_by(|a, b| a.0.cmp(&b.0));
    globals
}

/// `GET /api/global-parameters`.
pub(crate) fn index_global(call: &Call) -> Answer {
    let all = globals(&call.app).into_iter();
    let rows = all.map(|(name, value)| json!({"name": name, "value": value}));
    Ok(Reply::Json(rows.collect()))
}

/// `GET /api/global-parameters/{name}`.
pub(crate) fn show_global(call: &Call) -> Answer {
    let name = call.segment("name");
    let found = globals(&call.app)
        .into_iter()
        .find(|(known, _)| known == name);
    let (name, value) = found.ok_or(Problem::NotFound)?;
    Ok(Reply::Json(json!({"name": name, "value": value})))
}

/// `PUT /api/global-parameters/{name}`.
pub(crate) fn put_global(call: &Call) -> Answer {
    let body = call.object()?;
    let value = BodyFields(&body).require("value")?.clone();
    let name = call.segment("name");
    let put = put_with(&call.app, |admin| admin.put_global_parameter(name, value))?;
    Ok(Reply::put(is_new(put)))
}

/// `DELETE /api/global-parameters/{name}`.
pub(crate) fn delete_global(call: &Call) -> Answer {
    let name = call.segment("name");
    administer(&call.app, |admin| admin.delete_global_parameter(name))?;
    Ok(Reply::NoContent)
}

/// `GET /api/cluster-name`.
pub(crate) fn show_cluster_name(call: &Call) -> Answer {
    Ok(Reply::Json(json!({"name": call.app.cluster_name()})))
}

/// `PUT /api/cluster-name`.
pub(crate) fn put_cluster_name(call: &Call) -> Answer {
    let body = call.object()?;
    let name = BodyFields(&body).required_text("name")?.to_owned();
    administer(&call.app, |admin| {
        admin.put_global_parameter(CLUSTER_NAME, name.into())
    })?;
    Ok(Reply::NoContent)
}
