//! `expected.toml` of a client suite: the tests known not to hold, each with its reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::report::{Ending, Outcome};

/// Names of tests that do not hold against one broker, with the reason of each.
#[derive(Default)]
pub(crate) struct Expected {
    reasons: BTreeMap<String, String>,
}

impl Expected {
    /// Reads the table `broker` of the file at `path`; a missing file or table is empty.
    ///
    /// # Errors
    /// The file is not TOML, or a reason is not a string.
    pub(crate) fn load(path: &Path, broker: &str) -> Result<Self> {
        let Ok(text) = fs::read_to_string(path) else {
            return Ok(Self::default());
        };
        Self::parse(&text, broker).with_context(|| format!("reading {}", path.display()))
    }

    fn parse(text: &str, broker: &str) -> Result<Self> {
        let file: toml::Table = text.parse()?;
        let mut expected = Self::default();
        let table = file.get(broker).and_then(toml::Value::as_table);
        for (name, reason) in table.into_iter().flatten() {
            let reason = reason
                .as_str()
                .with_context(|| format!("the reason of `{name}`"))?;
            expected.reasons.insert(name.clone(), reason.to_owned());
        }
        Ok(expected)
    }

    /// Judges a run: a listed failure is a skip with its reason; a listed test that passes or is
    /// missing, and a skip that is not listed, are failures.
    pub(crate) fn judge(&self, outcomes: Vec<Outcome>) -> Vec<Outcome> {
        let missing = |name: &&String| !outcomes.iter().any(|outcome| outcome.name == **name);
        let absent: Vec<&String> = self.reasons.keys().filter(missing).collect();
        let gone = |name| Outcome::new(format!("{name} (listed, not run)"), Ending::Failed);
        let absent: Vec<Outcome> = absent.into_iter().map(gone).collect();
        outcomes
            .into_iter()
            .map(|outcome| self.judge_one(outcome))
            .chain(absent)
            .collect()
    }

    fn judge_one(&self, outcome: Outcome) -> Outcome {
        let Outcome { name, ending } = outcome;
        match (self.reasons.get(&name), ending) {
            (Some(_), Ending::Passed) => {
                Outcome::new(format!("{name} (passes though listed)"), Ending::Failed)
            }
            (Some(reason), _) => Outcome::new(name, Ending::Skipped(reason.clone())),
            (None, Ending::Skipped(_)) => {
                Outcome::new(format!("{name} (skipped, not listed)"), Ending::Failed)
            }
            (None, ending) => Outcome::new(name, ending),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[leveret]\nlate = \"waits\"\n[rabbitmq]\nother = \"differs\"\n";

    fn judged(name: &str, ending: Ending) -> Vec<(String, Ending)> {
        let expected = Expected::parse(FILE, "leveret").unwrap();
        let outcomes = expected.judge(vec![Outcome::new(name, ending)]);
        outcomes
            .into_iter()
            .map(|outcome| (outcome.name, outcome.ending))
            .collect()
    }

    #[test]
    fn a_listed_failure_or_skip_is_a_skip_with_its_reason() {
        let skip = vec![("late".to_owned(), Ending::Skipped("waits".to_owned()))];
        assert_eq!(judged("late", Ending::Failed), skip);
        assert_eq!(judged("late", Ending::Skipped(String::new())), skip);
    }

    #[test]
    fn a_listed_test_that_passes_or_is_gone_fails() {
        let passes = vec![("late (passes though listed)".to_owned(), Ending::Failed)];
        assert_eq!(judged("late", Ending::Passed), passes);
        let gone = ("late (listed, not run)".to_owned(), Ending::Failed);
        assert_eq!(judged("new", Ending::Passed)[1], gone);
    }

    #[test]
    fn a_skip_that_is_not_listed_fails() {
        let name = "new (skipped, not listed)".to_owned();
        let ending = Ending::Skipped("whim".to_owned());
        assert_eq!(judged("new", ending)[0], (name, Ending::Failed));
    }
}
