//! Exchanges that give each message to one of their bindings: at random, or always the same one for
//! the same key.
//!
//! `x-random` and `x-local-random` draw; `x-modulus-hash` counts the bindings through. Both take a
//! queue that is bound twice twice as often. `x-consistent-hash` takes queues by weight, and moves
//! as few keys as can be when a queue comes or goes: each one draws a number from the key and its
//! own name, and the smallest for its weight wins (rendezvous hashing). So it does not matter in
//! which order they were bound, nor whether the broker was restarted since.

use std::collections::BTreeMap;
use std::ops::Bound;

use leveret_codec::{Properties, Table, ValueRef};

use crate::bindings::BindingId;
use crate::erlang;
use crate::exchange::{ExchangeKind, ExchangeSpec};
use crate::hash::Seed;
use crate::pattern::value_hash;
use crate::refused::Refused;
use crate::route::{Matches, RoutedMessage};
use crate::steps::Steps;
use crate::targets::{Target, Targets};

/// Bindings of which one is counted or drawn.
#[derive(Debug, Default)]
pub(crate) struct Draw {
    /// Each binding once, by the hash of its destination's name.
    sorted: Vec<(u64, Target)>,
}

impl Draw {
    pub(crate) fn add(&mut self, name: u64, target: Target) {
        let at = self.place(name, target).unwrap_or_else(|at| at);
        self.sorted.insert(at, (name, target));
    }

    pub(crate) fn remove(&mut self, name: u64, target: Target) {
        if let Ok(at) = self.place(name, target) {
            self.sorted.remove(at);
        }
        if self.sorted.capacity() > 64 && self.sorted.len() < self.sorted.capacity() / 4 {
            self.sorted.shrink_to(self.sorted.len() * 2);
        }
    }

    /// Writes the one that a number, of which all bits count, falls on.
    pub(crate) fn pick(&self, number: u64, found: &mut Matches, steps: &mut Steps) {
        steps.took(1);
        let at = (u128::from(number) * self.sorted.len() as u128) >> 64;
        if let Some((_, target)) = self.sorted.get(at as usize) {
            Targets::One(*target).emit(found, steps);
        }
    }

    fn place(&self, name: u64, target: Target) -> Result<usize, usize> {
        self.sorted.binary_search(&(name, target))
    }
}

/// Queues by weight.
#[derive(Debug)]
pub(crate) struct HashRing {
    on: HashOn,
    members: BTreeMap<Target, Member>,
}

#[derive(Debug)]
struct Member {
    name: u64,
    /// Of each binding, oldest first: the first one counts.
    weights: Vec<(BindingId, u16)>,
}

/// What of a message is hashed.
#[derive(Clone, PartialEq, Eq, Debug)]
enum HashOn {
    Keys,
    Header(Box<[u8]>),
    MessageId,
    CorrelationId,
    Timestamp,
}

/// How far a message has come through a ring.
#[derive(Debug, Default)]
pub(crate) struct Contest {
    best: Option<(f64, Target)>,
    after: Option<Target>,
}

impl HashRing {
    /// Of an exchange that was declared so.
    pub(crate) fn new(arguments: &Table) -> Self {
        Self {
            on: HashOn::of(arguments).unwrap_or(HashOn::Keys),
            members: BTreeMap::new(),
        }
    }

    pub(crate) fn reads_more_than_keys(&self) -> bool {
        self.on != HashOn::Keys
    }

    pub(crate) fn add(&mut self, name: u64, target: Target, binding: (BindingId, u16)) {
        let member = self.members.entry(target).or_insert_with(|| Member {
            name,
            weights: Vec::with_capacity(1),
        });
        member.weights.push(binding);
    }

    pub(crate) fn remove(&mut self, target: Target, binding: BindingId) {
        if let Some(member) = self.members.get_mut(&target) {
            member.weights.retain(|(id, _)| *id != binding);
            if member.weights.is_empty() {
                self.members.remove(&target);
            }
        }
    }

    /// Goes on to look for the one that a message goes to, and writes it; false if there is more to
    /// do than there are steps.
    pub(crate) fn go_on(
        &self,
        message: &RoutedMessage<'_, '_>,
        (contest, found): (&mut Contest, &mut Matches),
        steps: &mut Steps,
    ) -> bool {
        let key = self.on.hash(message);
        let first = contest.after.map_or(Bound::Unbounded, Bound::Excluded);
        for (target, member) in self.members.range((first, Bound::Unbounded)) {
            if !steps.take() {
                return false;
            }
            contest.after = Some(*target);
            let score = member.score(key);
            if contest.best.is_none_or(|(best, _)| score < best) {
                contest.best = Some((score, *target));
            }
        }
        if let Some((_, target)) = contest.best.take() {
            Targets::One(target).emit(found, steps);
        }
        contest.after = None;
        true
    }
}

impl Contest {
    pub(crate) fn begin(&mut self) {
        *self = Self::default();
    }
}

impl Member {
    /// How long it takes until this one is first: with twice the weight it is twice as fast.
    fn score(&self, key: u64) -> f64 {
        let drawn = SAME_EVERYWHERE.then(key, self.name);
        // Of 53 bits, neither zero nor one.
        let drawn = ((drawn >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let weight = self.weights.first().map_or(1, |(_, weight)| *weight);
        -drawn.ln() / f64::from(weight)
    }
}

impl HashOn {
    fn of(arguments: &Table) -> Result<Self, Refused> {
        let header = text(arguments, HASH_HEADER)?;
        let property = text(arguments, HASH_PROPERTY)?;
        let property = match (header, property) {
            (None, None) => return Ok(Self::Keys),
            (Some(header), None) => return Ok(Self::Header(header.into())),
            (Some(_), Some(_)) => {
                let text = "hash-header and hash-property are mutually exclusive";
                return Err(Refused::Precondition(text.into()));
            }
            (None, Some(property)) => property,
        };
        match property {
            b"message_id" => Ok(Self::MessageId),
            b"correlation_id" => Ok(Self::CorrelationId),
            b"timestamp" => Ok(Self::Timestamp),
            other => Err(Refused::Precondition(format!(
                "Unsupported property: {}",
                String::from_utf8_lossy(other)
            ))),
        }
    }

    /// A message without what is hashed goes where all such messages go.
    fn hash(&self, message: &RoutedMessage<'_, '_>) -> u64 {
        let Properties {
            headers,
            message_id,
            correlation_id,
            timestamp,
            ..
        } = message.properties;
        let bytes = |bytes: &Option<&[u8]>| SAME_EVERYWHERE.bytes(bytes.unwrap_or_default());
        match self {
            Self::Keys => hash_of_keys(message.keys),
            Self::MessageId => bytes(message_id),
            Self::CorrelationId => bytes(correlation_id),
            Self::Timestamp => SAME_EVERYWHERE.then(0, timestamp.unwrap_or_default()),
            Self::Header(name) => {
                let value = headers.and_then(|headers| headers.get(name));
                let value = value.unwrap_or(ValueRef::Void);
                match value {
                    // These have one hash whatever is in them.
                    ValueRef::Array(_) | ValueRef::Table(_) => {
                        SAME_EVERYWHERE.bytes(erlang::term(value).as_bytes())
                    }
                    value => value_hash(SAME_EVERYWHERE, b"", value),
                }
            }
        }
    }
}

/// The hash of a message's routing keys, those of CC and BCC included.
pub(crate) fn hash_of_keys(keys: &[&[u8]]) -> u64 {
    let hash = |sum, key: &&[u8]| SAME_EVERYWHERE.then(sum, SAME_EVERYWHERE.bytes(key));
    keys.iter().fold(0, hash)
}

/// The hash of a destination's name.
pub(crate) fn hash_of_name(name: &str) -> u64 {
    SAME_EVERYWHERE.bytes(name.as_bytes())
}

/// Whether an exchange may be declared so.
pub(crate) fn check_exchange(spec: &ExchangeSpec) -> Result<(), Refused> {
    match spec.kind {
        ExchangeKind::ConsistentHash => HashOn::of(&spec.arguments).map(|_| ()),
        _ => Ok(()),
    }
}

/// Whether there may be such a binding.
pub(crate) fn check_binding(kind: ExchangeKind, key: &[u8], target: Target) -> Result<(), Refused> {
    let refused = |text: String| Err(Refused::Precondition(text));
    match (kind, target) {
        (ExchangeKind::ConsistentHash, _) => weight(key).map(|_| ()),
        (ExchangeKind::LocalRandom, _) if !key.is_empty() => refused(format!(
            "Non empty binding '{}' key not permitted",
            String::from_utf8_lossy(key)
        )),
        (ExchangeKind::LocalRandom, Target::Exchange(_)) => refused("Destination not found".into()),
        _ => Ok(()),
    }
}

/// What a binding key says as a weight.
pub(crate) fn weight(key: &[u8]) -> Result<u16, Refused> {
    let refused = |text: String| Err(Refused::Precondition(text));
    let digits = match key {
        [b'+' | b'-', digits @ ..] => digits,
        digits => digits,
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        let key = erlang::binary(key);
        return refused(format!("The binding key must be an integer: {key}"));
    }
    let number = digits.iter().fold(0u32, |sum, digit| {
        let sum = sum.saturating_mul(10);
        sum.saturating_add(u32::from(digit - b'0'))
    });
    if number == 0 || key.first() == Some(&b'-') {
        return refused("The binding key must be greater than 0".into());
    }
    match u16::try_from(number) {
        Ok(weight) if weight <= WEIGHT_MAX => Ok(weight),
        _ => refused(format!("The binding key must not exceed {WEIGHT_MAX}")),
    }
}

fn text<'a>(arguments: &'a Table, argument: &'static str) -> Result<Option<&'a [u8]>, Refused> {
    match arguments.get(argument.as_bytes()) {
        None => Ok(None),
        Some(ValueRef::LongString(text)) => Ok(Some(text)),
        Some(other) => Err(Refused::ArgumentType {
            argument,
            kind: other.type_name(),
        }),
    }
}

const HASH_HEADER: &str = "hash-header";
const HASH_PROPERTY: &str = "hash-property";
/// As in RabbitMQ.
const WEIGHT_MAX: u16 = 10_000;
/// Not the router's secret: a key goes to the same queue after a restart.
const SAME_EVERYWHERE: Seed = Seed::new(0x6c65_7665_7265_7431);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::QueueId;

    fn ring(weights: &[u16]) -> HashRing {
        let mut ring = HashRing::new(&Table::new());
        for (id, weight) in (0..).zip(weights) {
            join(&mut ring, id, *weight);
        }
        ring
    }

    fn join(ring: &mut HashRing, id: u32, weight: u16) {
        let name = hash_of_name(&format!("queue-{id}"));
        ring.add(name, Target::Queue(QueueId(id)), (BindingId(id), weight));
    }

    fn owner(ring: &HashRing, key: &str) -> u32 {
        let (mut contest, mut found) = (Contest::default(), Matches::default());
        let message = RoutedMessage {
            keys: &[key.as_bytes()],
            properties: &Properties::default(),
        };
        // In parts, which must not matter.
        while !ring.go_on(&message, (&mut contest, &mut found), &mut Steps::new(1)) {}
        assert_eq!(found.queues.len(), 1);
        found.queues[0].0
    }

    fn owners(ring: &HashRing) -> Vec<u32> {
        (0..20_000)
            .map(|n| owner(ring, &format!("key-{n}")))
            .collect()
    }

    #[test]
    fn keys_are_spread_by_weight() {
        let owners = owners(&ring(&[1, 2, 3, 4]));
        for (id, weight) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
            let got = owners.iter().filter(|owner| **owner == id).count();
            let expected = 2000 * weight;
            // Five times the standard deviation, about.
            assert!(got.abs_diff(expected) < 350, "{id}: {got} of {expected}");
        }
    }

    #[test]
    fn a_queue_that_comes_takes_its_share_and_nothing_else_moves() {
        let mut ring = ring(&[10; 9]);
        let before = owners(&ring);
        join(&mut ring, 9, 10);
        let after = owners(&ring);
        let moved = before.iter().zip(&after).filter(|(old, new)| old != new);
        let moved: Vec<_> = moved.collect();
        assert!(moved.iter().all(|(_, new)| **new == 9));
        assert!(moved.len().abs_diff(2000) < 220, "{}", moved.len());
        ring.remove(Target::Queue(QueueId(9)), BindingId(9));
        assert_eq!(owners(&ring), before, "as if it had never been there");
    }

    #[test]
    fn the_oldest_binding_of_a_queue_counts() {
        let mut ring = ring(&[1, 1]);
        let before = owners(&ring);
        let second = Target::Queue(QueueId(1));
        ring.add(hash_of_name("queue-1"), second, (BindingId(7), 1000));
        assert_eq!(owners(&ring), before);
        ring.remove(second, BindingId(1));
        let heavy = owners(&ring).iter().filter(|owner| **owner == 1).count();
        assert!(heavy > 19_900, "{heavy}");
    }

    #[test]
    fn a_weight_is_a_number_from_one_to_ten_thousand() {
        for (key, number) in [("1", 1), ("+5", 5), ("01", 1), ("10000", 10_000)] {
            assert_eq!(weight(key.as_bytes()), Ok(number), "{key}");
        }
        let integer = "The binding key must be an integer: ";
        for (key, text) in [
            ("0", "The binding key must be greater than 0".to_owned()),
            ("-1", "The binding key must be greater than 0".to_owned()),
            ("10001", "The binding key must not exceed 10000".to_owned()),
            (
                "99999999999999999999",
                "The binding key must not exceed 10000".to_owned(),
            ),
            ("abc", format!("{integer}<<\"abc\">>")),
            ("", format!("{integer}<<>>")),
            ("1.5", format!("{integer}<<\"1.5\">>")),
            (" 1", format!("{integer}<<\" 1\">>")),
            ("+", format!("{integer}<<\"+\">>")),
        ] {
            assert_eq!(
                weight(key.as_bytes()),
                Err(Refused::Precondition(text)),
                "{key}"
            );
        }
    }
}
