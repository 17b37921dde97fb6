//! The threads that write what does not fit in memory, and read it back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use leveret_broker::{Broker, Effects, LostMessages, PageOut, RunError};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::background::Background;
use crate::clock::now_ms;

/// After a write that failed nothing is written for so long.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// While there are run files, the length of the journal and chunks of which little lives are looked
/// at this often.
const MOVE_PAUSE: Duration = Duration::from_millis(500);
/// Between two mebibytes of chunks that are rewritten others have the disk for so long.
const REWRITE_PAUSE: Duration = Duration::from_millis(5);
/// While there are run files, what is not needed any more is given back to the disk this often at
/// least.
const GIVE_BACK_PAUSE: Duration = Duration::from_millis(500);

const NOT_MOVED: &str = "run files cannot be synced: what is in them stays in the journal, which \
                         becomes longer than storage.journal_window";
const NOT_REWRITTEN: &str = "what is left of long queues cannot be written anew: what is settled \
                             of it keeps its place on the disk";

/// The running threads.
pub(crate) struct QueuePager {
    threads: [Background; 3],
}

impl QueuePager {
    /// Starts them; each receiver hears when one ends.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(broker: &Arc<Broker>) -> io::Result<(Self, [oneshot::Receiver<()>; 3])> {
        let spawn = |name: &str, work: fn(&Broker, &AtomicBool)| {
            let broker = Arc::clone(broker);
            Background::start(name, move |stopping| work(&broker, stopping))
        };
        let (writer, write_ended) = spawn("queue-writer", write)?;
        let (reader, read_ended) = spawn("queue-reader", read)?;
        let (mover, move_ended) = spawn("queue-mover", hand_over)?;
        let threads = [writer, reader, mover];
        let wakers = threads.each_ref().map(|it| {
            let thread = it.thread().clone();
            move || thread.unpark()
        });
        let [writing, reading, moving] = wakers;
        broker.wake_pager_with(writing, reading, moving);
        // Something may have come before anybody could wake them.
        threads.iter().for_each(|it| it.thread().unpark());
        Ok((Self { threads }, [write_ended, read_ended, move_ended]))
    }

    /// Has them end, one after the other, and waits for that.
    pub(crate) fn stop(self) {
        self.threads.into_iter().for_each(Background::stop);
    }
}

fn write(broker: &Broker, stopping: &AtomicBool) {
    let (mut out, mut failing) = (PageOut::default(), false);
    while !stopping.load(Ordering::Acquire) {
        broker.set_now(now_ms());
        broker.give_runs_back();
        if !broker.begin_page_out(&mut out) {
            match broker.runs_stats().files {
                0 => thread::park(),
                _ => thread::park_timeout(GIVE_BACK_PAUSE),
            }
            continue;
        }
        match broker.finish_page_out(&mut out) {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    info!("messages that do not fit in memory are written to the disk again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tell(&error);
                }
                thread::park_timeout(FAILURE_PAUSE);
            }
        }
    }
}

/// Hands over to run files what keeps the journal long, and writes anew what is mostly dead. A disk
/// that fails here costs no message.
fn hand_over(broker: &Broker, stopping: &AtomicBool) {
    let mut failing = false;
    while !stopping.load(Ordering::Acquire) {
        broker.set_now(now_ms());
        let moved = broker.move_chunks().map_err(|error| (NOT_MOVED, error));
        let rewritten = moved.and_then(|moved| {
            let rewritten = broker
                .rewrite_chunks()
                .map_err(|error| (NOT_REWRITTEN, error));
            Ok((moved, rewritten?))
        });
        match rewritten {
            // Whoever writes the first one wakes it.
            Ok((0, false)) if broker.runs_stats().files == 0 => thread::park(),
            Ok((0, false)) => thread::park_timeout(MOVE_PAUSE),
            Ok((_, is_rewritten)) => {
                failing = false;
                if is_rewritten {
                    thread::park_timeout(REWRITE_PAUSE);
                }
            }
            Err((what, error)) => {
                if !std::mem::replace(&mut failing, true) {
                    error!(%error, "{what}; check the disk");
                }
                thread::park_timeout(FAILURE_PAUSE);
            }
        }
    }
}

fn tell(error: &RunError) {
    match error {
        RunError::NoSpace => warn!(
            "messages that do not fit in memory stay there, as the disk has no space that they do \
             not leave to the journal (limits.disk_free_min); limits.resident_bytes bounds them"
        ),
        _ => error!(
            %error,
            "messages that do not fit in memory cannot be written to the disk and stay there; \
             limits.resident_bytes bounds them"
        ),
    }
}

fn read(broker: &Broker, stopping: &AtomicBool) {
    let (mut effects, mut log) = (Effects::default(), LostLog::default());
    while !stopping.load(Ordering::Acquire) {
        broker.set_now(now_ms());
        match broker.begin_page_in() {
            Some(page) => broker.finish_page_in(page, &mut effects),
            None if log.untold.0 > 0 => thread::park_timeout(LostLog::WINDOW),
            None => thread::park(),
        }
        log.sweep(Instant::now());
        for lost in broker.take_lost() {
            if !log.may_tell(&lost) {
                continue;
            }
            let (vhost, queue, page) = (&lost.vhost, &lost.queue, &lost.page);
            let what = match lost.moved {
                true => "they are lost, and tried again at the next start",
                false => {
                    "those that are persistent come back at the next start, the others are lost"
                }
            };
            error!(
                %vhost,
                %queue,
                priority = page.level,
                from = page.first,
                to = page.last,
                messages = page.messages,
                reason = lost.reason,
                "messages could not be read back from the disk: {what}; check the disk"
            );
        }
    }
}

/// How many lines the log gets of chunks that could not be read back: a disk that fails has many.
#[derive(Default)]
struct LostLog {
    since: Option<Instant>,
    told: u32,
    /// Chunks, and messages in them.
    untold: (u64, u64),
}

impl LostLog {
    const WINDOW: Duration = Duration::from_secs(60);
    /// So many in each.
    const LINES_MAX: u32 = 100;

    /// Begins a new minute when one is over, and says what was left out.
    fn sweep(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) < Self::WINDOW {
            return;
        }
        let (chunks, messages) = self.untold;
        if chunks > 0 {
            error!(
                chunks,
                messages, "more of them could not be read back from the disk"
            );
        }
        *self = Self {
            since: Some(now),
            ..Self::default()
        };
    }

    /// Whether a chunk gets a line.
    const fn may_tell(&mut self, lost: &LostMessages) -> bool {
        self.told = self.told.saturating_add(1);
        if self.told <= Self::LINES_MAX {
            return true;
        }
        self.untold.0 += 1;
        self.untold.1 += lost.page.messages;
        false
    }
}
