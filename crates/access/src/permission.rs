//! What users may do in a virtual host.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::AdminError;
use crate::pattern::escaped;
use crate::patterns::{Granted, Patterns};

/// A kind of access to an exchange or a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Declare and delete.
    Configure,
    /// Publish to an exchange, bind to a destination.
    Write,
    /// Consume from a queue, bind from a source.
    Read,
}

impl Right {
    /// Its name in a refusal.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// A routing key that somebody would use with a topic exchange.
#[derive(Clone, Copy, Debug)]
pub struct KeyUse<'a> {
    /// Where the exchange is.
    pub vhost: &'a str,
    /// Who would.
    pub user: &'a str,
    /// The topic exchange.
    pub exchange: &'a str,
    /// The routing key, or a binding's pattern.
    pub key: &'a [u8],
}

/// Which names of exchanges and queues a user has which access to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// Whose it is.
    pub user: String,
    /// The virtual host.
    pub vhost: String,
    /// Pattern of names to declare and delete; an empty one allows nothing.
    pub configure: String,
    /// Pattern of names to publish to and bind to.
    pub write: String,
    /// Pattern of names to consume from and bind from.
    pub read: String,
}

impl Permission {
    /// Everything in a virtual host.
    #[must_use]
    pub fn full(user: &str, vhost: &str) -> Self {
        Self {
            user: user.into(),
            vhost: vhost.into(),
            configure: ".*".into(),
            write: ".*".into(),
            read: ".*".into(),
        }
    }
}

/// Which routing keys a user may use with a topic exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPermission {
    /// Whose it is.
    pub user: String,
    /// The virtual host.
    pub vhost: String,
    /// The topic exchange whose keys it restricts.
    pub exchange: String,
    /// Pattern of routing keys to publish with; `{username}` and `{vhost}` stand for the names.
    pub write: String,
    /// Pattern of binding keys to bind with.
    pub read: String,
}

/// What one user may do in one virtual host, with its patterns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grant {
    /// Without one the user may not enter.
    pub(crate) permission: Option<GrantPatterns>,
    /// By exchange. One that is not there is not restricted. Boxed, as a map of one has room for
    /// eleven.
    pub(crate) topics: BTreeMap<String, Box<Keys>>,
}

impl Grant {
    pub(crate) fn is_empty(&self) -> bool {
        self.permission.is_none() && self.topics.is_empty()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct GrantPatterns {
    pub(crate) given: Permission,
    configure: Arc<Granted>,
    write: Arc<Granted>,
    read: Arc<Granted>,
}

impl GrantPatterns {
    pub(crate) fn new(given: Permission, patterns: &Patterns) -> Result<Self, AdminError> {
        Ok(Self {
            configure: patterns.grant(&given.configure)?,
            write: patterns.grant(&given.write)?,
            read: patterns.grant(&given.read)?,
            given,
        })
    }

    pub(crate) const fn of(&self, right: Right) -> &Arc<Granted> {
        match right {
            Right::Configure => &self.configure,
            Right::Write => &self.write,
            Right::Read => &self.read,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) given: TopicPermission,
    write: Arc<Granted>,
    read: Arc<Granted>,
}

impl Keys {
    pub(crate) fn new(given: TopicPermission, patterns: &Patterns) -> Result<Self, AdminError> {
        let expand = |text: &str| {
            let text = text.replace("{username}", &escaped(&given.user));
            let text = text.replace("{vhost}", &escaped(&given.vhost));
            // AMQP clients have no client id, so the variable stands for itself, as in RabbitMQ.
            patterns.grant(&text.replace("{client_id}", r"\{client_id\}"))
        };
        Ok(Self {
            write: expand(&given.write)?,
            read: expand(&given.read)?,
            given,
        })
    }

    pub(crate) const fn of(&self, right: Right) -> &Arc<Granted> {
        match right {
            Right::Read => &self.read,
            Right::Write | Right::Configure => &self.write,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_allowed_by_their_own_pattern() {
        let patterns = Patterns::default();
        let permission = Permission {
            configure: "^mine-".into(),
            write: String::new(),
            ..Permission::full("u", "/")
        };
        let names = GrantPatterns::new(permission, &patterns).unwrap();
        let allow = |right, name| patterns.matches(names.of(right), name);
        assert!(allow(Right::Configure, "mine-1"));
        assert!(!allow(Right::Configure, "not-mine-1"));
        assert!(!allow(Right::Write, "mine-1"));
        assert!(allow(Right::Read, "anything"));
        let broken = Permission {
            read: "(".into(),
            ..Permission::full("u", "/")
        };
        assert!(matches!(
            GrantPatterns::new(broken, &patterns),
            Err(AdminError::Pattern { .. })
        ));
    }

    #[test]
    fn topic_patterns_know_user_and_vhost() {
        let patterns = Patterns::default();
        let permission = TopicPermission {
            user: "a.b".into(),
            vhost: "/".into(),
            exchange: "events".into(),
            write: "^{username}\\.".into(),
            read: "^{vhost}-{client_id}$".into(),
        };
        let keys = Keys::new(permission, &patterns).unwrap();
        let allow = |right, key| patterns.matches(keys.of(right), key);
        assert!(allow(Right::Write, "a.b.created"));
        assert!(!allow(Right::Write, "axb.created"));
        assert!(allow(Right::Read, "/-{client_id}"));
        assert!(!allow(Right::Read, "/-me"));
    }
}
