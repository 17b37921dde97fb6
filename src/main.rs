//! The `leveret` binary.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;
use leveret::config::{Arguments, Config, OfflineCommand};
use leveret::{logging, server};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(OfflineCommand::Data(command)) = arguments.command {
        return command.run();
    }
    match Config::load(&arguments) {
        Ok(config) if arguments.check_config => check(&config),
        Ok(config) => start(arguments, config),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(CONFIGURATION_REFUSED)
        }
    }
}

fn start(arguments: Arguments, config: Config) -> ExitCode {
    let logging = match logging::start(&config.log) {
        Ok(logging) => logging,
        Err(error) => {
            eprintln!("cannot start logging: {error}");
            return ExitCode::FAILURE;
        }
    };
    if !config.without_effect.is_empty() {
        let variables = &config.without_effect;
        tracing::warn!(?variables, "these variables of RabbitMQ's have no effect");
    }
    match server::run(arguments, config, logging) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the broker cannot run");
            ExitCode::FAILURE
        }
    }
}

/// Prints the settings in force, in the form of a configuration file.
fn check(config: &Config) -> ExitCode {
    let file = config.file.as_ref().map(|path| path.display().to_string());
    let file = file.as_deref().unwrap_or("none");
    let text = match toml::to_string(config) {
        Ok(text) => format!("# configuration is valid; file: {file}\n{text}"),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // Who wanted only the first lines (`| head`) has gone; the configuration is valid.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Exit code for a configuration that is refused, as for a wrong command line.
const CONFIGURATION_REFUSED: u8 = 2;
