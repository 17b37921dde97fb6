//! Whether the machine has processors to spare.

use std::fs;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Looks at the processors from time to time.
#[derive(Debug, Default)]
pub struct CoreWatch {
    last: Option<Look>,
}

/// What the clocks say.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    /// Of all processors, since the machine was started.
    idle: Duration,
    /// What this process has had.
    used: Duration,
}

impl CoreWatch {
    /// Nothing is known of what comes next until two looks later.
    pub const fn forget(&mut self) {
        self.last = None;
    }

    /// Whether half of the processors that the process may use were idle since the last look.
    pub fn look(&mut self) -> bool {
        let Some(look) = Look::now() else {
            return false;
        };
        let Some(last) = self.last.replace(look) else {
            return false;
        };
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        are_idle(last, look, u32::try_from(cores).unwrap_or(u32::MAX))
    }
}

impl Look {
    fn now() -> Option<Self> {
        let idle = idle_time(&fs::read_to_string("/proc/uptime").ok()?)?;
        let used = clock_gettime(ClockId::ProcessCPUTime);
        Some(Self {
            at: Instant::now(),
            idle,
            used: used.try_into().ok()?,
        })
    }
}

/// Other processors of the machine may be idle while those the process is confined to are not.
fn are_idle(last: Look, look: Look, cores: u32) -> bool {
    let half = (look.at - last.at) * cores / 2;
    look.idle.saturating_sub(last.idle) >= half && look.used.saturating_sub(last.used) <= half
}

/// What `/proc/uptime` says: seconds since the start, and those that processors were idle.
fn idle_time(uptime: &str) -> Option<Duration> {
    let seconds: f64 = uptime.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_processors_have_to_be_idle() {
        let at = Instant::now();
        let look = |ms: u64, idle_ms: u64, used_ms: u64| Look {
            at: at + Duration::from_millis(ms),
            idle: Duration::from_millis(idle_ms),
            used: Duration::from_millis(used_ms),
        };
        let idle = |idle_ms: u64, used_ms: u64| {
            let (last, next) = (look(0, 5000, 70), look(100, 5000 + idle_ms, 70 + used_ms));
            are_idle(last, next, 4)
        };
        assert!(idle(200, 0));
        assert!(!idle(190, 0), "others are at work");
        assert!(!idle(800, 210), "it has only four of many");
        assert!(idle(800, 150));
    }

    #[test]
    fn idle_time_is_the_second_number() {
        let idle = Duration::from_millis(5_587_520);
        assert_eq!(idle_time("12755.51 5587.52\n"), Some(idle));
        assert_eq!(idle_time("12755.51\n"), None);
        assert_eq!(idle_time("12755.51 -1\n"), None);
    }

    #[test]
    fn nothing_is_said_of_the_first_look() {
        let mut cores = CoreWatch::default();
        assert!(!cores.look());
        assert!(cores.last.is_some(), "the system tells");
        cores.forget();
        assert!(!cores.look());
    }
}
