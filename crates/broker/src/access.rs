//! Who may log in.

use std::collections::BTreeMap;

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

/// Users and their passwords.
#[derive(Clone, Default)]
pub struct Access {
    passwords: BTreeMap<String, String>,
    loopback_only: Vec<String>,
}

impl Access {
    /// Nobody may log in yet. Users in `loopback_only` may do so from the broker's machine only.
    #[must_use]
    pub const fn new(loopback_only: Vec<String>) -> Self {
        Self {
            passwords: BTreeMap::new(),
            loopback_only,
        }
    }

    /// Adds a user.
    pub fn add(&mut self, user: impl Into<String>, password: impl Into<String>) {
        self.passwords.insert(user.into(), password.into());
    }

    /// Checks credentials.
    ///
    /// # Errors
    /// Why the login is refused; clients are told only that it is.
    pub fn login(&self, user: &str, password: &[u8], loopback: bool) -> Result<(), Denied> {
        // An unknown user costs the same comparison as a known one.
        let expected = self.passwords.get(user).map_or("", String::as_str);
        let same = same_bytes(expected.as_bytes(), password);
        if !same || !self.passwords.contains_key(user) {
            return Err(Denied::Credentials);
        }
        if !loopback && self.loopback_only.iter().any(|name| name == user) {
            return Err(Denied::NotLoopback);
        }
        Ok(())
    }
}

/// Compares without stopping at the first difference.
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_logs_in_and_guest_only_from_here() {
        let mut access = Access::new(vec!["guest".into()]);
        access.add("guest", "guest");
        access.add("app", "s3cret");
        assert_eq!(access.login("guest", b"guest", true), Ok(()));
        assert_eq!(
            access.login("guest", b"guest", false),
            Err(Denied::NotLoopback)
        );
        assert_eq!(access.login("app", b"s3cret", false), Ok(()));
        assert_eq!(
            access.login("app", b"s3cre", true),
            Err(Denied::Credentials)
        );
        assert_eq!(access.login("app", b"", true), Err(Denied::Credentials));
        assert_eq!(access.login("nobody", b"", true), Err(Denied::Credentials));
    }
}
