//! The messages of one priority, and all priorities of a queue.

use leveret_record::{Memory, Position, Sabotage, Unacked, breaks};

use crate::chunk::{Chunks, FoundRecord, unacked};
use crate::message::Message;
use crate::requeued::{Requeued, RequeuedRun};

/// Messages of one priority in their order.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) chunks: Chunks,
    pub(crate) requeued: Requeued,
    pub(crate) next_seq: u64,
    pub(crate) ready: u64,
    /// No ready message dies by its own expiration before this, unix milliseconds.
    pub(crate) own_ms: u64,
    /// From this sequence number on nothing is served.
    pub(crate) held_from: u64,
    /// From this sequence number on nothing was offered to anybody yet.
    pub(crate) fresh_from: u64,
    /// When messages that expire on their own were last looked for, unix milliseconds.
    pub(crate) swept_ms: u64,
}

impl Lane {
    fn new(memory: Memory) -> Self {
        Self {
            chunks: Chunks::new(memory),
            requeued: Requeued::default(),
            next_seq: 0,
            ready: 0,
            own_ms: u64::MAX,
            held_from: u64::MAX,
            fresh_from: 0,
            swept_ms: 0,
        }
    }

    #[inline]
    pub(crate) fn append(&mut self, message: &Message<'_>) -> u64 {
        let seq = self.next_seq;
        self.chunks.append(message, seq);
        self.next_seq += 1;
        if let Some(deadline_ms) = message.own_deadline_ms() {
            self.own_ms = self.own_ms.min(deadline_ms);
        }
        seq
    }

    /// The next message in order: requeued ones are older than any never read.
    #[inline]
    pub(crate) fn head(&mut self) -> Option<Position> {
        let head = match self.requeued.first() {
            Some(run) => Some(run.position),
            None => self.chunks.head(),
        };
        if self.held_from == u64::MAX {
            return head;
        }
        head.filter(|position| self.is_free(*position))
    }

    #[cold]
    fn is_free(&self, position: Position) -> bool {
        let found = self.chunks.record(position);
        found.is_some_and(|found| found.record.seq < self.held_from)
    }

    /// The record of the head, and what its receiver keeps.
    #[inline]
    pub(crate) fn look(&self, level: u8, position: Position) -> Option<(FoundRecord<'_>, Unacked)> {
        let found = self.chunks.record(position)?;
        let mut taken = unacked(level, found.record.seq, position, &found.record);
        if let Some(run) = self.requeued.first() {
            (taken.seq, taken.attempts) = (run.first, run.attempts);
        }
        Some((found, taken))
    }

    /// Takes the head off; `next` is where the record behind it begins.
    #[inline]
    pub(crate) fn take_head(&mut self, next: u32, body_len: u32) {
        if self.requeued.is_empty() {
            self.chunks.advance(next);
        } else {
            self.requeued.pop_first(next, body_len);
        }
    }

    /// The chunk of the next message, or of the one that is to come.
    pub(crate) fn head_chunk(&self) -> u32 {
        let requeued = self.requeued.first();
        requeued.map_or_else(|| self.chunks.head_chunk(), |run| run.position.chunk)
    }

    /// Takes out messages that are past their own expiration, wherever they stand, at most `most`.
    pub(crate) fn sweep(&mut self, now_ms: u64, most: usize) -> Vec<Unacked> {
        let mut out = Vec::new();
        let mut own_ms = self.sweep_requeued(now_ms, &mut out, most);
        self.chunks.sweep(now_ms, &mut out, most);
        own_ms = own_ms.min(self.chunks.own_ms());
        self.own_ms = own_ms;
        out
    }

    fn sweep_requeued(&mut self, now_ms: u64, out: &mut Vec<Unacked>, most: usize) -> u64 {
        let mut own_ms = u64::MAX;
        if self.requeued.is_empty() {
            return own_ms;
        }
        let runs: Vec<_> = self.requeued.drain().collect();
        for run in runs {
            let mut position = run.position;
            if let Some((_, away_ms)) = self.chunks.away_times(position.chunk) {
                if away_ms <= now_ms {
                    self.chunks.note_sweep_of(position.chunk, now_ms);
                }
                own_ms = own_ms.min(away_ms);
                self.requeued.insert(run);
                continue;
            }
            for seq in run.first..=run.last {
                let Some(found) = self.chunks.record(position) else {
                    break;
                };
                let deadline_ms = found.deadline_ms(u64::MAX);
                let mut taken = unacked(0, seq, position, &found.record);
                taken.attempts = run.attempts;
                let (next, bytes) = (found.next, u64::from(found.record.body.len()));
                if deadline_ms <= now_ms && out.len() < most {
                    out.push(taken);
                } else {
                    own_ms = own_ms.min(deadline_ms);
                    self.requeued.insert(RequeuedRun {
                        first: seq,
                        last: seq,
                        position,
                        attempts: run.attempts,
                        bytes,
                    });
                }
                position.offset = next;
            }
        }
        own_ms
    }
}

/// All levels of a queue. One without priorities has just the first, and pays for nothing else.
#[derive(Debug)]
pub(crate) struct Lanes {
    first: Lane,
    levels: u16,
    /// Some higher level may have chunks that are not in memory, or should not be.
    paged: bool,
    higher: Option<Box<Higher>>,
}

/// The levels above the first that were ever used, and which have ready messages.
#[derive(Debug, Default)]
struct Higher {
    lanes: Vec<Lane>,
    ready: [u64; 4],
}

impl Lanes {
    pub(crate) fn new(levels: u16, memory: Memory) -> Self {
        Self {
            first: Lane::new(memory),
            levels: levels.clamp(1, 256),
            paged: false,
            higher: None,
        }
    }

    pub(crate) const fn memory(&self) -> &Memory {
        self.first.chunks.memory()
    }

    pub(crate) const fn levels(&self) -> u16 {
        self.levels
    }

    /// The only lane, of a queue without priorities.
    #[inline]
    pub(crate) const fn plain(&mut self) -> Option<&mut Lane> {
        if self.levels == 1 {
            Some(&mut self.first)
        } else {
            None
        }
    }

    /// The level a message of this priority goes to, made if it was never used.
    #[inline]
    pub(crate) fn level_of(&mut self, priority: u8) -> u8 {
        if self.levels == 1 || priority == 0 {
            return 0;
        }
        self.make_level(priority)
    }

    fn make_level(&mut self, priority: u8) -> u8 {
        let level = u8::try_from(self.levels - 1).map_or(priority, |top| priority.min(top));
        let any = u64::from(self.first.ready > 0);
        let memory = self.first.chunks.memory();
        let higher = self.higher.get_or_insert_default();
        if let Some(word) = higher.ready.first_mut() {
            *word |= any;
        }
        let lanes = &mut higher.lanes;
        if lanes.len() < usize::from(level) {
            lanes.resize_with(usize::from(level), || Lane::new(memory.clone()));
        }
        level
    }

    #[inline]
    pub(crate) fn at(&self, level: u8) -> &Lane {
        if let (Some(index), Some(higher)) = (level.checked_sub(1), &self.higher)
            && let Some(lane) = higher.lanes.get(usize::from(index))
        {
            return lane;
        }
        &self.first
    }

    #[inline]
    pub(crate) fn at_mut(&mut self, level: u8) -> &mut Lane {
        if let (Some(index), Some(higher)) = (level.checked_sub(1), &mut self.higher)
            && let Some(lane) = higher.lanes.get_mut(usize::from(index))
        {
            return lane;
        }
        &mut self.first
    }

    /// Whether some level has chunks that are not in memory, or should not be.
    #[inline]
    pub(crate) const fn is_paged(&self) -> bool {
        self.first.chunks.is_paged() || self.paged
    }

    /// Finds out whether any higher level has.
    pub(crate) fn look_at_higher(&mut self) {
        let higher = self.higher.as_ref();
        let mut lanes = higher.into_iter().flat_map(|higher| &higher.lanes);
        self.paged = lanes.any(|lane| lane.chunks.is_paged());
    }

    /// A message was appended to a level.
    #[inline]
    pub(crate) fn appended_to(&mut self, level: u8) {
        self.paged |= level > 0 && self.at(level).chunks.is_paged();
    }

    /// Counts messages of a level that are ready now.
    #[inline]
    pub(crate) fn came(&mut self, level: u8, messages: u64) {
        self.at_mut(level).ready += messages;
        if self.higher.is_some() {
            self.mark(level);
        }
    }

    /// Counts messages of a level that are ready no more.
    #[inline]
    pub(crate) fn went(&mut self, level: u8, messages: u64) {
        self.at_mut(level).ready -= messages;
        if self.higher.is_some() {
            self.mark(level);
        }
    }

    fn mark(&mut self, level: u8) {
        let any = self.at(level).ready > 0;
        let bit = 1 << (level % 64);
        let higher = self.higher.as_mut();
        if let Some(word) = higher.and_then(|one| one.ready.get_mut(usize::from(level / 64))) {
            *word = if any { *word | bit } else { *word & !bit };
        }
    }

    /// The highest level that has ready messages; the first if none has.
    #[inline]
    pub(crate) fn top(&self) -> u8 {
        if breaks(Sabotage::SkipLane) {
            return self.bottom();
        }
        self.higher.as_ref().map_or(0, |higher| {
            let words = higher.ready.iter().zip([0u32, 1, 2, 3]).rev();
            let mut set = words.filter(|(word, _)| **word != 0);
            set.next()
                .map_or(0, |(word, at)| level(at * 64 + 63 - word.leading_zeros()))
        })
    }

    /// The lowest level that has ready messages; the first if none has.
    pub(crate) fn bottom(&self) -> u8 {
        self.higher.as_ref().map_or(0, |higher| {
            let mut set = (0u32..).zip(&higher.ready).filter(|(_, word)| **word != 0);
            set.next()
                .map_or(0, |(at, word)| level(at * 64 + word.trailing_zeros()))
        })
    }

    /// All levels that were ever used, highest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u8, &Lane)> {
        let higher = self.higher.iter().flat_map(|higher| {
            let levels = higher.lanes.iter().zip(1..=u8::MAX).rev();
            levels.map(|(lane, level)| (level, lane))
        });
        higher.chain([(0, &self.first)])
    }

    /// The levels that have ready messages, highest first; of a queue without priorities the only
    /// one.
    #[inline]
    pub(crate) fn used(&self) -> Used {
        Used(self.higher.as_ref().map_or([1, 0, 0, 0], |one| one.ready))
    }

    /// All lanes that were ever used.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Lane> {
        let higher = self.higher.iter_mut().flat_map(|higher| &mut higher.lanes);
        [&mut self.first].into_iter().chain(higher)
    }

    /// All that is there was offered to whoever could take it.
    pub(crate) fn offered(&mut self) {
        for lane in self.iter_mut() {
            lane.fresh_from = lane.next_seq;
        }
    }

    /// Bytes of chunk memory held.
    #[inline]
    pub(crate) fn resident_bytes(&self) -> usize {
        let of = |lane: &Lane| lane.chunks.resident_bytes();
        let higher = self.higher.as_ref();
        of(&self.first) + higher.map_or(0, |higher| higher.lanes.iter().map(of).sum())
    }

    /// Bytes that chunks and their shared bodies hold in memory, the latter as if nobody else had
    /// them.
    pub(crate) fn weight(&self) -> u64 {
        self.iter().map(|(_, lane)| lane.chunks.weight()).sum()
    }

    /// Forgets which levels have ready messages: none has.
    pub(crate) fn emptied(&mut self) {
        self.iter_mut().for_each(|lane| {
            lane.ready = 0;
            lane.own_ms = u64::MAX;
        });
        if let Some(higher) = &mut self.higher {
            higher.ready = [0; 4];
        }
    }
}

/// Levels, highest first: a bit for each.
pub(crate) struct Used([u64; 4]);

impl Iterator for Used {
    type Item = u8;

    #[inline]
    fn next(&mut self) -> Option<u8> {
        let mut words = self.0.iter_mut().zip([0u32, 1, 2, 3]).rev();
        let (word, at) = words.find(|(word, _)| **word != 0)?;
        let bit = 63 - word.leading_zeros();
        *word &= !(1 << bit);
        Some(level(at * 64 + bit))
    }
}

fn level(bit: u32) -> u8 {
    u8::try_from(bit).unwrap_or(u8::MAX)
}
