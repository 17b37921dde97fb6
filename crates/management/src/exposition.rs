//! Prometheus' text format: heads of metrics, and labels.

use std::fmt::Write as _;

/// Writes a metric's type and help.
pub(crate) fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# TYPE {name} {kind}\n# HELP {name} {help}");
}

/// Writes labels behind what is in a text already.
pub(crate) struct Labels<'a> {
    text: &'a mut String,
    is_first: bool,
}

impl<'a> Labels<'a> {
    pub(crate) const fn new(text: &'a mut String) -> Self {
        Self {
            text,
            is_first: true,
        }
    }

    pub(crate) fn add(&mut self, name: &str, value: &str) -> &mut Self {
        if !std::mem::take(&mut self.is_first) {
            self.text.push(',');
        }
        self.text.push_str(name);
        self.text.push_str("=\"");
        escape(self.text, value);
        self.text.push('"');
        self
    }
}

/// Labels with their values.
pub(crate) fn labels(labels: &[(&str, &str)]) -> String {
    let mut text = String::new();
    let mut written = Labels::new(&mut text);
    for (name, value) in labels {
        written.add(name, value);
    }
    text
}

fn escape(text: &mut String, value: &str) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        let (plain, special) = rest.split_at(at);
        text.push_str(plain);
        let mut characters = special.chars();
        match characters.next() {
            Some('\n') => text.push_str("\\n"),
            Some(special) => text.extend(['\\', special]),
            None => {}
        }
        rest = characters.as_str();
    }
    text.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let text = labels(&[("a", "x\"y\\z"), ("b", "1\n2"), ("c", "ü\\"), ("d", "")]);
        let expected = "a=\"x\\\"y\\\\z\",b=\"1\\n2\",c=\"ü\\\\\",d=\"\"";
        assert_eq!(text, expected);
    }
}
