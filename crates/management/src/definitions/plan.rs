//! Tries an import out before it is applied, and says what it would change.

use std::collections::BTreeSet;
use std::sync::Arc;

use leveret_broker::{Broker, BrokerConfig, Work};
use leveret_store::InstantStore;
use serde_json::{Value, json};

use super::import::Import;
use crate::problem::Problem;

/// Applies an import to a broker that is thrown away: what would be refused is refused there.
pub(super) fn rehearse(broker: &Broker, import: &Import) -> Result<(), Problem> {
    let access = broker.with_access(Clone::clone);
    let config = BrokerConfig {
        ..broker.config.clone()
    };
    let stage = Broker::new(config, access, Arc::new(InstantStore));
    for vhost in broker.vhosts() {
        stage.add_vhost(&vhost.name);
    }
    set_the_stage(broker, &stage, import)?;
    import.apply(&stage)
}

/// Copies what bindings refer to and the import does not bring along.
fn set_the_stage(broker: &Broker, stage: &Broker, import: &Import) -> Result<(), Problem> {
    let mut work = Work::default();
    let mut copied = BTreeSet::new();
    for binding in &import.bindings {
        let (Some(real), Some(copy)) = (broker.vhost(&binding.vhost), stage.vhost(&binding.vhost))
        else {
            continue;
        };
        let mut exchanges = vec![binding.source.as_str()];
        let mut queue = None;
        if binding.is_queue {
            queue = Some(binding.destination.as_str());
        } else {
            exchanges.push(binding.destination.as_str());
        }
        for name in exchanges {
            let spec = {
                let directory = real.directory.read();
                directory
                    .router
                    .exchange(name)
                    .map(|exchange| exchange.spec().clone())
            };
            let known = copy.directory.read().router.exchange(name).is_some();
            if let Some(spec) = spec.filter(|_| !known) {
                let declared = stage.declare_exchange(&copy, name, spec, &mut work);
                declared.map_err(|refusal| Problem::refused(refusal, &real.name))?;
            }
        }
        let fresh = queue.filter(|name| copied.insert((real.name.clone(), (*name).to_owned())));
        if let Some(cell) = fresh.and_then(|name| real.queue(name)) {
            let declared = stage.declare_queue(&copy, &cell.name, cell.spec.clone(), &mut work);
            declared.map_err(|refusal| Problem::refused(refusal, &real.name))?;
        }
    }
    Ok(())
}

/// What an import would make, change and keep, by section.
pub(super) fn difference(broker: &Broker, import: &Import) -> Value {
    let mut plan = json!({});
    let mut section = |name: &str, items: Vec<(String, Effect)>| {
        let of = |wanted: Effect| {
            let names = items.iter().filter(|(_, effect)| *effect == wanted);
            names.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        plan[name] = json!({
            "create": of(Effect::Create),
            "update": of(Effect::Update),
            "unchanged": of(Effect::Keep).len(),
        });
    };
    let users = import.users.iter().map(|user| {
        let known = broker.user(&user.name);
        (user.name.clone(), effect(known.as_ref(), user))
    });
    section("users", users.collect());
    let vhosts = import.vhosts.iter().filter_map(|(name, metadata, _)| {
        let metadata = metadata.as_ref()?;
        let known = broker
            .vhost(name)
            .map(|vhost| vhost.rules.read().metadata.clone());
        Some((name.clone(), effect(known.as_ref(), metadata)))
    });
    section("vhosts", vhosts.collect());
    let permissions = import.permissions.iter().map(|of| {
        let known = broker.with_access(|access| access.permission(&of.vhost, &of.user).cloned());
        (
            format!("{} in {}", of.user, of.vhost),
            effect(known.as_ref(), of),
        )
    });
    section("permissions", permissions.collect());
    let policies = import.policies.iter().map(|(kind, policy)| {
        let known = broker.vhost(&policy.vhost).and_then(|vhost| {
            vhost
                .rules
                .read()
                .policies
                .get(*kind, &policy.name)
                .cloned()
        });
        (
            format!("{} in {}", policy.name, policy.vhost),
            effect(known.as_ref(), policy),
        )
    });
    section("policies", policies.collect());
    let exchanges = import.exchanges.iter().map(|(vhost, name, _)| {
        let known = broker
            .vhost(vhost)
            .is_some_and(|vhost| vhost.directory.read().router.exchange(name).is_some());
        (format!("{name} in {vhost}"), kept(known))
    });
    section("exchanges", exchanges.collect());
    let queues = import.queues.iter().map(|(vhost, name, _)| {
        let known = broker
            .vhost(vhost)
            .is_some_and(|vhost| vhost.queue(name).is_some());
        (format!("{name} in {vhost}"), kept(known))
    });
    section("queues", queues.collect());
    plan["bindings"] = json!({"given": import.bindings.len()});
    plan["parameters"] = json!({"given": import.parameters.len()});
    plan["global_parameters"] = json!({"given": import.globals.len()});
    plan["topic_permissions"] = json!({"given": import.topic_permissions.len()});
    plan
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Create,
    Update,
    Keep,
}

fn effect<T: PartialEq>(known: Option<&T>, given: &T) -> Effect {
    match known {
        None => Effect::Create,
        Some(known) if known == given => Effect::Keep,
        Some(_) => Effect::Update,
    }
}

const fn kept(known: bool) -> Effect {
    if known { Effect::Keep } else { Effect::Create }
}
