//! Caps on what a reader must hold at once: lines of a file and a function, parameters, columns.

use proc_macro2::Span;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use super::Finding;
use super::tree::{Source, Tree};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const PARAMETERS_MAX: usize = 5;
const COLUMNS_MAX: usize = 100;
const ARCHITECTURE_LINES_MAX: usize = 240;
const ARCHITECTURE_PAGE: &str = "docs/architecture.md";

pub(super) fn head_comment(tree: &Tree) -> Vec<Finding> {
    let headless = |source: &&Source| !source.text.starts_with("//!");
    let report = |source: &Source| Finding::new(&source.path, 1, "does not begin with `//!`");
    tree.sources.iter().filter(headless).map(report).collect()
}

pub(super) fn file_length(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in tree.sources.iter().filter(|source| !source.is_test()) {
        let total = source.text.lines().count();
        let lines = (1..=total)
            .filter(|&line| !source.is_test_line(line))
            .count();
        if lines > FILE_LINES_MAX {
            let text = format!("{lines} lines without tests, at most {FILE_LINES_MAX}");
            findings.push(Finding::new(&source.path, 1, text));
        }
    }
    findings
}

pub(super) fn function_length(tree: &Tree) -> Vec<Finding> {
    let cap = |function: &Function| {
        let text = format!(
            "`{}` has {} lines, at most {FUNCTION_LINES_MAX}",
            function.name, function.lines
        );
        (function.lines > FUNCTION_LINES_MAX).then_some(text)
    };
    over_functions(tree, cap)
}

pub(super) fn parameters(tree: &Tree) -> Vec<Finding> {
    let cap = |function: &Function| {
        let text = format!(
            "`{}` takes {} parameters, at most {PARAMETERS_MAX}",
            function.name, function.parameters
        );
        (function.parameters > PARAMETERS_MAX).then_some(text)
    };
    over_functions(tree, cap)
}

/// Tuples are no way around the number of parameters: at most one, and that a pair. The cases of a
/// table of tests are tuples.
pub(super) fn tuples(tree: &Tree) -> Vec<Finding> {
    let cap = |function: &Function| {
        let name = &function.name;
        match function.tuples.as_slice() {
            [] | [0..=2] => None,
            [parts] => Some(format!(
                "`{name}` takes {parts} things as one: give them a type"
            )),
            more => Some(format!(
                "`{name}` takes {} tuples: give them types",
                more.len()
            )),
        }
    };
    let mut findings = over_functions(tree, cap);
    let is_test = |finding: &Finding| {
        let mut sources = tree.sources.iter();
        let source = sources.find(|source| source.path == finding.path);
        source.is_some_and(|source| source.is_test_line(finding.line))
    };
    findings.retain(|finding| !is_test(finding));
    findings
}

pub(super) fn line_length(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.code {
        for (index, line) in file.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                let text = format!("{columns} columns, at most {COLUMNS_MAX}");
                findings.push(Finding::new(&file.path, index + 1, text));
            }
        }
    }
    findings
}

pub(super) fn architecture_page(tree: &Tree) -> Vec<Finding> {
    let lines = tree
        .read(ARCHITECTURE_PAGE)
        .map_or(0, |text| text.lines().count());
    if lines <= ARCHITECTURE_LINES_MAX {
        return Vec::new();
    }
    let text = format!("{lines} lines, at most {ARCHITECTURE_LINES_MAX}");
    vec![Finding::new(ARCHITECTURE_PAGE.as_ref(), 1, text)]
}

fn over_functions(tree: &Tree, cap: impl Fn(&Function) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        let mut functions = Functions::default();
        functions.visit_file(&source.syntax);
        for function in functions.found {
            let finding = cap(&function);
            findings.extend(finding.map(|text| Finding::new(&source.path, function.line, text)));
        }
    }
    findings
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
    parameters: usize,
    /// How many parts each parameter has that is a tuple.
    tuples: Vec<usize>,
}

#[derive(Default)]
struct Functions {
    found: Vec<Function>,
}

impl Functions {
    fn note(&mut self, signature: &syn::Signature, end: Span) {
        let line = signature.span().start().line;
        self.found.push(Function {
            name: signature.ident.to_string(),
            line,
            lines: end.end().line - line + 1,
            parameters: signature.inputs.len(),
            tuples: signature.inputs.iter().filter_map(parts).collect(),
        });
    }
}

/// The number of parts of a parameter that is a tuple, or a reference to one.
fn parts(parameter: &syn::FnArg) -> Option<usize> {
    let syn::FnArg::Typed(typed) = parameter else {
        return None;
    };
    let mut kind = &*typed.ty;
    while let syn::Type::Reference(reference) = kind {
        kind = &reference.elem;
    }
    match kind {
        syn::Type::Tuple(tuple) if !tuple.elems.is_empty() => Some(tuple.elems.len()),
        _ => None,
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note(&item.sig, item.block.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note(&item.sig, item.block.span());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.note(&item.sig, item.span());
        visit::visit_trait_item_fn(self, item);
    }
}
