//! The table: every argument of a queue, and every key of a policy.

use crate::rule::Rule;

/// The argument that names a queue's type.
pub const QUEUE_TYPE: &str = "x-queue-type";
/// The type of queues that are declared without one.
pub const CLASSIC: &str = "classic";
/// The type with RabbitMQ's defaults of replicated queues.
pub const QUORUM: &str = "quorum";
/// The argument, of a queue or a consumer, that says how long a delivery may stay unsettled.
pub const CONSUMER_TIMEOUT: &str = "x-consumer-timeout";

/// Something that queues or exchanges can be set to.
///
/// What a policy can set may change at any time; what only an argument can set holds for as long
/// as the queue exists.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name as an argument of a queue, and what that must be.
    pub argument: Option<(&'static str, Rule)>,
    /// How a policy sets it.
    pub policy: Option<InPolicy>,
    /// What holds of an argument and a policy.
    pub merge: Merge,
    /// What it applies to.
    pub on: On,
    /// Whether it does anything.
    pub effect: Effect,
}

/// How a policy sets something.
#[derive(Clone, Copy, Debug)]
pub struct InPolicy {
    /// Its name there.
    pub key: &'static str,
    /// What the value must be.
    pub rule: Rule,
    /// What a refusal calls it.
    pub what: &'static str,
    /// An operator's policy may set it, too.
    pub by_operators: bool,
}

/// What holds if both an argument and a policy set something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// The lower number.
    Lower,
    /// The lower number of those that are not negative.
    LowerLimit,
    /// What the argument says.
    Argument,
}

/// What a setting applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Queues of any type.
    Queues,
    /// Queues that are not quorum queues: these refuse it as an argument.
    Classic,
    /// Exchanges of any type.
    Exchanges,
    /// Streams and links, of which there are none.
    Others,
}

/// Whether a setting does anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What RabbitMQ does with it, or Leveret alone.
    Full,
    /// Nothing on one node, or nowhere any more: RabbitMQ does as little with it.
    Idle,
    /// It is checked and kept.
    None,
}

impl Setting {
    const fn argument(name: &'static str, rule: Rule) -> Self {
        Self {
            argument: Some((name, rule)),
            policy: None,
            merge: Merge::Lower,
            on: On::Queues,
            effect: Effect::Full,
        }
    }

    const fn only_policy(key: &'static str, rule: Rule, what: &'static str) -> Self {
        let setting = Self::argument("", Rule::Ignored).policy(key, rule, what);
        Self {
            argument: None,
            ..setting
        }
    }

    const fn policy(mut self, key: &'static str, rule: Rule, what: &'static str) -> Self {
        self.policy = Some(InPolicy {
            key,
            rule,
            what,
            by_operators: false,
        });
        self
    }

    /// An operator's policy may set it, too.
    const fn by_operators(mut self) -> Self {
        if let Some(policy) = &mut self.policy {
            policy.by_operators = true;
        }
        self
    }

    const fn merged(mut self, merge: Merge) -> Self {
        self.merge = merge;
        self
    }

    const fn on(mut self, on: On) -> Self {
        self.on = on;
        self
    }

    const fn does(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// Its name as an argument.
    #[must_use]
    pub fn argument_name(&self) -> Option<&'static str> {
        self.argument.map(|(name, _)| name)
    }

    /// Whether it may change while its queue or exchange is in use.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.policy.is_some()
    }
}

const OVERFLOWS: Rule = Rule::OneOf(
    &["drop-head", "reject-publish", "reject-publish-dlx"],
    "invalid_overflow",
);
const STRATEGIES: Rule = Rule::OneOf(&["at-most-once", "at-least-once"], "invalid_dlx_strategy");
const DROPS: Rule = Rule::OneOf(&["head", "lowest"], "invalid_overflow_drop");
const NACK_REASONS: Rule = Rule::OneOf(&["none", "return"], "invalid_nack_reason");
const ACTIONS: Rule = Rule::OneOf(&["requeue", "close"], "invalid_consumer_timeout_action");
const MODES: Rule = Rule::OneOf(&["default", "lazy"], "invalid_queue_mode");
const LOCATORS: Rule = Rule::OneOf(
    &["client-local", "balanced", "random", "least-leaders"],
    "invalid_queue_leader_locator",
);
const RETRIES: Rule = Rule::OneOf(
    &["all", "failed", "returned", "disabled"],
    "invalid_delayed_retry_type",
);

pub(crate) const EXPIRES: Setting = Setting::argument("x-expires", Rule::Milliseconds(1))
    .policy("expires", Rule::AtLeast(1), "queue expiry")
    .by_operators();
pub(crate) const MESSAGE_TTL: Setting = Setting::argument("x-message-ttl", Rule::Milliseconds(0))
    .policy("message-ttl", Rule::AtLeast(0), "message TTL")
    .by_operators();
pub(crate) const MAX_LENGTH: Setting = Setting::argument("x-max-length", Rule::AtLeast(0))
    .policy("max-length", Rule::AtLeast(0), "maximum length")
    .by_operators();
pub(crate) const MAX_LENGTH_BYTES: Setting =
    Setting::argument("x-max-length-bytes", Rule::AtLeast(0))
        .policy(
            "max-length-bytes",
            Rule::AtLeast(0),
            "maximum length in bytes",
        )
        .by_operators();
pub(crate) const OVERFLOW: Setting = Setting::argument("x-overflow", OVERFLOWS)
    .policy("overflow", OVERFLOWS, "overflow value")
    .by_operators()
    .merged(Merge::Argument);
pub(crate) const DEAD_LETTER_EXCHANGE: Setting =
    Setting::argument("x-dead-letter-exchange", Rule::Name)
        .policy(
            "dead-letter-exchange",
            Rule::Name,
            "dead letter exchange name",
        )
        .merged(Merge::Argument);
pub(crate) const DEAD_LETTER_ROUTING_KEY: Setting =
    Setting::argument("x-dead-letter-routing-key", Rule::Text)
        .policy(
            "dead-letter-routing-key",
            Rule::Text,
            "dead letter routing key",
        )
        .merged(Merge::Argument);
pub(crate) const DEAD_LETTER_STRATEGY: Setting =
    Setting::argument("x-dead-letter-strategy", STRATEGIES)
        .policy("dead-letter-strategy", STRATEGIES, "dead letter strategy")
        .merged(Merge::Argument);
pub(crate) const OVERFLOW_DROP: Setting = Setting::argument("x-overflow-drop", DROPS)
    .policy("overflow-drop", DROPS, "overflow drop value")
    .by_operators()
    .merged(Merge::Argument);
pub(crate) const NACK_REASON: Setting = Setting::argument("x-nack-reason", NACK_REASONS)
    .policy("nack-reason", NACK_REASONS, "nack reason value")
    .by_operators()
    .merged(Merge::Argument);
pub(crate) const MAX_PRIORITY: Setting =
    Setting::argument("x-max-priority", Rule::Within(0, 255)).on(On::Classic);
pub(crate) const SINGLE_ACTIVE: Setting = Setting::argument("x-single-active-consumer", Rule::Flag);
pub(crate) const DELIVERY_LIMIT: Setting = Setting::argument("x-delivery-limit", Rule::Anything)
    .policy("delivery-limit", Rule::Integer, "delivery limit")
    .by_operators()
    .merged(Merge::LowerLimit);
pub(crate) const TIMEOUT: Setting = Setting::argument(CONSUMER_TIMEOUT, Rule::AtLeast(0))
    .policy("consumer-timeout", Rule::AtLeast(0), "consumer timeout")
    .by_operators();
pub(crate) const TIMEOUT_COUNTS: Setting =
    Setting::argument("x-consumer-timeout-counts", Rule::Flag)
        .policy(
            "consumer-timeout-counts",
            Rule::Flag,
            "consumer timeout flag",
        )
        .by_operators()
        .merged(Merge::Argument);
pub(crate) const TIMEOUT_ACTION: Setting = Setting::argument("x-consumer-timeout-action", ACTIONS)
    .policy(
        "consumer-timeout-action",
        ACTIONS,
        "consumer timeout action",
    )
    .by_operators()
    .merged(Merge::Argument);
pub(crate) const ALTERNATE_EXCHANGE: Setting =
    Setting::only_policy("alternate-exchange", Rule::Text, "alternate exchange name")
        .merged(Merge::Argument)
        .on(On::Exchanges);

/// Everything that RabbitMQ takes, so that its definitions can be imported, and what Leveret has
/// besides. Arguments are checked, and compared, in this order.
pub static SETTINGS: [Setting; 38] = [
    EXPIRES,
    MESSAGE_TTL,
    MAX_LENGTH,
    MAX_LENGTH_BYTES,
    OVERFLOW,
    DEAD_LETTER_EXCHANGE,
    DEAD_LETTER_ROUTING_KEY,
    DEAD_LETTER_STRATEGY,
    OVERFLOW_DROP,
    NACK_REASON,
    MAX_PRIORITY,
    SINGLE_ACTIVE,
    Setting::argument(QUEUE_TYPE, Rule::Text),
    DELIVERY_LIMIT,
    TIMEOUT,
    TIMEOUT_COUNTS,
    TIMEOUT_ACTION,
    Setting::argument("x-queue-mode", Rule::Text)
        .policy("queue-mode", MODES, "queue-mode value")
        .merged(Merge::Argument)
        .on(On::Classic)
        .does(Effect::Idle),
    ALTERNATE_EXCHANGE,
    // Of replication, and of what older versions had.
    Setting::argument("x-queue-version", Rule::Ignored)
        .policy("queue-version", Rule::Within(1, 2), "queue-version value")
        .by_operators()
        .does(Effect::Idle),
    Setting::argument("x-queue-master-locator", Rule::Ignored).does(Effect::Idle),
    Setting::argument("x-queue-leader-locator", Rule::Ignored)
        .policy(
            "queue-leader-locator",
            LOCATORS,
            "queue leader locator value",
        )
        .does(Effect::Idle),
    Setting::argument("x-initial-cluster-size", Rule::Ignored)
        .policy("initial-cluster-size", Rule::AtLeast(0), "cluster size")
        .does(Effect::Idle),
    Setting::argument("x-quorum-initial-group-size", Rule::Ignored).does(Effect::Idle),
    Setting::argument("x-quorum-target-group-size", Rule::Ignored)
        .policy(
            "target-group-size",
            Rule::AtLeast(1),
            "qq target count value",
        )
        .by_operators()
        .does(Effect::Idle),
    Setting::only_policy(
        "max-in-memory-length",
        Rule::AtLeast(0),
        "maximum memory in bytes",
    )
    .by_operators()
    .does(Effect::Idle),
    Setting::only_policy(
        "max-in-memory-bytes",
        Rule::AtLeast(0),
        "maximum memory in bytes",
    )
    .by_operators()
    .does(Effect::Idle),
    // Not there yet.
    ignored("delayed-retry-type", RETRIES, RETRY_TYPE).by_operators(),
    ignored("delayed-retry-min", Rule::AtLeast(1), RETRY_MIN).by_operators(),
    ignored("delayed-retry-max", Rule::AtLeast(1), RETRY_MAX).by_operators(),
    ignored(
        "consumer-disconnected-timeout",
        Rule::AtLeast(0),
        "consumer disconnected timeout",
    ),
    other("max-age", Rule::Age, "max age"),
    other("max-segment-size", Rule::AtLeast(0), "segment size"),
    other(
        "stream-max-segment-size-bytes",
        Rule::AtLeast(0),
        "segment size",
    ),
    other(
        "stream-filter-size-bytes",
        Rule::Within(16, 255),
        FILTER_SIZE,
    ),
    other(
        "federation-upstream",
        Rule::Text,
        "federation upstream name",
    ),
    other(
        "federation-upstream-set",
        Rule::Text,
        "federation upstream set name",
    ),
    other(
        "federation-upstream-pattern",
        Rule::Text,
        "federation upstream pattern",
    ),
];

const RETRY_TYPE: &str = "delayed retry type. Must be one of: all, failed, returned, disabled";
const RETRY_MIN: &str = "delayed retry minimum delay. Must be a positive integer";
const RETRY_MAX: &str = "delayed retry maximum delay. Must be a positive integer";
const FILTER_SIZE: &str = "filter size. Valid range is 16-255";

/// A policy's key that queues do not follow yet.
const fn ignored(key: &'static str, rule: Rule, what: &'static str) -> Setting {
    Setting::only_policy(key, rule, what).does(Effect::None)
}

/// A policy's key for what there is none of.
const fn other(key: &'static str, rule: Rule, what: &'static str) -> Setting {
    ignored(key, rule, what).on(On::Others)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const POLICIES: &str = include_str!("../../../docs/concepts/policy.md");

    #[test]
    fn each_name_stands_for_one_setting() {
        let arguments: Vec<_> = SETTINGS.iter().filter_map(Setting::argument_name).collect();
        let keys: Vec<_> = SETTINGS.iter().filter_map(|one| one.policy).collect();
        let keys: Vec<_> = keys.iter().map(|policy| policy.key).collect();
        for names in [arguments, keys] {
            let set: BTreeSet<_> = names.iter().collect();
            assert_eq!(set.len(), names.len(), "{names:?}");
        }
        assert!(
            SETTINGS
                .iter()
                .all(|one| one.argument.is_some() || one.is_live())
        );
    }

    #[test]
    fn the_documentation_tells_of_every_key_with_an_effect() {
        for policy in SETTINGS.iter().filter(|one| one.effect == Effect::Full) {
            let Some(policy) = policy.policy else {
                continue;
            };
            assert!(
                POLICIES.contains(&format!("`{}`", policy.key)),
                "{policy:?}"
            );
        }
    }
}
