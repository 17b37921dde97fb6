//! Crash-point enumeration for as many states as asked: `--states N --seed S --threads T`.

#[path = "../tests/cases/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut states, mut seed) = (1_000_000, 1);
    let mut threads = std::thread::available_parallelism().map_or(1, usize::from);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        match (argument.as_str(), value) {
            ("--states", Some(value)) => states = value as usize,
            ("--seed", Some(value)) => seed = value,
            ("--threads", Some(value)) => threads = value as usize,
            _ => {
                eprintln!("usage: crash [--states N] [--seed S] [--threads T]");
                return ExitCode::FAILURE;
            }
        }
    }
    let begun = Instant::now();
    let report = support::explore::explore_together(threads, seed, states);
    let seconds = begun.elapsed().as_secs_f64();
    let found = report.seen.len();
    println!(
        "{found} distinct crash states of {} histories from seed {seed} in {seconds:.1} s \
         ({:.0}/s)",
        report.histories,
        found as f64 / seconds
    );
    match report.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("VIOLATION {violation}");
            ExitCode::FAILURE
        }
    }
}
