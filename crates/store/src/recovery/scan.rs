//! Reading segments: whole files in memory, frames found in them, and which slots begin with what.

use crate::frame::{self, BLOCK, Header};
use crate::recovery::OpenError;
use crate::segment::{self, OtherUse, Pool, Segment, Use};
use crate::vfs::{Vfs, read_readable};

/// The first frame of a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) slot: u32,
    pub(super) header: Header,
}

/// Opens all segment files and reads their first block. Slots are `Stale` until proven otherwise.
pub(super) fn open_pool(
    vfs: &dyn Vfs,
    names: &[String],
    store: u64,
) -> Result<(Pool, Vec<Start>), OpenError> {
    let (mut pool, mut starts) = (Pool::default(), Vec::new());
    for name in names {
        let Some(slot) = segment::slot_of(name) else {
            continue;
        };
        let disk = |error| OpenError::Disk {
            what: name.clone(),
            error,
        };
        let file = vfs.open(name).map_err(disk)?;
        let bytes = file.size().map_err(disk)?;
        let mut block = vec![0; frame::HEADER];
        read_readable(&*file, &mut block);
        match Header::read(&block, store) {
            Some((header, _)) if header.offset == 0 => starts.push(Start { slot, header }),
            _ if is_foreign(&block) => return Err(OpenError::Foreign { file: name.clone() }),
            _ => {}
        }
        let mut segment = Segment {
            used: Use::Stale(0),
            ..Segment::free(file, bytes)
        };
        if segment.is_linked() {
            segment.kept = OtherUse::Linked;
        }
        pool.segments.insert(slot, segment);
    }
    Ok((pool, starts))
}

/// Whether this is a good header of some other store.
fn is_foreign(block: &[u8]) -> bool {
    crate::record::u64_at(block, 16).is_some_and(|store| Header::read(block, store).is_some())
}

/// A segment's bytes, as many as there are.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) slot: u32,
    pub(super) bytes: Vec<u8>,
    /// Blocks that the disk fails to read; zeros here.
    unreadable: Vec<u64>,
}

impl Contents {
    /// Reads a slot, over what was read before. What cannot be read looks like rot.
    pub(super) fn load(&mut self, pool: &Pool, slot: u32) {
        self.slot = slot;
        self.unreadable.clear();
        let Some(segment) = pool.segments.get(&slot) else {
            self.bytes.clear();
            return;
        };
        let len = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
        self.bytes.resize(len, 0);
        self.unreadable = read_readable(&*segment.file, &mut self.bytes);
    }

    /// Whether the disk failed to read some of `from..to`.
    pub(super) fn is_unreadable(&self, from: u64, to: u64) -> bool {
        let within = |at: &u64| *at < to && from < at + BLOCK;
        self.unreadable.iter().any(within)
    }

    /// The header of a frame that begins exactly here, and its chain value.
    pub(super) fn header_at(&self, offset: u64, store: u64) -> Option<(Header, u32)> {
        let block = self.bytes.get(usize::try_from(offset).ok()?..)?;
        Header::read(block, store).filter(|(header, _)| header.offset == offset)
    }

    /// The body of a frame, as far as it is there.
    pub(super) fn body(&self, header: &Header) -> Option<&[u8]> {
        frame::body(
            self.bytes.get(usize::try_from(header.offset).ok()?..)?,
            header,
        )
    }

    /// The body of a frame if all of it is as it was written.
    pub(super) fn whole(&self, header: &Header) -> Option<&[u8]> {
        self.body(header)
            .filter(|body| frame::is_whole(header, body))
    }

    /// All good headers from `offset` on, at any block.
    pub(super) fn headers(
        &self,
        offset: u64,
        store: u64,
    ) -> impl Iterator<Item = (Header, u32)> + '_ {
        let end = self.bytes.len() as u64;
        (offset.next_multiple_of(BLOCK)..end)
            .step_by(usize::try_from(BLOCK).unwrap_or(4096))
            .filter_map(move |at| self.header_at(at, store))
    }
}
