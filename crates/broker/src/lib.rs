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

mod acting;
mod admin;
mod broker;
mod channel;
mod connection;
mod context;
mod dead_letter;
mod publish;
mod queue;
mod restore;
mod settings;
mod tick;
pub mod topology;
mod vhost;

pub use acting::{Acting, Resource};
pub use admin::{Admin, GLOBALS_MAX};
pub use broker::{Broker, BrokerConfig, ConnectionId, Identity, Peer, QueueDefaults};
pub use connection::alarms::{Alarm, AlarmState, Measured};
pub use connection::close::{Parting, Side};
pub use connection::login::LoginRefusal;
pub use connection::pause::Pause;
pub use connection::unfinished::UnfinishedClosed;
pub use connection::{Connection, Origin, Turn};
pub use context::limits::Limits;
pub use context::refusal::Refusal;
pub use context::stats::{
    ChannelStats, Count, Event, Events, Existing, HoldingCounts, Holdings, MessageCounts,
    SIZE_BOUNDS, SizeCounts, Totals, Traffic,
};
pub use dead_letter::{DeadLetters, DeathCounts};
pub use leveret_access::{
    ADMINISTRATOR, Access, AdminError, Denied, Hashing, IMPERSONATOR, PasswordHash, Permission,
    Put, Right, TopicPermission, User, UserLimits, VhostLimits, pair, term,
};
pub use leveret_queue::{Attempts, Death, Queue, Rank, Reason};
pub use publish::direct::{Copied, Direct, Fetch, Published};
pub use queue::cell::{Handle, QueueCell, QueueGuard, QueueSpec, QueueState, SharedOutlet};
pub use queue::pump::{Work, resume};
pub use restore::Restored;
pub use settings::arguments::{check_size, is_queue_type, without_effect};
pub use settings::notices::{Notice, Notices};
pub use settings::parameters::{PARAMETERS_MAX, Parameter, Parameters};
pub use settings::policy::{
    ApplyTo, Effective, Object, Policies, Policy, PolicyKind, policy_key_has_effect,
};
pub use settings::rules::{Rules, VhostMetadata};
pub use tick::Ticker;
pub use topology::operations::Condition;
pub use vhost::binding::Binding;
pub use vhost::refused::{Noted, Outcome, Place};
pub use vhost::{Directory, Vhost};
