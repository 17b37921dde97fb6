//! The world: a broker, its clients, a clock and a store, and whose turn it is.

mod beginning;
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leveret_broker::{Broker, BrokerConfig, Effects, PageIn, PageOut, Ticker, Vhost};
use leveret_store::sim::{DiskImage, Rng};

use crate::Summary;
use crate::client::Plan;
use crate::command::{Command, queue_name};
use crate::ledger::Counts;
use crate::lives::Shown;
use crate::model::{Model, Session, Step, StepKind};
use crate::node::{Node, Pace, Read};
use crate::storage::{self, Storage};
use beginning::begin;

const START_MS: u64 = 1_700_000_000_000;
/// Rounds of activity, each ended by a quiet moment in which everything owed must be paid.
const ROUNDS: u64 = 4;
const CONNECTIONS_MAX: usize = 14;
/// A world that does not come to rest has a loop in it.
const UNREST_MAX: u32 = 20_000;
/// Clients send a sign of life this often, milliseconds.
const BEAT_MS: u64 = 4000;

pub(crate) struct World {
    rng: Rng,
    broker: Arc<Broker>,
    vhost: Arc<Vhost>,
    storage: Storage,
    config: BrokerConfig,
    ticker: Ticker,
    due: Effects,
    /// When chunks leave memory and come back, where they do.
    page_rng: Option<Rng>,
    /// What is read back from the disk, in whatever order it comes.
    pages: Vec<PageIn>,
    /// What is being written to it, if anything is.
    page_out: Option<PageOut>,
    now_ms: u64,
    next_tick_ms: u64,
    nodes: Vec<Node>,
    plan: Plan,
    model: Model,
    steps: Vec<Step>,
    /// What happened, for a person to read.
    trace: Option<Vec<String>>,
    /// Queues have length limits, so that it matters when exactly a delivery made room.
    pace: Pace,
    /// Messages die, and go on from there.
    mortal: bool,
    /// The broker ends and begins again.
    crashes: bool,
    /// Changes the disk had seen when all was durable.
    durable_changes: usize,
    pub(crate) summary: Summary,
}

impl World {
    pub(crate) fn into_trace(self) -> Vec<String> {
        self.trace.unwrap_or_default()
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// Runs the world to its end.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        for _ in 0..2 + self.rng.below(3) {
            self.connect();
        }
        for _ in 0..ROUNDS {
            for _ in 0..60 + self.rng.below(200) {
                self.something()?;
            }
            if self.mortal && self.rng.one_in(2) {
                self.crash_in_between()?;
            }
            self.come_to_rest()?;
            self.restart()?;
        }
        while let Some(index) = self.nodes.iter().position(|node| !node.client.done) {
            match self.rng.below(3) {
                0 => self.nodes[index].client.close(),
                reset => self.cut(index, reset == 1),
            }
            self.something()?;
        }
        self.come_to_rest()?;
        self.audit()?;
        self.check_leaks()
    }

    fn connect(&mut self) {
        let index = self.nodes.len();
        let node = Node::new(&self.broker, &mut self.rng, self.pace, self.now_ms);
        self.nodes.push(node);
        self.model.sessions.push(Session::default());
        self.note(|| format!("{index} connects"));
    }

    /// One thing, chosen by the seed.
    fn something(&mut self) -> Result<(), String> {
        if self.page_rng.as_mut().is_some_and(|rng| rng.one_in(4)) {
            self.page_something()?;
        }
        let index = self.rng.below(self.nodes.len() as u64) as usize;
        match self.rng.below(200) {
            0..70 => self.act(index),
            70..130 => {
                let most = pick_size(&mut self.rng);
                self.read(index, most)?;
            }
            130..150 => {
                self.write(index)?;
            }
            150..180 => {
                let most = pick_size(&mut self.rng);
                self.hear(index, most)?;
            }
            180..188 => self.store_catches_up()?,
            188..195 => {
                let passed = match self.rng.below(6) {
                    0 if self.mortal => self.rng.below(6_000),
                    1 | 2 if self.mortal => self.rng.below(12),
                    _ => self.rng.below(300),
                };
                self.pass_time(1 + passed)?;
            }
            195 if self.rng.one_in(3) => {
                let reset = self.rng.one_in(2);
                self.cut(index, reset);
            }
            196 => {
                let client = &mut self.nodes[index].client;
                client.mute |= client.heartbeat_s > 0 && self.rng.one_in(4);
            }
            197 if self.nodes.len() < CONNECTIONS_MAX => self.connect(),
            _ => {}
        }
        Ok(())
    }

    fn act(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if !node.is_live() || node.eof {
            return;
        }
        let from = node.client.sent.len();
        node.client.act(&mut self.rng, &mut self.plan);
        if self.trace.is_some() {
            let sent = &self.nodes[index].client.sent[from..];
            let sent: Vec<_> = sent.iter().map(|it| (it.channel, &it.command)).collect();
            let line = format!("{index} sends {sent:?}");
            self.note(|| line);
        }
    }

    fn cut(&mut self, index: usize, reset: bool) {
        if !self.nodes[index].eof {
            self.nodes[index].cut(&mut self.rng, reset);
            self.note(|| format!("{index} is cut, reset: {reset}"));
        }
    }

    fn read(&mut self, index: usize, most: usize) -> Result<bool, String> {
        match self.nodes[index].read(most, self.now_ms) {
            Read::Nothing => Ok(false),
            Read::Turn(commands) => {
                self.summary.commands += commands.len() as u64;
                self.note(|| format!("turn of {index}: {commands:?}"));
                self.record(Some((index, commands)), None, StepKind::Other)?;
                Ok(true)
            }
            Read::Over => {
                self.nodes[index].take_down();
                self.note(|| format!("{index} is taken down"));
                self.record(None, Some(index), StepKind::Other)?;
                Ok(true)
            }
        }
    }

    fn write(&mut self, index: usize) -> Result<bool, String> {
        let node = &self.nodes[index];
        if !node.is_live() || !node.link.wants_writer() {
            return Ok(false);
        }
        node.link.write();
        self.note(|| format!("writer of {index}"));
        self.record(None, None, StepKind::Other)?;
        Ok(true)
    }

    /// The client reads up to `most` bytes.
    fn hear(&mut self, index: usize, most: usize) -> Result<bool, String> {
        let node = &mut self.nodes[index];
        if node.client.mute || node.eof || !node.link.has_unread() {
            return Ok(false);
        }
        let bytes = node.link.read(most);
        node.client.hear(&bytes)?;
        Ok(true)
    }

    fn store_catches_up(&mut self) -> Result<(), String> {
        self.storage.catch_up()?;
        self.note(|| "the store catches up".into());
        self.durable_changes = self.storage.changes();
        self.record(None, None, StepKind::Durable)
    }

    fn pass_time(&mut self, passed_ms: u64) -> Result<(), String> {
        self.now_ms += passed_ms;
        let now_ms = self.now_ms;
        for node in &mut self.nodes {
            let client = &mut node.client;
            let due = now_ms - node.last_beat_ms >= BEAT_MS && client.heartbeat_s > 0;
            if due && node.connection.is_some() && !node.eof && !client.mute && !client.done {
                client.beat();
                node.last_beat_ms = now_ms;
            }
        }
        while self.next_tick_ms <= now_ms {
            self.next_tick_ms += Ticker::INTERVAL_MS;
            self.ticker.tick(&self.broker, now_ms);
        }
        while let Some(due_ms) = self.broker.run_due(now_ms, &mut self.due)
            && due_ms <= now_ms
        {}
        self.note(|| format!("it is {}", now_ms - START_MS));
        self.record(None, None, StepKind::Tick)
    }

    /// Notes what the broker looks like after something happened.
    fn record(
        &mut self,
        turn: Option<(usize, Vec<(u16, Command)>)>,
        left: Option<usize>,
        kind: StepKind,
    ) -> Result<(), String> {
        self.summary.steps += 1;
        let mut queues = BTreeMap::new();
        let mut shown = BTreeMap::new();
        for cell in self.vhost.directory.read().queues() {
            let state = cell.lock();
            let counts = Counts {
                ready: state.queue.ready(),
                unacked: state.queue.unacked(),
                consumers: state.queue.consumer_count(),
            };
            queues.insert(cell.name.to_string(), counts);
            drop(state);
            if self.mortal {
                shown.insert(cell.name.to_string(), Shown::of(&self.broker, cell)?);
            }
        }
        let told = self.nodes.iter().map(|node| node.link.told()).collect();
        let nodes = self.nodes.iter().enumerate();
        let deaf: BTreeSet<_> = nodes
            .filter(|(_, node)| node.link.is_broken())
            .map(|(index, _)| index)
            .collect();
        self.steps.push(Step {
            turn,
            left,
            told,
            queues,
            deaf,
            shown,
            now_ms: self.now_ms,
            kind,
        });
        self.listen()
    }

    /// Has the model hear what was written.
    fn listen(&mut self) -> Result<(), String> {
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            let seen = node.observer.take(&node.link.tap())?;
            self.summary.sights += seen.len() as u64;
            if self.trace.is_some() {
                for seen in &seen {
                    let line = format!("    {index} is told {:?} on {}", seen.sight, seen.channel);
                    self.note(|| line);
                }
            }
            self.model.hear(index, seen);
        }
        Ok(())
    }

    /// Lets everybody finish what they are at, and checks that nothing is owed then.
    fn come_to_rest(&mut self) -> Result<(), String> {
        self.note(|| "everybody comes to rest".into());
        let mut unrest = 0;
        loop {
            unrest += 1;
            if unrest > UNREST_MAX {
                return Err("the world does not come to rest".into());
            }
            let mut busy = false;
            for index in 0..self.nodes.len() {
                busy |= self.hear(index, usize::MAX)?;
                busy |= self.read(index, usize::MAX)?;
                busy |= self.write(index)?;
            }
            busy |= self.page_something()?;
            if busy {
                continue;
            }
            let now_ms = self.now_ms;
            if self.nodes.iter().any(|node| node.is_paused(now_ms)) {
                self.pass_time(1)?;
            } else if self.storage.is_behind() {
                self.store_catches_up()?;
            } else if self
                .nodes
                .iter()
                .any(|node| node.hangs_up() || is_mute(node))
            {
                self.pass_time(Ticker::INTERVAL_MS)?;
            } else {
                break;
            }
        }
        self.check_rest()
    }

    fn check_rest(&mut self) -> Result<(), String> {
        for (index, node) in self.nodes.iter().enumerate() {
            if !node.is_live() {
                continue;
            }
            let queued = node.link.queued();
            if queued > 0 && node.link.is_idle() {
                return Err(format!(
                    "lost wakeup: {queued} bytes for {index} and no writer"
                ));
            }
            let left = node.client.outgoing.len();
            if queued > 0 || left > 0 || !node.observer.is_between_frames() {
                return Err(format!("{index} is stuck: {queued} bytes out, {left} in"));
            }
        }
        self.judge()?;
        self.model.check_quiet()
    }

    fn judge(&mut self) -> Result<(), String> {
        for (number, step) in std::mem::take(&mut self.steps).iter().enumerate() {
            let judged = self.model.judge(step);
            judged.map_err(|reason| {
                let last = self.model.step;
                format!(
                    "step {last} ({number} of this round), {:?}: {reason}",
                    step.turn
                )
            })?;
            if step.kind == StepKind::Durable {
                self.model.unsettled_topology = false;
            }
        }
        Ok(())
    }

    /// Sometimes the broker ends and begins again: in an orderly way, when its clients are gone, or
    /// in a crash that loses part of what was not synced.
    fn restart(&mut self) -> Result<(), String> {
        if self.rng.one_in(2) || !self.crashes {
            return Ok(());
        }
        if self.rng.one_in(2) {
            for index in 0..self.nodes.len() {
                self.cut(index, true);
            }
            self.come_to_rest()?;
        }
        let now = self.storage.changes();
        let image = self.storage.crash(&mut self.rng, now);
        self.begin_again(&image)
    }

    /// The broker crashes in the midst of things: of what is not surely durable the disk may have
    /// any part, but a death has its copies, and copies their death.
    fn crash_in_between(&mut self) -> Result<(), String> {
        if !self.crashes {
            return Ok(());
        }
        for node in &self.nodes {
            node.link.drain();
        }
        self.listen()?;
        self.judge()?;
        if self.model.unsettled_topology {
            self.store_catches_up()?;
            self.judge()?;
        }
        self.storage.go_on_a_bit(&mut self.rng)?;
        let from = self.durable_changes;
        let image = self.storage.crash(&mut self.rng, from);
        self.begin_again(&image)
    }

    fn begin_again(&mut self, image: &DiskImage) -> Result<(), String> {
        self.nodes.iter_mut().for_each(Node::abandon);
        self.ticker = Ticker::default();
        if let Some(mut lives) = self.model.lives.take() {
            let found = storage::look(image)?;
            self.note(|| format!("the disk has {found:?}"));
            lives.restart(&self.model, found)?;
            self.model.lives = Some(lives);
            // A computer takes its time.
            self.now_ms += self.rng.below(3_000);
        }
        self.due = Effects::default();
        (self.pages, self.page_out) = (Vec::new(), None);
        let begun = begin(&self.config, image, self.now_ms)?;
        (self.storage, self.broker, self.vhost) = begun;
        self.model.restart(self.now_ms);
        self.note(|| "the broker ends and begins again".into());
        self.store_catches_up()?;
        for _ in 0..1 + self.rng.below(3) {
            self.connect();
        }
        Ok(())
    }

    /// A last client fetches everything that is left, and deletes the queues.
    fn audit(&mut self) -> Result<(), String> {
        self.connect();
        let index = self.nodes.len() - 1;
        let client = &mut self.nodes[index].client;
        client.send(1, Command::OpenChannel);
        for (queue, key) in &self.model.names {
            for _ in 0..=self.model.ready_in(*key).0 {
                let (queue, no_ack) = (*queue, true);
                client.send(1, Command::Get { queue, no_ack });
            }
        }
        self.come_to_rest()?;
        let client = &mut self.nodes[index].client;
        for queue in self.model.names.keys() {
            let delete = Command::Delete {
                queue: *queue,
                if_unused: true,
                if_empty: !self.mortal,
            };
            client.send(1, delete);
        }
        self.come_to_rest()?;
        self.nodes[index].client.close();
        self.come_to_rest()
    }

    fn check_leaks(&mut self) -> Result<(), String> {
        if let Some(queue) = self.model.names.keys().next() {
            return Err(format!("{} is left over", queue_name(*queue)));
        }
        let peers = self.broker.peer_count();
        if peers > 0 {
            return Err(format!("{peers} connections are left over"));
        }
        for _ in 0..12 {
            self.pass_time(Ticker::INTERVAL_MS)?;
        }
        let bindings = self.vhost.directory.read().router.binding_count();
        if bindings > 0 {
            return Err(format!("{bindings} bindings are left over"));
        }
        if let Some(index) = self
            .nodes
            .iter()
            .position(|node| node.peer.strong_count() > 0)
        {
            return Err(format!("somebody still holds connection {index}"));
        }
        let resident = self.broker.memory.resident_bytes();
        if resident > 0 {
            return Err(format!("{resident} bytes of messages are left over"));
        }
        Ok(())
    }
}

/// A broker that begins with what a disk remembers.
fn is_mute(node: &Node) -> bool {
    node.is_live() && node.client.mute
}

fn pick_size(rng: &mut Rng) -> usize {
    let size = match rng.below(4) {
        0 => 1 + rng.below(40),
        1 => 1 + rng.below(400),
        _ => 1 + rng.below(65_536),
    };
    size as usize
}
