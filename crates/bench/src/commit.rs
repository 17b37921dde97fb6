//! Another commit of this project, built to be measured beside the present one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::connection::text;

/// Builds `leveret` at `revision` under `target/bench-commits`; returns short hash and binary.
pub fn build(revision: &str) -> Result<(String, PathBuf), String> {
    let root = PathBuf::from(output(
        Command::new("git").args(["rev-parse", "--show-toplevel"]),
    )?);
    let commit = format!("{revision}^{{commit}}");
    let mut parse = Command::new("git");
    let hash = output(
        parse
            .args(["rev-parse", "--verify", "--short=12"])
            .arg(commit),
    )?;
    let tree = root.join("target/bench-commits").join(&hash);
    if !tree.exists() {
        let mut add = Command::new("git");
        add.current_dir(&root)
            .args(["worktree", "add", "--force", "--detach"]);
        run(add.arg(&tree).arg(&hash))?;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .current_dir(&tree)
        .env("CARGO_TARGET_DIR", tree.join("target"));
    run(build.args(["build", "--release", "--locked", "--package", "leveret"]))?;
    Ok((hash, tree.join("target/release/leveret")))
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
