//! What every room may use: limits, counters, names, refusals. It knows no room.

pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod names;
pub(crate) mod refusal;
pub(crate) mod stats;
