//! The journal: what connections submit goes to the disk in frames, one write and one sync each.
//!
//! The binary's journal thread loops over [`Journal::turn`], its housekeeping thread over
//! [`Journal::housekeep`]; connections call [`Store`]. Locks are taken in the order chores, core,
//! stage, waiters; connections only ever take the last two.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use leveret_record::RunPlace;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::build::BuiltFrame;
use crate::checkpoint::Files;
use crate::chores::Chores;
use crate::core::{Core, WriteError};
use crate::space::Space;
use crate::stage::Stage;
use crate::vfs::Vfs;
use crate::{Batch, JournalConfig, LaneId, Store, StoreRefusal, StoreSabotage, Ticket, Waiter};

/// How long settlements may wait for company when nobody waits for them.
const LAZY: Duration = Duration::from_millis(5);

/// After how long without work the last frame is covered by an empty one.
const IDLE: Duration = Duration::from_millis(100);

/// How long the journal's thread waits before it tries again to find space.
const STALL: Duration = Duration::from_millis(100);

/// How often it does so once the journal is closed: housekeeping has had its chance by then.
const STALLS_AT_CLOSE: u32 = 30;

/// So many waiters of one commit are served on the journal's thread: a thread less to wake before
/// each hears of it, and no long wait for the next commit.
const FEW: usize = 4;

/// The journal of one store.
pub struct Journal {
    pub(crate) config: JournalConfig,
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) checkpoints: Files,
    pub(crate) core: Mutex<Core>,
    pub(crate) chores: Mutex<Chores>,
    /// Whether the housekeeping thread should look.
    pub(crate) bell: Mutex<bool>,
    pub(crate) bell_rung: Condvar,
    entrance: Mutex<Entrance>,
    work: Condvar,
    staged: AtomicUsize,
    durable: AtomicU64,
    waiters: Mutex<Vec<(Ticket, Arc<dyn Waiter>)>>,
    admission: AtomicU8,
    failure: Mutex<Option<StoreFailure>>,
    pub(crate) space: Space,
}

/// What connections and the journal's thread meet at.
struct Entrance {
    stage: Stage,
    /// Stages before it that take no more.
    full: VecDeque<Stage>,
    /// The journal's thread waits and wants to be woken.
    sleeping: bool,
    /// The last frame is not covered yet.
    uncovered: bool,
    closed: bool,
    /// Closed, and everything is durable.
    ended: bool,
    /// Stalls since it was closed.
    stalls: u32,
}

impl Entrance {
    /// Exchanges the stage for the next one, which is empty.
    fn exchange(&mut self, mut next: Stage) -> Stage {
        next.ticket = Ticket(self.stage.ticket.0 + 1);
        std::mem::replace(&mut self.stage, next)
    }

    /// Has what comes next begin a stage of its own if it would make this one's frame large.
    fn make_way(&mut self, bytes: usize, config: &JournalConfig) {
        if self.stage.is_full(bytes, config.frame_bytes_max) {
            let full = self.exchange(Stage::default());
            self.full.push_back(full);
        }
    }

    /// The deliberate fault of writing a group in two frames.
    fn tear_group(
        &mut self,
        batch: &mut Batch,
        config: &JournalConfig,
    ) -> Result<(), StoreRefusal> {
        let copies_first = config.breaks(StoreSabotage::CopyBeforeSettle);
        if !copies_first && !config.breaks(StoreSabotage::SettleBeforeCopy) {
            return Ok(());
        }
        if let Some(mut part) = batch.tear_group() {
            if copies_first {
                std::mem::swap(batch, &mut part);
            }
            self.stage.add(&mut part)?;
            let torn = self.exchange(Stage::default());
            self.full.push_back(torn);
        }
        Ok(())
    }

    /// Bytes held for connections.
    fn len(&self) -> usize {
        self.full.iter().map(Stage::len).sum::<usize>() + self.stage.len()
    }

    /// Somebody waits for what is there.
    fn is_urgent(&self) -> bool {
        self.stage.urgent || !self.full.is_empty()
    }
}

/// A write or sync failed: nothing becomes durable any more, the process must end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreFailure {
    /// What failed and why.
    pub reason: String,
}

impl fmt::Display for StoreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the journal has failed: {}", self.reason)
    }
}

impl std::error::Error for StoreFailure {}

/// What a commit did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Everything submitted before is durable.
    Committed,
    /// There was nothing to do.
    Nothing,
    /// The disk is full and the reserve used up: to be tried again.
    Stalled,
}

const OPEN: u8 = 0;
const FULL: u8 = 1;
const STOPPED: u8 = 2;

impl Journal {
    /// A journal that goes on where recovery ended.
    pub(crate) fn new(
        vfs: Arc<dyn Vfs>,
        config: JournalConfig,
        checkpoints: Files,
        core: Core,
    ) -> Self {
        let first = Ticket(1);
        Self {
            space: Space::new(&core, &config, checkpoints.shorter_len().unwrap_or(0)),
            config,
            vfs,
            checkpoints,
            core: Mutex::new(core),
            chores: Mutex::new(Chores::default()),
            bell: Mutex::new(true),
            bell_rung: Condvar::new(),
            entrance: Mutex::new(Entrance {
                stage: Stage {
                    ticket: first,
                    ..Stage::default()
                },
                full: VecDeque::new(),
                sleeping: false,
                uncovered: true,
                closed: false,
                ended: false,
                stalls: 0,
            }),
            work: Condvar::new(),
            staged: AtomicUsize::new(0),
            durable: AtomicU64::new(0),
            waiters: Mutex::new(Vec::new()),
            admission: AtomicU8::new(OPEN),
            failure: Mutex::new(None),
        }
    }

    /// One turn of the journal's thread: waits for work and commits it. False once closed and
    /// everything submitted is durable.
    ///
    /// # Errors
    /// [`StoreFailure`]: the process must end; nothing submitted later will become durable.
    pub fn turn(&self) -> Result<bool, StoreFailure> {
        let open = self.wait_for_work();
        match self.commit()? {
            Progress::Stalled => self.wait_for_space(),
            Progress::Committed => Ok(true),
            Progress::Nothing => {
                self.cover()?;
                if !open {
                    self.entrance.lock().ended = true;
                    self.ring();
                }
                Ok(open)
            }
        }
    }

    /// Waits before the next attempt to find space. After [`Self::close`] not for ever.
    fn wait_for_space(&self) -> Result<bool, StoreFailure> {
        let mut entrance = self.entrance.lock();
        if entrance.closed {
            entrance.stalls += 1;
            if entrance.stalls > STALLS_AT_CLOSE {
                drop(entrance);
                let reason = "closed with the disk full; what waits for space was not confirmed";
                return Err(self.fail(reason.to_owned()));
            }
        }
        self.work.wait_for(&mut entrance, STALL);
        Ok(true)
    }

    /// Writes what has been submitted: one frame, one write, one sync, then the watermark; of very
    /// much several.
    ///
    /// # Errors
    /// [`StoreFailure`]: a write or sync failed now or before.
    pub fn commit(&self) -> Result<Progress, StoreFailure> {
        let pending = usize::from(self.core.lock().pending.is_some());
        let full = self.entrance.lock().full.len();
        for _ in 0..pending + full {
            let progress = self.commit_frame()?;
            if progress != Progress::Committed {
                return Ok(progress);
            }
        }
        self.commit_frame()
    }

    fn commit_frame(&self) -> Result<Progress, StoreFailure> {
        let mut core = self.core.lock();
        self.check()?;
        let pending = core.pending.take().or_else(|| self.take_stage(&mut core));
        let Some(frame) = pending else {
            return Ok(Progress::Nothing);
        };
        let ticket = frame.stage.ticket;
        let claim = frame.stage.claim.clone();
        if let Err(error) = self.space.hand_over(&*self.vfs, &mut core, &claim) {
            return Err(self.fail(format!("making a segment: {error}")));
        }
        if self.config.breaks(StoreSabotage::WatermarkFirst) {
            self.announce(ticket);
        }
        match core.commit(&*self.vfs, &self.config, frame) {
            Ok(()) => {}
            Err(WriteError::NoSpace) => {
                core.starved = true;
                drop(core);
                self.judge_space(None);
                self.ring();
                return Ok(Progress::Stalled);
            }
            Err(WriteError::Fatal(reason)) => return Err(self.fail(reason)),
        }
        self.space.update(&core, &self.config);
        self.space.give_back(&claim);
        let wants_chores = core.wants_chores(&self.config) || self.space.lacks_image(&self.config);
        drop(core);
        self.announce(ticket);
        if wants_chores {
            self.ring();
        }
        Ok(Progress::Committed)
    }

    /// Writes an empty frame if the last one is not covered by a later one: until then, rot in it
    /// could not be told from a write that a crash interrupted.
    ///
    /// # Errors
    /// [`StoreFailure`], as for [`Self::commit`].
    pub fn cover(&self) -> Result<(), StoreFailure> {
        let mut core = self.core.lock();
        self.check()?;
        match core.cover(&*self.vfs, &self.config) {
            Ok(()) | Err(WriteError::NoSpace) => {
                self.entrance.lock().uncovered = false;
                Ok(())
            }
            Err(WriteError::Fatal(reason)) => Err(self.fail(reason)),
        }
    }

    /// Messages of which a delivery count is kept; for tests: they must live, or be on their way.
    #[cfg(feature = "sabotage")]
    #[must_use]
    pub fn delivery_counts(&self) -> u64 {
        let core = self.core.lock();
        let counts = core.lanes.lanes.values().flat_map(|lane| lane.counts());
        counts.map(|(from, to, _)| to - from).sum()
    }

    /// Has the journal's thread commit what is there and end ([`Self::turn`] gives false).
    pub fn close(&self) {
        self.entrance.lock().closed = true;
        self.work.notify_all();
        self.ring();
    }

    /// Whether the journal's thread has committed everything after [`Self::close`]: there is no
    /// housekeeping any more. Until then it may wait for the space that housekeeping makes.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.entrance.lock().ended
    }

    /// Why the journal has stopped, if it has.
    #[must_use]
    pub fn failure(&self) -> Option<StoreFailure> {
        self.failure.lock().clone()
    }

    /// Stops admitting anything, for ever; remembers the first reason.
    pub(crate) fn fail(&self, reason: String) -> StoreFailure {
        self.admission.store(STOPPED, Ordering::Release);
        self.failure
            .lock()
            .get_or_insert(StoreFailure { reason })
            .clone()
    }

    /// The failure that has stopped the journal, as an error.
    pub(crate) fn check(&self) -> Result<(), StoreFailure> {
        if self.admission.load(Ordering::Acquire) == STOPPED
            && let Some(failure) = self.failure.lock().clone()
        {
            return Err(failure);
        }
        Ok(())
    }

    /// Admits messages or refuses them for want of space.
    pub(crate) fn admit(&self, admit: bool) {
        let (from, to) = if admit { (FULL, OPEN) } else { (OPEN, FULL) };
        // A stopped journal stays stopped, so a failed exchange is as it should be.
        let _unchanged =
            self.admission
                .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Wakes the housekeeping thread.
    pub(crate) fn ring(&self) {
        *self.bell.lock() = true;
        self.bell_rung.notify_all();
    }

    /// Puts records of a segment to be emptied into the next frame; the ticket tells when the
    /// segment no longer holds them.
    pub(crate) fn stage_copies(&self, victim: u64, records: Vec<u8>) -> Ticket {
        let mut entrance = self.entrance.lock();
        entrance.make_way(records.len(), &self.config);
        entrance.stage.copies.push((victim, records));
        entrance.stage.urgent = true;
        let ticket = entrance.stage.ticket;
        self.wake_thread(&mut entrance);
        ticket
    }

    /// Exchanges the stage for an empty one and builds its frame; `None` if it is empty.
    fn take_stage(&self, core: &mut Core) -> Option<BuiltFrame> {
        let mut entrance = self.entrance.lock();
        let stage = match entrance.full.pop_front() {
            Some(stage) => stage,
            None if entrance.stage.is_empty() => return None,
            None => {
                let next = std::mem::take(&mut core.spare);
                entrance.exchange(next)
            }
        };
        entrance.uncovered = true;
        self.staged.store(entrance.len(), Ordering::Release);
        drop(entrance);
        Some(BuiltFrame::build(stage, &core.lanes, &self.config))
    }

    /// Moves the watermark and calls whoever waited for it.
    fn announce(&self, ticket: Ticket) {
        let due = {
            let mut waiters = self.waiters.lock();
            self.durable.store(ticket.0, Ordering::Release);
            take_due(&mut waiters, ticket)
        };
        let few = due.len() <= FEW;
        for waiter in due {
            waiter.durable(few);
        }
    }

    /// Waits until there is something to commit or to cover; false once closed.
    fn wait_for_work(&self) -> bool {
        let mut entrance = self.entrance.lock();
        while !entrance.is_urgent() && !entrance.closed {
            let lazy = !entrance.stage.is_empty();
            entrance.sleeping = true;
            let timed_out = if lazy {
                self.work.wait_for(&mut entrance, LAZY).timed_out()
            } else if entrance.uncovered {
                self.work.wait_for(&mut entrance, IDLE).timed_out()
            } else {
                self.work.wait(&mut entrance);
                false
            };
            entrance.sleeping = false;
            if timed_out && (lazy || entrance.stage.is_empty()) {
                break;
            }
        }
        !entrance.closed
    }

    fn wake_thread(&self, entrance: &mut MutexGuard<'_, Entrance>) {
        if entrance.sleeping {
            entrance.sleeping = false;
            self.work.notify_one();
        }
    }
}

/// How many settlements, or delivery counts, are written in one frame: about as many as make a
/// frame of the usual length.
fn ranges_of_part(config: &JournalConfig) -> usize {
    let bytes = config.frame_bytes_max.min(config.segment_bytes / 4);
    usize::try_from(bytes / crate::checkpoint::RANGE_BYTES).unwrap_or(usize::MAX)
}

/// Removes and returns the waiters whose ticket the watermark has reached.
fn take_due(waiters: &mut Vec<(Ticket, Arc<dyn Waiter>)>, durable: Ticket) -> Vec<Arc<dyn Waiter>> {
    waiters
        .extract_if(.., |(ticket, _)| *ticket <= durable)
        .map(|(_, waiter)| waiter)
        .collect()
}

impl Store for Journal {
    fn submit(&self, batch: &mut Batch) -> Result<Ticket, StoreRefusal> {
        if batch.is_void() || self.admission.load(Ordering::Acquire) == STOPPED {
            let claim = batch.claim.take();
            self.space.give_back(&claim);
            self.space.unmake(&*self.vfs, &claim);
        }
        if self.admission.load(Ordering::Acquire) == STOPPED {
            batch.clear();
            return Err(StoreRefusal::Stopped);
        }
        let ranges = ranges_of_part(&self.config);
        let mut entrance = self.entrance.lock();
        let was_urgent = entrance.is_urgent();
        let was_empty = entrance.stage.is_empty();
        while let Some(mut part) = batch.take_part(ranges) {
            entrance.make_way(part.bytes_len(), &self.config);
            entrance.stage.add(&mut part)?;
        }
        entrance.make_way(batch.bytes_len(), &self.config);
        entrance.tear_group(batch, &self.config)?;
        let was_empty = was_empty || entrance.stage.is_empty();
        let ticket = entrance.stage.add(batch)?;
        self.staged.store(entrance.len(), Ordering::Release);
        if (was_empty && ticket > Ticket(0)) || (!was_urgent && entrance.is_urgent()) {
            self.wake_thread(&mut entrance);
        }
        Ok(ticket)
    }

    fn admission(&self) -> Result<(), StoreRefusal> {
        match self.admission.load(Ordering::Acquire) {
            OPEN => Ok(()),
            FULL => Err(StoreRefusal::DiskFull),
            _ => Err(StoreRefusal::Stopped),
        }
    }

    fn claim(&self, batch: &mut Batch, messages: usize, bytes: usize) -> Result<(), StoreRefusal> {
        self.claim_space(batch, (messages, bytes))
    }

    fn admit_change(&self, batch: &mut Batch, bytes: usize) -> Result<(), StoreRefusal> {
        self.admit_change_now(batch, bytes)
    }

    fn pinned(&self) -> Vec<(LaneId, u64, u64)> {
        self.core.lock().pinned(&self.config)
    }

    fn take_free_places(&self) -> Vec<RunPlace> {
        let mut core = self.core.lock();
        if core.backing_up {
            // The copy may need them.
            return Vec::new();
        }
        std::mem::take(&mut core.free_places)
    }

    fn durable(&self) -> Ticket {
        Ticket(self.durable.load(Ordering::Acquire))
    }

    fn wake_at(&self, ticket: Ticket, waiter: Arc<dyn Waiter>) {
        let mut waiters = self.waiters.lock();
        if self.durable() < ticket {
            waiters.push((ticket, waiter));
            drop(waiters);
            // Whoever waits for settlements alone makes them urgent.
            let mut entrance = self.entrance.lock();
            if entrance.stage.ticket == ticket && !entrance.stage.urgent {
                entrance.stage.urgent = true;
                self.wake_thread(&mut entrance);
            }
            return;
        }
        drop(waiters);
        waiter.durable(false);
    }

    fn staged_bytes(&self) -> usize {
        self.staged.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MessageParts;
    use crate::sim::SimDisk;

    const LANE: LaneId = LaneId(1);

    fn tiny() -> JournalConfig {
        JournalConfig {
            segment_bytes: 32 << 10,
            first_segment_bytes: 16 << 10,
            start_segment_bytes: 8 << 10,
            window_bytes: 128 << 10,
            checkpoint_bytes: 64 << 10,
            reserve_segments: 1,
            disk_free_min: 0,
            ..JournalConfig::default()
        }
    }

    fn message(batch: &mut Batch, seq: u64, body: &[u8]) {
        let parts = MessageParts {
            route: b"\0\x01k",
            header: b"head",
            body: &[body],
            ..MessageParts::default()
        };
        batch.message(&[(LANE, seq)], &parts);
    }

    fn contents(disk: &SimDisk) -> (Vec<(u64, Vec<u8>, u32)>, u64) {
        let recovered = Journal::open(Arc::new(disk.clone()), tiny()).unwrap();
        assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
        let mut messages = Vec::new();
        let next = recovered
            .lanes
            .iter()
            .find(|l| l.lane == LANE)
            .map_or(0, |l| l.next_seq);
        recovered
            .messages
            .replay(|m| messages.push((m.seq, m.body.to_vec(), m.attempts.acquired)))
            .unwrap();
        (messages, next)
    }

    #[test]
    fn what_was_committed_is_there_after_a_restart() {
        let disk = SimDisk::new();
        let opened = Journal::open(Arc::new(disk.clone()), tiny()).unwrap();
        assert!(opened.created && opened.messages.is_empty());
        let journal = opened.journal;
        let mut batch = Batch::new();
        for seq in 0..4 {
            message(&mut batch, seq, b"body");
        }
        let ticket = journal.submit(&mut batch).unwrap();
        assert!(journal.durable() < ticket);
        assert_eq!(journal.commit(), Ok(Progress::Committed));
        assert!(journal.durable() >= ticket);
        batch.settle(LANE, 1);
        let attempts = leveret_record::Attempts {
            acquired: 3,
            failed: 1,
        };
        batch.returned(LANE, 2, attempts);
        batch.topology(b"q", Some(b"durable"));
        journal.submit(&mut batch).unwrap();
        assert_eq!(journal.commit(), Ok(Progress::Committed));
        let expected: Vec<_> = [(0, 0), (2, 3), (3, 0)]
            .map(|(seq, n)| (seq, b"body".to_vec(), n))
            .into();
        for _ in 0..3 {
            assert_eq!(contents(&disk), (expected.clone(), 4));
        }
    }

    /// Fills and drains until every segment has been used several times.
    #[test]
    fn segments_are_recycled_and_stragglers_copied() {
        let disk = SimDisk::new();
        let journal = Journal::open(Arc::new(disk.clone()), tiny())
            .unwrap()
            .journal;
        let mut batch = Batch::new();
        for seq in 0..2_000_u64 {
            message(&mut batch, seq, &[seq as u8; 900]);
            if seq >= 20 && (seq - 20) % 100 != 0 {
                batch.settle(LANE, seq - 20);
            }
            journal.submit(&mut batch).unwrap();
            assert_eq!(journal.commit(), Ok(Progress::Committed));
            for _ in 0..20 {
                if !journal.housekeep().unwrap() {
                    break;
                }
            }
        }
        let bytes: usize = disk.image().files.values().map(Vec::len).sum();
        assert!(bytes < 400 << 10, "{bytes} bytes for 40 live messages");
        let (messages, next) = contents(&disk);
        assert_eq!(next, 2_000);
        let expected: Vec<u64> = (0..2_000)
            .filter(|seq| *seq >= 1_980 || seq % 100 == 0)
            .collect();
        assert_eq!(messages.iter().map(|m| m.0).collect::<Vec<_>>(), expected);
        assert!(messages.iter().all(|m| m.1 == [m.0 as u8; 900]));
    }

    struct Wake(std::sync::mpsc::Sender<()>);

    impl Waiter for Wake {
        fn durable(&self, _few: bool) {
            self.0.send(()).unwrap();
        }
    }

    /// Several connections, a journal thread and a housekeeping thread, as in the binary.
    #[test]
    fn threads_commit_wake_and_end() {
        let disk = SimDisk::new();
        let opened = Journal::open(Arc::new(disk.clone()), tiny()).unwrap();
        let journal = Arc::new(opened.journal);
        let committer = journal.clone();
        let thread = std::thread::spawn(move || while committer.turn().unwrap() {});
        let keeper = journal.clone();
        let chores = std::thread::spawn(move || {
            while !keeper.has_ended() {
                keeper.wait_for_chores(Duration::from_millis(50));
                while keeper.housekeep().unwrap() {}
            }
        });
        let connections: Vec<_> = (0..4_u32)
            .map(|lane| {
                let journal = journal.clone();
                std::thread::spawn(move || {
                    let (sender, woken) = std::sync::mpsc::channel();
                    let mut batch = Batch::new();
                    for seq in 0..100 {
                        let parts = MessageParts {
                            body: &[b"body"],
                            ..Default::default()
                        };
                        batch.message(&[(LaneId(lane), seq)], &parts);
                        let ticket = journal.submit(&mut batch).unwrap();
                        journal.wake_at(ticket, Arc::new(Wake(sender.clone())));
                        woken.recv_timeout(Duration::from_secs(20)).unwrap();
                        assert!(journal.durable() >= ticket);
                        batch.settle(LaneId(lane), seq);
                        journal.submit(&mut batch).unwrap();
                    }
                })
            })
            .collect();
        connections
            .into_iter()
            .for_each(|connection| connection.join().unwrap());
        journal.close();
        thread.join().unwrap();
        chores.join().unwrap();
        journal.checkpoint().unwrap();
        assert_eq!(journal.staged_bytes(), 0);
        let reopened = Journal::open(Arc::new(disk), tiny()).unwrap();
        assert!(reopened.messages.is_empty() && reopened.damage.is_empty());
        assert_eq!(reopened.lanes.len(), 4);
    }

    #[test]
    fn a_close_on_a_full_disk_waits_for_housekeeping_and_not_for_ever() {
        for settles in [true, false] {
            let disk = SimDisk::new();
            let journal = Journal::open(Arc::new(disk.clone()), tiny())
                .unwrap()
                .journal;
            let used: usize = disk.image().files.values().map(Vec::len).sum();
            // Enough for some segments and a checkpoint.
            disk.set_capacity(used as u64 + (56 << 10));
            let mut batch = Batch::new();
            for seq in 0.. {
                message(&mut batch, seq, &[7; 900]);
                if settles && seq > 0 {
                    batch.settle(LANE, seq - 1);
                }
                journal.submit(&mut batch).unwrap();
                if journal.commit() == Ok(Progress::Stalled) {
                    break;
                }
            }
            journal.close();
            let ended = std::thread::scope(|scope| {
                let turns = scope.spawn(|| {
                    while journal.turn()? {}
                    Ok::<_, StoreFailure>(())
                });
                while !turns.is_finished() {
                    journal.wait_for_chores(Duration::from_millis(10));
                    while journal.housekeep() == Ok(true) {}
                }
                turns.join().unwrap()
            });
            assert_eq!(ended.is_ok(), settles);
            assert_eq!(journal.has_ended(), settles);
        }
    }

    #[test]
    fn without_a_sync_a_confirm_survives_the_process_only() {
        let config = JournalConfig {
            sync: crate::SyncPolicy::Os,
            ..tiny()
        };
        let disk = SimDisk::new();
        let open = |disk: &SimDisk| Journal::open(Arc::new(disk.clone()), config.clone()).unwrap();
        let journal = open(&disk).journal;
        let mut batch = Batch::new();
        for seq in 0..40 {
            message(&mut batch, seq, &[7; 700]);
            journal.submit(&mut batch).unwrap();
            assert_eq!(journal.commit(), Ok(Progress::Committed));
        }
        let mut points = disk.crash_points();
        while points.advance() {}
        assert_eq!(
            open(&SimDisk::from_image(&points.keep_all()))
                .messages
                .len(),
            40
        );
        assert!(
            open(&SimDisk::from_image(&points.lose_all()))
                .messages
                .len()
                < 40
        );
        for _ in 0..100 {
            journal.housekeep().unwrap();
        }
        let mut points = disk.crash_points();
        while points.advance() {}
        assert_eq!(
            open(&SimDisk::from_image(&points.lose_all()))
                .messages
                .len(),
            40
        );
    }
}
