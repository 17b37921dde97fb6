//! `config/leveret.toml` shows every key the configuration's source knows, and no other.

use std::collections::BTreeSet;

use syn::visit::{self, Visit};

use super::Finding;
use super::tree::{Source, Tree};

const SHOWN: &str = "config/leveret.toml";

pub(super) fn config_keys(tree: &Tree) -> Vec<Finding> {
    let sources: Vec<&Source> = tree
        .sources
        .iter()
        .filter(|source| is_config(source))
        .collect();
    let Some(text) = tree.read(SHOWN).filter(|_| !sources.is_empty()) else {
        return Vec::new();
    };
    let shown = shown_keys(&text);
    let mut findings = Vec::new();
    let mut known = BTreeSet::new();
    for source in sources {
        let mut fields = Fields::default();
        fields.visit_file(&source.syntax);
        for (name, line) in fields.found {
            if !shown.iter().any(|(key, _)| *key == name) {
                let text = format!("`{name}` is not shown in {SHOWN}");
                findings.push(Finding::new(&source.path, line, text));
            }
            known.insert(name);
        }
    }
    for (key, line) in shown.into_iter().filter(|(key, _)| !known.contains(key)) {
        let text = format!("`{key}` is not a field of the configuration");
        findings.push(Finding::new(SHOWN.as_ref(), line, text));
    }
    findings
}

fn is_config(source: &Source) -> bool {
    let within = source.path.starts_with("src/config") || source.path.ends_with("src/config.rs");
    within && source.path.starts_with("src") && !source.is_test()
}

/// Keys and section names with their lines; a key may be commented out with a single `#`.
fn shown_keys(text: &str) -> Vec<(String, usize)> {
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.strip_prefix('#').unwrap_or(line).trim();
        if let Some(section) = line.strip_prefix('[') {
            let section = section
                .trim_start_matches('[')
                .split(']')
                .next()
                .unwrap_or_default();
            keys.extend(section.split('.').map(|name| (name.to_owned(), index + 1)));
        } else if let Some((key, _)) = line.split_once(" = ")
            && key
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        {
            keys.push((key.to_owned(), index + 1));
        }
    }
    keys
}

/// The public named fields of every structure that is read from a file, outside tests.
#[derive(Default)]
struct Fields {
    found: Vec<(String, usize)>,
}

impl<'ast> Visit<'ast> for Fields {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !module.attrs.iter().any(super::tree::is_test_attribute) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        if has_word(&item.attrs, "derive", "Deserialize") {
            visit::visit_item_struct(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if let Some(name) = &field.ident
            && !matches!(field.vis, syn::Visibility::Inherited)
            && !has_word(&field.attrs, "serde", "skip")
        {
            self.found
                .push((name.to_string(), name.span().start().line));
        }
    }
}

/// Whether an attribute called `list` names `word`: `#[derive(Debug, Deserialize)]`.
pub(super) fn has_word(attributes: &[syn::Attribute], list: &str, word: &str) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(found) = &attribute.meta else {
            return false;
        };
        let words = found.tokens.to_string();
        found.path.is_ident(list) && words.split([' ', ',']).any(|found| found == word)
    })
}
