//! Policies: arguments for queues and exchanges, by name, changed while they are in use.

mod definition;

use std::collections::BTreeMap;

use leveret_access::{AdminError, Pattern, Put, check_name};
use leveret_settings::merge;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use definition::{failed, validate};

/// Policies, and operator policies, of one virtual host at most.
const POLICIES_MAX: usize = 1_000;
/// What the compiled patterns of one virtual host may take, bytes.
const PATTERNS_BYTES_MAX: usize = 64 << 20;

/// Whose policy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// A user's.
    User,
    /// The operator's, which only limits and goes first.
    Operator,
}

/// What a policy applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplyTo {
    /// Queues and exchanges.
    #[default]
    All,
    /// Queues of any type.
    Queues,
    /// Queues declared without a type, or as classic.
    ClassicQueues,
    /// Queues declared as quorum queues.
    QuorumQueues,
    /// Streams, of which there are none.
    Streams,
    /// Exchanges of every type.
    Exchanges,
}

impl ApplyTo {
    /// Reads its name.
    ///
    /// # Errors
    /// In RabbitMQ's words.
    pub fn parse(text: &str) -> Result<Self, AdminError> {
        serde_json::from_value(text.into()).map_err(|_| {
            failed(&format!(
                "apply-to '{text}' unrecognised; should be one of: 'queues', 'classic_queues',  \
                 'quorum_queues', 'streams', 'exchanges', or 'all'"
            ))
        })
    }
}

/// Settings for whatever has a name that matches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Its virtual host.
    pub vhost: String,
    /// Unique among the policies of its kind there.
    pub name: String,
    /// Pattern of names of queues and exchanges.
    pub pattern: String,
    /// What it applies to.
    #[serde(rename = "apply-to", default)]
    pub apply_to: ApplyTo,
    /// The highest one that matches applies, alone.
    #[serde(default)]
    pub priority: i64,
    /// What it sets.
    pub definition: Map<String, Value>,
}

/// A queue or exchange as policies see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object<'a> {
    /// A queue, and whether it is a quorum queue.
    Queue(&'a str, bool),
    /// An exchange by its name.
    Exchange(&'a str),
}

impl Object<'_> {
    const fn name(&self) -> &str {
        match self {
            Self::Queue(name, _) | Self::Exchange(name) => name,
        }
    }

    const fn is_meant_by(&self, apply_to: ApplyTo) -> bool {
        match apply_to {
            ApplyTo::All => true,
            ApplyTo::Queues => matches!(self, Self::Queue(..)),
            ApplyTo::ClassicQueues => matches!(self, Self::Queue(_, false)),
            ApplyTo::QuorumQueues => matches!(self, Self::Queue(_, true)),
            ApplyTo::Streams => false,
            ApplyTo::Exchanges => matches!(self, Self::Exchange(_)),
        }
    }
}

/// What policies set for one queue or exchange.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    /// The user policy that applies.
    pub policy: Option<String>,
    /// The operator policy that applies.
    pub operator_policy: Option<String>,
    /// Both merged.
    pub definition: Map<String, Value>,
}

#[derive(Clone, Debug)]
struct Compiled {
    policy: Policy,
    pattern: Pattern,
}

/// The policies of one virtual host.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    user: BTreeMap<String, Compiled>,
    operator: BTreeMap<String, Compiled>,
    /// Changes so far.
    generation: u64,
}

impl Policies {
    /// Grows with each change: what was found to apply holds while it stands.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// The pattern of a policy.
    pub(crate) fn pattern(&self, kind: PolicyKind, name: &str) -> Option<&Pattern> {
        Some(&self.of(kind).get(name)?.pattern)
    }

    /// Adds a policy, or replaces it.
    ///
    /// # Errors
    /// When a part of it is invalid, in RabbitMQ's words.
    pub fn put(&mut self, kind: PolicyKind, policy: Policy) -> Result<Put, AdminError> {
        check_name("policy", &policy.name)?;
        let wrong = validate(kind, &policy.definition).err();
        let pattern = Pattern::new(&policy.pattern).map_err(|reason| {
            let wrong = wrong.iter().cloned();
            let pattern = format!("pattern should be regular expression but is invalid: {reason}");
            failed(&wrong.chain([pattern]).collect::<Vec<_>>().join("\n"))
        })?;
        if let Some(wrong) = wrong {
            return Err(failed(&wrong));
        }
        let all = self.user.values().chain(self.operator.values());
        let weight: usize = all.map(|compiled| compiled.pattern.weight).sum();
        let policies = self.of_mut(kind);
        let before = policies.get(&policy.name);
        if policies.len() >= POLICIES_MAX && before.is_none() {
            return Err(AdminError::Limit("policies", POLICIES_MAX));
        }
        let freed = before.map_or(0, |before| before.pattern.weight);
        if weight - freed + pattern.weight > PATTERNS_BYTES_MAX {
            let what = "bytes of compiled patterns of policies";
            return Err(AdminError::Limit(what, PATTERNS_BYTES_MAX));
        }
        let name = policy.name.clone();
        let put = Put::of(&policies.insert(name, Compiled { policy, pattern }));
        self.generation += 1;
        Ok(put)
    }

    /// Removes a policy. Tells whether it existed.
    pub fn delete(&mut self, kind: PolicyKind, name: &str) -> bool {
        self.generation += 1;
        self.of_mut(kind).remove(name).is_some()
    }

    /// A policy.
    #[must_use]
    pub fn get(&self, kind: PolicyKind, name: &str) -> Option<&Policy> {
        Some(&self.of(kind).get(name)?.policy)
    }

    /// All policies of a kind, by name.
    pub fn list(&self, kind: PolicyKind) -> impl ExactSizeIterator<Item = &Policy> {
        self.of(kind).values().map(|compiled| &compiled.policy)
    }

    /// Whether there are none of either kind.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.user.is_empty() && self.operator.is_empty()
    }

    /// What applies to a queue or exchange.
    #[must_use]
    pub fn effective(&self, object: Object<'_>) -> Effective {
        let user = find(&self.user, object);
        let operator = find(&self.operator, object);
        let definition = |policy: Option<&Policy>| policy.map(|policy| policy.definition.clone());
        Effective {
            policy: user.map(|policy| policy.name.clone()),
            operator_policy: operator.map(|policy| policy.name.clone()),
            definition: merge(
                definition(user).unwrap_or_default(),
                definition(operator).unwrap_or_default(),
            ),
        }
    }

    const fn of(&self, kind: PolicyKind) -> &BTreeMap<String, Compiled> {
        match kind {
            PolicyKind::User => &self.user,
            PolicyKind::Operator => &self.operator,
        }
    }

    const fn of_mut(&mut self, kind: PolicyKind) -> &mut BTreeMap<String, Compiled> {
        match kind {
            PolicyKind::User => &mut self.user,
            PolicyKind::Operator => &mut self.operator,
        }
    }
}

/// The matching policy of the highest priority; of equal ones the first by name.
fn find<'a>(policies: &'a BTreeMap<String, Compiled>, object: Object<'_>) -> Option<&'a Policy> {
    let mut best: Option<&Policy> = None;
    for Compiled { policy, pattern } in policies.values() {
        let better = best.is_none_or(|best| policy.priority > best.priority);
        if better && object.is_meant_by(policy.apply_to) && pattern.matches(object.name()) {
            best = Some(policy);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn policy(name: &str, pattern: &str, priority: i64, definition: Value) -> Policy {
        Policy {
            vhost: "/".into(),
            name: name.into(),
            pattern: pattern.into(),
            apply_to: ApplyTo::All,
            priority,
            definition: definition.as_object().unwrap().clone(),
        }
    }

    #[test]
    fn the_highest_matching_policy_applies_alone() {
        let mut policies = Policies::default();
        let all = policy(
            "all",
            "",
            0,
            json!({"max-length": 10, "overflow": "drop-head"}),
        );
        let orders = policy("orders", "^orders", 5, json!({"max-length": 20}));
        assert_eq!(policies.put(PolicyKind::User, all), Ok(Put::Created));
        assert_eq!(policies.put(PolicyKind::User, orders), Ok(Put::Created));
        let of = |name| policies.effective(Object::Queue(name, false));
        assert_eq!(of("orders.eu").policy.as_deref(), Some("orders"));
        assert_eq!(
            of("orders.eu")
                .definition
                .get("max-length")
                .and_then(Value::as_u64),
            Some(20)
        );
        assert_eq!(of("orders.eu").definition.get("overflow"), None);
        assert_eq!(of("bills").policy.as_deref(), Some("all"));
    }

    #[test]
    fn apply_to_selects_queues_by_type_and_exchanges() {
        for (apply_to, classic, quorum, exchange) in [
            (ApplyTo::All, true, true, true),
            (ApplyTo::Queues, true, true, false),
            (ApplyTo::ClassicQueues, true, false, false),
            (ApplyTo::QuorumQueues, false, true, false),
            (ApplyTo::Streams, false, false, false),
            (ApplyTo::Exchanges, false, false, true),
        ] {
            let mut policies = Policies::default();
            let policy = Policy {
                apply_to,
                ..policy("p", "x", 0, json!({"max-length": 1}))
            };
            policies.put(PolicyKind::User, policy).unwrap();
            let applies = |object| policies.effective(object).policy.is_some();
            assert_eq!(applies(Object::Queue("x", false)), classic, "{apply_to:?}");
            assert_eq!(applies(Object::Queue("x", true)), quorum, "{apply_to:?}");
            assert_eq!(applies(Object::Exchange("x")), exchange, "{apply_to:?}");
        }
        assert_eq!(ApplyTo::parse("classic_queues"), Ok(ApplyTo::ClassicQueues));
        assert!(ApplyTo::parse("everything").is_err());
    }

    #[test]
    fn the_operator_limits_what_a_policy_sets() {
        let mut policies = Policies::default();
        let wide = policy("wide", "", 0, json!({"max-length": 100, "expires": 5}));
        let narrow = policy("narrow", "", 0, json!({"max-length": 10, "message-ttl": 7}));
        policies.put(PolicyKind::User, wide).unwrap();
        policies.put(PolicyKind::Operator, narrow).unwrap();
        let effective = policies.effective(Object::Queue("q", false));
        assert_eq!(effective.operator_policy.as_deref(), Some("narrow"));
        let merged = json!({"max-length": 10, "message-ttl": 7, "expires": 5});
        assert_eq!(Value::Object(effective.definition), merged);
        assert!(policies.delete(PolicyKind::Operator, "narrow"));
        assert!(!policies.delete(PolicyKind::Operator, "narrow"));
    }

    #[test]
    fn patterns_together_are_bounded() {
        let heavy = r"\w{6}$";
        let weight = Pattern::new(heavy).unwrap().weight;
        let mut policies = Policies::default();
        let definition = || json!({"max-length": 1});
        let name = |n: usize| format!("p{n}");
        for n in 0..PATTERNS_BYTES_MAX / weight {
            let put = policies.put(PolicyKind::User, policy(&name(n), heavy, 0, definition()));
            assert_eq!(put, Ok(Put::Created), "{n}");
        }
        let light = policy("light", "x", 0, definition());
        let refused = policies.put(PolicyKind::Operator, light.clone());
        assert!(matches!(
            refused,
            Err(AdminError::Limit(_, PATTERNS_BYTES_MAX))
        ));
        let lighter = policy(&name(0), "x", 0, definition());
        assert_eq!(policies.put(PolicyKind::User, lighter), Ok(Put::Updated));
        assert_eq!(policies.put(PolicyKind::Operator, light), Ok(Put::Created));
    }

    #[test]
    fn policies_have_rabbitmqs_form() {
        let json = json!({
            "vhost": "/", "name": "p", "pattern": "^q", "apply-to": "classic_queues",
            "priority": -1, "definition": {"max-length": 1},
        });
        let policy: Policy = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(policy).unwrap(), json);
    }

    proptest! {
        #[test]
        fn an_operator_never_widens_a_limit(user in 0u32..100, operator in 0u32..100) {
            let mut policies = Policies::default();
            let of = |name, limit| policy(name, "", 0, json!({"max-length": limit}));
            policies.put(PolicyKind::User, of("u", user)).unwrap();
            policies.put(PolicyKind::Operator, of("o", operator)).unwrap();
            let effective = policies.effective(Object::Queue("q", false));
            let lower = Value::from(user.min(operator));
            prop_assert_eq!(effective.definition.get("max-length"), Some(&lower));
        }
    }
}
