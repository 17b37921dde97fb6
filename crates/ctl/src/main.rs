//! `leveretctl`: a command-line client of the management HTTP API of Leveret and of RabbitMQ.
//! Started as `rabbitmqctl`, `rabbitmq-diagnostics`, `rabbitmq-plugins` or `rabbitmqadmin` it
//! speaks their language.

mod arguments;
mod cli;
mod client;
mod commands;
mod contexts;
mod failure;
mod output;
mod secrets;
mod session;
mod settings;
mod shim;
mod top;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use shim::Tool;

fn main() -> ExitCode {
    // Who reads only the first lines closes the pipe: then there is nothing left to do or to say.
    sigpipe::reset();
    let mut arguments = env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    let name = |path: &str| {
        Path::new(path)
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    if let Some(tool) = name(&program).and_then(|name| Tool::named(&name)) {
        return tool.run(&arguments);
    }
    if let Some(tool) = arguments.first().and_then(|first| Tool::named(first)) {
        return tool.run(&arguments[1..]);
    }
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.kind as u8)
        }
    }
}
