//! Users and what they may do: who may log in, enter a virtual host, and use which names there, and
//! how many connections and channels each has.
//!
//! It knows no message, no queue and no socket. Salts and secrets are arguments.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod error;
mod limits;
mod password;
mod pattern;
mod patterns;
mod permission;
mod plain;
mod user;
mod uses;
mod validate;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

pub use error::AdminError;
pub use limits::{UserLimits, VhostLimits};
pub use password::{Hashing, PasswordHash, Scratch};
pub use pattern::Pattern;
use patterns::Patterns;
use permission::{Grant, GrantPatterns, Keys};
pub use permission::{KeyUse, Permission, Right, TopicPermission};
pub use user::{ADMINISTRATOR, IMPERSONATOR, User};
pub use uses::{Reached, Uses, reached};
pub use validate::{check_name, pair, term};

/// Users at most; each costs memory and a record.
const USERS_MAX: usize = 100_000;
/// Permissions and topic permissions of one virtual host at most.
const GRANTS_MAX: usize = 100_000;

/// A refused login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Unknown user or wrong password.
    Credentials,
    /// The user may log in from the broker's own machine only.
    NotLoopback,
    /// The mechanism is not offered.
    Mechanism,
    /// The response is not in the mechanism's form.
    Malformed,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credentials => "unknown user or wrong password",
            Self::NotLoopback => "the user may log in from the broker's own machine only",
            Self::Mechanism => "the mechanism is not offered",
            Self::Malformed => "the response is not in the mechanism's form",
        })
    }
}

/// Whether a change made something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It did not exist before.
    Created,
    /// It was there, and has its new value now.
    Updated,
}

impl Put {
    /// By what was there before.
    #[must_use]
    pub const fn of<T>(previous: &Option<T>) -> Self {
        match previous {
            None => Self::Created,
            Some(_) => Self::Updated,
        }
    }
}

/// Users and their permissions.
#[derive(Clone, Default)]
pub struct Access {
    users: BTreeMap<String, User>,
    /// Of them, those whose passwords have a slow hash.
    slow_users: usize,
    /// By virtual host, then by user.
    grants: BTreeMap<String, BTreeMap<String, Grant>>,
    /// Of all grants. A copy shares them.
    patterns: Arc<Patterns>,
    loopback_only: Vec<String>,
}

impl Access {
    /// Nobody may log in yet. Users in `loopback_only` may do so from the broker's machine only.
    #[must_use]
    pub fn new(loopback_only: Vec<String>) -> Self {
        Self {
            loopback_only,
            ..Self::default()
        }
    }

    /// Users that may log in from the broker's machine only.
    #[must_use]
    pub fn loopback_only(&self) -> &[String] {
        &self.loopback_only
    }

    /// Replaces the list of users that may log in from the broker's machine only.
    pub fn set_loopback_only(&mut self, users: Vec<String>) {
        self.loopback_only = users;
    }

    /// What is known of a user, if there is one of the name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// All users, by name.
    pub fn users(&self) -> impl ExactSizeIterator<Item = &User> {
        self.users.values()
    }

    /// Those whose names come after this one, by name.
    pub fn users_after(&self, name: &str) -> impl Iterator<Item = &User> {
        let later = self.users.range::<str, _>(behind(name));
        later.map(|(_, user)| user)
    }

    /// Adds a user, or replaces it.
    ///
    /// # Errors
    /// When its name cannot be, or there are too many users.
    pub fn put_user(&mut self, user: User) -> Result<Put, AdminError> {
        check_name("user", &user.name)?;
        if self.users.len() >= USERS_MAX && !self.users.contains_key(&user.name) {
            return Err(AdminError::Limit("users", USERS_MAX));
        }
        self.slow_users += usize::from(is_slow(&user));
        let previous = self.users.insert(user.name.clone(), user);
        self.slow_users -= previous.as_ref().map_or(0, |user| is_slow(user).into());
        Ok(Put::of(&previous))
    }

    /// Removes a user with everything it may do. Tells whether it existed.
    pub fn delete_user(&mut self, name: &str) -> bool {
        self.grants.retain(|_, users| {
            users.remove(name);
            !users.is_empty()
        });
        let removed = self.users.remove(name);
        self.slow_users -= removed.as_ref().map_or(0, |user| is_slow(user).into());
        removed.is_some()
    }

    /// The slowest way in which a password of anybody is hashed.
    #[must_use]
    pub const fn slowest(&self) -> Hashing {
        if self.slow_users > 0 {
            Hashing::Argon2id
        } else {
            Hashing::Sha256
        }
    }

    /// Gives a user its permission in a virtual host.
    ///
    /// # Errors
    /// When the user does not exist or a pattern cannot be compiled.
    pub fn put_permission(&mut self, permission: Permission) -> Result<Put, AdminError> {
        let names = GrantPatterns::new(permission, &self.patterns)?;
        let (user, vhost) = (names.given.user.clone(), names.given.vhost.clone());
        let grant = self.grant(&user, &vhost)?;
        Ok(Put::of(&grant.permission.replace(names)))
    }

    /// Restricts a user's routing keys with a topic exchange.
    ///
    /// # Errors
    /// When the user does not exist or a pattern cannot be compiled.
    pub fn put_topic_permission(&mut self, permission: TopicPermission) -> Result<Put, AdminError> {
        let keys = Keys::new(permission, &self.patterns)?;
        let (user, vhost) = (keys.given.user.clone(), keys.given.vhost.clone());
        let grant = self.grant(&user, &vhost)?;
        let exchange = keys.given.exchange.clone();
        let full = grant.topics.len() >= GRANTS_MAX && !grant.topics.contains_key(&exchange);
        if full {
            return Err(AdminError::Limit("topic permissions", GRANTS_MAX));
        }
        Ok(Put::of(&grant.topics.insert(exchange, keys.into())))
    }

    fn grant(&mut self, user: &str, vhost: &str) -> Result<&mut Grant, AdminError> {
        if !self.users.contains_key(user) {
            return Err(AdminError::NoUser(user.into()));
        }
        let grants = self.grants.entry(vhost.into()).or_default();
        if grants.len() >= GRANTS_MAX && !grants.contains_key(user) {
            return Err(AdminError::Limit("permissions", GRANTS_MAX));
        }
        Ok(grants.entry(user.into()).or_default())
    }

    /// Takes a user's permission in a virtual host away. Tells whether it had one.
    pub fn delete_permission(&mut self, vhost: &str, user: &str) -> bool {
        let mut had = false;
        self.trim(vhost, user, |grant| had = grant.permission.take().is_some());
        had
    }

    /// Lifts restrictions of a user's routing keys, of one exchange or of all. Gives the exchanges.
    pub fn delete_topic_permissions(
        &mut self,
        vhost: &str,
        user: &str,
        exchange: Option<&str>,
    ) -> Vec<String> {
        let mut lifted = Vec::new();
        self.trim(vhost, user, |grant| {
            grant.topics.retain(|name, _| {
                let lift = exchange.is_none_or(|exchange| exchange == name);
                if lift {
                    lifted.push(name.clone());
                }
                !lift
            });
        });
        lifted
    }

    fn trim(&mut self, vhost: &str, user: &str, change: impl FnOnce(&mut Grant)) {
        let Some(grants) = self.grants.get_mut(vhost) else {
            return;
        };
        let Some(grant) = grants.get_mut(user) else {
            return;
        };
        change(grant);
        if grant.is_empty() {
            grants.remove(user);
        }
        if grants.is_empty() {
            self.grants.remove(vhost);
        }
    }

    /// Removes everything anybody may do in a virtual host.
    pub fn forget_vhost(&mut self, vhost: &str) {
        self.grants.remove(vhost);
    }

    /// All permissions, by virtual host and user.
    pub fn permissions(&self) -> impl Iterator<Item = &Permission> {
        let grants = self.grants.values().flat_map(BTreeMap::values);
        grants.filter_map(|grant| Some(&grant.permission.as_ref()?.given))
    }

    /// All topic permissions, by virtual host, user and exchange.
    pub fn topic_permissions(&self) -> impl Iterator<Item = &TopicPermission> {
        let grants = self.grants.values().flat_map(BTreeMap::values);
        grants.flat_map(|grant| grant.topics.values().map(|keys| &keys.given))
    }

    /// The permissions behind this user's in this virtual host, in the same order.
    pub fn permissions_after(&self, vhost: &str, user: &str) -> impl Iterator<Item = &Permission> {
        let grants = self.grants_after(vhost, user);
        grants.filter_map(|grant| Some(&grant.permission.as_ref()?.given))
    }

    /// The topic permissions behind this one, in the same order.
    pub fn topic_permissions_after(
        &self,
        vhost: &str,
        user: &str,
        exchange: &str,
    ) -> impl Iterator<Item = &TopicPermission> {
        let same = self.grant_of(vhost, user);
        let same = same.map(|grant| grant.topics.range::<str, _>(behind(exchange)));
        let later = self.grants_after(vhost, user);
        let later = later.flat_map(|grant| grant.topics.values());
        let same = same.into_iter().flatten();
        let all = same.map(|(_, keys)| keys).chain(later);
        all.map(|keys| &keys.given)
    }

    fn grants_after(&self, vhost: &str, user: &str) -> impl Iterator<Item = &Grant> {
        let same = self.grants.get(vhost);
        let same = same.map(|users| users.range::<str, _>(behind(user)));
        let later = self.grants.range::<str, _>(behind(vhost));
        let later = later.flat_map(|(_, users)| users);
        let all = same.into_iter().flatten().chain(later);
        all.map(|(_, grant)| grant)
    }

    /// A user's permission in a virtual host.
    #[must_use]
    pub fn permission(&self, vhost: &str, user: &str) -> Option<&Permission> {
        let names = self.grant_of(vhost, user)?.permission.as_ref()?;
        Some(&names.given)
    }

    fn grant_of(&self, vhost: &str, user: &str) -> Option<&Grant> {
        self.grants.get(vhost)?.get(user)
    }

    /// Whether a user may enter a virtual host.
    #[must_use]
    pub fn may_enter(&self, vhost: &str, user: &str) -> bool {
        self.permission(vhost, user).is_some()
    }

    /// Whether a user has a kind of access to the exchange or queue `name`; the default exchange
    /// is `amq.default`.
    #[must_use]
    pub fn may(&self, vhost: &str, user: &str, right: Right, name: &str) -> bool {
        let names = self
            .grant_of(vhost, user)
            .and_then(|grant| grant.permission.as_ref());
        let name = if name.is_empty() { "amq.default" } else { name };
        names.is_some_and(|names| self.patterns.matches(names.of(right), name))
    }

    /// Whether a user may use a routing key with a topic exchange.
    #[must_use]
    pub fn may_use_key(&self, right: Right, used: &KeyUse<'_>) -> bool {
        let grant = self.grant_of(used.vhost, used.user);
        let keys = grant.and_then(|grant| grant.topics.get(used.exchange));
        keys.is_none_or(|keys| {
            let key = String::from_utf8_lossy(used.key);
            self.patterns.matches(keys.of(right), &key)
        })
    }

    /// Whether any of a user's routing keys are restricted with a topic exchange.
    #[must_use]
    pub fn has_topic_permission(&self, vhost: &str, user: &str, exchange: &str) -> bool {
        self.grant_of(vhost, user)
            .is_some_and(|grant| grant.topics.contains_key(exchange))
    }

    /// Whether a user may log in from where it is.
    #[must_use]
    pub fn may_log_in_from(&self, user: &str, loopback: bool) -> bool {
        loopback || !self.loopback_only.iter().any(|name| name == user)
    }
}

fn is_slow(user: &User) -> bool {
    let password = user.password.as_ref();
    password.is_some_and(|password| password.hashing().is_slow())
}

/// All names after this one.
const fn behind(name: &str) -> (Bound<&str>, Bound<&str>) {
    (Bound::Excluded(name), Bound::Unbounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let mut access = Access::new(vec!["guest".into()]);
        for name in ["guest", "app"] {
            let user = User {
                name: name.into(),
                password: None,
                tags: Vec::new(),
                limits: UserLimits::default(),
            };
            assert_eq!(access.put_user(user.clone()), Ok(Put::Created));
            assert_eq!(access.put_user(user), Ok(Put::Updated));
        }
        access
    }

    #[test]
    fn permissions_are_per_user_and_vhost() {
        let mut access = access();
        let created = access.put_permission(Permission::full("app", "/"));
        assert_eq!(created, Ok(Put::Created));
        assert!(access.may("/", "app", Right::Read, "q"));
        assert!(access.may("/", "app", Right::Write, ""));
        assert!(!access.may("/", "guest", Right::Read, "q"));
        assert!(!access.may("other", "app", Right::Read, "q"));
        assert!(access.may_enter("/", "app") && !access.may_enter("/", "guest"));
        let nobody = access.put_permission(Permission::full("nobody", "/"));
        assert_eq!(nobody, Err(AdminError::NoUser("nobody".into())));
        assert!(access.delete_permission("/", "app"));
        assert!(!access.delete_permission("/", "app"));
        assert!(!access.may_enter("/", "app"));
        assert!(access.grants.is_empty());
    }

    #[test]
    fn topic_permissions_restrict_only_what_they_name() {
        let mut access = access();
        let permission = TopicPermission {
            user: "app".into(),
            vhost: "/".into(),
            exchange: "events".into(),
            write: "^app\\.".into(),
            read: String::new(),
        };
        assert_eq!(access.put_topic_permission(permission), Ok(Put::Created));
        let may = |access: &Access, exchange: &str, right, key: &[u8]| {
            let used = KeyUse {
                vhost: "/",
                user: "app",
                exchange,
                key,
            };
            access.may_use_key(right, &used)
        };
        assert!(may(&access, "events", Right::Write, b"app.created"));
        assert!(!may(&access, "events", Right::Write, b"other.created"));
        assert!(!may(&access, "events", Right::Read, b"app.created"));
        assert!(may(&access, "others", Right::Read, b"app.created"));
        assert_eq!(
            access.delete_topic_permissions("/", "app", None),
            ["events"]
        );
        assert!(may(&access, "events", Right::Read, b"app.created"));
    }

    #[test]
    fn nothing_outlives_its_user_or_vhost() {
        let mut access = access();
        for vhost in ["/", "a"] {
            access
                .put_permission(Permission::full("app", vhost))
                .unwrap();
            access
                .put_permission(Permission::full("guest", vhost))
                .unwrap();
        }
        access.forget_vhost("a");
        assert_eq!(access.permissions().count(), 2);
        assert!(access.delete_user("app"));
        assert!(!access.delete_user("app"));
        assert_eq!(access.permissions().count(), 1);
    }

    #[test]
    fn guest_logs_in_from_here_only() {
        let access = access();
        assert!(access.may_log_in_from("guest", true));
        assert!(!access.may_log_in_from("guest", false));
        assert!(access.may_log_in_from("app", false));
    }
}
