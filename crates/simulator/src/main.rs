//! Runs seeds of the simulation, one after another.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use leveret_simulator::{Summary, simulate};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(10);

/// Simulates the whole broker, one world for each seed
#[derive(Parser)]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let Arguments { seeds, seed } = Arguments::parse();
    let start = Instant::now();
    let mut told = start;
    let mut all = Summary::default();
    for (done, seed) in (1..=seeds).zip(seed..) {
        match simulate(seed) {
            Ok(summary) => {
                all.steps += summary.steps;
                all.commands += summary.commands;
                all.sights += summary.sights;
            }
            Err(violation) => {
                if seeds == 1 {
                    println!("{violation:#}");
                } else {
                    println!("{violation}");
                }
                return ExitCode::FAILURE;
            }
        }
        if told.elapsed() > PROGRESS || done == seeds {
            told = Instant::now();
            let Summary {
                steps,
                commands,
                sights,
            } = all;
            println!(
                "{done} seeds without a violation: {steps} steps, {commands} commands, {sights} \
                 frames checked, {:.1} s",
                start.elapsed().as_secs_f64()
            );
        }
    }
    ExitCode::SUCCESS
}
