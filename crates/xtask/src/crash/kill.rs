//! Process crashes end to end: real clients, a real broker, SIGKILL at random times.
//!
//! The clients write down what was confirmed, delivered and acknowledged, outside of the broker;
//! [`super::evidence`] judges it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use super::evidence::{Evidence, Lives, Promise};
use super::pulse::Pulse;
use super::wait_for_listener;
use crate::project::Project;
use crate::report::{Ending, Outcome, Suite};
use crate::{install, ports, shell};

/// How long a broker lives before it is killed, in milliseconds.
const LIFE_MS: std::ops::Range<u64> = 5..2000;
/// How much longer the last broker gets, for clients that have only begun.
const LAST_LIFE: Duration = Duration::from_secs(2);
/// One life in so many ends before the broker listens.
const STILLBORN: u64 = 10;
/// Clients that are told to stop settle what is open and end within this time.
const CLIENTS_TIME_MAX: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(2);
/// Broken promises shown of each kind.
const SHOWN: usize = 5;

/// Files of the publishers: name in the messages, name of the file.
const PUBLISHERS: [(&str, &str); 2] = [("p", "publisher-pika"), ("g", "publisher-go")];
const CONSUMERS: [&str; 3] = ["consumer-pika", "consumer-go", "ledger"];
const MORTALS: &str = "dead-letters";

/// Kills a broker `cycles` times under load and compares; the suite of it.
///
/// # Errors
/// What it needs cannot be installed, or a client or the broker does not do its part.
pub(crate) fn suite(project: &Project, binary: &Path, cycles: usize, seed: u64) -> Result<Suite> {
    let start = Instant::now();
    let programs = Programs::prepare(project)?;
    let folder = project.target.join("crash").join(format!("kill-{seed}"));
    let mut run = Run::begin(&folder, binary, &programs, seed)?;
    run.cycles(cycles)?;
    thread::sleep(LAST_LIFE);
    let startups = std::mem::take(&mut run.startups);
    let evidence = run.end()?;
    let mut log = summary(&evidence, &startups, seed);
    log += &breaches(&evidence, &folder);
    println!("{log}");
    let outcome = |promise: Promise| {
        let broken = evidence.breaches.iter().any(|one| one.promise == promise);
        let ending = if broken {
            Ending::Failed
        } else {
            Ending::Passed
        };
        Outcome::new(promise.to_string(), ending)
    };
    let outcomes: Vec<_> = Promise::ALL.into_iter().map(outcome).collect();
    if evidence.breaches.is_empty() {
        fs::remove_dir_all(&folder)?;
    }
    Ok(Suite::new("crash kill", outcomes, log, start))
}

fn summary(evidence: &Evidence, startups: &[Duration], seed: u64) -> String {
    let mut startups = startups.to_vec();
    startups.sort();
    let at = |share: usize| startups.get(share * (startups.len().saturating_sub(1)) / 100);
    let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let mut text = format!(
        "seed {seed}: {} confirmed, {} delivered; {} starts, p50 {:.0} ms, worst {:.0} ms",
        evidence.confirmed(),
        evidence.deliveries,
        startups.len(),
        ms(at(50)),
        ms(at(100)),
    );
    for remark in &evidence.remarks {
        text += &format!("\n{remark}");
    }
    text
}

fn breaches(evidence: &Evidence, folder: &Path) -> String {
    let mut text = String::new();
    for promise in Promise::ALL {
        let of_it = |one: &&super::evidence::Breach| one.promise == promise;
        let count = evidence.breaches.iter().filter(of_it).count();
        if count > 0 {
            text += &format!("\nBROKEN {count} times: {promise}");
        }
        for one in evidence.breaches.iter().filter(of_it).take(SHOWN) {
            text += &format!("\n    {}", one.text);
        }
    }
    if !text.is_empty() {
        text += &format!("\nevidence, data and logs are kept in {}", folder.display());
    }
    text
}

/// The client programs.
struct Programs {
    python: PathBuf,
    scripts: PathBuf,
    go: PathBuf,
}

impl Programs {
    fn prepare(project: &Project) -> Result<Self> {
        let clients = project.root.join("tests/clients");
        let requirements = clients.join("python/requirements.txt");
        let python = install::python(&project.target.join("clients/python"), &requirements)?;
        install::go(project)?;
        let work = project.target.join("clients/amqp091-go");
        let go = work.join("crash");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&go).arg("./crash");
        build.current_dir(clients.join("go"));
        install::go_environment(&mut build, &work);
        shell::require(build)?;
        let scripts = clients.join("python/crash");
        Ok(Self {
            python,
            scripts,
            go,
        })
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(self.scripts.join(name));
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

/// A process that is killed when dropped.
struct Process {
    name: String,
    child: Child,
}

impl Process {
    fn spawn(name: &str, folder: &Path, mut command: Command) -> Result<Self> {
        let path = folder.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(path)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let name = name.to_owned();
        Ok(Self { name, child })
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Asks it to end; it has to, well and in time.
    fn stop(&mut self, folder: &Path) -> Result<()> {
        shell::signal(self.child.id(), "TERM");
        let deadline = Instant::now() + CLIENTS_TIME_MAX;
        while !self.has_ended()? {
            if Instant::now() > deadline {
                bail!("{} does not stop; see {}", self.name, folder.display());
            }
            thread::sleep(POLL);
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("{}: {status}; see {}", self.name, folder.display());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The broker with its clients.
struct Run<'a> {
    folder: &'a Path,
    binary: &'a Path,
    address: SocketAddr,
    random: Random,
    broker: Process,
    publishers: Vec<Process>,
    consumers: Vec<Process>,
    lives: Lives,
    pulse: Pulse,
    startups: Vec<Duration>,
}

impl<'a> Run<'a> {
    fn begin(folder: &'a Path, binary: &'a Path, programs: &Programs, seed: u64) -> Result<Self> {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?));
        let pulse = Pulse::begin(folder)?;
        let broker = Process::spawn("broker", folder, broker(binary, address, folder))?;
        let mut run = Self {
            folder,
            binary,
            address,
            random: Random::new(seed),
            broker,
            publishers: Vec::new(),
            consumers: Vec::new(),
            lives: Lives::default(),
            pulse,
            startups: Vec::new(),
        };
        run.wait_for_listener()?;
        run.start_clients(programs, seed)?;
        Ok(run)
    }

    fn start_clients(&mut self, programs: &Programs, seed: u64) -> Result<()> {
        let url = format!("amqp://guest:guest@{}/%2f", self.address);
        let mut topology = programs.script("topology.py");
        topology.arg(&url);
        shell::require(topology)?;
        let client = |name: &str, mut command: Command, arguments: &[&str]| {
            command
                .arg(&url)
                .arg(self.folder.join(name))
                .args(arguments);
            Process::spawn(name, self.folder, command)
        };
        let go = || Command::new(&programs.go);
        let queues = ["crash-fan-0", "crash-fan-1", "crash-b"];
        let consumers = [
            client("consumer-pika", programs.script("consumer.py"), &queues)?,
            client("consumer-go", go(), &["crash-fan-2", "crash-a", "crash-t"])?,
        ];
        let publishers = [
            client("publisher-pika", programs.script("publisher.py"), &[])?,
            client("publisher-go", go(), &[])?,
            client("ledger", programs.script("ledger.py"), &[&seed.to_string()])?,
            client(MORTALS, programs.script("dead_letters.py"), &[])?,
        ];
        self.consumers.extend(consumers);
        self.publishers.extend(publishers);
        Ok(())
    }

    /// Lets the broker live, kills it, starts it again; `count` times.
    fn cycles(&mut self, count: usize) -> Result<()> {
        for cycle in 0..count {
            let span = LIFE_MS.end - LIFE_MS.start;
            let life = Duration::from_millis(LIFE_MS.start + self.random.next() % span);
            thread::sleep(life);
            self.kill()?;
            if self.random.next().is_multiple_of(STILLBORN) {
                self.start()?;
                thread::sleep(Duration::from_micros(self.random.next() % 15_000));
                self.kill()?;
            }
            self.start()?;
            self.wait_for_listener()
                .with_context(|| format!("start after crash {cycle}"))?;
            for client in self.publishers.iter_mut().chain(&mut self.consumers) {
                if client.has_ended()? {
                    bail!("{} has ended; see {}", client.name, self.folder.display());
                }
            }
        }
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        if self.broker.has_ended()? {
            bail!("the broker ended by itself; see {}", self.folder.display());
        }
        let sent = now_ms();
        self.broker.child.kill()?;
        self.broker.child.wait()?;
        self.lives.kills.push((sent, now_ms()));
        // So that no connection of the next life begins in the same millisecond.
        thread::sleep(POLL);
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        let command = broker(self.binary, self.address, self.folder);
        self.broker = Process::spawn("broker", self.folder, command)?;
        Ok(())
    }

    fn wait_for_listener(&mut self) -> Result<()> {
        let (data, log) = (self.folder.join("data"), self.folder.join("broker.log"));
        let took = wait_for_listener(&mut self.broker.child, self.address, (&data, &log))
            .with_context(|| format!("see {}", self.folder.display()))?;
        self.startups.push(took);
        Ok(())
    }

    /// Stops publishing, lets the consumers take what is left, stops the broker, and judges.
    fn end(mut self) -> Result<Evidence> {
        for client in self.publishers.iter_mut().chain(&mut self.consumers) {
            client.stop(self.folder)?;
        }
        self.broker.stop(self.folder)?;
        self.lives.beats = self.pulse.end()?;
        let mut evidence = Evidence::new(self.lives);
        let read = |name: &str| {
            let path = self.folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        for (name, file) in PUBLISHERS {
            evidence.read_publisher(name, &read(file)?)?;
        }
        for file in CONSUMERS {
            evidence.read_consumer(file, &read(file)?)?;
        }
        evidence.read_mortals(MORTALS, &read(MORTALS)?)?;
        evidence.conclude();
        Ok(evidence)
    }
}

fn broker(binary: &Path, address: SocketAddr, folder: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(["--set", &format!("amqp.listen=[\"{address}\"]")]);
    command.args(["--set", "management.listen=[]"]);
    command.args(["--set", "management.metrics_listen=[]"]);
    let data = folder.join("data");
    command.args(["--set", &format!("data_dir=\"{}\"", data.display())]);
    command.current_dir(folder);
    command
}

/// Another one each time.
pub(crate) fn fresh_seed() -> u64 {
    now_ms()
}

pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// A xorshift generator.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// A number of the range.
    pub(super) fn within(&mut self, range: &std::ops::RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
