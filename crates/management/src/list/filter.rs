//! Which rows of a list are wanted, by their names.

use regex::{Regex, RegexBuilder};

use crate::call::Call;
use crate::problem::Problem;

const PATTERN_CHARS_MAX: usize = 1024;
/// Compiled size of a pattern, bytes: a short pattern can stand for a huge program.
const PATTERN_BYTES_MAX: usize = 256 << 10;

/// Which names are wanted.
pub(super) enum Filter {
    All,
    Part(String),
    Pattern(Regex),
}

impl Filter {
    pub(super) fn of(call: &Call) -> Result<Self, Problem> {
        let name = call.parameter("name").unwrap_or_default();
        if name.is_empty() {
            return Ok(Self::All);
        }
        if name.chars().count() > PATTERN_CHARS_MAX {
            return Err(Problem::bad(format!(
                "name filter is longer than {PATTERN_CHARS_MAX} characters"
            )));
        }
        if !call.flag("use_regex") {
            return Ok(Self::Part(name.to_lowercase()));
        }
        RegexBuilder::new(name)
            .case_insensitive(true)
            .size_limit(PATTERN_BYTES_MAX)
            .build()
            .map(Self::Pattern)
            .map_err(|error| Problem::bad(format!("invalid name pattern: {error}")))
    }

    pub(super) const fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Part(part) => contains(name, part),
            Self::Pattern(pattern) => pattern.is_match(name),
        }
    }
}

/// Whether a name holds a part in any case; `part` is in lower case.
fn contains(name: &str, part: &str) -> bool {
    if name.is_ascii() {
        let (name, part) = (name.as_bytes(), part.as_bytes());
        return name
            .windows(part.len())
            .any(|window| window.eq_ignore_ascii_case(part));
    }
    name.to_lowercase().contains(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case() {
        for (name, part, found) in [
            ("Orders", "order", true),
            ("orders", "", true),
            ("o", "orders", false),
            ("ÄRGER", "ärg", true),
        ] {
            assert_eq!(
                part.is_empty() || contains(name, part),
                found,
                "{name} {part}"
            );
        }
    }
}
