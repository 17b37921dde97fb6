//! The servers of a run: how each is started, where it listens, whose CPU counts.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::cleanup::Cleanup;
use crate::connection::text;
use crate::process::{self, Server};
use crate::traffic::{Dialect, Target};

/// RabbitMQ needs seconds to start, tens of them on a loaded machine.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// The Erlang schedulers' busy-wait would be counted as work.
const NO_BUSY_WAIT: &str = "+sbwt none +sbwtdcpu none +sbwtdio none";

/// How a server is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// A `leveret` binary on an empty data directory.
    Leveret(PathBuf),
    /// Debian's `rabbitmq-server` as a node of its own.
    RabbitMq,
    /// A floor: this program again, with the hidden subcommand.
    Floor(Floor),
    /// Somebody else's server.
    Running {
        /// Where it listens.
        address: SocketAddr,
        /// Its process.
        pid: u32,
    },
}

/// What does as little as can be done, to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// Receive and send.
    Pipe,
    /// Publish frames to deliver frames.
    Relay,
    /// The same to many connections.
    Fanout,
    /// `Relay`, confirming after a bare append and sync.
    Journal,
    /// One message after the other: hand over, write, sync, confirm.
    Sync,
}

impl Floor {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Pipe,
        Self::Relay,
        Self::Fanout,
        Self::Journal,
        Self::Sync,
    ];

    /// Its name in reports, and the hidden subcommand that serves it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pipe => "pipe",
            Self::Relay => "floor",
            Self::Fanout => "floor-fanout",
            Self::Journal => "journal-floor",
            Self::Sync => "sync-floor",
        }
    }
}

/// Where a server answers HTTP.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    /// The management API.
    pub management: SocketAddr,
    /// Where Prometheus would fetch.
    pub metrics: SocketAddr,
}

/// A server under test and how to get it.
pub struct Broker {
    /// Its name in reports.
    pub name: String,
    /// How it is started.
    pub recipe: Recipe,
    running: Option<Instance>,
}

struct Instance {
    target: Target,
    start: Duration,
    epmd: u16,
    // Dropped in this order: the server stops before its directory goes.
    server: Server,
    cleanup: Cleanup,
}

impl Broker {
    /// Not started until its target is asked for.
    pub fn new(name: impl Into<String>, recipe: Recipe) -> Self {
        Self {
            name: name.into(),
            recipe,
            running: None,
        }
    }

    /// The floor `floor`.
    pub fn floor(floor: Floor) -> Self {
        Self::new(floor.name(), Recipe::Floor(floor))
    }

    /// Whether this run may stop and start it.
    pub fn is_ours(&self) -> bool {
        !matches!(self.recipe, Recipe::Running { .. })
    }

    /// Queues this broker can be given in reasonable time; RabbitMQ declares some hundred a second.
    pub fn queues_max(&self) -> usize {
        match self.recipe {
            Recipe::RabbitMq => 5_000,
            _ => usize::MAX,
        }
    }

    /// The running server; starts it if needed.
    pub fn target(&mut self) -> Result<Target, String> {
        if let Recipe::Running { address, pid } = self.recipe {
            return Ok(Target {
                address,
                pid,
                dialect: Dialect::Amqp,
            });
        }
        if self.running.is_none() {
            self.running = Some(start(&self.recipe, None)?);
        }
        self.running
            .as_ref()
            .map(|one| one.target)
            .ok_or_else(|| "not running".into())
    }

    /// A server that has done nothing yet, where this run may start one.
    pub fn fresh(&mut self) -> Result<Target, String> {
        self.stop();
        self.target()
    }

    /// The same with its HTTP API, which otherwise has no part in a benchmark.
    pub fn fresh_with_api(&mut self) -> Result<(Target, Api), String> {
        if !matches!(self.recipe, Recipe::Leveret(_)) {
            return Err("its HTTP API is not started".into());
        }
        self.stop();
        let api = Api {
            management: process::free_address()?,
            metrics: process::free_address()?,
        };
        let started = start(&self.recipe, Some(api))?;
        let target = started.target;
        self.running = Some(started);
        Ok((target, api))
    }

    /// Stops it, if it is ours.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Kills it and starts it again on the same data: how long until it listened, and since when.
    pub fn crash(&mut self) -> Result<(Duration, Instant), String> {
        let Some(mut running) = self.running.take() else {
            return Err("not running".into());
        };
        running.server.kill();
        let begun = Instant::now();
        let (address, epmd) = (running.target.address, running.epmd);
        let again = launch(&self.recipe, running.cleanup, (address, epmd), None)?;
        let listening = again.start;
        self.running = Some(again);
        Ok((listening, begun))
    }

    /// From its start to the first accepted connection.
    pub fn start_time(&self) -> Option<Duration> {
        self.running.as_ref().map(|one| one.start)
    }
}

fn start(recipe: &Recipe, api: Option<Api>) -> Result<Instance, String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let cleanup = Cleanup::new(COUNT.fetch_add(1, Ordering::Relaxed))?;
    let (address, epmd) = (process::free_address()?, process::free_address()?.port());
    launch(recipe, cleanup, (address, epmd), api)
}

/// Starts a server on what its directory holds.
fn launch(
    recipe: &Recipe,
    cleanup: Cleanup,
    (address, epmd): (SocketAddr, u16),
    api: Option<Api>,
) -> Result<Instance, String> {
    let directory = cleanup.directory.as_path();
    let (mut command, dialect) = match recipe {
        Recipe::Leveret(binary) => (leveret(binary, address, directory, api), Dialect::Amqp),
        Recipe::RabbitMq => (rabbitmq(address, epmd, directory)?, Dialect::Amqp),
        Recipe::Floor(floor) => {
            let dialect = match floor {
                Floor::Pipe | Floor::Sync => Dialect::Pipe,
                Floor::Relay | Floor::Fanout | Floor::Journal => Dialect::Amqp,
            };
            (this_program(*floor, address)?, dialect)
        }
        Recipe::Running { .. } => return Err("already running".into()),
    };
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .map_err(text)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(text)?)
        .stderr(log);
    command.current_dir(directory);
    let begun = Instant::now();
    let mut server = Server::start(&mut command)?;
    let mapper = (*recipe == Recipe::RabbitMq).then_some(epmd);
    cleanup.started(server.pid(), mapper);
    if let Err(error) = server.wait_for(address, START_PATIENCE) {
        let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
        return Err(format!("{error}\n{log}"));
    }
    let target = Target {
        address,
        pid: server.pid(),
        dialect,
    };
    Ok(Instance {
        target,
        start: begun.elapsed(),
        epmd,
        server,
        cleanup,
    })
}

/// A server in a session of its own, as a service runs: where the kernel groups processes by
/// session, one in the generator's would have some of its cost hidden. `setsid` becomes the server.
fn in_own_session(program: &Path) -> Command {
    let mut command = Command::new("setsid");
    command.arg(program);
    command
}

/// The command line of Leveret: one AMQP listener, everything else as it comes.
fn leveret(binary: &Path, address: SocketAddr, directory: &Path, api: Option<Api>) -> Command {
    let mut command = in_own_session(binary);
    command
        .arg("--set")
        .arg(format!("amqp.listen=[\"{address}\"]"));
    if let Some(Api {
        management,
        metrics,
    }) = api
    {
        command.args(["--set", &format!("management.listen=[\"{management}\"]")]);
        command.args([
            "--set",
            &format!("management.metrics_listen=[\"{metrics}\"]"),
        ]);
    } else if has_management(binary) {
        command.args(["--set", "management.listen=[]"]);
        command.args(["--set", "management.metrics_listen=[]"]);
    }
    command
        .arg("--set")
        .arg(format!("data_dir=\"{}\"", directory.join("data").display()));
    command
}

/// Whether the build has an HTTP API, which has no part in a benchmark; older ones refuse its keys.
fn has_management(binary: &Path) -> bool {
    let mut check = Command::new(binary);
    check.args(["--check-config", "--set", "management.listen=[]"]);
    check.output().is_ok_and(|output| output.status.success())
}

/// A node that shares nothing with an installed one; the script becomes the Erlang process, so
/// that the child's process id is the broker's.
fn rabbitmq(address: SocketAddr, epmd: u16, directory: &Path) -> Result<Command, String> {
    let script = Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    if !script.exists() {
        install_rabbitmq()?;
    }
    let mut command = in_own_session(script);
    let dist_port = process::free_address()?.port();
    command
        .env("HOME", directory)
        .env(
            "RABBITMQ_NODENAME",
            format!("bench{}@localhost", address.port()),
        )
        .env("RABBITMQ_NODE_IP_ADDRESS", address.ip().to_string())
        .env("RABBITMQ_NODE_PORT", address.port().to_string())
        .env("RABBITMQ_DIST_PORT", dist_port.to_string())
        .env("ERL_EPMD_PORT", epmd.to_string())
        .env("RABBITMQ_MNESIA_BASE", directory.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", directory.join("logs"))
        .env("RABBITMQ_CONFIG_FILE", directory.join("none"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", directory.join("plugins"))
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", NO_BUSY_WAIT)
        .env("RABBITMQ_ALLOW_INPUT", "true")
        .env("RABBITMQ_SERVER_START_ARGS", "-noinput");
    Ok(command)
}

fn install_rabbitmq() -> Result<(), String> {
    let install = "apt-get install -y rabbitmq-server";
    if !rustix::process::getuid().is_root() {
        return Err(format!("rabbitmq-server is missing; run: sudo {install}"));
    }
    // Debian starts a service it installs unless this script forbids it.
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let ours = !policy.exists();
    let script = format!(
        "set -e; {} apt-get update -q; DEBIAN_FRONTEND=noninteractive {install} >&2; {}",
        if ours {
            "printf '#!/bin/sh\\nexit 101\\n' > $0; chmod +x $0;"
        } else {
            ""
        },
        if ours { "rm $0" } else { "" },
    );
    let status = Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg(policy)
        .status()
        .map_err(text)?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{install}: {status}"))
    }
}

fn this_program(floor: Floor, address: SocketAddr) -> Result<Command, String> {
    let mut command = in_own_session(&std::env::current_exe().map_err(text)?);
    command
        .arg("serve")
        .arg(floor.name())
        .arg(address.to_string());
    Ok(command)
}
