//! Changes of virtual hosts, their limits, policies and parameters.

use std::sync::Arc;

use leveret_access::{AdminError, Put, VhostLimits, check_name};
use serde_json::Value;

use super::Admin;
use super::record;
use crate::settings::parameters::Parameter;
use crate::settings::policy::PolicyKind;
use crate::settings::rules::VhostMetadata;
use crate::topology::DurableKind;
use crate::topology::operations::Condition;
use crate::vhost::Vhost;
use crate::vhost::binding::Binding;

/// Virtual hosts at most.
const VHOSTS_MAX: usize = 10_000;

impl Admin<'_> {
    pub(super) fn existing_vhost(&self, name: &str) -> Result<Arc<Vhost>, AdminError> {
        self.broker
            .vhost(name)
            .ok_or_else(|| AdminError::NoVhost(name.into()))
    }

    /// Adds a virtual host, or changes what is said of it.
    ///
    /// # Errors
    /// When its name or queue type cannot be, or there are too many.
    pub fn put_vhost(&mut self, name: &str, metadata: VhostMetadata) -> Result<Put, AdminError> {
        check_name("vhost", name)?;
        metadata.validate()?;
        let known = self.broker.vhost(name);
        if known.is_none() && self.broker.vhosts().len() >= VHOSTS_MAX {
            return Err(AdminError::Limit("virtual hosts", VHOSTS_MAX));
        }
        self.claim(("virtual host", &[name]), &metadata)?;
        let vhost = self.broker.add_vhost(name);
        vhost.rules.write().metadata = metadata;
        self.keep_vhost(&vhost);
        Ok(Put::of(&known))
    }

    fn keep_vhost(&mut self, vhost: &Vhost) {
        let record = vhost.rules.read().record();
        self.keep(DurableKind::Vhost, &[&vhost.name], &record);
    }

    /// Removes a virtual host with everything in it, and closes its connections.
    ///
    /// # Errors
    /// When there is none of the name, or it is protected.
    pub fn delete_vhost(&mut self, name: &str) -> Result<(), AdminError> {
        let vhost = self.existing_vhost(name)?;
        if vhost.rules.read().metadata.protected_from_deletion {
            return Err(AdminError::Protected(name.into()));
        }
        vhost.directory.write().closed = true;
        self.broker.remove_vhost(name);
        self.broker
            .close_peers(&format!("vhost '{name}' is deleted"), |peer| {
                *peer.client.vhost.lock() == name
            });
        self.empty(&vhost);
        self.forget_grants(name);
        self.forget_rules(&vhost);
        // Last: a broker that stops half-way has the virtual host, not things in one that is gone.
        self.forget(DurableKind::Vhost, &[name]);
        Ok(())
    }

    /// Deletes everything in a virtual host. Nothing refuses to go without a condition, and
    /// predeclared exchanges go with the virtual host.
    fn empty(&mut self, vhost: &Vhost) {
        let queues: Vec<_> = vhost.directory.read().queues().cloned().collect();
        for cell in queues {
            let condition = Condition::default();
            let _ = self
                .broker
                .delete_queue(vhost, &cell, condition, &mut self.effects);
        }
        let directory = vhost.directory.read();
        let exchanges = directory.router.exchanges();
        let exchanges: Vec<_> = exchanges
            .map(|exchange| exchange.name().to_owned())
            .collect();
        drop(directory);
        for name in exchanges {
            let _ = self
                .broker
                .delete_exchange(vhost, &name, false, &mut self.effects);
        }
        self.unbind_predeclared(vhost);
    }

    fn unbind_predeclared(&mut self, vhost: &Vhost) {
        let directory = vhost.directory.read();
        let left = directory.router.bindings();
        let left: Vec<_> = left
            .map(|binding| Binding::found(binding.to_spec(), &directory))
            .collect();
        drop(directory);
        for binding in left {
            let _ = self.broker.unbind(vhost, &binding, &mut self.effects);
        }
    }

    fn forget_grants(&mut self, vhost: &str) {
        let mut access = self.broker.access.write();
        let permissions: Vec<_> = access
            .permissions()
            .filter(|permission| permission.vhost == vhost)
            .map(|permission| permission.user.clone())
            .collect();
        let topics: Vec<_> = access
            .topic_permissions()
            .filter(|permission| permission.vhost == vhost)
            .map(|permission| (permission.user.clone(), permission.exchange.clone()))
            .collect();
        access.forget_vhost(vhost);
        drop(access);
        self.permissions_changed();
        for user in permissions {
            self.forget(DurableKind::Permission, &[vhost, &user]);
        }
        for (user, exchange) in topics {
            self.forget(DurableKind::TopicPermission, &[vhost, &user, &exchange]);
        }
    }

    fn forget_rules(&mut self, vhost: &Vhost) {
        let rules = vhost.rules.read();
        for kind in [PolicyKind::User, PolicyKind::Operator] {
            for policy in rules.policies.list(kind) {
                self.forget(record::kind_of(kind), &[&vhost.name, &policy.name]);
            }
        }
        for parameter in rules.parameters.list() {
            self.forget(
                DurableKind::Parameter,
                &[&vhost.name, &parameter.component, &parameter.name],
            );
        }
    }

    /// Sets one of a virtual host's limits.
    ///
    /// # Errors
    /// When there is no such virtual host or limit, or the value is no integer.
    pub fn set_vhost_limit(
        &mut self,
        vhost: &str,
        limit: &str,
        value: &Value,
    ) -> Result<(), AdminError> {
        self.change_vhost_limits(vhost, |limits| limits.set(limit, value))
    }

    /// Sets all of a virtual host's limits at once: those that are not given are none.
    ///
    /// # Errors
    /// When there is no such virtual host.
    pub fn put_vhost_limits(&mut self, vhost: &str, all: VhostLimits) -> Result<Put, AdminError> {
        let mut put = Put::Updated;
        self.change_vhost_limits(vhost, |limits| {
            if limits.is_empty() {
                put = Put::Created;
            }
            *limits = all;
            Ok(())
        })?;
        Ok(put)
    }

    /// Takes one of a virtual host's limits away.
    ///
    /// # Errors
    /// When there is no such virtual host or limit.
    pub fn clear_vhost_limit(&mut self, vhost: &str, limit: &str) -> Result<(), AdminError> {
        self.change_vhost_limits(vhost, |limits| match limits.clear(limit) {
            true => Ok(()),
            false => Err(AdminError::Missing),
        })
    }

    fn change_vhost_limits(
        &mut self,
        vhost: &str,
        change: impl FnOnce(&mut VhostLimits) -> Result<(), AdminError>,
    ) -> Result<(), AdminError> {
        let vhost = self.existing_vhost(vhost)?;
        let mut rules = vhost.rules.write();
        change(&mut rules.limits)?;
        vhost.quota.set(&rules.limits);
        drop(rules);
        self.keep_vhost(&vhost);
        Ok(())
    }

    /// Sets a runtime parameter of one of the components that are kept.
    ///
    /// # Errors
    /// When there is no such virtual host or component, or the value is wrong.
    pub fn put_parameter(&mut self, parameter: Parameter) -> Result<Put, AdminError> {
        let vhost = self.existing_vhost(&parameter.vhost)?;
        parameter.validate()?;
        let names = [&*vhost.name, &*parameter.component, &*parameter.name];
        self.claim(("parameter", &names), &parameter)?;
        let put = vhost.rules.write().parameters.put(parameter.clone())?;
        let Parameter {
            component, name, ..
        } = &parameter;
        self.keep(
            DurableKind::Parameter,
            &[&vhost.name, component, name],
            &parameter,
        );
        Ok(put)
    }

    /// Removes a runtime parameter.
    ///
    /// # Errors
    /// When there is none of the name.
    pub fn delete_parameter(
        &mut self,
        vhost: &str,
        component: &str,
        name: &str,
    ) -> Result<(), AdminError> {
        let vhost = self.existing_vhost(vhost)?;
        if !vhost.rules.write().parameters.delete(component, name) {
            return Err(AdminError::Missing);
        }
        self.forget(DurableKind::Parameter, &[&vhost.name, component, name]);
        Ok(())
    }
}
