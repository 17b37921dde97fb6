//! Follows the chain of frames from a checkpoint to the journal's end, and tells a torn tail from
//! rot.
//!
//! A frame says which frames were durable when it was written. So a frame that is not whole was
//! confirmed if any later one says that it was durable (rot: what can be read is kept, the rest is
//! named), and was never confirmed otherwise (the tail of a write that a crash interrupted).
//! Frames that nothing proves durable are held back: the caller writes them again.

use std::collections::VecDeque;

use crate::checkpoint::ChainHead;
use crate::frame::{self, BLOCK, HEADER, Header};
use crate::recovery::replay::{FrameBody, ReplayState};
use crate::recovery::scan::{Contents, Start};
use crate::recovery::{OpenError, Unreadable};
use crate::segment::{self, Pool};
use crate::{JournalConfig, StoreSabotage};

/// Follows the chain of frames from a checkpoint to the end of the journal.
pub(super) struct RecoveryWalk<'a> {
    pub(super) config: &'a JournalConfig,
    pub(super) pool: &'a Pool,
    pub(super) store: u64,
    /// The first frames of all slots.
    pub(super) starts: Vec<Start>,
    /// Where the next frame is expected.
    pub(super) head: ChainHead,
    pub(super) state: ReplayState,
    contents: Contents,
    /// The last frame was a seal: the chain goes on in this slot.
    sealed: Option<u32>,
    /// Frames that nothing has proven durable yet.
    unproven: VecDeque<Unproven>,
}

/// A frame whose records have not been applied.
pub(super) struct Unproven {
    pub(super) slot: u32,
    pub(super) header: Header,
    pub(super) chain: u32,
    pub(super) body: Vec<u8>,
}

impl Unproven {
    pub(super) fn as_body(&self) -> FrameBody<'_> {
        FrameBody {
            slot: self.slot,
            header: self.header,
            chain: self.chain,
            at: self.header.offset + HEADER as u64,
            bytes: &self.body,
        }
    }
}

/// What is at the place where the next frame should be.
enum NextFrame {
    /// The frame; its contents are loaded.
    Frame(Header, u32),
    /// Confirmed frames that can no longer be read; the walk has gone past them.
    Rot,
    /// The journal ends here.
    End,
}

/// Where a walk begins.
pub(super) struct Beginning {
    /// The first frames of all slots.
    pub(super) starts: Vec<Start>,
    /// Where its first frame is expected.
    pub(super) head: ChainHead,
    /// What a checkpoint knows.
    pub(super) state: ReplayState,
}

impl<'a> RecoveryWalk<'a> {
    pub(super) fn new(
        config: &'a JournalConfig,
        pool: &'a Pool,
        store: u64,
        beginning: Beginning,
    ) -> Self {
        let Beginning {
            starts,
            head,
            state,
        } = beginning;
        Self {
            config,
            pool,
            store,
            starts,
            head,
            state,
            contents: Contents::default(),
            sealed: None,
            unproven: VecDeque::new(),
        }
    }

    /// Walks to the end. What is left in the returned queue is the unproven tail.
    pub(super) fn run(mut self) -> Result<(ReplayState, ChainHead, VecDeque<Unproven>), OpenError> {
        self.contents.load(self.pool, self.head.slot);
        // No chain is longer than the files: whatever is on the disk, this ends.
        for _ in 0..=self.pool.bytes() / BLOCK {
            match self.next()? {
                NextFrame::Frame(header, chain) => self.accept(header, chain)?,
                NextFrame::Rot => {}
                NextFrame::End => break,
            }
        }
        self.state.led_to = self.sealed.filter(|slot| self.begins_next(*slot));
        if self.config.breaks(StoreSabotage::SkipTailRewrite) {
            self.prove(u64::MAX)?;
        }
        Ok((self.state, self.head, self.unproven))
    }

    fn next(&mut self) -> Result<NextFrame, OpenError> {
        if let Some(found) = self.in_other_slot()? {
            return Ok(found);
        }
        if self.sealed.is_none()
            && let Some((header, chain)) = self.expected_here()
            && self.is_good(&header)
        {
            return Ok(NextFrame::Frame(header, chain));
        }
        if self.config.breaks(StoreSabotage::TruncateAtRot) || !self.was_confirmed() {
            self.note_unreadable_end();
            return Ok(NextFrame::End);
        }
        self.pass_rot()
    }

    /// The next frame at the beginning of another slot: after a seal, or of a later epoch, which
    /// has written the tail again. The latest epoch that is whole, or proven, wins.
    fn in_other_slot(&mut self) -> Result<Option<NextFrame>, OpenError> {
        let head = self.head;
        let after_seal =
            |start: &Start| start.header.epoch == head.epoch && self.sealed == Some(start.slot);
        let mut candidates: Vec<Start> = self
            .starts
            .iter()
            .filter(|start| start.header.seq == head.seq && self.chains(&start.header))
            .filter(|start| start.header.epoch > head.epoch || after_seal(start))
            .copied()
            .collect();
        candidates.sort_by_key(|start| std::cmp::Reverse(start.header.epoch));
        for start in candidates {
            let mut contents = Contents::default();
            contents.load(self.pool, start.slot);
            let Some((header, chain)) = contents.header_at(0, self.store) else {
                continue;
            };
            let whole = contents.whole(&header).is_some();
            let proven = contents
                .headers(header.frame_len(), self.store)
                .any(|(later, _)| later.serial == header.serial && later.durable >= header.seq);
            if !whole && !proven {
                continue;
            }
            self.contents = contents;
            self.enter(start.slot, &header);
            if !whole {
                return self.pass_rot().map(Some);
            }
            return Ok(Some(NextFrame::Frame(header, chain)));
        }
        Ok(None)
    }

    /// Whether a slot begins with the frame that the chain goes on with, or is too short to.
    fn begins_next(&self, slot: u32) -> bool {
        let segment = self.pool.segments.get(&slot);
        let next = |start: &Start| {
            start.slot == slot && start.header.seq == self.head.seq && self.chains(&start.header)
        };
        segment.is_some_and(|segment| segment.bytes < BLOCK) || self.starts.iter().any(next)
    }

    fn enter(&mut self, slot: u32, header: &Header) {
        self.sealed = None;
        self.head = ChainHead {
            slot,
            serial: header.serial,
            epoch: header.epoch,
            offset: header.offset,
            ..self.head
        };
    }

    fn chains(&self, header: &Header) -> bool {
        header.prev == self.head.prev || self.config.breaks(StoreSabotage::IgnoreChain)
    }

    /// The header at the head, if it is the expected frame's.
    fn expected_here(&self) -> Option<(Header, u32)> {
        let head = self.head;
        self.contents
            .header_at(head.offset, self.store)
            .filter(|(header, _)| {
                let same = header.serial == head.serial && header.epoch == head.epoch;
                let broken = self.config.breaks(StoreSabotage::IgnoreChain);
                (same && header.seq == head.seq && self.chains(header)) || broken
            })
    }

    fn is_good(&self, header: &Header) -> bool {
        self.contents.whole(header).is_some()
            || (self.config.breaks(StoreSabotage::TrustBody)
                && self.contents.body(header).is_some())
            || (self.config.breaks(StoreSabotage::TrustRecords) && self.has_intact_records(header))
    }

    fn has_intact_records(&self, header: &Header) -> bool {
        self.contents
            .body(header)
            .is_some_and(|body| frame::salvage(body, None).unknown_from.is_none())
    }

    /// Headers of all frames that could come later than the expected one.
    fn later(&self) -> Vec<(u32, Header)> {
        let next = self.head.seq;
        let mut later: Vec<_> = self
            .contents
            .headers(self.head.offset, self.store)
            .map(|(header, _)| (self.contents.slot, header))
            .chain(self.starts.iter().map(|start| (start.slot, start.header)))
            .collect();
        if let Some(slot) = self.sealed {
            let mut contents = Contents::default();
            contents.load(self.pool, slot);
            later.extend(
                contents
                    .headers(0, self.store)
                    .map(|(header, _)| (slot, header)),
            );
        }
        later.retain(|(_, header)| header.seq > next);
        later
    }

    /// Whether the expected frame was durable once.
    fn was_confirmed(&self) -> bool {
        let slot_lost = self
            .sealed
            .is_some_and(|slot| !self.pool.segments.contains_key(&slot));
        let seq = self.head.seq;
        slot_lost || self.later().iter().any(|(_, header)| header.durable >= seq)
    }

    /// Notes if the expected frame may be there and the disk fails to read it: no torn write.
    fn note_unreadable_end(&mut self) {
        let head = self.head;
        let len = self
            .expected_here()
            .map_or(BLOCK, |(header, _)| header.frame_len());
        let slot = self.contents.slot;
        let end = head.offset.saturating_add(len);
        if self.sealed.is_none() && self.contents.is_unreadable(head.offset, end) {
            self.state.damage.push(crate::recovery::Damage {
                file: segment::name_of(slot),
                offset: head.offset,
                frame: Some(head.seq),
                what: Unreadable::Frame,
                lost: Vec::new(),
            });
        }
    }

    /// Takes what can be read of a confirmed frame and goes on with the next one that is there.
    fn pass_rot(&mut self) -> Result<NextFrame, OpenError> {
        self.prove(u64::MAX)?;
        if self.sealed.is_none()
            && let Some((header, chain)) = self.contents.header_at(self.head.offset, self.store)
            && header.seq == self.head.seq
        {
            self.salvage_body(header, chain)?;
            self.step(&header, chain);
            return Ok(NextFrame::Rot);
        }
        let later = self.later();
        let next = later
            .into_iter()
            .min_by_key(|(_, header)| (header.seq, std::cmp::Reverse(header.epoch)));
        let Some((slot, header)) = next else {
            self.lose_file();
            return Ok(NextFrame::End);
        };
        self.salvage_headless(slot, &header)?;
        if slot != self.contents.slot {
            self.contents.load(self.pool, slot);
        }
        self.enter(slot, &header);
        self.head = ChainHead {
            seq: header.seq,
            prev: header.prev,
            ..self.head
        };
        Ok(NextFrame::Rot)
    }

    /// Applies the intact records of a frame whose header is good.
    fn salvage_body(&mut self, header: Header, chain: u32) -> Result<(), OpenError> {
        let at = header.offset + HEADER as u64;
        let bytes = self.contents.body(&header).unwrap_or(&[]);
        let body = FrameBody {
            slot: self.contents.slot,
            header,
            chain,
            at,
            bytes,
        };
        let found = frame::salvage(bytes, Some(header.records));
        for record in &found.damaged {
            self.state.lose(&body, record, false);
        }
        if found.unknown_from.is_some() || bytes.is_empty() {
            self.state.lose_frame(&body, Unreadable::Frame);
        }
        self.state.apply_records(&body, found.intact.into_iter())
    }

    /// Applies the intact records of a frame whose header is gone, up to the next frame.
    fn salvage_headless(&mut self, next_slot: u32, next: &Header) -> Result<(), OpenError> {
        let ChainHead {
            slot,
            serial,
            epoch,
            offset,
            seq,
            ..
        } = self.head;
        let place = self.sealed.unwrap_or(slot);
        let from = if self.sealed.is_some() { 0 } else { offset };
        if self.sealed.is_some() {
            self.contents.load(self.pool, place);
        }
        let end = if next_slot == place {
            next.offset
        } else {
            self.contents.bytes.len() as u64
        };
        let at = from + HEADER as u64;
        let range = usize::try_from(at).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
        // Without a frame of its own there is no telling which segment a slot is.
        let known = self.sealed.is_none() || next_slot == place;
        let bytes = self
            .contents
            .bytes
            .get(range)
            .filter(|_| known)
            .unwrap_or(&[]);
        let found = frame::salvage(bytes, None);
        let serial = if next_slot == place {
            next.serial
        } else {
            serial
        };
        let body_len = end.saturating_sub(at);
        let header = Header {
            serial,
            epoch,
            seq,
            offset: from,
            body_len,
            ..Header::default()
        };
        let body = FrameBody {
            slot: place,
            header,
            chain: next.prev,
            at,
            bytes,
        };
        // Zeros are what an empty frame has, and what a whole block that is lost looks like.
        let any = !found.intact.is_empty();
        let complete = any && found.unknown_from.is_none() && next.seq == seq + 1;
        let what = if complete {
            Unreadable::Header
        } else {
            Unreadable::Frame
        };
        self.state.lose_frame(&body, what);
        self.state.apply_records(&body, found.intact.into_iter())
    }

    /// Notes that the segment the chain goes on in is not there, and nothing after it.
    fn lose_file(&mut self) {
        let slot = self.sealed.unwrap_or(self.head.slot);
        self.state.has_gaps = true;
        self.state.damage.push(crate::recovery::Damage {
            file: segment::name_of(slot),
            offset: 0,
            frame: Some(self.head.seq),
            what: Unreadable::File,
            lost: Vec::new(),
        });
    }

    fn accept(&mut self, header: Header, chain: u32) -> Result<(), OpenError> {
        let body = self.contents.body(&header).unwrap_or(&[]).to_vec();
        let slot = self.contents.slot;
        self.unproven.push_back(Unproven {
            slot,
            header,
            chain,
            body,
        });
        self.prove(header.durable)?;
        self.step(&header, chain);
        Ok(())
    }

    /// Moves the head behind a frame.
    fn step(&mut self, header: &Header, chain: u32) {
        self.state.proven = self.state.proven.max(header.durable);
        self.sealed = header.next_slot();
        self.head.offset = header.offset + header.frame_len();
        self.head.seq = header.seq.saturating_add(1);
        self.head.prev = chain;
    }

    /// Applies the frames up to this one: they are known to be durable.
    fn prove(&mut self, durable: u64) -> Result<(), OpenError> {
        while self
            .unproven
            .front()
            .is_some_and(|frame| frame.header.seq <= durable)
            && let Some(frame) = self.unproven.pop_front()
        {
            self.state.apply(&frame.as_body())?;
        }
        Ok(())
    }
}
