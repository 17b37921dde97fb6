//! Changes of users and permissions.

use leveret_access::{AdminError, Permission, Put, TopicPermission, User, UserLimits};
use serde_json::Value;

use super::Admin;
use crate::topology::DurableKind;

impl Admin<'_> {
    /// Adds a user, or replaces it.
    ///
    /// # Errors
    /// When its name cannot be, or there are too many.
    pub fn put_user(&mut self, user: User) -> Result<Put, AdminError> {
        self.claim(("user", &[&user.name]), &user)?;
        let put = self.broker.access.write().put_user(user.clone())?;
        self.permissions_changed();
        self.keep(DurableKind::User, &[&user.name], &user);
        Ok(put)
    }

    /// Sets one of a user's limits.
    ///
    /// # Errors
    /// When there is no such user or limit, or the value is no integer.
    pub fn set_user_limit(
        &mut self,
        user: &str,
        limit: &str,
        value: &Value,
    ) -> Result<(), AdminError> {
        self.change_user_limits(user, |limits| limits.set(limit, value))
    }

    /// Takes one of a user's limits away.
    ///
    /// # Errors
    /// When there is no such user or limit.
    pub fn clear_user_limit(&mut self, user: &str, limit: &str) -> Result<(), AdminError> {
        self.change_user_limits(user, |limits| match limits.clear(limit) {
            true => Ok(()),
            false => Err(AdminError::Missing),
        })
    }

    fn change_user_limits(
        &mut self,
        user: &str,
        change: impl FnOnce(&mut UserLimits) -> Result<(), AdminError>,
    ) -> Result<(), AdminError> {
        let mut changed = self.existing_user(user)?;
        change(&mut changed.limits)?;
        self.put_user(changed)?;
        Ok(())
    }

    fn existing_user(&self, user: &str) -> Result<User, AdminError> {
        self.broker
            .user(user)
            .ok_or_else(|| AdminError::NoUser(user.into()))
    }

    /// Removes a user with its permissions, and closes its connections.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn delete_user(&mut self, name: &str) -> Result<(), AdminError> {
        self.existing_user(name)?;
        let mut access = self.broker.access.write();
        let permissions: Vec<_> = access
            .permissions()
            .filter(|permission| permission.user == name)
            .map(|permission| permission.vhost.clone())
            .collect();
        let topics: Vec<_> = access
            .topic_permissions()
            .filter(|permission| permission.user == name)
            .map(|permission| (permission.vhost.clone(), permission.exchange.clone()))
            .collect();
        access.delete_user(name);
        drop(access);
        self.permissions_changed();
        for vhost in permissions {
            self.forget(DurableKind::Permission, &[&vhost, name]);
        }
        for (vhost, exchange) in topics {
            self.forget(DurableKind::TopicPermission, &[&vhost, name, &exchange]);
        }
        self.forget(DurableKind::User, &[name]);
        self.broker
            .close_peers(&format!("user '{name}' is deleted"), |peer| {
                *peer.client.user.lock() == name
            });
        Ok(())
    }

    /// Gives a user its permission in a virtual host.
    ///
    /// # Errors
    /// When the user or virtual host does not exist or a pattern cannot be compiled.
    pub fn put_permission(&mut self, permission: Permission) -> Result<Put, AdminError> {
        self.existing_vhost(&permission.vhost)?;
        let names = [&*permission.vhost, &*permission.user];
        self.claim(("permission of", &names), &permission)?;
        let put = self
            .broker
            .access
            .write()
            .put_permission(permission.clone())?;
        self.permissions_changed();
        let names = [&*permission.vhost, &*permission.user];
        self.keep(DurableKind::Permission, &names, &permission);
        Ok(put)
    }

    /// Takes a user's permission in a virtual host away.
    ///
    /// # Errors
    /// When it has none.
    pub fn delete_permission(&mut self, vhost: &str, user: &str) -> Result<(), AdminError> {
        if !self.broker.access.write().delete_permission(vhost, user) {
            return Err(AdminError::Missing);
        }
        self.permissions_changed();
        self.forget(DurableKind::Permission, &[vhost, user]);
        Ok(())
    }

    /// Restricts a user's routing keys with a topic exchange.
    ///
    /// # Errors
    /// When the user or virtual host does not exist or a pattern cannot be compiled.
    pub fn put_topic_permission(&mut self, permission: TopicPermission) -> Result<Put, AdminError> {
        self.existing_vhost(&permission.vhost)?;
        let names = [&*permission.vhost, &*permission.exchange, &*permission.user];
        self.claim(("topic permission of", &names), &permission)?;
        let put = self
            .broker
            .access
            .write()
            .put_topic_permission(permission.clone())?;
        self.permissions_changed();
        let TopicPermission {
            user,
            vhost,
            exchange,
            ..
        } = &permission;
        self.keep(
            DurableKind::TopicPermission,
            &[vhost, user, exchange],
            &permission,
        );
        Ok(put)
    }

    /// Lifts restrictions of a user's routing keys, of one exchange or of all.
    ///
    /// # Errors
    /// When there were none.
    pub fn delete_topic_permissions(
        &mut self,
        vhost: &str,
        user: &str,
        exchange: Option<&str>,
    ) -> Result<(), AdminError> {
        let mut access = self.broker.access.write();
        let lifted = access.delete_topic_permissions(vhost, user, exchange);
        drop(access);
        if lifted.is_empty() {
            return Err(AdminError::Missing);
        }
        self.permissions_changed();
        for exchange in lifted {
            self.forget(DurableKind::TopicPermission, &[vhost, user, &exchange]);
        }
        Ok(())
    }
}
