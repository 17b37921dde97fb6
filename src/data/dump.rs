//! `leveret data dump`.

use std::io::Write;
use std::path::{Path, PathBuf};

use leveret_broker::MovedReader;
use leveret_management::{declared, message_to_json};
use leveret_store::{LaneId, MovedPiece, RecoveredMessage};
use serde_json::{Value, json};

use super::moved::{PiecesByLane, reader_of, unread};
use super::{DataOutcome, OfflineFolder, Trouble, line};

/// What of a folder is printed.
#[derive(clap::Args, Clone, Debug)]
pub struct Dumped {
    /// The data folder, or a backup
    dir: PathBuf,
    /// Only messages of queues of this name; nothing that is declared
    #[arg(long)]
    queue: Option<String>,
    /// Only messages of this virtual host; nothing that is declared
    #[arg(long)]
    vhost: Option<String>,
    /// At most so many messages
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Bodies always in base64, not only those that are no text
    #[arg(long)]
    base64: bool,
}

impl Dumped {
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Prints what is declared, then the messages: those of one queue and priority in their order.
pub(super) fn run(what: &Dumped, out: &mut impl Write) -> Result<DataOutcome, Trouble> {
    let mut folder = OfflineFolder::read(&what.dir)?;
    for finding in &folder.inspected.findings {
        eprintln!("bad: {}", folder.told(finding));
    }
    if what.queue.is_none() && what.vhost.is_none() {
        for (section, value) in declared(&folder.broker) {
            line(out, json!({"type": section, "value": value}))?;
        }
    }
    let mut messages = folder.inspected.messages.take();
    messages.retain(|lane| is_wanted(what, &folder, lane));
    let pieces = &folder.inspected.moved.pieces;
    let mut pieces = PiecesByLane::of(pieces, |lane| is_wanted(what, &folder, lane));
    let mut reader = reader_of(&folder.dir);
    let mut dump = Dump {
        what,
        folder: &folder,
        left: what.limit.unwrap_or(u64::MAX),
        outcome: DataOutcome::of(&folder.inspected.findings),
        failed: None,
        out,
    };
    if dump.is_over() {
        return Ok(dump.outcome);
    }
    messages.replay_while(|message| {
        while let Some(piece) = pieces.before(message.lane, message.seq) {
            dump.piece(&mut reader, &piece);
        }
        dump.message(message);
        !dump.is_over()
    })?;
    for piece in pieces.rest() {
        dump.piece(&mut reader, &piece);
    }
    match dump.failed {
        Some(trouble) => Err(trouble),
        None => Ok(dump.outcome),
    }
}

/// Messages on their way out.
struct Dump<'a, W> {
    what: &'a Dumped,
    folder: &'a OfflineFolder,
    /// How many more are wanted.
    left: u64,
    outcome: DataOutcome,
    failed: Option<Trouble>,
    out: &'a mut W,
}

impl<W: Write> Dump<'_, W> {
    const fn is_over(&self) -> bool {
        self.left == 0 || self.failed.is_some()
    }

    fn message(&mut self, message: &RecoveredMessage<'_>) {
        if self.is_over() {
            return;
        }
        let mut value = json!({"type": "message"});
        describe(&mut value, self.folder, message.lane);
        let owner = self.folder.owners.get(&message.lane);
        let level = owner.map_or(0, |owner| owner.level);
        if let (Value::Object(fields), Value::Object(more)) = (
            &mut value,
            message_to_json(message, level, self.what.base64),
        ) {
            fields.extend(more);
        }
        self.failed = line(self.out, value).err();
        self.left -= 1;
    }

    /// Those of a piece; what is wrong with it if they cannot be read.
    fn piece(&mut self, reader: &mut MovedReader, piece: &MovedPiece) {
        if self.is_over() {
            return;
        }
        let read = reader.read(piece, |message| self.message(message));
        if let Err(error) = read {
            let finding = unread(piece, &error);
            eprintln!("bad: {}", self.folder.told(&finding));
            self.outcome = DataOutcome::Damaged;
        }
    }
}

fn describe(value: &mut Value, folder: &OfflineFolder, lane: LaneId) {
    let owner = folder.owners.get(&lane);
    value["vhost"] = owner.map(|owner| &*owner.vhost).into();
    value["queue"] = owner.map(|owner| &*owner.queue).into();
    if owner.is_none() {
        value["lane"] = lane.0.into();
    }
}

fn is_wanted(what: &Dumped, folder: &OfflineFolder, lane: LaneId) -> bool {
    let owner = folder.owners.get(&lane);
    let fits = |wanted: &Option<String>, is: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
    };
    fits(&what.queue, owner.map(|owner| &*owner.queue))
        && fits(&what.vhost, owner.map(|owner| &*owner.vhost))
}
