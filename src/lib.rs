//! The Leveret broker's edge: configuration, logs, the process and its sockets.

mod clock;
pub mod config;
mod connection;
mod descriptors;
pub mod disk;
mod host;
mod journal;
mod link;
mod listeners;
pub mod logging;
pub mod process;
pub mod server;
mod throttle;
