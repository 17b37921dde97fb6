//! Reading test runners: what each prints for one test, as [`Outcome`]s.

use crate::report::{Ending, Outcome};

/// Rust's own runner: `test NAME ... ok`.
pub(crate) fn libtest(text: &str) -> Vec<Outcome> {
    let tests = text
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.split_once(" ... "));
    let outcome = |(name, end): (&str, &str)| {
        let ending = match end.split_once("ignored") {
            Some(("", reason)) => Ending::Skipped(reason.trim_start_matches(", ").to_owned()),
            _ if end.starts_with("ok") => Ending::Passed,
            _ => Ending::Failed,
        };
        Outcome::new(name.trim_end_matches(" - should panic"), ending)
    };
    tests.map(outcome).collect()
}

/// pytest with `-v` and without colours: `FILE::NAME PASSED`.
pub(crate) fn pytest(text: &str) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for line in text.lines() {
        let words = [" PASSED", " FAILED", " ERROR", " SKIPPED"];
        let Some(at) = words.iter().find_map(|word| line.find(word)) else {
            continue;
        };
        let (name, end) = line.split_at(at);
        let ending = match end.split_whitespace().next() {
            Some("PASSED") => Ending::Passed,
            Some("SKIPPED") => Ending::Skipped(parenthesis(end)),
            _ => Ending::Failed,
        };
        if !name.contains(".py::") {
            continue;
        }
        // A test whose clean-up fails is reported twice; the failure counts.
        match outcomes.iter_mut().find(|outcome| outcome.name == name) {
            Some(outcome) if ending == Ending::Failed => outcome.ending = ending,
            Some(_) => {}
            None => outcomes.push(Outcome::new(name, ending)),
        }
    }
    outcomes
}

/// `go test -v`: `--- PASS: NAME (0.00s)`; subtests are part of their test.
pub(crate) fn go(text: &str) -> Vec<Outcome> {
    let ends = text
        .lines()
        .filter_map(|line| line.strip_prefix("--- ")?.split_once(": "));
    let outcome = |(end, name): (&str, &str)| {
        let ending = match end {
            "PASS" => Ending::Passed,
            "SKIP" => Ending::Skipped(String::new()),
            _ => Ending::Failed,
        };
        Outcome::new(name.split(' ').next().unwrap_or(name), ending)
    };
    ends.map(outcome).collect()
}

/// The Test Anything Protocol at top level: `ok 1 - NAME`, `not ok 2 - NAME # SKIP reason`.
pub(crate) fn tap(text: &str) -> Vec<Outcome> {
    let outcome = |line: &str| {
        let (held, rest) = match line.strip_prefix("not ok ") {
            Some(rest) => (false, rest),
            None => (true, line.strip_prefix("ok ")?),
        };
        let (_, title) = rest.split_once(" - ")?;
        let (name, directive) = match title.split_once(" # ") {
            Some((name, directive)) => (name, Some(directive)),
            None => (title, None),
        };
        let ending = match directive.and_then(|word| word.strip_prefix("SKIP")) {
            Some(reason) => Ending::Skipped(reason.trim().to_owned()),
            None if held => Ending::Passed,
            None => Ending::Failed,
        };
        Some(Outcome::new(name, ending))
    };
    text.lines().filter_map(outcome).collect()
}

/// A JUnit report: `<testcase name="NAME" classname="CLASS">`.
pub(crate) fn junit(xml: &str) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for case in xml.split("<testcase ").skip(1) {
        let (attributes, rest) = case.split_once('>').unwrap_or((case, ""));
        let body = if attributes.ends_with('/') {
            ""
        } else {
            rest.split("</testcase>").next().unwrap_or_default()
        };
        let attribute = |name: &str| {
            let value = attributes.split_once(&format!("{name}=\""))?.1;
            value.split('"').next()
        };
        let class = attributes
            .split_once(" classname=\"")
            .map(|(_, class)| class);
        let class = class
            .and_then(|class| class.split('"').next())
            .unwrap_or_default();
        let class = class.rsplit('.').next().unwrap_or_default();
        let ending = if body.contains("<failure") || body.contains("<error") {
            Ending::Failed
        } else if body.contains("<skipped") {
            Ending::Skipped(String::new())
        } else {
            Ending::Passed
        };
        let name = attribute("name").unwrap_or_default().trim_end_matches("()");
        outcomes.push(Outcome::new(format!("{class}.{name}"), ending));
    }
    outcomes
}

fn parenthesis(text: &str) -> String {
    let inside = text
        .split_once('(')
        .and_then(|(_, rest)| rest.rsplit_once(')'));
    inside.map_or_else(String::new, |(reason, _)| reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(name: &str) -> Outcome {
        Outcome::new(name, Ending::Passed)
    }

    fn failed(name: &str) -> Outcome {
        Outcome::new(name, Ending::Failed)
    }

    fn skipped(name: &str, reason: &str) -> Outcome {
        Outcome::new(name, Ending::Skipped(reason.to_owned()))
    }

    #[test]
    fn libtest_lines() {
        let text = "running 4 tests\ntest a::b ... ok\ntest c - should panic ... ok\n\
                    test d ... FAILED\ntest e ... ignored, slow\ntest result: FAILED. 2 passed\n";
        let expected = [
            passed("a::b"),
            passed("c"),
            failed("d"),
            skipped("e", "slow"),
        ];
        assert_eq!(libtest(text), expected);
    }

    #[test]
    fn pytest_lines() {
        let text = "test_a.py::test_x PASSED\ntest_a.py::test_y[a b] FAILED\n\
                    test_a.py::test_z SKIPPED (no alarm (yet))\ntest_a.py::test_x ERROR\n\
                    ERROR test_a.py::test_x - boom\n";
        let expected = [
            failed("test_a.py::test_x"),
            failed("test_a.py::test_y[a b]"),
            skipped("test_a.py::test_z", "no alarm (yet)"),
        ];
        assert_eq!(pytest(text), expected);
    }

    #[test]
    fn go_lines() {
        let text = "=== RUN TestA\n--- PASS: TestA (0.01s)\n    --- FAIL: TestB/sub (0.00s)\n\
                    --- FAIL: TestB (0.00s)\n--- SKIP: TestC (0.00s)\nPASS\n";
        assert_eq!(
            go(text),
            [passed("TestA"), failed("TestB"), skipped("TestC", "")]
        );
    }

    #[test]
    fn tap_lines() {
        let text = "TAP version 13\n# Subtest: x\nok 1 - x\n  ---\n  ...\nnot ok 2 - y - z\n\
                    ok 3 - w # SKIP no alarm\n    ok 1 - nested\n1..3\n";
        assert_eq!(
            tap(text),
            [passed("x"), failed("y - z"), skipped("w", "no alarm")]
        );
    }

    #[test]
    fn junit_cases() {
        let xml = r#"<testsuite><testcase name="a()" classname="x.Tour" time="1"/>
            <testcase name="b" classname="Tour"><failure>no</failure></testcase>
            <testcase name="c" classname="Tour">
              <skipped/></testcase></testsuite>"#;
        assert_eq!(
            junit(xml),
            [passed("Tour.a"), failed("Tour.b"), skipped("Tour.c", "")]
        );
    }
}
