//! The house rules as a check: sizes, levels, rooms, names, banned words, empty comments, dead
//! files, manifests, config keys.
//!
//! Every rule reads one loaded [`Tree`] and returns its findings; none of them changes a file.

mod docs;
mod keys;
mod manifests;
mod names;
mod reach;
mod rooms;
mod sizes;
mod tree;
mod ways;
mod words;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use tree::Tree;
pub(crate) use ways::Way;

/// One breach of a house rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Path relative to the project's root.
    pub(crate) path: PathBuf,
    /// Line in that file, from 1.
    pub(crate) line: usize,
    /// What is wrong, in one sentence.
    pub(crate) text: String,
}

impl Finding {
    fn new(path: &Path, line: usize, text: impl Into<String>) -> Self {
        Self {
            path: path.to_path_buf(),
            line,
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.path.display(), self.line, self.text)
    }
}

/// What one rule found.
pub(crate) struct Verdict {
    /// The rule's name.
    pub(crate) rule: &'static str,
    /// Its findings; empty when the rule holds.
    pub(crate) findings: Vec<Finding>,
}

type Check = fn(&Tree) -> Vec<Finding>;

const RULES: &[(&str, Check)] = &[
    ("head comment", sizes::head_comment),
    ("file length", sizes::file_length),
    ("function length", sizes::function_length),
    ("parameters", sizes::parameters),
    ("tuples", sizes::tuples),
    ("line length", sizes::line_length),
    ("architecture page", sizes::architecture_page),
    ("empty comments", docs::says_something),
    ("names", names::one_noun_one_name),
    ("banned words", words::banned_everywhere),
    ("pure crates", words::banned_in_pure_crates),
    ("module names", reach::module_names),
    ("dead files", reach::dead_files),
    ("levels", manifests::levels),
    ("rooms", rooms::rooms),
    ("ways", ways::ways),
    ("dependencies", manifests::dependencies),
    ("reasons", manifests::reasons),
    ("config keys", keys::config_keys),
];

/// Checks the project at `root` against every rule.
///
/// # Errors
/// A file cannot be read, or a Rust file or manifest cannot be parsed.
pub(crate) fn check(root: &Path) -> Result<Vec<Verdict>> {
    let tree = Tree::load(root)?;
    let verdict = |&(rule, check): &(&'static str, Check)| {
        let mut findings = check(&tree);
        findings.sort();
        Verdict { rule, findings }
    };
    Ok(RULES.iter().map(verdict).collect())
}

/// The ways that a page walks through the project at `root`.
///
/// # Errors
/// A file cannot be read or parsed, or the code is not as the page says.
pub(crate) fn ways(root: &Path, page: &Path) -> Result<Vec<Way>> {
    let text = std::fs::read_to_string(page)?;
    let (ways, findings) = ways::walk(&Tree::load(root)?, &text, page);
    match findings.first() {
        None => Ok(ways),
        Some(finding) => bail!("{finding}"),
    }
}
