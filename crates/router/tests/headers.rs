//! The headers exchange against the rules written down as plainly as possible.

use leveret_codec::{RawTable, Table, Value};
use leveret_router::{BindingSpec, Destination, QueueId, Router, Routes};
use proptest::prelude::*;

/// A field by name and by the index of its value in `VALUES`.
type HeaderFields = Vec<(&'static str, usize)>;

const NAMES: [&str; 5] = ["a", "b", "c", "x-d", "x-e"];

/// Values with the class that decides equality; equal numbers are equal values.
fn values() -> [(u32, Value); 9] {
    [
        (0, Value::Void),
        (1, Value::I32(1)),
        (1, Value::U8(1)),
        (2, Value::I64(2)),
        (3, Value::from("1")),
        (3, Value::Bytes(b"1".to_vec())),
        (4, Value::F64(1.0)),
        (4, Value::F32(1.0)),
        (5, Value::Bool(true)),
    ]
}

fn naive(mode: Option<&str>, wanted: &HeaderFields, message: &HeaderFields) -> bool {
    let with_x = mode.is_some_and(|mode| mode.ends_with("-with-x"));
    let any = mode.is_some_and(|mode| mode.starts_with("any"));
    let mut results = Vec::new();
    for (name, value) in wanted {
        if name.starts_with("x-") && !with_x {
            continue;
        }
        let there = message.iter().rev().find(|(other, _)| other == name);
        let class = |index: usize| values()[index].0;
        results.push(there.is_some_and(|(_, found)| *value == 0 || class(*value) == class(*found)));
    }
    if any {
        results.contains(&true)
    } else {
        !results.contains(&false)
    }
}

/// Encodes fields as they are, names that come twice included.
fn encoded(fields: &HeaderFields) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        let mut one = Table::new();
        one.insert(name, values()[*value].1.clone());
        bytes.extend_from_slice(&one.encoded());
    }
    bytes
}

fn fields(count: std::ops::Range<usize>) -> impl Strategy<Value = HeaderFields> {
    prop::collection::vec((prop::sample::select(&NAMES[..]), 0usize..9), count)
}

fn binding(queue: u32, mode: Option<&str>, wanted: &HeaderFields) -> BindingSpec {
    let mut arguments = Table::new();
    for (name, value) in wanted {
        arguments.insert(name, values()[*value].1.clone());
    }
    if let Some(mode) = mode {
        arguments.insert("x-match", mode);
    }
    let destination = Destination::Queue(QueueId(queue));
    BindingSpec {
        source: "amq.match".into(),
        destination,
        key: Vec::new(),
        arguments,
    }
}

fn routed(router: &Router, message: &HeaderFields) -> Vec<QueueId> {
    let bytes = encoded(message);
    let headers = RawTable::parse(&bytes).expect("well-formed");
    let mut routes = Routes::new();
    router
        .route(b"amq.match", &[b"k"], Some(headers), &mut routes)
        .expect("the exchange exists");
    routes.queues().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn bindings_match_what_the_rules_say(
        bindings in prop::collection::vec(
            (prop::sample::select(vec![
                None, Some("all"), Some("any"), Some("all-with-x"), Some("any-with-x"),
            ]), fields(0..4), any::<bool>()),
            1..20,
        ),
        messages in prop::collection::vec(
            prop_oneof![4 => fields(0..7), 1 => fields(20..60)],
            1..6,
        ),
    ) {
        // A name comes once in arguments: the last of the same name is the one declared.
        let bindings: Vec<_> = bindings
            .into_iter()
            .map(|(mode, wanted, gone)| {
                let mut once: HeaderFields = Vec::new();
                for field in wanted.into_iter().rev() {
                    if once.iter().all(|(name, _)| *name != field.0) {
                        once.push(field);
                    }
                }
                (mode, once, gone)
            })
            .collect();
        let mut router = Router::new();
        for (id, (mode, wanted, _)) in (0u32..).zip(&bindings) {
            router.add_queue(&format!("q{id}"), QueueId(id));
            router.bind(&binding(id, *mode, wanted)).expect("a valid binding");
        }
        for removed in [false, true] {
            for message in &messages {
                let expected: Vec<QueueId> = (0u32..)
                    .zip(&bindings)
                    .filter(|(_, (_, _, gone))| !(removed && *gone))
                    .filter(|(_, (mode, wanted, _))| naive(*mode, wanted, message))
                    .map(|(id, _)| QueueId(id))
                    .collect();
                prop_assert_eq!(routed(&router, message), expected, "{:?}", message);
            }
            for (id, (mode, wanted, gone)) in (0u32..).zip(&bindings) {
                if *gone {
                    router.unbind(&binding(id, *mode, wanted)).expect("a binding");
                }
            }
        }
    }
}
