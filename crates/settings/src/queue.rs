//! What arguments and policies mean for a queue.

use leveret_codec::{Table, ValueRef};
use serde_json::{Map, Value};

use crate::table::{
    DEAD_LETTER_EXCHANGE, DEAD_LETTER_ROUTING_KEY, DEAD_LETTER_STRATEGY, DELIVERY_LIMIT, EXPIRES,
    MAX_LENGTH, MAX_LENGTH_BYTES, MAX_PRIORITY, MESSAGE_TTL, Merge, NACK_REASON, OVERFLOW,
    OVERFLOW_DROP, QUEUE_TYPE, QUORUM, SINGLE_ACTIVE, Setting, TIMEOUT, TIMEOUT_ACTION,
    TIMEOUT_COUNTS,
};

/// How often a message of a quorum queue may fail if nothing else is said.
const QUORUM_FAILURES_MAX: u32 = 20;
/// Levels of priority in a quorum queue.
const QUORUM_LEVELS: u16 = 32;

/// What a queue is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// It is to behave as RabbitMQ's quorum queues.
    pub quorum: bool,
    /// Ready messages, if they are limited.
    pub length_max: Option<u64>,
    /// Body bytes of ready messages, if they are limited.
    pub bytes_max: Option<u64>,
    /// What a full queue does.
    pub overflow: OverflowSetting,
    /// A full queue drops the oldest message of its lowest level.
    pub drops_lowest: bool,
    /// A full queue returns what it refuses, with the reason.
    pub tells_reason: bool,
    /// How long a message may wait, milliseconds.
    pub ttl_ms: Option<u64>,
    /// How long the queue may go unused, milliseconds.
    pub expires_ms: Option<u64>,
    /// How many failed attempts a message may have, if they are limited.
    pub failures_max: Option<u32>,
    /// Where dead messages go.
    pub dead_letters: Option<DeadLetters>,
    /// What becomes of deliveries that nobody settles.
    pub timeout: ConsumerTimeout,
    /// Only one consumer is served at a time.
    pub single_active: bool,
    /// Levels of priority.
    pub levels: u16,
}

/// What a full queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverflowSetting {
    /// It drops its oldest messages.
    DropHead,
    /// It refuses new ones.
    RejectPublish,
    /// The same, and these die.
    RejectPublishDlx,
}

/// Where dead messages of a queue go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetters {
    /// The exchange; empty for the default one.
    pub exchange: String,
    /// The routing key, unless each keeps its own.
    pub key: Option<String>,
    /// What the full queue refuses goes there, too.
    pub refused_too: bool,
    /// What finds no queue waits until it does.
    pub at_least_once: bool,
}

/// What becomes of deliveries that nobody settles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerTimeout {
    /// How long they may wait, milliseconds; none is for as long as they like.
    pub ms: Option<u64>,
    /// An attempt that was not settled in time has failed: it counts for the delivery limit.
    pub counts: bool,
    /// The channel is closed then, as RabbitMQ does it; else the delivery goes back alone.
    pub closes: bool,
}

impl QueueSettings {
    /// Reads checked arguments and the definition of the policies that apply.
    #[must_use]
    pub fn of(arguments: &Table, policy: Option<&Map<String, Value>>) -> Self {
        let quorum = is_quorum(arguments);
        let said = Said { arguments, policy };
        Self {
            quorum,
            length_max: said.number(&MAX_LENGTH),
            bytes_max: said.number(&MAX_LENGTH_BYTES),
            overflow: said.overflow(),
            drops_lowest: said.text(&OVERFLOW_DROP) == Some("lowest"),
            tells_reason: said.text(&NACK_REASON) == Some("return"),
            ttl_ms: said.number(&MESSAGE_TTL),
            expires_ms: said.number(&EXPIRES),
            failures_max: said.failures_max(quorum),
            dead_letters: said.dead_letters(),
            timeout: ConsumerTimeout {
                ms: said.number(&TIMEOUT),
                counts: said.flag(&TIMEOUT_COUNTS),
                closes: said.text(&TIMEOUT_ACTION) == Some("close"),
            },
            single_active: said.flag(&SINGLE_ACTIVE),
            levels: said.levels(quorum),
        }
    }
}

/// Whether a queue of these arguments is to behave as RabbitMQ's quorum queues.
#[must_use]
pub fn is_quorum(arguments: &Table) -> bool {
    let kind = arguments.get(QUEUE_TYPE.as_bytes());
    kind.and_then(|kind| kind.as_str_bytes()) == Some(QUORUM.as_bytes())
}

/// What arguments and policies say together.
#[derive(Clone, Copy)]
struct Said<'a> {
    arguments: &'a Table,
    policy: Option<&'a Map<String, Value>>,
}

impl<'a> Said<'a> {
    fn argument(self, setting: &Setting) -> Option<ValueRef<'a>> {
        self.arguments.get(setting.argument_name()?.as_bytes())
    }

    fn policy(self, setting: &Setting) -> Option<&'a Value> {
        self.policy?.get(setting.policy?.key)
    }

    fn integer(self, setting: &Setting) -> Option<i64> {
        let argument = self.argument(setting).and_then(|value| value.as_integer());
        let policy = self.policy(setting).and_then(Value::as_i64);
        let both = [argument, policy].into_iter().flatten();
        match setting.merge {
            Merge::Argument => argument.or(policy),
            Merge::Lower => both.min(),
            Merge::LowerLimit => {
                let limit = both.filter(|limit| *limit >= 0).min();
                limit.or_else(|| argument.or(policy))
            }
        }
    }

    fn number(self, setting: &Setting) -> Option<u64> {
        let integer = self.integer(setting);
        integer.and_then(|number| u64::try_from(number).ok())
    }

    fn text(self, setting: &Setting) -> Option<&'a str> {
        let argument = self.argument(setting).and_then(|value| match value {
            ValueRef::LongString(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        });
        argument.or_else(|| self.policy(setting)?.as_str())
    }

    fn flag(self, setting: &Setting) -> bool {
        let argument = self.argument(setting).and_then(|value| value.as_bool());
        let policy = || self.policy(setting)?.as_bool();
        argument.or_else(policy).unwrap_or(false)
    }

    fn overflow(self) -> OverflowSetting {
        match self.text(&OVERFLOW) {
            Some("reject-publish") => OverflowSetting::RejectPublish,
            Some("reject-publish-dlx") => OverflowSetting::RejectPublishDlx,
            _ => OverflowSetting::DropHead,
        }
    }

    /// A negative limit is none, also where there is one if nothing is said.
    fn failures_max(self, quorum: bool) -> Option<u32> {
        match self.integer(&DELIVERY_LIMIT) {
            None => quorum.then_some(QUORUM_FAILURES_MAX),
            Some(limit) if limit < 0 => None,
            Some(limit) => Some(u32::try_from(limit).unwrap_or(u32::MAX)),
        }
    }

    fn dead_letters(self) -> Option<DeadLetters> {
        let exchange = self.text(&DEAD_LETTER_EXCHANGE)?;
        let key = self.text(&DEAD_LETTER_ROUTING_KEY);
        let at_least_once = self.text(&DEAD_LETTER_STRATEGY) == Some("at-least-once");
        Some(DeadLetters {
            exchange: exchange.to_owned(),
            key: key.map(str::to_owned),
            refused_too: self.overflow() == OverflowSetting::RejectPublishDlx,
            // As with RabbitMQ, a queue that drops from its head cannot keep what it drops.
            at_least_once: at_least_once && self.overflow() == OverflowSetting::RejectPublish,
        })
    }

    fn levels(self, quorum: bool) -> u16 {
        let highest = self.integer(&MAX_PRIORITY).unwrap_or(0);
        if quorum {
            QUORUM_LEVELS
        } else {
            u8::try_from(highest).map_or(1, |highest| u16::from(highest) + 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use leveret_codec::Value as Argument;
    use serde_json::json;

    use super::*;

    fn settings(arguments: &[(&str, Argument)], policy: &Value) -> QueueSettings {
        let mut table = Table::new();
        for (key, value) in arguments {
            table.insert(key, value.clone());
        }
        QueueSettings::of(&table, policy.as_object())
    }

    fn text(value: &str) -> Argument {
        Argument::LongString(value.as_bytes().to_vec())
    }

    #[test]
    fn a_delivery_limit_is_the_lower_one_and_a_negative_one_is_none() {
        let failures_max = |kind: &str, limits: [Option<i64>; 2]| {
            let mut arguments = vec![("x-queue-type", text(kind))];
            arguments.extend(limits[0].map(|limit| ("x-delivery-limit", Argument::I64(limit))));
            let policy = limits[1].map_or(json!({}), |limit| json!({ "delivery-limit": limit }));
            settings(&arguments, &policy).failures_max
        };
        assert_eq!(failures_max("classic", [None, None]), None);
        assert_eq!(failures_max("quorum", [None, None]), Some(20));
        assert_eq!(failures_max("quorum", [Some(-1), None]), None);
        assert_eq!(failures_max("classic", [Some(3), Some(2)]), Some(2));
        assert_eq!(failures_max("quorum", [Some(-1), Some(7)]), Some(7));
        assert_eq!(failures_max("quorum", [Some(0), Some(-1)]), Some(0));
    }

    #[test]
    fn of_two_numbers_the_lower_one_holds_and_of_anything_else_the_argument() {
        let policy = json!({
            "max-length": 5, "overflow": "reject-publish", "consumer-timeout": 70,
            "consumer-timeout-counts": true, "consumer-timeout-action": "close",
        });
        let by_policy = settings(&[], &policy);
        assert_eq!(by_policy.length_max, Some(5));
        assert_eq!(by_policy.overflow, OverflowSetting::RejectPublish);
        let closes = ConsumerTimeout {
            ms: Some(70),
            counts: true,
            closes: true,
        };
        assert_eq!(by_policy.timeout, closes);
        let own = [
            ("x-max-length", Argument::I32(3)),
            ("x-overflow", text("drop-head")),
            ("x-consumer-timeout", Argument::I32(80)),
            ("x-consumer-timeout-counts", Argument::Bool(false)),
            ("x-consumer-timeout-action", text("requeue")),
        ];
        let both = settings(&own, &policy);
        assert_eq!(
            (both.length_max, both.overflow),
            (Some(3), OverflowSetting::DropHead)
        );
        let back = ConsumerTimeout {
            ms: Some(70),
            ..ConsumerTimeout::default()
        };
        assert_eq!(both.timeout, back);
    }

    #[test]
    fn a_quorum_queue_has_its_levels_whatever_it_is_told() {
        let quorum = settings(&[("x-queue-type", text("quorum"))], &Value::Null);
        assert_eq!((quorum.quorum, quorum.levels), (true, 32));
        let classic = settings(&[("x-max-priority", Argument::I32(255))], &Value::Null);
        assert_eq!((classic.quorum, classic.levels), (false, 256));
        assert_eq!(settings(&[], &Value::Null).levels, 1);
    }
}
