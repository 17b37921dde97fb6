//! One request, taken apart: who asks, for what, with which parameters and body.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::HeaderMap;
use leveret_broker::Vhost;
use serde_json::{Map, Value};

use crate::app::App;
use crate::caller::Caller;
use crate::problem::Problem;

/// One request.
pub(crate) struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) caller: Caller,
    /// The endpoint's path, as the route table has it.
    pub(crate) path: &'static str,
    /// The named segments of the path, percent-decoded.
    pub(crate) segments: Vec<(String, String)>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The client's address.
    pub(crate) from: SocketAddr,
}

impl Call {
    /// A named segment of the path; empty when the path has none of that name.
    pub(crate) fn segment(&self, name: &str) -> &str {
        let found = self.segments.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }

    /// An exchange's name in the path; `amq.default` is the default exchange, which has none.
    pub(crate) fn exchange_segment(&self, name: &str) -> &str {
        match self.segment(name) {
            DEFAULT_EXCHANGE => "",
            name => name,
        }
    }

    /// A parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether a parameter of the query says yes.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.parameter(name) == Some("true")
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The virtual host that the path names.
    pub(crate) fn vhost(&self) -> Result<Arc<Vhost>, Problem> {
        let name = self.segment("vhost");
        self.app.broker.vhost(name).ok_or(Problem::NotFound)
    }

    /// The same for an operation in it: the refusal says that it is the virtual host.
    pub(crate) fn needed_vhost(&self) -> Result<Arc<Vhost>, Problem> {
        self.vhost()
            .map_err(|_| Problem::NoSuch("vhost_not_found".to_owned()))
    }

    /// The one virtual host a list is about, if it is about one: the path's, or the header's.
    pub(crate) fn wanted_vhost(&self) -> Option<&str> {
        let named = Some(self.segment("vhost")).filter(|name| !name.is_empty());
        named.or_else(|| self.header("x-vhost").filter(|name| !name.is_empty()))
    }

    /// The virtual hosts a list is about: the path's, or the header's, or all that the caller may
    /// enter. A tag lets nobody see more in a list, as in RabbitMQ.
    pub(crate) fn vhosts(&self) -> Result<Vec<Arc<Vhost>>, Problem> {
        self.vhosts_of(|name| self.app.may_enter(&self.caller.name, name))
    }

    /// The same with all that the caller may watch over.
    pub(crate) fn visible_vhosts(&self) -> Result<Vec<Arc<Vhost>>, Problem> {
        self.vhosts_of(|name| self.caller.sees(&self.app, name))
    }

    fn vhosts_of(&self, shown: impl Fn(&str) -> bool) -> Result<Vec<Arc<Vhost>>, Problem> {
        if !self.segment("vhost").is_empty() {
            return Ok(vec![self.vhost()?]);
        }
        let wanted = self.wanted_vhost();
        let mut vhosts = self.app.broker.vhosts();
        vhosts.retain(|vhost| wanted.is_none_or(|name| name == &*vhost.name) && shown(&vhost.name));
        vhosts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(vhosts)
    }

    /// The body as an object, whatever its content type; an empty one is an empty object.
    pub(crate) fn object(&self) -> Result<Map<String, Value>, Problem> {
        match self.value()? {
            Value::Object(object) => Ok(object),
            Value::Null => Ok(Map::new()),
            Value::String(_) => Err(Problem::bad(ENCODED_TWICE)),
            _ => Err(Problem::not_json()),
        }
    }

    /// The body as any JSON value; null when it is empty.
    pub(crate) fn value(&self) -> Result<Value, Problem> {
        let body = self
            .body
            .strip_prefix(BYTE_ORDER_MARK)
            .unwrap_or(&self.body);
        let body = body.trim_ascii();
        if body.is_empty() || body == b"undefined" {
            return Ok(Value::Null);
        }
        serde_json::from_slice(body).map_err(|_| Problem::not_json())
    }
}

/// How RabbitMQ's API spells the default exchange, whose name is empty.
pub(crate) const DEFAULT_EXCHANGE: &str = "amq.default";
const ENCODED_TWICE: &str = "invalid payload: the request body JSON-decoded to a string. Is the \
                             input doubly-JSON-encoded?";
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
