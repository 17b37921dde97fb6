//! The ways that a page walks through the code, call by call: each call is there, and how often one
//! leads from one module into another is counted.
//!
//! A page holds them in a block that begins with three backticks and `ways`. A line without
//! indentation names a way. The lines below are chains of calls, `file function > function > file
//! function`: a file is `crate/path`, below the `src` of that crate, and stays until another one is
//! named.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use super::Finding;
use super::tree::{Source, Tree};

const PAGE: &str = "docs/architecture.md";

/// A way and how many calls of it lead into another module.
pub(crate) struct Way {
    /// What the page calls it.
    pub(crate) name: String,
    /// Those calls.
    pub(crate) hops: usize,
}

/// One function on a way.
struct Step {
    file: PathBuf,
    function: String,
}

pub(super) fn ways(tree: &Tree) -> Vec<Finding> {
    let page = tree.read(PAGE).unwrap_or_default();
    walk(tree, &page, Path::new(PAGE)).1
}

/// Walks the ways of a page; gives them, and what is not as the page says.
pub(super) fn walk(tree: &Tree, page: &str, path: &Path) -> (Vec<Way>, Vec<Finding>) {
    let (mut ways, mut findings) = (Vec::<Way>::new(), Vec::new());
    let mut bodies = HashMap::new();
    let mut inside = false;
    for (index, line) in page.lines().enumerate() {
        if line.starts_with("```") {
            inside = line == "```ways";
        } else if inside && !line.starts_with(' ') {
            let name = line.to_owned();
            ways.push(Way { name, hops: 0 });
        } else if inside && let Some(way) = ways.last_mut() {
            let mut wrong = |text: String| findings.push(Finding::new(path, index + 1, text));
            let steps = steps_of(line);
            for step in &steps {
                if bodies_of(tree, &mut bodies, step).is_empty() {
                    let file = step.file.display();
                    wrong(format!("`{}` is not in {file}", step.function));
                }
            }
            for pair in steps.windows(2) {
                let [from, to] = pair else { continue };
                let calls = |body: &String| has_word(body, &to.function);
                if !bodies_of(tree, &mut bodies, from).iter().any(calls) {
                    wrong(format!(
                        "`{}` does not call `{}`",
                        from.function, to.function
                    ));
                }
                way.hops += usize::from(module_of(&from.file) != module_of(&to.file));
            }
        }
    }
    (ways, findings)
}

fn steps_of(line: &str) -> Vec<Step> {
    let mut file = PathBuf::new();
    let steps = line.split('>').filter_map(|step| {
        let mut words = step.split_whitespace();
        let (first, second) = (words.next()?, words.next());
        if second.is_some() {
            let (name, path) = first.split_once('/')?;
            file = Path::new("crates").join(name).join("src").join(path);
        }
        Some(Step {
            file: file.clone(),
            function: second.unwrap_or(first).to_owned(),
        })
    });
    steps.collect()
}

/// The crate of a file, and the module at its top that the file belongs to.
fn module_of(file: &Path) -> Vec<String> {
    let parts = file.with_extension("");
    let parts = parts.iter().map(|part| part.to_string_lossy().into_owned());
    parts.take(4).collect()
}

type Bodies = HashMap<PathBuf, HashMap<String, Vec<String>>>;

/// What all functions of a file with the step's name say.
fn bodies_of<'b>(tree: &Tree, bodies: &'b mut Bodies, step: &Step) -> &'b [String] {
    let of_file = bodies.entry(step.file.clone()).or_insert_with(|| {
        let source = tree.sources.iter().find(|source| source.path == step.file);
        source.map(functions_of).unwrap_or_default()
    });
    of_file.get(&step.function).map_or(&[], Vec::as_slice)
}

fn functions_of(source: &Source) -> HashMap<String, Vec<String>> {
    let mut functions = Functions {
        lines: source.text.lines().collect(),
        found: HashMap::new(),
    };
    functions.visit_file(&source.syntax);
    functions.found
}

struct Functions<'s> {
    lines: Vec<&'s str>,
    found: HashMap<String, Vec<String>>,
}

impl Functions<'_> {
    fn note(&mut self, name: &syn::Ident, block: &syn::Block) {
        let (start, end) = (block.span().start().line, block.span().end().line);
        let body = self.lines.get(start - 1..end).unwrap_or_default();
        let code = body
            .iter()
            .map(|line| line.split("//").next().unwrap_or(line));
        let text = code.collect::<Vec<_>>().join("\n");
        self.found.entry(name.to_string()).or_default().push(text);
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note(&item.sig.ident, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    text.split(|character| !is_part(character))
        .any(|part| part == word)
}
