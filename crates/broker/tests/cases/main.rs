//! The broker in memory: what clients hear and what its owner sees, one file for each part of it.
//! One program, as each is linked with everything; one with an allocator of its own is beside it.

mod administration;
mod alarms;
mod burials;
mod compaction;
mod compatibility;
mod corpses;
mod counters;
mod fanout;
mod firehose;
mod flow;
mod frames;
mod held;
mod leaving;
mod limits;
mod memory;
mod moving;
mod nacks;
mod paging;
mod pauses;
mod permissions;
mod policies;
mod prefetch;
mod quotas;
mod replies;
mod submitted;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;
mod timeouts;
mod topology;
mod transactions;
mod turns;
mod unfinished;
