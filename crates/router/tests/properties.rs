//! The router against models that are too simple to be wrong: a recursive topic matcher, and a
//! graph of exchanges kept as plain lists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_codec::{Properties, RawTable, Table, Value, ValueRef};
use leveret_router::{
    BindingSpec, Declared, Destination, ExchangeKind, ExchangeSpec, QueueId, Refused, Router,
    Routes, Steps,
};
use proptest::prelude::*;

/// What the specification says, word by word.
fn topic_matches(pattern: &[u8], key: &[u8]) -> bool {
    fn words(key: &[u8]) -> Vec<&[u8]> {
        if key.is_empty() {
            Vec::new()
        } else {
            key.split(|byte| *byte == b'.').collect()
        }
    }
    fn matches(pattern: &[&[u8]], key: &[&[u8]]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            ([b"#", rest @ ..], _) => {
                matches(rest, key) || !key.is_empty() && matches(pattern, &key[1..])
            }
            ([word, rest @ ..], [first, others @ ..]) => {
                (*word == b"*" || word == first) && matches(rest, others)
            }
            _ => false,
        }
    }
    matches(&words(pattern), &words(key))
}

fn binding(source: &str, queue: u32, key: &[u8]) -> BindingSpec {
    BindingSpec {
        source: source.into(),
        destination: Destination::Queue(QueueId(queue)),
        key: key.into(),
        arguments: Table::new(),
    }
}

fn routed(router: &Router, exchange: &str, keys: &[&[u8]]) -> Vec<QueueId> {
    let mut routes = Routes::new();
    router
        .route(exchange.as_bytes(), keys, None, &mut routes)
        .expect("the exchange exists");
    let mut in_parts = Routes::new();
    let begun = router.begin_route(exchange.as_bytes(), &mut in_parts);
    begun.expect("the exchange exists");
    while !router.go_on(
        keys,
        &Properties::default(),
        &mut in_parts,
        &mut Steps::new(1),
    ) {}
    assert_eq!(in_parts.queues(), routes.queues());
    assert_eq!(in_parts.cacheable(), routes.cacheable());
    routes.queues().to_vec()
}

fn dotted(words: &'static [&'static str], max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(words), 0..=max)
        .prop_map(|words| words.join(".").into_bytes())
}

const PATTERN_WORDS: &[&str] = &["a", "b", "", "*", "#", "**", "a#", "#"];
const KEY_WORDS: &[&str] = &["a", "b", "c", "", "*", "a#"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_trie_matches_what_the_naive_matcher_matches(
        patterns in prop::collection::vec((dotted(PATTERN_WORDS, 6), any::<bool>()), 1..24),
        keys in prop::collection::vec(dotted(KEY_WORDS, 7), 1..8),
        seed in any::<u64>(),
    ) {
        let mut router = Router::with_seed(seed);
        for (id, (pattern, _)) in (0u32..).zip(&patterns) {
            router.add_queue(&format!("q{id}"), QueueId(id));
            router.bind(&binding("amq.topic", id, pattern)).unwrap();
        }
        let expect = |key: &[u8], removed: bool| -> Vec<QueueId> {
            let all = (0u32..).zip(&patterns).filter(|(_, (_, gone))| !(removed && *gone));
            all.filter(|(_, (p, _))| topic_matches(p, key)).map(|(id, _)| QueueId(id)).collect()
        };
        for key in &keys {
            prop_assert_eq!(routed(&router, "amq.topic", &[key]), expect(key, false), "{:?}", key);
        }
        for (id, (pattern, gone)) in (0u32..).zip(&patterns) {
            if *gone {
                router.unbind(&binding("amq.topic", id, pattern)).unwrap();
            }
        }
        for key in &keys {
            prop_assert_eq!(routed(&router, "amq.topic", &[key]), expect(key, true), "{:?}", key);
        }
        let both: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let union: BTreeSet<QueueId> = keys.iter().flat_map(|key| expect(key, true)).collect();
        prop_assert_eq!(routed(&router, "amq.topic", &both), Vec::from_iter(union));
    }
}

/// Exchanges, queues and bindings as plain lists.
#[derive(Default)]
struct Model {
    exchanges: BTreeMap<String, (ExchangeSpec, Option<String>)>,
    queues: BTreeSet<u32>,
    bindings: Vec<BindingSpec>,
}

/// Routing keys and headers.
type Message<'a> = (&'a [&'a str], &'a [(&'a str, i32)]);

#[derive(Clone, Debug)]
enum Operation {
    Declare {
        name: usize,
        kind: ExchangeKind,
        auto_delete: bool,
        alternate: Option<usize>,
    },
    Delete {
        name: usize,
        if_unused: bool,
    },
    Policy {
        name: usize,
        alternate: Option<usize>,
    },
    AddQueue(u32),
    RemoveQueue(u32),
    Bind(BindingSpec),
    Unbind(BindingSpec),
    UnbindAt(prop::sample::Index),
}

/// The last is never declared, the first but one is the default exchange.
const NAMES: [&str; 7] = ["e0", "e1", "e2", "e3", "e4", "", "missing"];
const DECLARABLE: usize = 5;
const QUEUES: u32 = 4;
const BINDING_KEYS: [&str; 9] = ["", "a", "a.b", "#", "*", "a.*", "#.b", "*.#", "q1"];
const ROUTING_KEYS: [&str; 7] = ["", "a", "b", "a.b", "q1", "q2", "a.b.b"];

impl Model {
    fn exists(&self, name: &str) -> bool {
        name.is_empty() || self.exchanges.contains_key(name)
    }

    fn reaches(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Queue(id) => self.queues.contains(&id.0),
            Destination::Exchange(name) => self.exists(name),
        }
    }

    /// Removes bindings and whatever auto-deletes then; returns both kinds, sorted.
    fn remove(
        &mut self,
        gone: impl Fn(&BindingSpec) -> bool,
        exchange: Option<&str>,
    ) -> (Vec<String>, Vec<String>) {
        let (mut bindings, mut exchanges) = (Vec::new(), Vec::new());
        let before: Vec<String> = self.bindings.iter().map(|b| b.source.clone()).collect();
        self.bindings.retain(|binding| {
            let goes = gone(binding);
            if goes {
                bindings.push(format!("{binding:?}"));
            }
            !goes
        });
        if let Some(name) = exchange {
            self.exchanges.remove(name);
            exchanges.push(name.to_owned());
        }
        for source in before {
            let still = self.bindings.iter().any(|binding| binding.source == source);
            let auto = self
                .exchanges
                .get(&source)
                .is_some_and(|(spec, _)| spec.auto_delete);
            if auto && !still {
                let (more_bindings, more) = self.delete(&source);
                bindings.extend(more_bindings);
                exchanges.extend(more);
            }
        }
        bindings.sort();
        exchanges.sort();
        (bindings, exchanges)
    }

    fn delete(&mut self, name: &str) -> (Vec<String>, Vec<String>) {
        let to = Destination::Exchange(name.into());
        self.remove(
            |binding| binding.source == name || binding.destination == to,
            Some(name),
        )
    }

    fn route(&self, exchange: &str, keys: &[&str], headers: &[(&str, i32)]) -> Vec<QueueId> {
        let (mut queues, mut visited) = (BTreeSet::new(), BTreeSet::new());
        self.visit(exchange, (keys, headers), &mut visited, &mut queues);
        queues.into_iter().map(QueueId).collect()
    }

    fn visit(
        &self,
        exchange: &str,
        message: Message<'_>,
        visited: &mut BTreeSet<String>,
        queues: &mut BTreeSet<u32>,
    ) {
        if !visited.insert(exchange.to_owned()) {
            return;
        }
        if exchange.is_empty() {
            let named = |id: &&u32| message.0.iter().any(|key| *key == format!("q{id}"));
            queues.extend(self.queues.iter().filter(named));
            return;
        }
        let Some((spec, policy)) = self.exchanges.get(exchange) else {
            return;
        };
        let matching = self.bindings.iter().filter(|b| b.source == exchange);
        let matching: Vec<&BindingSpec> = matching
            .filter(|b| binding_matches(spec.kind, b, message))
            .collect();
        for binding in &matching {
            match &binding.destination {
                Destination::Queue(id) => drop(queues.insert(id.0)),
                Destination::Exchange(next) => self.visit(next, message, visited, queues),
            }
        }
        if matching.is_empty()
            && let Some(alternate) = spec.alternate().or(policy.as_deref())
        {
            self.visit(alternate, message, visited, queues);
        }
    }
}

fn binding_matches(
    kind: ExchangeKind,
    binding: &BindingSpec,
    (keys, headers): Message<'_>,
) -> bool {
    let key = binding.key.as_slice();
    match kind {
        ExchangeKind::Fanout => true,
        ExchangeKind::Direct => keys.iter().any(|k| k.as_bytes() == key),
        ExchangeKind::Topic => keys.iter().any(|k| topic_matches(key, k.as_bytes())),
        ExchangeKind::Headers => {
            let field = |(name, wanted): (&[u8], ValueRef<'_>)| match wanted {
                ValueRef::Void => headers.iter().any(|(k, _)| k.as_bytes() == name),
                _ => headers
                    .iter()
                    .any(|(k, v)| k.as_bytes() == name && wanted == ValueRef::I32(*v)),
            };
            let any = binding.arguments.get(b"x-match") == Some(ValueRef::LongString(b"any"));
            let mut fields = binding
                .arguments
                .iter()
                .filter(|(k, _)| !k.starts_with(b"x-"));
            if any {
                fields.any(field)
            } else {
                fields.all(field)
            }
        }
        other => unreachable!("no history has a {}", other.name()),
    }
}

fn table(fields: &[(&str, Value)]) -> Table {
    let mut table = Table::new();
    for (key, value) in fields {
        table.insert(key, value.clone());
    }
    table
}

/// Sorted by name, as the router lists them.
fn arguments() -> impl Strategy<Value = Table> {
    prop::sample::select(vec![
        Table::new(),
        Table::new(),
        table(&[("h", Value::I32(1))]),
        table(&[("g", Value::I32(2)), ("h", Value::I32(1))]),
        table(&[
            ("g", Value::I32(2)),
            ("h", Value::I32(1)),
            ("x-match", "any".into()),
        ]),
        table(&[("x-match", "any".into())]),
        table(&[("g", Value::Void), ("x-other", Value::I32(5))]),
    ])
}

fn spec() -> impl Strategy<Value = BindingSpec> {
    let queue = (0..QUEUES).prop_map(|id| Destination::Queue(QueueId(id)));
    let exchange = (0..NAMES.len()).prop_map(|name| Destination::Exchange(NAMES[name].into()));
    let key = prop::sample::select(&BINDING_KEYS[..]);
    (
        0..NAMES.len(),
        prop_oneof![queue, exchange],
        key,
        arguments(),
    )
        .prop_map(|(source, destination, key, arguments)| BindingSpec {
            source: NAMES[source].into(),
            destination,
            key: key.into(),
            arguments,
        })
}

fn operation() -> impl Strategy<Value = Operation> {
    let kind = prop::sample::select(vec![
        ExchangeKind::Direct,
        ExchangeKind::Fanout,
        ExchangeKind::Topic,
        ExchangeKind::Headers,
    ]);
    let alternate = || prop::option::of(0..NAMES.len());
    let name = || 0..DECLARABLE;
    prop_oneof![
        4 => (name(), kind, any::<bool>(), alternate()).prop_map(
            |(name, kind, auto_delete, alternate)| Operation::Declare {
                name, kind, auto_delete, alternate
            }),
        1 => (name(), any::<bool>())
            .prop_map(|(name, if_unused)| Operation::Delete { name, if_unused }),
        1 => (name(), alternate())
            .prop_map(|(name, alternate)| Operation::Policy { name, alternate }),
        3 => (0..QUEUES).prop_map(Operation::AddQueue),
        1 => (0..QUEUES).prop_map(Operation::RemoveQueue),
        8 => spec().prop_map(Operation::Bind),
        1 => spec().prop_map(Operation::Unbind),
        3 => any::<prop::sample::Index>().prop_map(Operation::UnbindAt),
    ]
}

fn same_removal(
    removal: leveret_router::Removal,
    expected: (Vec<String>, Vec<String>),
) -> Result<(), TestCaseError> {
    let mut bindings: Vec<String> = removal.bindings.iter().map(|b| format!("{b:?}")).collect();
    let mut exchanges: Vec<String> = removal
        .exchanges
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    bindings.sort();
    exchanges.sort();
    prop_assert_eq!((bindings, exchanges), expected);
    Ok(())
}

/// Applies an operation to both and compares the answers.
fn apply(
    router: &mut Router,
    model: &mut Model,
    operation: &Operation,
) -> Result<(), TestCaseError> {
    match operation {
        Operation::Declare {
            name,
            kind,
            auto_delete,
            alternate,
        } => {
            let mut spec = ExchangeSpec::durable(*kind);
            spec.auto_delete = *auto_delete;
            if let Some(alternate) = alternate {
                spec.arguments
                    .insert("alternate-exchange", NAMES[*alternate]);
            }
            let name = NAMES[*name];
            let expected = match model.exchanges.get(name) {
                None => Some(Declared::Created),
                Some((old, _)) => (*old == spec).then_some(Declared::Existing),
            };
            prop_assert_eq!(router.declare(name, spec.clone()).ok(), expected);
            if expected == Some(Declared::Created) {
                model.exchanges.insert(name.into(), (spec, None));
            }
        }
        Operation::Delete { name, if_unused } => {
            let name = NAMES[*name];
            if *if_unused && model.bindings.iter().any(|b| b.source == name) {
                prop_assert_eq!(router.delete(name, true), Err(Refused::InUse(name.into())));
            } else if model.exchanges.contains_key(name) {
                same_removal(router.delete(name, *if_unused).unwrap(), model.delete(name))?;
            } else {
                prop_assert!(router.delete(name, *if_unused).unwrap().is_empty());
            }
        }
        Operation::Policy { name, alternate } => {
            let alternate = alternate.map(|at| NAMES[at].to_owned());
            let there = router.set_policy_alternate(NAMES[*name], alternate.as_deref());
            let entry = model.exchanges.get_mut(NAMES[*name]);
            prop_assert_eq!(there, entry.is_some());
            if let Some((_, policy)) = entry {
                *policy = alternate;
            }
        }
        Operation::AddQueue(id) => {
            let new = router.add_queue(&format!("q{id}"), QueueId(*id));
            prop_assert_eq!(new, model.queues.insert(*id));
        }
        Operation::RemoveQueue(id) => {
            model.queues.remove(id);
            let to = Destination::Queue(QueueId(*id));
            let expected = model.remove(|b| b.destination == to, None);
            same_removal(router.remove_queue(QueueId(*id)), expected)?;
        }
        Operation::Bind(spec) => apply_bind(router, model, spec)?,
        Operation::Unbind(spec) => apply_unbind(router, model, spec)?,
        Operation::UnbindAt(index) => {
            if !model.bindings.is_empty() {
                let spec = index.get(&model.bindings).clone();
                apply_unbind(router, model, &spec)?;
            }
        }
    }
    Ok(())
}

fn touches_default(spec: &BindingSpec) -> bool {
    spec.source.is_empty() || spec.destination == Destination::Exchange(String::new())
}

fn apply_bind(
    router: &mut Router,
    model: &mut Model,
    spec: &BindingSpec,
) -> Result<(), TestCaseError> {
    let expected = if touches_default(spec) {
        Err(Refused::DefaultExchange)
    } else if !model.exists(&spec.source) {
        Err(Refused::NoExchange(spec.source.clone()))
    } else if !model.reaches(&spec.destination) {
        Err(match &spec.destination {
            Destination::Queue(id) => Refused::NoQueue(*id),
            Destination::Exchange(name) => Refused::NoExchange(name.clone()),
        })
    } else {
        Ok(!model.bindings.contains(spec))
    };
    if expected == Ok(true) {
        model.bindings.push(spec.clone());
    }
    prop_assert_eq!(router.bind(spec), expected);
    Ok(())
}

fn apply_unbind(
    router: &mut Router,
    model: &mut Model,
    spec: &BindingSpec,
) -> Result<(), TestCaseError> {
    if touches_default(spec) {
        prop_assert_eq!(router.unbind(spec), Err(Refused::DefaultExchange));
        return Ok(());
    }
    let expected = model.remove(|binding| binding == spec, None);
    same_removal(router.unbind(spec).unwrap(), expected)
}

/// Routes kept as a broker keeps them: with the generation seen.
type Cache = BTreeMap<(String, String), (Arc<AtomicU64>, u64, Vec<QueueId>)>;

/// Compares every route with the model's, and every cached route that claims to be valid.
fn compare(router: &Router, model: &Model, cache: &mut Cache) -> Result<(), TestCaseError> {
    let mut listed: Vec<String> = router
        .bindings()
        .filter(|view| !view.source.is_empty())
        .map(|view| format!("{:?}", view.to_spec()))
        .collect();
    let mut expected: Vec<String> = model.bindings.iter().map(|b| format!("{b:?}")).collect();
    listed.sort();
    expected.sort();
    prop_assert_eq!(listed, expected);

    cache.retain(|_, (generation, seen, _)| generation.load(Ordering::Acquire) == *seen);
    for (exchange, _) in cache.keys() {
        prop_assert!(
            model.exists(exchange),
            "a route of a deleted exchange still counts"
        );
    }
    let mut routes = Routes::new();
    let headers = [("h", 1)];
    let bytes = table(&[("h", Value::I64(1))]).encoded();
    for name in model.exchanges.keys().map(String::as_str).chain([""]) {
        for key in ROUTING_KEYS {
            let raw = Some(RawTable::parse(&bytes).unwrap());
            let source = router
                .route(name.as_bytes(), &[key.as_bytes()], raw, &mut routes)
                .unwrap();
            let expected = model.route(name, &[key], &headers);
            prop_assert_eq!(routes.queues(), expected.as_slice(), "{:?} {:?}", name, key);
            let id = (name.to_owned(), key.to_owned());
            if let Some((_, _, cached)) = cache.get(&id) {
                prop_assert_eq!(
                    cached.as_slice(),
                    routes.queues(),
                    "stale {:?} {:?}",
                    name,
                    key
                );
            }
            if routes.cacheable() {
                prop_assert_eq!(
                    routed(router, name, &[key.as_bytes()]),
                    expected,
                    "headers count"
                );
            }
            if routes.cacheable() && !name.is_empty() {
                let generation = Arc::clone(source.generation());
                let seen = generation.load(Ordering::Acquire);
                cache.insert(id, (generation, seen, routes.queues().to_vec()));
            }
        }
        let (one, two) = (ROUTING_KEYS[3], ROUTING_KEYS[5]);
        let expected = model.route(name, &[one, two], &[]);
        prop_assert_eq!(
            routed(router, name, &[one.as_bytes(), two.as_bytes()]),
            expected
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1200))]

    #[test]
    fn any_history_routes_as_the_model_does(
        operations in prop::collection::vec(operation(), 1..80),
        seed in any::<u64>(),
    ) {
        let (mut router, mut model) = (Router::with_seed(seed), Model::default());
        let mut cache = Cache::new();
        for operation in &operations {
            apply(&mut router, &mut model, operation)?;
            compare(&router, &model, &mut cache)?;
        }
        let names: Vec<String> = model.exchanges.keys().cloned().collect();
        for name in &names {
            router.delete(name, false).unwrap();
        }
        for id in 0..QUEUES {
            router.remove_queue(QueueId(id));
        }
        prop_assert_eq!(router.binding_count(), 0);
        prop_assert_eq!(router.exchange_count(), Router::new().exchange_count());
    }
}
