//! Measures how long a sync takes: a disk that is implausibly quick does not sync.

use crate::vfs::{DiskError, Vfs};

/// Below this a sync of 4 KiB is hardly one: a cache without a battery that says yes at once.
pub const PLAUSIBLE_SYNC_NANOS: u64 = 30_000;

const NAME: &str = "probe";
const ROUNDS: usize = 15;

/// The median time of writing and syncing 4 KiB that were written before, in nanoseconds by
/// `now_nanos`. Takes a few milliseconds: not for the way to serving.
///
/// # Errors
/// [`DiskError`].
pub fn probe_sync(vfs: &dyn Vfs, mut now_nanos: impl FnMut() -> u64) -> Result<u64, DiskError> {
    let file = vfs.create(NAME)?;
    file.write_at(0, &[0; 4096])?;
    file.sync()?;
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let begun = now_nanos();
        file.write_at(0, &[u8::try_from(round).unwrap_or(0); 4096])?;
        file.sync()?;
        times.push(now_nanos().saturating_sub(begun));
    }
    vfs.remove(NAME)?;
    times.sort_unstable();
    Ok(times.get(ROUNDS / 2).copied().unwrap_or(0))
}
