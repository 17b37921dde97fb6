//! The real broker, in a folder and on ports of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const START_TIME_MAX: Duration = Duration::from_secs(60);

/// A running Leveret; it ends when dropped.
pub(crate) struct Broker {
    /// Its management API.
    pub(crate) url: String,
    child: Child,
    folder: PathBuf,
}

impl Broker {
    /// It chooses its ports: one that was free a moment ago may be somebody's own by now.
    pub(crate) fn start() -> Self {
        let folder = super::tempfile();
        let mut child = Command::new(binary())
            .args(["--set", "amqp.listen=[\"127.0.0.1:0\"]"])
            .args(["--set", "management.listen=[\"127.0.0.1:0\"]"])
            .args(["--set", "management.metrics_listen=[]"])
            .args(["--log-format", "json", "--data-dir"])
            .arg(folder.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("leveret starts");
        let log = BufReader::new(child.stderr.take().expect("its log is a pipe"));
        let (found, address) = mpsc::channel();
        // Reads to the end, so that the broker never waits for room in the pipe.
        thread::spawn(move || {
            let mut http = None;
            for line in log.lines().map_while(Result::ok) {
                http = http.or_else(|| address_in(&line, "http"));
                // The last one to listen is AMQP.
                if address_in(&line, "addresses").is_some() {
                    let _ = found.send(http.clone());
                }
            }
        });
        let mut broker = Self {
            url: String::new(),
            child,
            folder,
        };
        let address = address.recv_timeout(START_TIME_MAX).ok().flatten();
        broker.url = format!("http://{}", address.expect("leveret listens"));
        broker
    }
}

/// The address in a line of the log that tells of a listener, in a field of this name.
fn address_in(line: &str, field: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("\"{field}\":[\""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

impl Broker {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end; whether it ended with 0.
    pub(crate) fn ended_well(&mut self) -> bool {
        self.child.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The broker beside our own binary; a test of the whole workspace builds it, a test of this
/// package alone does not.
fn binary() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_leveretctl")).with_file_name("leveret");
    if !path.exists() {
        let mut build = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        let built = build.args(["build", "--quiet", "--locked", "--package", "leveret"]);
        let built = built.status().expect("cargo runs");
        assert!(built.success(), "leveret does not build");
    }
    path
}
