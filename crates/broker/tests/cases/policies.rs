//! Policies and operator policies: what they change in queues and exchanges that are in use.

use std::sync::Arc;

use leveret_broker::{ApplyTo, Broker, Policy, PolicyKind, QueueCell, VhostMetadata};
use leveret_codec::{
    BasicGet, ConfirmSelect, ExchangeDeclare, QueueBind, QueueDeclare, RawTable, Table,
};
use leveret_store::InstantStore;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::support::{Client, broker, declaration};

fn start() -> (Arc<Broker>, Client) {
    let broker = broker(Arc::new(InstantStore));
    let client = Client::new(&broker);
    (broker, client)
}

fn set(broker: &Broker, kind: PolicyKind, name: &str, pattern: &str, definition: &Json) {
    let policy = Policy {
        vhost: "/".into(),
        name: name.into(),
        pattern: pattern.into(),
        apply_to: ApplyTo::All,
        priority: 0,
        definition: definition.as_object().unwrap().clone(),
    };
    broker.administer().put_policy(kind, policy).unwrap();
}

fn clear(broker: &Broker, kind: PolicyKind, name: &str) {
    broker.administer().delete_policy(kind, "/", name).unwrap();
}

fn ready(broker: &Broker, queue: &str) -> u64 {
    let cell = broker.vhost("/").unwrap().queue(queue).unwrap();
    let state = cell.lock();
    state.queue.ready()
}

fn policy_of(broker: &Broker, queue: &str) -> Option<String> {
    let cell = broker.vhost("/").unwrap().queue(queue).unwrap();
    let state = cell.lock();
    state
        .policy
        .as_ref()
        .and_then(|policy| policy.policy.clone())
}

fn fill(client: &mut Client, queue: &str, count: usize) {
    for index in 0..count {
        client.publish_optional(1, queue, &index.to_string());
    }
}

fn get(client: &mut Client, queue: &str) -> String {
    let get = BasicGet {
        queue: queue.as_bytes(),
        no_ack: true,
    };
    client.say(1, get);
    client.hear().pop().unwrap_or_default()
}

#[test]
fn a_limit_trims_what_is_there_and_ends_with_its_policy() {
    let (broker, mut client) = start();
    client.declare(1, "q", false);
    client.declare(1, "other", false);
    fill(&mut client, "q", 10);
    fill(&mut client, "other", 10);
    client.hear();
    set(
        &broker,
        PolicyKind::User,
        "short",
        "^q",
        &json!({"max-length": 3}),
    );
    assert_eq!((ready(&broker, "q"), ready(&broker, "other")), (3, 10));
    assert_eq!(policy_of(&broker, "q").as_deref(), Some("short"));
    assert_eq!(policy_of(&broker, "other"), None);
    assert_eq!(get(&mut client, "q"), "body 7");
    fill(&mut client, "q", 5);
    assert_eq!(ready(&broker, "q"), 3);
    set(
        &broker,
        PolicyKind::User,
        "short",
        "^q",
        &json!({"max-length-bytes": 2}),
    );
    assert_eq!(ready(&broker, "q"), 2);
    clear(&broker, PolicyKind::User, "short");
    fill(&mut client, "q", 5);
    assert_eq!(ready(&broker, "q"), 7);
    assert_eq!(policy_of(&broker, "q"), None);
}

#[test]
fn a_queue_declared_later_has_its_policy_from_the_start() {
    let (broker, mut client) = start();
    set(
        &broker,
        PolicyKind::User,
        "short",
        "",
        &json!({"max-length": 2}),
    );
    client.declare(1, "q", false);
    fill(&mut client, "q", 5);
    assert_eq!(ready(&broker, "q"), 2);
}

#[test]
fn overflow_by_policy_refuses_publishes() {
    let (broker, mut client) = start();
    client.declare(1, "q", false);
    client.say(1, ConfirmSelect { nowait: false });
    client.hear();
    let definition = json!({"max-length": 1, "overflow": "reject-publish"});
    set(&broker, PolicyKind::User, "full", "^q$", &definition);
    fill(&mut client, "q", 2);
    assert_eq!(client.hear(), ["1 ack 1", "1 nack 2"]);
    clear(&broker, PolicyKind::User, "full");
    fill(&mut client, "q", 1);
    assert_eq!(client.hear(), ["1 ack 3"]);
}

#[test]
fn the_lowest_of_argument_policy_and_operator_policy_holds() {
    let (broker, mut client) = start();
    let mut arguments = Table::new();
    arguments.insert("x-max-length", 4);
    let arguments = arguments.encoded();
    let limited = QueueDeclare {
        arguments: RawTable::parse(&arguments).unwrap(),
        ..declaration("q", false)
    };
    client.say(1, limited);
    fill(&mut client, "q", 9);
    assert_eq!(ready(&broker, "q"), 4);
    set(
        &broker,
        PolicyKind::User,
        "p",
        "",
        &json!({"max-length": 6}),
    );
    assert_eq!(ready(&broker, "q"), 4);
    set(
        &broker,
        PolicyKind::Operator,
        "o",
        "",
        &json!({"max-length": 2}),
    );
    assert_eq!(ready(&broker, "q"), 2);
    let cell = broker.vhost("/").unwrap().queue("q").unwrap();
    let policy = cell.lock().policy.clone().unwrap();
    assert_eq!(policy.operator_policy.as_deref(), Some("o"));
    assert_eq!(
        Json::Object(policy.definition.clone()),
        json!({"max-length": 2})
    );
}

#[test]
fn an_alternate_exchange_by_policy_takes_what_is_unroutable() {
    let (broker, mut client) = start();
    client.declare(1, "q", false);
    let exchange = ExchangeDeclare {
        exchange: b"x",
        kind: b"direct",
        ..Default::default()
    };
    client.say(1, exchange);
    let bind = QueueBind {
        queue: b"q",
        exchange: b"amq.fanout",
        ..Default::default()
    };
    client.say(1, bind);
    client.hear();
    let publish = |client: &mut Client| client.publish_to_exchange(1, "x", "nowhere");
    publish(&mut client);
    assert_eq!(ready(&broker, "q"), 0);
    let definition = json!({"alternate-exchange": "amq.fanout"});
    set(&broker, PolicyKind::User, "p", "^x$", &definition);
    publish(&mut client);
    assert_eq!(ready(&broker, "q"), 1);
    clear(&broker, PolicyKind::User, "p");
    publish(&mut client);
    assert_eq!(ready(&broker, "q"), 1);
}

/// Which policy, whether it is the operator's, and its limit; none deletes it.
fn change() -> impl Strategy<Value = (usize, bool, Option<u64>)> {
    (0usize..3, any::<bool>(), prop::option::of(0u64..8))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever policies come and go, a queue holds to the last ones.
    #[test]
    fn a_queue_holds_to_the_policies_that_are_left(
        changes in prop::collection::vec(change(), 1..12),
    ) {
        let (broker, mut client) = start();
        client.declare(1, "q", false);
        let mut limits = [[None; 3]; 2];
        for (name, operator, limit) in changes {
            let kind = if operator { PolicyKind::Operator } else { PolicyKind::User };
            let of_kind = &mut limits[usize::from(operator)];
            let text = format!("p{name}");
            match limit {
                Some(limit) => set(&broker, kind, &text, "", &json!({"max-length": limit})),
                None if of_kind[name].is_some() => clear(&broker, kind, &text),
                None => {}
            }
            of_kind[name] = limit;
            // All have the same priority: the first by name applies.
            let applies = limits.map(|of_kind| of_kind.into_iter().flatten().next());
            let lowest = applies.into_iter().flatten().min();
            fill(&mut client, "q", 8);
            let held = ready(&broker, "q");
            match lowest {
                Some(limit) => prop_assert_eq!(held, limit),
                None => prop_assert!(held >= 8),
            }
        }
    }
}

#[test]
fn a_vhosts_default_queue_type_is_that_of_queues_without_one() {
    let (broker, mut client) = start();
    let metadata = VhostMetadata {
        default_queue_type: Some("quorum".into()),
        ..VhostMetadata::default()
    };
    broker.administer().put_vhost("/", metadata).unwrap();
    client.declare(1, "lasting", true);
    client.declare(1, "lasting", true);
    client.declare(1, "fleeting", false);
    assert_eq!(client.hear(), ["1 queue.declare-ok"; 3]);
    let kind = |name| {
        let cell = broker.vhost("/").unwrap().queue(name).unwrap();
        let kind = cell.spec.arguments.get(b"x-queue-type");
        kind.map(|kind| kind.to_value())
    };
    assert_eq!(kind("lasting"), Some("quorum".into()));
    assert_eq!(kind("fleeting"), None);
    // RabbitMQ refuses both.
    client.declare(1, "", true);
    assert_eq!(client.hear(), ["1 queue.declare-ok"]);
    let vhost = broker.vhost("/").unwrap();
    let made_up = |cell: &&Arc<QueueCell>| cell.name.starts_with("amq.gen-");
    let made_up = vhost.directory.read().queues().find(made_up).cloned();
    assert_eq!(kind(&made_up.expect("it is there").name), None);
    let mut asks = Table::new();
    asks.insert("x-queue-type", "undefined");
    let nameless = QueueDeclare {
        arguments: asks.as_raw(),
        ..declaration("", true)
    };
    client.say(1, nameless);
    let told = "1 close 406 PRECONDITION_FAILED - Cannot declare a server-named queue for type \
                rabbit_quorum_queue";
    assert_eq!(client.hear(), [told]);
    let policy = Policy {
        vhost: "/".into(),
        name: "p".into(),
        pattern: String::new(),
        apply_to: ApplyTo::QuorumQueues,
        priority: 0,
        definition: json!({"max-length": 1}).as_object().unwrap().clone(),
    };
    broker
        .administer()
        .put_policy(PolicyKind::User, policy)
        .unwrap();
    assert_eq!(policy_of(&broker, "lasting").as_deref(), Some("p"));
    assert_eq!(policy_of(&broker, "fleeting"), None);
}
