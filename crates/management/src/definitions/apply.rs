//! Puts definitions into force.
//!
//! They are merged: nothing is deleted, queues and exchanges that exist are kept as they are, and
//! of everything else what the file says is changed.

use std::sync::Arc;

use leveret_broker::{Admin, AdminError, Broker, Effects, QueueSpec, Refusal, Vhost, VhostLimits};
use leveret_router::ExchangeSpec;

use super::import::{Import, ImportedBinding, Item, is_reserved};
use super::told::Problems;
use crate::problem::Problem;
use crate::{durable, user};

impl Import<'_> {
    /// Puts everything into force, and waits until it is durable.
    ///
    /// # Errors
    /// All that is refused; the rest is in force. If something was misread, nothing is.
    pub(crate) fn apply(&self, broker: &Broker) -> Result<(), Problem> {
        self.misread.clone().none()?;
        let mut problems = Problems::default();
        self.apply_to(broker, &mut problems)?;
        problems.none()
    }

    /// The same; what is refused is told.
    pub(super) fn apply_to(&self, broker: &Broker, problems: &mut Problems) -> Result<(), Problem> {
        let mut admin = broker.administer();
        self.apply_access(&mut admin, problems);
        self.apply_rules(&mut admin, problems);
        self.apply_limits(&mut admin, wider, problems);
        durable::wait(broker, admin.commit())?;
        let mut effects = Effects::default();
        self.apply_topology(broker, &mut effects, problems);
        durable::finish(broker, &mut effects)?;
        // Last: a virtual host may hold more queues than its limit, which was set later. What is
        // wrong with a limit is told already.
        let mut admin = broker.administer();
        self.apply_limits(&mut admin, given, &mut Problems::default());
        durable::wait(broker, admin.commit())
    }

    fn apply_access(&self, admin: &mut Admin<'_>, problems: &mut Problems) {
        each(&self.users, problems, |of| {
            user::put_onto(admin, of.clone())
        });
        each(&self.vhosts, problems, |(name, change)| {
            change.clone().put(admin, name)
        });
        each(&self.permissions, problems, |of| {
            admin.put_permission(of.clone())
        });
        each(&self.topic_permissions, problems, |of| {
            admin.put_topic_permission(of.clone())
        });
    }

    fn apply_rules(&self, admin: &mut Admin<'_>, problems: &mut Problems) {
        each(&self.globals, problems, |(name, value)| {
            admin.put_global_parameter(name, value.clone())
        });
        each(&self.policies, problems, |(kind, policy)| {
            admin.put_policy(*kind, policy.clone())
        });
        each(&self.parameters, problems, |of| {
            admin.put_parameter(of.clone())
        });
    }

    /// Sets limits of virtual hosts: what `choose` makes of one in force and one that is given.
    fn apply_limits(
        &self,
        admin: &mut Admin<'_>,
        choose: fn(Option<i64>, Option<i64>) -> Option<i64>,
        problems: &mut Problems,
    ) {
        each(&self.limits, problems, |(name, limits)| {
            let known = admin.broker().vhost(name);
            let known = known.ok_or_else(|| AdminError::NoVhost(name.clone()))?;
            let before = known.rules.read().limits;
            for limit in VhostLimits::NAMES {
                let before = before.get(limit);
                let after = choose(before, limits.get(limit));
                if let Some(after) = after.filter(|_| before != after) {
                    admin.set_vhost_limit(name, limit, &after.into())?;
                }
            }
            Ok(())
        });
    }

    fn apply_topology(&self, broker: &Broker, effects: &mut Effects, problems: &mut Problems) {
        let mut all = |result: Result<(), String>| {
            if let Err(problem) = result {
                problems.add(problem);
            }
        };
        for item in &self.exchanges {
            all(declare_exchange(broker, item, effects));
        }
        for item in &self.queues {
            all(declare_queue(broker, item, effects));
        }
        for item in &self.bindings {
            all(bind(broker, item, effects));
        }
    }
}

fn declare_exchange(
    broker: &Broker,
    item: &Item<'_, (String, String, ExchangeSpec)>,
    effects: &mut Effects,
) -> Result<(), String> {
    let (vhost, name, spec) = &item.of;
    let vhost = vhost_of(broker, item, vhost)?;
    if vhost.directory.read().router.exchange(name).is_some() {
        return Ok(());
    }
    let declared = broker.declare_exchange(&vhost, name, spec.clone(), effects);
    declared
        .map(drop)
        .map_err(|refusal| item.wrong(about(refusal, &vhost)))
}

fn declare_queue(
    broker: &Broker,
    item: &Item<'_, (String, String, QueueSpec)>,
    effects: &mut Effects,
) -> Result<(), String> {
    let (vhost, name, spec) = &item.of;
    let vhost = vhost_of(broker, item, vhost)?;
    if vhost.queue(name).is_some() {
        return Ok(());
    }
    let declared = broker.declare_queue(&vhost, name, spec.clone(), effects);
    declared
        .map(drop)
        .map_err(|refusal| item.wrong(about(refusal, &vhost)))
}

fn bind(
    broker: &Broker,
    item: &Item<'_, ImportedBinding>,
    effects: &mut Effects,
) -> Result<(), String> {
    let vhost = vhost_of(broker, item, &item.of.vhost)?;
    if item.of.is_left_out(&vhost) {
        return Ok(());
    }
    let binding = item
        .of
        .in_vhost(&vhost)
        .map_err(|reason| item.wrong(reason))?;
    let bound = broker.bind(&vhost, &binding, effects);
    bound
        .map(drop)
        .map_err(|refusal| item.wrong(about(refusal, &vhost)))
}

/// Puts each of a section's things into force, and tells which are refused.
fn each<T, U>(
    items: &[Item<'_, T>],
    problems: &mut Problems,
    mut put: impl FnMut(&T) -> Result<U, AdminError>,
) {
    for item in items {
        if let Err(error) = put(&item.of) {
            problems.add(item.wrong(error.to_string().trim_end()));
        }
    }
}

/// The limit in force while an import runs: one that it narrows is narrowed at the end.
pub(super) fn wider(before: Option<i64>, given: Option<i64>) -> Option<i64> {
    let before = before?;
    let given = given.unwrap_or(before);
    let is_none = |limit: i64| limit < 0;
    if is_none(before) || is_none(given) {
        return Some(before.min(given));
    }
    Some(before.max(given))
}

fn given(before: Option<i64>, given: Option<i64>) -> Option<i64> {
    given.or(before)
}

impl ImportedBinding {
    /// Whether an end has a server's name and does not exist here, such as a queue that a client
    /// declared without a name on the broker the file is of. No import makes it, and RabbitMQ
    /// leaves such bindings out.
    pub(super) fn is_left_out(&self, vhost: &Vhost) -> bool {
        let directory = vhost.directory.read();
        let no_exchange =
            |name: &str| is_reserved(name) && directory.router.exchange(name).is_none();
        let no_queue = |name: &str| is_reserved(name) && directory.queue(name).is_none();
        let no_destination = if self.is_queue {
            no_queue(&self.destination)
        } else {
            no_exchange(&self.destination)
        };
        no_exchange(&self.source) || no_destination
    }

    /// The binding, if its queue exists.
    pub(super) fn in_vhost(&self, vhost: &Vhost) -> Result<leveret_broker::Binding, String> {
        let (source, key) = (&self.source, self.key.as_bytes());
        let (destination, arguments) = (&self.destination, self.arguments.clone());
        if !self.is_queue {
            let binding = leveret_broker::Binding::of_exchange(source, destination, key, arguments);
            return Ok(binding);
        }
        let cell = vhost.queue(destination);
        let cell =
            cell.ok_or_else(|| format!("no queue '{destination}' in vhost '{}'", vhost.name))?;
        Ok(leveret_broker::Binding::of_queue(
            source, &cell, key, arguments,
        ))
    }
}

/// Why an operation on topology is refused; of what does not exist, which it is.
pub(super) fn about(refusal: Refusal, vhost: &Vhost) -> String {
    match refusal {
        Refusal::NoExchange(name) => format!("no exchange '{name}' in vhost '{}'", vhost.name),
        Refusal::NoQueue(name) => format!("no queue '{name}' in vhost '{}'", vhost.name),
        refusal => Problem::refused(refusal, &vhost.name).reason(),
    }
}

fn vhost_of<T>(broker: &Broker, item: &Item<'_, T>, name: &str) -> Result<Arc<Vhost>, String> {
    let vhost = broker.vhost(name);
    vhost.ok_or_else(|| item.wrong(format_args!("no such vhost: {name}")))
}
