//! The HTTP client: requests of the management API, and what their answers mean.

use std::fs;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use ureq::http;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::failure::{Failure, Kind, Result};
use crate::settings::Settings;

/// Largest answer that is read; a list of some million queues is below it.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// One request of the API.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    /// Below `/api/`, each segment percent-encoded.
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Option<Value>,
}

impl Request {
    fn new(method: &'static str, segments: &[&str]) -> Self {
        let encoded: Vec<String> = segments.iter().map(|segment| encode(segment)).collect();
        Self {
            method,
            path: encoded.join("/"),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub(crate) fn get(segments: &[&str]) -> Self {
        Self::new("GET", segments)
    }

    pub(crate) fn put(segments: &[&str], body: Value) -> Self {
        let body = Some(body);
        Self {
            body,
            ..Self::new("PUT", segments)
        }
    }

    pub(crate) fn post(segments: &[&str], body: Value) -> Self {
        let body = Some(body);
        Self {
            body,
            ..Self::new("POST", segments)
        }
    }

    pub(crate) fn delete(segments: &[&str]) -> Self {
        Self::new("DELETE", segments)
    }

    pub(crate) fn query(mut self, key: &str, value: impl Into<String>) -> Self {
        self.query.push((key.to_owned(), value.into()));
        self
    }

    pub(crate) fn flag(self, key: &str, set: bool) -> Self {
        if set { self.query(key, "true") } else { self }
    }

    pub(crate) fn header(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((key, value.into()));
        self
    }

    /// Path and query as sent.
    pub(crate) fn target(&self) -> String {
        let mut target = format!("/api/{}", self.path);
        for (index, (key, value)) in self.query.iter().enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(&encode(key));
            target.push('=');
            target.push_str(&encode(value));
        }
        target
    }
}

/// An answer of the API, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Null when there is none.
    pub(crate) body: Value,
}

/// Sends requests to one broker.
pub(crate) struct Client {
    agent: ureq::Agent,
    /// Scheme, host, port and a path prefix, without a slash at the end.
    base: String,
    authorisation: String,
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let mut tls = TlsConfig::builder().disable_verification(settings.insecure);
        if let Some(path) = &settings.ca {
            let pem = fs::read(path);
            let pem = pem.map_err(|error| Failure::usage(format!("{path}: {error}")))?;
            let certificate = Certificate::from_pem(&pem)
                .map_err(|error| Failure::usage(format!("{path}: {error}")))?;
            tls = tls.root_certs(RootCerts::from(std::iter::once(certificate)));
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(settings.timeout))
            .timeout_connect(Some(settings.timeout.min(Duration::from_secs(10))))
            .max_redirects(0)
            .user_agent(concat!("leveretctl/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build())
            .build()
            .new_agent();
        let secret = format!("{}:{}", settings.username, settings.password);
        let authorisation = format!("Basic {}", STANDARD.encode(secret));
        let base = settings.url.clone();
        Ok(Self {
            agent,
            base,
            authorisation,
        })
    }

    /// Sends `request`; any status is an answer.
    pub(crate) fn send(&self, request: &Request) -> Result<Answer> {
        let url = format!("{}{}", self.base, request.target());
        let mut builder = http::Request::builder()
            .method(request.method)
            .uri(&url)
            .header("authorization", &self.authorisation);
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        let unusable = |error: http::Error| Failure::usage(format!("{url}: {error}"));
        let sent = if let Some(body) = &request.body {
            let body = serde_json::to_vec(body)?;
            let builder = builder.header("content-type", "application/json");
            self.agent.run(builder.body(body).map_err(unusable)?)
        } else {
            self.agent.run(builder.body(()).map_err(unusable)?)
        };
        let mut response = sent.map_err(|error| self.unanswered(&error))?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        let body = body
            .read_to_vec()
            .map_err(|error| self.unanswered(&error))?;
        let body = parse(&body, status, &url)?;
        Ok(Answer { status, body })
    }

    /// Sends `request`; an answer that is not a success fails, named by `what`.
    pub(crate) fn call(&self, request: &Request, what: &str) -> Result<Value> {
        let answer = self.send(request)?;
        if (200..300).contains(&answer.status) {
            return Ok(answer.body);
        }
        Err(Failure::from_answer(answer.status, &answer.body, what))
    }

    fn unanswered(&self, error: &ureq::Error) -> Failure {
        let kind = match error {
            ureq::Error::Timeout(_) => Kind::Timeout,
            ureq::Error::BadUri(_) => Kind::Usage,
            ureq::Error::Io(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                Kind::Unreachable
            }
            _ => Kind::Failed,
        };
        let reason = match error {
            ureq::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        };
        Failure::new(kind, format!("{}: {reason}", self.base))
    }
}

/// The JSON of an answer. What is not JSON (a proxy's error page) is kept short, as a reason.
fn parse(body: &[u8], status: u16, url: &str) -> Result<Value> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    match serde_json::from_slice(body) {
        Ok(value) => Ok(value),
        Err(_) if (200..300).contains(&status) => {
            let text = format!("{url}: the answer is not JSON; is this a management API?");
            Err(Failure::failed(text))
        }
        Err(_) => Ok(Value::Null),
    }
}

/// Percent-encodes all but unreserved characters, so that a name stays one segment.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Undoes [`encode`]; what is not an escape stays.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let escape = text
            .get(index + 1..index + 3)
            .filter(|_| bytes[index] == b'%');
        let byte = escape.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(bytes[index]));
        index += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_segment() {
        let request = Request::get(&["queues", "/", "a b/%ü"]).query("name", "x&y");
        assert_eq!(
            request.target(),
            "/api/queues/%2F/a%20b%2F%25%C3%BC?name=x%26y"
        );
        assert_eq!(decode("a%20b%2F%25%C3%BC"), "a b/%ü");
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz"), "%zz");
    }
}
