//! Crashes: of the store at every write, in memory, and of the real broker under real clients.

pub(crate) mod disk;
mod evidence;
pub(crate) mod kill;
mod moved;
mod pulse;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::project::Project;
use crate::shell;

/// A start with an empty folder has this time until the broker listens: it waits for no more than a
/// turn on a busy machine.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// What it has to read adds a second for each of so many bytes.
const BYTES_OF_A_SECOND: u64 = 10 << 20;
const POLL: Duration = Duration::from_millis(2);
/// Lines of a broker's log that are shown.
const SHOWN: usize = 20;

/// Builds the store's explorer with optimisation and lets it run.
///
/// # Errors
/// It cannot be built, or it found a crash that loses something.
pub(crate) fn run(project: &Project, states: u64, seed: u64) -> Result<()> {
    let (states, seed) = (states.to_string(), seed.to_string());
    let arguments = [
        &[
            "run",
            "--release",
            "-q",
            "-p",
            "leveret-store",
            "--example",
            "crash",
            "--",
        ][..],
        &["--states", &states, "--seed", &seed],
    ]
    .concat();
    shell::run(shell::cargo(&project.root, &arguments))
}

/// Waits until a broker listens that was just started, with its data in a folder, and its log in a
/// file; gives how long that took.
///
/// # Errors
/// It ends, or does not listen in the time that its data allow; the text has the end of its log.
fn wait_for_listener(
    broker: &mut Child,
    address: SocketAddr,
    (data, log): (&Path, &Path),
) -> Result<Duration> {
    let start = Instant::now();
    let bytes = bytes_in(data);
    let time_max = START_TIME_MAX + Duration::from_secs(bytes / BYTES_OF_A_SECOND);
    while TcpStream::connect(address).is_err() {
        let ended = broker.try_wait()?;
        if ended.is_none() && start.elapsed() < time_max {
            thread::sleep(POLL);
            continue;
        }
        let how = match ended {
            Some(status) => format!("the broker does not start: {status}"),
            None => format!("the broker does not listen after {} s", time_max.as_secs()),
        };
        let tail = tail(log);
        bail!(
            "{how}, with {} MiB of data; the end of its log:\n{tail}",
            bytes >> 20
        );
    }
    Ok(start.elapsed())
}

/// What the files of a folder take on the disk; segments are made before they are filled.
fn bytes_in(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| entry.metadata().ok());
    files.map(|file| file.blocks() * 512).sum()
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}
