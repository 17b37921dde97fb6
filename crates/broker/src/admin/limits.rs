//! The settings that an operator may change while the broker runs.

use crate::broker::Broker;
use crate::context::config::BrokerLimits;
use crate::settings::arguments::InForce;

impl Broker {
    /// Changes them, also for queues that exist: each is locked for a moment.
    pub fn set_limits(&self, limits: BrokerLimits) {
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
                let in_force = InForce::of(&cell.spec, policy, limits.queue);
                state.queue.set_settings(in_force.settings);
                sooner |= cell.set_lease(in_force.timeout) && state.queue.unacked() > 0;
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
    use crate::context::config::BrokerConfig;

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
