//! The Leveret broker's edge: configuration, logs, the process and its sockets.

mod backup;
mod clock;
pub mod config;
mod connection;
pub mod data;
mod default_password;
mod deference;
mod definitions;
mod descriptors;
pub mod disk;
mod endings;
mod host;
mod journal;
mod link;
mod listeners;
pub mod logging;
pub mod process;
mod queue_pager;
mod queue_timer;
mod read_only_disk;
mod reload;
mod run_files;
mod scrubber;
pub mod server;
mod settings;
mod state;
mod throttle;
