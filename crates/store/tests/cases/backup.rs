//! Copies of a journal at work: each keeps what it had, whatever the journal does afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;

use leveret_record::RunPlace;
use leveret_store::sim::{DiskImage, Rng, SimDisk};
use leveret_store::{
    Backup, Batch, Journal, JournalConfig, LaneId, MessageParts, MovedChunk, NoBackup, Store,
    StoreSabotage, Vfs,
};

use crate::support::tiny;

const LANE: LaneId = LaneId(1);

/// A file of a copy.
enum Piece {
    /// Another name of the journal's file.
    Linked(usize),
    Copied(Vec<u8>),
}

/// A copy, and what must be in it: sequence numbers.
struct Taken {
    pieces: Vec<(String, Piece)>,
    live: Vec<u64>,
}

/// A journal with one queue.
struct Work {
    disk: SimDisk,
    config: JournalConfig,
    journal: Journal,
    rng: Rng,
    live: BTreeMap<u64, ()>,
    next: u64,
}

fn body(seq: u64) -> Vec<u8> {
    vec![seq as u8; 300 + (seq % 7) as usize * 200]
}

impl Work {
    fn new(seed: u64, sabotage: StoreSabotage) -> Self {
        let disk = SimDisk::new();
        let config = tiny(sabotage);
        let opened = Journal::open(Arc::new(disk.clone()), config.clone()).unwrap();
        Self {
            journal: opened.journal,
            disk,
            config,
            rng: Rng::new(seed),
            live: BTreeMap::new(),
            next: 0,
        }
    }

    /// Publishes and settles, and leaves little behind now and then.
    fn step(&mut self) {
        let mut batch = Batch::new();
        let content = body(self.next);
        let parts = MessageParts {
            body: &[&content],
            ..MessageParts::default()
        };
        batch.message(&[(LANE, self.next)], &parts);
        self.live.insert(self.next, ());
        self.next += 1;
        while self.live.len() > 12 || (!self.live.is_empty() && self.rng.one_in(3)) {
            let at = self.rng.below(self.live.len() as u64) as usize;
            // A straggler now and then is copied.
            let Some(seq) = self.live.keys().nth(at / 2).copied() else {
                break;
            };
            self.live.remove(&seq);
            batch.settle(LANE, seq);
        }
        self.journal.submit(&mut batch).unwrap();
        self.journal.commit().unwrap();
        for _ in 0..self.rng.below(30) {
            self.journal.housekeep().unwrap();
        }
    }

    fn restart(&mut self) {
        let disk = Arc::new(self.disk.clone());
        let opened = Journal::open(disk, self.config.clone()).unwrap();
        assert!(opened.damage.is_empty(), "{:?}", opened.damage);
        self.journal = opened.journal;
    }

    /// Takes a copy while the journal goes on.
    fn back_up(&mut self) -> Taken {
        let live = self.live.keys().copied().collect();
        let backup = self.journal.begin_backup().unwrap();
        assert_eq!(backup.messages, self.live.len() as u64);
        assert!(matches!(self.journal.begin_backup(), Err(NoBackup::Busy)));
        let (files, made) = (backup.files.clone(), backup.made.clone());
        let mut pieces = Vec::new();
        for file in &files {
            pieces.push((file.name.clone(), self.piece(file)));
            self.work_on();
        }
        drop(backup);
        let format = self.disk.image().files[Backup::FORMAT].clone();
        pieces.push((Backup::FORMAT.to_owned(), Piece::Copied(format)));
        let made = made.into_iter();
        pieces.extend(made.map(|(name, bytes)| (name.to_owned(), Piece::Copied(bytes))));
        Taken { pieces, live }
    }

    fn piece(&self, file: &leveret_store::BackupFile) -> Piece {
        if file.may_be_linked {
            return Piece::Linked(self.disk.link(&file.name).unwrap());
        }
        let mut content = self.disk.image().files[&file.name].clone();
        content.truncate(file.used_bytes as usize);
        content.resize(file.bytes as usize, 0);
        Piece::Copied(content)
    }

    /// The journal at work while a copy is being made.
    fn work_on(&self) {
        for _ in 0..3 {
            let mut batch = Batch::new();
            batch.topology(b"something", Some(&[7; 700]));
            self.journal.submit(&mut batch).unwrap();
            self.journal.commit().unwrap();
            for _ in 0..20 {
                self.journal.housekeep().unwrap();
            }
        }
    }

    fn image(&self, taken: &Taken) -> DiskImage {
        let content = |piece: &Piece| match piece {
            Piece::Linked(number) => self.disk.linked(*number),
            Piece::Copied(content) => content.clone(),
        };
        let files = taken.pieces.iter();
        DiskImage {
            files: files
                .map(|(name, piece)| (name.clone(), content(piece)))
                .collect(),
        }
    }

    /// Whether a copy has what it must have.
    fn check(&self, taken: &Taken) -> Result<(), String> {
        let disk = SimDisk::from_image(&self.image(taken));
        let config = tiny(StoreSabotage::None);
        let inspected = Journal::inspect(&disk, &config).map_err(|error| error.to_string())?;
        if let Some(finding) = inspected.findings.first() {
            return Err(finding.to_string());
        }
        let opened = Journal::open(Arc::new(disk), config).map_err(|error| error.to_string())?;
        if let Some(damage) = opened.damage.first() {
            return Err(damage.to_string());
        }
        let (mut found, mut wrong) = (Vec::new(), None);
        let replayed = opened.messages.replay(|message| {
            found.push(message.seq);
            if message.body != body(message.seq) {
                wrong = Some(message.seq);
            }
        });
        replayed.map_err(|error| error.to_string())?;
        match wrong {
            Some(seq) => Err(format!("message {seq} has another body")),
            None if found != taken.live => Err(format!("{found:?}, not {:?}", taken.live)),
            None => Ok(()),
        }
    }

    fn delete(&self, taken: &Taken) {
        for (_, piece) in &taken.pieces {
            if let Piece::Linked(number) = piece {
                self.disk.unlink(*number);
            }
        }
    }
}

/// Fills and drains, restarts, takes copies and deletes some; gives how many files were linked.
fn live_through(seed: u64, sabotage: StoreSabotage) -> Result<usize, String> {
    let mut work = Work::new(seed, sabotage);
    let (mut kept, mut linked) = (Vec::new(), 0);
    for step in 1..=600 {
        work.step();
        if step % 23 == 0 {
            let taken = work.back_up();
            linked += taken
                .pieces
                .iter()
                .filter(|of| matches!(of.1, Piece::Linked(_)))
                .count();
            work.check(&taken)?;
            kept.push(taken);
        }
        if step % 140 == 0 {
            work.restart();
        }
        if kept.len() > 5 {
            let at = work.rng.below(kept.len() as u64) as usize;
            let taken = kept.swap_remove(at);
            work.check(&taken)?;
            work.delete(&taken);
        }
    }
    kept.iter().try_for_each(|taken| work.check(taken))?;
    // What copies hold on to is theirs; the journal itself stays small.
    let bytes: usize = work.disk.image().files.values().map(Vec::len).sum();
    assert!(bytes < 600 << 10, "{bytes} bytes");
    Ok(linked)
}

#[test]
fn a_copy_keeps_what_it_had_whatever_the_journal_does() {
    let mut linked = 0;
    for seed in 0..12 {
        linked += live_through(seed, StoreSabotage::None).unwrap();
    }
    assert!(linked > 200, "{linked}");
}

#[test]
fn a_journal_that_writes_to_linked_files_is_noticed() {
    let noticed = (0..12).find_map(|seed| live_through(seed, StoreSabotage::ReuseLinked).err());
    assert!(noticed.is_some());
}

#[test]
fn a_copy_is_open_only_as_long_as_it_is_made() {
    let mut work = Work::new(1, StoreSabotage::None);
    work.step();
    let first = work.journal.begin_backup().unwrap();
    assert!(matches!(work.journal.begin_backup(), Err(NoBackup::Busy)));
    drop(first);
    assert!(work.journal.begin_backup().is_ok());
    // Files that nobody linked are used again.
    let names = work.disk.list().unwrap().len();
    (0..200).for_each(|_| work.step());
    assert!(work.disk.list().unwrap().len() <= names + 12);
}

fn chunk() -> MovedChunk {
    let place = RunPlace {
        run: 1,
        offset: 4096,
        len: 700,
        checksum: 7,
    };
    MovedChunk {
        lane: LANE,
        place,
        messages: 3,
        bytes: 30,
        base_ms: 50,
        own_ms: 77,
    }
}

#[test]
fn a_copy_names_the_run_files_it_needs_and_none_is_freed_meanwhile() {
    let mut work = Work::new(1, StoreSabotage::None);
    while work.live.is_empty() {
        work.step();
    }
    let runs = |backup: &Backup<'_>| backup.runs.iter().copied().collect::<Vec<u64>>();
    assert!(runs(&work.journal.begin_backup().unwrap()).is_empty());
    let mut batch = Batch::new();
    batch.moved(chunk(), &[(0, work.next)]);
    work.journal.submit(&mut batch).unwrap();
    work.journal.commit().unwrap();
    let backup = work.journal.begin_backup().unwrap();
    assert_eq!(runs(&backup), [1]);
    assert_eq!(backup.messages, work.live.len() as u64);
    let mut batch = Batch::new();
    batch.reset(LANE, u64::MAX);
    work.journal.submit(&mut batch).unwrap();
    work.journal.commit().unwrap();
    (0..2).for_each(|_| work.journal.checkpoint().unwrap());
    assert!(work.journal.take_free_places().is_empty());
    drop(backup);
    assert_eq!(work.journal.take_free_places(), [chunk().place]);
    assert!(runs(&work.journal.begin_backup().unwrap()).is_empty());
}
