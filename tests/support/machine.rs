//! Whether the machine was there for a test that goes by the time: others may have had it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// How often a test is tried in which the machine was others'.
pub(crate) const TRIES: u32 = 5;
/// Others may have so much of one core; more of it is theirs.
const OTHERS_PART: f64 = 0.15;
/// Who sleeps is woken within this time on a machine that has nothing else to do.
const LATE: Duration = Duration::from_millis(25);
const TICK: Duration = Duration::from_millis(2);

/// Runs a test whose client, or whose bound, goes by the time. Where it fails its failure counts
/// only if the machine was the test's own meanwhile; otherwise it is tried again.
pub(crate) fn on_time(test: impl Fn()) {
    for tries in 1.. {
        let watch = Watch::start();
        let Err(panic) = catch_unwind(AssertUnwindSafe(&test)) else {
            return;
        };
        match watch.disturbance() {
            Some(why) if tries < TRIES => eprintln!("{why}: tried again"),
            _ => resume_unwind(panic),
        }
    }
}

/// Looks what else the machine does.
pub(crate) struct Watch {
    begun: Instant,
    others: f64,
    latest_us: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start() -> Self {
        let (latest_us, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (latest, stopped) = (Arc::clone(&latest_us), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Relaxed) {
                let asleep = Instant::now();
                sleep(TICK);
                let late = asleep.elapsed().saturating_sub(TICK);
                latest.fetch_max(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Relaxed);
            }
        });
        Self {
            begun: Instant::now(),
            others: others_seconds(),
            latest_us,
            stop,
            thread: Some(thread),
        }
    }

    /// What kept the test from the machine since the start, if anything did.
    pub(crate) fn disturbance(&self) -> Option<String> {
        let elapsed = self.begun.elapsed().as_secs_f64();
        let others = (others_seconds() - self.others) / elapsed;
        let late = Duration::from_micros(self.latest_us.load(Relaxed));
        let is_disturbed = others > OTHERS_PART || late > LATE;
        is_disturbed.then(|| {
            format!("others had {others:.1} cores meanwhile, who slept woke up to {late:.0?} late")
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// Seconds of processor time that went to anybody but this process and its brokers so far: other
/// process groups, and other machines on this one's processors.
fn others_seconds() -> f64 {
    let ticks = ticks_of_all().saturating_sub(ticks_of_group());
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// All but idle time, of all processors.
fn ticks_of_all() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default();
    let numbers: Vec<u64> = fields
        .split_whitespace()
        .skip(1)
        .map(|field| field.parse().unwrap_or_default())
        .collect();
    // user, nice, system; irq, softirq, steal: without idle and iowait, and guests count as user.
    let busy = [0, 1, 2, 5, 6, 7];
    busy.iter().filter_map(|&index| numbers.get(index)).sum()
}

/// Of the processes of this one's group, and of those of its children that have ended.
fn ticks_of_group() -> u64 {
    let own = Process::of("self").unwrap_or_default();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = entries.filter_map(|entry| Process::of(entry.file_name().to_str()?));
    let living = all.filter(|process| process.group == own.group);
    living.map(|process| process.used).sum::<u64>() + own.used_by_children
}

/// A line of `/proc/PID/stat`, times in ticks.
#[derive(Default)]
struct Process {
    group: u64,
    used: u64,
    used_by_children: u64,
}

impl Process {
    fn of(pid: &str) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may have whatever characters it likes.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<u64> = fields
            .split(' ')
            .map(|field| field.parse().unwrap_or_default())
            .collect();
        let [_, _, group, .., utime, stime, cutime, cstime] = *fields.get(..15)? else {
            return None;
        };
        Some(Self {
            group,
            used: utime + stime,
            used_by_children: cutime + cstime,
        })
    }
}
