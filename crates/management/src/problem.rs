//! Why a request is not answered as asked, in the status and words of RabbitMQ's API.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use leveret_broker::Refusal;
use leveret_codec::SoftCode;
use leveret_session::Fault;
use serde_json::{Value, json};

/// What is wrong with a request.
#[derive(Clone, Debug)]
pub(crate) enum Problem {
    /// The request names no user: the client should ask for one.
    NoCredentials,
    /// The credentials are wrong.
    BadCredentials,
    /// The user may not do this.
    NotAuthorised(String),
    /// What the path names does not exist.
    NotFound,
    /// What an operation needs does not exist; the text says what.
    NoSuch(String),
    /// The virtual host is not for this user to know of.
    Hidden,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// The request is wrong; the text says how.
    BadRequest(String),
    /// A value of the wrong kind.
    WrongValue {
        /// Where it was found.
        field: String,
        /// What it is not.
        what: &'static str,
        /// The value itself.
        value: Value,
    },
    /// The same as a wrong request, under another error word than `bad_request`.
    BadRequestAs(&'static str, String),
    /// A precondition does not hold: 412.
    Precondition(String),
    /// The body is larger than this endpoint takes.
    TooLarge(usize),
    /// The disk has too little room: 507.
    NoRoom(String),
    /// Try again later.
    Busy {
        /// Why.
        reason: String,
        /// Seconds to wait.
        retry_after_s: u32,
    },
    /// The virtual host has reached one of its limits: 429.
    Limited {
        /// Which one.
        reason: String,
        /// Milliseconds to wait.
        retry_after_ms: u64,
    },
    /// The broker failed.
    Internal(String),
}

impl Problem {
    /// A wrong request.
    pub(crate) fn bad(reason: impl Into<String>) -> Self {
        Self::BadRequest(reason.into())
    }

    /// A value of the wrong kind.
    pub(crate) fn wrong(field: &str, what: &'static str, value: impl Into<Value>) -> Self {
        Self::WrongValue {
            field: field.to_owned(),
            what,
            value: value.into(),
        }
    }

    /// The body is no JSON, or not an object.
    pub(crate) fn not_json() -> Self {
        Self::bad("not_json")
    }

    /// The broker refused an operation on topology; the reason is the bare text.
    pub(crate) fn refused(refusal: Refusal, vhost: &str) -> Self {
        Self::of_fault(refusal, vhost, |fault| match fault {
            Fault::Channel { text, .. }
            | Fault::Connection { text, .. }
            | Fault::Authentication { text } => text,
        })
    }

    /// The same for what RabbitMQ's API does over a channel: the reason is `CODE NAME - text`, what
    /// an AMQP client is told.
    pub(crate) fn refused_on_channel(refusal: Refusal, vhost: &str) -> Self {
        Self::of_fault(refusal, vhost, |fault| match fault {
            Fault::Channel { code, text, .. } => {
                format!("{} {} - {text}", code.code(), code.name())
            }
            Fault::Connection { code, text, .. } => {
                format!("{} {} - {text}", code.code(), code.name())
            }
            Fault::Authentication { text } => text,
        })
    }

    fn of_fault(refusal: Refusal, vhost: &str, reason: fn(Fault) -> String) -> Self {
        match refusal {
            Refusal::Denied(text) => Self::NotAuthorised(format!("ACCESS_REFUSED - {text}")),
            Refusal::NoExchange(_) | Refusal::NoQueue(_) => Self::NotFound,
            refusal => match refusal.fault(1, vhost, (0, 0)) {
                Fault::Channel {
                    code: SoftCode::AccessRefused,
                    text,
                    ..
                } => Self::NotAuthorised(format!("ACCESS_REFUSED - {text}")),
                fault => Self::BadRequest(reason(fault)),
            },
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NoCredentials | Self::BadCredentials | Self::NotAuthorised(_) => {
                StatusCode::UNAUTHORIZED
            }
            Self::NotFound | Self::NoSuch(_) | Self::Hidden => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest(_) | Self::WrongValue { .. } | Self::BadRequestAs(..) => {
                StatusCode::BAD_REQUEST
            }
            Self::Precondition(_) => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoRoom(_) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Limited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What the answer says of it.
    pub(crate) fn body(&self) -> Value {
        let (error, reason) = self.words();
        if let Self::WrongValue { what, value, .. } = self {
            return json!({"error": error, "reason": [what, value]});
        }
        let mut body = json!({"error": error, "reason": reason});
        if let Self::Limited { retry_after_ms, .. } = self {
            body["retry_after_ms"] = (*retry_after_ms).into();
        }
        body
    }

    /// What is wrong, for people and logs: it quotes no value of the wrong kind, which may be a
    /// password.
    pub(crate) fn reason(&self) -> String {
        self.words().1
    }

    fn words(&self) -> (&'static str, String) {
        match self {
            Self::NoCredentials | Self::BadCredentials => {
                ("not_authorized", "Not_Authorized".to_owned())
            }
            Self::NotAuthorised(reason) => ("not_authorised", reason.clone()),
            Self::NotFound => ("Object Not Found", "Not Found".to_owned()),
            Self::NoSuch(reason) => ("not_found", reason.clone()),
            Self::Hidden => ("not_found", "Not Found".to_owned()),
            Self::WrongValue { field, what, .. } => ("bad_request", format!("{field}: {what}")),
            Self::MethodNotAllowed => ("Method Not Allowed", "Method Not Allowed".to_owned()),
            Self::BadRequest(reason) => ("bad_request", reason.clone()),
            Self::BadRequestAs(error, reason) => (*error, reason.clone()),
            Self::Precondition(reason) => ("precondition_failed", reason.clone()),
            Self::TooLarge(max) => (
                "payload_too_large",
                format!("request body is larger than {max} bytes"),
            ),
            Self::NoRoom(reason) => ("no_room", reason.clone()),
            Self::Busy { reason, .. } => ("busy", reason.clone()),
            Self::Limited { reason, .. } => ("too_many_requests", reason.clone()),
            Self::Internal(reason) => ("internal_error", reason.clone()),
        }
    }

    /// One word for the audit log.
    pub(crate) fn status_code(&self) -> u16 {
        self.status().as_u16()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status(), &self.body());
        let headers = response.headers_mut();
        match self {
            Self::NoCredentials => {
                headers.insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static(CHALLENGE),
                );
            }
            Self::Busy { retry_after_s, .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
            }
            Self::Limited { retry_after_ms, .. } => {
                let seconds = HeaderValue::from(retry_after_ms.div_ceil(1000));
                headers.insert(header::RETRY_AFTER, seconds);
            }
            _ => {}
        }
        response
    }
}

/// A response with a JSON body.
pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response {
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, JSON)], bytes).into_response()
}

/// The content type of every answer with a body.
pub(crate) const JSON: &str = "application/json";
const CHALLENGE: &str = "Basic realm=\"RabbitMQ Management\"";
