//! Users, permissions, virtual hosts, policies and parameters through the journal: what is there
//! after a restart, and what is not.

use std::sync::Arc;

use crate::support::on_disk;
use leveret_broker::{
    Admin, AdminError, ApplyTo, Binding, Broker, Effects, Parameter, Permission, Policy,
    PolicyKind, QueueSpec, Right, TopicPermission, User, UserLimits, VhostMetadata,
};
use leveret_codec::Table;
use leveret_router::{ExchangeKind, ExchangeSpec};
use leveret_store::sim::SimDisk;
use leveret_store::{Journal, JournalConfig, Store};
use serde_json::json;

/// Makes changes, then restarts.
fn changed(disk: &SimDisk, changes: impl FnOnce(&mut Admin<'_>)) -> Broker {
    let (broker, journal) = on_disk(disk);
    let mut admin = broker.administer();
    changes(&mut admin);
    let ticket = admin.commit();
    journal.commit().expect("commits");
    assert!(journal.durable() >= ticket);
    drop(broker);
    on_disk(disk).0
}

fn user(admin: &Admin<'_>, name: &str) -> User {
    User {
        name: name.into(),
        password: Some(admin.broker().hash_password(name)),
        tags: vec!["management".into()],
        limits: UserLimits::default(),
    }
}

fn policy(name: &str) -> Policy {
    Policy {
        vhost: "v".into(),
        name: name.into(),
        pattern: "^q".into(),
        apply_to: ApplyTo::Queues,
        priority: 1,
        definition: json!({"max-length": 3})
            .as_object()
            .cloned()
            .unwrap_or_default(),
    }
}

fn restricted(exchange: &str) -> TopicPermission {
    TopicPermission {
        user: "app".into(),
        vhost: "v".into(),
        exchange: exchange.into(),
        write: "^a".into(),
        read: String::new(),
    }
}

fn parameter(name: &str) -> Parameter {
    Parameter {
        vhost: "v".into(),
        component: "shovel".into(),
        name: name.into(),
        value: json!({
            "src-uri": "amqp://",
            "src-queue": "a",
            "dest-uri": "amqp://",
            "dest-queue": "b",
        }),
    }
}

/// One of everything, and one more to be deleted.
fn fill(admin: &mut Admin<'_>) -> Result<(), AdminError> {
    admin.put_vhost(
        "v",
        VhostMetadata {
            description: "d".into(),
            ..VhostMetadata::default()
        },
    )?;
    for name in ["app", "gone"] {
        let user = user(admin, name);
        admin.put_user(user)?;
        admin.put_permission(Permission::full(name, "v"))?;
    }
    for name in ["kept", "gone"] {
        admin.put_topic_permission(restricted(name))?;
        admin.put_policy(PolicyKind::User, policy(name))?;
        admin.put_policy(PolicyKind::Operator, policy(name))?;
        admin.put_parameter(parameter(name))?;
        admin.put_global_parameter(name, json!(name))?;
    }
    admin.set_user_limit("app", "max-channels", &json!(5))?;
    admin.set_vhost_limit("v", "max-queues", &json!(7))
}

fn thin_out(admin: &mut Admin<'_>) -> Result<(), AdminError> {
    admin.delete_user("gone")?;
    admin.delete_topic_permissions("v", "app", Some("gone"))?;
    admin.delete_policy(PolicyKind::User, "v", "gone")?;
    admin.delete_policy(PolicyKind::Operator, "v", "gone")?;
    admin.delete_parameter("v", "shovel", "gone")?;
    admin.delete_global_parameter("gone")
}

#[test]
fn administration_survives_a_restart() {
    let disk = SimDisk::new();
    let broker = changed(&disk, |admin| {
        fill(admin).expect("fills");
        thin_out(admin).expect("thins out");
    });
    let app = broker.authenticate("app", b"app", false).expect("logs in");
    assert_eq!(app.tags, ["management"]);
    assert_eq!(app.limits.max_channels, Some(5));
    broker.with_access(|access| {
        assert_eq!(access.users().len(), 1);
        assert!(access.may("v", "app", Right::Configure, "x"));
        let topics: Vec<_> = access.topic_permissions().collect();
        assert_eq!(topics, [&restricted("kept")]);
    });
    let vhost = broker.vhost("v").expect("is there");
    let rules = vhost.rules.read();
    assert_eq!(rules.metadata.description, "d");
    assert_eq!(rules.limits.max_queues, Some(7));
    for kind in [PolicyKind::User, PolicyKind::Operator] {
        let policies: Vec<_> = rules.policies.list(kind).collect();
        assert_eq!(policies, [&policy("kept")]);
    }
    let parameters: Vec<_> = rules.parameters.list().collect();
    assert_eq!(parameters, [&parameter("kept")]);
    assert_eq!(
        broker.global_parameters(),
        [("kept".to_owned(), json!("kept"))]
    );
}

#[test]
fn a_deleted_vhost_leaves_nothing_in_the_store() {
    let disk = SimDisk::new();
    let broker = changed(&disk, |admin| {
        fill(admin).expect("fills");
        let broker = admin.broker();
        let vhost = broker.vhost("v").expect("is there");
        let mut effects = Effects::default();
        let durable = QueueSpec {
            durable: true,
            ..QueueSpec::default()
        };
        let topic = ExchangeSpec::durable(ExchangeKind::Topic);
        broker
            .declare_exchange(&vhost, "x", topic, &mut effects)
            .expect("is declared");
        let (cell, _) = broker
            .declare_queue(&vhost, "q", durable, &mut effects)
            .expect("is declared");
        let between = |source: &str, destination: &str| {
            Binding::of_exchange(source, destination, b"k", Table::new())
        };
        for binding in [
            Binding::of_queue("x", &cell, b"k", Table::new()),
            Binding::of_queue("amq.topic", &cell, b"k", Table::new()),
            between("x", "amq.fanout"),
            between("amq.topic", "amq.fanout"),
        ] {
            broker
                .bind(&vhost, &binding, &mut effects)
                .expect("is bound");
        }
        broker.submit(&mut effects);
        admin.delete_vhost("v").expect("is deleted");
        admin.delete_user("app").expect("is deleted");
        admin.delete_user("gone").expect("is deleted");
        admin.delete_global_parameter("kept").expect("is deleted");
        admin.delete_global_parameter("gone").expect("is deleted");
    });
    assert!(broker.vhosts().is_empty());
    assert_eq!(broker.with_access(|access| access.users().len()), 0);
    drop(broker);
    let config = JournalConfig {
        disk_free_min: 0,
        ..JournalConfig::default()
    };
    let recovered = Journal::open(Arc::new(disk), config).expect("opens");
    assert_eq!(recovered.topology.len(), 0, "{:?}", recovered.topology);
}
