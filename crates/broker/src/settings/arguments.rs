//! A queue's arguments and policies: their errors as refusals, and what they mean for the queue.

use std::sync::Arc;

use leveret_codec::{RawTable, Table};
use leveret_queue::{Limits, Overflow, Settings, Shape};
use leveret_settings::{
    self as settings, ArgumentError, CLASSIC, ConsumerTimeout, DeadLetters, QUEUE_TYPE, QUORUM,
    QueueSettings, Wrong, check_arguments, foreign,
};

use crate::context::config::QueueDefaults;
use crate::context::refusal::Refusal;
use crate::settings::policy::Effective;
use crate::settings::spec::QueueSpec;

/// The types of queues there are.
pub(crate) const QUEUE_TYPES: [&str; 2] = [CLASSIC, QUORUM];
/// What RabbitMQ's tools write for a type that is not set.
const NO_TYPE: [&str; 2] = ["", "undefined"];

/// Whether arguments name a type that stands for the default one.
pub(crate) fn asks_for_default_type(arguments: &Table) -> bool {
    text(arguments, QUEUE_TYPE).is_some_and(|kind| NO_TYPE.contains(&kind))
}

/// Whether Leveret has queues of this type.
#[must_use]
pub fn is_queue_type(kind: &str) -> bool {
    QUEUE_TYPES.contains(&kind) || NO_TYPE.contains(&kind)
}

/// Checks that arguments are not more than the broker keeps for one queue, exchange, binding or
/// consumer.
///
/// # Errors
/// [`Refusal::Limit`].
pub fn check_size(arguments: RawTable<'_>, max: usize) -> Result<(), Refusal> {
    let bytes = arguments.as_bytes().len();
    if bytes <= max {
        return Ok(());
    }
    let text = format!("arguments of {bytes} bytes exceed limits.arguments_bytes_max ({max})");
    Err(Refusal::Limit(text))
}

/// Checks the arguments of a new queue.
pub(crate) fn validate(name: &str, spec: &QueueSpec) -> Result<(), Refusal> {
    check_arguments(&spec.arguments).map_err(|error| refusal(error, name))?;
    validate_type(name, spec)
}

/// How long a delivery to a consumer of a queue may stay unsettled, milliseconds, if the consumer's
/// arguments say so.
pub(crate) fn own_timeout(name: &str, arguments: RawTable<'_>) -> Result<Option<u64>, Refusal> {
    settings::own_timeout(arguments).map_err(|error| refusal(error, name))
}

fn validate_type(name: &str, spec: &QueueSpec) -> Result<(), Refusal> {
    let Some(kind) = text(&spec.arguments, QUEUE_TYPE) else {
        return Ok(());
    };
    if !QUEUE_TYPES.contains(&kind) {
        let reason = format!("\"unsupported queue type '{kind}'\"");
        return Err(invalid(QUEUE_TYPE, name, reason));
    }
    if kind == QUORUM {
        let refused = [
            (!spec.durable, "non-durable"),
            (spec.owner.is_some(), "exclusive-owner"),
            (spec.auto_delete, "auto-delete"),
        ];
        if let Some((_, property)) = refused.iter().find(|(refused, _)| *refused) {
            return Err(Refusal::InvalidProperty(property, name.into()));
        }
        if let Some(argument) = foreign(&spec.arguments) {
            let kind = "rabbit_quorum_queue";
            return Err(Refusal::ForeignArgument(argument, name.into(), kind));
        }
    }
    Ok(())
}

fn refusal(error: ArgumentError, name: &str) -> Refusal {
    match error.wrong {
        Wrong::Value(reason) => invalid(error.argument, name, reason),
        Wrong::Type(kind) => Refusal::QueueArgumentType(kind, error.argument, name.into()),
    }
}

fn invalid(argument: &str, name: &str, reason: String) -> Refusal {
    Refusal::InvalidArgument {
        argument: argument.into(),
        kind: "queue",
        name: name.into(),
        reason,
    }
}

fn text<'a>(arguments: &'a Table, key: &str) -> Option<&'a str> {
    let bytes = arguments.get(key.as_bytes())?.as_str_bytes()?;
    std::str::from_utf8(bytes).ok()
}

/// What validated arguments and policies mean for a queue.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(crate) settings: Settings,
    pub(crate) shape: Shape,
    /// Where its dead messages go.
    pub(crate) dead_letters: Option<Arc<DeadLetters>>,
    /// It is deleted when nobody has used it for so long, milliseconds.
    pub(crate) expires_ms: Option<u64>,
    /// How long its deliveries may stay unsettled.
    pub(crate) timeout: ConsumerTimeout,
    /// Whom it refuses is told why, unasked.
    pub(crate) tells_reason: bool,
    /// The policies in it.
    pub(crate) policy: Option<Arc<Effective>>,
}

impl InForce {
    pub(crate) fn of(
        spec: &QueueSpec,
        policy: Option<Arc<Effective>>,
        defaults: QueueDefaults,
    ) -> Self {
        let definition = policy.as_deref().map(|policy| &policy.definition);
        let set = QueueSettings::of(&spec.arguments, definition);
        let default_ms = Some(defaults.consumer_timeout_ms).filter(|ms| *ms > 0);
        Self {
            settings: Settings {
                limits: limits(&set, defaults),
                ttl_ms: set.ttl_ms.unwrap_or(u64::MAX),
                failures_max: set.failures_max.unwrap_or(u32::MAX),
                keeps_dead: set.dead_letters.is_some(),
                drops_lowest: set.drops_lowest,
            },
            shape: Shape {
                single_active: set.single_active,
                levels: set.levels,
            },
            expires_ms: set.expires_ms,
            tells_reason: set.tells_reason,
            timeout: ConsumerTimeout {
                ms: set.timeout.ms.or(default_ms),
                ..set.timeout
            },
            dead_letters: set.dead_letters.map(Arc::new),
            policy,
        }
    }
}

/// A default applies only where neither argument nor policy sets that limit.
fn limits(set: &QueueSettings, defaults: QueueDefaults) -> Limits {
    let default = |explicit: Option<u64>, default| explicit.map_or(default, |_| u64::MAX);
    Limits {
        ready_max: set.length_max.unwrap_or(u64::MAX),
        ready_bytes_max: set.bytes_max.unwrap_or(u64::MAX),
        total_max: default(set.length_max, defaults.length_max),
        total_bytes_max: default(set.bytes_max, defaults.bytes_max),
        overflow: match set.overflow {
            settings::OverflowSetting::DropHead => Overflow::DropHead,
            settings::OverflowSetting::RejectPublish
            | settings::OverflowSetting::RejectPublishDlx => Overflow::RejectPublish,
        },
    }
}

/// Compares a repeated declaration with the queue that exists.
pub(crate) fn equivalent(
    name: &str,
    current: &QueueSpec,
    received: &QueueSpec,
) -> Result<(), Refusal> {
    let differs = |argument: &str, difference: String| Refusal::Inequivalent {
        argument: argument.into(),
        kind: "queue",
        name: name.into(),
        difference,
    };
    // An exclusive queue ends with its connection, whether it is durable or not.
    let lasts = |spec: &QueueSpec| spec.durable && spec.owner.is_none();
    let flags = [
        ("durable", lasts(received), lasts(current)),
        ("auto_delete", received.auto_delete, current.auto_delete),
    ];
    for (argument, received, current) in flags {
        if received != current {
            let text = format!("received '{received}' but current is '{current}'");
            return Err(differs(argument, text));
        }
    }
    match settings::difference(&received.arguments, &current.arguments) {
        Some(difference) => Err(differs(difference.argument, difference.text)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use leveret_codec::Value;

    use super::*;

    const DEFAULTS: QueueDefaults = QueueDefaults {
        length_max: 10,
        bytes_max: 20,
        consumer_timeout_ms: 0,
    };

    fn spec(arguments: &[(&str, Value)]) -> QueueSpec {
        let mut table = Table::new();
        for (key, value) in arguments {
            table.insert(key, value.clone());
        }
        QueueSpec {
            arguments: table,
            ..QueueSpec::default()
        }
    }

    fn text(value: &str) -> Value {
        Value::LongString(value.as_bytes().to_vec())
    }

    fn limits(spec: &QueueSpec, policy: Option<&Effective>) -> Limits {
        let policy = policy.cloned().map(Arc::new);
        InForce::of(spec, policy, DEFAULTS).settings.limits
    }

    fn reason(arguments: &[(&str, Value)]) -> String {
        match validate("q", &spec(arguments)) {
            Err(Refusal::InvalidArgument { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn wrong_values_are_refused_in_rabbitmqs_words() {
        assert_eq!(
            reason(&[("x-message-ttl", Value::I32(-1))]),
            "{value_negative,-1}"
        );
        assert_eq!(reason(&[("x-expires", Value::I32(0))]), "{value_zero,0}");
        assert_eq!(
            reason(&[("x-max-length", text("many"))]),
            "\"expected integer, got longstr\""
        );
        assert_eq!(
            reason(&[("x-max-priority", Value::I32(256))]),
            "{max_value_exceeded,256}"
        );
        assert_eq!(
            reason(&[("x-overflow", text("explode"))]),
            "invalid_overflow"
        );
        assert_eq!(
            reason(&[("x-queue-type", text("nope"))]),
            "\"unsupported queue type 'nope'\""
        );
        assert_eq!(
            reason(&[("x-dead-letter-routing-key", text("k"))]),
            "routing_key_but_no_dlx_defined"
        );
        assert_eq!(validate("q", &spec(&[("x-anything", Value::Void)])), Ok(()));
    }

    #[test]
    fn a_default_limit_gives_way_to_an_explicit_one() {
        let none = limits(&spec(&[]), None);
        assert_eq!((none.total_max, none.total_bytes_max), (10, 20));
        let arguments = spec(&[("x-max-length", Value::I32(99))]);
        let own = limits(&arguments, None);
        assert_eq!((own.ready_max, own.total_max), (99, u64::MAX));
        assert_eq!(own.total_bytes_max, 20);
    }

    #[test]
    fn of_two_limits_the_lower_one_holds_and_of_two_texts_the_arguments() {
        let set = |json: serde_json::Value| Effective {
            definition: json.as_object().unwrap().clone(),
            ..Effective::default()
        };
        let policy = set(serde_json::json!({"max-length": 5, "overflow": "reject-publish"}));
        let by_policy = limits(&spec(&[]), Some(&policy));
        assert_eq!((by_policy.ready_max, by_policy.total_max), (5, u64::MAX));
        assert_eq!(by_policy.overflow, Overflow::RejectPublish);
        for (argument, lower) in [(3, 3), (9, 5)] {
            let arguments = [
                ("x-max-length", Value::I32(argument)),
                ("x-overflow", text("drop-head")),
            ];
            let both = limits(&spec(&arguments), Some(&policy));
            assert_eq!(both.ready_max, lower);
            assert_eq!(both.overflow, Overflow::DropHead);
        }
    }
}
