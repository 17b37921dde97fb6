//! Starting a broker for a suite: on a free port, in a folder of its own, stopped when dropped.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::{ports, shell};

const START_TIME_MAX: Duration = Duration::from_secs(60);
const STOP_TIME_MAX: Duration = Duration::from_secs(10);

/// Where Debian puts RabbitMQ's own scripts; its wrapper in `/usr/sbin` insists on another user.
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin";

const MAPPER_PORT: &str = "ERL_EPMD_PORT";

/// A running broker that this program started.
pub(crate) struct Server {
    /// Where clients connect.
    pub(crate) url: String,
    /// The port in it.
    pub(crate) port: u16,
    /// The port of its HTTP API; 0 where it is not served.
    pub(crate) api_port: u16,
    /// Shell commands that raise and clear an alarm, where the broker has such.
    pub(crate) alarm: Option<(String, String)>,
    child: Child,
    folder: PathBuf,
    /// Erlang's port mapper leaves the process group and has to be stopped by its port.
    mapper_port: Option<String>,
}

impl Server {
    /// Starts Leveret from `binary` with its data in `folder`, which is emptied first, and with
    /// the name `identity` towards clients.
    ///
    /// # Errors
    /// It does not start, or does not listen in time.
    pub(crate) fn leveret(binary: &Path, folder: &Path, identity: &str) -> Result<Self> {
        let port = ports::free()?;
        let mut command = Command::new(binary);
        command.args(["--set", &format!("amqp.identity=\"{identity}\"")]);
        command.args(["--set", &format!("amqp.listen=[\"127.0.0.1:{port}\"]")]);
        let api_port = ports::free()?;
        let api = format!("management.listen=[\"127.0.0.1:{api_port}\"]");
        command.args(["--set", &api]);
        command.args(["--set", "management.metrics_listen=[]"]);
        command.args([
            "--set",
            &format!("data_dir=\"{}\"", folder.join("data").display()),
        ]);
        let control = |method: &str| {
            let url = format!("http://127.0.0.1:{api_port}/api/x/alarms/memory");
            format!("curl -fsS -u guest:guest -X {method} {url}")
        };
        let alarm = (control("PUT"), control("DELETE"));
        let mut server = Self::start(command, folder, port, Some(alarm))?;
        server.api_port = api_port;
        Ok(server)
    }

    /// Starts Debian's RabbitMQ as a node of its own; the oracle of the client suites.
    ///
    /// # Errors
    /// It is not installed, does not start, or does not listen in time.
    pub(crate) fn rabbitmq(folder: &Path) -> Result<Self> {
        let script = Path::new(RABBITMQ).join("rabbitmq-server");
        if !script.exists() {
            bail!("RabbitMQ is missing; run: sudo apt-get install rabbitmq-server");
        }
        let port = ports::free()?;
        let settings = rabbitmq_settings(folder, port)?;
        let mut command = Command::new(script);
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        let control = |watermark: &str| {
            let words = settings
                .iter()
                .map(|(name, value)| format!("{name}='{value}'"));
            let words = words.collect::<Vec<_>>().join(" ");
            format!("{words} {RABBITMQ}/rabbitmqctl -q set_vm_memory_high_watermark {watermark}")
        };
        let alarm = (control("0.00001"), control("0.4"));
        let mut server = Self::start(command, folder, port, Some(alarm))?;
        let mut named = settings.into_iter();
        server.mapper_port = named.find_map(|(name, port)| (name == MAPPER_PORT).then_some(port));
        Ok(server)
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it wrote to standard output and standard error.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn start(
        mut command: Command,
        folder: &Path,
        port: u16,
        alarm: Option<(String, String)>,
    ) -> Result<Self> {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder)?;
        let log = File::create(folder.join("log"))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let program = command.get_program().to_owned();
        let child = command.process_group(0).spawn();
        let child = child.with_context(|| format!("starting {}", program.display()))?;
        let url = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
        let mut server = Self {
            url,
            port,
            api_port: 0,
            alarm,
            child,
            folder: folder.to_path_buf(),
            mapper_port: None,
        };
        let deadline = Instant::now() + START_TIME_MAX;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if !server.is_running() || Instant::now() > deadline {
                bail!("{} does not listen:\n{}", program.display(), server.log());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        shell::signal(self.child.id(), "TERM");
        let deadline = Instant::now() + STOP_TIME_MAX;
        while self.is_running() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        shell::signal(self.child.id(), "KILL");
        let _ = self.child.wait();
        if let Some(port) = &self.mapper_port {
            let mut stop = Command::new("epmd");
            let _ = stop.arg("-kill").env(MAPPER_PORT, port).output();
        }
        // Each has a segment of a quarter of a gigabyte.
        let _ = fs::remove_dir_all(self.folder.join("data"));
    }
}

/// RabbitMQ's environment: everything in `folder`, nothing shared with a node already there.
fn rabbitmq_settings(folder: &Path, port: u16) -> Result<Vec<(&'static str, String)>> {
    let inside = |name: &str| folder.join(name).display().to_string();
    Ok(vec![
        ("HOME", folder.display().to_string()),
        ("RABBITMQ_NODENAME", format!("leveret-{port}@localhost")),
        ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
        ("RABBITMQ_NODE_PORT", port.to_string()),
        ("RABBITMQ_DIST_PORT", ports::free()?.to_string()),
        (MAPPER_PORT, ports::free()?.to_string()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ("RABBITMQ_MNESIA_BASE", inside("data")),
        ("RABBITMQ_LOG_BASE", inside("logs")),
        ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", inside("plugins")),
        // An idle scheduler that spins would take the core the client needs.
        (
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "+sbwt none +sbwtdcpu none +sbwtdio none".into(),
        ),
    ])
}
