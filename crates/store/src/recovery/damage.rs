//! What can be wrong with a store, and the words for it.

use std::fmt;

use crate::LaneId;
use crate::vfs::DiskError;

/// Confirmed data that can no longer be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The file it was in.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// The journal frame, if it is known.
    pub frame: Option<u64>,
    /// What is unreadable.
    pub what: Unreadable,
    /// Messages lost: lane and sequence numbers `from..to`, as far as can be told.
    pub lost: Vec<(LaneId, u64, u64)>,
}

/// What part of a file is unreadable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// One record.
    Record,
    /// A topology operation: an exchange, queue or binding may be missing.
    Topology,
    /// The rest of a frame, or several frames.
    Frame,
    /// A frame's header; its records have been read all the same.
    Header,
    /// The whole file.
    File,
    /// All that followed: the file is shorter than it was made.
    Cut,
    /// All of it: the file is a copy of another one.
    Copy,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Record => "a record is unreadable",
            Self::Topology => "a topology record is unreadable",
            Self::Frame => "a frame is unreadable",
            Self::Header => "a frame header was unreadable, its records were not",
            Self::File => "the file is missing or unreadable",
            Self::Cut => {
                "the file ends here and was longer: what was confirmed last may be lost with the \
                 rest of it"
            }
            Self::Copy => "the file is a copy of another segment: what was in it before is lost",
        })
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file, offset, what, ..
        } = self;
        write!(f, "{file} at {offset}: {what}")?;
        if let Some(frame) = self.frame {
            write!(f, " (frame {frame})")?;
        }
        for (n, (lane, from, to)) in self.lost.iter().enumerate() {
            f.write_str(if n == 0 { "; messages lost: " } else { ", " })?;
            write!(f, "lane {} seq {from}", lane.0)?;
            if to - from > 1 {
                write!(f, "..{to}")?;
            }
        }
        Ok(())
    }
}

/// Why a store was not opened. Nothing has been changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// The disk failed.
    Disk {
        /// What was being read or written.
        what: String,
        /// How it failed.
        error: DiskError,
    },
    /// The store was written by a newer version.
    Newer {
        /// Its format.
        major: u32,
        /// Bits of what that version can, and this may not.
        features: u32,
    },
    /// There is no store in the directory.
    NoStore,
    /// There are journal files, but FORMAT is missing or both its copies are damaged.
    NoFormat,
    /// A journal file belongs to another store.
    Foreign {
        /// The file's name.
        file: String,
    },
    /// Neither checkpoint is readable, and the journal does not go back to the beginning.
    NoCheckpoint,
    /// A record of a kind this version does not know.
    UnknownRecord {
        /// The number in its head.
        kind: u8,
        /// The journal frame.
        frame: u64,
    },
    /// Confirmed data is unreadable, and declarations were part of it.
    Incomplete {
        /// What is known to be missing.
        missing: String,
        /// What is unreadable.
        damage: Vec<Damage>,
    },
    /// Confirmed data is unreadable and the configuration, or what it is, forbids going on.
    Damaged(Vec<Damage>),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk { what, error } => write!(f, "{what}: {error}"),
            Self::Newer { major, features } => write!(
                f,
                "the store has format {major} with features {features:#x}, this version reads \
                 format {}: start the version that wrote it",
                crate::format::MAJOR
            ),
            Self::NoStore => f.write_str("there is no journal in this directory"),
            Self::NoFormat => f.write_str(
                "there are journal files but no readable FORMAT file: restore FORMAT from a \
                 backup of this directory, or move the directory away to start empty",
            ),
            Self::Foreign { file } => write!(
                f,
                "{file} belongs to another store: move it out of this directory"
            ),
            Self::NoCheckpoint => f.write_str(
                "neither checkpoint.A nor checkpoint.B is readable: restore the directory from a \
                 backup, or move it away to start empty",
            ),
            Self::UnknownRecord { kind, frame } => write!(
                f,
                "frame {frame} has a record of kind {kind:#x}, which this version does not know"
            ),
            Self::Incomplete { missing, damage } => {
                list(f, damage)?;
                write!(
                    f,
                    "\nwhat was declared there is missing: {missing}. Nothing has been changed: \
                     restore the directory from a backup"
                )
            }
            Self::Damaged(damage) => {
                list(f, damage)?;
                f.write_str(
                    "\nrestore the directory from a backup, or set storage.on_corruption = \
                     \"salvage\" to open without the messages named (damaged topology is always \
                     refused)",
                )
            }
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, damage: &[Damage]) -> fmt::Result {
    f.write_str("confirmed data is unreadable")?;
    damage
        .iter()
        .try_for_each(|damage| write!(f, "\n  {damage}"))
}

impl std::error::Error for OpenError {}
