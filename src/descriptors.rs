//! A few descriptors that only the journal gets: the soft limit is that much below the hard one.

use std::fs::File;
use std::io;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

/// So many descriptors are kept for the journal's files, and an eighth of all at most: whatever
/// connects, the journal can go on in a new segment.
const SPARE: u64 = 64;

/// How many are kept, of so many.
pub(crate) fn spare(maximum: u64) -> u64 {
    SPARE.min(maximum / 8)
}

/// Opens a file, with one of the spare descriptors if there is no other.
///
/// # Errors
///
/// The operating system's.
pub(crate) fn with_spare(open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let opened = open();
    match &opened {
        Err(error) if Errno::from_io_error(error) == Some(Errno::MFILE) => {}
        _ => return opened,
    }
    let _turn = ONE_AT_A_TIME.lock();
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(Resource::Nofile, all)?;
    let opened = open();
    rustix::process::setrlimit(Resource::Nofile, limit)?;
    opened
}
