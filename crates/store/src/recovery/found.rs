//! What is on the disk before anything is made of it.

use crate::checkpoint::{self, ChainHead, Image};
use crate::format::{self, Format};
use crate::recovery::scan::{self, Start};
use crate::recovery::{OpenError, disk};
use crate::segment::{self, Pool};
use crate::vfs::{DiskError, Vfs, read_readable};

/// What is on the disk.
pub(super) struct FoundOnDisk {
    pub(super) format: Format,
    pub(super) pool: Pool,
    pub(super) starts: Vec<Start>,
    /// The newest checkpoint; the beginning of time if there is none.
    pub(super) image: Image,
    /// The bytes of that checkpoint.
    pub(super) bytes: Option<Vec<u8>>,
    /// The checkpoint before that one.
    pub(super) older: Option<Image>,
    pub(super) created: bool,
}

impl FoundOnDisk {
    /// Reads it; nothing is written. A store that does not exist is a new one with this identity.
    pub(super) fn read(vfs: &dyn Vfs, new_store_id: [u8; 16]) -> Result<Self, OpenError> {
        let names = vfs.list().map_err(|error| disk("directory", error))?;
        let format = Format::read(vfs)?;
        let used = names
            .iter()
            .any(|name| segment::slot_of(name).is_some() || name.starts_with("checkpoint."));
        if format.is_none() && used {
            return Err(OpenError::NoFormat);
        }
        let format = format.unwrap_or_else(|| Format::new(new_store_id));
        let store = format.store();
        let (pool, starts) = scan::open_pool(vfs, &names, store)?;
        let (newest, older) = checkpoints(vfs, store)?;
        let created = newest.is_none() && starts.is_empty();
        let (image, bytes) = match newest {
            Some((image, bytes)) => (image, Some(bytes)),
            None => (
                Image {
                    head: ChainHead {
                        seq: 1,
                        ..ChainHead::default()
                    },
                    ..Image::default()
                },
                None,
            ),
        };
        Ok(Self {
            format,
            pool,
            starts,
            image,
            bytes,
            older,
            created,
        })
    }

    /// Has FORMAT say what this version writes.
    pub(super) fn mark(&self, vfs: &dyn Vfs) -> Result<(), OpenError> {
        let written = if self.bytes.is_none() {
            // Also after a crash while it was being made: what is there may not be on the disk.
            self.format.write(vfs)
        } else {
            Ok(())
        };
        written
            .and_then(|()| self.format.upgrade(vfs))
            .map_err(|error| disk(format::NAME, error))
    }
}

/// A checkpoint and its bytes.
type Read = (Image, Vec<u8>);

/// The newer of the two checkpoints, of those that are whole, and the other one.
fn checkpoints(vfs: &dyn Vfs, store: u64) -> Result<(Option<Read>, Option<Image>), OpenError> {
    let mut whole: Vec<Read> = Vec::new();
    for name in checkpoint::NAMES {
        let file = match vfs.open(name) {
            Ok(file) => file,
            Err(DiskError::Missing) => continue,
            Err(error) => return Err(disk(name, error)),
        };
        let len = file.size().map_err(|error| disk(name, error))?;
        let mut head = vec![0; checkpoint::HEADER];
        read_readable(&*file, &mut head);
        let len = len.min(checkpoint::len_of(&head));
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        read_readable(&*file, &mut bytes);
        let Some(bytes) = checkpoint::intact(&bytes, store) else {
            continue;
        };
        if let Some(image) = checkpoint::decode(bytes) {
            whole.push((image, bytes.to_vec()));
        }
    }
    whole.sort_by_key(|(image, _)| image.generation);
    let newest = whole.pop();
    Ok((newest, whole.pop().map(|(image, _)| image)))
}
