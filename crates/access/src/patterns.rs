//! The patterns of all permissions: equal ones are one, and few of them are compiled.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use crate::AdminError;
use crate::pattern::Pattern;

/// What the compiled patterns of all permissions may weigh together, bytes. Those above it are
/// kept as text, and compiled again when somebody is at work whom they concern.
const COMPILED_BYTES_MAX: usize = 64 << 20;
/// So many are known before those that are gone are looked for.
const KNOWN_MIN: usize = 64;

/// A pattern that is granted to somebody.
#[derive(Debug)]
pub(crate) struct Granted {
    text: Arc<str>,
    /// A plain one has it for good.
    compiled: RwLock<Option<Pattern>>,
    /// Since room was looked for last.
    used: AtomicBool,
}

/// All that are granted. It holds none of them: they go with the last permission.
#[derive(Debug)]
pub(crate) struct Patterns {
    max: usize,
    table: Mutex<PatternTable>,
}

#[derive(Debug, Default)]
struct PatternTable {
    known: BTreeMap<Arc<str>, Weak<Granted>>,
    /// Look for those that are gone when so many are known.
    sweep_at: usize,
    /// Those that are compiled, with their weights, the oldest first.
    compiled: VecDeque<(usize, Weak<Granted>)>,
    /// Theirs together.
    weight: usize,
}

impl Default for Patterns {
    fn default() -> Self {
        Self::new(COMPILED_BYTES_MAX)
    }
}

impl Patterns {
    fn new(max: usize) -> Self {
        Self {
            max,
            table: Mutex::default(),
        }
    }

    /// A pattern by its text; an empty one matches nothing.
    ///
    /// # Errors
    /// When it cannot be compiled.
    pub(crate) fn grant(&self, text: &str) -> Result<Arc<Granted>, AdminError> {
        let known = self.table.lock().known.get(text).and_then(Weak::upgrade);
        if let Some(known) = known {
            return Ok(known);
        }
        let pattern = Pattern::of_permission(text).map_err(|reason| AdminError::Pattern {
            pattern: text.into(),
            reason,
        })?;
        let mut table = self.table.lock();
        let granted = Arc::new(Granted {
            text: text.into(),
            compiled: RwLock::default(),
            used: AtomicBool::new(false),
        });
        table.add(&granted);
        // Nobody has used it yet, so it takes nobody's place.
        if pattern.is_plain() || table.has_room(pattern.weight, self.max) {
            table.keep(&granted, pattern);
        }
        Ok(granted)
    }

    /// Whether a name has a pattern.
    pub(crate) fn matches(&self, granted: &Arc<Granted>, name: &str) -> bool {
        if let Some(pattern) = &*granted.compiled.read() {
            if !granted.used.load(Ordering::Relaxed) {
                granted.used.store(true, Ordering::Relaxed);
            }
            return pattern.matches(name);
        }
        // It could be compiled when it was granted.
        let Ok(pattern) = Pattern::of_permission(&granted.text) else {
            return false;
        };
        let matches = pattern.matches(name);
        let mut table = self.table.lock();
        table.make_room(pattern.weight, self.max);
        table.keep(granted, pattern);
        matches
    }
}

impl PatternTable {
    fn add(&mut self, granted: &Arc<Granted>) {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, known| known.strong_count() > 0);
            self.sweep_at = KNOWN_MIN.max(self.known.len() * 2);
        }
        let text = Arc::clone(&granted.text);
        self.known.insert(text, Arc::downgrade(granted));
    }

    /// Whether there is room for one more, once the oldest that are gone have left theirs.
    fn has_room(&mut self, weight: usize, max: usize) -> bool {
        while let Some((of_oldest, oldest)) = self.compiled.front() {
            if oldest.strong_count() > 0 {
                break;
            }
            self.weight -= of_oldest;
            self.compiled.pop_front();
        }
        self.weight + weight <= max
    }

    /// Lets the oldest that were not used for the longest time go, until there is room. Each has
    /// one more chance, and one more than there are ends the search.
    fn make_room(&mut self, weight: usize, max: usize) {
        let mut chances = self.compiled.len();
        while self.weight + weight > max {
            let Some((of_oldest, oldest)) = self.compiled.pop_front() else {
                return;
            };
            let granted = oldest.upgrade();
            let used = |granted: &Arc<Granted>| granted.used.swap(false, Ordering::Relaxed);
            if chances > 0 && granted.as_ref().is_some_and(used) {
                chances -= 1;
                self.compiled.push_back((of_oldest, oldest));
                continue;
            }
            self.weight -= of_oldest;
            if let Some(granted) = granted {
                *granted.compiled.write() = None;
            }
        }
    }

    /// Keeps what was compiled, unless another did.
    fn keep(&mut self, granted: &Arc<Granted>, pattern: Pattern) {
        let mut compiled = granted.compiled.write();
        if compiled.is_some() {
            return;
        }
        if !pattern.is_plain() {
            self.weight += pattern.weight;
            let one = (pattern.weight, Arc::downgrade(granted));
            self.compiled.push_back(one);
        }
        *compiled = Some(pattern);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(patterns: &Patterns) -> usize {
        patterns.table.lock().compiled.len()
    }

    #[test]
    fn equal_patterns_are_one_and_go_with_the_last() {
        let patterns = Patterns::default();
        let first = patterns.grant("^a+$").unwrap();
        let second = patterns.grant("^a+$").unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(compiled(&patterns), 1);
        assert!(patterns.grant("^a+(").is_err());
        drop((first, second));
        for number in 0..1_000 {
            patterns.grant(&format!("^{number}")).unwrap();
        }
        assert!(patterns.table.lock().known.len() <= KNOWN_MIN);
    }

    #[test]
    fn plain_patterns_are_not_compiled() {
        let patterns = Patterns::default();
        for (text, fits) in [
            (".*", true),
            ("", false),
            (r"^app\.", true),
            ("^(a|b)$", false),
        ] {
            let granted = patterns.grant(text).unwrap();
            assert_eq!(patterns.matches(&granted, "app.x"), fits, "{text}");
        }
        assert_eq!(compiled(&patterns), 0);
    }

    #[test]
    fn few_are_compiled_and_all_match() {
        const ROOM: usize = 4;
        const ALL: usize = 12;
        let weight = Pattern::new("^a0+$").unwrap().weight;
        let patterns = Patterns::new(ROOM * weight);
        let grant = |number: usize| patterns.grant(&format!("^a{number}-+$")).unwrap();
        let granted: Vec<_> = (0..ALL).map(grant).collect();
        assert_eq!(compiled(&patterns), ROOM);
        for _ in 0..2 {
            for (number, granted) in granted.iter().enumerate() {
                assert!(patterns.matches(granted, &format!("a{number}--")));
                assert!(!patterns.matches(granted, "a-"));
                assert_eq!(compiled(&patterns), ROOM);
                assert_eq!(patterns.table.lock().weight, ROOM * weight);
            }
        }
        drop(granted);
        // Those that are gone leave their room to the next that are granted.
        let _next: Vec<_> = (ALL..ALL + ROOM).map(grant).collect();
        assert_eq!(compiled(&patterns), ROOM);
        assert!(
            patterns
                .table
                .lock()
                .compiled
                .iter()
                .all(|(_, one)| one.strong_count() > 0)
        );
    }

    #[test]
    fn what_is_used_stays_compiled() {
        let weight = Pattern::new("^a0+$").unwrap().weight;
        let patterns = Patterns::new(2 * weight);
        let busy = patterns.grant("^busy+$").unwrap();
        for number in 0..10 {
            let other = patterns.grant(&format!("^a{number}-+$")).unwrap();
            assert!(patterns.matches(&busy, "busy"));
            assert!(!patterns.matches(&other, "busy"));
            assert!(busy.compiled.read().is_some(), "{number}");
        }
    }

    #[test]
    fn one_that_weighs_more_than_all_may_is_kept_alone() {
        let patterns = Patterns::new(1);
        let granted = patterns.grant("^a+$").unwrap();
        assert_eq!(compiled(&patterns), 0);
        assert!(patterns.matches(&granted, "aa") && !patterns.matches(&granted, "b"));
        assert_eq!(compiled(&patterns), 1);
    }
}
