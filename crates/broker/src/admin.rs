//! Administration: changes of users, permissions, virtual hosts, policies and parameters, each
//! with its record for the store.

mod access;
mod policy;
mod record;
#[cfg(test)]
mod tests;
mod totals;
mod vhost;

use std::sync::atomic::Ordering;

use leveret_access::{
    AdminError, Denied, PasswordHash, Permission, Put, User, UserLimits, check_name,
};
use leveret_codec::HardCode;
use leveret_session::Fault;
use leveret_store::Ticket;
use parking_lot::MutexGuard;
use serde::Serialize;
use serde_json::Value;

use crate::broker::{Broker, Peer};
use crate::queue::pump::Work;
use crate::settings::parameters::check_value;
use crate::topology::Kind;

pub(crate) use policy::apply_to_exchange;

/// Global parameters at most.
pub const GLOBALS_MAX: usize = 10_000;

/// The right to administrate, one at a time, so that records reach the store in the order in which
/// changes took effect. What it changed is in force at once; [`Self::commit`] gives the ticket that
/// says when it is durable. Dropping it submits the records as well.
pub struct Admin<'a> {
    broker: &'a Broker,
    work: MutexGuard<'a, Work>,
    /// Policies to apply at the end.
    touched: Vec<policy::Touched>,
}

impl Broker {
    /// Begins changes. Waits for others to be done with theirs, so hold it for a short time only
    /// and hash passwords before.
    pub fn administer(&self) -> Admin<'_> {
        Admin {
            broker: self,
            work: self.administration.lock(),
            touched: Vec::new(),
        }
    }

    /// Hashes a password as new ones are. Not while administrating: it may be slow.
    #[must_use]
    pub fn hash_password(&self, password: &str) -> PasswordHash {
        let hashing = self.limits().password_hashing;
        let chance = self.names.chance();
        if !hashing.is_slow() {
            return PasswordHash::new(hashing, password, chance);
        }
        let mut hash = None;
        self.aside(|| hash = Some(PasswordHash::new(hashing, password, chance)));
        hash.unwrap_or_else(|| PasswordHash::new(hashing, password, chance))
    }

    /// Makes every refused password cost the same, the slowest check there is: the time it takes
    /// would tell who is a user.
    fn pretend(&self, checked: Option<&PasswordHash>, password: &[u8]) {
        let slowest = self.access.read().slowest();
        if checked.is_none_or(|hash| slowest.is_slow() && !hash.hashing().is_slow()) {
            self.verify(&PasswordHash::decoy(slowest), password);
        }
    }

    /// Checks a password against a hash; a slow one only once for each right password.
    fn verify(&self, hash: &PasswordHash, password: &[u8]) -> bool {
        if !hash.is_slow_for(password, &self.secret) {
            return hash.verify(password, &self.secret);
        }
        let mut right = false;
        self.aside(|| right = hash.verify(password, &self.secret));
        right
    }

    /// Does slow work where nobody else waits for it, one piece at a time.
    fn aside(&self, mut work: impl FnMut()) {
        (self.config.aside)(&mut || {
            let _one_at_a_time = self.slow.lock();
            work();
        });
    }

    /// A user.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<User> {
        self.access.read().user(name).cloned()
    }

    pub(crate) fn user_limits(&self, name: &str) -> UserLimits {
        let access = self.access.read();
        access
            .user(name)
            .map(|user| user.limits)
            .unwrap_or_default()
    }

    /// Looks at users and permissions.
    pub fn with_access<T>(&self, look: impl FnOnce(&leveret_access::Access) -> T) -> T {
        look(&self.access.read())
    }

    /// Checks a password and where the user comes from.
    ///
    /// # Errors
    /// Why the login is refused; clients are told only that it is.
    pub fn authenticate(
        &self,
        user: &str,
        password: &[u8],
        loopback: bool,
    ) -> Result<User, Denied> {
        let found = self.user(user);
        let hash = found.as_ref().and_then(|found| found.password.as_ref());
        if !hash.is_some_and(|hash| self.verify(hash, password)) {
            self.pretend(hash, password);
            return Err(Denied::Credentials);
        }
        let found = found.ok_or(Denied::Credentials)?;
        if !self.access.read().may_log_in_from(user, loopback) {
            return Err(Denied::NotLoopback);
        }
        Ok(found)
    }

    /// Replaces the list of users that may log in from the broker's machine only.
    pub fn set_loopback_only(&self, users: Vec<String>) {
        self.access.write().set_loopback_only(users);
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
        self.keep(Kind::GlobalParameter, &[name], &value);
        Ok(put)
    }

    /// Removes a global parameter.
    ///
    /// # Errors
    /// When there is none of the name.
    pub fn delete_global_parameter(&mut self, name: &str) -> Result<(), AdminError> {
        let removed = self.broker.globals.write().remove(name);
        removed.ok_or(AdminError::Missing)?;
        self.forget(Kind::GlobalParameter, &[name]);
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
        let claimed = self.broker.claim_record(&mut self.work, bytes);
        claimed.map_err(|refused| {
            AdminError::Invalid(format!("cannot put {what} '{name}': {refused}"))
        })
    }

    fn keep(&mut self, kind: Kind, names: &[&str], value: &impl Serialize) {
        let value = serde_json::to_vec(value).unwrap_or_default();
        let key = record::key(kind, names);
        self.work.journal.topology(&key, Some(&value));
    }

    fn forget(&mut self, kind: Kind, names: &[&str]) {
        self.work.journal.topology(&record::key(kind, names), None);
    }

    /// Has every connection look again at what its user may do.
    fn permissions_changed(&self) {
        self.broker.access_generation.fetch_add(1, Ordering::AcqRel);
    }

    fn submit(&mut self) -> Ticket {
        self.apply_policies();
        let ticket = self.broker.submit(&mut self.work);
        self.work.flush();
        ticket
    }
}

impl Drop for Admin<'_> {
    fn drop(&mut self) {
        // Whoever wants to know when it is durable commits.
        let _ = self.submit();
    }
}
