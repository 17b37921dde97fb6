//! Administration of a broker in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use leveret_store::InstantStore;
use serde_json::json;

use crate::*;

fn broker() -> Broker {
    let access = Access::new(vec!["guest".into()]);
    let broker = Broker::new(BrokerConfig::default(), access, Arc::new(InstantStore));
    broker.first_start("guest", "guest", "/").unwrap();
    broker
}

fn policy(vhost: &str) -> Policy {
    Policy {
        vhost: vhost.into(),
        name: "p".into(),
        pattern: "^q".into(),
        apply_to: ApplyTo::Queues,
        priority: 1,
        definition: json!({"max-length": 3}).as_object().unwrap().clone(),
    }
}

#[test]
fn the_first_user_may_do_everything_in_the_first_vhost() {
    let broker = broker();
    let user = broker.authenticate("guest", b"guest", true).unwrap();
    assert!(user.has_tag(ADMINISTRATOR));
    assert_eq!(
        broker.authenticate("guest", b"guest", false).unwrap_err(),
        Denied::NotLoopback
    );
    for password in [&b"gues"[..], b""] {
        let denied = broker.authenticate("guest", password, true);
        assert_eq!(denied.unwrap_err(), Denied::Credentials);
    }
    let nobody = broker.authenticate("nobody", b"guest", true);
    assert_eq!(nobody.unwrap_err(), Denied::Credentials);
    assert!(broker.with_access(|access| access.may("/", "guest", Right::Configure, "q")));
    broker.set_loopback_only(Vec::new());
    assert!(broker.authenticate("guest", b"guest", false).is_ok());
}

#[test]
fn changes_of_what_is_not_there_are_refused() {
    let broker = broker();
    let mut admin = broker.administer();
    let no_vhost = AdminError::NoVhost("nope".into());
    let no_user = AdminError::NoUser("nobody".into());
    let permission = |user: &str, vhost: &str| Permission::full(user, vhost);
    assert_eq!(
        admin.put_permission(permission("guest", "nope")),
        Err(no_vhost.clone())
    );
    assert_eq!(
        admin.put_permission(permission("nobody", "/")),
        Err(no_user.clone())
    );
    assert_eq!(
        admin.put_policy(PolicyKind::User, policy("nope")),
        Err(no_vhost.clone())
    );
    assert_eq!(
        admin.set_user_limit("nobody", "max-channels", &1.into()),
        Err(no_user.clone())
    );
    assert_eq!(admin.delete_user("nobody"), Err(no_user));
    assert_eq!(admin.delete_vhost("nope"), Err(no_vhost));
    assert_eq!(
        admin.delete_policy(PolicyKind::Operator, "/", "p"),
        Err(AdminError::Missing)
    );
    assert_eq!(
        admin.delete_topic_permissions("/", "guest", None),
        Err(AdminError::Missing)
    );
    assert_eq!(
        admin.clear_vhost_limit("/", "max-nothing"),
        Err(AdminError::Missing)
    );
}

#[test]
fn a_vhost_goes_with_everything_in_it_unless_it_is_protected() {
    let broker = broker();
    let mut admin = broker.administer();
    let protected = VhostMetadata {
        protected_from_deletion: true,
        ..VhostMetadata::default()
    };
    assert_eq!(admin.put_vhost("v", protected), Ok(Put::Created));
    admin
        .put_permission(Permission::full("guest", "v"))
        .unwrap();
    admin.put_policy(PolicyKind::User, policy("v")).unwrap();
    assert_eq!(
        admin.delete_vhost("v"),
        Err(AdminError::Protected("v".into()))
    );
    let open = VhostMetadata::default();
    assert_eq!(admin.put_vhost("v", open), Ok(Put::Updated));
    assert_eq!(admin.delete_vhost("v"), Ok(()));
    assert!(broker.vhost("v").is_none());
    assert!(!broker.with_access(|access| access.may_enter("v", "guest")));
    let odd = VhostMetadata {
        default_queue_type: Some("nope".into()),
        ..VhostMetadata::default()
    };
    assert!(matches!(
        admin.put_vhost("w", odd),
        Err(AdminError::Invalid(_))
    ));
}

#[test]
fn a_slow_hash_is_checked_aside_and_a_right_password_only_once() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static ASIDE: AtomicUsize = AtomicUsize::new(0);
    let config = BrokerConfig {
        password_hashing: Hashing::Argon2id,
        aside: |work| {
            ASIDE.fetch_add(1, Ordering::Relaxed);
            work();
        },
        ..BrokerConfig::default()
    };
    let broker = Broker::new(config, Access::default(), Arc::new(InstantStore));
    broker.first_start("app", "s3cret", "/").unwrap();
    assert_eq!(ASIDE.load(Ordering::Relaxed), 1);
    for _ in 0..3 {
        assert!(broker.authenticate("app", b"s3cret", false).is_ok());
    }
    assert_eq!(ASIDE.load(Ordering::Relaxed), 2);
    assert!(broker.authenticate("app", b"wrong", false).is_err());
    assert_eq!(ASIDE.load(Ordering::Relaxed), 3);
}

fn user(name: &str, password: Option<PasswordHash>) -> User {
    User {
        name: name.into(),
        password,
        tags: Vec::new(),
        limits: UserLimits::default(),
    }
}

/// The least time a refused login took, of many.
fn refused_in(broker: &Broker, user: &str, password: &[u8]) -> Duration {
    let times = (0..20).map(|_| {
        let start = Instant::now();
        assert!(broker.authenticate(user, password, true).is_err());
        start.elapsed()
    });
    times.min().unwrap()
}

#[test]
fn a_wrong_password_takes_as_long_whether_there_is_such_a_user_or_not() {
    let broker = broker();
    let user = user("passwordless", None);
    broker.administer().put_user(user).unwrap();
    // So long that hashing it is all that counts.
    let password = vec![b'x'; 1 << 16];
    let known = refused_in(&broker, "guest", &password);
    for unknown in ["nobody", "passwordless"] {
        let unknown = refused_in(&broker, unknown, &password);
        assert!(
            unknown > known / 2 && unknown < known * 2,
            "{known:?} and {unknown:?}"
        );
    }
}

#[test]
fn with_one_slow_hash_every_wrong_password_is_slow() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static ASIDE: AtomicUsize = AtomicUsize::new(0);
    let config = BrokerConfig {
        // It is counted, not done: whatever is checked is wrong.
        aside: |_| {
            ASIDE.fetch_add(1, Ordering::Relaxed);
        },
        ..BrokerConfig::default()
    };
    let broker = Broker::new(config, Access::default(), Arc::new(InstantStore));
    broker.first_start("fast", "fast", "/").unwrap();
    let slow = PasswordHash::from_base64(Hashing::Argon2id, &"A".repeat(64)).unwrap();
    let refused = |user| {
        let before = ASIDE.load(Ordering::Relaxed);
        assert!(broker.authenticate(user, b"wrong", true).is_err());
        ASIDE.load(Ordering::Relaxed) - before
    };
    assert_eq!(["fast", "nobody"].map(refused), [0, 0]);
    let user = user("slow", Some(slow));
    broker.administer().put_user(user).unwrap();
    assert_eq!(["fast", "nobody", "slow"].map(refused), [1, 1, 1]);
    assert!(broker.authenticate("fast", b"fast", true).is_ok());
    assert_eq!(ASIDE.load(Ordering::Relaxed), 3);
    broker.administer().delete_user("slow").unwrap();
    assert_eq!(["fast", "nobody"].map(refused), [0, 0]);
}
