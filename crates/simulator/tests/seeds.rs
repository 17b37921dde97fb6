//! A few worlds, as part of every test run; `cargo xtask simulate` runs as many as asked.

use leveret_simulator::simulate;

const SEEDS: u64 = 20;

#[test]
fn seeds_hold_and_the_same_one_is_the_same_world() {
    let mut summaries = Vec::new();
    for seed in 1..=SEEDS {
        match simulate(seed) {
            Ok(summary) => summaries.push(summary),
            Err(violation) => panic!("{violation}"),
        }
    }
    assert_eq!(simulate(SEEDS).ok(), summaries.last().copied());
}
