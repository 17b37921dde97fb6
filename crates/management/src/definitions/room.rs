//! Whether there is room for what an import would make: what exists counts, and what is new.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{BTreeSet, HashSet};

use leveret_broker::{Broker, Existing, GLOBALS_MAX, PARAMETERS_MAX, Vhost, check_size};
use leveret_codec::Table;
use leveret_router::Router;

use super::apply::wider;
use super::import::{Import, ImportedBinding, Item};
use super::told::Problems;
use crate::problem::Problem;

/// How many there are, and may be.
struct Capacity {
    existing: usize,
    max: usize,
}

/// Checks all that has a limit of its own; the others' limits are the stage's too, on which all is
/// made already.
pub(super) fn check(broker: &Broker, stage: &Broker, import: &Import<'_>, problems: &mut Problems) {
    for checked in [
        queues(broker, stage, import),
        exchanges(broker, import),
        bindings(broker, import),
        parameters(broker, import),
    ] {
        if let Err(problem) = checked {
            problems.add(problem);
        }
    }
}

/// Refuses new arguments that are too large.
fn fit_in<T>(broker: &Broker, item: &Item<'_, T>, arguments: &Table) -> Result<(), String> {
    let max = broker.limits().arguments_bytes_max;
    let checked = check_size(arguments.as_raw(), max);
    checked.map_err(|refusal| item.wrong(Problem::refused(refusal, "").reason()))
}

/// Refuses the first new thing that does not fit in. Each comes with its scope, inside which its
/// name is counted once.
fn fit<'a, 'f: 'a, T: 'a, S: Ord, K: Ord>(
    what: &str,
    new: impl Iterator<Item = (&'a Item<'f, T>, S, K)>,
    room: impl Fn(&S) -> Capacity,
) -> Result<(), String> {
    let mut scopes: BTreeMap<S, (Capacity, BTreeSet<K>)> = BTreeMap::new();
    for (item, scope, name) in new {
        let (room, names) = match scopes.entry(scope) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let room = room(vacant.key());
                vacant.insert((room, BTreeSet::new()))
            }
        };
        names.insert(name);
        if room.existing + names.len() > room.max {
            return Err(item.wrong(format_args!("limit of {what} ({}) is reached", room.max)));
        }
    }
    Ok(())
}

fn queues(broker: &Broker, stage: &Broker, import: &Import<'_>) -> Result<(), String> {
    let is_new = |vhost: &str, name: &str| {
        let vhost = broker.vhost(vhost);
        vhost.is_none_or(|vhost| vhost.queue(name).is_none())
    };
    let new: Vec<_> = import
        .queues
        .iter()
        .map(|item| (item, &*item.of.0, &*item.of.1))
        .filter(|(_, vhost, name)| is_new(vhost, name))
        .collect();
    for (item, vhost, name) in &new {
        // With the default type of its virtual host.
        let made = stage.vhost(vhost).and_then(|vhost| vhost.queue(name));
        made.map_or(Ok(()), |cell| fit_in(broker, item, &cell.spec.arguments))?;
    }
    fit("queues of a vhost", new.iter().copied(), |vhost| {
        let Some(real) = broker.vhost(vhost) else {
            return Capacity {
                existing: 0,
                max: usize::MAX,
            };
        };
        let limits = import.limits.iter().map(|item| &item.of);
        let given = limits.filter(|(name, _)| name == vhost);
        let before = real.rules.read().limits.max_queues;
        let limit = given.fold(before, |limit, (_, given)| wider(limit, given.max_queues));
        Capacity {
            existing: real.directory.read().queues().len(),
            max: limit
                .and_then(|limit| usize::try_from(limit).ok())
                .unwrap_or(usize::MAX),
        }
    })?;
    let new = new
        .iter()
        .map(|(item, vhost, name)| (*item, (), (*vhost, *name)));
    fit("queues", new, |()| Capacity {
        existing: broker.events.existing(Existing::Queues),
        max: broker.limits().queues_max,
    })
}

fn exchanges(broker: &Broker, import: &Import<'_>) -> Result<(), String> {
    let is_new = |vhost: &str, name: &str| {
        let vhost = broker.vhost(vhost);
        vhost.is_none_or(|vhost| vhost.directory.read().router.exchange(name).is_none())
    };
    let vhosts = import.vhosts.iter().map(|item| &item.of.0);
    let vhosts: HashSet<_> = vhosts.filter(|name| broker.vhost(name).is_none()).collect();
    let predeclared = vhosts.len() * Router::new().exchange_count();
    let all = import.exchanges.iter();
    let all = all.map(|item| (item, (), (&*item.of.0, &*item.of.1)));
    let new = all.filter(|(_, (), (vhost, name))| is_new(vhost, name));
    let new: Vec<_> = new.collect();
    for (item, ..) in &new {
        fit_in(broker, item, &item.of.2.arguments)?;
    }
    fit("exchanges", new.into_iter(), |()| Capacity {
        existing: broker.events.existing(Existing::Exchanges) + predeclared,
        max: broker.limits().exchanges_max,
    })
}

fn bindings(broker: &Broker, import: &Import<'_>) -> Result<(), String> {
    let new = import.bindings.iter().filter(|item| {
        let vhost = broker.vhost(&item.of.vhost);
        vhost.is_none_or(|vhost| is_new(&item.of, &vhost))
    });
    let new: Vec<_> = new.collect();
    for item in &new {
        fit_in(broker, item, &item.of.arguments)?;
    }
    let new = new.into_iter().map(|item| (item, (), identity(&item.of)));
    fit("bindings", new, |()| Capacity {
        existing: broker.events.existing(Existing::Bindings),
        max: broker.limits().bindings_max,
    })
}

fn is_new(binding: &ImportedBinding, vhost: &Vhost) -> bool {
    if binding.is_left_out(vhost) {
        return false;
    }
    match binding.in_vhost(vhost) {
        Ok(binding) => !vhost.directory.read().router.is_bound(binding.spec()),
        // Its queue is new too.
        Err(_) => true,
    }
}

fn identity(binding: &ImportedBinding) -> impl Ord + '_ {
    let ImportedBinding {
        vhost,
        source,
        destination,
        is_queue,
        key,
        arguments,
    } = binding;
    let by_name = leveret_broker::Binding::of_exchange("", "", b"", arguments.clone());
    let arguments = by_name.spec().canonical_arguments();
    (vhost, source, destination, is_queue, key, arguments)
}

fn parameters(broker: &Broker, import: &Import<'_>) -> Result<(), String> {
    let parameters = import.parameters.iter().map(|item| {
        let of = &item.of;
        (item, &*of.vhost, (&*of.component, &*of.name))
    });
    let new = parameters.filter(|(_, vhost, (component, name))| {
        let vhost = broker.vhost(vhost);
        vhost.is_none_or(|vhost| vhost.rules.read().parameters.get(component, name).is_none())
    });
    fit("parameters", new, |vhost| {
        let count = |vhost: &Vhost| vhost.rules.read().parameters.list().count();
        Capacity {
            existing: broker.vhost(vhost).map_or(0, |vhost| count(&vhost)),
            max: PARAMETERS_MAX,
        }
    })?;
    let known = broker.global_parameters();
    let known: HashSet<_> = known.iter().map(|(name, _)| &**name).collect();
    let globals = import.globals.iter().map(|item| (item, (), &*item.of.0));
    let new = globals.filter(|(_, (), name)| !known.contains(name));
    fit("global parameters", new, |()| Capacity {
        existing: known.len(),
        max: GLOBALS_MAX,
    })
}
