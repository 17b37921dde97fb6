//! `cargo xtask bench`: builds the broker and the benchmark, then hands over to the benchmark.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds `leveret` and `leveret-bench` in release and runs the latter with `arguments`.
///
/// # Errors
/// When a build or a round fails; the program itself has printed why.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let packages = ["--package", "leveret", "--package", "leveret-bench"];
    let mut build = Command::new(cargo);
    succeed(build.current_dir(&root).args(["build", "--release", "--locked"]).args(packages))?;
    let release = target_directory(&root).join("release");
    let mut bench = Command::new(release.join("leveret-bench"));
    succeed(bench.arg("--leveret").arg(release.join("leveret")).args(arguments))
}

fn target_directory(root: &Path) -> PathBuf {
    let named = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    named.unwrap_or_else(|| root.join("target"))
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}")) }
}
