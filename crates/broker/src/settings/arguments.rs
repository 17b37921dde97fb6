//! `queue.declare` arguments: validation, equivalence, and what they mean for the queue.

use std::sync::Arc;

use leveret_codec::{RawTable, Table, ValueRef};
use leveret_queue::{Limits, Overflow, Settings, Shape};

use crate::context::config::QueueDefaults;
use crate::context::refusal::Refusal;
use crate::settings::dead_letters::DeadLetters;
use crate::settings::lease::LeaseSettings;
use crate::settings::policy::Effective;
use crate::settings::spec::QueueSpec;

/// Ten years, the longest that anything may be told to wait.
pub(crate) const TIME_MAX_MS: i64 = 315_360_000_000;

/// What a known argument must be.
#[derive(Clone, Copy)]
enum Rule {
    /// An integer of at least this.
    AtLeast(i64),
    /// The same, in milliseconds that a timer can wait.
    Milliseconds(i64),
    /// An integer within bounds.
    Within(i64, i64),
    /// RabbitMQ overlooks what is no number.
    Anything,
    Text,
    /// The name of an exchange.
    Name,
    Bool,
    OneOf(&'static [&'static str], &'static str),
}

/// Arguments with a meaning; others are kept and never compared.
const KNOWN: [(&str, Rule); 17] = [
    ("x-expires", Rule::Milliseconds(1)),
    ("x-message-ttl", Rule::Milliseconds(0)),
    ("x-max-length", Rule::AtLeast(0)),
    ("x-max-length-bytes", Rule::AtLeast(0)),
    (
        "x-overflow",
        Rule::OneOf(
            &["drop-head", "reject-publish", "reject-publish-dlx"],
            "invalid_overflow",
        ),
    ),
    ("x-dead-letter-exchange", Rule::Name),
    ("x-dead-letter-routing-key", Rule::Text),
    (
        "x-dead-letter-strategy",
        Rule::OneOf(&["at-most-once", "at-least-once"], "invalid_dlx_strategy"),
    ),
    (
        "x-overflow-drop",
        Rule::OneOf(&["head", "lowest"], "invalid_overflow_drop"),
    ),
    ("x-max-priority", Rule::Within(0, 255)),
    ("x-single-active-consumer", Rule::Bool),
    (QUEUE_TYPE, Rule::Text),
    ("x-delivery-limit", Rule::Anything),
    (CONSUMER_TIMEOUT, Rule::AtLeast(0)),
    ("x-consumer-timeout-counts", Rule::Bool),
    (
        "x-consumer-timeout-action",
        Rule::OneOf(&["requeue", "close"], "invalid_consumer_timeout_action"),
    ),
    ("x-queue-mode", Rule::Text),
];

/// The argument, of a queue or a consumer, that says how long a delivery may stay unsettled.
const CONSUMER_TIMEOUT: &str = "x-consumer-timeout";
/// The argument that names a queue's type.
pub(crate) const QUEUE_TYPE: &str = "x-queue-type";
/// The type of queues that are declared without one.
pub(crate) const CLASSIC: &str = "classic";
pub(crate) const QUEUE_TYPES: [&str; 2] = [CLASSIC, "quorum"];
/// What RabbitMQ's tools write for a type that is not set.
const NO_TYPE: [&str; 2] = ["", "undefined"];

/// Whether arguments name a type that stands for the default one.
pub(crate) fn asks_for_default_type(arguments: &Table) -> bool {
    text(arguments, QUEUE_TYPE).is_some_and(|kind| NO_TYPE.contains(&kind))
}

/// Arguments that change what a queue does.
const EFFECTIVE: [&str; 16] = [
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-overflow-drop",
    "x-max-priority",
    "x-delivery-limit",
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    "x-single-active-consumer",
    CONSUMER_TIMEOUT,
    "x-consumer-timeout-counts",
    "x-consumer-timeout-action",
    QUEUE_TYPE,
];
/// Those that change nothing on one node, or nowhere any more: RabbitMQ does as little with them.
const IDLE: [&str; 7] = [
    "x-queue-mode",
    "x-queue-version",
    "x-queue-master-locator",
    "x-queue-leader-locator",
    "x-initial-cluster-size",
    "x-quorum-initial-group-size",
    "x-quorum-target-group-size",
];

/// Arguments of a queue that RabbitMQ acts on and Leveret does not. What does not begin with `x-`
/// is the client's own.
pub fn without_effect(arguments: &Table) -> impl Iterator<Item = &str> {
    let keys = arguments
        .iter()
        .filter_map(|(key, _)| std::str::from_utf8(key).ok());
    keys.filter(|key| key.starts_with("x-") && !EFFECTIVE.contains(key) && !IDLE.contains(key))
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
    for (key, rule) in KNOWN {
        let Some(value) = spec.arguments.get(key.as_bytes()) else {
            continue;
        };
        if let Err(reason) = check(rule, value) {
            return Err(match rule {
                Rule::Name => Refusal::QueueArgumentType(value.type_name(), key, name.into()),
                _ => invalid(key, name, reason),
            });
        }
    }
    let arguments = &spec.arguments;
    if arguments.get(b"x-dead-letter-routing-key").is_some()
        && arguments.get(b"x-dead-letter-exchange").is_none()
    {
        let reason = "routing_key_but_no_dlx_defined".into();
        return Err(invalid("x-dead-letter-routing-key", name, reason));
    }
    validate_type(name, spec)
}

/// Checks an argument that is both a queue's and a consumer's.
pub(crate) fn check_consumer_timeout(name: &str, arguments: RawTable<'_>) -> Result<(), Refusal> {
    let Some(value) = arguments.get(CONSUMER_TIMEOUT.as_bytes()) else {
        return Ok(());
    };
    check(Rule::AtLeast(0), value).map_err(|reason| invalid(CONSUMER_TIMEOUT, name, reason))
}

/// How long a delivery to a consumer may stay unsettled, milliseconds, if that says so itself.
pub(crate) fn own_timeout(arguments: RawTable<'_>) -> Option<u64> {
    let value = arguments.get(CONSUMER_TIMEOUT.as_bytes())?;
    u64::try_from(value.as_integer()?).ok()
}

fn validate_type(name: &str, spec: &QueueSpec) -> Result<(), Refusal> {
    let Some(kind) = text(&spec.arguments, QUEUE_TYPE) else {
        return Ok(());
    };
    if !QUEUE_TYPES.contains(&kind) {
        let reason = format!("\"unsupported queue type '{kind}'\"");
        return Err(invalid(QUEUE_TYPE, name, reason));
    }
    if kind == "quorum" {
        let refused = [
            (!spec.durable, "non-durable"),
            (spec.owner.is_some(), "exclusive-owner"),
            (spec.auto_delete, "auto-delete"),
        ];
        if let Some((_, property)) = refused.iter().find(|(refused, _)| *refused) {
            return Err(Refusal::InvalidProperty(property, name.into()));
        }
        let foreign = ["x-max-priority", "x-queue-mode"].into_iter();
        let mut foreign = foreign.filter(|key| spec.arguments.get(key.as_bytes()).is_some());
        if let Some(argument) = foreign.next() {
            let kind = "rabbit_quorum_queue";
            return Err(Refusal::ForeignArgument(argument, name.into(), kind));
        }
    }
    Ok(())
}

fn invalid(argument: &str, name: &str, reason: String) -> Refusal {
    Refusal::InvalidArgument {
        argument: argument.into(),
        kind: "queue",
        name: name.into(),
        reason,
    }
}

fn check(rule: Rule, value: ValueRef<'_>) -> Result<(), String> {
    match rule {
        Rule::AtLeast(_) | Rule::Milliseconds(_) | Rule::Within(..) => {
            let Some(number) = value.as_integer() else {
                return Err(format!("\"expected integer, got {}\"", value.type_name()));
            };
            match rule {
                Rule::Milliseconds(1) if number == 0 => Err("{value_zero,0}".into()),
                Rule::AtLeast(min) | Rule::Milliseconds(min) | Rule::Within(min, _)
                    if number < min =>
                {
                    Err(format!("{{value_negative,{number}}}"))
                }
                Rule::Milliseconds(_) if number > TIME_MAX_MS => {
                    Err(format!("{{value_too_large,{number}}}"))
                }
                Rule::Within(_, max) if number > max => {
                    Err(format!("{{max_value_exceeded,{number}}}"))
                }
                _ => Ok(()),
            }
        }
        Rule::Bool => match value.as_bool() {
            Some(_) => Ok(()),
            None => Err(format!("{{unacceptable_type,{}}}", value.type_name())),
        },
        Rule::Anything => Ok(()),
        Rule::Text | Rule::Name => match value.as_str_bytes() {
            Some(_) => Ok(()),
            None => Err(format!("{{unacceptable_type,{}}}", value.type_name())),
        },
        Rule::OneOf(allowed, reason) => {
            let text = value
                .as_str_bytes()
                .and_then(|bytes| std::str::from_utf8(bytes).ok());
            match text {
                Some(text) if allowed.contains(&text) => Ok(()),
                Some(_) => Err(reason.into()),
                None => Err(format!("{{unacceptable_type,{}}}", value.type_name())),
            }
        }
    }
}

fn text<'a>(arguments: &'a Table, key: &str) -> Option<&'a str> {
    let bytes = arguments.get(key.as_bytes())?.as_str_bytes()?;
    std::str::from_utf8(bytes).ok()
}

/// What validated arguments and policies mean for a queue.
#[derive(Clone, Debug)]
pub(crate) struct Meaning {
    pub(crate) settings: Settings,
    pub(crate) shape: Shape,
    /// Where its dead messages go.
    pub(crate) dead_letters: Option<Arc<DeadLetters>>,
    /// It is deleted when nobody has used it for so long, milliseconds.
    pub(crate) expires_ms: Option<u64>,
    /// How long its deliveries may stay unsettled.
    pub(crate) lease: LeaseSettings,
    /// The policies in it.
    pub(crate) policy: Option<Arc<Effective>>,
}

/// How often a message of a quorum queue may fail if nothing else is said.
const QUORUM_FAILURES_MAX: i64 = 20;
/// Levels of priority in a quorum queue.
const QUORUM_LEVELS: u16 = 32;

impl Meaning {
    pub(crate) fn of(
        spec: &QueueSpec,
        policy: Option<Arc<Effective>>,
        defaults: QueueDefaults,
    ) -> Self {
        let said = Said {
            arguments: &spec.arguments,
            policy: policy.as_deref(),
        };
        let dead_letters = said.dead_letters();
        let settings = Settings {
            limits: said.limits(defaults),
            ttl_ms: said.number("message-ttl").unwrap_or(u64::MAX),
            failures_max: said.failures_max(spec.is_quorum()),
            keeps_dead: dead_letters.is_some(),
            drops_lowest: said.text("overflow-drop") == Some("lowest"),
        };
        Self {
            settings,
            shape: shape(spec),
            dead_letters: dead_letters.map(Arc::new),
            expires_ms: said.number("expires"),
            lease: said.lease(defaults),
            policy,
        }
    }
}

/// What a queue is for as long as it exists: only arguments say that.
fn shape(spec: &QueueSpec) -> Shape {
    let arguments = &spec.arguments;
    let single_active = arguments.get(b"x-single-active-consumer");
    let priorities = arguments.get(b"x-max-priority");
    let priorities = priorities.and_then(|value| value.as_integer()).unwrap_or(0);
    let levels = u8::try_from(priorities).map_or(1, |max| u16::from(max) + 1);
    Shape {
        single_active: single_active
            .and_then(|value| value.as_bool())
            .unwrap_or(false),
        levels: if spec.is_quorum() {
            QUORUM_LEVELS
        } else {
            levels
        },
    }
}

/// What arguments and policies say together.
#[derive(Clone, Copy)]
struct Said<'a> {
    arguments: &'a Table,
    policy: Option<&'a Effective>,
}

impl<'a> Said<'a> {
    /// Of an argument and a policy the lower number holds.
    fn integer(self, key: &str) -> Option<i64> {
        let argument = self.arguments.get(format!("x-{key}").as_bytes());
        let argument = argument.and_then(|value| value.as_integer());
        let policy = self.policy.and_then(|policy| policy.integer(key));
        match (argument, policy) {
            (Some(argument), Some(policy)) => Some(argument.min(policy)),
            (argument, policy) => argument.or(policy),
        }
    }

    fn number(self, key: &str) -> Option<u64> {
        self.integer(key)
            .and_then(|number| u64::try_from(number).ok())
    }

    /// Of an argument and a policy the argument's text holds.
    fn text(self, key: &str) -> Option<&'a str> {
        let argument = self.arguments.get(format!("x-{key}").as_bytes());
        let argument = argument.and_then(|value| match value {
            ValueRef::LongString(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        });
        argument.or_else(|| self.policy.and_then(|policy| policy.text(key)))
    }

    /// A default applies only where neither sets that limit.
    fn limits(self, defaults: QueueDefaults) -> Limits {
        let (length, bytes) = (self.number("max-length"), self.number("max-length-bytes"));
        let overflow = match self.text("overflow") {
            Some("reject-publish" | "reject-publish-dlx") => Overflow::RejectPublish,
            _ => Overflow::DropHead,
        };
        let default = |explicit: Option<u64>, default| explicit.map_or(default, |_| u64::MAX);
        Limits {
            ready_max: length.unwrap_or(u64::MAX),
            ready_bytes_max: bytes.unwrap_or(u64::MAX),
            total_max: default(length, defaults.length_max),
            total_bytes_max: default(bytes, defaults.bytes_max),
            overflow,
        }
    }

    /// A default applies only where neither sets a timeout.
    fn lease(self, defaults: QueueDefaults) -> LeaseSettings {
        let default = || Some(defaults.consumer_timeout_ms).filter(|ms| *ms > 0);
        LeaseSettings {
            timeout_ms: self.number("consumer-timeout").or_else(default),
            counts: self.flag("consumer-timeout-counts"),
            closes: self.text("consumer-timeout-action") == Some("close"),
        }
    }

    /// Of an argument and a policy the argument holds.
    fn flag(self, key: &str) -> bool {
        let argument = self.arguments.get(format!("x-{key}").as_bytes());
        let argument = argument.and_then(|value| value.as_bool());
        let policy = || self.policy.and_then(|policy| policy.flag(key));
        argument.or_else(policy).unwrap_or(false)
    }

    /// How many failed attempts a message may have. A negative limit is none.
    fn failures_max(self, quorum: bool) -> u32 {
        let argument = self.arguments.get(b"x-delivery-limit");
        let argument = argument.and_then(|value| value.as_integer());
        let policy = self
            .policy
            .and_then(|policy| policy.integer("delivery-limit"));
        let limits = [argument, policy];
        let lowest = limits
            .into_iter()
            .flatten()
            .filter(|limit| *limit >= 0)
            .min();
        let said = argument.or(policy).is_some();
        let limit = match lowest {
            None if quorum && !said => Some(QUORUM_FAILURES_MAX),
            lowest => lowest,
        };
        limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX))
    }

    fn dead_letters(self) -> Option<DeadLetters> {
        let exchange = self.text("dead-letter-exchange")?;
        let overflow = self.text("overflow");
        let strategy = self.text("dead-letter-strategy");
        Some(DeadLetters {
            exchange: exchange.to_owned(),
            key: self.text("dead-letter-routing-key").map(str::to_owned),
            refused_too: overflow == Some("reject-publish-dlx"),
            // As with RabbitMQ, a queue that drops from its head cannot keep what it drops.
            at_least_once: strategy == Some("at-least-once") && overflow == Some("reject-publish"),
        })
    }
}

/// Compares a repeated declaration with the queue that exists.
pub(crate) fn equivalent<'a>(
    name: &str,
    current: &'a QueueSpec,
    received: &'a QueueSpec,
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
    for (key, _) in KNOWN {
        let new = received.arguments.get(key.as_bytes());
        let old = current.arguments.get(key.as_bytes());
        // A queue without a type is a classic one.
        let typed = |value: Option<ValueRef<'a>>| match value {
            None if key == QUEUE_TYPE => Some(ValueRef::LongString(CLASSIC.as_bytes())),
            value => value,
        };
        let (new, old) = (typed(new), typed(old));
        if !same(new, old) {
            return Err(differs(key, difference(new, old)));
        }
    }
    Ok(())
}

/// Integers are compared by value, whatever their width.
fn same(a: Option<ValueRef<'_>>, b: Option<ValueRef<'_>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => match (a.as_integer(), b.as_integer()) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        },
        (None, None) => true,
        _ => false,
    }
}

fn difference(received: Option<ValueRef<'_>>, current: Option<ValueRef<'_>>) -> String {
    match (received, current) {
        (Some(new), Some(old)) => {
            format!("received '{}' but current is '{}'", shown(new), shown(old))
        }
        (new, old) => format!("received {} but current is {}", typed(new), typed(old)),
    }
}

fn typed(value: Option<ValueRef<'_>>) -> String {
    value.map_or_else(
        || "none".into(),
        |value| {
            format!(
                "the value '{}' of type '{}'",
                shown(value),
                value.type_name()
            )
        },
    )
}

fn shown(value: ValueRef<'_>) -> String {
    if let Some(number) = value.as_integer() {
        return number.to_string();
    }
    if let Some(flag) = value.as_bool() {
        return flag.to_string();
    }
    match value {
        ValueRef::LongString(bytes) | ValueRef::Bytes(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        ValueRef::F32(number) => format!("{number:?}"),
        ValueRef::F64(number) => format!("{number:?}"),
        ValueRef::Timestamp(seconds) => seconds.to_string(),
        other => other.type_name().into(),
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
        Meaning::of(spec, policy, DEFAULTS).settings.limits
    }

    #[test]
    fn a_delivery_limit_is_the_lower_one_and_a_negative_one_is_none() {
        let failures_max = |kind: &str, limits: [Option<i64>; 2]| {
            let mut arguments = vec![("x-queue-type", text(kind))];
            arguments.extend(limits[0].map(|limit| ("x-delivery-limit", Value::I64(limit))));
            let policy = limits[1].map(|limit| {
                let definition = serde_json::json!({ "delivery-limit": limit });
                Arc::new(Effective {
                    definition: definition.as_object().unwrap().clone(),
                    ..Effective::default()
                })
            });
            Meaning::of(&spec(&arguments), policy, DEFAULTS)
                .settings
                .failures_max
        };
        assert_eq!(failures_max("classic", [None, None]), u32::MAX);
        assert_eq!(failures_max("quorum", [None, None]), 20);
        assert_eq!(failures_max("quorum", [Some(-1), None]), u32::MAX);
        assert_eq!(failures_max("classic", [Some(3), Some(2)]), 2);
        assert_eq!(failures_max("quorum", [Some(-1), Some(7)]), 7);
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
    fn integers_are_equal_by_value_and_absent_is_not_a_value() {
        let narrow = spec(&[("x-message-ttl", Value::I8(5))]);
        let wide = spec(&[("x-message-ttl", Value::I64(5))]);
        assert_eq!(equivalent("q", &narrow, &wide), Ok(()));
        let Err(Refusal::Inequivalent { difference, .. }) =
            equivalent("q", &spec(&[]), &spec(&[("x-message-ttl", Value::I32(1))]))
        else {
            panic!("differs")
        };
        assert_eq!(
            difference,
            "received the value '1' of type 'signedint' but current is none"
        );
        let classic = spec(&[("x-queue-type", text("classic"))]);
        assert_eq!(equivalent("q", &spec(&[]), &classic), Ok(()));
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
