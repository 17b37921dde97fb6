//! The store of a world: the journal on a simulated disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::lives::Found;
use crate::sight::read_header;
use leveret_broker::Broker;
use leveret_store::sim::{DiskImage, Rng, SimDisk};
use leveret_store::{
    Journal, JournalConfig, Messages, Progress, RecoveredChunks, RecoveredLane, Store,
};

/// Where durable things go.
pub(crate) struct Storage {
    journal: Arc<Journal>,
    disk: SimDisk,
}

/// What a disk remembers, for a broker to begin with.
pub(crate) struct Remembered {
    topology: BTreeMap<Vec<u8>, Vec<u8>>,
    next_lane: u32,
    lanes: Vec<RecoveredLane>,
    messages: Messages,
    moved: RecoveredChunks,
}

/// Sizes so small that a world writes many segments and checkpoints.
fn config() -> JournalConfig {
    JournalConfig {
        segment_bytes: 256 << 10,
        first_segment_bytes: 128 << 10,
        start_segment_bytes: 16 << 10,
        window_bytes: 1 << 20,
        checkpoint_bytes: 128 << 10,
        disk_free_min: 0,
        new_store_id: *b"a simulated disk",
        ..JournalConfig::default()
    }
}

impl Storage {
    /// The journal on what a disk holds.
    pub(crate) fn open(image: &DiskImage) -> Result<(Self, Remembered), String> {
        let disk = SimDisk::from_image(image);
        let opened = Journal::open(Arc::new(disk.clone()), config());
        let opened = opened.map_err(|error| format!("the journal does not open: {error}"))?;
        if !opened.damage.is_empty() {
            return Err(format!("the journal is damaged: {:?}", opened.damage));
        }
        let remembered = Remembered {
            topology: opened.topology,
            next_lane: opened.next_lane,
            lanes: opened.lanes,
            messages: opened.messages,
            moved: opened.moved,
        };
        let journal = Arc::new(opened.journal);
        Ok((Self { journal, disk }, remembered))
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.journal) as _
    }

    /// Makes everything submitted durable.
    pub(crate) fn catch_up(&self) -> Result<(), String> {
        while self.commit()? == Progress::Committed {}
        self.housekeep()
    }

    pub(crate) fn is_behind(&self) -> bool {
        self.journal.staged_bytes() > 0
    }

    /// How many changes the disk has seen.
    pub(crate) fn changes(&self) -> usize {
        self.disk.changes()
    }

    /// Makes some of what was submitted durable, without telling anybody who could tell a client.
    pub(crate) fn go_on_a_bit(&self, rng: &mut Rng) -> Result<(), String> {
        for _ in 0..rng.below(3) {
            self.commit()?;
        }
        if rng.one_in(2) {
            self.housekeep()?;
        }
        Ok(())
    }

    fn commit(&self) -> Result<Progress, String> {
        self.journal.commit().map_err(|failure| failure.to_string())
    }

    fn housekeep(&self) -> Result<(), String> {
        let kept = self.journal.housekeep();
        kept.map(|_| ()).map_err(|failure| failure.to_string())
    }

    /// What a crash leaves of the disk after some change from the given one on.
    pub(crate) fn crash(&self, rng: &mut Rng, from: usize) -> DiskImage {
        let mut points = self.disk.crash_points();
        let span = self.disk.changes().saturating_sub(from) as u64;
        let until = from + rng.below(span + 1) as usize;
        while points.at() < until && points.advance() {}
        match rng.below(3) {
            0 => points.lose_all(),
            1 => points.keep_all(),
            _ => points.lose_some(rng),
        }
    }
}

/// What the messages on a disk are.
///
/// # Errors
/// The disk is damaged, or has what nobody published.
pub(crate) fn look(image: &DiskImage) -> Result<Vec<Found>, String> {
    let (_, remembered) = Storage::open(image)?;
    let (mut all, mut wrong) = (Vec::new(), None);
    let replayed = remembered.messages.replay(|message| {
        let (told, deaths) = match read_header(message.header) {
            Ok(read) => read,
            Err(reason) => {
                wrong = Some(reason);
                return;
            }
        };
        all.push(Found {
            lane: message.lane.0,
            seq: message.seq,
            message: told,
            deaths,
            entered_ms: message.entered_ms,
            redelivered: message.attempts.acquired > 0,
            failed: message.attempts.failed,
        });
    });
    replayed.map_err(|error| error.to_string())?;
    wrong.map_or(Ok(all), Err)
}

impl Remembered {
    /// Gives a new broker what the disk remembers; to one of an empty disk its first user.
    pub(crate) fn restore(self, broker: &Broker) -> Result<(), String> {
        let new = self.topology.is_empty();
        let restored = broker.restore(&self.topology, self.next_lane);
        restored.map_err(|error| error.to_string())?;
        let restored = broker.restore_messages(&self.lanes, self.messages, self.moved);
        let restored = restored.map_err(|error| error.to_string())?;
        if restored.orphans > 0 {
            return Err(format!("{} messages belong to no queue", restored.orphans));
        }
        if new {
            let begun = broker.first_start("guest", "guest", "/");
            begun.map_err(|error| format!("{error:?}"))?;
        }
        Ok(())
    }
}
