//! Users, permissions, virtual hosts, policies and parameters that a store remembers.

use serde::de::DeserializeOwned;

use crate::broker::Broker;
use crate::settings::policy::{Policy, PolicyKind};
use crate::topology::{DurableKind, FieldReader};

impl Broker {
    /// Puts one record back; `None` when it cannot be understood.
    pub(crate) fn restore_administration(
        &self,
        kind: u8,
        names: &mut FieldReader<'_>,
        value: &[u8],
    ) -> Option<()> {
        let is = |other: DurableKind| kind == other as u8;
        if is(DurableKind::User) {
            self.access.write().put_user(read(value)?).ok()?;
        } else if is(DurableKind::Vhost) {
            let vhost = self.add_vhost(names.text()?);
            let mut rules = vhost.rules.write();
            rules.apply(read(value)?);
            vhost.quota.set(&rules.limits);
        } else if is(DurableKind::Permission) {
            self.access.write().put_permission(read(value)?).ok()?;
        } else if is(DurableKind::TopicPermission) {
            self.access
                .write()
                .put_topic_permission(read(value)?)
                .ok()?;
        } else if is(DurableKind::Policy) {
            self.restore_policy(PolicyKind::User, value)?;
        } else if is(DurableKind::OperatorPolicy) {
            self.restore_policy(PolicyKind::Operator, value)?;
        } else if is(DurableKind::Parameter) {
            let vhost = self.vhost(names.text()?)?;
            vhost.rules.write().parameters.put(read(value)?).ok()?;
        } else if is(DurableKind::GlobalParameter) {
            self.globals
                .write()
                .insert(names.text()?.into(), read(value)?);
        } else {
            return None;
        }
        Some(())
    }

    fn restore_policy(&self, kind: PolicyKind, value: &[u8]) -> Option<()> {
        let policy: Policy = read(value)?;
        let vhost = self.vhost(&policy.vhost)?;
        vhost.rules.write().policies.put(kind, policy).ok()?;
        Some(())
    }
}

fn read<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}
