//! Proves the model of queues: with any one rule broken, it finds a history that shows it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use leveret_fuzz::queue_life;
use leveret_record::{Sabotage, sabotage};
use leveret_store::sim::Rng;

/// Histories after which a fault counts as unnoticed.
const HISTORIES: u64 = 20_000;

/// A rule, and what the first violation of it must say: one of these.
const MUTATIONS: [(Sabotage, &[&str]); 4] = [
    (Sabotage::ServeEarly, &["served while it is held"]),
    (
        Sabotage::ForgetDeadline,
        &["expired, and handed out", "expired long ago"],
    ),
    (Sabotage::ExceedLimit, &["nobody put it there", "assertion"]),
    (
        Sabotage::SkipLane,
        &["out of turn", "another one goes first"],
    ),
];

fn history(seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let len = 3 + rng.below(200);
    (0..len).map(|_| rng.below(256) as u8).collect()
}

fn violation(seed: u64) -> Option<String> {
    let input = history(seed);
    let panic = catch_unwind(AssertUnwindSafe(|| queue_life(&input))).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()));
    Some(text.unwrap_or_default())
}

/// One after another: a rule is broken for all of this thread.
#[test]
fn every_broken_rule_is_noticed() {
    assert_eq!((1..=500).find_map(violation), None);
    for (rule, what) in MUTATIONS {
        sabotage(Some(rule));
        let noticed = (1..=HISTORIES).find_map(violation);
        sabotage(None);
        let Some(reason) = noticed else {
            panic!("{rule:?} was not noticed in {HISTORIES} histories");
        };
        println!("{rule:?}: {reason}");
        assert!(
            what.iter().any(|what| reason.contains(what)),
            "{rule:?} was noticed as something else: {reason}"
        );
    }
}
