//! Peers that break the rules, or keep them and ask for everything. Each case ends with the right
//! close or timeout, under a ceiling of memory, and with others served in time throughout.

mod backlog;
mod bodies;
mod case;
mod consumers;
mod deaths;
mod guesses;
mod http;
mod lists;
mod memory;
mod peers;
mod routing;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;
mod timeouts;
