//! The form of the route table: every endpoint with its method, path and what it asks of a caller.

use crate::call::Call;
use crate::caller::Clearance;
use crate::reply::Answer;

/// A method of HTTP. `HEAD` is served as `GET`, and `OPTIONS` for every path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are HTTP's")]
pub enum Verb {
    Get,
    Put,
    Post,
    Delete,
}

impl Verb {
    /// The method's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }

    /// The verb that serves a method.
    pub(crate) fn of(method: &axum::http::Method) -> Option<Self> {
        match method.as_str() {
            "GET" | "HEAD" => Some(Self::Get),
            "PUT" => Some(Self::Put),
            "POST" => Some(Self::Post),
            "DELETE" => Some(Self::Delete),
            _ => None,
        }
    }
}

/// One endpoint.
#[derive(Clone, Copy)]
pub struct Endpoint {
    /// Its method.
    pub verb: Verb,
    /// Its path, with `{names}` for segments that vary.
    pub path: &'static str,
    /// What it asks of its caller.
    pub access: Clearance,
    pub(crate) run: fn(&Call) -> Answer,
}

pub(crate) const fn get(
    path: &'static str,
    access: Clearance,
    run: fn(&Call) -> Answer,
) -> Endpoint {
    Endpoint {
        verb: Verb::Get,
        path,
        access,
        run,
    }
}

pub(crate) const fn put(
    path: &'static str,
    access: Clearance,
    run: fn(&Call) -> Answer,
) -> Endpoint {
    Endpoint {
        verb: Verb::Put,
        path,
        access,
        run,
    }
}

pub(crate) const fn post(
    path: &'static str,
    access: Clearance,
    run: fn(&Call) -> Answer,
) -> Endpoint {
    Endpoint {
        verb: Verb::Post,
        path,
        access,
        run,
    }
}

pub(crate) const fn delete(
    path: &'static str,
    access: Clearance,
    run: fn(&Call) -> Answer,
) -> Endpoint {
    Endpoint {
        verb: Verb::Delete,
        path,
        access,
        run,
    }
}
