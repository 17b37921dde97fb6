//! Documentation tests, which cost a run of rustdoc for each library: only where there are any.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::project::Project;
use crate::report::{Ending, Outcome, Suite};
use crate::{outcomes, shell};

/// What a fenced block may say that it is; everything else may be Rust.
const NOT_RUST: [&str; 6] = ["console", "json", "sh", "text", "toml", "xml"];

/// Runs all of them.
///
/// # Errors
/// The sources cannot be read, or cargo cannot be run.
pub(crate) fn suite(project: &Project) -> Result<Suite> {
    let start = Instant::now();
    if !any_below(&project.root.join("src"))? && !any_below(&project.root.join("crates"))? {
        return Ok(Suite::skipped("doc tests", "no source has any"));
    }
    let arguments = ["test", "--doc", "--workspace", "--locked", "--no-fail-fast"];
    let output = shell::capture(shell::cargo(&project.root, &arguments))?;
    let mut outcomes = outcomes::libtest(&output.text);
    let ending = if output.success {
        Ending::Passed
    } else {
        Ending::Failed
    };
    outcomes.push(Outcome::new("cargo test --doc", ending));
    Ok(Suite::new("doc tests", outcomes, output.text, start))
}

/// Whether a source in a folder, or in one in it, may have documentation tests.
fn any_below(folder: &Path) -> Result<bool> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let found = if path.is_dir() {
            any_below(&path)?
        } else {
            let is_source = path.extension().is_some_and(|ending| ending == "rs");
            is_source && may_have_any(&fs::read_to_string(&path)?)
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether rustdoc may find a test in a source: a fenced block that does not say that it is
/// something else, an indented one, or text from elsewhere.
fn may_have_any(source: &str) -> bool {
    let (mut fenced, mut after_blank) = (false, true);
    for line in source.lines().map(str::trim_start) {
        let text = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"));
        let Some(text) = text else {
            (fenced, after_blank) = (false, true);
            if is_other_documentation(line) {
                return true;
            }
            continue;
        };
        let fence = text.trim_start().strip_prefix("```");
        match fence {
            Some(_) if fenced => fenced = false,
            Some(language) if NOT_RUST.contains(&language.trim()) => fenced = true,
            Some(_) => return true,
            None if !fenced && after_blank && text.starts_with("     ") => return true,
            None => {}
        }
        after_blank = text.trim().is_empty();
    }
    false
}

/// Whether a line has documentation in another form that may hold a block.
fn is_other_documentation(line: &str) -> bool {
    let block = ["/**", "/*!"].iter().any(|start| line.starts_with(start));
    let attribute = ["#[doc =", "#![doc ="]
        .iter()
        .any(|start| line.starts_with(start));
    let text = ["include_str!", "```", "\\n"];
    block || attribute && text.iter().any(|part| line.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_that_it_is_something_else_is_no_test() {
        for none in [
            "/// Words.\n/// ```text\n/// a\n/// ```\n/// More.\nfn f() {}\n",
            "//! Words\n//!   that go on.\n",
            "// ```\n// no documentation\n// ```\n",
            "#[doc = concat!(\"`\", $name, \"`\")]",
        ] {
            assert!(!may_have_any(none), "{none}");
        }
        for some in [
            "/// ```\n/// f();\n/// ```\n",
            "    //! ```rust,no_run\n",
            "/// ```text\n/// a\n/// ```\n/// ```should_panic\n",
            "/// Words.\n///\n///     f();\n",
            "#![doc = include_str!(\"README.md\")]\n",
            "/** ``` */",
        ] {
            assert!(may_have_any(some), "{some}");
        }
    }
}
