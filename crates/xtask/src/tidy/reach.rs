//! Modules: their names, and whether every file is part of some target.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::Finding;
use super::tree::{Package, Source, Tree, parent};

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "types", "manager",
];

pub(super) fn module_names(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        let stem = source
            .path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy();
        let folder = source
            .path
            .parent()
            .and_then(Path::file_name)
            .unwrap_or_default();
        let name = if stem == "mod" {
            folder.to_string_lossy()
        } else {
            stem
        };
        if EMPTY_NAMES.contains(&name.as_ref()) {
            findings.push(Finding::new(&source.path, 1, empty_name(&name)));
        }
        for item in inline_modules(&source.syntax.items) {
            let name = item.ident.to_string();
            if EMPTY_NAMES.contains(&name.as_str()) {
                let line = item.ident.span().start().line;
                findings.push(Finding::new(&source.path, line, empty_name(&name)));
            }
        }
    }
    findings
}

pub(super) fn dead_files(tree: &Tree) -> Vec<Finding> {
    let mut live = HashSet::new();
    for package in &tree.packages {
        for root in target_roots(tree, package) {
            let children = parent(&root);
            follow(tree, &root, &children, &mut live);
        }
    }
    let dead = tree
        .sources
        .iter()
        .filter(|source| !live.contains(&source.path));
    dead.map(|source| Finding::new(&source.path, 1, "no target reaches this file"))
        .collect()
}

fn empty_name(name: &str) -> String {
    format!("`{name}` does not say what the module holds")
}

fn inline_modules(items: &[syn::Item]) -> Vec<&syn::ItemMod> {
    let mut found = Vec::new();
    for item in items {
        if let syn::Item::Mod(module) = item
            && let Some((_, inner)) = &module.content
        {
            found.push(module);
            found.extend(inline_modules(inner));
        }
    }
    found
}

/// The files at which a target of `package` begins: those Cargo finds by itself, and those that
/// the manifest names.
fn target_roots(tree: &Tree, package: &Package) -> Vec<PathBuf> {
    let mut roots = Vec::new();
    for source in &tree.sources {
        let owner = tree.package_of(&source.path).map(|owner| &owner.folder);
        let inside = source.path.strip_prefix(&package.folder);
        if owner == Some(&package.folder)
            && let Ok(inside) = inside
            && is_conventional_root(inside)
        {
            roots.push(source.path.clone());
        }
    }
    for kind in ["bin", "test", "example", "bench"] {
        let targets = package.manifest.get(kind).and_then(toml::Value::as_array);
        for target in targets.into_iter().flatten() {
            let path = target.get("path").and_then(toml::Value::as_str);
            roots.extend(path.map(|path| package.folder.join(path)));
        }
    }
    roots
}

fn is_conventional_root(inside: &Path) -> bool {
    let parts: Vec<_> = inside.iter().map(|part| part.to_string_lossy()).collect();
    match parts
        .iter()
        .map(AsRef::as_ref)
        .collect::<Vec<&str>>()
        .as_slice()
    {
        ["build.rs"] | ["src", "lib.rs" | "main.rs"] => true,
        ["src", "bin", _] | ["src", "bin", _, "main.rs"] => true,
        ["tests" | "examples" | "benches", _] => true,
        ["tests" | "examples" | "benches", _, "main.rs"] => true,
        _ => false,
    }
}

/// Marks `path` and every file that its `mod` items reach. `children` is the folder in which
/// the file's modules lie.
fn follow(tree: &Tree, path: &Path, children: &Path, live: &mut HashSet<PathBuf>) {
    let Some(source) = tree.sources.iter().find(|source| source.path == path) else {
        return;
    };
    if live.insert(path.to_path_buf()) {
        follow_items(tree, source, &source.syntax.items, children, live);
    }
}

fn follow_items(
    tree: &Tree,
    source: &Source,
    items: &[syn::Item],
    children: &Path,
    live: &mut HashSet<PathBuf>,
) {
    for item in items {
        let syn::Item::Mod(module) = item else {
            continue;
        };
        let name = module.ident.to_string();
        if let Some((_, inner)) = &module.content {
            follow_items(tree, source, inner, &children.join(name), live);
        } else if let Some(path) = path_attribute(module) {
            let folder = parent(&source.path);
            let file = folder.join(path);
            let children = parent(&file);
            follow(tree, &file, &children, live);
        } else {
            let folder = children.join(&name);
            follow(tree, &children.join(format!("{name}.rs")), &folder, live);
            follow(tree, &folder.join("mod.rs"), &folder, live);
        }
    }
}

/// The value of `#[path = "…"]`.
fn path_attribute(module: &syn::ItemMod) -> Option<String> {
    module.attrs.iter().find_map(|attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else {
            return None;
        };
        let syn::Expr::Lit(literal) = &pair.value else {
            return None;
        };
        let syn::Lit::Str(path) = &literal.lit else {
            return None;
        };
        pair.path.is_ident("path").then(|| path.value())
    })
}
