//! Connections and channels in use, by virtual host and by user: what their limits are compared
//! with.

use std::collections::HashMap;

use crate::{UserLimits, VhostLimits};

/// A limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Connections of the virtual host.
    Vhost(u64),
    /// Connections of the user.
    User(u64),
}

/// What is in use.
#[derive(Debug, Default)]
pub struct Uses {
    vhosts: HashMap<String, u64>,
    users: HashMap<String, OfUser>,
}

#[derive(Clone, Copy, Debug, Default)]
struct OfUser {
    connections: u64,
    channels: u64,
}

impl Uses {
    /// Counts a connection, unless a limit is reached.
    ///
    /// # Errors
    /// The limit.
    pub fn enter(
        &mut self,
        vhost: &str,
        user: &str,
        (vhost_limits, user_limits): (VhostLimits, UserLimits),
    ) -> Result<(), Reached> {
        let in_vhost = self.vhosts.get(vhost).copied().unwrap_or_default();
        reached(vhost_limits.max_connections, in_vhost)
            .map_or(Ok(()), |max| Err(Reached::Vhost(max)))?;
        let of_user = self
            .users
            .get(user)
            .copied()
            .unwrap_or_default()
            .connections;
        reached(user_limits.max_connections, of_user)
            .map_or(Ok(()), |max| Err(Reached::User(max)))?;
        *self.vhosts.entry(vhost.into()).or_default() += 1;
        self.users.entry(user.into()).or_default().connections += 1;
        Ok(())
    }

    /// A connection that was counted has ended.
    pub fn leave(&mut self, vhost: &str, user: &str) {
        if let Some(count) = self.vhosts.get_mut(vhost) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.vhosts.remove(vhost);
            }
        }
        if let Some(of_user) = self.users.get_mut(user) {
            of_user.connections = of_user.connections.saturating_sub(1);
        }
        self.forget(user);
    }

    /// Counts a channel, unless the user's limit is reached.
    ///
    /// # Errors
    /// The limit.
    pub fn open_channel(&mut self, user: &str, limits: UserLimits) -> Result<(), u64> {
        let of_user = self.users.entry(user.into()).or_default();
        if let Some(max) = reached(limits.max_channels, of_user.channels) {
            return Err(max);
        }
        of_user.channels += 1;
        Ok(())
    }

    /// A channel that was counted has ended.
    pub fn close_channel(&mut self, user: &str) {
        if let Some(of_user) = self.users.get_mut(user) {
            of_user.channels = of_user.channels.saturating_sub(1);
        }
        self.forget(user);
    }

    fn forget(&mut self, user: &str) {
        let unused = |of_user: &OfUser| of_user.connections == 0 && of_user.channels == 0;
        if self.users.get(user).is_some_and(unused) {
            self.users.remove(user);
        }
    }
}

/// The limit, if one more is over it. A negative limit is none.
#[must_use]
pub fn reached(limit: Option<i64>, count: u64) -> Option<u64> {
    let limit = limit.and_then(|limit| u64::try_from(limit).ok())?;
    (count >= limit).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_count_what_is_open_and_forget_what_is_not() {
        let mut uses = Uses::default();
        let vhost = VhostLimits {
            max_connections: Some(2),
            ..VhostLimits::default()
        };
        let user = UserLimits {
            max_connections: Some(1),
            max_channels: Some(1),
        };
        assert_eq!(uses.enter("v", "a", (vhost, user)), Ok(()));
        assert_eq!(uses.enter("v", "a", (vhost, user)), Err(Reached::User(1)));
        assert_eq!(uses.enter("v", "b", (vhost, user)), Ok(()));
        assert_eq!(uses.enter("v", "c", (vhost, user)), Err(Reached::Vhost(2)));
        assert_eq!(uses.open_channel("a", user), Ok(()));
        assert_eq!(uses.open_channel("a", user), Err(1));
        uses.close_channel("a");
        assert_eq!(uses.open_channel("a", user), Ok(()));
        uses.close_channel("a");
        uses.leave("v", "a");
        uses.leave("v", "b");
        assert!(uses.vhosts.is_empty() && uses.users.is_empty());
    }

    #[test]
    fn zero_forbids_and_a_negative_limit_is_none() {
        assert_eq!(reached(Some(0), 0), Some(0));
        assert_eq!(reached(Some(-1), u64::MAX), None);
        assert_eq!(reached(None, u64::MAX), None);
    }
}
