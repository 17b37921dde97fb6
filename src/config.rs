//! The broker's settings: what they are, their defaults, and how they are put together.
//!
//! Precedence, lowest first: built-in default, TOML file, environment, command line. An unknown
//! key or a value out of range stops the start and names the place it came from.

mod arguments;
mod error;
mod keys;
mod layers;
mod rabbitmq;
mod secret;
mod value;

pub use arguments::{Arguments, OfflineCommand};
pub use error::{ConfigError, ConfigProblem, SettingOrigin};
pub use keys::{is_reloadable, key_names};
pub use layers::Sources;
pub use secret::Secret;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Every setting of the broker.
///
/// `Debug` and serialisation never show a password.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The folder that holds what the broker keeps on disk.
    pub data_dir: PathBuf,
    /// The AMQP listeners and what they offer to clients.
    pub amqp: Amqp,
    /// Who may log in without a secret of its own.
    pub auth: Auth,
    /// The first user and virtual host.
    pub default: Bootstrap,
    /// Upper bounds of everything a client can make grow.
    pub limits: ClientLimits,
    /// What is logged and how.
    pub log: Log,
    /// The HTTP API and the metrics endpoint.
    pub management: Management,
    /// Threads and stopping.
    pub runtime: Runtime,
    /// How messages reach the disk.
    pub storage: Storage,
    /// The configuration file that was read, if any; not itself a setting.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// RabbitMQ's environment variables that are set and mean nothing here; not a setting.
    #[serde(skip)]
    pub without_effect: Vec<String>,
}

/// The AMQP listeners and what they offer to clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Amqp {
    /// Addresses to listen on, `host:port`; port 0 takes a free one.
    pub listen: Vec<String>,
    /// The product and version told to clients in `connection.start`.
    pub identity: Identity,
    /// Heartbeat interval proposed in `connection.tune`, seconds; 0 proposes none.
    pub heartbeat_s: u16,
    /// Largest frame proposed in `connection.tune`, bytes, all eight of its envelope included.
    pub frame_max: u32,
    /// Largest channel number proposed in `connection.tune`.
    pub channel_max: u16,
    /// Time from accepting a socket to `connection.open-ok`, milliseconds.
    pub handshake_timeout_ms: u64,
    /// Time for a client to answer `connection.close`, milliseconds.
    pub close_timeout_ms: u64,
    /// Largest message body, bytes; a larger one closes its channel with 406.
    pub max_message_size: u64,
    /// Wait before wrong credentials are answered, milliseconds.
    pub login_failure_delay_ms: u64,
    /// Users that may log in from the broker's own machine only.
    pub loopback_users: Vec<String>,
}

/// The product and version told to clients in `connection.start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// Leveret and its own version.
    Leveret,
    /// RabbitMQ and the version Leveret follows, for clients that ask for it by name.
    Rabbitmq,
}

/// Who may log in without a secret of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// The user of clients that log in with ANONYMOUS; empty offers no such login.
    pub anonymous_user: String,
    /// Whether a user with the built-in password may log in from other machines.
    pub allow_default_password: bool,
}

/// The first user and virtual host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bootstrap {
    /// Name of the first user.
    pub user: String,
    /// Password of the first user.
    pub password: Secret,
    /// Name of the first virtual host.
    pub vhost: String,
    /// How the passwords of new users are hashed.
    pub password_hashing: PasswordHashing,
}

/// How the passwords of new users are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PasswordHashing {
    /// As RabbitMQ does, so that definitions can go there.
    Sha256,
    /// RabbitMQ's alternative.
    Sha512,
    /// Slow to guess; no RabbitMQ understands it.
    Argon2id,
}

/// Upper bounds of everything a client can make grow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientLimits {
    /// Messages in one queue, ready and unacknowledged, where nothing else limits it.
    pub queue_length_max: u64,
    /// Body bytes in one queue, ready and unacknowledged, where nothing else limits it.
    pub queue_bytes_max: u64,
    /// Milliseconds that a delivery may stay unacknowledged, where nothing else says; 0: for ever.
    pub consumer_timeout_ms: u64,
    /// Open connections.
    pub connections_max: u64,
    /// Open connections of one user; 0 leaves it to `connections_max`.
    pub connections_per_user_max: u64,
    /// Open connections to one virtual host; 0 leaves it to `connections_max`.
    pub connections_per_vhost_max: u64,
    /// Consumers on one channel.
    pub consumers_per_channel_max: u64,
    /// Queues in the broker.
    pub queues_max: u64,
    /// Exchanges in the broker.
    pub exchanges_max: u64,
    /// Bindings in the broker.
    pub bindings_max: u64,
    /// Arguments of one queue, exchange, binding or consumer, bytes.
    pub arguments_bytes_max: u64,
    /// Deliveries of one channel that wait for an acknowledgement; then delivery pauses.
    pub channel_unacked_max: u64,
    /// Message bytes of all queues kept in memory; 0 takes a quarter of the memory limit.
    pub resident_bytes: u64,
    /// What each queue, or each level of priority in it, keeps of them while there is plenty; the
    /// rest is on the disk. 0 writes nothing there.
    pub queue_resident_bytes: u64,
    /// Memory of the messages that one connection has begun and not completed, unless it is one.
    pub assembly_bytes_max: u64,
    /// Memory of what all connections have begun and not completed: messages that arrive in parts,
    /// transactions that are not committed; 0 takes an eighth of the memory limit.
    pub unfinished_bytes_max: u64,
    /// Seconds that a message which arrives in parts may make no progress.
    pub body_timeout_s: u64,
    /// Messages and settlements of one transaction, bytes; a larger one closes its channel.
    pub transaction_bytes_max: u64,
    /// Unsent replies, confirms and returns of one connection, bytes; then it is not read.
    pub reply_bytes_max: u64,
    /// Unsent deliveries of one connection, bytes; then its consumers are skipped.
    pub outbound_bytes_max: u64,
    /// Part of the memory limit at which publishing connections are blocked.
    pub memory_high_watermark: f64,
    /// The same in bytes; 0 leaves it to `memory_high_watermark`.
    pub memory_high_watermark_bytes: u64,
    /// Free bytes on the data folder's disk below which publishing connections are blocked.
    pub disk_free_min: u64,
    /// Refused logins from one address in a minute; then further logins take turns.
    pub login_failures_per_minute: u32,
}

/// What is logged and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The form of a log line.
    pub format: LogFormat,
    /// The least severe level that is logged.
    pub level: LogLevel,
    /// Directives such as `info,leveret::connection=debug`; when given, used instead of `level`.
    pub filter: String,
    /// Lines about ended connections of one address in a minute; 0 sets no limit.
    pub connections_per_minute: u32,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; with colours when standard error is a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

/// The least severe level that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// A person should look.
    Error,
    /// Something is refused, limited or lost.
    Warn,
    /// Start, stop and what operators ask for.
    Info,
    /// Each connection's life.
    Debug,
    /// Everything.
    Trace,
}

/// The HTTP API and the metrics endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Management {
    /// Addresses of the HTTP API, `host:port`; none turns it off.
    pub listen: Vec<String>,
    /// Addresses of the metrics endpoint, `host:port`; none turns it off.
    pub metrics_listen: Vec<String>,
    /// A file of definitions that is imported at each start; empty for none.
    pub load_definitions: String,
    /// Bodies of requests and what is read of them, all together, bytes.
    pub bodies_bytes_max: u64,
    /// Largest definitions that are imported over HTTP, bytes.
    pub definitions_bytes_max: u64,
    /// HTTP connections open at a time.
    pub connections_max: u64,
    /// Requests worked on at a time; further ones wait.
    pub requests_max: u64,
    /// Time between two samples of all counters, milliseconds.
    pub sample_interval_ms: u64,
    /// What tools know the node as; empty for `rabbit@` and the machine's name.
    pub node_name: String,
    /// Objects of each kind whose past values are kept.
    pub history_objects_max: u64,
    /// Bytes that all long answers together may take while they are sent or sorted.
    pub lists_bytes_max: u64,
    /// Servers whose pages may use the API from a browser; `*` is any.
    pub cors_origins: Vec<String>,
}

/// Threads and stopping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// Threads that serve connections; 0 takes one for each core.
    pub worker_threads: u32,
    /// Time for clients to answer `connection.close` when the broker stops, milliseconds.
    pub drain_timeout_ms: u64,
}

/// How messages reach the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// When a confirmed message is on disk.
    pub sync: SyncMode,
    /// What to do at start about confirmed messages that cannot be read.
    pub on_corruption: Corruption,
    /// How long the journal may become, bytes, before it hands over what is in run files.
    pub journal_window: u64,
    /// How many bytes of run files that nobody asks for are checked a second; 0: none.
    pub scrub_rate: u64,
    /// Where backups are put; empty for the folder `backups` in the data folder.
    pub backup_dir: String,
}

/// What to do about confirmed messages that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Corruption {
    /// Start without them and say which they are.
    Salvage,
    /// Do not start.
    Refuse,
}

/// When a confirmed message is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncMode {
    /// One sync for all messages that wait, and a confirm only after it.
    Group,
    /// Whenever the operating system writes; a power failure loses confirmed messages.
    Os,
}

impl Config {
    /// Reads every source and puts the settings together.
    ///
    /// # Errors
    ///
    /// All unknown keys, bad values and unreadable files, each with its place.
    pub fn load(arguments: &Arguments) -> Result<Self, ConfigError> {
        Self::from_sources(&Sources::gather(arguments)?)
    }

    /// Puts the settings of these sources together, touching nothing outside them.
    ///
    /// # Errors
    ///
    /// All unknown keys and bad values, each with its place.
    pub fn from_sources(sources: &Sources) -> Result<Self, ConfigError> {
        layers::merge(sources)
    }
}

impl ClientLimits {
    /// Returns the bytes of messages kept in memory, on a machine with this memory limit, if it
    /// tells one: without, only what is configured bounds them.
    #[must_use]
    pub fn resident_bytes_of(&self, memory_limit_bytes: Option<u64>) -> u64 {
        if self.resident_bytes == 0 {
            memory_limit_bytes.map_or(u64::MAX, |bytes| bytes / 4)
        } else {
            self.resident_bytes
        }
    }

    /// Returns the bytes that all connections together may have begun and not completed, on such a
    /// machine: of messages up to `message_bytes_max`, two fit at least.
    #[must_use]
    pub fn unfinished_bytes_of(
        &self,
        memory_limit_bytes: Option<u64>,
        message_bytes_max: u64,
    ) -> u64 {
        let least = message_bytes_max.saturating_mul(2);
        match (self.unfinished_bytes_max, memory_limit_bytes) {
            (0, None) => u64::MAX,
            (0, Some(bytes)) => (bytes / 8).max(least),
            (set, _) => set,
        }
    }

    /// Returns the part of this memory limit at which the memory alarm sounds.
    #[must_use]
    pub fn memory_high_watermark_of(&self, memory_limit_bytes: u64) -> f64 {
        if self.memory_high_watermark_bytes == 0 {
            self.memory_high_watermark
        } else {
            (self.memory_high_watermark_bytes as f64 / memory_limit_bytes as f64).min(1.0)
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./leveret-data"),
            amqp: Amqp::default(),
            auth: Auth::default(),
            default: Bootstrap::default(),
            limits: ClientLimits::default(),
            log: Log::default(),
            management: Management::default(),
            runtime: Runtime::default(),
            storage: Storage::default(),
            file: None,
            without_effect: Vec::new(),
        }
    }
}

impl Default for Amqp {
    fn default() -> Self {
        Self {
            listen: vec!["0.0.0.0:5672".to_owned(), "[::]:5672".to_owned()],
            identity: Identity::Leveret,
            heartbeat_s: 60,
            frame_max: 131_072,
            channel_max: 2_047,
            handshake_timeout_ms: 10_000,
            close_timeout_ms: 30_000,
            max_message_size: 128 * MIB,
            login_failure_delay_ms: 0,
            loopback_users: vec!["guest".to_owned()],
        }
    }
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            user: "guest".to_owned(),
            password: Secret::new(DEFAULT_PASSWORD.to_owned()),
            vhost: "/".to_owned(),
            password_hashing: PasswordHashing::Sha256,
        }
    }
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            queue_length_max: 10_000_000,
            queue_bytes_max: 8 * GIB,
            consumer_timeout_ms: 0,
            connections_max: 100_000,
            connections_per_user_max: 0,
            connections_per_vhost_max: 0,
            consumers_per_channel_max: 10_000,
            queues_max: 1_000_000,
            exchanges_max: 100_000,
            bindings_max: 2_000_000,
            arguments_bytes_max: 16 << 10,
            channel_unacked_max: 1_000_000,
            resident_bytes: 0,
            queue_resident_bytes: 16 * MIB,
            assembly_bytes_max: 256 * MIB,
            unfinished_bytes_max: 0,
            body_timeout_s: 60,
            transaction_bytes_max: 256 * MIB,
            reply_bytes_max: MIB,
            outbound_bytes_max: 128 * KIB,
            memory_high_watermark: 0.6,
            memory_high_watermark_bytes: 0,
            disk_free_min: GIB,
            login_failures_per_minute: 60,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Human,
            level: LogLevel::Info,
            filter: String::new(),
            connections_per_minute: 600,
        }
    }
}

impl Default for Management {
    fn default() -> Self {
        let everywhere = |port: u16| vec![format!("0.0.0.0:{port}"), format!("[::]:{port}")];
        Self {
            listen: everywhere(15_672),
            metrics_listen: everywhere(15_692),
            load_definitions: String::new(),
            bodies_bytes_max: 256 * MIB,
            definitions_bytes_max: 512 * MIB,
            connections_max: 1_024,
            requests_max: 64,
            sample_interval_ms: 5_000,
            node_name: String::new(),
            history_objects_max: 1_000,
            lists_bytes_max: 64 << 20,
            cors_origins: Vec::new(),
        }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            worker_threads: 0,
            drain_timeout_ms: 5_000,
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            sync: SyncMode::Group,
            on_corruption: Corruption::Salvage,
            journal_window: 256 * MIB,
            scrub_rate: 8 * MIB,
            backup_dir: String::new(),
        }
    }
}

impl LogLevel {
    /// Returns the level's name as a log filter spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The first user's password until another one is given. Everybody knows it.
pub const DEFAULT_PASSWORD: &str = "guest";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
