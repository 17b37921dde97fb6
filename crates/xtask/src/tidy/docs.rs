//! Comments on items: they say more than the item's name does.

use syn::visit::{self, Visit};

use super::Finding;
use super::keys::has_word;
use super::tree::{Source, Tree};

/// Words that add nothing to a name.
const FILLERS: &[&str] = &["a", "an", "the", "its", "it", "of", "this", "that", "all"];

pub(super) fn says_something(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        let mut items = Items::default();
        items.visit_file(&source.syntax);
        findings.extend(items.empty.into_iter().map(|empty| empty.finding(source)));
    }
    findings
}

/// A comment that repeats a name.
struct Empty {
    name: String,
    line: usize,
}

impl Empty {
    fn finding(self, source: &Source) -> Finding {
        let text = format!("the comment only repeats the name `{}`", self.name);
        Finding::new(&source.path, self.line, text)
    }
}

#[derive(Default)]
struct Items {
    empty: Vec<Empty>,
}

impl Items {
    fn note(&mut self, attributes: &[syn::Attribute], name: &syn::Ident) {
        let comment: Vec<String> = attributes.iter().filter_map(comment).collect();
        let name_text = name.to_string();
        if repeats(&comment.join(" "), &name_text) {
            let line = name.span().start().line;
            self.empty.push(Empty {
                name: name_text,
                line,
            });
        }
    }
}

/// Whether the comments in it are what `--help` shows.
fn is_help(attributes: &[syn::Attribute]) -> bool {
    let kinds = ["Parser", "Subcommand", "Args", "ValueEnum"];
    kinds
        .iter()
        .any(|kind| has_word(attributes, "derive", kind))
}

/// The text of `/// …`.
fn comment(attribute: &syn::Attribute) -> Option<String> {
    let syn::Meta::NameValue(pair) = &attribute.meta else {
        return None;
    };
    let syn::Expr::Lit(literal) = &pair.value else {
        return None;
    };
    match &literal.lit {
        syn::Lit::Str(text) if pair.path.is_ident("doc") => Some(text.value()),
        _ => None,
    }
}

/// Whether a comment has no word that is not in the name. What stands in backticks is a term of
/// somebody else's, and says so.
fn repeats(comment: &str, name: &str) -> bool {
    let named = words(name);
    let said = words(comment);
    !comment.contains('`') && !said.is_empty() && said.iter().all(|word| named.contains(word))
}

/// Words in small letters and without a plural's `s`; those of a name begin with capitals or behind
/// underscores.
fn words(text: &str) -> Vec<String> {
    let mut apart = String::new();
    let mut inside = false;
    for letter in text.chars() {
        if letter.is_uppercase() && inside {
            apart.push(' ');
        }
        inside = letter.is_lowercase() || letter.is_numeric();
        apart.extend(letter.to_lowercase());
    }
    let words = apart.split(|letter: char| !letter.is_alphanumeric());
    words
        .filter(|word| !word.is_empty() && !FILLERS.contains(word))
        .map(|word| word.trim_end_matches('s').to_owned())
        .collect()
}

impl<'ast> Visit<'ast> for Items {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        match item {
            syn::Item::Enum(item) if is_help(&item.attrs) => return,
            syn::Item::Struct(item) if is_help(&item.attrs) => return,
            syn::Item::Const(item) => self.note(&item.attrs, &item.ident),
            syn::Item::Enum(item) => self.note(&item.attrs, &item.ident),
            syn::Item::Fn(item) => self.note(&item.attrs, &item.sig.ident),
            syn::Item::Static(item) => self.note(&item.attrs, &item.ident),
            syn::Item::Struct(item) => self.note(&item.attrs, &item.ident),
            syn::Item::Trait(item) => self.note(&item.attrs, &item.ident),
            syn::Item::Type(item) => self.note(&item.attrs, &item.ident),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.note(&item.attrs, &item.ident);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note(&item.attrs, &item.sig.ident);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.note(&item.attrs, &item.sig.ident);
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if let Some(name) = &field.ident {
            self.note(&field.attrs, name);
        }
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.note(&variant.attrs, &variant.ident);
        visit::visit_variant(self, variant);
    }
}
