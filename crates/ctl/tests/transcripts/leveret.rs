//! The real broker, in a folder and on ports of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const START_TIME_MAX: Duration = Duration::from_secs(30);

/// A running Leveret; it ends when dropped.
pub(crate) struct Broker {
    /// Its management API.
    pub(crate) url: String,
    child: Child,
    folder: PathBuf,
}

impl Broker {
    pub(crate) fn start() -> Self {
        let folder = super::tempfile();
        let (amqp, http) = (free_port(), free_port());
        let child = Command::new(binary())
            .args([
                "--set",
                &format!("data_dir=\"{}\"", folder.join("data").display()),
            ])
            .args(["--set", &format!("amqp.listen=[\"127.0.0.1:{amqp}\"]")])
            .args([
                "--set",
                &format!("management.listen=[\"127.0.0.1:{http}\"]"),
            ])
            .args(["--set", "management.metrics_listen=[]"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("leveret starts");
        let mut broker = Self {
            url: format!("http://127.0.0.1:{http}"),
            child,
            folder,
        };
        let deadline = Instant::now() + START_TIME_MAX;
        for port in [http, amqp] {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                let ended = broker.child.try_wait().expect("its state");
                assert!(ended.is_none(), "leveret ended with {ended:?}");
                assert!(Instant::now() < deadline, "leveret does not listen");
                thread::sleep(Duration::from_millis(20));
            }
        }
        broker
    }
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

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
