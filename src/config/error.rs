//! What is wrong with a configuration, and where. Messages never hold a secret's value.

use std::fmt;
use std::path::PathBuf;

/// Everything that is wrong with a configuration; at least one problem.
#[derive(Debug)]
pub struct ConfigError {
    /// The problems: the file's by line, then the environment's, then the command line's.
    pub problems: Vec<ConfigProblem>,
}

/// One thing that is wrong, and where it was said.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Where it was said.
    pub origin: SettingOrigin,
    /// What is wrong, for a person.
    pub message: String,
}

/// The place a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingOrigin {
    /// A line of a file, counted from 1.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line, counted from 1; 0 means the file as a whole.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// The variable's name.
        name: String,
    },
    /// An option of the command line.
    CommandLine {
        /// The option without its value.
        option: String,
    },
    /// No single place: two settings contradict each other.
    Together,
}

impl SettingOrigin {
    /// Returns the line of a file, or a number above all lines elsewhere.
    pub(super) const fn line(&self) -> usize {
        match self {
            Self::File { line, .. } => *line,
            _ => usize::MAX,
        }
    }
}

impl From<ConfigProblem> for ConfigError {
    fn from(problem: ConfigProblem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}: {}", problem.origin, problem.message)?;
        }
        Ok(())
    }
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { name } => write!(f, "environment variable {name}"),
            Self::CommandLine { option } => f.write_str(option),
            Self::Together => f.write_str("configuration"),
        }
    }
}

impl std::error::Error for ConfigError {}
