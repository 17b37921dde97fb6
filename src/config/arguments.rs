//! The command line of `leveret`.

use std::path::PathBuf;

use crate::data::DataCommand;

/// The command line of `leveret`.
#[derive(clap::Parser, Clone, Debug, Default)]
#[command(
    name = "leveret",
    version,
    about = "An AMQP 0-9-1 message broker",
    args_conflicts_with_subcommands = true
)]
pub struct Arguments {
    /// Configuration file [default: ./leveret.toml, then /etc/leveret/leveret.toml, if present]
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Sets one key; overrides the file and the environment; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,

    /// Folder for the broker's data; short for --set data_dir=DIR
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,

    /// Form of log lines, human or json; short for --set log.format=FORMAT
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// Checks the configuration, prints it with secrets hidden, and exits
    #[arg(long)]
    pub check_config: bool,

    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<OfflineCommand>,
}

/// What is done without a broker.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum OfflineCommand {
    /// Checks, prints or saves a data folder that no broker uses
    #[command(subcommand)]
    Data(DataCommand),
}
