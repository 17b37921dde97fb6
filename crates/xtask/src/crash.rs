//! Crashes: of the store at every write, in memory, and of the real broker under real clients.

pub(crate) mod disk;
mod evidence;
pub(crate) mod kill;
mod moved;

use anyhow::Result;

use crate::project::Project;
use crate::shell;

/// Builds the store's explorer with optimisation and lets it run.
///
/// # Errors
/// It cannot be built, or it found a crash that loses something.
pub(crate) fn run(project: &Project, states: u64, seed: u64) -> Result<()> {
    let (states, seed) = (states.to_string(), seed.to_string());
    let arguments = [
        &[
            "run",
            "--release",
            "-q",
            "-p",
            "leveret-store",
            "--example",
            "crash",
            "--",
        ][..],
        &["--states", &states, "--seed", &seed],
    ]
    .concat();
    shell::run(shell::cargo(&project.root, &arguments))
}
