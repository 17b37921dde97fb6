//! What the configuration means for the broker below.

use std::time::Duration;

use leveret_broker::{BrokerConfig, Hashing, Product, QueueDefaults};

use crate::config::{self, Config};
use crate::connection::Patience;
use crate::process::memory_limit;
use crate::server::aside;

/// The broker's settings; what nobody may know is still to be added.
pub(crate) fn of_broker(config: &Config) -> BrokerConfig {
    let limits = &config.limits;
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let some = |value: u64| (value > 0).then(|| i64::try_from(value).unwrap_or(i64::MAX));
    let memory_bytes = memory_bytes(config);
    BrokerConfig {
        node: crate::host::node_name(&config.management.node_name),
        identity: match config.amqp.identity {
            config::Identity::Leveret => Product::Leveret,
            config::Identity::Rabbitmq => Product::RabbitMq,
        },
        frame_max: config.amqp.frame_max,
        channel_max: config.amqp.channel_max,
        heartbeat_s: config.amqp.heartbeat_s,
        max_message_bytes: config.amqp.max_message_size,
        assembly_bytes_max: size(limits.assembly_bytes_max),
        unfinished_bytes_max: limits.unfinished_bytes_of(
            memory_limit().map(|memory| memory.bytes),
            config.amqp.max_message_size,
        ),
        body_timeout_ms: limits.body_timeout_s * 1000,
        transaction_bytes_max: size(limits.transaction_bytes_max),
        outbound_bytes_max: size(limits.outbound_bytes_max),
        reply_bytes_max: size(limits.reply_bytes_max),
        resident_bytes_max: limits.resident_bytes_of(memory_limit().map(|memory| memory.bytes)),
        queue_resident_bytes: limits.queue_resident_bytes,
        channel_unacked_max: size(limits.channel_unacked_max),
        consumers_per_channel_max: size(limits.consumers_per_channel_max),
        connections_max: size(limits.connections_max),
        connections_per_user_max: some(limits.connections_per_user_max),
        connections_per_vhost_max: some(limits.connections_per_vhost_max),
        memory_limit_bytes: memory_bytes,
        memory_high_watermark: limits.memory_high_watermark_of(memory_bytes),
        disk_free_min: limits.disk_free_min,
        queues_max: size(limits.queues_max),
        exchanges_max: size(limits.exchanges_max),
        bindings_max: size(limits.bindings_max),
        arguments_bytes_max: size(limits.arguments_bytes_max),
        queue: QueueDefaults {
            length_max: limits.queue_length_max,
            bytes_max: limits.queue_bytes_max,
            consumer_timeout_ms: limits.consumer_timeout_ms,
        },
        password_hashing: match config.default.password_hashing {
            config::PasswordHashing::Sha256 => Hashing::Sha256,
            config::PasswordHashing::Sha512 => Hashing::Sha512,
            config::PasswordHashing::Argon2id => Hashing::Argon2id,
        },
        aside,
        anonymous_user: some_text(&config.auth.anonymous_user),
        ..BrokerConfig::default()
    }
}

/// The memory that the high watermark is a part of. Where the system tells no limit, there is only
/// what is configured.
fn memory_bytes(config: &Config) -> u64 {
    let configured = config.limits.memory_high_watermark_bytes;
    let unknown = if configured > 0 { configured } else { u64::MAX };
    memory_limit().map_or(unknown, |memory| memory.bytes)
}

/// Part of the memory in use at which publishers are blocked.
pub(crate) fn memory_high_watermark(config: &Config) -> f64 {
    config.limits.memory_high_watermark_of(memory_bytes(config))
}

/// How long the beginning and the end of a connection may take.
pub(crate) const fn patience(config: &Config) -> Patience {
    let amqp = &config.amqp;
    Patience {
        handshake: Duration::from_millis(amqp.handshake_timeout_ms),
        close: Duration::from_millis(amqp.close_timeout_ms),
        login_failure_delay: Duration::from_millis(amqp.login_failure_delay_ms),
    }
}

fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
