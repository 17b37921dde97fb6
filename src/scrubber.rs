//! The thread that looks at what is on the disk and nobody reads, slowly.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use leveret_broker::{Broker, Scrub, ScrubStep};
use tokio::sync::oneshot;

use crate::background::Background;
use crate::clock::now_ms;
use crate::deference;

/// From the end of a pass to the next one.
const PASS_PAUSE: Duration = Duration::from_secs(60 * 60);
/// After a look at queues that have nothing on the disk.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// Starts it with so many bytes a second; with 0 it reads nothing.
///
/// # Errors
/// The system gives no thread.
pub(crate) fn start(
    broker: &Arc<Broker>,
    rate: u64,
) -> io::Result<(Background, oneshot::Receiver<()>)> {
    let broker = Arc::clone(broker);
    Background::start("queue-scrubber", move |stopping| {
        deference::begin_background();
        scrub(&broker, rate, stopping);
    })
}

fn scrub(broker: &Broker, rate: u64, stopping: &AtomicBool) {
    let mut scrub = Scrub::default();
    while !stopping.load(Ordering::Acquire) {
        if rate == 0 {
            thread::park();
            continue;
        }
        broker.set_now(now_ms());
        let pause = match broker.scrub(&mut scrub) {
            ScrubStep::Read(bytes) => pause_for(bytes, rate),
            ScrubStep::Ended => PASS_PAUSE,
        };
        wait(pause, stopping);
    }
}

/// How long reading so many bytes is to take.
fn pause_for(bytes: u64, rate: u64) -> Duration {
    let pause = Duration::from_secs_f64(bytes as f64 / rate as f64);
    pause.clamp(LOOK_PAUSE, PASS_PAUSE)
}

/// Waits so long, or until it is to end.
fn wait(pause: Duration, stopping: &AtomicBool) {
    let begun = Instant::now();
    while !stopping.load(Ordering::Acquire)
        && let Some(left) = pause.checked_sub(begun.elapsed())
        && !left.is_zero()
    {
        thread::park_timeout(left);
    }
}
