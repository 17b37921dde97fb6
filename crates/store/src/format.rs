//! The FORMAT file: whose store this is and who may open it. Two copies, so that one may rot.

use crate::record::{u32_at, u64_at};
use crate::recovery::OpenError;
use crate::vfs::{DiskError, Vfs, read_readable};

/// The file's name.
pub(crate) const NAME: &str = "FORMAT";

/// Grows when older versions must not open the store.
pub(crate) const MAJOR: u16 = 1;

/// A feature a reader must know to open the store: when messages came and how often they were
/// tried is in their records.
const ATTEMPTS_AND_TIMES: u32 = 1;
/// Messages may be in run files only.
const MOVED_CHUNKS: u32 = 2;
/// Chunks there may lack what was settled of them.
const SPARSE_CHUNKS: u32 = 4;
const KNOWN_FEATURES: u32 = ATTEMPTS_AND_TIMES | MOVED_CHUNKS | SPARSE_CHUNKS;

const MAGIC: &[u8; 8] = b"LEVERET\n";
const COPY: usize = 4096;
const LEN: usize = 48;

/// What the file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Format {
    pub(crate) id: [u8; 16],
    features: u32,
}

impl Format {
    /// A store of this version.
    pub(crate) const fn new(id: [u8; 16]) -> Self {
        Self {
            id,
            features: KNOWN_FEATURES,
        }
    }

    /// Says of a store of an earlier version that only this one may open it from now on. One copy
    /// after the other: what is read at any time is one of the two.
    pub(crate) fn upgrade(&self, vfs: &dyn Vfs) -> Result<(), DiskError> {
        if self.features == KNOWN_FEATURES {
            return Ok(());
        }
        let file = vfs.open(NAME)?;
        for at in [0, COPY as u64] {
            file.write_at(at, &Self::new(self.id).encode())?;
            file.sync()?;
        }
        Ok(())
    }

    /// The store's secret number, which every frame carries.
    pub(crate) fn store(&self) -> u64 {
        u64_at(&self.id, 0).unwrap_or(0) ^ u64_at(&self.id, 8).unwrap_or(0).rotate_left(1)
    }

    /// Writes both copies so that they survive.
    pub(crate) fn write(&self, vfs: &dyn Vfs) -> Result<(), DiskError> {
        let copy = self.encode();
        let file = vfs.create(NAME)?;
        let mut bytes = vec![0; 2 * COPY];
        for half in bytes.chunks_mut(COPY) {
            if let Some(place) = half.get_mut(..LEN) {
                place.copy_from_slice(&copy);
            }
        }
        file.write_at(0, &bytes)?;
        file.sync()?;
        vfs.sync_dir()
    }

    /// Reads the file; `Ok(None)` if there is none, or none that was ever completed.
    pub(crate) fn read(vfs: &dyn Vfs) -> Result<Option<Self>, OpenError> {
        let file = match vfs.open(NAME) {
            Ok(file) => file,
            Err(DiskError::Missing) => return Ok(None),
            Err(error) => {
                return Err(OpenError::Disk {
                    what: NAME.to_owned(),
                    error,
                });
            }
        };
        let mut bytes = vec![0; 2 * COPY];
        read_readable(&*file, &mut bytes);
        for copy in bytes.chunks(COPY) {
            if let Some(found) = Self::decode(copy) {
                return found.map(Some);
            }
        }
        Ok(None)
    }

    /// Writes a copy that has rotten anew, from the other one; `false` if there is none. One that a
    /// newer version has written stays as it is.
    pub(crate) fn repair(vfs: &dyn Vfs) -> Result<bool, DiskError> {
        let file = vfs.open(NAME)?;
        let mut bytes = vec![0; 2 * COPY];
        read_readable(&*file, &mut bytes);
        let copies = [0, COPY].map(|at| (at, bytes.get(at..).and_then(Self::decode)));
        let (mut whole, mut rotten) = (None, None);
        for (at, copy) in copies {
            match copy {
                Some(Ok(format)) => whole = Some(format),
                Some(Err(_)) => return Ok(false),
                None => rotten = Some(at as u64),
            }
        }
        let (Some(format), Some(at)) = (whole, rotten) else {
            return Ok(false);
        };
        // All of its block, which the disk may no longer be able to read.
        let mut copy = format.encode();
        copy.resize(COPY, 0);
        file.write_at(at, &copy)?;
        file.sync()?;
        Ok(true)
    }

    /// Where copies begin that say nothing, or nothing that this version reads.
    pub(crate) fn rotten_copies(vfs: &dyn Vfs) -> Result<Vec<u64>, DiskError> {
        let mut bytes = vec![0; 2 * COPY];
        read_readable(&*vfs.open(NAME)?, &mut bytes);
        let rotten = |at: &usize| !matches!(bytes.get(*at..).and_then(Self::decode), Some(Ok(_)));
        let starts = [0, COPY].into_iter().filter(rotten);
        Ok(starts.map(|at| at as u64).collect())
    }

    fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(LEN);
        copy.extend_from_slice(MAGIC);
        copy.extend_from_slice(&u32::from(MAJOR).to_le_bytes());
        copy.extend_from_slice(&self.features.to_le_bytes());
        copy.extend_from_slice(&self.id);
        copy.resize(LEN - 4, 0);
        let crc = crc32c::crc32c(&copy);
        copy.extend_from_slice(&crc.to_le_bytes());
        copy
    }

    fn decode(copy: &[u8]) -> Option<Result<Self, OpenError>> {
        let copy = copy.get(..LEN)?;
        if copy.get(..8)? != MAGIC || crc32c::crc32c(copy.get(..LEN - 4)?) != u32_at(copy, LEN - 4)?
        {
            return None;
        }
        let (major, features) = (u32_at(copy, 8)?, u32_at(copy, 12)?);
        if major > u32::from(MAJOR) || features & !KNOWN_FEATURES != 0 {
            return Some(Err(OpenError::Newer { major, features }));
        }
        Some(Ok(Self {
            id: *copy.get(16..)?.first_chunk()?,
            features,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDisk;

    #[test]
    fn one_rotten_copy_does_no_harm_and_two_do() {
        let disk = SimDisk::new();
        let format = Format::new([7; 16]);
        format.write(&disk).unwrap();
        let file = disk.open(NAME).unwrap();
        for bit in 0..LEN * 8 {
            file.write_at(
                (bit / 8) as u64,
                &[disk.image().files[NAME][bit / 8] ^ 1 << (bit % 8)],
            )
            .unwrap();
            assert_eq!(Format::read(&disk).unwrap(), Some(format));
            format.write(&disk).unwrap();
        }
        file.write_at(0, &[0]).unwrap();
        file.write_at(COPY as u64, &[0]).unwrap();
        assert_eq!(Format::read(&disk).unwrap(), None);
    }

    #[test]
    fn a_rotten_copy_is_repaired_from_the_other_one_but_none_of_a_newer_version() {
        let disk = SimDisk::new();
        let format = Format::new([7; 16]);
        format.write(&disk).unwrap();
        let whole = disk.image();
        assert_eq!(
            (Format::repair(&disk), disk.image()),
            (Ok(false), whole.clone())
        );
        let file = disk.open(NAME).unwrap();
        for at in [0, COPY] {
            for byte in at..at + LEN {
                file.write_at(byte as u64, &[whole.files[NAME][byte] ^ 1])
                    .unwrap();
                assert_eq!(Format::repair(&disk), Ok(true), "byte {byte}");
                assert_eq!(disk.image(), whole);
            }
        }
        let mut newer = format.encode();
        newer[8] = 2;
        let crc = crc32c::crc32c(&newer[..LEN - 4]);
        newer[LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        file.write_at(0, &newer).unwrap();
        file.write_at(COPY as u64, &[0]).unwrap();
        let before = disk.image();
        assert_eq!((Format::repair(&disk), disk.image()), (Ok(false), before));
    }

    #[test]
    fn a_newer_format_is_refused() {
        let disk = SimDisk::new();
        let mut copy = Format::new([7; 16]).encode();
        copy[8] = 2;
        let crc = crc32c::crc32c(&copy[..LEN - 4]);
        copy[LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        disk.create(NAME).unwrap().write_at(0, &copy).unwrap();
        assert!(matches!(
            Format::read(&disk),
            Err(OpenError::Newer {
                major: 2,
                features: KNOWN_FEATURES
            })
        ));
    }

    #[test]
    fn a_store_of_the_first_version_is_marked_as_one_of_this() {
        let disk = SimDisk::new();
        let first = Format {
            id: [7; 16],
            features: 0,
        };
        first.write(&disk).unwrap();
        let read = Format::read(&disk).unwrap().unwrap();
        assert_eq!(read, first);
        read.upgrade(&disk).unwrap();
        assert_eq!(Format::read(&disk).unwrap(), Some(Format::new([7; 16])));
    }
}
