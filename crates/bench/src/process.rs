//! CPU time and memory of a process, and starting and stopping one.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::time::ClockId;
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::connection::text;

/// How often a starting server's port is tried: fine enough to measure a start of 10 ms.
const PORT_POLL: Duration = Duration::from_micros(200);
/// A server that is asked to stop gets this long before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Run time of all threads of `pid` so far, ended threads included, in nanoseconds.
///
/// This is the sum the scheduler keeps per process, the same figures as
/// `/proc/PID/task/*/schedstat` without losing threads that end between two looks.
pub fn cpu_ns(pid: u32) -> Result<u64, String> {
    let gone = |e: nix::Error| format!("CPU time of process {pid}: {e}");
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid as i32)).map_err(gone)?;
    let time = clock.now().map_err(gone)?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Run time of this process, in nanoseconds.
pub fn own_cpu_ns() -> Result<u64, String> {
    cpu_ns(std::process::id())
}

/// What something has cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Time.
    pub seconds: f64,
    /// CPU of the measured process.
    pub cpu_ns: u64,
    /// CPU of this process.
    pub own_cpu_ns: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.cpu_ns += other.cpu_ns;
        self.own_cpu_ns += other.own_cpu_ns;
    }
}

/// Measures [`Cost`] from its start.
pub struct Meter {
    pid: u32,
    start: Instant,
    cpu_ns: u64,
    own_cpu_ns: u64,
}

impl Meter {
    /// Starts to measure process `pid` and this one.
    pub fn start(pid: u32) -> Result<Self, String> {
        let (cpu_ns, own_cpu_ns) = (cpu_ns(pid)?, own_cpu_ns()?);
        let start = Instant::now();
        Ok(Self {
            pid,
            start,
            cpu_ns,
            own_cpu_ns,
        })
    }

    /// The cost since the start.
    pub fn cost(&self) -> Result<Cost, String> {
        Ok(Cost {
            cpu_ns: cpu_ns(self.pid)? - self.cpu_ns,
            own_cpu_ns: own_cpu_ns()? - self.own_cpu_ns,
            seconds: self.start.elapsed().as_secs_f64(),
        })
    }
}

/// Resident memory of `pid` now, in bytes, exact.
pub fn resident(pid: u32) -> Result<u64, String> {
    field(&format!("/proc/{pid}/smaps_rollup"), "Rss:")
}

/// Highest resident memory of `pid` since [`reset_peak`], in bytes.
pub fn peak_resident(pid: u32) -> Result<u64, String> {
    field(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// Starts a new peak. A process of another user keeps its old one.
pub fn reset_peak(pid: u32) {
    // The peak then reads too high, never too low.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

fn field(path: &str, name: &str) -> Result<u64, String> {
    let all = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    let value = all.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = value.and_then(|v| v.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes
        .map(|kb| kb * 1024)
        .ok_or_else(|| format!("{path} has no {name}"))
}

/// Raises the limit of open files to the hard limit, for this process and those it starts.
pub fn raise_open_files() {
    let hard = getrlimit(Resource::Nofile).maximum;
    // Scenarios that need more than is allowed say so when they run out.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: hard,
            maximum: hard,
        },
    );
}

/// A loopback address with a port nobody listens on now.
pub fn free_address() -> Result<SocketAddr, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .map_err(text)
}

/// A server this run started; stopped when dropped.
pub struct Server(Child);

impl Server {
    /// Starts `command`.
    pub fn start(command: &mut Command) -> Result<Self, String> {
        let name = format!("{command:?}");
        command
            .spawn()
            .map(Self)
            .map_err(|e| format!("start {name}: {e}"))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until `address` accepts connections.
    pub fn wait_for(&mut self, address: SocketAddr, patience: Duration) -> Result<(), String> {
        let start = Instant::now();
        while start.elapsed() < patience {
            if TcpStream::connect(address).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.0.try_wait().map_err(text)? {
                return Err(format!(
                    "the server ended before it listened on {address}: {status}"
                ));
            }
            std::thread::sleep(PORT_POLL);
        }
        Err(format!(
            "nothing listens on {address} after {} s",
            patience.as_secs()
        ))
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        // One that has ended by itself is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Asks it to stop, and kills it when it does not.
    pub fn stop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id() as i32)
            && matches!(self.0.try_wait(), Ok(None))
        {
            // It may end by itself at this moment; the wait below tells.
            let _ = kill_process(pid, Signal::TERM);
        }
        let asked = Instant::now();
        while asked.elapsed() < STOP_PATIENCE {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_counts_threads_that_have_ended() {
        let before = own_cpu_ns().unwrap();
        // For as long as it takes to get so much of the processor.
        let burn = move || while own_cpu_ns().unwrap() - before < 30_000_000 {};
        std::thread::spawn(burn).join().unwrap();
        assert!(own_cpu_ns().unwrap() - before >= 30_000_000);
    }

    #[test]
    fn memory_of_this_process_is_readable() {
        let pid = std::process::id();
        assert!(resident(pid).unwrap() > 100_000);
        assert!(peak_resident(pid).unwrap() >= 100_000);
        assert!(cpu_ns(4_194_303).is_err(), "the highest process id");
    }
}
