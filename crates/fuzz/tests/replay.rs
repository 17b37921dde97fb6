//! Replays every kept input of every target, so that a finding once fixed stays fixed.

use std::fs;
use std::path::Path;

#[test]
fn every_corpus_replays() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, run) in leveret_fuzz::TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpora.join(target)).unwrap() {
            let path = entry.unwrap().path();
            let input = fs::read(&path).unwrap();
            let outcome = std::panic::catch_unwind(|| run(&input));
            assert!(outcome.is_ok(), "{target} fails on {}", path.display());
            inputs += 1;
        }
        assert!(inputs > 0, "{target} has no corpus");
    }
}

#[test]
fn every_corpus_belongs_to_a_target() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in fs::read_dir(corpora).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(
            leveret_fuzz::TARGETS
                .iter()
                .any(|(target, _)| name == *target),
            "{name:?}"
        );
    }
}
