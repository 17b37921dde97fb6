//! The guard against slow drift: instructions per message, counted by valgrind, against a
//! committed baseline.
//!
//! A count does not depend on the machine's load, so it can fail a build where time cannot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::project::Project;
use crate::report::Suite;
use crate::{install, shell};

/// The program that pushes as many messages as its argument says through codec, session and
/// broker in memory.
const PROGRAM: &str = "callgrind";
const PACKAGE: &str = "leveret-broker";

/// Two runs, so that starting and warming up cancel out of the difference.
const MESSAGES: [u64; 2] = [20_000, 120_000];

/// More than this above the baseline fails.
const GROWTH_MAX_PERCENT: f64 = 3.0;

const BASELINE: &str = "crates/xtask/callgrind-baseline.toml";

/// Instructions per message, and the compiler that made the program.
#[derive(Debug, PartialEq)]
struct Measure {
    instructions_per_message: f64,
    compiler: String,
}

/// What a measure is worth against the baseline.
#[derive(Debug, PartialEq)]
enum Verdict {
    Holds,
    Grew,
    /// The baseline was made with another compiler, whose code has another length.
    Incomparable,
}

/// Measures, and writes the baseline.
///
/// # Errors
/// The program cannot be built or measured, or the file cannot be written.
pub(crate) fn bless(project: &Project) -> Result<()> {
    let measure = measure(project)?;
    fs::write(project.root.join(BASELINE), measure.to_toml())?;
    println!("{}", measure.describe());
    Ok(())
}

/// Measures, and compares with the baseline.
///
/// # Errors
/// The program cannot be built or measured.
pub(crate) fn suite(project: &Project) -> Result<Suite> {
    let start = Instant::now();
    let path = project.root.join(BASELINE);
    if !path.exists() && !source(project).exists() {
        return Ok(Suite::skipped(
            "callgrind",
            "crates/broker/examples/callgrind.rs is not there",
        ));
    }
    let text = fs::read_to_string(&path).with_context(|| format!("reading {BASELINE}"))?;
    let baseline = Measure::parse(&text)?;
    if baseline.compiler != compiler()? {
        let reason = format!("the baseline was made with {}", baseline.compiler);
        return Ok(Suite::skipped("callgrind", &reason));
    }
    let measure = measure(project)?;
    let log = format!("{}; baseline: {}", measure.describe(), baseline.describe());
    println!("{log}");
    let holds = baseline.judge(&measure) == Verdict::Holds;
    Ok(Suite::single("callgrind", holds, log, start))
}

fn source(project: &Project) -> PathBuf {
    project
        .root
        .join("crates/broker/examples")
        .join(PROGRAM)
        .with_extension("rs")
}

fn measure(project: &Project) -> Result<Measure> {
    install::program("valgrind", &["valgrind"])?;
    let arguments = [
        "build",
        "--release",
        "--locked",
        "--package",
        PACKAGE,
        "--example",
        PROGRAM,
    ];
    shell::require(shell::cargo(&project.root, &arguments))?;
    let program = project.target.join("release/examples").join(PROGRAM);
    let few = instructions(&program, MESSAGES[0])?;
    let many = instructions(&program, MESSAGES[1])?;
    let instructions_per_message = per_message(few, many)?;
    Ok(Measure {
        instructions_per_message,
        compiler: compiler()?,
    })
}

/// Instructions that `program` executes for so many messages.
fn instructions(program: &Path, messages: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(program).arg(messages.to_string());
    let text = shell::require(command)?;
    collected(&text).with_context(|| format!("no count in valgrind's output:\n{text}"))
}

/// The count in `==123== Collected : 456`.
fn collected(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find(|line| line.starts_with("==") && line.contains("Collected :"))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn per_message(few: u64, many: u64) -> Result<f64> {
    let [first, second] = MESSAGES;
    if many <= few {
        bail!("{second} messages took no more instructions than {first}: {few}, {many}");
    }
    Ok((many - few) as f64 / (second - first) as f64)
}

fn compiler() -> Result<String> {
    let mut command = Command::new("rustc");
    command.arg("--version");
    Ok(shell::require(command)?.trim().to_owned())
}

impl Measure {
    fn judge(&self, measure: &Self) -> Verdict {
        let most = self.instructions_per_message * (1.0 + GROWTH_MAX_PERCENT / 100.0);
        if self.compiler != measure.compiler {
            Verdict::Incomparable
        } else if measure.instructions_per_message > most {
            Verdict::Grew
        } else {
            Verdict::Holds
        }
    }

    fn describe(&self) -> String {
        format!(
            "{:.1} instructions per message",
            self.instructions_per_message
        )
    }

    fn to_toml(&self) -> String {
        let Self {
            instructions_per_message,
            compiler,
        } = self;
        format!(
            "# Written by `cargo xtask callgrind --bless`; more than {GROWTH_MAX_PERCENT} % above \
             it fails the tests.\n\
             instructions_per_message = {instructions_per_message:.1}\ncompiler = \"{compiler}\"\n"
        )
    }

    fn parse(text: &str) -> Result<Self> {
        let table: toml::Table = text.parse()?;
        let count = table
            .get("instructions_per_message")
            .and_then(toml::Value::as_float);
        let compiler = table.get("compiler").and_then(toml::Value::as_str);
        Ok(Self {
            instructions_per_message: count.context("no instructions_per_message")?,
            compiler: compiler.context("no compiler")?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure_of(instructions_per_message: f64) -> Measure {
        Measure {
            instructions_per_message,
            compiler: "rustc 1.95.0".to_owned(),
        }
    }

    #[test]
    fn the_count_is_read_from_valgrind() {
        let text = "==7== Events    : Ir\n==7== Collected : 1234567\n==7==\n";
        assert_eq!(collected(text), Some(1_234_567));
        assert_eq!(collected("Collected : 5"), None);
    }

    #[test]
    fn start_and_warm_up_cancel_out() {
        let start = 5_000_000;
        let many = start + 100_000 * 700;
        assert_eq!(per_message(start, many).unwrap(), 700.0);
        assert!(per_message(many, start).is_err());
    }

    #[test]
    fn three_percent_more_fails() {
        let baseline = measure_of(1000.0);
        assert_eq!(baseline.judge(&measure_of(1029.0)), Verdict::Holds);
        assert_eq!(baseline.judge(&measure_of(500.0)), Verdict::Holds);
        assert_eq!(baseline.judge(&measure_of(1031.0)), Verdict::Grew);
        let other = Measure {
            compiler: "rustc 1.96.0".to_owned(),
            ..measure_of(1000.0)
        };
        assert_eq!(baseline.judge(&other), Verdict::Incomparable);
    }

    #[test]
    fn the_baseline_is_read_as_written() {
        let written = measure_of(1234.5);
        assert_eq!(Measure::parse(&written.to_toml()).unwrap(), written);
    }
}
