//! `cargo xtask bench`: builds the broker and the load generator, then hands over to the latter.

use std::process::Command;

use anyhow::Result;

use crate::project::Project;
use crate::{install, shell};

/// Builds `leveret` and `leveret-bench` in release and runs the latter with `arguments`.
///
/// # Errors
/// A build or a round fails; the program itself has printed why.
pub(crate) fn run(project: &Project, arguments: &[String]) -> Result<()> {
    let build = ["build", "--release", "--locked", "--package", "leveret"];
    let mut build = shell::cargo(&project.root, &build);
    build.args(["--package", "leveret-bench"]);
    shell::run(build)?;
    let release = project.target.join("release");
    let mut bench = Command::new(release.join("leveret-bench"));
    if wants_perf_test(arguments) {
        bench.env("PERF_TEST_JARS", install::perf_test(project)?);
    }
    bench
        .arg("--leveret")
        .arg(release.join("leveret"))
        .args(arguments);
    shell::run(bench)
}

/// Whether RabbitMQ's load generator may run: all scenarios do if none is named, and nearly all
/// names are of several words.
fn wants_perf_test(arguments: &[String]) -> bool {
    let is_scenario = |argument: &&String| {
        argument.starts_with(|first: char| first.is_ascii_lowercase()) && argument.contains('-')
    };
    let mut named = arguments.iter().filter(is_scenario).peekable();
    let is_list = arguments.iter().any(|argument| argument == "--list");
    !is_list && (named.peek().is_none() || named.any(|name| name.starts_with("perftest-")))
}
