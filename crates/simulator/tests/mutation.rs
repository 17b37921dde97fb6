//! Proves the simulation: with any one rule of queues and broker broken, it finds a violation.

use leveret_record::{Sabotage, sabotage};
use leveret_simulator::simulate;

/// Seeds after which a fault counts as unnoticed.
const SEEDS: u64 = 200;

/// A rule, and what the first violation of it must say: one of these.
const MUTATIONS: [(Sabotage, &[&str]); 13] = [
    (Sabotage::LoseWakeup, &["lost wakeup"]),
    (Sabotage::LoseFlush, &["lost wakeup"]),
    (
        Sabotage::RequeueLast,
        &["the oldest ready message is", "was there as"],
    ),
    (Sabotage::KeepCredit, &["lost wakeup"]),
    (Sabotage::ForgetDelivery, &["the oldest ready message is"]),
    (Sabotage::LoseCopy, &["a death without its copy"]),
    (Sabotage::KeepDead, &["there twice", "gone for good"]),
    (
        Sabotage::ForgetDeadline,
        &["expired, and handed out", "past its deadline"],
    ),
    (
        Sabotage::ExceedLimit,
        &["nobody put", "the oldest ready message is"],
    ),
    (
        Sabotage::SkipLane,
        &["the oldest ready message is", "is dropped before"],
    ),
    (Sabotage::ForgetLease, &["the broker has"]),
    (Sabotage::FailOverdue, &["the oldest ready message is"]),
    (Sabotage::LateLanes, &["belong to no queue"]),
];

/// One after another: two worlds at once would disturb each other's account of memory.
#[test]
fn every_broken_rule_is_noticed() {
    for (rule, what) in MUTATIONS {
        sabotage(Some(rule));
        let noticed = (1..=SEEDS).find_map(|seed| simulate(seed).err());
        sabotage(None);
        let Some(violation) = noticed else {
            panic!("{rule:?} was not noticed in {SEEDS} seeds");
        };
        let reason = violation.reason;
        println!("{rule:?}: seed {}: {reason}", violation.seed);
        assert!(
            what.iter().any(|what| reason.contains(what)),
            "{rule:?} was noticed as something else: {reason}"
        );
    }
}
