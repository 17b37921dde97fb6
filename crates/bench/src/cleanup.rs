//! What a started server leaves behind, removed when it stops or when a signal ends this program.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::connection::text;

static LEFTOVERS: Mutex<Vec<Leftover>> = Mutex::new(Vec::new());

/// Exit status of a program ended by an interrupt, as shells tell it.
const INTERRUPTED: i32 = 130;

struct Leftover {
    directory: PathBuf,
    pid: Option<u32>,
    epmd: Option<u16>,
}

/// Owns a temporary directory and what was started in it; removes all of it when dropped.
pub struct Cleanup {
    /// Removed with all that is in it.
    pub directory: PathBuf,
}

impl Cleanup {
    /// Creates a directory of this run with a name from `number`.
    pub fn new(number: u32) -> Result<Self, String> {
        let name = format!("leveret-bench-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        lock().push(Leftover {
            directory: directory.clone(),
            pid: None,
            epmd: None,
        });
        Ok(Self { directory })
    }

    /// Remembers the server, and the port of its Erlang port mapper.
    pub fn started(&self, pid: u32, epmd: Option<u16>) {
        let mut all = lock();
        let own = all.iter_mut().find(|one| one.directory == self.directory);
        if let Some(leftover) = own {
            (leftover.pid, leftover.epmd) = (Some(pid), epmd);
        }
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let mut all = lock();
        let at = all.iter().position(|one| one.directory == self.directory);
        if let Some(leftover) = at.map(|at| all.swap_remove(at)) {
            drop(all);
            leftover.remove();
        }
    }
}

impl Leftover {
    /// After the server has ended. Nothing here can fail in a way that matters later.
    fn remove(&self) {
        if let Some(port) = self.epmd {
            let mut kill = Command::new("epmd");
            kill.args(["-port", &port.to_string(), "-kill"]);
            let _ = kill.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Ends this program on SIGTERM and SIGINT without leaving servers or files behind.
pub fn on_signals() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(text)?;
    let signals = runtime.block_on(async {
        Ok::<_, std::io::Error>((
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        ))
    });
    let (mut terminate, mut interrupt) = signals.map_err(text)?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        });
        end_all();
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

fn end_all() {
    let all = lock();
    for leftover in all.iter() {
        let pid = leftover.pid.and_then(|pid| Pid::from_raw(pid as i32));
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::KILL);
            // The port mapper refuses to end before it has seen its node go.
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        leftover.remove();
    }
}

fn lock() -> MutexGuard<'static, Vec<Leftover>> {
    LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner)
}
