//! Login and the choice of a virtual host.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_access::{Denied, Reached};
use leveret_codec::{ConnectionUpdateSecretOk, HardCode, RawTable, ValueRef};
use leveret_session::Fault;

use crate::connection::Core;
use crate::context::stats::Event;
use crate::vhost::Vhost;

/// Clients of this product change prefetch while they consume and expect it to take effect.
const LIVE_PREFETCH_PRODUCT: &[u8] = b"py-amqp";

/// A login that was refused.
#[derive(Clone, Debug)]
pub struct LoginRefusal {
    /// The user it named; empty if none could be made out.
    pub user: String,
    /// What the client calls the connection; empty if it gives it no name.
    pub client: String,
    /// Why.
    pub reason: Denied,
}

impl Core {
    /// Checks credentials.
    pub(crate) fn login(
        &mut self,
        client_properties: RawTable<'_>,
        mechanism: &[u8],
        response: &[u8],
    ) -> Result<(), Fault> {
        self.note_capabilities(client_properties);
        let (mechanism, user): (_, Arc<str>) = match self.check(mechanism, response) {
            Ok((mechanism, user)) => (mechanism, user.into()),
            Err((user, reason)) => {
                let client = client_properties.get(b"connection_name");
                let client = client.and_then(|name| name.as_str_bytes());
                self.refusal = Some(LoginRefusal {
                    user: user.into(),
                    client: String::from_utf8_lossy(client.unwrap_or_default()).into(),
                    reason,
                });
                self.login_refused = true;
                self.broker.events.count(Event::LoginRefused);
                return Err(refusal(reason, mechanism));
            }
        };
        *self.peer.client_properties.lock() = client_properties.to_table();
        *self.peer.user.lock() = user.to_string();
        let _ = self.peer.mechanism.set(mechanism);
        self.user = user;
        self.broker.events.count(Event::LoginAccepted);
        Ok(())
    }

    /// Whose login this is, and how; else whom it named, if anybody, and why it is refused.
    fn check<'a>(
        &'a self,
        mechanism: &[u8],
        response: &'a [u8],
    ) -> Result<(&'static str, &'a str), (&'a str, Denied)> {
        let by_password = |known: Result<(&'a str, &[u8]), Denied>| {
            let (user, password) = known.map_err(|reason| ("", reason))?;
            let allowed = self.broker.authenticate(user, password, self.peer.loopback);
            allowed.map(|_| user).map_err(|reason| (user, reason))
        };
        match mechanism {
            b"PLAIN" => Ok(("PLAIN", by_password(plain(response))?)),
            b"AMQPLAIN" => Ok(("AMQPLAIN", by_password(amqplain(response))?)),
            b"ANONYMOUS" => Ok(("ANONYMOUS", self.anonymous()?)),
            _ => Err(("", Denied::Mechanism)),
        }
    }

    /// The user of whoever gives no name: whatever the response is, it is not looked at.
    fn anonymous(&self) -> Result<&str, (&str, Denied)> {
        let user = self.broker.config.anonymous_user.as_deref();
        let user = user.ok_or(("", Denied::Mechanism))?;
        if self.broker.user(user).is_none() {
            return Err((user, Denied::Credentials));
        }
        let here = self.peer.loopback;
        if !self.broker.access.read().may_log_in_from(user, here) {
            return Err((user, Denied::NotLoopback));
        }
        Ok(user)
    }

    fn note_capabilities(&mut self, properties: RawTable<'_>) {
        let capable = |name: &str| match properties.get(b"capabilities") {
            Some(ValueRef::Table(capabilities)) => {
                capabilities
                    .get(name.as_bytes())
                    .and_then(|value| value.as_bool())
                    == Some(true)
            }
            _ => false,
        };
        self.tell_login_failure = capable("authentication_failure_close");
        self.peer
            .cancel_notify
            .store(capable("consumer_cancel_notify"), Ordering::Relaxed);
        self.peer
            .blocked_notify
            .store(capable("connection.blocked"), Ordering::Relaxed);
        let product = properties
            .get(b"product")
            .and_then(|value| value.as_str_bytes());
        self.live_prefetch = product == Some(LIVE_PREFETCH_PRODUCT);
    }

    /// `connection.update-secret`, which renews what expires: a password never does, so that any
    /// secret will do, as in RabbitMQ.
    pub(crate) fn update_secret(&mut self) {
        self.reply(0, ConnectionUpdateSecretOk {});
    }

    /// Enters a virtual host.
    pub(crate) fn open_vhost(&mut self, name: &[u8]) -> Result<(), Fault> {
        let refused = |text| Fault::connection(HardCode::NotAllowed, text, (10, 40));
        let Ok(name) = std::str::from_utf8(name) else {
            // No virtual host has such a name, not even one that is called as this is shown.
            let shown = String::from_utf8_lossy(name);
            return Err(refused(format!("vhost {shown} not found")));
        };
        // Before anything is checked: whoever deletes the virtual host now finds this connection.
        *self.peer.vhost.lock() = name.into();
        let vhost = self.enter(name).map_err(refused)?;
        self.vhost = Some(vhost);
        self.entered = true;
        Ok(())
    }

    /// Finds the virtual host, checks limits and permission, and counts the connection.
    fn enter(&self, name: &str) -> Result<Arc<Vhost>, String> {
        let (broker, user) = (&self.broker, &*self.user);
        let vhost = broker
            .vhost(name)
            .ok_or_else(|| format!("vhost {name} not found"))?;
        let refused = format!("access to vhost '{name}' refused for user '{user}'");
        let limits = broker.limits();
        let max = limits.connections_max;
        if broker.peer_count() > max {
            return Err(format!(
                "connection refused: node connection limit ({max}) is reached"
            ));
        }
        if !broker.access.read().may_enter(name, user) {
            return Err(refused);
        }
        let mut of_vhost = vhost.rules.read().limits;
        let mut of_user = broker.user_limits(user);
        // A limit that an administrator has set is the one that holds.
        of_vhost.max_connections = of_vhost
            .max_connections
            .or(limits.connections_per_vhost_max);
        of_user.max_connections = of_user.max_connections.or(limits.connections_per_user_max);
        let counted = broker.uses.lock().enter((name, of_vhost), (user, of_user));
        counted.map_err(|reached| match reached {
            Reached::Vhost(max) => format!("{refused}: connection limit ({max}) is reached"),
            Reached::User(max) => format!(
                "connection refused for user '{user}': user connection limit ({max}) is reached"
            ),
        })?;
        Ok(vhost)
    }

    /// Counts a channel that is being opened.
    pub(crate) fn count_channel(&self) -> Result<(), Fault> {
        let limits = self.broker.user_limits(&self.user);
        let counted = self.broker.uses.lock().open_channel(&self.user, limits);
        counted.map_err(|max| {
            let text = format!(
                "number of channels opened for user '{}' has reached the maximum allowed user \
                 limit of ({max})",
                self.user
            );
            Fault::connection(HardCode::NotAllowed, text, (20, 10))
        })
    }
}

/// What a refused login becomes. Only whoever gives credentials may be told that they are wrong.
fn refusal(reason: Denied, mechanism: &[u8]) -> Fault {
    const START_OK: (u16, u16) = (10, 11);
    let name = String::from_utf8_lossy(mechanism);
    match reason {
        Denied::Mechanism => {
            let text = format!("unknown authentication mechanism '{name}'");
            Fault::connection(HardCode::CommandInvalid, text, START_OK)
        }
        Denied::Malformed => {
            let text = format!("response is not in the form of {name}");
            Fault::connection(HardCode::SyntaxError, text, START_OK)
        }
        Denied::Credentials | Denied::NotLoopback => Fault::Authentication {
            text: format!(
                "Login was refused using authentication mechanism {name}. For details see the \
                 broker logfile."
            ),
        },
    }
}

/// `NUL user NUL password`; as with RabbitMQ there is no authorization identity before it.
fn plain(response: &[u8]) -> Result<(&str, &[u8]), Denied> {
    let mut parts = response.split(|byte| *byte == 0);
    let (Some([]), Some(user), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Denied::Malformed);
    };
    Ok((
        std::str::from_utf8(user).map_err(|_| Denied::Malformed)?,
        password,
    ))
}

/// A table without its length prefix, with `LOGIN` and `PASSWORD`.
fn amqplain(response: &[u8]) -> Result<(&str, &[u8]), Denied> {
    let table = RawTable::parse(response).map_err(|_| Denied::Malformed)?;
    let text = |key: &[u8]| match table.get(key) {
        Some(ValueRef::LongString(bytes)) => Ok(bytes),
        _ => Err(Denied::Malformed),
    };
    let user = std::str::from_utf8(text(b"LOGIN")?).map_err(|_| Denied::Malformed)?;
    Ok((user, text(b"PASSWORD")?))
}
