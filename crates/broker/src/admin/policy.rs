//! Changes of policies, and what they change in queues and exchanges that exist.

use std::sync::Arc;

use leveret_access::{AdminError, Pattern, Put};

use super::{Admin, record};
use crate::broker::Broker;
use crate::settings::policy::{Policy, PolicyKind};
use crate::vhost::Vhost;

/// Policies that were changed and not yet applied to what exists in their virtual host.
pub(super) struct TouchedPolicies {
    vhost: Arc<Vhost>,
    /// What has none of these in its name stays as it is.
    patterns: Vec<Pattern>,
}

impl TouchedPolicies {
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
            None => self.touched.push(TouchedPolicies {
                vhost: Arc::clone(vhost),
                patterns: patterns.collect(),
            }),
        }
    }

    /// Looks anew at what applies to what the changed policies concern. Names are matched with
    /// nothing locked but the administration, and queues are changed one by one.
    pub(super) fn apply_policies(&mut self) {
        let defaults = self.broker.limits().queue;
        for touched in std::mem::take(&mut self.touched) {
            let vhost = &touched.vhost;
            let directory = vhost.directory.read();
            let exchanges = directory.router.exchanges();
            let exchanges: Vec<_> = exchanges.map(|found| found.name().to_owned()).collect();
            let queues: Vec<_> = directory.queues().cloned().collect();
            drop(directory);
            for name in exchanges.iter().filter(|name| touched.concerns(name)) {
                vhost.apply_to_exchange(name);
            }
            let mut sooner = false;
            for cell in queues.iter().filter(|cell| touched.concerns(&cell.name)) {
                sooner |= vhost.apply_to_queue(cell, defaults, &mut self.effects);
            }
            if sooner {
                self.broker.look_at_deliveries(&vhost.name);
            }
        }
    }
}

impl Broker {
    /// Deliveries of a virtual host may be due sooner than before: whoever holds some looks at
    /// them. The time of those that had none begins now.
    pub(super) fn look_at_deliveries(&self, vhost: &str) {
        for peer in self.peers() {
            if *peer.client.vhost.lock() != *vhost {
                continue;
            }
            let mut outlet = peer.outlet.lock();
            if outlet.look_again() {
                peer.leases.look(&outlet);
            }
        }
    }
}
