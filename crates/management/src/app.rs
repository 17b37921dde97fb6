//! What all endpoints share.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_broker::{Alarm, Broker, Denied};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::body;
use crate::budget::AnswerBudget;
use crate::caller::Caller;
use crate::parameter::{CLUSTER_ID, CLUSTER_NAME, CLUSTER_TAGS};
use crate::problem::Problem;
use crate::sampler::Sampler;

/// Settings of the HTTP API and the metrics endpoint.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Bytes that bodies of requests and what is read of them take together; one user has half.
    pub bodies_bytes_max: usize,
    /// Bytes of definitions that are imported over HTTP.
    pub definitions_bytes_max: usize,
    /// HTTP connections open at a time.
    pub connections_max: usize,
    /// Requests worked on at a time; further ones wait.
    pub requests_max: usize,
    /// Milliseconds between two samples, from which rates are made.
    pub sample_interval_ms: u64,
    /// Objects of each kind whose past is kept.
    pub history_objects_max: usize,
    /// Bytes that all long answers together may take: what is on its way of each, and the rows that
    /// are being sorted.
    pub lists_bytes_max: usize,
    /// Servers whose pages may use the API from a browser; `*` is any.
    pub cors_origins: Vec<String>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            bodies_bytes_max: 256 << 20,
            definitions_bytes_max: 512 << 20,
            connections_max: 1024,
            requests_max: 64,
            sample_interval_ms: 5000,
            history_objects_max: 20_000,
            lists_bytes_max: 64 << 20,
            cors_origins: Vec::new(),
        }
    }
}

/// What the process around the broker knows and can do.
pub trait Host: Send + Sync {
    /// Milliseconds to measure with: unix time by the clock as it was when the process began.
    fn now_ms(&self) -> u64;
    /// Unix milliseconds by the clock as it is, to compare with what others say.
    fn wall_ms(&self) -> u64;
    /// What tools know the node as: `rabbit@` and the machine's name.
    fn node_name(&self) -> String;
    /// What the process uses and may use.
    fn vitals(&self) -> Vitals;
    /// Every setting of the process with the value in force, passwords hidden.
    fn configuration(&self) -> Value;
    /// Where clients connect.
    fn listeners(&self) -> Vec<Listener>;
    /// Runs the check of a login from this address, which tells whether the credentials are right,
    /// and takes note of it.
    ///
    /// # Errors
    /// Seconds to wait: too many were refused, and it is not this one's turn.
    fn try_login(&self, from: IpAddr, check: &mut dyn FnMut() -> bool) -> Result<(), u32>;
    /// Opens the AMQP listeners, or closes them with all connections and forgets what does not
    /// survive a restart. Called from a thread that may wait.
    ///
    /// # Errors
    /// When a listener cannot be opened.
    fn set_running(&self, running: bool) -> io::Result<()>;
    /// Makes a copy of all that is durable, under this name or the time's, and tells of it. Called
    /// from a thread that may wait.
    ///
    /// # Errors
    /// [`BackupRefusal`]: there is no copy.
    fn back_up(&self, name: Option<&str>) -> Result<Value, BackupRefusal>;
    /// The copies that there are and what is known of each, the oldest first.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn backups(&self) -> io::Result<Vec<Value>>;
    /// Has the process end in order, soon: the answer to who asked for it goes out first.
    fn end(&self);
}

/// Why there is no copy of the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupRefusal {
    /// The name cannot be one.
    Name(String),
    /// There is one of this name.
    Exists(String),
    /// Another one is being made.
    Busy,
    /// The disk has too little room; nothing was written.
    NoRoom(String),
    /// The disk, or the journal, has failed.
    Failed(String),
}

/// What the process uses and may use.
#[derive(Clone, Debug, Default)]
pub struct Vitals {
    /// Resident bytes.
    pub memory_used: u64,
    /// The memory limit, bytes: of the control group or of the machine.
    pub memory_total: u64,
    /// Free bytes on the data folder's disk.
    pub disk_free: u64,
    /// Free bytes below which the disk alarm sounds.
    pub disk_alarm_at: u64,
    /// Open descriptors.
    pub descriptors_used: u64,
    /// Most open descriptors.
    pub descriptors_max: u64,
    /// How many the process may use.
    pub processors: u32,
    /// Tasks alive, in the runtime that serves connections.
    pub tasks: u64,
}

/// Where clients connect.
#[derive(Clone, Debug)]
pub struct Listener {
    /// `amqp`, `http` or `http/prometheus`.
    pub protocol: &'static str,
    /// Where it is bound.
    pub address: SocketAddr,
}

/// What all endpoints share.
pub struct App {
    pub(crate) broker: Arc<Broker>,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) settings: HttpSettings,
    pub(crate) sampler: Sampler,
    pub(crate) budget: Arc<AnswerBudget>,
    pub(crate) started_ms: u64,
    /// Room for the bodies of requests.
    pub(crate) bodies: Arc<body::BodyBudget>,
    /// The same for definitions.
    pub(crate) definitions: Arc<body::BodyBudget>,
    /// One permit, for the definitions that are being imported.
    pub(crate) importing: Arc<Semaphore>,
    node: String,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl App {
    /// The management of a broker.
    #[must_use]
    pub fn new(broker: Arc<Broker>, host: Arc<dyn Host>, settings: HttpSettings) -> Arc<Self> {
        let (bodies, definitions) = (settings.bodies_bytes_max, settings.definitions_bytes_max);
        Arc::new(Self {
            sampler: Sampler::new(settings.history_objects_max),
            budget: AnswerBudget::new(settings.lists_bytes_max),
            started_ms: host.now_ms(),
            bodies: body::BodyBudget::new(bodies, bodies / 2),
            definitions: body::BodyBudget::new(definitions, definitions),
            importing: Arc::new(Semaphore::new(1)),
            node: host.node_name(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            broker,
            host,
            settings,
        })
    }

    /// The node's name as RabbitMQ's tools expect it.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.host.now_ms()
    }

    /// The cluster's name: an administrator's, or the node's.
    pub(crate) fn cluster_name(&self) -> String {
        let named = self.global_parameter(CLUSTER_NAME);
        let named = named.and_then(|value| value.as_str().map(str::to_owned));
        named.unwrap_or_else(|| self.node.clone())
    }

    /// The cluster's tags, an object.
    pub(crate) fn cluster_tags(&self) -> Value {
        let tags = self.global_parameter(CLUSTER_TAGS);
        tags.filter(Value::is_object).unwrap_or_else(|| json!({}))
    }

    fn global_parameter(&self, name: &str) -> Option<Value> {
        let mut globals = self.broker.global_parameters().into_iter();
        globals
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }

    /// What tells this broker from others of its name, over restarts if it was ever set.
    pub(crate) fn cluster_id(&self) -> String {
        let known = self.global_parameter(CLUSTER_ID);
        let known = known.and_then(|value| value.as_str().map(str::to_owned));
        known.unwrap_or_else(|| format!("leveret-cluster-id-{:x}", self.started_ms))
    }

    /// Checks a user's password, and where the user comes from.
    pub(crate) fn log_in(
        &self,
        name: &str,
        password: &[u8],
        from: IpAddr,
    ) -> Result<Caller, Problem> {
        let loopback = from.to_canonical().is_loopback();
        let mut user = Err(Denied::Credentials);
        let tried = self.host.try_login(from, &mut || {
            user = self.broker.authenticate(name, password, loopback);
            matches!(user, Ok(_) | Err(Denied::NotLoopback))
        });
        tried.map_err(|retry_after_s| {
            debug!(client = %from, "too many refused logins from this address");
            Problem::Busy {
                reason: "too many refused logins from this address".to_owned(),
                retry_after_s,
            }
        })?;
        if let Err(denied) = &user {
            warn!(client = %from, user = ?name, reason = %denied, "login over HTTP refused");
        }
        let (count, outcome) = match user {
            Ok(user) => (
                &self.accepted,
                Ok(Caller {
                    name: user.name,
                    tags: user.tags,
                }),
            ),
            Err(Denied::NotLoopback) => {
                let text = "User can only log in via localhost".to_owned();
                (&self.refused, Err(Problem::NotAuthorised(text)))
            }
            Err(_) => (&self.refused, Err(Problem::BadCredentials)),
        };
        count.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    /// Logins over HTTP: accepted and refused.
    pub(crate) fn logins(&self) -> (u64, u64) {
        (
            self.accepted.load(Ordering::Relaxed),
            self.refused.load(Ordering::Relaxed),
        )
    }

    pub(crate) fn may_enter(&self, user: &str, vhost: &str) -> bool {
        self.broker
            .with_access(|access| access.may_enter(vhost, user))
    }

    /// Alarms in effect.
    pub(crate) fn alarms(&self) -> RaisedAlarms {
        let mut alarms = RaisedAlarms::default();
        for state in self.broker.alarms() {
            match state.alarm {
                Alarm::Memory => alarms.memory = state.active,
                Alarm::Disk => alarms.disk = state.active,
            }
        }
        alarms
    }

    /// Why publishers have to wait, if they have to.
    pub(crate) fn blocked(&self) -> Option<&'static str> {
        let alarms = self.alarms();
        if alarms.memory {
            Some("the memory alarm is on")
        } else if alarms.disk {
            Some("the disk alarm is on")
        } else {
            None
        }
    }

    /// Whether clients are being sent away.
    pub(crate) fn is_draining(&self) -> bool {
        self.broker.is_stopping()
    }
}

/// Alarms in effect: publishers wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RaisedAlarms {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
}
