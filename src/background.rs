//! Threads of the broker's own, for what waits for the disk or the clock and not for clients.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A running thread.
pub(crate) struct Background {
    thread: JoinHandle<()>,
    stopping: Arc<AtomicBool>,
}

impl Background {
    /// Starts one that works until it reads `true`, and parks while it has nothing to do. The
    /// receiver hears when it ends, which is when it has panicked or was stopped.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(
        name: &str,
        work: impl FnOnce(&AtomicBool) + Send + 'static,
    ) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let runtime = Handle::current();
        let stopping = Arc::new(AtomicBool::new(false));
        let (alive, ended) = oneshot::channel::<()>();
        let stops = Arc::clone(&stopping);
        let thread = thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || {
            let _inside = runtime.enter();
            work(&stops);
            drop(alive);
        })?;
        Ok((Self { thread, stopping }, ended))
    }

    /// What wakes it.
    pub(crate) fn thread(&self) -> &Thread {
        self.thread.thread()
    }

    /// Has it end, and waits for that.
    pub(crate) fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        self.thread().unpark();
        // That it has panicked was heard before.
        let _ = self.thread.join();
    }
}
