//! The Leveret broker's edge: configuration, logs, the process and its sockets.

pub mod config;
pub mod logging;
pub mod process;
