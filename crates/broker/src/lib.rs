//! Vhosts, publish, consume and settle: runs a session's batches against router, queues and store.
//!
//! Everything here is synchronous and driven from outside: bytes and the time come in through
//! [`Connection::receive`], what must be written waits in outlets, and [`Effects`] says whom to
//! flush.

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
mod admin;
mod broker;
mod channel;
mod clock;
mod connection;
mod context;
mod dead_letter;
mod ending;
mod peer;
mod publish;
mod queue;
mod restore;
mod settings;
pub mod topology;
mod vhost;

pub use access::acting::{Acting, Resource};
pub use admin::{Admin, GLOBALS_MAX};
pub use broker::Broker;
pub use broker::paging::{PageIn, PageOut};
pub use clock::Ticker;
pub use clock::scrub::{Scrub, ScrubStep};
pub use connection::login::LoginRefusal;
pub use connection::parting::{Parting, Side};
pub use connection::pause::Pause;
pub use connection::unfinished::UnfinishedClosed;
pub use connection::{Connection, Turn};
pub use context::client::{Client, ConnectionId, Origin};
pub use context::config::{BrokerConfig, BrokerLimits, Product, QueueDefaults};
pub use context::refusal::Refusal;
pub use context::stats::{
    ChannelStats, Churn, Count, DeathCounts, Events, Existing, HoldingCounts, Holdings,
    MessageCounts, SIZE_BOUNDS, SizeCounts, Totals, Traffic,
};
pub use leveret_access::{
    ADMINISTRATOR, Access, AdminError, Denied, Hashing, IMPERSONATOR, PasswordHash, Permission,
    Put, Right, TopicPermission, User, UserLimits, VhostLimits, pair, term,
};
pub use leveret_queue::{Attempts, Death, LostPage, PagedOut, Queue, Rank, Reason};
pub use leveret_runs::{RunError, RunFiles, Runs, RunsConfig, RunsStats};
pub use leveret_settings::{DeadLetters, policy_key_has_effect, without_effect};
pub use peer::Peer;
pub use peer::alarms::{Alarm, AlarmState, Measured};
pub use publish::direct::{Direct, Fetch, Published};
pub use queue::cell::{QueueCell, QueueGuard, QueueState};
pub use queue::consumer::{Handle, SharedOutlet};
pub use queue::copied::Copied;
pub use queue::drain::NackReason;
pub use queue::effects::Effects;
pub use queue::pager::{LostMessages, PageLines, ScrubStats};
pub use queue::pump::resume;
pub use restore::moved::MovedReader;
pub use restore::topology::NotUnderstood;
pub use restore::{LaneOwner, NotRestored, Restored};
pub use settings::arguments::{check_size, is_queue_type};
pub use settings::notices::{Notice, Notices};
pub use settings::parameters::{PARAMETERS_MAX, Parameter, Parameters};
pub use settings::policy::{ApplyTo, Effective, Object, Policies, Policy, PolicyKind};
pub use settings::rules::{Rules, VhostMetadata};
pub use settings::spec::QueueSpec;
pub use topology::operations::Condition;
pub use vhost::binding::Binding;
pub use vhost::refused::{Noted, Outcome, RefusedAt, RefusedMessages};
pub use vhost::{Directory, Vhost};
