//! What a user is about to do, checked: the same for a channel and for the HTTP API.

use leveret_access::{KeyUse, Right};
use leveret_codec::Table;
use leveret_router::ExchangeKind;

use crate::broker::Broker;
use crate::context::refusal::Refusal;
use crate::vhost::Vhost;

/// What a permission is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// By the name of an exchange.
    Exchange(&'a str),
    /// By the name of a queue.
    Queue(&'a str),
}

impl<'a> Resource<'a> {
    /// Its kind and name as refusals show them.
    fn shown(self) -> (&'static str, &'a str) {
        match self {
            // The default exchange goes by another name here.
            Self::Exchange("") => ("exchange", "amq.default"),
            Self::Exchange(name) => ("exchange", name),
            Self::Queue(name) => ("queue", name),
        }
    }
}

/// A user at work in a virtual host. Each check is to be made before the object is looked up: what
/// nobody may use, nobody can look for.
#[derive(Clone, Copy)]
pub struct Acting<'a> {
    /// Who knows the permissions.
    pub broker: &'a Broker,
    /// The virtual host.
    pub vhost: &'a Vhost,
    /// Who acts, by name.
    pub user: &'a str,
}

impl Acting<'_> {
    /// One kind of access to one exchange or queue.
    ///
    /// # Errors
    /// 403 when the user has no permission for it.
    pub fn check(&self, right: Right, resource: Resource<'_>) -> Result<(), Refusal> {
        let (kind, name) = resource.shown();
        let access = self.broker.access.read();
        if access.may(&self.vhost.name, self.user, right, name) {
            return Ok(());
        }
        Err(Refusal::Denied(format!(
            "{} access to {kind} '{name}' in vhost '{}' refused for user '{}'",
            right.name(),
            self.vhost.name,
            self.user
        )))
    }

    /// Any kind of access, for asking whether something exists.
    ///
    /// # Errors
    /// 403 when the user has no permission for it.
    pub fn check_any(&self, resource: Resource<'_>) -> Result<(), Refusal> {
        let rights = [Right::Read, Right::Write];
        if rights
            .iter()
            .any(|right| self.check(*right, resource).is_ok())
        {
            return Ok(());
        }
        self.check(Right::Configure, resource)
    }

    /// A routing key (to write) or binding key (to read) of a topic exchange. Another exchange, or
    /// one that does not exist, is not restricted.
    ///
    /// # Errors
    /// 403 when the key is not among the user's.
    pub fn check_key(&self, right: Right, exchange: &str, key: &[u8]) -> Result<(), Refusal> {
        let used = KeyUse {
            vhost: &self.vhost.name,
            user: self.user,
            exchange,
            key,
        };
        if self.broker.access.read().may_use_key(right, &used) {
            return Ok(());
        }
        let directory = self.vhost.directory.read();
        let found = directory.router.exchange(exchange);
        if found.is_none_or(|found| found.spec().kind != ExchangeKind::Topic) {
            return Ok(());
        }
        Err(Refusal::Denied(format!(
            "{} access to topic '{}' in exchange '{exchange}' in vhost '{}' refused for user '{}'",
            right.name(),
            String::from_utf8_lossy(key),
            self.vhost.name,
            self.user
        )))
    }

    /// `queue.declare`, not passive. Dead letters are taken from the queue and put into the
    /// exchange in the user's name.
    ///
    /// # Errors
    /// 403 when a permission is missing.
    pub fn declare_queue(&self, name: &str, arguments: &Table) -> Result<(), Refusal> {
        self.check(Right::Configure, Resource::Queue(name))?;
        match text(arguments, b"x-dead-letter-exchange") {
            Some(exchange) if self.vhost.queue(name).is_none() => {
                self.check(Right::Read, Resource::Queue(name))?;
                self.check(Right::Write, Resource::Exchange(exchange))
            }
            _ => Ok(()),
        }
    }

    /// `exchange.declare`, not passive. What is unroutable goes to the alternate exchange in the
    /// user's name.
    ///
    /// # Errors
    /// 403 when a permission is missing.
    pub fn declare_exchange(&self, name: &str, arguments: &Table) -> Result<(), Refusal> {
        self.configure_exchange(name)?;
        match text(arguments, b"alternate-exchange") {
            Some(alternate) if self.vhost.directory.read().router.exchange(name).is_none() => {
                self.check(Right::Read, Resource::Exchange(name))?;
                self.check(Right::Write, Resource::Exchange(alternate))
            }
            _ => Ok(()),
        }
    }

    /// `exchange.delete`.
    ///
    /// # Errors
    /// 403 when the permission is missing, or for an exchange that every virtual host has.
    pub fn delete_exchange(&self, name: &str) -> Result<(), Refusal> {
        if name.starts_with("amq.") {
            return Err(Refusal::SystemExchange(name.into()));
        }
        self.configure_exchange(name)
    }

    fn configure_exchange(&self, name: &str) -> Result<(), Refusal> {
        if name.is_empty() {
            return Err(Refusal::DefaultExchange);
        }
        self.check(Right::Configure, Resource::Exchange(name))
    }

    /// Binding and unbinding: write on the destination, read on the source, and its key.
    ///
    /// # Errors
    /// 403 when a permission is missing, or for the default exchange.
    pub fn bind(&self, source: &str, destination: Resource<'_>, key: &[u8]) -> Result<(), Refusal> {
        if source.is_empty() || destination == Resource::Exchange("") {
            return Err(Refusal::DefaultExchange);
        }
        self.check(Right::Write, destination)?;
        self.check(Right::Read, Resource::Exchange(source))?;
        self.check_key(Right::Read, source, key)
    }

    /// `basic.publish` of one message: the exchange, and each routing key.
    ///
    /// # Errors
    /// 403 when a permission is missing.
    pub fn publish(&self, exchange: &str, keys: &[&[u8]]) -> Result<(), Refusal> {
        self.check(Right::Write, Resource::Exchange(exchange))?;
        keys.iter()
            .try_for_each(|key| self.check_key(Right::Write, exchange, key))
    }

    /// The property `user-id`: the user's own, or anybody's for an impersonator.
    ///
    /// # Errors
    /// 406 for another user.
    pub fn check_user_id(&self, user: &[u8]) -> Result<(), Refusal> {
        let impersonates = |user: &leveret_access::User| user.has_tag(leveret_access::IMPERSONATOR);
        let access = self.broker.access.read();
        if user == self.user.as_bytes() || access.user(self.user).is_some_and(impersonates) {
            return Ok(());
        }
        Err(Refusal::Precondition(format!(
            "user_id property set to '{}' but authenticated user was '{}'",
            String::from_utf8_lossy(user),
            self.user
        )))
    }
}

fn text<'a>(arguments: &'a Table, key: &[u8]) -> Option<&'a str> {
    let bytes = arguments.get(key)?.as_str_bytes()?;
    std::str::from_utf8(bytes).ok()
}
