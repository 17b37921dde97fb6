//! Names of types: one noun, one name.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use syn::visit::{self, Visit};

use super::Finding;
use super::manifests;
use super::tree::{Source, Tree};

/// Packages of the broker above the pure levels. What only drives the broker or tests it has names
/// of its own: nobody reads both as one.
const EDGE: &[&str] = &["", "crates/management"];

/// No two types of the broker share a name, be they private: a reader who meets both takes one for
/// the other.
pub(super) fn one_noun_one_name(tree: &Tree) -> Vec<Finding> {
    let mut first: BTreeMap<String, (&Path, usize)> = BTreeMap::new();
    let mut findings = Vec::new();
    for source in tree.sources.iter().filter(|source| is_broker(tree, source)) {
        let mut types = Types::default();
        types.visit_file(&source.syntax);
        let of_broker = |(_, line): &(String, usize)| !source.is_test_line(*line);
        for (name, line) in types.declared.into_iter().filter(of_broker) {
            match first.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert((&source.path, line));
                }
                Entry::Occupied(entry) => {
                    let ((path, other), name) = (entry.get(), entry.key());
                    let text = format!("`{name}` is also a type at {}:{other}", path.display());
                    findings.push(Finding::new(&source.path, line, text));
                }
            }
        }
    }
    findings
}

/// Whether a file belongs to what runs as the broker.
fn is_broker(tree: &Tree, source: &Source) -> bool {
    tree.package_of(&source.path).is_some_and(|package| {
        let is_edge = EDGE
            .iter()
            .any(|folder| package.folder == Path::new(folder));
        (is_edge || manifests::is_pure(package))
            && source.path.starts_with(package.folder.join("src"))
    })
}

/// Every type that is declared, with its line.
#[derive(Default)]
struct Types {
    declared: Vec<(String, usize)>,
}

impl<'ast> Visit<'ast> for Types {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let name = match item {
            syn::Item::Enum(item) => Some(&item.ident),
            syn::Item::Struct(item) => Some(&item.ident),
            syn::Item::Trait(item) => Some(&item.ident),
            syn::Item::Type(item) => Some(&item.ident),
            syn::Item::Union(item) => Some(&item.ident),
            _ => None,
        };
        let declared = name.map(|name| (name.to_string(), name.span().start().line));
        self.declared.extend(declared);
        visit::visit_item(self, item);
    }
}
