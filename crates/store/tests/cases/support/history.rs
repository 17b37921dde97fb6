//! A random history on a simulated disk, with a note of what must survive a crash at each change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leveret_store::sim::{CrashPoints, DiskFault, Rng, SimDisk};
use leveret_store::{
    Batch, DiskError, Journal, JournalConfig, Progress, Store, StoreSabotage, Ticket, Waiter,
};
use parking_lot::Mutex;

use super::copies::Copy;
use super::model::{Message, Model, Op, Visible};
use super::runs::{self, Runs};

/// From this change on a crash must leave one of these states.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) changes: usize,
    pub(crate) allowed: Vec<usize>,
}

/// A history that was played.
pub(crate) struct Played {
    pub(crate) points: CrashPoints,
    pub(crate) marks: Vec<Mark>,
    pub(crate) states: Vec<Model>,
    /// What went wrong without any crash.
    pub(crate) violation: Option<String>,
}

/// Plays `steps` random steps.
pub(crate) fn play(seed: u64, steps: u64, config: &JournalConfig, deaf: Option<&str>) -> Played {
    let disk = SimDisk::new();
    if let Some(prefix) = deaf {
        disk.deafen(prefix);
    }
    let mut player = match Player::start(seed, disk.clone(), config) {
        Ok(player) => player,
        Err(violation) => {
            return Played {
                points: disk.crash_points(),
                marks: Vec::new(),
                states: Vec::new(),
                violation: Some(violation),
            };
        }
    };
    let mut violation = None;
    for _ in 0..steps {
        if let Err(found) = player.step() {
            violation = Some(found);
            break;
        }
    }
    if violation.is_none() {
        violation = player.forget_the_dead().err();
    }
    let violation = violation.or_else(|| player.check_copies().err());
    let marks = player.shared.lock().clone();
    Played {
        points: disk.crash_points(),
        marks,
        states: player.states,
        violation,
    }
}

/// Plays `steps` random steps, in which one call of the disk fails. An error ends the history;
/// then nothing more may be announced.
pub fn play_with_fault(seed: u64, steps: u64, config: &JournalConfig, fault: DiskFault) -> Played {
    let disk = SimDisk::new();
    disk.inject(Some(fault));
    let mut played = Played {
        points: disk.crash_points(),
        marks: vec![Mark {
            changes: 0,
            allowed: vec![0],
        }],
        states: vec![Model::default()],
        violation: None,
    };
    if let Ok(mut player) = Player::start(seed, disk.clone(), config) {
        player.gentle = true;
        for _ in 0..steps {
            if let Err(failure) = player.step() {
                played.violation = Some(player.still_silent().err().unwrap_or(failure));
                break;
            }
        }
        played.marks.clone_from(&player.shared.lock());
        played.states = player.states;
    }
    played.points = disk.crash_points();
    while played.points.advance() {}
    played
}

/// A turn's operations that a connection has not submitted yet.
type Turn = Vec<Op>;

struct Player {
    rng: Rng,
    disk: SimDisk,
    config: JournalConfig,
    journal: Arc<Journal>,
    /// Copies of it that were made.
    copies: Vec<Copy>,
    /// One is being made.
    copying: bool,
    /// What the queues hold: lane to sequence numbers.
    queues: BTreeMap<u32, BTreeSet<u64>>,
    next_seq: BTreeMap<u32, u64>,
    next_lane: u32,
    /// Chunks beside the journal.
    runs: Runs,
    /// Turns that were enqueued but not submitted yet.
    late: Vec<Turn>,
    model: Model,
    states: Vec<Model>,
    durable: usize,
    /// The state after each turn since the last commit, with the ticket that makes it durable.
    turns: Vec<(Ticket, usize)>,
    /// What the last turn that was submitted waits for.
    last: Ticket,
    shared: Arc<Mutex<Vec<Mark>>>,
    numbers: u64,
    /// All messages have one size, so that stale blocks hold records where new ones would be.
    uniform: bool,
    /// Space is claimed for messages before they are submitted, as the broker does.
    claims: bool,
    /// The history injects no failures of its own.
    gentle: bool,
}

/// Lanes of a queue, one for each priority: they follow each other.
const LANES: u32 = 2;

/// A body whose third record in a frame begins at a block's boundary.
const BLOCK_FITTING: usize = 1967;

/// Notes what may be left from the moment on when it is called.
struct Announce {
    disk: SimDisk,
    shared: Arc<Mutex<Vec<Mark>>>,
    allowed: Vec<usize>,
}

impl Waiter for Announce {
    fn durable(&self, _few: bool) {
        let mark = Mark {
            changes: self.disk.changes(),
            allowed: self.allowed.clone(),
        };
        self.shared.lock().push(mark);
    }
}

impl Player {
    fn start(seed: u64, disk: SimDisk, config: &JournalConfig) -> Result<Self, String> {
        let opened = Journal::open(Arc::new(disk.clone()), config.clone());
        let journal = Arc::new(opened.map_err(|error| error.to_string())?.journal);
        Ok(Self {
            rng: Rng::new(seed),
            disk,
            config: config.clone(),
            journal,
            copies: Vec::new(),
            copying: false,
            queues: (0..3 * LANES).map(|lane| (lane, BTreeSet::new())).collect(),
            next_seq: BTreeMap::new(),
            next_lane: 3 * LANES,
            runs: Runs::default(),
            late: Vec::new(),
            model: Model::default(),
            states: vec![Model::default()],
            durable: 0,
            turns: Vec::new(),
            last: Ticket(0),
            shared: Arc::new(Mutex::new(vec![Mark {
                changes: 0,
                allowed: vec![0],
            }])),
            numbers: 0,
            uniform: seed % 5 == 4,
            claims: seed % 2 == 1,
            gentle: false,
        })
    }

    fn step(&mut self) -> Result<(), String> {
        if self.uniform && self.rng.one_in(2) {
            self.commit()?;
            return self.housekeep();
        }
        match self.rng.below(47) {
            0..=13 => self.publish(),
            14..=20 => self.settle(),
            21 => self.requeue(),
            22 => self.purge(),
            23 => self.delete(),
            24 => self.transaction(),
            25..=26 => self.die(),
            27 => self.topology(),
            28..=29 => self.submit_late(),
            30..=34 => self.commit()?,
            35 => self.journal.cover().map_err(|error| error.to_string())?,
            36..=37 => self.housekeep()?,
            38 => self.checkpoint()?,
            39 if self.copying => {}
            39 => self.reopen()?,
            40..=42 => self.move_some()?,
            43 if self.copying || self.gentle => {}
            43 => self.back_up()?,
            _ => self.rewrite_some()?,
        }
        self.free_runs();
        Ok(())
    }

    /// Messages of a lane are written to a run file, which is synced and recorded; also some that
    /// were moved before, or have not been committed yet.
    fn move_some(&mut self) -> Result<(), String> {
        let taken = self.take_some();
        let Some((lane, _)) = taken.first().copied() else {
            return Ok(());
        };
        let known = self.model.lanes.get(&lane);
        let live = known.map(|lane| lane.live.clone()).unwrap_or_default();
        let mut chosen: BTreeMap<u64, Message> = live;
        chosen.retain(|seq, _| taken.contains(&(lane, *seq)));
        if chosen.is_empty() {
            return Ok(());
        }
        let follows = self.rng.one_in(2);
        let written = self.runs.write(&self.disk, (lane, &chosen), follows);
        // What cannot be written or synced stays where it is.
        let Ok((chunk, ranges)) = written else {
            return Ok(());
        };
        if self.config.sabotage == StoreSabotage::MoveBeforeSync {
            self.submit(vec![Op::Moved(chunk, ranges)]);
            self.commit()?;
            return Runs::sync(&self.disk, &chunk).map_err(|error| error.to_string());
        }
        if Runs::sync(&self.disk, &chunk).is_ok() {
            self.submit(vec![Op::Moved(chunk, ranges)]);
        }
        Ok(())
    }

    /// What is left of a moved chunk is written to another place, synced and recorded; the messages
    /// that are settled are not there, be that submitted or not.
    fn rewrite_some(&mut self) -> Result<(), String> {
        let pick = self.rng.below(8) as usize;
        let Some((before, ranges)) = self.runs.some(pick) else {
            return Ok(());
        };
        let lane = before.lane.0;
        let queue = self.queues.get(&lane).cloned().unwrap_or_default();
        let known = self.model.lanes.get(&lane);
        let mut left: BTreeMap<u64, Message> =
            known.map(|lane| lane.live.clone()).unwrap_or_default();
        left.retain(|seq, _| queue.contains(seq) && runs::has(&ranges, *seq));
        if left.is_empty() {
            return Ok(());
        }
        let follows = self.rng.one_in(2);
        let Ok((chunk, kept)) = self.runs.write(&self.disk, (lane, &left), follows) else {
            return Ok(());
        };
        if Runs::sync(&self.disk, &chunk).is_err() {
            return Ok(());
        }
        let sabotage = self.config.sabotage;
        let kept = match sabotage {
            StoreSabotage::MoveSettled => ranges,
            _ => kept,
        };
        if sabotage == StoreSabotage::FreeRewritten {
            self.runs
                .free(&self.disk, before.place)
                .map_err(|error| error.to_string())?;
        }
        self.submit(vec![Op::Moved(chunk, kept)]);
        Ok(())
    }

    /// A copy is made while life goes on.
    fn back_up(&mut self) -> Result<(), String> {
        self.commit()?;
        let allowed = vec![self.states[self.durable].clone(), self.model.clone()];
        let journal = Arc::clone(&self.journal);
        let backup = journal.begin_backup().map_err(|no| format!("{no:?}"))?;
        let copy = Copy::begin(&backup, &self.disk, allowed);
        let mut copy = copy.map_err(|error| error.to_string())?;
        self.copying = true;
        let goes_on = |copy: &mut Copy, disk: &SimDisk| {
            let added = copy.go_on(disk);
            added.map_err(|error| format!("a copy: {error}"))
        };
        while goes_on(&mut copy, &self.disk)? {
            self.step()?;
        }
        self.copying = false;
        drop(backup);
        copy.check(&self.disk, &self.config)?;
        self.copies.push(copy);
        Ok(())
    }

    /// Whatever has happened since, copies have what they had.
    fn check_copies(&self) -> Result<(), String> {
        let mut copies = self.copies.iter();
        copies.try_for_each(|copy| copy.check(&self.disk, &self.config))
    }

    /// Removes files that the store says are not needed any more. That one stays costs space only.
    fn free_runs(&mut self) {
        for place in self.journal.take_free_places() {
            drop(self.runs.free(&self.disk, place));
        }
        if self.config.sabotage == StoreSabotage::RemoveRunsEarly {
            let lanes = &self.model.lanes;
            let lives = |lane: u32, seq: u64| {
                let lane = lanes.get(&lane);
                lane.is_some_and(|lane| lane.live.contains_key(&seq))
            };
            drop(self.runs.remove_early(&self.disk, lives));
        }
    }

    fn message(&mut self) -> Message {
        self.numbers += 1;
        if self.uniform {
            return Message {
                number: self.numbers,
                size: BLOCK_FITTING,
                expiration_ms: None,
                entered_ms: None,
                deaths: false,
            };
        }
        let size = match self.rng.below(40) {
            0 => 20_000,
            1..=4 => 5_000,
            _ => self.rng.below(900) as usize,
        };
        let expiration_ms = self.rng.one_in(4).then_some(self.numbers);
        let is_timed = expiration_ms.is_some() || self.rng.one_in(2);
        Message {
            number: self.numbers,
            size,
            expiration_ms,
            entered_ms: is_timed.then_some(1_000_000 + self.numbers),
            deaths: false,
        }
    }

    fn enqueue(&mut self, lane: u32) -> (u32, u64) {
        let seq = self.next_seq.entry(lane).or_default();
        let target = (lane, *seq);
        *seq += 1;
        self.queues.entry(lane).or_default().insert(target.1);
        target
    }

    fn some_lane(&mut self) -> u32 {
        let at = self.rng.below(self.queues.len() as u64) as usize;
        self.queues.keys().nth(at).copied().unwrap_or(0)
    }

    /// A run of messages, sometimes to all lanes; sometimes not submitted before the next steps.
    fn publish(&mut self) {
        let mut turn = Turn::new();
        let lane = self.some_lane();
        for _ in 0..=self.rng.below(4) {
            let message = self.message();
            let lanes = if self.rng.one_in(5) {
                self.a_lane_of_each_queue()
            } else {
                vec![lane]
            };
            let targets: Vec<_> = lanes.into_iter().map(|lane| self.enqueue(lane)).collect();
            // The turn delivers what it enqueues, at times.
            if self.rng.one_in(4) {
                turn.extend(targets.iter().map(|(l, s)| Op::Returned(*l, *s, 1)));
            }
            turn.push(Op::Message(targets, message));
        }
        if self.rng.one_in(5) {
            self.late.push(turn);
        } else {
            self.submit(turn);
        }
    }

    fn take_some(&mut self) -> Vec<(u32, u64)> {
        let lane = self.some_lane();
        let fifo = !self.rng.one_in(3);
        let count = 1 + self.rng.below(8) as usize;
        let skip = if fifo { 0 } else { self.rng.below(6) as usize };
        let queue = self.queues.entry(lane).or_default();
        queue
            .iter()
            .skip(skip)
            .take(count)
            .map(|seq| (lane, *seq))
            .collect()
    }

    fn settle(&mut self) {
        let mut turn = Turn::new();
        for (lane, seq) in self.take_some() {
            if let Some(queue) = self.queues.get_mut(&lane) {
                queue.remove(&seq);
            }
            turn.push(Op::Settle(lane, seq));
        }
        // A turn is submitted at its end.
        if self.rng.one_in(6) {
            self.late.push(turn);
        } else {
            self.submit(turn);
        }
    }

    fn requeue(&mut self) {
        let count = 1 + self.rng.below(3) as u32;
        let taken = self.take_some().into_iter();
        let turn = taken.map(|(l, s)| Op::Returned(l, s, count)).collect();
        // The consumer's own turn may be quicker than the one that delivers.
        if self.rng.one_in(3) {
            self.late.push(turn);
        } else {
            self.submit(turn);
        }
    }

    /// One of the lanes of each queue: messages of one priority.
    fn a_lane_of_each_queue(&mut self) -> Vec<u32> {
        let level = self.rng.below(LANES.into()) as u32;
        let of_level = self.queues.keys().filter(|lane| *lane % LANES == level);
        of_level.copied().collect()
    }

    fn lanes_of_a_queue(&mut self) -> std::ops::Range<u32> {
        let lane = self.some_lane();
        let lowest = lane - lane % LANES;
        lowest..lowest + LANES
    }

    /// Messages die in one queue: one group settles them there and has their copies, which some
    /// other queue delivers in the same turn.
    fn die(&mut self) {
        let mut turn = vec![Op::BeginGroup];
        let mut delivered = Vec::new();
        for (lane, seq) in self.take_some() {
            let known = self.model.lanes.get(&lane).and_then(|it| it.live.get(&seq));
            let mut copy = match known {
                Some(message) => message.clone(),
                None => continue,
            };
            if let Some(queue) = self.queues.get_mut(&lane) {
                queue.remove(&seq);
            }
            self.numbers += 1;
            copy.entered_ms = Some(1_000_000 + self.numbers);
            (copy.expiration_ms, copy.deaths) = (None, true);
            let mut lanes = self.a_lane_of_each_queue();
            lanes.retain(|other| other / LANES != lane / LANES);
            let most = 1 + self.rng.below(2) as usize;
            lanes.truncate(most);
            let targets: Vec<_> = lanes.into_iter().map(|lane| self.enqueue(lane)).collect();
            delivered.extend(targets.iter().map(|(l, s)| Op::Returned(*l, *s, 1)));
            turn.push(Op::Message(targets, copy));
            turn.push(Op::Settle(lane, seq));
        }
        turn.push(Op::EndGroup);
        self.submit(turn);
        if self.rng.one_in(2) {
            self.submit(delivered);
        }
    }

    fn purge(&mut self) {
        let mut turn = Turn::new();
        for lane in self.lanes_of_a_queue() {
            let next = self.next_seq.get(&lane).copied().unwrap_or(0);
            self.queues.insert(lane, BTreeSet::new());
            turn.push(Op::Reset(lane, next));
        }
        self.submit(turn);
    }

    fn delete(&mut self) {
        if self.rng.one_in(2) {
            return;
        }
        let lanes = self.lanes_of_a_queue();
        let mut turn = vec![Op::Topology(lanes.start.to_le_bytes().to_vec(), None)];
        for lane in lanes {
            self.queues.remove(&lane);
            self.queues.insert(self.next_lane, BTreeSet::new());
            self.next_lane += 1;
            turn.push(Op::Reset(lane, u64::MAX));
        }
        self.submit(turn);
    }

    fn transaction(&mut self) {
        let mut turn = vec![Op::BeginGroup];
        for (lane, seq) in self.take_some() {
            if let Some(queue) = self.queues.get_mut(&lane) {
                queue.remove(&seq);
            }
            turn.push(Op::Settle(lane, seq));
        }
        for _ in 0..2 {
            let lane = self.some_lane();
            let message = self.message();
            let target = self.enqueue(lane);
            turn.push(Op::Message(vec![target], message));
        }
        turn.push(Op::EndGroup);
        self.submit(turn);
    }

    fn topology(&mut self) {
        let key = u32::to_le_bytes(self.rng.below(4) as u32).to_vec();
        let value = (!self.rng.one_in(4)).then(|| self.rng.draw().to_le_bytes().to_vec());
        self.submit(vec![Op::Topology(key, value)]);
    }

    fn submit_late(&mut self) {
        if !self.late.is_empty() {
            let at = self.rng.below(self.late.len() as u64) as usize;
            let turn = self.late.remove(at);
            self.submit(turn);
        }
    }

    fn submit(&mut self, turn: Turn) {
        let mut batch = Batch::new();
        let bytes = turn.iter().map(Op::content_bytes).sum();
        let messages = turn.iter().map(Op::targets).sum();
        if self.claims && bytes > 0 {
            // What is refused is submitted all the same: it may have to wait, and no more.
            let _unchecked = self.journal.claim(&mut batch, messages, bytes);
        }
        turn.iter().for_each(|op| op.record(&mut batch));
        // A stopped journal refuses; the next step that asks for an answer says why.
        if let Ok(ticket) = self.journal.submit(&mut batch) {
            turn.iter().for_each(|op| self.model.apply(op));
            self.last = self.last.max(ticket);
            if self.makes_small_frames() {
                self.turns.push((self.last, self.states.len()));
                self.states.push(self.model.clone());
            }
        }
    }

    /// Whether turns that are committed together may be written in several frames.
    fn makes_small_frames(&self) -> bool {
        self.config.frame_bytes_max < self.config.segment_bytes
    }

    fn allow(&self, allowed: Vec<usize>) {
        self.shared.lock().push(Mark {
            changes: self.disk.changes(),
            allowed,
        });
    }

    /// Commits, and notes that until it is announced either state may be left; where a commit is
    /// written in several frames, the state after any turn, but never a part of a turn.
    fn commit(&mut self) -> Result<(), String> {
        let state = self.prepare();
        // Without space the frame is kept and tried again.
        for _ in 0..8 {
            let progress = self.journal.commit().map_err(|error| error.to_string())?;
            if progress != Progress::Stalled {
                self.durable = state;
                self.model.committed();
                return Ok(());
            }
        }
        Err("stalled for ever".to_owned())
    }

    fn prepare(&mut self) -> usize {
        let state = self.states.len();
        self.states.push(self.model.clone());
        let mut turns = std::mem::take(&mut self.turns);
        turns.push((self.last, state));
        let states: Vec<usize> = turns.iter().map(|(_, state)| *state).collect();
        let before = std::iter::once(self.durable);
        self.allow(before.chain(states.iter().copied()).collect());
        for (at, (ticket, _)) in turns.into_iter().enumerate() {
            let waiter = Announce {
                disk: self.disk.clone(),
                shared: self.shared.clone(),
                allowed: states[at..].to_vec(),
            };
            self.journal.wake_at(ticket, Arc::new(waiter));
        }
        state
    }

    /// Lets housekeeping go on for a while, sometimes to its end.
    fn housekeep(&mut self) -> Result<(), String> {
        self.model.housekept();
        for _ in 0..=self.rng.below(6) {
            // What housekeeping copies is part of the next commit.
            if !self
                .journal
                .housekeep()
                .map_err(|error| error.to_string())?
            {
                break;
            }
        }
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), String> {
        self.model.housekept();
        let written = self.journal.checkpoint();
        written.map_err(|error| error.to_string())
    }

    /// With nothing on its way, two checkpoints leave no delivery counts but those of the living.
    fn forget_the_dead(&mut self) -> Result<(), String> {
        while !self.late.is_empty() {
            self.submit_late();
        }
        self.commit()?;
        self.checkpoint()?;
        self.checkpoint()?;
        let ((least, most), kept) = (self.model.counted(), self.journal.delivery_counts());
        if kept < least || kept > most {
            return Err(format!(
                "{kept} delivery counts for {least} to {most} messages"
            ));
        }
        Ok(())
    }

    /// The process dies, or stops in good order, and starts again on the same disk.
    fn reopen(&mut self) -> Result<(), String> {
        if self.rng.one_in(3) {
            self.commit()?;
            self.checkpoint()?;
        } else if self.rng.one_in(2) && !self.gentle {
            self.die_in_a_commit();
        }
        let allowed = self.shared.lock().last().map(|mark| mark.allowed.clone());
        let open = || Journal::open(Arc::new(self.disk.clone()), self.config.clone());
        // An operator tries again once the disk works.
        let opened = open()
            .or_else(|_| open())
            .map_err(|error| format!("reopen: {error}"))?;
        let runs = Runs::of(&opened.moved, &self.disk);
        self.runs = runs.map_err(|error| error.to_string())?;
        let (visible, journal, next) = Visible::take(opened, &self.disk)?;
        let found = allowed
            .unwrap_or_default()
            .into_iter()
            .find(|state| self.states[*state].visible(&visible) == visible)
            .ok_or("a restart shows another state than before")?;
        self.model = self.states[found].clone().restarted(&visible);
        self.durable = self.states.len();
        self.states.push(self.model.clone());
        self.allow(vec![self.durable]);
        self.journal = Arc::new(journal);
        self.late.clear();
        self.turns.clear();
        self.last = Ticket(0);
        for (lane, queue) in &mut self.queues {
            *queue = self
                .model
                .lanes
                .get(lane)
                .map(|lane| lane.live.keys().copied().collect())
                .unwrap_or_default();
            let at = next.get(lane).copied().unwrap_or(0);
            self.next_seq.insert(*lane, at);
        }
        // A deletion that was not durable: the broker would find the lane without a queue.
        let orphans: Vec<u32> = self
            .model
            .lanes
            .keys()
            .filter(|lane| !self.queues.contains_key(lane))
            .copied()
            .collect();
        self.submit(
            orphans
                .into_iter()
                .map(|lane| Op::Reset(lane, u64::MAX))
                .collect(),
        );
        Ok(())
    }

    /// A journal that has failed announces nothing any more.
    fn still_silent(&self) -> Result<(), String> {
        if self.journal.failure().is_none() {
            return Ok(());
        }
        let before = self.journal.durable();
        if self.journal.commit().is_ok() || self.journal.durable() != before {
            return Err("announced after a failure".to_owned());
        }
        Ok(())
    }

    /// A sync fails in a commit: the frame is in the page cache and may or may not be on the disk.
    fn die_in_a_commit(&mut self) {
        let at = self.disk.calls() + self.rng.below(3);
        let error = DiskError::Failed("injected".to_owned());
        self.prepare();
        self.disk.inject(Some(DiskFault {
            at,
            for_ever: true,
            error,
        }));
        // Whether the fault hit this commit or not, the process is gone.
        drop(self.journal.commit());
        self.disk.inject(None);
    }
}
