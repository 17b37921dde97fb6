//! The rules of exchanges and bindings, one by one, through the public interface.

use std::sync::atomic::Ordering;

use leveret_codec::{Properties, RawTable, Table, Value};
use leveret_router::{
    BindingSpec, Declared, Destination, DestinationView, ExchangeKind, ExchangeSpec, NoExchange,
    QueueId, Refused, Router, Routes, Steps, Walk,
};

fn to_queue(source: &str, queue: u32, key: &str) -> BindingSpec {
    let destination = Destination::Queue(QueueId(queue));
    BindingSpec {
        source: source.into(),
        destination,
        key: key.into(),
        arguments: Table::new(),
    }
}

fn to_exchange(source: &str, destination: &str, key: &str) -> BindingSpec {
    let destination = Destination::Exchange(destination.into());
    BindingSpec {
        source: source.into(),
        destination,
        key: key.into(),
        arguments: Table::new(),
    }
}

fn plain(kind: ExchangeKind) -> ExchangeSpec {
    ExchangeSpec::durable(kind)
}

fn auto_delete(kind: ExchangeKind) -> ExchangeSpec {
    ExchangeSpec {
        auto_delete: true,
        ..plain(kind)
    }
}

fn with_alternate(kind: ExchangeKind, alternate: &str) -> ExchangeSpec {
    let mut spec = plain(kind);
    spec.arguments.insert("alternate-exchange", alternate);
    spec
}

/// A router with queues `q0` to `q9`.
fn router() -> Router {
    let mut router = Router::new();
    for id in 0..10 {
        assert!(router.add_queue(&format!("q{id}"), QueueId(id)));
    }
    router
}

fn route(router: &Router, exchange: &str, key: &str) -> Vec<u32> {
    let mut routes = Routes::new();
    router
        .route(exchange.as_bytes(), &[key.as_bytes()], None, &mut routes)
        .expect("exchange");
    routes.queues().iter().map(|queue| queue.0).collect()
}

fn generation(router: &Router, exchange: &str) -> u64 {
    router
        .exchange(exchange)
        .expect("exchange")
        .generation()
        .load(Ordering::Acquire)
}

fn names(removal: &leveret_router::Removal) -> Vec<&str> {
    removal
        .exchanges
        .iter()
        .map(|(name, _)| name.as_str())
        .collect()
}

#[test]
fn the_predeclared_exchanges_are_there() {
    let router = Router::new();
    let listed: Vec<_> = router
        .exchanges()
        .map(|x| (x.name(), x.spec().kind.name(), x.spec().internal))
        .collect();
    assert_eq!(
        listed,
        [
            ("", "direct", false),
            ("amq.direct", "direct", false),
            ("amq.fanout", "fanout", false),
            ("amq.topic", "topic", false),
            ("amq.headers", "headers", false),
            ("amq.match", "headers", false),
            ("amq.rabbitmq.trace", "topic", true),
        ]
    );
    assert!(
        router
            .exchanges()
            .all(|x| x.spec().durable && !x.spec().auto_delete)
    );
}

#[test]
fn kinds_have_names() {
    for name in [
        "direct",
        "fanout",
        "topic",
        "headers",
        "x-consistent-hash",
        "x-local-random",
        "x-modulus-hash",
        "x-random",
    ] {
        assert_eq!(
            ExchangeKind::from_name(name).map(ExchangeKind::name),
            Some(name)
        );
    }
    assert_eq!(ExchangeKind::from_name("bogus"), None);
}

#[test]
fn declaring_again_must_say_the_same() {
    let mut router = router();
    assert_eq!(
        router.declare("e", plain(ExchangeKind::Direct)),
        Ok(Declared::Created)
    );
    assert_eq!(
        router.declare("e", plain(ExchangeKind::Direct)),
        Ok(Declared::Existing)
    );
    assert_eq!(
        router.declare("e", plain(ExchangeKind::Topic)),
        Err(Refused::Inequivalent {
            argument: "type",
            received: "'topic'".into(),
            current: "'direct'".into()
        })
    );
    assert_eq!(
        router.declare("amq.topic", plain(ExchangeKind::Topic)),
        Ok(Declared::Existing)
    );
    assert!(matches!(
        router.declare("amq.topic", plain(ExchangeKind::Direct)),
        Err(Refused::Inequivalent {
            argument: "type",
            ..
        })
    ));
}

#[test]
fn reserved_names_and_bad_arguments_are_refused() {
    let mut router = router();
    let direct = || plain(ExchangeKind::Direct);
    assert_eq!(router.declare("", direct()), Err(Refused::DefaultExchange));
    assert_eq!(
        router.declare("amq.mine", direct()),
        Err(Refused::Reserved("amq.mine".into()))
    );
    assert_eq!(router.delete("", false), Err(Refused::DefaultExchange));
    for name in ["amq.direct", "amq.nothing"] {
        assert_eq!(
            router.delete(name, false),
            Err(Refused::SystemExchange(name.into()))
        );
    }
    let mut spec = direct();
    spec.arguments.insert("alternate-exchange", 1i32);
    assert_eq!(
        router.declare("e", spec),
        Err(Refused::ArgumentType {
            argument: "alternate-exchange",
            kind: "signedint"
        })
    );
    assert!(router.exchange("e").is_none());
}

#[test]
fn the_default_exchange_routes_by_queue_name() {
    let mut router = router();
    assert_eq!(route(&router, "", "q3"), [3]);
    assert_eq!(route(&router, "", "nothing"), [0u32; 0]);
    for spec in [
        to_queue("", 1, "q1"),
        to_exchange("amq.direct", "", "k"),
        to_exchange("", "amq.direct", "k"),
    ] {
        assert_eq!(router.bind(&spec), Err(Refused::DefaultExchange));
        assert_eq!(router.unbind(&spec), Err(Refused::DefaultExchange));
    }
    assert!(router.remove_queue(QueueId(3)).is_empty());
    assert_eq!(route(&router, "", "q3"), [0u32; 0]);
    assert!(router.remove_queue(QueueId(3)).is_empty());
}

#[test]
fn a_queue_name_and_id_are_taken_once() {
    let mut router = router();
    assert!(!router.add_queue("q1", QueueId(20)));
    assert!(!router.add_queue("other", QueueId(1)));
    router.remove_queue(QueueId(1));
    assert!(router.add_queue("other", QueueId(1)));
    assert_eq!(router.queue_by_name(b"other"), Some(QueueId(1)));
    assert_eq!(router.queue_by_name(b"q1"), None);
    assert_eq!(router.queue_name(QueueId(1)), Some("other"));
}

#[test]
fn a_missing_exchange_is_not_routed() {
    let mut routes = Routes::new();
    let router = router();
    assert_eq!(
        router.route(b"nope", &[b"k"], None, &mut routes).err(),
        Some(NoExchange)
    );
    assert_eq!(
        router.route(b"\xff", &[b"k"], None, &mut routes).err(),
        Some(NoExchange)
    );
    assert!(routes.queues().is_empty());
}

#[test]
fn direct_topic_and_fanout_match_their_way() {
    let mut router = router();
    for (exchange, queue, key) in [
        ("amq.direct", 1, "k"),
        ("amq.direct", 2, "k"),
        ("amq.direct", 3, "other"),
        ("amq.fanout", 5, "ignored"),
        ("amq.fanout", 4, ""),
        ("amq.topic", 6, "a.*"),
        ("amq.topic", 7, "a.b"),
        ("amq.topic", 7, "a.#"),
        ("amq.topic", 8, ""),
    ] {
        assert_eq!(router.bind(&to_queue(exchange, queue, key)), Ok(true));
    }
    assert_eq!(route(&router, "amq.direct", "k"), [1, 2]);
    assert_eq!(route(&router, "amq.direct", "K"), [0u32; 0]);
    assert_eq!(route(&router, "amq.fanout", "anything"), [4, 5]);
    assert_eq!(route(&router, "amq.topic", "a.b"), [6, 7]);
    assert_eq!(route(&router, "amq.topic", ""), [8]);
}

#[test]
fn several_keys_give_each_queue_once() {
    let mut router = router();
    for (queue, key) in [(2, "a"), (1, "b"), (2, "b")] {
        router.bind(&to_queue("amq.direct", queue, key)).unwrap();
    }
    let mut routes = Routes::new();
    router
        .route(b"amq.direct", &[b"a", b"b", b"a"], None, &mut routes)
        .unwrap();
    assert_eq!(routes.queues(), [QueueId(1), QueueId(2)]);
    router
        .route(b"", &[b"q2", b"q1", b"q2"], None, &mut routes)
        .unwrap();
    assert_eq!(routes.queues(), [QueueId(1), QueueId(2)]);
}

#[test]
fn a_duplicate_binding_is_no_binding_and_unbinding_nothing_is_fine() {
    let mut router = router();
    let mut spec = to_queue("amq.direct", 1, "k");
    assert_eq!(router.bind(&spec), Ok(true));
    assert_eq!(router.bind(&spec), Ok(false));
    spec.arguments.insert("b", 1i32);
    spec.arguments.insert("a", 2i32);
    assert_eq!(
        router.bind(&spec),
        Ok(true),
        "arguments are part of the identity"
    );
    let mut turned = to_queue("amq.direct", 1, "k");
    turned.arguments.insert("a", 2i32);
    turned.arguments.insert("b", 1i32);
    assert_eq!(router.bind(&turned), Ok(false), "their order is not");
    turned.arguments.insert("b", 1i64);
    assert_eq!(router.bind(&turned), Ok(true), "their type is");
    assert_eq!(router.binding_count(), 3);
    assert_eq!(router.unbind(&spec).unwrap().bindings.len(), 1);
    assert_eq!(
        route(&router, "amq.direct", "k"),
        [1],
        "two bindings are left"
    );
    for nothing in [
        spec,
        to_queue("nope", 1, "k"),
        to_queue("amq.direct", 99, "k"),
        to_exchange("a", "b", ""),
    ] {
        assert!(router.unbind(&nothing).unwrap().is_empty());
    }
}

#[test]
fn binding_what_is_missing_is_refused() {
    let mut router = router();
    let no_exchange = |name: &str| Err(Refused::NoExchange(name.into()));
    assert_eq!(router.bind(&to_queue("nope", 99, "k")), no_exchange("nope"));
    let queue = Err(Refused::NoQueue(QueueId(99)));
    assert_eq!(router.bind(&to_queue("amq.direct", 99, "k")), queue);
    assert_eq!(
        router.bind(&to_exchange("amq.direct", "nope", "k")),
        no_exchange("nope")
    );
    assert_eq!(router.binding_count(), 0);
}

#[test]
fn a_bad_x_match_is_refused_only_by_a_headers_exchange() {
    let mut router = router();
    let mut spec = to_queue("amq.match", 1, "");
    spec.arguments.insert("x-match", "bogus");
    assert_eq!(
        router.bind(&spec),
        Err(Refused::InvalidXMatch("<<\"bogus\">>".into()))
    );
    spec.source = "amq.direct".into();
    assert_eq!(router.bind(&spec), Ok(true));
}

#[test]
fn arguments_may_not_nest_without_end() {
    let mut router = router();
    let mut value = Value::from(1i32);
    for _ in 0..40 {
        value = Value::Array(vec![value]);
    }
    let mut spec = to_queue("amq.direct", 1, "k");
    spec.arguments.insert("deep", value);
    assert_eq!(router.bind(&spec), Err(Refused::ArgumentsTooDeep));
}

#[test]
fn a_headers_exchange_looks_at_headers_and_is_never_cached() {
    let mut router = router();
    let mut spec = to_queue("amq.headers", 1, "ignored");
    spec.arguments.insert("colour", "red");
    router.bind(&spec).unwrap();
    let mut headers = Table::new();
    headers.insert("colour", "red");
    let bytes = headers.encoded();
    let mut routes = Routes::new();
    let raw = RawTable::parse(&bytes).ok();
    router
        .route(b"amq.headers", &[b"k"], raw, &mut routes)
        .unwrap();
    assert_eq!(
        (routes.queues(), routes.cacheable()),
        (&[QueueId(1)][..], false)
    );
    router
        .route(b"amq.headers", &[b"k"], None, &mut routes)
        .unwrap();
    assert_eq!((routes.queues(), routes.cacheable()), (&[][..], false));
    router
        .bind(&to_exchange("amq.fanout", "amq.headers", ""))
        .unwrap();
    router
        .route(b"amq.fanout", &[b"k"], None, &mut routes)
        .unwrap();
    assert!(!routes.cacheable(), "visited on the way");
    router
        .route(b"amq.direct", &[b"k"], None, &mut routes)
        .unwrap();
    assert!(routes.cacheable());
}

#[test]
fn a_key_that_names_no_queue_yet_is_not_cached() {
    let router = router();
    let mut routes = Routes::new();
    router.route(b"", &[b"q1"], None, &mut routes).unwrap();
    assert!(routes.cacheable());
    router
        .route(b"", &[b"q1", b"later"], None, &mut routes)
        .unwrap();
    assert!(!routes.cacheable());
}

#[test]
fn exchanges_bound_in_a_circle_deliver_once() {
    let mut router = router();
    for name in ["a", "b", "c"] {
        router.declare(name, plain(ExchangeKind::Fanout)).unwrap();
    }
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "a"), ("a", "c"), ("a", "a")] {
        router.bind(&to_exchange(from, to, "")).unwrap();
    }
    router.bind(&to_queue("a", 1, "")).unwrap();
    router.bind(&to_queue("b", 2, "")).unwrap();
    router.bind(&to_queue("c", 2, "")).unwrap();
    for start in ["a", "b", "c"] {
        assert_eq!(route(&router, start, "k"), [1, 2]);
    }
    let removal = router.delete("a", false).unwrap();
    assert_eq!((names(&removal), removal.bindings.len()), (vec!["a"], 5));
    assert_eq!(route(&router, "b", "k"), [2]);
    assert_eq!(router.bindings_of_exchange_destination("c").count(), 1);
}

#[test]
fn the_alternate_takes_what_matched_nothing() {
    let mut router = router();
    router
        .declare("main", with_alternate(ExchangeKind::Direct, "second"))
        .unwrap();
    router
        .declare("second", with_alternate(ExchangeKind::Direct, "third"))
        .unwrap();
    router.bind(&to_queue("main", 1, "k")).unwrap();
    assert_eq!(
        route(&router, "main", "x"),
        [0u32; 0],
        "the chain ends in nothing"
    );
    router
        .declare("third", with_alternate(ExchangeKind::Fanout, "main"))
        .unwrap();
    assert_eq!(
        route(&router, "main", "x"),
        [0u32; 0],
        "the chain is a circle"
    );
    router.bind(&to_queue("third", 3, "")).unwrap();
    assert_eq!(route(&router, "main", "k"), [1]);
    assert_eq!(route(&router, "main", "x"), [3]);
    router.bind(&to_queue("second", 2, "x")).unwrap();
    assert_eq!(route(&router, "main", "x"), [2]);
    assert_eq!(route(&router, "main", "y"), [3]);
}

#[test]
fn an_exchange_that_led_anywhere_does_not_use_its_alternate() {
    let mut router = router();
    router
        .declare("main", with_alternate(ExchangeKind::Fanout, "amq.fanout"))
        .unwrap();
    router.bind(&to_queue("amq.fanout", 1, "")).unwrap();
    assert_eq!(route(&router, "main", "k"), [1]);
    router.bind(&to_exchange("main", "amq.direct", "")).unwrap();
    assert_eq!(route(&router, "main", "k"), [0u32; 0]);
}

#[test]
fn the_default_exchange_may_be_an_alternate() {
    let mut router = router();
    router
        .declare("main", with_alternate(ExchangeKind::Direct, ""))
        .unwrap();
    let before = generation(&router, "main");
    assert_eq!(route(&router, "main", "q5"), [5]);
    router.add_queue("new", QueueId(10));
    assert_ne!(
        generation(&router, "main"),
        before,
        "a new queue changes its routes"
    );
    assert_eq!(route(&router, "main", "new"), [10]);
}

#[test]
fn a_policy_gives_an_alternate_where_no_argument_does() {
    let mut router = router();
    router
        .declare("plain", plain(ExchangeKind::Direct))
        .unwrap();
    router
        .declare("own", with_alternate(ExchangeKind::Direct, "amq.direct"))
        .unwrap();
    router.bind(&to_queue("amq.fanout", 1, "")).unwrap();
    assert!(router.set_policy_alternate("plain", Some("amq.fanout")));
    assert!(router.set_policy_alternate("own", Some("amq.fanout")));
    assert!(!router.set_policy_alternate("nope", Some("amq.fanout")));
    assert!(!router.set_policy_alternate("", Some("amq.fanout")));
    assert_eq!(route(&router, "plain", "k"), [1]);
    assert_eq!(route(&router, "own", "k"), [0u32; 0]);
    assert_eq!(route(&router, "", "nope"), [0u32; 0]);
    assert!(router.set_policy_alternate("plain", None));
    assert_eq!(route(&router, "plain", "k"), [0u32; 0]);
}

#[test]
fn deletion_takes_the_bindings_along() {
    let mut router = router();
    router.declare("e", plain(ExchangeKind::Direct)).unwrap();
    assert!(router.delete("nope", true).unwrap().is_empty());
    router.bind(&to_exchange("amq.direct", "e", "k")).unwrap();
    router.bind(&to_queue("e", 1, "k")).unwrap();
    assert_eq!(router.delete("e", true), Err(Refused::InUse("e".into())));
    let removal = router.delete("e", false).unwrap();
    assert_eq!(names(&removal), ["e"]);
    assert_eq!(
        removal.bindings,
        [to_queue("e", 1, "k"), to_exchange("amq.direct", "e", "k")]
    );
    assert_eq!(
        router.bindings_of_queue(QueueId(1)).count(),
        1,
        "the implicit one"
    );
    router.declare("e", plain(ExchangeKind::Direct)).unwrap();
    router.bind(&to_exchange("amq.direct", "e", "k")).unwrap();
    assert_eq!(
        router.delete("e", true).unwrap().bindings.len(),
        1,
        "a destination is not in use"
    );
}

#[test]
fn an_auto_delete_exchange_goes_with_its_last_binding_and_not_before_its_first() {
    let mut router = router();
    router
        .declare("e", auto_delete(ExchangeKind::Fanout))
        .unwrap();
    assert!(router.unbind(&to_queue("e", 1, "")).unwrap().is_empty());
    router.bind(&to_exchange("amq.direct", "e", "k")).unwrap();
    assert!(
        router
            .unbind(&to_exchange("amq.direct", "e", "k"))
            .unwrap()
            .exchanges
            .is_empty()
    );
    router.bind(&to_queue("e", 1, "")).unwrap();
    router.bind(&to_queue("e", 2, "")).unwrap();
    assert!(
        router
            .unbind(&to_queue("e", 1, ""))
            .unwrap()
            .exchanges
            .is_empty()
    );
    let removal = router.unbind(&to_queue("e", 2, "")).unwrap();
    assert_eq!(
        removal.exchanges,
        [("e".to_owned(), auto_delete(ExchangeKind::Fanout))]
    );
    assert!(router.exchange("e").is_none());
}

#[test]
fn a_queue_takes_a_chain_of_auto_delete_exchanges_along() {
    let mut router = router();
    for name in ["a", "b", "c"] {
        router
            .declare(name, auto_delete(ExchangeKind::Direct))
            .unwrap();
    }
    router.bind(&to_exchange("a", "b", "k")).unwrap();
    router.bind(&to_exchange("b", "c", "k")).unwrap();
    router.bind(&to_queue("c", 1, "k")).unwrap();
    router.bind(&to_exchange("c", "c", "self")).unwrap();
    router.bind(&to_exchange("amq.direct", "b", "k")).unwrap();
    assert!(
        router.remove_queue(QueueId(1)).exchanges.is_empty(),
        "c is bound to itself"
    );
    let removal = router.unbind(&to_exchange("c", "c", "self")).unwrap();
    assert_eq!(names(&removal), ["c", "b", "a"]);
    assert_eq!(removal.bindings.len(), 4);
    assert_eq!(router.binding_count(), 0);
}

#[test]
fn a_change_invalidates_what_leads_here_and_nothing_else() {
    let mut router = router();
    for name in ["top", "middle", "leaf", "aside"] {
        router.declare(name, plain(ExchangeKind::Direct)).unwrap();
    }
    router
        .declare("through", with_alternate(ExchangeKind::Direct, "middle"))
        .unwrap();
    router.bind(&to_exchange("top", "middle", "k")).unwrap();
    router.bind(&to_exchange("middle", "leaf", "k")).unwrap();
    router.bind(&to_exchange("aside", "leaf", "k")).unwrap();
    router
        .bind(&to_exchange("leaf", "amq.fanout", "k"))
        .unwrap();
    router.unbind(&to_exchange("aside", "leaf", "k")).unwrap();
    let all = [
        "top",
        "middle",
        "leaf",
        "through",
        "aside",
        "amq.fanout",
        "",
    ];
    for name in all {
        route(&router, name, "k");
    }
    let before: Vec<u64> = all.iter().map(|name| generation(&router, name)).collect();
    router.bind(&to_queue("leaf", 1, "k")).unwrap();
    let moved: Vec<bool> = all
        .iter()
        .zip(before)
        .map(|(name, old)| generation(&router, name) != old)
        .collect();
    assert_eq!(moved, [true, true, true, true, false, false, false]);
    for name in all {
        route(&router, name, "k");
    }
    let before: Vec<u64> = all.iter().map(|name| generation(&router, name)).collect();
    router.bind(&to_queue("leaf", 1, "k")).unwrap();
    router.add_queue("new", QueueId(10));
    router.remove_queue(QueueId(10));
    let after: Vec<u64> = all.iter().map(|name| generation(&router, name)).collect();
    assert_eq!(
        after, before,
        "a duplicate or an unbound queue changes no route"
    );
}

#[test]
fn a_deleted_exchange_never_validates_again() {
    let mut router = router();
    router.declare("e", plain(ExchangeKind::Direct)).unwrap();
    let old = router.exchange("e").unwrap().generation().clone();
    let seen = old.load(Ordering::Acquire);
    router.delete("e", false).unwrap();
    router.declare("e", plain(ExchangeKind::Direct)).unwrap();
    assert_ne!(old.load(Ordering::Acquire), seen);
}

#[test]
fn listings_show_both_ends_and_the_implicit_bindings() {
    let mut router = Router::new();
    router.add_queue("jobs", QueueId(4));
    let mut spec = to_queue("amq.topic", 4, "a~b/c d.*");
    router.bind(&spec).unwrap();
    router
        .bind(&to_exchange("amq.topic", "amq.fanout", ""))
        .unwrap();
    let rows: Vec<_> = router
        .bindings()
        .map(|view| (view.source, view.destination, view.properties_key()))
        .collect();
    let queue = DestinationView::Queue(QueueId(4), "jobs");
    assert_eq!(
        rows,
        [
            ("", queue, "jobs".to_owned()),
            ("amq.topic", queue, "a%7Eb%2Fc+d.%2A".to_owned()),
            (
                "amq.topic",
                DestinationView::Exchange("amq.fanout"),
                "~".to_owned()
            ),
        ]
    );
    assert_eq!(router.bindings_of_source("").count(), 1);
    assert_eq!(router.bindings_of_source("amq.topic").count(), 2);
    assert_eq!(router.bindings_of_source("nope").count(), 0);
    assert_eq!(router.bindings_of_queue(QueueId(4)).count(), 2);
    assert_eq!(router.bindings_of_queue(QueueId(9)).count(), 0);
    assert_eq!(
        router
            .bindings_of_exchange_destination("amq.fanout")
            .count(),
        1
    );
    assert_eq!(router.exchange("amq.topic").unwrap().binding_count(), 2);

    spec.key = Vec::new();
    spec.arguments.insert("k", "v");
    router.bind(&spec).unwrap();
    let key = router
        .bindings_of_source("amq.topic")
        .last()
        .unwrap()
        .properties_key();
    assert_eq!(key.len(), 12, "{key}");
    assert!(key.starts_with('~'));
    assert_eq!(
        router
            .bindings_of_source("amq.topic")
            .last()
            .unwrap()
            .to_spec(),
        spec
    );
}

#[test]
fn two_hundred_thousand_bindings_come_and_go() {
    let mut router = router();
    let mut spec = to_queue("amq.topic", 1, "");
    for round in 0..200_000u32 {
        let wild = ["*", "#", "x"][round as usize % 3];
        spec.key = format!("w{round}.{wild}.v{}", round % 977).into_bytes();
        assert_eq!(router.bind(&spec), Ok(true));
        if round % 1000 == 0 {
            let key = format!("w{round}.x.v{}", round % 977);
            assert_eq!(route(&router, "amq.topic", &key), [1]);
        }
        assert_eq!(router.unbind(&spec).unwrap().bindings.len(), 1);
    }
    assert_eq!(router.binding_count(), 0);
    assert_eq!(route(&router, "amq.topic", "w3.x.v3"), [0u32; 0]);
}

/// The keys of the next bindings of a walk.
fn next_keys(router: &Router, walk: &mut Walk, max: usize) -> Option<Vec<String>> {
    let views = router.next_bindings(walk, max)?;
    let keys = views.iter().map(|view| String::from_utf8_lossy(view.key));
    Some(keys.map(std::borrow::Cow::into_owned).collect())
}

#[test]
fn a_walk_meets_all_that_stays_once_whatever_comes_and_goes() {
    let mut router = router();
    for key in 0..10 {
        let binding = to_queue("amq.direct", 0, &key.to_string());
        router.bind(&binding).unwrap();
        let other = to_queue("amq.fanout", 1, &key.to_string());
        router.bind(&other).unwrap();
    }
    let walk = &mut router.walk(Some("amq.direct"), None).unwrap();
    let keys = next_keys(&router, walk, 4).unwrap();
    assert_eq!(keys, ["0", "1", "2", "3"]);
    // What the walk has passed shifts nothing, and what it has not reached is not met.
    router.unbind(&to_queue("amq.direct", 0, "0")).unwrap();
    router.unbind(&to_queue("amq.direct", 0, "4")).unwrap();
    let keys = next_keys(&router, walk, 4).unwrap();
    assert_eq!(keys, ["5", "6", "7", "8"]);
    assert_eq!(next_keys(&router, walk, 4).unwrap(), ["9"]);
    assert_eq!(next_keys(&router, walk, 4), None);
    assert!(router.walk(Some("nope"), None).is_none());
}

#[test]
fn a_walk_is_about_both_its_ends_and_takes_a_short_list_at_once() {
    let mut router = router();
    for key in 0..10 {
        for (exchange, queue) in [("amq.direct", 0), ("amq.direct", 1), ("amq.fanout", 0)] {
            let binding = to_queue(exchange, queue, &key.to_string());
            router.bind(&binding).unwrap();
        }
    }
    let queue = |id| Some(DestinationView::Queue(QueueId(id), ""));
    for max in [3, 4, 100] {
        for (source, to, count) in [
            (Some("amq.direct"), queue(0), 10),
            (Some("amq.direct"), None, 20),
            (None, queue(0), 20),
            (Some("amq.fanout"), queue(1), 0),
            (None, None, 30),
        ] {
            let mut walk = router.walk(source, to).unwrap();
            let mut met = Vec::new();
            while let Some(views) = router.next_bindings(&mut walk, max) {
                for view in views {
                    let number = view.number.unwrap();
                    let again = router.numbered_binding(number).unwrap();
                    assert_eq!((again.source, again.key), (view.source, view.key));
                    assert!(source.is_none_or(|name| name == view.source));
                    met.push(number);
                }
            }
            met.sort_unstable();
            met.dedup();
            assert_eq!(met.len(), count, "{source:?} {to:?} {max}");
        }
    }
}

#[test]
fn exchanges_come_in_the_order_of_their_names() {
    let mut router = router();
    for name in ["z", "b", "m"] {
        let spec = ExchangeSpec::durable(ExchangeKind::Direct);
        router.declare(name, spec).unwrap();
    }
    router.delete("b", false).unwrap();
    let names = |after| {
        let exchanges = router.exchanges_after(after);
        exchanges
            .map(|one| one.name().to_owned())
            .collect::<Vec<_>>()
    };
    let all = names(None);
    assert!(all.is_sorted(), "{all:?}");
    assert_eq!(all.len(), router.exchange_count());
    assert_eq!(all[0], "");
    assert_eq!(names(Some("c")), ["m", "z"]);
    assert_eq!(names(Some("n")), ["z"]);
}

/// What a change costs must not grow with the graph, in which every binding reaches every exchange.
#[test]
fn a_dense_graph_is_built_as_fast_as_a_sparse_one() {
    const EXCHANGES: u32 = 150;
    let mut router = router();
    for n in 0..EXCHANGES {
        let declared = router.declare(&format!("x{n}"), plain(ExchangeKind::Fanout));
        assert_eq!(declared, Ok(Declared::Created));
    }
    for (from, to) in (0..EXCHANGES).flat_map(|from| (0..EXCHANGES).map(move |to| (from, to))) {
        let binding = to_exchange(&format!("x{from}"), &format!("x{to}"), "");
        assert_eq!(router.bind(&binding), Ok(true));
    }
    assert_eq!(generation(&router, "x0"), 0, "there was no route yet");
    assert_eq!(route(&router, "x0", "k"), [0u32; 0]);
    assert_eq!(router.bind(&to_queue("x149", 1, "k")), Ok(true));
    assert_eq!(generation(&router, "x0"), 1);
    assert_eq!(router.bind(&to_queue("x149", 2, "k")), Ok(true));
    assert_eq!(generation(&router, "x0"), 1, "nobody has asked since");
    assert_eq!(route(&router, "x0", "k"), [1, 2]);
}

fn precondition<T>(text: &str) -> Result<T, Refused> {
    Err(Refused::Precondition(text.into()))
}

#[test]
fn a_hash_is_of_one_thing_that_there_is() {
    let mut router = router();
    let mut declare = |arguments: &[(&str, Value)]| {
        let mut spec = plain(ExchangeKind::ConsistentHash);
        for (name, value) in arguments {
            spec.arguments.insert(name, value.clone());
        }
        let declared = router.declare("hash", spec);
        router.delete("hash", false).unwrap();
        declared
    };
    let text = |text: &str| Value::LongString(text.into());
    for property in ["message_id", "correlation_id", "timestamp"] {
        let declared = declare(&[("hash-property", text(property))]);
        assert_eq!(declared, Ok(Declared::Created));
    }
    for property in ["bogus", "app_id", ""] {
        let refused = precondition(&format!("Unsupported property: {property}"));
        assert_eq!(declare(&[("hash-property", text(property))]), refused);
    }
    assert_eq!(declare(&[("hash-header", text(""))]), Ok(Declared::Created));
    for property in ["message_id", "bogus"] {
        assert_eq!(
            declare(&[
                ("hash-header", text("h")),
                ("hash-property", text(property))
            ]),
            precondition("hash-header and hash-property are mutually exclusive")
        );
    }
    assert_eq!(
        declare(&[("hash-header", Value::I32(5))]),
        Err(Refused::ArgumentType {
            argument: "hash-header",
            kind: "signedint"
        })
    );
}

#[test]
fn bindings_of_plugins_exchanges_are_checked_and_those_of_others_are_not() {
    let mut router = router();
    for kind in ExchangeKind::ALL {
        router.declare(kind.name(), plain(kind)).unwrap();
    }
    let key = "Non empty binding 'k' key not permitted";
    assert_eq!(
        router.bind(&to_queue("x-local-random", 1, "k")),
        precondition(key)
    );
    assert_eq!(
        router.bind(&to_exchange("x-local-random", "fanout", "")),
        precondition("Destination not found")
    );
    let weight = "The binding key must be an integer: <<\"k\">>";
    assert_eq!(
        router.bind(&to_queue("x-consistent-hash", 1, "k")),
        precondition(weight)
    );
    assert_eq!(
        router.bind(&to_exchange("x-consistent-hash", "fanout", "k")),
        precondition(weight)
    );
    assert!(
        router
            .unbind(&to_queue("x-consistent-hash", 1, "k"))
            .is_ok()
    );
    for kind in ["x-random", "x-modulus-hash", "direct"] {
        assert_eq!(router.bind(&to_queue(kind, 1, "k")), Ok(true));
        assert_eq!(router.bind(&to_exchange(kind, "fanout", "k")), Ok(true));
    }
}

/// How many of these messages each of the queues 1 to 4 gets; every message reaches one.
fn spread(router: &Router, exchange: &str, keys: impl Iterator<Item = String>) -> [usize; 4] {
    let mut routes = Routes::with_seed(7);
    let mut counts = [0; 4];
    for key in keys {
        router
            .route(exchange.as_bytes(), &[key.as_bytes()], None, &mut routes)
            .unwrap();
        let [queue] = routes.queues() else {
            panic!("{:?}", routes.queues());
        };
        counts[queue.0 as usize - 1] += 1;
    }
    counts
}

#[test]
fn random_and_modulus_exchanges_spread_messages_over_their_bindings() {
    const MESSAGES: usize = 10_000;
    let mut router = router();
    let different = || (0..MESSAGES).map(|n| format!("key {n}"));
    let same = || (0..MESSAGES).map(|_| "same".to_owned());
    for kind in [
        ExchangeKind::Random,
        ExchangeKind::LocalRandom,
        ExchangeKind::ModulusHash,
    ] {
        let name = kind.name();
        router.declare(name, plain(kind)).unwrap();
        assert!(route(&router, name, "k").is_empty());
        for queue in 1..=4 {
            router.bind(&to_queue(name, queue, "")).unwrap();
        }
        let even = |counts: [usize; 4]| counts.iter().all(|got| got.abs_diff(2500) < 250);
        let counts = spread(&router, name, different());
        assert!(even(counts), "{name}: {counts:?}");
        let counts = spread(&router, name, same());
        if kind == ExchangeKind::ModulusHash {
            assert_eq!(counts.iter().max(), Some(&MESSAGES), "{counts:?}");
        } else {
            assert!(even(counts), "{name}: {counts:?}");
        }
        let mut routes = Routes::new();
        router
            .route(name.as_bytes(), &[b"k"], None, &mut routes)
            .unwrap();
        assert_eq!(routes.cacheable(), kind == ExchangeKind::ModulusHash);
    }
    // A queue that is bound twice gets twice as much.
    router.bind(&to_queue("x-random", 1, "again")).unwrap();
    let [twice, ..] = spread(&router, "x-random", different());
    assert!(twice.abs_diff(4000) < 300, "{twice}");
    router.unbind(&to_queue("x-random", 1, "again")).unwrap();
    router.unbind(&to_queue("x-random", 1, "")).unwrap();
    let [none, ..] = spread(&router, "x-random", different());
    assert_eq!(none, 0);
}

#[test]
fn a_consistent_hash_is_of_what_the_exchange_says() {
    let mut router = router();
    let properties = |n: u64| {
        let text = |n: u64| -> &'static [u8] { format!("id {n}").into_bytes().leak() };
        Properties {
            message_id: Some(text(n)),
            correlation_id: Some(text(n + 1)),
            timestamp: Some(n),
            ..Properties::default()
        }
    };
    for (argument, value) in [
        ("none", ""),
        ("hash-header", "h"),
        ("hash-property", "message_id"),
        ("hash-property", "correlation_id"),
        ("hash-property", "timestamp"),
    ] {
        let mut spec = plain(ExchangeKind::ConsistentHash);
        spec.arguments.insert(argument, value);
        router.declare("hash", spec).unwrap();
        for queue in 1..=4 {
            router.bind(&to_queue("hash", queue, "3")).unwrap();
        }
        let mut routes = Routes::new();
        let mut reached = std::collections::BTreeSet::new();
        for n in 0..100 {
            let mut headers = Table::new();
            headers.insert("h", i64::try_from(n).unwrap());
            let encoded = headers.encoded();
            let message = Properties {
                headers: Some(RawTable::parse(&encoded).unwrap()),
                ..properties(n)
            };
            router.begin_route(b"hash", &mut routes).unwrap();
            assert!(router.go_on(&[b"k"], &message, &mut routes, &mut Steps::unlimited()));
            let first = routes.queues().to_vec();
            assert_eq!(first.len(), 1);
            reached.extend(first);
        }
        // The routing key is always the same.
        let expected = if argument == "none" { 1 } else { 4 };
        assert_eq!(reached.len(), expected, "{argument} {value}");
        assert_eq!(routes.cacheable(), argument == "none");
        router.delete("hash", false).unwrap();
    }
}
