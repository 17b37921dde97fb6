//! Release builds of the broker: of the present sources and of other commits.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::connection::text;

/// Builds `leveret` from the present sources; returns the binary.
pub fn present() -> Result<PathBuf, String> {
    let root = root();
    let named = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = named.unwrap_or_else(|| root.join("target"));
    build(&root, &target)
}

/// Builds `leveret` at `revision` under `target/bench-commits`; returns short hash and binary.
pub fn commit(revision: &str) -> Result<(String, PathBuf), String> {
    let root = root();
    let commit = format!("{revision}^{{commit}}");
    let mut parse = Command::new("git");
    parse.current_dir(&root);
    parse.args(["rev-parse", "--verify", "--short=12", &commit]);
    let hash = output(&mut parse)?;
    let tree = root.join("target/bench-commits").join(&hash);
    if !tree.exists() {
        let mut add = Command::new("git");
        add.current_dir(&root);
        add.args(["worktree", "add", "--force", "--detach"]);
        run(add.arg(&tree).arg(&hash))?;
    }
    let binary = build(&tree, &tree.join("target"))?;
    Ok((hash, binary))
}

/// Where this program's own sources are.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_path_buf()
}

fn build(sources: &Path, target: &Path) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(sources).env("CARGO_TARGET_DIR", target);
    run(build.args(["build", "--release", "--locked", "--package", "leveret"]))?;
    Ok(target.join("release/leveret"))
}

fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(text)?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{}: {status}", name(command)))
    }
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(text)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!(
        "{}: {}",
        name(command),
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program()).display().to_string();
    let arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(program)
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}
