//! The simulation of the whole broker, for as many seeds as asked.

use anyhow::Result;

use crate::project::Project;
use crate::shell;

/// Builds the simulator with optimisation and every check, and lets it run.
///
/// # Errors
/// It cannot be built, or a seed shows a violation.
pub(crate) fn run(project: &Project, seeds: u64, seed: u64) -> Result<()> {
    let (seeds, seed) = (seeds.to_string(), seed.to_string());
    let build = ["run", "-q", "--locked", "--profile", "simulate"];
    let arguments = [
        &build[..],
        &["-p", "leveret-simulator", "--"],
        &["--seeds", &seeds, "--seed", &seed],
    ]
    .concat();
    shell::run(shell::cargo(&project.root, &arguments))
}
