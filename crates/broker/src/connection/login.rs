//! Login and the choice of a virtual host.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leveret_access::{Denied, Reached};
use leveret_codec::{HardCode, RawTable, ValueRef};
use leveret_session::Fault;

use crate::broker::Broker;
use crate::connection::desk::Desk;
use crate::connection::phase::{Opening, Running};
use crate::context::client::Client;
use crate::context::stats::Churn;
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

/// What is noted of a login beside the user.
#[derive(Default)]
pub(crate) struct Login {
    /// The client is told that its credentials are wrong.
    pub(crate) tells_failure: bool,
    /// It was refused in this turn: the answer waits for the caller.
    pub(crate) refused_now: bool,
    /// Why it was refused.
    pub(crate) refusal: Option<LoginRefusal>,
}

impl Login {
    /// Checks credentials: whose they are goes on to open a virtual host.
    pub(crate) fn check(
        &mut self,
        desk: &Desk,
        client_properties: RawTable<'_>,
        mechanism: &[u8],
        response: &[u8],
    ) -> Result<Opening, Fault> {
        let (broker, client) = (&*desk.broker, &*desk.peer.client);
        self.note_capabilities(client, client_properties);
        let (mechanism, user) = match who(broker, client, mechanism, response) {
            Ok(known) => known,
            Err((user, reason)) => {
                let name = client_properties.get(b"connection_name");
                let name = name.and_then(|name| name.as_str_bytes());
                self.refusal = Some(LoginRefusal {
                    user: user.into(),
                    client: String::from_utf8_lossy(name.unwrap_or_default()).into(),
                    reason,
                });
                self.refused_now = true;
                broker.events.count(Churn::LoginRefused);
                return Err(refusal(reason, mechanism));
            }
        };
        *client.properties.lock() = client_properties.to_table();
        user.clone_into(&mut client.user.lock());
        let _ = client.mechanism.set(mechanism);
        broker.events.count(Churn::LoginAccepted);
        let product = client_properties.get(b"product");
        let product = product.and_then(|value| value.as_str_bytes());
        Ok(Opening {
            user: user.into(),
            live_prefetch: product == Some(LIVE_PREFETCH_PRODUCT),
        })
    }

    fn note_capabilities(&mut self, client: &Client, properties: RawTable<'_>) {
        let capable = |name: &str| match properties.get(b"capabilities") {
            Some(ValueRef::Table(capabilities)) => {
                let capability = capabilities.get(name.as_bytes());
                capability.and_then(|value| value.as_bool()) == Some(true)
            }
            _ => false,
        };
        self.tells_failure = capable("authentication_failure_close");
        let notify = |wants: &AtomicBool, name| wants.store(capable(name), Ordering::Relaxed);
        notify(&client.cancel_notify, "consumer_cancel_notify");
        notify(&client.blocked_notify, "connection.blocked");
        notify(&client.nack_reason, "publisher_nack_reason");
    }
}

/// Whose login this is, and how; else whom it named, if anybody, and why it is refused.
fn who<'a>(
    broker: &'a Broker,
    client: &Client,
    mechanism: &[u8],
    response: &'a [u8],
) -> Result<(&'static str, &'a str), (&'a str, Denied)> {
    let by_password = |known: Result<(&'a str, &[u8]), Denied>| {
        let (user, password) = known.map_err(|reason| ("", reason))?;
        let allowed = broker.authenticate(user, password, client.loopback);
        allowed.map(|_| user).map_err(|reason| (user, reason))
    };
    match mechanism {
        b"PLAIN" => Ok(("PLAIN", by_password(plain(response))?)),
        b"AMQPLAIN" => Ok(("AMQPLAIN", by_password(amqplain(response))?)),
        b"ANONYMOUS" => Ok(("ANONYMOUS", anonymous(broker, client)?)),
        _ => Err(("", Denied::Mechanism)),
    }
}

/// The user of whoever gives no name: whatever the response is, it is not looked at.
fn anonymous<'a>(broker: &'a Broker, client: &Client) -> Result<&'a str, (&'a str, Denied)> {
    let user = broker.config.anonymous_user.as_deref();
    let user = user.ok_or(("", Denied::Mechanism))?;
    if broker.user(user).is_none() {
        return Err((user, Denied::Credentials));
    }
    let access = broker.access.read();
    if !access.may_log_in_from(user, client.loopback) {
        return Err((user, Denied::NotLoopback));
    }
    Ok(user)
}

impl Opening {
    /// Enters a virtual host.
    pub(crate) fn enter(self, desk: &Desk, name: &[u8]) -> Result<Running, Fault> {
        let refused = |text| Fault::connection(HardCode::NotAllowed, text, (10, 40));
        let Ok(name) = std::str::from_utf8(name) else {
            // No virtual host has such a name, not even one that is called as this is shown.
            let shown = String::from_utf8_lossy(name);
            return Err(refused(format!("vhost {shown} not found")));
        };
        // Before anything is checked: whoever deletes the virtual host now finds this connection.
        *desk.peer.client.vhost.lock() = name.into();
        let vhost = self.admit(&desk.broker, name).map_err(refused)?;
        Ok(Running::new(self, vhost, desk))
    }

    /// Finds the virtual host, checks limits and permission, and counts the connection.
    fn admit(&self, broker: &Broker, name: &str) -> Result<Arc<Vhost>, String> {
        let user = &*self.user;
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
        let counted = broker.uses.lock().enter(name, user, (of_vhost, of_user));
        counted.map_err(|reached| match reached {
            Reached::Vhost(max) => format!("{refused}: connection limit ({max}) is reached"),
            Reached::User(max) => format!(
                "connection refused for user '{user}': user connection limit ({max}) is reached"
            ),
        })?;
        Ok(vhost)
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
