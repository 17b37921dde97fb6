//! Each rule against small projects that break it and that keep it.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::check;

static PROJECTS: AtomicUsize = AtomicUsize::new(0);

const ROOT_MANIFEST: &str = r#"
[workspace]
members = [".", "crates/codec", "crates/queue"]

[workspace.dependencies]
leveret-codec = { path = "crates/codec" }
nom = "8" # parsers

[package]
name = "leveret"
"#;

/// A project in a temporary folder, removed when dropped.
struct Project {
    root: PathBuf,
}

impl Project {
    /// A root package and the crates codec and queue, which keep every rule.
    fn new() -> Self {
        let number = PROJECTS.fetch_add(1, Ordering::Relaxed);
        let name = format!("leveret-tidy-{}-{number}", std::process::id());
        let project = Self {
            root: std::env::temp_dir().join(name),
        };
        project
            .file("Cargo.toml", ROOT_MANIFEST)
            .file("src/main.rs", "//! The binary.\nfn main() {}\n")
            .file(
                "crates/codec/Cargo.toml",
                "[package]\nname = \"leveret-codec\"\n",
            )
            .file("crates/codec/src/lib.rs", "//! Frames.\n")
            .file(
                "crates/queue/Cargo.toml",
                "[package]\nname = \"leveret-queue\"\n",
            )
            .file("crates/queue/src/lib.rs", "//! A queue.\n")
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Every finding as `rule | path:line: text`.
    fn findings(&self) -> Vec<String> {
        let verdicts = check(&self.root).unwrap();
        let lines = verdicts.iter().flat_map(|verdict| {
            verdict
                .findings
                .iter()
                .map(|finding| format!("{} | {finding}", verdict.rule))
        });
        lines.collect()
    }

    /// Asserts that there is one finding and that it begins with `expected`.
    fn breaks(&self, expected: &str) {
        let findings = self.findings();
        let matches = findings.len() == 1 && findings[0].starts_with(expected);
        assert!(
            matches,
            "expected one finding `{expected}`, found {findings:#?}"
        );
    }

    fn keeps(&self) {
        assert_eq!(self.findings(), Vec::<String>::new());
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn lib(body: &str) -> Project {
    Project::new().file("crates/codec/src/lib.rs", &format!("//! Frames.\n{body}"))
}

#[test]
fn an_orderly_project_has_no_findings() {
    Project::new().keeps();
}

#[test]
fn a_file_begins_with_its_purpose() {
    let project = Project::new().file("src/main.rs", "// no\nfn main() {}\n");
    project.breaks("head comment | src/main.rs:1: does not begin");
}

#[test]
fn a_file_has_at_most_600_lines_without_tests() {
    lib(&"// line\n".repeat(599)).keeps();
    lib(&"// line\n".repeat(600)).breaks("file length | crates/codec/src/lib.rs:1: 601 lines");
    let tests = format!(
        "#[cfg(test)]\nmod tests {{\n{}}}\n",
        "// line\n".repeat(900)
    );
    lib(&tests).keeps();
    let long = format!("//! Tests.\n{}", "// line\n".repeat(900));
    lib("#[cfg(test)]\nmod tests;\n")
        .file("crates/codec/src/tests.rs", &long)
        .keeps();
}

#[test]
fn a_function_has_at_most_70_lines() {
    lib(&format!("fn long() {{\n{}}}\n", "// line\n".repeat(68))).keeps();
    let long = format!("fn long() {{\n{}}}\n", "// line\n".repeat(69));
    lib(&long).breaks("function length | crates/codec/src/lib.rs:2: `long` has 71 lines");
    let method = format!(
        "struct S;\nimpl S {{\nfn long() {{\n{}}}\n}}\n",
        "//\n".repeat(69)
    );
    lib(&method).breaks("function length | crates/codec/src/lib.rs:4: `long`");
}

#[test]
fn a_function_takes_at_most_5_parameters() {
    lib("fn f(a: u8, b: u8, c: u8, d: u8, e: u8) {}\n").keeps();
    lib("fn f(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8) {}\n")
        .breaks("parameters | crates/codec/src/lib.rs:2: `f` takes 6");
}

#[test]
fn tuples_do_not_dodge_the_number_of_parameters() {
    lib("fn f(a: (u8, u8), b: u8, c: ()) {}\n").keeps();
    lib("fn f(a: &(u8, u8, u8)) {}\n")
        .breaks("tuples | crates/codec/src/lib.rs:2: `f` takes 3 things as one");
    lib("fn f(a: (u8, u8), b: &mut (u8, u8)) {}\n")
        .breaks("tuples | crates/codec/src/lib.rs:2: `f` takes 2 tuples");
    lib("trait T {\nfn f(&self, (a, b, c): (u8, u8, u8)) {}\n}\n")
        .breaks("tuples | crates/codec/src/lib.rs:3: `f`");
    lib("#[cfg(test)]\nmod tests {\nfn f(a: (u8, u8, u8)) {}\n}\n").keeps();
}

#[test]
fn a_name_is_that_of_one_type() {
    let twice =
        "names | crates/queue/src/lib.rs:2: `Run` is also a type at crates/codec/src/lib.rs:2";
    let queue = "crates/queue/src/lib.rs";
    let first = || lib("pub(crate) struct Run;\n");
    first()
        .file(queue, "//! A queue.\nenum Run {}\n")
        .breaks(twice);
    first()
        .file(queue, "//! A queue.\nmod inner {\n    type Run = u8;\n}\n")
        .breaks("names | crates/queue/src/lib.rs:3: `Run`");
    first()
        .file(
            "src/main.rs",
            "//! The binary.\ntrait Run {}\nfn main() {}\n",
        )
        .breaks("names | src/main.rs:2: `Run`");
    first()
        .file(queue, "//! A queue.\nfn run() {}\nstruct QueueRun;\n")
        .keeps();
    first()
        .file(
            queue,
            "//! A queue.\n#[cfg(test)]\nmod tests {\n    struct Run;\n}\n",
        )
        .file("crates/queue/tests/life.rs", "//! A life.\nstruct Run;\n")
        .keeps();
}

#[test]
fn a_comment_says_more_than_the_name() {
    let file = "empty comments | crates/codec/src/lib.rs:3:";
    lib("/// The frame's maxima.\nconst FRAME_MAX: u8 = 1;\n").keeps();
    lib("/// `nack`.\nconst NACK: u8 = 1;\n/// All of it.\nfn whole() {}\n").keeps();
    lib("/// The frame max.\nconst FRAME_MAX: u8 = 1;\n").breaks(file);
    lib("/// A frame of the outlet.\nstruct OutletFrame;\n").breaks(file);
    lib("/// Its own queues.\nfn own_queue() {}\n").breaks(file);
    lib("#[derive(Debug, Subcommand)]\nenum E {\n/// Users\nUser,\n}\n").keeps();
    let inside = "empty comments | crates/codec/src/lib.rs:4:";
    lib("struct S {\n/// The channel.\nchannel: u8,\n}\n").breaks(inside);
    lib("enum E {\n/// A queue.\nQueue(u8),\n}\n").breaks(inside);
    lib("impl S {\n/// The name\n/// of it.\nfn name() {}\n}\n")
        .breaks("empty comments | crates/codec/src/lib.rs:5:");
}

#[test]
fn a_line_has_at_most_100_columns_in_any_language() {
    lib(&format!("//{}\n", "é".repeat(98))).keeps();
    lib(&format!("//{}\n", "é".repeat(99)))
        .breaks("line length | crates/codec/src/lib.rs:2: 101 columns");
    Project::new()
        .file("tests/clients/go/tour.go", &"x".repeat(101))
        .breaks("line length | tests/clients/go/tour.go:1:");
}

#[test]
fn the_architecture_page_has_at_most_240_lines() {
    Project::new()
        .file("docs/architecture.md", &"line\n".repeat(240))
        .keeps();
    Project::new()
        .file("docs/architecture.md", &"line\n".repeat(241))
        .breaks("architecture page | docs/architecture.md:1: 241 lines");
}

#[test]
fn unfinished_work_is_found_in_comments_calls_and_other_languages() {
    let mark = concat!("TO", "DO");
    lib(&format!("// {mark}: later\n")).breaks("banned words | crates/codec/src/lib.rs:2: `TO");
    lib("fn f() { todo!() }\n").breaks("banned words | crates/codec/src/lib.rs:2: `todo!`");
    lib("fn f() { dbg!(1); }\n").breaks("banned words | crates/codec/src/lib.rs:2: `dbg!`");
    Project::new()
        .file("tests/clients/python/test_tour.py", &format!("# {mark}\n"))
        .breaks("banned words | tests/clients/python/test_tour.py:1:");
    lib(&format!("// {mark}S and method are whole words\n")).keeps();
}

#[test]
fn pure_crates_do_not_name_the_outside_world() {
    let file = "pure crates | crates/codec/src/lib.rs:2:";
    lib("use tokio::net::TcpStream;\n").breaks(file);
    lib("use std::fs;\n").breaks(file);
    lib("use std::{fmt, net};\n").breaks(file);
    lib("fn f() { std::time::Instant::now(); }\n").breaks(file);
    lib("fn f() { SystemTime::now(); }\n").breaks(file);
    lib("fn f() { println!(\"x\"); }\n").breaks(file);
    lib("fn f() { vec![std::thread::sleep(d)]; }\n").breaks(file);
    lib("//! tokio is not named here.\n// std::fs\nconst A: &str = \"tokio\";\n").keeps();
}

#[test]
fn tests_and_outer_crates_may_name_the_outside_world() {
    lib("#[cfg(test)]\nmod tests {\nuse std::fs;\nfn f() { println!(); }\n}\n").keeps();
    lib("")
        .file("crates/codec/examples/tour.rs", "//! Tour.\nuse std::fs;\n")
        .keeps();
    Project::new()
        .file("src/main.rs", "//! The binary.\nuse tokio::net;\n")
        .keeps();
    lib("#[cfg(not(test))]\nmod real {\nuse std::fs;\n}\n").breaks("pure crates |");
}

#[test]
fn modules_have_telling_names() {
    lib("mod util;\n")
        .file("crates/codec/src/util.rs", "//! Things.\n")
        .breaks("module names | crates/codec/src/util.rs:1: `util`");
    lib("mod types;\n")
        .file("crates/codec/src/types/mod.rs", "//! Things.\n")
        .breaks("module names | crates/codec/src/types/mod.rs:1: `types`");
    lib("mod helpers {}\n").breaks("module names | crates/codec/src/lib.rs:2: `helpers`");
}

#[test]
fn a_file_that_no_target_reaches_is_dead() {
    Project::new()
        .file("crates/codec/src/lost.rs", "//! Lost.\n")
        .breaks("dead files | crates/codec/src/lost.rs:1:");
    lib("mod frame;\nmod table { mod depth; }\n#[path = \"odd.rs\"]\nmod even;\n")
        .file("crates/codec/src/frame.rs", "//! Frames.\nmod body;\n")
        .file("crates/codec/src/frame/body.rs", "//! Bodies.\n")
        .file("crates/codec/src/table/depth.rs", "//! Depth.\n")
        .file("crates/codec/src/odd.rs", "//! Odd.\n")
        .file(
            "crates/codec/tests/properties.rs",
            "//! Properties.\nmod support;\n",
        )
        .file("crates/codec/tests/support/mod.rs", "//! Support.\n")
        .keeps();
    let manifest = "[package]\nname = \"leveret-codec\"\n[[bin]]\npath = \"odd/main.rs\"\n";
    lib("")
        .file("crates/codec/Cargo.toml", manifest)
        .file("crates/codec/odd/main.rs", "//! Odd.\n")
        .keeps();
}

fn with_dependency(section: &str, line: &str) -> Project {
    let manifest = format!("[package]\nname = \"leveret-codec\"\n[{section}]\n{line}\n");
    Project::new().file("crates/codec/Cargo.toml", &manifest)
}

#[test]
fn a_crate_depends_only_on_lower_levels() {
    let up = "leveret-queue.workspace = true";
    with_dependency("dependencies", up)
        .breaks("levels | crates/codec/Cargo.toml:1: level 0 may not depend on `leveret-queue`");
    with_dependency("dev-dependencies", up).keeps();
    with_dependency("target.'cfg(unix)'.dependencies", up).breaks("levels |");
    let down =
        "[package]\nname = \"leveret-queue\"\n[dependencies]\nleveret-codec.workspace = true\n";
    Project::new().file("crates/queue/Cargo.toml", down).keeps();
    with_dependency("dependencies", "tokio.workspace = true")
        .breaks("levels | crates/codec/Cargo.toml:1: `tokio` has no place");
}

/// The broker with two rooms of which `queue` is the lower one.
fn broker(queue: &str, publish: &str) -> Project {
    Project::new()
        .file(
            "crates/broker/Cargo.toml",
            "[package]\nname = \"leveret-broker\"\n",
        )
        .file(
            "crates/broker/src/lib.rs",
            "//! The broker.\nmod publish;\nmod queue;\n",
        )
        .file(
            "crates/broker/src/queue.rs",
            &format!("//! A queue.\nmod cell;\n{queue}"),
        )
        .file(
            "crates/broker/src/queue/cell.rs",
            "//! A cell.\npub struct Cell;\n",
        )
        .file(
            "crates/broker/src/publish.rs",
            &format!("//! Publish.\n{publish}"),
        )
}

#[test]
fn a_room_uses_those_below_it_only() {
    let up = "rooms | crates/broker/src/queue.rs:3: `crate::publish` is above `queue`";
    broker("", "use crate::queue::cell::Cell;\n").keeps();
    broker("use crate::publish::Route;\n", "").breaks(up);
    broker("use crate::{publish::Route, queue::cell};\n", "").breaks(up);
    broker("fn f() { g(crate::publish::enqueue()) }\n", "").breaks(up);
    broker("fn f() { vec![crate::publish::X] }\n", "").breaks(up);
    broker(
        "#[cfg(test)]\nmod tests { use crate::publish::Route; }\n",
        "",
    )
    .keeps();
    broker("// crate::publish\n/// [`crate::publish`]\nstruct S;\n", "").keeps();
    broker("use crate::Route;\n", "")
        .breaks("rooms | crates/broker/src/queue.rs:3: `crate::Route` does not tell the room");
    Project::new()
        .file(
            "crates/broker/Cargo.toml",
            "[package]\nname = \"leveret-broker\"\n",
        )
        .file("crates/broker/src/lib.rs", "//! The broker.\nmod attic;\n")
        .file("crates/broker/src/attic.rs", "//! Things.\n")
        .breaks("rooms | crates/broker/src/attic.rs:1: `attic` has no place");
}

#[test]
fn a_room_calls_no_method_that_one_above_adds() {
    let added = "impl crate::queue::cell::Cell { fn publish(&self) {} fn get(&self) {} }\n";
    let call = |call: &str| {
        broker(
            &format!("impl Cell {{ fn f(&self) {{ {call} }} }}\n"),
            added,
        )
    };
    let up = "rooms | crates/broker/src/queue.rs:3: `publish` comes from `publish`, above `queue`";
    call("self.publish();").breaks(up);
    call("x.broker.publish();").breaks(up);
    call("cell.publish()").breaks(up);
    call("store.publish();").keeps();
    call("self.f();").keeps();
    broker(
        "impl Cell { fn publish(&self) { self.publish() } }\n",
        added,
    )
    .keeps();
}

#[test]
fn what_a_page_walks_is_there() {
    let walked = |chain: &str| {
        let page = format!("Text.\n\n```ways\npublish\n  {chain}\n```\n");
        Project::new()
            .file(
                "crates/codec/src/lib.rs",
                "//! Frames.\nfn a() { b() }\nfn b() {}\n",
            )
            .file("docs/architecture.md", &page)
    };
    walked("codec/lib.rs a > b").keeps();
    walked("codec/lib.rs b > a").breaks("ways | docs/architecture.md:5: `b` does not call `a`");
    walked("codec/lib.rs a > c").findings().pop().unwrap();
    walked("codec/lib.rs c").breaks("ways | docs/architecture.md:5: `c` is not in crates/codec");
}

#[test]
fn a_hop_is_a_call_into_another_module() {
    let page =
        "```ways\npublish\n  codec/lib.rs a > b > queue/lib.rs c\n  queue/lib.rs c > d\n```\n";
    let project = Project::new()
        .file(
            "crates/codec/src/lib.rs",
            "//! Frames.\nfn a() { b() }\nfn b() { c() }\n",
        )
        .file(
            "crates/queue/src/lib.rs",
            "//! A queue.\nfn c() { d() }\nfn d() {}\n",
        )
        .file("docs/architecture.md", page);
    let page = project.root.join("docs/architecture.md");
    let ways = super::ways(&project.root, &page).unwrap();
    assert_eq!(
        (ways.len(), ways[0].name.as_str(), ways[0].hops),
        (1, "publish", 1)
    );
}

#[test]
fn programs_over_the_wire_and_unknown_crates_are_checked() {
    let bench = "[package]\nname = \"b\"\n[dependencies]\nleveret-queue.workspace = true\n";
    Project::new()
        .file("crates/bench/Cargo.toml", bench)
        .breaks("levels | crates/bench/Cargo.toml:1: `leveret-queue`: this program");
    Project::new()
        .file("crates/novel/Cargo.toml", "[package]\nname = \"novel\"\n")
        .breaks("levels | crates/novel/Cargo.toml:1: `novel` has no level");
}

#[test]
fn dependencies_are_declared_once_and_with_a_reason() {
    with_dependency("dependencies", "nom = \"8\"")
        .breaks("dependencies | crates/codec/Cargo.toml:1: `nom` must say");
    with_dependency("dev-dependencies", "nom = { version = \"8\" }").breaks("dependencies |");
    with_dependency("dependencies", "nom = { workspace = true }").keeps();
    let silent = ROOT_MANIFEST.replace("# parsers", "");
    Project::new()
        .file("Cargo.toml", &silent)
        .breaks("reasons | Cargo.toml:7: `nom`");
}

#[test]
fn config_source_and_shown_config_agree() {
    let source = "//! Keys.\n#[derive(Deserialize)]\n\
                  pub struct Config { pub limits: Limits, secret: u8,\
                  #[serde(skip)] pub file: u8 }\n\
                  #[derive(Debug, Deserialize)]\npub struct Limits { pub queue_length_max: u64 }\n\
                  pub struct Layer { pub origin: u8 }\n";
    let with = |shown: &str| {
        Project::new()
            .file(
                "src/main.rs",
                "//! The binary.\nmod config;\nfn main() {}\n",
            )
            .file("src/config.rs", source)
            .file("config/leveret.toml", shown)
    };
    with("# Limits x = y.\n[limits]\n# queue_length_max = 5 # why\n").keeps();
    with("[limits]\n").breaks("config keys | src/config.rs:5: `queue_length_max` is not shown");
    with("[limits]\nqueue_length_max = 5\nother = 1\n")
        .breaks("config keys | config/leveret.toml:3: `other` is not a field");
}
