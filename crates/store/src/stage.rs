//! What connections have submitted and the next frame will hold.

use crate::batch::{Batch, Returned, Settled, empty};
use crate::frame::HEADER;
use crate::lanes::Serial;
use crate::moved::Move;
use crate::space::Claim;
use crate::{LaneId, StoreRefusal, Ticket};

/// The records of the next frame. Two of them take turns, so that steady work allocates nothing.
#[derive(Default)]
pub(crate) struct Stage {
    /// Room for the frame's header, then MESSAGE and TOPOLOGY records.
    pub(crate) bytes: Vec<u8>,
    pub(crate) settled: Vec<Settled>,
    pub(crate) returned: Vec<Returned>,
    pub(crate) resets: Vec<(LaneId, u64)>,
    pub(crate) moves: Vec<Move>,
    /// Records read back from a segment that is to be emptied.
    pub(crate) copies: Vec<(Serial, Vec<u8>)>,
    /// Somebody waits for this.
    pub(crate) urgent: bool,
    /// The ticket of everything in here.
    pub(crate) ticket: Ticket,
    /// What was claimed for it.
    pub(crate) claim: Claim,
}

/// A stage that once held very much does not keep the memory.
const KEEP_BYTES_MAX: usize = 16 << 20;

impl Stage {
    /// Takes over what a batch holds, and clears it.
    pub(crate) fn add(&mut self, batch: &mut Batch) -> Result<Ticket, StoreRefusal> {
        if batch.is_oversize() {
            batch.clear();
            return Err(StoreRefusal::Oversize);
        }
        if batch.is_empty() {
            return Ok(Ticket(0));
        }
        if !batch.bytes.is_empty() {
            if self.bytes.is_empty() {
                self.bytes.resize(HEADER, 0);
            }
            self.bytes.extend_from_slice(&batch.bytes);
        }
        self.settled.extend_from_slice(&batch.settled);
        self.returned.extend_from_slice(&batch.returned);
        self.resets.extend_from_slice(&batch.resets);
        self.moves.append(&mut batch.moves);
        self.urgent |= batch.urgent;
        self.claim.add(batch.claim.take());
        batch.clear();
        Ok(self.ticket)
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
            && self.settled.is_empty()
            && self.returned.is_empty()
            && self.resets.is_empty()
            && self.moves.is_empty()
            && self.copies.is_empty()
    }

    /// Bytes held for connections.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
            + size_of_val(self.settled.as_slice())
            + size_of_val(self.returned.as_slice())
            + size_of_val(self.resets.as_slice())
            + self.moves.iter().map(Move::len).sum::<usize>()
    }

    /// Whether so many more bytes are better written as a frame of their own: in frames that are
    /// small beside a segment, little of that is left over.
    pub(crate) fn is_full(&self, more: usize, bytes_max: u64) -> bool {
        !self.is_empty() && (self.len() + more) as u64 > bytes_max
    }

    /// Makes it ready to be filled again.
    pub(crate) fn clear(&mut self) {
        empty(&mut self.bytes, KEEP_BYTES_MAX);
        empty(&mut self.settled, KEEP_BYTES_MAX);
        empty(&mut self.returned, KEEP_BYTES_MAX);
        empty(&mut self.resets, KEEP_BYTES_MAX);
        self.moves.clear();
        empty(&mut self.copies, KEEP_BYTES_MAX);
        self.claim = Claim::default();
        self.urgent = false;
    }
}
