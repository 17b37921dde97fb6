//! The floors: servers that do the least a broker could do for the same traffic.
//!
//! Each runs in a process of its own, so that its CPU is measured exactly as a broker's.

pub mod fanout;
pub mod handshake;
pub mod journal;
pub mod outbound;
pub mod pipe;
pub mod relay;
pub mod sync;
