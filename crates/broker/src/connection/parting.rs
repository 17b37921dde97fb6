//! How a connection was closed in order: for logs.

use leveret_session::Fault;

/// How a connection was closed in order: for logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parting {
    /// Which side wanted it.
    pub by: Side,
    /// The reply code it gave.
    pub code: u16,
    /// Its explanation; the client's may be anything.
    pub text: String,
}

/// A side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Whoever connected.
    Client,
    /// The broker, be it by an operator's wish.
    Broker,
}

impl Parting {
    pub(crate) fn by_client(code: u16, text: &[u8]) -> Self {
        Self {
            by: Side::Client,
            code,
            text: String::from_utf8_lossy(text).into_owned(),
        }
    }

    pub(crate) fn of(fault: &Fault) -> Self {
        Self {
            by: Side::Broker,
            code: fault.code(),
            text: fault.reply_text(),
        }
    }
}
