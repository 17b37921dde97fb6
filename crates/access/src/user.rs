//! A user: password, tags and limits.

use serde::{Deserialize, Serialize};

use crate::password::{Hashing, PasswordHash};
use crate::{AdminError, UserLimits};

/// May publish messages that name another user.
pub const IMPERSONATOR: &str = "impersonator";
/// May do everything over HTTP.
pub const ADMINISTRATOR: &str = "administrator";

/// Somebody who may log in: what is known of them but for their permissions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Exchanged", into = "Exchanged")]
pub struct User {
    /// Unique, and what it logs in with.
    pub name: String,
    /// Its password; without one it cannot log in with a password.
    pub password: Option<PasswordHash>,
    /// Tags, kept as given.
    pub tags: Vec<String>,
    /// How many connections and channels it may have.
    pub limits: UserLimits,
}

impl User {
    /// Whether the user has a tag.
    #[must_use]
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }
}

/// A user as RabbitMQ's definitions files have it.
#[derive(Serialize, Deserialize)]
struct Exchanged {
    name: String,
    #[serde(default)]
    password_hash: String,
    #[serde(default)]
    hashing_algorithm: Hashing,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    limits: UserLimits,
}

impl From<User> for Exchanged {
    fn from(user: User) -> Self {
        let hash = user.password.as_ref();
        Self {
            password_hash: hash.map(PasswordHash::to_base64).unwrap_or_default(),
            hashing_algorithm: hash.map(PasswordHash::hashing).unwrap_or_default(),
            name: user.name,
            tags: user.tags,
            limits: user.limits,
        }
    }
}

impl TryFrom<Exchanged> for User {
    type Error = AdminError;

    fn try_from(user: Exchanged) -> Result<Self, AdminError> {
        let hash = user.password_hash;
        let password = (!hash.is_empty())
            .then(|| PasswordHash::from_base64(user.hashing_algorithm, &hash))
            .transpose()?;
        Ok(Self {
            name: user.name,
            password,
            tags: user.tags,
            limits: user.limits,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn users_have_rabbitmqs_form() {
        let json = json!({
            "name": "guest",
            "password_hash": "9/1i+jKFRpbTRV1PtRnzFFYibT3cEpP92JeZ8YKGtflf4e/u",
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": ["administrator", "custom"],
            "limits": {"max-connections": 3},
        });
        let user: User = from_value(json.clone()).unwrap();
        assert!(user.has_tag(ADMINISTRATOR) && !user.has_tag(IMPERSONATOR));
        assert_eq!(to_value(&user).unwrap(), json);
        let without: User = from_value(json!({"name": "x", "password_hash": ""})).unwrap();
        assert_eq!(without.password, None);
        assert!(from_value::<User>(json!({"name": "x", "password_hash": "!"})).is_err());
    }
}
