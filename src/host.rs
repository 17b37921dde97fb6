//! What the HTTP API learns of the process, and the listeners of both.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

use leveret_management::{BackupRefusal, Host, Listener, Vitals};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::backup::Backups;
use crate::clock::{now_ms, wall_ms};
use crate::config::Config;
use crate::listeners::Listeners;
use crate::process::{
    disk_free_bytes, memory_limit, open_descriptors, raise_descriptor_limit, resident_bytes,
};
use crate::server::aside;
use crate::throttle::{Attempt, CHECKS_CHECK, LoginWait, Throttle};

/// The process around the broker.
pub(crate) struct Process {
    memory_total: u64,
    disk: PathBuf,
    disk_alarm_at: u64,
    descriptors_max: u64,
    configuration: Mutex<Value>,
    node_name: String,
    listeners: Mutex<Vec<Listener>>,
    amqp: OnceLock<Arc<Listeners>>,
    backups: OnceLock<Backups>,
}

impl Process {
    pub(crate) fn new(config: &Config) -> Self {
        let memory_total = memory_limit().map_or(0, |limit| limit.bytes);
        Self {
            memory_total,
            disk: config.data_dir.clone(),
            disk_alarm_at: config.limits.disk_free_min,
            descriptors_max: raise_descriptor_limit().map_or(0, |limit| limit.in_force),
            configuration: Mutex::new(shown(config)),
            node_name: node_name(&config.management.node_name),
            listeners: Mutex::default(),
            amqp: OnceLock::new(),
            backups: OnceLock::new(),
        }
    }

    /// Notes settings that have changed.
    pub(crate) fn configured(&self, config: &Config) {
        *self.configuration.lock() = shown(config);
    }

    /// Notes who opens and closes the AMQP listeners.
    pub(crate) fn opens(&self, amqp: &Arc<Listeners>) {
        let _ = self.amqp.set(Arc::clone(amqp));
    }

    /// Notes who makes copies of the data.
    pub(crate) fn backs_up(&self, backups: Backups) {
        let _ = self.backups.set(backups);
    }

    /// Notes where clients connect.
    pub(crate) fn listens(&self, protocol: &'static str, addresses: &[SocketAddr]) {
        let listener = |address: &SocketAddr| Listener {
            protocol,
            address: *address,
        };
        self.listeners.lock().extend(addresses.iter().map(listener));
    }
}

impl Host for Process {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn wall_ms(&self) -> u64 {
        wall_ms()
    }

    fn node_name(&self) -> String {
        self.node_name.clone()
    }

    fn vitals(&self) -> Vitals {
        let here = PathBuf::from(".");
        let disk_free = disk_free_bytes(&self.disk).or_else(|_| disk_free_bytes(&here));
        let processors = std::thread::available_parallelism();
        let tasks = tokio::runtime::Handle::try_current()
            .map_or(0, |runtime| runtime.metrics().num_alive_tasks());
        Vitals {
            memory_used: resident_bytes().unwrap_or(0),
            memory_total: self.memory_total,
            disk_free: disk_free.unwrap_or(0),
            disk_alarm_at: self.disk_alarm_at,
            descriptors_used: open_descriptors().unwrap_or(0),
            descriptors_max: self.descriptors_max,
            processors: processors.map_or(1, |count| u32::try_from(count.get()).unwrap_or(1)),
            tasks: tasks as u64,
        }
    }

    fn configuration(&self) -> Value {
        self.configuration.lock().clone()
    }

    fn listeners(&self) -> Vec<Listener> {
        self.listeners.lock().clone()
    }

    fn try_login(&self, from: IpAddr, check: &mut dyn FnMut() -> bool) -> Result<(), u32> {
        let Some(amqp) = self.amqp.get() else {
            check();
            return Ok(());
        };
        let throttle = amqp.throttle();
        let attempt = admitted(throttle, from)?;
        if !check() {
            throttle.refused(from, Instant::now());
        } else if attempt.is_in_turn() {
            throttle.accepted(from);
        }
        Ok(())
    }

    fn set_running(&self, running: bool) -> io::Result<()> {
        let Some(amqp) = self.amqp.get() else {
            return Err(io::Error::other("the broker is still starting"));
        };
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        if running {
            runtime.block_on(amqp.open())
        } else {
            runtime.block_on(amqp.close());
            Ok(())
        }
    }

    fn back_up(&self, name: Option<&str>) -> Result<Value, BackupRefusal> {
        let starting = || BackupRefusal::Failed("the broker is still starting".to_owned());
        self.backups.get().ok_or_else(starting)?.create(name)
    }

    fn backups(&self) -> io::Result<Vec<Value>> {
        let starting = || io::Error::other("the broker is still starting");
        self.backups.get().ok_or_else(starting)?.list()
    }

    fn end(&self) {
        // The way of the signal is the one that is known to lose nothing.
        let end = async {
            tokio::time::sleep(ANSWER_TIME).await;
            let own = rustix::process::getpid();
            if let Err(error) = rustix::process::kill_process(own, rustix::process::Signal::TERM) {
                tracing::error!(%error, "cannot end as asked over HTTP");
            }
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(end);
        }
    }
}

fn shown(config: &Config) -> Value {
    // A path that is not UTF-8 has no form in JSON.
    serde_json::to_value(config).unwrap_or_else(|_| json!({}))
}

/// The whole name of a node: as with RabbitMQ, the machine's name is added to a bare one.
pub(crate) fn node_name(configured: &str) -> String {
    if configured.contains('@') {
        return configured.to_owned();
    }
    let system = rustix::system::uname();
    let machine = system.nodename().to_string_lossy().into_owned();
    let machine = machine.split('.').next().unwrap_or_default();
    let name = if configured.is_empty() {
        "rabbit"
    } else {
        configured
    };
    format!("{name}@{machine}")
}

/// Who asked for the end of the process has its answer by then.
const ANSWER_TIME: Duration = Duration::from_millis(200);
/// How long a login over HTTP waits for others that are just being checked.
const CHECKS_PATIENCE: Duration = Duration::from_secs(1);

/// Lets a login be tried, or gives the seconds until it is its turn at most.
fn admitted(throttle: &Throttle, from: IpAddr) -> Result<Attempt<'_>, u32> {
    let give_up = Instant::now() + CHECKS_PATIENCE;
    loop {
        let now = Instant::now();
        match throttle.admit(from, now) {
            Ok(attempt) => return Ok(attempt),
            Err(LoginWait::Turn(next)) => {
                let seconds = next.saturating_duration_since(now).as_secs();
                return Err(u32::try_from(seconds).unwrap_or(u32::MAX).saturating_add(1));
            }
            Err(LoginWait::Checks) if now >= give_up => return Err(1),
            // As long as the check itself would take, which keeps a thread as well.
            Err(LoginWait::Checks) => aside(&mut || std::thread::sleep(CHECKS_CHECK)),
        }
    }
}
