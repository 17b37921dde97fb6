//! What is kept and has no effect: arguments of queues, keys of policies, parameters of plugins.

use std::sync::Arc;

use leveret_broker::{Parameter, Policy, PolicyKind, Vhost, policy_key_has_effect, without_effect};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::call::Call;
use crate::history::AskedSpans;
use crate::list::{Row, list};
use crate::reply::Answer;
use crate::walk;

struct IgnoredRow(Map<String, Value>);

impl Row for IgnoredRow {
    fn name(&self) -> &str {
        self.0
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    fn json(&self, _: &App, _: &AskedSpans) -> Map<String, Value> {
        self.0.clone()
    }
}

/// What is set on one thing without effect, if there is any.
pub(crate) fn row<'a>(
    kind: &str,
    vhost: &str,
    name: &str,
    keys: impl Iterator<Item = &'a str>,
) -> Option<Map<String, Value>> {
    let keys: Vec<_> = keys.collect();
    let row = json!({"kind": kind, "vhost": vhost, "name": name, "keys": keys});
    match row {
        Value::Object(row) if !keys.is_empty() => Some(row),
        _ => None,
    }
}

/// The same of a policy.
pub(crate) fn of_policy(kind: PolicyKind, policy: &Policy) -> Option<Map<String, Value>> {
    let name = match kind {
        PolicyKind::User => "policy",
        PolicyKind::Operator => "operator-policy",
    };
    let keys = policy.definition.keys().map(String::as_str);
    let keys = keys.filter(|key| !policy_key_has_effect(key));
    row(name, &policy.vhost, &policy.name, keys)
}

/// The same of a parameter of a plugin, which has none at all.
pub(crate) fn of_parameter(parameter: &Parameter) -> Option<Map<String, Value>> {
    let component = std::iter::once(&*parameter.component);
    row("parameter", &parameter.vhost, &parameter.name, component)
}

/// Those of one kind in a virtual host, by name; their number has a limit.
fn of_policies(vhost: &Vhost, kind: PolicyKind) -> Vec<Map<String, Value>> {
    let rules = vhost.rules.read();
    let mut policies: Vec<_> = rules.policies.list(kind).collect();
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    policies
        .into_iter()
        .filter_map(|policy| of_policy(kind, policy))
        .collect()
}

/// All of it in one virtual host, by kind and name.
fn of_vhost(vhost: &Arc<Vhost>) -> impl Iterator<Item = Map<String, Value>> + Send + use<> {
    let operator = of_policies(vhost, PolicyKind::Operator).into_iter();
    let parameters = walk::parameters(vhost).filter_map(|of| of_parameter(&of));
    let policies = of_policies(vhost, PolicyKind::User).into_iter();
    let queues = walk::queues(vhost);
    let vhost = Arc::clone(vhost);
    let queues = queues.filter_map(move |cell| {
        let keys = without_effect(&cell.spec.arguments);
        row("queue", &vhost.name, &cell.name, keys)
    });
    operator.chain(parameters).chain(policies).chain(queues)
}

/// `GET /api/x/ignored`: all of it, in the virtual hosts that the caller may enter.
pub(crate) fn index(call: &Call) -> Answer {
    let vhosts = call.vhosts()?.into_iter();
    list(
        call,
        vhosts.flat_map(|vhost| of_vhost(&vhost).map(IgnoredRow)),
    )
}
