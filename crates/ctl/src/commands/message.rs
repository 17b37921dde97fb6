//! `leveretctl publish`, `queue get` and `queue peek`.

use std::fs;
use std::io::{self, Read as _};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::binding::array;
use super::exchange::{only_leveret, segment};
use crate::arguments::{duration, object, pair};
use crate::client::Request;
use crate::failure::{Failure, Kind, Result};
use crate::session::Session;

const COLUMNS: &[&str] = &[
    "exchange",
    "routing_key",
    "redelivered",
    "payload_bytes",
    "payload",
];
const PEEK_COLUMNS: &[&str] = &["seq", "exchange", "routing_key", "payload_bytes", "payload"];

/// Publishes messages, and tells whether they reached a queue.
#[derive(Args, Debug)]
pub(crate) struct Publish {
    /// The exchange; "" is the default one, which routes by queue name
    exchange: String,
    /// The message; standard input if not given
    payload: Option<String>,
    /// The routing key
    #[arg(long, short, default_value = "")]
    key: String,
    /// Read the message from this file
    #[arg(long, short, conflicts_with = "payload")]
    file: Option<String>,
    /// Each line read is a message of its own
    #[arg(long, conflicts_with = "payload")]
    lines: bool,
    /// Publish the message this often
    #[arg(long, default_value_t = 1, conflicts_with = "lines")]
    count: u32,
    /// A property such as content_type=text/plain, priority=5 or delivery_mode=2
    #[arg(long = "property", short = 'P', value_name = "NAME=VALUE", value_parser = pair)]
    properties: Vec<(String, Value)>,
    /// A header
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE", value_parser = pair)]
    headers: Vec<(String, Value)>,
    /// Keep the message over a restart
    #[arg(long)]
    persistent: bool,
}

impl Publish {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let properties = self.properties()?;
        let payloads = self.payloads()?;
        let path = [
            "exchanges",
            session.vhost(),
            segment(&self.exchange),
            "publish",
        ];
        let what = format!("exchange `{}`", self.exchange);
        session.each(&payloads, |payload| {
            let (payload, encoding) = match std::str::from_utf8(payload) {
                Ok(text) => (text.to_owned(), "string"),
                Err(_) => (STANDARD.encode(payload), "base64"),
            };
            let body = json!({
                "properties": properties,
                "routing_key": self.key,
                "payload": payload,
                "payload_encoding": encoding,
            });
            let Some(answer) = session.change(&Request::post(&path, body), &what)? else {
                return Ok(());
            };
            if answer.body["routed"] == true {
                return Ok(());
            }
            let text = format!("{what} routes `{}` to no queue: message dropped", self.key);
            Err(Failure::new(Kind::NotFound, text))
        })?;
        if !session.dry_run {
            session.output.say(&format!("published {}", payloads.len()));
        }
        Ok(())
    }

    fn properties(&self) -> Result<Map<String, Value>> {
        let mut properties = object(&self.properties)?;
        if self.persistent {
            properties.insert("delivery_mode".to_owned(), 2.into());
        }
        if !self.headers.is_empty() {
            properties.insert("headers".to_owned(), object(&self.headers)?.into());
        }
        Ok(properties)
    }

    fn payloads(&self) -> Result<Vec<Vec<u8>>> {
        let payload = match (&self.payload, &self.file) {
            (Some(payload), _) => payload.clone().into_bytes(),
            (None, Some(file)) if file != "-" => {
                fs::read(file).map_err(|error| Failure::usage(format!("{file}: {error}")))?
            }
            _ => {
                let mut payload = Vec::new();
                io::stdin().lock().read_to_end(&mut payload)?;
                payload
            }
        };
        if !self.lines {
            return Ok(vec![payload; self.count as usize]);
        }
        let payload = payload.strip_suffix(b"\n").unwrap_or(&payload);
        Ok(payload
            .split(|&byte| byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect())
    }
}

/// What becomes of messages that were fetched.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum AckMode {
    /// Give them back; they are then marked as redelivered
    #[default]
    Requeue,
    /// Take them
    Ack,
    /// Reject them: they are dead-lettered or dropped
    Reject,
}

/// Fetches messages.
#[derive(Args, Debug)]
pub(crate) struct GetMessages {
    name: String,
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// What becomes of them
    #[arg(long, value_enum, default_value_t)]
    mode: AckMode,
    /// Bytes to show of each payload
    #[arg(long, value_name = "BYTES")]
    truncate: Option<u64>,
}

impl GetMessages {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let mode = match self.mode {
            AckMode::Requeue => "ack_requeue_true",
            AckMode::Ack => "ack_requeue_false",
            AckMode::Reject => "reject_requeue_false",
        };
        let mut body = json!({"count": self.count, "ackmode": mode, "encoding": "auto"});
        if let Some(truncate) = self.truncate {
            body["truncate"] = truncate.into();
        }
        let request = Request::post(&["queues", session.vhost(), &self.name, "get"], body);
        match session.change(&request, &format!("queue `{}`", self.name))? {
            Some(answer) => session.output.rows(array(answer.body), COLUMNS),
            None => Ok(()),
        }
    }
}

/// Looks at messages where they are.
#[derive(Args, Debug)]
pub(crate) struct PeekMessages {
    name: String,
    #[arg(long, default_value_t = 10)]
    count: u32,
    /// Go on where an earlier peek ended
    #[arg(long)]
    cursor: Option<String>,
    /// Only messages with this routing key
    #[arg(long, short)]
    key: Option<String>,
    /// Only messages with this header
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE", value_parser = pair)]
    headers: Vec<(String, Value)>,
    /// Only messages whose timestamp is at least this old
    #[arg(long, value_name = "TIME", value_parser = duration)]
    older_than: Option<Duration>,
    /// Only messages whose timestamp is at most this old
    #[arg(long, value_name = "TIME", value_parser = duration)]
    newer_than: Option<Duration>,
    /// Bytes to show of each payload
    #[arg(long, value_name = "BYTES")]
    truncate: Option<u64>,
}

impl PeekMessages {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let path = ["x", "queues", session.vhost(), &self.name, "peek"];
        let mut request = Request::get(&path).query("count", self.count.to_string());
        let seconds = |age: Option<Duration>| age.map(|age| age.as_secs().to_string());
        let options = [
            ("cursor", self.cursor),
            ("routing_key", self.key),
            ("min_age", seconds(self.older_than)),
            ("max_age", seconds(self.newer_than)),
            ("truncate", self.truncate.map(|bytes| bytes.to_string())),
        ];
        for (key, value) in options {
            if let Some(value) = value {
                request = request.query(key, value);
            }
        }
        for (name, value) in &self.headers {
            let value = crate::output::cell(Some(value));
            request = request.query(&format!("header.{name}"), value);
        }
        let what = format!("queue `{}`", self.name);
        let answer = session.client.call(&request, &what);
        let mut answer = answer.map_err(|failure| only_leveret(session, failure))?;
        let rows = array(answer["items"].take());
        session.output.rows(rows, PEEK_COLUMNS)?;
        if let Some(cursor) = answer.get("cursor") {
            let cursor = crate::output::cell(Some(cursor));
            session.output.say(&format!("more: --cursor {cursor}"));
        }
        Ok(())
    }
}
