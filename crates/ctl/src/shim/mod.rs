//! RabbitMQ's own tools by another name: started as `rabbitmqctl`, `rabbitmq-diagnostics`,
//! `rabbitmq-plugins` or `rabbitmqadmin`, we take their arguments and print what they print, over
//! HTTP.

mod admin;
mod erlang;
mod eval;
mod health;
mod invocation;
mod lists;
mod plugins;
mod table;
mod verbs;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::client::{Client, Request};
use crate::failure::{Failure, Kind};
use crate::settings::{Overrides, Settings};
use invocation::Invocation;
use verbs::Verb;

/// A tool whose place we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Ctl,
    Diagnostics,
    Plugins,
    Admin,
}

impl Tool {
    /// The tool of this file name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "rabbitmqctl" => Some(Self::Ctl),
            "rabbitmq-diagnostics" => Some(Self::Diagnostics),
            "rabbitmq-plugins" => Some(Self::Plugins),
            "rabbitmqadmin" => Some(Self::Admin),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ctl => "rabbitmqctl",
            Self::Diagnostics => "rabbitmq-diagnostics",
            Self::Plugins => "rabbitmq-plugins",
            Self::Admin => "rabbitmqadmin",
        }
    }

    /// Runs with the arguments after the tool's name.
    pub(crate) fn run(self, arguments: &[String]) -> ExitCode {
        let outcome = match self {
            Self::Admin => admin::run(arguments),
            Self::Ctl | Self::Diagnostics | Self::Plugins => run(self, arguments),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(stop) => {
                if !stop.text.is_empty() {
                    eprintln!("{}", stop.text);
                }
                ExitCode::from(stop.code)
            }
        }
    }
}

/// Exit codes, as in BSD's `sysexits.h`; the ones that RabbitMQ's tools end with.
pub(crate) mod exit {
    pub(crate) const USAGE: u8 = 64;
    pub(crate) const DATA: u8 = 65;
    pub(crate) const NO_USER: u8 = 67;
    pub(crate) const UNAVAILABLE: u8 = 69;
    pub(crate) const SOFTWARE: u8 = 70;
    pub(crate) const TEMPORARY: u8 = 75;
}

/// Why a tool ends: what it prints to standard error, and its exit code.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) code: u8,
    pub(crate) text: String,
}

pub(crate) type Outcome = Result<(), Stop>;

impl Stop {
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, text }
    }

    /// RabbitMQ's form of an error: its text on a line of its own.
    pub(crate) fn error(code: u8, text: &str) -> Self {
        Self::new(code, format!("Error:\n{text}"))
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            Kind::Usage => Self::error(exit::USAGE, &failure.text),
            Kind::Unreachable | Kind::Timeout => {
                let start = "Error: unable to perform an operation on the node.";
                Self::new(exit::UNAVAILABLE, format!("{start} {}", failure.text))
            }
            _ => Self::error(exit::UNAVAILABLE, &failure.text),
        }
    }
}

/// One run of `rabbitmqctl` or `rabbitmq-diagnostics`.
pub(crate) struct Shim {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) invocation: Invocation,
}

impl Shim {
    fn new(invocation: Invocation) -> Result<Self, Failure> {
        let timeout = invocation.timeout.map(Duration::from_secs_f64);
        let overrides = Overrides {
            timeout,
            ..Overrides::default()
        };
        let settings = Settings::resolve(&overrides)?;
        Ok(Self {
            client: Client::new(&settings)?,
            settings,
            invocation,
        })
    }

    /// The virtual host of `-p`.
    pub(crate) fn vhost(&self) -> &str {
        self.invocation.option("vhost").unwrap_or("/")
    }

    /// The argument at `index`; the verb's arity says that it is there.
    pub(crate) fn argument(&self, index: usize) -> &str {
        self.invocation
            .arguments
            .get(index)
            .map_or("", String::as_str)
    }

    /// Says what is about to be done, unless told to be quiet or read by a program.
    pub(crate) fn banner(&self, text: &str) {
        if !self.invocation.quiet && !self.invocation.is_for_machines() {
            println!("{text}");
        }
    }

    pub(crate) fn get(&self, path: &[&str]) -> Result<Value, Failure> {
        self.client.call(
            &Request::get(path),
            path.last().copied().unwrap_or_default(),
        )
    }

    /// Sends a change; a failure is named only by its reason, as RabbitMQ does.
    pub(crate) fn change(&self, request: &Request) -> Result<Value, Failure> {
        let answer = self.client.send(request)?;
        if (200..300).contains(&answer.status) {
            return Ok(answer.body);
        }
        let failure = Failure::from_answer(answer.status, &answer.body, "");
        let text = failure.text.trim_start_matches(": ").to_owned();
        Err(Failure { text, ..failure })
    }

    /// The broker's node name.
    pub(crate) fn node(&self) -> Result<String, Failure> {
        let overview = self.get(&["overview"])?;
        Ok(overview["node"]
            .as_str()
            .unwrap_or("rabbit@localhost")
            .to_owned())
    }
}

fn run(tool: Tool, arguments: &[String]) -> Outcome {
    let invocation = Invocation::parse(arguments)?;
    let name = invocation.command.clone();
    if name.is_empty() && !invocation.help {
        return Err(Stop::new(exit::USAGE, verbs::overview(tool)));
    }
    if name.is_empty() || (name == "help" && invocation.arguments.is_empty()) {
        println!("{}", verbs::overview(tool));
        return Ok(());
    }
    if name == "help" {
        let verb = find(tool, &invocation.arguments[0])?;
        println!("{}", verb.help(tool));
        return Ok(());
    }
    let verb = find(tool, &name)?;
    if invocation.help {
        println!("{}", verb.help(tool));
        return Ok(());
    }
    verb.check(tool, &invocation)?;
    (verb.run)(&Shim::new(invocation)?)
}

fn find(tool: Tool, name: &str) -> Result<&'static Verb, Stop> {
    let verb = verbs::of(tool).find(|verb| verb.name == name);
    verb.ok_or_else(|| {
        let text = format!("\nCommand '{name}' not found.\n\n{}", verbs::overview(tool));
        Stop::new(exit::USAGE, text)
    })
}
