//! The project's files as the rules see them: Rust and manifests parsed, the rest as text.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// Folders that hold no hand-written source.
const SKIPPED_FOLDERS: &[&str] = &[
    "target",
    "node_modules",
    "corpus",
    "artifacts",
    "__pycache__",
];

/// Languages whose files the line rules read.
const CODE_ENDINGS: &[&str] = &["rs", "py", "js", "mjs", "go", "java"];

/// The whole project, loaded once.
pub(super) struct Tree {
    /// Absolute path of the project.
    pub(super) root: PathBuf,
    /// Every Rust file.
    pub(super) sources: Vec<Source>,
    /// Every file of code in any language, Rust included.
    pub(super) code: Vec<Text>,
    /// Every Cargo.toml that describes a package.
    pub(super) packages: Vec<Package>,
}

/// A file as text.
pub(super) struct Text {
    /// Relative to the root.
    pub(super) path: PathBuf,
    /// Its content.
    pub(super) text: String,
}

/// A parsed Rust file.
pub(super) struct Source {
    /// Relative to the root.
    pub(super) path: PathBuf,
    /// Its content.
    pub(super) text: String,
    /// The same, parsed.
    pub(super) syntax: syn::File,
    /// Lines of items compiled only for tests.
    test_lines: Vec<RangeInclusive<usize>>,
}

/// One package of the project.
pub(super) struct Package {
    /// Its folder relative to the root; empty for the root package.
    pub(super) folder: PathBuf,
    /// `package.name`.
    pub(super) name: String,
    /// The whole manifest.
    pub(super) manifest: toml::Table,
}

impl Tree {
    pub(super) fn load(root: &Path) -> Result<Self> {
        let mut paths = Vec::new();
        collect(root, &mut paths)?;
        paths.sort();
        let mut tree = Self {
            root: root.to_path_buf(),
            sources: vec![],
            code: vec![],
            packages: vec![],
        };
        for path in paths {
            tree.add(&path)
                .with_context(|| format!("reading {}", path.display()))?;
        }
        Ok(tree)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let relative = path.strip_prefix(&self.root)?.to_path_buf();
        let ending = path
            .extension()
            .and_then(|ending| ending.to_str())
            .unwrap_or_default();
        if CODE_ENDINGS.contains(&ending) {
            let text = fs::read_to_string(path)?;
            if ending == "rs" {
                self.sources
                    .push(Source::parse(relative.clone(), text.clone())?);
            }
            self.code.push(Text {
                path: relative,
                text,
            });
        } else if path.ends_with("Cargo.toml") {
            let manifest: toml::Table = fs::read_to_string(path)?.parse()?;
            let name = manifest
                .get("package")
                .and_then(|package| package.get("name"));
            if let Some(name) = name.and_then(toml::Value::as_str) {
                let folder = parent(&relative);
                self.packages.push(Package {
                    folder,
                    name: name.to_owned(),
                    manifest,
                });
            }
        }
        Ok(())
    }

    /// The text of a file of the project, if it is there.
    pub(super) fn read(&self, relative: &str) -> Option<String> {
        fs::read_to_string(self.root.join(relative)).ok()
    }

    /// The innermost package that holds `path`.
    pub(super) fn package_of(&self, path: &Path) -> Option<&Package> {
        let holders = self
            .packages
            .iter()
            .filter(|package| path.starts_with(&package.folder));
        holders.max_by_key(|package| package.folder.components().count())
    }
}

impl Source {
    fn parse(path: PathBuf, text: String) -> Result<Self> {
        let syntax = syn::parse_file(&text)?;
        let mut finder = TestItems::default();
        finder.visit_file(&syntax);
        Ok(Self {
            path,
            text,
            syntax,
            test_lines: finder.lines,
        })
    }

    /// Whether the whole file is compiled only for tests.
    pub(super) fn is_test(&self) -> bool {
        let mut folders = self.path.components();
        self.path.ends_with("tests.rs") || folders.any(|folder| folder.as_os_str() == "tests")
    }

    /// Whether `line` (from 1) belongs to an item compiled only for tests.
    pub(super) fn is_test_line(&self, line: usize) -> bool {
        self.is_test() || self.test_lines.iter().any(|range| range.contains(&line))
    }
}

/// The folder that holds `path`; empty for the root.
pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        if !entry.file_type()?.is_dir() {
            paths.push(entry.path());
        } else if !SKIPPED_FOLDERS.contains(&name.as_ref()) {
            collect(&entry.path(), paths)?;
        }
    }
    Ok(())
}

/// Finds the lines of items behind `#[cfg(test)]` or `#[test]`.
#[derive(Default)]
struct TestItems {
    lines: Vec<RangeInclusive<usize>>,
}

impl TestItems {
    fn note(&mut self, attributes: &[syn::Attribute], span: proc_macro2::Span) {
        if attributes.iter().any(is_test_attribute) {
            self.lines.push(span.start().line..=span.end().line);
        }
    }
}

impl<'ast> Visit<'ast> for TestItems {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.note(&item.attrs, item.span());
        visit::visit_item_mod(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note(&item.attrs, item.span());
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.note(&item.attrs, item.span());
        visit::visit_item_impl(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note(&item.attrs, item.span());
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note(&item.attrs, item.span());
    }
}

/// `#[test]`, or a `#[cfg(…)]` that can hold only in a test build.
pub(super) fn is_test_attribute(attribute: &syn::Attribute) -> bool {
    if attribute.path().is_ident("test") {
        return true;
    }
    let syn::Meta::List(list) = &attribute.meta else {
        return false;
    };
    let condition = list.tokens.to_string();
    list.path.is_ident("cfg") && (condition == "test" || condition.starts_with("all (test"))
}
