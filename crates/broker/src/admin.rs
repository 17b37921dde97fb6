//! Administration: changes of users, permissions, virtual hosts, policies and parameters, each
//! with its record for the store.

mod access;
mod limits;
mod policy;
mod record;
#[cfg(test)]
mod tests;
mod totals;
mod vhost;

use std::sync::atomic::Ordering;

use leveret_access::{AdminError, Permission, Put, User, UserLimits, check_name};
use leveret_codec::HardCode;
use leveret_session::Fault;
use leveret_store::Ticket;
use parking_lot::MutexGuard;
use serde::Serialize;
use serde_json::Value;

use crate::broker::Broker;
use crate::peer::Peer;
use crate::queue::effects::Effects;
use crate::settings::parameters::check_value;
use crate::topology::DurableKind;

/// Global parameters at most.
pub const GLOBALS_MAX: usize = 10_000;

/// The right to administrate, one at a time, so that records reach the store in the order in which
/// changes took effect. What it changed is in force at once; [`Self::commit`] gives the ticket that
/// says when it is durable. Dropping it submits the records as well.
pub struct Admin<'a> {
    broker: &'a Broker,
    effects: MutexGuard<'a, Effects>,
    /// Policies to apply at the end.
    touched: Vec<policy::TouchedPolicies>,
}

impl Broker {
    /// Begins changes. Waits for others to be done with theirs, so hold it for a short time only
    /// and hash passwords before.
    pub fn administer(&self) -> Admin<'_> {
        Admin {
            broker: self,
            effects: self.administration.lock(),
            touched: Vec::new(),
        }
    }

    /// Global parameters, by name.
    #[must_use]
    pub fn global_parameters(&self) -> Vec<(String, Value)> {
        let globals = self.globals.read();
        globals
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// Makes the first user, an administrator, and the first virtual host, in which it may do
    /// everything: for a store that is new.
    ///
    /// # Errors
    /// When a name cannot be.
    pub fn first_start(&self, user: &str, password: &str, vhost: &str) -> Result<(), AdminError> {
        let password = Some(self.hash_password(password));
        let mut admin = self.administer();
        admin.put_vhost(vhost, crate::settings::rules::VhostMetadata::default())?;
        admin.put_user(User {
            name: user.into(),
            password,
            tags: vec![leveret_access::ADMINISTRATOR.into()],
            limits: UserLimits::default(),
        })?;
        admin.put_permission(Permission::full(user, vhost))?;
        Ok(())
    }

    fn close_peers(&self, text: &str, which: impl Fn(&Peer) -> bool) {
        for peer in self.peers().iter().filter(|peer| which(peer)) {
            peer.close(Fault::connection(HardCode::ConnectionForced, text, (0, 0)));
        }
    }
}

impl Admin<'_> {
    /// The broker that is administrated.
    #[must_use]
    pub const fn broker(&self) -> &Broker {
        self.broker
    }

    /// Ends the changes; they are durable when the store has reached the ticket.
    #[must_use = "changes are durable only then"]
    pub fn commit(mut self) -> Ticket {
        self.submit()
    }

    /// Sets a global parameter.
    ///
    /// # Errors
    /// When its name or value cannot be.
    pub fn put_global_parameter(&mut self, name: &str, value: Value) -> Result<Put, AdminError> {
        check_name("parameter", name)?;
        check_value(&value)?;
        self.claim(("global parameter", &[name]), &value)?;
        let mut globals = self.broker.globals.write();
        if globals.len() >= GLOBALS_MAX && !globals.contains_key(name) {
            return Err(AdminError::Limit("global parameters", GLOBALS_MAX));
        }
        let put = Put::of(&globals.insert(name.into(), value.clone()));
        drop(globals);
        self.keep(DurableKind::GlobalParameter, &[name], &value);
        Ok(put)
    }

    /// Removes a global parameter.
    ///
    /// # Errors
    /// When there is none of the name.
    pub fn delete_global_parameter(&mut self, name: &str) -> Result<(), AdminError> {
        let removed = self.broker.globals.write().remove(name);
        removed.ok_or(AdminError::Missing)?;
        self.forget(DurableKind::GlobalParameter, &[name]);
        Ok(())
    }

    /// Has the disk keep space for what is about to be put, before anything is changed.
    fn claim(
        &mut self,
        (what, names): (&str, &[&str]),
        value: &impl Serialize,
    ) -> Result<(), AdminError> {
        let names_len: usize = names.iter().map(|name| name.len()).sum();
        let bytes = names_len + serde_json::to_vec(value).map_or(0, |value| value.len());
        let name = names.last().copied().unwrap_or_default();
        let claimed = self.broker.claim_record(&mut self.effects, bytes);
        claimed.map_err(|refused| {
            AdminError::Invalid(format!("cannot put {what} '{name}': {refused}"))
        })
    }

    fn keep(&mut self, kind: DurableKind, names: &[&str], value: &impl Serialize) {
        let value = serde_json::to_vec(value).unwrap_or_default();
        let key = record::key(kind, names);
        self.effects.journal.topology(&key, Some(&value));
    }

    fn forget(&mut self, kind: DurableKind, names: &[&str]) {
        self.effects
            .journal
            .topology(&record::key(kind, names), None);
    }

    /// Has every connection look again at what its user may do.
    fn permissions_changed(&self) {
        self.broker.access_generation.fetch_add(1, Ordering::AcqRel);
    }

    fn submit(&mut self) -> Ticket {
        self.apply_policies();
        let ticket = self.broker.submit(&mut self.effects);
        self.effects.flush();
        ticket
    }
}

impl Drop for Admin<'_> {
    fn drop(&mut self) {
        // Whoever wants to know when it is durable commits.
        let _ = self.submit();
    }
}
