//! What became of messages that died: whether each was moved on, and moved once.
//!
//! The lines are described in `tests/clients/python/crash/dead_letters.py`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};

/// A message: the queue it was published to, and its number.
type Name = (String, u64);

/// What one client tells of messages that were to die.
#[derive(Default)]
pub(super) struct Moved {
    confirmed: BTreeSet<Name>,
    /// How often each is where dead messages go.
    kept: BTreeMap<Name, usize>,
    /// Those that had no reason to die.
    left: BTreeMap<Name, usize>,
    counted: bool,
}

impl Moved {
    /// Takes a line, if it is one of these; the others are every client's.
    ///
    /// # Errors
    /// It is not what the client writes.
    pub(super) fn read(&mut self, line: &str) -> Result<bool> {
        let words: Vec<&str> = line.split(' ').collect();
        let [word @ ("P" | "K" | "R" | "E"), source, number] = words[..] else {
            return Ok(false);
        };
        let number = number.parse().with_context(|| line.to_owned())?;
        let name = (source.to_owned(), number);
        match word {
            "P" => drop(self.confirmed.insert(name)),
            "K" => *self.kept.entry(name).or_default() += 1,
            "R" => *self.left.entry(name).or_default() += 1,
            "E" => self.counted = true,
            _ => bail!("{line:?}"),
        }
        Ok(true)
    }

    /// What was not moved on exactly once.
    pub(super) fn breaches(&self) -> Vec<String> {
        if !self.counted {
            return vec!["the dead were not counted".into()];
        }
        let mut breaches = Vec::new();
        let all: BTreeSet<_> = self
            .confirmed
            .iter()
            .chain(self.kept.keys())
            .chain(self.left.keys())
            .collect();
        for name in all {
            let times = |of: &BTreeMap<Name, usize>| of.get(name).copied().unwrap_or(0);
            let (kept, left) = (times(&self.kept), times(&self.left));
            // What was not confirmed may not have come at all.
            let least = usize::from(self.confirmed.contains(name));
            if kept + left > 1 || kept + left < least {
                let (source, number) = name;
                breaches.push(format!(
                    "{source} {number}: moved on {kept} times, left where it was {left} times"
                ));
            }
        }
        breaches
    }

    /// How many were moved on.
    pub(super) fn count(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(lines: &str) -> usize {
        let mut moved = Moved::default();
        for line in lines.lines() {
            assert!(moved.read(line).unwrap(), "{line}");
        }
        moved.breaches().len()
    }

    #[test]
    fn what_was_confirmed_is_in_one_place_once() {
        assert_eq!(judged("P q 1\nK q 1\nP full 2\nR full 2\nE 0 0"), 0);
        assert_eq!(judged("P q 1\nE 0 0"), 1, "lost");
        assert_eq!(judged("P q 1\nK q 1\nK q 1\nE 0 0"), 1, "a copy too many");
        assert_eq!(
            judged("P q 1\nK q 1\nR q 1\nE 0 0"),
            1,
            "a copy without its death"
        );
        assert_eq!(judged("P q 1\nK q 1"), 1, "nobody has counted");
    }

    #[test]
    fn what_was_not_confirmed_is_there_once_at_most() {
        assert_eq!(judged("K q 1\nE 0 0"), 0);
        assert_eq!(judged("K q 1\nK q 1\nE 0 0"), 1);
    }

    #[test]
    fn other_lines_are_somebody_elses() {
        let mut moved = Moved::default();
        assert!(!moved.read("D dead-out q 1 0").unwrap());
        assert!(moved.read("P q x").is_err());
    }
}
