//! `cargo xtask bench`: builds the broker and the load generator, then hands over to the latter.

use std::process::Command;

use anyhow::Result;

use crate::project::Project;
use crate::shell;

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
    bench
        .arg("--leveret")
        .arg(release.join("leveret"))
        .args(arguments);
    shell::run(bench)
}
