//! Looking for input that breaks a promise: builds the fuzz targets with coverage, runs them.
//!
//! Replaying the kept corpora needs none of this; `cargo test -p leveret-fuzz` does it.

use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, ScopedJoinHandle};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::project::Project;
use crate::report::{Report, Suite};
use crate::shell::Niceness;
use crate::{compiler, install, shell};

const FOLDER: &str = "crates/fuzz";

/// Targets that are explored side by side, each by one thread.
const AT_ONCE: usize = 2;

/// Longer inputs find no more in formats whose parts are short.
const INPUT_BYTES_MAX: u32 = 1024;

/// Every target with a source file, in order of name.
fn targets(project: &Project) -> Vec<String> {
    let mut names = Vec::new();
    let sources = project.root.join(FOLDER).join("targets");
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

/// Runs each target for `seconds` from its corpus; a suite for each.
pub(crate) fn explore(project: &Project, seconds: u64, report: &mut Report) {
    let targets = targets(project);
    if targets.is_empty() {
        report.add(Suite::skipped("fuzz", "there are no fuzz targets"));
        return;
    }
    println!("== fuzz build");
    let start = Instant::now();
    let programs = match build(project) {
        Ok(programs) => programs,
        Err(error) => {
            report.add(Suite::single(
                "fuzz build",
                false,
                format!("{error:#}"),
                start,
            ));
            return;
        }
    };
    for some in targets.chunks(AT_ONCE) {
        let suites: Vec<_> = thread::scope(|scope| {
            let programs = &programs;
            let one = |target| move || suite(project, programs, target, seconds);
            let running = some.iter().map(|target| scope.spawn(one(target)));
            let running: Vec<_> = running.collect();
            running.into_iter().map(ScopedJoinHandle::join).collect()
        });
        for suite in suites {
            report.add(suite.unwrap_or_else(|panic| resume_unwind(panic)));
        }
    }
}

/// Runs one target with what nobody else needs of the processors.
fn suite(project: &Project, programs: &Path, target: &str, seconds: u64) -> Suite {
    let name = format!("fuzz {target}");
    println!("== {name}");
    let start = Instant::now();
    let ran = command(project, programs, target, seconds)
        .and_then(|command| shell::capture(shell::giving_way(&command, Niceness::Behind)));
    match ran {
        Ok(output) => Suite::single(&name, output.success, output.text, start),
        Err(error) => Suite::single(&name, false, format!("{error:#}"), start),
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
    let programs = build(project)?;
    shell::run(command(project, &programs, target, seconds)?)
}

/// Builds every target; returns the folder with the programs. What they depend on is that of the
/// tests, which is why they are examples of the whole workspace.
fn build(project: &Project) -> Result<PathBuf> {
    install::program("c++")?;
    let folder = project.target.join("fuzz");
    fs::create_dir_all(&folder)?;
    let mut build = shell::cargo(&project.root, &["build", "--locked", "--workspace"]);
    build.args(["--features", "leveret-fuzz/libfuzzer"]);
    for target in targets(project) {
        build.args(["--example", &format!("fuzz-{target}")]);
    }
    compiler::use_coverage(&mut build, &folder.join("compiler"))?;
    shell::require(shell::giving_way(&build, Niceness::Behind))?;
    Ok(project.target.join("debug/examples"))
}

fn command(project: &Project, programs: &Path, target: &str, seconds: u64) -> Result<Command> {
    let found = project.target.join("fuzz/corpus").join(target);
    let artifacts = project.root.join(FOLDER).join("artifacts");
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&artifacts)?;
    let mut command = Command::new(programs.join(format!("fuzz-{target}")));
    // libFuzzer writes what it finds to the first folder and only reads the second.
    command
        .arg(found)
        .arg(project.root.join(FOLDER).join("corpus").join(target));
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
    command.arg(format!(
        "-artifact_prefix={}/{target}-",
        artifacts.display()
    ));
    Ok(command)
}
