//! Why a change of users, permissions, virtual hosts, policies or parameters is refused.

use std::fmt;

/// A refused change. Its text is the reason an administrator is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminError {
    /// No such user.
    NoUser(String),
    /// No such virtual host.
    NoVhost(String),
    /// No such permission, policy, parameter or limit.
    Missing,
    /// A value that cannot be accepted, in RabbitMQ's words.
    Invalid(String),
    /// A pattern that cannot be compiled.
    Pattern {
        /// As it was given.
        pattern: String,
        /// Why.
        reason: String,
    },
    /// The virtual host is protected from deletion.
    Protected(String),
    /// So many exist already: what, and how many.
    Limit(&'static str, usize),
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUser(name) => write!(f, "no such user: {name}"),
            Self::NoVhost(name) => write!(f, "no such vhost: {name}"),
            Self::Missing => f.write_str("Not Found"),
            Self::Invalid(text) => f.write_str(text),
            Self::Pattern { pattern, reason } => {
                write!(f, "invalid regular expression '{pattern}': {reason}")
            }
            Self::Protected(vhost) => write!(
                f,
                "Refusing to delete virtual host '{vhost}' because it is protected from deletion"
            ),
            Self::Limit(what, max) => write!(f, "limit of {what} ({max}) is reached"),
        }
    }
}

impl std::error::Error for AdminError {}
