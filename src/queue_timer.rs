//! The thread that has queues run when something is due for them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use leveret_broker::{Broker, Effects};
use tokio::sync::oneshot;

use crate::background::Background;
use crate::clock::now_ms;

/// When very much is due at once, so long is worked at it
const SLICE: Duration = Duration::from_micros(20);
/// before others have the processor for so long; a group of dead letters takes longer than that.
/// The runtime's timers know milliseconds only, and connections of the same worker would wait.
const PAUSE: Duration = Duration::from_micros(300);

/// Starts it.
///
/// # Errors
/// The system gives no thread.
pub(crate) fn start(broker: &Arc<Broker>) -> io::Result<(Background, oneshot::Receiver<()>)> {
    let broker = Arc::clone(broker);
    Background::start("queue-timer", move |stopping| keep_time(&broker, stopping))
}

fn keep_time(broker: &Broker, stopping: &AtomicBool) {
    let thread = thread::current();
    broker.wake_timer_with(move || thread.unpark());
    let (mut effects, mut begun) = (Effects::default(), Instant::now());
    while !stopping.load(Ordering::Acquire) {
        let due_ms = broker.run_due(now_ms(), &mut effects);
        match due_ms.map(|due_ms| due_ms.saturating_sub(now_ms())) {
            Some(0) if begun.elapsed() < SLICE => continue,
            Some(0) => thread::sleep(PAUSE),
            Some(ms) => thread::park_timeout(Duration::from_millis(ms)),
            None => thread::park(),
        }
        begun = Instant::now();
    }
}
