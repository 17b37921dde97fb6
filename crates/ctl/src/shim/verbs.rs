//! The verbs of `rabbitmqctl` and `rabbitmq-diagnostics`: their arguments, and which code runs.

mod access;
mod broker;
mod limits;
mod node;
mod parameters;
mod table;

use super::invocation::Invocation;
use super::{Outcome, Shim, Stop, Tool, exit, plugins};
pub(crate) use access::is_login;
use table::{BOTH, CTL, DIAGNOSTICS, PARAMETERS};

/// One verb.
pub(crate) struct Verb {
    pub(crate) name: &'static str,
    usage: &'static str,
    about: &'static str,
    least: usize,
    most: usize,
    pub(crate) run: fn(&Shim) -> Outcome,
}

/// As many arguments as one likes.
pub(crate) const MANY: usize = usize::MAX;

pub(crate) const fn verb(
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    (least, most): (usize, usize),
    run: fn(&Shim) -> Outcome,
) -> Verb {
    Verb {
        name,
        usage,
        about,
        least,
        most,
        run,
    }
}

/// The verbs of a tool.
pub(crate) fn of(tool: Tool) -> impl Iterator<Item = &'static Verb> {
    let none: &[Verb] = &[];
    let (own, more, shared) = match tool {
        Tool::Ctl => (CTL, PARAMETERS, BOTH),
        Tool::Diagnostics => (DIAGNOSTICS, none, BOTH),
        Tool::Plugins => (plugins::VERBS, none, none),
        Tool::Admin => (none, none, none),
    };
    own.iter().chain(more).chain(shared)
}

/// What a tool prints that was not told what to do.
pub(crate) fn overview(tool: Tool) -> String {
    let tool_name = tool.name();
    let mut text = format!(
        "\nUsage\n\n{tool_name} [--node <node>] [--timeout <timeout>] [--longnames] [--quiet] \
         <command> [<command options>]\n\nAvailable commands:\n\n"
    );
    let mut verbs: Vec<&Verb> = of(tool).collect();
    verbs.sort_by_key(|verb| verb.name);
    for verb in verbs {
        text.push_str(&format!("   {:<30}{}\n", verb.name, verb.about));
    }
    text.push_str(&format!(
        "\nUse '{tool_name} help <command>' to learn more about a specific command"
    ));
    text
}

impl Verb {
    fn usage(&self, tool: Tool) -> String {
        let line = format!(
            "{} [--node <node>] [--longnames] [--quiet] {} {}",
            tool.name(),
            self.name,
            self.usage
        );
        format!("Usage\n\n{}", line.trim_end())
    }

    pub(crate) fn help(&self, tool: Tool) -> String {
        format!("\n{}\n\n{}\n", self.usage(tool), self.about)
    }

    /// Refuses a wrong number of arguments.
    pub(crate) fn check(&self, tool: Tool, invocation: &Invocation) -> Outcome {
        let count = invocation.arguments.len();
        if (self.least..=self.most).contains(&count) {
            return Ok(());
        }
        let amount = if count < self.least {
            "not enough"
        } else {
            "too many"
        };
        let text = format!(
            "Error (argument validation): {amount} arguments.\nArguments given:\n\t{}\n\n{}",
            invocation.given.join(" "),
            self.usage(tool),
        );
        Err(Stop::new(exit::USAGE, text))
    }
}
