//! `cargo xtask test`: every check in order, each a suite of the report.

use std::borrow::Borrow;
use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::clients::{Broker, Client, Extent};
use crate::project::Project;
use crate::report::{Ending, Outcome, Report, Suite};
use crate::shell::Niceness;
use crate::{callgrind, clients, crash, dist, doc_tests, fuzz, install, outcomes, shell, tidy};

/// Long enough for each fuzz target to find what is easily found.
const FUZZ_SECONDS: u64 = 12;

/// Each takes a second, and crashes that need luck are looked for with `cargo xtask crash --kill`.
const KILLS: usize = 20;

/// Each takes one or two, side by side; more of them with `cargo xtask crash --disk`.
const FULL_DISKS: u64 = 12;

/// What a run from nothing writes below `target/`, and what its brokers want to keep free.
const DISK_MIB_MIN: u64 = 7 * 1024;

/// Runs everything, or with `quick` what daily work needs, and prints the report.
///
/// # Errors
/// A test failed.
pub(crate) fn run(project: &Project, quick: bool) -> Result<()> {
    let mut report = Report::default();
    cargo_check(project, &mut report, "fmt", &["fmt", "--all", "--check"]);
    if quick {
        let programs = beside(
            &mut report,
            |report| checks(project, &QUICK, report),
            |report| step(report, "programs", || programs_suite(project, quick)),
        );
        run_tests(&programs, &mut report);
        smoke(project, &mut report);
    } else {
        step(&mut report, "disk space", || disk_space(project));
        let ((built, release), (compiled, tests)) = (mpsc::channel(), mpsc::channel());
        let (served, clients) = mpsc::channel();
        beside(
            &mut report,
            |report| shipped(project, built, served, tests, report),
            |report| tested(project, compiled, release, clients, report),
        );
    }
    println!("\n{report}");
    if !report.succeeded() {
        bail!("not all tests passed");
    }
    Ok(())
}

/// Test programs that are compiled at once.
struct Selection {
    /// The suite of what clippy says meanwhile.
    suite: &'static str,
    /// Which of the workspace's targets, in cargo's words.
    targets: &'static [&'static str],
    /// How much it gives way to everything else.
    niceness: Niceness,
}

const QUICK: Selection = Selection {
    suite: "clippy",
    targets: &["--lib", "--bins"],
    niceness: Niceness::Aside,
};

/// What takes longest to run, with what it needs: the broker and all below it.
const FIRST: Selection = Selection {
    suite: "clippy for the longest tests",
    targets: &["--test", "hostile", "--test", "sizes"],
    niceness: Niceness::Aside,
};

/// Everything, while the first tests run.
const ALL: Selection = Selection {
    suite: "clippy",
    targets: &["--lib", "--bins", "--tests", "--examples"],
    niceness: Niceness::Behind,
};

/// What a compiler or a reader of the sources says; gives the test programs.
fn checks(project: &Project, selection: &Selection, report: &mut Report) -> Vec<TestProgram> {
    let programs = compiled(project, selection, report);
    step(report, "tidy", || tidy_suite(project));
    programs
}

fn compiled(project: &Project, selection: &Selection, report: &mut Report) -> Vec<TestProgram> {
    let mut programs = Vec::new();
    step(report, selection.suite, || {
        compile(project, selection, &mut programs)
    });
    programs
}

/// Has clippy compile the tests of every package; those of the clients have a broker of their own
/// later.
fn compile(
    project: &Project,
    selection: &Selection,
    programs: &mut Vec<TestProgram>,
) -> Result<Suite> {
    let start = Instant::now();
    let mut command = shell::cargo_test(&project.root, selection.targets)?;
    command.args(["--no-run", "--message-format=json"]);
    let command = shell::giving_way(&command, selection.niceness);
    let output = shell::capture(command)?;
    let (mut log, mut warned) = (String::new(), false);
    for line in output.text.lines() {
        if !line.starts_with('{') {
            log += &format!("{line}\n");
            continue;
        }
        let message: Value = serde_json::from_str(line).context("reading cargo's messages")?;
        programs.extend(test_program(&message));
        if let Some(said) = message["message"]["rendered"].as_str() {
            warned = true;
            log += said;
        }
    }
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    let ending = |holds| {
        if holds {
            Ending::Passed
        } else {
            Ending::Failed
        }
    };
    let outcomes = vec![
        Outcome::new("everything compiles", ending(output.success)),
        Outcome::new("there is nothing to warn of", ending(!warned)),
    ];
    Ok(Suite::new(selection.suite, outcomes, log, start))
}

/// Runs one step; an error of the step itself is a failure of its suite.
fn step(report: &mut Report, name: &str, body: impl FnOnce() -> Result<Suite>) {
    println!("== {name}");
    let start = Instant::now();
    let failure = |error| Suite::single(name, false, format!("{error:#}"), start);
    report.add(body().unwrap_or_else(failure));
}

fn cargo_check(project: &Project, report: &mut Report, name: &str, arguments: &[&str]) -> bool {
    command_check(report, name, shell::cargo(&project.root, arguments))
}

fn command_check(report: &mut Report, name: &str, command: Command) -> bool {
    let mut success = false;
    step(report, name, || {
        let start = Instant::now();
        let output = shell::capture(command)?;
        success = output.success;
        Ok(Suite::single(name, success, output.text, start))
    });
    success
}

/// What tests need of the system, installed where it is missing.
fn programs_suite(project: &Project, quick: bool) -> Result<Suite> {
    let start = Instant::now();
    if quick {
        install::program("python3")?;
    } else {
        install::programs(project)?;
    }
    Ok(Suite::single("programs", true, String::new(), start))
}

/// Programs, clients and brokers without a byte left fail in ways that tell nothing of it.
fn disk_space(project: &Project) -> Result<Suite> {
    let start = Instant::now();
    fs::create_dir_all(&project.target)?;
    let mut df = Command::new("df");
    df.arg("--output=avail").arg("-B1M").arg(&project.target);
    let text = shell::require(df)?;
    let free: u64 = text.lines().last().unwrap_or_default().trim().parse()?;
    if free < DISK_MIB_MIN {
        bail!("{free} MiB are free, {DISK_MIB_MIN} are needed");
    }
    Ok(Suite::single("disk space", true, String::new(), start))
}

fn tidy_suite(project: &Project) -> Result<Suite> {
    let start = Instant::now();
    let mut outcomes = Vec::new();
    let mut log = String::new();
    for verdict in tidy::check(&project.root)? {
        let held = verdict.findings.is_empty();
        let ending = if held { Ending::Passed } else { Ending::Failed };
        outcomes.push(Outcome::new(verdict.rule, ending));
        verdict
            .findings
            .iter()
            .for_each(|finding| log += &format!("{finding}\n"));
    }
    Ok(Suite::new("tidy", outcomes, log, start))
}

/// A suite for each test program.
fn run_tests<P: Borrow<TestProgram>>(programs: impl IntoIterator<Item = P>, report: &mut Report) {
    run_tests_of(None, programs, report);
}

/// The same of the broker in `binary`, or of the one that was compiled for each program.
fn run_tests_of<P: Borrow<TestProgram>>(
    binary: Option<&Path>,
    programs: impl IntoIterator<Item = P>,
    report: &mut Report,
) {
    for program in programs {
        let program = program.borrow();
        step(report, &program.name, || {
            let start = Instant::now();
            let mut command = Command::new(&program.executable);
            command.current_dir(&program.package);
            command.envs(binary.map(|binary| ("LEVERET_BINARY", binary)));
            let output = shell::capture_tests(command)?;
            let mut outcomes = outcomes::libtest(&output.text);
            let failed = outcomes
                .iter()
                .any(|outcome| outcome.ending == Ending::Failed);
            if !output.success && !failed {
                outcomes.push(Outcome::new("the test program ends well", Ending::Failed));
            }
            Ok(Suite::new(&program.name, outcomes, output.text, start))
        });
    }
}

/// A compiled test program.
struct TestProgram {
    /// The package, and the target if it is not the package's own.
    name: String,
    /// The folder in which it runs.
    package: PathBuf,
    executable: PathBuf,
}

/// The test program that a message of cargo announces, if it announces one.
fn test_program(message: &Value) -> Option<TestProgram> {
    let executable = message["executable"].as_str()?;
    let kind = message["target"]["kind"][0].as_str()?;
    if message["profile"]["test"] != true || kind == "example" {
        return None;
    }
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    let package = manifest.parent()?.to_path_buf();
    let id = message["package_id"].as_str()?;
    let folder = package_name(id)?;
    if clients::packages().any(|client| client == folder) {
        return None;
    }
    let target = message["target"]["name"].as_str()?;
    let name = match kind {
        "lib" => format!("unit {folder}"),
        "bin" => format!("unit {folder} (bin {target})"),
        kind => format!("{kind} {folder}/{target}"),
    };
    Some(TestProgram {
        name,
        package,
        executable: executable.into(),
    })
}

/// The name in `path+file:///…/crates/codec#leveret-codec@0.1.0`, or `…/crates/xtask#0.1.0`, where
/// the folder bears it.
fn package_name(id: &str) -> Option<String> {
    let (path, version) = id.rsplit_once('#')?;
    let name = match version.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next()?,
    };
    Some(name.to_owned())
}

/// What is shipped, and what real clients say of it: they wait more than they compute, while the
/// tests are compiled. Lets go of `built` once the programs and the release are there; some clients
/// need cargo, which builds for one at a time, so that they wait for `tests`, and let go of
/// `served` when they need it no more.
fn shipped(
    project: &Project,
    built: mpsc::Sender<()>,
    served: mpsc::Sender<()>,
    tests: mpsc::Receiver<()>,
    report: &mut Report,
) {
    step(report, "programs", || programs_suite(project, false));
    let (of_cargo, others) = clients::by_cargo();
    let succeeded = beside(
        report,
        |report| {
            let succeeded = release_build(project, report);
            drop(built);
            succeeded
        },
        |report| clients::prepare(project, ("client libraries", &others), report),
    );
    let binary = project.target.join("release/leveret");
    if succeeded {
        step(report, "binary size", || dist::suite(&binary));
        real_clients(project, &others, report);
        crashes(project, &binary, report);
    }
    let _ = tests.recv();
    clients::prepare(project, ("clients in Rust", &of_cargo), report);
    if succeeded {
        real_clients(project, &of_cargo, report);
    }
    drop(served);
}

/// What is said of the sources, and the tests of the project's own. What takes longest to run is
/// compiled first; it goes by the time, so that it waits for what is built for `release`, and
/// attacks that. Lets go of `compiled` when cargo is free, and takes it again after `clients`.
fn tested(
    project: &Project,
    compiled: mpsc::Sender<()>,
    release: mpsc::Receiver<()>,
    clients: mpsc::Receiver<()>,
    report: &mut Report,
) {
    let first = self::compiled(project, &FIRST, report);
    let names: Vec<_> = first.iter().map(|program| program.name.clone()).collect();
    beside(
        report,
        move |report| {
            let _ = release.recv();
            let shipped = project.target.join("release/leveret");
            run_tests_of(Some(&shipped), first, report);
        },
        |report| {
            let mut programs = checks(project, &ALL, report);
            drop(compiled);
            programs.retain(|program| !names.contains(&program.name));
            tests(project, &programs, clients, report);
        },
    );
}

/// What does not depend on each other runs side by side: most of it waits or keeps one core busy.
fn tests(
    project: &Project,
    programs: &[TestProgram],
    clients: mpsc::Receiver<()>,
    report: &mut Report,
) {
    let broker = |program: &&TestProgram| program.package == project.root;
    let (of_the_broker, of_its_parts): (Vec<_>, Vec<_>) = programs.iter().partition(broker);
    beside(
        report,
        |report| run_tests(of_the_broker, report),
        |report| {
            beside(
                report,
                |report| run_tests(of_its_parts, report),
                |report| compilers(project, clients, report),
            );
        },
    );
}

/// What compiles more than it runs, behind everything else. The fuzz targets are built where the
/// tests were, so that they wait for the `clients` that need cargo: whoever gives way to all others
/// would keep it from them for minutes.
fn compilers(project: &Project, clients: mpsc::Receiver<()>, report: &mut Report) {
    beside(
        report,
        |report| {
            step(report, "callgrind", || callgrind::suite(project));
            step(report, "doc tests", || doc_tests::suite(project));
        },
        |report| {
            let _ = clients.recv();
            fuzz::explore(project, FUZZ_SECONDS, report);
        },
    );
}

/// Does both at once; gives what the first one gives. Its suites come first in the report.
fn beside<T: Send>(
    report: &mut Report,
    first: impl FnOnce(&mut Report) -> T + Send,
    second: impl FnOnce(&mut Report),
) -> T {
    let mut seconds = Report::default();
    let gives = thread::scope(|scope| {
        let first = scope.spawn(|| first(report));
        second(&mut seconds);
        first.join()
    });
    report.append(seconds);
    gives.unwrap_or_else(|panic| resume_unwind(panic))
}

fn release_build(project: &Project, report: &mut Report) -> bool {
    let arguments = ["build", "--release", "--locked", "--package", "leveret"];
    cargo_check(project, report, "release build", &arguments)
}

fn real_clients(project: &Project, clients: &[&Client], report: &mut Report) {
    let broker = Broker::Leveret(project.target.join("release/leveret"));
    clients::run(project, &broker, clients, Extent::Full, report);
}

fn crashes(project: &Project, binary: &Path, report: &mut Report) {
    step(report, "crash kill", || {
        crash::kill::suite(project, binary, KILLS, crash::kill::fresh_seed())
    });
    step(report, "crash disk", || {
        crash::disk::suite(project, binary, FULL_DISKS, crash::kill::fresh_seed())
    });
}

/// A few tests of one client against an unoptimised broker.
fn smoke(project: &Project, report: &mut Report) {
    if cargo_check(
        project,
        report,
        "build",
        &["build", "--locked", "--package", "leveret"],
    ) {
        let broker = Broker::Leveret(project.target.join("debug/leveret"));
        let pika = clients::select(Some("pika")).unwrap_or_default();
        clients::run(project, &broker, &pika, Extent::Smoke, report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_as_cargo_names_them() {
        let named = "path+file:///work/crates/codec#leveret-codec@0.1.0";
        assert_eq!(package_name(named).as_deref(), Some("leveret-codec"));
        let plain = "path+file:///work/crates/xtask#0.1.0";
        assert_eq!(package_name(plain).as_deref(), Some("xtask"));
    }
}
