//! The settings that an operator may change while the broker runs.

use leveret_access::Hashing;

use crate::broker::{Broker, BrokerConfig, QueueDefaults};
use crate::settings::arguments::Meaning;

/// Settings that hold from the moment they are changed; see `config/leveret.toml` for what they
/// mean. What exists already is never deleted for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the configuration file documents them")]
pub struct Limits {
    pub connections_max: usize,
    pub connections_per_user_max: Option<i64>,
    pub connections_per_vhost_max: Option<i64>,
    pub consumers_per_channel_max: usize,
    pub queues_max: usize,
    pub exchanges_max: usize,
    pub bindings_max: usize,
    pub arguments_bytes_max: usize,
    pub transaction_bytes_max: usize,
    pub queue: QueueDefaults,
    /// For new passwords.
    pub password_hashing: Hashing,
}

impl From<&BrokerConfig> for Limits {
    fn from(config: &BrokerConfig) -> Self {
        Self {
            connections_max: config.connections_max,
            connections_per_user_max: config.connections_per_user_max,
            connections_per_vhost_max: config.connections_per_vhost_max,
            consumers_per_channel_max: config.consumers_per_channel_max,
            queues_max: config.queues_max,
            exchanges_max: config.exchanges_max,
            bindings_max: config.bindings_max,
            arguments_bytes_max: config.arguments_bytes_max,
            transaction_bytes_max: config.transaction_bytes_max,
            queue: config.queue,
            password_hashing: config.password_hashing,
        }
    }
}

impl Broker {
    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> Limits {
        *self.limits.read()
    }

    /// Changes them, also for queues that exist: each is locked for a moment.
    pub fn set_limits(&self, limits: Limits) {
        let before = std::mem::replace(&mut *self.limits.write(), limits);
        if before.queue == limits.queue {
            return;
        }
        for vhost in self.vhosts() {
            let queues: Vec<_> = vhost.directory.read().queues().cloned().collect();
            let mut sooner = false;
            for cell in queues {
                let mut state = cell.lock();
                let policy = state.policy.clone();
                let meaning = Meaning::of(&cell.spec, policy, limits.queue);
                state.queue.set_settings(meaning.settings);
                sooner |= cell.set_lease(meaning.lease) && state.queue.unacked() > 0;
            }
            if sooner {
                self.look_at_deliveries(&vhost.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use leveret_access::Access;
    use leveret_store::InstantStore;

    use super::*;

    #[test]
    fn limits_begin_as_configured_and_change() {
        let config = BrokerConfig {
            queues_max: 7,
            ..BrokerConfig::default()
        };
        let broker = Broker::new(config, Access::default(), Arc::new(InstantStore));
        let mut limits = broker.limits();
        assert_eq!(limits.queues_max, 7);
        limits.queues_max = 8;
        broker.set_limits(limits);
        assert_eq!(broker.limits(), limits);
    }
}
