//! The journal's files and threads: opened before anything is served, closed after everything.

use std::fmt;
use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use leveret_broker::Broker;
use leveret_store::{
    Damage, Journal, JournalConfig, LaneId, Messages, OnCorruption, OpenError,
    PLAUSIBLE_SYNC_NANOS, RecoveredChunks, RecoveredLane, Store, StoreFailure, SyncPolicy, Vfs,
    probe_sync,
};
use tracing::{error, info, warn};

use crate::backup::take_into_use;
use crate::config::{Bootstrap, Config, Corruption, SyncMode};
use crate::disk::{Disk, DiskRefusal};
use crate::process::memory_limit;

/// Exit code after a write or sync of the journal failed: nothing may be confirmed any more.
const JOURNAL_FAILED: i32 = 3;
/// Between two chores: making segments takes no processor for long.
const CHORE_PAUSE: Duration = Duration::from_micros(50);
/// How often the free space is looked at while the journal is idle, and while it is not.
const SPACE_CHECK_IDLE: Duration = Duration::from_secs(1);
const SPACE_CHECK: Duration = Duration::from_millis(100);

/// A disk has room for at least so many segments,
const SEGMENTS_A_DISK: u64 = 32;
/// and a window for so many.
const SEGMENTS_A_WINDOW: u64 = 16;
/// No window is smaller: that of segments of the least size.
const WINDOW_MIN: u64 = 16 << 20;

impl From<std::io::Error> for StartRefusal {
    fn from(error: std::io::Error) -> Self {
        Self::Folder(DiskRefusal::Io(error))
    }
}

/// Why the broker cannot start with its data folder.
#[derive(Debug)]
pub(crate) enum StartRefusal {
    /// The folder cannot be used.
    Folder(DiskRefusal),
    /// What is in it cannot be used.
    Store(OpenError),
    /// Messages in it cannot come back.
    Messages(leveret_broker::NotRestored),
    /// What it says about exchanges, queues and bindings cannot be understood.
    Topology(leveret_broker::NotUnderstood),
    /// The first user or virtual host cannot be.
    First(leveret_broker::AdminError),
}

impl fmt::Display for StartRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(refusal) => refusal.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Messages(refusal) => refusal.fmt(f),
            Self::Topology(error) => error.fmt(f),
            Self::First(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartRefusal {}

/// A journal that was opened, and what it remembers.
pub(crate) struct Opened {
    pub(crate) journal: Arc<Journal>,
    disk: Arc<Disk>,
    sync: SyncMode,
    topology: std::collections::BTreeMap<Vec<u8>, Vec<u8>>,
    next_lane: u32,
    lanes: Vec<RecoveredLane>,
    messages: Messages,
    /// What was handed over to run files.
    pub(crate) moved: RecoveredChunks,
    damage: Vec<Damage>,
}

/// Opens the journal in the data folder, or makes one.
///
/// # Errors
/// [`StartRefusal`].
pub(crate) fn open(config: &Config) -> Result<Opened, StartRefusal> {
    let disk = Arc::new(Disk::open(&config.data_dir).map_err(StartRefusal::Folder)?);
    let total = disk.total_bytes();
    let total = total.map_err(|error| StartRefusal::Folder(DiskRefusal::Io(error)))?;
    let settings = JournalConfig {
        disk_free_min: config.limits.disk_free_min,
        sync: match config.storage.sync {
            SyncMode::Group => SyncPolicy::Group,
            SyncMode::Os => SyncPolicy::Os,
        },
        on_corruption: match config.storage.on_corruption {
            Corruption::Salvage => OnCorruption::Salvage,
            Corruption::Refuse => OnCorruption::Refuse,
        },
        new_store_id: random().map_err(|error| StartRefusal::Folder(DiskRefusal::Io(error)))?,
        ..sized_for(
            total,
            window_bytes(config, memory_limit().map(|it| it.bytes)),
        )
    };
    let vfs = Arc::clone(&disk) as Arc<dyn Vfs>;
    take_into_use(&config.data_dir)?;
    let recovered = Journal::open(vfs, settings).map_err(StartRefusal::Store)?;
    if recovered.format_repaired {
        warn!("one of the two copies in the file FORMAT was unreadable: it was written anew");
    }
    Ok(Opened {
        journal: Arc::new(recovered.journal),
        disk,
        sync: config.storage.sync,
        topology: recovered.topology,
        next_lane: recovered.next_lane,
        lanes: recovered.lanes,
        messages: recovered.messages,
        moved: recovered.moved,
        damage: recovered.damage,
    })
}

/// How long the journal may be: what is in it can come back into memory, beside what is there, also
/// when the disk is so full at a start that no run file takes what is too much.
fn window_bytes(config: &Config, memory_bytes: Option<u64>) -> u64 {
    let resident = config.limits.resident_bytes_of(memory_bytes);
    config
        .storage
        .journal_window
        .min((resident / 2).max(WINDOW_MIN))
}

/// How a journal with such a window is kept on a disk of this size.
pub(crate) fn sized_for(disk_bytes: u64, window_bytes: u64) -> JournalConfig {
    let segment_bytes = segment_bytes(disk_bytes, window_bytes);
    JournalConfig {
        window_bytes,
        segment_bytes,
        frame_bytes_max: segment_bytes / 4,
        missing: Some(leveret_broker::topology::missing),
        ..JournalConfig::default()
    }
}

/// The size of a segment: less than usual on a small disk, on which the reserve and the segments
/// in use must leave room for each other, and in a small window, which moves on by whole segments.
fn segment_bytes(disk_bytes: u64, window_bytes: u64) -> u64 {
    let usual = JournalConfig::default();
    let share = (disk_bytes / SEGMENTS_A_DISK).min(window_bytes / SEGMENTS_A_WINDOW);
    let share = share.max(usual.first_segment_bytes);
    // A power of two, so that a disk that is resized a little keeps its segments.
    let share = share.checked_ilog2().map_or(0, |bits| 1 << bits);
    usual.segment_bytes.min(share)
}

/// Bytes that no other store has.
pub(crate) fn random() -> std::io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl Opened {
    /// Gives the broker what the journal remembers, and to a new one its first user and virtual
    /// host; starts the journal's threads.
    ///
    /// # Errors
    /// [`StartRefusal`].
    pub(crate) fn restore(
        self,
        broker: &Broker,
        first: &Bootstrap,
    ) -> Result<RunningJournal, StartRefusal> {
        let begun = Instant::now();
        broker
            .restore(&self.topology, self.next_lane)
            .map_err(StartRefusal::Topology)?;
        let restored = broker
            .restore_messages(&self.lanes, self.messages, self.moved)
            .map_err(StartRefusal::Messages)?;
        let new = self.topology.is_empty();
        if new {
            broker
                .first_start(&first.user, first.password.expose(), &first.vhost)
                .map_err(StartRefusal::First)?;
            // Nobody is let in by what a crash would take back. A full disk shows later.
            if let Err(failure) = self.journal.commit() {
                stop(&failure);
            }
        } else {
            tell_of_first(broker, first);
        }
        for damage in &self.damage {
            tell(broker, damage);
        }
        if restored.orphans > 0 {
            warn!(
                messages = restored.orphans,
                "messages of queues that are gone were dropped"
            );
        }
        info!(
            new,
            queues = restored.queues,
            messages = restored.messages,
            ms = begun.elapsed().as_millis(),
            "durable queues and their messages are back"
        );
        if restored.beyond_bytes > 0 {
            warn!(
                bytes = restored.beyond_bytes,
                "the disk takes no run files: more messages than limits.resident_bytes are in \
                 memory until it does or they are consumed, and so long publishers wait; make \
                 room on the disk"
            );
        }
        if self.sync == SyncMode::Os {
            warn!(
                "storage.sync is \"os\": confirmed messages survive the broker, but not a power \
                 cut or a crash of the operating system"
            );
        }
        Ok(RunningJournal::start(self.journal, self.disk, self.sync))
    }
}

/// Says that a first user that was asked for is not made: who set one expects to log in as it.
fn tell_of_first(broker: &Broker, first: &Bootstrap) {
    if first.user != Bootstrap::default().user && broker.user(&first.user).is_none() {
        warn!(
            user = first.user,
            "default.user counts only when the data folder is new: there is no such user"
        );
    }
}

/// Says what was lost, by queue and sequence number.
fn tell(broker: &Broker, damage: &Damage) {
    let queue = |lane: LaneId| match broker.queue_of_lane(lane) {
        Some((vhost, queue)) => format!("queue '{queue}' in vhost '{vhost}'"),
        None => format!("a deleted queue (lane {})", lane.0),
    };
    let lost = damage.lost.iter().map(|(lane, from, to)| {
        format!(
            "{}: messages {from} to {}",
            queue(*lane),
            to.saturating_sub(1)
        )
    });
    let lost = lost.collect::<Vec<_>>().join("; ");
    error!(
        %damage,
        lost,
        "confirmed data could not be read and is left out; check the disk, and restore the data \
         folder from a backup if the messages are needed"
    );
}

/// The journal at work.
pub(crate) struct RunningJournal {
    journal: Arc<Journal>,
    committer: JoinHandle<()>,
    keeper: JoinHandle<()>,
}

impl RunningJournal {
    fn start(journal: Arc<Journal>, disk: Arc<Disk>, sync: SyncMode) -> Self {
        let committing = Arc::clone(&journal);
        let committer = spawn("journal", move || {
            while committing.turn().unwrap_or_else(|failure| stop(&failure)) {}
        });
        let keeping = Arc::clone(&journal);
        let keeper = spawn("housekeeping", move || {
            if sync == SyncMode::Group {
                probe(&disk);
            }
            keep(&keeping);
        });
        Self {
            journal,
            committer,
            keeper,
        }
    }

    /// What it works on.
    pub(crate) fn journal(&self) -> Arc<Journal> {
        Arc::clone(&self.journal)
    }

    /// Commits what was submitted and leaves a checkpoint, so that the next start is quick.
    pub(crate) fn stop(self) {
        self.journal.close();
        for thread in [self.committer, self.keeper] {
            // A panic in it has ended the process.
            drop(thread.join());
        }
        if let Err(failure) = self.journal.checkpoint() {
            warn!(%failure, "no checkpoint: the next start takes longer");
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "a broker without its journal cannot run"
)]
fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let work = move || {
        // Without this thread nothing is confirmed any more, and nobody would hear of it.
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            let reason = format!("the thread {name} has panicked");
            stop(&StoreFailure { reason });
        }
    };
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .expect("the system has threads")
}

/// Ends the process at once, so that nothing is told to anybody any more.
fn stop(failure: &StoreFailure) -> ! {
    error!(
        %failure,
        "the broker stops: nothing more can be confirmed. What was confirmed is on the disk; check \
         the disk, then start again"
    );
    std::process::exit(JOURNAL_FAILED)
}

/// The housekeeping thread's work until the journal's thread has ended, which may wait for the
/// space that it makes.
fn keep(journal: &Journal) {
    let mut refused = false;
    let mut seen = journal.durable();
    let mut unknown = false;
    let mut checked = Instant::now();
    let mut limit = Duration::ZERO;
    let mut more = false;
    while !journal.has_ended() {
        if more {
            std::thread::sleep(CHORE_PAUSE);
        } else {
            journal.wait_for_chores(limit.saturating_sub(checked.elapsed()));
        }
        more = journal.housekeep().unwrap_or_else(|failure| stop(&failure));
        for damage in journal.take_damage() {
            error!(
                %damage,
                "a segment cannot be read whole; what it holds stays in memory, and may be lost \
                 at the next start: check the disk"
            );
        }
        if checked.elapsed() < limit {
            continue;
        }
        checked = Instant::now();
        let busy = refused || journal.durable() != seen;
        seen = journal.durable();
        limit = if busy { SPACE_CHECK } else { SPACE_CHECK_IDLE };
        if let Err(error) = journal.check_space()
            && !std::mem::replace(&mut unknown, true)
        {
            warn!(%error, "the disk does not tell its free space");
        }
        let refuses = !journal.admits_messages();
        if refuses != refused {
            refused = refuses;
            if refuses {
                warn!(
                    "the disk is full or below limits.disk_free_min, or the journal gets no file \
                     descriptor: persistent messages are refused for so long; consumers go on"
                );
            } else {
                info!("the journal has space again: persistent messages are accepted");
            }
        }
    }
}

/// Warns about a disk that says yes too quickly.
fn probe(disk: &Disk) {
    let start = Instant::now();
    let clock = || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    match probe_sync(disk, clock) {
        Ok(nanos) if nanos < PLAUSIBLE_SYNC_NANOS => warn!(
            sync_us = nanos / 1000,
            "a sync of the data folder takes implausibly little time: the disk may not write \
             through, and confirmed messages may not survive a power cut"
        ),
        Ok(nanos) => info!(sync_us = nanos / 1000, "a sync of the data folder"),
        Err(error) => warn!(%error, "cannot measure a sync of the data folder"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs itself again, in a process of its own that may end.
    #[test]
    fn a_panic_on_a_thread_of_the_journal_ends_the_process() {
        const ITSELF: &str = "journal::tests::a_panic_on_a_thread_of_the_journal_ends_the_process";
        if std::env::var_os("LEVERET_TEST_PANIC").is_some() {
            spawn("journal", || panic!("as the test wants"))
                .join()
                .unwrap();
            return;
        }
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again
            .args(["--exact", ITSELF])
            .env("LEVERET_TEST_PANIC", "1");
        let ended = again.output().unwrap();
        assert_eq!(ended.status.code(), Some(JOURNAL_FAILED), "{ended:?}");
    }

    #[test]
    fn what_the_journal_holds_fits_in_memory() {
        let mut config = Config::default();
        let window = |config: &Config, mib: u64| window_bytes(config, Some(mib << 20)) >> 20;
        assert_eq!(window(&config, 64 << 10), 256);
        assert_eq!(window(&config, 512), 64);
        assert_eq!(window(&config, 32), 16);
        assert_eq!(window_bytes(&config, None), 256 << 20);
        config.limits.resident_bytes = 48 << 20;
        assert_eq!(window(&config, 64 << 10), 24);
        config.limits.resident_bytes = 1;
        assert_eq!(window(&config, 64 << 10), 16);
        config.limits.resident_bytes = 400 << 20;
        config.storage.journal_window = 100 << 20;
        assert_eq!(window(&config, 64 << 10), 100);
    }

    #[test]
    fn small_disks_have_small_segments() {
        assert_eq!(segment_bytes(0, u64::MAX), 1 << 20);
        assert_eq!(segment_bytes(40 << 20, u64::MAX), 1 << 20);
        assert_eq!(segment_bytes(400 << 20, u64::MAX), 8 << 20);
        assert_eq!(segment_bytes(2 << 30, u64::MAX), 64 << 20);
        assert_eq!(segment_bytes(u64::MAX, 1 << 30), 64 << 20);
        assert_eq!(segment_bytes(u64::MAX, 100 << 20), 4 << 20);
        assert_eq!(segment_bytes(u64::MAX, 1 << 20), 1 << 20);
    }
}
