//! The command line of the benchmark; `cargo xtask bench` builds what it needs and runs it.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use leveret_bench::brokers::{Broker, Floor, Recipe};
use leveret_bench::compare::{self, Effort};
use leveret_bench::floor::journal::Journal;
use leveret_bench::floor::{pipe, relay, sync};
use leveret_bench::report::Row;
use leveret_bench::scenario::Scenario;
use leveret_bench::{builds, cleanup, pairs, process, report, scenario};

/// Measures brokers against each other and against the machine's floors.
#[derive(Parser)]
#[command(name = "leveret-bench", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    floor: Option<Hidden>,
    /// Scenarios to run; all when none is named.
    scenarios: Vec<String>,
    /// Runs what users meet: RabbitMQ's PerfTest, and generators that nothing holds back.
    #[arg(long, conflicts_with = "scenarios")]
    users: bool,
    /// Prints the names of all scenarios.
    #[arg(long)]
    list: bool,
    /// Measures this `leveret` binary instead of one built from the present sources.
    #[arg(long, value_name = "BINARY")]
    leveret: Option<PathBuf>,
    /// Leaves Leveret out.
    #[arg(long, conflicts_with = "leveret")]
    without_leveret: bool,
    /// Measures a running broker, as amqp://HOST:PORT,PID; it must accept guest.
    #[arg(long, value_name = "URL,PID")]
    against: Vec<String>,
    /// Measures Debian's rabbitmq-server, installed when missing and root.
    #[arg(long)]
    rabbitmq: bool,
    /// Builds and measures another commit of this project.
    #[arg(long, value_name = "REV")]
    against_commit: Vec<String>,
    /// Messages of the scenarios about very long queues.
    #[arg(long)]
    messages: Option<u64>,
    /// Rounds of each broker in each scenario.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds measured in each round, after a warm-up.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Compares Leveret with the one other broker in so many pairs of fresh processes instead.
    #[arg(long, conflicts_with_all = ["rounds", "goals", "json"])]
    pairs: Option<usize>,
    /// Fails when the whole 95 % interval of a ratio of pairs lies above this.
    #[arg(long, default_value_t = 1.02, requires = "pairs")]
    ratio_max: f64,
    /// Fails when Leveret misses a goal.
    #[arg(long)]
    goals: bool,
    /// Prints JSON lines on standard output, and the table on standard error.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Hidden {
    /// Serves as a floor; this program starts itself so.
    #[command(hide = true)]
    Serve {
        /// The name of one
        floor: String,
        /// Where to listen.
        address: SocketAddr,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.floor {
        Some(Hidden::Serve { floor, address }) => serve(floor, *address).map(|()| true),
        None => run(&arguments),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("leveret-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything; false when a round failed.
fn run(arguments: &Arguments) -> Result<bool, String> {
    if arguments.list {
        scenario::ALL
            .iter()
            .for_each(|scenario| println!("{}", scenario.name));
        return Ok(true);
    }
    let mut scenarios = match arguments.users {
        true => scenario::of_users(),
        false => scenario::select(&arguments.scenarios)?,
    };
    if let Some(messages) = arguments.messages {
        scenarios.iter_mut().for_each(|one| *one = one.of(messages));
    }
    let window = Duration::try_from_secs_f64(arguments.seconds).map_err(|e| e.to_string())?;
    let effort = Effort {
        rounds: arguments.rounds.max(1),
        window,
    };
    process::raise_open_files();
    cleanup::on_signals()?;
    let mut brokers = brokers(arguments)?;
    if let Some(pairs) = arguments.pairs {
        let effort = Effort {
            rounds: pairs,
            window,
        };
        return in_pairs(&scenarios, &mut brokers, effort, arguments.ratio_max);
    }
    let mut floors = Floor::ALL.map(|floor| (floor, Broker::floor(floor)));
    let mut rows = Vec::new();
    for scenario in &scenarios {
        let measured = compare::run(scenario, &mut brokers, &mut floors, effort);
        if arguments.json {
            measured.iter().for_each(|row| println!("{}", row.json()));
        }
        rows.extend(measured);
    }
    let table = report::table(&rows);
    if arguments.json {
        eprintln!("{table}")
    } else {
        println!("{table}")
    }
    let missed = |row: &Row| row.goal.is_some_and(|(_, reached)| !reached);
    Ok(!rows
        .iter()
        .any(|row| row.failure.is_some() || (arguments.goals && missed(row))))
}

/// Compares two brokers; false when one scenario costs the first one surely more than it may.
fn in_pairs(
    scenarios: &[Scenario],
    brokers: &mut [Broker],
    effort: Effort,
    ratio_max: f64,
) -> Result<bool, String> {
    let [own, base] = brokers else {
        return Err("--pairs compares two: name one with --against-commit or --against".into());
    };
    let mut held = true;
    for scenario in scenarios {
        let found = pairs::run(scenario, own, base, effort)?;
        let within = found.low <= ratio_max;
        held &= within;
        let verdict = if within { "" } else { ": TOO MUCH" };
        println!("{}: {found}{verdict}", scenario.name);
    }
    Ok(held)
}

fn brokers(arguments: &Arguments) -> Result<Vec<Broker>, String> {
    let mut brokers = Vec::new();
    if !arguments.without_leveret {
        let named = arguments.leveret.clone();
        let binary = named.map_or_else(builds::present, Ok)?;
        brokers.push(Broker::new("leveret", Recipe::Leveret(absolute(&binary)?)));
    }
    for revision in &arguments.against_commit {
        let (hash, binary) = builds::commit(revision)?;
        brokers.push(Broker::new(
            format!("leveret@{hash}"),
            Recipe::Leveret(binary),
        ));
    }
    if arguments.rabbitmq {
        brokers.push(Broker::new("rabbitmq", Recipe::RabbitMq));
    }
    for text in &arguments.against {
        brokers.push(Broker::new(text.clone(), running(text)?));
    }
    Ok(brokers)
}

/// A server runs in a directory of its own.
fn absolute(binary: &Path) -> Result<PathBuf, String> {
    let wrong = |e| format!("{}: {e}", binary.display());
    std::path::absolute(binary).map_err(wrong)
}

/// Reads `amqp://HOST:PORT,PID`.
fn running(text: &str) -> Result<Recipe, String> {
    let wrong = || format!("--against {text}: expected amqp://HOST:PORT,PID");
    let (url, pid) = text.rsplit_once(',').ok_or_else(wrong)?;
    let authority = url
        .strip_prefix("amqp://")
        .unwrap_or(url)
        .trim_end_matches('/');
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let mut addresses = host
        .to_socket_addrs()
        .map_err(|e| format!("{}: {e}", wrong()))?;
    let address = addresses.next().ok_or_else(wrong)?;
    Ok(Recipe::Running {
        address,
        pid: pid.parse().map_err(|_| wrong())?,
    })
}

fn serve(floor: &str, address: SocketAddr) -> Result<(), String> {
    let found = Floor::ALL.into_iter().find(|one| one.name() == floor);
    let floor = found.ok_or_else(|| format!("no floor {floor}"))?;
    let bind = || TcpListener::bind(address).map_err(|e| e.to_string());
    let (mode, journal) = match floor {
        Floor::Relay => (relay::Mode::Direct, None),
        Floor::Fanout => (relay::Mode::Fanout, None),
        Floor::Journal => {
            let journal = Journal::start(Path::new("journal-floor")).map_err(|e| e.to_string())?;
            (relay::Mode::Direct, Some(journal))
        }
        Floor::Pipe => return pipe::serve(&bind()?).map_err(|e| e.to_string()),
        Floor::Sync => {
            return sync::serve(&bind()?, Path::new("sync-floor")).map_err(|e| e.to_string());
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.map_err(|e| e.to_string())?.block_on(async {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|e| e.to_string())?;
        relay::serve(listener, mode, journal)
            .await
            .map_err(|e| e.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_broker_is_named_by_url_and_process() {
        let address = "127.0.0.1:5672".parse().unwrap();
        let recipe = Recipe::Running { address, pid: 42 };
        assert_eq!(
            running("amqp://guest:guest@127.0.0.1:5672/,42"),
            Ok(recipe.clone())
        );
        assert_eq!(running("127.0.0.1:5672,42"), Ok(recipe));
        assert!(running("amqp://127.0.0.1:5672").is_err());
    }
}
