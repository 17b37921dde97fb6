//! The client under test, names, and an AMQP connection to be looked at.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lapin::options::{BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use rabbitmq_http_client::blocking_api;
use rabbitmq_http_client::requests::{QueueParams, XArguments};
use serde_json::{Map, Value};
use tokio::runtime::Runtime;

/// The client library's own type.
pub(crate) type Client = blocking_api::Client<String, &'static str, &'static str>;

/// The default virtual host.
pub(crate) const VHOST: &str = "/";

/// More than any change takes to be seen on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

static NAMES: AtomicU32 = AtomicU32::new(0);

/// A client of the broker's API, as `guest`.
pub(crate) fn client() -> Client {
    client_of("guest", "guest")
}

/// The same as another user.
pub(crate) fn client_of(user: &'static str, password: &'static str) -> Client {
    let port = std::env::var("API_PORT").expect("API_PORT names the port of the HTTP API");
    Client::new(format!("http://127.0.0.1:{port}/api"), user, password)
}

/// A name that no other test uses.
pub(crate) fn name(stem: &str) -> String {
    let number = NAMES.fetch_add(1, Ordering::Relaxed);
    format!("http-{stem}-{}-{number}", std::process::id())
}

/// A durable queue that is deleted with this.
pub(crate) struct Queue {
    pub(crate) name: String,
}

impl Queue {
    /// Declares one.
    pub(crate) fn declare(stem: &str, arguments: XArguments) -> Self {
        let name = name(stem);
        let params = QueueParams::new_durable_classic_queue(&name, arguments);
        client().declare_queue(VHOST, &params).expect("declare");
        Self { name }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let _ = client().delete_queue(VHOST, &self.name, true);
    }
}

/// An AMQP connection of a given name, with one channel.
pub(crate) struct Peer {
    runtime: Runtime,
    pub(crate) connection: Connection,
    pub(crate) channel: Channel,
}

impl Peer {
    /// Connects, with confirms and a prefetch of 7.
    pub(crate) fn connect(name: &str) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let url = std::env::var("AMQP_URL").expect("AMQP_URL names the broker");
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(&url, properties);
            let connection = connection.await.expect("connect");
            let channel = connection.create_channel().await.expect("open a channel");
            let confirms = channel.confirm_select(ConfirmSelectOptions::default());
            confirms.await.expect("confirms");
            let prefetch = channel.basic_qos(7, BasicQosOptions::default());
            prefetch.await.expect("prefetch");
            (connection, channel)
        });
        Self {
            runtime,
            connection,
            channel,
        }
    }

    /// Consumes from `queue` with acknowledgements.
    pub(crate) fn consume(&self, queue: &str, tag: &str) -> Consumer {
        let (queue, tag): (ShortString, ShortString) = (queue.into(), tag.into());
        let options = BasicConsumeOptions::default();
        let consume = self
            .channel
            .basic_consume(queue, tag, options, FieldTable::default());
        self.runtime.block_on(consume).expect("consume")
    }
}

/// Asks until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The object that a JSON value is.
pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}
