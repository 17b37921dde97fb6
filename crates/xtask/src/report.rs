//! What the suites of one run came to: a table, the reasons of every skip, and one last line.

use std::fmt;
use std::time::{Duration, Instant};

/// One test's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It held.
    Passed,
    /// It did not.
    Failed,
    /// It did not run, or is known not to hold yet; with the reason given.
    Skipped(String),
}

/// One test and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The name its runner gives it.
    pub(crate) name: String,
    /// How it ended.
    pub(crate) ending: Ending,
}

impl Outcome {
    pub(crate) fn new(name: impl Into<String>, ending: Ending) -> Self {
        Self {
            name: name.into(),
            ending,
        }
    }

    /// Its name, if it failed.
    pub(crate) fn failure(&self) -> Option<&str> {
        (self.ending == Ending::Failed).then_some(&self.name)
    }
}

/// One suite's counts.
pub(crate) struct Suite {
    /// As shown in the table.
    pub(crate) name: String,
    /// Every test of it.
    pub(crate) outcomes: Vec<Outcome>,
    /// What to show when a test failed.
    pub(crate) log: String,
    /// Wall time.
    pub(crate) took: Duration,
}

/// The suites of one run, in the order they ran.
#[derive(Default)]
pub(crate) struct Report {
    suites: Vec<Suite>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Suite {
    /// A suite whose tests are `outcomes`, begun at `start`.
    pub(crate) fn new(name: &str, outcomes: Vec<Outcome>, log: String, start: Instant) -> Self {
        Self {
            name: name.to_owned(),
            outcomes,
            log,
            took: start.elapsed(),
        }
    }

    /// A suite that is a single check.
    pub(crate) fn single(name: &str, passed: bool, log: String, start: Instant) -> Self {
        let ending = if passed {
            Ending::Passed
        } else {
            Ending::Failed
        };
        Self::new(name, vec![Outcome::new(name, ending)], log, start)
    }

    /// A suite that could not run and says why.
    pub(crate) fn skipped(name: &str, reason: &str) -> Self {
        let outcome = Outcome::new(name, Ending::Skipped(reason.to_owned()));
        Self::new(name, vec![outcome], String::new(), Instant::now())
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for outcome in &self.outcomes {
            match outcome.ending {
                Ending::Passed => counts.passed += 1,
                Ending::Failed => counts.failed += 1,
                Ending::Skipped(_) => counts.skipped += 1,
            }
        }
        counts
    }
}

impl Report {
    /// Adds a suite and says at once how it ended.
    pub(crate) fn add(&mut self, suite: Suite) {
        let counts = suite.counts();
        if counts.failed > 0 {
            println!("{}", suite.log);
        }
        let seconds = suite.took.as_secs_f64();
        println!("-- {}: {counts} ({seconds:.1} s)", suite.name);
        self.suites.push(suite);
    }

    /// Adds the suites of a report that was made meanwhile.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.suites.append(&mut other.suites);
    }

    /// Whether no test failed.
    pub(crate) fn succeeded(&self) -> bool {
        self.total().failed == 0
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        for counts in self.suites.iter().map(Suite::counts) {
            total.passed += counts.passed;
            total.failed += counts.failed;
            total.skipped += counts.skipped;
        }
        total
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(out, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for suite in &self.suites {
            for outcome in &suite.outcomes {
                match &outcome.ending {
                    Ending::Passed => {}
                    Ending::Failed => writeln!(out, "failed   {}: {}", suite.name, outcome.name)?,
                    Ending::Skipped(reason) => {
                        writeln!(out, "skipped  {}: {} ({reason})", suite.name, outcome.name)?;
                    }
                }
            }
        }
        let names = self.suites.iter().map(|suite| suite.name.len());
        let width = names.max().unwrap_or_default().max("suite".len());
        writeln!(
            out,
            "\n{:width$}  passed  failed  skipped  seconds",
            "suite"
        )?;
        for suite in &self.suites {
            let Counts {
                passed,
                failed,
                skipped,
            } = suite.counts();
            let seconds = suite.took.as_secs_f64();
            let name = &suite.name;
            writeln!(
                out,
                "{name:width$}  {passed:6}  {failed:6}  {skipped:7}  {seconds:7.1}"
            )?;
        }
        write!(out, "\n{}", self.total())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_totals_every_suite() {
        let mut report = Report::default();
        report.add(Suite::single("fmt", true, String::new(), Instant::now()));
        report.add(Suite::skipped("fuzz", "no targets"));
        assert!(report.succeeded());
        report.add(Suite::single(
            "tidy",
            false,
            "log".to_owned(),
            Instant::now(),
        ));
        let text = report.to_string();
        assert!(!report.succeeded());
        assert_eq!(text.lines().last(), Some("1 passed, 1 failed, 1 skipped"));
        assert!(text.contains("skipped  fuzz: fuzz (no targets)"), "{text}");
        assert!(text.contains("failed   tidy: tidy"), "{text}");
    }
}
