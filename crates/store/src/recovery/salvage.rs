//! Writes what an inspection has found into a new store.

use std::fmt;

use crate::batch::{Batch, MessageParts};
use crate::recovery::{OpenError, StoreContents};
use crate::{Journal, MovedPiece, Progress, Store, StoreFailure, StoreRefusal};

/// Records are committed when there are so many bytes of them.
const STEP_BYTES: usize = 4 << 20;

/// Why not everything was written to the new store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SalvageError {
    /// The old one failed.
    Old(OpenError),
    /// The new one failed.
    New(String),
}

impl fmt::Display for SalvageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Old(error) => write!(f, "the old folder: {error}"),
            Self::New(reason) => write!(f, "the new folder: {reason}"),
        }
    }
}

impl std::error::Error for SalvageError {}

impl From<OpenError> for SalvageError {
    fn from(error: OpenError) -> Self {
        Self::Old(error)
    }
}

impl From<StoreFailure> for SalvageError {
    fn from(failure: StoreFailure) -> Self {
        Self::New(failure.reason)
    }
}

impl From<StoreRefusal> for SalvageError {
    fn from(refusal: StoreRefusal) -> Self {
        Self::New(refusal.to_string())
    }
}

impl StoreContents {
    /// Writes topology and messages into a store that is new, with the lanes and sequence numbers
    /// that they have here. A message of several targets stays one record. All of it is durable
    /// in the end. `chunks` are those of [`Self::moved`] that could be saved, with the places they
    /// have beside the new store, where they are synced.
    ///
    /// # Errors
    /// [`SalvageError`]: what is in the new store then is not all.
    pub fn salvage_to(self, new: &Journal, chunks: &[MovedPiece]) -> Result<(), SalvageError> {
        for piece in chunks {
            let lanes = &mut new.core.lock().lanes;
            lanes.adopt(piece.chunk, &piece.ranges);
        }
        let mut batch = Batch::new();
        for (key, value) in &self.topology {
            batch.topology(key, Some(value));
        }
        batch.returned.extend(self.messages.tried());
        self.messages.records::<SalvageError>(|targets, message| {
            let parts = MessageParts {
                entered_ms: message.entered_ms,
                expiration_ms: message.expiration_ms,
                deaths: message.deaths,
                route: message.route,
                header: message.header,
                body: &[message.body],
            };
            batch.message(targets, &parts);
            if batch.bytes_len() < STEP_BYTES {
                return Ok(());
            }
            write(new, &mut batch)?;
            while new.housekeep()? {}
            Ok(())
        })?;
        write(new, &mut batch)?;
        new.cover()?;
        // Chunks are in checkpoints only: one of these may rot.
        new.checkpoint()?;
        Ok(new.checkpoint()?)
    }
}

fn write(new: &Journal, batch: &mut Batch) -> Result<(), SalvageError> {
    new.submit(batch)?;
    match new.commit()? {
        Progress::Stalled => Err(SalvageError::New("no space left on the disk".to_owned())),
        Progress::Committed | Progress::Nothing => Ok(()),
    }
}
