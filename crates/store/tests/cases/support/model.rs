//! What a store must hold: a plain map, stepped by the same operations.

use std::collections::{BTreeMap, BTreeSet};

use leveret_record::Attempts;
use leveret_store::sim::SimDisk;
use leveret_store::{Batch, LaneId, MessageParts, MovedChunk, MovedPiece, Recovered};

use super::runs::{self, Ranges};

/// The contents of a store.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Model {
    pub(crate) lanes: BTreeMap<u32, Lane>,
    pub(crate) gone: BTreeSet<u32>,
    pub(crate) topology: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// One lane.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Lane {
    pub(crate) live: BTreeMap<u64, Message>,
    pub(crate) early: BTreeSet<u64>,
    /// How often live messages have been delivered.
    pub(crate) returned: BTreeMap<u64, Count>,
    /// The same of messages that have not arrived, or will not.
    pub(crate) awaited: BTreeMap<u64, Count>,
    /// Messages submitted and not committed that had a count before.
    pub(crate) arriving: BTreeSet<u64>,
    pub(crate) floor: u64,
}

/// A delivery count: the least and the most that a store may show. A count that waits for its
/// message is forgotten one day.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(crate) struct Count {
    least: u32,
    most: u32,
}

impl Count {
    fn raise(&mut self, other: Self) {
        self.least = self.least.max(other.least);
        self.most = self.most.max(other.most);
    }
}

/// One message; the number decides its bytes.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Message {
    pub(crate) number: u64,
    pub(crate) size: usize,
    pub(crate) expiration_ms: Option<u64>,
    pub(crate) entered_ms: Option<u64>,
    /// It has died before.
    pub(crate) deaths: bool,
}

/// One operation on a batch.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Message(Vec<(u32, u64)>, Message),
    Settle(u32, u64),
    Returned(u32, u64, u32),
    Reset(u32, u64),
    Topology(Vec<u8>, Option<Vec<u8>>),
    /// It changes nothing that anybody sees.
    Moved(MovedChunk, Ranges),
    BeginGroup,
    EndGroup,
}

impl Message {
    /// Its bytes.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = self.number.to_le_bytes().to_vec();
        body.resize(self.size.max(8), self.number as u8);
        body
    }
}

impl Op {
    /// About how many bytes its message takes, if it is one.
    pub(crate) fn content_bytes(&self) -> usize {
        match self {
            Self::Message(targets, message) => 100 + message.body().len() + 12 * targets.len(),
            _ => 0,
        }
    }

    /// How many queues its message goes to, if it is one.
    pub(crate) fn targets(&self) -> usize {
        match self {
            Self::Message(targets, _) => targets.len(),
            _ => 0,
        }
    }

    /// Gives the operation to a batch.
    pub(crate) fn record(&self, batch: &mut Batch) {
        match self {
            Self::Message(targets, message) => {
                let targets: Vec<_> = targets.iter().map(|(l, s)| (LaneId(*l), *s)).collect();
                let body = message.body();
                let (one, two) = body.split_at(body.len() / 2);
                let parts = MessageParts {
                    entered_ms: message.entered_ms,
                    expiration_ms: message.expiration_ms,
                    deaths: message.deaths,
                    route: b"\x02ex\x03key",
                    header: b"header",
                    body: &[one, two],
                };
                batch.message(&targets, &parts);
            }
            Self::Settle(lane, seq) => batch.settle(LaneId(*lane), *seq),
            Self::Returned(lane, seq, n) => batch.returned(LaneId(*lane), *seq, tried(*n)),
            Self::Reset(lane, up_to) => batch.reset(LaneId(*lane), *up_to),
            Self::Topology(key, value) => batch.topology(key, value.as_deref()),
            Self::Moved(chunk, ranges) => batch.moved(*chunk, ranges),
            Self::BeginGroup => batch.begin_group(),
            Self::EndGroup => batch.end_group(),
        }
    }
}

impl Model {
    /// Makes an operation's change.
    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::Message(targets, message) => {
                for (lane, seq) in targets {
                    self.arrive(*lane, *seq, message);
                }
            }
            Op::Settle(lane, seq) => {
                if let Some(lane) = self.lane(*lane) {
                    lane.returned.remove(seq);
                    lane.awaited.remove(seq);
                    if lane.live.remove(seq).is_none() && *seq >= lane.floor {
                        lane.early.insert(*seq);
                    }
                }
            }
            Op::Returned(lane, seq, count) => {
                if let Some(lane) = self.lane(*lane)
                    && *seq >= lane.floor
                    && !lane.early.contains(seq)
                {
                    let counts = match lane.live.contains_key(seq) {
                        true => &mut lane.returned,
                        false => &mut lane.awaited,
                    };
                    let (least, most) = (*count, *count);
                    counts.entry(*seq).or_default().raise(Count { least, most });
                }
            }
            Op::Reset(id, up_to) => {
                if *up_to == u64::MAX {
                    self.lanes.remove(id);
                    self.gone.insert(*id);
                } else if let Some(lane) = self.lane(*id) {
                    lane.floor = lane.floor.max(*up_to);
                    lane.live.retain(|seq, _| seq >= up_to);
                    lane.early.retain(|seq| seq >= up_to);
                    lane.returned.retain(|seq, _| seq >= up_to);
                    lane.awaited.retain(|seq, _| seq >= up_to);
                }
            }
            Op::Topology(key, Some(value)) => {
                self.topology.insert(key.clone(), value.clone());
            }
            Op::Topology(key, None) => {
                self.topology.remove(key);
            }
            Op::Moved(..) | Op::BeginGroup | Op::EndGroup => {}
        }
    }

    fn arrive(&mut self, lane: u32, seq: u64, message: &Message) {
        if let Some(lane) = self.lane(lane)
            && seq >= lane.floor
            && !lane.early.remove(&seq)
        {
            lane.live.insert(seq, message.clone());
            if let Some(count) = lane.awaited.remove(&seq) {
                lane.returned.entry(seq).or_default().raise(count);
                lane.arriving.insert(seq);
            }
        }
    }

    /// There may be checkpoints from now on: counts that wait may be forgotten.
    pub(crate) fn housekept(&mut self) {
        for lane in self.lanes.values_mut() {
            let arriving = &lane.arriving;
            let counts = lane.returned.iter_mut();
            let arriving = counts.filter(|(seq, _)| arriving.contains(seq));
            let waiting = lane.awaited.iter_mut().chain(arriving);
            waiting.for_each(|(_, count)| count.least = 0);
        }
    }

    /// What was submitted has arrived.
    pub(crate) fn committed(&mut self) {
        self.lanes
            .values_mut()
            .for_each(|lane| lane.arriving.clear());
    }

    /// How many messages surely have a delivery count, and how many may have.
    pub(crate) fn counted(&self) -> (u64, u64) {
        let counts = self.lanes.values().flat_map(|lane| lane.returned.values());
        counts.fold((0, 0), |(sure, all), count| {
            (sure + u64::from(count.least > 0), all + 1)
        })
    }

    fn lane(&mut self, lane: u32) -> Option<&mut Lane> {
        (!self.gone.contains(&lane)).then(|| self.lanes.entry(lane).or_default())
    }

    /// What a store that was opened must show; where it has a choice, what `found` shows.
    pub(crate) fn visible(&self, found: &Visible) -> Visible {
        let mut messages = BTreeMap::new();
        for (id, lane) in &self.lanes {
            for (seq, message) in &lane.live {
                let count = lane.returned.get(seq).copied().unwrap_or_default();
                let shown = found.messages.get(&(*id, *seq)).map_or(0, |body| body.2);
                let deliveries = shown.clamp(count.least, count.most);
                let times = (message.entered_ms, message.expiration_ms, message.deaths);
                messages.insert((*id, *seq), (message.body(), times, deliveries));
            }
        }
        Visible {
            messages,
            topology: self.topology.clone(),
        }
    }

    /// The sequence number a lane must go on with, at least: settlements of messages that never
    /// arrived are on the disk, too.
    pub(crate) fn next_min(&self, lane: u32) -> u64 {
        self.lanes.get(&lane).map_or(0, |lane| {
            let live = lane.live.keys().next_back().map_or(0, |seq| seq + 1);
            let early = lane.early.iter().next_back().map_or(0, |seq| seq + 1);
            live.max(early).max(lane.floor)
        })
    }

    /// Only what a restart leaves: nothing is on its way any more.
    pub(crate) fn restarted(mut self, found: &Visible) -> Self {
        for (id, lane) in &mut self.lanes {
            lane.early.clear();
            lane.awaited.clear();
            lane.arriving.clear();
            for (seq, count) in &mut lane.returned {
                let shown = found.messages.get(&(*id, *seq)).map_or(0, |body| body.2);
                (count.least, count.most) = (shown, shown);
            }
            lane.returned.retain(|_, count| count.most > 0);
        }
        self
    }
}

/// A message where it is.
type BodyAt<'a> = (&'a (u32, u64), &'a Body);

/// Bytes; when it came, how long it may live, whether it has died before; how often it was tried.
type Body = (Vec<u8>, (Option<u64>, Option<u64>, bool), u32);

/// Both counts follow from one number, and grow with it.
const fn tried(acquired: u32) -> Attempts {
    Attempts {
        acquired,
        failed: acquired / 2,
    }
}

/// What a store shows when it is opened.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Visible {
    pub(crate) messages: BTreeMap<(u32, u64), Body>,
    pub(crate) topology: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub(crate) fn take_moved(
    disk: &SimDisk,
    piece: &MovedPiece,
    messages: &mut BTreeMap<(u32, u64), Body>,
) -> Result<(), String> {
    for (seq, message) in runs::read(disk, piece)? {
        let tried = piece.attempts.iter().find(|it| it.0 <= seq && seq < it.1);
        let deliveries = tried.map_or(0, |it| it.2.acquired);
        let times = (message.entered_ms, message.expiration_ms, message.deaths);
        let at = (piece.chunk.lane.0, seq);
        let twice = messages.insert(at, (message.body(), times, deliveries));
        if twice.is_some() {
            return Err(format!("{at:?} is in the journal and in {piece:?}"));
        }
    }
    Ok(())
}

impl Visible {
    /// Takes everything out of a store that was opened, moved chunks included; the lanes' next
    /// sequence numbers besides.
    pub(crate) fn take(
        recovered: Recovered,
        disk: &SimDisk,
    ) -> Result<(Self, leveret_store::Journal, BTreeMap<u32, u64>), String> {
        let mut messages = BTreeMap::new();
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        let mut wrong = None;
        let Recovered {
            journal,
            messages: found,
            moved,
            lanes,
            topology,
            ..
        } = recovered;
        found
            .replay(|m| {
                let lane = m.lane.0;
                if last
                    .insert(lane, m.seq)
                    .is_some_and(|before| before >= m.seq)
                {
                    wrong = Some(format!("lane {lane}: {} out of order", m.seq));
                }
                if m.route != b"\x02ex\x03key" || m.header != b"header" {
                    wrong = Some(format!(
                        "lane {lane}: {} has other headers {:?} {:?} {:?}",
                        m.seq,
                        m.route,
                        m.header,
                        &m.body[..m.body.len().min(30)]
                    ));
                }
                if m.attempts != tried(m.attempts.acquired) {
                    wrong = Some(format!("lane {lane}: {} is {m:?}", m.seq));
                }
                let deliveries = m.attempts.acquired;
                let times = (m.entered_ms, m.expiration_ms, m.deaths);
                messages.insert((lane, m.seq), (m.body.to_vec(), times, deliveries));
            })
            .map_err(|error| error.to_string())?;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        for piece in &moved.pieces {
            take_moved(disk, piece, &mut messages)?;
        }
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        messages
            .keys()
            .for_each(|(lane, _)| *counts.entry(*lane).or_default() += 1);
        for lane in &lanes {
            let count = counts.remove(&lane.lane.0).unwrap_or(0);
            if count != lane.messages {
                return Err(format!("{lane:?} but {count} messages"));
            }
        }
        let next = lanes
            .iter()
            .map(|lane| (lane.lane.0, lane.next_seq))
            .collect();
        Ok((Self { messages, topology }, journal, next))
    }

    /// The differences, for people.
    /// Whether the other one shows the same, whatever the counts.
    pub(crate) fn is_but_for_counts(&self, other: &Self) -> bool {
        let same = |(one, two): (BodyAt<'_>, BodyAt<'_>)| {
            one.0 == two.0 && (&one.1.0, one.1.1) == (&two.1.0, two.1.1)
        };
        self.topology == other.topology
            && self.messages.len() == other.messages.len()
            && self.messages.iter().zip(&other.messages).all(same)
    }

    pub(crate) fn difference(&self, other: &Self) -> String {
        let mut text = String::new();
        for (key, value) in &self.messages {
            match other.messages.get(key) {
                None => text += &format!(" -{key:?}"),
                Some(found) if found != value => {
                    let told = |body: &Body| (body.0.len(), body.1, body.2);
                    text += &format!(" ~{key:?} {:?} / {:?}", told(value), told(found));
                }
                Some(_) => {}
            }
        }
        for key in other
            .messages
            .keys()
            .filter(|key| !self.messages.contains_key(key))
        {
            text += &format!(" +{key:?}");
        }
        if self.topology != other.topology {
            text += &format!(" topology {:?} / {:?}", self.topology, other.topology);
        }
        text
    }
}
