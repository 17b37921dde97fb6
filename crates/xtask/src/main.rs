//! `cargo xtask`: the project's own checks, tests and benchmarks.

mod bench;
mod callgrind;
mod clients;
mod compiler;
mod crash;
mod dist;
mod doc_tests;
mod expected;
mod fuzz;
mod install;
mod outcomes;
mod pipeline;
mod ports;
mod project;
mod report;
mod server;
mod shell;
mod simulate;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use clients::{Broker, Extent};
use project::Project;
use report::{Report, Suite};

/// The project's own checks, tests and benchmarks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs every check: format, lints, tidy, tests, docs, fuzz corpora, callgrind, clients
    Test {
        /// What daily work needs, under three minutes
        #[arg(long)]
        quick: bool,
    },
    /// Checks the house rules that no compiler knows
    Tidy,
    /// Counts the hops between modules on the ways that docs/architecture.md walks
    Hops {
        /// Another page that walks ways
        page: Option<PathBuf>,
        /// Sources of another commit
        #[arg(long)]
        root: Option<PathBuf>,
    },
    /// Runs the real-client suites, against a release build of Leveret unless told otherwise
    Clients {
        /// One client; all without it
        client: Option<String>,
        /// A broker that already runs, such as amqp://guest:guest@127.0.0.1:5672/%2f
        #[arg(long, conflicts_with = "rabbitmq")]
        url: Option<String>,
        /// Debian's rabbitmq-server, the oracle
        #[arg(long)]
        rabbitmq: bool,
    },
    /// Counts instructions per message and compares with the committed baseline
    Callgrind {
        /// Write the count as the new baseline
        #[arg(long)]
        bless: bool,
    },
    /// Runs one fuzz target
    Fuzz {
        /// A file of crates/fuzz/targets, without its ending
        target: String,
        /// How long
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Crashes random histories of the store everywhere; with --kill or --disk, the broker
    Crash {
        /// How many distinct crash states
        #[arg(long, default_value_t = 1_000_000)]
        states: u64,
        /// Kill the real broker so many times under real clients instead
        #[arg(long, conflicts_with = "states", value_name = "CYCLES")]
        kill: Option<usize>,
        /// Run so many random histories of full disks against the real broker instead
        #[arg(long, conflicts_with_all = ["states", "kill"], value_name = "HISTORIES")]
        disk: Option<u64>,
        /// What to run instead of a release build of the present sources
        #[arg(long, conflicts_with = "states", value_name = "BINARY")]
        leveret: Option<PathBuf>,
        /// The first history, or of the random times
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Simulates the whole broker against a model of what it owes, one world for each seed
    Simulate {
        /// How many seeds
        #[arg(long, default_value_t = 1)]
        seeds: u64,
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Builds the binary as it is shipped into target/dist, with its debug info in a file beside it
    Dist,
    /// Builds the load generator and runs it with the arguments that follow
    Bench {
        /// For the load generator; `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    if let Some(ended) = compiler::called() {
        return ended;
    }
    match run(&Project::here(), Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(project: &Project, task: Task) -> Result<()> {
    match task {
        Task::Test { quick } => pipeline::run(project, quick),
        Task::Tidy => run_tidy(project),
        Task::Hops { page, root } => run_hops(project, page, root),
        Task::Clients {
            client,
            url,
            rabbitmq,
        } => {
            let broker = match url {
                Some(url) => Broker::Url(url),
                None if rabbitmq => Broker::RabbitMq,
                None => Broker::Leveret(build_leveret(project)?),
            };
            run_clients(project, client.as_deref(), &broker)
        }
        Task::Callgrind { bless: true } => callgrind::bless(project),
        Task::Callgrind { bless: false } => {
            let mut report = Report::default();
            report.add(callgrind::suite(project)?);
            conclude(&report)
        }
        Task::Fuzz { target, seconds } => fuzz::run(project, &target, seconds),
        Task::Crash {
            kill: Some(cycles),
            leveret,
            seed,
            ..
        } => crash_broker(project, leveret, |binary| {
            crash::kill::suite(project, binary, cycles, seed)
        }),
        Task::Crash {
            disk: Some(histories),
            leveret,
            seed,
            ..
        } => crash_broker(project, leveret, |binary| {
            crash::disk::suite(project, binary, histories, seed)
        }),
        Task::Crash { states, seed, .. } => crash::run(project, states, seed),
        Task::Simulate { seeds, seed } => simulate::run(project, seeds, seed),
        Task::Dist => dist::run(project),
        Task::Bench { arguments } => bench::run(project, &arguments),
    }
}

/// Runs a suite that crashes this binary, or a release build of the present sources.
fn crash_broker(
    project: &Project,
    leveret: Option<PathBuf>,
    suite: impl FnOnce(&Path) -> Result<Suite>,
) -> Result<()> {
    let binary = leveret.map_or_else(|| build_leveret(project), Ok)?;
    let mut report = Report::default();
    report.add(suite(&std::path::absolute(binary)?)?);
    conclude(&report)
}

fn run_hops(project: &Project, page: Option<PathBuf>, root: Option<PathBuf>) -> Result<()> {
    let root = root.unwrap_or_else(|| project.root.clone());
    let page = page.unwrap_or_else(|| root.join("docs/architecture.md"));
    let ways = tidy::ways(&root, &page)?;
    for way in &ways {
        println!("{:4}  {}", way.hops, way.name);
    }
    println!("{:4}  all", ways.iter().map(|way| way.hops).sum::<usize>());
    Ok(())
}

fn run_tidy(project: &Project) -> Result<()> {
    let verdicts = tidy::check(&project.root)?;
    let findings: Vec<_> = verdicts
        .iter()
        .flat_map(|verdict| &verdict.findings)
        .collect();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    println!("tidy: {} rules hold", verdicts.len());
    Ok(())
}

fn build_leveret(project: &Project) -> Result<PathBuf> {
    let build = ["build", "--release", "--locked", "--package", "leveret"];
    shell::run(shell::cargo(&project.root, &build))?;
    Ok(project.target.join("release/leveret"))
}

fn run_clients(project: &Project, client: Option<&str>, broker: &Broker) -> Result<()> {
    let mut report = Report::default();
    clients::run(
        project,
        broker,
        &clients::select(client)?,
        Extent::Full,
        &mut report,
    );
    conclude(&report)
}

fn conclude(report: &Report) -> Result<()> {
    println!("\n{report}");
    if !report.succeeded() {
        bail!("not all tests passed");
    }
    Ok(())
}
