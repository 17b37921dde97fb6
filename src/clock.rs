//! The broker's two times: one to measure with, and the system's to show.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// When the process began, by both clocks.
static START: LazyLock<(Instant, Duration)> = LazyLock::new(|| (Instant::now(), since_epoch()));

/// Milliseconds that neither leap nor go back, whatever happens to the system's clock: since 1970
/// by what that clock said when the process began.
pub(crate) fn now_ms() -> u64 {
    let (instant, since_epoch) = *START;
    as_ms(since_epoch + instant.elapsed())
}

/// Milliseconds since 1970 by the system's clock, which may be set at any time.
pub(crate) fn wall_ms() -> u64 {
    as_ms(since_epoch())
}

/// Seconds since the process began.
pub(crate) fn uptime_s() -> u64 {
    START.0.elapsed().as_secs()
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn as_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
