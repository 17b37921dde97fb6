//! The store of a world: one that only delays, or the journal on a simulated disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use leveret_broker::Broker;
use leveret_store::sim::{Image, Rng, SimDisk};
use leveret_store::{Config, DelayedStore, Journal, Messages, Progress, RecoveredLane, Store};

/// Where durable things go.
pub(crate) enum Storage {
    Delayed(Arc<DelayedStore>),
    Journal(Arc<Journal>, SimDisk),
}

/// What a disk remembers, for a broker to begin with.
pub(crate) struct Remembered {
    topology: BTreeMap<Vec<u8>, Vec<u8>>,
    next_lane: u32,
    lanes: Vec<RecoveredLane>,
    messages: Messages,
}

/// Sizes so small that a world writes many segments and checkpoints.
fn config() -> Config {
    Config {
        segment_bytes: 256 << 10,
        first_segment_bytes: 128 << 10,
        start_segment_bytes: 16 << 10,
        window_bytes: 1 << 20,
        checkpoint_bytes: 128 << 10,
        disk_free_min: 0,
        new_store_id: *b"a simulated disk",
        ..Config::default()
    }
}

impl Storage {
    /// The journal on what a disk holds.
    pub(crate) fn open(image: &Image) -> Result<(Self, Remembered), String> {
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
        };
        Ok((Self::Journal(Arc::new(opened.journal), disk), remembered))
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Delayed(store) => Arc::clone(store) as _,
            Self::Journal(journal, _) => Arc::clone(journal) as _,
        }
    }

    /// Makes everything submitted durable.
    pub(crate) fn catch_up(&self) -> Result<(), String> {
        match self {
            Self::Delayed(store) => store.release(),
            Self::Journal(journal, _) => {
                while journal.commit().map_err(|failure| failure.to_string())?
                    == Progress::Committed
                {}
                journal.housekeep().map_err(|failure| failure.to_string())?;
            }
        }
        Ok(())
    }

    pub(crate) fn is_behind(&self) -> bool {
        self.store().staged_bytes() > 0
    }

    /// What a crash now leaves of the disk, if there is one.
    pub(crate) fn crash(&self, rng: &mut Rng) -> Option<Image> {
        let Self::Journal(_, disk) = self else {
            return None;
        };
        let mut points = disk.crash_points();
        while points.advance() {}
        Some(match rng.below(3) {
            0 => points.lose_all(),
            1 => points.keep_all(),
            _ => points.lose_some(rng),
        })
    }
}

impl Remembered {
    /// Gives a new broker what the disk remembers; to one of an empty disk its first user.
    pub(crate) fn restore(self, broker: &Broker) -> Result<(), String> {
        let new = self.topology.is_empty();
        let restored = broker.restore(&self.topology, self.next_lane);
        restored.map_err(|error| error.to_string())?;
        let restored = broker.restore_messages(&self.lanes, self.messages);
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
