//! The guard against slow drift: instructions per message, counted by valgrind, against a
//! committed baseline; and allocations per message, of which there are to be none.
//!
//! A count does not depend on the machine's load, so it can fail a build where time cannot.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::project::Project;
use crate::report::Suite;
use crate::shell::Niceness;
use crate::{install, shell};

/// The program that pushes as many messages as its argument says through codec, session and
/// broker in memory, and fails when it allocates for them.
const PROGRAM: &str = "callgrind";
const PACKAGE: &str = "leveret-callgrind";

/// A way of messages that is guarded.
struct Path {
    /// What the program takes as its second argument, if any.
    argument: Option<&'static str>,
    /// Its figure in the baseline.
    figure: &'static str,
    /// Two runs, so that starting and warming up cancel out of the difference.
    messages: [u64; 2],
}

const PATHS: [Path; 2] = [
    Path {
        argument: None,
        figure: "instructions_per_message",
        messages: [20_000, 120_000],
    },
    Path {
        argument: Some("fanout"),
        figure: "instructions_per_fanned_out_copy",
        messages: [500_000, 1_500_000],
    },
];

/// Messages of a run without valgrind, which counts the allocations of the second half.
const MESSAGES_OF_ALLOCATIONS: u64 = 2_000_000;

/// More than this above the baseline fails.
const GROWTH_MAX_PERCENT: f64 = 3.0;

const BASELINE: &str = "crates/xtask/callgrind-baseline.toml";

/// Instructions per message of each path, and the compiler that made the program.
#[derive(Debug, PartialEq)]
struct Measure {
    instructions: [f64; PATHS.len()],
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
        return Ok(Suite::skipped("callgrind", "crates/callgrind is not there"));
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
    project.root.join("crates").join(PROGRAM)
}

fn measure(project: &Project) -> Result<Measure> {
    install::program("valgrind")?;
    let mut build = shell::cargo(&project.root, &["build", "--release", "--locked"]);
    build.args(["--package", PACKAGE, "--bin", PROGRAM]);
    // With the binary's package cargo chooses the features that its dependencies have there, and
    // compiles none of them again.
    build.args(["--package", "leveret"]);
    shell::require(shell::giving_way(&build, Niceness::Behind))?;
    let program = project.target.join("release").join(PROGRAM);
    let mut figures = [0.0; PATHS.len()];
    for (figure, path) in figures.iter_mut().zip(&PATHS) {
        let mut command = Command::new(&program);
        command.arg(MESSAGES_OF_ALLOCATIONS.to_string());
        print!("{}", shell::require(path.of(command))?);
        let [few, many] = path.messages;
        let counts = [
            instructions(&program, path, few)?,
            instructions(&program, path, many)?,
        ];
        *figure = per_message(path, counts)?;
    }
    Ok(Measure {
        instructions: figures,
        compiler: compiler()?,
    })
}

impl Path {
    fn of(&self, mut command: Command) -> Command {
        command.args(self.argument);
        command
    }
}

/// Instructions that `program` executes for so many messages.
fn instructions(program: &std::path::Path, path: &Path, messages: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(program).arg(messages.to_string());
    let command = path.of(command);
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

fn per_message(path: &Path, [few, many]: [u64; 2]) -> Result<f64> {
    let [first, second] = path.messages;
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
        let mut pairs = self.instructions.iter().zip(measure.instructions);
        let most = |figure: f64| figure * (1.0 + GROWTH_MAX_PERCENT / 100.0);
        if self.compiler != measure.compiler {
            Verdict::Incomparable
        } else if pairs.any(|(before, now)| now > most(*before)) {
            Verdict::Grew
        } else {
            Verdict::Holds
        }
    }

    fn describe(&self) -> String {
        let [message, copy] = self.instructions;
        format!("{message:.1} instructions per message, {copy:.1} per copy of a fan-out")
    }

    fn to_toml(&self) -> String {
        let mut text = format!(
            "# Written by `cargo xtask callgrind --bless`; more than {GROWTH_MAX_PERCENT} % above \
             it fails the tests.\n"
        );
        for (path, figure) in PATHS.iter().zip(self.instructions) {
            text += &format!("{} = {figure:.1}\n", path.figure);
        }
        text + &format!("compiler = \"{}\"\n", self.compiler)
    }

    fn parse(text: &str) -> Result<Self> {
        let table: toml::Table = text.parse()?;
        let mut instructions = [0.0; PATHS.len()];
        for (figure, path) in instructions.iter_mut().zip(&PATHS) {
            let found = table.get(path.figure).and_then(toml::Value::as_float);
            *figure = found.with_context(|| format!("no {}", path.figure))?;
        }
        let compiler = table.get("compiler").and_then(toml::Value::as_str);
        Ok(Self {
            instructions,
            compiler: compiler.context("no compiler")?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure_of(instructions: f64) -> Measure {
        Measure {
            instructions: [instructions, 100.0],
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
        assert_eq!(per_message(&PATHS[0], [start, many]).unwrap(), 700.0);
        assert!(per_message(&PATHS[0], [many, start]).is_err());
    }

    #[test]
    fn three_percent_more_fails() {
        let baseline = measure_of(1000.0);
        assert_eq!(baseline.judge(&measure_of(1029.0)), Verdict::Holds);
        assert_eq!(baseline.judge(&measure_of(500.0)), Verdict::Holds);
        assert_eq!(baseline.judge(&measure_of(1031.0)), Verdict::Grew);
        let wider = Measure {
            instructions: [1000.0, 104.0],
            ..measure_of(0.0)
        };
        assert_eq!(baseline.judge(&wider), Verdict::Grew);
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
