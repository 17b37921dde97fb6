//! What users may do in a virtual host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::AdminError;
use crate::pattern::{Pattern, escaped};

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

/// What one user may do in one virtual host, compiled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grant {
    /// Without one the user may not enter.
    pub(crate) permission: Option<GrantPatterns>,
    /// By exchange. One that is not there is not restricted.
    pub(crate) topics: BTreeMap<String, Keys>,
}

impl Grant {
    pub(crate) fn is_empty(&self) -> bool {
        self.permission.is_none() && self.topics.is_empty()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct GrantPatterns {
    pub(crate) given: Permission,
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

impl GrantPatterns {
    pub(crate) fn compile(given: Permission) -> Result<Self, AdminError> {
        Ok(Self {
            configure: pattern(&given.configure)?,
            write: pattern(&given.write)?,
            read: pattern(&given.read)?,
            given,
        })
    }

    pub(crate) fn allow(&self, right: Right, name: &str) -> bool {
        match right {
            Right::Configure => &self.configure,
            Right::Write => &self.write,
            Right::Read => &self.read,
        }
        .matches(name)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) given: TopicPermission,
    write: Pattern,
    read: Pattern,
}

impl Keys {
    pub(crate) fn compile(given: TopicPermission) -> Result<Self, AdminError> {
        let expand = |text: &str| {
            let text = text.replace("{username}", &escaped(&given.user));
            let text = text.replace("{vhost}", &escaped(&given.vhost));
            // AMQP clients have no client id, so the variable stands for itself, as in RabbitMQ.
            pattern(&text.replace("{client_id}", r"\{client_id\}"))
        };
        Ok(Self {
            write: expand(&given.write)?,
            read: expand(&given.read)?,
            given,
        })
    }

    pub(crate) fn allow(&self, right: Right, key: &[u8]) -> bool {
        let pattern = match right {
            Right::Read => &self.read,
            Right::Write | Right::Configure => &self.write,
        };
        pattern.matches(&String::from_utf8_lossy(key))
    }
}

fn pattern(text: &str) -> Result<Pattern, AdminError> {
    Pattern::of_permission(text).map_err(|reason| AdminError::Pattern {
        pattern: text.into(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_allowed_by_their_own_pattern() {
        let names = GrantPatterns::compile(Permission {
            configure: "^mine-".into(),
            write: String::new(),
            ..Permission::full("u", "/")
        })
        .unwrap();
        assert!(names.allow(Right::Configure, "mine-1"));
        assert!(!names.allow(Right::Configure, "not-mine-1"));
        assert!(!names.allow(Right::Write, "mine-1"));
        assert!(names.allow(Right::Read, "anything"));
        let broken = Permission {
            read: "(".into(),
            ..Permission::full("u", "/")
        };
        assert!(matches!(
            GrantPatterns::compile(broken),
            Err(AdminError::Pattern { .. })
        ));
    }

    #[test]
    fn topic_patterns_know_user_and_vhost() {
        let keys = Keys::compile(TopicPermission {
            user: "a.b".into(),
            vhost: "/".into(),
            exchange: "events".into(),
            write: "^{username}\\.".into(),
            read: "^{vhost}-{client_id}$".into(),
        })
        .unwrap();
        assert!(keys.allow(Right::Write, b"a.b.created"));
        assert!(!keys.allow(Right::Write, b"axb.created"));
        assert!(keys.allow(Right::Read, b"/-{client_id}"));
        assert!(!keys.allow(Right::Read, b"/-me"));
    }
}
