//! What can go wrong, and the exit code that says so.

use std::fmt;
use std::io;

use serde_json::Value;

/// An error for a person to read; its kind is the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

/// Kinds of failure. Their numbers are documented in `docs/leveretctl.md` and do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something else: a local file, an answer that makes no sense, a fault of the broker.
    Failed = 1,
    /// The command line or the configuration.
    Usage = 2,
    /// Some of several things were done, others not.
    Partial = 3,
    /// There is no such object, or no queue for a message.
    NotFound = 4,
    /// Wrong user, password or permission.
    Unauthorised = 5,
    /// The broker refuses: invalid, inequivalent, in use.
    Refused = 6,
    /// No answer in time.
    Timeout = 7,
    /// The broker cannot be reached, or has no room at the moment.
    Unreachable = 8,
    /// A health check says no.
    Unhealthy = 11,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { kind, text }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Kind::Usage, text)
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::new(Kind::Failed, text)
    }

    /// From an answer of the API that is not a success.
    pub(crate) fn from_answer(status: u16, body: &Value, what: &str) -> Self {
        let kind = match status {
            401 | 403 => Kind::Unauthorised,
            404 => Kind::NotFound,
            400 | 405 | 409 | 412 | 413 | 415 | 422 => Kind::Refused,
            408 | 504 => Kind::Timeout,
            429 | 502 | 503 | 507 => Kind::Unreachable,
            _ => Kind::Failed,
        };
        let text = |key: &str| body.get(key).map(plain).filter(|text| !text.is_empty());
        let reason = text("reason").or_else(|| text("error"));
        let reason = reason.unwrap_or_else(|| format!("HTTP status {status}"));
        // RabbitMQ says only "Not Found"; a person wants to know what.
        let reason = match kind {
            Kind::NotFound if reason == "Not Found" => "not found".to_owned(),
            _ => reason,
        };
        Self::new(kind, format!("{what}: {reason}"))
    }
}

/// A reason as text: RabbitMQ sometimes answers with something that is not a string.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => {
            // RabbitMQ's validation errors are several lines with blank ones between them; of
            // definitions each line is a mistake of its own.
            let between = if text.contains("\n\n") { ": " } else { "\n" };
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.collect::<Vec<_>>().join(between)
        }
        other => other.to_string(),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::failed(format!("not the JSON that was expected: {error}"))
    }
}
