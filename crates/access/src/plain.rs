//! Patterns that need no regular expression: alternatives of plain text at the beginning, at the
//! end or anywhere in a name. Most of what is granted is of that kind.

/// Alternatives of plain text. They match just what the regular expression would.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    branches: Box<[Branch]>,
}

#[derive(Clone, Debug, Default)]
struct Branch {
    /// The name begins with it.
    start: bool,
    text: Box<str>,
    /// After it comes `.*`, anything on the same line.
    rest: bool,
    /// The name ends there.
    end: bool,
}

impl Plain {
    /// Reads a pattern, if it is that plain.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some((inner, end)) = grouped(text) {
            return Self::of_branches(inner, Some(end));
        }
        Self::of_branches(text, None)
    }

    /// With a group, all its branches begin where the name begins, and perhaps end where it ends.
    fn of_branches(text: &str, group: Option<bool>) -> Option<Self> {
        let mut branches = Vec::new();
        let mut left = text;
        loop {
            let (mut branch, behind) = Branch::parse(left, group.is_some())?;
            if let Some(end) = group {
                branch.start = true;
                branch.end = end;
            }
            branches.push(branch);
            let Some(next) = behind.strip_prefix('|') else {
                break;
            };
            left = next;
        }
        let branches = branches.into();
        Some(Self { branches })
    }

    /// Whether a name has it.
    pub(crate) fn matches(&self, name: &str) -> bool {
        self.branches.iter().any(|branch| branch.matches(name))
    }

    /// Bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        let own = |branch: &Branch| size_of::<Branch>() + branch.text.len();
        self.branches.iter().map(own).sum()
    }
}

/// What is in `^(...)` or `^(...)$`, and whether the latter.
fn grouped(text: &str) -> Option<(&str, bool)> {
    let opened = text.strip_prefix("^(")?;
    let opened = opened.strip_prefix("?:").unwrap_or(opened);
    match opened.strip_suffix(")$") {
        Some(inner) => Some((inner, true)),
        None => Some((opened.strip_suffix(')')?, false)),
    }
}

impl Branch {
    /// Reads one branch up to a `|` or the end; gives what is behind.
    fn parse(text: &str, in_group: bool) -> Option<(Self, &str)> {
        let mut branch = Self::default();
        let mut left = text;
        if !in_group {
            if let Some(behind) = left.strip_prefix('^') {
                (branch.start, left) = (true, behind);
            } else if let Some(behind) = left.strip_prefix(".*") {
                // A search begins anywhere, so this adds nothing.
                left = behind;
            }
        }
        (branch.text, left) = literal(left)?;
        if let Some(behind) = left.strip_prefix(".*") {
            (branch.rest, left) = (true, behind);
        }
        if !in_group && let Some(behind) = left.strip_prefix('$') {
            (branch.end, left) = (true, behind);
        }
        (left.is_empty() || left.starts_with('|')).then_some((branch, left))
    }

    fn matches(&self, name: &str) -> bool {
        let text = &*self.text;
        let one_line = |rest: &str| !rest.contains('\n');
        match (self.start, self.end) {
            (true, true) if self.rest => name.strip_prefix(text).is_some_and(one_line),
            (true, true) => name == text,
            (true, false) => name.starts_with(text),
            // Behind the last place there is least.
            (false, true) if self.rest => {
                let place = name.rfind(text);
                let rest = place.and_then(|place| name.get(place + text.len()..));
                rest.is_some_and(one_line)
            }
            (false, true) => name.ends_with(text),
            (false, false) => name.contains(text),
        }
    }
}

/// Characters that stand for themselves, up to one that does not.
fn literal(text: &str) -> Option<(Box<str>, &str)> {
    let mut read = String::new();
    let mut left = text;
    while let Some(next) = left.chars().next() {
        let taken = match next {
            '.' | '^' | '$' | '|' => break,
            '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' => return None,
            '\\' => left.chars().nth(1).filter(|next| is_escapable(*next))?,
            other => other,
        };
        read.push(taken);
        left = left.get(usize::from(next == '\\') + taken.len_utf8()..)?;
    }
    Some((read.into(), left))
}

/// What stands for itself behind a backslash.
const fn is_escapable(one: char) -> bool {
    matches!(
        one,
        '.' | '^' | '$' | '|' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '\\' | '-'
    )
}

#[cfg(test)]
mod tests {
    use fancy_regex::Regex;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_granted_most_is_plain() {
        for pattern in [
            ".*",
            "",
            "^$",
            "^orders",
            r"^amq\.gen-.*$",
            "^(a|b.*)$",
            "^(?:a|b)",
            "a|^b$",
            ".*-x$",
        ] {
            assert!(Plain::parse(pattern).is_some(), "{pattern}");
        }
        for pattern in [
            "^a+", "a.b", "[a]", "(?i)a", "a*", r"\d", r"a\", "^.*a", "a$b", "(a)",
        ] {
            assert!(Plain::parse(pattern).is_none(), "{pattern}");
        }
    }

    /// Patterns of few characters, so that many of them are plain.
    fn patterns() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            "a", "b", "ab", r"\.", r"\-", ".*", "|", "^", "$", "^(", "^(?:", ")", ")$", "\n", "é",
            ".", r"\\", "*", "(", "?",
        ]);
        prop::collection::vec(part, 0..7).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn it_matches_what_the_regular_expression_does(
            pattern in patterns(),
            names in prop::collection::vec("[ab.é\n-]{0,5}", 20),
        ) {
            if let Some(plain) = Plain::parse(&pattern) {
                let regex = Regex::new(&pattern).expect(&pattern);
                for name in names {
                    let expected = regex.is_match(&name).unwrap();
                    prop_assert_eq!(plain.matches(&name), expected, "{:?}", name);
                }
            }
        }
    }
}
