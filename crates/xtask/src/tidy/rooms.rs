//! Rooms: the modules at the top of the broker stand in an order, and use those below them only.
//!
//! A path that begins with `crate::` tells which room is used. So does a method that a room adds to
//! a type of a lower one, as many add theirs to `Broker`: whoever calls it has to stand higher.

use std::collections::HashMap;
use std::path::Path;

use syn::visit::{self, Visit};

use super::Finding;
use super::tree::{Source, Tree};
use super::words::{Uses, words_of};

const HOUSE: &str = "crates/broker/src";

/// From the bottom up.
const ROOMS: &[&str] = &[
    "context",
    "settings",
    "queue",
    "vhost",
    "peer",
    "broker",
    "access",
    "topology",
    "publish",
    "dead_letter",
    "ending",
    "channel",
    "connection",
    "admin",
    "restore",
    "clock",
];

/// What methods are called on that rooms add to: `self`, and whatever goes by these names.
const OCCUPANTS: &[&str] = &["self", "broker", "vhost", "peer", "cell", "work"];

pub(super) fn rooms(tree: &Tree) -> Vec<Finding> {
    let inside: Vec<(&Source, &str)> = tree
        .sources
        .iter()
        .filter_map(|source| Some((source, room_of(&source.path)?)))
        .collect();
    let mut findings = Vec::new();
    let mut lowest = HashMap::new();
    for (source, room) in &inside {
        let Some(floor) = floor_of(room) else {
            let text = format!("`{room}` has no place among the rooms; give it one in tidy");
            findings.push(Finding::new(&source.path, 1, text));
            continue;
        };
        for name in methods_of(source) {
            let known = lowest.entry(name).or_insert(floor);
            *known = floor.min(*known);
        }
    }
    for (source, room) in inside {
        if let Some(floor) = floor_of(room) {
            findings.extend(paths_up(source, room, floor));
            findings.extend(calls_up(source, room, floor, &lowest));
        }
    }
    findings
}

/// The room that a file belongs to: the first part of its path; none for the crate's own file.
fn room_of(path: &Path) -> Option<&str> {
    let first = path.strip_prefix(HOUSE).ok()?.components().next()?;
    let name = Path::new(first.as_os_str()).file_stem()?.to_str()?;
    (name != "lib").then_some(name)
}

fn floor_of(room: &str) -> Option<usize> {
    ROOMS.iter().position(|known| *known == room)
}

/// Paths to rooms that stand higher, or that go round by the crate's own names.
fn paths_up(source: &Source, own: &str, floor: usize) -> Vec<Finding> {
    let mut named = Vec::new();
    let words = words_of(source);
    for window in words.windows(3) {
        if let [(first, _), (colons, _), (name, line)] = window
            && first == "crate"
            && colons == "::"
        {
            named.push((name.clone(), *line));
        }
    }
    let mut uses = Uses::default();
    uses.visit_file(&source.syntax);
    for path in &uses.paths {
        if let [first, name, ..] = path.segments.as_slice()
            && first == "crate"
        {
            named.push((name.clone(), path.line));
        }
    }
    named.sort();
    named.dedup();
    named.retain(|(_, line)| !source.is_test_line(*line));
    let found = named.into_iter().filter_map(|(name, line)| {
        let text = match floor_of(&name) {
            Some(other) if other > floor => format!("`crate::{name}` is above `{own}`"),
            Some(_) => return None,
            None => format!("`crate::{name}` does not tell the room"),
        };
        Some(Finding::new(&source.path, line, text))
    });
    found.collect()
}

/// Calls of methods that only rooms above have added.
fn calls_up(
    source: &Source,
    own: &str,
    floor: usize,
    lowest: &HashMap<String, usize>,
) -> Vec<Finding> {
    let mut calls = Calls::default();
    calls.visit_file(&source.syntax);
    let found = calls.found.into_iter().filter_map(|(name, line)| {
        let other = *lowest.get(&name)?;
        let above = other > floor && !source.is_test_line(line);
        let text = || format!("`{name}` comes from `{}`, above `{own}`", ROOMS[other]);
        above.then(|| Finding::new(&source.path, line, text()))
    });
    found.collect()
}

/// Names of the methods in a file, those of traits left out.
fn methods_of(source: &Source) -> Vec<String> {
    let mut methods = Methods::default();
    methods.visit_file(&source.syntax);
    methods.found
}

#[derive(Default)]
struct Methods {
    found: Vec<String>,
}

impl<'ast> Visit<'ast> for Methods {
    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if item.trait_.is_none() {
            for part in &item.items {
                if let syn::ImplItem::Fn(method) = part {
                    self.found.push(method.sig.ident.to_string());
                }
            }
        }
    }
}

#[derive(Default)]
struct Calls {
    found: Vec<(String, usize)>,
}

impl<'ast> Visit<'ast> for Calls {
    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if occupant(&call.receiver).is_some_and(|name| OCCUPANTS.contains(&name.as_str())) {
            let line = call.method.span().start().line;
            self.found.push((call.method.to_string(), line));
        }
        visit::visit_expr_method_call(self, call);
    }
}

/// The last name of `a`, `a.b` or `a.b.c`.
fn occupant(receiver: &syn::Expr) -> Option<String> {
    match receiver {
        syn::Expr::Path(path) => Some(path.path.segments.last()?.ident.to_string()),
        syn::Expr::Field(field) => match &field.member {
            syn::Member::Named(name) => Some(name.to_string()),
            syn::Member::Unnamed(_) => None,
        },
        _ => None,
    }
}
