//! What queues and exchanges can be set to, by arguments and by policies: one table, [`SETTINGS`].
//!
//! From it come the checks of arguments and policies, what a redeclaration is compared by, what
//! has an effect at all, and the typed values: [`QueueSettings`] and [`ExchangeSettings`].

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod argument;
mod exchange;
mod policy;
mod queue;
mod rule;
mod table;

pub use argument::{
    ArgumentError, Difference, Wrong, check_argument, check_arguments, difference, foreign,
    own_timeout, without_effect,
};
pub use exchange::ExchangeSettings;
pub use policy::{PolicyError, check_policy, merge, policy_key_has_effect};
pub use queue::{ConsumerTimeout, DeadLetters, OverflowSetting, QueueSettings, is_quorum};
pub use rule::{Rule, TIME_MAX_MS};
pub use table::{
    CLASSIC, CONSUMER_TIMEOUT, Effect, InPolicy, Merge, On, QUEUE_TYPE, QUORUM, SETTINGS, Setting,
};
