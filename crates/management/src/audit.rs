//! The audit log: who changed what through the API, one event each, under the target `audit`.
//!
//! Bodies are not logged: they hold passwords.

use tracing::info;

use crate::call::Call;
use crate::endpoint::{Endpoint, Verb};
use crate::reply::{Answer, Reply};

/// Notes what a request changed, or tried to. Reading is not noted.
pub(crate) fn note(endpoint: &Endpoint, call: &Call, answer: &Answer) {
    if endpoint.verb == Verb::Get || is_reading(endpoint) {
        return;
    }
    let (status, reason) = match answer {
        Ok(reply) => (status_of(reply), String::new()),
        Err(problem) => (problem.status_code(), problem.reason()),
    };
    let object: Vec<&str> = call
        .segments
        .iter()
        .map(|(_, value)| value.as_str())
        .collect();
    info!(
        target: "audit",
        user = call.caller.name,
        from = %call.from,
        action = endpoint.verb.name(),
        path = endpoint.path,
        object = object.join(" "),
        status,
        reason,
        "administrative action"
    );
}

/// Requests that only ask, and messages: those are no administration.
fn is_reading(endpoint: &Endpoint) -> bool {
    endpoint.path.starts_with("/api/x/routes/")
        || endpoint.path.starts_with("/api/x/publish/")
        || endpoint.path.ends_with("/publish")
}

const fn status_of(reply: &Reply) -> u16 {
    match reply {
        Reply::Created | Reply::CreatedAt(_) => 201,
        Reply::NoContent => 204,
        Reply::RetryAfter(..) => 503,
        Reply::Status(status, _) => status.as_u16(),
        Reply::Json(_) | Reply::List(_) | Reply::Download(..) => 200,
    }
}
