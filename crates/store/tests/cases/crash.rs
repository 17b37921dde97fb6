//! Crash-point enumeration, and the proof that it would notice.

use leveret_store::StoreSabotage;

use crate::support::explore::explore;

/// Distinct crash states a run of this test checks.
const STATES: usize = 25_000;

#[test]
fn a_crash_anywhere_loses_nothing_confirmed() {
    let report = explore(1, STATES, StoreSabotage::None, None);
    assert_eq!(report.violation, None);
    println!(
        "{} states of {} histories",
        report.seen.len(),
        report.histories
    );
}
