//! Definitions against a broker that holds something: what is refused changes nothing, and what is
//! not mentioned stays as it is.

use std::sync::Arc;

use leveret_broker::{
    Access, Admin, ApplyTo, Broker, BrokerConfig, BrokerLimits, Effects, GLOBALS_MAX, Policy,
    PolicyKind, QueueSpec, Vhost, VhostMetadata,
};
use leveret_codec::Table;
use leveret_management::import_definitions;
use leveret_store::InstantStore;
use serde_json::{Value, json};

fn broker(config: BrokerConfig) -> Broker {
    let broker = Broker::new(config, Access::new(Vec::new()), Arc::new(InstantStore));
    broker.first_start("guest", "guest", "/").unwrap();
    broker
}

fn administer(broker: &Broker, change: impl FnOnce(&mut Admin<'_>)) {
    change(&mut broker.administer());
}

fn vhost(broker: &Broker, name: &str) -> Arc<Vhost> {
    administer(broker, |admin| {
        admin.put_vhost(name, VhostMetadata::default()).unwrap();
    });
    broker.vhost(name).unwrap()
}

fn declare(broker: &Broker, vhost: &Vhost, names: &[&str]) {
    for name in names {
        let mut effects = Effects::default();
        let declared = broker.declare_queue(vhost, name, durable(), &mut effects);
        declared.unwrap();
    }
}

fn durable() -> QueueSpec {
    QueueSpec {
        durable: true,
        auto_delete: false,
        owner: None,
        arguments: Table::new(),
        declared_by: None,
    }
}

fn import(broker: &Broker, file: &Value) -> Result<(), String> {
    import_definitions(broker, file.to_string().as_bytes())
}

/// Asserts that a file is refused in these words, and that no part of it was applied.
fn refused(broker: &Broker, mut file: Value, reason: &str) {
    file["users"] = json!([{"name": "newbie", "tags": ""}]);
    let told = import(broker, &file).unwrap_err();
    assert_eq!(told, reason, "{file}");
    assert_eq!(broker.user("newbie"), None, "{file}");
}

fn queues(names: &[&str]) -> Value {
    let named = |name| json!({"vhost": "lim", "name": name});
    names.iter().map(named).collect()
}

/// Its queues, and a limit that they are over already.
fn own_export() -> Value {
    json!({
        "vhosts": [{"name": "lim", "limits": {"max-queues": 2}}],
        "parameters": [{"vhost": "lim", "component": "vhost-limits", "name": "limits",
            "value": {"max-queues": 2}}],
        "queues": queues(&["a", "b", "c"]),
    })
}

fn max_queues(vhost: &Vhost) -> Option<i64> {
    vhost.rules.read().limits.max_queues
}

#[test]
fn the_queues_that_exist_count_against_the_limit_of_their_vhost() {
    let broker = broker(BrokerConfig::default());
    let lim = vhost(&broker, "lim");
    declare(&broker, &lim, &["a", "b", "c"]);
    administer(&broker, |admin| {
        let limit = admin.set_vhost_limit("lim", "max-queues", &2.into());
        limit.unwrap();
    });
    let reason = "queues[1] ('d' in vhost 'lim'): limit of queues of a vhost (2) is reached";
    refused(&broker, json!({"queues": queues(&["a", "d"])}), reason);
    assert_eq!(import(&broker, &own_export()), Ok(()));
    assert_eq!(max_queues(&lim), Some(2));
}

#[test]
fn a_limit_of_the_file_holds_after_its_queues() {
    let broker = broker(BrokerConfig::default());
    assert_eq!(import(&broker, &own_export()), Ok(()));
    let lim = broker.vhost("lim").unwrap();
    assert_eq!(lim.directory.read().queues().len(), 3);
    assert_eq!(max_queues(&lim), Some(2));
    let mut wider = own_export();
    wider["vhosts"][0]["limits"]["max-queues"] = 4.into();
    wider["parameters"] = json!([]);
    wider["queues"] = queues(&["d"]);
    assert_eq!(import(&broker, &wider), Ok(()));
    assert_eq!(max_queues(&lim), Some(4));
    wider["queues"] = queues(&["a", "e", "e", "f"]);
    let reason = "queues[1] ('e' in vhost 'lim'): limit of queues of a vhost (4) is reached";
    refused(&broker, wider, reason);
}

#[test]
fn what_exists_counts_against_the_bounds_of_the_broker() {
    let exchange = |name| json!({"vhost": "lim", "name": name, "type": "direct"});
    let binding = |key| {
        json!({"vhost": "lim", "source": "amq.direct", "destination": "a",
            "destination_type": "queue", "routing_key": key})
    };
    let config = BrokerConfig {
        queues_max: 1,
        exchanges_max: 20,
        bindings_max: 1,
        ..BrokerConfig::default()
    };
    let broker = broker(config);
    vhost(&broker, "lim");
    let full = json!({"queues": queues(&["a"]), "bindings": [binding("k")]});
    assert_eq!(import(&broker, &full), Ok(()));
    // What is there already needs no room, also when there is less than that by now.
    assert_eq!(import(&broker, &full), Ok(()));
    let of = |section: &str, items: Value| json!({ section: items });
    for (file, reason) in [
        (
            of("queues", queues(&["a", "b"])),
            "queues[1] ('b' in vhost 'lim'): limit of queues (1) is reached",
        ),
        (
            of("bindings", json!([binding("k"), binding("l")])),
            "bindings[1] ('amq.direct' to 'a' in vhost 'lim'): limit of bindings (1) is reached",
        ),
        (
            of(
                "exchanges",
                (0..20).map(|n| exchange(n.to_string())).collect(),
            ),
            "exchanges[6] ('6' in vhost 'lim'): limit of exchanges (20) is reached",
        ),
    ] {
        refused(&broker, file, reason);
    }
}

#[test]
fn what_exists_counts_against_the_bounds_of_rules() {
    let broker = broker(BrokerConfig::default());
    let policy = |name: &str| Policy {
        vhost: "lim".into(),
        name: name.into(),
        pattern: "x".into(),
        apply_to: ApplyTo::All,
        priority: 0,
        definition: json!({"max-length": 1}).as_object().unwrap().clone(),
    };
    administer(&broker, |admin| {
        for number in 0..GLOBALS_MAX {
            let name = format!("g{number}");
            admin.put_global_parameter(&name, 1.into()).unwrap();
        }
    });
    let lim = vhost(&broker, "lim");
    let put = |number: usize| {
        let policies = &mut lim.rules.write().policies;
        policies.put(PolicyKind::User, policy(&number.to_string()))
    };
    assert!((0..100_000).any(|number| put(number).is_err()));
    let global = |name| json!({"name": name, "value": 2});
    let given = |name| serde_json::to_value(policy(name)).unwrap();
    let known = json!({"global_parameters": [global("g1")], "policies": [given("1")]});
    assert_eq!(import(&broker, &known), Ok(()));
    for (file, reason) in [
        (
            json!({"global_parameters": [global("g2"), global("new")]}),
            "global_parameters[1] ('new'): limit of global parameters (10000) is reached",
        ),
        (
            json!({"policies": [given("1"), given("new")]}),
            "policies[1] ('new' in vhost 'lim'): limit of policies (1000) is reached",
        ),
    ] {
        refused(&broker, file, reason);
    }
}

/// Objects that are none or too large stand among the mistakes of others, once each.
#[test]
fn however_much_is_wrong_what_is_told_has_a_bound() {
    let broker = broker(BrokerConfig::default());
    let users: Vec<_> = (0..200).map(|n| json!({"name": n.to_string()})).collect();
    let large = json!({"name": "l", "metadata": {"description": "x".repeat(1 << 20)}});
    let long = json!({"name": "x".repeat(100_000), "limits": {"max-queues": "no"}});
    let file = json!({"vhosts": [1, large, long], "queues": {}, "policies": [[]]});
    let told = import(&broker, &file).unwrap_err();
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 5, "{told}");
    assert_eq!(lines[0], "vhosts[0] (no name): must be an object");
    assert_eq!(lines[1], "vhosts[1] (no name): larger than 1048576 bytes");
    assert!(lines[2].starts_with("vhosts[2] ('xxx") && lines[2].len() < 1_100);
    assert_eq!(lines[3], "policies[0] (no name): must be an object");
    assert_eq!(lines[4], "queues must be a list of objects");
    let told = import(&broker, &json!({ "users": users })).unwrap_err();
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 101);
    assert_eq!(lines[99], "users[99] ('99'): tags_not_present");
    assert_eq!(lines[100], "and 100 more");
}

#[test]
fn what_is_refused_is_named_by_its_place_in_the_file() {
    let broker = broker(BrokerConfig::default());
    let permission = json!({"user": "guest", "vhost": "nope", "configure": "", "write": "",
        "read": ""});
    let policy = json!({"vhost": "nope", "name": "p", "pattern": "x",
        "definition": {"max-length": 1}});
    let operator = json!({"component": "operator_policy", "vhost": "nope", "name": "p",
        "value": {"pattern": "x", "definition": {"max-length": 1}}});
    let shovel = json!({"component": "shovel", "vhost": "/", "name": "s",
        "value": {"src-uri": "amqp://", "src-queue": "a", "dest-uri": "amqp://"}});
    let invalid = json!({"vhost": "/", "name": "q", "arguments": {"x-max-length": -1}});
    let bound = json!({"vhost": "/", "source": "amq.direct", "destination": "none",
        "destination_type": "queue", "routing_key": ""});
    let generated = json!({"vhost": "/", "name": "amq.gen-a"});
    for (file, reason) in [
        (
            json!({"permissions": [permission]}),
            "permissions[0] ('guest' in vhost 'nope'): no such vhost: nope",
        ),
        (
            json!({"policies": [policy]}),
            "policies[0] ('p' in vhost 'nope'): no such vhost: nope",
        ),
        (
            json!({"parameters": [shovel, operator]}),
            "parameters[1] ('p' in vhost 'nope'): no such vhost: nope",
        ),
        (
            json!({"queues": [generated, invalid]}),
            "queues[1] ('q' in vhost '/'): invalid arg 'x-max-length' for queue 'q' in vhost '/': \
             {value_negative,-1}",
        ),
        (
            json!({"bindings": [bound]}),
            "bindings[0] ('amq.direct' to 'none' in vhost '/'): no queue 'none' in vhost '/'",
        ),
    ] {
        refused(&broker, file, reason);
    }
}

#[test]
fn what_exists_is_kept_and_not_judged_again() {
    let broker = broker(BrokerConfig::default());
    let slash = broker.vhost("/").unwrap();
    declare(&broker, &slash, &["q"]);
    // Both would be refused if they were new.
    let queue = json!({"vhost": "/", "name": "q", "arguments": {"x-max-length": -1}});
    let exchange = json!({"vhost": "/", "name": "e", "type": "fanout"});
    assert_eq!(import(&broker, &json!({"exchanges": [exchange]})), Ok(()));
    let other = json!({"vhost": "/", "name": "e", "type": "fanout",
        "arguments": {"alternate-exchange": 1}});
    assert_eq!(
        import(&broker, &json!({"exchanges": [other], "queues": [queue]})),
        Ok(())
    );
}

#[test]
fn an_import_leaves_alone_what_it_does_not_mention() {
    let broker = broker(BrokerConfig::default());
    let metadata = VhostMetadata {
        description: "ours".into(),
        tags: vec!["a".into()],
        default_queue_type: Some("quorum".into()),
        protected_from_deletion: true,
    };
    administer(&broker, |admin| {
        admin.put_vhost("v", metadata.clone()).unwrap();
        let set = admin.set_user_limit("guest", "max-connections", &3.into());
        set.unwrap();
    });
    let file = json!({
        "users": [{"name": "guest", "tags": "", "password": "p", "limits": {"max-channels": 5}}],
        "vhosts": [{"name": "v", "metadata": {"default_queue_type": "undefined"}}, {"name": "v"}],
    });
    assert_eq!(import(&broker, &file), Ok(()));
    let kept = broker.vhost("v").unwrap().rules.read().metadata.clone();
    assert_eq!(kept, metadata);
    let limits = broker.user("guest").unwrap().limits;
    assert_eq!(
        (limits.max_connections, limits.max_channels),
        (Some(3), Some(5))
    );
    let change = json!({"vhosts": [{"name": "v", "protected_from_deletion": false}]});
    assert_eq!(import(&broker, &change), Ok(()));
    let changed = broker.vhost("v").unwrap().rules.read().metadata.clone();
    let expected = VhostMetadata {
        protected_from_deletion: false,
        ..metadata
    };
    assert_eq!(changed, expected);
}

#[test]
fn undefined_is_a_name_like_any_other() {
    let broker = broker(BrokerConfig::default());
    let file = json!({
        "users": [{"name": "undefined", "tags": "undefined", "password": "undefined"}],
        "queues": [{"vhost": "/", "name": "undefined"}],
        "bindings": [{"vhost": "/", "source": "amq.direct", "destination": "undefined",
            "destination_type": "queue", "routing_key": "undefined"}],
    });
    assert_eq!(import(&broker, &file), Ok(()));
    assert!(broker.authenticate("undefined", b"undefined", true).is_ok());
    let slash = broker.vhost("/").unwrap();
    assert_eq!(keys(&slash), ["undefined"]);
}

/// The keys of all bindings to exchanges that have a name.
fn keys(vhost: &Vhost) -> Vec<String> {
    let directory = vhost.directory.read();
    let bindings = directory.router.bindings();
    let named = bindings.filter(|binding| !binding.source.is_empty());
    named
        .map(|binding| String::from_utf8_lossy(binding.key).into_owned())
        .collect()
}

#[test]
fn bindings_of_queues_with_a_servers_name_come_in_where_the_queue_exists() {
    let broker = broker(BrokerConfig::default());
    let slash = broker.vhost("/").unwrap();
    let mut effects = Effects::default();
    let made = broker.declare_queue(&slash, "", durable(), &mut effects);
    let (here, _) = made.unwrap();
    let bound = |queue: &str, key| {
        json!({"vhost": "/", "source": "amq.direct", "destination": queue,
            "destination_type": "queue", "routing_key": key})
    };
    let file = json!({
        "queues": [{"vhost": "/", "name": "amq.gen-there"}, {"vhost": "/", "name": &*here.name}],
        "bindings": [bound("amq.gen-there", "there"), bound(&here.name, "here")],
    });
    assert_eq!(import(&broker, &file), Ok(()));
    assert_eq!(keys(&slash), ["here"]);
}

#[test]
fn only_new_arguments_are_measured() {
    let broker = broker(BrokerConfig::default());
    let arguments = json!({"note": "x".repeat(100)});
    let file = |name: &str| {
        json!({
            "exchanges": [{"vhost": "/", "name": name, "type": "fanout", "arguments": arguments}],
            "queues": [{"vhost": "/", "name": name, "arguments": arguments}],
            "bindings": [{"vhost": "/", "source": name, "destination": name,
                "destination_type": "queue", "routing_key": "", "arguments": arguments}],
        })
    };
    assert_eq!(import(&broker, &file("q")), Ok(()));
    let limits = BrokerLimits {
        arguments_bytes_max: 50,
        ..broker.limits()
    };
    broker.set_limits(limits);
    assert_eq!(import(&broker, &file("q")), Ok(()));
    for section in ["exchanges", "queues", "bindings"] {
        let mut one = file("q");
        one[section] = file("new")[section].clone();
        if section == "bindings" {
            one[section][0]["source"] = "q".into();
            one[section][0]["destination"] = "q".into();
            one[section][0]["routing_key"] = "new".into();
        }
        let which = if section == "bindings" {
            "'q' to 'q'"
        } else {
            "'new'"
        };
        let bytes = "arguments of 110 bytes exceed limits.arguments_bytes_max (50)";
        let reason = format!("{section}[0] ({which} in vhost '/'): {bytes}");
        refused(&broker, one, &reason);
    }
}
