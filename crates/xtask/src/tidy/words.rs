//! Words that may not be written: unfinished work anywhere, the outside world in pure crates.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::Finding;
use super::manifests;
use super::tree::{Source, Tree};

/// Marks of unfinished work, looked for in comments and strings as well. Split so that this file
/// does not hold them.
const MARKS: &[&str] = &[concat!("FIX", "ME"), concat!("TO", "DO")];

/// Calls that no file may make.
const BANNED_CALLS: &[(&str, &str)] = &[
    ("todo !", "unfinished work"),
    ("unimplemented !", "unfinished work"),
    ("dbg !", "left over from debugging"),
    ("unbounded_channel", "every buffer has a limit"),
];

/// What pure crates (levels 0 to 2) do not know.
const BANNED_IN_PURE: &[(&str, &str)] = &[
    ("tokio", "pure crates know no runtime"),
    ("std :: net", "pure crates know no sockets"),
    ("std :: fs", "the disk is a trait"),
    ("Instant :: now", "time is an argument"),
    ("SystemTime :: now", "time is an argument"),
    ("thread :: sleep", "pure crates do not wait"),
    ("rand", "randomness is a seeded generator given at start"),
    ("println !", "pure crates do not print"),
    ("print !", "pure crates do not print"),
    ("eprintln !", "pure crates do not print"),
    ("eprint !", "pure crates do not print"),
];

pub(super) fn banned_everywhere(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.code {
        for (index, line) in file.text.lines().enumerate() {
            let mark = MARKS.iter().find(|mark| has_word(line, mark));
            let text = mark.map(|mark| format!("`{mark}`: finish it or file an issue"));
            findings.extend(text.map(|text| Finding::new(&file.path, index + 1, text)));
        }
    }
    for source in &tree.sources {
        findings.extend(banned_calls(source, BANNED_CALLS));
    }
    findings
}

pub(super) fn banned_in_pure_crates(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        let package = tree
            .package_of(&source.path)
            .filter(|package| manifests::is_pure(package));
        let Some(package) = package else { continue };
        if source.path.starts_with(package.folder.join("src")) {
            let outside_tests = |finding: &Finding| !source.is_test_line(finding.line);
            findings.extend(
                banned_calls(source, BANNED_IN_PURE)
                    .into_iter()
                    .filter(outside_tests),
            );
        }
    }
    findings
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|part| part == word)
}

/// Every place where `source` writes one of `banned`, as written or through a `use` tree.
fn banned_calls(source: &Source, banned: &[(&str, &str)]) -> Vec<Finding> {
    let words = words_of(source);
    let mut uses = Uses::default();
    uses.visit_file(&source.syntax);
    let mut findings = Vec::new();
    for &(call, reason) in banned {
        let pattern: Vec<&str> = call.split_whitespace().collect();
        let mut report = |line| {
            let text = format!("`{}`: {reason}", pattern.concat());
            findings.push(Finding::new(&source.path, line, text));
        };
        for window in words.windows(pattern.len()) {
            if window
                .iter()
                .map(|(word, _)| word.as_str())
                .eq(pattern.iter().copied())
            {
                report(window[0].1);
            }
        }
        let braced = uses
            .paths
            .iter()
            .filter(|path| path.grouped && path.has(&pattern));
        braced.for_each(|path| report(path.line));
    }
    findings.sort();
    findings.dedup();
    findings
}

/// The file's identifiers and punctuation with their lines; `::` is one word. Comments are not
/// tokens, and literals (strings, doc comments) are left out.
pub(super) fn words_of(source: &Source) -> Vec<(String, usize)> {
    let mut words = Vec::new();
    if let Ok(tokens) = source.text.parse() {
        flatten(tokens, &mut words);
    }
    words
}

fn flatten(tokens: TokenStream, words: &mut Vec<(String, usize)>) {
    for token in tokens {
        let line = token.span().start().line;
        match token {
            TokenTree::Group(group) => flatten(group.stream(), words),
            TokenTree::Ident(ident) => words.push((ident.to_string(), line)),
            TokenTree::Punct(punct) if punct.as_char() == ':' => match words.last_mut() {
                Some((last, _)) if last == ":" => "::".clone_into(last),
                _ => words.push((":".to_owned(), line)),
            },
            TokenTree::Punct(punct) => words.push((punct.to_string(), line)),
            TokenTree::Literal(_) => words.push((String::new(), line)),
        }
    }
}

/// Every path that the file's `use` items name, written out.
#[derive(Default)]
pub(super) struct Uses {
    pub(super) paths: Vec<UsedPath>,
    prefix: Vec<String>,
    groups: usize,
}

pub(super) struct UsedPath {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    grouped: bool,
}

impl UsedPath {
    fn has(&self, pattern: &[&str]) -> bool {
        let names: Vec<&str> = pattern
            .iter()
            .copied()
            .filter(|&word| word != "::")
            .collect();
        self.segments
            .windows(names.len())
            .any(|window| window == names.as_slice())
    }
}

impl Uses {
    fn end(&mut self, name: &syn::Ident) {
        let mut segments = self.prefix.clone();
        segments.push(name.to_string());
        let line = name.span().start().line;
        self.paths.push(UsedPath {
            segments,
            line,
            grouped: self.groups > 0,
        });
    }
}

impl<'ast> Visit<'ast> for Uses {
    fn visit_use_path(&mut self, path: &'ast syn::UsePath) {
        self.prefix.push(path.ident.to_string());
        visit::visit_use_path(self, path);
        self.prefix.pop();
    }

    fn visit_use_group(&mut self, group: &'ast syn::UseGroup) {
        self.groups += 1;
        visit::visit_use_group(self, group);
        self.groups -= 1;
    }

    fn visit_use_name(&mut self, name: &'ast syn::UseName) {
        self.end(&name.ident);
    }

    fn visit_use_rename(&mut self, rename: &'ast syn::UseRename) {
        self.end(&rename.ident);
    }
}
