//! What an endpoint answers, and how it is written.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::problem::{Problem, json_response};
use crate::stream::Stream;

/// What an endpoint answers.
pub(crate) enum Reply {
    /// 200 with a body.
    Json(Value),
    /// A long answer: it is made while it is sent.
    Stream(Stream),
    /// Another status with a body.
    Status(StatusCode, Value),
    /// 503 or 429 with a body: some of it was refused, and may be tried again after so
    /// many seconds.
    RetryAfter(StatusCode, u32, Value),
    /// 201: the object is new.
    Created,
    /// 201, and where the object is, relative to the request.
    CreatedAt(String),
    /// 204: done.
    NoContent,
}

impl Reply {
    /// 201 for something new, 204 for something that was there.
    pub(crate) const fn put(created: bool) -> Self {
        if created {
            Self::Created
        } else {
            Self::NoContent
        }
    }
}

impl IntoResponse for Reply {
    /// A long answer's first piece is made here, on a thread that may wait; the others follow as
    /// they are taken.
    fn into_response(self) -> Response {
        match self {
            Self::Json(body) => json_response(StatusCode::OK, &body),
            Self::Stream(stream) => stream.into_response(),
            Self::Status(status, body) => json_response(status, &body),
            Self::RetryAfter(status, seconds, body) => {
                let mut response = json_response(status, &body);
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, seconds.into());
                response
            }
            Self::Created => StatusCode::CREATED.into_response(),
            Self::CreatedAt(place) => {
                let mut response = StatusCode::CREATED.into_response();
                if let Ok(place) = HeaderValue::from_str(&place) {
                    response.headers_mut().insert(header::LOCATION, place);
                }
                response
            }
            Self::NoContent => StatusCode::NO_CONTENT.into_response(),
        }
    }
}

impl From<Stream> for Reply {
    fn from(stream: Stream) -> Self {
        Self::Stream(stream)
    }
}

/// What an endpoint gives.
pub(crate) type Answer = Result<Reply, Problem>;
