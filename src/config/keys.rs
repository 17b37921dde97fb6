//! The table of every key: what it accepts, and which one a misspelt key is nearest to.

use super::value::ValueKind;

/// Returns the full name of every key, such as `amqp.listen`.
pub fn key_names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|(name, _)| *name)
}

/// Returns what the key accepts, or nothing for an unknown key.
pub(super) fn kind_of(key: &str) -> Option<&'static ValueKind> {
    KEYS.iter()
        .find(|(name, _)| *name == key)
        .map(|(_, kind)| kind)
}

/// Returns whether a running broker takes a new value of the key over when it gets SIGHUP.
#[must_use]
pub fn is_reloadable(key: &str) -> bool {
    RELOADABLE.contains(&key)
}

/// Returns whether some key starts with this section's name.
pub(super) fn is_section(name: &str) -> bool {
    key_names().any(|key| {
        key.split_once('.')
            .is_some_and(|(section, _)| section == name)
    })
}

/// Returns the environment variable that sets a key.
pub(super) fn variable_of(key: &str) -> String {
    format!(
        "{VARIABLE_PREFIX}{}",
        key.replace('.', "_").to_ascii_uppercase()
    )
}

/// Returns the known key that a misspelt one most likely means.
pub(super) fn nearest_key(wrong: &str) -> Option<&'static str> {
    nearest(key_names().map(|key| {
        let whole = similarity(wrong, key);
        let last = similarity(last_part(wrong), last_part(key)) * OTHER_SECTION;
        (whole.max(last), key)
    }))
}

/// Returns the known section that a misspelt one most likely means.
pub(super) fn nearest_section(wrong: &str) -> Option<&'static str> {
    let sections = key_names()
        .filter_map(|key| key.split_once('.'))
        .map(|(section, _)| section);
    nearest(sections.map(|section| (similarity(wrong, section), section)))
}

fn nearest(scored: impl Iterator<Item = (f64, &'static str)>) -> Option<&'static str> {
    scored
        .filter(|(score, _)| *score >= SIMILAR_ENOUGH)
        // Of equals the first one, which is the more common section.
        .min_by(|(left, _), (right, _)| right.total_cmp(left))
        .map(|(_, name)| name)
}

/// Compares two names from 0 to 1, whatever the order of their words: RabbitMQ writes
/// `max_connections` where Leveret writes `connections_max`.
fn similarity(left: &str, right: &str) -> f64 {
    let sorted = |name: &str| {
        let mut words: Vec<&str> = name.split('_').collect();
        words.sort_unstable();
        words.join("_")
    };
    let reordered = strsim::normalized_damerau_levenshtein(&sorted(left), &sorted(right));
    strsim::normalized_damerau_levenshtein(left, right).max(reordered)
}

fn last_part(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, last)| last)
}

/// What every environment variable of ours starts with.
pub(super) const VARIABLE_PREFIX: &str = "LEVERET_";

/// Below this, a suggestion would be a guess.
const SIMILAR_ENOUGH: f64 = 0.6;

/// The same name in another section is a weaker match than a near name in the same one.
const OTHER_SECTION: f64 = 0.95;

const MAX: u64 = i64::MAX as u64;
const COUNT: ValueKind = ValueKind::Integer {
    min: 1,
    max: u32::MAX as u64,
};
const COUNT_OR_NONE: ValueKind = ValueKind::Integer {
    min: 0,
    max: u32::MAX as u64,
};

const KEYS: &[(&str, ValueKind)] = &[
    ("data_dir", ValueKind::Text),
    ("amqp.listen", ValueKind::Addresses),
    ("amqp.identity", ValueKind::Choice(&["leveret", "rabbitmq"])),
    (
        "amqp.heartbeat_s",
        ValueKind::Integer {
            min: 0,
            max: 65_535,
        },
    ),
    // AMQP 0-9-1 lets no peer refuse a frame of 4,096 bytes.
    (
        "amqp.frame_max",
        ValueKind::Bytes {
            min: 4_096,
            max: 16 << 20,
        },
    ),
    (
        "amqp.channel_max",
        ValueKind::Integer {
            min: 1,
            max: 65_535,
        },
    ),
    (
        "amqp.handshake_timeout_ms",
        ValueKind::Integer {
            min: 100,
            max: 3_600_000,
        },
    ),
    (
        "amqp.close_timeout_ms",
        ValueKind::Integer {
            min: 100,
            max: 3_600_000,
        },
    ),
    // RabbitMQ's own ceiling, so that a message can always go back to it.
    (
        "amqp.max_message_size",
        ValueKind::Bytes {
            min: 1,
            max: 512 << 20,
        },
    ),
    (
        "amqp.login_failure_delay_ms",
        ValueKind::Integer {
            min: 0,
            max: 60_000,
        },
    ),
    ("amqp.loopback_users", ValueKind::Names),
    ("auth.anonymous_user", ValueKind::ShortTextOrNone),
    ("auth.allow_default_password", ValueKind::Flag),
    ("default.user", ValueKind::ShortText),
    ("default.password", ValueKind::Secret),
    ("default.vhost", ValueKind::ShortText),
    (
        "default.password_hashing",
        ValueKind::Choice(&["sha256", "sha512", "argon2id"]),
    ),
    (
        "limits.queue_length_max",
        ValueKind::Integer { min: 1, max: MAX },
    ),
    (
        "limits.queue_bytes_max",
        ValueKind::Bytes { min: 1, max: MAX },
    ),
    (
        "limits.consumer_timeout_ms",
        ValueKind::Integer { min: 0, max: MAX },
    ),
    ("limits.connections_max", COUNT),
    ("limits.connections_per_user_max", COUNT_OR_NONE),
    ("limits.connections_per_vhost_max", COUNT_OR_NONE),
    ("limits.consumers_per_channel_max", COUNT),
    ("limits.queues_max", COUNT),
    ("limits.exchanges_max", COUNT),
    ("limits.bindings_max", COUNT),
    (
        "limits.arguments_bytes_max",
        ValueKind::Bytes {
            min: 1_024,
            max: MAX,
        },
    ),
    ("limits.channel_unacked_max", COUNT),
    (
        "limits.resident_bytes",
        ValueKind::Bytes { min: 0, max: MAX },
    ),
    (
        "limits.queue_resident_bytes",
        ValueKind::Bytes { min: 0, max: MAX },
    ),
    (
        "limits.assembly_bytes_max",
        ValueKind::Bytes {
            min: 4_096,
            max: MAX,
        },
    ),
    (
        "limits.unfinished_bytes_max",
        ValueKind::Bytes { min: 0, max: MAX },
    ),
    (
        "limits.body_timeout_s",
        ValueKind::Integer {
            min: 1,
            max: 86_400,
        },
    ),
    (
        "limits.transaction_bytes_max",
        ValueKind::Bytes {
            min: 4_096,
            max: MAX,
        },
    ),
    (
        "limits.reply_bytes_max",
        ValueKind::Bytes {
            min: 4_096,
            max: 1 << 30,
        },
    ),
    (
        "limits.outbound_bytes_max",
        ValueKind::Bytes {
            min: 4_096,
            max: 1 << 30,
        },
    ),
    ("limits.memory_high_watermark", ValueKind::Fraction),
    (
        "limits.memory_high_watermark_bytes",
        ValueKind::Bytes { min: 0, max: MAX },
    ),
    (
        "limits.disk_free_min",
        ValueKind::Bytes { min: 0, max: MAX },
    ),
    ("limits.login_failures_per_minute", COUNT_OR_NONE),
    ("log.format", ValueKind::Choice(&["human", "json"])),
    (
        "log.level",
        ValueKind::Choice(&["error", "warn", "info", "debug", "trace"]),
    ),
    ("log.filter", ValueKind::LogFilter),
    ("log.connections_per_minute", COUNT_OR_NONE),
    ("management.listen", ValueKind::AddressesOrNone),
    ("management.metrics_listen", ValueKind::AddressesOrNone),
    ("management.load_definitions", ValueKind::TextOrNone),
    (
        "management.bodies_bytes_max",
        ValueKind::Bytes {
            min: 1 << 20,
            max: MAX,
        },
    ),
    (
        "management.definitions_bytes_max",
        ValueKind::Bytes {
            min: 4_096,
            max: 1 << 32,
        },
    ),
    ("management.connections_max", COUNT),
    // Each works on a thread of its own.
    (
        "management.requests_max",
        ValueKind::Integer { min: 1, max: 256 },
    ),
    (
        "management.sample_interval_ms",
        ValueKind::Integer {
            min: 100,
            max: 60_000,
        },
    ),
    ("management.node_name", ValueKind::ShortTextOrNone),
    (
        "management.history_objects_max",
        ValueKind::Integer {
            min: 0,
            max: 100_000,
        },
    ),
    // At least one answer fits.
    (
        "management.lists_bytes_max",
        ValueKind::Bytes {
            min: 1 << 20,
            max: 64 << 30,
        },
    ),
    ("management.cors_origins", ValueKind::Names),
    (
        "runtime.worker_threads",
        ValueKind::Integer { min: 0, max: 1_024 },
    ),
    (
        "runtime.drain_timeout_ms",
        ValueKind::Integer {
            min: 0,
            max: 3_600_000,
        },
    ),
    ("storage.sync", ValueKind::Choice(&["group", "os"])),
    ("storage.backup_dir", ValueKind::TextOrNone),
    (
        "storage.on_corruption",
        ValueKind::Choice(&["salvage", "refuse"]),
    ),
    (
        "storage.journal_window",
        ValueKind::Bytes {
            min: 16 << 20,
            max: MAX,
        },
    ),
    ("storage.scrub_rate", ValueKind::Bytes { min: 0, max: MAX }),
];

/// The keys that a running broker takes over; `config/leveret.toml` marks them with `(SIGHUP)`.
const RELOADABLE: &[&str] = &[
    "amqp.handshake_timeout_ms",
    "amqp.close_timeout_ms",
    "amqp.login_failure_delay_ms",
    "amqp.loopback_users",
    "default.password_hashing",
    "limits.queue_length_max",
    "limits.queue_bytes_max",
    "limits.consumer_timeout_ms",
    "limits.connections_max",
    "limits.connections_per_user_max",
    "limits.connections_per_vhost_max",
    "limits.consumers_per_channel_max",
    "limits.queues_max",
    "limits.exchanges_max",
    "limits.bindings_max",
    "limits.arguments_bytes_max",
    "limits.transaction_bytes_max",
    "limits.memory_high_watermark",
    "limits.memory_high_watermark_bytes",
    "limits.login_failures_per_minute",
    "log.level",
    "log.filter",
    "log.connections_per_minute",
    "management.load_definitions",
];
