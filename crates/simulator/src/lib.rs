//! The whole broker in one thread from one seed, against a model of what it owes its clients.
//!
//! A `World` holds a broker, clients that speak real frames over simulated
//! sockets, a clock and a store. The seed says whose turn it is, how many bytes move, and who is
//! cut off when. What every connection is told is compared with a `Model` that
//! replays the commands in the order the broker took them.

mod answers;
mod checks;
mod client;
mod command;
mod commands;
mod deaths;
mod leases;
mod ledger;
mod link;
mod lives;
mod model;
mod node;
mod settlements;
mod setup;
mod sight;
mod storage;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

/// Lines of the trace that a violation shows.
const TRACE_LINES: usize = 60;

/// How much a seed has covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Turns, flushes, ticks.
    pub steps: u64,
    /// Commands the broker took.
    pub commands: u64,
    /// What clients were told: answers, deliveries, confirms.
    pub sights: u64,
}

/// What a seed has shown to be wrong.
#[derive(Debug)]
pub struct Violation {
    /// With which it can be seen again.
    pub seed: u64,
    /// What is wrong.
    pub reason: String,
    /// What happened before, for a person to read.
    pub trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `{:#}` shows all of it.
        let skipped = match f.alternate() {
            true => 0,
            false => self.trace.len().saturating_sub(TRACE_LINES),
        };
        if skipped > 0 {
            writeln!(f, "… {skipped} lines before …")?;
        }
        for line in self.trace.iter().skip(skipped) {
            writeln!(f, "{line}")?;
        }
        let Self { seed, reason, .. } = self;
        writeln!(f, "seed {seed}: {reason}")?;
        write!(f, "replay it with: cargo xtask simulate --seed {seed}")
    }
}

impl std::error::Error for Violation {}

/// Runs one seed. Two at once in one process would disturb each other's account of memory.
///
/// # Errors
/// What is wrong, with a trace.
pub fn simulate(seed: u64) -> Result<Summary, Box<Violation>> {
    match run(seed, false) {
        (Ok(()), world) => Ok(world.summary),
        (Err(reason), _) => {
            // The same again, written down.
            let (_, world) = run(seed, true);
            let trace = world.into_trace();
            Err(Box::new(Violation {
                seed,
                reason,
                trace,
            }))
        }
    }
}

fn run(seed: u64, traced: bool) -> (Result<(), String>, World) {
    let mut world = World::new(seed, traced);
    let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
    let ran = ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    (ran, world)
}
