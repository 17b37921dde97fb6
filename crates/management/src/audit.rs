//! The audit log: who changed what through the API, one event each, under the target `audit`.
//!
//! Bodies are not logged: they hold passwords.

use std::net::SocketAddr;

use tracing::info;

use crate::call::Call;
use crate::endpoint::Endpoint;
use crate::problem::Problem;
use crate::reply::{Answer, Reply};

/// What a user asks for.
pub(crate) struct AuditedRequest<'a> {
    pub(crate) user: &'a str,
    pub(crate) from: SocketAddr,
    /// The method, which the path may not have.
    pub(crate) action: &'a str,
    /// The endpoint's, with names for what varies.
    pub(crate) path: &'a str,
    pub(crate) segments: &'a [(String, String)],
}

/// Notes what a request changed, or tried to.
pub(crate) fn note(endpoint: &Endpoint, call: &Call, answer: &Answer) {
    let asked = AuditedRequest {
        user: &call.caller.name,
        from: call.from,
        action: endpoint.verb.name(),
        path: endpoint.path,
        segments: &call.segments,
    };
    match answer {
        Ok(reply) => asked.note(status_of(reply), ""),
        Err(problem) => asked.refused(problem),
    }
}

impl AuditedRequest<'_> {
    /// Notes that it was refused.
    pub(crate) fn refused(&self, problem: &Problem) {
        self.note(problem.status_code(), &problem.reason());
    }

    fn note(&self, status: u16, reason: &str) {
        if self.is_reading() {
            return;
        }
        let object: Vec<_> = self.segments.iter().map(|(_, value)| &**value).collect();
        info!(
            target: "audit",
            user = self.user,
            from = %self.from,
            action = self.action,
            path = self.path,
            object = object.join(" "),
            status,
            reason,
            "administrative action"
        );
    }

    /// Requests that only ask, and messages: those are no administration.
    fn is_reading(&self) -> bool {
        matches!(self.action, "GET" | "HEAD")
            || self.path.starts_with("/api/x/routes/")
            || self.path.starts_with("/api/x/publish/")
            || self.path.ends_with("/publish")
    }
}

const fn status_of(reply: &Reply) -> u16 {
    match reply {
        Reply::Created | Reply::CreatedAt(_) => 201,
        Reply::NoContent => 204,
        Reply::RetryAfter(status, ..) | Reply::Status(status, _) => status.as_u16(),
        Reply::Json(_) | Reply::Stream(_) => 200,
    }
}
