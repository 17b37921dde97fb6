//! Counts the syncs of a process with strace.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use crate::connection::text;

/// An strace at work; ended when dropped.
pub struct Syncs {
    strace: Child,
    output: PathBuf,
}

impl Syncs {
    /// Attaches to all threads of `pid`.
    pub fn attach(pid: u32) -> Result<Self, String> {
        let name = format!("leveret-bench-{}-strace", std::process::id());
        let output = std::env::temp_dir().join(name);
        File::create(&output).map_err(text)?;
        let mut command = Command::new("strace");
        command.args(["-f", "-ttt", "-e", "trace=fsync,fdatasync,syncfs", "-o"]);
        command.arg(&output).args(["-p", &pid.to_string()]);
        let spawned = command.stderr(Stdio::piped()).spawn();
        let missing = |e| format!("strace: {e}; run: apt-get install -y strace");
        let mut strace = spawned.map_err(missing)?;
        let mut said = String::new();
        if let Some(stderr) = strace.stderr.take() {
            let mut lines = BufReader::new(stderr);
            while !said.contains("attached") {
                if lines.read_line(&mut said).map_err(text)? == 0 {
                    return Err(format!("strace could not attach: {said}"));
                }
            }
        }
        Ok(Self { strace, output })
    }

    /// Detaches; how many syncs began between two times.
    pub fn between(mut self, from: SystemTime, to: SystemTime) -> Result<u64, String> {
        self.detach();
        let seen = fs::read_to_string(&self.output).map_err(text)?;
        Ok(count(&seen, seconds(from), seconds(to)))
    }

    fn detach(&mut self) {
        if let Some(pid) = Pid::from_raw(self.strace.id() as i32) {
            // Killed instead, it would leave threads stopped; the wait tells if it has ended.
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.strace.wait();
    }
}

impl Drop for Syncs {
    fn drop(&mut self) {
        self.detach();
        let _ = fs::remove_file(&self.output);
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// Counts calls, not the lines on which interrupted ones are resumed.
fn count(seen: &str, from: f64, to: f64) -> u64 {
    let begins = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        let time: Option<f64> = words.next().and_then(|word| word.parse().ok());
        let is_call = words.next().is_some_and(|word| word.contains('('));
        is_call && time.is_some_and(|time| (from..=to).contains(&time))
    };
    seen.lines().filter(begins).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_once_and_in_its_time() {
        let seen = "7 100.5 fdatasync(4) = 0\n\
                    8 101.0 fdatasync(4 <unfinished ...>\n\
                    9 101.1 fsync(5) = 0\n\
                    8 101.2 <... fdatasync resumed>) = 0\n\
                    9 103.0 fsync(5) = 0\n9 103.1 +++ exited with 0 +++\n";
        assert_eq!(count(seen, 100.9, 102.0), 2);
        assert_eq!(count(seen, 0.0, 200.0), 4);
    }
}
