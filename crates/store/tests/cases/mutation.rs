//! Proves the crash tests: with any one rule of the journal broken, they find a violation.

use leveret_store::StoreSabotage;

use crate::support::explore::explore;

/// Distinct crash states after which a fault counts as unnoticed.
const STATES: usize = 150_000;

fn assert_noticed(sabotage: StoreSabotage, deaf: Option<&str>) {
    let report = explore(1, STATES, sabotage, deaf);
    let states = report.seen.len();
    let violation = report.violation;
    assert!(
        violation.is_some(),
        "{sabotage:?} {deaf:?} not noticed in {states} states"
    );
    println!(
        "{sabotage:?} {deaf:?}: {states} states, {}",
        violation.unwrap_or_default()
    );
}

macro_rules! mutations {
    ($($name:ident: $sabotage:ident, $deaf:expr;)*) => {
        $(#[test]
        fn $name() {
            assert_noticed(StoreSabotage::$sabotage, $deaf);
        })*
    };
}

mutations! {
    journal_files_are_never_synced: None, Some("journal-");
    checkpoints_are_never_synced: None, Some("checkpoint");
    the_directory_is_never_synced: None, Some("/");
    the_format_is_never_synced: None, Some("FORMAT");
    the_watermark_comes_first: WatermarkFirst, None;
    frames_are_not_synced: SkipFrameSync, None;
    seals_are_not_synced: SkipSeal, None;
    segments_are_freed_early: FreeEarly, None;
    segments_are_freed_after_one_checkpoint: FreeAfterOne, None;
    the_tail_is_not_rewritten: SkipTailRewrite, None;
    a_checkpoint_is_not_synced: SkipCheckpointSync, None;
    only_one_checkpoint_file: OneCheckpointFile, None;
    bodies_are_trusted: TrustBody, None;
    records_are_trusted_one_by_one: TrustRecords, None;
    the_chain_is_ignored: IgnoreChain, None;
    early_settlements_are_forgotten: ForgetEarly, None;
    fan_out_is_elided: ElideMany, None;
    the_dead_are_copied: CopyDead, None;
    delivery_counts_are_forgotten: ForgetReturns, None;
    delivery_counts_of_the_dead_are_kept: KeepCounts, None;
    deleted_lanes_come_back: ReviveLanes, None;
    a_death_without_its_copy: SettleBeforeCopy, None;
    a_copy_without_its_death: CopyBeforeSettle, None;
    files_of_copies_are_written_again: ReuseLinked, None;
    run_files_are_never_synced: None, Some("run-");
    a_checkpoint_forgets_moved_chunks: ForgetMoved, None;
    a_chunk_is_moved_before_its_file_is_synced: MoveBeforeSync, None;
    a_run_goes_before_its_deaths_are_durable: RemoveRunsEarly, None;
    a_place_goes_before_what_is_left_of_it_is_moved: FreeRewritten, None;
    what_is_settled_and_not_there_is_moved: MoveSettled, None;
}
