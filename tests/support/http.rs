//! A client of the HTTP API that takes whatever comes back.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Method, Request};
use ureq::{Agent, Body};

const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// A user's way to the API.
pub(crate) struct Http {
    agent: Agent,
    base: String,
    user: String,
    password: String,
}

/// What the HTTP API said.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Http {
    pub(crate) fn new(address: SocketAddr, user: &str, password: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .timeout_global(Some(PATIENCE));
        Self {
            agent: config.build().into(),
            base: format!("http://{address}"),
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.call_as(method, path, body, "application/x-www-form-urlencoded")
    }

    /// With a content type of the body.
    pub(crate) fn call_as(&self, method: &str, path: &str, body: &str, kind: &str) -> Answer {
        self.request(method, path, body, &[("content-type", kind)])
    }

    /// With these header fields, and without a body.
    pub(crate) fn call_with(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.request(method, path, "", fields)
    }

    fn request(&self, method: &str, path: &str, body: &str, fields: &[(&str, &str)]) -> Answer {
        let method: Method = method.parse().unwrap();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", self.credentials());
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let response = if body.is_empty() {
            self.agent.run(request.body(()).unwrap())
        } else {
            self.agent.run(request.body(body.to_owned()).unwrap())
        };
        let response = response.unwrap_or_else(|error| panic!("{path}: {error}"));
        let (parts, mut body): (_, Body) = response.into_parts();
        let whole = body.with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = whole.unwrap_or_else(|error| panic!("{path}: {error}"));
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text,
        }
    }

    fn credentials(&self) -> String {
        use base64::Engine as _;
        let pair = format!("{}:{}", self.user, self.password);
        format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(pair)
        )
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let answer = self.call("GET", path, "");
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text);
        answer.json()
    }

    /// Asserts that a change is made.
    pub(crate) fn done(&self, method: &str, path: &str, body: &Value) {
        let answer = self.call(method, path, &body.to_string());
        assert!(
            [200, 201, 204].contains(&answer.status),
            "{method} {path}: {} {}",
            answer.status,
            answer.text
        );
    }
}
