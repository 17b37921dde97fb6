//! Reading segments: whole files in memory, frames found in them, and which slots begin with what.

use crate::frame::{self, BLOCK, Header};
use crate::recovery::OpenError;
use crate::segment::{self, Pool, Segment, Use};
use crate::vfs::{DiskError, Vfs, VfsFile};

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
        let read = file.read_at(0, &mut block).map_err(disk)?;
        block.truncate(read);
        match Header::read(&block, store) {
            Some((header, _)) if header.offset == 0 => starts.push(Start { slot, header }),
            _ if is_foreign(&block) => return Err(OpenError::Foreign { file: name.clone() }),
            _ => {}
        }
        pool.segments.insert(
            slot,
            Segment {
                file,
                bytes,
                used: Use::Stale(0),
            },
        );
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
}

impl Contents {
    /// Reads a slot, over what was read before.
    pub(super) fn load(&mut self, pool: &Pool, slot: u32) -> Result<(), OpenError> {
        let Some(segment) = pool.segments.get(&slot) else {
            self.bytes.clear();
            self.slot = slot;
            return Ok(());
        };
        self.read(&*segment.file, segment.bytes)
            .map_err(|error| OpenError::Disk {
                what: segment::name_of(slot),
                error,
            })?;
        self.slot = slot;
        Ok(())
    }

    fn read(&mut self, file: &dyn VfsFile, bytes: u64) -> Result<(), DiskError> {
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.bytes.resize(len, 0);
        let read = file.read_at(0, &mut self.bytes)?;
        self.bytes.truncate(read);
        Ok(())
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
