//! Vhosts, publish, consume and settle: runs a session's batches against router, queues and store.
//!
//! Everything here is synchronous and driven from outside: bytes and the time come in through
//! [`Connection::receive`], what must be written waits in outlets, and [`Work`] says whom to flush.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod access;
mod acting;
mod admin;
mod alarms;
mod arguments;
mod assembled;
mod attempts;
mod binding;
mod broker;
mod cell;
mod channel;
mod close;
mod connection;
mod consume;
mod dead_letter;
mod direct;
mod exchanges;
mod expiration;
mod firehose;
mod held;
mod limits;
mod login;
mod names;
mod notices;
mod operations;
mod parameters;
mod pause;
mod policy;
mod publish;
mod pump;
mod queues;
mod refusal;
mod refused;
mod replies;
mod restore;
mod room;
mod routes;
mod rules;
mod settle;
mod space;
mod stats;
mod tick;
mod timer;
pub mod topology;
mod totals;
mod transactions;
mod unfinished;
mod uses;
mod vhost;

pub use access::{
    ADMINISTRATOR, Access, AdminError, Denied, Hashing, IMPERSONATOR, PasswordHash, Permission,
    Put, Right, TopicPermission, User, UserLimits, VhostLimits, pair, term,
};
pub use acting::{Acting, Resource};
pub use admin::{Admin, GLOBALS_MAX};
pub use alarms::{Alarm, AlarmState, Measured};
pub use arguments::{check_size, is_queue_type, without_effect};
pub use binding::Binding;
pub use broker::{Broker, BrokerConfig, ConnectionId, Identity, Peer, QueueDefaults};
pub use cell::{Handle, QueueCell, QueueGuard, QueueSpec, QueueState, SharedOutlet};
pub use close::{Parting, Side};
pub use connection::{Connection, Origin, Turn};
pub use dead_letter::{DeadLetters, DeathCounts};
pub use direct::{Copied, Direct, Fetch, Published};
pub use leveret_queue::{Attempts, Death, Queue, Rank, Reason};
pub use limits::Limits;
pub use login::LoginRefusal;
pub use notices::{Notice, Notices};
pub use operations::Condition;
pub use parameters::{PARAMETERS_MAX, Parameter, Parameters};
pub use pause::Pause;
pub use policy::{ApplyTo, Effective, Object, Policies, Policy, PolicyKind, policy_key_has_effect};
pub use pump::{Work, resume};
pub use refusal::Refusal;
pub use refused::{Noted, Outcome, Place};
pub use restore::Restored;
pub use rules::{Rules, VhostMetadata};
pub use stats::{
    ChannelStats, Count, Event, Events, Existing, HoldingCounts, Holdings, MessageCounts,
    SIZE_BOUNDS, SizeCounts, Totals, Traffic,
};
pub use tick::Ticker;
pub use unfinished::UnfinishedClosed;
pub use vhost::{Directory, Vhost};
