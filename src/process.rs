//! The process as the operating system sees it: descriptors, memory, disk, signals.

mod cores;
mod memory;

pub use cores::CoreWatch;
pub use memory::{MemoryLimit, memory_limit, resident_bytes};

use std::io;
use std::path::Path;

use rustix::process::{Resource, Rlimit};
use tokio::signal::unix::{self, SignalKind};

use crate::descriptors;

/// How many files and sockets the process may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// The limit the process was started with.
    pub started_with: u64,
    /// The limit in force.
    pub in_force: u64,
}

/// Raises the limit of open descriptors as far as the process may, but for a few spare ones
/// (`descriptors`).
///
/// # Errors
///
/// The operating system refuses; the limit the process started with stays in force.
pub fn raise_descriptor_limit() -> io::Result<DescriptorLimit> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let started_with = limit.current.unwrap_or(u64::MAX);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let in_force = most - descriptors::spare(most);
    if started_with != in_force {
        let raised = Rlimit {
            current: limit.maximum.map(|_| in_force),
            maximum: limit.maximum,
        };
        rustix::process::setrlimit(Resource::Nofile, raised)?;
    }
    Ok(DescriptorLimit {
        started_with,
        in_force,
    })
}

/// Returns how many descriptors the process has open, or nothing where the system does not tell.
#[must_use]
pub fn open_descriptors() -> Option<u64> {
    // Reading the folder takes one more, which is not counted.
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(count.saturating_sub(1)).ok()
}

/// Returns the bytes an unprivileged process can still write to the disk that holds `path`.
///
/// # Errors
///
/// The path does not exist or cannot be reached.
pub fn disk_free_bytes(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The signals that ask the broker to stop.
#[derive(Debug)]
pub struct StopSignals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl StopSignals {
    /// Takes the signals over from their default action, which ends the process at once.
    ///
    /// # Errors
    ///
    /// The operating system refuses to hand a signal over.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal and returns its name; a second call waits for a second signal.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The signals that never end the process; one that was sent before is not lost.
#[derive(Debug)]
pub struct OtherSignals {
    hangup: unix::Signal,
    quit: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalRequest {
    /// Read the configuration again.
    Reload,
    /// Say what the broker is at.
    State,
    /// Nothing: the signal of this name means nothing here.
    Nothing(&'static str),
}

impl OtherSignals {
    /// Takes the signals over from their default action, which ends the process at once. SIGPIPE is
    /// ignored already, as in every Rust program.
    ///
    /// # Errors
    ///
    /// The operating system refuses to hand a signal over.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: unix::signal(SignalKind::hangup())?,
            quit: unix::signal(SignalKind::quit())?,
            user1: unix::signal(SignalKind::user_defined1())?,
            user2: unix::signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> SignalRequest {
        tokio::select! {
            _ = self.hangup.recv() => SignalRequest::Reload,
            _ = self.quit.recv() => SignalRequest::State,
            _ = self.user1.recv() => SignalRequest::Nothing("SIGUSR1"),
            _ = self.user2.recv() => SignalRequest::Nothing("SIGUSR2"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_limit_is_raised_once_and_for_all() {
        let first = raise_descriptor_limit().unwrap();
        let second = raise_descriptor_limit().unwrap();
        assert_eq!(
            second,
            DescriptorLimit {
                started_with: first.in_force,
                ..first
            }
        );
    }

    #[test]
    fn free_disk_space_is_read() {
        assert!(disk_free_bytes(Path::new("/")).is_ok());
        assert!(disk_free_bytes(Path::new("/nowhere/at/all")).is_err());
    }
}
