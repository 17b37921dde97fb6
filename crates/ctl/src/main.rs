//! `leveretctl`: a command-line client of the management HTTP API of Leveret and of RabbitMQ.

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

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.kind as u8)
        }
    }
}
