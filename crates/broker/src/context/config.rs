//! Settings of the broker, and those of them that change while it runs.

use leveret_access::Hashing;
use leveret_record::POOLED_BYTES;

/// The product told to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Product {
    /// By its own name.
    #[default]
    Leveret,
    /// RabbitMQ, for clients that insist.
    RabbitMq,
}

/// Bounds of a queue for which nothing else sets them; ready and unacknowledged messages count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueDefaults {
    /// Most messages.
    pub length_max: u64,
    /// Most body bytes.
    pub bytes_max: u64,
    /// How long a delivery may wait for its settlement, milliseconds; 0 is for ever.
    pub consumer_timeout_ms: u64,
}

/// Settings of the broker; see `config/leveret.toml` for what they mean.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the configuration file documents them")]
pub struct BrokerConfig {
    /// What tools know the node as.
    pub node: String,
    pub identity: Product,
    pub frame_max: u32,
    pub channel_max: u16,
    pub heartbeat_s: u16,
    pub max_message_bytes: u64,
    pub assembly_bytes_max: usize,
    pub unfinished_bytes_max: u64,
    pub body_timeout_ms: u64,
    pub transaction_bytes_max: usize,
    pub outbound_bytes_max: usize,
    pub reply_bytes_max: usize,
    pub resident_bytes_max: u64,
    pub queue_resident_bytes: u64,
    /// Most bytes of one chunk of a queue.
    pub chunk_bytes: usize,
    pub channel_unacked_max: usize,
    pub consumers_per_channel_max: usize,
    pub connections_max: usize,
    pub connections_per_user_max: Option<i64>,
    pub connections_per_vhost_max: Option<i64>,
    pub memory_limit_bytes: u64,
    pub memory_high_watermark: f64,
    pub disk_free_min: u64,
    pub queues_max: usize,
    pub exchanges_max: usize,
    pub bindings_max: usize,
    pub arguments_bytes_max: usize,
    pub queue: QueueDefaults,
    /// Of the hash tables whose keys clients choose: nobody outside may learn it.
    pub seed: u64,
    /// What the names the server makes up and the salts of passwords come from.
    pub secret: [u8; 32],
    /// For new passwords.
    pub password_hashing: Hashing,
    /// Runs what takes long, such as a slow password hash, so that nobody else waits for it.
    pub aside: fn(&mut dyn FnMut()),
    pub cluster_name: String,
    /// Who logs in without a name and a password; nobody without one.
    pub anonymous_user: Option<String>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            node: "rabbit@localhost".to_owned(),
            identity: Product::Leveret,
            frame_max: 131_072,
            channel_max: 2047,
            heartbeat_s: 60,
            max_message_bytes: 128 << 20,
            assembly_bytes_max: 256 << 20,
            unfinished_bytes_max: u64::MAX,
            body_timeout_ms: 60_000,
            transaction_bytes_max: 256 << 20,
            outbound_bytes_max: 128 << 10,
            reply_bytes_max: 1 << 20,
            resident_bytes_max: u64::MAX,
            queue_resident_bytes: 0,
            chunk_bytes: POOLED_BYTES,
            channel_unacked_max: 1_000_000,
            consumers_per_channel_max: 10_000,
            connections_max: 100_000,
            connections_per_user_max: None,
            connections_per_vhost_max: None,
            memory_limit_bytes: u64::MAX,
            memory_high_watermark: 0.6,
            disk_free_min: 1 << 30,
            queues_max: 1_000_000,
            exchanges_max: 100_000,
            bindings_max: 2_000_000,
            arguments_bytes_max: 16 << 10,
            queue: QueueDefaults {
                length_max: 10_000_000,
                bytes_max: 8 << 30,
                consumer_timeout_ms: 0,
            },
            seed: 0,
            secret: [0; 32],
            password_hashing: Hashing::Sha256,
            aside: |work| work(),
            cluster_name: "leveret@localhost".into(),
            anonymous_user: None,
        }
    }
}

/// Settings that hold from the moment they are changed; see `config/leveret.toml` for what they
/// mean. What exists already is never deleted for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the configuration file documents them")]
pub struct BrokerLimits {
    pub connections_max: usize,
    pub connections_per_user_max: Option<i64>,
    pub connections_per_vhost_max: Option<i64>,
    pub consumers_per_channel_max: usize,
    pub queues_max: usize,
    pub exchanges_max: usize,
    pub bindings_max: usize,
    pub arguments_bytes_max: usize,
    pub transaction_bytes_max: usize,
    pub queue: QueueDefaults,
    /// For new passwords.
    pub password_hashing: Hashing,
}

impl From<&BrokerConfig> for BrokerLimits {
    fn from(config: &BrokerConfig) -> Self {
        Self {
            connections_max: config.connections_max,
            connections_per_user_max: config.connections_per_user_max,
            connections_per_vhost_max: config.connections_per_vhost_max,
            consumers_per_channel_max: config.consumers_per_channel_max,
            queues_max: config.queues_max,
            exchanges_max: config.exchanges_max,
            bindings_max: config.bindings_max,
            arguments_bytes_max: config.arguments_bytes_max,
            transaction_bytes_max: config.transaction_bytes_max,
            queue: config.queue,
            password_hashing: config.password_hashing,
        }
    }
}
