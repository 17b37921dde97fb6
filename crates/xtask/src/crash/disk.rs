//! Full disks end to end: random histories of publishing, acknowledging, filling the disk from
//! outside, making room again, killing and starting the real broker on a small file system.
//!
//! It always starts, answers what it takes and what it cannot, never loses a confirmed message,
//! and takes persistent messages again once there is room. Mounting needs root.

mod wire;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use self::wire::Client;
use super::wait_for_listener;
use crate::crash::kill::Random;
use crate::ports;
use crate::project::Project;
use crate::report::{Ending, Outcome, Suite};

/// Sizes of the file systems, MiB.
const DISK_MIB: std::ops::RangeInclusive<u64> = 48..=1536;
/// Steps of a history.
const STEPS: std::ops::RangeInclusive<u64> = 5..=14;
/// What a history publishes at most, so that it stays short.
const BYTES_MAX: u64 = 192 << 20;
/// Every publish, declaration and acknowledgement has an answer within this time, unless the
/// client was told that it is blocked.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
/// Messages are confirmed again within this time once there is room.
const HEAL_TIME_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
const QUEUE: &str = "full";
/// Memory for messages in half of the histories, MiB: then what is published leaves memory, and
/// what waits for long leaves the journal.
const RESIDENT_MIB: [u64; 2] = [64, 96];
/// Sizes of messages, bytes.
const SIZES: [u64; 8] = [
    64,
    1_000,
    16_000,
    100_000,
    100_000,
    1 << 20,
    5 << 20,
    24 << 20,
];

/// Runs this many histories, some side by side; the suite of them.
///
/// # Errors
/// A file system cannot be mounted.
pub(crate) fn suite(project: &Project, binary: &Path, histories: u64, seed: u64) -> Result<Suite> {
    let start = Instant::now();
    let root = project.target.join("crash").join("disk");
    fs::create_dir_all(&root)?;
    let next = AtomicU64::new(0);
    let found = Mutex::new((Vec::new(), Totals::default()));
    let side_by_side = thread::available_parallelism().map_or(2, |cores| cores.get() * 2);
    thread::scope(|scope| {
        for _ in 0..side_by_side {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= histories {
                        return;
                    }
                    let seed = seed.wrapping_add(number);
                    let ended = History::run(&root, binary, seed);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    match ended {
                        Ok(totals) => found.1.add(&totals),
                        Err(error) => found.0.push((seed, format!("{error:#}"))),
                    }
                }
            });
        }
    });
    let (violations, totals) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut log = totals.to_string();
    for (seed, text) in &violations {
        let kept = root.join(seed.to_string());
        let _ = write!(log, "\nseed {seed}: {text}; evidence in {}", kept.display());
    }
    println!("{log}");
    let ending = match violations.len() {
        0 => Ending::Passed,
        _ => Ending::Failed,
    };
    let name = format!("{histories} histories on full disks from seed {seed}");
    let outcomes = vec![Outcome::new(name, ending)];
    Ok(Suite::new("crash disk", outcomes, log, start))
}

/// What histories did, and how long they waited.
#[derive(Default)]
struct Totals {
    histories: u64,
    starts: u64,
    confirmed: u64,
    refused: u64,
    blocked: u64,
    /// Histories in which chunks in run files had left the journal.
    moved: u64,
    slowest_start: Duration,
    slowest_heal: Duration,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.histories += 1;
        self.starts += other.starts;
        self.confirmed += other.confirmed;
        self.refused += other.refused;
        self.blocked += other.blocked;
        self.moved += other.moved;
        self.slowest_start = self.slowest_start.max(other.slowest_start);
        self.slowest_heal = self.slowest_heal.max(other.slowest_heal);
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} histories kept every promise: {} starts, {} messages confirmed, {} refused, {} \
             times blocked, {} with chunks that had left the journal; slowest start {} ms, slowest \
             to heal {} ms",
            self.histories,
            self.starts,
            self.confirmed,
            self.refused,
            self.blocked,
            self.moved,
            self.slowest_start.as_millis(),
            self.slowest_heal.as_millis(),
        )
    }
}

/// One broker on one small file system.
struct History {
    folder: PathBuf,
    binary: PathBuf,
    random: Random,
    floor: u64,
    /// Memory for messages; none: what the broker takes.
    resident_mib: Option<u64>,
    address: SocketAddr,
    broker: Option<Child>,
    /// What was done, for people.
    told: String,
    /// Numbers of messages that were confirmed and not acknowledged.
    owed: BTreeSet<u64>,
    next: u64,
    bytes: u64,
    /// Chunks in run files had left the journal when it was killed.
    has_moved: bool,
    totals: Totals,
}

impl History {
    /// Plays the history of a seed; its folder stays if a promise was broken.
    fn run(root: &Path, binary: &Path, seed: u64) -> Result<Totals> {
        let folder = root.join(seed.to_string());
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("disk"))?;
        let mut random = Random::new(seed);
        // Small ones are more often wrong, and quicker.
        let share = random.below(1 << 20) as f64 / f64::from(1 << 20);
        let (least, most) = (*DISK_MIB.start() as f64, *DISK_MIB.end() as f64);
        let mib = (least * (most / least).powf(share)) as u64;
        let floor = [0, 4 << 20, 8 << 20, mib << 17][random.below(4) as usize];
        let resident_mib = RESIDENT_MIB.get(random.below(4) as usize).copied();
        let mut history = Self {
            folder,
            binary: binary.to_owned(),
            random,
            floor,
            resident_mib,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?)),
            broker: None,
            told: format!("disk of {mib} MiB, floor {floor}, memory {resident_mib:?} MiB\n"),
            owed: BTreeSet::new(),
            next: 0,
            bytes: 0,
            has_moved: false,
            totals: Totals::default(),
        };
        history.mount(mib)?;
        let played = history.play();
        history.stop();
        let _ = fs::write(history.folder.join("history"), &history.told);
        if played.is_err() {
            history.keep_evidence();
        }
        history.unmount();
        if played.is_ok() {
            let _ = fs::remove_dir_all(&history.folder);
        }
        played.map(|()| std::mem::take(&mut history.totals))
    }

    fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    fn mount(&self, mib: u64) -> Result<()> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]);
        let mounted = mount.arg(self.disk()).output()?;
        if !mounted.status.success() {
            let why = String::from_utf8_lossy(&mounted.stderr).into_owned();
            bail!("a small file system is mounted, which needs root: {why}");
        }
        Ok(())
    }

    fn unmount(&self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.disk())
            .status();
    }

    /// Copies the journal out of the file system that goes, without what filled it.
    fn keep_evidence(&self) {
        let kept = self.folder.join("data");
        let mut copy = Command::new("cp");
        copy.args(["-r", "--sparse=always"])
            .arg(self.disk().join("data"));
        let _ = copy.arg(kept).status();
    }

    fn play(&mut self) -> Result<()> {
        self.start()?;
        let mut client = self.login()?;
        client.declare(QUEUE, false)?;
        client.expect(wire::DECLARE_OK, self.deadline())?;
        drop(client);
        for _ in 0..self.random.within(&STEPS) {
            self.step()?;
            if self.resident_mib.is_some() && self.random.below(2) == 0 {
                self.publish()?;
            }
        }
        self.conclude()
    }

    fn step(&mut self) -> Result<()> {
        match self.random.below(12) {
            0..=4 => self.publish(),
            5 | 6 => self.acknowledge(),
            7 => self.fill_outside(),
            8 => self.free_outside(),
            9 => self.declare_and_delete(),
            _ => self.kill_and_start(),
        }
    }

    fn tell(&mut self, text: &str) {
        self.told += text;
        self.told.push('\n');
    }

    fn deadline(&self) -> Instant {
        Instant::now() + ANSWER_TIME_MAX
    }

    fn login(&self) -> Result<Client> {
        Client::new(self.address, ANSWER_TIME_MAX).context("logging in")
    }

    fn start(&mut self) -> Result<()> {
        let path = self.folder.join("broker.log");
        let log = File::options().create(true).append(true).open(&path)?;
        let mut command = Command::new(&self.binary);
        command.args(["--set", &format!("amqp.listen=[\"{}\"]", self.address)]);
        command.args(["--set", "management.listen=[]"]);
        command.args(["--set", "management.metrics_listen=[]"]);
        command.args(["--set", &format!("limits.disk_free_min={}", self.floor)]);
        if let Some(mib) = self.resident_mib {
            command.args(["--set", &format!("limits.resident_bytes={}", mib << 20)]);
            command.args(["--set", "limits.queue_resident_bytes=1048576"]);
            command.args(["--set", "storage.journal_window=16777216"]);
        }
        let data = self.disk().join("data");
        command.args(["--set", &format!("data_dir=\"{}\"", data.display())]);
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let mut broker = command.spawn().context("starting the broker")?;
        let took = wait_for_listener(&mut broker, self.address, (&data, &path));
        if took.is_err() {
            let _ = broker.kill();
        }
        self.broker = Some(broker);
        self.totals.starts += 1;
        self.totals.slowest_start = self.totals.slowest_start.max(took?);
        Ok(())
    }

    /// Kills the broker.
    fn stop(&mut self) {
        if let Some(mut broker) = self.broker.take() {
            let _ = broker.kill();
            let _ = broker.wait();
        }
    }

    fn kill_and_start(&mut self) -> Result<()> {
        if let Some(broker) = &mut self.broker
            && let Some(status) = broker.try_wait()?
        {
            bail!("the broker ended by itself: {status}");
        }
        self.tell("kill and start");
        self.stop();
        self.verify()?;
        self.start()
    }

    /// What a killed broker has left is whole, and all that is owed is there.
    fn verify(&mut self) -> Result<()> {
        let mut verify = Command::new(&self.binary);
        verify.args(["data", "verify", "--json"]);
        let output = verify.arg(self.disk().join("data")).output()?;
        let report: Value = serde_json::from_slice(&output.stdout).context("verifying")?;
        let count = |name: &str| report[name].as_u64().unwrap_or(0);
        if report["well"] != true || count("messages") < self.owed.len() as u64 {
            bail!(
                "{} messages are owed; on the disk: {report}",
                self.owed.len()
            );
        }
        self.has_moved |= count("chunks") > 0;
        Ok(())
    }

    /// Publishes some messages of one size; each is confirmed, refused, or not read for an alarm.
    fn publish(&mut self) -> Result<()> {
        let size = SIZES[self.random.below(SIZES.len() as u64) as usize];
        let most = (24 << 20) / size + 1;
        let count = 1 + self.random.below(most.min(2_000));
        let window = 1 + self.random.below(64);
        if self.bytes + count * size > BYTES_MAX {
            return Ok(());
        }
        self.bytes += count * size;
        let mut client = self.login()?;
        client.call((85, 10), &[0])?;
        client.expect((85, 11), self.deadline())?;
        let first = self.next;
        let (mut sent, mut settled, mut confirmed) = (0, BTreeSet::new(), 0_u64);
        while (settled.len() as u64) < count {
            while sent < count && sent - (settled.len() as u64) < window {
                let mut body = (first + sent).to_be_bytes().to_vec();
                body.resize(usize::try_from(size)?, b'x');
                sent += 1;
                self.next = first + sent;
                if !client.publish(QUEUE, &body, self.deadline())? {
                    self.totals.blocked += 1;
                    self.tell(&format!("publish {count} of {size}: blocked"));
                    return Ok(());
                }
            }
            let came = client.next(self.deadline())?;
            let Some(came) = came else {
                bail!(
                    "publish of {size} bytes: neither ack nor nack of {} messages",
                    sent - settled.len() as u64
                );
            };
            let (tag, multiple) = came.settles();
            let from = if multiple { 1 } else { tag };
            match came.id {
                wire::ACK | wire::NACK => {
                    for tag in from..=tag {
                        if settled.insert(tag) && came.id == wire::ACK {
                            confirmed += 1;
                            self.owed.insert(first + tag - 1);
                        }
                    }
                }
                wire::BLOCKED => {
                    self.totals.blocked += 1;
                    break;
                }
                _ => {}
            }
        }
        self.totals.confirmed += confirmed;
        self.totals.refused += settled.len() as u64 - confirmed;
        self.tell(&format!(
            "publish {count} of {size}: sent {sent}, settled {}, confirmed {confirmed}",
            settled.len()
        ));
        Ok(())
    }

    /// Takes some messages and acknowledges them; the answer to what follows proves it was read.
    fn acknowledge(&mut self) -> Result<()> {
        let mut client = self.login()?;
        client.declare(QUEUE, true)?;
        let ready = client.expect(wire::DECLARE_OK, self.deadline())?;
        let ready = u64::from(ready.message_count());
        let count = match self.random.below(3) {
            0 => ready,
            _ => ready.min(1 + self.random.below(200)),
        };
        let one_by_one = self.random.below(2) == 0;
        let taken = self.take(&mut client, count, Some(one_by_one))?;
        client.declare(QUEUE, true)?;
        client.expect(wire::DECLARE_OK, self.deadline())?;
        for number in &taken {
            self.owed.remove(number);
        }
        self.tell(&format!("acknowledge {} of {ready}", taken.len()));
        Ok(())
    }

    /// Has so many messages delivered, and acknowledged if wished.
    fn take(&self, client: &mut Client, count: u64, acks: Option<bool>) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        if count == 0 {
            return Ok(numbers);
        }
        client.consume(QUEUE, if acks.is_some() { 500 } else { 0 })?;
        while (numbers.len() as u64) < count {
            let Some(came) = client.next(self.deadline())? else {
                bail!("{} of {count} messages were delivered", numbers.len());
            };
            if came.id != wire::DELIVER {
                continue;
            }
            let number = came
                .body
                .first_chunk::<8>()
                .context("a message without its number")?;
            numbers.push(u64::from_be_bytes(*number));
            let last = numbers.len() as u64 == count;
            match acks {
                Some(true) => client.ack(came.tag(), false)?,
                Some(false) if last || numbers.len().is_multiple_of(100) => {
                    client.ack(came.tag(), true)?;
                }
                _ => {}
            }
        }
        Ok(numbers)
    }

    /// Writes until there is no space left, or only a little.
    fn fill_outside(&mut self) -> Result<()> {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.disk().join("outside"))?;
        let mut piece = 8 << 20;
        let mut zeros = vec![0_u8; piece];
        let mut written = 0;
        while piece >= 4096 {
            zeros.truncate(piece);
            match file.write(&zeros) {
                Ok(count) if count > 0 => written += count as u64,
                _ => piece /= 2,
            }
        }
        // Sometimes not to the last byte.
        let spared = [0, 0, 1 << 20, 6 << 20][self.random.below(4) as usize];
        let len = file.metadata()?.len();
        file.set_len(len.saturating_sub(spared))?;
        self.tell(&format!(
            "fill {written} bytes from outside but for {spared}"
        ));
        Ok(())
    }

    fn free_outside(&mut self) -> Result<()> {
        let path = self.disk().join("outside");
        if self.random.below(2) == 0 {
            let _ = fs::remove_file(path);
            self.tell("free all");
            return Ok(());
        }
        if let Ok(file) = File::options().write(true).open(path) {
            let len = file.metadata()?.len();
            let left = len.saturating_sub(1 + self.random.below(24 << 20));
            file.set_len(left)?;
            self.tell(&format!("free {} bytes", len - left));
        }
        Ok(())
    }

    /// A declaration is carried out or refused; a deletion is always carried out.
    fn declare_and_delete(&mut self) -> Result<()> {
        let mut client = self.login()?;
        for number in 0..=self.random.below(20) {
            let name = format!("extra {number}");
            client.declare(&name, false)?;
            let Some(came) = client.next(self.deadline())? else {
                bail!("declaring a queue: no answer");
            };
            match came.id {
                wire::DECLARE_OK => {}
                wire::CHANNEL_CLOSE => {
                    let text = String::from_utf8_lossy(&came.arguments).into_owned();
                    self.tell(&format!("declaration refused: {text}"));
                    client = self.login()?;
                }
                other => bail!("{other:?} for a declaration"),
            }
            client.delete(&name)?;
            client
                .expect(wire::DELETE_OK, self.deadline())
                .context("deleting a queue")?;
        }
        self.tell("declare and delete");
        Ok(())
    }

    /// Once more from the disk as it is; then all that is owed must be there, and with room the
    /// broker must take messages again.
    fn conclude(&mut self) -> Result<()> {
        self.kill_and_start()?;
        self.totals.moved = u64::from(self.has_moved);
        let mut client = self.login()?;
        client.declare(QUEUE, true)?;
        let ready = client.expect(wire::DECLARE_OK, self.deadline())?;
        let count = u64::from(ready.message_count());
        let found = self.take(&mut client, count, Some(false))?;
        let found: BTreeSet<u64> = found.into_iter().collect();
        let lost: Vec<_> = self.owed.difference(&found).take(10).collect();
        if !lost.is_empty() {
            let missing = self.owed.difference(&found).count();
            bail!("{missing} confirmed messages are lost, such as {lost:?}");
        }
        let _ = fs::remove_file(self.disk().join("outside"));
        self.heal()
    }

    /// With an empty queue and a disk that is nobody else's, a message is confirmed soon.
    fn heal(&mut self) -> Result<()> {
        let begun = Instant::now();
        let mut client = self.login()?;
        client.call((85, 10), &[0])?;
        client.expect((85, 11), self.deadline())?;
        while begun.elapsed() < HEAL_TIME_MAX {
            if !client.publish(QUEUE, &[b'x'; 1_000], begun + HEAL_TIME_MAX)? {
                bail!("still blocked although there is room");
            }
            loop {
                let Some(came) = client.next(begun + HEAL_TIME_MAX)? else {
                    bail!(
                        "not healed {} ms after there was room",
                        HEAL_TIME_MAX.as_millis()
                    );
                };
                match came.id {
                    wire::ACK => {
                        self.totals.slowest_heal = self.totals.slowest_heal.max(begun.elapsed());
                        return Ok(());
                    }
                    wire::NACK => break,
                    _ => {}
                }
            }
            thread::sleep(POLL);
        }
        bail!(
            "messages stay refused {} ms after there was room",
            HEAL_TIME_MAX.as_millis()
        )
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.stop();
    }
}
