//! Regular expressions that users give: bounded in length, in compiled size and in work.

use std::sync::Arc;

use fancy_regex::{Regex, RegexBuilder};

use crate::plain::Plain;

/// Longest pattern, bytes.
const PATTERN_BYTES_MAX: usize = 4096;
/// What a compiled pattern may take, bytes: the first of these in which it fits is its weight.
const COMPILED_BYTES: [usize; 4] = [1 << 14, 1 << 16, 1 << 18, 1 << 20];
/// Steps of backtracking after which a name counts as not matching, as in RabbitMQ, which allows
/// more. Only patterns with look-around or back-references backtrack at all, and a name has 255
/// bytes.
const BACKTRACKS_MAX: usize = 2_000;

/// A compiled pattern. It matches a name if it matches some part of it, unless anchored.
#[derive(Clone, Debug)]
pub struct Pattern {
    program: Program,
    /// Bytes its program takes at most.
    pub weight: usize,
}

#[derive(Clone, Debug)]
enum Program {
    Plain(Plain),
    Regex(Arc<Regex>),
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!("longer than {PATTERN_BYTES_MAX} bytes"));
        }
        if let Some(plain) = Plain::parse(text) {
            let weight = plain.bytes();
            let program = Program::Plain(plain);
            return Ok(Self { program, weight });
        }
        let mut refused = String::new();
        for weight in COMPILED_BYTES {
            let built = RegexBuilder::new(text)
                .backtrack_limit(BACKTRACKS_MAX)
                .delegate_size_limit(weight)
                .delegate_dfa_size_limit(weight)
                .build();
            match built {
                Ok(regex) => {
                    let program = Program::Regex(regex.into());
                    return Ok(Self { program, weight });
                }
                Err(error) => refused = error.to_string(),
            }
        }
        Err(refused)
    }

    /// A pattern of a permission, where an empty one matches nothing.
    pub(crate) fn of_permission(text: &str) -> Result<Self, String> {
        Self::new(if text.is_empty() { "^$" } else { text })
    }

    /// Whether a name has it. One that takes too many steps to tell has not.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match &self.program {
            Program::Plain(plain) => plain.matches(name),
            Program::Regex(regex) => regex.is_match(name).unwrap_or(false),
        }
    }

    /// Whether it needs no regular expression, and hardly any room.
    pub(crate) const fn is_plain(&self) -> bool {
        matches!(self.program, Program::Plain(_))
    }
}

/// A name as a pattern that matches just that name.
pub(crate) fn escaped(name: &str) -> String {
    fancy_regex::escape(name).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_search_unless_anchored_and_an_empty_permission_allows_nothing() {
        let matches = |pattern: &str, name: &str| Pattern::new(pattern).unwrap().matches(name);
        assert!(matches("orders", "my-orders-1"));
        assert!(!matches("^orders$", "my-orders-1"));
        assert!(matches("", "anything"));
        assert!(matches(r"^(?!amq\.).*", "orders"));
        assert!(!matches(r"^(?!amq\.).*", "amq.gen-x"));
        let nothing = Pattern::of_permission("").unwrap();
        assert!(!nothing.matches("q"));
    }

    #[test]
    fn hostile_patterns_are_refused_or_give_up() {
        assert!(Pattern::new("(").is_err());
        assert!(Pattern::new(&"a".repeat(PATTERN_BYTES_MAX + 1)).is_err());
        assert!(Pattern::new("((a{1000}){1000}){1000}").is_err());
        let slow = Pattern::new(r"^(a+)+(?=b)c\1$").unwrap();
        assert!(!slow.matches(&"a".repeat(200)));
    }

    #[test]
    fn a_pattern_weighs_what_it_takes() {
        let weight = |pattern: &str| Pattern::new(pattern).unwrap().weight;
        assert_eq!(weight(r"^(?!amq\.).*"), COMPILED_BYTES[0]);
        assert!(weight("^orders") < 100);
        assert!(weight(r"\w{10}$") > COMPILED_BYTES[1]);
    }

    #[test]
    fn a_long_name_may_be_looked_at_from_each_place() {
        let pattern = Pattern::new(r"^(?!amq\.)(?=.*-v2$)(?:[a-z]+\.)*[a-z]+-v2$").unwrap();
        assert!(pattern.matches(&("abcde.".repeat(41) + "x-v2")));
    }

    proptest! {
        #[test]
        fn an_escaped_name_matches_itself_alone(name in ".{0,20}", other in ".{0,20}") {
            let pattern = Pattern::new(&format!("^{}$", escaped(&name))).unwrap();
            prop_assert!(pattern.matches(&name));
            prop_assert_eq!(pattern.matches(&other), name == other);
        }

        #[test]
        fn no_pattern_panics(text in ".{0,40}", name in ".{0,20}") {
            if let Ok(pattern) = Pattern::new(&text) {
                let _ = pattern.matches(&name);
            }
        }
    }
}
