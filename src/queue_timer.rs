//! The thread that has queues run when something is due for them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use leveret_broker::{Broker, Work};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::clock::now_ms;

/// When very much is due at once, so long is worked at it
const SLICE: Duration = Duration::from_micros(100);
/// before others have the processor for so long. The runtime's timers know milliseconds only, and
/// connections of the same worker would wait.
const PAUSE: Duration = Duration::from_micros(200);

/// The running thread.
pub(crate) struct QueueTimer {
    thread: JoinHandle<()>,
    stopping: Arc<AtomicBool>,
}

impl QueueTimer {
    /// Starts it; the receiver hears when it ends, which is when it has panicked or was stopped.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(broker: &Arc<Broker>) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let (broker, runtime) = (Arc::clone(broker), Handle::current());
        let stopping = Arc::new(AtomicBool::new(false));
        let (alive, ended) = oneshot::channel::<()>();
        let stops = Arc::clone(&stopping);
        let thread = thread::Builder::new().name("queue-timer".to_owned());
        let thread = thread.spawn(move || {
            let _inside = runtime.enter();
            keep_time(&broker, &stops);
            drop(alive);
        })?;
        Ok((Self { thread, stopping }, ended))
    }

    /// Has it end, and waits for that.
    pub(crate) fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        self.thread.thread().unpark();
        // That it has panicked was heard before.
        let _ = self.thread.join();
    }
}

fn keep_time(broker: &Broker, stopping: &AtomicBool) {
    let thread = thread::current();
    broker.wake_timer_with(move || thread.unpark());
    let (mut work, mut begun) = (Work::default(), Instant::now());
    while !stopping.load(Ordering::Acquire) {
        let due_ms = broker.run_due(now_ms(), &mut work);
        match due_ms.map(|due_ms| due_ms.saturating_sub(now_ms())) {
            Some(0) if begun.elapsed() < SLICE => continue,
            Some(0) => thread::sleep(PAUSE),
            Some(ms) => thread::park_timeout(Duration::from_millis(ms)),
            None => thread::park(),
        }
        begun = Instant::now();
    }
}
