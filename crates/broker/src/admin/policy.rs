//! Changes of policies, and what they change in queues and exchanges that exist.

use std::sync::Arc;

use leveret_access::{AdminError, Pattern, Put};

use super::{Admin, record};
use crate::queue::cell::QueueCell;
use crate::queue::pump::Pump;
use crate::settings::arguments::Meaning;
use crate::settings::policy::{Object, Policy, PolicyKind};
use crate::vhost::{Directory, Vhost};

/// Policies that were changed and not yet applied to what exists in their virtual host.
pub(super) struct Touched {
    vhost: Arc<Vhost>,
    /// What has none of these in its name stays as it is.
    patterns: Vec<Pattern>,
}

impl Touched {
    fn concerns(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(name))
    }
}

impl Admin<'_> {
    /// Adds a policy, or replaces it. It takes effect with the end of the changes, and for what is
    /// declared from now on.
    ///
    /// # Errors
    /// When there is no such virtual host or the policy is invalid, in RabbitMQ's words.
    pub fn put_policy(&mut self, kind: PolicyKind, policy: Policy) -> Result<Put, AdminError> {
        let vhost = self.existing_vhost(&policy.vhost)?;
        self.claim(("policy", &[&policy.vhost, &policy.name]), &policy)?;
        let mut rules = vhost.rules.write();
        let before = rules.policies.pattern(kind, &policy.name).cloned();
        let put = rules.policies.put(kind, policy.clone())?;
        let after = rules.policies.pattern(kind, &policy.name).cloned();
        drop(rules);
        let names = [&*policy.vhost, &*policy.name];
        self.keep(record::kind_of(kind), &names, &policy);
        self.touch(&vhost, before.into_iter().chain(after));
        Ok(put)
    }

    /// Removes a policy; what it set ends with the end of the changes.
    ///
    /// # Errors
    /// When there is none of the name.
    pub fn delete_policy(
        &mut self,
        kind: PolicyKind,
        vhost: &str,
        name: &str,
    ) -> Result<(), AdminError> {
        let vhost = self.existing_vhost(vhost)?;
        let mut rules = vhost.rules.write();
        let before = rules.policies.pattern(kind, name).cloned();
        if !rules.policies.delete(kind, name) {
            return Err(AdminError::Missing);
        }
        drop(rules);
        self.forget(record::kind_of(kind), &[&vhost.name, name]);
        self.touch(&vhost, before.into_iter());
        Ok(())
    }

    fn touch(&mut self, vhost: &Arc<Vhost>, patterns: impl Iterator<Item = Pattern>) {
        let mut known = self.touched.iter_mut();
        match known.find(|one| Arc::ptr_eq(&one.vhost, vhost)) {
            Some(one) => one.patterns.extend(patterns),
            None => self.touched.push(Touched {
                vhost: Arc::clone(vhost),
                patterns: patterns.collect(),
            }),
        }
    }

    /// Looks anew at what applies to what the changed policies concern. Names are matched with
    /// nothing locked but the administration, and queues are changed one by one.
    pub(super) fn apply_policies(&mut self) {
        for touched in std::mem::take(&mut self.touched) {
            let vhost = &touched.vhost;
            let directory = vhost.directory.read();
            let exchanges = directory.router.exchanges();
            let exchanges: Vec<_> = exchanges.map(|found| found.name().to_owned()).collect();
            let queues: Vec<_> = directory.queues().cloned().collect();
            drop(directory);
            for name in exchanges.iter().filter(|name| touched.concerns(name)) {
                let alternate = alternate(vhost, name);
                set_alternate(&mut vhost.directory.write(), name, alternate.as_deref());
            }
            let mut sooner = false;
            for cell in queues.iter().filter(|cell| touched.concerns(&cell.name)) {
                sooner |= self.apply_to_queue(vhost, cell);
            }
            if sooner {
                self.broker.look_at_deliveries(&vhost.name);
            }
        }
    }

    /// Tells whether deliveries of the queue may have to be settled sooner than before.
    fn apply_to_queue(&mut self, vhost: &Vhost, cell: &Arc<QueueCell>) -> bool {
        let policy = vhost.rules.read().effective(cell.object());
        let mut state = cell.lock();
        if cell.is_deleted() || state.policy == policy {
            return false;
        }
        let defaults = self.broker.limits().queue;
        let meaning = Meaning::of(&cell.spec, policy, defaults);
        state.queue.set_settings(meaning.settings);
        state.policy = meaning.policy;
        state.dead_letters = meaning.dead_letters;
        state.expires_ms = meaning.expires_ms;
        let sooner = cell.set_lease(meaning.lease);
        cell.run(&mut state, &mut Pump::new(cell, &mut self.work));
        sooner && state.queue.unacked() > 0
    }
}

/// Gives an exchange the alternate that a policy sets, or takes it away.
pub(crate) fn apply_to_exchange(vhost: &Vhost, directory: &mut Directory, name: &str) {
    set_alternate(directory, name, alternate(vhost, name).as_deref());
}

/// The alternate exchange that a policy sets.
fn alternate(vhost: &Vhost, name: &str) -> Option<String> {
    let policy = vhost.rules.read().effective(Object::Exchange(name))?;
    policy.text("alternate-exchange").map(str::to_owned)
}

fn set_alternate(directory: &mut Directory, name: &str, alternate: Option<&str>) {
    let current = directory.router.exchange(name);
    let changed = current.is_some_and(|exchange| exchange.policy_alternate() != alternate);
    if changed {
        directory.router.set_policy_alternate(name, alternate);
    }
}
