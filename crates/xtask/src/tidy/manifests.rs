//! Manifests: which crate may name which, and how dependencies are declared.

use std::path::Path;

use super::Finding;
use super::tree::{Package, Tree};

/// The level of each folder with a package. A package depends only on lower levels.
const LEVELS: &[(&str, u8)] = &[
    ("crates/codec", 0),
    ("crates/record", 0),
    ("crates/runs", 1),
    ("crates/access", 1),
    ("crates/settings", 1),
    ("crates/session", 1),
    ("crates/router", 1),
    ("crates/queue", 1),
    ("crates/store", 1),
    ("crates/broker", 2),
    ("crates/management", 3),
    ("crates/simulator", 3),
    ("crates/callgrind", 3),
    ("", 4),
    ("crates/ctl", 4),
    ("crates/bench", 4),
    ("crates/xtask", 4),
    ("crates/fuzz", 4),
    ("tests/clients/rust", 4),
    ("tests/clients/rabbitmq-http-client", 4),
];

/// Levels up to this one are pure: no runtime, socket, file, clock or random source.
const PURE_LEVEL_MAX: u8 = 2;

/// Programs that know the broker only over the wire; of the project they may name these.
const OVER_THE_WIRE: &[&str] = &["crates/ctl", "crates/bench", "crates/xtask"];
const WIRE_CRATES: &[&str] = &["crates/codec"];

/// Dependencies that bring the outside world with them.
const IMPURE_DEPENDENCIES: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "rustix",
    "libc",
    "rand",
    "fastrand",
    "getrandom",
];

const SECTIONS: &[&str] = &["dependencies", "build-dependencies", "dev-dependencies"];

/// Whether a package belongs to the pure levels.
pub(super) fn is_pure(package: &Package) -> bool {
    level(&package.folder).is_some_and(|level| level <= PURE_LEVEL_MAX)
}

pub(super) fn levels(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &tree.packages {
        let manifest = package.folder.join("Cargo.toml");
        let Some(own) = level(&package.folder) else {
            let text = format!("`{}` has no level; give it one in tidy", package.name);
            findings.push(Finding::new(&manifest, 1, text));
            continue;
        };
        for name in production_dependencies(package) {
            let text = refused_dependency(tree, package, own, &name);
            findings.extend(text.map(|text| Finding::new(&manifest, 1, text)));
        }
    }
    findings
}

pub(super) fn dependencies(tree: &Tree) -> Vec<Finding> {
    let members = members(tree);
    let mut findings = Vec::new();
    for package in tree
        .packages
        .iter()
        .filter(|package| members.contains(&package.folder))
    {
        for (name, value) in all_dependencies(package) {
            let inherited = value.get("workspace").and_then(toml::Value::as_bool);
            if inherited != Some(true) {
                let text = format!("`{name}` must say `workspace = true`");
                findings.push(Finding::new(&package.folder.join("Cargo.toml"), 1, text));
            }
        }
    }
    findings
}

/// Every dependency of the root manifest says at its end why it is there.
pub(super) fn reasons(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut inside = false;
    let manifest = tree.read("Cargo.toml").unwrap_or_default();
    for (index, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            inside = line.trim() == "[workspace.dependencies]";
        }
        let Some((name, rest)) = line.split_once('=') else {
            continue;
        };
        let own = rest.contains("path = \"");
        if inside && !line.starts_with('#') && !own && !rest.contains('#') {
            let text = format!("`{}` does not say why it is needed", name.trim());
            findings.push(Finding::new("Cargo.toml".as_ref(), index + 1, text));
        }
    }
    findings
}

fn level(folder: &Path) -> Option<u8> {
    LEVELS
        .iter()
        .find(|(path, _)| Path::new(path) == folder)
        .map(|&(_, level)| level)
}

/// Why `package`, at level `own`, may not depend on `name`.
fn refused_dependency(tree: &Tree, package: &Package, own: u8, name: &str) -> Option<String> {
    if own <= PURE_LEVEL_MAX && IMPURE_DEPENDENCIES.contains(&name) {
        return Some(format!("`{name}` has no place in a pure crate"));
    }
    let target = tree.packages.iter().find(|other| other.name == name)?;
    let is = |paths: &[&str], folder: &Path| paths.iter().any(|path| Path::new(path) == folder);
    if is(OVER_THE_WIRE, &package.folder) && !is(WIRE_CRATES, &target.folder) {
        return Some(format!(
            "`{name}`: this program knows the broker only over the wire"
        ));
    }
    let theirs = level(&target.folder)?;
    let sideways = format!("level {own} may not depend on `{name}` of level {theirs}");
    (theirs >= own).then_some(sideways)
}

fn production_dependencies(package: &Package) -> Vec<String> {
    let sections = SECTIONS
        .iter()
        .filter(|&&section| section != "dev-dependencies");
    let entries = sections.flat_map(|section| section_entries(package, section));
    entries.map(|(name, _)| name).collect()
}

fn all_dependencies(package: &Package) -> Vec<(String, toml::Value)> {
    SECTIONS
        .iter()
        .flat_map(|section| section_entries(package, section))
        .collect()
}

/// The entries of a dependency section, plain and per target.
fn section_entries(package: &Package, section: &str) -> Vec<(String, toml::Value)> {
    let targets = package
        .manifest
        .get("target")
        .and_then(toml::Value::as_table);
    let per_target = targets.into_iter().flat_map(|targets| targets.values());
    let tables = per_target.filter_map(|target| target.get(section));
    let tables = tables
        .chain(package.manifest.get(section))
        .filter_map(toml::Value::as_table);
    tables
        .flatten()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Folders of the workspace's members.
fn members(tree: &Tree) -> Vec<std::path::PathBuf> {
    let root = tree
        .packages
        .iter()
        .find(|package| package.folder == Path::new(""));
    let workspace = root.and_then(|root| root.manifest.get("workspace"));
    let listed = workspace.and_then(|workspace| workspace.get("members"));
    let listed = listed.and_then(toml::Value::as_array).into_iter().flatten();
    let folder = |path: &str| Path::new(if path == "." { "" } else { path }).to_path_buf();
    listed.filter_map(toml::Value::as_str).map(folder).collect()
}
