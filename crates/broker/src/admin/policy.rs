//! Changes of policies, and what they change in queues and exchanges that exist.

use std::sync::Arc;

use super::{Admin, record};
use crate::access::{AdminError, Put};
use crate::arguments::Meaning;
use crate::cell::QueueCell;
use crate::policy::{Object, Policy, PolicyKind};
use crate::pump::Pump;
use crate::vhost::{Directory, Vhost};

impl Admin<'_> {
    /// Adds a policy, or replaces it; it takes effect at once.
    ///
    /// # Errors
    /// When there is no such virtual host or the policy is invalid, in RabbitMQ's words.
    pub fn put_policy(&mut self, kind: PolicyKind, policy: Policy) -> Result<Put, AdminError> {
        let vhost = self.existing_vhost(&policy.vhost)?;
        let put = vhost.rules.write().policies.put(kind, policy.clone())?;
        let names = [&*policy.vhost, &*policy.name];
        self.keep(record::kind_of(kind), &names, &policy);
        self.apply_policies(&vhost);
        Ok(put)
    }

    /// Removes a policy; what it set ends at once.
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
        if !vhost.rules.write().policies.delete(kind, name) {
            return Err(AdminError::Missing);
        }
        self.forget(record::kind_of(kind), &[&vhost.name, name]);
        self.apply_policies(&vhost);
        Ok(())
    }

    /// Looks anew at what applies to everything in a virtual host. Whatever is declared from now on
    /// has it already. Queues are changed one by one, with nothing else locked.
    fn apply_policies(&mut self, vhost: &Vhost) {
        let mut directory = vhost.directory.write();
        let exchanges = directory.router.exchanges();
        let exchanges: Vec<_> = exchanges.map(|found| found.name().to_owned()).collect();
        for name in exchanges {
            apply_to_exchange(vhost, &mut directory, &name);
        }
        let queues: Vec<_> = directory.queues().cloned().collect();
        drop(directory);
        for cell in queues {
            self.apply_to_queue(vhost, &cell);
        }
    }

    fn apply_to_queue(&mut self, vhost: &Vhost, cell: &Arc<QueueCell>) {
        let policy = vhost.rules.read().effective(cell.object());
        let mut state = cell.lock();
        if cell.is_deleted() || state.policy == policy {
            return;
        }
        let defaults = self.broker.config.queue;
        let meaning = Meaning::of(&cell.spec.arguments, policy, defaults);
        state.queue.set_limits(meaning.limits);
        state.policy = meaning.policy;
        state.queue.trim(&mut Pump::new(cell, &mut self.work));
    }
}

/// Gives an exchange the alternate that a policy sets, or takes it away.
pub(crate) fn apply_to_exchange(vhost: &Vhost, directory: &mut Directory, name: &str) {
    let policy = vhost.rules.read().effective(Object::Exchange(name));
    let alternate = policy
        .as_deref()
        .and_then(|policy| policy.text("alternate-exchange"));
    let current = directory.router.exchange(name);
    let changed = current.is_some_and(|exchange| exchange.policy_alternate() != alternate);
    if changed {
        directory.router.set_policy_alternate(name, alternate);
    }
}
