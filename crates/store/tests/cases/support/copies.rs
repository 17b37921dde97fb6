//! Copies of a journal within a history: each keeps what it had when it was begun.

use leveret_store::sim::{DiskImage, SimDisk};
use leveret_store::{Backup, BackupFile, DiskError, Journal, JournalConfig};

use super::explore::recover;
use super::model::Model;
use super::runs;

/// A file of a copy.
enum Piece {
    /// Another name of a file beside the copy.
    Linked(usize),
    Copied(Vec<u8>),
}

/// A copy that is being made, or was.
pub(crate) struct Copy {
    pieces: Vec<(String, Piece)>,
    /// The journal's files that are not in it yet.
    rest: Vec<BackupFile>,
    /// What may be in it.
    allowed: Vec<Model>,
}

impl Copy {
    /// Takes what is there at once; the other files are added one by one.
    pub(crate) fn begin(
        backup: &Backup<'_>,
        disk: &SimDisk,
        allowed: Vec<Model>,
    ) -> Result<Self, DiskError> {
        let format = disk.image().files.remove(Backup::FORMAT);
        let mut pieces = vec![(
            Backup::FORMAT.to_owned(),
            Piece::Copied(format.ok_or(DiskError::Missing)?),
        )];
        for (name, bytes) in &backup.made {
            pieces.push(((*name).to_owned(), Piece::Copied(bytes.clone())));
        }
        for run in &backup.runs {
            let name = runs::name_of(*run);
            pieces.push((name.clone(), Piece::Linked(disk.link(&name)?)));
        }
        Ok(Self {
            pieces,
            rest: backup.files.clone(),
            allowed,
        })
    }

    /// Adds a file, if there is one left.
    pub(crate) fn go_on(&mut self, disk: &SimDisk) -> Result<bool, DiskError> {
        let Some(file) = self.rest.pop() else {
            return Ok(false);
        };
        let piece = if file.may_be_linked {
            Piece::Linked(disk.link(&file.name)?)
        } else {
            let content = disk.image().files.remove(&file.name);
            let mut content = content.ok_or(DiskError::Missing)?;
            content.truncate(file.used_bytes as usize);
            content.resize(file.bytes as usize, 0);
            Piece::Copied(content)
        };
        self.pieces.push((file.name, piece));
        Ok(true)
    }

    /// Whether a journal that is opened from it has what it must have.
    pub(crate) fn check(&self, disk: &SimDisk, config: &JournalConfig) -> Result<(), String> {
        let content = |piece: &Piece| match piece {
            Piece::Linked(number) => disk.linked(*number),
            Piece::Copied(content) => content.clone(),
        };
        let pieces = self.pieces.iter();
        let files = pieces.map(|(name, piece)| (name.clone(), content(piece)));
        let own = SimDisk::from_image(&DiskImage {
            files: files.collect(),
        });
        let inspected = Journal::inspect(&own, config).map_err(|error| error.to_string())?;
        if let Some(finding) = inspected.findings.first() {
            return Err(format!("a copy: {finding}"));
        }
        let allowed: Vec<&Model> = self.allowed.iter().collect();
        let found = recover(&own, &allowed, config);
        found.map_err(|error| format!("a copy: {error}"))?;
        Ok(())
    }
}
