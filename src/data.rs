//! `leveret data`: looks at a data folder that no broker uses, and saves what can be read of it.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use leveret_broker::{Access, Broker, BrokerConfig, LaneOwner};
use leveret_store::{
    Finding, InstantStore, Journal, LaneId, OpenError, RecoveredMessage, StoreContents,
};

use crate::disk::DiskRefusal;
use crate::journal::sized_for;
use crate::process::raise_descriptor_limit;
use crate::read_only_disk::ReadOnlyDisk;

mod dump;
mod moved;
mod salvage;
mod stats;
mod verify;

pub use dump::Dumped;

/// What is done with a data folder.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum DataCommand {
    /// Checks every checksum and what must hold between them; changes nothing
    Verify {
        /// The data folder, or a backup
        dir: PathBuf,
        /// Prints one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Prints what is declared and all messages, one JSON object a line; no passwords
    Dump(Dumped),
    /// Writes what can be read into a new folder
    Salvage {
        /// The data folder; nothing in it is changed
        dir: PathBuf,
        /// The new folder; it must not exist
        into: PathBuf,
    },
    /// Says what takes space: segments and their live share, queues, messages, bytes
    Stats {
        /// The data folder, or a backup
        dir: PathBuf,
        /// Prints one JSON object
        #[arg(long)]
        json: bool,
    },
}

impl DataCommand {
    /// Does it; results go to standard output, and why it cannot be done to standard error.
    #[must_use]
    pub fn run(self) -> ExitCode {
        // A folder may have more segments than a process gets descriptors.
        drop(raise_descriptor_limit());
        let mut out = io::BufWriter::new(io::stdout().lock());
        let done = match &self {
            Self::Verify { dir, json } => verify::run(dir, *json, &mut out),
            Self::Dump(what) => dump::run(what, &mut out),
            Self::Salvage { dir, into } => salvage::run(dir, into, &mut out),
            Self::Stats { dir, json } => stats::run(dir, *json, &mut out),
        };
        let done = done.and_then(|outcome| {
            out.flush()?;
            Ok(outcome)
        });
        match done {
            Ok(DataOutcome::Well) => ExitCode::SUCCESS,
            Ok(DataOutcome::Damaged) => ExitCode::from(DAMAGED),
            // Who wanted only the first lines has gone.
            Err(Trouble::Io(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(trouble) => {
                eprintln!("{}: {trouble}", self.dir().display());
                ExitCode::from(trouble.code())
            }
        }
    }

    fn dir(&self) -> &Path {
        match self {
            Self::Verify { dir, .. } | Self::Salvage { dir, .. } | Self::Stats { dir, .. } => dir,
            Self::Dump(what) => what.dir(),
        }
    }
}

/// Exit code when something in the folder is not as it was written.
const DAMAGED: u8 = 1;
/// Exit code when the folder cannot be looked at, or the new one not written.
const UNUSABLE: u8 = 4;

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DataOutcome {
    Well,
    Damaged,
}

impl DataOutcome {
    fn of(findings: &[Finding]) -> Self {
        if findings.is_empty() {
            Self::Well
        } else {
            Self::Damaged
        }
    }
}

/// Why it cannot be done.
#[derive(Debug)]
enum Trouble {
    /// The folder, or where the result goes.
    Io(io::Error),
    /// It cannot be used.
    Folder(DiskRefusal),
    /// What is in it cannot be understood.
    Store(OpenError),
    /// The new folder.
    New(String),
}

impl Trouble {
    fn code(&self) -> u8 {
        match self {
            Self::Store(OpenError::Disk { .. } | OpenError::NoStore | OpenError::Newer { .. })
            | Self::Io(_)
            | Self::Folder(_)
            | Self::New(_) => UNUSABLE,
            Self::Store(_) => DAMAGED,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Folder(refusal) => refusal.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::New(reason) => f.write_str(reason),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<DiskRefusal> for Trouble {
    fn from(refusal: DiskRefusal) -> Self {
        Self::Folder(refusal)
    }
}

impl From<OpenError> for Trouble {
    fn from(error: OpenError) -> Self {
        Self::Store(error)
    }
}

/// Whose the lanes of a folder are.
type Owners = HashMap<LaneId, LaneOwner>;

/// A data folder that was read.
struct OfflineFolder {
    dir: PathBuf,
    inspected: StoreContents,
    /// With what is declared in it.
    broker: Arc<Broker>,
    owners: Owners,
    /// Keeps brokers out.
    _disk: ReadOnlyDisk,
}

impl OfflineFolder {
    /// Reads it. What of the topology no broker would take is left out, and found wrong.
    fn read(dir: &Path) -> Result<Self, Trouble> {
        let disk = ReadOnlyDisk::open(dir)?;
        let total = crate::disk::total_bytes(dir)?;
        let mut inspected = Journal::inspect(&disk, &sized_for(total, u64::MAX))?;
        let broker = loop {
            let broker = new_broker();
            let Err(wrong) = broker.restore(&inspected.topology, inspected.next_lane) else {
                break broker;
            };
            inspected.topology.remove(&wrong.key);
            let (file, what) = (String::new(), wrong.to_string());
            inspected.findings.push(Finding {
                file,
                offset: 0,
                what,
                lost: Vec::new(),
            });
        };
        Ok(Self {
            dir: dir.to_owned(),
            inspected,
            owners: broker.lane_owners(),
            broker,
            _disk: disk,
        })
    }

    fn told(&self, finding: &Finding) -> String {
        told(&self.owners, finding)
    }
}

/// A finding with the queues that have lost something by it.
fn told(owners: &Owners, finding: &Finding) -> String {
    let lost = finding.lost.iter().map(|(lane, from, to)| {
        let last = to.saturating_sub(1);
        let queue = match owners.get(lane) {
            Some(LaneOwner { vhost, queue, .. }) => format!("queue '{queue}' in vhost '{vhost}'"),
            None => format!("a queue that is not declared (lane {})", lane.0),
        };
        format!("; {queue}: messages {from} to {last}")
    });
    format!("{finding}{}", lost.collect::<String>())
}

fn new_broker() -> Arc<Broker> {
    let store = Arc::new(InstantStore);
    let broker = Broker::new(BrokerConfig::default(), Access::new(Vec::new()), store);
    Arc::new(broker)
}

/// Bytes of a message as its publisher sent them.
fn bytes_of(message: &RecoveredMessage<'_>) -> u64 {
    (message.route.len() + message.header.len() + message.body.len()) as u64
}

/// Writes a line.
fn line(out: &mut impl Write, text: impl fmt::Display) -> Result<(), Trouble> {
    Ok(writeln!(out, "{text}")?)
}
