//! The model of a queue that the fuzz target checks, on random histories in every test run.

use leveret_fuzz::{queue_life, queue_operations};
use proptest::prelude::*;

fn history() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 3..250)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_dead_is_handed_out_and_nothing_dies_early(input in history()) {
        queue_life(&input);
    }

    #[test]
    fn a_queue_behaves_like_a_list(input in history()) {
        queue_operations(&input);
    }
}
