//! Makes crash images from a trace: at each change, what the disk may hold afterwards.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use rustc_hash::FxHasher;

use super::{DiskChange, Rng};

const BLOCK: u64 = 4096;
const SECTOR: u64 = 512;

/// What is on the disk after a crash.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct DiskImage {
    /// Names and contents.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl DiskImage {
    /// A number that tells images apart.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = FxHasher::default();
        for (name, content) in &self.files {
            hasher.write(name.as_bytes());
            hasher.write_usize(content.len());
            hasher.write_u32(crc32c::crc32c(content));
            hasher.write_u32(crc32c::crc32c_append(1, content.get(4096..).unwrap_or(&[])));
        }
        hasher.finish()
    }
}

/// Walks a trace change by change and makes images of what a crash there may leave.
pub struct CrashPoints {
    trace: Vec<DiskChange>,
    at: usize,
    files: Vec<CrashedFile>,
    durable_names: BTreeMap<String, usize>,
    /// Unsynced changes of the directory: a name, and its file or its removal.
    pending_names: Vec<(String, Option<usize>)>,
}

/// One file: what surely survives, and what was written since.
#[derive(Default)]
struct CrashedFile {
    durable: Vec<u8>,
    pending: Vec<(u64, Arc<[u8]>)>,
}

/// What a crash does to the unsynced blocks.
#[derive(Clone, Copy)]
enum Fate {
    DropAll,
    KeepAll,
    Random,
}

impl CrashPoints {
    pub(super) fn new(base: &DiskImage, trace: Vec<DiskChange>) -> Self {
        let mut points = Self {
            trace,
            at: 0,
            files: Vec::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
        };
        for (name, content) in &base.files {
            points
                .durable_names
                .insert(name.clone(), points.files.len());
            points.files.push(CrashedFile {
                durable: content.clone(),
                pending: Vec::new(),
            });
        }
        points
    }

    /// How many changes have been made.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// Makes the next change; false at the end of the trace.
    pub fn advance(&mut self) -> bool {
        let Some(change) = self.trace.get(self.at).cloned() else {
            return false;
        };
        self.at += 1;
        match change {
            DiskChange::Write { file, offset, data } => {
                if let Some(file) = self.files.get_mut(file) {
                    file.pending.push((offset, data));
                }
            }
            DiskChange::Sync(file) => {
                if let Some(file) = self.files.get_mut(file) {
                    for (offset, data) in file.pending.drain(..) {
                        overwrite(&mut file.durable, offset, &data);
                    }
                }
            }
            DiskChange::Create(name, file) => {
                self.files
                    .resize_with(self.files.len().max(file + 1), CrashedFile::default);
                self.pending_names.push((name, Some(file)));
            }
            DiskChange::Remove(name) => self.pending_names.push((name, None)),
            DiskChange::SyncDir => {
                let names = &mut self.durable_names;
                self.pending_names
                    .drain(..)
                    .for_each(|(name, file)| rename(names, name, file));
            }
        }
        true
    }

    /// Unsynced blocks and names: how much there is to lose.
    #[must_use]
    pub fn at_stake(&self) -> usize {
        let blocks = |(offset, data): &(u64, Arc<[u8]>)| {
            (data.len() as u64 + offset % BLOCK).div_ceil(BLOCK) as usize
        };
        self.files
            .iter()
            .flat_map(|file| &file.pending)
            .map(blocks)
            .sum::<usize>()
            + self.pending_names.len()
    }

    /// What is left when a crash loses everything unsynced.
    #[must_use]
    pub fn lose_all(&self) -> DiskImage {
        self.image(Fate::DropAll, &mut Rng::new(0))
    }

    /// What is left when a crash loses nothing: what a process crash leaves.
    #[must_use]
    pub fn keep_all(&self) -> DiskImage {
        self.image(Fate::KeepAll, &mut Rng::new(0))
    }

    /// What is left when a crash keeps, loses and tears blocks and names as `rng` says.
    #[must_use]
    pub fn lose_some(&self, rng: &mut Rng) -> DiskImage {
        self.image(Fate::Random, rng)
    }

    fn image(&self, fate: Fate, rng: &mut Rng) -> DiskImage {
        let mut names = self.durable_names.clone();
        for (name, file) in &self.pending_names {
            if keeps(fate, rng) {
                rename(&mut names, name.clone(), *file);
            }
        }
        let files = names
            .into_iter()
            .filter_map(|(name, file)| Some((name, self.files.get(file)?.image(fate, rng))))
            .collect();
        DiskImage { files }
    }
}

impl CrashedFile {
    fn image(&self, fate: Fate, rng: &mut Rng) -> Vec<u8> {
        let mut content = self.durable.clone();
        let grown = self
            .pending
            .iter()
            .map(|(offset, data)| offset + data.len() as u64)
            .max();
        for (offset, data) in &self.pending {
            for (at, block) in blocks(*offset, data) {
                if keeps(fate, rng) {
                    overwrite(&mut content, at, block);
                } else if matches!(fate, Fate::Random) && rng.one_in(8) {
                    tear(&mut content, at, block, rng);
                }
            }
        }
        // The length may have reached the disk without the blocks.
        let grown = usize::try_from(grown.unwrap_or(0)).unwrap_or(0);
        if grown > content.len() && matches!(fate, Fate::Random) && rng.one_in(2) {
            content.resize(grown, 0);
        }
        content
    }
}

fn keeps(fate: Fate, rng: &mut Rng) -> bool {
    match fate {
        Fate::DropAll => false,
        Fate::KeepAll => true,
        Fate::Random => rng.one_in(2),
    }
}

fn tear(content: &mut Vec<u8>, at: u64, block: &[u8], rng: &mut Rng) {
    for (sector, bytes) in block.chunks(SECTOR as usize).enumerate() {
        if rng.one_in(2) {
            overwrite(content, at + sector as u64 * SECTOR, bytes);
        }
    }
}

fn rename(names: &mut BTreeMap<String, usize>, name: String, file: Option<usize>) {
    match file {
        Some(file) => names.insert(name, file),
        None => names.remove(&name),
    };
}

/// The parts of a write, cut at the disk's 4 KiB blocks.
fn blocks(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let head = usize::try_from(BLOCK - offset % BLOCK)
        .unwrap_or(0)
        .min(data.len());
    let (first, rest) = data.split_at_checked(head).unwrap_or((data, &[]));
    let after = offset + head as u64;
    std::iter::once((offset, first)).chain(
        rest.chunks(BLOCK as usize)
            .enumerate()
            .map(move |(n, block)| (after + n as u64 * BLOCK, block)),
    )
}

/// Writes `data` into `content` at `offset`, growing it with zeros if need be.
pub(super) fn overwrite(content: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let from = usize::try_from(offset).unwrap_or(usize::MAX / 2);
    if content.len() < from + data.len() {
        content.resize(from + data.len(), 0);
    }
    if let Some(place) = content.get_mut(from..from + data.len()) {
        place.copy_from_slice(data);
    }
}

#[cfg(test)]
mod tests {
    use super::super::SimDisk;
    use super::*;
    use crate::vfs::Vfs;

    #[test]
    fn synced_bytes_survive_and_unsynced_ones_may_not() {
        let disk = SimDisk::new();
        let file = disk.create("a").unwrap();
        disk.sync_dir().unwrap();
        file.write_at(0, &[1; 8192]).unwrap();
        file.sync().unwrap();
        file.write_at(0, &[2; 8192]).unwrap();
        let mut points = disk.crash_points();
        while points.advance() {}
        assert_eq!(points.at_stake(), 2);
        assert_eq!(points.lose_all().files["a"], [1; 8192]);
        assert_eq!(points.keep_all().files["a"], [2; 8192]);
        let mut rng = Rng::new(1);
        let mixed = (0..50).any(|_| {
            let image = points.lose_some(&mut rng);
            let content = &image.files["a"];
            content[0] == 1 && content[4096] == 2
        });
        assert!(mixed, "blocks must be reordered");
    }

    #[test]
    fn an_unsynced_name_may_be_lost_or_come_back() {
        let disk = SimDisk::new();
        disk.create("a").unwrap();
        disk.sync_dir().unwrap();
        disk.create("b").unwrap();
        disk.remove("a").unwrap();
        let mut points = disk.crash_points();
        while points.advance() {}
        let image = points.lose_all();
        assert_eq!(image.files.keys().collect::<Vec<_>>(), ["a"]);
        let image = points.keep_all();
        assert_eq!(image.files.keys().collect::<Vec<_>>(), ["b"]);
    }
}
