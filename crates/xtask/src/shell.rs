//! Running other programs: echoed, with their output kept, never longer than a limit.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::compiler;

/// Longer than any single step takes on two cores, compiling from nothing included.
const STEP_TIME_MAX: Duration = Duration::from_secs(30 * 60);

/// Longer than the tests of any single program take beside the rest, on a machine of others.
const TESTS_TIME_MAX: Duration = Duration::from_secs(20 * 60);

/// Programs of the project's own, found before those of the system.
static TOOLS: OnceLock<PathBuf> = OnceLock::new();

/// Has every command that runs from now on find the programs in `folder` first.
pub(crate) fn use_tools(folder: PathBuf) {
    // Two steps may want the same folder.
    let _ = TOOLS.set(folder);
}

/// Where programs are looked for.
fn path() -> OsString {
    let system = env::var_os("PATH").unwrap_or_default();
    let folders = TOOLS
        .get()
        .cloned()
        .into_iter()
        .chain(env::split_paths(&system));
    env::join_paths(folders).unwrap_or(system)
}

/// What a program said and whether it succeeded.
pub(crate) struct Output {
    /// Exit status 0, within the time limit.
    pub(crate) success: bool,
    /// It was stopped at the time limit.
    pub(crate) late: bool,
    /// Standard output and standard error in the order written.
    pub(crate) text: String,
}

/// Cargo, as it was called, in the project's root.
pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root).args(arguments);
    command
}

/// How much a command gives way to others. Tests that go by the time run beside what is compiled.
#[derive(Clone, Copy)]
pub(crate) enum Niceness {
    /// Not so much that it begins only after them.
    Aside,
    /// It has what nobody else needs.
    Behind,
}

/// `cargo test` of the whole workspace, with clippy and rustdoc as the compiler of its packages:
/// what is linted, documented and tested is compiled once.
///
/// # Errors
/// The system does not tell which program this is.
pub(crate) fn cargo_test(root: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = cargo(root, &["test", "--locked", "--workspace"]);
    command.args(arguments);
    compiler::use_clippy(&mut command)?;
    Ok(command)
}

/// Runs `command` to its end and keeps its output.
///
/// # Errors
/// The program cannot be started or read.
pub(crate) fn capture(command: Command) -> Result<Output> {
    capture_within(command, STEP_TIME_MAX)
}

/// The same of a program that only runs tests, for a shorter time.
///
/// # Errors
/// The program cannot be started or read.
pub(crate) fn capture_tests(command: Command) -> Result<Output> {
    capture_within(command, TESTS_TIME_MAX)
}

/// The same command, giving way to others.
pub(crate) fn giving_way(command: &Command, niceness: Niceness) -> Command {
    let steps = match niceness {
        Niceness::Aside => "5",
        Niceness::Behind => "15",
    };
    let mut nice = Command::new("nice");
    nice.args(["-n", steps]).arg(command.get_program());
    nice.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nice.env(name, value),
            None => nice.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        nice.current_dir(folder);
    }
    nice
}

fn capture_within(mut command: Command, limit: Duration) -> Result<Output> {
    let shown = show(&command);
    let (reader, writer) = io::pipe()?;
    command
        .env("PATH", path())
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let child = command
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {shown}"))?;
    // The command holds the pipe's writing end; reading ends only once it is closed.
    drop(command);
    let (finished, watch) = mpsc::channel();
    let group = child.id();
    let watchdog = thread::spawn(move || {
        let late = watch.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            signal(group, "KILL");
        }
        late
    });
    let (text, status) = read_and_wait(reader, child)?;
    let _ = finished.send(());
    let late = watchdog.join().unwrap_or(true);
    let mut output = Output {
        success: status && !late,
        late,
        text,
    };
    if late {
        writeln!(output.text, "stopped after {} s: {shown}", limit.as_secs())?;
    }
    Ok(output)
}

/// Runs `command` to its end with its output shown.
///
/// # Errors
/// The program cannot be started, or fails.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let shown = show(&command);
    let status = command
        .status()
        .with_context(|| format!("starting {shown}"))?;
    if !status.success() {
        bail!("{status}: {shown}");
    }
    Ok(())
}

/// Runs `command` quietly; its output becomes the error when it fails.
///
/// # Errors
/// The program cannot be started, or fails.
pub(crate) fn require(command: Command) -> Result<String> {
    let shown = show(&command);
    let output = capture(command)?;
    if !output.success {
        bail!("{shown} failed:\n{}", output.text);
    }
    Ok(output.text)
}

/// Sends a signal to every process of a group that this program started.
pub(crate) fn signal(group: u32, name: &str) {
    // The shell's own `kill`: small systems lack the program of that name.
    let kill = ["-c", "kill -s \"$0\" -- \"$1\"", name];
    let _ = Command::new("sh")
        .args(kill)
        .arg(format!("-{group}"))
        .stderr(Stdio::null())
        .status();
}

/// Whether a program of this name can be run.
pub(crate) fn exists(program: &str) -> bool {
    env::split_paths(&path()).any(|folder| folder.join(program).is_file())
}

fn read_and_wait(reader: io::PipeReader, mut child: Child) -> Result<(String, bool)> {
    let mut text = String::new();
    for line in BufReader::new(reader).split(b'\n') {
        text.push_str(&String::from_utf8_lossy(&line?));
        text.push('\n');
    }
    Ok((text, child.wait()?.success()))
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
