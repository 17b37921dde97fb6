//! Tries an import out before it is applied, and says what it would change.

use std::collections::BTreeSet;
use std::sync::Arc;

use leveret_broker::{Broker, BrokerConfig, Effects, User, Vhost};
use leveret_router::ExchangeSpec;
use leveret_store::InstantStore;
use serde_json::{Value, json};

use super::apply::about;
use super::import::{Import, Item};
use super::room;
use super::told::Listed;
use crate::problem::Problem;
use crate::vhost;

/// Applies an import to a broker that is thrown away: what would be refused is refused there. It
/// takes any number and size of things; whether there is room is asked of the real one. What was
/// misread is refused with it.
pub(super) fn rehearse(broker: &Broker, import: &Import<'_>) -> Result<(), Problem> {
    let access = broker.with_access(Clone::clone);
    let config = BrokerConfig {
        queues_max: usize::MAX,
        exchanges_max: usize::MAX,
        bindings_max: usize::MAX,
        arguments_bytes_max: usize::MAX,
        ..broker.config.clone()
    };
    let stage = Broker::new(config, access, Arc::new(InstantStore));
    let policies = import.policies.iter();
    let policies: BTreeSet<_> = policies.map(|item| &*item.of.1.vhost).collect();
    for vhost in broker.vhosts() {
        let copy = stage.add_vhost(&vhost.name);
        let (real, mut staged) = (vhost.rules.read(), copy.rules.write());
        staged.metadata = real.metadata.clone();
        // Their patterns have a weight that is bounded for all together.
        if policies.contains(&*vhost.name) {
            staged.policies = real.policies.clone();
        }
    }
    set_the_stage(broker, &stage, import)?;
    let mut problems = import.misread.clone();
    import.apply_to(&stage, &mut problems)?;
    room::check(broker, &stage, import, &mut problems);
    problems.none()
}

/// Copies what exists of all that the import speaks of: it is kept as it is.
fn set_the_stage(broker: &Broker, stage: &Broker, import: &Import<'_>) -> Result<(), Problem> {
    let mut effects = Effects::default();
    let mut exchanges = BTreeSet::new();
    let mut queues = BTreeSet::new();
    exchanges.extend(import.exchanges.iter().map(|item| (&item.of.0, &item.of.1)));
    queues.extend(import.queues.iter().map(|item| (&item.of.0, &item.of.1)));
    for item in &import.bindings {
        let binding = &item.of;
        exchanges.insert((&binding.vhost, &binding.source));
        let of_kind = if binding.is_queue {
            &mut queues
        } else {
            &mut exchanges
        };
        of_kind.insert((&binding.vhost, &binding.destination));
    }
    for (vhost, name) in exchanges {
        let Some((real, copy)) = broker.vhost(vhost).zip(stage.vhost(vhost)) else {
            continue;
        };
        let spec = spec_of(&real, name);
        if let Some(spec) = spec.filter(|_| spec_of(&copy, name).is_none()) {
            let declared = stage.declare_exchange(&copy, name, spec, &mut effects);
            declared.map_err(|refusal| Problem::bad(about(refusal, &real)))?;
        }
    }
    for (vhost, name) in queues {
        let Some((real, copy)) = broker.vhost(vhost).zip(stage.vhost(vhost)) else {
            continue;
        };
        if let Some(cell) = real.queue(name) {
            let made = stage.declare_new_queue(&copy, name, cell.spec.clone(), &mut effects);
            made.map_err(|refusal| Problem::bad(about(refusal, &real)))?;
        }
    }
    Ok(())
}

fn spec_of(vhost: &Vhost, exchange: &str) -> Option<ExchangeSpec> {
    let directory = vhost.directory.read();
    Some(directory.router.exchange(exchange)?.spec().clone())
}

/// What an import would make, change and keep of one section; of much the first names, and `more`
/// grows by the others.
fn listed(items: impl Iterator<Item = (String, ImportEffect)>, more: &mut usize) -> Value {
    let (mut create, mut update) = (Listed::<String>::default(), Listed::<String>::default());
    let mut unchanged = 0;
    for (name, effect) in items {
        match effect {
            ImportEffect::Create => create.add(name),
            ImportEffect::Update => update.add(name),
            ImportEffect::Keep => unchanged += 1,
        }
    }
    *more += create.more + update.more;
    json!({
        "create": create.rows,
        "update": update.rows,
        "unchanged": unchanged,
    })
}

/// The same of all sections.
pub(super) fn difference(broker: &Broker, import: &Import<'_>) -> Value {
    let (mut plan, mut more) = (json!({}), 0);
    let users = import.users.iter().map(|Item { of: user, .. }| {
        let known = broker.user(&user.name);
        let limits = known.as_ref().map(|known| known.limits).unwrap_or_default();
        let after = User {
            limits: user.limits.or(limits),
            ..user.clone()
        };
        (user.name.clone(), effect(known.as_ref(), &after))
    });
    plan["users"] = listed(users, &mut more);
    let vhosts = import.vhosts.iter().map(|Item { of, .. }| {
        let (name, change) = of;
        let known = vhost::metadata(broker, name);
        let after = change.clone().onto(known.clone().unwrap_or_default());
        (name.clone(), effect(known.as_ref(), &after))
    });
    plan["vhosts"] = listed(vhosts, &mut more);
    let permissions = import.permissions.iter().map(|Item { of, .. }| {
        let known = broker.with_access(|access| access.permission(&of.vhost, &of.user).cloned());
        let name = format!("{} in {}", of.user, of.vhost);
        (name, effect(known.as_ref(), of))
    });
    plan["permissions"] = listed(permissions, &mut more);
    let policies = import.policies.iter().map(|item| {
        let (kind, policy) = &item.of;
        let known = broker.vhost(&policy.vhost).and_then(|vhost| {
            let rules = vhost.rules.read();
            rules.policies.get(*kind, &policy.name).cloned()
        });
        let name = format!("{} in {}", policy.name, policy.vhost);
        (name, effect(known.as_ref(), policy))
    });
    plan["policies"] = listed(policies, &mut more);
    let exchanges = import.exchanges.iter().map(|item| {
        let (vhost, name, _) = &item.of;
        let known = broker
            .vhost(vhost)
            .is_some_and(|vhost| vhost.directory.read().router.exchange(name).is_some());
        (format!("{name} in {vhost}"), kept(known))
    });
    plan["exchanges"] = listed(exchanges, &mut more);
    let queues = import.queues.iter().map(|item| {
        let (vhost, name, _) = &item.of;
        let known = broker
            .vhost(vhost)
            .is_some_and(|vhost| vhost.queue(name).is_some());
        (format!("{name} in {vhost}"), kept(known))
    });
    plan["queues"] = listed(queues, &mut more);
    plan["bindings"] = json!({"given": import.bindings.len()});
    plan["parameters"] = json!({"given": import.parameters.len()});
    plan["global_parameters"] = json!({"given": import.globals.len()});
    plan["topic_permissions"] = json!({"given": import.topic_permissions.len()});
    plan["not_listed"] = more.into();
    plan
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ImportEffect {
    Create,
    Update,
    Keep,
}

fn effect<T: PartialEq>(known: Option<&T>, given: &T) -> ImportEffect {
    match known {
        None => ImportEffect::Create,
        Some(known) if known == given => ImportEffect::Keep,
        Some(_) => ImportEffect::Update,
    }
}

const fn kept(known: bool) -> ImportEffect {
    if known {
        ImportEffect::Keep
    } else {
        ImportEffect::Create
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_the_first_things_and_counts_the_others() {
        let of = |effect| (0..2_003).map(move |number: u32| (number.to_string(), effect));
        let all = of(ImportEffect::Create).chain(of(ImportEffect::Update));
        let mut more = 1;
        let plan = listed(all.chain(of(ImportEffect::Keep)), &mut more);
        for effect in ["create", "update"] {
            let named = plan[effect].as_array().unwrap();
            assert_eq!((named.len(), &named[999]), (1_000, &json!("999")));
        }
        assert_eq!((&plan["unchanged"], more), (&json!(2_003), 2_007));
    }
}
