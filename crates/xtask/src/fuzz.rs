//! Fuzz targets: replaying the kept corpora and running on from them for a while.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::project::Project;
use crate::report::{Report, Suite};
use crate::shell;

const FOLDER: &str = "crates/fuzz";

/// Every target with a source file, in order of name.
fn targets(project: &Project) -> Vec<String> {
    let mut names = Vec::new();
    let sources = project.root.join(FOLDER).join("fuzz_targets");
    for entry in fs::read_dir(sources).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending == "rs") {
            names.extend(
                path.file_stem()
                    .map(|stem| stem.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort();
    names
}

/// Replays each target's corpus and goes on for `seconds`; a suite for each.
pub(crate) fn replay(project: &Project, seconds: u64, report: &mut Report) {
    let targets = targets(project);
    if targets.is_empty() {
        report.add(Suite::skipped("fuzz", "there are no fuzz targets"));
    }
    for target in targets {
        let name = format!("fuzz {target}");
        println!("== {name}");
        let start = Instant::now();
        let suite = match shell::capture(command(project, &target, seconds)) {
            Ok(output) => Suite::single(&name, output.success, output.text, start),
            Err(error) => Suite::single(&name, false, format!("{error:#}"), start),
        };
        report.add(suite);
    }
}

/// Runs one target for `seconds`, its output shown.
///
/// # Errors
/// The target cannot be built, or an input fails.
pub(crate) fn run(project: &Project, target: &str, seconds: u64) -> Result<()> {
    let known = targets(project);
    let known = known.iter().find(|name| *name == target);
    known.with_context(|| format!("no fuzz target `{target}` in {FOLDER}"))?;
    shell::run(command(project, target, seconds))
}

fn command(project: &Project, target: &str, seconds: u64) -> std::process::Command {
    let limit = format!("-max_total_time={seconds}");
    let mut command = shell::cargo(&project.root, &["fuzz", "run", "--fuzz-dir", FOLDER]);
    command.args([target, "--", &limit]);
    command
}
