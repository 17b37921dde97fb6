//! What is told of an import: however large and wrong a file is, that has a bound.

use serde_json::{Map, Value};

use crate::problem::Problem;

/// A text is cut after so many bytes: names and values in a file may be long.
const TEXT_BYTES_MAX: usize = 1_000;

/// Everything that is wrong with a file, in its order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems {
    told: Vec<String>,
    more: usize,
}

impl Problems {
    /// So many are told; of more than that only the number.
    const TOLD_MAX: usize = 100;

    /// Adds one, as one line; what is told already is not told again.
    pub(super) fn add(&mut self, problem: String) {
        let problem = cut(in_one_line(problem));
        if self.told.contains(&problem) {
            return;
        }
        if self.told.len() < Self::TOLD_MAX {
            self.told.push(problem);
        } else {
            self.more += 1;
        }
    }

    /// Whatever is wrong with a file is a wrong request.
    pub(super) fn none(mut self) -> Result<(), Problem> {
        if self.told.is_empty() {
            return Ok(());
        }
        if self.more > 0 {
            self.told.push(format!("and {} more", self.more));
        }
        Err(Problem::bad(self.told.join("\n")))
    }
}

/// The first things of a kind, and how many more there are.
#[derive(Debug)]
pub(super) struct Listed<T> {
    pub(super) rows: Vec<T>,
    bytes: usize,
    pub(super) more: usize,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            bytes: 0,
            more: 0,
        }
    }
}

impl<T> Listed<T> {
    /// So many are listed,
    const ROWS_MAX: usize = 1_000;
    /// of so many bytes together.
    const BYTES_MAX: usize = 4 << 20;

    /// How many there are, listed or not.
    pub(super) fn count(&self) -> usize {
        self.rows.len() + self.more
    }

    fn add_sized(&mut self, row: T, bytes: usize) {
        if self.rows.len() < Self::ROWS_MAX && self.bytes + bytes <= Self::BYTES_MAX {
            self.bytes += bytes;
            self.rows.push(row);
        } else {
            self.more += 1;
        }
    }
}

impl Listed<String> {
    pub(super) fn add(&mut self, text: String) {
        self.add_sized(cut(text), TEXT_BYTES_MAX);
    }
}

impl Listed<Value> {
    pub(super) fn add(&mut self, row: Map<String, Value>) {
        let row = Value::Object(row);
        let bytes = row.to_string().len();
        self.add_sized(row, bytes);
    }
}

/// RabbitMQ's texts of policies and parameters have several.
fn in_one_line(text: String) -> String {
    if !text.contains('\n') {
        return text;
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(": ")
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let ends = (0..=TEXT_BYTES_MAX).rev();
        let end = ends.into_iter().find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or_default());
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_told_once_cut_and_not_without_bound() {
        let mut problems = Problems::default();
        problems.add("ä".repeat(1 << 20));
        problems.add("policies[0]: Validation failed\n\nx is wrong\n".to_owned());
        for number in 0..1_000 {
            problems.add(format!("users[{number}]"));
            problems.add("users[0]".to_owned());
        }
        let reason = problems.none().unwrap_err().reason();
        let lines: Vec<_> = reason.lines().collect();
        assert_eq!(lines.len(), 101);
        assert_eq!(lines[0], format!("{}…", "ä".repeat(500)));
        assert_eq!(lines[1], "policies[0]: Validation failed: x is wrong");
        assert_eq!((lines[2], lines[100]), ("users[0]", "and 902 more"));
        assert!(Problems::default().none().is_ok());
    }

    #[test]
    fn no_list_is_longer_than_its_bound() {
        let mut texts = Listed::<String>::default();
        for _ in 0..1_003 {
            texts.add("x".repeat(2_000));
        }
        assert_eq!((texts.rows.len(), texts.more), (1_000, 3));
        let mut rows = Listed::<Value>::default();
        for _ in 0..5 {
            let keys = "x".repeat(1 << 20);
            rows.add(Map::from_iter([("keys".to_owned(), keys.into())]));
        }
        assert_eq!((rows.rows.len(), rows.count()), (3, 5));
    }
}
