//! Who is at the other end of a connection.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use leveret_codec::Table;
use parking_lot::Mutex;

/// Numbers connections from 1; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The client of a connection: what is known of it, and what it wants to be told.
pub struct Client {
    /// Its connection's number.
    pub id: ConnectionId,
    /// `client:port -> server:port`.
    pub name: String,
    /// From the broker's own machine.
    pub loopback: bool,
    /// Unix milliseconds, by the system's clock.
    pub connected_at_ms: u64,
    /// Set at login.
    pub user: Mutex<String>,
    /// How it logged in.
    pub mechanism: OnceLock<&'static str>,
    /// Set when a virtual host is opened.
    pub vhost: Mutex<String>,
    /// What it says of itself.
    pub properties: Mutex<Table>,
    /// It wants to be told when a consumer ends with its queue,
    pub(crate) cancel_notify: AtomicBool,
    /// when it is not read for want of memory or space,
    pub(crate) blocked_notify: AtomicBool,
    /// and why a message is refused.
    pub(crate) nack_reason: AtomicBool,
    /// Bytes of the arguments of all its consumers.
    pub(crate) arguments_bytes: AtomicUsize,
}

/// Where a connection comes from.
pub struct Origin {
    /// `client:port -> server:port`.
    pub name: String,
    /// From the broker's own machine.
    pub loopback: bool,
    /// When, as the system's clock had it: unix milliseconds, to be shown.
    pub connected_at_ms: u64,
}

impl Client {
    /// One that has not said who it is.
    pub(crate) fn new(id: ConnectionId, origin: Origin) -> Self {
        Self {
            id,
            name: origin.name,
            loopback: origin.loopback,
            connected_at_ms: origin.connected_at_ms,
            user: Mutex::default(),
            mechanism: OnceLock::new(),
            vhost: Mutex::default(),
            properties: Mutex::new(Table::new()),
            cancel_notify: AtomicBool::new(false),
            blocked_notify: AtomicBool::new(false),
            nack_reason: AtomicBool::new(false),
            arguments_bytes: AtomicUsize::new(0),
        }
    }

    /// What it calls the connection; empty if it gives it no name.
    #[must_use]
    pub fn connection_name(&self) -> String {
        let properties = self.properties.lock();
        let name = properties.get(b"connection_name");
        let name = name.and_then(|name| name.as_str_bytes());
        String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
    }
}
